//! The sources of computed metrics against the real binary: what they count across sessions, and what a failing one costs.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::*;
use crate::node::*;

fn release(exporter: &mut Exporter) {
    exporter.signal(Signal::USR1);
    exporter.page_with("the GPUs are released", |page| is_in_state(page, "released"));
}

/// A GPU with one instance, whose UUID is given, and a whole GPU.
fn sliced(uuid: &str) -> Value {
    let mut plan = scenario(&[0, 1]);
    plan["system"]["gpu_instances"] = json!([
        { "parent_gpu": 0, "entity_id": 0, "nvml_gpu_instance_id": 9, "profile": "1g.18gb", "uuid": uuid },
    ]);
    plan
}

#[test]
fn an_instance_that_is_made_while_the_gpus_are_released_starts_at_zero() {
    let scratch = Scratch::new();
    let mut plan = sliced("MIG-1");
    let events = |entity: &str, id: u32, count: u32| json!({ "entity": entity, "id": id, "field_id": 230, "value": 94, "count": count, "every_ms": 1 });
    plan["events"] = json!([events("GPU_I", 0, 3), events("GPU", 1, 2)]);
    let counters = "DCGM_EXP_XID_ERRORS_TOTAL, counter, t\nDCGM_EXP_LAST_XID_TIMESTAMP_SECONDS, gauge, l\n";
    let mut exporter = start(&scratch, &plan, counters, &["-c", "100"]);
    let totals = |page: &str| {
        let total = |gpu: &str| value(page, &["DCGM_EXP_XID_ERRORS_TOTAL{", gpu, "xid=\"94\""]);
        (total("GPU_I_ID=\"9\""), total("gpu=\"1\""))
    };
    exporter.page_with("both have errors", |page| totals(page) == (Some(3.0), Some(2.0)));
    // As it was: a release costs no count.
    release(&mut exporter);
    scratch.write("scenario.json", sliced("MIG-1").to_string());
    exporter.signal(Signal::USR2);
    exporter.page_with("both still have their errors", |page| totals(page) == (Some(3.0), Some(2.0)));
    // Sliced anew: another instance has the same id, place and profile.
    release(&mut exporter);
    scratch.write("scenario.json", sliced("MIG-2").to_string());
    exporter.signal(Signal::USR2);
    let page = exporter.page_with("they are back", |page| totals(page).0.is_some());
    assert_eq!(totals(&page), (Some(0.0), Some(2.0)), "{page}");
    assert_eq!(value(&page, &["DCGM_EXP_LAST_XID_TIMESTAMP_SECONDS{", "GPU_I_ID=\"9\""]), None);
}

#[test]
fn time_in_which_nothing_was_measured_does_not_count_as_throttling() {
    let scratch = Scratch::new();
    let mut plan = scenario(&[0]);
    plan["latest_values"][0]["fields"]["112"] = json!({ "type": "int64", "value": "64" });
    let counters = "DCGM_EXP_CLOCK_EVENTS_SECONDS_TOTAL, counter, s\nDCGM_EXP_CLOCK_EVENTS_TOTAL, counter, t\n";
    let mut exporter = start(&scratch, &plan, counters, &["-c", "100"]);
    let seconds = |page: &str| value(page, &["DCGM_EXP_CLOCK_EVENTS_SECONDS_TOTAL{", "hw_thermal"]);
    let page = exporter.page_with("it lasts", |page| seconds(page).is_some_and(|seconds| seconds > 0.3));
    let (before, start) = (seconds(&page).unwrap(), Instant::now());
    release(&mut exporter);
    let released = Instant::now();
    std::thread::sleep(Duration::from_secs(2));
    let released = released.elapsed();
    exporter.signal(Signal::USR2);
    let page = exporter.page_with("it goes on", |page| seconds(page).is_some_and(|seconds| seconds > before + 0.3));
    let (counted, measured) = (seconds(&page).unwrap() - before, (start.elapsed() - released).as_secs_f64());
    // The page may be of one interval before it was read.
    assert!(counted <= measured + 0.3, "{counted} s counted in {measured} s");
    assert_eq!(value(&page, &["DCGM_EXP_CLOCK_EVENTS_TOTAL{", "hw_thermal"]), Some(1.0), "it went on");
}

