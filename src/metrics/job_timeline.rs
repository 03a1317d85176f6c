//! Which jobs had which GPU or instance when: for samples and events that are read later than they happened.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::identity::Key;

pub type JobIds = Arc<[Arc<str>]>;

/// Changes of jobs by GPU or instance.
#[derive(Debug, Default)]
pub struct JobTimeline {
    changes: HashMap<Key, VecDeque<(i64, JobIds)>>,
}

impl JobTimeline {
    /// Events are read within seconds, so a few changes back are all that is ever asked for.
    const LONGEST: usize = 64;

    /// DCGM asks NVML for XID errors once a second and stamps them with the time of asking; a program that faulted is
    /// gone by then, and its job may have ended. In microseconds.
    const STAMPED_LATE_BY: i64 = 2_000_000;

    /// Notes the jobs of a GPU or instance from `now` on. Returns whether they are others than before.
    pub fn set(&mut self, now: i64, key: Key, jobs: &[&str]) -> bool {
        let changes = self.changes.entry(key).or_default();
        let (since, before) = changes.back().cloned().unwrap_or((now, JobIds::default()));
        if before.iter().map(|job| &**job).eq(jobs.iter().copied()) {
            return false;
        }
        let known = |job: &&str| before.iter().find(|known| &***known == *job).cloned();
        let jobs = jobs.iter().map(|job| known(job).unwrap_or_else(|| Arc::from(*job))).collect();
        // After a small step back of the clock the order holds.
        changes.push_back((now.max(since), jobs));
        if changes.len() > JobTimeline::LONGEST {
            changes.pop_front();
        }
        true
    }

    /// Begins with the jobs that were read back, as of the time when they were written down.
    pub fn begin(&mut self, since: i64, key: Key, jobs: JobIds) {
        self.changes.insert(key, [(since, jobs)].into());
    }

    /// The jobs that have a GPU or instance, and since when.
    pub fn current(&self, key: Key) -> (i64, JobIds) {
        self.changes.get(&key).and_then(|changes| changes.back()).cloned().unwrap_or_default()
    }

    /// The jobs between two times, and for how many microseconds of these.
    pub fn between(&self, from: i64, to: i64, key: Key) -> impl Iterator<Item = (&JobIds, i64)> {
        let changes = || self.changes.get(&key).into_iter().flatten();
        let ends = changes().skip(1).map(|(since, _)| *since).chain([i64::MAX]);
        let overlaps = changes().zip(ends).map(move |((since, jobs), end)| (jobs, to.min(end) - from.max(*since)));
        overlaps.filter(|(_, overlap)| *overlap > 0)
    }

    /// Jobs at a time, in microseconds since 1970.
    pub fn at(&self, time: i64, key: Key) -> JobIds {
        let changes = self.changes.get(&key).into_iter().flatten();
        changes.rev().find(|(since, _)| *since <= time).map(|(_, jobs)| jobs.clone()).unwrap_or_default()
    }

    /// Jobs that an error stamped with `time` belongs to: those that ended last in the two seconds before, else those
    /// that had the entity at that time.
    pub fn of_error(&self, time: i64, key: Key) -> JobIds {
        let Some(changes) = self.changes.get(&key) else { return JobIds::default() };
        let recent = changes.iter().zip(changes.iter().skip(1)).rev();
        let recent = recent.filter(|(_, (end, _))| (time - Self::STAMPED_LATE_BY..=time).contains(end));
        for ((_, before), (_, after)) in recent {
            let ended: JobIds = before.iter().filter(|job| !after.contains(job)).cloned().collect();
            if !ended.is_empty() {
                return ended;
            }
        }
        self.at(time, key)
    }

    /// The clock was set by so many microseconds.
    pub fn shift(&mut self, by: i64) {
        self.changes.values_mut().flatten().for_each(|(since, _)| *since += by);
    }

    pub fn forget(&mut self, key: Key) {
        self.changes.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::tests::key;
    use super::*;

    const SECOND: i64 = 1_000_000;

    #[test]
    fn an_error_belongs_to_the_job_that_ended_just_before_its_stamp() {
        let mut timeline = JobTimeline::default();
        for (at, jobs) in [(10, &["17"][..]), (20, &[]), (21, &["18"]), (40, &["18", "19"]), (50, &["19"]), (51, &[])] {
            timeline.set(at * SECOND, key(1), jobs);
        }
        let of = |time: f64| -> Vec<String> {
            let jobs = timeline.of_error((time * 1e6) as i64, key(1));
            jobs.iter().map(ToString::to_string).collect()
        };
        assert_eq!(of(5.0), Vec::<String>::new(), "before there was a job");
        assert_eq!(of(15.0), ["17"]);
        assert_eq!(of(20.9), ["17"], "nobody has the GPU any more when DCGM stamps the error");
        assert_eq!(of(21.9), ["17"], "the next job has the GPU already");
        assert_eq!(of(22.1), ["18"], "two seconds after its end it is not the first job's");
        assert_eq!(of(41.0), ["18", "19"], "a job that joins ends nobody");
        assert_eq!(of(50.5), ["18"]);
        assert_eq!(of(51.5), ["19"], "of two that ended, the last");
        assert_eq!(of(60.0), Vec::<String>::new());
        assert_eq!(timeline.of_error(15 * SECOND, key(2)).len(), 0);
    }
}
