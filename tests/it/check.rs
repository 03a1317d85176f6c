//! `--check`: every fault that the simulator can play is found and named, and nothing is changed by looking.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::*;

const CLOCK: &str = "DCGM_FI_DEV_SM_CLOCK, gauge, c\n";

/// What a check printed, and its exit status.
struct Checked {
    status: i32,
    report: Value,
}

impl Checked {
    fn run(command: &mut Command) -> Checked {
        let output = command.arg("--check=json").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let report = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        Checked { status: output.status.code().unwrap(), report }
    }

    /// Asserts that a question has this answer among its own, and that the exit status is no better.
    #[track_caller]
    fn says(&self, question: &str, status: &str, part: &str) {
        let answers = self.report["answers"].as_array().unwrap();
        let is_it = |answer: &&Value| {
            answer["question"] == question
                && answer["status"] == status
                && answer["found"].as_str().unwrap().contains(part)
        };
        let found = answers.iter().find(is_it);
        let found = found.unwrap_or_else(|| panic!("no {status} '{part}' for {question}:\n{:#}", self.report));
        assert_eq!(found["fix"] == "", status == "ok", "{found}");
        let least = ["ok", "warn", "fail"].iter().position(|known| *known == status).unwrap();
        assert!(self.status >= least as i32, "exit status {} after {status}", self.status);
    }

    /// Questions that were not answered by ok, but for those about this machine and the other tests that run on it.
    fn complaints(&self) -> Vec<&Value> {
        const OF_MACHINE: [&str; 5] = ["driver", "unit", "other engines", "other exporters", "kernel log"];
        let answers = self.report["answers"].as_array().unwrap().iter();
        let is_of_machine = |answer: &&Value| OF_MACHINE.contains(&answer["question"].as_str().unwrap());
        answers.filter(|answer| answer["status"] != "ok" && !is_of_machine(answer)).collect()
    }
}

/// A check of a simulated node whose counters file asks for a temperature and a clock.
fn check(scratch: &Scratch, scenario: &Value) -> Command {
    let mut command = exporter();
    command
        .env("DCGM_SIMULATOR_SCENARIO", scratch.write("scenario.json", scenario.to_string()))
        .env("DCGM_SIMULATOR_STATS", scratch.path("stats.json"))
        .arg("-f")
        .arg(scratch.write("counters.csv", format!("{GPU_TEMP}{CLOCK}")));
    command
}

fn node() -> Value {
    let mut node = scenario(&[0, 1, 2]);
    for gpu in 0..3 {
        node["latest_values"][gpu]["fields"]["100"] = json!({ "type": "int64", "value": "1980" });
    }
    node
}

#[test]
fn a_node_without_faults() {
    let scratch = Scratch::new();
    let checked = Checked::run(&mut check(&scratch, &node()));
    assert!(checked.complaints().is_empty(), "{:#?}", checked.complaints());
    checked.says("GPUs", "ok", "3 x NVIDIA H200");
    checked.says("counters", "ok", "2 of 2 rows have values on NVIDIA H200");
    let stats: Value = serde_json::from_slice(&std::fs::read(scratch.path("stats.json")).unwrap()).unwrap();
    for left in ["sessions", "groups", "field_groups", "watches"] {
        assert_eq!(stats[left], 0, "{stats}");
    }
    assert_eq!(stats["violations"], json!([]));
    let table = check(&scratch, &node()).arg("--check").output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.lines().any(|line| line.starts_with("ok    GPUs")), "{table}");
}

/// As shipped, on the GPU that most sites have: rows for other generations are no reason for a warning.
#[test]
fn shipped_counters_files_bring_no_warning() {
    for file in ["default-counters", "dcp-metrics-included", "hpc", "fleet-health", "1.x-compatibility-metrics"] {
        let counters = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("counters/{file}.csv"));
        let checked = Checked::run(exporter().args(["-a", "127.0.0.1:0", "-f"]).arg(counters));
        assert!(checked.complaints().is_empty(), "{file}: {:#?}", checked.complaints());
        checked.says("counters", "ok", "which not every generation of GPUs has");
    }
}

