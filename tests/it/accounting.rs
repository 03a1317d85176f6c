//! What jobs use of their GPUs, on a node whose power and utilisation are known.

use serde_json::{Value, json};

use crate::common::*;
use crate::node::*;

/// 300 W.
const MILLIWATTS: i64 = 300_000;

/// GPU 0 is 40 % busy at 300 W; GPU 1 has jobs and does nothing, its counter standing at 5 kJ.
fn plan() -> Value {
    let mut plan = scenario(&[0, 1]);
    plan["latest_values"] = json!([
        { "entity": "GPU", "id": 0, "fields": {
            "150": { "type": "int64", "value": "30" },
            "156": { "type": "int64", "value": "0", "per_second": MILLIWATTS },
            "203": { "type": "int64", "value": "40" },
            "252": { "type": "int64", "value": "1000" },
            "112": { "type": "int64", "value": "64" },
        } },
        { "entity": "GPU", "id": 1, "fields": {
            "150": { "type": "int64", "value": "31" },
            "156": { "type": "int64", "value": "5000000" },
            "203": { "type": "int64", "value": "0" },
            "252": { "type": "int64", "value": "1" },
        } },
    ]);
    plan
}

fn jobs(node: &Node, gpu: &str, ids: &str) {
    match ids.is_empty() {
        true => std::fs::remove_file(node.scratch.path("jobs").join(gpu)).unwrap(),
        false => drop(node.scratch.write(&format!("jobs/{gpu}"), ids)),
    }
}

fn start(node: &Node) -> Exporter {
    std::fs::create_dir_all(node.scratch.path("jobs")).unwrap();
    let directory = node.scratch.path("jobs").display().to_string();
    Exporter::start(node.exporter(GPU_TEMP).args(["--hpc-job-mapping-dir", &directory]))
}

/// A metric of the accounts: of this GPU or instance, and of this job.
fn of(page: &str, metric: &str, labels: &str, job: &str) -> Option<f64> {
    value(page, &[&format!("dcgm_exporter_job_{metric}{{"), labels, &format!("hpc_job=\"{job}\"")])
}

fn seconds(page: &str, job: &str) -> f64 {
    of(page, "gpu_seconds_total", "gpu=\"0\"", job).unwrap_or(0.0)
}

fn joules(page: &str, gpu: &str, job: &str) -> Option<f64> {
    of(page, "energy_joules_total", &format!("gpu=\"{gpu}\""), job)
}

#[track_caller]
fn within_a_percent(found: Option<f64>, expected: f64) {
    let found = found.expect("there is a sample");
    assert!((found - expected).abs() <= expected * 0.01, "{found} instead of {expected}");
}

/// A driver in trouble may answer anything.
#[test]
fn impossible_values_are_left_out_and_counted() {
    let mut plan = plan();
    plan["latest_values"][0]["fields"]["203"]["value"] = "4294967295".into();
    plan["latest_values"][0]["fields"]["155"] = json!({ "type": "double", "value": "4294967.295" });
    plan["latest_values"][1]["fields"]["150"]["value"] = "255".into();
    let node = Node::new(plan);
    std::fs::create_dir_all(node.scratch.path("jobs")).unwrap();
    let rows = "DCGM_FI_DEV_GPU_TEMP, gauge, t\nDCGM_FI_DEV_GPU_UTIL, gauge, u\nDCGM_FI_DEV_POWER_USAGE, gauge, p\n";
    let directory = node.scratch.path("jobs").display().to_string();
    let mut exporter = Exporter::start(node.exporter(rows).args(["--hpc-job-mapping-dir", &directory]));
    exporter.page();
    jobs(&node, "0", "17\n");
    let page = exporter.page_with("the job has run for a while", |page| seconds(page, "17") > 1.0);
    assert_eq!(of(&page, "gpu_busy_seconds_total", "gpu=\"0\"", "17").unwrap_or(0.0), 0.0, "{page}");
    for (row, gpus) in [("DCGM_FI_DEV_GPU_UTIL", ["1"]), ("DCGM_FI_DEV_GPU_TEMP", ["0"])] {
        assert_eq!(series(&page, row), 1, "{page}");
        assert!(gpus.iter().all(|gpu| value(&page, &[row, &format!("gpu=\"{gpu}\"")]).is_some()), "{page}");
    }
    assert_eq!(series(&page, "DCGM_FI_DEV_POWER_USAGE"), 0, "{page}");
    for field in ["DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_POWER_USAGE", "DCGM_FI_DEV_GPU_TEMP"] {
        let counted = value(&page, &["dcgm_exporter_values_out_of_range_total{", &format!("field=\"{field}\"")]);
        assert!(counted.unwrap_or(0.0) > 2.0, "{field}: {page}");
        assert_eq!(exporter.log().matches(&format!("for {field}, which cannot be")).count(), 1, "{}", exporter.log());
    }
    let text = exporter.get("/?text").body;
    assert!(!text.contains("4294967") && !text.contains("255"), "{text}");
}

