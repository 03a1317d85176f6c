//! The generation of GPUs, which decides whether two engines can profile them at once.

use std::collections::BTreeMap;
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

/// The generation of each of these GPUs that tells it.
pub fn architectures(session: &Rc<Session>, gpus: &[u32]) -> BTreeMap<u32, Architecture> {
    let gpus: Vec<EntityId> = gpus.iter().map(|gpu| EntityId::new(EntityGroup::Gpu, *gpu)).collect();
    let mut known = BTreeMap::new();
    let read = read_constant(session, &gpus, FIELD_COMPUTE_CAPABILITY, &mut |gpu, value| {
        if let Value::Int(capability) = value {
            known.insert(gpu.id, Architecture { major: capability >> 16, minor: capability & 0xffff });
        }
    });
    if let Err(error) = read {
        log::debug!("the GPUs' generation cannot be read: {error}");
    }
    known
}

/// The oldest generation among these GPUs; `None` where none of them tells.
pub fn oldest_architecture(session: &Rc<Session>, gpus: &[u32]) -> Option<Architecture> {
    architectures(session, gpus).into_values().min()
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
