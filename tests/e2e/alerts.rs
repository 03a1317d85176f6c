//! The files of `dist/prometheus` in a real Prometheus and a real VictoriaMetrics: what `promtool` says of them, whether
//! every expression finds the series that it names, and whether each alert fires for the fault that it is about.
//!
//! The rules are copies with short times: what takes minutes there takes seconds here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::Database;
use crate::common::{Exporter, HostEngine, Scratch, Signal, exporter, free_port, request, scenario, signal_to};

/// Metrics that some versions of the exporter do not have; rules about them are looked at where they are on a page.
const NOT_EVERYWHERE: [&str; 6] = [
    "dcgm_exporter_gpu_idle_seconds",
    "dcgm_exporter_xid_events_total",
    "dcgm_exporter_job_energy_joules_total",
    "dcgm_exporter_job_gpu_busy_seconds_total",
    "dcgm_exporter_job_gpu_seconds_total",
    "dcgm_exporter_job_memory_used_max_bytes",
];

/// Rule files, with their cases of the same name in `tests/rules`, and how many rules each has at least.
const RULE_FILES: [(&str, usize); 5] =
    [("recording", 20), ("alerts", 20), ("jobstats", 8), ("bcm-accounting", 14), ("ceems", 1)];

/// Alerts that no fault of the simulator brings about within a minute; `tests/rules` has their cases.
const NOT_PLAYED: [&str; 4] = ["DcgmExporterAbsent", "DcgmEngineRestarts", "DcgmExporterRestarts", "GpuCountFell"];

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

/// The rules' own cases, and the configurations as their programs read them.
#[test]
#[ignore = "needs prometheus and victoria-metrics: make e2e"]
fn rules_and_configurations_are_valid() {
    let at = |name: &str| root().join(name);
    let said = run(Command::new("promtool")
        .args(["test", "rules"])
        .args(RULE_FILES.map(|(name, _)| at(&format!("tests/rules/{name}.yaml")))));
    println!("{said}");
    // Each rule has a case.
    let cases = RULE_FILES.map(|(name, _)| std::fs::read_to_string(at(&format!("tests/rules/{name}.yaml"))));
    let cases = cases.map(Result::unwrap).concat();
    for (file, least) in RULE_FILES {
        let rules = std::fs::read_to_string(at(&format!("dist/prometheus/rules/{file}.yaml"))).unwrap();
        let names = rules.lines().filter_map(|line| {
            let line = line.trim_start().trim_start_matches("- ");
            line.strip_prefix("alert: ").or_else(|| line.strip_prefix("record: "))
        });
        let names: Vec<&str> = names.collect();
        assert!(names.len() >= least, "{names:?}");
        for name in names {
            let sought = match file {
                "alerts" => format!("- name: {name}\n"),
                _ => name.to_owned(),
            };
            assert!(cases.contains(&sought), "tests/rules has no case for {name}");
        }
    }
    run(Command::new("promtool").args(["check", "config"]).arg(at("dist/prometheus/prometheus.yaml")));
    let config = format!("-promscrape.config={}", at("dist/prometheus/vmagent.yaml").display());
    run(Command::new("vmagent").args([&config, "-remoteWrite.url=http://127.0.0.1:1/", "-dryRun"]));
    for (name, _) in RULE_FILES {
        let rule = format!("-rule={}", at(&format!("dist/prometheus/rules/{name}.yaml")).display());
        run(Command::new("vmalert").args([&rule, "-dryRun"]));
    }
}

/// Copies the rules with short times into `scratch`.
pub fn quick_rules(scratch: &Scratch) -> [PathBuf; 2] {
    ["recording", "alerts"].map(|name| {
        let path = root().join(format!("dist/prometheus/rules/{name}.yaml"));
        let mut text = String::new();
        for line in std::fs::read_to_string(path).unwrap().lines() {
            if line.trim_start().starts_with("for: ") {
                continue;
            }
            let mut line =
                line.replace("[5m]", "[10s]").replace("offset 10m", "offset 20s").replace("offset 1d", "offset 20s");
            for long in ["[10m]", "[15m]", "[1h]", "[1d]"] {
                line = line.replace(long, "[20s]");
            }
            text += &line.replace("> 3600", "> 2").replace("> 300)", "> 5)");
            text += "\n";
        }
        assert!(!text.contains("m]") && !text.contains("h]"), "{text}");
        scratch.write(&format!("{name}.yaml"), text)
    })
}

