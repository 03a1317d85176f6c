//! What each job used of each GPU or instance: sums over the time in which the job map named it there.
//!
//! A sample belongs to the time since the one before it. Where jobs came or went in between, it is divided by time, so
//! sums are right whatever the samples' times are. GPUs and instances are known by UUID: sums go on after the engine or
//! the exporter was started again, and after GPUs were numbered anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::identity::Key;
use super::job_timeline::{JobIds, JobTimeline};
use super::memory::{Part, Windows};

/// Energy since the driver was loaded, in millijoules.
pub const ENERGY: u16 = 156;
/// Percent of time in which a kernel was running.
pub const UTILIZATION: u16 = 203;
/// Memory in use, in MiB.
pub const MEMORY: u16 = 252;
/// Why clocks are held down, as a bit mask.
pub const CLOCK_EVENTS: u16 = 112;
/// Share of time in which the graphics or compute engine was active; on MIG the only measure of use.
pub const ENGINE_ACTIVE: u16 = 1001;
/// Shares of time: an SM had work, the tensor cores were active, device memory was read or written.
pub const ACTIVITIES: [(u16, &str); 3] = [(1002, "sm_active"), (1004, "tensor_active"), (1005, "dram_active")];

/// Bits of [`CLOCK_EVENTS`]: hardware slowdown, too hot (by software and by hardware), power brake.
const THROTTLED: i64 = 0x8 | 0x20 | 0x40 | 0x80;
/// The power limit. Under full load that is usual, so it counts apart.
const POWER_CAPPED: i64 = 0x4;

/// Jobs on GPUs and instances in all, about 500 bytes each. Today's jobs are at most those of the job map.
const MOST_ACCOUNTS: usize = 8192;
/// No GPU uses more, in mJ per microsecond (5 kW): a counter that rises faster was misread once or is another one.
const MOST_POWER: f64 = 5.0;
/// Beside that, in mJ: counters rise in steps.
const ENERGY_STEP: f64 = 1e7;

/// What names a GPU or instance, for a person and for good.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Device {
    /// The instance's own UUID, else the GPU's.
    pub uuid: String,
    /// The GPU's index.
    pub gpu: String,
    /// NVML's id of the instance; empty for a whole GPU.
    pub instance: String,
    pub profile: String,
}

/// A mean over time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Mean {
    /// Value times seconds.
    pub sum: f64,
    pub seconds: f64,
}

impl Mean {
    fn add(&mut self, value: f64, seconds: f64) {
        self.sum += value * seconds;
        self.seconds += seconds;
    }

    pub fn value(self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.sum / self.seconds)
    }
}

/// What one job used of one GPU or instance. Times are in microseconds since 1970.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Account {
    pub began: i64,
    /// `None` while the job has it.
    pub ended: Option<i64>,
    pub held_seconds: f64,
    /// Of these, with other jobs beside it.
    pub shared_seconds: f64,
    /// `None` for an instance, and where the GPU does not say.
    pub energy_millijoules: Option<f64>,
    /// Utilisation as a share of 1: its sum is busy seconds.
    pub busy: Mean,
    /// In MiB.
    pub memory_max: Option<i64>,
    /// In the order of [`ACTIVITIES`].
    pub activities: [Mean; ACTIVITIES.len()],
    /// By code.
    pub xids: BTreeMap<i64, u64>,
    pub throttled_seconds: f64,
    pub power_capped_seconds: f64,
}

impl Account {
    /// Adds what was written down of the same job before the exporter was started again.
    fn add(&mut self, before: Account) {
        self.began = self.began.min(before.began);
        self.held_seconds += before.held_seconds;
        self.shared_seconds += before.shared_seconds;
        if let Some(used) = before.energy_millijoules {
            *self.energy_millijoules.get_or_insert(0.0) += used;
        }
        self.memory_max = self.memory_max.max(before.memory_max);
        let means = [&mut self.busy].into_iter().chain(&mut self.activities);
        for (mean, before) in means.zip([before.busy].into_iter().chain(before.activities)) {
            mean.sum += before.sum;
            mean.seconds += before.seconds;
        }
        for (code, count) in before.xids {
            *self.xids.entry(code).or_default() += count;
        }
        self.throttled_seconds += before.throttled_seconds;
        self.power_capped_seconds += before.power_capped_seconds;
    }
}

