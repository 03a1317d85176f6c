//! Signals in every phase and in storms, several exporters on one engine, GPUs that go and come back ten times.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::*;
use crate::node::*;

fn descriptors(exporter: &Exporter) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", exporter.pid())).unwrap().count()
}

fn threads(exporter: &Exporter) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", exporter.pid())).unwrap().count()
}

#[test]
fn gpus_that_go_and_come_back_ten_times() {
    let mut node = Node::new(scenario(&[0, 1]));
    let mut exporter = Exporter::start(&mut node.exporter(GPU_TEMP));
    exporter.page_with("both are here", |page| temperatures(page) == 2);
    let (mut before, mut memory) = (0, 0);
    for round in 0..10 {
        node.plan["faults"]["unbound_gpus"] = json!([1]);
        node.play();
        let page = exporter.page_with("one is gone", |page| temperatures(page) == 1);
        assert!(value(&page, &["dcgm_exporter_entity_up{gpu=\"0\""]) == Some(1.0), "{page}");
        // Some rounds are over before anybody has looked.
        if round % 2 == 0 {
            exporter.page_with("it is missed", |page| value(page, &["dcgm_exporter_entity_up{gpu=\"1\""]) == Some(0.0));
        }
        node.plan["faults"]["unbound_gpus"] = json!([]);
        node.play();
        let back = Instant::now();
        let page = exporter.page_with("both are back", |page| temperatures(page) == 2);
        assert!(back.elapsed() < Duration::from_secs(10), "round {round}: {:?}", back.elapsed());
        assert_eq!(value(&page, &["dcgm_exporter_entity_up{gpu=\"1\""]), Some(1.0), "{page}");
        if round == 2 {
            (before, memory) = (descriptors(&exporter), exporter.resident_kib());
        }
    }
    let page = after_collections(&mut exporter, 20);
    assert!(is_in_state(&page, "running") && all_restarts(&page) == 0.0, "{page}");
    // One may be a connection that is still closing.
    exporter.until("no descriptor is left over", |exporter| (descriptors(exporter) <= before).then_some(()));
    assert!(exporter.resident_kib() < memory + 2048, "{} KiB, {memory} before", exporter.resident_kib());
}

#[test]
fn a_gpu_that_is_unbound_and_bound_within_one_look() {
    let mut node = Node::new(scenario(&[0, 1]));
    let mut exporter = Exporter::start(&mut node.exporter(GPU_TEMP));
    exporter.page_with("both are here", |page| temperatures(page) == 2);
    for _ in 0..10 {
        node.plan["faults"]["unbound_gpus"] = json!([1]);
        node.play();
        after_collections(&mut exporter, 3);
        node.plan["faults"]["unbound_gpus"] = json!([]);
        node.play();
        exporter.page_with("both are back", |page| temperatures(page) == 2 && is_in_state(page, "running"));
        after_collections(&mut exporter, 7);
        exporter.page_with("both stay", |page| temperatures(page) == 2 && is_in_state(page, "running"));
    }
    assert_eq!(all_restarts(&exporter.page()), 0.0);
}

#[test]
fn a_driver_that_is_loaded_again() {
    let mut node = Node::new(scenario(&[0, 1]));
    let mut exporter = Exporter::start(&mut node.exporter(GPU_TEMP));
    exporter.page_with("both are here", |page| temperatures(page) == 2);
    for faults in [json!({ "unbound_gpus": [0, 1] }), json!({ "lost_gpus": [0, 1] })] {
        node.plan["faults"] = faults;
        node.play();
        let page = exporter.page_with("all are gone", |page| {
            temperatures(page) == 0 && value(page, &["dcgm_exporter_entity_up{gpu=\"1\""]) == Some(0.0)
        });
        assert!(is_in_state(&page, "waiting_for_gpus") || is_in_state(&page, "degraded"), "{page}");
        health_with(&mut exporter, "health says so", |health| health.status == 503);
        node.plan["faults"] = json!({});
        node.play();
        let page = exporter.page_with("all are back", |page| temperatures(page) == 2 && is_in_state(page, "running"));
        assert_eq!(value(&page, &["dcgm_exporter_entity_up{gpu=\"1\""]), Some(1.0), "{page}");
        assert_eq!(exporter.get("/health").status, 200);
    }
}