/// A configuration that scrapes these exporters every second under the names of their nodes.
pub fn scrape(scratch: &Scratch, rules: &[PathBuf], nodes: &[(&str, u16)]) -> PathBuf {
    let target = |(name, port): &(&str, u16)| {
        format!("  - targets: ['127.0.0.1:{port}']\n    labels: {{cluster: a, instance: {name}}}\n")
    };
    let targets: String = nodes.iter().map(target).collect();
    let rules: String = rules.iter().map(|path| format!("- {}\n", path.display())).collect();
    // VictoriaMetrics does not know these keys.
    let rules = match rules.is_empty() {
        true => rules,
        false => format!("  evaluation_interval: 1s\nrule_files:\n{rules}"),
    };
    let text = format!(
        "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\n{rules}scrape_configs:\n\
         - job_name: dcgm-exporter\n  static_configs:\n{targets}"
    );
    scratch.write(&format!("scrape-{}.yml", rules.len()), text)
}

/// What an HTTP API answers.
pub fn ask(port: u16, path: &str) -> Value {
    let text = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    request(port, &text).ok().and_then(|response| serde_json::from_str(&response.body).ok()).unwrap_or_default()
}

/// The answer to a query, which must be no error.
pub fn answer(database: &Database, query: &str) -> Vec<Value> {
    let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let answer = ask(database.port, &format!("/api/v1/query?query={encoded}"));
    assert_eq!(answer["status"], "success", "{}: {query}: {answer}", database.name);
    answer["data"]["result"].as_array().cloned().unwrap_or_default()
}

/// The selectors of an expression: each metric with its matchers.
fn selectors(expression: &str) -> BTreeSet<String> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':';
    let is_metric = |word: &str| {
        word == "up"
            || word.contains(':')
            || ["DCGM_", "dcgm_exporter_", "process_"].iter().any(|prefix| word.starts_with(prefix))
    };
    let (bytes, mut found, mut at) = (expression.as_bytes(), BTreeSet::new(), 0);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at += 2 + expression[at + 1..].find('"').expect("a string ends"),
            byte if is_word(byte) => {
                let start = at;
                while at < bytes.len() && is_word(bytes[at]) {
                    at += 1;
                }
                if is_metric(&expression[start..at]) {
                    if bytes.get(at) == Some(&b'{') {
                        at += 1 + expression[at..].find('}').expect("matchers end");
                    }
                    found.insert(expression[start..at].to_owned());
                }
            }
            _ => at += 1,
        }
    }
    found
}

#[test]
fn selectors_are_found() {
    let found = selectors(
        "max without (hpc_job) (DCGM_A{x=~\"a|DCGM_B\"}[5m]) / a:b:c > 1 or label_replace(up, \"x\", \"DCGM_C\")",
    );
    assert_eq!(found, ["DCGM_A{x=~\"a|DCGM_B\"}", "a:b:c", "up"].map(str::to_owned).into());
}

/// Everything that a node may show: rows of these files together, and those of switches.
pub fn all_counters(scratch: &Scratch, files: &[&str]) -> PathBuf {
    let mut rows: Vec<String> = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(root().join("counters").join(file)).unwrap();
        let mut of_file: Vec<String> = text.lines().map(str::to_owned).collect();
        if *file == "default-counters.csv" {
            let switch =
                text.lines().filter_map(|line| line.strip_prefix("# ")).filter(|row| row.contains("_NVSWITCH_"));
            of_file.extend(switch.map(str::to_owned));
        }
        rows.extend(of_file.into_iter().filter(|row| row.starts_with("DCGM_")));
    }
    let mut seen = BTreeSet::new();
    rows.retain(|row| seen.insert(row.split(',').next().unwrap().to_owned()));
    scratch.write("counters.csv", rows.join("\n") + "\n")
}

