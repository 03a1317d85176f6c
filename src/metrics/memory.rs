//! What outlives sessions and inventories: counts since the exporter started, recent events, jobs, and where reading of
//! events goes on.
//!
//! All of it is kept by [`identity`](super::identity), never by DCGM's ids: an engine that is started again may number
//! its entities anew, and a MIG instance that is made gets the id of one that was destroyed.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::time::Duration;

use super::identity::{Identities, Key};
use super::job_timeline::JobTimeline;
use crate::inventory::{Entity, Inventory};

/// A source's part of the memory.
pub trait Part: Any + Send {
    /// An empty part. The windows are those of the metrics that count recent events.
    fn new(windows: Windows) -> Self
    where
        Self: Sized;

    /// An instance is gone for good.
    fn forget(&mut self, key: Key);

    /// Series that could not be counted for want of room.
    fn left_out(&self) -> u64;
}

/// How far back the metrics that count recent events look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    pub xid: Duration,
    pub clock_events: Duration,
}

pub struct Memory {
    pub windows: Windows,
    pub parts: Parts,
    pub jobs: JobTimeline,
    /// Where reading of events goes on, in microseconds since 1970.
    pub next_event: Option<i64>,
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
    /// `now` is in microseconds since 1970; what happened before is not counted.
    pub fn new(now: i64, windows: Windows) -> Memory {
        Memory {
            windows,
            parts: Parts { started: now, windows, parts: HashMap::new() },
            jobs: JobTimeline::default(),
            next_event: None,
            identities: Identities::default(),
        }
    }

    /// To be called with every inventory, also the first one of a new session. Forgets the instances that are gone from
    /// GPUs that are here; all other state stays, also that of GPUs that are away.
    pub fn inventory(&mut self, inventory: &Inventory) {
        for key in self.identities.update(inventory) {
            self.parts.parts.values_mut().for_each(|part| part.forget(key));
            self.jobs.forget(key);
        }
    }

    /// The key of a GPU or instance; `None` for any other kind of entity.
    pub fn key(&mut self, entity: &Entity) -> Option<Key> {
        self.identities.key(entity)
    }

    /// Notes which jobs have a GPU or instance from now on.
    pub fn set_jobs(&mut self, now: i64, entity: &Entity, jobs: &[&str]) {
        if let Some(key) = self.key(entity) {
            self.jobs.set(now, key, jobs);
        }
    }

    /// Series that could not be counted for want of room, since the start.
    pub fn left_out(&self) -> u64 {
        self.parts.parts.values().map(|part| part.left_out()).sum()
    }
}
