//! Entities of every kind on one node, coming and going, and the metrics computed from their events.

use std::time::Duration;

use serde_json::{Value, json};

use crate::common::*;
use crate::node::*;

/// An HGX board with Grace-like CPUs: GPUs sliced or whole, switches, links of both, CPUs with cores, adapters.
fn board(gpus: u32, instances_per_gpu: u32, switches: u32, links_per_gpu: usize, cpus: u32, cores: u32) -> Value {
    let ids: Vec<u32> = (0..gpus).collect();
    let mut board = scenario(&ids);
    board["replay"] = true.into();
    board["latest_values"] = json!([]);
    board["supported_profiling_fields"] = Value::Null;
    let instance = |number: u32| {
        json!({
            "parent_gpu": number / instances_per_gpu, "entity_id": number,
            "nvml_gpu_instance_id": 7 + number % instances_per_gpu, "profile": "1g.18gb",
        })
    };
    let gpu_links =
        ids.iter().map(|gpu| json!({ "parent": "GPU", "parent_id": gpu, "states": vec![3; links_per_gpu] }));
    let switch_links =
        (0..switches).map(|switch| json!({ "parent": "SWITCH", "parent_id": switch, "states": [3, 3, 2, 3] }));
    board["system"]["gpu_instances"] = (0..gpus * instances_per_gpu).map(instance).collect();
    board["system"]["switches"] = (0..switches).collect();
    board["system"]["links"] = gpu_links.chain(switch_links).collect();
    board["system"]["cpus"] = (0..cpus)
        .map(|cpu| json!({ "id": cpu, "cores": (cpu * cores..(cpu + 1) * cores).collect::<Vec<_>>() }))
        .collect();
    board["system"]["connectx"] = json!([0, 1]);
    board
}

const EVERY_KIND: &str = "DCGM_FI_DEV_GPU_TEMP, gauge, g\nDCGM_FI_DEV_NVSWITCH_TEMPERATURE_CURRENT, gauge, s\n\
    DCGM_FI_DEV_NVLINK_PPCNT_PLR_RCV_CODES, counter, l\nDCGM_FI_DEV_NVSWITCH_LINK_THROUGHPUT_TX, counter, t\n\
    DCGM_FI_DEV_CPU_UTIL_TOTAL, gauge, c\n\
    DCGM_FI_DEV_CONNECTX_ACTIVE_PCIE_LINK_WIDTH, gauge, x\n";

#[test]
fn every_kind_is_shown_and_selected() {
    let scratch = Scratch::new();
    // Throughput is of switches and of their links.
    for (arguments, gpus, switches, gpu_links, switch_links, cpus_and_cores) in [
        (&["-c", "100"][..], 2, 2, 2 * 18, 2 + 2 * 4, 2 + 8),
        (&["-c", "100", "-d", "g:1", "-s", "g", "-p", "g"], 1, 2, 18, 2, 2),
        (&["-c", "100", "-d", "i", "-s", "i", "-p", "i"], 0, 0, 0, 2 * 4, 8),
        (&["-c", "100", "-d", "g", "-s", "g:1+i:0-1", "-p", "g:1+i:5"], 2, 1, 2 * 18, 1 + 2, 1 + 1),
    ] {
        // Utilisation of a CPU takes two samples.
        let page = start(&scratch, &board(2, 0, 2, 18, 2, 4), EVERY_KIND, arguments)
            .page_with("CPUs have values", |page| series(page, "DCGM_FI_DEV_CPU_UTIL_TOTAL") > 0);
        let counts = [
            series(&page, "DCGM_FI_DEV_GPU_TEMP"),
            series(&page, "DCGM_FI_DEV_NVSWITCH_TEMPERATURE_CURRENT"),
            series(&page, "DCGM_FI_DEV_NVLINK_PPCNT_PLR_RCV_CODES"),
            series(&page, "DCGM_FI_DEV_NVSWITCH_LINK_THROUGHPUT_TX"),
            series(&page, "DCGM_FI_DEV_CPU_UTIL_TOTAL"),
            series(&page, "DCGM_FI_DEV_CONNECTX_ACTIVE_PCIE_LINK_WIDTH"),
        ];
        assert_eq!(counts, [gpus, switches, gpu_links, switch_links, cpus_and_cores, 2], "{arguments:?}");
    }
}