/// The id of a field.
fn field(name: &str) -> String {
    let fields = include_str!("../../src/dcgm/fields.csv");
    let row = fields.lines().find_map(|line| line.strip_prefix(&format!("DCGM_FI_DEV_{name},")));
    row.unwrap_or_else(|| panic!("there is no field {name}")).split(',').next().unwrap().to_owned()
}

/// Eight GPUs, the last with two instances, with links and a switch; what the recording of an H200 lacks is as on a
/// healthy node.
pub struct Node {
    pub plan: Value,
}

impl Node {
    pub fn healthy() -> Node {
        let mut plan = scenario(&[0, 1, 2, 3, 4, 5, 6, 7]);
        plan["replay"] = true.into();
        plan["supported_profiling_fields"] = Value::Null;
        plan["latest_values"] = json!([]);
        plan["system"]["gpu_instances"] = json!([
            { "parent_gpu": 7, "entity_id": 0, "nvml_gpu_instance_id": 1, "profile": "3g.71gb" },
            { "parent_gpu": 7, "entity_id": 1, "nvml_gpu_instance_id": 2, "profile": "4g.71gb" },
        ]);
        plan["system"]["switches"] = json!([0]);
        let mut links = vec![json!({ "parent": "SWITCH", "parent_id": 0, "states": [3, 3] })];
        links.extend((0..8).map(|gpu| json!({ "parent": "GPU", "parent_id": gpu, "states": [3, 3] })));
        plan["system"]["links"] = links.into();
        let mut node = Node { plan };
        for gpu in 0..8 {
            for (name, value) in [
                ("GPU_TEMP", 50),
                ("SLOWDOWN_TEMP", 89),
                ("GPU_UTIL", 50),
                ("CLOCKS_EVENT_REASONS", 0),
                ("POWER_VIOLATION", 0),
                ("THERMAL_VIOLATION", 0),
                ("FABRIC_MANAGER_STATUS", 3),
                ("FABRIC_HEALTH_SUMMARY", 1),
                ("GPU_RECOVERY_ACTION", 0),
                ("MEMORY_UNREPAIRABLE_FLAG", 0),
                ("RETIRED_PENDING", 0),
                ("ECC_SBE_VOL_TOTAL", 0),
                ("ECC_DBE_VOL_TOTAL", 0),
                ("PCIE_COUNT_CORRECTABLE_ERRORS", 0),
                ("NVLINK_BANDWIDTH_TOTAL", 1000),
                ("NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", 0),
                ("NVLINK_CRC_DATA_ERROR_COUNT_TOTAL", 0),
                ("NVLINK_REPLAY_ERROR_COUNT_TOTAL", 0),
                ("NVLINK_RECOVERY_ERROR_COUNT_TOTAL", 0),
                ("NVLINK_CRC_ERROR_TOTAL", 0),
                ("NVLINK_REPLAY_TOTAL", 0),
                ("NVLINK_RECOVERY_TOTAL", 0),
                ("NVLINK_RECOVERY_FAILED_TOTAL", 0),
                ("NVLINK_EFFECTIVE_ERROR_TOTAL", 0),
            ] {
                node.set(gpu, name, value);
            }
            for link in 0..2 {
                node.set_link(gpu, link, "NVLINK_PPCNT_PHYSICAL_LINK_DOWN_COUNTER", 0);
                node.set_link(gpu, link, "NVLINK_GET_STATE", 1);
            }
        }
        for link in 0..2 {
            for name in ["FATAL", "REPLAY", "RECOVERY", "FLIT", "CRC"] {
                node.set_switch_link(link, &format!("NVSWITCH_LINK_{name}_ERRORS"), 0);
            }
        }
        node
    }

    /// Sets a field of a GPU, and of its instances if it has any.
    pub fn set(&mut self, gpu: u32, name: &str, value: i64) {
        self.put(json!({ "entity": "GPU", "id": gpu }), name, value);
        if gpu == 7 {
            for instance in 0..2 {
                self.put(json!({ "entity": "GPU_I", "id": instance }), name, value);
            }
        }
    }

    fn set_link(&mut self, gpu: u32, link: u32, name: &str, value: i64) {
        self.put(json!({ "entity": "LINK", "id": link, "parent": "GPU", "parent_id": gpu }), name, value);
    }

