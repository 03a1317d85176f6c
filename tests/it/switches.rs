//! Switches, their links and links of GPUs as the real library's switch module treats them; groups that cannot be read.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::*;
use crate::node::*;

/// Two switches with four links each, one of them down, two GPUs with four links each, and two adapters.
fn board(switch_module: &str) -> Value {
    let mut board = scenario(&[0, 1]);
    board["replay"] = true.into();
    board["switch_module"] = switch_module.into();
    board["system"]["switches"] = json!([0, 1]);
    board["system"]["links"] = json!([
        { "parent": "SWITCH", "parent_id": 0, "states": [3, 3, 2, 3] },
        { "parent": "SWITCH", "parent_id": 1, "states": [3, 3, 3, 3] },
        { "parent": "GPU", "parent_id": 0, "states": [3, 3, 2, 1, 0] },
        { "parent": "GPU", "parent_id": 1, "states": [3, 3, 3, 3] },
    ]);
    board["system"]["connectx"] = json!([0, 1]);
    board
}

/// Every field of switches, links and adapters, each under the first name that it has.
fn every_switch_field() -> String {
    let mut rows = String::from(GPU_TEMP);
    let mut seen = std::collections::HashSet::new();
    for line in include_str!("../../src/dcgm/fields.csv").lines().skip(1) {
        let columns: Vec<&str> = line.split(',').collect();
        let is_of_switches = matches!(columns[3], "nvswitch" | "link" | "connectx");
        if is_of_switches && matches!(columns[2], "int64" | "double") && seen.insert(columns[1]) {
            rows.push_str(&format!("{}, gauge, h\n", columns[0]));
        }
    }
    assert!(seen.len() > 80, "{rows}");
    rows
}

fn lines<'a>(page: &'a str, metric: &str) -> Vec<&'a str> {
    page.lines().filter(|line| line.starts_with(metric) && line[metric.len()..].starts_with('{')).collect()
}

/// The value of a metric of the exporter's own without labels.
fn own(page: &str, name: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(name))?.parse().ok()
}

fn collections(page: &str) -> u64 {
    own(page, "dcgm_exporter_collections_total ").unwrap_or(0.0) as u64
}

/// How many entities have samples of these fields: switches, their links, adapters, links of GPUs.
fn shown(page: &str) -> [usize; 4] {
    let throughput = lines(page, "DCGM_FI_DEV_NVSWITCH_LINK_THROUGHPUT_TX");
    let of_links = throughput.iter().filter(|line| line.contains("nvlink=")).count();
    [
        throughput.len() - of_links,
        of_links,
        lines(page, "DCGM_FI_DEV_CONNECTX_ACTIVE_PCIE_LINK_WIDTH").len(),
        lines(page, "DCGM_FI_DEV_NVLINK_GET_STATE").len(),
    ]
}

/// Collects until the trials are over and `least` has passed; nothing may have stopped meanwhile.
fn all_stay_on_the_page(scratch: &Scratch, arguments: &[&str], least: Duration) {
    let mut exporter = start(scratch, &board("nvsdm"), &every_switch_field(), arguments);
    let has_all = |page: &str| shown(page) == [2, 8, 2, 7];
    exporter.page_with("everything has samples", has_all);
    let (begun, mut most) = (Instant::now(), 0);
    loop {
        std::thread::sleep(Duration::from_millis(20));
        let page = exporter.page();
        assert_eq!(shown(&page), [2, 8, 2, 7], "{page}");
        assert_eq!(lines(&page, "dcgm_exporter_entity_stale"), Vec::<&str>::new());
        assert!(page.contains("dcgm_exporter_state{state=\"running\"} 1\n"), "{}", exporter.log());
        most = most.max(collections(&page));
        if begun.elapsed() >= least && most >= 100 {
            break;
        }
    }
    let skipped = own(&exporter.page(), "dcgm_exporter_counters_skipped ");
    assert!(skipped.is_some_and(|skipped| skipped > 10.0), "{skipped:?}");
    let log = exporter.log();
    for kind in ["NvSwitch", "NvSwitch NvLink"] {
        assert_eq!(log.matches(&format!("no {kind} here has a sample of it")).count(), 1, "one line for all: {log}");
    }
    for line in log.lines().filter(|line| line.contains("has a sample of it")) {
        assert_eq!(log.matches(line.split("msg=").nth(1).unwrap()).count(), 1, "said once: {line}");
    }
}

#[test]
fn a_field_that_switches_lack_does_not_stop_the_others() {
    all_stay_on_the_page(&Scratch::new(), &["-c", "100"], Duration::from_secs(8));
}

/// Values that come every six seconds are not stale at a collection every 100 ms.
#[test]
fn nor_where_its_collection_is_slow() {
    let scratch = Scratch::new();
    let text = "version: 1\ncollection:\n  interval: 100ms\n  watchGroups:\n    - {name: slow, interval: 6s, fields: \
                ['DCGM_FI_DEV_NV*', 'DCGM_FI_DEV_[A-FH-MO-Z]*', 'DCGM_FI_PROF_*']}\n";
    let file = scratch.write("config.yaml", text);
    all_stay_on_the_page(&scratch, &["--config-file", file.to_str().unwrap()], Duration::from_secs(14));
}

