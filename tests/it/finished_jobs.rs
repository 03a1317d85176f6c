//! Jobs that are over: their summaries are finished, their series go, and nothing of them costs anything afterwards.

use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

use crate::common::*;
use crate::node::*;

const TOTALS: &str = "DCGM_EXP_XID_ERRORS_TOTAL, counter, x\nDCGM_EXP_CLOCK_EVENTS_TOTAL, counter, c\n\
                      DCGM_EXP_CLOCK_EVENTS_SECONDS_TOTAL, counter, s\n";

/// Two GPUs at 300 W whose energy counters run on.
fn plan() -> Value {
    let mut plan = scenario(&[0, 1]);
    let gpu = |id: u32| {
        json!({ "entity": "GPU", "id": id, "fields": {
            "150": { "type": "int64", "value": "30" },
            "156": { "type": "int64", "value": "0", "per_second": 300_000 },
            "203": { "type": "int64", "value": "40" },
            "252": { "type": "int64", "value": "1000" },
        } })
    };
    plan["latest_values"] = json!([gpu(0), gpu(1)]);
    plan
}

fn start(node: &Node, counters: &str, more: &[&str]) -> Exporter {
    let mut command = node.exporter(counters);
    command.arg("--hpc-job-mapping-dir").arg(node.scratch.path("jobs"));
    Exporter::start(command.arg("--job-summary-dir").arg(node.scratch.path("summaries")).args(more))
}

fn set_job(node: &Node, gpu: u32, ids: &str) {
    let path = node.scratch.path("jobs").join(gpu.to_string());
    match ids.is_empty() {
        true => std::fs::remove_file(path).unwrap(),
        false => drop(node.scratch.write(&format!("jobs/{gpu}"), ids)),
    }
}

/// A job's file and which one it is: each writing makes another one.
fn file(node: &Node, job: &str) -> Option<(Value, u64)> {
    let path = node.scratch.path("summaries").join(format!("{job}.json"));
    let summary = serde_json::from_slice(&std::fs::read(&path).ok()?).unwrap();
    Some((summary, std::fs::metadata(path).ok()?.ino()))
}

fn ended(node: &Node, job: &str) -> Option<(Value, u64)> {
    file(node, job).filter(|(summary, _)| summary["state"] == "ended")
}

fn series_of(page: &str, job: &str) -> Vec<String> {
    let label = format!("hpc_job=\"{job}\"");
    page.lines().filter(|line| line.contains(&label)).map(str::to_owned).collect()
}

#[test]
fn a_summary_is_written_once_when_its_job_ends() {
    let node = Node::new(plan());
    std::fs::create_dir(node.scratch.path("jobs")).unwrap();
    let mut exporter = start(&node, GPU_TEMP, &[]);
    exporter.page_with("it runs", |page| temperatures(page) == 2);
    for job in ["17", "18", "19"] {
        set_job(&node, 0, job);
        exporter.until("it is written", |_| {
            file(&node, job).filter(|(found, _)| found["gpus"][0]["held_seconds"].as_f64() > Some(0.3))
        });
    }
    set_job(&node, 0, "");
    exporter
        .until("all are finished", |_| ["17", "18", "19"].iter().all(|job| ended(&node, job).is_some()).then_some(()));
    let before = ["17", "18", "19"].map(|job| file(&node, job));
    // The GPU goes on using energy, also for another job.
    set_job(&node, 0, "20");
    after_collections(&mut exporter, 10);
    assert_eq!(["17", "18", "19"].map(|job| file(&node, job)), before);
}

#[test]
fn series_of_ended_jobs_stay_where_they_are_not_zero_and_then_go() {
    let mut node = Node::new(plan());
    node.plan["events"] = json!([events("GPU", 0, 230, 31, 1, 1)]);
    std::fs::create_dir(node.scratch.path("jobs")).unwrap();
    set_job(&node, 0, "17");
    let mut exporter = start(&node, &format!("{GPU_TEMP}{TOTALS}"), &["--job-series-keep", "3s"]);
    let totals = |page: &str, value: &str| {
        let of_job = |line: &&String| line.starts_with("DCGM_EXP_") && line.ends_with(value);
        series_of(page, "17").iter().filter(of_job).count()
    };
    exporter.page_with("it has zeroes for increase()", |page| totals(page, "} 0") > 30);
    node.play();
    exporter.page_with("it had an error", |page| totals(page, "} 1") == 1);
    let empty = exporter.page().len();
    set_job(&node, 0, "");
    let page = exporter
        .page_with("what it used stays", |page| !page.contains("dcgm_exporter_gpu_job{") && totals(page, "} 0") == 0);
    assert_eq!(totals(&page, "} 1"), 1, "{page}");
    assert!(page.contains("dcgm_exporter_job_gpu_seconds_total{"), "{page}");
    assert!(!series_of(&page, "17").iter().any(|line| line.ends_with("} 0.000000")), "{page}");
    let page = exporter.page_with("all of it is gone", |page| series_of(page, "17").is_empty());
    assert!(page.len() < empty, "{page}");
}

#[test]
fn a_site_may_want_no_series_of_ended_jobs() {
    let node = Node::new(plan());
    std::fs::create_dir(node.scratch.path("jobs")).unwrap();
    set_job(&node, 0, "17");
    let mut exporter = start(&node, &format!("{GPU_TEMP}{TOTALS}"), &["--job-series-keep", "0"]);
    exporter.page_with("it runs", |page| page.contains("dcgm_exporter_job_energy_joules_total{"));
    set_job(&node, 0, "");
    exporter.page_with("it is over", |page| page.contains("gpu_allocated{") && series_of(page, "17").is_empty());
    exporter.until("its summary is finished", |_| ended(&node, "17"));
}

/// 64 jobs share each GPU: the zeroes of all kinds of errors alone would be 6,400 series.
#[test]
fn series_of_jobs_are_bounded_together() {
    let node = Node::new(plan());
    let ids = |from: u32| (from..from + 64).map(|id| format!("{id}\n")).collect::<String>();
    std::fs::create_dir(node.scratch.path("jobs")).unwrap();
    let mut exporter = start(&node, TOTALS, &["--job-labels", "on-samples"]);
    exporter.page_with("it runs", |page| collections(page) > 2.0);
    (0..2).for_each(|gpu| set_job(&node, gpu, &ids(1000 * (gpu + 1))));
    let of_jobs = |page: &str| {
        let counts = |line: &&str| line.contains("hpc_job=") && !line.starts_with("dcgm_exporter_gpu_job{");
        page.lines().filter(counts).count()
    };
    let left_out = |page: &str| value(page, &["dcgm_exporter_series_left_out_total "]).unwrap_or(0.0);
    let page = exporter.page_with("the limit is reached", |page| left_out(page) > 0.0);
    assert!((1500..=2000).contains(&of_jobs(&page)), "{} series of jobs", of_jobs(&page));
    // What is used comes before zeroes, and what runs before what is over.
    assert_eq!(series(&page, "dcgm_exporter_job_energy_joules_total"), 128);
    (0..2).for_each(|gpu| set_job(&node, gpu, &ids(1000 * (gpu + 3))));
    let page = exporter.page_with("others are counted", |page| {
        let is_counted = |job: u32| series_of(page, &job.to_string()).iter().any(|line| line.contains("energy_joules"));
        (4000..4064).all(is_counted)
    });
    // At a change of jobs, too.
    assert!(of_jobs(&page) <= 2000, "{} series of jobs", of_jobs(&page));
    let log = exporter.log();
    assert_eq!(log.matches("--job-series-limit").count(), 1, "{log}");
}