#[test]
fn a_kind_that_cannot_be_read_leaves_the_others_alone_and_is_said_once() {
    let scratch = Scratch::new();
    let mut plan = board(1, 0, 1, 2, 1, 2);
    plan["faults"]["fail"] = json!([
        { "call": "dcgmGetNvLinkLinkStatus", "code": -3 }, { "call": "dcgmGetCpuHierarchy", "code": -3 },
    ]);
    let mut exporter = start(&scratch, &plan, EVERY_KIND, &["-c", "100"]);
    let page = exporter.page_with("it has looked around again", |page| {
        !(1..=15).any(|count| page.contains(&format!("dcgm_exporter_collections_total {count}\n")))
    });
    assert_eq!(series(&page, "DCGM_FI_DEV_GPU_TEMP"), 1);
    assert_eq!(series(&page, "DCGM_FI_DEV_NVSWITCH_TEMPERATURE_CURRENT"), 1);
    assert_eq!(series(&page, "DCGM_FI_DEV_CPU_UTIL_TOTAL"), 0);
    for kind in ["GPU NvLink", "NvSwitch NvLink", "CPU"] {
        let said = exporter.log().matches(&format!("Not collecting {kind} metrics; ")).count();
        assert_eq!(said, 1, "{}", exporter.log());
    }
}

#[test]
fn one_read_for_each_group_and_none_for_labels_alone() {
    let scratch = Scratch::new();
    let calls = |scratch: &Scratch| -> Value {
        let stats = stats(scratch);
        assert_eq!(stats["violations"], json!([]));
        stats["calls"].clone()
    };
    let large = board(8, 7, 4, 18, 2, 72);
    let mut exporter = start(&scratch, &large, EVERY_KIND, &["-c", "200"]);
    let page = exporter.page_with("it has looked around again", |page| {
        let count = page.lines().find_map(|line| line.strip_prefix("dcgm_exporter_collections_total "));
        count.is_some_and(|count| count.parse::<u64>().unwrap() >= 34)
    });
    assert_eq!(series(&page, "DCGM_FI_DEV_GPU_TEMP"), 56);
    exporter.stop();
    let of_large = calls(&scratch);
    // GPUs, switches, links of switches, CPUs, cores, adapters; and once, however many looks, for the profiles of the
    // instances. Links of GPUs are read live, those of each GPU for themselves.
    assert!(of_large["dcgmGetGpuInstanceHierarchy"].as_u64().unwrap() > 1, "{of_large}");
    let reads = of_large["dcgmGetLatestValues_v2"].as_u64().unwrap() - 1;
    let updates = of_large["dcgmUpdateAllFields"].as_u64().unwrap() - 1;
    assert_eq!(reads, 6 * updates, "{of_large}");
    assert_eq!(of_large["dcgmEntitiesGetLatestValues"].as_u64(), Some(8 * updates), "{of_large}");

    let labels = "DCGM_FI_DEV_GPU_TEMP, gauge, g\nDCGM_FI_DRIVER_VERSION, label, d\n";
    let mut exporter = start(&scratch, &board(2, 0, 4, 18, 2, 72), labels, &[]);
    exporter.page();
    exporter.stop();
    let of_labels = calls(&scratch);
    assert_eq!(of_labels["dcgmGetLatestValues_v2"], 1, "{of_labels}");
    assert_eq!(of_labels["dcgmGetNvLinkLinkStatus"], Value::Null, "{of_labels}");
}

