//! What a field of an entity answers at a moment: what the scenario gives, else what was recorded.

use std::collections::HashMap;
use std::rc::Rc;

use crate::answers::{Class, Kind, Table};
use crate::clock;
use crate::codes::*;
use crate::links::{self, Link};
use crate::recording::{self, Recorded, load, replayed};
use crate::scenario::{Recording, Scenario};

/// What an engine reads of a GPU once, when it starts: name, UUID, bus and the like.
const STATIC: std::ops::RangeInclusive<u16> = 50..=63;

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Int(i64),
    Double(f64),
    Text(Rc<str>),
    Binary,
}

/// Status, type and value, and a time stamp of the driver's own where it gives one (microseconds since 1970).
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: i32,
    pub kind: u8,
    pub value: Value,
    pub stamp: Option<i64>,
}

#[derive(Debug, PartialEq)]
pub struct Slice {
    gpu: u32,
    nvml_instance: u32,
    profile: Rc<str>,
    uuid: Rc<str>,
}

/// Answers of the simulated node, prepared for look-up.
pub struct Values {
    release: Release,
    explicit: HashMap<(Entity, u16), (Value, Option<i64>)>,
    /// How much more those that are counters are for each second since 1970.
    rates: HashMap<(Entity, u16), i64>,
    recorded: HashMap<u16, Recorded>,
    table: Rc<Table>,
    /// GPU instances and compute instances.
    slices: HashMap<Entity, Slice>,
    identities: HashMap<(u32, u16), Value>,
    links: HashMap<(u32, u32), u32>,
    unsupported_by_links: Vec<u16>,
    replay: bool,
    lost: Vec<u32>,
    lost_before_start: Vec<u32>,
    nvsdm: bool,
}

impl Values {
    pub fn new(scenario: &Scenario, release: Release, table: Rc<Table>) -> Values {
        let (mut explicit, mut rates) = (HashMap::new(), HashMap::new());
        for entry in &scenario.latest_values {
            let entity = entity(release, &entry.entity, entry.id, entry.parent.as_deref(), entry.parent_id);
            for (field, value) in &entry.fields {
                let stamp = value.timestamp.map(|seconds| (seconds * 1e6) as i64);
                let pair = (entity, field.parse().unwrap());
                rates.extend(value.per_second.map(|rate| (pair, rate)));
                explicit.insert(pair, (value.value(), stamp));
            }
        }
        let mut identities = HashMap::new();
        for (index, gpu) in scenario.system.gpus.iter().enumerate() {
            let text = |text: &str| Value::Text(text.into());
            identities.insert((gpu.id, 50), text(&gpu.model));
            identities.insert((gpu.id, 52), Value::Int(index as i64));
            identities.insert((gpu.id, 53), text(&format!("165{:010}", gpu.id)));
            identities.insert((gpu.id, 54), text(&gpu.uuid));
            identities.insert((gpu.id, 55), Value::Int(i64::from(gpu.minor.unwrap_or(gpu.id))));
            identities.insert((gpu.id, 57), text(&gpu.pci_bus_id));
        }
        let mut slices = HashMap::new();
        for instance in &scenario.system.gpu_instances {
            let slice = || {
                let made_up = || format!("MIG-51515151-0000-4000-8000-{:012x}", instance.entity_id);
                let uuid = instance.uuid.clone().unwrap_or_else(made_up).into();
                Slice {
                    gpu: instance.parent_gpu,
                    nvml_instance: instance.nvml_gpu_instance_id,
                    profile: instance.profile.as_str().into(),
                    uuid,
                }
            };
            slices.insert((INSTANCE, instance.entity_id), slice());
            for compute in scenario.system.compute_instances().iter().filter(|it| it.instance == instance.entity_id) {
                slices.insert((COMPUTE_INSTANCE, compute.id), slice());
            }
        }
        let links = scenario.system.links.iter().map(|links| {
            let kind = if links.parent == "GPU" { GPU } else { SWITCH };
            ((kind, links.parent_id), links.states.len() as u32)
        });
        let of_h200 = scenario.replay && scenario.recording == Recording::H200;
        Values {
            release,
            explicit,
            rates,
            recorded: if of_h200 { recording::read() } else { HashMap::new() },
            table,
            slices,
            identities,
            links: links.collect(),
            unsupported_by_links: scenario.unsupported_by_links.clone(),
            replay: scenario.replay,
            lost: scenario.faults.lost_gpus.clone(),
            lost_before_start: scenario.faults.lost_before_start.clone(),
            nvsdm: scenario.has_nvsdm(),
        }
    }

    /// The GPU that an entity is, or is a part of.
    pub fn gpu(&self, entity: Entity) -> Option<u32> {
        match entity.0 {
            GPU => Some(entity.1),
            INSTANCE | COMPUTE_INSTANCE => self.slices.get(&entity).map(|slice| slice.gpu),
            LINK => links::gpu(self.release, entity.1),
            _ => None,
        }
    }