/// A host engine that was started again may number GPUs anew; counts belong to the GPU, not to its number.
#[test]
fn a_host_engine_that_numbers_gpus_anew() {
    let counters = format!("{GPU_TEMP}DCGM_EXP_XID_ERRORS_TOTAL, counter, x\n");
    let mut node = Node::new(scenario(&[0, 1]));
    node.plan["events"] = json!([events("GPU", 1, 230, 79, 3, 1)]);
    node.play();
    let (engine, address) = node.host_engine();
    let mut exporter = Exporter::start(node.exporter(&counters).args(["-r", &address]));
    let total = |page: &str, uuid: &str| value(page, &["DCGM_EXP_XID_ERRORS_TOTAL{", uuid, "xid=\"79\""]);
    exporter.page_with("errors are counted", |page| total(page, "UUID=\"GPU-1\"") == Some(3.0));
    drop(engine);
    exporter.page_with("samples are gone", |page| temperatures(page) == 0);
    node.plan = scenario(&[0, 1]);
    for (gpu, uuid) in [(0, "GPU-1"), (1, "GPU-0")] {
        node.plan["system"]["gpus"][gpu]["uuid"] = uuid.into();
    }
    node.play();
    let (_engine, _) = node.host_engine();
    let page = exporter.page_with("they are back", |page| temperatures(page) == 2);
    assert!(page.contains("DCGM_FI_DEV_GPU_TEMP{gpu=\"0\",UUID=\"GPU-1\""), "{page}");
    let page = after_collections(&mut exporter, 15);
    assert_eq!((total(&page, "UUID=\"GPU-1\""), total(&page, "UUID=\"GPU-0\"")), (Some(3.0), Some(0.0)), "{page}");
    assert!(is_in_state(&page, "running"), "nobody is missed: {page}");
}

#[test]
fn storms_of_signals_leave_nothing_behind() {
    let node = Node::new(scenario(&[0, 1]));
    let mut exporter = Exporter::start(&mut node.exporter(GPU_TEMP));
    exporter.page_with("it runs", |page| temperatures(page) == 2);
    let mut random = Random(7);
    let mut calm: Option<(usize, usize)> = None;
    for round in 0..4 {
        for _ in 0..150 {
            let signals = [Signal::USR1, Signal::USR2, Signal::HUP];
            exporter.signal(signals[random.below(3) as usize]);
            std::thread::sleep(Duration::from_millis(random.below(12)));
            if random.below(10) == 0 {
                let health = exporter.get("/health");
                assert!(!health.body.is_empty());
                exporter.get("/metrics");
            }
        }
        exporter.signal(Signal::USR2);
        let page = exporter.page_with("it is calm", |page| temperatures(page) == 2 && is_in_state(page, "running"));
        assert_eq!(all_restarts(&page), 0.0);
        // One may be a connection that is still closing.
        exporter.until(&format!("round {round} leaves nothing behind"), |exporter| {
            let now = (descriptors(exporter), threads(exporter));
            let calm = *calm.get_or_insert(now);
            (now.0 <= calm.0 && now.1 <= calm.1).then_some(())
        });
    }
    after_collections(&mut exporter, 5);
    let stats = node.stats();
    let room = ["sessions", "groups", "field_groups"].map(|name| stats[name].as_u64().unwrap());
    assert!(room[0] == 1 && room[1] <= 3 && room[2] <= 3, "{stats}");
    assert_eq!(stats["violations"], json!([]));
    assert!(exporter.stop().0.success());
    let stats = node.stats();
    assert_eq!((&stats["sessions"], &stats["groups"], &stats["watches"]), (&json!(0), &json!(0), &json!(0)), "{stats}");
}

#[test]
fn a_stop_in_every_phase() {
    let hang = |call: &str| json!({ "hang_ms": { call: 600_000 } });
    let quick = Duration::from_secs(2);
    // Starting.
    let node = Node::new(scenario(&[0]));
    let mut exporter = Exporter::start(&mut node.exporter(GPU_TEMP));
    let (status, took) = exporter.stop();
    assert!(status.success() && took < quick, "starting: {status} after {took:?}");
    // Pausing between two attempts.
    let mut exporter = Exporter::start(node.exporter(GPU_TEMP).args(["-r", &format!("127.0.0.1:{}", free_port())]));
    exporter.until("it pauses", |exporter| exporter.log().contains("Failed to connect").then_some(()));
    let (status, took) = exporter.stop();
    assert!(status.success() && took < quick, "pausing: {status} after {took:?}");
    // Released.
    let mut exporter = Exporter::start(&mut node.exporter(GPU_TEMP));
    exporter.page();
    exporter.signal(Signal::USR1);
    exporter.page_with("released", |page| is_in_state(page, "released"));
    let (status, took) = exporter.stop();
    assert!(status.success() && took < quick, "released: {status} after {took:?}");
    // Waiting for GPUs.
    let empty = Node::new(scenario(&[]));
    let mut exporter = Exporter::start(&mut empty.exporter(GPU_TEMP));
    exporter.page_with("waiting", |page| is_in_state(page, "waiting_for_gpus"));
    let (status, took) = exporter.stop();
    assert!(status.success() && took < quick, "waiting: {status} after {took:?}");
    // In a call that hangs: at the start, while watching, while releasing.
    for call in ["dcgmStartEmbedded_v2", "dcgmWatchFields", "dcgmUpdateAllFields", "dcgmStopEmbedded"] {
        let mut node = Node::new(scenario(&[0]));
        node.plan["faults"] = hang(call);
        node.play();
        let mut exporter = Exporter::start(&mut node.exporter(GPU_TEMP));
        if call == "dcgmStopEmbedded" {
            exporter.page();
            exporter.signal(Signal::USR1);
            std::thread::sleep(Duration::from_millis(300));
        } else {
            health_with(&mut exporter, "it hangs", |health| health.body.contains(call));
        }
        let (status, took) = exporter.stop();
        assert!(!status.success() && took < Duration::from_secs(12), "{call}: {status} after {took:?}");
        assert!(exporter.log().contains(call), "{call}: {}", exporter.log());
    }
}