/// An account with what names it, as it is written down and read back.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub job: Arc<str>,
    pub device: Device,
    pub account: Account,
    /// When this was true.
    pub updated: i64,
    /// The last reading of the energy counter: its time, and millijoules.
    pub energy_reading: Option<(i64, i64)>,
    /// Utilisation has been 0 since.
    pub idle_since: Option<i64>,
}

/// What is known of one GPU or instance.
#[derive(Debug, Default)]
struct Holder {
    device: Device,
    /// `None` for one that is not here, or that was read back and not yet found.
    key: Option<Key>,
    /// Seconds are counted up to here.
    counted_to: i64,
    /// Time and value of the last sample of each field.
    last: HashMap<u16, (i64, f64)>,
    idle_since: Option<i64>,
    accounts: BTreeMap<Arc<str>, Account>,
}

/// The accounts of all GPUs and instances, by UUID.
#[derive(Debug, Default)]
pub struct Accounts {
    holders: BTreeMap<String, Holder>,
    by_key: HashMap<Key, String>,
    /// Jobs that are over, and whose summaries say all there is to say.
    settled: BTreeSet<Arc<str>>,
    /// Those for which there was no room.
    left_out: u64,
}

impl Part for Accounts {
    fn new(_: Windows) -> Accounts {
        Accounts::default()
    }

    fn forget(&mut self, key: Key) {
        if let Some(holder) = self.by_key.remove(&key).and_then(|uuid| self.holders.get_mut(&uuid)) {
            // The instance is gone, and its jobs cannot have it any more.
            holder.key = None;
            holder.idle_since = None;
            holder.end_all_but(|_| false);
        }
    }
}

impl Holder {
    /// Ends the accounts of jobs at the time up to which they are counted.
    fn end_all_but(&mut self, has_it: impl Fn(&str) -> bool) {
        let end = self.counted_to;
        let gone = self.accounts.iter_mut().filter(|(job, _)| !has_it(job));
        gone.for_each(|(_, account)| _ = account.ended.get_or_insert(end));
    }

    /// Counts seconds of today's jobs up to now.
    fn count_to(&mut self, now: i64, timeline: &JobTimeline) {
        let Some(key) = self.key else { return };
        let seconds = (now - self.counted_to).max(0) as f64 / 1e6;
        self.counted_to = self.counted_to.max(now);
        let (_, jobs) = timeline.current(key);
        for job in jobs.iter() {
            if let Some(account) = self.accounts.get_mut(job) {
                account.held_seconds += seconds;
                if jobs.len() > 1 {
                    account.shared_seconds += seconds;
                }
            }
        }
    }

    /// Hands each job that had it between two times to `each`, with how many had it and for how many microseconds.
    fn divide(&mut self, timeline: &JobTimeline, from: i64, to: i64, mut each: impl FnMut(&mut Account, usize, f64)) {
        let Some(key) = self.key else { return };
        for (jobs, overlap) in timeline.between(from, to, key) {
            for job in jobs.iter() {
                if let Some(account) = self.accounts.get_mut(job) {
                    each(account, jobs.len(), overlap as f64);
                }
            }
        }
    }

