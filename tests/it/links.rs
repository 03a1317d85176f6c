//! Links of GPUs: read live where a live read has the value, at their own interval, and not at all where no link has a
//! field.

use serde_json::{Value, json};

use crate::common::*;
use crate::node::*;

const STATE: &str = "DCGM_FI_DEV_NVLINK_GET_STATE";
const WAIT: &str = "DCGM_FI_DEV_NVLINK_PPCNT_IBPC_PORT_XMIT_WAIT";
const RECOVERY: &str = "DCGM_FI_DEV_NVLINK_PPRM_OPER_RECOVERY";
const CRC: &str = "DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_PER_LINK_TOTAL";
const THROUGHPUT: &str = "DCGM_FI_DEV_NVLINK_THROUGHPUT_PER_LINK";
const REPLAY: &str = "DCGM_FI_DEV_NVLINK_REPLAY_ERROR_PER_LINK_TOTAL";
const LINK_DOWN: &str = "DCGM_FI_DEV_NVLINK_PPCNT_PHYSICAL_LINK_DOWN_COUNTER";
const TX: &str = "DCGM_FI_PROF_NVLINK_TX_BYTES_PER_LINK";

/// Two GPUs with 18 links each.
fn linked() -> Value {
    let mut plan = scenario(&[0, 1]);
    plan["replay"] = true.into();
    plan["supported_profiling_fields"] = Value::Null;
    let links = |gpu: u32| json!({ "parent": "GPU", "parent_id": gpu, "states": vec![3; 18] });
    plan["system"]["links"] = json!([links(0), links(1)]);
    plan
}

fn rows(names: &[&str]) -> String {
    let rows = names.iter().map(|name| format!("{name}, gauge, h\n"));
    GPU_TEMP.to_owned() + &rows.collect::<String>()
}

const ALL: [&str; 7] = [STATE, WAIT, RECOVERY, CRC, THROUGHPUT, LINK_DOWN, TX];

/// How often the driver was called for a field.
fn calls(stats: &Value, field: &str) -> u64 {
    stats["driver_calls"][field].as_u64().unwrap_or(0)
}

fn collections(page: &str) -> u64 {
    value(page, &["dcgm_exporter_collections_total "]).unwrap_or(0.0) as u64
}

#[test]
fn nothing_of_a_link_is_kept_or_polled_but_differences() {
    let node = Node::new(linked());
    let mut exporter = Exporter::start(&mut node.exporter(&rows(&ALL)));
    let page = exporter.page_with("it has collected often", |page| collections(page) >= 10);
    for name in ALL {
        assert_eq!(series(&page, name), 36, "{name}: {page}");
    }
    // GPU × 1,000,000 + link × 10,000 + field; links are shown from 1 on.
    for (name, field) in
        [(STATE, 1508.0), (WAIT, 1509.0), (RECOVERY, 580.0), (CRC, 1525.0), (THROUGHPUT, 1529.0), (LINK_DOWN, 585.0)]
    {
        for index in [0, 17] {
            let labels = [&format!("{name}{{"), &format!("nvlink=\"{}\"", index + 1), "gpu=\"1\""];
            assert_eq!(value(&page, &labels), Some(1e6 + f64::from(index) * 1e4 + field), "{page}");
        }
    }
    let stats = node.stats();
    for field in ["580", "585", "1508", "1509", "1525"] {
        assert!(stats["polls"].get(field).is_none(), "{field} is watched: {stats}");
    }
    // Differences between two samples have no value without a watch.
    assert!(["1529", "1532"].iter().all(|field| stats["polls"][field].as_u64() > Some(0)), "{stats}");
    assert_eq!((&stats["kept_samples"], &stats["violations"]), (&json!(0), &json!([])), "{stats}");
    assert_eq!(calls(&stats, "1525") % 36, 0, "{stats}");
    // One read for each collection; the last may be under way.
    let (collected, read) = (collections(&exporter.page()), calls(&node.stats(), "1525") / 36);
    assert!(read <= collected + 1, "{read} {collected}");
}