    pub fn slice(&self, entity: Entity) -> Option<&Slice> {
        self.slices.get(&entity)
    }

    pub fn kind(&self, entity: Entity) -> Option<Kind> {
        match entity.0 {
            GPU if self.slices.values().any(|slice| slice.gpu == entity.1) => Some(Kind::SlicedGpu),
            GPU => Some(Kind::Gpu),
            INSTANCE => Some(Kind::Instance),
            COMPUTE_INSTANCE => Some(Kind::ComputeInstance),
            LINK if links::gpu(self.release, entity.1).is_some() => Some(Kind::GpuLink),
            LINK => Some(Kind::SwitchLink),
            group => Kind::of_group(group),
        }
    }

    /// Whether a field of a GPU's link speaks of a link that the GPU has.
    pub fn has_link(&self, entity: Entity, field: u16) -> bool {
        let link = links::unpack(self.release, entity.1);
        let last = self.links.get(&(GPU, link.parent)).copied().unwrap_or(0);
        links::spoken_of(self.release, field, link.index).is_some_and(|index| index < last)
    }

    /// Whether the driver has lost the GPU that an entity is, or is a part of, whenever that was.
    pub fn is_lost(&self, entity: Entity) -> bool {
        self.gpu(entity).is_some_and(|gpu| self.lost.contains(&gpu) || self.lost_before_start.contains(&gpu))
    }

    /// Whether the scenario gives a value.
    pub fn is_given(&self, entity: Entity, field: u16) -> bool {
        self.explicit.contains_key(&(entity, field))
    }

    /// The code that a watch of this pair gets from the real library.
    pub fn watch_code(&self, entity: Entity, field: u16) -> i32 {
        let cell = self.kind(entity).and_then(|kind| self.table.cell(field, kind));
        cell.map_or(0, |cell| cell.watch)
    }

    /// The answer at `seconds` after the start. -14 is no sample at all.
    pub fn answer(&self, entity: Entity, field: u16, kind: u8, seconds: f64) -> Answer {
        let gpu = self.gpu(entity);
        if gpu.is_some_and(|gpu| self.lost.contains(&gpu)) {
            return blank(kind, GPU_IS_LOST);
        }
        if !STATIC.contains(&field) && gpu.is_some_and(|gpu| self.lost_before_start.contains(&gpu)) {
            return blank(kind, if field == FIELD_XID { NO_DATA } else { 0 });
        }
        if let Some((value, stamp)) = self.explicit.get(&(entity, field)) {
            let value = match (value, self.rates.get(&(entity, field))) {
                (Value::Int(value), Some(rate)) => {
                    let counted = i128::from(clock::microseconds()) * i128::from(*rate) / 1_000_000;
                    Value::Int(value + counted as i64)
                }
                _ => value.clone(),
            };
            return Answer { stamp: *stamp, ..ok(kind, value) };
        }
        match (field, self.slices.get(&entity)) {
            (50, Some(slice)) => return ok(kind, Value::Text(slice.profile.clone())),
            (54, Some(slice)) => return ok(kind, Value::Text(slice.uuid.clone())),
            _ => {}
        }
        // What every GPU can say of itself; labels of golden cases are only what the case gives.
        if let (GPU, true) = (entity.0, self.replay || matches!(field, 52 | 55))
            && let Some(value) = self.identities.get(&(entity.1, field))
        {
            return ok(kind, value.clone());
        }
        if let (LINK, Some(gpu)) = (entity.0, gpu)
            && let Some(answer) = self.of_gpu_link(entity, gpu, field, kind)
        {
            return answer;
        }
        if !self.recorded.is_empty() {
            match (gpu, self.recorded.get(&field)) {
                (Some(gpu), Some(recorded)) if entity.0 != LINK => {
                    return replayed(recorded, field, kind, gpu, seconds);
                }
                (None, Some(recorded)) if field < 50 => return replayed(recorded, field, kind, 0, seconds),
                _ => {}
            }
            if let Some(answer) = self.synthetic(entity, field, kind, seconds) {
                return answer;
            }
        }
        self.recorded_answer(entity, field, kind, seconds)
    }

    /// Links past the last, and those with values of their own.
    fn of_gpu_link(&self, entity: Entity, gpu: u32, field: u16, kind: u8) -> Option<Answer> {
        if !links::has_field(field) {
            return None;
        }
        let index = links::unpack(self.release, entity.1).index;
        let last = self.links.get(&(GPU, gpu)).copied().unwrap_or(0);
        match links::spoken_of(self.release, field, index) {
            // Port 0 is none.
            None => Some(blank_as(kind, 0, 2)),
            Some(link) if link >= last => Some(blank(kind, 0)),
            Some(_) if self.unsupported_by_links.contains(&field) => match links::is_register(field) {
                true => Some(blank(kind, NO_DATA)),
                false => Some(blank_as(kind, 0, 2)),
            },
            Some(link) if !self.recorded.is_empty() => Some(ok(kind, links::value(kind, gpu, link, field))),
            Some(_) => None,
        }
    }

