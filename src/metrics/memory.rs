//! What outlives sessions and inventories: counts since the exporter started, recent events, jobs, and where reading of
//! events goes on.
//!
//! All of it is kept by [`identity`](super::identity), never by DCGM's ids: an engine that is started again may number
//! its entities anew, and a MIG instance that is made gets the id of one that was destroyed.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::accounts::{Accounts, Device};
use super::events::Cursor;
use super::identity::{Identities, Key};
use super::job_timeline::JobTimeline;
use super::tally::Tally;
use crate::inventory::{Entity, Inventory};

/// A source's part of the memory.
pub trait Part: Any + Send {
    /// An empty part. The windows are those of the metrics that count recent events.
    fn new(windows: Windows) -> Self
    where
        Self: Sized;

    /// An instance is gone for good.
    fn forget(&mut self, key: Key);
}

/// How far back the metrics that count recent events look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    pub xid: Duration,
    pub clock_events: Duration,
}

/// What the page has beside the rows of the counters file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extras {
    /// The exporter's own metrics; some of them count events.
    pub own_metrics: bool,
    /// Severity and category of health incidents.
    pub error_labels: bool,
    /// What jobs use of GPUs.
    pub job_accounting: bool,
    /// Jobs are on samples, also on those of computed metrics that count by job.
    pub job_labels: bool,
    /// How long series of jobs that are over stay.
    pub job_series_keep: Duration,
    /// Series by job that may be, all metrics together.
    pub job_series_limit: usize,
}

impl Extras {
    /// Microseconds.
    pub fn keep(&self) -> i64 {
        self.job_series_keep.as_micros() as i64
    }

    /// An account has as many series.
    pub const ACCOUNT_SERIES: usize = 4;

    /// The accounts that have series, at most.
    pub fn most_accounts(&self) -> usize {
        self.job_series_limit / Extras::ACCOUNT_SERIES
    }
}

pub struct Memory {
    pub windows: Windows,
    pub extras: Extras,
    pub parts: Parts,
    pub jobs: JobTimeline,
    /// Counts of events by job.
    pub totals: Tally,
    /// Series of accounts that were forgotten before their time.
    accounts_left_out: u64,
    /// It was logged that there are too many.
    pub told_left_out: bool,
    /// Wall clock, in microseconds since 1970, and monotonic time when they were last compared.
    clock: (i64, Instant),
    /// Where reading of events goes on.
    pub next_event: Option<Cursor>,
    identities: Identities,
}

/// The parts of all sources, by their types.
pub struct Parts {
    /// Events before this are not counted, in microseconds since 1970.
    pub started: i64,
    windows: Windows,
    parts: HashMap<TypeId, Box<dyn Part>>,
}

impl Parts {
    /// A source's own part, empty at first.
    pub fn of<P: Part>(&mut self) -> &mut P {
        let windows = self.windows;
        let part = self.parts.entry(TypeId::of::<P>()).or_insert_with(|| Box::new(P::new(windows)));
        let part: &mut dyn Any = part.as_mut();
        part.downcast_mut().expect("each part is kept under its own type")
    }
}

impl Memory {
    /// `now` is in microseconds since 1970; what happened before is not counted. There are no extras.
    pub fn new(now: i64, windows: Windows) -> Memory {
        Memory {
            windows,
            extras: Extras::default(),
            parts: Parts { started: now, windows, parts: HashMap::new() },
            jobs: JobTimeline::default(),
            totals: Tally::default(),
            accounts_left_out: 0,
            told_left_out: false,
            clock: (now, Instant::now()),
            next_event: None,
            identities: Identities::default(),
        }
    }

    pub fn with(self, extras: Extras) -> Memory {
        Memory { extras, ..self }
    }

    /// To be called with every inventory, also the first one of a new session. Forgets the instances that are gone from
    /// GPUs that are here; all other state stays, also that of GPUs that are away.
    pub fn inventory(&mut self, inventory: &Inventory) {
        for key in self.identities.update(inventory) {
            self.parts.parts.values_mut().for_each(|part| part.forget(key));
            self.totals.forget(key);
            self.jobs.forget(key);
        }
    }

    /// The key of a GPU or instance; `None` for any other kind of entity.
    pub fn key(&mut self, entity: &Entity) -> Option<Key> {
        self.identities.key(entity)
    }

