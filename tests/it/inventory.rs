//! Which entities there are and what they are called: links, instances, GPUs that come and go, by release of DCGM.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::*;

/// GPUs whose fields have values of the recording; a link of one answers GPU × 1,000,000 + link × 10,000 + field.
fn node(gpus: u32) -> Value {
    let mut node = scenario(&(0..gpus).collect::<Vec<_>>());
    node["replay"] = true.into();
    node["latest_values"] = json!([]);
    node
}

fn start(scratch: &Scratch, plan: &Value, counters: &str) -> Exporter {
    let plan = scratch.write("scenario.json", plan.to_string());
    let counters = scratch.write("counters.csv", counters);
    let environment = ("DCGM_SIMULATOR_SCENARIO", plan);
    Exporter::start(exporter().env(environment.0, environment.1).args(["-c", "100", "-f"]).arg(counters))
}

fn lines<'a>(page: &'a str, metric: &str) -> Vec<&'a str> {
    let start = format!("{metric}{{");
    page.lines().filter(|line| line.starts_with(&start)).collect()
}

/// A page after the engine has been looked at again: a look comes every second.
fn after_another_look(exporter: &mut Exporter) -> String {
    std::thread::sleep(Duration::from_millis(1500));
    exporter.page()
}

fn no_series_twice(page: &str) {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        *seen.entry(line.rsplit_once(' ').unwrap().0).or_default() += 1;
    }
    let twice: Vec<_> = seen.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "{twice:?}\n{page}");
}

/// 1508 comes from NVML, 586 from port registers that 4.6 numbers from 0, 1509 from one that no release does.
#[test]
fn every_link_has_its_own_value_under_its_own_label() {
    let counters = "DCGM_FI_DEV_NVLINK_GET_STATE, gauge, s\nDCGM_FI_DEV_NVLINK_PPCNT_PLR_RCV_CODES, counter, c\n\
        DCGM_FI_DEV_NVLINK_PPCNT_IBPC_PORT_XMIT_WAIT, counter, w\n";
    for version in ["4.5.3", "4.6.0"] {
        let (scratch, mut plan) = (Scratch::new(), node(2));
        plan["version"] = version.into();
        plan["system"]["links"] = json!([
            { "parent": "GPU", "parent_id": 0, "states": vec![3; 18] },
            { "parent": "GPU", "parent_id": 1, "states": vec![3; 18] },
        ]);
        let page = start(&scratch, &plan, counters).page();
        no_series_twice(&page);
        for (metric, field) in [
            ("DCGM_FI_DEV_NVLINK_GET_STATE", 1508),
            ("DCGM_FI_DEV_NVLINK_PPCNT_PLR_RCV_CODES", 586),
            ("DCGM_FI_DEV_NVLINK_PPCNT_IBPC_PORT_XMIT_WAIT", 1509),
        ] {
            assert_eq!(lines(&page, metric).len(), 36, "{version} {metric}");
            for (gpu, label) in (0..2).flat_map(|gpu| (1..=18).map(move |label| (gpu, label))) {
                let labels = format!("{metric}{{nvlink=\"{label}\",gpu=\"{gpu}\",");
                let line = page.lines().find(|line| line.starts_with(&labels)).unwrap_or_else(|| panic!("{page}"));
                let expected = gpu * 1_000_000 + (label - 1) * 10_000 + field;
                assert!(line.ends_with(&format!(" {expected}")), "{version}: {line}");
            }
        }
    }
}

#[test]
fn a_link_that_goes_down_keeps_its_series() {
    let (scratch, mut plan) = (Scratch::new(), node(1));
    let links = |states: Value, first: &str| {
        let state = json!({ "1508": { "type": "int64", "value": first } });
        let of_link = json!({ "entity": "LINK", "id": 0, "parent": "GPU", "parent_id": 0, "fields": state });
        (json!([{ "parent": "GPU", "parent_id": 0, "states": states }]), json!([of_link]))
    };
    (plan["system"]["links"], plan["latest_values"]) = links(json!([3, 3, 1, 0]), "1");
    let mut exporter = start(&scratch, &plan, "DCGM_FI_DEV_NVLINK_GET_STATE, gauge, s\n");
    let page = exporter.page();
    // Disabled ones, and those that are not there, are left out.
    assert_eq!(lines(&page, "DCGM_FI_DEV_NVLINK_GET_STATE").len(), 2, "{page}");
    (plan["system"]["links"], plan["latest_values"]) = links(json!([2, 3, 1, 0]), "0");
    scratch.write("scenario.json", plan.to_string());
    let is_down = |line: &&str| line.contains("nvlink=\"1\"") && line.ends_with(" 0");
    let page = exporter.page_with("it is down", |page| lines(page, "DCGM_FI_DEV_NVLINK_GET_STATE").iter().any(is_down));
    assert_eq!(lines(&page, "DCGM_FI_DEV_NVLINK_GET_STATE").len(), 2, "{page}");
    after_another_look(&mut exporter);
    assert_eq!(exporter.log().matches("entities found").count(), 1, "{}", exporter.log());
}

