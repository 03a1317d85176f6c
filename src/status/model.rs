//! What the page shows, as plain data.

use std::time::{Duration, Instant, SystemTime};

use super::history::History;

/// Everything, as of one collection.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    pub node: String,
    /// When the samples were collected; `None` if there are none.
    pub taken: Option<Instant>,
    pub time: Option<SystemTime>,
    /// Time between two collections.
    pub interval: Duration,
    /// Versions, engine and the like: name and value.
    pub facts: Vec<(&'static str, String)>,
    pub gpus: Vec<Gpu>,
    /// NVLinks, switches, CPUs: a line each.
    pub others: Vec<Group>,
    pub problems: Vec<Problem>,
    /// Rows of the counters file that have no samples here: name and reason.
    pub skipped: Vec<(String, String)>,
    /// Whether there is a job map.
    pub has_jobs: bool,
    /// The file with the rows.
    pub counters_file: String,
}

impl Snapshot {
    /// What is published where a bug kept the data from being made.
    pub fn not_made() -> Snapshot {
        let what = "the data of this page could not be made, which is a bug; /metrics has the samples".to_owned();
        let fix = "please report the line with \"panicked\" in: journalctl -u dcgm-exporter".to_owned();
        Snapshot { problems: vec![Problem { what, fix }], ..Snapshot::default() }
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Group {
    pub title: &'static str,
    /// Name of the thing, and what is known of it.
    pub lines: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub what: String,
    pub fix: String,
}

/// A number, or why there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Measure {
    Value(f64),
    /// The counters file has a row for it, but there is no sample.
    NoSample,
    /// No row of the counters file asks for it.
    #[default]
    NotAsked,
}

impl Measure {
    pub fn value(self) -> Option<f64> {
        match self {
            Measure::Value(value) => Some(value),
            Measure::NoSample | Measure::NotAsked => None,
        }
    }

    /// The first that has a value, or the better reason why there is none.
    pub fn or(self, other: Measure) -> Measure {
        match (self, other) {
            (Measure::Value(_), _) | (Measure::NoSample, Measure::NotAsked) => self,
            _ => other,
        }
    }

    pub fn map(self, change: impl FnOnce(f64) -> f64) -> Measure {
        match self {
            Measure::Value(value) => Measure::Value(change(value)),
            other => other,
        }
    }
}

/// A GPU or a GPU instance.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gpu {
    pub name: String,
    pub uuid: String,
    pub pci_bus_id: String,
    pub model: String,
    /// Of an instance.
    pub profile: String,
    pub answers: bool,
    /// In percent.
    pub utilisation: Measure,
    /// In MiB.
    pub memory: Measure,
    pub memory_total: Measure,
    /// In watts.
    pub power: Measure,
    pub power_limit: Measure,
    /// In degrees Celsius.
    pub temperature: Measure,
    pub slowdown: Measure,
    pub memory_temperature: Measure,
    /// Bits of DCGM's field 112.
    pub clock_events: Measure,
    /// Code of the last XID error; 0 for none.
    pub xid: Measure,
    pub xid_text: &'static str,
    /// XID errors since the exporter started, if they are counted.
    pub xid_events: Option<u64>,
    pub jobs: Jobs,
    pub history: History,
}

/// The jobs that have a GPU.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Jobs {
    /// There is no job map.
    #[default]
    Unknown,
    /// How many, where their names are left out.
    Count(usize),
    Named(Vec<Job>),
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Job {
    pub id: String,
    pub user: String,
}

/// Reasons for which clocks are held down, with what they are called here; the first ones are no problem.
const REASONS: [(i64, &str, bool); 9] = [
    (0x1, "idle", false),
    (0x2, "clocks setting", false),
    (0x100, "display clocks", false),
    (0x10, "sync boost", false),
    (0x4, "power cap", false),
    (0x8, "hardware slowdown", true),
    (0x20, "software thermal", true),
    (0x40, "hardware thermal", true),
    (0x80, "power brake", true),
];

/// Temperature holds clocks down.
pub const THERMAL: i64 = 0x20 | 0x40;
/// The power supply asks for less.
pub const POWER_BRAKE: i64 = 0x80;

impl Gpu {
    /// Why its clocks are held down; idleness is no reason to show.
    pub fn throttled(&self) -> Option<Vec<&'static str>> {
        let bits = self.clock_events.value()? as i64;
        Some(REASONS.iter().filter(|(bit, ..)| bits & bit != 0 && *bit != 1).map(|(_, name, _)| *name).collect())
    }

    /// Whether what holds its clocks down is a fault.
    pub fn is_throttled_by_fault(&self) -> bool {
        let bits = self.clock_events.value().map_or(0, |bits| bits as i64);
        REASONS.iter().any(|(bit, _, is_fault)| *is_fault && bits & bit != 0)
    }

    pub fn is_hot(&self) -> bool {
        matches!((self.temperature.value(), self.slowdown.value()), (Some(now), Some(limit)) if limit > 0.0 && now >= limit)
    }

    pub fn xid_code(&self) -> Option<i64> {
        self.xid.value().map(|code| code as i64).filter(|code| *code != 0)
    }
}

/// What the page can show, and the row of the counters file that it is shown for.
type Wish = (&'static str, &'static str, fn(&Gpu) -> Measure);

const WISHES: [Wish; 9] = [
    ("utilisation", "DCGM_FI_DEV_GPU_UTIL", |gpu| gpu.utilisation),
    ("memory in use", "DCGM_FI_DEV_FB_USED", |gpu| gpu.memory),
    ("memory in all", "DCGM_FI_DEV_FB_FREE", |gpu| gpu.memory_total),
    ("power", "DCGM_FI_DEV_POWER_USAGE", |gpu| gpu.power),
    ("power limit", "DCGM_FI_DEV_POWER_MGMT_LIMIT", |gpu| gpu.power_limit),
    ("temperature", "DCGM_FI_DEV_GPU_TEMP", |gpu| gpu.temperature),
    ("slowdown temperature", "DCGM_FI_DEV_SLOWDOWN_TEMP", |gpu| gpu.slowdown),
    ("throttling", "DCGM_FI_DEV_CLOCKS_EVENT_REASONS", |gpu| gpu.clock_events),
    ("XID errors", "DCGM_FI_DEV_XID_ERRORS", |gpu| gpu.xid),
];

impl Snapshot {
    /// What no GPU shows because the counters file has no row for it: what it is, and the row.
    pub fn wishes(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let is_missing =
            |of: fn(&Gpu) -> Measure| !self.gpus.is_empty() && self.gpus.iter().all(|gpu| of(gpu) == Measure::NotAsked);
        WISHES.into_iter().filter(move |(_, _, of)| is_missing(*of)).map(|(what, row, _)| (what, row))
    }
}
