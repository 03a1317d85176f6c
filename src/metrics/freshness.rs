//! Values that have stopped moving, and entities that no longer answer.
//!
//! A driver or engine can go on answering the last thing it knew. What shows it is DCGM's time stamp: a GPU none of
//! whose fields has a newer one for several collections is not shown. The values of switches, links, CPUs and ConnectX
//! come from modules with clocks of their own; those stay on the page and are marked as stale. Profiling fields can go
//! silent one by one, and come back when they are watched anew. Event fields keep their time stamp by nature, and some
//! counters carry the driver's own; neither is evidence.

use std::collections::{HashMap, HashSet};

use super::number::Number;
use super::table::Table;
use crate::counters::PROFILING;
use crate::dcgm::{EntityGroup, EntityId};
use crate::inventory::{Entity, Inventory, Kind};

/// Collections without a newer time stamp after which a value is no longer believed.
const STILL_LIMIT: u32 = 5;

/// Whether a field's time stamp says that the field was sampled.
pub fn is_evidence(field: u16) -> bool {
    !matches!(field, 0..50 | 156 | 230 | 240..=247 | 310..=399)
}

#[derive(Debug, Default, Clone, Copy)]
struct Stamp {
    newest: i64,
    /// Collections since it was newer than before.
    still: u32,
    /// It has been watched anew since it went silent.
    rewatched: bool,
}

impl Stamp {
    fn see(&mut self, timestamp: i64) {
        if timestamp > self.newest {
            *self = Stamp { newest: timestamp, ..Stamp::default() };
        } else if self.newest > 0 {
            self.still = self.still.saturating_add(1);
        }
    }

    fn is_frozen(&self) -> bool {
        self.still >= STILL_LIMIT
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

/// What a look at the table comes to.
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
    /// The stamp of the newest sample, in microseconds since 1970; 0 if there is none.
    pub newest: i64,
}

impl Freshness {
    /// Looks at the values just read, and blanks those that are not to be believed. What `judgement` said before is
    /// written over.
    pub fn judge(
        &mut self,
        answered: &mut Answered,
        table: &mut Table,
        inventory: &Inventory,
        judgement: &mut Judgement,
    ) {
        judgement.clear(inventory.entities.len());
        for (index, entity) in inventory.entities.iter().enumerate() {
            let (mut newest, mut answers, mut asked) = (0, false, false);
            for (field, number, timestamp) in table.cells(index).filter(|(field, ..)| is_evidence(*field)) {
                asked = true;
                newest = newest.max(timestamp);
                answers |= number != Number::Blank;
                if PROFILING.contains(&field) {
                    self.profiling.entry((entity.id, field)).or_default().see(timestamp);
                }
            }
            let stamp = self.entities.entry(entity.id).or_default();
            stamp.see(newest);
            judgement.newest = judgement.newest.max(newest);
            let is_frozen = stamp.is_frozen();
            let has_answered = self.answered.entry(entity.id).or_insert_with(|| answered.contains(entity));
            if answers && !std::mem::replace(has_answered, true) {
                answered.insert(entity);
            }
            let is_silent = asked && *has_answered && !answers;
            if is_frozen && !matches!(entity.kind, Kind::Gpu | Kind::WholeGpu) {
                judgement.stale[index] = true;
                judgement.reasons.push(format!(
                    "{} {}: its values have stopped moving",
                    name(entity.id.group),
                    entity.id.id
                ));
            } else if is_frozen {
                table.blank(index);
                judgement.fail(index, entity.kind, entity.id, "its values have stopped moving");
            } else if is_silent {
                judgement.fail(index, entity.kind, entity.id, "none of its fields has a value");
            } else {
                self.judge_profiling(index, entity.id, table, judgement);
            }
        }
    }

    fn judge_profiling(&mut self, index: usize, entity: EntityId, table: &mut Table, judgement: &mut Judgement) {
        for ((owner, field), stamp) in &mut self.profiling {
            if *owner != entity || !stamp.is_frozen() {
                continue;
            }
            table.blank_cell(index, *field);
            if !stamp.rewatched {
                stamp.rewatched = true;
                judgement.rewatch = true;
            }
            judgement.reasons.push(format!("{} {}: profiling field {field} is silent", name(entity.group), entity.id));
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
        (self.rewatch, self.newest) = (false, 0);
    }

    fn fail(&mut self, index: usize, kind: Kind, entity: EntityId, why: &str) {
        self.up[index] = false;
        // A parent is not shown by itself; its instances speak for it.
        if kind != Kind::WholeGpu {
            self.reasons.push(format!("{} {}: {why}", name(entity.group), entity.id));
        }
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
    fn a_stamp_freezes_after_five_and_thaws_at_once() {
        let mut stamp = Stamp::default();
        for _ in 0..10 {
            stamp.see(0);
        }
        assert!(!stamp.is_frozen(), "what was never sampled has not stopped");
        stamp.see(100);
        for _ in 0..STILL_LIMIT - 1 {
            stamp.see(100);
        }
        assert!(!stamp.is_frozen());
        stamp.see(100);
        assert!(stamp.is_frozen());
        stamp.see(101);
        assert!(!stamp.is_frozen());
    }
}