    /// Takes in a sample. Of more than `longest` microseconds since the one before nothing is known, unless it is of a
    /// counter.
    fn take_in(&mut self, timeline: &JobTimeline, field: u16, time: i64, value: f64, longest: i64) {
        let before = self.last.get(&field).copied();
        if before.is_some_and(|(last, _)| time <= last) {
            return;
        }
        self.last.insert(field, (time, value));
        let since = before.map_or(time, |(last, _)| last.max(time - longest));
        match field {
            ENERGY => self.take_in_energy(timeline, before, time, value),
            UTILIZATION => {
                self.take_in_use(timeline, since, time, value / 100.0);
            }
            ENGINE_ACTIVE => {
                self.take_in_use(timeline, since, time, value);
            }
            MEMORY => {
                let jobs = self.key.map(|key| timeline.at(time, key)).unwrap_or_default();
                for job in jobs.iter() {
                    if let Some(account) = self.accounts.get_mut(job) {
                        account.memory_max = account.memory_max.max(Some(value as i64));
                    }
                }
            }
            CLOCK_EVENTS => {
                let mask = value as i64;
                self.divide(timeline, since, time, |account, _, microseconds| {
                    if mask & THROTTLED != 0 {
                        account.throttled_seconds += microseconds / 1e6;
                    }
                    if mask & POWER_CAPPED != 0 {
                        account.power_capped_seconds += microseconds / 1e6;
                    }
                });
            }
            _ => {
                if let Some(index) = ACTIVITIES.iter().position(|(known, _)| *known == field) {
                    self.divide(timeline, since, time, |account, _, microseconds| {
                        account.activities[index].add(value, microseconds / 1e6);
                    });
                }
            }
        }
    }

    fn take_in_use(&mut self, timeline: &JobTimeline, since: i64, time: i64, share: f64) {
        self.divide(timeline, since, time, |account, _, microseconds| account.busy.add(share, microseconds / 1e6));
        let Some(key) = self.key else { return };
        let (began, jobs) = timeline.current(key);
        // A sample from before the first job says nothing of it.
        if !jobs.is_empty() && time >= began {
            match share > 0.0 {
                true => self.idle_since = None,
                false => _ = self.idle_since.get_or_insert(since.max(began)),
            }
        }
    }

    fn take_in_energy(&mut self, timeline: &JobTimeline, before: Option<(i64, f64)>, time: i64, value: f64) {
        let mut used = 0.0;
        let mut since = time - 1;
        if let Some((last, counter)) = before {
            since = last;
            // A counter that is lower has begun anew with the driver.
            used = if value >= counter { value - counter } else { value };
            if used > (time - last) as f64 * MOST_POWER + ENERGY_STEP {
                used = 0.0;
            }
        }
        let all = (time - since) as f64;
        self.divide(timeline, since, time, |account, jobs, microseconds| {
            *account.energy_millijoules.get_or_insert(0.0) += used * (microseconds / all) / jobs as f64;
        });
    }
}

impl Accounts {
    /// The account holder `key` is this GPU or instance. Returns which of the jobs that were read back of it still have
    /// it, and the time up to which they are counted, if it was not known before.
    pub fn meet(&mut self, key: Key, device: &Device, jobs: &[&str]) -> Option<(i64, JobIds)> {
        self.by_key.insert(key, device.uuid.clone());
        let holder = self.holders.entry(device.uuid.clone()).or_default();
        holder.device = device.clone();
        if holder.key.replace(key).is_some() || holder.accounts.is_empty() {
            return None;
        }
        // When a job ended while nobody looked is not known: it has what was written down last.
        holder.end_all_but(|job| jobs.contains(&job));
        let running = holder.accounts.iter().filter(|(_, account)| account.ended.is_none());
        let kept: JobIds = running.map(|(job, _)| job.clone()).collect();
        if kept.is_empty() {
            holder.idle_since = None;
        }
        Some((holder.counted_to, kept))
    }

    /// Takes in that other jobs have a GPU or instance than before; its timeline says which, and since when.
    pub fn change(&mut self, key: Key, before: &JobIds, timeline: &JobTimeline) {
        let mut room = MOST_ACCOUNTS.saturating_sub(self.count());
        let Some(holder) = self.by_key.get(&key).and_then(|uuid| self.holders.get_mut(uuid)) else { return };
        let (now, jobs) = timeline.current(key);
        holder.counted_to = now;
        for job in before.iter().filter(|job| !jobs.contains(job)) {
            if let Some(account) = holder.accounts.get_mut(job) {
                account.ended = Some(now);
            }
        }
        for job in jobs.iter() {
            if let Some(account) = holder.accounts.get_mut(job) {
                account.ended = None;
                self.settled.remove(job);
            } else if room > 0 {
                holder.accounts.insert(job.clone(), Account { began: now, ..Account::default() });
                room -= 1;
            } else {
                self.left_out += 1;
            }
        }
        if !before.iter().any(|job| jobs.contains(job)) {
            holder.idle_since = None;
        }
    }