#[test]
fn an_error_of_a_sliced_gpu_is_shown_on_the_whole_gpu() {
    let scratch = Scratch::new();
    let mut plan = sliced("MIG-1");
    plan["events"] = json!([
        { "entity": "GPU", "id": 0, "field_id": 230, "value": 79, "count": 1, "every_ms": 0 },
        { "entity": "GPU_I", "id": 0, "field_id": 230, "value": 31, "count": 2, "every_ms": 0 },
    ]);
    let counters = "DCGM_FI_DRIVER_VERSION, label, d\nDCGM_FI_DEV_GPU_TEMP, gauge, t\nDCGM_FI_DEV_XID_ERRORS, gauge, x\n\
        DCGM_EXP_XID_ERRORS_TOTAL, counter, t\n";
    let mut exporter = start(&scratch, &plan, counters, &["-c", "100"]);
    let page = exporter.page_with("errors are counted", |page| page.contains("xid=\"79\"} 1\n"));
    let of_instance = "GPU_I_ID=\"9\"";
    let of = |metric: &str, xid: &str| -> Vec<(bool, f64)> {
        let lines = page.lines().filter(|line| line.starts_with(metric) && line.contains(xid));
        let counted = lines.map(|line| (line.contains(of_instance), value(line, &[metric]).unwrap()));
        counted.filter(|(_, number)| *number > 0.0).collect()
    };
    assert_eq!(of("DCGM_EXP_XID_ERRORS_TOTAL{", "xid=\"79\""), [(false, 1.0)]);
    assert_eq!(of("DCGM_EXP_XID_ERRORS_TOTAL{", "xid=\"31\""), [(true, 2.0)]);
    assert_eq!(of("DCGM_FI_DEV_XID_ERRORS{gpu=\"0\"", "err_code"), [(true, 31.0), (false, 79.0)], "{page}");
    // A whole GPU beside its instances has no samples that its instances have.
    assert_eq!(page.lines().filter(|line| line.starts_with("DCGM_FI_DEV_GPU_TEMP{gpu=\"0\"")).count(), 0, "{page}");
}

#[test]
fn a_source_that_fails_costs_its_own_samples() {
    let scratch = Scratch::new();
    let mut plan = scenario(&[0]);
    plan["faults"]["fail"] = json!([{ "call": "dcgmHealthCheck", "code": -3 }]);
    let counters = format!("{GPU_TEMP}DCGM_EXP_GPU_HEALTH_STATUS, gauge, h\nDCGM_EXP_CLOCK_EVENTS_TOTAL, counter, c\n");
    let mut exporter = start(&scratch, &plan, &counters, &["-c", "100"]);
    let success = |page: &str, source: &str| value(page, &["dcgm_exporter_source_success{", source]);
    let page = exporter.page_with("it fails", |page| success(page, "health") == Some(0.0));
    assert!(page.contains("DCGM_FI_DEV_GPU_TEMP{") && page.contains("DCGM_EXP_CLOCK_EVENTS_TOTAL{"), "{page}");
    assert!(!page.contains("DCGM_EXP_GPU_HEALTH_STATUS{"), "{page}");
    assert_eq!(success(&page, "clock_events"), Some(1.0), "{page}");
    assert!(value(&page, &["dcgm_exporter_source_duration_seconds{source=\"clock_events\""]).is_some_and(|s| s < 60.0));
    assert!(is_in_state(&page, "degraded") && success(&page, "p2p").is_none(), "{page}");
    scratch.write("scenario.json", scenario(&[0]).to_string());
    let page = exporter.page_with("it works again", |page| success(page, "health") == Some(1.0));
    assert_eq!(value(&page, &["DCGM_EXP_GPU_HEALTH_STATUS{", "health_watch=\"ALL\""]), Some(0.0), "{page}");
}