    /// Switches, links of switches, CPUs, cores and ConnectX: plain numbers that grow, or a share.
    fn synthetic(&self, entity: Entity, field: u16, kind: u8, seconds: f64) -> Option<Answer> {
        let known = match entity.0 {
            SWITCH => {
                matches!(field, 701 | 705 | 780 | 781 | 784 | 785 | 858 | 865 | 870..=877)
                    || field == 856 && !self.nvsdm
            }
            LINK => matches!(field, 580..=592 | 780 | 781 | 784 | 785 | 865 | 870 | 872..=875 | 1200..=1299),
            CPU => matches!(field, 1100..=1104 | 1130..=1132 | 1140),
            CORE => matches!(field, 1100..=1104),
            CONNECTX => matches!(field, 865 | 870..=877 | 1300..=1312),
            _ => false,
        };
        known.then(|| ok(kind, made_up(entity, field, kind, seconds)))
    }

    fn recorded_answer(&self, entity: Entity, field: u16, kind: u8, seconds: f64) -> Answer {
        let Some(entity_kind) = self.kind(entity) else { return blank(kind, NO_DATA) };
        let of_switches = matches!(entity_kind, Kind::Switch | Kind::SwitchLink | Kind::ConnectX);
        // NSCQ has a blank for what a switch does not support; NVSDM has no sample.
        let cell = self.table.cell(field, entity_kind);
        let is_lenient = of_switches && !self.nvsdm && crate::modules::is_switch_field(field);
        if is_lenient && cell.is_none_or(|cell| cell.status != 0) {
            return blank(kind, 0);
        }
        let Some(cell) = cell else { return blank(kind, NO_DATA) };
        let kind = if cell.kind == 0 || cell.status != 0 { kind } else { cell.kind };
        if cell.status != 0 {
            return blank(kind, cell.status);
        }
        match cell.class {
            Some(Class::Value) if self.replay => ok(kind, made_up(entity, field, kind, seconds)),
            Some(Class::Blank) => blank_as(kind, 0, 0),
            Some(Class::NotFound) => blank_as(kind, 0, 1),
            Some(Class::NotSupported) => blank_as(kind, 0, 2),
            Some(Class::Value) | None => blank(kind, NO_DATA),
        }
    }
}

fn made_up(entity: Entity, field: u16, kind: u8, seconds: f64) -> Value {
    match kind {
        // Temperatures and percents.
        b'i' if matches!(field, 140 | 150..=153 | 158 | 159 | 191 | 203..=207 | 858..=860) => {
            Value::Int(40 + (seconds as i64 + i64::from(entity.1)) % 8)
        }
        b'i' => Value::Int((seconds * 1000.0) as i64 + i64::from(entity.1 & 0xffff)),
        b'd' => Value::Double(load(entity.1, seconds)),
        b's' => Value::Text("simulated".into()),
        _ => Value::Binary,
    }
}

pub fn ok(kind: u8, value: Value) -> Answer {
    Answer { status: 0, kind, value, stamp: None }
}

/// The blank that goes with a status.
pub fn blank(kind: u8, status: i32) -> Answer {
    blank_as(kind, status, if status == NOT_SUPPORTED { 2 } else { 0 })
}

/// A blank: plain (0), not found (1) or not supported (2).
fn blank_as(kind: u8, status: i32, sort: u8) -> Answer {
    let value = match kind {
        b'i' => Value::Int(0x7fff_ffff_ffff_fff0 + i64::from(sort)),
        b'd' => Value::Double(140_737_488_355_328.0 + f64::from(sort)),
        b's' => Value::Text(["<<<NULL>>>", "<<<NOT_FOUND>>>", "<<<NOT_SUPPORTED>>>"][usize::from(sort)].into()),
        _ => Value::Binary,
    };
    Answer { status, kind, value, stamp: None }
}

/// An entity by the names that scenarios use. Links are packed as the release packs them.
pub fn entity(release: Release, name: &str, id: u32, parent: Option<&str>, parent_id: Option<u32>) -> Entity {
    match name {
        "GPU" => (GPU, id),
        "GPU_I" => (INSTANCE, id),
        "GPU_CI" => (COMPUTE_INSTANCE, id),
        "SWITCH" => (SWITCH, id),
        "CPU" => (CPU, id),
        "CPU_CORE" => (CORE, id),
        "CONNECTX" => (CONNECTX, id),
        "LINK" => {
            let parent_kind = if parent == Some("GPU") { GPU } else { SWITCH };
            links::pack(release, Link { parent_kind, index: id, parent: parent_id.unwrap_or(0) })
        }
        other => panic!("no entity is called '{other}'"),
    }
}