#[test]
#[ignore = "takes ten minutes: make soak"]
fn a_field_that_switches_lack_does_not_stop_the_others_for_ten_minutes() {
    all_stay_on_the_page(&Scratch::new(), &["-c", "1000"], Duration::from_secs(600));
}

#[test]
fn nothing_is_skipped_where_fields_that_are_missing_do_no_harm() {
    let scratch = Scratch::new();
    let mut exporter = start(&scratch, &board("nscq"), &every_switch_field(), &["-c", "100"]);
    let page = exporter.page_with("it has collected", |page| collections(page) >= 20);
    assert_eq!(shown(&page), [2, 8, 2, 7], "{page}");
    assert!(!exporter.log().contains("has a sample of it"), "{}", exporter.log());
}

#[test]
fn a_switch_whose_values_stand_still_keeps_them_and_is_marked() {
    const TEMPERATURE: &str = "DCGM_FI_DEV_NVSWITCH_TEMPERATURE_CURRENT";
    let scratch = Scratch::new();
    let counters = format!("{GPU_TEMP}{TEMPERATURE}, gauge, s\nDCGM_FI_DEV_NVSWITCH_LINK_THROUGHPUT_TX, gauge, t\n");
    let mut plan = board("nscq");
    let mut exporter = start(&scratch, &plan, &counters, &["-c", "100"]);
    let page = exporter.page_with("switches have values", |page| lines(page, TEMPERATURE).len() == 2);
    assert!(!page.contains("dcgm_exporter_entity_stale"), "{page}");
    plan["faults"]["frozen"] = json!([{ "entity": "SWITCH", "id": 1 }]);
    scratch.write("scenario.json", plan.to_string());
    let page = exporter.page_with("it is marked", |page| page.contains("dcgm_exporter_entity_stale"));
    let stale = lines(&page, "dcgm_exporter_entity_stale");
    assert!(stale.len() == 1 && stale[0].contains("nvswitch=\"nvswitch1\"") && stale[0].ends_with("} 1"), "{stale:?}");
    assert_eq!(lines(&page, TEMPERATURE).len(), 2, "its last value stays");
    let health = exporter.get("/health");
    assert!(health.status == 200 && health.body.contains("NVSwitch 1: its values are no longer updated"), "{health:?}");
    plan["faults"]["frozen"] = json!([]);
    scratch.write("scenario.json", plan.to_string());
    exporter.page_with("it goes on", |page| !page.contains("dcgm_exporter_entity_stale"));
}

#[test]
fn links_are_counted_by_state_whatever_the_release() {
    for version in ["3.3.9", "4.5.3", "4.6.0"] {
        let (scratch, mut plan) = (Scratch::new(), board("nscq"));
        plan["version"] = version.into();
        let counters = format!("{GPU_TEMP}DCGM_EXP_NVLINK_LINKS, gauge, n\n");
        let page = start(&scratch, &plan, &counters, &["-c", "100"]).page();
        let count = |gpu: u32, state: &str| {
            value(&page, &["DCGM_EXP_NVLINK_LINKS{", &format!("gpu=\"{gpu}\""), &format!("state=\"{state}\"")])
        };
        assert_eq!(
            ["up", "down", "disabled"].map(|state| count(0, state)),
            [Some(2.0), Some(1.0), Some(1.0)],
            "{page}"
        );
        assert_eq!(
            ["up", "down", "disabled"].map(|state| count(1, state)),
            [Some(4.0), Some(0.0), Some(0.0)],
            "{version}"
        );
    }
}

/// 3.3.9 has no fields of GPU links.
#[test]
fn a_link_that_is_down_has_state_0() {
    for version in ["4.5.3", "4.6.0"] {
        let (scratch, mut plan) = (Scratch::new(), board("nscq"));
        plan["version"] = version.into();
        let down = json!({ "1508": { "type": "int64", "value": "0" } });
        plan["latest_values"] = json!([{ "entity": "LINK", "id": 2, "parent": "GPU", "parent_id": 0, "fields": down }]);
        let page = start(&scratch, &plan, "DCGM_FI_DEV_NVLINK_GET_STATE, gauge, s\n", &["-c", "100"]).page();
        let states = lines(&page, "DCGM_FI_DEV_NVLINK_GET_STATE");
        let down: Vec<_> = states.iter().filter(|line| line.ends_with(" 0")).collect();
        assert_eq!(states.len(), 7, "{version}\n{page}");
        assert!(down.len() == 1 && down[0].contains("nvlink=\"3\",gpu=\"0\""), "{version}: {down:?}");
    }
}

