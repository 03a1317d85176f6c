//! GPUs that have not had a value since the exporter started: lost before it, not watched, or merely late.

use serde_json::{Value, json};

use crate::common::*;
use crate::node::*;

/// As many collections as it takes to believe that no value will come, and some more.
const SOME: u32 = 8;

fn up(page: &str, parts: &[&str]) -> Option<f64> {
    value(page, &[&["dcgm_exporter_entity_up{"], parts].concat())
}

fn with(mut plan: Value, faults: Value) -> Value {
    plan["faults"] = faults;
    plan
}

/// An H200 with a temperature, which also answers from the recording.
fn h200s(gpus: &[u32]) -> Value {
    let mut plan = scenario(gpus);
    plan["replay"] = true.into();
    plan
}

const ROWS: &str = "DCGM_FI_DEV_GPU_TEMP, gauge, t\nDCGM_FI_DEV_GPU_UTIL, gauge, u\nDCGM_FI_DEV_XID_ERRORS, gauge, x\n\
                    DCGM_FI_DEV_CUDA_COMPUTE_CAPABILITY, gauge, c\n";

#[test]
fn a_gpu_that_was_lost_before_the_start_is_down() {
    for faults in [json!({ "lost_before_start": [1] }), json!({ "lost_gpus": [1] })] {
        let node = Node::new(with(h200s(&[0, 1, 2]), faults.clone()));
        for start in ["the first start", "a restart"] {
            let mut exporter = Exporter::start(&mut node.exporter(ROWS));
            let first = exporter.page();
            assert_eq!(up(&first, &["gpu=\"1\""]), Some(0.0), "{start}, {faults}: an alert is not resolved\n{first}");
            let page = after_collections(&mut exporter, SOME);
            assert_eq!([0, 1, 2].map(|gpu| up(&page, &[&format!("gpu=\"{gpu}\"")])), [Some(1.0), Some(0.0), Some(1.0)]);
            assert!(is_in_state(&page, "degraded"), "{page}");
            let xids: Vec<_> = page.lines().filter(|line| line.starts_with("DCGM_FI_DEV_XID_ERRORS{")).collect();
            assert!(xids.len() == 2 && xids.iter().all(|line| !line.contains("gpu=\"1\"")), "{xids:?}");
            let health = exporter.get("/health");
            let sentence = "GPU 1: none of its fields has a value";
            assert!(health.status == 200 && health.body.contains(sentence), "{}", health.body);
            assert!(exporter.get("/?text").body.contains(sentence));
            assert_eq!(exporter.log().matches(sentence).count(), 1, "{}", exporter.log());
        }
    }
}

#[test]
fn a_lost_gpu_that_comes_to_life_is_up() {
    let mut node = Node::new(with(h200s(&[0, 1]), json!({ "lost_before_start": [1] })));
    let mut exporter = Exporter::start(&mut node.exporter(ROWS));
    exporter.page_with("it is down", |page| is_in_state(page, "degraded") && up(page, &["gpu=\"1\""]) == Some(0.0));
    node.plan["faults"] = json!({});
    node.play();
    exporter.page_with("it is up", |page| is_in_state(page, "running") && up(page, &["gpu=\"1\""]) == Some(1.0));
}

#[test]
fn with_nobody_to_compare_it_with() {
    // Alone on the node, all of them, and the only one of its model.
    let mut mixed = h200s(&[0, 1]);
    mixed["system"]["gpus"][1]["model"] = "NVIDIA T4".into();
    for (plan, lost, status) in
        [(h200s(&[0]), vec![0], 503), (h200s(&[0, 1]), vec![0, 1], 503), (mixed.clone(), vec![1], 200)]
    {
        let node = Node::new(with(plan, json!({ "lost_before_start": lost })));
        let mut exporter = Exporter::start(&mut node.exporter(ROWS));
        let page = after_collections(&mut exporter, SOME);
        for gpu in lost {
            assert_eq!(up(&page, &[&format!("gpu=\"{gpu}\"")]), Some(0.0), "{page}");
        }
        let health = exporter.get("/health");
        assert!(health.status == status && health.body.contains("degraded: "), "{}", health.body);
    }
    // A model without any of the fields is not lost for that.
    mixed["replay"] = false.into();
    mixed["latest_values"][0]["fields"]["140"] = json!({ "type": "int64", "value": "50" });
    let node = Node::new(mixed);
    let mut exporter = Exporter::start(&mut node.exporter("DCGM_FI_DEV_MEMORY_TEMP, gauge, t\n"));
    let page = after_collections(&mut exporter, SOME);
    assert!(is_in_state(&page, "running") && up(&page, &["gpu=\"1\""]) == Some(1.0), "{page}");
}