#[test]
fn what_a_job_uses_is_counted_from_its_start_to_its_end() {
    let node = Node::new(plan());
    let mut exporter = start(&node);
    exporter.page_with("it runs", |page| temperatures(page) == 2);
    jobs(&node, "0", "17\n");
    exporter.page_with("the job has run for a while", |page| seconds(page, "17") > 2.0);
    jobs(&node, "0", "");
    let page = exporter.page_with("it is over", |page| {
        page.contains("gpu_allocated{gpu=\"0\"") && !page.contains("dcgm_exporter_gpu_job{")
    });
    let held = seconds(&page, "17");
    within_a_percent(of(&page, "gpu_busy_seconds_total", "gpu=\"0\"", "17"), held * 0.4);
    within_a_percent(joules(&page, "0", "17"), held * 300.0);
    assert_eq!(of(&page, "memory_used_max_bytes", "gpu=\"0\"", "17"), Some(1000.0 * 1048576.0), "{page}");
    // Nothing is added afterwards, and the series stay.
    let later = after_collections(&mut exporter, 5);
    assert_eq!((seconds(&later, "17"), joules(&later, "0", "17")), (held, joules(&page, "0", "17")));
    assert_eq!(joules(&later, "1", "17"), None);
}

/// With collections an hour apart: a job that comes or goes brings the samples that it needs.
#[test]
fn it_does_not_depend_on_collections() {
    let node = Node::new(plan());
    std::fs::create_dir_all(node.scratch.path("jobs")).unwrap();
    let directory = node.scratch.path("jobs").display().to_string();
    let mut exporter = Exporter::start(node.exporter(GPU_TEMP).args(["-c", "1h", "--hpc-job-mapping-dir", &directory]));
    exporter.page_with("it runs", |page| collections(page) == 2.0);
    jobs(&node, "0", "17\n");
    exporter.page_with("the job is there", |page| page.contains("hpc_job=\"17\"") && seconds(page, "17") < 1.0);
    std::thread::sleep(std::time::Duration::from_secs(2));
    jobs(&node, "0", "18\n");
    let page = exporter.page_with("the next one is there", |page| page.contains("hpc_job=\"18\""));
    assert_eq!(collections(&page), 2.0);
    let held = seconds(&page, "17");
    assert!(held >= 2.0, "{page}");
    within_a_percent(joules(&page, "0", "17"), held * 300.0);
    within_a_percent(of(&page, "gpu_busy_seconds_total", "gpu=\"0\"", "17"), held * 0.4);
    assert!(joules(&page, "0", "18").unwrap() < 300.0, "{page}");
}

