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

/// Prologs that append, and jobs whose epilog never ran.
#[test]
fn more_jobs_than_a_gpu_can_have_are_left_out() {
    let scratch = Scratch::new();
    let jobs = scratch.path("jobs");
    std::fs::create_dir(&jobs).unwrap();
    let ids: String = (0..300).map(|id| format!("{}\n", 1_000_000 + id)).collect();
    std::fs::write(jobs.join("0"), ids).unwrap();
    std::fs::write(jobs.join("1"), "17 18\n19_[1-4]\n").unwrap();
    let mut exporter = start(&scratch);
    let page = exporter.page();
    let shown = |gpu: u32| {
        let is_it = |line: &&str| line.starts_with("DCGM_FI_DEV_GPU_TEMP{") && line.contains(&format!("gpu=\"{gpu}\""));
        page.lines().filter(is_it).count()
    };
    assert_eq!((shown(0), shown(1)), (64, 1), "{page}");
    assert!(page.contains("hpc_job=\"19_[1-4]\""), "{page}");
    assert!(page.contains("dcgm_exporter_job_map_errors_total 2\n"), "{page}");
    let log = exporter.log();
    assert!(log.contains("236 job ids are left out; the limit is 64 jobs per GPU"), "{log}");
    assert!(log.contains("line 1 is not a job id"), "{log}");
}

/// A command whose user may have no inotify instance: in a user namespace of its own where the system allows one, else
/// through the exporter's test fault.
fn without_inotify(scratch: &Scratch) -> std::process::Command {
    use std::process::Command;
    const LIMIT: &str = "echo 0 > /proc/sys/user/max_inotify_instances";
    let in_namespace = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "sh", "-c", script, "sh"]);
        command
    };
    if in_namespace(LIMIT).stderr(std::process::Stdio::null()).status().is_ok_and(|status| status.success()) {
        // Both programs replace themselves, so the process id stays.
        let mut command = in_namespace(&format!("{LIMIT}; exec \"$@\""));
        command.arg(env!("CARGO_BIN_EXE_dcgm-exporter")).args(["--address", "127.0.0.1:0", "--libdcgm"]);
        command.arg(simulator());
        return command;
    }
    let mut command = exporter();
    command.env("DCGM_EXPORTER_TEST_FAULT", scratch.write("fault", "return inotify"));
    command
}