    /// Takes in a sample of a field; see the constants for their units. `longest` is in microseconds: of a longer gap
    /// between two samples nothing is known, unless they are of a counter.
    pub fn take_in(&mut self, timeline: &JobTimeline, key: Key, field: u16, time: i64, value: f64, longest: i64) {
        if let Some(holder) = self.by_key.get(&key).and_then(|uuid| self.holders.get_mut(uuid)) {
            holder.take_in(timeline, field, time, value, longest);
        }
    }

    /// Profiling fields are not sampled for a while: of that time nothing is known.
    pub fn pause_profiling(&mut self, key: Key) {
        let Some(holder) = self.by_key.get(&key).and_then(|uuid| self.holders.get_mut(uuid)) else { return };
        // On MIG there is no other measure of use.
        if holder.last.remove(&ENGINE_ACTIVE).is_some() {
            holder.idle_since = None;
        }
        for (field, _) in ACTIVITIES {
            holder.last.remove(&field);
        }
    }

    /// Counts an XID error of these jobs.
    pub fn count_xid(&mut self, key: Key, jobs: &JobIds, code: i64) {
        let Some(holder) = self.by_key.get(&key).and_then(|uuid| self.holders.get_mut(uuid)) else { return };
        for job in jobs.iter() {
            if let Some(account) = holder.accounts.get_mut(job) {
                *account.xids.entry(code).or_default() += 1;
            }
        }
    }

    /// Counts seconds up to now.
    pub fn count_to(&mut self, now: i64, timeline: &JobTimeline) {
        self.holders.values_mut().for_each(|holder| holder.count_to(now, timeline));
    }

    /// The clock was set by so many microseconds.
    pub fn shift(&mut self, by: i64) {
        for holder in self.holders.values_mut() {
            holder.counted_to += by;
            holder.last.values_mut().for_each(|(time, _)| *time += by);
            holder.idle_since.iter_mut().for_each(|since| *since += by);
            for account in holder.accounts.values_mut() {
                account.began += by;
                account.ended.iter_mut().for_each(|ended| *ended += by);
            }
        }
    }

    /// The jobs of a GPU or instance and what they used.
    pub fn of(&self, key: Key) -> impl Iterator<Item = (&str, &Account)> {
        let holder = self.by_key.get(&key).and_then(|uuid| self.holders.get(uuid));
        holder.into_iter().flat_map(|holder| &holder.accounts).map(|(job, account)| (&**job, account))
    }

    /// How many there are, of jobs that run and jobs that are over.
    pub fn count(&self) -> usize {
        self.holders.values().map(|holder| holder.accounts.len()).sum()
    }

    /// For how many seconds a GPU or instance has been allocated and not used; 0 where it is not allocated. `None` where
    /// nothing says whether it is used.
    pub fn idle_seconds(&self, timeline: &JobTimeline, key: Key, now: i64) -> Option<f64> {
        let holder = self.by_key.get(&key).and_then(|uuid| self.holders.get(uuid));
        match holder {
            Some(holder) if !timeline.current(key).1.is_empty() => {
                let is_known = holder.last.contains_key(&UTILIZATION) || holder.last.contains_key(&ENGINE_ACTIVE);
                let idle = holder.idle_since.map_or(0.0, |since| (now - since).max(0) as f64 / 1e6);
                is_known.then_some(idle)
            }
            _ => Some(0.0),
        }
    }

    /// The accounts of all jobs but those that are settled, to be written down.
    pub fn records(&self) -> impl Iterator<Item = Record> {
        let accounts = self.holders.values().flat_map(|holder| holder.accounts.iter().map(move |it| (holder, it)));
        accounts.filter(|(_, (job, _))| !self.settled.contains(*job)).map(|(holder, (job, account))| {
            let is_running = account.ended.is_none();
            let energy = holder.last.get(&ENERGY);
            Record {
                job: job.clone(),
                device: holder.device.clone(),
                account: account.clone(),
                updated: account.ended.unwrap_or(holder.counted_to),
                energy_reading: energy.filter(|_| is_running).map(|(time, value)| (*time, *value as i64)),
                idle_since: holder.idle_since.filter(|_| is_running),
            }
        })
    }