#[test]
fn slicing_a_gpu_while_running() {
    let scratch = Scratch::new();
    let mut exporter = start(&scratch, &board(2, 0, 0, 0, 0, 0), GPU_TEMP, &["-c", "100"]);
    exporter
        .page_with("both are whole", |page| series(page, "DCGM_FI_DEV_GPU_TEMP") == 2 && !page.contains("GPU_I_ID"));
    let mut mixed = board(2, 0, 0, 0, 0, 0);
    mixed["system"]["gpu_instances"] = json!([
        { "parent_gpu": 1, "entity_id": 0, "nvml_gpu_instance_id": 9, "profile": "1g.18gb" },
        { "parent_gpu": 1, "entity_id": 1, "nvml_gpu_instance_id": 2, "profile": "3g.71gb" },
    ]);
    scratch.write("scenario.json", mixed.to_string());
    let page = exporter.page_with("one is sliced", |page| series(page, "DCGM_FI_DEV_GPU_TEMP") == 3);
    assert!(value(&page, &["gpu=\"0\""]).is_some() && !page.contains("gpu=\"1\",UUID=\"GPU-1\",pci_bus_id=\"00000000:02:00.0\",device=\"nvidia1\",modelName=\"NVIDIA H200\",hostname"));
    assert!(page.contains("GPU_I_PROFILE=\"3g.71gb\",GPU_I_ID=\"2\""), "{page}");
    mixed["system"]["gpu_instances"] = json!([
        { "parent_gpu": 0, "entity_id": 0, "nvml_gpu_instance_id": 1, "profile": "7g.141gb" },
    ]);
    scratch.write("scenario.json", mixed.to_string());
    let page = exporter.page_with("the other is", |page| page.contains("7g.141gb"));
    assert!(series(&page, "DCGM_FI_DEV_GPU_TEMP") == 2 && !page.contains("1g.18gb"), "{page}");
    // Links that come up are found by the same look.
    assert!(exporter.log().matches("entities found").count() == 3, "{}", exporter.log());
}

#[test]
fn base_units_by_the_library_or_by_conversion() {
    let scratch = Scratch::new();
    let counters = "DCGM_FI_DEV_SM_CLOCK_HERTZ, gauge, a\nDCGM_FI_DEV_SM_CLOCK, gauge, b\nDCGM_FI_DEV_GPU_UTIL_RATIO, gauge, c\n\
        DCGM_FI_DEV_GPU_ENERGY_JOULES_TOTAL, counter, d\nDCGM_FI_DEV_GPU_POWER_THROTTLE_SECONDS_TOTAL, counter, e\n\
        DCGM_FI_DEV_NVLINK_THROUGHPUT_BYTES_PER_SECOND, gauge, f\n";
    let int = |value: &str| json!({ "type": "int64", "value": value });
    let mut plan = scenario(&[0]);
    plan["latest_values"][0]["fields"] = json!({
        "100": int("1980"), "156": int("9007199254740993999"), "203": int("37"), "240": int("1500000000"),
        "1603": int("1980000001"), "1613": { "type": "double", "value": "0.371" },
    });
    for (version, hertz, ratio) in [("4.6.0", "1980000000", "0.370000"), ("4.7.0", "1980000001", "0.371000")] {
        plan["version"] = version.into();
        let page = start(&scratch, &plan, counters, &[]).page();
        let has = |metric: &str, value: &str| {
            let line =
                page.lines().find(|line| line.starts_with(&format!("{metric}{{"))).unwrap_or_else(|| panic!("{page}"));
            assert!(line.ends_with(&format!(" {value}")), "{version}: {line}");
        };
        has("DCGM_FI_DEV_SM_CLOCK_HERTZ", hertz);
        has("DCGM_FI_DEV_SM_CLOCK", "1980");
        has("DCGM_FI_DEV_GPU_UTIL_RATIO", ratio);
        if version == "4.6.0" {
            has("DCGM_FI_DEV_GPU_ENERGY_JOULES_TOTAL", "9007199254740993");
            has("DCGM_FI_DEV_GPU_POWER_THROTTLE_SECONDS_TOTAL", "1.500000");
            assert!(page.contains("dcgm_exporter_counters_skipped 1\n"), "no factor is known for NVLink");
        }
    }
}

