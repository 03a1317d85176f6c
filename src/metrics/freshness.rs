//! Values that have stopped moving, and entities that no longer answer.
//!
//! A driver or engine can go on answering the last thing it knew. What shows it is DCGM's time stamp: a GPU none of
//! whose fields has a newer one for several collections is not shown. The values of switches, links, CPUs and ConnectX
//! come from modules with clocks of their own; those stay on the page and are marked as stale. Profiling fields can go
//! silent one by one, and come back when they are watched anew. Event fields keep their time stamp by nature, and some
//! counters carry the driver's own; neither is evidence.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::number::Number;
use super::table::Table;
use crate::counters::PROFILING;
use crate::dcgm::{EntityGroup, EntityId};
use crate::inventory::{Entity, Inventory, Kind};

/// Collections without a newer time stamp after which a value is no longer believed, if they took as many intervals:
/// collections may follow each other more closely, after a reload of the counters file, and bring no sample then.
const STILL_LIMIT: u32 = 5;

/// Whether a field's time stamp says that the field was sampled.
pub fn is_evidence(field: u16) -> bool {
    !matches!(field, 0..50 | 156 | 230 | 240..=247 | 310..=399)
}

/// When values are looked at, and how often they are sampled.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    pub now: Instant,
    /// Time between two samples.
    pub interval: Duration,
}

/// Modules with clocks of their own are not expected to bring values oftener than this, whatever their watches say.
const SHORTEST_OF_MODULES: Duration = Duration::from_secs(1);

