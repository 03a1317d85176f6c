//! A long life in a short time: collections, scrapes, jobs and reloads without a pause. Run by `make soak`.
//!
//! `SOAK_MINUTES` says how long: 2 by default with the default file, 30 with everything on. Memory, threads, files and CPU
//! are printed on the way.

#[allow(dead_code)]
#[path = "../it/common.rs"]
mod common;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use common::{Exporter, Scratch, Signal, exporter, request};

/// Growth that is noise: pages of the allocator and of the kernel's own accounting.
const NOISE_KIB: u64 = 256;

fn minutes(default: f64) -> f64 {
    std::env::var("SOAK_MINUTES").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Jobs that come and go again and again, each on all eight GPUs, before anything is measured.
const JOBS: u64 = 9;

struct Use {
    resident_kib: u64,
    threads: usize,
    files: usize,
    cpu_seconds: f64,
}

fn usage(exporter: &Exporter) -> Use {
    let page = exporter.get("/metrics").body;
    let cpu = page.lines().find_map(|line| line.strip_prefix("process_cpu_seconds_total "));
    let count = |what: &str| std::fs::read_dir(format!("/proc/{}/{what}", exporter.pid())).unwrap().count();
    Use {
        resident_kib: exporter.resident_kib(),
        threads: count("task"),
        files: count("fd"),
        cpu_seconds: cpu.and_then(|cpu| cpu.parse().ok()).unwrap_or(0.0),
    }
}

fn print(when: &str, scrapes: u64, usage: &Use) {
    println!(
        "{when}: {} KiB resident, {} threads, {} files, {:.1} s CPU, {scrapes} scrapes",
        usage.resident_kib, usage.threads, usage.files, usage.cpu_seconds
    );
}

#[test]
#[ignore = "takes minutes: make soak"]
fn memory_threads_and_files_stay_as_they_are() {
    let minutes = minutes(2.0);
    let scratch = Scratch::new();
    let shipped = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("counters/default-counters.csv")).unwrap();
    let counters = scratch.write("counters/counters.csv", &shipped);
    std::fs::create_dir(scratch.path("jobs")).unwrap();
    let mut exporter = Exporter::start(
        exporter().args(["-c", "100", "--hpc-job-mapping-dir"]).arg(scratch.path("jobs")).arg("-f").arg(&counters),
    );
    exporter.page();
    let (stop, scrapes, port) = (AtomicBool::new(false), AtomicU64::new(0), exporter.port);
    let half = Duration::from_secs_f64(minutes * 30.0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let answer = request(port, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
                    assert!(answer.status == 200 && answer.body.contains("DCGM_FI_DEV_GPU_TEMP{gpu=\"7\""));
                    scrapes.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut round = 0u64;
        let mut disturb_until = |end: Instant| {
            while Instant::now() < end {
                round += 1;
                // What a job used is shown for a while after its end, so the page would grow with every new id.
                let job = round % JOBS;
                std::fs::write(scratch.path("jobs").join((round % 8).to_string()), format!("{job}\n")).unwrap();
                if round.is_multiple_of(10) {
                    let more = if round.is_multiple_of(20) { "DCGM_FI_DEV_SLOWDOWN_TEMP, gauge, s\n" } else { "" };
                    scratch.write("counters/counters.csv", [shipped.as_slice(), more.as_bytes()].concat());
                    exporter.signal(Signal::HUP);
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        };
        // The first quarter of a minute brings every buffer to its size.
        disturb_until(Instant::now() + Duration::from_secs(15));
        let at_start = usage(&exporter);
        print("start", scrapes.load(Ordering::Relaxed), &at_start);
        disturb_until(Instant::now() + half);
        print("middle", scrapes.load(Ordering::Relaxed), &usage(&exporter));
        disturb_until(Instant::now() + half);
        stop.store(true, Ordering::Relaxed);
        std::thread::sleep(Duration::from_secs(2));
        let at_end = usage(&exporter);
        print("end", scrapes.load(Ordering::Relaxed), &at_end);
        assert!(at_end.resident_kib <= at_start.resident_kib + NOISE_KIB, "memory grows");
        assert_eq!(at_end.threads, at_start.threads);
        assert!(at_end.files <= at_start.files + 3, "files are left open");
    });
}

/// Windows of the event metrics in the soak with everything on, which the keep ages of the engine follow.
const WINDOW: Duration = Duration::from_secs(60);
/// For so long XIDs that were read are remembered, and kept by the engine: their number grows until then.
const REMEMBERED: Duration = Duration::from_secs(660);

/// Four GPUs with seven instances each, four whole ones, switches, links of both, CPUs and adapters. The rounds differ in
/// clock events and in what health says.
fn everything(round: u64) -> Value {
    let ids: Vec<u32> = (0..8).collect();
    let mut plan = common::scenario(&ids);
    plan["replay"] = true.into();
    plan["switch_module"] = "nvsdm".into();
    plan["supported_profiling_fields"] = Value::Null;
    let instance = |id: u32| json!({ "parent_gpu": id / 7, "entity_id": id, "nvml_gpu_instance_id": 7 + id % 7, "profile": "1g.18gb", "uuid": format!("MIG-{id}") });
    plan["system"]["gpu_instances"] = (0..28).map(instance).collect();
    plan["system"]["switches"] = json!([0, 1, 2, 3]);
    let links = |parent: &'static str, count: u32| {
        (0..count).map(move |id| json!({ "parent": parent, "parent_id": id, "states": vec![3; 18] }))
    };
    plan["system"]["links"] = links("GPU", 8).chain(links("SWITCH", 4)).collect();
    plan["system"]["cpus"] = json!([{ "id": 0, "cores": [0, 1, 2, 3] }, { "id": 1, "cores": [4, 5, 6, 7] }]);
    plan["system"]["connectx"] = json!([0, 1]);
    let mask = |entity: &str, id: u32| json!({ "entity": entity, "id": id, "fields": { "112": { "type": "int64", "value": (1 << ((round + u64::from(id)) % 9)).to_string() } } });
    plan["latest_values"] = (4..8).map(|gpu| mask("GPU", gpu)).chain((0..28).map(|id| mask("GPU_I", id))).collect();
    let event = |entity: &str, id: u32, code: u32| json!({ "entity": entity, "id": id, "field_id": 230, "value": code, "count": 1_000_000_000, "every_ms": 200 });
    plan["events"] = json!([event("GPU", 0, 94), event("GPU", 7, 31), event("GPU_I", 3, 43), event("GPU_CI", 5, 13)]);
    plan["health_incidents"] = json!([{ "gpu": round % 8, "system": 16, "health": 20, "error_code": 95 }]);
    plan
}

/// Every field and every computed metric that a gauge can be made of.
fn every_row() -> String {
    let mut rows = String::from("DCGM_FI_DRIVER_VERSION, label, d\n");
    let mut seen = std::collections::HashSet::new();
    for line in include_str!("../../src/dcgm/fields.csv").lines().skip(1) {
        let columns: Vec<&str> = line.split(',').collect();
        if matches!(columns[2], "int64" | "double") && seen.insert(columns[1]) {
            rows.push_str(&format!("{}, gauge, h\n", columns[0]));
        }
    }
    rows.extend(dcgm_exporter::metrics::sources::names().iter().map(|name| format!("{name}, gauge, h\n")));
    rows
}

/// Every field of switches, links and adapters, and one of GPUs.
fn every_row_of_links() -> String {
    let mut rows = String::from("DCGM_FI_DEV_GPU_TEMP, gauge, t\n");
    let mut seen = std::collections::HashSet::new();
    for line in include_str!("../../src/dcgm/fields.csv").lines().skip(1) {
        let columns: Vec<&str> = line.split(',').collect();
        let is_of_links = matches!(columns[3], "nvswitch" | "link" | "connectx");
        if is_of_links && matches!(columns[2], "int64" | "double") && seen.insert(columns[1]) {
            rows.push_str(&format!("{}, gauge, h\n", columns[0]));
        }
    }
    rows
}

/// Switches and links of both, as many of which an HGX board has, with every row, at 100 ms: what the engine keeps, what it
/// asks the driver for at a collection, and memory stay as they are.
#[test]
#[ignore = "takes minutes: make soak"]
fn links_and_switches_with_every_row_stay_flat() {
    let minutes = minutes(3.0);
    let scratch = Scratch::new();
    let mut plan = everything(0);
    (plan["events"], plan["system"]["gpu_instances"]) = (json!([]), json!([]));
    // As on an H200.
    plan["unsupported_by_links"] = (580..=592).chain([1509]).collect();
    let mut exporter = Exporter::start(
        exporter()
            .env("DCGM_SIMULATOR_SCENARIO", scratch.write("scenario.json", plan.to_string()))
            .env("DCGM_SIMULATOR_STATS", scratch.path("stats.json"))
            .args(["-c", "100", "-f"])
            .arg(scratch.write("counters.csv", every_row_of_links())),
    );
    exporter.page();
    // Kept samples; collections, calls of the driver for links of GPUs, KiB.
    let look = || {
        let stats: Value = serde_json::from_slice(&std::fs::read(scratch.path("stats.json")).unwrap()).unwrap();
        let calls = |fields: std::ops::RangeInclusive<u16>| -> u64 {
            fields.filter_map(|field| stats["driver_calls"][field.to_string()].as_u64()).sum()
        };
        let of_links = calls(580..=592) + calls(1508..=1509) + calls(1525..=1533);
        let updates = stats["calls"]["dcgmUpdateAllFields"].as_u64().unwrap();
        let usage = usage(&exporter);
        let kept = stats["kept_samples"].as_u64().unwrap();
        print(&format!("{updates} updates, {of_links} calls for links, {kept} samples kept"), 0, &usage);
        (kept, updates, of_links, usage.resident_kib)
    };
    // Fields that fail are found and tried again one by one, and every buffer gets its size.
    std::thread::sleep(Duration::from_secs(60));
    let third = Duration::from_secs_f64(minutes * 20.0);
    let first = look();
    std::thread::sleep(third);
    let second = look();
    std::thread::sleep(third * 2);
    let last = look();
    assert_eq!((first.0, second.0, last.0), (0, 0, 0), "the engine keeps samples");
    let per_update =
        |from: (u64, u64, u64, u64), to: (u64, u64, u64, u64)| (to.2 - from.2) as f64 / (to.1 - from.1) as f64;
    let (before, after) = (per_update(first, second), per_update(second, last));
    assert!(after <= before * 1.05, "calls of the driver grow from {before} to {after} per collection");
    assert!(last.3 <= first.3 + NOISE_KIB, "memory grows: {} KiB, then {}", first.3, last.3);
}

/// MIG, switches, every field, every computed metric and jobs, at 100 ms. The simulator lives in the same process; what it
/// keeps is bounded by the keep ages and printed beside.
#[test]
#[ignore = "takes half an hour: make soak"]
fn everything_at_once_stays_flat() {
    let minutes = minutes(30.0);
    let scratch = Scratch::new();
    let plan = scratch.write("scenario.json", everything(0).to_string());
    let counters = scratch.write("counters.csv", every_row());
    std::fs::create_dir(scratch.path("jobs")).unwrap();
    let window = WINDOW.as_millis().to_string();
    let mut exporter = Exporter::start(
        exporter()
            .env("DCGM_SIMULATOR_SCENARIO", &plan)
            .env("DCGM_SIMULATOR_STATS", scratch.path("stats.json"))
            .args(["-c", "100", "--xid-count-window-size", &window, "--clock-events-count-window-size", &window])
            .arg("--hpc-job-mapping-dir")
            .arg(scratch.path("jobs"))
            .arg("-f")
            .arg(&counters),
    );
    println!("page: {} bytes", exporter.page().len());
    let kept = || -> u64 {
        let stats = std::fs::read(scratch.path("stats.json")).unwrap();
        serde_json::from_slice::<Value>(&stats).unwrap()["kept_samples"].as_u64().unwrap()
    };
    let (mut round, mut scrapes) = (0u64, 0u64);
    // The lowest of a while: a page that is sent while the next one is made is there twice, which is no growth.
    let mut lowest_until = |end: Instant| {
        let (mut lowest, mut peak) = (u64::MAX, 0);
        while Instant::now() < end {
            round += 1;
            // Twenty jobs that come again, so that the totals by job are bounded.
            std::fs::write(scratch.path("jobs").join((round % 8).to_string()), format!("{}\n", round % 20)).unwrap();
            std::fs::write(scratch.path("jobs").join(format!("0.{}", 7 + round % 7)), "17\n").unwrap();
            if round.is_multiple_of(20) {
                scratch.write("scenario.json", everything(round / 20).to_string());
            }
            let answer = exporter.get("/metrics");
            assert!(answer.status == 200 && answer.body.contains("DCGM_FI_DEV_GPU_TEMP{gpu=\"7\""), "{}", answer.head);
            scrapes += 1;
            let resident = exporter.resident_kib();
            (lowest, peak) = (lowest.min(resident), peak.max(resident));
            std::thread::sleep(Duration::from_millis(100));
        }
        let usage = usage(&exporter);
        let kept = kept();
        print(&format!("{lowest} to {peak} KiB, {kept} samples kept by the simulator"), scrapes, &usage);
        (lowest, usage)
    };
    // The windows are full, each job has had each GPU, every buffer has its size, and as many XIDs are remembered as ever.
    lowest_until(Instant::now() + REMEMBERED + WINDOW);
    let eighth = Duration::from_secs_f64(minutes * 60.0 / 8.0);
    let (at_start, first) = lowest_until(Instant::now() + eighth);
    let mut lowests = Vec::new();
    let mut last = first.threads;
    for _ in 1..8 {
        let (lowest, usage) = lowest_until(Instant::now() + eighth);
        lowests.push(lowest);
        last = usage.threads;
        assert!(usage.files <= first.files + 3, "files are left open");
    }
    assert_eq!(last, first.threads);
    let at_end = lowests[lowests.len() - 1];
    assert!(at_end <= at_start + NOISE_KIB, "memory grows: {at_start} KiB, then {lowests:?}");
}

/// Each session of a process is like the one before, also in what it leaves behind: nothing.
#[test]
#[ignore = "takes a minute: make soak"]
fn a_hundred_sessions_in_one_process_leave_nothing_behind() {
    const SESSIONS: usize = 100;
    /// After these every buffer has its size.
    const FIRST: usize = 20;
    let scratch = Scratch::new();
    let mut plan = everything(0);
    // Each new engine would bring them again, and what was read is remembered for eleven minutes.
    plan.as_object_mut().unwrap().remove("events");
    let plan = scratch.write("scenario.json", plan.to_string());
    let mut command = exporter();
    // Windows that are full before it is measured.
    command.args(["-x", "5000", "--clock-events-count-window-size", "5000"]);
    command.env("DCGM_SIMULATOR_SCENARIO", plan).args(["-c", "100", "-f"]);
    let mut exporter = Exporter::start(command.arg(scratch.write("counters.csv", every_row())));
    let samples = |page: &str| page.lines().filter(|line| line.starts_with("DCGM_")).count();
    let first =
        samples(&exporter.page_with("all is sampled", |page| page.contains("dcgm_exporter_collections_total 5")));
    let mut at_start = None;
    for session in 0..SESSIONS {
        exporter.begin_second_session();
        exporter.page_with("all is sampled again", |page| samples(page) == first);
        if session == FIRST {
            at_start = Some(usage(&exporter));
        }
    }
    let (at_start, at_end) = (at_start.unwrap(), usage(&exporter));
    print("after the first sessions", 0, &at_start);
    print("after all of them", 0, &at_end);
    assert!(at_end.resident_kib <= at_start.resident_kib + NOISE_KIB, "memory grows");
    assert_eq!((at_end.threads, at_end.files), (at_start.threads, at_start.files));
}

/// Jobs on all eight GPUs, one after the other.
fn run_jobs(scratch: &Scratch, ids: std::ops::Range<u32>) {
    for job in ids {
        for gpu in 0..8 {
            std::fs::write(scratch.path("jobs").join(gpu.to_string()), format!("{job}\n")).unwrap();
        }
        std::thread::sleep(Duration::from_millis(60));
    }
    for gpu in 0..8 {
        std::fs::remove_file(scratch.path("jobs").join(gpu.to_string())).unwrap();
    }
}

/// Jobs of the past cost no CPU, no memory and no byte of the page.
#[test]
#[ignore = "takes two minutes: make soak"]
fn four_hundred_jobs_of_the_past_cost_nothing() {
    const COLLECTIONS: f64 = 150.0;
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("jobs")).unwrap();
    let mut plan = common::scenario(&(0..8).collect::<Vec<u32>>());
    plan["latest_values"] = (0..8)
        .map(|id| {
            json!({ "entity": "GPU", "id": id, "fields": {
                "150": { "type": "int64", "value": "30" },
                "156": { "type": "int64", "value": "0", "per_second": 300_000 },
                "203": { "type": "int64", "value": "40" },
                "252": { "type": "int64", "value": "1000" },
            } })
        })
        .collect();
    // No clock events: of these the engine, which is in this process, keeps more and more samples for five minutes.
    let rows = "DCGM_FI_DEV_GPU_TEMP, gauge, t\nDCGM_EXP_XID_ERRORS_TOTAL, counter, x\n";
    let mut exporter = Exporter::start(
        exporter()
            .env("DCGM_SIMULATOR_SCENARIO", scratch.write("scenario.json", plan.to_string()))
            .args(["-c", "100", "--job-series-keep", "2s", "--hpc-job-mapping-dir"])
            .arg(scratch.path("jobs"))
            .arg("--job-summary-dir")
            .arg(scratch.path("summaries"))
            .arg("-f")
            .arg(scratch.write("counters.csv", rows)),
    );
    let number = |page: &str, name: &str| -> f64 {
        page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap()
    };
    // Of a page without jobs: its bytes without numbers, which grow longer, KiB resident, and CPU per collection. The
    // lowest of three: other programs only make it more.
    let costs = |exporter: &mut Exporter| {
        let page = exporter.page_with("all jobs are forgotten", |page| !page.contains("hpc_job="));
        let bytes: usize = page.lines().filter_map(|line| Some(line.rsplit_once(' ')?.0.len())).sum();
        let mut lowest = (u64::MAX, f64::MAX);
        let mut before = exporter.page();
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(100 * COLLECTIONS as u64));
            let after = exporter.page();
            let of = |name: &str| number(&after, name) - number(&before, name);
            let cpu = of("process_cpu_seconds_total ") / of("dcgm_exporter_collections_total ");
            lowest = (lowest.0.min(exporter.resident_kib()), lowest.1.min(cpu));
            before = after;
        }
        println!("{bytes} bytes, {} KiB resident, {:.0} us of CPU per collection", lowest.0, lowest.1 * 1e6);
        (bytes, lowest.0, lowest.1)
    };
    // Every buffer has the size that a page with jobs takes.
    run_jobs(&scratch, 1000..1400);
    let before = costs(&mut exporter);
    run_jobs(&scratch, 2000..2400);
    let after = costs(&mut exporter);
    assert_eq!(after.0, before.0, "bytes");
    assert!(after.1 <= before.1 + NOISE_KIB, "memory: {} KiB, then {}", before.1, after.1);
    assert!(after.2 <= before.2 * 1.05, "CPU: {} s per collection, then {}", before.2, after.2);
    // Of each job that was seen at all; none is marked as running.
    let names = std::fs::read_dir(scratch.path("summaries")).unwrap().map(|it| it.unwrap().file_name());
    assert!(names.into_iter().all(|name| !name.to_str().unwrap().starts_with('.')));
}