#[test]
fn energy_is_right_to_the_millijoule_over_a_reset_and_an_engine_restart() {
    let mut node = Node::new(plan());
    let mut exporter = start(&node);
    exporter.page_with("it runs", |page| temperatures(page) == 2);
    jobs(&node, "1", "17\n");
    exporter.page_with("the job is there", |page| joules(page, "1", "17") == Some(0.0));
    let counter = |node: &mut Node, millijoules: i64| {
        node.plan["latest_values"][1]["fields"]["156"]["value"] = json!(millijoules.to_string());
        node.play();
    };
    counter(&mut node, 5_001_234);
    exporter.page_with("1234 mJ", |page| joules(page, "1", "17") == Some(1.234));
    // The driver is loaded again.
    counter(&mut node, 7);
    exporter.page_with("7 mJ more", |page| joules(page, "1", "17") == Some(1.241));
    // Released: another engine, and the counter goes on meanwhile.
    exporter.signal(Signal::USR1);
    exporter.page_with("it has released the GPUs", |page| is_in_state(page, "released"));
    counter(&mut node, 1_000);
    exporter.signal(Signal::USR2);
    let page = exporter.page_with("it runs again", |page| joules(page, "1", "17") > Some(1.241));
    assert_eq!(joules(&page, "1", "17"), Some(2.234), "{page}");
}

#[test]
fn jobs_that_share_a_gpu_have_equal_parts_of_its_energy() {
    let node = Node::new(plan());
    jobs(&node, "0", "17\n18\n19\n");
    let mut exporter = start(&node);
    let page = exporter.page_with("they have run for a while", |page| joules(page, "0", "17") > Some(100.0));
    let [a, b, c] = ["17", "18", "19"].map(|job| joules(&page, "0", job));
    assert!(a == b && b == c, "{page}");
    let held = seconds(&page, "17");
    let busy = of(&page, "gpu_busy_seconds_total", "gpu=\"0\"", "17").unwrap();
    // Both began with the first sample, which is a little later than the job.
    assert!(a.unwrap() <= held * 100.0 && (a.unwrap() - busy / 0.4 * 100.0).abs() < busy, "{page}");
}

#[test]
fn an_instance_has_memory_and_what_profiling_says() {
    let mut plan = plan();
    plan["system"]["gpu_instances"] = json!([
        { "parent_gpu": 1, "entity_id": 0, "nvml_gpu_instance_id": 7, "profile": "1g.18gb" },
    ]);
    plan["supported_profiling_fields"] = json!([1001, 1004]);
    plan["latest_values"][1] = json!({ "entity": "GPU_I", "id": 0, "fields": {
        "150": { "type": "int64", "value": "31" },
        "252": { "type": "int64", "value": "77" },
        "1001": { "type": "double", "value": "0.5" },
    } });
    let node = Node::new(plan);
    jobs(&node, "1.7", "17\n");
    std::fs::create_dir_all(node.scratch.path("jobs")).unwrap();
    let directory = node.scratch.path("jobs").display().to_string();
    let counters = format!("{GPU_TEMP}DCGM_FI_PROF_GR_ENGINE_ACTIVE, gauge, g\n");
    let mut exporter = Exporter::start(node.exporter(&counters).args(["--hpc-job-mapping-dir", &directory]));
    let instance = "GPU_I_ID=\"7\"";
    let page = exporter.page_with("the job has run for a while", |page| {
        of(page, "gpu_busy_seconds_total", instance, "17") > Some(0.5)
    });
    let held = of(&page, "gpu_seconds_total", instance, "17").unwrap();
    assert!(of(&page, "gpu_busy_seconds_total", instance, "17") <= Some(held * 0.5), "{page}");
    assert_eq!(of(&page, "memory_used_max_bytes", instance, "17"), Some(77.0 * 1048576.0), "{page}");
    assert_eq!(of(&page, "energy_joules_total", instance, "17"), None, "the GPU's energy is nobody's");
}

#[test]
fn a_gpu_that_is_allocated_and_not_used_is_idle() {
    let mut node = Node::new(plan());
    let mut exporter = start(&node);
    let idle = |page: &str, gpu: u32| value(page, &["dcgm_exporter_gpu_idle_seconds{", &format!("gpu=\"{gpu}\"")]);
    exporter.page_with("nobody has a GPU", |page| idle(page, 0) == Some(0.0) && idle(page, 1) == Some(0.0));
    jobs(&node, "1", "17\n");
    jobs(&node, "0", "17\n");
    let page = exporter.page_with("one is idle", |page| idle(page, 1) > Some(1.0));
    assert_eq!(idle(&page, 0), Some(0.0));
    node.plan["latest_values"][1]["fields"]["203"]["value"] = json!("1");
    node.play();
    exporter.page_with("it is used", |page| idle(page, 1) == Some(0.0));
    node.plan["latest_values"][1]["fields"]["203"]["value"] = json!("0");
    node.play();
    exporter.page_with("it is idle again", |page| idle(page, 1) > Some(0.3));
    jobs(&node, "1", "");
    exporter.page_with("nobody has it", |page| idle(page, 1) == Some(0.0));
}

