//! When an engine is started, started again, and left alone: calls that hang, no room, GPUs that fall silent or appear.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::*;
use crate::node::*;

#[test]
fn a_start_that_hangs_names_its_call() {
    for call in ["dcgmInit", "dcgmStartEmbedded_v2", "dcgmConnect_v2"] {
        let mut node = Node::new(scenario(&[0]));
        let (_engine, address) = node.host_engine();
        // The engine's own process plays the scenario as it was; the call is in the exporter.
        node.plan["faults"]["hang_ms"][call] = 600_000.into();
        let plan = node.scratch.write("hanging.json", node.plan.to_string());
        let systemd = UnixDatagram::bind(node.scratch.path("notify.sock")).unwrap();
        systemd.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut command = node.exporter(GPU_TEMP);
        command.env("NOTIFY_SOCKET", node.scratch.path("notify.sock")).env("DCGM_SIMULATOR_SCENARIO", &plan);
        if call == "dcgmConnect_v2" {
            command.args(["-r", &address]);
        }
        let mut exporter = Exporter::start(&mut command);
        let mut buffer = [0u8; 4096];
        let ready = loop {
            let count = systemd.recv(&mut buffer).unwrap_or_else(|error| panic!("{call}: {error}"));
            if String::from_utf8_lossy(&buffer[..count]).contains("READY=1") {
                break true;
            }
        };
        assert!(ready);
        let said = format!("{call} was called at 2");
        let health = health_with(&mut exporter, "the call is named", |health| health.body.contains(&said));
        let page = exporter.get("/metrics");
        assert!(health.status == 503 && page.status == 503 && page.body.contains(&said), "{call}: {}", page.body);
        node.plan["faults"] = json!({});
        node.scratch.write("hanging.json", node.plan.to_string());
        exporter.page_with("it goes on", |page| temperatures(page) == 1);
    }
}

#[test]
fn a_hang_after_a_resume_is_no_release() {
    for call in ["dcgmStartEmbedded_v2", "dcgmUpdateAllFields", "dcgmWatchFields"] {
        let mut node = Node::new(scenario(&[0]));
        let mut exporter = Exporter::start(node.exporter(GPU_TEMP).args(["--stale-after", "2s"]));
        exporter.page_with("it runs", |page| temperatures(page) == 1);
        exporter.signal(Signal::USR1);
        exporter.page_with("they are released", |page| is_in_state(page, "released"));
        node.plan["faults"]["hang_ms"][call] = 600_000.into();
        node.play();
        exporter.signal(Signal::USR2);
        let health = health_with(&mut exporter, "it is not well", |health| health.status == 503);
        assert!(health.body.contains(&format!("{call} was called at 2")), "{call}: {}", health.body);
        assert!(!health.body.contains("released"), "{}", health.body);
        node.plan["faults"] = json!({});
        node.play();
        exporter.page_with("it goes on", |page| temperatures(page) == 1 && is_in_state(page, "running"));
    }
}

#[test]
fn other_clients_hold_most_groups() {
    for (taken, key) in [(61, "taken_groups"), (60, "taken_field_groups"), (62, "taken_groups")] {
        let mut node = Node::new(scenario(&[0, 1]));
        node.plan[key] = taken.into();
        node.plan["latest_values"][0]["fields"]["112"] = json!({ "type": "int64", "value": "4" });
        node.play();
        let counters =
            format!("{GPU_TEMP}DCGM_EXP_CLOCK_EVENTS_TOTAL, counter, c\nDCGM_EXP_XID_ERRORS_TOTAL, counter, x\n");
        let mut exporter = Exporter::start(&mut node.exporter(&counters));
        exporter.page();
        let page = after_collections(&mut exporter, 15);
        assert!(is_in_state(&page, "degraded"), "{key} {taken}: {page}");
        assert_eq!(temperatures(&page), if taken == 62 { 0 } else { 2 }, "{key} {taken}");
        let health = exporter.get("/health");
        assert!(health.body.contains("the engine has no room for more groups"), "{key}: {}", health.body);
        assert_eq!(all_restarts(&page), 0.0);
        assert_eq!(node.stats()["calls"]["dcgmStartEmbedded_v2"], 1);
        // Somebody else gives theirs back.
        node.plan[key] = 0.into();
        node.play();
        exporter.page_with("all is watched", |page| {
            is_in_state(page, "running") && temperatures(page) == 2 && series(page, "DCGM_EXP_CLOCK_EVENTS_TOTAL") > 0
        });
    }
}

