//! Sessions with an engine: embedded and remote, lost and found, and what is left behind.

use std::time::Duration;

use crate::common::*;

fn counters(scratch: &Scratch) -> std::path::PathBuf {
    scratch.write("counters.csv", GPU_TEMP)
}

#[test]
fn a_host_engine_over_tcp_and_over_a_unix_socket() {
    let scratch = Scratch::new();
    let plan = scratch.write("scenario.json", scenario(&[0, 1]).to_string());
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let socket = scratch.path("engine.sock").display().to_string();
    let _tcp = HostEngine::start(["--listen", &address], &plan);
    let _unix = HostEngine::start(["--socket", &socket], &plan);
    for remote in [address, format!("unix://{socket}")] {
        let mut exporter = Exporter::start(&mut exporter_of(&scratch, &remote));
        let page = exporter.page();
        assert!(page.contains("hostname=\"node7\"} 31\n"), "{page}");
        assert!(page.contains(&format!("dcgm_exporter_engine_info{{mode=\"remote\",address=\"{remote}\"")), "{page}");
        let (status, took) = exporter.stop();
        assert!(status.success() && took < Duration::from_secs(2), "{status} after {took:?}");
        let mut named = exporter_of(&scratch, &remote);
        let mut named = Exporter::start(named.env("DCGM_EXPORTER_HOSTNAME", "node8"));
        assert!(named.page().contains("hostname=\"node8\"} 31\n"));
    }
}

fn exporter_of(scratch: &Scratch, remote: &str) -> std::process::Command {
    let mut command = exporter();
    command.args(["-r", remote, "-f"]).arg(counters(scratch)).env("NODE_NAME", "node7");
    command
}

#[test]
fn an_engine_that_comes_later_and_is_replaced() {
    let scratch = Scratch::new();
    let plan = scratch.write("scenario.json", scenario(&[0]).to_string());
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let mut exporter = Exporter::start(exporter().args(["-r", &address, "-c", "100", "-f"]).arg(counters(&scratch)));
    let health = exporter.until("it says what it waits for", |exporter| {
        Some(exporter.get("/health")).filter(|health| health.body.contains(&address))
    });
    assert_eq!(health.status, 503);
    assert!(health.body.starts_with("connecting: cannot connect to the host engine"), "{}", health.body);
    exporter.until("the log says so", |exporter| {
        exporter.log().contains("Failed to connect to remote hostengine").then_some(())
    });
    let first = HostEngine::start(["--listen", &address], &plan);
    assert!(exporter.page().contains("} 30\n"));
    drop(first);
    exporter.until("the loss is noticed", |exporter| exporter.log().contains("the DCGM engine is gone").then_some(()));
    let mut other = scenario(&[0]);
    other["latest_values"][0]["fields"]["150"]["value"] = "77".into();
    let plan = scratch.write("scenario.json", other.to_string());
    let _second = HostEngine::start(["--listen", &address], &plan);
    exporter.page_with("samples come from the new engine", |page| page.contains("} 77\n"));
}

#[test]
fn nothing_is_left_in_the_engine_and_no_call_is_wrong() {
    let scratch = Scratch::new();
    let stats = scratch.path("stats.json");
    let counters = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("counters/default-counters.csv");
    let mut exporter =
        Exporter::start(exporter().env("DCGM_SIMULATOR_STATS", &stats).args(["-c", "100", "-f"]).arg(counters));
    exporter.page_with("it has collected five times", |page| page.contains("dcgm_exporter_collections_total 5"));
    let (status, took) = exporter.stop();
    assert!(status.success() && took < Duration::from_secs(3), "{status} after {took:?}");
    let stats: serde_json::Value = serde_json::from_slice(&std::fs::read(stats).unwrap()).unwrap();
    for left in ["sessions", "groups", "field_groups", "watches"] {
        assert_eq!(stats[left], 0, "{stats}");
    }
    assert_eq!(stats["violations"].as_array().unwrap().len(), 0, "{stats}");
    let calls = |name: &str| stats["calls"][name].as_u64().unwrap_or(0);
    assert_eq!(calls("dcgmGroupCreate"), calls("dcgmGroupDestroy"));
    assert_eq!(calls("dcgmGetLatestValues_v2"), calls("dcgmUpdateAllFields"), "one read a collection: {stats}");
}