#[test]
fn settings_and_files_that_are_wrong() {
    let scratch = Scratch::new();
    let checked = Checked::run(exporter().args(["-c", "0"]));
    checked.says("settings", "fail", "--collect-interval");
    assert_eq!(checked.status, 2);
    let bad = scratch.write("bad.csv", "DCGM_FI_NOPE, gauge, x\nDCGM_FI_DEV_GPU_TEMP, gauge, t\n");
    Checked::run(exporter().arg("-f").arg(bad)).says("counters file", "warn", "bad.csv:1: ");
    let text = scratch.write("libdcgm.txt", "not a library");
    let mut command = bare_exporter();
    command.arg("-f").arg(scratch.write("counters.csv", GPU_TEMP)).arg("--libdcgm").arg(text);
    Checked::run(&mut command).says("library", "fail", "libdcgm.txt");
}

/// A text that would clear root's screen and set its title.
const ESCAPES: &str = "\u{1b}[2J\u{1b}]0;pwned\u{7}";

#[test]
fn escape_sequences_do_not_reach_the_terminal() {
    let scratch = Scratch::new();
    let name = format!("bad{ESCAPES}.csv");
    let bad = scratch.write(&name, format!("DCGM_FI_NOPE{ESCAPES}, gauge, x\n{GPU_TEMP}"));
    let is_clean = |command: &mut Command| {
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        assert!(!said.contains(|character: char| character.is_control() && character != '\n'), "{said:?}");
        assert!(said.contains("bad\\x1b[2J") || said.contains("bad\\u001b[2J"), "{said}");
    };
    is_clean(exporter().args(["--check", "-f"]).arg(&bad));
    is_clean(exporter().args(["--check=json", "-f"]).arg(&bad));
    is_clean(exporter().args(["--check-counters", "-f"]).arg(&bad));
    is_clean(exporter().arg("--config-file").arg(&bad));
}

#[test]
fn a_library_that_lacks_a_symbol() {
    let scratch = Scratch::new();
    let mut bytes = std::fs::read(simulator()).unwrap();
    let name = b"\0dcgmGetGpuStatus\0";
    let places: Vec<usize> = (0..bytes.len() - name.len()).filter(|at| bytes[*at..].starts_with(name)).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at + 1] = b'x';
    }
    let library = scratch.write("libdcgm.so.4", bytes);
    let mut command = bare_exporter();
    command.args(["-a", "127.0.0.1:0", "-f"]).arg(scratch.write("counters.csv", GPU_TEMP));
    let checked = Checked::run(command.arg("--libdcgm").arg(library));
    checked.says("symbols", "warn", "lacks dcgmGetGpuStatus");
    checked.says("GPUs", "ok", "8 seen");
}

#[test]
fn calls_that_fail() {
    let scratch = Scratch::new();
    for (call, code, question, status) in [
        ("dcgmStartEmbedded_v2", -8, "engine", "fail"),
        ("dcgmHostengineVersionInfo", -3, "engine version", "warn"),
        ("dcgmGetEntityGroupEntities", -3, "GPUs", "fail"),
        ("dcgmGetDeviceAttributes", -18, "GPUs", "warn"),
        ("dcgmGetGpuStatus", -3, "GPUs", "fail"),
        ("dcgmGetGpuInstanceHierarchy", -3, "GPUs", "warn"),
        ("dcgmGroupCreate", -24, "samples", "fail"),
        ("dcgmFieldGroupCreate", -24, "samples", "fail"),
        ("dcgmWatchFields", -3, "counters", "warn"),
        ("dcgmUpdateAllFields", -3, "samples", "fail"),
        ("dcgmGetLatestValues_v2", -3, "samples", "fail"),
        ("dcgmGetLatestValues_v2", -21, "samples", "fail"),
    ] {
        let mut node = node();
        node["faults"]["fail"] = json!([{ "call": call, "code": code }]);
        let part = if question == "engine version" || call == "dcgmWatchFields" { "" } else { call };
        Checked::run(&mut check(&scratch, &node)).says(question, status, part);
    }
}

#[test]
fn calls_that_hang() {
    std::thread::scope(|threads| {
        for call in [
            "dcgmHostengineVersionInfo",
            "dcgmGetDeviceAttributes",
            "dcgmGroupCreate",
            "dcgmUpdateAllFields",
            "dcgmGetLatestValues_v2",
            "dcgmStopEmbedded",
        ] {
            threads.spawn(move || {
                let scratch = Scratch::new();
                let mut node = node();
                node["faults"]["hang_ms"][call] = 600_000.into();
                let checked = Checked::run(&mut check(&scratch, &node));
                checked.says("engine", "fail", &format!("{call} has not returned"));
                checked.says("hostname label", "ok", "hostname=");
            });
        }
    });
}

