//! The simulated engine: what it holds, and the groups that clients make in it.
//!
//! As strict as the real one: ids that do not exist, full groups, empty groups and fields nobody watches answer as
//! libdcgm was seen to answer. Watching is in `watching.rs`, sampling in `schedule.rs`, reading in `reading.rs`.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Instant;

use crate::answers::Table;
use crate::codes::*;
use crate::fields::{self, Field};
use crate::gpus::Bindings;
use crate::health::HealthWatch;
use crate::limits;
use crate::scenario::{Scenario, Source};
use crate::values::{self, Values};
use crate::watches::Pairs;
use crate::xids::Xids;

/// A member of a group, and the generation of its GPU in which it was added.
pub type Member = (Entity, u32);

/// A library and an engine of different lines understand each other in part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Lines {
    Same,
    NewerLibrary,
    NewerEngine,
}

pub struct Engine {
    pub scenario: Scenario,
    source: Source,
    pub values: Values,
    pub table: Rc<Table>,
    pub fields: HashMap<u16, Field>,
    pub version: String,
    pub release: Release,
    /// Release of the library in front of it, which decides the layouts of structs.
    library: Release,
    pub lines: Lines,
    pub manual: bool,
    pub denied: Vec<u32>,
    pub groups: BTreeMap<usize, Vec<Member>>,
    pub field_groups: BTreeMap<usize, Vec<u16>>,
    pub pairs: Pairs,
    /// Places of the pairs of a group and a field group, for reads.
    pub places: HashMap<(usize, usize), Rc<[usize]>>,
    next_id: usize,
    pub started: Instant,
    /// It was started before the driver, and will never see a GPU.
    pub blind: bool,
    pub bindings: Bindings,
    pub xids: Xids,
    /// A watch of 1532 or 1533 on switches ended these fields for everybody.
    pub links_are_not_profiled: bool,
    /// The highest time stamp of a look; of a host engine's, also by its earlier clients.
    pub newest: i64,
    /// That of a host engine when this client came.
    pub inherited: i64,
    pub health: BTreeMap<usize, HealthWatch>,
    /// Looks by field.
    pub polls: BTreeMap<u16, u64>,
    /// Calls of the driver by field: looks and live reads.
    pub driver_calls: BTreeMap<u16, u64>,
    /// Uses that a careful client would not make, to be taken by the library.
    pub violations: Vec<String>,
}

impl Engine {
    /// An engine in this process, of the library's release, or the remote one behind a connection (`library`).
    pub fn new(mut source: Source, manual: bool, denied: Vec<u32>, library: Option<Release>) -> Engine {
        let scenario = source.changed().unwrap_or_default();
        let version = scenario.engine_version.clone().filter(|_| library.is_some());
        let version = version.or_else(|| scenario.version.clone()).unwrap_or_else(|| "4.6.0".to_owned());
        let release = Release::parse(&version);
        let table = Rc::new(Table::of(release));
        let mut engine = Engine {
            values: Values::new(&scenario, release, table.clone()),
            table,
            fields: fields::of(release),
            xids: Xids::new(scenario.events.len()),
            blind: scenario.system.gpus.is_empty(),
            lines: match library {
                Some(library) if library.0 > release.0 => Lines::NewerLibrary,
                Some(library) if library.0 < release.0 => Lines::NewerEngine,
                _ => Lines::Same,
            },
            scenario,
            source,
            version,
            release,
            library: library.unwrap_or(release),
            manual,
            denied,
            groups: BTreeMap::new(),
            field_groups: BTreeMap::new(),
            pairs: Pairs::default(),
            places: HashMap::new(),
            next_id: 100,
            started: Instant::now(),
            bindings: Bindings::default(),
            links_are_not_profiled: false,
            newest: 0,
            inherited: 0,
            health: BTreeMap::new(),
            polls: BTreeMap::new(),
            driver_calls: BTreeMap::new(),
            violations: Vec::new(),
        };
        engine.bindings.set_unbound(&engine.scenario.faults.unbound_gpus);
        engine.bindings.finish_leaving();
        engine
    }

    /// Goes on after the samples of a host engine's earlier clients.
    pub fn inherit(&mut self, newest: i64) {
        (self.newest, self.inherited) = (newest, newest);
    }