    /// Releases jobs that are over, after their records were written: nothing is added to them once `settle` has passed,
    /// and after `keep` they are forgotten. Where there are more accounts than `most`, those go first that ended first.
    /// Returns how many went for that reason. Times are in microseconds.
    pub fn forget_ended(&mut self, now: i64, settle: i64, keep: i64, most: usize) -> usize {
        if self.holders.values().flat_map(|holder| holder.accounts.values()).all(|account| account.ended.is_none()) {
            return 0;
        }
        // A job is over when it has no GPU any more.
        let mut ends: BTreeMap<Arc<str>, Option<i64>> = BTreeMap::new();
        for (job, account) in self.holders.values().flat_map(|holder| &holder.accounts) {
            let end = ends.entry(job.clone()).or_insert(Some(i64::MIN));
            *end = end.and_then(|end| Some(end.max(account.ended?)));
        }
        let mut over: Vec<(i64, Arc<str>)> = ends.into_iter().filter_map(|(job, end)| Some((end?, job))).collect();
        over.sort();
        let mut too_many = self.count().saturating_sub(most);
        let mut evicted = 0;
        for (end, job) in over {
            let is_old = now - end >= settle.max(keep);
            if is_old || too_many > 0 {
                let gone = self.holders.values_mut().filter_map(|holder| holder.accounts.remove(&job)).count();
                too_many = too_many.saturating_sub(gone);
                evicted += if is_old { 0 } else { gone };
                self.settled.remove(&job);
            } else if now - end >= settle {
                self.settled.insert(job);
            }
        }
        self.holders.retain(|_, holder| holder.key.is_some() || !holder.accounts.is_empty());
        evicted
    }

    /// Takes back accounts of jobs that were running when they were written down.
    pub fn restore(&mut self, records: impl IntoIterator<Item = Record>) {
        let mut room = MOST_ACCOUNTS.saturating_sub(self.count());
        for Record { job, device, account, updated, energy_reading, idle_since } in records {
            if room == 0 {
                self.left_out += 1;
                continue;
            }
            room -= 1;
            let holder = self.holders.entry(device.uuid.clone()).or_default();
            if let Some(known) = holder.accounts.get_mut(&job) {
                known.add(account);
                continue;
            }
            let mut account = account;
            // It has other jobs already.
            if holder.key.is_some() {
                account.ended.get_or_insert(updated);
            } else {
                holder.device = device;
                holder.counted_to = holder.counted_to.max(updated);
                holder.idle_since = holder.idle_since.or(idle_since);
                if let Some((time, value)) = energy_reading
                    && holder.last.get(&ENERGY).is_none_or(|(known, _)| *known < time)
                {
                    holder.last.insert(ENERGY, (time, value as f64));
                }
            }
            holder.accounts.insert(job, account);
        }
    }

    /// Ends what was read back of jobs that the job map no longer has, also on GPUs that are not here.
    pub fn end_restored(&mut self, is_there: impl Fn(&str) -> bool) {
        let away = self.holders.values_mut().filter(|holder| holder.key.is_none());
        away.for_each(|holder| holder.end_all_but(&is_there));
    }

    /// Those for which there was no room.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::tests::key;
    use super::*;

    const SECOND: i64 = 1_000_000;
    const LONGEST: i64 = 10 * SECOND;

    fn device() -> Device {
        Device { uuid: "GPU-a".to_owned(), gpu: "0".to_owned(), ..Device::default() }
    }

    /// One GPU, whose times are in seconds.
    #[derive(Default)]
    struct Node(Accounts, JobTimeline);