/// No single call takes 10 s here.
#[test]
fn calls_that_are_slow_together() {
    let scratch = Scratch::new();
    let mut node = node();
    node["faults"]["hang_ms"]["dcgmGetDeviceAttributes"] = 8_000.into();
    node["faults"]["hang_ms"]["dcgmGetGpuStatus"] = 8_000.into();
    let start = Instant::now();
    let checked = Checked::run(&mut check(&scratch, &node));
    checked.says("engine", "fail", "took more than 14 s together");
    checked.says("hostname label", "ok", "hostname=");
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
}

#[test]
fn gpus_that_are_lost_stand_still_or_are_not_there() {
    let scratch = Scratch::new();
    let with = |faults: Value| {
        let mut node = node();
        node["faults"] = faults;
        Checked::run(&mut check(&scratch, &node))
    };
    let lost = with(json!({ "lost_gpus": [1] }));
    lost.says("GPUs", "fail", "GPU 1 is lost");
    lost.says("samples", "fail", "GPU 1 (GPU-1): none of its fields has a value");
    let ids: Vec<u64> =
        node()["system"]["gpus"].as_array().unwrap().iter().filter_map(|gpu| gpu["id"].as_u64()).collect();
    let dead = with(json!({ "lost_before_start": ids }));
    dead.says("samples", "fail", &format!("0 of {} entities have values", ids.len()));
    with(json!({ "unreadable_gpus": [0] })).says("engine", "fail", "(-7)");
    with(json!({ "frozen": [{ "entity": "GPU", "id": 2 }] })).says("samples", "fail", "GPU 2 (GPU-2)");
    let spoilt = with(json!({ "fail": [{ "call": "latest", "code": -3, "entity": "GPU", "id": 1 }] }));
    spoilt.says("samples", "fail", "dcgmGetLatestValues_v2");
    let refused = with(json!({ "fail": [{ "call": "dcgmWatchFields", "code": -3, "field": 100 }] }));
    refused.says("counters", "warn", "DCGM_FI_DEV_SM_CLOCK: the engine does not watch field 100");
    let none = Checked::run(&mut check(&scratch, &scenario(&[])));
    none.says("GPUs", "fail", "DCGM sees none");
    let unknown_module = {
        let mut node = node();
        node["unknown_module"] = 10.into();
        Checked::run(&mut check(&scratch, &node))
    };
    unknown_module.says("engine", "warn", "loads modules that no counter needs");
    let mut slow = node();
    slow["stop_ms"] = 4500.into();
    Checked::run(&mut check(&scratch, &slow)).says("engine", "warn", "stopping the engine took");
}

#[test]
fn values_whose_time_stands_still() {
    let scratch = Scratch::new();
    let mut node = node();
    for field in ["150", "100"] {
        node["latest_values"][0]["fields"][field] = json!({ "type": "int64", "value": "1", "timestamp": 1_000_000.0 });
    }
    Checked::run(&mut check(&scratch, &node)).says("samples", "fail", "GPU 0 (GPU-0): its values do not change");
}

#[test]
fn profiling_that_is_paused() {
    let scratch = Scratch::new();
    let mut node = scenario(&[0]);
    node["supported_profiling_fields"] = json!([1001]);
    scratch.write("jobs/job.17", "profiling=pause\n");
    scratch.write("jobs/job.18", "profiling=pause\n");
    scratch.write("jobs/0", "17\n19\n");
    let file = scratch.write("run/pause-profiling", "");
    let checked = |counters: &str| {
        let mut command = check(&scratch, &node);
        command.arg("--hpc-job-mapping-dir").arg(scratch.path("jobs")).arg("--pause-profiling-file").arg(&file);
        Checked::run(command.arg("-f").arg(scratch.write("counters.csv", counters)))
    };
    let asked = checked("DCGM_FI_PROF_GR_ENGINE_ACTIVE, gauge, e\n");
    asked.says("profiling", "warn", "paused on all GPUs, because");
    asked.says("profiling", "ok", "until these jobs end: 17");
    assert!(!asked.report.to_string().contains("these jobs end: 17, "), "{:#}", asked.report);
    checked(GPU_TEMP).says("profiling", "ok", "not used");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    checked("DCGM_FI_PROF_GR_ENGINE_ACTIVE, gauge, e\n").says("profiling", "warn", "has mode 0666");
}

