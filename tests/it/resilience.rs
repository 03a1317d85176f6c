//! Never down, never stale, never lying: what the exporter does when something breaks, and when it is whole again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::*;
use crate::node::*;

/// Collects ten times a second, and calls a page stale after a second.
const FAST: [&str; 4] = ["-c", "100", "--stale-after", "1s"];

fn start_fast(scratch: &Scratch, plan: &Value, counters: &str, arguments: &[&str]) -> Exporter {
    start(scratch, plan, counters, &[&FAST, arguments].concat())
}

#[test]
fn a_call_that_hangs_and_returns() {
    let scratch = Scratch::new();
    let mut plan = scenario(&[0]);
    let mut exporter = start_fast(&scratch, &plan, GPU_TEMP, &[]);
    assert!(is_in_state(&exporter.page(), "running"));
    plan["faults"]["hang_ms"]["dcgmUpdateAllFields"] = 60_000.into();
    scratch.write("scenario.json", plan.to_string());
    let stale = exporter.until("the page is stale", |exporter| {
        let start = Instant::now();
        let response = exporter.get("/metrics");
        assert!(start.elapsed() < Duration::from_secs(1), "scrapes are as fast as ever");
        Some(response).filter(|response| response.status == 503)
    });
    assert_eq!(stale.body.lines().count(), 1, "{}", stale.body);
    assert!(stale.body.contains("dcgmUpdateAllFields was called at 2"), "{}", stale.body);
    let health = exporter.get("/health");
    assert!(health.status == 503 && health.body.starts_with("stale: "), "{}", health.body);
    plan["faults"] = json!({});
    plan["latest_values"][0]["fields"]["150"]["value"] = "55".into();
    scratch.write("scenario.json", plan.to_string());
    exporter.page_with("the page is fresh", |page| page.contains("} 55\n"));
    health_with(&mut exporter, "all is well", |health| health.status == 200);
    // The page is there a moment before the line.
    exporter.until("it is logged", |exporter| {
        let log = exporter.log();
        (log.contains("state: stale") && log.contains("state: /metrics has new samples again")).then_some(())
    });
}

#[test]
fn a_host_engine_that_stops_answering() {
    let scratch = Scratch::new();
    let plan = scratch.write("scenario.json", scenario(&[0]).to_string());
    let socket = scratch.path("engine.sock").display().to_string();
    let engine = HostEngine::start(["--socket", &socket], &plan);
    let counters = scratch.write("counters.csv", GPU_TEMP);
    let remote = format!("unix://{socket}");
    let mut exporter = Exporter::start(exporter().args(FAST).args(["-r", &remote, "-f"]).arg(counters));
    exporter.page();
    signal_to(engine.pid(), Signal::STOP);
    exporter.until("the page is stale", |exporter| (exporter.get("/metrics").status == 503).then_some(()));
    signal_to(engine.pid(), Signal::CONT);
    exporter.page();
}

#[test]
fn a_host_engine_that_is_restarted() {
    let scratch = Scratch::new();
    let plan = scratch.write("scenario.json", scenario(&[0]).to_string());
    let address = format!("127.0.0.1:{}", free_port());
    let mut engine = HostEngine::start(["--listen", &address], &plan);
    let counters = scratch.write("counters.csv", GPU_TEMP);
    let mut exporter = Exporter::start(exporter().args(["-c", "100", "-r", &address, "-f"]).arg(counters));
    exporter.page();
    for round in 1..=3 {
        drop(engine);
        let page = exporter.page_with("samples are gone", |page| !page.contains("DCGM_FI_DEV_GPU_TEMP"));
        assert!(is_in_state(&page, "lost"), "{page}");
        let health =
            health_with(&mut exporter, "health says so", |health| health.body.starts_with("lost: cannot connect"));
        assert!(health.status == 503 && health.body.contains(&address), "{}", health.body);
        engine = HostEngine::start(["--listen", &address], &plan);
        let back = Instant::now();
        let page = exporter.page_with("samples are back", |page| page.contains("DCGM_FI_DEV_GPU_TEMP"));
        assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
        assert!(page.contains(&format!("dcgm_exporter_reconnects_total {round}\n")), "{page}");
    }
    drop(engine);
}

