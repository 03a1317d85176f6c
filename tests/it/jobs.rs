//! The job map: labels come and go within a second, and nothing in that directory can cost a page.

use std::time::{Duration, Instant};

use crate::common::*;

/// A long interval shows that labels do not wait for the next collection.
fn start(scratch: &Scratch) -> Exporter {
    let counters = scratch.write("counters.csv", GPU_TEMP);
    let plan = scratch.write("scenario.json", scenario(&[0, 1]).to_string());
    let jobs = scratch.path("jobs");
    let mut exporter = Exporter::start(
        exporter()
            .env("DCGM_SIMULATOR_SCENARIO", plan)
            .args(["-c", "1h", "-f"])
            .arg(counters)
            .arg("--hpc-job-mapping-dir")
            .arg(jobs),
    );
    exporter.page();
    exporter
}

#[test]
fn a_label_comes_and_goes_within_a_second() {
    let scratch = Scratch::new();
    let mut exporter = start(&scratch);
    let within_a_second = |exporter: &mut Exporter, what: &str, is: &dyn Fn(&str) -> bool| {
        let start = Instant::now();
        exporter.page_with(what, is);
        let took = start.elapsed();
        assert!(took < Duration::from_secs(2), "{what}: {took:?}");
    };
    // The directory does not exist at first.
    std::fs::create_dir(scratch.path("jobs")).unwrap();
    std::fs::write(scratch.path("jobs/1"), "17\n").unwrap();
    within_a_second(&mut exporter, "the job is shown", &|page| {
        page.contains("gpu=\"1\"") && page.contains("hpc_job=\"17\"} 31\n")
    });
    std::fs::write(scratch.path("jobs/1"), "17\n18\n").unwrap();
    within_a_second(&mut exporter, "the second job is shown", &|page| {
        page.contains("hpc_job=\"17\"} 31\n") && page.contains("hpc_job=\"18\"} 31\n")
    });
    std::fs::remove_file(scratch.path("jobs/1")).unwrap();
    within_a_second(&mut exporter, "no job is shown", &|page| !page.contains("hpc_job"));
    std::fs::remove_dir(scratch.path("jobs")).unwrap();
    std::fs::create_dir(scratch.path("jobs")).unwrap();
    std::fs::write(scratch.path("jobs/0"), "19\n").unwrap();
    within_a_second(&mut exporter, "a new directory is seen", &|page| page.contains("hpc_job=\"19\"} 30\n"));
}

#[test]
fn what_cannot_be_used_is_counted() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("jobs")).unwrap();
    std::fs::create_dir(scratch.path("jobs/0")).unwrap();
    std::fs::write(scratch.path("jobs/1"), vec![b'x'; 70_000]).unwrap();
    let mut exporter = start(&scratch);
    let page = exporter.page();
    assert!(page.contains("gpu=\"0\"") && page.contains("gpu=\"1\"") && !page.contains("hpc_job="), "{page}");
    assert!(page.contains("dcgm_exporter_job_map_errors_total 2\n"), "{page}");
    assert!(exporter.log().contains("not a regular file"), "{}", exporter.log());
}

/// Ten thousand changes at random, as careless scripts make them, while the page is asked for all the time.
#[test]
fn ten_thousand_changes_never_cost_a_page() {
    use std::os::unix::fs::symlink;
    let scratch = Scratch::new();
    let jobs = scratch.path("jobs");
    std::fs::create_dir(&jobs).unwrap();
    let mut exporter = start(&scratch);
    let writer = std::thread::spawn({
        let jobs = jobs.clone();
        move || {
            // A linear congruential generator is random enough, and the same every time.
            let mut state = 1u64;
            let mut random = |below: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % below
            };
            for number in 0..10_000 {
                let path = jobs.join(random(4).to_string());
                // Each of these may fail, because another one came before it.
                let _ = match random(7) {
                    0 => std::fs::remove_file(&path),
                    1 => std::fs::write(&path, format!("{number}\n")),
                    2 => std::fs::write(&path, "\n\n  \n"),
                    3 => std::fs::write(jobs.join("sedAbC"), "1\n")
                        .and_then(|()| std::fs::rename(jobs.join("sedAbC"), &path)),
                    4 => std::fs::write(&path, [0xff, 0xfe, b'\n', 0]),
                    5 => symlink("nowhere", &path),
                    _ => std::fs::create_dir(&path).and_then(|()| std::fs::remove_dir(&path)),
                };
            }
        }
    });
    let mut pages = 0;
    while !writer.is_finished() {
        let response = exporter.get("/metrics");
        assert_eq!(response.status, 200, "{}", response.body);
        for gpu in ["gpu=\"0\"", "gpu=\"1\""] {
            assert!(response.body.contains(gpu), "{}", response.body);
        }
        pages += 1;
    }
    writer.join().unwrap();
    assert!(pages > 20, "only {pages} pages");
    for file in 0..4 {
        let _ = std::fs::remove_file(jobs.join(file.to_string()));
    }
    std::fs::write(jobs.join("0"), "42\n").unwrap();
    exporter.page_with("the map is right in the end", |page| page.contains("hpc_job=\"42\"} 30\n"));
}
