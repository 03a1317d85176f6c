//! The simulated engine: groups, field groups, watches and the samples they bring in.
//!
//! As strict as the real one: ids that do not exist, full groups, empty groups and fields nobody watches answer as
//! libdcgm 4.6 was seen to answer.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::scenario::{Scenario, Source};
use crate::values::{self, Answer, Entity, Field, GPU, INSTANCE, NO_DATA, Value, Values, blank};

pub const BADPARAM: i32 = -1;
pub const NOT_CONFIGURED: i32 = -5;
pub const NOT_SUPPORTED: i32 = -6;
pub const NOT_WATCHED: i32 = -16;
pub const MAX_LIMIT: i32 = -24;
pub const MODULE_NOT_LOADED: i32 = -33;
pub const GROUP_IS_EMPTY: i32 = -35;
pub const PROFILING_NOT_SUPPORTED: i32 = -36;

const MODULE_NVSWITCH: u32 = 1;
const MODULE_HEALTH: u32 = 4;
const MODULE_SYSMON: u32 = 9;

const MOST_GROUPS: usize = 64;
/// DCGM makes two groups of its own: all GPUs, all switches.
const OWN_GROUPS: usize = 2;
const PROFILING: std::ops::Range<u16> = 1000..1100;

#[derive(Debug, Clone)]
pub struct Sample {
    pub timestamp: i64,
    pub status: i32,
    pub value: Value,
}

/// Samples of one entity, each with its field's id and type.
pub type OfEntity = (Entity, Vec<(u16, u8, Sample)>);

struct Watch {
    group: usize,
    field_group: usize,
    /// Microseconds.
    interval: i64,
    keep_age: f64,
    keep_samples: i32,
    last: i64,
    since: Instant,
}

pub struct Engine {
    pub scenario: Scenario,
    source: Source,
    values: Values,
    pub fields: HashMap<u16, Field>,
    pub version: String,
    manual: bool,
    denied: Vec<u32>,
    groups: BTreeMap<usize, Vec<Entity>>,
    field_groups: BTreeMap<usize, Vec<u16>>,
    watches: Vec<Watch>,
    latest: HashMap<(Entity, u16), Sample>,
    /// What watches with a window have kept.
    history: HashMap<(Entity, u16), VecDeque<Sample>>,
    next_id: usize,
    started: Instant,
    /// It was started before the driver, and will never see a GPU.
    blind: bool,
    /// When each event sequence of the scenario was last played, and how many of it.
    played: Vec<u64>,
    pub health_groups: Vec<usize>,
}

impl Engine {
    pub fn new(mut source: Source, manual: bool, denied: Vec<u32>) -> Engine {
        let scenario = source.changed().unwrap_or_default();
        let version = scenario.version.clone().unwrap_or_else(|| "4.6.0".to_owned());
        Engine {
            values: Values::new(&scenario),
            fields: values::fields(&version),
            played: vec![0; scenario.events.len()],
            blind: scenario.system.gpus.is_empty(),
            scenario,
            source,
            version,
            manual,
            denied,
            groups: BTreeMap::new(),
            field_groups: BTreeMap::new(),
            watches: Vec::new(),
            latest: HashMap::new(),
            history: HashMap::new(),
            next_id: 100,
            started: Instant::now(),
            health_groups: Vec::new(),
        }
    }

    /// Takes in a changed scenario. Groups, watches and samples stay, as the node would change under the engine.
    pub fn refresh(&mut self) {
        if let Some(scenario) = self.source.changed() {
            self.values = Values::new(&scenario);
            self.played = vec![0; scenario.events.len()];
            self.scenario = scenario;
        }
    }

    pub fn is_v3(&self) -> bool {
        self.version.starts_with('3')
    }

    fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    pub fn entities(&self, group: u32) -> Result<Vec<u32>, i32> {
        let system = &self.scenario.system;
        match group {
            values::GPU if self.blind => Ok(Vec::new()),
            values::GPU => Ok(system.gpus.iter().map(|gpu| gpu.id).collect()),
            values::INSTANCE => Ok(system.gpu_instances.iter().map(|instance| instance.entity_id).collect()),
            values::SWITCH if self.denied.contains(&MODULE_NVSWITCH) => Err(MODULE_NOT_LOADED),
            values::SWITCH => Ok(system.switches.clone()),
            values::CPU | values::CORE if self.denied.contains(&MODULE_SYSMON) || system.cpus.is_empty() => {
                Err(MODULE_NOT_LOADED)
            }
            values::CPU => Ok(system.cpus.iter().map(|cpu| cpu.id).collect()),
            values::CORE => Ok(system.cpus.iter().flat_map(|cpu| cpu.cores.clone()).collect()),
            values::CONNECTX => Ok(system.connectx.clone()),
            _ => Err(NOT_SUPPORTED),
        }
    }

    pub fn sees_switches(&self) -> bool {
        !self.denied.contains(&MODULE_NVSWITCH)
    }

    pub fn sees_cpus(&self) -> bool {
        !self.denied.contains(&MODULE_SYSMON) && !self.scenario.system.cpus.is_empty()
    }

    pub fn watches_health(&self) -> bool {
        !self.denied.contains(&MODULE_HEALTH)
    }

    fn exists(&self, entity: Entity) -> bool {
        match entity.0 {
            values::LINK => {
                let (kind, index, parent) = (entity.1 & 0xff, entity.1 >> 8 & 0xffff, entity.1 >> 24);
                let name = if kind == GPU { "GPU" } else { "SWITCH" };
                // GPU links are numbered from 1 here, switch links from 0.
                let index = if kind == GPU { index.wrapping_sub(1) } else { index };
                let links =
                    self.scenario.system.links.iter().find(|links| links.parent == name && links.parent_id == parent);
                links.is_some_and(|links| (index as usize) < links.states.len())
            }
            group => self.entities(group).is_ok_and(|ids| ids.contains(&entity.1)),
        }
    }