#[test]
fn a_gpu_that_falls_off_the_bus() {
    let scratch = Scratch::new();
    let mut plan = scenario(&[0, 1]);
    let mut exporter = start_fast(&scratch, &plan, GPU_TEMP, &[]);
    let page = exporter.page();
    assert!(page.contains("dcgm_exporter_entity_up{gpu=\"1\",UUID=\"GPU-1\""), "{page}");
    let lost = |page: &str| {
        let line = page.lines().find(|line| line.starts_with("dcgm_exporter_entity_up{gpu=\"1\",UUID=\"GPU-1\""));
        line.is_some_and(|line| line.ends_with(" 0"))
    };
    plan["faults"]["lost_gpus"] = json!([1]);
    scratch.write("scenario.json", plan.to_string());
    let page = exporter.page_with("it is lost", lost);
    assert!(
        page.contains("DCGM_FI_DEV_GPU_TEMP{gpu=\"0\"") && !page.contains("DCGM_FI_DEV_GPU_TEMP{gpu=\"1\""),
        "{page}"
    );
    assert!(is_in_state(&page, "degraded"), "{page}");
    let health = exporter.get("/health");
    assert!(health.status == 200 && health.body.contains("GPU 1: none of its fields has a value"), "{}", health.body);
    // It may also vanish from the engine's list.
    plan["faults"] = json!({});
    let gpu = plan["system"]["gpus"].as_array_mut().unwrap().pop().unwrap();
    scratch.write("scenario.json", plan.to_string());
    let health = health_with(&mut exporter, "it is gone", |health| health.body.contains("GPU 1 (GPU-1) is lost"));
    assert_eq!(health.status, 200);
    // The state is told a moment before the page.
    exporter.page_with("its last known identity stays", lost);
    plan["system"]["gpus"].as_array_mut().unwrap().push(gpu);
    scratch.write("scenario.json", plan.to_string());
    let page = exporter.page_with("it is back", |page| page.contains("DCGM_FI_DEV_GPU_TEMP{gpu=\"1\""));
    assert!(!lost(&page) && is_in_state(&page, "running"), "{page}");
}

#[test]
fn a_driver_that_comes_after_the_exporter() {
    let scratch = Scratch::new();
    let plan = scratch.write("scenario.json", scenario(&[]).to_string());
    let counters = scratch.write("counters.csv", GPU_TEMP);
    let mut command = exporter();
    command.env("DCGM_SIMULATOR_SCENARIO", plan).env("DCGM_EXPORTER_TEST_DRIVER", scratch.path("driver"));
    let mut exporter = Exporter::start(command.args(FAST).arg("-f").arg(counters));
    let page = exporter.page();
    assert!(!page.contains("DCGM_FI_") && is_in_state(&page, "waiting_for_gpus"), "{page}");
    let health = exporter.get("/health");
    assert!(health.body.contains("no GPU is found; looking again"), "{}", health.body);
    scratch.write("scenario.json", scenario(&[0, 1]).to_string());
    for gpu in ["0000:01:00.0", "0000:02:00.0"] {
        std::fs::create_dir_all(scratch.path(&format!("driver/gpus/{gpu}"))).unwrap();
    }
    let page = exporter.page_with("GPUs are found", |page| page.contains("DCGM_FI_DEV_GPU_TEMP{gpu=\"1\""));
    assert!(is_in_state(&page, "running"), "{page}");
}