#[test]
fn links_by_release() {
    let counters = "DCGM_FI_DEV_GPU_TEMP, gauge, t\nDCGM_FI_DEV_NVSWITCH_LINK_THROUGHPUT_TX, counter, x\n\
        DCGM_FI_DEV_NVLINK_PPCNT_PLR_RCV_CODES, counter, c\n";
    // Of each release: links of GPUs, links of switches.
    for (version, of_gpus, of_switches) in [("3.3.9", 0, 4), ("4.2.3", 0, 0), ("4.4.2", 2, 4), ("4.6.0", 2, 4)] {
        let (scratch, mut plan) = (Scratch::new(), node(1));
        plan["version"] = version.into();
        plan["system"]["switches"] = json!([0, 5]);
        plan["system"]["links"] = json!([
            { "parent": "GPU", "parent_id": 0, "states": [3, 3] },
            { "parent": "SWITCH", "parent_id": 0, "states": [3, 3] },
            { "parent": "SWITCH", "parent_id": 5, "states": [3, 3] },
        ]);
        let mut exporter = start(&scratch, &plan, counters);
        let page = after_another_look(&mut exporter);
        no_series_twice(&page);
        assert_eq!(lines(&page, "DCGM_FI_DEV_GPU_TEMP").len(), 1, "{version}\n{page}");
        assert_eq!(lines(&page, "DCGM_FI_DEV_NVLINK_PPCNT_PLR_RCV_CODES").len(), of_gpus, "{version}\n{page}");
        let throughput = lines(&page, "DCGM_FI_DEV_NVSWITCH_LINK_THROUGHPUT_TX");
        let of_links = throughput.iter().filter(|line| line.contains("nvlink=")).count();
        assert_eq!(of_links, of_switches, "{version}\n{page}");
        let said = exporter.log().matches("NVLinks are left out: DCGM 4.2.3").count();
        assert_eq!(said, usize::from(version == "4.2.3"), "{}", exporter.log());
    }
}

/// DCGM 3.3 answers "no data" with a 0, which must not become a sample.
#[test]
fn no_false_zero_on_dcgm_3() {
    let (scratch, mut plan) = (Scratch::new(), scenario(&[0]));
    plan["version"] = "3.3.9".into();
    plan["system"]["switches"] = json!([0]);
    let counters = "DCGM_FI_DEV_GPU_TEMP, gauge, t\nDCGM_FI_DEV_XID_ERRORS, gauge, x\n\
        DCGM_FI_DEV_NVSWITCH_TEMPERATURE_CURRENT, gauge, s\nDCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL, counter, b\n";
    let mut exporter = start(&scratch, &plan, counters);
    let page = after_another_look(&mut exporter);
    assert_eq!(lines(&page, "DCGM_FI_DEV_GPU_TEMP").len(), 1, "{page}");
    // But for XIDs, of which "no data" says that there was none.
    let zeros: Vec<&str> = page.lines().filter(|line| line.starts_with("DCGM_FI_") && line.ends_with(" 0")).collect();
    let is_none = |line: &str| line.starts_with("DCGM_FI_DEV_XID_ERRORS{") && line.contains("err_code=\"0\"");
    assert!(zeros.len() == 1 && is_none(zeros[0]), "{page}");
}

fn sliced(profiles: &[&str]) -> Value {
    let mut plan = node(2);
    let instance = |(number, profile): (usize, &&str)| {
        json!({
            "parent_gpu": 0, "entity_id": number, "nvml_gpu_instance_id": 7 + number, "profile": profile,
            "uuid": format!("MIG-{number}"),
        })
    };
    plan["system"]["gpu_instances"] = profiles.iter().enumerate().map(instance).collect();
    plan
}

/// `i:GPU.ID` is what nvidia-smi and the page have; a plain number is DCGM's, as for NVIDIA's exporter. Messages have both.
#[test]
fn instances_are_selected_by_either_number() {
    let counters = "DCGM_FI_DEV_GPU_TEMP, gauge, t\n";
    let plan = sliced(&["1g.18gb"; 7]);
    let scratch = Scratch::new();
    let file = scratch.write("scenario.json", plan.to_string());
    let start = |devices: &str| {
        let mut command = exporter();
        command.env("DCGM_SIMULATOR_SCENARIO", &file).args(["-c", "100", "-d", devices, "-f"]);
        Exporter::start(command.arg(scratch.write("counters.csv", counters)))
    };
    let shown = |devices: &str| -> Vec<String> {
        let page = start(devices).page();
        let id = |line: &str| match line.split_once("GPU_I_ID=\"") {
            Some((_, rest)) => rest.split('"').next().unwrap().to_owned(),
            None => "whole".to_owned(),
        };
        lines(&page, "DCGM_FI_DEV_GPU_TEMP").into_iter().map(id).collect()
    };
    assert_eq!(shown("i:0.7,0.9"), ["7", "9"]);
    assert_eq!(shown("i:0,2"), ["7", "9"]);
    assert_eq!(shown("i:0,0.7,0.8"), ["7", "8"]);
    assert_eq!(shown("g:1+i:0.13"), ["whole", "13"]);
    // 7 is an instance of nvidia-smi's here, and none of DCGM's.
    let mut exporter = start("i:7,1.7");
    for part in [
        "--devices lists GPU instance 7, which does not exist (there are: 0.7, DCGM's 0; 0.8, DCGM's 1; ",
        "--devices lists GPU instance 1.7, which does not exist",
    ] {
        exporter.until(part, |exporter| exporter.log().contains(part).then_some(()));
    }
    let nothing = "--devices selects none of 2 GPUs and 7 MIG instances";
    assert!(exporter.log().contains(nothing), "{}", exporter.log());
    let health = exporter.get("/health").body;
    assert!(health.contains(&format!("degraded: {nothing}")), "{health}");
    let mut check = crate::common::exporter();
    check.env("DCGM_SIMULATOR_SCENARIO", &file).args(["--check", "-d", "i:7", "-f"]);
    let said = check.arg(scratch.path("counters.csv")).output().unwrap().stdout;
    let said = String::from_utf8(said).unwrap();
    assert!(said.lines().any(|line| line.starts_with("warn  GPUs") && line.contains("selects none of")), "{said}");
}