    impl Node {
        /// As the memory does it.
        fn jobs(&mut self, now: f64, jobs: &[&str]) {
            let Node(accounts, timeline) = self;
            let now = (now * 1e6) as i64;
            if let Some((since, kept)) = accounts.meet(key(1), &device(), jobs) {
                timeline.begin(since, key(1), kept);
            }
            accounts.count_to(now, timeline);
            let (_, before) = timeline.current(key(1));
            if timeline.set(now, key(1), jobs) {
                accounts.change(key(1), &before, timeline);
            }
        }

        fn sample(&mut self, field: u16, time: f64, value: f64) {
            self.0.take_in(&self.1, key(1), field, (time * 1e6) as i64, value, LONGEST);
        }

        fn of(&mut self, now: f64, job: &str) -> Account {
            self.0.count_to((now * 1e6) as i64, &self.1);
            self.0.of(key(1)).find(|(known, _)| *known == job).unwrap().1.clone()
        }

        fn idle(&self, now: f64) -> Option<f64> {
            self.0.idle_seconds(&self.1, key(1), (now * 1e6) as i64)
        }
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6
    }

    #[test]
    fn a_sample_is_divided_by_time_where_jobs_come_and_go() {
        let mut node = Node::default();
        node.jobs(0.0, &[]);
        for (field, value) in [(ENERGY, 1_000_000.0), (UTILIZATION, 80.0)] {
            node.sample(field, 0.0, value);
        }
        node.jobs(4.0, &["17"]);
        node.jobs(8.0, &["17", "18"]);
        for (field, value) in [(ENERGY, 1_001_000.0), (UTILIZATION, 50.0)] {
            node.sample(field, 10.0, value);
        }
        // 100 mJ per second; 17 alone for 4 s, both for 2 s.
        let (first, second) = (node.of(10.0, "17"), node.of(10.0, "18"));
        assert!(close(first.energy_millijoules.unwrap(), 500.0), "{first:?}");
        assert!(close(second.energy_millijoules.unwrap(), 100.0), "{second:?}");
        assert!(close(first.busy.sum, 3.0) && close(first.busy.seconds, 6.0), "{first:?}");
        assert!(close(first.held_seconds, 6.0) && close(first.shared_seconds, 2.0), "{first:?}");
        assert!(close(second.held_seconds, 2.0) && close(second.shared_seconds, 2.0), "{second:?}");
        // What comes late is still of the job that had it.
        node.jobs(12.0, &[]);
        node.sample(ENERGY, 20.0, 1_002_000.0);
        let (first, second) = (node.of(30.0, "17"), node.of(30.0, "18"));
        assert!(close(first.energy_millijoules.unwrap(), 600.0) && close(second.held_seconds, 4.0), "{first:?}");
        assert_eq!((first.ended, second.ended), (Some(12 * SECOND), Some(12 * SECOND)));
    }

    #[test]
    fn a_counter_that_begins_anew_or_is_misread_once() {
        let mut node = Node::default();
        node.jobs(0.0, &["17"]);
        for (time, value) in [(0.0, 9e12), (1.0, 9e12 + 300_000.0), (2.0, 200_000.0), (3.0, 500_000.0)] {
            node.sample(ENERGY, time, value);
        }
        assert!(close(node.of(3.0, "17").energy_millijoules.unwrap(), 800_000.0));
        for (time, value) in [(4.0, 0.0), (5.0, 9e12), (6.0, 9e12 + 1.0), (6.0, 9e12 + 5.0)] {
            node.sample(ENERGY, time, value);
        }
        assert!(close(node.of(7.0, "17").energy_millijoules.unwrap(), 800_001.0));
    }

    #[test]
    fn a_gap_costs_busy_seconds_and_no_energy() {
        let mut node = Node::default();
        node.jobs(0.0, &["17"]);
        for (time, energy) in [(0.0, 0.0), (1.0, 300_000.0), (601.0, 180_300_000.0)] {
            node.sample(ENERGY, time, energy);
            node.sample(UTILIZATION, time, 100.0);
            node.sample(CLOCK_EVENTS, time, 68.0);
            node.sample(1004, time, 0.25);
        }
        let account = node.of(601.0, "17");
        assert!(close(account.energy_millijoules.unwrap(), 180_300_000.0), "{account:?}");
        assert!(close(account.busy.sum, 11.0) && close(account.busy.seconds, 11.0), "{account:?}");
        assert!(close(account.throttled_seconds, 11.0) && close(account.power_capped_seconds, 11.0), "{account:?}");
        assert_eq!(account.activities[1].value(), Some(0.25));
        assert_eq!((account.activities[0].value(), account.memory_max), (None, None));
    }