    fn set_switch_link(&mut self, link: u32, name: &str, value: i64) {
        self.put(json!({ "entity": "LINK", "id": link, "parent": "SWITCH", "parent_id": 0 }), name, value);
    }

    fn put(&mut self, mut entity: Value, name: &str, value: i64) {
        let value = json!({ "type": "int64", "value": value.to_string() });
        let all = self.plan["latest_values"].as_array_mut().unwrap();
        let is_it = |known: &&mut Value| {
            ["entity", "id", "parent", "parent_id"].iter().all(|key| known.get(key) == entity.get(key))
        };
        match all.iter_mut().find(is_it) {
            Some(known) => known["fields"][field(name)] = value,
            None => {
                entity["fields"] = json!({ field(name): value });
                all.push(entity);
            }
        }
    }

    pub fn write(&self, scratch: &Scratch, name: &str) -> PathBuf {
        scratch.write(name, self.plan.to_string())
    }
}

/// vmalert over a VictoriaMetrics; stopped by its process id when dropped.
struct Vmalert(Child);

impl Vmalert {
    fn start(rules: &Path, store: u16) -> Vmalert {
        let child = Command::new("vmalert")
            .arg(format!("-rule={}", rules.display()))
            .arg(format!("-datasource.url=http://127.0.0.1:{store}"))
            .arg(format!("-remoteWrite.url=http://127.0.0.1:{store}"))
            .arg(format!("-httpListenAddr=127.0.0.1:{}", free_port()))
            .args(["-evaluationInterval=1s", "-remoteWrite.flushInterval=1s", "-datasource.queryStep=5s"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Vmalert(child.expect("vmalert is installed"))
    }
}

impl Drop for Vmalert {
    fn drop(&mut self) {
        signal_to(self.0.id(), Signal::TERM);
        let _ = self.0.wait();
    }
}

/// Firing alerts as `name node`, with the GPU where they have one.
fn firing(database: &Database) -> BTreeSet<String> {
    let answer = ask(database.port, "/api/v1/alerts");
    let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
    alerts.iter().filter(|alert| alert["state"] == "firing").map(named).collect()
}

/// Waits until nothing is firing but what is so on every simulated node: rows that the simulated GPUs do not have.
fn until_quiet(database: &mut Database, what: &str) {
    let last = std::cell::RefCell::new(BTreeSet::new());
    let quiet = |database: &Database| {
        let mut firing = firing(database);
        firing.retain(|name| !name.starts_with("DcgmCountersSkipped "));
        *last.borrow_mut() = firing;
        last.borrow().is_empty()
    };
    let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| database.until(what, quiet)));
    assert!(waited.is_ok(), "still firing: {:?}", last.borrow());
}

fn named(alert: &Value) -> String {
    let labels = &alert["labels"];
    let text = |name: &str| labels[name].as_str().unwrap_or_default().to_owned();
    let gpu = labels["gpu"].as_str().map(|gpu| format!(" {gpu}")).unwrap_or_default();
    format!("{} {}{gpu}", text("alertname"), text("instance"))
}

/// The rules that Prometheus has read.
fn rules(database: &Database) -> Vec<Value> {
    let groups = ask(database.port, "/api/v1/rules")["data"]["groups"].as_array().cloned().unwrap_or_default();
    groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect()
}

