//! GPUs that leave the driver and come back.
//!
//! After an unbind one update finds all GPUs blank; then the GPU is off the list of supported ones and its status is 7.
//! After a bind it is back on the list, but groups that were made before get nothing for it: each leaving and each
//! return begins a new generation of the GPU, and a member of a group belongs to the generation in which it was added.

use std::collections::BTreeMap;

pub const STATUS_OK: i32 = 1;
pub const STATUS_LOST: i32 = 4;
pub const STATUS_DETACHED: i32 = 7;

/// Values of the field for bind and unbind events.
pub const REINITIALISING: i64 = 1;
pub const REINITIALISED: i64 = 2;

#[derive(Default)]
struct Binding {
    generation: u32,
    is_leaving: bool,
    is_detached: bool,
}

#[derive(Default)]
pub struct Bindings(BTreeMap<u32, Binding>);

impl Bindings {
    /// Takes in which GPUs are unbound now. Returns whether one has come back.
    pub fn set_unbound(&mut self, unbound: &[u32]) -> bool {
        for gpu in unbound {
            let binding = self.0.entry(*gpu).or_default();
            binding.is_leaving |= !binding.is_detached;
        }
        let mut is_back = false;
        for (gpu, binding) in &mut self.0 {
            if !unbound.contains(gpu) {
                binding.is_leaving = false;
                if std::mem::take(&mut binding.is_detached) {
                    binding.generation += 1;
                    is_back = true;
                }
            }
        }
        is_back
    }

    /// Whether this update finds all GPUs blank.
    pub fn is_one_leaving(&self) -> bool {
        self.0.values().any(|binding| binding.is_leaving)
    }

    /// The blank update is over.
    pub fn finish_leaving(&mut self) {
        for binding in self.0.values_mut().filter(|binding| binding.is_leaving) {
            *binding = Binding { generation: binding.generation + 1, is_leaving: false, is_detached: true };
        }
    }

    pub fn is_detached(&self, gpu: u32) -> bool {
        self.0.get(&gpu).is_some_and(|binding| binding.is_detached)
    }

    pub fn generation(&self, gpu: Option<u32>) -> u32 {
        gpu.and_then(|gpu| self.0.get(&gpu)).map_or(0, |binding| binding.generation)
    }
}