#[test]
fn it_can_be_switched_off() {
    let node = Node::new(plan());
    jobs(&node, "0", "17\n");
    let directory = node.scratch.path("jobs").display().to_string();
    let arguments = ["--hpc-job-mapping-dir", &directory, "--job-accounting=false"];
    let mut exporter = Exporter::start(node.exporter(GPU_TEMP).args(arguments));
    let page = exporter.page_with("it runs", |page| page.contains("hpc_job=\"17\""));
    assert!(!page.contains("dcgm_exporter_job_gpu") && !page.contains("gpu_idle") && !page.contains("job_accounting"));
    assert!(node.stats()["polls"].get("156").is_none(), "{}", node.stats());
}

/// An exporter that writes summaries, and the summary of a job.
fn start_with_summaries(node: &Node) -> Exporter {
    std::fs::create_dir_all(node.scratch.path("jobs")).unwrap();
    let mut command = node.exporter(GPU_TEMP);
    command.arg("--hpc-job-mapping-dir").arg(node.scratch.path("jobs"));
    Exporter::start(command.arg("--job-summary-dir").arg(node.scratch.path("summaries")))
}

fn summary(node: &Node, job: &str) -> Option<Value> {
    let bytes = std::fs::read(node.scratch.path("summaries").join(format!("{job}.json"))).ok()?;
    // Never half a file.
    Some(serde_json::from_slice(&bytes).unwrap())
}

fn state(node: &Node, job: &str) -> String {
    summary(node, job).map_or(String::new(), |summary| summary["state"].as_str().unwrap().to_owned())
}