/// Six thousand errors, many within one collection, and a job that comes in between.
#[test]
fn every_xid_error_is_counted() {
    let scratch = Scratch::new();
    let counters = "DCGM_FI_DEV_XID_ERRORS, gauge, x\nDCGM_EXP_XID_ERRORS_TOTAL, counter, t\nDCGM_EXP_XID_ERRORS_COUNT, gauge, c\n\
        DCGM_EXP_LAST_XID_TIMESTAMP_SECONDS, gauge, l\n";
    let mut plan = scenario(&[0, 1]);
    plan["latest_values"] = json!([]);
    plan["events"] = json!([
        { "entity": "GPU", "id": 1, "field_id": 230, "value": 94, "count": 6000, "after_ms": 1500, "every_ms": 1 },
        { "entity": "GPU", "id": 1, "field_id": 230, "value": 31, "count": 5, "after_ms": 1500, "every_ms": 0 },
    ]);
    std::fs::create_dir(scratch.path("jobs")).unwrap();
    std::fs::write(scratch.path("jobs/1"), "17\n").unwrap();
    let jobs = scratch.path("jobs").display().to_string();
    let mut exporter = start(&scratch, &plan, counters, &["-c", "100", "--hpc-job-mapping-dir", &jobs]);
    let total = |page: &str, job: &str| value(page, &["DCGM_EXP_XID_ERRORS_TOTAL{gpu=\"1\"", "xid=\"94\"", job]);
    let page = exporter.page_with("counters are there", |page| total(page, "hpc_job=\"17\"").is_some());
    assert_eq!(total(&page, "hpc_job=\"17\""), Some(0.0), "it starts at zero, for increase()");
    assert_eq!(value(&page, &["DCGM_EXP_XID_ERRORS_COUNT{gpu=\"0\""]), Some(0.0));
    exporter.page_with("errors come", |page| total(page, "hpc_job=\"17\"").is_some_and(|count| count > 1000.0));
    std::fs::write(scratch.path("jobs/1"), "18\n").unwrap();
    // A file written in place is empty for a moment: what happens then belongs to no job.
    let sum = |page: &str| -> f64 {
        let of_this =
            |line: &&str| line.starts_with("DCGM_EXP_XID_ERRORS_TOTAL{gpu=\"1\"") && line.contains("xid=\"94\"");
        page.lines().filter(of_this).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    let page = exporter.page_with("all errors are counted", |page| sum(page) >= 6000.0);
    assert_eq!(sum(&page), 6000.0);
    assert!(total(&page, "hpc_job=\"18\"").unwrap() > 500.0, "the second job has its own");
    assert_eq!(value(&page, &["DCGM_EXP_XID_ERRORS_COUNT{gpu=\"1\"", "xid=\"94\""]), Some(6000.0));
    assert_eq!(
        value(&page, &["DCGM_EXP_XID_ERRORS_TOTAL{gpu=\"1\"", "xid=\"31\"", "err_msg=\"GPU memory page fault\""]),
        Some(5.0)
    );
    let last = value(&page, &["DCGM_EXP_LAST_XID_TIMESTAMP_SECONDS{gpu=\"1\""]).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert!((now.as_secs_f64() - last) < Duration::from_secs(10).as_secs_f64(), "{last}");
}

#[test]
fn clock_events_begin_and_last() {
    let scratch = Scratch::new();
    let counters = "DCGM_EXP_CLOCK_EVENTS_TOTAL, counter, t\nDCGM_EXP_CLOCK_EVENTS_SECONDS_TOTAL, counter, s\nDCGM_EXP_CLOCK_EVENTS_COUNT, gauge, c\n";
    let mask = |mask: &str| {
        let mut plan = scenario(&[0]);
        plan["latest_values"][0]["fields"]["112"] = json!({ "type": "int64", "value": mask });
        plan
    };
    let mut exporter = start(&scratch, &mask("0"), counters, &["-c", "100"]);
    let total = |page: &str| value(page, &["DCGM_EXP_CLOCK_EVENTS_TOTAL{", "power_cap"]);
    exporter.page_with("it is at zero", |page| total(page) == Some(0.0));
    for times in 1..=3 {
        scratch.write("scenario.json", mask("4").to_string());
        exporter.page_with("it begins", |page| total(page) == Some(f64::from(times)));
        scratch.write("scenario.json", mask("1").to_string());
        exporter.page_with("it ends", |page| {
            value(page, &["DCGM_EXP_CLOCK_EVENTS_TOTAL{", "gpu_idle"]) == Some(f64::from(times))
        });
    }
    let page = exporter.page();
    let seconds = value(&page, &["DCGM_EXP_CLOCK_EVENTS_SECONDS_TOTAL{", "power_cap"]).unwrap();
    assert!(seconds > 0.2 && seconds < 20.0, "{seconds}");
    assert!(
        value(&page, &["DCGM_EXP_CLOCK_EVENTS_COUNT{", "clock_event=\"power_cap\"", "window_size_in_ms=\"300000\""])
            .unwrap()
            >= 3.0
    );
}

#[test]
fn health_and_p2p_honour_the_selection_and_the_worst_wins() {
    let scratch = Scratch::new();
    let counters =
        "DCGM_FI_DRIVER_VERSION, label, d\nDCGM_EXP_GPU_HEALTH_STATUS, gauge, h\nDCGM_EXP_P2P_STATUS, gauge, p\n";
    let mut plan = board(3, 0, 0, 0, 0, 0);
    plan["system"]["gpu_instances"] =
        json!([{ "parent_gpu": 2, "entity_id": 0, "nvml_gpu_instance_id": 9, "profile": "1g.18gb" }]);
    plan["health_incidents"] = json!([
        { "gpu": 1, "system": 16, "health": 20, "error_code": 95 }, { "gpu": 1, "system": 16, "health": 10, "error_code": 4 },
        { "gpu": 2, "system": 1, "health": 10, "error_code": 3 },
    ]);
    plan["p2p_matrix"] = json!([[0, 0, 3], [0, 0, 6], [3, 6, 0]]);
    let page = start(&scratch, &plan, counters, &[]).page();
    assert_eq!((series(&page, "DCGM_EXP_GPU_HEALTH_STATUS"), series(&page, "DCGM_EXP_P2P_STATUS")), (33, 6));
    assert_eq!(value(&page, &["DCGM_EXP_GPU_HEALTH_STATUS{gpu=\"1\"", "health_watch=\"MEM\""]), Some(20.0));
    // A sliced GPU has its health as a whole, with the labels of a whole GPU.
    let sliced = ["DCGM_EXP_GPU_HEALTH_STATUS{gpu=\"2\"", "DCGM_FI_DRIVER_VERSION=", "health_watch=\"PCIE\""];
    assert_eq!(value(&page, &sliced), Some(10.0), "{page}");
    assert!(page.contains("link_status=\"Unknown\",peer_gpu=\"2\"} 6\n"), "{page}");
    assert!(page.lines().filter(|line| line.starts_with("DCGM_")).all(|line| !line.contains("GPU_I_ID")), "{page}");
    let page = start(&scratch, &plan, counters, &["-d", "g:1"]).page();
    assert_eq!((series(&page, "DCGM_EXP_GPU_HEALTH_STATUS"), series(&page, "DCGM_EXP_P2P_STATUS")), (11, 2));
}

#[test]
fn a_library_that_does_not_know_a_module() {
    let scratch = Scratch::new();
    let mut plan = scenario(&[0]);
    plan["unknown_module"] = 10.into();
    let mut exporter = start(&scratch, &plan, GPU_TEMP, &[]);
    assert!(exporter.page().contains("DCGM_FI_DEV_GPU_TEMP{"));
    assert!(exporter.log().contains("libdcgm cannot leave out modules"), "{}", exporter.log());
}

#[test]
fn the_counters_file_is_judged_on_request() {
    let scratch = Scratch::new();
    let file = scratch
        .write("counters.csv", "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL, counter, n\nDCGM_FI_DEV_GPU_TEMP, gauge, t\n");
    let output = bare_exporter().arg("--check-counters").arg("-f").arg(&file).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && said.contains("counters.csv:1: ") && said.contains("is a gauge: it is a rate"),
        "{said}"
    );
    assert!(said.contains("2 rows can be used"), "{said}");
    let bad = scratch.write("bad.csv", "DCGM_FI_NOPE, gauge, n\n");
    let output = bare_exporter().arg("--check-counters").arg("-f").arg(&bad).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stdout).unwrap().contains("bad.csv:1: "));
}