#[test]
fn counters_and_profiling_that_a_model_does_not_have() {
    let scratch = Scratch::new();
    let mut node = node();
    node["system"]["gpus"][2]["model"] = "NVIDIA L4".into();
    node["latest_values"][2]["fields"].as_object_mut().unwrap().remove("100");
    node["profiling_by_gpu"] = json!({ "0": [1001], "1": [1001], "2": [] });
    let mut command = check(&scratch, &node);
    scratch.write(
        "counters.csv",
        format!("{GPU_TEMP}{CLOCK}DCGM_FI_PROF_GR_ENGINE_ACTIVE, gauge, g\nDCGM_FI_DRIVER_VERSION, label, d\n"),
    );
    let checked = Checked::run(&mut command);
    checked.says("profiling", "warn", "GPU 2 does not support it");
    checked.says("counters", "warn", "3 of 4 rows have values on NVIDIA H200; none for DCGM_FI_DRIVER_VERSION");
    let on_l4 = "1 of 4 rows have values on NVIDIA L4; none for DCGM_FI_DEV_SM_CLOCK, DCGM_FI_DRIVER_VERSION, DCGM_FI_PROF_GR_ENGINE_ACTIVE";
    checked.says("counters", "warn", on_l4);
    let stats: Value = serde_json::from_slice(&std::fs::read(scratch.path("stats.json")).unwrap()).unwrap();
    assert!(stats["calls"]["dcgmWatchFields"].as_u64().unwrap() > 0, "{stats}");
    let mut old = scenario(&[0]);
    old["version"] = "3.3.9".into();
    let mut command = check(&scratch, &old);
    scratch.write("counters.csv", format!("{GPU_TEMP}DCGM_FI_DEV_NVLINK_PPCNT_PLR_RCV_CODES, counter, newer\n"));
    Checked::run(&mut command).says("counters", "warn", "libdcgm 3.3.9 does not have this field");
}

#[test]
fn fields_that_instances_lack_and_their_gpu_has() {
    let scratch = Scratch::new();
    let mut node = scenario(&[0]);
    let instance =
        |id: u32| json!({ "parent_gpu": 0, "entity_id": id, "nvml_gpu_instance_id": 7 + id, "profile": "1g.18gb" });
    node["system"]["gpu_instances"] = (0..3).map(instance).collect();
    let compute = |id: u32| json!({ "instance": id, "id": 10 + id });
    node["system"]["compute_instances"] = (0..2).map(compute).collect();
    let values = |entity: &str, id: u32, fields: &[&str]| {
        let fields: serde_json::Map<String, Value> =
            fields.iter().map(|field| (field.to_string(), json!({ "type": "int64", "value": "7" }))).collect();
        json!({ "entity": entity, "id": id, "fields": fields })
    };
    node["latest_values"] = json!([
        values("GPU", 0, &["150", "252", "251"]),
        values("GPU_I", 0, &["150"]),
        values("GPU_I", 1, &["150"]),
        values("GPU_I", 2, &["150", "252", "251"]),
    ]);
    let mut command = check(&scratch, &node);
    scratch.write("counters.csv", format!("{GPU_TEMP}DCGM_FI_DEV_FB_USED, gauge, u\nDCGM_FI_DEV_FB_FREE, gauge, f\n"));
    let checked = Checked::run(&mut command);
    let gpu_only = "instances 7, 8 of GPU 0: no value of DCGM_FI_DEV_FB_FREE, DCGM_FI_DEV_FB_USED; the driver gives them for the \
                    whole GPU only";
    checked.says("MIG instances", "warn", gpu_only);
    // With values everywhere, and on a node without MIG, there is nothing to say.
    assert_eq!(checked.complaints().len(), 1, "{:#?}", checked.complaints());
}

#[test]
fn host_engines_that_answer_and_that_do_not() {
    let scratch = Scratch::new();
    let mut other = node();
    other["version"] = "4.5.3".into();
    let plan = scratch.write("other.json", other.to_string());
    let address = format!("127.0.0.1:{}", free_port());
    let engine = HostEngine::start(["--listen", &address], &plan);
    let ask =
        |address: &str| Checked::run(check(&scratch, &node()).env("NODE_NAME", "localhost").args(["-r", address]));
    let checked = ask(&address);
    checked.says("engine", "ok", &address);
    checked.says("engine version", "warn", "the engine is DCGM 4.5.3-simulated, the library 4.6.0");
    checked.says("hostname label", "warn", "hostname=\"localhost\", the same on every node");
    ask(&format!("auto,{address}")).says("engine", "ok", &address);
    // Stopped, it still listens.
    signal_to(engine.pid(), Signal::STOP);
    ask(&address).says("engine", "fail", "no host engine answers");
    signal_to(engine.pid(), Signal::CONT);
    drop(engine);
    let checked = ask(&address);
    checked.says("engine", "fail", "no host engine answers");
    ask(&format!("auto,{address}")).says("engine", "ok", "an embedded engine starts");
}