impl Look {
    fn at_pace_of(self, kind: Kind) -> Look {
        match kind {
            Kind::Gpu | Kind::WholeGpu | Kind::GpuLink => self,
            Kind::Switch | Kind::SwitchLink | Kind::ConnectX | Kind::Cpu | Kind::Core => {
                Look { interval: self.interval.max(SHORTEST_OF_MODULES), ..self }
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Stamp {
    newest: i64,
    /// When it was newer than before.
    moved: Instant,
    /// Collections since then.
    still: u32,
    /// It has been watched anew since it went silent.
    rewatched: bool,
}

impl Stamp {
    fn new(now: Instant) -> Stamp {
        Stamp { newest: 0, moved: now, still: 0, rewatched: false }
    }

    fn see(&mut self, timestamp: i64, now: Instant) {
        if timestamp > self.newest {
            *self = Stamp { newest: timestamp, ..Stamp::new(now) };
        } else if self.newest > 0 {
            self.still = self.still.saturating_add(1);
        }
    }

    fn is_frozen(&self, look: Look) -> bool {
        self.still >= STILL_LIMIT && look.now.duration_since(self.moved) >= look.interval.mul_f64(0.9) * STILL_LIMIT
    }
}

/// The newest stamps of one session. Outlives its watches, so that nothing looks fresh because it was watched anew.
#[derive(Default)]
pub struct Freshness {
    entities: HashMap<EntityId, Stamp>,
    profiling: HashMap<(EntityId, u16), Stamp>,
    /// What [`Answered`] says of the entities of this session.
    answered: HashMap<EntityId, bool>,
}

/// Entities that have ever had a value. Outlives sessions, so that a GPU that does not answer a new engine is missed.
#[derive(Default)]
pub struct Answered(HashSet<(String, EntityGroup, u32)>);

impl Answered {
    fn contains(&self, entity: &Entity) -> bool {
        self.0.contains(&identity(entity))
    }

    fn insert(&mut self, entity: &Entity) {
        self.0.insert(identity(entity));
    }
}

/// Numbers of GPUs and instances may come to mean others; UUIDs do not.
fn identity(entity: &Entity) -> (String, EntityGroup, u32) {
    let id = match entity.id.group {
        EntityGroup::Gpu => 0,
        EntityGroup::Instance => entity.gpu_instance.unwrap_or(0),
        _ => entity.id.id,
    };
    (entity.uuid.clone(), entity.id.group, id)
}

/// What is found in a look at the table.
#[derive(Debug, Default, PartialEq)]
pub struct Judgement {
    /// By entity of the inventory: false for one that should answer and does not.
    pub up: Vec<bool>,
    /// What does not answer, in words.
    pub reasons: Vec<String>,
    /// Profiling fields have gone silent and should be watched anew.
    pub rewatch: bool,
    /// By entity of the inventory: true for one that is shown with values that have stopped moving.
    pub stale: Vec<bool>,
    /// No GPU or instance has a value, although some were asked for one.
    pub no_gpu_has_values: bool,
    /// The stamp of the newest sample, in microseconds since 1970; 0 if there is none.
    pub newest: i64,
}

impl Freshness {
    /// Looks at the values just read, and blanks those that are not to be believed. What `judgement` said before is
    /// written over.
    pub fn judge(
        &mut self,
        look: Look,
        answered: &mut Answered,
        table: &mut Table,
        inventory: &Inventory,
        judgement: &mut Judgement,
    ) {
        judgement.clear(inventory.entities.len());
        let (mut gpus_asked, mut gpus_answer) = (false, false);
        for (index, entity) in inventory.entities.iter().enumerate() {
            let (mut newest, mut answers, mut asked) = (0, false, false);
            for (field, number, timestamp) in table.cells(index).filter(|(field, ..)| is_evidence(*field)) {
                asked = true;
                newest = newest.max(timestamp);
                answers |= number != Number::Blank;
                if PROFILING.contains(&field) {
                    let stamp = self.profiling.entry((entity.id, field)).or_insert_with(|| Stamp::new(look.now));
                    stamp.see(timestamp, look.now);
                }
            }
            let stamp = self.entities.entry(entity.id).or_insert_with(|| Stamp::new(look.now));
            stamp.see(newest, look.now);
            judgement.newest = judgement.newest.max(newest);
            if entity.kind == Kind::Gpu {
                (gpus_asked, gpus_answer) = (gpus_asked | asked, gpus_answer | answers);
            }
            let is_frozen = stamp.is_frozen(look.at_pace_of(entity.kind));
            let has_answered = self.answered.entry(entity.id).or_insert_with(|| answered.contains(entity));
            if answers && !std::mem::replace(has_answered, true) {
                answered.insert(entity);
            }
            let is_silent = asked && *has_answered && !answers;
            if is_frozen && !matches!(entity.kind, Kind::Gpu | Kind::WholeGpu) {
                judgement.stale[index] = true;
                judgement.blame(entity.id, "its values have stopped moving");
            } else if is_frozen {
                table.blank(index);
                judgement.fail(index, entity.kind, entity.id, "its values have stopped moving");
            } else if is_silent {
                judgement.fail(index, entity.kind, entity.id, "none of its fields has a value");
            } else {
                self.judge_profiling(look, index, entity.id, table, judgement);
            }
        }
        judgement.no_gpu_has_values = gpus_asked && !gpus_answer;
    }

    fn judge_profiling(
        &mut self,
        look: Look,
        index: usize,
        entity: EntityId,
        table: &mut Table,
        judgement: &mut Judgement,
    ) {
        for ((owner, field), stamp) in &mut self.profiling {
            if *owner != entity || !stamp.is_frozen(look) {
                continue;
            }
            table.blank_cell(index, *field);
            if !stamp.rewatched {
                stamp.rewatched = true;
                judgement.rewatch = true;
            }
            judgement.blame(entity, &format!("profiling field {field} is silent"));
        }
    }

    /// An entity is gone, and its id may come to mean another.
    pub fn forget(&mut self, entity: EntityId) {
        self.entities.remove(&entity);
        self.answered.remove(&entity);
        self.profiling.retain(|(owner, _), _| *owner != entity);
    }
}

impl Judgement {
    /// Forgets what was judged before, and keeps the memory.
    fn clear(&mut self, entities: usize) {
        self.up.clear();
        self.up.resize(entities, true);
        self.stale.clear();
        self.stale.resize(entities, false);
        self.reasons.clear();
        (self.rewatch, self.no_gpu_has_values, self.newest) = (false, false, 0);
    }

    fn fail(&mut self, index: usize, kind: Kind, entity: EntityId, why: &str) {
        self.up[index] = false;
        // A parent is not shown by itself; its instances speak for it.
        if kind != Kind::WholeGpu {
            self.blame(entity, why);
        }
    }

    fn blame(&mut self, entity: EntityId, why: &str) {
        self.reasons.push(format!("{} {}: {why}", name(entity.group), entity.id));
    }
}

fn name(group: EntityGroup) -> &'static str {
    match group {
        EntityGroup::Gpu => "GPU",
        EntityGroup::Switch => "NVSwitch",
        EntityGroup::Instance => "GPU instance",
        EntityGroup::ComputeInstance => "compute instance",
        EntityGroup::Link => "link",
        EntityGroup::Cpu => "CPU",
        EntityGroup::Core => "core",
        EntityGroup::ConnectX => "ConnectX",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_freezes_after_five_intervals_and_thaws_at_once() {
        let (start, interval) = (Instant::now(), Duration::from_secs(30));
        let look = |number: u32| Look { now: start + interval * number, interval };
        let mut stamp = Stamp::new(start);
        (0..10).for_each(|number| stamp.see(0, look(number).now));
        assert!(!stamp.is_frozen(look(10)), "what was never sampled has not stopped");
        (10..15).for_each(|number| stamp.see(100, look(number).now));
        assert!(!stamp.is_frozen(look(14)));
        stamp.see(100, look(15).now);
        assert!(stamp.is_frozen(look(15)));
        stamp.see(101, look(16).now);
        assert!(!stamp.is_frozen(look(16)));
    }

    #[test]
    fn collections_that_follow_closely_or_after_a_long_pause_freeze_nothing() {
        let (start, interval) = (Instant::now(), Duration::from_secs(30));
        let mut stamp = Stamp::new(start);
        (0..50).for_each(|number| stamp.see(100, start + Duration::from_millis(number)));
        assert!(!stamp.is_frozen(Look { now: start + interval, interval }));
        let mut stamp = Stamp::new(start);
        stamp.see(100, start);
        stamp.see(100, start + interval * 100);
        assert!(!stamp.is_frozen(Look { now: start + interval * 100, interval }));
    }
}