#[test]
fn a_library_of_dcgm_3() {
    let scratch = Scratch::new();
    let mut v3 = scenario(&[0, 5]);
    v3["version"] = "3.3.9".into();
    v3["system"]["links"] = serde_json::json!([{ "parent": "GPU", "parent_id": 5, "states": [3, 2] }]);
    v3["system"]["switches"] = serde_json::json!([0, 1]);
    v3["latest_values"].as_array_mut().unwrap().push(serde_json::json!({
        "entity": "SWITCH", "id": 1, "fields": { "858": { "type": "int64", "value": "45" } },
    }));
    v3["health_incidents"] = serde_json::json!([{ "gpu": 5, "system": 16, "health": 10, "error_code": 4 }]);
    let plan = scratch.write("scenario.json", v3.to_string());
    let counters = scratch.write(
        "counters.csv",
        "DCGM_FI_DEV_GPU_TEMP, gauge, t\nDCGM_FI_DEV_NVSWITCH_TEMPERATURE_CURRENT, gauge, s\n\
         DCGM_EXP_GPU_HEALTH_STATUS, gauge, h\nDCGM_EXP_P2P_STATUS, gauge, p\n\
         DCGM_FI_DEV_NVLINK_PPCNT_PLR_RCV_CODES, counter, newer than 3.3.9\n\
         DCGM_FI_DEV_NVLINK_GET_STATE, gauge, newer\n",
    );
    let mut exporter = Exporter::start(exporter().env("DCGM_SIMULATOR_SCENARIO", plan).arg("-f").arg(counters));
    let page = exporter.page();
    assert!(page.contains("DCGM_FI_DEV_GPU_TEMP{gpu=\"5\"") && page.contains("nvswitch=\"nvswitch1\""), "{page}");
    assert!(page.contains("health_error_code=\"DCGM_FR_VOLATILE_DBE_DETECTED\",health_watch=\"MEM\"} 10\n"), "{page}");
    assert!(page.contains("dcgm_exporter_counters_skipped 2\n"), "{page}");
    let skipped = "Skipping 'DCGM_FI_DEV_NVLINK_PPCNT_PLR_RCV_CODES', 'DCGM_FI_DEV_NVLINK_GET_STATE': metric not enabled; \
                   libdcgm 3.3.9 does not have this field";
    assert!(exporter.log().contains(skipped), "{}", exporter.log());
}

#[test]
fn fields_and_entities_that_are_refused_cost_only_themselves() {
    let scratch = Scratch::new();
    let mut plan = scenario(&[0, 1, 2]);
    plan["faults"] = serde_json::json!({ "fail": [
        { "call": "dcgmWatchFields", "code": -3, "field": 155 },
        { "call": "dcgmGetDeviceAttributes", "code": -18, "entity": "GPU", "id": 1 },
    ] });
    let path = scratch.write("scenario.json", plan.to_string());
    let counters = scratch.write("counters.csv", "DCGM_FI_DEV_GPU_TEMP, gauge, t\nDCGM_FI_DEV_POWER_USAGE, gauge, p\n");
    let mut exporter = Exporter::start(exporter().env("DCGM_SIMULATOR_SCENARIO", path).arg("-f").arg(counters));
    let page = exporter.page();
    assert!(page.contains("gpu=\"0\"") && page.contains("gpu=\"2\"") && !page.contains("gpu=\"1\""), "{page}");
    let log = exporter.log();
    assert!(log.contains("GPU 1 cannot be named") && log.contains("Skipping 'DCGM_FI_DEV_POWER_USAGE'"), "{log}");
}