#[test]
#[ignore = "needs prometheus and victoria-metrics: make e2e"]
fn each_fault_fires_its_alert() {
    let scratch = Scratch::new();
    let counters = all_counters(&scratch, &["hpc.csv", "fleet-health.csv", "blackwell.csv", "default-counters.csv"]);
    let jobs = scratch.path("jobs");
    std::fs::create_dir(&jobs).unwrap();
    for (name, text) in [("2", "17\n"), ("6", "18\n"), ("7.1", "19\n"), ("job.17", "user=ann\naccount=x\n")] {
        std::fs::write(jobs.join(name), text).unwrap();
    }
    let start = |name: &str, plan: &Value, arguments: &[&str]| {
        let plan = scratch.write(&format!("{name}.json"), plan.to_string());
        let counters = scratch.write(&format!("{name}.csv"), std::fs::read(&counters).unwrap());
        let mut command = exporter();
        command.env("DCGM_SIMULATOR_SCENARIO", plan).args(["-c", "1s", "-f"]).arg(counters).args(arguments);
        Exporter::start(&mut command)
    };
    let map = jobs.display().to_string();
    let healthy = Node::healthy();
    // Node `faults` is the one whose GPUs fail; the others have one fault each, of engine, exporter or settings.
    let faults = start("faults", &healthy.plan, &["--hpc-job-mapping-dir", &map]);
    let hang = start("hang", &healthy.plan, &["--stale-after", "3s"]);
    let stale = start("stale", &healthy.plan, &["--stale-after", "1h"]);
    let empty = start("empty", &healthy.plan, &[]);
    let released = start("released", &healthy.plan, &[]);
    let pause_file = scratch.path("pause-profiling");
    let pausable = ["--hpc-job-mapping-dir", &map, "--pause-profiling-file", pause_file.to_str().unwrap()];
    let settings = start("settings", &healthy.plan, &pausable);
    let port = free_port().to_string();
    let address = format!("127.0.0.1:{port}");
    let plan = healthy.write(&scratch, "engine.json");
    let engine = HostEngine::start(["--listen", &address], &plan);
    let client = start("client", &healthy.plan, &["-r", &address]);
    // Other names and the other way of job labels.
    let base = Exporter::start(
        exporter()
            .env("DCGM_SIMULATOR_SCENARIO", healthy.write(&scratch, "base.json"))
            .args(["-c", "1s", "--job-labels", "info-only", "--hpc-job-mapping-dir", &map, "-f"])
            .arg(root().join("counters/base-units.csv")),
    );
    let nodes = [
        ("faults", faults.port),
        ("hang", hang.port),
        ("stale", stale.port),
        ("empty", empty.port),
        ("released", released.port),
        ("settings", settings.port),
        ("client", client.port),
        ("base", base.port),
    ];
    let quick = quick_rules(&scratch);
    let mut prometheus = Database::prometheus(&scratch, &scrape(&scratch, &quick, &nodes));
    let mut victoria = Database::victoria_metrics(&scratch, &scrape(&scratch, &[], &nodes));
    let vmalert = Vmalert::start(&quick[0], victoria.port);
    prometheus.until("every node is up", |database| database.query("up == 1").len() == nodes.len());
    victoria.until("every node is up", |database| database.query("up == 1").len() == nodes.len());
    // Rules have been evaluated when the last one has a result.
    prometheus.until("rules are evaluated", |database| !database.query("cluster:dcgm_power:watts").is_empty());
    until_quiet(&mut prometheus, "no alert is firing");

    // The faults.
    let mut bad = Node::healthy();
    bad.plan["faults"] = json!({ "lost_gpus": [1], "frozen": [{ "entity": "SWITCH", "id": 0 }] });
    let xid = |gpu: u32, code: i64| json!({ "entity": "GPU", "id": gpu, "field_id": 230, "value": code, "count": 1, "every_ms": 1 });
    bad.plan["events"] = [31, 48, 79, 64, 38].map(|code| xid(2, code)).to_vec().into();
    // hw_thermal, hw_power_brake and power_cap.
    bad.set(3, "CLOCKS_EVENT_REASONS", 0xC4);
    bad.set(3, "GPU_TEMP", 88);
    bad.plan["system"]["links"][5]["states"] = json!([3, 2]);
    bad.set_link(4, 0, "NVLINK_PPCNT_PHYSICAL_LINK_DOWN_COUNTER", 3);
    bad.set(4, "NVLINK_REPLAY_TOTAL", 5000);
    bad.set(4, "NVLINK_RECOVERY_FAILED_TOTAL", 1);
    bad.set_switch_link(0, "NVSWITCH_LINK_FATAL_ERRORS", 19084);
    bad.set_switch_link(1, "NVSWITCH_LINK_CRC_ERRORS", 5000);
    bad.set(4, "FABRIC_HEALTH_SUMMARY", 2);
    bad.set(5, "FABRIC_HEALTH_SUMMARY", 3);
    bad.set(5, "FABRIC_MANAGER_STATUS", 2);
    bad.set(5, "GPU_RECOVERY_ACTION", 4);
    bad.set(6, "GPU_RECOVERY_ACTION", 2);
    bad.set(5, "ECC_DBE_VOL_TOTAL", 2);
    bad.set(5, "ECC_SBE_VOL_TOTAL", 1_000_000);
    bad.set(5, "ROW_REMAP_PENDING", 1);
    bad.set(5, "UNCORRECTABLE_REMAPPED_ROWS", 2);
    bad.set(7, "ROW_REMAP_FAILURE", 1);
    bad.set(6, "BANKS_REMAP_ROWS_AVAIL_NONE", 1);
    bad.set(7, "PCIE_LINK_WIDTH", 8);
    bad.set(6, "PCIE_REPLAY_COUNTER", 5000);
    bad.set(6, "GPU_UTIL", 0);
    bad.plan["health_incidents"] = json!([
        { "gpu": 5, "system": 1, "health": 20, "error_code": 1 },
        { "gpu": 6, "system": 1, "health": 10, "error_code": 1 },
    ]);
    bad.write(&scratch, "faults.json");
    let mut plan = healthy.plan.clone();
    plan["events"] = json!([xid(2, 31)]);
    scratch.write("base.json", plan.to_string());
    for name in ["hang", "stale"] {
        let mut plan = healthy.plan.clone();
        plan["faults"] = json!({ "hang_ms": { "dcgmUpdateAllFields": 120_000 } });
        scratch.write(&format!("{name}.json"), plan.to_string());
    }
    let mut plan = healthy.plan.clone();
    plan["system"] = json!({ "gpus": [] });
    scratch.write("empty.json", plan.to_string());
    released.signal(Signal::USR1);
    let mut plan = healthy.plan.clone();
    plan["faults"] = json!({ "fail": [{ "call": "dcgmHealthCheck", "code": -3 }] });
    scratch.write("settings.json", plan.to_string());
    scratch.write("settings.csv", "DCGM_FI_DEV_NO_SUCH_FIELD, gauge, x\n");
    std::fs::create_dir(jobs.join("3")).unwrap();
    std::fs::write(&pause_file, "").unwrap();
    drop(engine);

    let has_idle = faults.get("/metrics").body.contains("dcgm_exporter_gpu_idle_seconds");
    let has_events = faults.get("/metrics").body.contains("dcgm_exporter_xid_events_total");
    let mut expected = vec![
        "DcgmExporterDown hang",
        "DcgmExporterStale stale",
        "DcgmEngineLost client",
        "DcgmExporterDegraded faults",
        "DcgmNoGpu empty",
        "DcgmReleased released",
        "DcgmEntityStale faults",
        "DcgmSourceFailing settings",
        "DcgmCountersRefused settings",
        "DcgmJobMapErrors settings",
        "DcgmProfilingPaused settings 0",
        "GpuLost faults 1",
        "GpuNeedsReset faults 5",
        "GpuNeedsReboot faults 6",
        "GpuHealthFail faults 5",
        "GpuHealthWarn faults 6",
        "GpuXidApplication faults 2",
        "GpuXidReset faults 2",
        "GpuXidReboot faults 2",
        "GpuXidReplace faults 2",
        "GpuXidOther faults 2",
        "GpuEccUncorrectable faults 5",
        "GpuEccStorm faults 5",
        "GpuRowRemapPending faults 5",
        "GpuRowRemapped faults 5",
        "GpuRowRemapFailed faults 7",
        "GpuSpareRowsGone faults 6",
        "GpuThermalThrottled faults 3",
        "GpuHot faults 3",
        "GpuPowerBrake faults 3",
        "GpuPowerThrottled faults 3",
        "GpuNvlinkDown faults 4",
        "GpuNvlinkWentDown faults 4",
        "GpuNvlinkErrors faults 4",
        "GpuNvlinkRecoveryFailed faults 4",
        "NvswitchLinkFatal faults",
        "NvswitchLinkErrors faults",
        "GpuFabricUnhealthy faults 4",
        "GpuFabricLimited faults 5",
        "GpuFabricNotRegistered faults 5",
        "GpuPcieNarrow faults 7",
        "GpuPcieReplays faults 6",
    ];
    if has_idle {
        expected.push("GpuHeldIdle faults 6");
    } else {
        println!("left out: GpuHeldIdle, because this version has no dcgm_exporter_gpu_idle_seconds");
    }
    if has_events {
        expected.push("GpuXid base 2");
    }
    // Some fire for a short time only, so all that have fired are collected.
    let mut fired = BTreeSet::new();
    let mut seen: Vec<Value> = Vec::new();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(90);
    while !expected.iter().all(|name| fired.contains(*name)) {
        let missing: Vec<_> = expected.iter().filter(|name| !fired.contains(**name)).collect();
        assert!(std::time::Instant::now() < end, "not fired: {missing:?}; fired: {fired:?}\n{}", faults.log());
        let answer = ask(prometheus.port, "/api/v1/alerts");
        seen.extend(answer["data"]["alerts"].as_array().cloned().unwrap_or_default());
        fired.extend(firing(&prometheus));
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    println!("fired: {fired:?}");
    // The GPU without a fault has no alert, and each alert has something to read.
    assert!(!fired.iter().any(|name| name.ends_with("faults 0")), "{fired:?}");
    for alert in &seen {
        assert!(alert["labels"].get("hpc_job").is_none(), "{alert}");
        for part in ["summary", "action"] {
            let text = alert["annotations"][part].as_str().unwrap_or_default();
            assert!(text.len() > 10 && !text.contains("<error") && !text.contains("no value"), "{alert}");
        }
    }

    // Every expression finds the series that it names, in both, now or in the minutes before: an increase passes.
    let pages: String = nodes
        .iter()
        .filter_map(|(_, port)| request(*port, "GET /metrics HTTP/1.0\r\n\r\n").ok())
        .map(|page| page.body)
        .collect();
    let all = rules(&prometheus);
    let mut pending = BTreeSet::new();
    for rule in &all {
        let (name, expression) = (rule["name"].as_str().unwrap(), rule["query"].as_str().unwrap());
        assert_eq!(rule["health"], "ok", "{rule}");
        for database in [&prometheus, &victoria] {
            answer(database, expression);
        }
        for selector in selectors(expression) {
            let metric = selector.split('{').next().unwrap();
            let missing =
                NOT_EVERYWHERE.iter().find(|name| **name == metric && !pages.contains(&format!("\n{name}{{")));
            let by_rule = all.iter().any(|rule| {
                rule["name"] == metric
                    && NOT_EVERYWHERE.iter().any(|name| rule["query"].as_str().unwrap().contains(name))
            });
            if missing.is_some() || by_rule && !pages.contains("dcgm_exporter_job_energy_joules_total{") {
                pending.insert(format!("{name}: {metric}"));
                continue;
            }
            for database in [&mut prometheus, &mut victoria] {
                database.until(&format!("{name} finds {selector}"), |database| {
                    !answer(database, &format!("last_over_time({selector}[10m])")).is_empty()
                });
            }
        }
    }
    println!("left out, because this version has no such metric: {pending:?}");
    let played = |name: &str| {
        expected.iter().any(|expected| expected.split(' ').next() == Some(name))
            || NOT_PLAYED.contains(&name)
            || name == "DcgmCountersSkipped"
            || (name == "GpuHeldIdle" && !has_idle)
            || (name == "GpuXid" && !has_events)
    };
    let not_played = all.iter().filter(|rule| rule["type"] == "alerting" && !played(rule["name"].as_str().unwrap()));
    let not_played: Vec<&Value> = not_played.map(|rule| &rule["name"]).collect();
    assert!(not_played.is_empty(), "nothing plays {not_played:?}");

    // All is well again.
    let plan = healthy.write(&scratch, "engine.json");
    let _engine = HostEngine::start(["--listen", &address], &plan);
    for name in ["faults", "base", "hang", "stale", "empty", "settings"] {
        scratch.write(&format!("{name}.json"), healthy.plan.to_string());
    }
    scratch.write("settings.csv", std::fs::read(&counters).unwrap());
    std::fs::remove_dir(jobs.join("3")).unwrap();
    std::fs::remove_file(pause_file).unwrap();
    released.signal(Signal::USR2);
    until_quiet(&mut prometheus, "no alert is firing any more");
    drop(vmalert);
}