    /// Looks at the clock, in microseconds since 1970. If it was set, the times of jobs move with it.
    pub fn see_clock(&mut self, now: i64) {
        // Clocks are read one after the other, and drift a little.
        const STEP: i64 = 2_000_000;
        let looked = Instant::now();
        let (wall, monotonic) = std::mem::replace(&mut self.clock, (now, looked));
        let step = now - wall - looked.duration_since(monotonic).as_micros() as i64;
        if step.abs() > STEP {
            self.jobs.shift(step);
            self.totals.shift(step);
            self.parts.of::<Accounts>().shift(step);
        }
    }

    /// Notes which jobs have a GPU or instance from now on. Returns whether they are others than before.
    pub fn set_jobs(&mut self, now: i64, entity: &Entity, jobs: &[&str]) -> bool {
        let Some(key) = self.key(entity) else { return false };
        let is_accounted = self.extras.job_accounting;
        if is_accounted {
            let accounts = self.parts.of::<Accounts>();
            if let Some((since, kept)) = accounts.meet(key, &device(entity), jobs) {
                self.jobs.begin(since, key, kept);
            }
            accounts.count_to(now, &self.jobs);
        }
        let (_, before) = self.jobs.current(key);
        if !self.jobs.set(now, key, jobs) {
            return false;
        }
        for job in before.iter().filter(|job| !jobs.contains(&&***job)) {
            self.totals.end(now, key, job);
        }
        if is_accounted {
            self.parts.of::<Accounts>().change(key, &before, &self.jobs);
        }
        true
    }

    /// Releases jobs that are over. To be called when their records were handed over; after `settle` microseconds nothing
    /// is added to them.
    pub fn forget_ended(&mut self, now: i64, settle: i64) {
        let (keep, most) = (self.extras.keep(), self.extras.most_accounts());
        let left_out = self.parts.of::<Accounts>().forget_ended(now, settle, keep, most);
        self.accounts_left_out += (left_out * Extras::ACCOUNT_SERIES) as u64;
        self.forget_ended_totals(now);
    }

    /// The same for counts of events alone, before they are shown.
    pub fn forget_ended_totals(&mut self, now: i64) {
        let accounts = self.parts.of::<Accounts>().count().min(self.extras.most_accounts());
        let room = self.extras.job_series_limit - accounts * Extras::ACCOUNT_SERIES;
        self.totals.forget_ended(now, self.extras.keep(), room, &self.jobs);
    }

    /// Series that could not be counted for want of room, or went before their time, since the start.
    pub fn left_out(&mut self) -> u64 {
        self.totals.left_out() + self.accounts_left_out + self.parts.of::<Accounts>().left_out()
    }
}

