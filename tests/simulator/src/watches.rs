//! The pairs of entity and field that were ever watched, and what is stored of each.
//!
//! An engine has one watch for a connection, entity and field. A second one replaces its interval and keep age, and one
//! unwatch ends it, whichever groups were named. Samples stay when the watch goes, and so does the time of the last
//! look: a new watch does not look again before its interval is over.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use crate::codes::Entity;
use crate::links;
use crate::modules::Server;
use crate::values::Value;

/// Events that are kept although nothing says for how long.
const MOST_KEPT: usize = 100_000;

#[derive(Debug, Clone)]
pub struct Sample {
    pub timestamp: i64,
    pub status: i32,
    pub kind: u8,
    pub value: Value,
}

#[derive(Debug, Clone, Copy)]
pub struct Watch {
    /// Microseconds.
    pub interval: i64,
    pub keep_age: i64,
    pub since: Instant,
}

pub struct Pair {
    pub entity: Entity,
    pub field: u16,
    /// The field's type.
    pub kind: u8,
    pub server: Server,
    /// The GPU that the entity is, or is a part of.
    pub gpu: Option<u32>,
    /// Of the GPU, when the watch was made: see `gpus.rs`.
    pub generation: u32,
    /// A field of a GPU's link that no interval holds back.
    pub is_always_due: bool,
    /// NVSDM fails on it.
    pub fails: bool,
    pub watch: Option<Watch>,
    /// When it was last looked at, by the wall clock.
    pub last: Option<i64>,
    /// Looks since the watch was made.
    pub looks: u64,
    /// The sample with the highest time stamp, whenever it came in.
    pub latest: Option<Sample>,
    /// What the keep age holds, oldest first.
    pub history: VecDeque<Sample>,
}

impl Pair {
    /// Whether its interval is over. After a step back of the clock it is not, until the clock has caught up.
    pub fn is_due(&self, now: i64) -> bool {
        self.watch.is_some_and(|watch| self.is_always_due || self.last.is_none_or(|last| now - last >= watch.interval))
    }

    /// The last whole interval before now: when a clock of the engine's own has looked.
    pub fn ticked(&self, now: i64) -> i64 {
        match (self.watch, self.last) {
            (Some(watch), Some(last)) if !self.is_always_due => now - (now - last).rem_euclid(watch.interval),
            _ => now,
        }
    }

    fn is_kept_for_ever(&self) -> bool {
        self.is_always_due && links::is_kept_for_ever(self.field)
    }

    /// Drops what is stored. The watch goes on.
    pub fn forget(&mut self) {
        (self.last, self.latest, self.looks) = (None, None, 0);
        self.history.clear();
    }

    pub fn store(&mut self, sample: Sample, keep: bool) {
        if self.is_kept_for_ever() {
            self.history.push_back(sample.clone());
            self.latest = Some(sample);
            return;
        }
        let keep_age = self.watch.map_or(0, |watch| watch.keep_age);
        if keep || keep_age > 0 {
            let oldest = if keep_age > 0 { sample.timestamp - keep_age } else { i64::MIN };
            let at = self.history.partition_point(|kept| kept.timestamp <= sample.timestamp);
            self.history.insert(at, sample.clone());
            while self.history.len() > MOST_KEPT || self.history.front().is_some_and(|kept| kept.timestamp < oldest) {
                self.history.pop_front();
            }
        }
        if self.latest.as_ref().is_none_or(|latest| latest.timestamp <= sample.timestamp) {
            self.latest = Some(sample);
        }
    }
}

#[derive(Default)]
pub struct Pairs {
    pub all: Vec<Pair>,
    index: HashMap<(Entity, u16), usize>,
    /// Places of those that modules with a clock serve.
    pub of_modules: Vec<usize>,
}

impl Pairs {
    pub fn find(&self, entity: Entity, field: u16) -> Option<usize> {
        self.index.get(&(entity, field)).copied()
    }

    pub fn add(&mut self, pair: Pair) -> usize {
        let at = self.all.len();
        self.index.insert((pair.entity, pair.field), at);
        if pair.server.has_a_clock() {
            self.of_modules.push(at);
        }
        self.all.push(pair);
        at
    }

    /// Samples that keep ages hold, and those without expiry.
    pub fn kept(&self) -> usize {
        self.all.iter().map(|pair| pair.history.len()).sum()
    }

    pub fn watched(&self) -> usize {
        self.all.iter().filter(|pair| pair.watch.is_some()).count()
    }
}
