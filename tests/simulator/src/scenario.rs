//! The scenario file: what the simulated node consists of, what its fields answer, and what goes wrong.
//!
//! A JSON object; every key may be left out; `README.md` lists them. `system`, `latest_values`, `samples_since`, `health_incidents`,
//! `p2p_matrix` and `supported_profiling_fields` have the form of the golden cases, so that a case's `input.json` is a
//! scenario. The file is read again when it changes, so a test plays faults by replacing it (write aside, rename).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Deserialize;

use crate::values::Value;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Scenario {
    /// Release to play; decides struct layouts, limits and which fields exist. Default 4.6.0.
    pub version: Option<String>,
    /// Release of the host engine that is connected to, where it is not that of the library.
    pub engine_version: Option<String>,
    /// Answer what `latest_values` does not give from a recording, moving with a load.
    pub replay: bool,
    /// Which recording `replay` plays.
    pub recording: Recording,
    /// What serves switches, their links and ConnectX.
    pub switch_module: SwitchModule,
    /// Groups and field groups that other clients hold.
    pub taken_groups: usize,
    pub taken_field_groups: usize,
    pub system: System,
    /// Absent: everything the recording's GPU has.
    pub supported_profiling_fields: Option<Vec<u16>>,
    /// Other support on single GPUs, by id.
    pub profiling_by_gpu: HashMap<u32, Vec<u16>>,
    pub latest_values: Vec<EntityValues>,
    pub samples_since: Vec<Samples>,
    pub events: Vec<Events>,
    /// XIDs that were in the kernel log before the process started.
    pub kernel_log: Vec<Logged>,
    pub health_incidents: Vec<Incident>,
    pub p2p_matrix: Vec<Vec<u32>>,
    /// Fields that links of GPUs do not have, where `latest_values` gives nothing: the driver's read fails.
    pub unsupported_by_links: Vec<u16>,
    /// What a call of the driver for a field of an entity costs, in microseconds of the processor's time.
    pub call_us: HashMap<u16, u64>,
    pub faults: Faults,
    /// Answers to the deny list that holds this module: -1, as a library does that does not know it.
    pub unknown_module: Option<u32>,
    /// Modules that whoever started the engine has denied.
    #[serde(default)]
    pub denied_modules: Vec<u32>,
    /// Bytes of the message that libdcgm allocates for every read (4 MiB); none by default, because benches measure us.
    pub message_bytes: usize,
    /// How long stopping an embedded engine takes.
    pub stop_ms: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recording {
    /// A real H200; what it does not have (links, switches, CPUs) answers plausible numbers.
    #[default]
    H200,
    /// The answer of the real library to each field on each kind of entity, see `answers.rs`.
    Answers,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SwitchModule {
    /// HGX H100 and H200: fields that a switch does not support are blank.
    #[default]
    Nscq,
    /// Blackwell: a field that a switch does not support ends the module's update.
    Nvsdm,
}

impl Scenario {
    pub fn has_nvsdm(&self) -> bool {
        self.switch_module == SwitchModule::Nvsdm
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct System {
    pub gpus: Vec<Gpu>,
    pub gpu_instances: Vec<Instance>,
    /// Absent: one for each instance, with its id.
    pub compute_instances: Option<Vec<ComputeInstance>>,
    pub switches: Vec<u32>,
    pub links: Vec<Links>,
    pub cpus: Vec<Cpu>,
    pub connectx: Vec<u32>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Gpu {
    pub id: u32,
    pub uuid: String,
    pub model: String,
    pub pci_bus_id: String,
    #[serde(default)]
    pub minor: Option<u32>,
}

#[derive(Debug, Deserialize)]
pub struct Instance {
    pub parent_gpu: u32,
    pub entity_id: u32,
    pub nvml_gpu_instance_id: u32,
    pub profile: String,
    #[serde(default)]
    pub uuid: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct ComputeInstance {
    pub id: u32,
    /// The entity id of its GPU instance.
    pub instance: u32,
}

impl System {
    pub fn compute_instances(&self) -> Vec<ComputeInstance> {
        let one_each =
            || self.gpu_instances.iter().map(|it| ComputeInstance { id: it.entity_id, instance: it.entity_id });
        self.compute_instances.clone().unwrap_or_else(|| one_each().collect())
    }
}

#[derive(Debug, Deserialize)]
pub struct Links {
    pub parent: String,
    pub parent_id: u32,
    pub states: Vec<u32>,
}

#[derive(Debug, Deserialize)]
pub struct Cpu {
    pub id: u32,
    pub cores: Vec<u32>,
    #[serde(default)]
    pub serial: String,
}

#[derive(Debug, Deserialize)]
pub struct EntityValues {
    pub entity: String,
    pub id: u32,
    pub parent: Option<String>,
    pub parent_id: Option<u32>,
    pub fields: HashMap<String, TypedValue>,
}

#[derive(Debug, Deserialize)]
pub struct TypedValue {
    #[serde(rename = "type")]
    pub kind: String,
    pub value: String,
    /// Seconds since 1970 that the driver gives as time stamp, where it does not give now.
    #[serde(default)]
    pub timestamp: Option<f64>,
    /// An int64 is this much more for each second since 1970.
    #[serde(default)]
    pub per_second: Option<i64>,
}

/// Samples that the engine has stored already.
#[derive(Debug, Deserialize)]
pub struct Samples {
    pub entity: String,
    pub id: u32,
    pub field_id: u16,
    pub value: String,
    pub count: u32,
    pub age_ms: u64,
}

/// Events that happen while the engine runs: the first `after_ms` after the watch began, then every `every_ms`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Events {
    pub entity: String,
    pub id: u32,
    pub field_id: u16,
    pub value: i64,
    pub count: u64,
    #[serde(default)]
    pub after_ms: u64,
    pub every_ms: u64,
    /// Who tells DCGM.
    #[serde(default)]
    pub from: Origin,
    /// From the kernel log: how long after it happened DCGM stores it.
    #[serde(default)]
    pub late_ms: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Fetched once a second, stamped when fetched, stored under the entity that the event names.
    #[default]
    Nvml,
    /// A few codes only, with the kernel's time, stored under the GPU.
    KernelLog,
}

/// An XID in the kernel log, `age_ms` before the process started.
#[derive(Debug, Clone, Deserialize)]
pub struct Logged {
    pub gpu: u32,
    pub code: i64,
    pub age_ms: u64,
}

/// A health incident: seen from `after_ms` after the health watch was set on, for `for_ms` or ever.
#[derive(Debug, Deserialize)]
pub struct Incident {
    #[serde(default)]
    pub after_ms: u64,
    #[serde(default)]
    pub for_ms: Option<u64>,
    pub gpu: u32,
    pub system: u32,
    pub health: i32,
    pub error_code: i32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Faults {
    /// Calls that do not return for this long, by C name. They return early when the scenario changes.
    pub hang_ms: HashMap<String, u64>,
    pub fail: Vec<Failure>,
    /// GPUs that have fallen off the bus.
    pub lost_gpus: Vec<u32>,
    /// GPUs that were lost before the engine started: their static data answer, all else is blank, and their status is OK.
    pub lost_before_start: Vec<u32>,
    /// GPUs that do not even answer static data: no engine starts.
    pub unreadable_gpus: Vec<u32>,
    /// GPUs that are unbound from the driver.
    pub unbound_gpus: Vec<u32>,
    /// Entities whose fields are not sampled any more: their last values and time stamps stay.
    pub frozen: Vec<EntityName>,
    /// Fields that are not sampled any more until they are unwatched and watched.
    pub silent_fields: Vec<u16>,
    /// A profiler such as Nsight Compute runs on the node.
    pub profiler: bool,
}

#[derive(Debug, Deserialize)]
pub struct EntityName {
    pub entity: String,
    pub id: u32,
}

/// A call that answers `code`; where entity, id or field are given, only if it concerns them.
#[derive(Debug, Deserialize)]
pub struct Failure {
    pub call: String,
    pub code: i32,
    pub entity: Option<String>,
    pub id: Option<u32>,
    pub field: Option<u16>,
    /// Only where more entities than this are read at once.
    pub of_more_than: Option<usize>,
}

/// The file behind a scenario, and when it was read.
pub struct Source {
    path: Option<PathBuf>,
    read: Option<(SystemTime, u64)>,
}

impl Source {
    pub fn new(path: Option<PathBuf>) -> Source {
        Source { path, read: None }
    }

    /// The scenario, if the file has changed since it was last asked for; the built-in one where there is no file.
    pub fn changed(&mut self) -> Option<Scenario> {
        use std::os::unix::fs::MetadataExt;
        let Some(path) = &self.path else {
            return self.read.replace((SystemTime::UNIX_EPOCH, 0)).is_none().then(built_in);
        };
        let metadata = std::fs::metadata(path).ok()?;
        let stamp = (metadata.modified().ok()?, metadata.ino());
        if self.read == Some(stamp) {
            return None;
        }
        self.read = Some(stamp);
        Some(read(path))
    }
}

/// A wrong scenario is a mistake of the test, which should hear of it at once.
fn read(path: &Path) -> Scenario {
    let text = std::fs::read(path).unwrap_or_else(|error| fatal(path, &error.to_string()));
    serde_json::from_slice(&text).unwrap_or_else(|error| fatal(path, &error.to_string()))
}

fn fatal(path: &Path, error: &str) -> ! {
    eprintln!("dcgm-simulator: scenario {}: {error}", path.display());
    std::process::abort()
}

/// A node of eight H200 under a load that comes and goes.
fn built_in() -> Scenario {
    let bus = [0x1b, 0x43, 0x52, 0x61, 0x9d, 0xc3, 0xd1, 0xdf];
    let gpus = bus.iter().enumerate().map(|(id, bus)| Gpu {
        id: id as u32,
        uuid: format!("GPU-51515151-0000-4000-8000-{id:012x}"),
        model: "NVIDIA H200 (simulated)".to_owned(),
        pci_bus_id: format!("00000000:{bus:02X}:00.0"),
        minor: None,
    });
    Scenario { replay: true, system: System { gpus: gpus.collect(), ..System::default() }, ..Scenario::default() }
}

impl TypedValue {
    pub fn value(&self) -> Value {
        match self.kind.as_str() {
            "int64" => Value::Int(self.value.parse().unwrap_or_else(|_| panic!("'{}' is no int64", self.value))),
            "double" => Value::Double(match self.value.as_str() {
                "Inf" | "+Inf" => f64::INFINITY,
                "-Inf" => f64::NEG_INFINITY,
                other => other.parse().unwrap_or_else(|_| panic!("'{other}' is no double")),
            }),
            "string" => Value::Text(self.value.as_str().into()),
            _ => Value::Binary,
        }
    }
}
