//! A clock that is set while the exporter runs: samples go on, and no event is lost or counted twice.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::*;
use crate::node::*;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

const EVENTS: &str = "DCGM_FI_DEV_GPU_TEMP, gauge, t\nDCGM_EXP_XID_ERRORS_TOTAL, counter, x\n\
    DCGM_EXP_CLOCK_EVENTS_TOTAL, counter, c\nDCGM_EXP_CLOCK_EVENTS_SECONDS_TOTAL, counter, s\n";

fn xids(page: &str, code: u32) -> Option<f64> {
    value(page, &["DCGM_EXP_XID_ERRORS_TOTAL{", &format!("xid=\"{code}\"")])
}

fn power_cap(page: &str) -> Option<f64> {
    value(page, &["DCGM_EXP_CLOCK_EVENTS_TOTAL{", "power_cap"])
}

/// What the page calls the time of the newest sample, less the node's time, in seconds.
fn age(page: &str, clock: i64) -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    now + clock as f64 / 1e3 - value(page, &["dcgm_exporter_last_collect_timestamp_seconds "]).unwrap()
}

#[test]
fn an_embedded_engine_is_started_again_after_a_step() {
    for step in [-HOUR, -DAY, HOUR, DAY] {
        let node = Node::new(scenario(&[0, 1]));
        let mut exporter = Exporter::start(node.with_clock(&mut node.exporter(GPU_TEMP)));
        exporter.page_with("it runs", |page| temperatures(page) == 2);
        node.set_clock(step);
        let start = Instant::now();
        let page = exporter.page_with("it has a new engine", |page| {
            restarts(page, "clock_step") == 1.0 && temperatures(page) == 2 && age(page, step).abs() < 2.0
        });
        assert!(start.elapsed() < Duration::from_secs(10), "{step}: {:?}", start.elapsed());
        assert!(is_in_state(&page, "running"), "{step}: {page}");
        let page = after_collections(&mut exporter, 10);
        assert_eq!((all_restarts(&page), temperatures(&page)), (1.0, 2), "{step}: {page}");
        assert!(exporter.log().contains("the clock was set"), "{}", exporter.log());
    }
}

#[test]
fn a_host_engine_that_has_to_catch_up_is_named() {
    for step in [-HOUR, -DAY] {
        let node = Node::new(scenario(&[0]));
        let (_engine, address) = node.host_engine();
        let mut exporter =
            Exporter::start(node.with_clock(node.exporter(GPU_TEMP).args(["--stale-after", "5s", "-r", &address])));
        exporter.page_with("it runs", |page| is_in_state(page, "running"));
        node.set_clock(step);
        let health = health_with(&mut exporter, "it is said", |health| health.body.contains("restart nv-hostengine"));
        assert!(health.body.contains("the clock was set back by"), "{}", health.body);
        let page = exporter.page_with("old samples are gone", |page| temperatures(page) == 0);
        assert!(is_in_state(&page, "degraded"), "{page}");
        assert_eq!(exporter.get("/health").status, 503);
        let page = after_collections(&mut exporter, 20);
        assert!(page.contains("dcgm_exporter_reconnects_total 0\n") && all_restarts(&page) == 0.0, "{page}");
    }
}

#[test]
fn a_step_forward_is_nothing_to_a_host_engine() {
    for step in [HOUR, DAY] {
        let node = Node::new(scenario(&[0]));
        let (_engine, address) = node.host_engine();
        let mut exporter = Exporter::start(node.with_clock(node.exporter(GPU_TEMP).args(["-r", &address])));
        exporter.page_with("it runs", |page| is_in_state(page, "running"));
        node.set_clock(step);
        let page = exporter
            .page_with("samples are of the new time", |page| temperatures(page) == 1 && age(page, step).abs() < 2.0);
        assert!(is_in_state(&page, "running") && all_restarts(&page) == 0.0, "{page}");
    }
}

/// XID errors from NVML and from the kernel's log before and after each step; a clock event that goes on all the time.
fn events_over_a_step(is_remote: bool, step: i64) {
    let mut node = Node::new(scenario(&[0]));
    node.plan["latest_values"][0]["fields"]["112"] = json!({ "type": "int64", "value": "4" });
    let mut logged = events("GPU", 0, 230, 79, 4, 700);
    logged["from"] = "kernel_log".into();
    node.plan["events"] = json!([events("GPU", 0, 230, 94, 3, 100), logged]);
    node.play();
    let mut command = node.exporter(EVENTS);
    let engine = is_remote.then(|| node.host_engine());
    if let Some((_, address)) = &engine {
        command.args(["-r", address]);
    }
    let mut exporter = Exporter::start(node.with_clock(&mut command));
    let begun = Instant::now();
    let is_all = |page: &str| xids(page, 94) >= Some(3.0) && xids(page, 79) >= Some(4.0);
    let page = exporter.page_with("all are counted", is_all);
    assert_eq!((xids(&page, 94), xids(&page, 79), power_cap(&page)), (Some(3.0), Some(4.0), Some(1.0)), "{page}");
    node.set_clock(step);
    // Counted from when the watches were made. A host engine that has to catch up still stores errors.
    let mut begun = begun;
    if !is_remote && !(0..HOUR).contains(&step) {
        exporter.page_with("the step is seen", |page| restarts(page, "clock_step") == 1.0);
        begun = Instant::now();
    }
    let after = begun.elapsed().as_millis() as u64 + 500;
    let mut more = events("GPU", 0, 230, 31, 3, 100);
    let mut logged = events("GPU", 0, 230, 120, 2, 100);
    (more["after_ms"], logged["after_ms"]) = (after.into(), after.into());
    logged["from"] = "kernel_log".into();
    node.plan["events"].as_array_mut().unwrap().extend([more, logged]);
    node.play();
    let is_all = |page: &str| xids(page, 31) >= Some(3.0) && xids(page, 120) >= Some(2.0);
    exporter.page_with("later ones are counted", is_all);
    let page = after_collections(&mut exporter, 30);
    let counted = [79, 31, 120].map(|code| xids(&page, code));
    assert_eq!(counted, [Some(4.0), Some(3.0), Some(2.0)], "{step}: {}", exporter.log());
    // NVML's errors are the new engine's to play again.
    assert!(is_remote || xids(&page, 94) >= Some(3.0), "{step}");
    if is_remote {
        assert_eq!(xids(&page, 94), Some(3.0), "{step}");
    }
    assert_eq!(power_cap(&page), Some(1.0), "{step}: it went on all the time");
    drop(engine);
}

fn events_over_steps(is_remote: bool) {
    std::thread::scope(|scope| {
        for step in [-HOUR, -DAY, HOUR, DAY, -20_000, 20_000] {
            scope.spawn(move || events_over_a_step(is_remote, step));
        }
    });
}

#[test]
fn no_event_of_an_embedded_engine_is_lost_or_counted_twice() {
    events_over_steps(false);
}

#[test]
fn no_event_of_a_host_engine_is_lost_or_counted_twice() {
    events_over_steps(true);
}