#[test]
fn one_instance_of_many_that_refuses_its_fields() {
    let scratch = Scratch::new();
    let ids: Vec<u32> = (0..16).collect();
    let mut plan = scenario(&ids);
    plan["replay"] = true.into();
    let instance = |id: u32| json!({ "parent_gpu": id / 7, "entity_id": id, "nvml_gpu_instance_id": 1 + id % 7, "profile": "1g.18gb", "uuid": format!("MIG-{id}") });
    plan["system"]["gpu_instances"] = (0..112).map(instance).collect();
    plan["faults"]["fail"] =
        json!([{ "call": "dcgmWatchFields", "code": -3, "entity": "GPU_I", "id": 5, "field": 150 }]);
    let mut exporter = start(&scratch, &plan, GPU_TEMP, &["-c", "100"]);
    let series = |page: &str| page.lines().filter(|line| line.starts_with("DCGM_FI_DEV_GPU_TEMP{")).count();
    let page = exporter.page_with("the others have samples", |page| series(page) > 0);
    assert_eq!(series(&page), 111);
    exporter.stop();
    let stats = stats(&scratch);
    assert_eq!(stats["calls"]["dcgmStartEmbedded_v2"], 1, "{stats}");
}

#[test]
fn an_engine_without_room_is_not_lost() {
    let scratch = Scratch::new();
    let mut plan = scenario(&[0]);
    plan["faults"]["fail"] = json!([{ "call": "dcgmFieldGroupCreate", "code": -24 }]);
    let counters = format!("{GPU_TEMP}DCGM_EXP_CLOCK_EVENTS_TOTAL, counter, c\nDCGM_EXP_GPU_HEALTH_STATUS, gauge, h\n");
    let mut exporter = start(&scratch, &plan, &counters, &["-c", "100"]);
    let page = exporter.page_with("it has collected", |page| page.contains("dcgm_exporter_collections_total 5\n"));
    assert!(is_in_state(&page, "degraded") && page.contains("DCGM_EXP_GPU_HEALTH_STATUS{"), "{page}");
    let health = exporter.get("/health").body;
    assert!(health.contains("the engine has no room for more groups (3 watches are missing)"), "{health}");
    exporter.stop();
    let stats = stats(&scratch);
    assert_eq!(stats["calls"]["dcgmStartEmbedded_v2"], 1, "{stats}");
}

/// Before the first error the field has no sample: the page says code 0 all the same, and the counter starts at 0, so that
/// Prometheus sees the first error as an increase.
#[test]
fn before_the_first_xid_there_is_a_series() {
    let mut node = Node::new(scenario(&[0, 1]));
    let mut exporter = Exporter::start(&mut node.exporter("DCGM_FI_DEV_XID_ERRORS, gauge, x\n"));
    let shown = |page: &str, gpu: u32| -> Vec<String> {
        let of_gpu = format!("DCGM_FI_DEV_XID_ERRORS{{gpu=\"{gpu}\"");
        let lines = page.lines().filter(|line| line.starts_with(&of_gpu));
        lines.map(|line| line[line.find("err_code").unwrap()..].to_owned()).collect()
    };
    let none = ["err_code=\"0\",err_msg=\"No Error\"} 0"];
    let page = exporter.page();
    assert_eq!(
        (shown(&page, 0), shown(&page, 1)),
        (none.map(str::to_owned).to_vec(), none.map(str::to_owned).to_vec())
    );
    let counted = |page: &str| ["0", "1"].map(|gpu| value(page, &[&format!("{XID_EVENTS}gpu=\"{gpu}\"")]));
    assert_eq!(counted(&page), [Some(0.0), Some(0.0)], "{page}");
    node.plan["events"] =
        json!([{ "entity": "GPU", "id": 1, "field_id": 230, "value": 31, "count": 2, "every_ms": 1 }]);
    node.play();
    let page = exporter.page_with("they are counted", |page| counted(page) == [Some(0.0), Some(2.0)]);
    assert_eq!(shown(&page, 0), none, "{page}");
    assert_eq!(shown(&page, 1), ["err_code=\"31\",err_msg=\"GPU memory page fault\"} 31"], "{page}");
}

