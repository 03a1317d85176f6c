//! Directories of jobs that many files, two nodes or a file system that hangs have made difficult.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::*;
use crate::node::*;

fn start(node: &Node, more: &[(&str, &str)]) -> Exporter {
    std::fs::create_dir_all(node.scratch.path("jobs")).unwrap();
    let mut command = node.exporter(GPU_TEMP);
    command.arg("--hpc-job-mapping-dir").arg(node.scratch.path("jobs"));
    command.arg("--job-summary-dir").arg(node.scratch.path("summaries"));
    Exporter::start(command.envs(more.iter().copied()))
}

fn summary(node: &Node, job: &str) -> Option<Value> {
    let bytes = std::fs::read(node.scratch.path("summaries").join(format!("{job}.json"))).ok()?;
    Some(serde_json::from_slice(&bytes).unwrap())
}

/// A file for each job of years: nothing is opened but what was running.
#[test]
fn summaries_of_the_past_are_not_read() {
    let node = Node::new(scenario(&[0, 1]));
    std::fs::create_dir(node.scratch.path("summaries")).unwrap();
    for job in 0..20_000 {
        std::fs::write(node.scratch.path("summaries").join(format!("{job}.json")), "{").unwrap();
    }
    let start_time = Instant::now();
    let mut exporter = start(&node, &[]);
    exporter.page_with("it runs", |page| temperatures(page) == 2);
    assert!(start_time.elapsed() < Duration::from_secs(2), "{:?}", start_time.elapsed());
    let log = exporter.log();
    assert!(!log.contains("is no summary of a job"), "{}", &log[..log.len().min(2000)]);
    // Where a job has the name of one of them, it is kept aside.
    node.scratch.write("jobs/0", "17\n");
    exporter.until("it is written", |exporter| exporter.log().contains("17.json is no summary of a job").then_some(()));
    exporter.until("it is written", |_| {
        let text = std::fs::read_to_string(node.scratch.path("summaries/17.json")).ok()?;
        text.contains("running").then_some(())
    });
    assert!(node.scratch.path("summaries/17.json.bad").exists());
}

#[test]
fn two_nodes_that_share_a_directory_leave_each_others_files_alone() {
    let nodes = ["a", "b"].map(|name| (name, Node::new(scenario(&[0, 1]))));
    let shared = nodes[0].1.scratch.path("summaries");
    std::fs::create_dir(&shared).unwrap();
    let exporter_of = |(name, node): &(&str, Node)| {
        std::fs::create_dir_all(node.scratch.path("jobs")).unwrap();
        let mut command = node.exporter(GPU_TEMP);
        command.env("NODE_NAME", name).arg("--hpc-job-mapping-dir").arg(node.scratch.path("jobs"));
        Exporter::start(command.arg("--job-summary-dir").arg(&shared))
    };
    let of = |job: &str| summary(&nodes[0].1, job);
    let mut first = exporter_of(&nodes[0]);
    nodes[0].1.scratch.write("jobs/0", "17\n");
    first.until("it is written", |_| of("17"));
    // The other node begins, without that job and then with the same one, as of a job on both nodes.
    let mut second = exporter_of(&nodes[1]);
    nodes[1].1.scratch.write("jobs/1", "18\n");
    second.until("its own is written", |_| of("18").filter(|found| found["hostname"] == "b"));
    nodes[1].1.scratch.write("jobs/0", "17\n");
    second.until("it is told", |exporter| {
        exporter.log().contains("17.json is a summary of node a; give each node a directory of its own").then_some(())
    });
    after_collections(&mut first, 5);
    let found = of("17").unwrap();
    assert!(
        found["state"] == "running" && found["hostname"] == "a" && found["gpus"].as_array().unwrap().len() == 1,
        "{found}"
    );
    // A node that is started again goes on with its own.
    second.stop();
    let mut second = exporter_of(&nodes[1]);
    second.until("its own goes on", |_| of("18").filter(|found| found["gpus"][0]["held_seconds"].as_f64() > Some(1.0)));
    std::fs::remove_file(nodes[0].1.scratch.path("jobs/0")).unwrap();
    first.until("it is finished by its own node", |_| of("17").filter(|found| found["state"] == "ended"));
    assert_eq!(of("17").unwrap()["hostname"], "a");
}

/// What hangs is named, metrics go on, and the process ends when it is told.
#[test]
fn a_directory_whose_file_system_hangs_is_named_and_costs_nothing_else() {
    for (thread, directory) in [("summaries", "summaries"), ("job map", "jobs")] {
        let node = Node::new(scenario(&[0, 1]));
        let fault = node.scratch.write("fault", format!("hang {thread}")).display().to_string();
        let start_time = Instant::now();
        let mut exporter = start(&node, &[("DCGM_EXPORTER_TEST_FAULT", &fault)]);
        exporter.page_with("it runs", |page| temperatures(page) == 2);
        assert!(start_time.elapsed() < Duration::from_secs(4), "{:?}", start_time.elapsed());
        let health = health_with(&mut exporter, "it is named", |health| {
            health.body.contains(&format!("/{directory} has not answered since"))
        });
        assert_eq!(health.status, 200, "{}", health.body);
        after_collections(&mut exporter, 3);
        // It answers again.
        std::fs::remove_file(node.scratch.path("fault")).unwrap();
        node.scratch.write("jobs/0", "17\n");
        exporter.page_with("jobs are known", |page| page.contains("hpc_job=\"17\""));
        exporter.until("it is written", |_| summary(&node, "17"));
        health_with(&mut exporter, "all is well", |health| !health.body.contains("has not answered"));
        node.scratch.write("fault", format!("hang {thread}"));
        node.scratch.write("jobs/1", "18\n");
        let (status, took) = exporter.stop();
        assert!(status.success() && took < Duration::from_secs(3), "{status} after {took:?}");
    }
}

/// A job goes on where it was, also when its file is read late.
#[test]
fn a_summary_that_is_read_late_is_added() {
    let node = Node::new(scenario(&[0, 1]));
    let mut exporter = start(&node, &[]);
    node.scratch.write("jobs/0", "17\n");
    let held = |found: &Value| found["gpus"][0]["held_seconds"].as_f64().unwrap();
    let before = exporter.until("it is written", |_| summary(&node, "17").filter(|found| held(found) > 1.0));
    exporter.stop();
    let fault = node.scratch.write("fault", "hang summaries").display().to_string();
    let mut exporter = start(&node, &[("DCGM_EXPORTER_TEST_FAULT", &fault)]);
    exporter.page_with("it runs", |page| page.contains("dcgm_exporter_job_gpu_seconds_total{"));
    std::fs::remove_file(node.scratch.path("fault")).unwrap();
    let after =
        exporter.until("it goes on", |_| summary(&node, "17").filter(|found| held(found) > held(&before) + 0.2));
    assert_eq!(after["began"], before["began"]);
}
