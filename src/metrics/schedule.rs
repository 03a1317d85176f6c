//! How often fields are sampled: at which of the collections.
//!
//! DCGM samples a field when a collection comes and its last sample is older than the watch's interval. So a field's
//! interval becomes a whole number of collections, and its watch is a little shorter than that: were it not, a due watch
//! would be skipped when our timer fires early. Not much, or profiling fields no longer average over the time between two
//! samples.

use std::time::Duration;

use crate::dcgm::watch::Keep;

/// By how much a watch's interval is shorter than the time between two samples, as a share of the time between two
/// collections.
const SHORTER: f64 = 0.1;

/// Time between two collections, and what follows from it for fields.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    period: Duration,
    /// Between two collections at the most.
    longest: Duration,
    /// Of fields in no collection of the configuration file; `None` samples them at every collection.
    rest: Option<Duration>,
    /// The first samples of new watches: all fields are sampled at every collection.
    is_first: bool,
}

impl Schedule {
    /// Collections come once per `period`.
    pub fn new(period: Duration, rest: Option<Duration>) -> Schedule {
        Schedule { period, longest: period, rest, is_first: false }
    }

    /// The same where not all collections come after `period`, but all of them up to `longest` after the one before.
    pub fn uneven(self, longest: Duration) -> Schedule {
        Schedule { longest, ..self }
    }

    /// Until every field has two samples, which a profiling field needs for a value.
    pub fn first(period: Duration) -> Schedule {
        Schedule { period, longest: period, rest: None, is_first: true }
    }

    /// For a field whose collection has this interval; `None` is that of the rest.
    pub fn of(&self, interval: Option<Duration>) -> Every {
        let collections = match interval.or(self.rest) {
            Some(interval) if !self.is_first => {
                (interval.as_secs_f64() / self.period.as_secs_f64().max(1e-9)).round().clamp(1.0, 1e9) as u32
            }
            _ => 1,
        };
        Every { collections, period: self.period, longest: self.longest }
    }
}

/// One interval for everything.
impl From<Duration> for Schedule {
    fn from(period: Duration) -> Schedule {
        Schedule::new(period, None)
    }
}

/// A sample at every so many collections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Every {
    pub collections: u32,
    period: Duration,
    longest: Duration,
}

impl Every {
    /// At every collection, of which one comes per `period`.
    pub fn once_per(period: Duration) -> Every {
        Every { collections: 1, period, longest: period }
    }

    /// Time between two samples.
    pub fn time(self) -> Duration {
        self.period.saturating_mul(self.collections)
    }

    /// What the engine keeps. From Hopper on a profiling average needs the counters of the two samples before; the engine
    /// drops them after three intervals of the watch for each sample that it keeps (read in DCGM's public source).
    pub fn keep(self) -> Keep {
        Keep::Samples(self.longest.div_duration_f64(self.time().max(Duration::from_nanos(1))).ceil().max(1.0) as i32)
    }

    /// The interval of the watch.
    pub fn watch_interval(self) -> Duration {
        self.time().saturating_sub(self.period.mul_f64(SHORTER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// Collections on a clock that comes up to `jitter` early or late; counts how often DCGM samples.
    fn samples(every: Every, period: Duration, jitter: f64, collections: u32) -> u32 {
        let (mut last, mut count) = (None, 0);
        for number in 0..collections {
            let shift = if number % 2 == 0 { jitter } else { -jitter };
            let now = period.mul_f64(f64::from(number) + 1.0 + shift);
            if last.is_none_or(|last| now - last >= every.watch_interval()) {
                (last, count) = (Some(now), count + 1);
            }
        }
        count
    }

    #[test]
    fn a_slow_field_is_sampled_once_per_its_interval() {
        for (period, interval, wanted) in [
            (ms(1000), ms(60_000), 60),
            (ms(1000), ms(1000), 1),
            (ms(5000), ms(30_000), 6),
            (ms(100), ms(86_400_000), 864_000),
            // The pace follows a scraper: the nearest whole number.
            (ms(7000), ms(60_000), 9),
            (ms(30_000), ms(5000), 1),
        ] {
            let every = Schedule::new(period, None).of(Some(interval));
            assert_eq!(every.collections, wanted, "{period:?} {interval:?}");
            assert_eq!(every.time(), period * wanted);
            for jitter in [0.0, 0.04] {
                let count = 5.min(2_000_000 / wanted);
                assert_eq!(samples(every, period, jitter, wanted * count), count, "{period:?} {interval:?} {jitter}");
            }
        }
    }

    #[test]
    fn uneven_collections_keep_what_the_longest_average_begins_at() {
        for (shortest, longest, kept) in [(15_000, 15_000, 1), (6000, 9000, 2), (5000, 30_000, 6), (30_000, 30_000, 1)]
        {
            let schedule = Schedule::from(ms(shortest)).uneven(ms(longest));
            assert_eq!(schedule.of(None).keep(), Keep::Samples(kept), "{shortest} {longest}");
            // Two gaps, and three intervals for each sample.
            assert!(schedule.of(None).watch_interval() * 3 * kept as u32 >= ms(longest) * 2);
            assert_eq!(schedule.of(Some(ms(60_000))).keep(), Keep::Samples(1));
        }
    }

    #[test]
    fn the_rest_follows_the_pace_unless_others_are_sampled_more_often() {
        let schedule = Schedule::from(ms(15_000));
        assert_eq!(schedule.of(None).time(), ms(15_000));
        assert_eq!(schedule.of(None).watch_interval(), ms(13_500));
        let schedule = Schedule::new(ms(5000), Some(ms(30_000)));
        assert_eq!((schedule.of(None).collections, schedule.of(Some(ms(5000))).collections), (6, 1));
        let schedule = Schedule::first(ms(1000));
        assert_eq!((schedule.of(None).collections, schedule.of(Some(ms(60_000))).collections), (1, 1));
    }
}