/// NVML may give memory for compute instances alone.
#[test]
fn an_instance_without_a_value_shows_that_of_its_only_compute_instance() {
    let scratch = Scratch::new();
    let mut plan = scenario(&[0]);
    let instance =
        |id: u32| json!({ "parent_gpu": 0, "entity_id": id, "nvml_gpu_instance_id": 7 + id, "profile": "1g.18gb" });
    plan["system"]["gpu_instances"] = (0..3).map(instance).collect();
    // The last instance is divided into two.
    let parts = [(0, 10), (1, 11), (2, 12), (2, 13)];
    plan["system"]["compute_instances"] = parts.iter().map(|(of, id)| json!({ "instance": of, "id": id })).collect();
    let values = |entity: &str, id: u32, used: Option<u32>| {
        let mut fields = json!({ "150": { "type": "int64", "value": "40" } });
        if let Some(used) = used {
            fields["252"] = json!({ "type": "int64", "value": used.to_string() });
        }
        json!({ "entity": entity, "id": id, "fields": fields })
    };
    plan["latest_values"] = json!([
        values("GPU_I", 0, None),
        values("GPU_CI", 10, Some(100)),
        values("GPU_I", 1, Some(201)),
        values("GPU_CI", 11, Some(101)),
        values("GPU_I", 2, None),
        values("GPU_CI", 12, Some(102)),
        values("GPU_CI", 13, Some(103)),
    ]);
    let mut exporter = Exporter::start(
        exporter()
            .env("DCGM_SIMULATOR_SCENARIO", scratch.write("scenario.json", plan.to_string()))
            .args(["-c", "100", "-f"])
            .arg(scratch.write("counters.csv", format!("{GPU_TEMP}DCGM_FI_DEV_FB_USED, gauge, u\n"))),
    );
    let used = |page: &str, id: u32| value(page, &["DCGM_FI_DEV_FB_USED{", &format!("GPU_I_ID=\"{id}\"")]);
    let page = exporter.page_with("both have a value", |page| used(page, 7).is_some() && used(page, 8).is_some());
    assert_eq!([7, 8, 9].map(|id| used(&page, id)), [Some(100.0), Some(201.0), None], "{page}");
    let said = "MIG instances have no value of DCGM_FI_DEV_FB_USED; those of their compute instances are shown";
    assert_eq!(exporter.log().matches(said).count(), 1, "{}", exporter.log());
}