#[test]
fn the_port_and_the_exporter_behind_it() {
    let scratch = Scratch::new();
    let ask = |scratch: &Scratch, port: u16| {
        let other = Scratch::new();
        let checked = Checked::run(check(&other, &node()).args(["-a", &format!("127.0.0.1:{port}")]));
        assert!(scratch.path("").exists());
        checked
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in taken.incoming() {
            drop(client);
        }
    });
    ask(&scratch, port).says("port", "fail", &format!("{port} is in use by another program"));
    Checked::run(check(&scratch, &node()).args(["-a", "192.0.2.1:9400"])).says(
        "port",
        "fail",
        "192.0.2.1 is not an address",
    );

    let mut node = node();
    let mut exporter = Exporter::start(
        exporter()
            .env("DCGM_SIMULATOR_SCENARIO", scratch.write("scenario.json", node.to_string()))
            .args(["-c", "100", "--stale-after", "2s", "-f"])
            .arg(scratch.write("counters.csv", GPU_TEMP)),
    );
    exporter.page();
    let checked = ask(&scratch, exporter.port);
    checked.says("port", "ok", &format!("served by this exporter, version {}", env!("CARGO_PKG_VERSION")));
    checked.says("running exporter", "ok", "running");
    node["faults"]["frozen"] = json!([{ "entity": "GPU", "id": 1 }]);
    scratch.write("scenario.json", node.to_string());
    exporter
        .until("it is degraded", |exporter| exporter.get("/health").body.contains("no longer updated").then_some(()));
    ask(&scratch, exporter.port).says("running exporter", "warn", "its values are no longer updated");
    node["faults"]["frozen"] = [0, 1, 2].map(|id| json!({ "entity": "GPU", "id": id })).to_vec().into();
    scratch.write("scenario.json", node.to_string());
    exporter.until("no GPU answers", |exporter| (exporter.get("/health").status == 503).then_some(()));
    ask(&scratch, exporter.port).says("running exporter", "fail", "no GPU answers");
    node["faults"] = json!({ "hang_ms": { "dcgmUpdateAllFields": 600_000 } });
    scratch.write("scenario.json", node.to_string());
    exporter.until("it is stale", |exporter| exporter.get("/health").body.starts_with("stale").then_some(()));
    ask(&scratch, exporter.port).says("running exporter", "fail", "dcgmUpdateAllFields was called");
    assert_eq!(exporter.get("/metrics").status, 503, "it was asked, not ended");
}

#[test]
fn a_job_map_that_is_missing_open_to_all_or_full_of_rubbish() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    let jobs = scratch.path("jobs");
    let ask = |path: &Path| Checked::run(check(&scratch, &node()).arg("--hpc-job-mapping-dir").arg(path));
    ask(&jobs).says("job map", "warn", "does not exist");
    ask(&scratch.write("file", "")).says("job map", "fail", "is not a directory");
    std::fs::create_dir(&jobs).unwrap();
    std::fs::write(jobs.join("0"), "17\n18\n").unwrap();
    ask(&jobs).says("job map", "ok", "2 jobs on 1 GPUs");
    std::fs::write(jobs.join("minor9"), "17\n").unwrap();
    ask(&jobs).says("job map", "warn", "names a GPU 'minor9', which is not here");
    std::fs::remove_file(jobs.join("minor9")).unwrap();
    std::fs::set_permissions(&jobs, PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::create_dir(jobs.join("1")).unwrap();
    ask(&jobs).says("job map", "fail", "has mode 0777, others can write there, and is refused");
    let mut insecure = check(&scratch, &node());
    let checked = Checked::run(insecure.arg("--hpc-job-mapping-dir").arg(&jobs).arg("--job-map-insecure"));
    checked.says("job map", "warn", "--job-map-insecure allows it");
    checked.says("job map", "warn", "not a regular file");
}

