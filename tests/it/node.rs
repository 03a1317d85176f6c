//! A node under test: a scenario that can be changed, the exporter that runs on it, and what its pages say.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::*;

pub struct Node {
    pub scratch: Scratch,
    /// What the engine plays from the next [`Node::play`] on.
    pub plan: Value,
}

impl Node {
    pub fn new(plan: Value) -> Node {
        let node = Node { scratch: Scratch::new(), plan };
        node.play();
        node
    }

    pub fn play(&self) -> PathBuf {
        self.scratch.write("scenario.json", self.plan.to_string())
    }

    /// Sets the clock of the engine, and of processes that have [`Node::with_clock`].
    pub fn set_clock(&self, milliseconds: i64) {
        self.scratch.write("clock", milliseconds.to_string());
    }

    /// The exporter that collects every 100 ms, which can be told more before it starts.
    pub fn exporter(&self, counters: &str) -> Command {
        let mut command = exporter();
        command
            .env("DCGM_SIMULATOR_SCENARIO", self.scratch.path("scenario.json"))
            .env("DCGM_SIMULATOR_STATS", self.scratch.path("stats.json"))
            .args(["-c", "100", "-f"])
            .arg(self.scratch.write("counters.csv", counters));
        command
    }

    /// Lets the clock of a process be set.
    pub fn with_clock<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        self.set_clock(0);
        command.env("LD_PRELOAD", simulator()).env("DCGM_SIMULATOR_CLOCK", self.scratch.path("clock"))
    }

    /// A host engine on this scenario, whose clock is set with the node's; its address as the exporter wants it.
    pub fn host_engine(&self) -> (HostEngine, String) {
        self.set_clock(0);
        self.host_engine_again()
    }

    /// The same, with the clock as it is.
    pub fn host_engine_again(&self) -> (HostEngine, String) {
        let socket = self.scratch.path("engine.sock").display().to_string();
        let environment = [("DCGM_SIMULATOR_CLOCK", self.scratch.path("clock").display().to_string())];
        let engine = HostEngine::start_with(["--socket", &socket], &self.scratch.path("scenario.json"), &environment);
        (engine, format!("unix://{socket}"))
    }

    /// What the engine has counted.
    pub fn stats(&self) -> Value {
        stats(&self.scratch)
    }
}

/// Starts the exporter on a scenario and a counters file, which are written into `scratch` and can be written anew.
pub fn start(scratch: &Scratch, plan: &Value, counters: &str, arguments: &[&str]) -> Exporter {
    let plan = scratch.write("scenario.json", plan.to_string());
    let counters = scratch.write("counters.csv", counters);
    Exporter::start(
        exporter()
            .env("DCGM_SIMULATOR_SCENARIO", plan)
            .env("DCGM_SIMULATOR_STATS", scratch.path("stats.json"))
            .args(arguments)
            .arg("-f")
            .arg(counters),
    )
}

/// What the engine has counted; see the simulator's README.
pub fn stats(scratch: &Scratch) -> Value {
    serde_json::from_slice(&std::fs::read(scratch.path("stats.json")).unwrap()).unwrap()
}

/// The value of the one sample that has all these texts.
pub fn value(page: &str, parts: &[&str]) -> Option<f64> {
    let line = page.lines().find(|line| !line.starts_with('#') && parts.iter().all(|part| line.contains(part)))?;
    line.rsplit(' ').next()?.parse().ok()
}

pub fn series(page: &str, metric: &str) -> usize {
    page.lines().filter(|line| line.starts_with(&format!("{metric}{{"))).count()
}

pub fn temperatures(page: &str) -> usize {
    series(page, "DCGM_FI_DEV_GPU_TEMP")
}

pub fn collections(page: &str) -> f64 {
    value(page, &["dcgm_exporter_collections_total "]).unwrap()
}

/// How often the engine was started again, for one reason.
pub fn restarts(page: &str, reason: &str) -> f64 {
    value(page, &["dcgm_exporter_engine_restarts_total{", &format!("reason=\"{reason}\"")]).unwrap()
}

/// How often it was started again for any reason.
pub fn all_restarts(page: &str) -> f64 {
    let lines = page.lines().filter(|line| line.starts_with("dcgm_exporter_engine_restarts_total{"));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

/// The first answer of `/health` in which something is true.
pub fn health_with(exporter: &mut Exporter, what: &str, is: impl Fn(&Response) -> bool) -> Response {
    exporter.until(what, |exporter| Some(exporter.get("/health")).filter(|health| is(health)))
}

/// A page of so many more collections.
pub fn after_collections(exporter: &mut Exporter, count: u32) -> String {
    let until = collections(&exporter.page()) + f64::from(count);
    exporter.page_with("it has collected on", |page| collections(page) >= until)
}

/// Looks at `/metrics` and `/health` all the time for so long.
pub fn for_a_while(exporter: &mut Exporter, time: Duration, mut look: impl FnMut(&Response, &Response)) {
    let end = std::time::Instant::now() + time;
    while std::time::Instant::now() < end {
        look(&exporter.get("/metrics"), &exporter.get("/health"));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// XID errors or other events of an entity.
pub fn events(entity: &str, id: u32, field: u16, value: i64, count: u32, every_ms: u32) -> Value {
    json!({ "entity": entity, "id": id, "field_id": field, "value": value, "count": count, "every_ms": every_ms })
}
