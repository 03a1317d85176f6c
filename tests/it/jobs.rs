//! The job map: labels come and go within a second, and nothing in that directory can cost a page.

use std::time::{Duration, Instant};

use dcgm_exporter::jobs::gpu_name::GpuName;

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
    within_a_second(&mut exporter, "no job is shown", &|page| !shows_jobs(page));
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
    // While other jobs come and go, it is neither counted nor told again.
    for round in 0..3 {
        std::fs::write(scratch.path("jobs/2"), format!("{round}\n")).unwrap();
        std::fs::write(scratch.path(&format!("jobs/job.{round}")), format!("user=u{round}\n")).unwrap();
        exporter.page_with("the job is known", |page| page.contains(&format!("user=\"u{round}\"")));
    }
    let page = exporter.page();
    assert!(page.contains("dcgm_exporter_job_map_errors_total 2\n"), "{page}");
    assert!(page.contains("dcgm_exporter_job_map_problems 2\n"), "{page}");
    assert_eq!(exporter.log().matches("not a regular file").count(), 1, "{}", exporter.log());
    std::fs::remove_dir(scratch.path("jobs/0")).unwrap();
    exporter.page_with("one is right again", |page| page.contains("dcgm_exporter_job_map_problems 1\n"));
    std::fs::create_dir(scratch.path("jobs/0")).unwrap();
    exporter.page_with("it is bad again", |page| page.contains("dcgm_exporter_job_map_errors_total 3\n"));
}

