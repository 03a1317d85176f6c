//! What changes around the exporter: the node's name, and engines of another release than the library.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::*;
use crate::node::*;

/// The exporter in a namespace of its own that a command prepares, where this machine lets a test have one.
fn apart(node: &Node, namespace: &str, prepare: &str) -> Option<Command> {
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", namespace, "--", "sh", "-c", script]);
        command
    };
    if !unshare(prepare).output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: this machine does not let a test do this: unshare {namespace}, {prepare}");
        return None;
    }
    let plain = node.exporter(GPU_TEMP);
    let mut command = unshare(&format!("{prepare} && exec \"$0\" \"$@\""));
    command.arg(plain.get_program()).args(plain.get_args()).env_remove("NODE_NAME");
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Some(command)
}

#[test]
fn without_proc_the_page_is_served() {
    let node = Node::new(scenario(&[0]));
    let Some(mut command) = apart(&node, "--mount", "mount -t tmpfs none /proc") else { return };
    let mut exporter = Exporter::start(command.env("RUNTIME_DIRECTORY", node.scratch.path("")));
    exporter.page_with("it serves", |page| temperatures(page) == 1);
}

#[test]
fn a_node_that_gets_its_name_later() {
    let node = Node::new(scenario(&[0]));
    let Some(mut command) = apart(&node, "--uts", "hostname localhost") else { return };
    let mut exporter = Exporter::start(&mut command);
    exporter.page_with("it has the first name", |page| page.contains("hostname=\"localhost\""));
    let renamed = Command::new("nsenter")
        .args([
            "--target",
            &exporter.pid().to_string(),
            "--user",
            "--uts",
            "--preserve-credentials",
            "hostname",
            "node7",
        ])
        .output()
        .unwrap();
    assert!(renamed.status.success(), "{}", String::from_utf8_lossy(&renamed.stderr));
    let page = exporter.page_with("it has the new name", |page| page.contains("hostname=\"node7\""));
    assert!(temperatures(&page) == 1 && !page.contains("hostname=\"localhost\""), "{page}");
}

#[test]
fn an_engine_of_another_line() {
    for (library, engine) in [("4.6.0", "3.3.9"), ("3.3.9", "4.6.0")] {
        let mut node = Node::new(scenario(&[0]));
        node.plan["version"] = library.into();
        let own = node.scratch.write("own.json", node.plan.to_string());
        node.plan["engine_version"] = engine.into();
        node.play();
        let (_engine, address) = node.host_engine();

        // Whoever names the engine gets a reason.
        let mut command = node.exporter(GPU_TEMP);
        let mut exporter = Exporter::start(command.args(["-r", &address]).env("DCGM_SIMULATOR_SCENARIO", &own));
        let health = health_with(&mut exporter, "both versions are named", |health| {
            health.body.contains(&format!("libdcgm {library}")) && health.body.contains(&format!("DCGM {engine}"))
        });
        assert!(health.status == 503 && health.body.contains("datacenter-gpu-manager"), "{}", health.body);
        std::thread::sleep(Duration::from_secs(4));
        let log = exporter.log();
        let said = log.lines().filter(|line| line.contains("level=ERROR") || line.contains("level=WARN"));
        let said: Vec<&str> = said.filter(|line| !line.contains("state: connecting")).collect();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(!log.contains("GPUs are lost") && !log.contains("profiling"), "{log}");

        // With auto an embedded engine takes its place.
        let mut command = node.exporter(GPU_TEMP);
        command.args(["-r", &format!("auto,{address}")]).env("DCGM_SIMULATOR_SCENARIO", &own);
        let mut exporter = Exporter::start(&mut command);
        let page = exporter.page_with("the embedded engine answers", |page| temperatures(page) == 1);
        assert!(page.contains("engine_info{mode=\"embedded\""), "{page}");
        std::thread::sleep(Duration::from_secs(7));
        let page = after_collections(&mut exporter, 3);
        assert!(all_restarts(&page) == 0.0 && is_in_state(&page, "running"), "{page}");
        let log = exporter.log();
        let said: Vec<&str> =
            log.lines().filter(|line| line.contains("level=ERROR") || line.contains("level=WARN")).collect();
        assert!(said.len() == 1 && said[0].contains(library) && said[0].contains(engine), "{said:?}");
    }
}

/// Errors of the kernel's log, 1.3 s apart, which DCGM stores up to a second late under the kernel's time.
fn late_errors(count: u32, intervals: &[&str]) {
    let mut running = Vec::new();
    for interval in intervals {
        let mut node = Node::new(scenario(&[0]));
        node.plan["events"] = json!([{
            "entity": "GPU", "id": 0, "field_id": 230, "value": 79, "count": count, "every_ms": 1300,
            "after_ms": 1500, "from": "kernel_log", "late_ms": 900,
        }]);
        node.play();
        let mut command = node.exporter("DCGM_EXP_XID_ERRORS_TOTAL, counter, x\n");
        running.push((Exporter::start(command.args(["-c", interval])), node, *interval));
    }
    std::thread::sleep(Duration::from_millis(1300) * count);
    for (exporter, _, interval) in &mut running {
        let total = |page: &str| value(page, &["DCGM_EXP_XID_ERRORS_TOTAL{", "xid=\"79\""]).unwrap_or(0.0);
        if *interval == "30s" {
            // Two collections: the one that takes the last of them in, and one that might count them again.
            std::thread::sleep(Duration::from_secs(61));
        } else {
            exporter.page_with("all are counted", |page| total(page) >= f64::from(count));
            after_collections(exporter, 7);
        }
        assert_eq!(total(&exporter.page()), f64::from(count), "every {interval}");
    }
}

#[test]
fn errors_that_are_stored_late_are_all_counted() {
    late_errors(12, &["250", "1s"]);
}

/// As many as were measured on the real library.
#[test]
#[ignore = "takes two minutes: make soak"]
fn errors_that_are_stored_late_are_all_counted_at_length() {
    late_errors(36, &["250", "1s", "30s"]);
}

/// Whoever can write beside a file that is monitored wakes the watcher a few times a second, and its file is still read.
#[test]
fn a_busy_directory_keeps_nobody_busy() {
    let node = Node::new(scenario(&[0]));
    let mut exporter = Exporter::start(node.exporter(GPU_TEMP).args(["-c", "30s"]));
    exporter.page_with("it has collected", |page| page.contains("DCGM_FI_DEV_GPU_TEMP{"));
    let tasks = std::fs::read_dir(format!("/proc/{}/task", exporter.pid())).unwrap();
    let read = |path: &std::path::Path, name: &str| std::fs::read_to_string(path.join(name)).unwrap_or_default();
    let mut watcher = tasks.map(|task| task.unwrap().path()).filter(|task| read(task, "comm") == "watcher\n");
    let watcher = watcher.next().unwrap();
    let wakes = || -> u64 {
        let status = read(&watcher, "status");
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.unwrap().trim().parse().unwrap()
    };
    let (before, start, mut written) = (wakes(), Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(2) || written < 2000 {
        node.scratch.write("beside", written.to_string());
        written += 1;
        std::thread::sleep(Duration::from_micros(200));
    }
    let (woken, seconds) = (wakes() - before, start.elapsed().as_secs_f64());
    assert!((woken as f64) < 100.0 * seconds, "{woken} times in {seconds} s, for {written} writes");
    node.scratch.write("counters.csv", "DCGM_FI_DEV_GPU_TEMP, gauge, as written now\n");
    exporter.page_with("the file is read", |page| page.contains("DCGM_FI_DEV_GPU_TEMP as written now\n"));
}
