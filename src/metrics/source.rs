//! What a source of computed metrics is, and what it is given.

use std::rc::Rc;
use std::time::Duration;

use super::events::{Event, Wanted};
use super::identity::Key;
use super::job_timeline::{JobIds, JobTimeline};
use super::memory::{Extras, Memory, Parts, Windows};
use super::sample::Samples;
use super::table::Table;
use super::tally::Tally;
use super::watches::FieldGroups;
use crate::dcgm::{Error, Result, Session};
use crate::inventory::Inventory;

/// Makes samples of computed metrics. It lives as long as the inventory and the watches; what it counts for longer is in
/// its [`Part`](super::memory::Part) of the memory.
pub trait Source {
    /// As the exporter's own metrics name it.
    fn name(&self) -> &'static str;

    /// Adds the samples of this collection.
    ///
    /// Errors: -21 ends the collection. Any other one is counted and costs what was not added.
    fn collect(&mut self, context: &mut Context<'_>, samples: &mut Samples) -> Result<()>;

    /// Whether it works with events alone, and so calls nothing that could ask the driver.
    fn is_of_events(&self) -> bool {
        false
    }

    /// Whether it also reads when a job comes or goes, from watches of its own.
    fn reads_between_collections(&self) -> bool {
        false
    }

    /// The time between two collections has changed.
    fn set_interval(&mut self, _interval: Duration) -> Result<()> {
        Ok(())
    }
}

/// Makes a source; `None` where it has nothing to do. Errors other than -21 are logged once and leave the source out.
pub type New = fn(&mut Setup<'_>) -> Result<Option<Box<dyn Source>>>;

/// What a source is made of.
pub struct Setup<'a> {
    pub session: &'a Rc<Session>,
    pub inventory: &'a Inventory,
    /// By entity of the inventory.
    pub keys: &'a [Option<Key>],
    /// Time between two collections.
    pub interval: Duration,
    pub windows: Windows,
    /// Event fields to read.
    pub events: &'a mut Wanted,
    /// Computed metrics that rows of the counters file ask for.
    pub wanted: &'a [&'static str],
    /// Fields that rows of the counters file show by themselves.
    pub shown: &'a [u16],
    pub extras: Extras,
    /// For watches of its own.
    pub field_groups: &'a mut FieldGroups,
    /// Gets an error for each watch that the engine has no room for.
    pub no_room: &'a mut Vec<Error>,
}

impl Setup<'_> {
    /// Whether any of these metrics is asked for.
    pub fn wants(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.wanted.contains(name))
    }
}

/// What a source may use during a collection.
pub struct Context<'a> {
    pub inventory: &'a Inventory,
    /// By entity of the inventory; `None` for what is no GPU or instance.
    pub keys: &'a [Option<Key>],
    /// Microseconds since 1970.
    pub now: i64,
    pub parts: &'a mut Parts,
    /// What the fields of the counters file were at this collection.
    pub table: &'a Table,
    pub jobs: &'a JobTimeline,
    /// Counts of events by job.
    pub totals: &'a mut Tally,
    /// Whether these have jobs as labels.
    pub job_labels: bool,
    /// What happened since the last collection, and [`OVERLAP`](super::events::OVERLAP) before it.
    pub events: &'a [Event],
    /// The engine's time of the last read of events, in microseconds since 1970.
    pub engine_time: i64,
    /// The engine's clock was set back since the last read, which was at this time of its clock of today.
    pub set_back: Option<i64>,
    /// Why some events could not be read.
    pub events_failed: Option<&'a Error>,
}

impl<'a> Context<'a> {
    /// Without events: what a collection read of them is put in afterwards.
    pub fn new(
        inventory: &'a Inventory,
        keys: &'a [Option<Key>],
        table: &'a Table,
        now: i64,
        memory: &'a mut Memory,
    ) -> Context<'a> {
        Context {
            inventory,
            keys,
            now,
            parts: &mut memory.parts,
            table,
            jobs: &memory.jobs,
            totals: &mut memory.totals,
            job_labels: memory.extras.job_labels,
            events: &[],
            engine_time: memory.next_event.map_or(now, |cursor| cursor.next),
            set_back: None,
            events_failed: None,
        }
    }

    /// These jobs as labels; none where jobs are not on samples.
    pub fn labels(&self, jobs: &JobIds) -> JobIds {
        if self.job_labels { jobs.clone() } else { JobIds::default() }
    }

    /// For a source to end with that works with events: fails if some could not be read.
    pub fn events_complete(&self) -> Result<()> {
        self.events_failed.map_or(Ok(()), |error| Err(error.clone()))
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::memory::Memory;
    use super::super::number::Number;
    use super::super::plan::Plan;
    use super::*;
    use crate::dcgm::{EntityGroup, EntityId};
    use crate::inventory::{Entity, Kind};

    pub const SECOND: i64 = 1_000_000;

    pub fn gpu(id: u32, kind: Kind) -> Entity {
        let uuid = format!("GPU-{id}");
        Entity {
            id: EntityId::new(EntityGroup::Gpu, id),
            kind,
            labels: vec![("gpu", id.to_string()), ("UUID", uuid.clone())],
            gpu: Some(id),
            gpu_uuid: uuid.clone(),
            gpu_instance: None,
            names: Vec::new(),
            uuid,
        }
    }

    pub fn instance(entity: u32, of: u32) -> Entity {
        Entity {
            id: EntityId::new(EntityGroup::Instance, entity),
            gpu_instance: Some(entity),
            uuid: format!("MIG-{entity}"),
            ..gpu(of, Kind::Gpu)
        }
    }

    /// A node without an engine: a source's events come from the test.
    pub struct Node {
        pub memory: Memory,
        pub inventory: Inventory,
        /// Of [`Context::engine_time`]; `None` for that of the collection.
        pub engine_time: Option<i64>,
        /// Of [`Context::set_back`].
        pub set_back: Option<i64>,
    }

    impl Node {
        /// The exporter starts at 0; windows are 300 s.
        pub fn new(entities: Vec<Entity>) -> Node {
            let window = Duration::from_secs(300);
            Node {
                memory: Memory::new(0, Windows { xid: window, clock_events: window }),
                inventory: Inventory { entities, ..Inventory::default() },
                engine_time: None,
                set_back: None,
            }
        }

        pub fn collect(
            &mut self,
            source: &mut dyn Source,
            now: i64,
            events: &[Event],
            names: &[&'static str],
        ) -> Samples {
            let keys: Vec<Option<Key>> = self.inventory.entities.iter().map(|entity| self.memory.key(entity)).collect();
            let mut samples = Samples::of(names.iter().copied());
            let table = Table::new(&Plan::default(), &self.inventory);
            let mut context = Context {
                inventory: &self.inventory,
                keys: &keys,
                now,
                parts: &mut self.memory.parts,
                table: &table,
                jobs: &self.memory.jobs,
                totals: &mut self.memory.totals,
                job_labels: true,
                events,
                engine_time: self.engine_time.unwrap_or(now),
                set_back: self.set_back,
                events_failed: None,
            };
            source.collect(&mut context, &mut samples).unwrap();
            samples
        }
    }

    /// The number of the sample of an entity that has this label value, or none at all; `Blank` without such a sample.
    pub fn number(samples: &Samples, name: &str, entity: usize, label: &str) -> Number {
        let of_entity = samples.get(name).iter().filter(|sample| sample.entity == entity);
        let mut of_label = of_entity.filter(|sample| label.is_empty() || sample.labels.iter().any(|(_, v)| v == label));
        of_label.next().map_or(Number::Blank, |sample| sample.number)
    }
}