    /// Takes in a changed scenario. Groups, watches and samples stay, as the node would change under the engine.
    pub fn refresh(&mut self) {
        let Some(scenario) = self.source.changed() else { return };
        let before = std::mem::replace(&mut self.values, Values::new(&scenario, self.release, self.table.clone()));
        self.xids.set_events(&self.scenario.events, &scenario.events);
        let is_back = self.bindings.set_unbound(&scenario.faults.unbound_gpus);
        self.scenario = scenario;
        // An instance with the id of one that is gone is another one: nothing is stored of it.
        for pair in &mut self.pairs.all {
            let is_other = matches!(pair.entity.0, INSTANCE | COMPUTE_INSTANCE)
                && self.values.slice(pair.entity) != before.slice(pair.entity);
            if is_other {
                pair.forget();
                pair.gpu = self.values.gpu(pair.entity);
                pair.generation = self.bindings.generation(pair.gpu);
            }
        }
        if is_back {
            self.tell_of_binding(crate::gpus::REINITIALISED);
        }
    }

    pub fn has_layouts_of_v3(&self) -> bool {
        self.library < Release(4, 0, 0)
    }

    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    pub fn entity(&self, name: &str, id: u32) -> Entity {
        values::entity(self.release, name, id, None, None)
    }

    pub fn create_group(&mut self) -> Result<usize, i32> {
        if self.groups.len() >= limits::groups(&self.scenario) {
            return Err(MAX_LIMIT);
        }
        let id = self.new_id();
        self.groups.insert(id, Vec::new());
        Ok(id)
    }

    fn new_id(&mut self) -> usize {
        self.next_id += 1;
        self.next_id
    }

    pub fn add_entity(&mut self, group: usize, entity: Entity) -> Result<(), i32> {
        let exists = self.exists(entity);
        let generation = self.bindings.generation(self.values.gpu(entity));
        let members = self.groups.get_mut(&group).ok_or(NOT_CONFIGURED)?;
        if !exists || members.iter().any(|(member, _)| *member == entity) {
            return Err(BADPARAM);
        }
        if members.len() >= limits::entities_in_a_group(self.release) {
            return Err(MAX_LIMIT);
        }
        members.push((entity, generation));
        self.places.clear();
        Ok(())
    }

    /// Watches do not end with their group.
    pub fn destroy_group(&mut self, group: usize) -> Result<(), i32> {
        self.health.remove(&group);
        self.places.clear();
        self.groups.remove(&group).map(drop).ok_or(NOT_CONFIGURED)
    }

    pub fn create_field_group(&mut self, fields: &[u16]) -> Result<usize, i32> {
        let is_known = |field: &u16| self.fields.contains_key(field);
        if fields.is_empty() || fields.len() > limits::MOST_FIELDS_IN_A_GROUP || !fields.iter().all(is_known) {
            return Err(BADPARAM);
        }
        if self.field_groups.len() >= limits::field_groups(&self.scenario) {
            return Err(MAX_LIMIT);
        }
        let id = self.new_id();
        self.field_groups.insert(id, fields.to_vec());
        Ok(id)
    }

    pub fn destroy_field_group(&mut self, id: usize) -> Result<(), i32> {
        self.places.clear();
        self.field_groups.remove(&id).map(drop).ok_or(NOT_CONFIGURED)
    }

    /// Members and fields of a pair of groups.
    pub fn members(&self, group: usize, field_group: usize) -> Result<(&[Member], &[u16]), i32> {
        let entities = self.groups.get(&group).ok_or(NOT_CONFIGURED)?;
        let fields = self.field_groups.get(&field_group).ok_or(NOT_CONFIGURED)?;
        Ok((entities, fields))
    }

    /// What the scenario wants a call to fail with.
    pub fn failure(&self, call: &str, entity: Option<Entity>, field: Option<u16>) -> Option<i32> {
        self.failure_among(usize::MAX, call, entity, field)
    }

    /// The same of one entity of so many.
    pub fn failure_among(&self, count: usize, call: &str, entity: Option<Entity>, field: Option<u16>) -> Option<i32> {
        let matching = self.scenario.faults.fail.iter().find(|failure| {
            let of_entity = match (&failure.entity, failure.id) {
                (Some(name), Some(id)) => entity == Some(self.entity(name, id)),
                _ => true,
            };
            let of_count = failure.of_more_than.is_none_or(|most| count > most);
            failure.call == call && of_entity && of_count && (failure.field.is_none() || failure.field == field)
        });
        matching.map(|failure| failure.code)
    }
}