#[test]
fn without_inotify_the_job_map_is_read_only_when_it_changes() {
    let scratch = Scratch::new();
    let jobs = scratch.path("jobs");
    // A directory in place of a job file is one error at each reading.
    std::fs::create_dir_all(jobs.join("0")).unwrap();
    let mut exporter = Exporter::start(
        without_inotify(&scratch)
            .env("DCGM_SIMULATOR_SCENARIO", scratch.write("scenario.json", scenario(&[0, 1]).to_string()))
            .args(["-c", "100", "-f"])
            .arg(scratch.write("counters.csv", GPU_TEMP))
            .arg("--hpc-job-mapping-dir")
            .arg(&jobs),
    );
    let value = |page: &str, name: &str| -> u64 {
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or(0)
    };
    let page = exporter
        .page_with("it has collected for two seconds", |page| value(page, "dcgm_exporter_collections_total") >= 20);
    // Once at the start, and once more where the first look finds what came between.
    let readings = value(&page, "dcgm_exporter_job_map_errors_total");
    assert!((1..=2).contains(&readings), "read {readings} times");
    let log = exporter.log();
    assert_eq!(log.matches("inotify is not available").count(), 2, "once for each directory:\n{log}");
    assert!(log.contains("sysctl fs.inotify.max_user_instances="), "{log}");
    std::fs::write(jobs.join("1"), "17\n").unwrap();
    exporter.page_with("the job is shown", |page| page.contains("hpc_job=\"17\"} 31\n"));
    std::fs::remove_file(jobs.join("1")).unwrap();
    exporter.page_with("the job is gone", |page| !page.contains("hpc_job="));
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
            let mut random = Random(1);
            for number in 0..10_000 {
                let path = jobs.join(random.below(4).to_string());
                // Each of these may fail, because another one came before it.
                let _ = match random.below(7) {
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

#[test]
fn whose_a_job_is_and_a_gpu_that_is_held_but_idle() {
    let scratch = Scratch::new();
    let jobs = scratch.path("jobs");
    std::fs::create_dir(&jobs).unwrap();
    let mut exporter = start(&scratch);
    let page = exporter.page();
    let allocated = |gpu: u32, value: u32| {
        let (start, end) =
            (format!("dcgm_exporter_gpu_allocated{{gpu=\"{gpu}\",UUID=\"GPU-{gpu}\""), format!("}} {value}"));
        move |page: &str| page.lines().any(|line| line.starts_with(&start) && line.ends_with(&end))
    };
    assert!(allocated(0, 0)(&page) && allocated(1, 0)(&page), "{page}");
    let text = "user=o\"neil\\\naccount=physics\npartition=gpu\nstart_time=1700000000\nunknown=x\n";
    std::fs::write(jobs.join("job.17"), text).unwrap();
    std::fs::write(jobs.join("1"), "17\n").unwrap();
    // The GPU does nothing, and is taken all the same.
    let page = exporter.page_with("it is allocated", allocated(1, 1));
    assert!(allocated(0, 0)(&page), "{page}");
    for line in [
        "dcgm_exporter_job_info{hpc_job=\"17\",user=\"o\\\"neil\\\\\",account=\"physics\",partition=\"gpu\"} 1\n",
        "dcgm_exporter_job_start_time_seconds{hpc_job=\"17\"} 1700000000.000000\n",
        "hpc_job=\"17\"} 31\n",
    ] {
        assert!(page.contains(line), "{line} is not in {page}");
    }
    assert_eq!(page.matches("dcgm_exporter_gpu_job{gpu=\"1\"").count(), 1, "{page}");
    std::fs::remove_file(jobs.join("1")).unwrap();
    std::fs::remove_file(jobs.join("job.17")).unwrap();
    exporter.page_with("it is free", |page| allocated(1, 0)(page) && !page.contains("hpc_job"));
}

#[test]
fn samples_keep_their_identity_where_jobs_are_info_only() {
    let scratch = Scratch::new();
    let jobs = scratch.path("jobs");
    std::fs::create_dir(&jobs).unwrap();
    let mut plan = scenario(&[0, 1]);
    plan["events"] = serde_json::json!([
        { "entity": "GPU", "id": 1, "field_id": 230, "value": 79, "count": 3, "every_ms": 100, "after_ms": 0 },
    ]);
    let counters = format!("{GPU_TEMP}DCGM_EXP_XID_ERRORS_TOTAL, counter, x\n");
    let mut exporter = Exporter::start(
        exporter()
            .env("DCGM_SIMULATOR_SCENARIO", scratch.write("scenario.json", plan.to_string()))
            .args(["-c", "100", "--job-labels", "info-only", "-f"])
            .arg(scratch.write("counters.csv", counters))
            .arg("--hpc-job-mapping-dir")
            .arg(&jobs),
    );
    let series = |page: &str| -> std::collections::BTreeSet<String> {
        let samples = page.lines().filter(|line| line.starts_with("DCGM_"));
        samples.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
    };
    let before = series(&exporter.page());
    std::fs::write(jobs.join("1"), "17\n18\n").unwrap();
    std::fs::write(jobs.join("job.17"), "user=me\n").unwrap();
    let page = exporter.page_with("the jobs and the events are there", |page| {
        page.matches("dcgm_exporter_gpu_job{gpu=\"1\"").count() == 2
            && page.contains("xid=\"79\"")
            && page.contains("} 3\n")
    });
    assert_eq!(series(&page), before);
    assert!(page.contains("dcgm_exporter_job_info{hpc_job=\"17\",user=\"me\"} 1\n"), "{page}");
}

#[test]
fn a_job_map_full_of_old_jobs_does_not_fill_the_memory() {
    let scratch = Scratch::new();
    let jobs = scratch.path("jobs");
    std::fs::create_dir(&jobs).unwrap();
    let mut plan = scenario(&(0..16).collect::<Vec<_>>());
    plan["replay"] = true.into();
    plan["system"]["gpu_instances"] = (0..112)
        .map(|id| {
            serde_json::json!({
                "parent_gpu": id / 7, "entity_id": id, "nvml_gpu_instance_id": 1 + id % 7,
                "profile": "1g.18gb", "uuid": format!("MIG-{id}"),
            })
        })
        .collect();
    for id in 0..112 {
        let ids: String = (0..36).map(|job| format!("{:x>60}{}\n", "", 1000 + 36 * id + job)).collect();
        std::fs::write(jobs.join(format!("{}.{}", id / 7, 1 + id % 7)), ids).unwrap();
    }
    let counters = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("counters/default-counters.csv");
    let mut exporter = Exporter::start(
        exporter()
            .env("DCGM_SIMULATOR_SCENARIO", scratch.write("scenario.json", plan.to_string()))
            .arg("--hpc-job-mapping-dir")
            .arg(&jobs)
            .arg("-f")
            .arg(counters),
    );
    let page = exporter.page();
    let left_out = page.lines().find_map(|line| line.strip_prefix("dcgm_exporter_samples_left_out ")).unwrap();
    assert!(left_out.parse::<u64>().unwrap() > 10_000, "{left_out} of {} bytes", page.len());
    // Every instance still has all its samples, for one job.
    let rows = |instance: &str| -> std::collections::BTreeSet<&str> {
        let of_instance = page.lines().filter(|line| line.contains(instance) && line.starts_with("DCGM_FI_"));
        of_instance.filter_map(|line| line.split('{').next()).collect()
    };
    assert_eq!(rows("gpu=\"0\",UUID=\"GPU-0\""), rows("gpu=\"15\",UUID=\"GPU-15\""));
    assert!(
        page.len() < 20 << 20 && exporter.resident_kib() < 100 << 10,
        "{} bytes, {} KiB",
        page.len(),
        exporter.resident_kib()
    );
    assert!(exporter.log().contains("the page is too long with all jobs"), "{}", exporter.log());
}