#[test]
fn two_exporters_on_one_engine_and_one_releases() {
    let node = Node::new(scenario(&[0, 1]));
    let (_engine, address) = node.host_engine();
    let start = || Exporter::start(node.exporter(GPU_TEMP).args(["-r", &address]));
    let (mut first, mut second) = (start(), start());
    for exporter in [&mut first, &mut second] {
        exporter.page_with("it runs", |page| temperatures(page) == 2);
    }
    for _ in 0..5 {
        first.signal(Signal::USR1);
        first.page_with("released", |page| is_in_state(page, "released"));
        let page = after_collections(&mut second, 3);
        assert!(temperatures(&page) == 2 && is_in_state(&page, "running"), "{page}");
        first.signal(Signal::USR2);
        first.page_with("it is back", |page| temperatures(page) == 2);
    }
}

/// An error between the last collection and the release, which is what the release is for.
#[test]
fn the_last_events_before_a_release_are_counted() {
    let mut node = Node::new(scenario(&[0]));
    node.plan["events"] = json!([{ "entity": "GPU", "id": 0, "field_id": 230, "value": 79, "count": 2, "every_ms": 1, "after_ms": 2500 }]);
    node.play();
    let counters = "DCGM_EXP_XID_ERRORS_TOTAL, counter, x\nDCGM_EXP_GPU_HEALTH_STATUS, gauge, h\n";
    let mut exporter = Exporter::start(node.exporter(counters).args(["-c", "1h"]));
    let total = |page: &str| value(page, &["DCGM_EXP_XID_ERRORS_TOTAL{", "xid=\"79\""]);
    let page = exporter.page_with("the first collections are over", |page| collections(page) >= 2.0);
    assert_eq!(total(&page), Some(0.0));
    std::thread::sleep(Duration::from_millis(4000));
    // Nothing is asked that may wait for the driver, which may be why it is released.
    node.plan["faults"]["hang_ms"]["dcgmHealthCheck"] = 600_000.into();
    node.play();
    exporter.signal(Signal::USR1);
    exporter.page_with("released", |page| is_in_state(page, "released"));
    node.plan["events"] = json!([]);
    node.plan["faults"] = json!({});
    node.play();
    exporter.signal(Signal::USR2);
    exporter.page_with("they are counted", |page| total(page) == Some(2.0));
}

/// Reloads, releases and resumes before there is somebody to take them end nothing.
#[test]
fn signals_in_the_first_milliseconds() {
    let node = Node::new(scenario(&[0]));
    for delay in 0..12u64 {
        let mut command = node.exporter(GPU_TEMP);
        let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        // Until the program has begun, the signal meets the test's own code.
        let name = || std::fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap_or_default();
        while !name().starts_with("dcgm") {}
        std::thread::sleep(Duration::from_millis(2 + delay));
        for signal in [Signal::HUP, Signal::USR1, Signal::USR2] {
            signal_to(child.id(), signal);
        }
        std::thread::sleep(Duration::from_millis(200));
        assert!(child.try_wait().unwrap().is_none(), "after {delay} ms: {:?}", child.try_wait());
        signal_to(child.id(), Signal::TERM);
        assert!(child.wait().unwrap().success(), "after {delay} ms");
    }
}

#[test]
fn a_storm_of_reloads_holds_no_stop_up() {
    let node = Node::new(scenario(&[0]));
    let mut exporter = Exporter::start(&mut node.exporter(include_str!("../../counters/default-counters.csv")));
    exporter.page_with("it runs", |page| is_in_state(page, "running"));
    for _ in 0..2000 {
        exporter.signal(Signal::HUP);
        exporter.signal(Signal::USR1);
        exporter.signal(Signal::USR2);
    }
    let (status, took) = exporter.stop();
    assert!(status.success() && took < Duration::from_secs(3), "{status} after {took:?}");
}