#[test]
fn instances_are_told_apart_without_their_profiles() {
    let (scratch, mut plan) = (Scratch::new(), sliced(&["1g.18gb"; 7]));
    plan["faults"]["fail"] = json!([{ "call": "dcgmWatchFields", "field": 50, "code": -24 }]);
    let mut exporter = start(&scratch, &plan, "DCGM_FI_DEV_GPU_TEMP, gauge, t\n");
    let page = exporter.page();
    let of_instances: Vec<&str> =
        lines(&page, "DCGM_FI_DEV_GPU_TEMP").into_iter().filter(|line| line.contains("gpu=\"0\"")).collect();
    assert_eq!(of_instances.len(), 7, "{page}");
    for (line, id) in of_instances.iter().zip(7..) {
        assert!(line.contains(&format!(",GPU_I_ID=\"{id}\"")) && !line.contains("GPU_I_PROFILE"), "{line}");
    }
    no_series_twice(&page);
    // When the engine has room again, the profiles come.
    plan["faults"]["fail"] = json!([]);
    scratch.write("scenario.json", plan.to_string());
    let page = exporter.page_with("profiles are known", |page| page.matches("GPU_I_PROFILE=\"1g.18gb\"").count() >= 7);
    no_series_twice(&page);
}

#[test]
fn a_gpu_that_is_unbound_leaves_and_comes_back() {
    let (scratch, mut plan) = (Scratch::new(), node(2));
    let mut exporter = start(&scratch, &plan, "DCGM_FI_DEV_GPU_TEMP, gauge, t\n");
    let temperatures = |page: &str| lines(page, "DCGM_FI_DEV_GPU_TEMP").len();
    exporter.page_with("both are here", |page| temperatures(page) == 2);
    let warning = "GPU 1 is left out: it is detached (unbound from the NVIDIA driver)";
    let files = |exporter: &Exporter| std::fs::read_dir(format!("/proc/{}/fd", exporter.pid())).unwrap().count();
    // After this many every buffer has its size.
    const SETTLED: usize = 3;
    const NOISE_KIB: u64 = 256;
    let mut before = (0, 0);
    for round in 1..=10 {
        plan["faults"]["unbound_gpus"] = json!([1]);
        scratch.write("scenario.json", plan.to_string());
        // Not before the exporter has looked: who is back by then was never away.
        exporter.until("it is missed", |exporter| (exporter.log().matches(warning).count() == round).then_some(()));
        let page = exporter.page_with("one is gone", |page| temperatures(page) == 1 && exporter_sees(page, 0));
        no_series_twice(&page);
        plan["faults"]["unbound_gpus"] = json!([]);
        scratch.write("scenario.json", plan.to_string());
        let page = exporter.page_with("both are back", |page| temperatures(page) == 2 && exporter_sees(page, 1));
        no_series_twice(&page);
        if round == SETTLED {
            before = (files(&exporter), exporter.resident_kib());
        }
    }
    // The connection of the last request may still be open.
    assert!(files(&exporter) <= before.0 + 1, "descriptors are left open: {} after {}", files(&exporter), before.0);
    let resident = exporter.resident_kib();
    assert!(resident <= before.1 + NOISE_KIB, "memory grows: {} KiB, then {resident}", before.1);
}

/// What the page says of GPU 1.
fn exporter_sees(page: &str, up: u8) -> bool {
    let up = format!(" {up}");
    lines(page, "dcgm_exporter_entity_up").iter().any(|line| line.contains("gpu=\"1\"") && line.ends_with(&up))
}

crate::also_in_second_session!(
    every_link_has_its_own_value_under_its_own_label,
    a_link_that_goes_down_keeps_its_series,
    links_by_release,
    no_false_zero_on_dcgm_3,
    instances_are_told_apart_without_their_profiles,
    a_gpu_that_is_unbound_leaves_and_comes_back,
);
