//! The generation of GPUs, which decides whether two engines can profile them at once.

use std::fmt;
use std::rc::Rc;

use super::read::read_constant;
use crate::dcgm::{EntityGroup, EntityId, Session, Value};

/// DCGM field 63: CUDA compute capability, major in the upper half and minor in the lower.
const FIELD_COMPUTE_CAPABILITY: u16 = 63;

/// A generation of GPUs, by its CUDA compute capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Architecture {
    major: i64,
    minor: i64,
}

impl Architecture {
    const HOPPER: Architecture = Architecture { major: 9, minor: 0 };

    /// Whether several engines can watch profiling fields at once. Before Hopper the hardware has one owner.
    pub fn engines_share_profiling(self) -> bool {
        self >= Architecture::HOPPER
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.engines_share_profiling() { "Hopper or newer" } else { "before Hopper" };
        write!(f, "{side}, compute capability {}.{}", self.major, self.minor)
    }
}

/// The oldest generation among these GPUs; `None` where none of them tells.
pub fn oldest_architecture(session: &Rc<Session>, gpus: &[u32]) -> Option<Architecture> {
    let gpus: Vec<EntityId> = gpus.iter().map(|gpu| EntityId::new(EntityGroup::Gpu, *gpu)).collect();
    let mut oldest: Option<Architecture> = None;
    let read = read_constant(session, &gpus, FIELD_COMPUTE_CAPABILITY, &mut |_, value| {
        if let Value::Int(capability) = value {
            let architecture = Architecture { major: capability >> 16, minor: capability & 0xffff };
            oldest = Some(oldest.map_or(architecture, |oldest| oldest.min(architecture)));
        }
    });
    if let Err(error) = read {
        log::debug!("the GPUs' generation cannot be read: {error}");
    }
    oldest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hopper_is_the_first_that_shares() {
        let of = |major, minor| Architecture { major, minor };
        assert!(of(9, 0).engines_share_profiling() && of(10, 0).engines_share_profiling());
        assert!(!of(8, 9).engines_share_profiling());
        assert_eq!(of(8, 6).to_string(), "before Hopper, compute capability 8.6");
    }
}