/// Prologs that append, and jobs whose epilog never ran.
#[test]
fn more_jobs_than_a_gpu_can_have_are_left_out() {
    let scratch = Scratch::new();
    let jobs = scratch.path("jobs");
    std::fs::create_dir(&jobs).unwrap();
    let ids: String = (0..300).map(|id| format!("{}\n", 1_000_000 + id)).collect();
    std::fs::write(jobs.join("0"), ids).unwrap();
    std::fs::write(jobs.join("1"), "17 x\n19_[1-4]\n").unwrap();
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
    std::fs::create_dir_all(&jobs).unwrap();
    let mut exporter = Exporter::start(
        without_inotify(&scratch)
            .env("DCGM_SIMULATOR_SCENARIO", scratch.write("scenario.json", scenario(&[0, 1]).to_string()))
            .args(["--debug", "-c", "100", "-f"])
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
    let log = exporter.log();
    let readings = log.matches("the job map has been read").count();
    assert!((1..=2).contains(&readings), "read {readings} times, {page}");
    assert_eq!(log.matches("inotify is not available").count(), 1, "once:\n{log}");
    assert!(log.contains("sysctl fs.inotify.max_user_instances="), "{log}");
    std::fs::write(jobs.join("1"), "17\n").unwrap();
    exporter.page_with("the job is shown", |page| page.contains("hpc_job=\"17\"} 31\n"));
    std::fs::remove_file(jobs.join("1")).unwrap();
    exporter.page_with("the job is gone", |page| !shows_jobs(page));
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
    exporter.page_with("it is free", |page| allocated(1, 0)(page) && !shows_jobs(page));
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

/// Where jobs are in the info metrics alone, these have all that the labels would have had: of GPUs, of instances, of
/// several jobs on one, and what is known of them.
#[test]
fn info_only_says_the_same_of_instances_several_jobs_and_facts() {
    let scratch = Scratch::new();
    let jobs = scratch.path("jobs");
    std::fs::create_dir(&jobs).unwrap();
    let mut plan = scenario(&[0, 1]);
    plan["system"]["gpu_instances"] = serde_json::json!([
        { "parent_gpu": 1, "entity_id": 0, "nvml_gpu_instance_id": 7, "profile": "1g.18gb", "uuid": "MIG-aa-1" },
        { "parent_gpu": 1, "entity_id": 1, "nvml_gpu_instance_id": 8, "profile": "1g.18gb", "uuid": "MIG-bb-2" },
    ]);
    let values: Vec<_> = [("GPU", 0, 30), ("GPU_I", 0, 40), ("GPU_I", 1, 41)]
        .into_iter()
        .map(|(entity, id, value)| {
            let value = serde_json::json!({ "type": "int64", "value": value.to_string() });
            serde_json::json!({ "entity": entity, "id": id, "fields": { "252": value } })
        })
        .collect();
    plan["latest_values"] = values.into();
    let plan = scratch.write("scenario.json", plan.to_string());
    let counters = scratch.write("counters.csv", "DCGM_FI_DEV_FB_USED, gauge, x\n");
    let begin = |more: &[&str]| {
        let mut command = exporter();
        command.env("DCGM_SIMULATOR_SCENARIO", &plan).args(["-c", "100", "-f"]).arg(&counters);
        Exporter::start(command.arg("--hpc-job-mapping-dir").arg(&jobs).args(more))
    };
    let mut exporters = [
        begin(&[]),
        begin(&["--job-labels", "info-only"]),
        begin(&["--job-labels", "info-only", "--disable-exporter-metrics"]),
    ];
    let about_jobs = |page: &str| -> Vec<String> {
        const FAMILIES: [&str; 4] = ["gpu_allocated{", "gpu_job{", "job_info{", "job_start_time_seconds{"];
        let is_it = |line: &&str| {
            line.strip_prefix("dcgm_exporter_").is_some_and(|rest| FAMILIES.iter().any(|name| rest.starts_with(name)))
        };
        page.lines().filter(is_it).map(str::to_owned).collect()
    };
    let series = |page: &str| -> Vec<String> {
        let samples = page.lines().filter(|line| line.starts_with("DCGM_"));
        samples.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
    };
    let before = exporters.each_mut().map(|exporter| series(&exporter.page()));
    assert!(before[0].len() == 3 && before.iter().all(|series| series == &before[0]), "{before:?}");
    std::fs::write(jobs.join("job.17"), "user=me\npartition=gpu\nstart_time=1700000000\n").unwrap();
    std::fs::write(jobs.join("0"), "17\n18 1001\n").unwrap();
    std::fs::write(jobs.join("1.7"), "19\n20\n").unwrap();
    std::fs::write(jobs.join("MIG-bb-2"), "17\n").unwrap();
    let pages = exporters
        .each_mut()
        .map(|exporter| exporter.page_with("all jobs are shown", |page| page.matches("gpu_job{gpu=").count() == 5));
    let told = pages.each_ref().map(|page| about_jobs(page));
    assert_eq!(told[0], told[1]);
    assert_eq!(told[0], told[2]);
    for line in [
        "job_info{hpc_job=\"17\",user=\"me\",partition=\"gpu\"} 1",
        "job_info{hpc_job=\"18\",uid=\"1001\"} 1",
        "job_start_time_seconds{hpc_job=\"17\"} 1700000000.000000",
    ] {
        assert!(told[1].contains(&format!("dcgm_exporter_{line}")), "{line} is not in {told:?}");
    }
    let held = |instance: &str, job: &str| {
        let has = |line: &&String| line.contains(instance) && line.contains(&format!("hpc_job=\"{job}\""));
        told[1].iter().filter(|line| line.starts_with("dcgm_exporter_gpu_job{")).filter(has).count()
    };
    let instances = [("gpu=\"0\"", "17"), ("gpu=\"0\"", "18"), ("GPU_I_ID=\"7\"", "19"), ("GPU_I_ID=\"7\"", "20")];
    for (instance, job) in instances.into_iter().chain([("GPU_I_ID=\"8\"", "17")]) {
        assert_eq!(held(instance, job), 1, "{instance} {job}: {told:?}");
    }
    // With labels each job has its copy; without, the series are those from before.
    assert_eq!(series(&pages[0]).len(), 5);
    assert!(series(&pages[1]) == before[1] && series(&pages[2]) == before[2], "{}", pages[1]);
    assert!(!pages[2].contains("dcgm_exporter_collections_total") && !pages[2].contains("process_"), "{}", pages[2]);
    for file in ["0", "1.7", "MIG-bb-2", "job.17"] {
        std::fs::remove_file(jobs.join(file)).unwrap();
    }
    for exporter in &mut exporters {
        let page = exporter.page_with("no job is left", |page| !shows_jobs(page));
        let free =
            page.lines().filter(|line| line.starts_with("dcgm_exporter_gpu_allocated{") && line.ends_with("} 0"));
        assert_eq!((free.count(), series(&page)), (3, before[0].clone()), "{page}");
    }
}

fn chmod(path: &std::path::Path, mode: u32) {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}

/// What any user could publish, or take from others, in a directory that is open.
#[test]
fn nothing_is_read_where_others_can_write_and_no_link_is_followed() {
    let scratch = Scratch::new();
    let jobs = scratch.path("jobs");
    std::fs::create_dir(&jobs).unwrap();
    let secret = scratch.write("secret", "root:x:20228\n");
    std::os::unix::fs::symlink(&secret, jobs.join("0")).unwrap();
    std::fs::write(jobs.join("1"), "17\n").unwrap();
    let mut exporter = start(&scratch);
    let page = exporter.page_with("the file is read", |page| page.contains("hpc_job=\"17\"} 31\n"));
    assert!(!page.contains("root:x"), "{page}");
    assert!(exporter.log().contains("jobs/0: not a regular file but a link"), "{}", exporter.log());
    chmod(&jobs, 0o1777);
    exporter.page_with("nothing is read any more", |page| !shows_jobs(page));
    let log = exporter.log();
    let told = "jobs has mode 1777, others can write there, and is refused; chmod 0755";
    assert_eq!(log.matches(told).count(), 1, "{log}");
    assert!(log.contains("on a test bed, --job-map-insecure"), "{log}");
    // Its mode is all that there was to correct.
    chmod(&jobs, 0o755);
    exporter.page_with("it is read again", |page| page.contains("hpc_job=\"17\"} 31\n"));
    // In its place another directory, by a link.
    std::fs::rename(&jobs, scratch.path("moved")).unwrap();
    std::os::unix::fs::symlink(scratch.path("moved"), &jobs).unwrap();
    std::fs::write(scratch.path("moved/1"), "18\n").unwrap();
    exporter.until("the link is refused", |exporter| {
        exporter.log().contains("jobs is a link and is refused").then_some(())
    });
    exporter.page_with("nothing is read through a link", |page| !shows_jobs(page));
}

#[test]
fn a_test_bed_may_have_it_otherwise() {
    let scratch = Scratch::new();
    let jobs = scratch.path("jobs");
    std::fs::create_dir(&jobs).unwrap();
    std::fs::write(jobs.join("1"), "17\n").unwrap();
    chmod(&jobs, 0o777);
    let mut command = exporter();
    command
        .env("DCGM_SIMULATOR_SCENARIO", scratch.write("scenario.json", scenario(&[0, 1]).to_string()))
        .env("DCGM_JOB_MAP_INSECURE", "true")
        .args(["-c", "100", "-f"])
        .arg(scratch.write("counters.csv", GPU_TEMP));
    let mut exporter = Exporter::start(command.arg("--hpc-job-mapping-dir").arg(&jobs));
    exporter.page_with("it is read", |page| page.contains("hpc_job=\"17\"} 31\n"));
}

/// An exporter without root, as a client of the node's engine, and files of 0640.
#[test]
fn a_user_that_may_not_read_what_is_known_of_jobs_still_has_their_ids() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let scratch = Scratch::new();
    let jobs = scratch.path("jobs");
    std::fs::create_dir(&jobs).unwrap();
    std::fs::write(jobs.join("1"), "17\n18 1001\n").unwrap();
    for id in ["17", "18"] {
        std::fs::write(jobs.join(format!("job.{id}")), "user=me\n").unwrap();
        chmod(&jobs.join(format!("job.{id}")), 0o640);
    }
    let found = scan_as(65_534, &jobs);
    assert_eq!(found.map.jobs_of(&[GpuName::Index(1)]), ["17", "18"]);
    assert!(found.problems.len() == 1 && found.problems[0].contains("may not read 2 job.<id> files"), "{found:?}");
    assert!(found.problems[0].contains("DCGM_JOB_MAP_GROUP"), "{found:?}");
    let told: Vec<_> = found.map.facts().map(|(id, facts)| (id, facts.labels.len())).collect();
    assert_eq!(told, [("18", 1)]);
}

/// Reads a map as another user, in a thread that becomes that user.
fn scan_as(user: u32, directory: &std::path::Path) -> dcgm_exporter::jobs::Scan {
    let directory = directory.to_owned();
    let read = std::thread::spawn(move || {
        let (user, group) = (rustix::process::Uid::from_raw(user), rustix::process::Gid::from_raw(user));
        rustix::thread::set_thread_groups(&[]).unwrap();
        rustix::thread::set_thread_res_gid(group, group, group).unwrap();
        rustix::thread::set_thread_res_uid(user, user, user).unwrap();
        dcgm_exporter::jobs::scan(&directory, dcgm_exporter::config::JobMapTrust::RootOnly, "")
    });
    read.join().unwrap()
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
    assert!(exporter.log().contains("with all jobs of the job map the page would be too long"), "{}", exporter.log());
}

/// Names that mean no GPU are counted and named once; some of other tools are understood, and 0 is no job where a site says so.
#[test]
fn names_of_files_that_other_tools_write() {
    let scratch = Scratch::new();
    let jobs = scratch.path("jobs");
    std::fs::create_dir(&jobs).unwrap();
    for (name, id) in [("0-1", "77"), ("gpu0", "99"), ("1", "0")] {
        std::fs::write(jobs.join(name), format!("{id}\n")).unwrap();
    }
    let mut exporter = start(&scratch);
    let page = exporter.page();
    assert!(page.contains("hpc_job=\"99\"} 30\n") && page.contains("hpc_job=\"0\"} 31\n"), "{page}");
    assert!(page.contains("dcgm_exporter_job_map_errors_total 1\n"), "{page}");
    std::fs::write(jobs.join("0"), "100\n").unwrap();
    exporter.page_with("it is read again", |page| page.contains("hpc_job=\"100\""));
    assert_eq!(exporter.log().matches("0-1: its name means no GPU").count(), 1, "{}", exporter.log());
    let mut command = crate::common::exporter();
    command.env("DCGM_SIMULATOR_SCENARIO", scratch.path("scenario.json")).arg("--hpc-job-mapping-dir").arg(&jobs);
    let mut check = crate::common::exporter();
    let check = check.arg("--hpc-job-mapping-dir").arg(&jobs).arg("--check").output().unwrap();
    let text = String::from_utf8(check.stdout).unwrap();
    assert!(text.contains("0-1: its name means no GPU") && text.contains("--job-map-idle 0"), "{text}");
    command.args(["--once", "--job-map-idle", "0", "-f"]).arg(scratch.path("counters.csv"));
    let once = command.output().unwrap();
    let page = String::from_utf8(once.stdout).unwrap();
    assert!(
        page.contains("gpu=\"1\"") && !page.contains("hpc_job=\"0\""),
        "{page}{}",
        String::from_utf8_lossy(&once.stderr)
    );
}
