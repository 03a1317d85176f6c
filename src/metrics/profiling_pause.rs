//! On which GPUs profiling fields are not watched, so that another profiler has the hardware.
//!
//! An engine keeps the last sample of a field whose watch has ended, and answers it again to the next watch. So after a
//! pause only samples from its end on count.

use std::collections::{BTreeMap, BTreeSet};

/// By the GPU's id. It outlives sessions: in another engine an id may be another GPU's, whose older samples are then left
/// out, which is no harm.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProfilingPause {
    /// From when on samples count, in microseconds since 1970; [`PAUSED`] on those that are paused.
    from: BTreeMap<u32, i64>,
}

/// Later than any sample.
pub(super) const PAUSED: i64 = i64::MAX;

impl ProfilingPause {
    pub fn is_paused(&self, gpu: u32) -> bool {
        self.counts_from(gpu) == PAUSED
    }

    /// The oldest time stamp of a sample that counts.
    pub fn counts_from(&self, gpu: u32) -> i64 {
        self.from.get(&gpu).copied().unwrap_or(i64::MIN)
    }

    /// Those that are paused, ascending.
    pub fn gpus(&self) -> impl Iterator<Item = u32> {
        self.from.iter().filter(|(_, from)| **from == PAUSED).map(|(gpu, _)| *gpu)
    }

    /// Pauses these GPUs and no others, from `now` on.
    pub fn set(&mut self, gpus: &BTreeSet<u32>, now: i64) {
        for (gpu, from) in &mut self.from {
            if *from == PAUSED && !gpus.contains(gpu) {
                *from = now;
            }
        }
        self.from.extend(gpus.iter().map(|gpu| (*gpu, PAUSED)));
    }

    /// The clock was set back: samples that are taken from now on may have any time stamp.
    pub fn clock_was_set(&mut self) {
        self.from.retain(|_, from| *from == PAUSED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_pause_samples_count_from_its_end_on() {
        let mut pause = ProfilingPause::default();
        let state = |pause: &ProfilingPause| [0, 1, 2].map(|gpu| pause.counts_from(gpu));
        pause.set(&[0, 1].into(), 5);
        assert_eq!(state(&pause), [PAUSED, PAUSED, i64::MIN]);
        pause.set(&[1].into(), 7);
        pause.set(&[1, 2].into(), 8);
        assert_eq!((state(&pause), pause.gpus().collect::<Vec<_>>()), ([7, PAUSED, PAUSED], vec![1, 2]));
        pause.clock_was_set();
        assert_eq!(state(&pause), [i64::MIN, PAUSED, PAUSED]);
    }
}
