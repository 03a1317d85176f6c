//! What a field of an entity answers at a moment.

use std::collections::HashMap;
use std::rc::Rc;

use crate::scenario::Scenario;

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Int(i64),
    Double(f64),
    Text(Rc<str>),
    Binary,
}

/// A sample: status, value, and a time stamp of the driver's own where it gives one (microseconds since 1970).
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: i32,
    pub value: Value,
    pub stamp: Option<i64>,
}

pub const NO_DATA: i32 = -14;
const NOT_SUPPORTED: i32 = -6;
const GPU_IS_LOST: i32 = -18;

/// (entity group, entity id).
pub type Entity = (u32, u32);

pub const GPU: u32 = 1;
pub const SWITCH: u32 = 3;
pub const INSTANCE: u32 = 4;
pub const LINK: u32 = 6;
pub const CPU: u32 = 7;
pub const CORE: u32 = 8;
pub const CONNECTX: u32 = 9;

/// `value_type` and `entity_level` of a field, as DCGM's table has them.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    pub kind: u8,
    pub level: i32,
}

static FIELDS: &str = include_str!("../../../src/dcgm/fields.csv");
static BASE_UNITS: &str = include_str!("../../../src/dcgm/base-units.csv");
static RECORDING: &str = include_str!("../h200.csv");

/// Fields that a release has, by id.
pub fn fields(version: &str) -> HashMap<u16, Field> {
    let release = |text: &str| -> Vec<u32> { text.split('.').filter_map(|part| part.parse().ok()).collect() };
    let this = release(version);
    let mut fields = HashMap::new();
    for line in FIELDS.lines().skip(1) {
        let columns: Vec<&str> = line.split(',').collect();
        if columns[2] == "none" || release(columns[4]) > this {
            continue;
        }
        fields.insert(columns[1].parse().unwrap(), Field { kind: kind(columns[2]), level: level(columns[3]) });
    }
    for line in BASE_UNITS.lines().skip(1).filter(|_| this >= vec![4, 7]) {
        let columns: Vec<&str> = line.split(',').collect();
        fields.insert(columns[1].parse().unwrap(), Field { kind: kind(columns[2]), level: level("gpu") });
    }
    fields
}

fn kind(text: &str) -> u8 {
    match text {
        "int64" => b'i',
        "double" => b'd',
        "string" => b's',
        _ => b'b',
    }
}

fn level(text: &str) -> i32 {
    const LEVELS: [&str; 10] = [
        "global",
        "gpu",
        "vgpu",
        "nvswitch",
        "gpu_instance",
        "compute_instance",
        "link",
        "cpu",
        "cpu_core",
        "connectx",
    ];
    LEVELS.iter().position(|known| *known == text).unwrap_or(0) as i32
}

/// A row of the recording: the answers of an idle and of a busy GPU.
struct Recorded {
    status: i32,
    idle: Value,
    busy: Value,
    grows: bool,
}

/// Answers of the simulated node, prepared for look-up.
pub struct Values {
    explicit: HashMap<(Entity, u16), (Value, Option<i64>)>,
    recorded: HashMap<u16, Recorded>,
    profiles: HashMap<u32, (u32, Rc<str>, Rc<str>)>,
    identities: HashMap<(u32, u16), Value>,
    replay: bool,
    lost: Vec<u32>,
}

