//! Counters by GPU or instance, kind of event and job, which only grow while the exporter runs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::identity::Key;

/// A kind of event and the job that had the entity.
pub type Series<K> = (K, Option<Arc<str>>);

/// Counters by entity, kind of event and job.
///
/// Every kind worth an alert starts at 0 for every job, so that `increase()` sees its first event. Series of jobs that
/// are over stay for an hour, to be scraped once more, and then go: their number would grow for years.
#[derive(Debug)]
pub struct Tally<K> {
    /// The count, and when the series was last added to or its job was seen.
    series: HashMap<Key, BTreeMap<Series<K>, (f64, i64)>>,
    count: usize,
    /// Series for which there was no room.
    refused: HashSet<(Key, Series<K>)>,
    left_out: u64,
}

impl<K> Default for Tally<K> {
    fn default() -> Tally<K> {
        Tally { series: HashMap::new(), count: 0, refused: HashSet::new(), left_out: 0 }
    }
}

/// In microseconds.
const AFTERLIFE: i64 = 3_600_000_000;
/// A few hundred bytes of the page each.
pub const MOST_SERIES: usize = 20_000;

impl<K: Ord + Copy + std::hash::Hash> Tally<K> {
    /// Adds to the series of every job that had the entity. Times are in microseconds since 1970.
    pub fn add(&mut self, now: i64, key: Key, kind: K, jobs: &[Arc<str>], amount: f64) {
        if jobs.is_empty() {
            self.add_to(now, key, (kind, None), amount);
        }
        for job in jobs {
            self.add_to(now, key, (kind, Some(job.clone())), amount);
        }
    }

    fn add_to(&mut self, now: i64, key: Key, series: Series<K>, amount: f64) {
        let of_key = self.series.entry(key).or_default();
        if let Some((count, touched)) = of_key.get_mut(&series) {
            *count += amount;
            *touched = now;
        } else if self.count < MOST_SERIES {
            of_key.insert(series, (amount, now));
            self.count += 1;
        } else if self.refused.insert((key, series)) {
            self.left_out += 1;
            // What is remembered here, too, has an end; a series may then be counted as left out once more.
            if self.refused.len() > MOST_SERIES {
                self.refused.clear();
            }
        }
    }

    /// Lets the series of today's jobs of an entity exist, and forgets those of jobs long over.
    pub fn tend(&mut self, now: i64, key: Key, kinds: &[K], jobs: &[Arc<str>]) {
        if let Some(series) = self.series.get_mut(&key) {
            let before = series.len();
            series.retain(|(_, job), (_, touched)| {
                if job.as_ref().is_none_or(|job| jobs.contains(job)) {
                    *touched = now;
                }
                now - *touched < AFTERLIFE
            });
            self.count -= before - series.len();
        }
        for kind in kinds {
            self.add(now, key, *kind, jobs, 0.0);
        }
    }

    pub fn forget(&mut self, key: Key) {
        self.count -= self.series.remove(&key).map_or(0, |series| series.len());
        self.refused.retain(|(owner, _)| *owner != key);
    }

    pub fn of(&self, key: Key) -> impl Iterator<Item = (K, Option<Arc<str>>, f64)> {
        let series = self.series.get(&key).into_iter().flatten();
        series.map(|((kind, job), (count, _))| (*kind, job.clone(), *count))
    }

    /// Series that could not be counted because there were [`MOST_SERIES`] already.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::tests::key;
    use super::*;

    #[test]
    fn what_there_is_no_room_for_is_counted_once() {
        let mut tally = Tally::default();
        for kind in 0..MOST_SERIES as i64 + 3 {
            tally.add(0, key(1), kind, &[], 1.0);
        }
        tally.tend(0, key(1), &[0, MOST_SERIES as i64, MOST_SERIES as i64 + 1], &[]);
        assert_eq!((tally.of(key(1)).count(), tally.left_out()), (MOST_SERIES, 3));
        tally.forget(key(1));
        tally.add(0, key(1), MOST_SERIES as i64, &[], 1.0);
        assert_eq!((tally.of(key(1)).count(), tally.left_out()), (1, 3));
    }

    #[test]
    fn jobs_long_over_go_and_an_entity_that_is_away_keeps_its_counts() {
        let mut tally = Tally::default();
        let job = |name: &str| [Arc::from(name)];
        for owner in [1, 2] {
            tally.add(0, key(owner), 79, &job("17"), 1.0);
        }
        tally.tend(AFTERLIFE / 2, key(1), &[], &job("17"));
        tally.tend(AFTERLIFE, key(1), &[], &job("18"));
        assert_eq!(tally.of(key(1)).count(), 1);
        tally.tend(AFTERLIFE * 2, key(1), &[], &job("18"));
        assert_eq!((tally.of(key(1)).count(), tally.of(key(2)).count()), (0, 1));
    }
}