fn printed(node: &Node, arguments: &[&str]) -> (bool, String) {
    let mut command = bare_exporter();
    command.env("DCGM_EXPORTER_JOB_SUMMARY_DIR", node.scratch.path("summaries")).args(arguments);
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn a_summary_is_written_while_the_job_runs_and_finished_at_its_end() {
    let node = Node::new(plan());
    node.scratch.write("jobs/job.17", "user=me\npartition=gpu\n");
    jobs(&node, "0", "17\n");
    jobs(&node, "1", "17\n");
    let mut exporter = start_with_summaries(&node);
    exporter.until("it is written", |_| {
        let held = |gpu: &Value| gpu["held_seconds"].as_f64() > Some(1.5);
        summary(&node, "17").filter(|summary| summary["gpus"].as_array().unwrap().iter().all(held))
    });
    assert_eq!(state(&node, "17"), "running");
    jobs(&node, "0", "");
    jobs(&node, "1", "");
    std::fs::remove_file(node.scratch.path("jobs/job.17")).unwrap();
    exporter.until("it is finished", |_| (state(&node, "17") == "ended").then_some(()));
    let page = after_collections(&mut exporter, 3);
    let found = summary(&node, "17").unwrap();
    let gpu = &found["gpus"][0];
    // One number, in both places.
    let energy = gpu["energy_joules"].as_f64().unwrap();
    assert!((joules(&page, "0", "17").unwrap() - energy).abs() < 1e-5, "{found}");
    assert_eq!((&found["about"]["user"], &gpu["uuid"]), (&"me".into(), &"GPU-0".into()));
    assert_eq!(gpu["memory_used_max_bytes"], 1000 * 1_048_576);
    within_a_percent(gpu["busy_seconds"].as_f64(), gpu["observed_seconds"].as_f64().unwrap() * 0.4);
    within_a_percent(gpu["throttled_seconds"].as_f64(), gpu["observed_seconds"].as_f64().unwrap());
    let (success, text) = printed(&node, &["--job-summary", "17"]);
    assert!(success && text.contains("1 of 2 GPUs never used.\n") && text.contains("user me"), "{text}");
    let (success, text) = printed(&node, &["--job-summary", "17", "--job-summary-short"]);
    assert!(success && text.lines().count() == 1 && text.starts_with("1 of 2 GPUs never used; 2 GPUs, "), "{text}");
    let (success, text) = printed(&node, &["--job-summary", "18"]);
    assert!(!success && text.contains("no summary of job 18 in "), "{text}");
    let (success, text) = printed(&node, &["--job-summary", "../jobs/0"]);
    assert!(!success && text.contains("no such file"), "{text}");
}

/// The next collection is an hour away, and the epilog reads the summary at once.
#[test]
fn a_summary_that_is_finished_has_the_xid_errors_of_the_job() {
    let mut node = Node::new(plan());
    std::fs::create_dir_all(node.scratch.path("jobs")).unwrap();
    let mut command = node.exporter(&format!("{GPU_TEMP}DCGM_EXP_XID_ERRORS_TOTAL, counter, t\n"));
    command.args(["-c", "1h"]).arg("--hpc-job-mapping-dir").arg(node.scratch.path("jobs"));
    let mut exporter = Exporter::start(command.arg("--job-summary-dir").arg(node.scratch.path("summaries")));
    exporter.page_with("it runs", |page| collections(page) == 2.0);
    jobs(&node, "0", "17\n");
    exporter.until("it is written", |_| (state(&node, "17") == "running").then_some(()));
    // An error is stamped when it is fetched, at whole seconds.
    std::thread::sleep(std::time::Duration::from_secs(2));
    node.plan["events"] = json!([events("GPU", 0, 230, 31, 1, 1)]);
    node.play();
    std::thread::sleep(std::time::Duration::from_secs(3));
    jobs(&node, "0", "18\n");
    let ended = exporter.until("it is finished", |_| summary(&node, "17").filter(|found| found["state"] == "ended"));
    assert_eq!(ended["gpus"][0]["xids"], json!({ "31": 1 }), "{ended}");
    // Files are written one after the other.
    let next = exporter.until("the next one is written", |_| summary(&node, "18"));
    assert_eq!(next["gpus"][0]["xids"], json!({}));
    let page = exporter.page();
    assert_eq!(collections(&page), 2.0);
    // A metric has the samples of its collection, each once.
    let series = page
        .lines()
        .filter(|line| line.starts_with("DCGM_EXP_XID_ERRORS_TOTAL{gpu=\"0\"") && line.contains("xid=\"31\""));
    assert_eq!(series.count(), 1, "{page}");
    // Read again with the rest of the hour, it is still one.
    jobs(&node, "0", "19\n");
    exporter.until("the next one is over", |_| (state(&node, "18") == "ended").then_some(()));
    node.scratch.write("counters.csv", "DCGM_EXP_XID_ERRORS_TOTAL, counter, t\n");
    let page = exporter.page_with("it has collected again", |page| temperatures(page) == 0 && page.contains("_TOTAL{"));
    let total = |job: &str| value(&page, &["DCGM_EXP_XID_ERRORS_TOTAL{gpu=\"0\"", "xid=\"31\"", job]);
    assert_eq!((total("hpc_job=\"17\""), total("hpc_job=\"18\"")), (Some(1.0), None), "{page}");
    assert_eq!(summary(&node, "17").unwrap()["gpus"][0]["xids"], json!({ "31": 1 }));
    assert_eq!(summary(&node, "18").unwrap()["gpus"][0]["xids"], json!({}));
}

/// GPUs are released, or no engine can be had: jobs come and go all the same.
#[test]
fn a_summary_is_finished_without_a_session() {
    let node = Node::new(plan());
    jobs(&node, "0", "17\n");
    jobs(&node, "1", "18\n");
    let mut exporter = start_with_summaries(&node);
    exporter.until("they are written", |_| {
        (state(&node, "17") == "running" && state(&node, "18") == "running").then_some(())
    });
    exporter.signal(Signal::USR1);
    exporter.page_with("it has released the GPUs", |page| is_in_state(page, "released"));
    jobs(&node, "0", "");
    exporter.until("it is finished", |_| (state(&node, "17") == "ended").then_some(()));
    assert_eq!(state(&node, "18"), "running");
    exporter.stop();
    // The next exporter finds no engine.
    let hostname = summary(&node, "18").unwrap()["hostname"].clone();
    let mut command = node.exporter(GPU_TEMP);
    command.arg("--hpc-job-mapping-dir").arg(node.scratch.path("jobs"));
    command.arg("--job-summary-dir").arg(node.scratch.path("summaries"));
    let nowhere = format!("unix://{}", node.scratch.path("nowhere.sock").display());
    let mut exporter = Exporter::start(command.args(["-r", &nowhere]));
    jobs(&node, "1", "");
    exporter.until("it is finished", |_| (state(&node, "18") == "ended").then_some(()));
    assert_eq!(summary(&node, "18").unwrap()["hostname"], hostname);
}

/// As a TaskEpilog does, while the job runs; nobody else can.
#[test]
fn the_jobs_own_user_can_read_its_summary() {
    use std::os::unix::process::CommandExt;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let node = Node::new(plan());
    node.scratch.write("jobs/job.17", "user=me\nuid=4711\n");
    jobs(&node, "0", "17\n");
    let mut command = node.exporter(GPU_TEMP);
    command.arg("--hpc-job-mapping-dir").arg(node.scratch.path("jobs"));
    command.arg("--job-summary-dir").arg(node.scratch.path("summaries"));
    // With the service's umask; the shell becomes the exporter.
    let mut with_umask = std::process::Command::new("sh");
    with_umask.args(["-c", "umask 077; exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
    with_umask.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut exporter = Exporter::start(&mut with_umask);
    exporter.until("it is written", |_| (state(&node, "17") == "running").then_some(()));
    let as_user = |user: u32| {
        let mut command = bare_exporter();
        command.arg("--job-summary-dir").arg(node.scratch.path("summaries")).args(["--job-summary", "17"]);
        let output = command.uid(user).gid(65_534).output().unwrap();
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let (success, text) = as_user(4711);
    assert!(success && text.starts_with("Job 17 (user me) on ") && text.contains("still running"), "{text}");
    let (success, text) = as_user(4712);
    assert!(!success && text.contains("no summary of job 17") && text.contains("ermission denied"), "{text}");
}

#[test]
fn an_exporter_that_is_killed_goes_on_where_it_was() {
    let mut node = Node::new(plan());
    jobs(&node, "0", "17\n");
    jobs(&node, "1", "17\n18\n");
    std::fs::create_dir_all(node.scratch.path("summaries")).unwrap();
    std::fs::write(node.scratch.path("summaries/99.json"), "{ half of").unwrap();
    std::fs::write(node.scratch.path("summaries/.running-99.json"), "").unwrap();
    let mut exporter = start_with_summaries(&node);
    exporter.until("it is said", |exporter| exporter.log().contains("99.json is no summary of a job").then_some(()));
    exporter.page_with("it runs", |page| seconds(page, "17") > 0.5);
    let counter = |node: &mut Node, millijoules: i64| {
        node.plan["latest_values"][1]["fields"]["156"]["value"] = json!(millijoules.to_string());
        node.play();
    };
    counter(&mut node, 5_001_000);
    // Each job has a file of its own, and they are written one after the other.
    exporter.until("both are written", |_| {
        let used = |job: &str, at: usize| summary(&node, job)?["gpus"][at]["energy_joules"].as_f64();
        (used("17", 1) == Some(0.5) && used("18", 0) == Some(0.5)).then_some(())
    });
    exporter.signal(Signal::KILL);
    exporter.wait();
    let before = summary(&node, "17").unwrap();
    // What is used meanwhile is found in the counter; 18 is over.
    counter(&mut node, 5_003_000);
    jobs(&node, "1", "17\n");
    std::thread::sleep(std::time::Duration::from_secs(1));
    let mut exporter = start_with_summaries(&node);
    assert!(!exporter.log().contains("is no summary"), "it is told once: {}", exporter.log());
    let held = before["gpus"][0]["held_seconds"].as_f64().unwrap();
    let page = exporter.page_with("it goes on", |page| seconds(page, "17") > held + 1.5);
    assert_eq!(joules(&page, "1", "17"), Some(2.5), "{page}");
    assert_eq!(joules(&page, "1", "18"), Some(0.5), "{page}");
    // All of it, with the time in which no exporter ran; the first sample was a little after the job's start.
    let expected = seconds(&page, "17") * 300.0;
    let first = before["gpus"][0]["energy_joules"].as_f64().unwrap();
    let missing = held * 300.0 - first;
    within_a_percent(Some(joules(&page, "0", "17").unwrap() + missing.max(0.0)), expected);
    assert_eq!(state(&node, "18"), "ended");
    jobs(&node, "0", "");
    jobs(&node, "1", "");
    exporter.until("it is finished", |_| (state(&node, "17") == "ended").then_some(()));
}

/// It ends while no exporter runs.
#[test]
fn a_job_that_nobody_saw_end_is_finished_at_the_next_start() {
    let node = Node::new(plan());
    jobs(&node, "0", "17\n");
    let mut exporter = start_with_summaries(&node);
    exporter.until("it is written", |_| (state(&node, "17") == "running").then_some(()));
    exporter.stop();
    jobs(&node, "0", "");
    let mut exporter = start_with_summaries(&node);
    exporter.until("it is finished", |_| (state(&node, "17") == "ended").then_some(()));
}

/// Metrics are not to end with a directory of summaries.
#[test]
fn a_directory_that_cannot_be_used_costs_the_summaries_alone() {
    let node = Node::new(plan());
    jobs(&node, "0", "17\n");
    let directory = node.scratch.path("summaries");
    std::fs::create_dir_all(&directory).unwrap();
    let chmod =
        |mode| std::fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    chmod(0o775);
    let mut exporter = start_with_summaries(&node);
    exporter.page_with("it runs", |page| seconds(page, "17") > 0.5);
    assert_eq!(state(&node, "17"), "");
    let log = exporter.log();
    let told = "has mode 0775, others can write there, and is refused; chmod go-w";
    assert_eq!(log.matches(told).count(), 1, "{log}");
    jobs(&node, "0", "");
    let page = exporter.page_with("it is over", |page| !page.contains("dcgm_exporter_gpu_job{"));
    let held = seconds(&page, "17");
    jobs(&node, "1", "18\n");
    exporter.page_with("the next one is there", |page| page.contains("hpc_job=\"18\""));
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
    // What could not be written is not lost.
    chmod(0o755);
    exporter.until("both are written", |_| {
        (state(&node, "17") == "ended" && state(&node, "18") == "running").then_some(())
    });
    assert!((summary(&node, "17").unwrap()["gpus"][0]["held_seconds"].as_f64().unwrap() - held).abs() < 0.1);
    let log = exporter.log();
    assert!(log.matches(told).count() == 1 && log.contains("summaries of jobs are written again"), "{log}");
    // While it runs, too.
    chmod(0o777);
    exporter.until("it is told", |exporter| exporter.log().contains("has mode 0777").then_some(()));
}

#[test]
fn summaries_do_not_follow_a_directory_that_was_moved() {
    let node = Node::new(plan());
    jobs(&node, "0", "17\n");
    let mut exporter = start_with_summaries(&node);
    exporter.until("it is written", |_| (state(&node, "17") == "running").then_some(()));
    let [path, old] = ["summaries", "summaries.old"].map(|name| node.scratch.path(name));
    std::fs::rename(&path, &old).unwrap();
    std::fs::create_dir(&path).unwrap();
    exporter.until("it is written again", |_| (state(&node, "17") == "running").then_some(()));
    let left = std::fs::read(old.join("17.json")).unwrap();
    jobs(&node, "0", "");
    exporter.until("it is finished", |_| (state(&node, "17") == "ended").then_some(()));
    assert_eq!(std::fs::read(old.join("17.json")).unwrap(), left);
    // It makes one where there is none.
    std::fs::remove_dir_all(&path).unwrap();
    jobs(&node, "0", "18\n");
    exporter.until("the next one is written", |_| (state(&node, "18") == "running").then_some(()));
}