/// Reading events costs libdcgm as much as reading everything else, so it is done when the field's latest value has moved.
#[test]
fn xid_events_are_read_when_there_are_new_ones() {
    let mut node = Node::new(scenario(&[0, 1]));
    let mut exporter = Exporter::start(&mut node.exporter("DCGM_FI_DEV_XID_ERRORS, gauge, x\n"));
    let reads = |node: &Node| node.stats()["calls"]["dcgmGetValuesSince_v2"].as_u64().unwrap_or(0);
    let (page, before) = (after_collections(&mut exporter, 3), reads(&node));
    after_collections(&mut exporter, 20);
    // One more where this took half a minute.
    assert!(reads(&node) <= before + 1, "{before}, then {}", reads(&node));
    assert_eq!(value(&page, &[&format!("{XID_EVENTS}gpu=\"1\"")]), Some(0.0), "{page}");
    let before = reads(&node);
    for round in 1..=3 {
        node.plan["events"] =
            json!([{ "entity": "GPU", "id": 1, "field_id": 230, "value": 31, "count": 1, "every_ms": round }]);
        node.play();
        // Errors of one second could have each other's time, and it is the newest that is looked at.
        let start = collections(&after_collections(&mut exporter, 12));
        let counted = |page: &str| value(page, &[&format!("{XID_EVENTS}gpu=\"1\"")]) == Some(f64::from(round));
        let page = exporter.page_with("it is counted", counted);
        assert!(collections(&page) < start + 50.0, "{round}: {start}\n{page}");
    }
    after_collections(&mut exporter, 3);
    let after = reads(&node);
    assert!((before + 3..=before + 7).contains(&after), "{before}, then {after}");
}

const XID_EVENTS: &str = "dcgm_exporter_xid_events_total{";

/// No row of the counters file asks for XIDs: the exporter watches the field for its own counter. It outlives the engine.
#[test]
fn xid_events_are_counted_without_a_row_and_over_a_reconnect() {
    let scratch = Scratch::new();
    let mut plan = sliced("MIG-1");
    plan["events"] = json!([
        { "entity": "GPU", "id": 0, "field_id": 230, "value": 79, "count": 1, "every_ms": 0 },
        { "entity": "GPU_I", "id": 0, "field_id": 230, "value": 31, "count": 3, "every_ms": 1 },
    ]);
    let mut exporter = start(&scratch, &plan, GPU_TEMP, &["-c", "100"]);
    let counted = |page: &str| -> Vec<(bool, bool, f64)> {
        let lines = page.lines().filter(|line| line.starts_with(XID_EVENTS));
        let of =
            |line: &str| (line.contains("gpu=\"0\""), line.contains("GPU_I_ID=\"9\""), value(line, &[""]).unwrap());
        lines.map(of).collect()
    };
    // The instance, the other GPU, and the GPU behind the instance.
    let all = [(true, true, 3.0), (false, false, 0.0), (true, false, 1.0)];
    let page = exporter.page_with("they are counted", |page| counted(page) == all);
    assert!(!page.contains("DCGM_FI_DEV_XID_ERRORS") && !page.contains("xid=\""), "{page}");
    release(&mut exporter);
    scratch.write("scenario.json", sliced("MIG-1").to_string());
    exporter.signal(Signal::USR2);
    exporter.page_with("they are counted still", |page| counted(page) == all);
    release(&mut exporter);
    scratch.write("scenario.json", sliced("MIG-2").to_string());
    exporter.signal(Signal::USR2);
    let page = exporter.page_with("it is sliced anew", |page| !counted(page).is_empty());
    assert_eq!(counted(&page), [(true, true, 0.0), (false, false, 0.0), (true, false, 1.0)]);
}

#[test]
fn without_its_own_metrics_the_exporter_reads_no_events() {
    let scratch = Scratch::new();
    let mut exporter = start(&scratch, &scenario(&[0]), GPU_TEMP, &["-c", "100", "--disable-exporter-metrics"]);
    assert!(!exporter.page().contains("dcgm_exporter_"));
    exporter.stop();
    let stats = stats(&scratch);
    assert!(stats["calls"]["dcgmGetValuesSince_v2"].is_null(), "{stats}");
}

