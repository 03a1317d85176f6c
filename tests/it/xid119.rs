//! XID 119: DCGM calls the driver no more and answers for no GPU, and a new engine is as silent.

use std::time::Duration;

use serde_json::json;

use crate::common::*;
use crate::node::*;

const COUNTERS: &str =
    "DCGM_FI_DEV_GPU_TEMP, gauge, t\nDCGM_FI_DEV_XID_ERRORS, gauge, x\nDCGM_EXP_XID_ERRORS_TOTAL, counter, n\n";

const SENTENCE: &str = "XID 119 on GPU 1 (GPU-1, 00000000:02:00.0): DCGM answers for no GPU";

fn xids(page: &str) -> Option<f64> {
    value(page, &["DCGM_EXP_XID_ERRORS_TOTAL{gpu=\"1\"", "xid=\"119\""])
}

fn xid_events(page: &str) -> [Option<f64>; 2] {
    ["0", "1"].map(|gpu| value(page, &[&format!("dcgm_exporter_xid_events_total{{gpu=\"{gpu}\"")]))
}

fn stays_so(exporter: &mut Exporter, counted: f64) {
    let health = health_with(exporter, "the reason is given", |health| health.body.contains("XID 119"));
    assert!(health.status == 503 && health.body.contains(SENTENCE), "{}", health.body);
    // The state is set a moment before the page is published.
    exporter.page_with("samples are gone", |page| temperatures(page) == 0);
    let log = exporter.log();
    for_a_while(exporter, Duration::from_secs(20), |page, health| {
        assert!(health.status == 503 && health.body.contains(SENTENCE), "{}", health.body);
        let page = &page.body;
        assert_eq!((temperatures(page), all_restarts(page)), (0, 0.0), "{page}");
        let up: Vec<&str> = page.lines().filter(|line| line.starts_with("dcgm_exporter_entity_up{")).collect();
        assert!(up.len() == 2 && up.iter().all(|line| line.ends_with(" 0")), "{up:?}");
        assert!(is_in_state(page, "degraded") && xids(page) == Some(counted), "{page}");
        assert!(page.contains("dcgm_exporter_reconnects_total 0\n"));
        assert_eq!(xid_events(page), [Some(0.0), Some(counted)], "{page}");
    });
    let later = exporter.log();
    assert_eq!(
        later.matches("Attempting to initialize DCGM").count(),
        log.matches("Attempting to initialize DCGM").count()
    );
    assert!(later.len() < log.len() + 4000, "the log is not flooded: {later}");
}

fn while_it_runs(mut node: Node, mut exporter: Exporter) {
    exporter.page_with("both answer", |page| {
        temperatures(page) == 2 && xids(page) == Some(0.0) && xid_events(page) == [Some(0.0), Some(0.0)]
    });
    node.plan["events"] = json!([
        { "entity": "GPU", "id": 1, "field_id": 230, "value": 119, "count": 1, "every_ms": 0, "from": "kernel_log" },
    ]);
    node.plan["events"][0]["after_ms"] = 3000.into();
    node.play();
    exporter.page_with("it is counted", |page| xids(page) == Some(1.0) && xid_events(page)[1] == Some(1.0));
    stays_so(&mut exporter, 1.0);
}

#[test]
fn while_it_runs_embedded() {
    let node = Node::new(scenario(&[0, 1]));
    let exporter = Exporter::start(&mut node.exporter(COUNTERS));
    while_it_runs(node, exporter);
}

#[test]
fn while_it_runs_remote() {
    let node = Node::new(scenario(&[0, 1]));
    let (_engine, address) = node.host_engine();
    let exporter = Exporter::start(node.exporter(COUNTERS).args(["-r", &address]));
    while_it_runs(node, exporter);
}

/// An exporter that is started after the error has never seen a name of a GPU.
#[test]
fn before_it_was_started() {
    for is_remote in [false, true] {
        let mut node = Node::new(scenario(&[0, 1]));
        node.plan["kernel_log"] = json!([{ "gpu": 1, "code": 119, "age_ms": 5000 }]);
        node.play();
        let engine = is_remote.then(|| node.host_engine());
        let mut command = node.exporter(COUNTERS);
        if let Some((_, address)) = &engine {
            command.args(["-r", address]);
        }
        let mut exporter = Exporter::start(&mut command);
        let health =
            health_with(&mut exporter, "the reason is given", |health| health.body.contains("XID 119 on GPU 1"));
        assert_eq!(health.status, 503, "{}", health.body);
        for_a_while(&mut exporter, Duration::from_secs(10), |page, health| {
            assert!(health.status == 503 && health.body.contains("XID 119 on GPU 1"), "{}", health.body);
            assert_eq!((temperatures(&page.body), all_restarts(&page.body)), (0, 0.0), "{}", page.body);
        });
    }
}

/// An exporter that was told to release the GPUs for the reset, which did not help.
#[test]
fn over_a_release() {
    let mut node = Node::new(scenario(&[0, 1]));
    let mut exporter = Exporter::start(&mut node.exporter(COUNTERS));
    exporter.page_with("both answer", |page| temperatures(page) == 2 && xids(page) == Some(0.0));
    node.plan["kernel_log"] = json!([{ "gpu": 1, "code": 119, "age_ms": 0 }]);
    node.play();
    health_with(&mut exporter, "the reason is given", |health| health.body.contains(SENTENCE));
    exporter.signal(Signal::USR1);
    exporter.page_with("they are released", |page| is_in_state(page, "released"));
    exporter.signal(Signal::USR2);
    let health = health_with(&mut exporter, "the reason is given again", |health| health.body.contains("XID 119"));
    assert!(health.status == 503 && health.body.contains(SENTENCE), "{}", health.body);
}

#[test]
fn it_may_be_told_to_go_on() {
    let mut node = Node::new(scenario(&[0, 1]));
    node.plan["kernel_log"] = json!([{ "gpu": 1, "code": 119, "age_ms": 5000 }]);
    node.play();
    let mut exporter = Exporter::start(node.exporter(COUNTERS).arg("--keep-reading-after-xid119"));
    let page = exporter.page_with("both answer", |page| temperatures(page) == 2);
    assert!(is_in_state(&page, "running"), "{page}");
}