#[test]
fn gpus_of_different_models_each_answer_what_they_can() {
    let scratch = Scratch::new();
    let mut plan = scenario(&[0, 1]);
    plan["profiling_by_gpu"] = serde_json::json!({ "0": [1001], "1": [] });
    for (index, value) in [(0, "0.5"), (1, "0.75")] {
        plan["latest_values"][index]["fields"]["1001"] = serde_json::json!({ "type": "double", "value": value });
    }
    let path = scratch.write("scenario.json", plan.to_string());
    let counters =
        scratch.write("counters.csv", "DCGM_FI_DEV_GPU_TEMP, gauge, t\nDCGM_FI_PROF_GR_ENGINE_ACTIVE, gauge, g\n");
    let mut exporter = Exporter::start(exporter().env("DCGM_SIMULATOR_SCENARIO", path).arg("-f").arg(counters));
    let page = exporter.page_with("profiling has a value", |page| page.contains("} 0.500000\n"));
    assert!(page.contains("} 31\n") && !page.contains("0.750000"), "{page}");
}

#[test]
fn more_fields_than_a_field_group_holds() {
    let scratch = Scratch::new();
    let table = include_str!("../../src/dcgm/fields.csv");
    let gpu_fields = table.lines().map(|line| line.split(',').collect::<Vec<_>>()).filter(|columns| {
        columns[2] == "int64"
            && columns[3] == "gpu"
            && !columns[4].is_empty()
            && columns[1].parse::<u16>().is_ok_and(|id| !(1000..1100).contains(&id))
    });
    let mut ids = std::collections::BTreeMap::new();
    for columns in gpu_fields {
        ids.entry(columns[1].to_owned()).or_insert(columns[0].to_owned());
    }
    let names: Vec<_> = ids.into_iter().take(300).collect();
    assert!(names.len() > 2 * 127, "{} fields", names.len());
    let mut plan = scenario(&[0]);
    for (id, _) in &names {
        plan["latest_values"][0]["fields"][id] = serde_json::json!({ "type": "int64", "value": id });
    }
    let path = scratch.write("scenario.json", plan.to_string());
    let rows: String = names.iter().map(|(_, name)| format!("{name}, gauge, x\n")).collect();
    let counters = scratch.write("counters.csv", rows);
    // Without own metrics values that cannot be stay, such as 203 % of use.
    let mut command = exporter();
    command.env("DCGM_SIMULATOR_SCENARIO", path).args(["--disable-exporter-metrics", "-f"]).arg(counters);
    let page = Exporter::start(&mut command).page();
    for (id, name) in names {
        assert!(
            page.lines().any(|line| line.starts_with(&format!("{name}{{")) && line.ends_with(&format!(" {id}"))),
            "{name}"
        );
    }
}

#[test]
fn an_engine_that_is_not_there_does_not_hold_the_exit() {
    let scratch = Scratch::new();
    let address = format!("127.0.0.1:{}", free_port());
    let mut exporter = Exporter::start(exporter().args(["-r", &address, "-f"]).arg(counters(&scratch)));
    std::thread::sleep(Duration::from_millis(100));
    let (status, took) = exporter.stop();
    assert!(status.success() && took < Duration::from_secs(1), "{status} after {took:?}");
}

#[test]
fn an_engine_that_hangs_does_not_hold_the_exit() {
    let scratch = Scratch::new();
    let mut plan = scenario(&[0]);
    let path = scratch.write("scenario.json", plan.to_string());
    let mut exporter = Exporter::start(
        exporter().env("DCGM_SIMULATOR_SCENARIO", &path).args(["-c", "100", "-f"]).arg(counters(&scratch)),
    );
    exporter.page();
    plan["faults"]["hang_ms"]["dcgmUpdateAllFields"] = 60_000.into();
    scratch.write("scenario.json", plan.to_string());
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(exporter.get("/metrics").status, 200, "scrapes go on");
    let (status, took) = exporter.stop();
    assert!(!status.success() && took < Duration::from_secs(5), "{status} after {took:?}");
    assert!(exporter.log().contains("dcgmUpdateAllFields"), "{}", exporter.log());
}