    pub fn create_group(&mut self) -> Result<usize, i32> {
        if self.groups.len() + OWN_GROUPS >= MOST_GROUPS {
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
        let capacity = if self.is_v3() { 64 } else { 1024 };
        let exists = self.exists(entity);
        let members = self.groups.get_mut(&group).ok_or(NOT_CONFIGURED)?;
        if !exists || members.contains(&entity) {
            return Err(BADPARAM);
        }
        if members.len() >= capacity {
            return Err(MAX_LIMIT);
        }
        members.push(entity);
        Ok(())
    }

    pub fn destroy_group(&mut self, group: usize) -> Result<(), i32> {
        self.health_groups.retain(|known| *known != group);
        self.watches.retain(|watch| watch.group != group);
        self.groups.remove(&group).map(drop).ok_or(NOT_CONFIGURED)
    }

    pub fn create_field_group(&mut self, fields: &[u16]) -> Result<usize, i32> {
        if fields.is_empty() || fields.len() > 127 || fields.iter().any(|field| !self.fields.contains_key(field)) {
            return Err(BADPARAM);
        }
        if self.field_groups.len() >= MOST_GROUPS {
            return Err(MAX_LIMIT);
        }
        let id = self.new_id();
        self.field_groups.insert(id, fields.to_vec());
        Ok(id)
    }

    pub fn destroy_field_group(&mut self, id: usize) -> Result<(), i32> {
        self.watches.retain(|watch| watch.field_group != id);
        self.field_groups.remove(&id).map(drop).ok_or(NOT_CONFIGURED)
    }

    pub fn watch(
        &mut self,
        group: usize,
        field_group: usize,
        interval: i64,
        keep_age: f64,
        keep_samples: i32,
    ) -> Result<(), i32> {
        let entities = self.groups.get(&group).ok_or(NOT_CONFIGURED)?.clone();
        let fields = self.field_groups.get(&field_group).ok_or(NOT_CONFIGURED)?.clone();
        if interval <= 0 || keep_age < 0.0 || (keep_age == 0.0 && keep_samples <= 0) {
            return Err(BADPARAM);
        }
        for &entity in &entities {
            for &field in &fields {
                if let Some(failure) = self.failure("dcgmWatchFields", Some(entity), Some(field)) {
                    return Err(failure);
                }
                if PROFILING.contains(&field) && !self.supports_profiling(entity, field) {
                    return Err(PROFILING_NOT_SUPPORTED);
                }
            }
        }
        self.scenario.faults.silent_fields.retain(|silent| !fields.contains(silent));
        let (last, since) = (i64::MIN, Instant::now());
        self.watches.push(Watch { group, field_group, interval, keep_age, keep_samples, last, since });
        Ok(())
    }

    pub fn unwatch(&mut self, group: usize, field_group: usize) -> Result<(), i32> {
        let before = self.watches.len();
        self.watches.retain(|watch| watch.group != group || watch.field_group != field_group);
        if self.watches.len() == before { Err(NOT_WATCHED) } else { Ok(()) }
    }

    pub fn profiling_fields(&self, gpu: u32) -> Vec<u16> {
        if let Some(fields) = self.scenario.profiling_by_gpu.get(&gpu) {
            return fields.clone();
        }
        match &self.scenario.supported_profiling_fields {
            Some(fields) => fields.clone(),
            None => (1001..=1015).chain(1040..=1083).filter(|field| self.fields.contains_key(field)).collect(),
        }
    }

    fn supports_profiling(&self, entity: Entity, field: u16) -> bool {
        let instances = &self.scenario.system.gpu_instances;
        let gpu = match entity.0 {
            GPU => Some(entity.1),
            INSTANCE => {
                instances.iter().find(|instance| instance.entity_id == entity.1).map(|instance| instance.parent_gpu)
            }
            _ => None,
        };
        gpu.is_some_and(|gpu| self.profiling_fields(gpu).contains(&field))
    }

    /// What the scenario wants a call to fail with.
    pub fn failure(&self, call: &str, entity: Option<Entity>, field: Option<u16>) -> Option<i32> {
        let matching = self.scenario.faults.fail.iter().find(|failure| {
            let of_entity = match (&failure.entity, failure.id) {
                (Some(name), Some(id)) => entity == Some(values::entity(name, id, None, None)),
                _ => true,
            };
            failure.call == call && of_entity && (failure.field.is_none() || failure.field == field)
        });
        matching.map(|failure| failure.code)
    }

    /// Samples every watch that is due: in MANUAL mode when told to, in AUTO mode as if a clock had.
    pub fn update(&mut self) {
        let now = microseconds();
        let mut due: Vec<(Entity, u16, i64, f64, i32)> = Vec::new();
        for watch in &mut self.watches {
            let stamp = if self.manual {
                now
            } else {
                // The engine's own clock ticked at the last whole interval since the watch began.
                let age = watch.since.elapsed().as_micros() as i64;
                now - age % watch.interval
            };
            if watch.last != i64::MIN && stamp - watch.last < watch.interval {
                continue;
            }
            let age = if watch.last == i64::MIN { 0 } else { stamp - watch.last };
            watch.last = stamp;
            let (Some(entities), Some(fields)) =
                (self.groups.get(&watch.group), self.field_groups.get(&watch.field_group))
            else {
                continue;
            };
            // An average over a sliver of the time since the last look says nothing: profiling needs a real interval.
            let too_often = self.manual && age > 20 * watch.interval;
            for &entity in entities {
                for &field in fields {
                    let unusable = too_often && PROFILING.contains(&field);
                    let keep = if unusable { -1 } else { watch.keep_samples };
                    due.push((entity, field, stamp, watch.keep_age, keep));
                }
            }
        }
        for (entity, field, stamp, keep_age, keep_samples) in due {
            self.sample(entity, field, stamp, keep_age, keep_samples);
        }
        self.play_events(now);
    }

    fn sample(&mut self, entity: Entity, field: u16, stamp: i64, keep_age: f64, keep_samples: i32) {
        let faults = &self.scenario.faults;
        let frozen = faults.frozen.iter().any(|name| values::entity(&name.entity, name.id, None, None) == entity);
        if frozen || faults.silent_fields.contains(&field) {
            return;
        }
        let kind = self.fields.get(&field).map_or(b'i', |field| field.kind);
        let answer = if keep_samples < 0 {
            Answer { status: 0, value: Value::Double(0.0), stamp: None }
        } else {
            self.values.answer(entity, field, kind, self.seconds())
        };
        let is_event = field == 230 || self.is_event_field(entity, field);
        // An event field has samples only when something happens.
        if answer.status == NO_DATA && is_event {
            return;
        }
        let sample = Sample { timestamp: answer.stamp.unwrap_or(stamp), status: answer.status, value: answer.value };
        self.latest.insert((entity, field), sample.clone());
        if keep_samples == 0 && !is_event {
            let series = self.history.entry((entity, field)).or_default();
            let oldest = stamp - (keep_age * 1e6) as i64;
            series.push_back(sample);
            while series.front().is_some_and(|sample| sample.timestamp < oldest) {
                series.pop_front();
            }
        }
    }

    fn is_event_field(&self, entity: Entity, field: u16) -> bool {
        self.scenario.samples_since.iter().any(|samples| {
            samples.field_id == field && values::entity(&samples.entity, samples.id, None, None) == entity
        })
    }

    /// Lets the scenario's events happen up to now, for entities and fields that are watched.
    fn play_events(&mut self, now: i64) {
        let elapsed = |watch: &Watch| watch.since.elapsed().as_millis() as u64;
        for index in 0..self.scenario.events.len() {
            let events = &self.scenario.events[index];
            let entity = values::entity(&events.entity, events.id, None, None);
            let watched = self.watches.iter().filter(|watch| {
                self.groups.get(&watch.group).is_some_and(|members| members.contains(&entity))
                    && self.field_groups.get(&watch.field_group).is_some_and(|fields| fields.contains(&events.field_id))
            });
            let Some(age) = watched.map(elapsed).max() else { continue };
            let reached = match age.checked_sub(events.after_ms) {
                Some(age) if events.every_ms > 0 => (age / events.every_ms + 1).min(events.count),
                Some(_) => events.count,
                None => 0,
            };
            let (field, value, every) = (events.field_id, events.value, events.every_ms as i64);
            for number in self.played[index]..reached {
                let since_last = (reached - 1 - number) as i64 * every * 1000;
                let series = self.history.entry((entity, field)).or_default();
                // Several events within a microsecond still are several, in order.
                let after = series.back().map_or(i64::MIN, |sample| sample.timestamp + 1);
                let sample = Sample { timestamp: (now - since_last).max(after), status: 0, value: Value::Int(value) };
                series.push_back(sample.clone());
                self.latest.insert((entity, field), sample);
                while series.len() > 100_000 {
                    series.pop_front();
                }
            }
            self.played[index] = self.played[index].max(reached);
        }
    }

    /// The latest sample of each field of each entity of a group, in order.
    pub fn latest(&mut self, group: usize, field_group: usize) -> Result<Vec<OfEntity>, i32> {
        if !self.manual {
            self.update();
        }
        let (entities, fields) = self.members(group, field_group)?;
        let read = |entity: Entity, field: u16| {
            let kind = self.fields.get(&field).map_or(b'i', |field| field.kind);
            let sample = self.latest.get(&(entity, field)).filter(|_| self.is_watched(entity, field));
            let sample = sample.cloned().unwrap_or_else(|| {
                let status = if self.is_watched(entity, field) { NO_DATA } else { NOT_WATCHED };
                let Answer { status, value, .. } = blank(kind, status);
                Sample { timestamp: 0, status, value }
            });
            (field, kind, sample)
        };
        Ok(entities.iter().map(|&entity| (entity, fields.iter().map(|&field| read(entity, field)).collect())).collect())
    }

    /// The same answers in the name of the entities that own the fields.
    pub fn by_owner(&self, answers: Vec<OfEntity>) -> Vec<OfEntity> {
        let owner = |entity: Entity, field: u16| {
            let level = self.fields.get(&field).map_or(0, |field| field.level);
            let instances = &self.scenario.system.gpu_instances;
            let instance = instances.iter().find(|instance| entity == (INSTANCE, instance.entity_id));
            match (level, instance) {
                (0, _) => (0, 0),
                (1, Some(instance)) if field != 50 && field != 54 => (GPU, instance.parent_gpu),
                _ => entity,
            }
        };
        let mut by_owner = Vec::new();
        for (entity, samples) in answers {
            by_owner.extend(samples.into_iter().map(|sample| (owner(entity, sample.0), vec![sample])));
        }
        by_owner
    }

    /// Samples since a time, and where the next call goes on.
    pub fn since(&mut self, group: usize, field_group: usize, since: i64) -> Result<(i64, Vec<OfEntity>), i32> {
        if !self.manual {
            self.update();
        }
        let (entities, fields) = self.members(group, field_group)?;
        let (mut next, mut answers) = (since, Vec::new());
        for &entity in &entities {
            let mut of_entity = Vec::new();
            for &field in &fields {
                let kind = self.fields.get(&field).map_or(b'i', |field| field.kind);
                let stored = self.stored(entity, field);
                let taken = self.history.get(&(entity, field)).into_iter().flatten().cloned();
                let before = of_entity.len();
                of_entity.extend(
                    stored.chain(taken).filter(|sample| sample.timestamp >= since).map(|sample| (field, kind, sample)),
                );
                next =
                    of_entity[before..].iter().map(|(_, _, sample)| sample.timestamp + 1).max().unwrap_or(0).max(next);
                if of_entity.len() == before {
                    let Answer { status, value, .. } = blank(kind, NO_DATA);
                    of_entity.push((field, kind, Sample { timestamp: 0, status, value }));
                }
            }
            answers.push((entity, of_entity));
        }
        Ok((next, answers))
    }

    /// What the scenario says the engine had stored when it was started.
    fn stored(&self, entity: Entity, field: u16) -> impl Iterator<Item = Sample> + use<> {
        let start = microseconds() - self.started.elapsed().as_micros() as i64;
        let of_this = self.scenario.samples_since.iter().filter(|samples| {
            samples.field_id == field && values::entity(&samples.entity, samples.id, None, None) == entity
        });
        let samples: Vec<Sample> = of_this
            .flat_map(|samples| {
                let value = Value::Int(samples.value.parse().expect("a stored sample is an integer"));
                let timestamp = start - samples.age_ms as i64 * 1000;
                (0..samples.count).map(move |number| Sample {
                    timestamp: timestamp + i64::from(number),
                    status: 0,
                    value: value.clone(),
                })
            })
            .collect();
        samples.into_iter()
    }

    fn members(&self, group: usize, field_group: usize) -> Result<(Vec<Entity>, Vec<u16>), i32> {
        let entities = self.groups.get(&group).ok_or(NOT_CONFIGURED)?;
        let fields = self.field_groups.get(&field_group).ok_or(NOT_CONFIGURED)?;
        if entities.is_empty() {
            return Err(GROUP_IS_EMPTY);
        }
        Ok((entities.clone(), fields.clone()))
    }

    fn is_watched(&self, entity: Entity, field: u16) -> bool {
        self.watches.iter().any(|watch| {
            self.groups.get(&watch.group).is_some_and(|members| members.contains(&entity))
                && self.field_groups.get(&watch.field_group).is_some_and(|fields| fields.contains(&field))
        })
    }

    /// Group, field-group and watch counts.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.groups.len(), self.field_groups.len(), self.watches.len())
    }
}

fn microseconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}