/// What names a GPU or instance in accounts.
fn device(entity: &Entity) -> Device {
    let label = |name: &str| entity.label(name).unwrap_or_default().to_owned();
    let instance = entity.gpu_instance.map(|id| id.to_string()).unwrap_or_default();
    let uuid = match entity.uuid.is_empty() {
        true => format!("{}/{instance}", entity.gpu_uuid),
        false => entity.uuid.clone(),
    };
    Device { uuid, gpu: label("gpu"), instance, profile: label("GPU_I_PROFILE") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dcgm::{EntityGroup, EntityId};
    use crate::inventory::Kind;

    /// Counts by key, as a source's part does.
    struct Counts(HashMap<Key, u32>);

    impl Part for Counts {
        fn new(_: Windows) -> Counts {
            Counts(HashMap::new())
        }

        fn forget(&mut self, key: Key) {
            self.0.remove(&key);
        }
    }

    fn gpu(id: u32, uuid: &str) -> Entity {
        Entity {
            id: EntityId::new(EntityGroup::Gpu, id),
            kind: Kind::Gpu,
            labels: vec![("gpu", id.to_string()), ("UUID", uuid.to_owned())],
            gpu: Some(id),
            gpu_uuid: uuid.into(),
            gpu_instance: None,
            names: Vec::new(),
            uuid: uuid.to_owned(),
        }
    }

    fn instance(entity: u32, gpu_uuid: &str, id: u32, profile: &str, uuid: &str) -> Entity {
        let mut labels = vec![("gpu", "0".to_owned()), ("UUID", gpu_uuid.to_owned())];
        if !profile.is_empty() {
            labels.push(("GPU_I_PROFILE", profile.to_owned()));
        }
        Entity {
            id: EntityId::new(EntityGroup::Instance, entity),
            labels,
            gpu_instance: Some(id),
            uuid: uuid.to_owned(),
            ..gpu(0, gpu_uuid)
        }
    }

    /// A memory that is told of inventories, and what is counted for each entity: what it is now, before one is added.
    struct Node(Memory);

    impl Node {
        fn sees(&mut self, entities: &[Entity]) -> Vec<u32> {
            self.0.inventory(&Inventory { entities: entities.to_vec(), ..Inventory::default() });
            let keys: Vec<Key> = entities.iter().map(|entity| self.0.key(entity).unwrap()).collect();
            let counts = &mut self.0.parts.of::<Counts>().0;
            keys.into_iter()
                .map(|key| {
                    let count = counts.entry(key).or_default();
                    *count += 1;
                    *count - 1
                })
                .collect()
        }
    }

    fn node() -> Node {
        let window = Duration::from_secs(300);
        Node(Memory::new(0, Windows { xid: window, clock_events: window }))
    }

    #[test]
    fn a_new_session_may_number_entities_anew() {
        let mut node = node();
        assert_eq!(node.sees(&[gpu(0, "GPU-a"), gpu(1, "GPU-b")]), [0, 0]);
        assert_eq!(node.sees(&[gpu(0, "GPU-b")]), [1]);
        assert_eq!(node.sees(&[gpu(0, "GPU-b"), gpu(1, "GPU-c"), gpu(2, "GPU-a")]), [2, 0, 1]);
        let instances =
            |first| [instance(first, "GPU-a", 1, "1g", "MIG-1"), instance(first + 1, "GPU-a", 2, "1g", "MIG-2")];
        assert_eq!(node.sees(&instances(0)), [0, 0]);
        assert_eq!(node.sees(&instances(7)), [1, 1]);
    }

    #[test]
    fn a_driver_that_is_loaded_again_and_gpus_that_are_released() {
        let mut node = node();
        let there = [gpu(1, "GPU-b"), instance(0, "GPU-a", 1, "1g", "MIG-1")];
        assert_eq!(node.sees(&there), [0, 0]);
        assert_eq!(node.sees(&[]), Vec::<u32>::new());
        assert_eq!(node.sees(&there), [1, 1]);
        assert_eq!(node.sees(&there[..1]), [2], "the other GPU has fallen off the bus");
        assert_eq!(node.sees(&there), [3, 2]);
    }

    #[test]
    fn slicing_anew_starts_at_zero_and_leaves_other_gpus_alone() {
        let mut node = node();
        let other = instance(9, "GPU-b", 1, "1g", "MIG-9");
        let sliced = |profile: &str, uuid: &str| [instance(0, "GPU-a", 1, profile, uuid), other.clone()];
        assert_eq!(node.sees(&sliced("1g", "MIG-1")), [0, 0]);
        assert_eq!(node.sees(&sliced("1g", "MIG-2")), [0, 1], "the same ids, another UUID");
        assert_eq!(node.sees(&sliced("3g", "MIG-2")), [0, 2], "another profile");
        assert_eq!(node.sees(&sliced("1g", "MIG-1")), [0, 3], "what was gone is forgotten");
        // In one piece, and sliced again just as before.
        let parent = Entity { kind: Kind::WholeGpu, ..gpu(0, "GPU-a") };
        assert_eq!(node.sees(&[gpu(0, "GPU-a"), other.clone()]), [0, 4]);
        assert_eq!(node.sees(&[instance(0, "GPU-a", 1, "1g", "MIG-1"), other.clone(), parent]), [0, 5, 1]);
    }

    #[test]
    fn an_instance_whose_names_cannot_be_read_once_is_the_same() {
        let mut node = node();
        assert_eq!(node.sees(&[instance(0, "GPU-a", 1, "1g", "MIG-1")]), [0]);
        assert_eq!(node.sees(&[instance(0, "GPU-a", 1, "", "")]), [1]);
        assert_eq!(node.sees(&[instance(0, "GPU-a", 1, "1g", "MIG-1")]), [2]);
        assert_eq!(node.sees(&[instance(0, "GPU-a", 2, "1g", "MIG-3")]), [0]);
    }
}