#[test]
fn a_gpu_that_cannot_be_read_costs_a_few_groups() {
    let scratch = Scratch::new();
    let ids: Vec<u32> = (0..32).collect();
    let mut plan = scenario(&ids);
    let mut exporter = start(&scratch, &plan, GPU_TEMP, &["-c", "100"]);
    exporter.page_with("all have samples", |page| lines(page, "DCGM_FI_DEV_GPU_TEMP").len() == 32);
    let before = stats(&scratch)["groups"].as_u64().unwrap();
    plan["faults"]["fail"] = json!([{ "call": "latest", "code": -3, "entity": "GPU", "id": 21 }]);
    scratch.write("scenario.json", plan.to_string());
    let page = exporter.page_with("it is found", |page| lines(page, "DCGM_FI_DEV_GPU_TEMP").len() == 31);
    assert!(!page.contains("DCGM_FI_DEV_GPU_TEMP{gpu=\"21\""), "{page}");
    let from = collections(&page);
    let page = exporter.page_with("it has collected again", |page| collections(page) > from + 2);
    assert_eq!(lines(&page, "DCGM_FI_DEV_GPU_TEMP").len(), 31);
    let after = stats(&scratch)["groups"].as_u64().unwrap();
    assert!(after > before && after <= before + 5, "log2(32) more than {before}: {after}");
    plan["faults"]["fail"] = json!([]);
    scratch.write("scenario.json", plan.to_string());
    exporter.page_with("it can be read again", |page| lines(page, "DCGM_FI_DEV_GPU_TEMP").len() == 32);
    exporter.until("the groups are joined", |exporter| {
        let page = exporter.page();
        assert_eq!(lines(&page, "DCGM_FI_DEV_GPU_TEMP").len(), 32, "{page}");
        (stats(&scratch)["groups"] == before).then_some(())
    });
    assert_eq!(stats(&scratch)["violations"], json!([]));
}

#[test]
fn errors_of_instances_that_are_not_reported_are_the_gpus() {
    let scratch = Scratch::new();
    let mut plan = scenario(&[0]);
    let instance = |id: u32| json!({ "parent_gpu": 0, "entity_id": id, "nvml_gpu_instance_id": 7 + id, "profile": "1g.18gb", "uuid": format!("MIG-{id}") });
    plan["system"]["gpu_instances"] = json!([instance(0), instance(1)]);
    plan["system"]["compute_instances"] = json!([{ "id": 5, "instance": 1 }]);
    let event = |entity: &str, id: u32, code: u32| json!({ "entity": entity, "id": id, "field_id": 230, "value": code, "count": 1, "every_ms": 0 });
    plan["events"] = json!([event("GPU_I", 0, 94), event("GPU_CI", 5, 31), event("GPU", 0, 48)]);
    let counters = "DCGM_EXP_XID_ERRORS_TOTAL, counter, t\n";
    // As a whole; one instance beside the GPU, which keeps its own.
    for (devices, of_gpu) in [("g", [Some(1.0), Some(1.0)]), ("g+i:0", [Some(0.0), Some(1.0)])] {
        let mut exporter = start(&scratch, &plan, counters, &["-c", "100", "-d", devices]);
        let total = |page: &str, code: &str, wants_instance: bool| {
            let mut lines = page.lines().filter(|line| line.starts_with("DCGM_EXP_XID_ERRORS_TOTAL{"));
            let line = lines.find(|line| {
                line.contains(&format!("xid=\"{code}\"")) && line.contains("GPU_I_ID") == wants_instance
            })?;
            line.rsplit(' ').next()?.parse::<f64>().ok()
        };
        let page = exporter.page_with("errors come", |page| {
            total(page, "48", false) == Some(1.0) && total(page, "31", false) == Some(1.0)
        });
        assert_eq!([total(&page, "94", false), total(&page, "31", false)], of_gpu, "-d {devices}\n{page}");
        assert_eq!(total(&page, "94", true), (devices != "g").then_some(1.0), "{page}");
    }
}

#[test]
fn rows_for_switches_without_the_module_are_no_secret() {
    let mut plan = board("nscq");
    plan["denied_modules"] = json!([1]);
    for rows in ["DCGM_FI_DEV_NVSWITCH_TEMPERATURE_CURRENT, gauge, t\n", "DCGM_FI_DEV_NVLINK_GET_STATE, gauge, s\n"] {
        let scratch = Scratch::new();
        let mut exporter = start(&scratch, &plan, &format!("{GPU_TEMP}{rows}"), &["-c", "100"]);
        let said =
            "degraded: rows for switches or links have no samples: the engine has not loaded its NVSwitch module";
        exporter.until("it says so", |exporter| exporter.get("/health").body.contains(said).then_some(()));
    }
    // Nobody asks for one.
    let scratch = Scratch::new();
    let mut exporter = start(&scratch, &plan, GPU_TEMP, &["-c", "100"]);
    exporter.page_with("it runs", |page| is_in_state(page, "running"));
}

crate::also_in_second_session!(
    a_field_that_switches_lack_does_not_stop_the_others,
    nothing_is_skipped_where_fields_that_are_missing_do_no_harm,
    a_switch_whose_values_stand_still_keeps_them_and_is_marked,
    links_are_counted_by_state_whatever_the_release,
    a_link_that_is_down_has_state_0,
    a_gpu_that_cannot_be_read_costs_a_few_groups,
    errors_of_instances_that_are_not_reported_are_the_gpus,
);