/// What the machine itself would have to show, in a tree of the test's own.
#[test]
fn a_machine_with_driver_unit_and_settings() {
    use dcgm_exporter::check::{self, Host};
    let scratch = Scratch::new();
    let root = scratch.path("root");
    let write = |file: &str, text: &str| {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let counters = scratch.write("counters.csv", GPU_TEMP);
    let ask = || {
        let host = Host { root: root.clone(), is_image: false, systemctl: None };
        let typed = ["--libdcgm".into(), simulator().into()];
        check::run(&host, &typed, |_| None).answers
    };
    let found = |answers: &check::answers::Answers, question: &str, part: &str| {
        let answer = answers.iter().find(|answer| answer.question == question && answer.found.contains(part));
        answer.unwrap_or_else(|| panic!("no '{part}' for {question}: {}", answers.table())).status.name()
    };
    write(
        "proc/driver/nvidia/version",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release\n",
    );
    let answers = ask();
    assert_eq!(found(&answers, "driver", "580.65.06, but it has no GPU"), "fail");
    for gpu in 0..8 {
        let excluded = if gpu == 7 { "Yes" } else { "No" };
        let text = format!("Device Minor: \t {gpu}\nGPU Excluded:\t {excluded}\n");
        write(&format!("proc/driver/nvidia/gpus/0000:0{gpu}:00.0/information"), &text);
    }
    write("etc/systemd/system/dcgm-exporter.service", "[Service]\nEnvironmentFile=-/etc/dcgm-exporter/environment\n");
    write("etc/dcgm-exporter/environment", &format!("DCGM_EXPORTER_COLLECTORS={}\n", counters.display()));
    let answers = ask();
    assert_eq!(found(&answers, "driver", "GPUs: 8, of which 1 are excluded"), "warn");
    // The simulated node has eight.
    assert_eq!(found(&answers, "GPUs", "DCGM sees 8, the driver has 7"), "fail");
    assert_eq!(found(&answers, "settings", "/etc/dcgm-exporter/environment"), "ok");
    assert_eq!(found(&answers, "counters file", "counters.csv, 1 rows"), "ok");
    assert_eq!(found(&answers, "unit", "is not enabled"), "warn");
}

#[test]
fn xid_119_is_named() {
    let scratch = Scratch::new();
    let mut node = node();
    node["kernel_log"] = json!([{ "gpu": 1, "code": 119, "age_ms": 5000 }]);
    let checked = Checked::run(&mut check(&scratch, &node));
    let said = checked.report.to_string();
    assert!(said.contains("XID 119 on GPU 1"), "{:#}", checked.report);
}

/// A program of any user can answer as the exporter does; root's check must not take it for the exporter.
#[test]
fn a_stranger_that_answers_as_the_exporter_does() {
    use std::io::Write;
    let scratch = Scratch::new();
    let listening = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listening.local_addr().unwrap().port();
    let path = scratch.path("stranger.sock");
    let unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let answer = format!("HTTP/1.0 200 OK\r\n\r\nOK\nrunning{ESCAPES}\ndcgm_exporter_build_info{{version=\"9\"}} 1\n");
    let of_unix = answer.clone();
    std::thread::spawn(move || listening.incoming().for_each(|client| drop(client.unwrap().write(answer.as_bytes()))));
    std::thread::spawn(move || unix.incoming().for_each(|client| drop(client.unwrap().write(of_unix.as_bytes()))));
    let checked = Checked::run(check(&scratch, &node()).args(["-a", &format!("127.0.0.1:{port}")]));
    checked.says("port", "fail", &format!("{port} is in use by another program"));
    assert!(!checked.report.to_string().contains("pwned"), "{:#}", checked.report);
    let checked = Checked::run(check(&scratch, &node()).arg("-a").arg(format!("unix://{}", path.display())));
    checked.says("socket", "fail", "is in use by another program");
    assert!(!checked.report.to_string().contains("pwned"), "{:#}", checked.report);
}

/// An image as BCM has it, checked on its head node. Its links mean its own files.
#[test]
fn an_image_is_checked_without_leaving_it() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let scratch = Scratch::new();
    let image = scratch.path("image");
    let write = |file: &str, bytes: &[u8]| {
        let path = image.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    };
    // The beginning of an ELF file for aarch64, which cannot run here.
    let elf = |machine: u8| [b"\x7fELF\x02\x01".as_slice(), &[0; 12], &[machine, 0], &[0; 8]].concat();
    let program = write("usr/bin/dcgm-exporter", &elf(183));
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    write("usr/lib/aarch64-linux-gnu/libdcgm.so.4.5.0", &elf(183));
    symlink("libdcgm.so.4.5.0", image.join("usr/lib/aarch64-linux-gnu/libdcgm.so.4")).unwrap();
    write(
        "usr/lib/systemd/system/dcgm-exporter.service",
        b"[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=/usr/bin/dcgm-exporter\n\
          EnvironmentFile=-/etc/dcgm-exporter/environment\nDevicePolicy=closed\nDeviceAllow=/dev/kmsg r\n",
    );
    std::fs::create_dir_all(image.join("etc/systemd/system/multi-user.target.wants")).unwrap();
    let wants = image.join("etc/systemd/system/multi-user.target.wants/dcgm-exporter.service");
    symlink("/usr/lib/systemd/system/dcgm-exporter.service", wants).unwrap();
    write(
        "etc/dcgm-exporter/environment",
        b"DCGM_EXPORTER_COLLECTORS=/etc/dcgm-exporter/counters.csv\nDCGM_HPC_JOB_MAPPING_DIR=/run/dcgm-job-map\n",
    );
    // The same name exists outside, with one row more.
    write("srv/real.csv", format!("{GPU_TEMP}{CLOCK}").as_bytes());
    symlink("/srv/real.csv", image.join("etc/dcgm-exporter/counters.csv")).unwrap();
    write("usr/lib/tmpfiles.d/dcgm-exporter.conf", b"d /run/dcgm-job-map 0755 root root -\n");
    // What the shell of the head node has set is not the image's.
    let ask =
        || Checked::run(bare_exporter().env("DCGM_EXPORTER_COLLECTORS", "/nowhere.csv").arg("--root").arg(&image));
    let checked = ask();
    checked.says("program", "ok", "for aarch64");
    checked.says("library", "ok", "for aarch64; it was not loaded");
    checked.says("counters file", "ok", "image/srv/real.csv, 2 rows");
    checked.says("unit", "ok", "enabled by dcgm-exporter.service");
    checked.says("job map", "ok", "mode 0755");
    checked.says("start limit", "ok", "again and again");
    checked.says("kernel log", "ok", "/dev/kmsg");
    checked.says("second engine", "ok", "none");
    checked.says("left out", "ok", "need the node itself");
    assert_eq!(checked.status, 0, "{:#}", checked.report);
    // However the configuration file is named, it is the image's.
    write("srv/collect.yaml", b"version: 2\nmetrics:\n  file: /srv/real.csv\n");
    for name in [&["-config-file", "/srv/collect.yaml"][..], &["--config-file=/srv/collect.yaml"]] {
        let mut command = bare_exporter();
        let checked = Checked::run(command.arg("--root").arg(&image).args(name));
        checked.says("configuration file", "ok", "image/srv/collect.yaml");
    }

    // Links that lead out of the image find nothing, although the head node has the file.
    let outside = scratch.write("outside.csv", GPU_TEMP);
    std::fs::remove_file(image.join("etc/dcgm-exporter/counters.csv")).unwrap();
    symlink(&outside, image.join("etc/dcgm-exporter/counters.csv")).unwrap();
    write("usr/lib/aarch64-linux-gnu/libdcgm.so.4.5.0", &elf(62));
    std::fs::create_dir_all(image.join("usr/lib/systemd/system/sysinit.target.wants")).unwrap();
    let engine = image.join("usr/lib/systemd/system/sysinit.target.wants/nvidia-dcgm.service");
    symlink("../nvidia-dcgm.service", engine).unwrap();
    write("usr/lib/tmpfiles.d/dcgm-exporter.conf", b"d /run/dcgm-job-map 1777 root root -\n");
    let checked = ask();
    checked.says("counters file", "fail", "image");
    checked.says("library", "fail", "is for x86_64, and the exporter for aarch64");
    checked.says("second engine", "warn", "nvidia-dcgm.service is enabled");
    checked.says("job map", "fail", "mode 1777");

    // Whoever opens a FIFO waits for the other side.
    let library = "usr/lib/aarch64-linux-gnu/libdcgm.so.4.5.0";
    for file in [library, "usr/lib/tmpfiles.d/dcgm-exporter.conf", "etc/dcgm-exporter/environment"] {
        std::fs::remove_file(image.join(file)).unwrap();
        assert!(Command::new("mkfifo").arg(image.join(file)).status().unwrap().success());
    }
    let checked = ask();
    checked.says("second engine", "warn", "nvidia-dcgm.service is enabled");
    checked.says("library", "warn", "no libdcgm is in the places");

    let said = |command: &mut Command| String::from_utf8(command.output().unwrap().stdout).unwrap();
    let nowhere = said(bare_exporter().args(["--check", "--root", "/nowhere/at/all"]));
    assert!(nowhere.contains("no such directory"), "{nowhere}");
    let (_, alone) = refused(bare_exporter().arg("--root").arg(&image));
    assert!(alone.contains("--root is for --check only"), "{alone}");
}