impl Values {
    pub fn new(scenario: &Scenario) -> Values {
        let mut explicit = HashMap::new();
        for entry in &scenario.latest_values {
            let entity = entity(&entry.entity, entry.id, entry.parent.as_deref(), entry.parent_id);
            for (field, value) in &entry.fields {
                let stamp = value.timestamp.map(|seconds| (seconds * 1e6) as i64);
                explicit.insert((entity, field.parse().unwrap()), (value.value(), stamp));
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
        let profiles = scenario.system.gpu_instances.iter().map(|instance| {
            let uuid = instance
                .uuid
                .clone()
                .unwrap_or_else(|| format!("MIG-51515151-0000-4000-8000-{:012x}", instance.entity_id));
            (instance.entity_id, (instance.parent_gpu, instance.profile.as_str().into(), uuid.into()))
        });
        Values {
            explicit,
            recorded: if scenario.replay { recording() } else { HashMap::new() },
            profiles: profiles.collect(),
            identities,
            replay: scenario.replay,
            lost: scenario.faults.lost_gpus.clone(),
        }
    }

    /// The answer at `seconds` after the start.
    pub fn answer(&self, entity: Entity, field: u16, kind: u8, seconds: f64) -> Answer {
        let gpu = match entity.0 {
            GPU => Some(entity.1),
            INSTANCE => self.profiles.get(&entity.1).map(|(parent, ..)| *parent),
            LINK if entity.1 & 0xff == GPU => Some(entity.1 >> 24),
            _ => None,
        };
        if gpu.is_some_and(|gpu| self.lost.contains(&gpu)) {
            return blank(kind, GPU_IS_LOST);
        }
        if let Some((value, stamp)) = self.explicit.get(&(entity, field)) {
            return Answer { status: 0, value: value.clone(), stamp: *stamp };
        }
        match (entity.0, field, self.profiles.get(&entity.1)) {
            (INSTANCE, 50, Some((_, profile, _))) => return ok(Value::Text(profile.clone())),
            (INSTANCE, 54, Some((_, _, uuid))) => return ok(Value::Text(uuid.clone())),
            _ => {}
        }
        // What every GPU can say of itself; labels of golden cases are only what the case gives.
        if let (GPU, Some(gpu), true) = (entity.0, gpu, self.replay || matches!(field, 52 | 55))
            && let Some(value) = self.identities.get(&(gpu, field))
        {
            return ok(value.clone());
        }
        if !self.replay {
            return blank(kind, NO_DATA);
        }
        match (gpu, self.recorded.get(&field)) {
            (Some(gpu), Some(recorded)) if entity.0 != LINK => replayed(recorded, field, kind, gpu, seconds),
            (None, Some(recorded)) if field < 50 => replayed(recorded, field, kind, 0, seconds),
            _ => synthetic(entity, field, kind, seconds),
        }
    }
}

fn ok(value: Value) -> Answer {
    Answer { status: 0, value, stamp: None }
}

pub fn blank(kind: u8, status: i32) -> Answer {
    let sub_code = if status == NOT_SUPPORTED { 2 } else { 0 };
    let value = match kind {
        b'i' => Value::Int(0x7fff_ffff_ffff_fff0 + sub_code),
        b'd' => Value::Double(140_737_488_355_328.0 + sub_code as f64),
        b's' => Value::Text(if sub_code == 2 { "<<<NOT_SUPPORTED>>>" } else { "<<<NULL>>>" }.into()),
        _ => Value::Binary,
    };
    Answer { status, value, stamp: None }
}

fn recording() -> HashMap<u16, Recorded> {
    let mut rows = HashMap::new();
    let mut reader = csv::Reader::from_reader(RECORDING.as_bytes());
    for record in reader.records().map(|record| record.expect("the recording is CSV")) {
        let value = |text: &str| match &record[2] {
            "i" => text.parse().ok().map(Value::Int),
            "d" => text.parse().ok().map(Value::Double),
            "s" => Some(Value::Text(text.into())),
            _ => Some(Value::Binary),
        };
        let (Some(idle), Ok(status)) = (value(&record[4]).or_else(|| value("0")), record[3].parse()) else { continue };
        // A field that was not recorded under load stays as it was idle, but for shares, which then follow the load.
        let busy = value(&record[6]).unwrap_or_else(|| match &idle {
            Value::Double(_) => Value::Double(0.5),
            other => other.clone(),
        });
        let grows =
            ["TOTAL", "COUNT", "CONSUMPTION", "VIOLATION", "REPLAY", "_NS"].iter().any(|part| record[1].contains(part));
        rows.insert(record[0].parse().unwrap(), Recorded { status, idle, busy, grows });
    }
    rows
}

/// 0 is idle, 1 is busy: a minute's wave, out of step from GPU to GPU.
fn load(gpu: u32, seconds: f64) -> f64 {
    0.5 - 0.5 * (std::f64::consts::TAU * (seconds / 60.0 + f64::from(gpu) / 8.0)).cos()
}

fn replayed(recorded: &Recorded, field: u16, kind: u8, gpu: u32, seconds: f64) -> Answer {
    const ENERGY_MILLIJOULES: u16 = 156;
    const POWER_WATTS: (f64, f64) = (78.0, 690.0);
    if recorded.status != 0 {
        return blank(kind, recorded.status);
    }
    let load = load(gpu, seconds);
    let value = match (&recorded.idle, &recorded.busy) {
        (Value::Int(idle), Value::Int(_)) if field == ENERGY_MILLIJOULES => {
            let watts = (POWER_WATTS.0 + POWER_WATTS.1) / 2.0;
            Value::Int(idle + i64::from(gpu) * 1_000_000 + (watts * seconds * 1000.0) as i64)
        }
        (Value::Int(idle), Value::Int(busy)) if recorded.grows && busy > idle => {
            Value::Int(idle + ((busy - idle) as f64 * seconds / 60.0) as i64)
        }
        (Value::Int(idle), Value::Int(busy)) if *idle > i64::MAX - 32 || *busy > i64::MAX - 32 => Value::Int(*idle),
        (Value::Int(idle), Value::Int(busy)) => Value::Int(idle + ((busy - idle) as f64 * load).round() as i64),
        (Value::Double(idle), Value::Double(busy)) if *idle > 1e14 || *busy > 1e14 => Value::Double(*idle),
        (Value::Double(idle), Value::Double(busy)) => Value::Double(idle + (busy - idle) * load),
        (other, _) => other.clone(),
    };
    ok(value)
}

/// Switches, links, CPUs, cores and ConnectX were not recorded: plain numbers that grow, or a share.
fn synthetic(entity: Entity, field: u16, kind: u8, seconds: f64) -> Answer {
    let known = matches!(
        (entity.0, field),
        (SWITCH, 701 | 705 | 780 | 781 | 858 | 856)
            | (LINK, 400..=500 | 580..=640 | 780 | 781 | 1200..=1299 | 1500..=1599)
            | (CPU, 1100..=1104 | 1130 | 1131 | 1140)
            | (CORE, 1100..=1104)
            | (CONNECTX, 1300..=1312)
    );
    match (known, kind) {
        (true, b'i') => ok(Value::Int((seconds * 1000.0) as i64 + i64::from(entity.1 & 0xffff))),
        (true, b'd') => ok(Value::Double(load(entity.1, seconds))),
        (true, b's') => ok(Value::Text("simulated".into())),
        _ => blank(kind, NO_DATA),
    }
}

/// An entity by the names that scenarios use. Links are packed as DCGM packs them.
pub fn entity(name: &str, id: u32, parent: Option<&str>, parent_id: Option<u32>) -> Entity {
    match name {
        "GPU" => (GPU, id),
        "GPU_I" => (INSTANCE, id),
        "SWITCH" => (SWITCH, id),
        "CPU" => (CPU, id),
        "CPU_CORE" => (CORE, id),
        "CONNECTX" => (CONNECTX, id),
        "LINK" => {
            let kind = if parent == Some("GPU") { GPU } else { SWITCH };
            (LINK, kind | id << 8 | parent_id.unwrap_or(0) << 24)
        }
        other => panic!("no entity is called '{other}'"),
    }
}
