//! Counters by GPU or instance, kind of event and job, which only grow while the exporter runs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::identity::Key;
use super::job_timeline::JobTimeline;

/// A metric, and what it counts of one kind: an XID, or a clock event by its place in the list.
pub type Kind = (&'static str, i64);
type Series = (Kind, Option<Arc<str>>);

/// Counters by entity, kind of event and job.
///
/// Every kind worth an alert starts at 0 for every job that runs, so that `increase()` sees its first event. Of a job
/// that is over, what is not 0 stays for a while, to be scraped once more.
#[derive(Debug)]
pub struct Tally {
    /// The count, and when the series was last added to or its job ended.
    series: HashMap<Key, BTreeMap<Series, (f64, i64)>>,
    /// Series without a job, and with one.
    counts: [usize; 2],
    /// As many may be: [`MOST_SERIES`], and what the limit for all series of jobs leaves.
    room: [usize; 2],
    /// Series for which there was no room.
    refused: HashSet<(Key, Series)>,
    left_out: u64,
}

impl Default for Tally {
    fn default() -> Tally {
        let room = [MOST_SERIES; 2];
        Tally { series: HashMap::new(), counts: [0; 2], room, refused: HashSet::new(), left_out: 0 }
    }
}

/// A few hundred bytes of the page each.
pub const MOST_SERIES: usize = 20_000;

impl Tally {
    /// Adds to the series of every job that had the entity. Times are in microseconds since 1970.
    pub fn add(&mut self, now: i64, key: Key, kind: Kind, jobs: &[Arc<str>], amount: f64) {
        if jobs.is_empty() {
            self.add_to(now, key, (kind, None), amount);
        }
        for job in jobs {
            self.add_to(now, key, (kind, Some(job.clone())), amount);
        }
    }

    fn add_to(&mut self, now: i64, key: Key, series: Series, amount: f64) {
        let of_key = self.series.entry(key).or_default();
        let sort = usize::from(series.1.is_some());
        if let Some((count, touched)) = of_key.get_mut(&series) {
            *count += amount;
            *touched = now;
        } else if self.counts[sort] < self.room[sort] {
            of_key.insert(series, (amount, now));
            self.counts[sort] += 1;
        } else {
            self.refuse(key, series);
        }
    }

    fn refuse(&mut self, key: Key, series: Series) {
        if self.refused.insert((key, series)) {
            self.left_out += 1;
            // What is remembered here, too, has an end; a series may then be counted as left out once more.
            if self.refused.len() > MOST_SERIES {
                self.refused.clear();
            }
        }
    }

    /// Lets the series of today's jobs of an entity exist.
    pub fn begin(&mut self, now: i64, key: Key, kinds: impl IntoIterator<Item = Kind>, jobs: &[Arc<str>]) {
        kinds.into_iter().for_each(|kind| self.add(now, key, kind, jobs, 0.0));
    }

    /// A job no longer has an entity.
    pub fn end(&mut self, now: i64, key: Key, job: &str) {
        let series = self.series.get_mut(&key).into_iter().flatten();
        series.filter(|((_, of), _)| of.as_deref() == Some(job)).for_each(|(_, (_, touched))| *touched = now);
    }

    /// Forgets the series of jobs that are over: zeroes at once, others after `keep`. Where more than `room` are left,
    /// those go first that ended first, then zeroes.
    pub fn forget_ended(&mut self, now: i64, keep: i64, room: usize, timeline: &JobTimeline) {
        self.room[1] = room;
        let mut of_jobs = Vec::new();
        for (key, series) in &mut self.series {
            let (_, jobs) = timeline.current(*key);
            series.retain(|(kind, job), (count, touched)| {
                let Some(job) = job else { return true };
                let runs = jobs.contains(job);
                let stays = runs || *count > 0.0 && now - *touched < keep;
                self.counts[1] -= usize::from(!stays);
                if stays && self.counts[1] > room {
                    let ended = if runs { i64::MAX } else { *touched };
                    of_jobs.push((ended, *count > 0.0, *key, (*kind, Some(job.clone()))));
                }
                stays
            });
        }
        let too_many = self.counts[1].saturating_sub(room);
        if too_many > 0 {
            of_jobs.sort();
            for (_, _, key, series) in of_jobs.into_iter().take(too_many) {
                self.series.get_mut(&key).map(|of_key| of_key.remove(&series));
                self.counts[1] -= 1;
                self.refuse(key, series);
            }
        }
        if self.counts[1] == 0 {
            self.refused.retain(|(_, (_, job))| job.is_none());
            self.refused.shrink_to_fit();
        }
    }

    pub fn forget(&mut self, key: Key) {
        for (_, job) in self.series.remove(&key).unwrap_or_default().keys() {
            self.counts[usize::from(job.is_some())] -= 1;
        }
        self.refused.retain(|(owner, _)| *owner != key);
    }

    /// The clock was set by so many microseconds.
    pub fn shift(&mut self, by: i64) {
        self.series.values_mut().flatten().for_each(|(_, (_, touched))| *touched += by);
    }

    /// The counts of a metric, by what it counts.
    pub fn of(&self, key: Key, metric: &'static str) -> impl Iterator<Item = (i64, Option<Arc<str>>, f64)> {
        let series =
            self.series.get(&key).into_iter().flat_map(move |series| series.range(((metric, i64::MIN), None)..));
        let of_metric = series.take_while(move |(((name, _), _), _)| *name == metric);
        of_metric.map(|(((_, kind), job), (count, _))| (*kind, job.clone(), *count))
    }

    /// Series that were refused, or forgotten before their time, for want of room.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::tests::key;
    use super::*;

    const METRIC: &str = "metric";

    fn count(tally: &Tally, owner: u32) -> usize {
        tally.of(key(owner), METRIC).count()
    }

    #[test]
    fn what_there_is_no_room_for_is_counted_once() {
        let mut tally = Tally::default();
        for kind in 0..MOST_SERIES as i64 + 3 {
            tally.add(0, key(1), (METRIC, kind), &[], 1.0);
        }
        tally.begin(0, key(1), [0, MOST_SERIES as i64, MOST_SERIES as i64 + 1].map(|kind| (METRIC, kind)), &[]);
        assert_eq!((count(&tally, 1), tally.left_out()), (MOST_SERIES, 3));
        tally.forget(key(1));
        tally.add(0, key(1), (METRIC, MOST_SERIES as i64), &[], 1.0);
        assert_eq!((count(&tally, 1), tally.left_out()), (1, 3));
    }

    #[test]
    fn of_a_job_that_is_over_what_is_not_0_stays_for_a_while() {
        const KEEP: i64 = 300;
        let (mut tally, mut timeline) = (Tally::default(), JobTimeline::default());
        let job = |name: &str| [Arc::from(name)];
        for owner in [1, 2] {
            timeline.set(0, key(owner), &["17"]);
            tally.begin(0, key(owner), [(METRIC, 31), (METRIC, 79)], &job("17"));
            tally.add(0, key(owner), (METRIC, 79), &job("17"), 1.0);
        }
        timeline.set(1000, key(1), &[]);
        tally.end(1000, key(1), "17");
        tally.forget_ended(1000, KEEP, 100, &timeline);
        assert_eq!((count(&tally, 1), count(&tally, 2)), (1, 2));
        tally.forget_ended(1000 + KEEP, KEEP, 100, &timeline);
        assert_eq!((count(&tally, 1), count(&tally, 2)), (0, 2));
        // Where there is no room, zeroes go, and what ended before what runs.
        tally.forget_ended(1000 + KEEP, KEEP, 1, &timeline);
        assert_eq!(tally.of(key(2), METRIC).collect::<Vec<_>>(), [(79, Some("17".into()), 1.0)]);
        tally.begin(2000, key(2), [(METRIC, 31)], &job("17"));
        assert_eq!((count(&tally, 2), tally.left_out()), (1, 1), "it is left out once");
    }
}
