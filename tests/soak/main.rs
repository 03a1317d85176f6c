//! A long life in a short time: collections, scrapes, jobs and reloads without a pause. Run by `make soak`.
//!
//! `SOAK_MINUTES` (2 by default) says how long. Memory, threads, files and CPU are printed at start, middle and end.

#[allow(dead_code)]
#[path = "../it/common.rs"]
mod common;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Exporter, Scratch, Signal, exporter, request};

/// Growth that is noise: pages of the allocator and of the kernel's own accounting.
const NOISE_KIB: u64 = 256;

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
    let minutes: f64 = std::env::var("SOAK_MINUTES").ok().and_then(|text| text.parse().ok()).unwrap_or(2.0);
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
                std::fs::write(scratch.path("jobs").join((round % 8).to_string()), format!("{round}\n")).unwrap();
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