#[test]
fn an_entity_that_spoils_the_reading_of_its_group() {
    let scratch = Scratch::new();
    let mut plan = scenario(&[0, 1, 2]);
    let mut exporter = start_fast(&scratch, &plan, GPU_TEMP, &[]);
    exporter.page();
    plan["faults"]["fail"] = json!([{ "call": "latest", "code": -3, "entity": "GPU", "id": 1 }]);
    scratch.write("scenario.json", plan.to_string());
    let page = exporter.page_with("the culprit stands alone", |page| {
        page.contains("DCGM_FI_DEV_GPU_TEMP{gpu=\"2\"") && !page.contains("DCGM_FI_DEV_GPU_TEMP{gpu=\"1\"")
    });
    assert!(page.contains("DCGM_FI_DEV_GPU_TEMP{gpu=\"0\"") && is_in_state(&page, "degraded"), "{page}");
    assert!(!page.contains("dcgm_exporter_errors_total{kind=\"read\"} 0\n"), "{page}");
}

/// The halves are plain watches of a field that is read as a sequence of samples, too: the engine keeps it all the same.
/// Nothing is wrong with either GPU, so nothing is watched anew later.
#[test]
fn sequences_of_samples_go_on_after_a_group_is_read_in_halves() {
    let scratch = Scratch::new();
    let counters = format!(
        "{GPU_TEMP}DCGM_FI_DEV_CLOCK_THROTTLE_REASONS, gauge, r\nDCGM_EXP_CLOCK_EVENTS_SECONDS_TOTAL, counter, s\n"
    );
    let mut plan = scenario(&[0, 1]);
    for gpu in 0..2 {
        plan["latest_values"][gpu]["fields"]["112"] = json!({ "type": "int64", "value": "64" });
    }
    let mut exporter = start_fast(&scratch, &plan, &counters, &[]);
    let seconds =
        |page: &str| value(page, &["DCGM_EXP_CLOCK_EVENTS_SECONDS_TOTAL{", "gpu=\"0\"", "hw_thermal"]).unwrap_or(0.0);
    exporter.page_with("it is throttled", |page| seconds(page) > 0.5);
    plan["faults"]["fail"] = json!([{ "call": "latest", "code": -3, "of_more_than": 1 }]);
    scratch.write("scenario.json", plan.to_string());
    let page = exporter.page_with("it is read in halves", |page| {
        !page.contains("dcgm_exporter_errors_total{kind=\"read\"} 0\n") && series(page, "DCGM_FI_DEV_GPU_TEMP") == 2
    });
    let before = seconds(&page);
    let from = collections(&page);
    let page = exporter.page_with("it has collected again", |page| collections(page) > from + 5.0);
    assert!(seconds(&page) > before + 0.3, "{before}, then {}: {page}", seconds(&page));
}

#[test]
fn values_that_stop_moving_are_not_shown() {
    let scratch = Scratch::new();
    let counters = "DCGM_FI_DEV_GPU_TEMP, gauge, t\nDCGM_FI_DEV_XID_ERRORS, gauge, x\nDCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION, counter, e\n";
    let mut plan = scenario(&[0, 1]);
    // The driver's own time stamp of a counter, and an event long ago: neither says that a GPU stands still.
    for gpu in [0, 1] {
        plan["latest_values"][gpu]["fields"]["156"] =
            json!({ "type": "int64", "value": "7", "timestamp": 1_000_000.0 });
        plan["latest_values"][gpu]["fields"]["230"] =
            json!({ "type": "int64", "value": "31", "timestamp": 1_000_000.0 });
    }
    let mut exporter = start_fast(&scratch, &plan, counters, &[]);
    exporter.page_with("both are shown", |page| {
        page.contains("DCGM_FI_DEV_GPU_TEMP{gpu=\"1\"") && page.contains("dcgm_exporter_collections_total 12\n")
    });
    plan["faults"]["frozen"] = json!([{ "entity": "GPU", "id": 1 }]);
    scratch.write("scenario.json", plan.to_string());
    let page = exporter.page_with("the frozen one is not", |page| !page.contains("DCGM_FI_DEV_GPU_TEMP{gpu=\"1\""));
    assert!(page.contains("DCGM_FI_DEV_GPU_TEMP{gpu=\"0\""), "{page}");
    for field in ["DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "DCGM_FI_DEV_XID_ERRORS"] {
        assert!(
            page.contains(&format!("{field}{{gpu=\"0\"")) && !page.contains(&format!("{field}{{gpu=\"1\"")),
            "{page}"
        );
    }
    assert!(exporter.get("/health").body.contains("GPU 1: its values are no longer updated"));
    plan["faults"] = json!({});
    scratch.write("scenario.json", plan.to_string());
    exporter.page_with("it moves again", |page| page.contains("DCGM_FI_DEV_GPU_TEMP{gpu=\"1\""));
}