    #[test]
    fn of_a_pause_of_profiling_nothing_is_known() {
        let mut node = Node::default();
        node.jobs(0.0, &["17"]);
        for (time, value) in [(0.0, 0.5), (10.0, 0.5)] {
            node.sample(1004, time, value);
            node.sample(ENGINE_ACTIVE, time, 0.0);
        }
        assert_eq!(node.idle(10.0), Some(10.0));
        node.0.pause_profiling(key(1));
        assert_eq!(node.idle(14.0), None);
        for time in [15.0, 16.0] {
            node.sample(1004, time, 1.0);
            node.sample(ENGINE_ACTIVE, time, 0.0);
        }
        // 10 s at 0.5 and one at 1, and not the 5 s between.
        let tensor = node.of(16.0, "17").activities[1];
        assert!(close(tensor.sum, 6.0) && close(tensor.seconds, 11.0), "{tensor:?}");
        assert_eq!(node.idle(16.0), Some(1.0));
    }

    #[test]
    fn idle_begins_with_the_job_and_ends_with_use() {
        let mut node = Node::default();
        node.jobs(0.0, &[]);
        node.sample(UTILIZATION, 1.0, 0.0);
        assert_eq!(node.idle(5.0), Some(0.0), "nobody has it");
        node.jobs(10.0, &["17"]);
        node.sample(UTILIZATION, 11.0, 0.0);
        node.sample(UTILIZATION, 12.0, 0.0);
        assert_eq!(node.idle(20.0), Some(10.0));
        node.sample(UTILIZATION, 21.0, 5.0);
        assert_eq!(node.idle(21.0), Some(0.0));
        node.sample(UTILIZATION, 22.0, 0.0);
        assert_eq!(node.idle(31.0), Some(10.0));
        // A second job beside it changes nothing; another one in its place begins anew.
        node.jobs(31.0, &["17", "18"]);
        assert_eq!(node.idle(31.0), Some(10.0));
        node.jobs(32.0, &["19"]);
        node.sample(UTILIZATION, 33.0, 0.0);
        assert_eq!(node.idle(33.0), Some(1.0));
        node.jobs(34.0, &[]);
        assert_eq!(node.idle(99.0), Some(0.0));
    }

    #[test]
    fn what_was_written_down_goes_on() {
        let mut before = Node::default();
        before.jobs(0.0, &["17", "18"]);
        for (time, energy) in [(0.0, 0.0), (10.0, 1000.0)] {
            before.sample(ENERGY, time, energy);
            before.sample(UTILIZATION, time, 0.0);
        }
        before.0.count_xid(key(1), &before.1.at(5 * SECOND, key(1)), 31);
        before.of(10.0, "17");
        let mut after = Node::default();
        after.0.restore(before.0.records());
        // 18 has ended meanwhile; 17 goes on.
        after.jobs(30.0, &["17"]);
        after.sample(ENERGY, 30.0, 3000.0);
        after.sample(UTILIZATION, 30.0, 0.0);
        let (first, second) = (after.of(30.0, "17"), after.of(30.0, "18"));
        assert!(close(first.energy_millijoules.unwrap(), 2500.0), "{first:?}");
        assert!(close(first.held_seconds, 30.0) && close(first.busy.seconds, 10.0), "{first:?}");
        assert!(close(second.energy_millijoules.unwrap(), 500.0) && close(second.held_seconds, 10.0), "{second:?}");
        assert_eq!((first.ended, second.ended), (None, Some(10 * SECOND)));
        assert_eq!((first.xids.get(&31), first.began), (Some(&1), 0));
        assert_eq!(after.idle(30.0), Some(30.0));
    }