#[test]
fn a_killed_client_of_a_unix_socket_leaves_the_engine_alone() {
    let scratch = Scratch::new();
    let plan = scratch.write("scenario.json", scenario(&[0]).to_string());
    let socket = scratch.path("engine.sock").display().to_string();
    let mut engine = HostEngine::start(["--socket", &socket], &plan);
    for _ in 0..3 {
        let mut exporter =
            Exporter::start(exporter().args(["-r", &format!("unix://{socket}"), "-f"]).arg(counters(&scratch)));
        exporter.page();
        signal_to(exporter.pid(), Signal::KILL);
    }
    assert!(engine.is_running());
}

#[test]
fn auto_uses_the_nodes_engine_while_there_is_one() {
    let scratch = Scratch::new();
    let own = scratch.write("own.json", scenario(&[0]).to_string());
    let mut other = scenario(&[0]);
    other["latest_values"][0]["fields"]["150"]["value"] = "77".into();
    let other = scratch.write("other.json", other.to_string());
    let address = format!("127.0.0.1:{}", free_port());
    let mut exporter = Exporter::start(
        exporter()
            .env("DCGM_SIMULATOR_SCENARIO", own)
            .env("NODE_NAME", "node7")
            .args(["-c", "100", "-r", &format!("auto,{address}"), "-f"])
            .arg(counters(&scratch)),
    );
    let embedded = |page: &str| page.contains("engine_info{mode=\"embedded\",address=\"\"") && page.contains("} 30\n");
    let remote = |page: &str| {
        page.contains(&format!("engine_info{{mode=\"remote\",address=\"{address}\""))
            && page.contains("hostname=\"node7\"} 77\n")
    };
    exporter.page_with("the embedded engine answers", embedded);
    let engine = HostEngine::start(["--listen", &address], &other);
    exporter.page_with("the node's engine has taken over", remote);
    drop(engine);
    exporter.page_with("the embedded engine answers again", embedded);
    // A restart of the node's engine does not start an embedded one in the meantime.
    let engine = HostEngine::start(["--listen", &address], &other);
    exporter.page_with("the node's engine has taken over", remote);
    let starts = exporter.log().matches("Attempting to initialize DCGM").count();
    drop(engine);
    exporter.page_with("samples are gone", |page| !page.contains("DCGM_FI_DEV_GPU_TEMP"));
    let _engine = HostEngine::start(["--listen", &address], &other);
    exporter.page_with("the node's engine is back", remote);
    assert_eq!(exporter.log().matches("Attempting to initialize DCGM").count(), starts, "{}", exporter.log());
}

#[test]
fn auto_does_not_insist_on_somebody_who_is_no_host_engine() {
    let scratch = Scratch::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let mut exporter = Exporter::start(
        exporter()
            .env("DCGM_SIMULATOR_SCENARIO", scratch.write("scenario.json", scenario(&[0]).to_string()))
            .args(["-r", &format!("auto,{address}"), "-f"])
            .arg(counters(&scratch)),
    );
    exporter.page_with("the embedded engine answers", |page| page.contains("engine_info{mode=\"embedded\""));
    assert!(
        exporter.log().contains(&format!("{address} accepts connections but is not a usable DCGM host engine")),
        "{}",
        exporter.log()
    );
}