#[test]
fn profiling_that_goes_silent_is_watched_anew() {
    let scratch = Scratch::new();
    let counters = "DCGM_FI_DEV_GPU_TEMP, gauge, t\nDCGM_FI_PROF_GR_ENGINE_ACTIVE, gauge, g\n";
    let mut plan = scenario(&[0]);
    plan["supported_profiling_fields"] = json!([1001]);
    plan["latest_values"][0]["fields"]["1001"] = json!({ "type": "double", "value": "0.5" });
    let mut exporter = start_fast(&scratch, &plan, counters, &[]);
    exporter.page_with("it is there", |page| page.contains("} 0.500000\n"));
    // The simulator lets a silent field speak again when it is watched anew.
    plan["faults"]["silent_fields"] = json!([1001]);
    scratch.write("scenario.json", plan.to_string());
    exporter.page_with("it was watched anew and is back", |page| {
        page.contains("dcgm_exporter_profiling_rewatches_total 1\n") && page.contains("} 0.500000\n")
    });
    assert!(exporter.log().contains("profiling fields have no new samples"), "{}", exporter.log());
}

/// Scrapes until told to stop; every page must have what `is` wants.
fn scrape_all_the_time(port: u16, is: fn(&str) -> bool) -> impl FnOnce() -> u64 {
    let (stop, pages) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let scraper = std::thread::spawn({
        let (stop, pages) = (stop.clone(), pages.clone());
        move || {
            while !stop.load(Ordering::Relaxed) {
                let page = request(port, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
                assert!(page.status == 200 && is(&page.body), "{}", page.body);
                pages.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    move || {
        stop.store(true, Ordering::Relaxed);
        scraper.join().unwrap();
        pages.load(Ordering::Relaxed)
    }
}

#[test]
fn a_thousand_reloads_leave_nothing_behind_and_no_page_empty() {
    let scratch = Scratch::new();
    let counters = |clock: bool| format!("{GPU_TEMP}{}", if clock { "DCGM_FI_DEV_SM_CLOCK, gauge, c\n" } else { "" });
    let mut plan = scenario(&[0, 1]);
    for gpu in [0, 1] {
        plan["latest_values"][gpu]["fields"]["100"] = json!({ "type": "int64", "value": "1980" });
    }
    let mut exporter = start_fast(&scratch, &plan, &counters(false), &[]);
    exporter.page();
    let finish = scrape_all_the_time(exporter.port, |page| page.contains("DCGM_FI_DEV_GPU_TEMP{gpu=\"1\""));
    const RELOADS: u64 = 1000;
    for reload in 1..=RELOADS {
        let clock = reload % 2 == 1;
        scratch.write("counters.csv", counters(clock));
        exporter.signal(Signal::HUP);
        exporter.until("it is taken", |exporter| {
            let page = exporter.get("/metrics").body;
            let taken =
                page.lines().find_map(|line| line.strip_prefix("dcgm_exporter_reloads_total{outcome=\"taken\"} "));
            let taken: u64 = taken?.parse().ok()?;
            (taken >= reload && page.contains("SM_CLOCK{") == clock).then_some(())
        });
    }
    assert!(finish() > RELOADS / 10);
    exporter.page_with("it has collected again", |page| !page.contains("SM_CLOCK{"));
    let stats = || -> Value {
        exporter.until("statistics are whole", |_| {
            serde_json::from_slice(&std::fs::read(scratch.path("stats.json")).ok()?).ok()
        })
    };
    let mut stats = stats;
    let stats = stats();
    // Of two GPUs, the temperature and the XID errors; these in one group to be counted and in another to be kept.
    assert_eq!(
        (&stats["groups"], &stats["field_groups"], &stats["watches"]),
        (&json!(3), &json!(2), &json!(4)),
        "{stats}"
    );
    assert_eq!(stats["violations"], json!([]));
}

#[test]
fn a_changed_counters_file_is_found_and_a_bad_one_refused() {
    let scratch = Scratch::new();
    let mut plan = scenario(&[0]);
    plan["latest_values"][0]["fields"]["100"] = json!({ "type": "int64", "value": "1980" });
    plan["health_incidents"] = json!([]);
    let mut exporter = start_fast(&scratch, &plan, GPU_TEMP, &[]);
    exporter.page();
    scratch.write("counters.csv", "DCGM_FI_DEV_SM_CLOCK, gauge, c\n");
    exporter.page_with("the new row is there", |page| {
        page.contains("DCGM_FI_DEV_SM_CLOCK{") && !page.contains("GPU_TEMP{")
    });
    scratch.write("counters.csv", "DCGM_FI_NOPE, gauge, c\nDCGM_FI_DEV_SM_CLOCK, gouge, c\n");
    let page = exporter.page_with("it is refused", |page| page.contains("reloads_total{outcome=\"refused\"} 1\n"));
    assert!(page.contains("DCGM_FI_DEV_SM_CLOCK{"), "the old rows stay: {page}");
    let log = exporter.log();
    assert!(log.contains("counters.csv:1: ") && log.contains("counters.csv:2: ") && log.contains("'gouge'"), "{log}");
    std::fs::remove_file(scratch.path("counters.csv")).unwrap();
    std::thread::sleep(Duration::from_millis(400));
    assert!(exporter.page().contains("DCGM_FI_DEV_SM_CLOCK{"), "a file that is gone changes nothing");
    // Health needs a module that the engine was told not to load: it is started again, and no page is empty.
    let finish = scrape_all_the_time(exporter.port, |page| page.contains("DCGM_FI_DEV_SM_CLOCK{"));
    scratch.write("counters.csv", "DCGM_FI_DEV_SM_CLOCK, gauge, c\nDCGM_EXP_GPU_HEALTH_STATUS, gauge, h\n");
    exporter.page_with("health is checked", |page| page.contains("DCGM_EXP_GPU_HEALTH_STATUS{"));
    finish();
}

#[test]
fn letting_the_gpus_go_and_taking_them_up_again() {
    let scratch = Scratch::new();
    let mut exporter = start_fast(&scratch, &scenario(&[0]), GPU_TEMP, &[]);
    exporter.page();
    for _ in 0..3 {
        exporter.signal(Signal::USR1);
        let page = exporter.page_with("they are let go", |page| is_in_state(page, "released"));
        assert!(!page.contains("DCGM_FI_"), "{page}");
        let stats: Value = serde_json::from_slice(&std::fs::read(scratch.path("stats.json")).unwrap()).unwrap();
        assert_eq!(stats["sessions"], 0, "{stats}");
        std::thread::sleep(Duration::from_millis(1200));
        let page = exporter.get("/metrics");
        assert!(page.status == 200 && is_in_state(&page.body, "released"), "it stands as long as it takes");
        assert!(exporter.get("/health").body.contains("send SIGUSR2 to go on"));
        exporter.signal(Signal::USR2);
        exporter
            .page_with("they are back", |page| is_in_state(page, "running") && page.contains("DCGM_FI_DEV_GPU_TEMP{"));
    }
    exporter.signal(Signal::USR1);
    exporter.page_with("they are let go", |page| is_in_state(page, "released"));
    let (status, took) = exporter.stop();
    assert!(status.success() && took < Duration::from_secs(1), "{status} after {took:?}");
}