/// What a running systemd says counts more than the files that lie there.
#[test]
fn a_unit_as_systemd_shows_it() {
    use dcgm_exporter::check::{self, Host};
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    let counters = scratch.write("counters.csv", GPU_TEMP);
    let unit = scratch.write(
        "elsewhere.service",
        format!("[Service]\nExecStart=/x -f {}\nProtectKernelLogs=yes\n", counters.display()),
    );
    let show = |unit: &str| {
        let program =
            scratch.write("systemctl", format!("#!/bin/sh\n[ \"$1\" = show ] || exit 1\ncat <<'END'\n{unit}\nEND\n"));
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let host = Host { root: "/".into(), is_image: false, systemctl: Some(program) };
        let typed = ["--libdcgm".into(), simulator().into(), "-a".into(), "127.0.0.1:0".into()];
        let answers = check::run(&host, &typed, |_| None).answers;
        move |question: &str, status: &str, part: &str| {
            let is_it = |answer: &&check::answers::Answer| {
                answer.question == question && answer.status.name() == status && answer.found.contains(part)
            };
            assert!(answers.iter().any(|answer| is_it(&answer)), "no {status} '{part}': {}", answers.table());
        }
    };
    let path = unit.display();
    let says = show(&format!(
        "Id=dcgm-exporter.service\nLoadState=loaded\nUnitFileState=enabled\nFragmentPath={path}\nDropInPaths=\n\
         NeedDaemonReload=yes\nResult=start-limit-hit\nStartLimitIntervalUSec=10s\nStartLimitBurst=5\nRestartUSec=100ms\n\n\
         Id=nvidia-dcgm.service\nUnitFileState=enabled\nActiveState=inactive\n"
    ));
    says("settings", "ok", "elsewhere.service");
    says("counters file", "ok", "counters.csv, 1 rows");
    says("unit", "ok", "elsewhere.service, enabled by dcgm-exporter.service");
    says("unit", "warn", "have changed since systemd read them");
    says("start limit", "fail", "given up");
    says("start limit", "warn", "after 5 failed starts within 10 s");
    says("kernel log", "warn", "ProtectKernelLogs=yes");
    says("second engine", "warn", "nvidia-dcgm.service is enabled");
    let says = show("Id=dcgm-exporter.service\nLoadState=masked\nUnitFileState=masked\nFragmentPath=/dev/null\n");
    says("unit", "warn", "is masked");
}