#[test]
fn gpus_that_are_all_silent_get_a_new_engine_and_then_rarely() {
    let mut node = Node::new(scenario(&[0, 1]));
    let mut exporter = Exporter::start(&mut node.exporter(GPU_TEMP));
    exporter.page_with("both answer", |page| temperatures(page) == 2);
    node.plan["faults"]["frozen"] = json!([{ "entity": "GPU", "id": 0 }, { "entity": "GPU", "id": 1 }]);
    node.play();
    let start = Instant::now();
    health_with(&mut exporter, "it is said", |health| health.status == 503);
    let page = exporter.until("a new engine is tried", |exporter| {
        // Also while the engine is being started again.
        let health = exporter.get("/health");
        assert_eq!(health.status, 503, "{}", health.body);
        Some(exporter.get("/metrics").body).filter(|page| restarts(page, "gpus_silent") == 1.0)
    });
    assert!(start.elapsed() >= Duration::from_secs(8), "{:?}", start.elapsed());
    assert_eq!(temperatures(&page), 0);
    assert_eq!(exporter.get("/health").status, 503);
    // The second one comes after twice as long.
    for_a_while(&mut exporter, Duration::from_secs(12), |page, health| {
        assert!(all_restarts(&page.body) <= 1.0, "{}", page.body);
        assert_eq!(health.status, 503, "{}", health.body);
        assert_eq!(temperatures(&page.body), 0);
    });
    node.plan["faults"] = json!({});
    node.play();
    exporter.page_with("they answer", |page| temperatures(page) == 2 && is_in_state(page, "running"));
}

#[test]
fn one_silent_gpu_is_no_reason_for_a_new_engine() {
    let mut node = Node::new(scenario(&[0, 1]));
    let mut exporter = Exporter::start(&mut node.exporter(GPU_TEMP));
    exporter.page_with("both answer", |page| temperatures(page) == 2);
    node.plan["faults"]["lost_gpus"] = json!([1]);
    node.play();
    exporter.page_with("one is gone", |page| temperatures(page) == 1);
    let page = after_collections(&mut exporter, 120);
    assert!(all_restarts(&page) == 0.0 && is_in_state(&page, "degraded"), "{page}");
}

/// Debug builds read the driver's directory from the environment.
#[test]
fn gpus_that_the_driver_gains() {
    let mut node = Node::new(scenario(&[0]));
    let driver = |gpus: &[&str]| {
        for gpu in gpus {
            std::fs::create_dir_all(node.scratch.path(&format!("driver/gpus/{gpu}"))).unwrap();
        }
    };
    driver(&["0000:01:00.0"]);
    let mut exporter =
        Exporter::start(node.exporter(GPU_TEMP).env("DCGM_EXPORTER_TEST_DRIVER", node.scratch.path("driver")));
    let page = exporter.page_with("it runs", |page| temperatures(page) == 1);
    assert_eq!(all_restarts(&page), 0.0);
    // The engine does not see it by itself; the simulator's does, so that its list comes a moment later.
    driver(&["0000:02:00.0"]);
    let start = Instant::now();
    exporter.page_with("the engine is started again", |page| restarts(page, "gpus_appeared") == 1.0);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    // DCGM cannot use it: once is enough.
    for_a_while(&mut exporter, Duration::from_secs(5), |page, _| assert!(all_restarts(&page.body) <= 1.0));
    let page = exporter.page();
    assert!(all_restarts(&page) == 1.0 && temperatures(&page) == 1 && is_in_state(&page, "running"), "{page}");
    // One that DCGM finds by the new engine.
    driver(&["0000:03:00.0"]);
    exporter.page_with("the engine is started again", |page| restarts(page, "gpus_appeared") == 2.0);
    // The driver is unloaded and loaded: nothing new.
    std::fs::rename(node.scratch.path("driver"), node.scratch.path("away")).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    std::fs::rename(node.scratch.path("away"), node.scratch.path("driver")).unwrap();
    for_a_while(&mut exporter, Duration::from_secs(3), |page, _| assert!(all_restarts(&page.body) <= 2.0));
    node.plan = scenario(&[0, 1]);
    node.play();
    exporter.page_with("both are here", |page| temperatures(page) == 2);
}

/// Every start of an engine costs memory for good.
#[test]
fn a_node_without_a_driver_starts_one_engine() {
    let node = Node::new(scenario(&[]));
    let driver = node.scratch.path("driver");
    let mut exporter = Exporter::start(node.exporter(GPU_TEMP).env("DCGM_EXPORTER_TEST_DRIVER", &driver));
    exporter.page_with("it waits", |page| is_in_state(page, "waiting_for_gpus"));
    for_a_while(&mut exporter, Duration::from_secs(8), |page, health| {
        assert_eq!((all_restarts(&page.body), health.status), (0.0, 200), "{}", page.body);
    });
    // A driver whose list is not visible, as in a container.
    std::fs::create_dir(&driver).unwrap();
    std::fs::write(driver.join("nvidiactl"), "").unwrap();
    exporter.page_with("a new engine is tried", |page| restarts(page, "gpus_appeared") == 1.0);
}