/// Nobody needs them at every collection, and without a row nothing shows that there is one: they are read every five seconds.
#[test]
fn xid_events_alone_are_not_read_at_every_collection() {
    let scratch = Scratch::new();
    let started = Instant::now();
    let mut exporter = start(&scratch, &scenario(&[0]), GPU_TEMP, &["-c", "100"]);
    exporter.page_with("it has collected", |page| collections(page) >= 40.0);
    exporter.stop();
    let (stats, seconds) = (stats(&scratch), started.elapsed().as_secs_f64());
    let reads = stats["calls"]["dcgmGetValuesSince_v2"].as_f64().unwrap();
    // One per 4.5 s, and the first two.
    assert!(reads >= 1.0 && reads <= seconds / 4.5 + 2.0, "{reads} in {seconds} s: {stats}");
}

/// The labels of dcgm-exporter 4.8.3 come on demand: they make other series of those that are there.
#[test]
fn extended_labels_of_health_incidents_and_cpus() {
    let scratch = Scratch::new();
    let mut plan = scenario(&[0]);
    plan["replay"] = true.into();
    plan["system"]["cpus"] = json!([{ "id": 0, "cores": [0, 1], "serial": "0x1\"7" }, { "id": 1, "cores": [2] }]);
    plan["health_incidents"] = json!([{ "gpu": 0, "system": 0x10, "health": 20, "error_code": 4 }]);
    let counters = "DCGM_EXP_GPU_HEALTH_STATUS, gauge, h\nDCGM_FI_DEV_CPU_POWER_UTIL_CURRENT, gauge, p\n\
        DCGM_FI_DEV_CPU_UTIL_TOTAL, gauge, u\n";
    let lines = |page: &str, start: &str| -> Vec<String> {
        page.lines().filter(|line| line.starts_with(start)).map(str::to_owned).collect()
    };
    for (argument, mem, pass, cpu) in [
        (
            "--extended-labels",
            "health_error_category=\"HARDWARE_MEMORY\",health_error_code=\"DCGM_FR_VOLATILE_DBE_DETECTED\",\
             health_error_severity=\"ISOLATE\",health_watch=\"MEM\"} 20",
            "health_error_category=\"NONE\",health_error_code=\"DCGM_FR_OK\",health_error_severity=\"NONE\",\
             health_watch=\"SM\"} 0",
            "DCGM_FI_DEV_CPU_POWER_UTIL_CURRENT{cpu=\"0\",cpu_serial=\"0x1\\\"7\",hostname=\"",
        ),
        (
            "--extended-labels=false",
            "\",health_error_code=\"DCGM_FR_VOLATILE_DBE_DETECTED\",health_watch=\"MEM\"} 20",
            "\",health_error_code=\"DCGM_FR_OK\",health_watch=\"SM\"} 0",
            "DCGM_FI_DEV_CPU_POWER_UTIL_CURRENT{cpu=\"0\",hostname=\"",
        ),
    ] {
        let mut exporter = start(&scratch, &plan, counters, &["-c", "100", argument]);
        let page = exporter.page_with("all have values", |page| {
            page.contains("DCGM_FI_DEV_CPU_UTIL_TOTAL{") && page.contains("\"MEM\"} 20")
        });
        let health = lines(&page, "DCGM_EXP_GPU_HEALTH_STATUS{");
        assert!(
            health.iter().any(|line| line.ends_with(mem)) && health.iter().any(|line| line.ends_with(pass)),
            "{page}"
        );
        let cpus = lines(&page, "DCGM_FI_DEV_CPU_POWER_UTIL_CURRENT{");
        assert!(cpus.len() == 2 && cpus[0].starts_with(cpu), "{page}");
        assert!(cpus[1].contains("{cpu=\"1\",hostname="), "DCGM knows no serial of it: {page}");
        let cores = lines(&page, "DCGM_FI_DEV_CPU_UTIL_TOTAL{cpucore=");
        assert!(!cores.is_empty() && cores.iter().all(|line| !line.contains("cpu_serial")), "{page}");
    }
}
