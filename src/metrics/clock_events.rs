//! Clock events: the reasons for which a GPU's clocks are held down, from samples of field 112.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::computed::{Attribution, ComputedSample, Tally};
use super::table::Number;
use crate::dcgm::EntityId;

/// Bits of the mask, as labels.
const EVENTS: [(i64, &str); 9] = [
    (0x1, "gpu_idle"),
    (0x2, "clocks_setting"),
    (0x4, "power_cap"),
    (0x8, "hw_slowdown"),
    (0x10, "sync_boost"),
    (0x20, "sw_thermal"),
    (0x40, "hw_thermal"),
    (0x80, "hw_power_brake"),
    (0x100, "display_clocks"),
];

/// Samples remembered for the window; beyond this the oldest go first.
const MOST_SAMPLES: usize = 500_000;

pub struct ClockEvents {
    started: i64,
    window: Duration,
    samples: VecDeque<(EntityId, i64, i64)>,
    /// Time and mask of the last sample.
    last: HashMap<EntityId, (i64, i64)>,
    begins: Tally<&'static str>,
    seconds: Tally<&'static str>,
}

impl ClockEvents {
    pub fn new(now: i64, window: Duration) -> ClockEvents {
        ClockEvents {
            started: now,
            window,
            samples: VecDeque::new(),
            last: HashMap::new(),
            begins: Tally::default(),
            seconds: Tally::default(),
        }
    }

    pub fn window(&self) -> Duration {
        self.window
    }

    pub fn forget(&mut self, entity: EntityId) {
        self.samples.retain(|(owner, ..)| *owner != entity);
        self.last.remove(&entity);
        self.begins.forget(entity);
        self.seconds.forget(entity);
    }

    /// Takes in a sample. An event begins where its bit is set and was not in the sample before; it lasts until the
    /// sample in which the bit is gone.
    pub fn put(&mut self, entity: EntityId, time: i64, mask: i64, jobs: &[Arc<str>]) {
        self.samples.push_back((entity, time, mask));
        if self.samples.len() > MOST_SAMPLES {
            self.samples.pop_front();
        }
        let before = self.last.insert(entity, (time, mask));
        if time < self.started {
            return;
        }
        for (bit, event) in EVENTS {
            let was = before.filter(|(_, mask)| mask & bit != 0);
            match was {
                Some((since, _)) => {
                    let lasted = (time - since.max(self.started)).max(0) as f64 / 1e6;
                    self.seconds.add(time, entity, event, jobs, lasted);
                }
                None if mask & bit != 0 => self.begins.add(time, entity, event, jobs, 1.0),
                None => {}
            }
        }
    }

    /// Samples in the window by event; a single 0 where there was no sample, nothing where there was no event.
    pub fn put_counts(&mut self, index: usize, entity: EntityId, now: i64, list: &mut Vec<ComputedSample>) {
        let window = self.window.as_micros() as i64;
        while self.samples.front().is_some_and(|(_, time, _)| now - time > window) {
            self.samples.pop_front();
        }
        let (mut any, mut counts) = (false, BTreeMap::new());
        for (_, _, mask) in self.samples.iter().filter(|(owner, ..)| *owner == entity) {
            any = true;
            for (_, event) in EVENTS.iter().filter(|(bit, _)| mask & bit != 0) {
                *counts.entry(*event).or_insert(0i64) += 1;
            }
        }
        let window = ("window_size_in_ms", self.window.as_millis().to_string());
        let sample = |labels, count| ComputedSample {
            entity: index,
            labels,
            job: Attribution::Current,
            number: Number::Int(count),
        };
        if !any {
            list.push(sample(vec![window.clone()], 0));
        }
        list.extend(
            counts
                .into_iter()
                .map(|(event, count)| sample(vec![("clock_event", event.to_owned()), window.clone()], count)),
        );
    }

    pub fn put_totals(
        &mut self,
        index: usize,
        entity: EntityId,
        now: i64,
        jobs: &[Arc<str>],
        list: &mut Vec<ComputedSample>,
    ) {
        put_tally(&mut self.begins, index, entity, now, jobs, list, |count| Number::Int(count as i64));
    }

    pub fn put_seconds(
        &mut self,
        index: usize,
        entity: EntityId,
        now: i64,
        jobs: &[Arc<str>],
        list: &mut Vec<ComputedSample>,
    ) {
        put_tally(&mut self.seconds, index, entity, now, jobs, list, Number::Double);
    }
}

fn put_tally(
    tally: &mut Tally<&'static str>,
    index: usize,
    entity: EntityId,
    now: i64,
    jobs: &[Arc<str>],
    list: &mut Vec<ComputedSample>,
    number: fn(f64) -> Number,
) {
    tally.tend(now, entity, &EVENTS.map(|(_, event)| event), jobs);
    list.extend(tally.of(entity).map(|(event, job, count)| ComputedSample {
        entity: index,
        labels: vec![("clock_event", event.to_owned())],
        job: Attribution::Then(job),
        number: number(count),
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dcgm::EntityGroup;

    const GPU: EntityId = EntityId::new(EntityGroup::Gpu, 0);

    fn value(list: &[ComputedSample], event: &str) -> Number {
        let has = |sample: &&ComputedSample| sample.labels.iter().any(|(_, value)| value == event);
        list.iter().find(has).map_or(Number::Blank, |sample| sample.number)
    }

    #[test]
    fn an_event_begins_once_and_lasts() {
        let second = 1_000_000;
        let mut events = ClockEvents::new(0, Duration::from_secs(300));
        for (time, mask) in [(1, 0), (2, 4), (3, 4), (4, 0), (5, 4), (6, 0x44), (7, 0)] {
            events.put(GPU, time * second, mask, &[]);
        }
        let (mut totals, mut seconds, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        events.put_totals(0, GPU, 7 * second, &[], &mut totals);
        events.put_seconds(0, GPU, 7 * second, &[], &mut seconds);
        events.put_counts(0, GPU, 7 * second, &mut counts);
        assert_eq!((value(&totals, "power_cap"), value(&totals, "hw_thermal")), (Number::Int(2), Number::Int(1)));
        assert_eq!(value(&totals, "gpu_idle"), Number::Int(0));
        assert_eq!(
            (value(&seconds, "power_cap"), value(&seconds, "hw_thermal")),
            (Number::Double(4.0), Number::Double(1.0))
        );
        assert_eq!((value(&counts, "power_cap"), value(&counts, "gpu_idle")), (Number::Int(4), Number::Blank));
    }

    #[test]
    fn a_long_window_holds_and_an_empty_one_says_zero() {
        let minute = 60_000_000;
        let mut events = ClockEvents::new(0, Duration::from_secs(3600));
        for time in 1..=30 {
            events.put(GPU, time * minute, 1, &[]);
        }
        let mut counts = Vec::new();
        events.put_counts(0, GPU, 30 * minute, &mut counts);
        assert_eq!(value(&counts, "gpu_idle"), Number::Int(30));
        counts.clear();
        events.put_counts(0, GPU, 200 * minute, &mut counts);
        assert_eq!(counts.len(), 1);
        assert_eq!((counts[0].labels.len(), counts[0].number), (1, Number::Int(0)));
    }
}