#[test]
fn fields_of_the_system_are_asked_of_gpus_only() {
    let node = Node::new(board(8, 0, 4, 18, 2, 8));
    let rows = "DCGM_FI_DEV_COUNT, gauge, n\nDCGM_FI_IMEX_DAEMON_STATUS, gauge, i\nDCGM_FI_DRIVER_VERSION, label, d\n";
    let mut exporter = Exporter::start(&mut node.exporter(&format!("{EVERY_KIND}{rows}")));
    let page = after_collections(&mut exporter, 10);
    let kinds = |name: &str| {
        let lines = page.lines().filter(|line| line.starts_with(&format!("{name}{{")));
        lines.map(|line| line.split(['{', '=']).nth(1).unwrap()).collect::<Vec<&str>>()
    };
    assert_eq!(kinds("DCGM_FI_DEV_COUNT"), ["gpu"; 8], "{page}");
    assert_eq!(kinds("DCGM_FI_IMEX_DAEMON_STATUS"), ["gpu"], "{page}");
    let unlabelled = page.lines().filter(|line| line.starts_with("DCGM_FI_") && !line.contains("DRIVER_VERSION="));
    assert_eq!(unlabelled.collect::<Vec<&str>>(), Vec::<&str>::new());
    // The first two collections sample everything.
    let stats = node.stats();
    assert_eq!(stats["polls"]["1503"], 2, "{stats}");
}

crate::also_in_second_session!(
    every_kind_is_shown_and_selected,
    a_kind_that_cannot_be_read_leaves_the_others_alone_and_is_said_once,
    slicing_a_gpu_while_running,
    base_units_by_the_library_or_by_conversion,
    every_xid_error_is_counted,
    clock_events_begin_and_last,
    health_and_p2p_honour_the_selection_and_the_worst_wins,
    a_library_that_does_not_know_a_module,
    an_instance_without_a_value_shows_that_of_its_only_compute_instance,
);