#[test]
fn instances_of_a_lost_gpu() {
    let mut plan = h200s(&[0, 1]);
    let instance = |gpu: u32, id: u32| json!({ "parent_gpu": gpu, "entity_id": id, "nvml_gpu_instance_id": 1 + id, "profile": "1g.18gb" });
    plan["system"]["gpu_instances"] = json!([instance(0, 0), instance(0, 1), instance(1, 2)]);
    let node = Node::new(with(plan, json!({ "lost_before_start": [1] })));
    let mut exporter = Exporter::start(&mut node.exporter(ROWS));
    let page = after_collections(&mut exporter, SOME);
    let instances = ["1", "2", "3"].map(|id| up(&page, &[&format!("GPU_I_ID=\"{id}\"")]));
    assert_eq!(instances, [Some(1.0), Some(1.0), Some(0.0)], "{page}");
    let xids: Vec<_> = page.lines().filter(|line| line.starts_with("DCGM_FI_DEV_XID_ERRORS{")).collect();
    assert!(!xids.is_empty() && xids.iter().all(|line| !line.contains("gpu=\"1\"")), "{xids:?}");
    assert!(exporter.get("/health").body.contains("GPU 1, instance 3: none of its fields has a value"));
}

/// A host engine whose first samples of a GPU come late.
#[test]
fn a_gpu_whose_first_samples_come_late() {
    let mut node = Node::new(with(h200s(&[0, 1]), json!({ "frozen": [{ "entity": "GPU", "id": 1 }] })));
    let (_engine, address) = node.host_engine();
    let mut exporter = Exporter::start(node.exporter(ROWS).args(["-c", "2s", "-r", &address]));
    let page = exporter.page();
    assert!(is_in_state(&page, "running") && up(&page, &["gpu=\"1\""]) == Some(0.0), "{page}");
    node.plan["faults"] = json!({});
    node.play();
    let page = exporter.page_with("its first values are there", |page| up(page, &["gpu=\"1\""]) == Some(1.0));
    assert!(is_in_state(&page, "running"), "{page}");
    assert!(!exporter.log().contains("state: degraded"), "{}", exporter.log());
}

#[test]
fn no_sample_at_all_is_not_ok() {
    for (call, code) in [
        ("dcgmWatchFields", -37),
        ("dcgmWatchFields", -24),
        ("dcgmFieldGroupCreate", -19),
        ("dcgmGroupCreate", -3),
        ("dcgmGetLatestValues_v2", -10),
    ] {
        let node = Node::new(with(h200s(&[0, 1]), json!({ "fail": [{ "call": call, "code": code }] })));
        let mut exporter = Exporter::start(&mut node.exporter(ROWS));
        let health = health_with(&mut exporter, "it is not well", |health| {
            health.status == 503 && health.body.starts_with("degraded: no GPU answers; ")
        });
        assert!(health.body.contains(call) && health.body.contains(&format!("({code})")), "{call}: {}", health.body);
        let page = exporter.page();
        assert!(is_in_state(&page, "degraded") || is_in_state(&page, "restarting"), "{page}");
        assert_eq!(["0", "1"].map(|gpu| up(&page, &[&format!("gpu=\"{gpu}\"")])), [Some(0.0); 2], "{call} {page}");
        assert!(page.lines().all(|line| !line.starts_with("DCGM_FI_")), "{page}");
    }
}

#[test]
fn an_engine_that_a_lost_gpu_keeps_from_starting() {
    let mut node = Node::new(with(h200s(&[0, 1]), json!({ "unreadable_gpus": [1] })));
    let mut exporter = Exporter::start(&mut node.exporter(ROWS));
    let health = health_with(&mut exporter, "it does not start", |health| health.body.contains("cannot start"));
    assert!(health.status == 503 && health.body.contains("(-7)"), "{}", health.body);
    for said in [&health.body, &exporter.log()] {
        assert!(said.contains("a lost GPU is one cause: nvidia-smi names the GPU"), "{said}");
    }
    node.plan["faults"] = json!({});
    node.play();
    exporter.page_with("it has started", |page| is_in_state(page, "running"));
}