#[test]
fn an_own_interval_holds_for_links() {
    for is_remote in [false, true] {
        let node = Node::new(linked());
        let text = format!(
            "version: 1\nmetrics: {{file: {}}}\ncollection:\n  interval: 100ms\n  watchGroups:\n    - {{name: links, \
             interval: 3s, fields: [{CRC}, {STATE}]}}\n",
            node.scratch.write("counters.csv", rows(&[STATE, CRC, REPLAY])).display()
        );
        let mut command = exporter();
        command
            .env("DCGM_SIMULATOR_SCENARIO", node.scratch.path("scenario.json"))
            .env("DCGM_SIMULATOR_STATS", node.scratch.path("stats.json"))
            .arg("--config-file")
            .arg(node.scratch.write("config.yaml", text));
        let engine = is_remote.then(|| node.host_engine());
        command.args(engine.iter().flat_map(|(_, address)| ["-r", address]));
        let mut exporter = Exporter::start(&mut command);
        exporter.page_with("links have values", |page| series(page, CRC) == 36);
        // Two at the start, and one after 3 s and after 6 s.
        exporter.until("the slow fields have been read four times", |exporter| {
            let page = exporter.page();
            assert!([STATE, CRC, REPLAY].iter().all(|name| series(&page, name) == 36), "{page}");
            assert!(!page.contains("dcgm_exporter_entity_stale"), "{page}");
            (calls(&node.stats(), "1525") >= 4 * 36).then_some(())
        });
        let stats = node.stats();
        assert_eq!((calls(&stats, "1525"), calls(&stats, "1508")), (4 * 36, 4 * 36), "{stats}");
        assert!(calls(&stats, "1527") > 40 * 36, "{stats}");
        assert_eq!(stats["violations"], json!([]));
    }
}

#[test]
fn a_lost_gpu_costs_only_its_own_links() {
    let mut node = Node::new(linked());
    let mut exporter = Exporter::start(&mut node.exporter(&rows(&ALL)));
    exporter.page_with("all links have values", |page| series(page, CRC) == 36);
    node.plan["faults"]["lost_gpus"] = json!([0]);
    node.play();
    let page = exporter.page_with("those of GPU 0 are gone", |page| ALL.iter().all(|name| series(page, name) == 18));
    assert!(!page.lines().any(|line| line.starts_with("DCGM_FI") && line.contains("gpu=\"0\"")), "{page}");
    let from = collections(&page);
    let page = exporter.page_with("it goes on", |page| collections(page) > from + 10);
    assert!(!page.contains("dcgm_exporter_entity_stale"), "{page}");
    assert_eq!(value(&page, &["dcgm_exporter_entity_up{", "gpu=\"1\""]), Some(1.0), "{page}");
    node.plan["faults"]["lost_gpus"] = json!([]);
    node.play();
    exporter.page_with("all are back", |page| ALL.iter().all(|name| series(page, name) == 36));
}

#[test]
fn what_no_link_of_a_gpu_has_is_asked_three_times() {
    let mut node = Node::new(linked());
    node.plan["unsupported_by_links"] = json!([580, 581, 585, 1509]);
    // GPU 1 is another model: one of its links has the register.
    let has = json!({ "585": { "type": "int64", "value": "7" } });
    let link = json!({ "entity": "LINK", "id": 4, "parent": "GPU", "parent_id": 1, "fields": has });
    node.plan["latest_values"].as_array_mut().unwrap().push(link);
    node.play();
    let recovery = "DCGM_FI_DEV_NVLINK_PPCNT_RECOVERY_TIME_SINCE_LAST";
    let mut exporter = Exporter::start(&mut node.exporter(&rows(&[&ALL[..], &[recovery]].concat())));
    let page = exporter.page_with("it has collected often", |page| collections(page) >= 10);
    assert_eq!([STATE, CRC, TX].map(|name| series(&page, name)), [36; 3], "{page}");
    assert_eq!([WAIT, RECOVERY, recovery, LINK_DOWN].map(|name| series(&page, name)), [0, 0, 0, 1], "{page}");
    let stats = node.stats();
    for field in ["580", "581", "1509"] {
        assert_eq!(calls(&stats, field), 3 * 36, "{field}: {stats}");
    }
    let of_gpu_1 = calls(&stats, "585") - 3 * 18;
    assert!(of_gpu_1 >= 9 * 18 && of_gpu_1.is_multiple_of(18), "{stats}");
    let log = exporter.log();
    let both = format!("links of GPUs 0, 1 do not have {RECOVERY}, {recovery}, {WAIT}; asking again every 10 minutes");
    let one = format!("links of GPU 0 do not have {LINK_DOWN}; asking again every 10 minutes");
    assert!(log.matches(&both).count() == 1 && log.matches(&one).count() == 1, "{log}");
    assert!(
        page.contains("dcgm_exporter_state{state=\"running\"} 1\n") && !log.contains("samples are missing"),
        "{log}"
    );
}

crate::also_in_second_session!(a_lost_gpu_costs_only_its_own_links);