/// The only test that needs DCGM's own port.
#[test]
fn a_host_engine_beside_the_embedded_one_is_said() {
    let scratch = Scratch::new();
    let plan = scratch.write("engine.json", scenario(&[0]).to_string());
    let is_free = std::net::TcpListener::bind("127.0.0.1:5555").is_ok();
    let _engine = is_free.then(|| HostEngine::start(["--listen", "127.0.0.1:5555"], &plan));
    const AMPERE: i64 = 8 << 16;
    const HOPPER: i64 = 9 << 16;
    for (capability, says) in [
        (Some(HOPPER), "(Hopper or newer, compute capability 9.0) both work, profiling included"),
        (Some(AMPERE), "(before Hopper, compute capability 8.0) profiling has one owner"),
        (None, "on GPUs before Hopper profiling has one owner"),
    ] {
        let mut own = scenario(&[0]);
        if let Some(capability) = capability {
            own["latest_values"][0]["fields"]["63"] =
                serde_json::json!({ "type": "int64", "value": capability.to_string() });
        }
        let plan = scratch.write("own.json", own.to_string());
        let mut exporter =
            Exporter::start(exporter().env("DCGM_SIMULATOR_SCENARIO", plan).arg("-f").arg(counters(&scratch)));
        exporter.page();
        let log = exporter.log();
        let line = log.lines().find(|line| line.contains("a host engine answers at")).expect("it is said");
        assert!(line.contains(says) && line.contains("-r auto, or -r "), "{line}");
    }
}

/// The exporter, `--once`, `--check` and `--list-fields` take the same library for an engine of another release line.
#[test]
fn everybody_uses_the_library_of_the_engines_line() {
    let scratch = Scratch::new();
    let plan = scratch.write("scenario.json", scenario(&[0]).to_string());
    let older = scratch.write("older.json", {
        let mut plan = scenario(&[0]);
        plan["version"] = "3.3.9".into();
        plan.to_string()
    });
    for soname in ["libdcgm.so.4", "libdcgm.so.3"] {
        std::fs::copy(simulator(), scratch.path(soname)).unwrap();
    }
    let socket = scratch.path("engine.sock").display().to_string();
    let _engine = HostEngine::start(["--socket", &socket], &older);
    let address = format!("unix://{socket}");
    let command = |arguments: &[&str]| {
        let mut command = bare_exporter();
        command.env("LD_LIBRARY_PATH", scratch.path("")).env("DCGM_SIMULATOR_SCENARIO", &plan);
        command.args(["-a", "127.0.0.1:0", "-r", &address, "-f"]).arg(counters(&scratch)).args(arguments);
        command
    };
    let mut exporter = Exporter::start(&mut command(&["-c", "100"]));
    let page = exporter.page_with("there are samples", |page| page.contains("DCGM_FI_DEV_GPU_TEMP{"));
    assert!(page.contains("dcgm_exporter_library_info{version=\"3.3.9\""), "{page}");
    let printed = |arguments: &[&str]| {
        let output = command(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    let once = printed(&["--once"]);
    assert!(once.contains("DCGM_FI_DEV_GPU_TEMP{"), "{once}");
    let check = printed(&["--check"]);
    assert!(
        check.contains(&format!("the host engine at {address} answers")) && check.contains("DCGM 3.3.9"),
        "{check}"
    );
    let fields = printed(&["--list-fields", "GPU_TEMP"]);
    let temperature = fields.lines().find(|line| line.starts_with("DCGM_FI_DEV_GPU_TEMP ")).unwrap_or_default();
    assert!(temperature.ends_with("yes       yes") && !fields.contains("no host engine"), "{fields}");
}

#[test]
fn libdcgm_logs_at_the_level_that_was_asked_for() {
    let scratch = Scratch::new();
    let mut command = exporter();
    command.args(["--enable-dcgm-log", "--dcgm-log-level", "DEBUG", "-f"]).arg(counters(&scratch));
    let log = scratch.path("stdout");
    let mut child =
        command.stdout(std::fs::File::create(&log).unwrap()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let end = std::time::Instant::now() + PATIENCE;
    let text = || std::fs::read_to_string(&log).unwrap();
    while !text().contains("logging at DEBUG") && std::time::Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    let text = text();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(text.contains("logging at DEBUG"), "{text}");
}