#[test]
fn tls_files_that_end_soon_and_job_files_that_others_read() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    let mode = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    scratch.write("cert.pem", params.self_signed(&key).unwrap().pem());
    let key = scratch.write("key.pem", key.serialize_pem());
    mode(&key, 0o644);
    let web = scratch.write("web.yml", "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n");
    let jobs = scratch.path("jobs");
    std::fs::create_dir(&jobs).unwrap();
    mode(&jobs, 0o755);
    std::fs::write(jobs.join("0"), "17\n").unwrap();
    std::fs::write(jobs.join("job.17"), "user=ann\n").unwrap();
    mode(&jobs.join("0"), 0o644);
    mode(&jobs.join("job.17"), 0o644);
    let ask = || {
        let mut command = check(&scratch, &node());
        Checked::run(command.arg("--web-config-file").arg(&web).arg("--hpc-job-mapping-dir").arg(&jobs))
    };
    let checked = ask();
    checked.says("TLS files", "fail", "is valid until Wed, 01 Jan 2020");
    checked.says("TLS files", "warn", "has mode 0644: every user can read the private key");
    checked.says("job map permissions", "warn", "every user can read whose jobs run here");
    mode(&jobs.join("job.17"), 0o640);
    mode(&jobs.join("0"), 0o666);
    mode(&key, 0o600);
    let checked = ask();
    checked.says("job map permissions", "warn", "users other than root can write in");
    checked.says("TLS files", "ok", "has mode 0600");
    mode(&jobs.join("0"), 0o644);
    ask().says("job map permissions", "ok", "has mode 0755");
}