    #[test]
    fn five_thousand_running_jobs_are_read_back_in_a_moment() {
        let mut node = Node::default();
        let account = Account { held_seconds: 1.0, ..Account::default() };
        let record = |job: u32| Record {
            job: job.to_string().into(),
            device: device(),
            account: account.clone(),
            updated: SECOND,
            energy_reading: None,
            idle_since: None,
        };
        let start = std::time::Instant::now();
        node.0.restore((0..5_000).map(record));
        node.0.end_restored(|job| job == "17");
        node.jobs(2.0, &["17"]);
        assert!(start.elapsed() < std::time::Duration::from_secs(1), "{:?}", start.elapsed());
        assert_eq!((node.of(3.0, "17").held_seconds, node.of(3.0, "18").ended), (3.0, Some(SECOND)));
    }

    #[test]
    fn a_clock_that_is_set_costs_nothing() {
        for by in [-3600 * SECOND, 3600 * SECOND] {
            let mut node = Node::default();
            node.jobs(10_000.0, &["17"]);
            node.sample(ENERGY, 10_000.0, 0.0);
            node.sample(ENERGY, 10_001.0, 100.0);
            node.of(10_001.0, "17");
            node.0.shift(by);
            node.1.shift(by);
            let now = 10_002.0 + by as f64 / 1e6;
            node.sample(ENERGY, now, 200.0);
            let account = node.of(now, "17");
            assert!(close(account.held_seconds, 2.0), "{account:?}");
            assert!(close(account.energy_millijoules.unwrap(), 200.0), "{account:?}");
            // Its times are those of the new clock, and it is gone after as long as any other.
            assert_eq!(account.began, 10_000 * SECOND + by);
            node.jobs(now, &[]);
            node.0.shift(-by);
            node.1.shift(-by);
            node.0.forget_ended(10_011 * SECOND, SECOND, 10 * SECOND, 100);
            assert_eq!(node.of(10_011.0, "17").ended, Some(10_002 * SECOND));
            node.0.forget_ended(10_012 * SECOND, SECOND, 10 * SECOND, 100);
            assert_eq!(node.0.count(), 0);
        }
    }

    #[test]
    fn jobs_that_are_over_are_written_once_and_go() {
        let (settle, keep) = (3 * SECOND, 300 * SECOND);
        let mut node = Node::default();
        node.jobs(0.0, &["17", "18"]);
        node.sample(ENERGY, 0.5, 1.0);
        node.jobs(1.0, &["18"]);
        let written =
            |node: &Node| node.0.records().map(|it| (it.job.to_string(), it.energy_reading)).collect::<Vec<_>>();
        node.0.forget_ended(2 * SECOND, settle, keep, 100);
        // What the GPU uses later is not in the record of a job that is over.
        assert_eq!(written(&node), [("17".to_owned(), None), ("18".to_owned(), Some((SECOND / 2, 1)))]);
        node.0.forget_ended(4 * SECOND, settle, keep, 100);
        assert_eq!(written(&node).len(), 1);
        assert_eq!(node.0.of(key(1)).count(), 2, "its series stay");
        // A job that is started again goes on.
        node.jobs(5.0, &["17", "18"]);
        assert_eq!(written(&node).len(), 2);
        node.jobs(6.0, &[]);
        assert_eq!(node.0.forget_ended(6 * SECOND + keep, settle, keep, 100), 0);
        assert_eq!(node.0.count(), 0);
        // Where there is no room, those go that ended first.
        for (at, job) in [(400.0, "19"), (401.0, "20"), (402.0, "21"), (403.0, "22")] {
            node.jobs(at, &[job]);
        }
        assert_eq!(node.0.forget_ended(403 * SECOND, settle, keep, 2), 2);
        assert_eq!(node.0.of(key(1)).map(|(job, _)| job).collect::<Vec<_>>(), ["21", "22"]);
    }

    #[test]
    fn there_is_an_end_to_what_is_remembered() {
        let mut node = Node::default();
        for job in 0..MOST_ACCOUNTS + 5 {
            node.jobs(job as f64 / 1e3, &[&job.to_string()]);
        }
        assert_eq!((node.0.of(key(1)).count(), node.0.left_out()), (MOST_ACCOUNTS, 5));
    }
}
