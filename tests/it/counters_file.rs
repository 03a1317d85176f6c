//! The counters file while the exporter runs: wrong ones in its place, and the ways in which it is replaced.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use dcgm_exporter::counters::Counters;
use dcgm_exporter::metrics::sources;

use crate::common::*;
use crate::node::*;

/// A textfile collector takes one help text per name.
#[test]
fn the_shipped_files_agree_on_each_name() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("counters");
    let mut known = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let file = entry.unwrap().path();
        let counters = Counters::read(&file, &sources::names()).unwrap();
        assert!(!counters.rows.is_empty() && counters.left_out == 0, "{}", file.display());
        for row in counters.rows {
            let (first, first_file) = known.entry(row.name.clone()).or_insert((row.clone(), file.clone()));
            assert_eq!(row.help, first.help, "{} in {} and {}", row.name, file.display(), first_file.display());
        }
    }
}

/// The file is read before the library is loaded, which may take seconds.
#[test]
fn a_file_that_changes_during_the_start_is_read_again() {
    let node = Node::new(scenario(&[0]));
    let (code, slow) = (node.scratch.path("slow.c"), node.scratch.path("libslow.so"));
    let [loading, go] = ["loading", "go"].map(|name| node.scratch.path(name));
    let source = format!(
        "#include <fcntl.h>\n#include <unistd.h>\n__attribute__((constructor)) static void slow(void) {{\n\
         creat({loading:?}, 0600); while (access({go:?}, F_OK)) usleep(5000); }}\n"
    );
    std::fs::write(&code, source).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-Wl,--no-as-needed", "-o"]).args([&slow, &code]).arg(simulator());
    assert!(compiler.status().unwrap().success());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !loading.exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
            node.scratch.write("counters.csv", "DCGM_FI_DEV_GPU_TEMP, gauge, the new help\n");
            std::fs::write(&go, "").unwrap();
        });
        let mut exporter = Exporter::start(node.exporter(GPU_TEMP).arg("--libdcgm").arg(&slow));
        exporter.page_with("the new file is in force", |page| page.contains("the new help"));
    });
}

/// Files with many items: each costs a moment, no memory, few lines of log, and none of the metrics.
#[test]
fn a_wrong_file_costs_neither_metrics_nor_memory_nor_log() {
    const LENGTH: usize = 4 << 20;
    let node = Node::new(scenario(&[0]));
    let mut exporter = Exporter::start(node.exporter(GPU_TEMP).args(["--stale-after", "2s"]));
    exporter.page_with("it collects", |page| temperatures(page) == 1 && collections(page) > 3.0);
    let memory = exporter.resident_kib();
    let names = |count: usize| (0..count).map(|n| format!("DCGM_FI_DEV_GPU_TEMQ{n}, gauge, x\n")).collect::<String>();
    let files = [
        "x\n".repeat(LENGTH / 2 - 10),
        format!("\"{}", "a\n".repeat(LENGTH / 2 - 10)),
        ",".repeat(LENGTH - 1),
        "\"\"\n".repeat(LENGTH / 3 - 10),
        "DCGM_FI_DEV_GPU_TEMP, gauge, x\n".repeat(LENGTH / 31 - 1),
        names(20_000),
        names(2_000),
        "\n".repeat(LENGTH - 1),
        format!("{}, gauge, x\n", "X".repeat(LENGTH - 100)),
    ];
    for (index, file) in files.iter().enumerate() {
        let (start, log) = (Instant::now(), exporter.log().len());
        node.scratch.write("counters.csv", file);
        let refused =
            |page: &str| value(page, &["dcgm_exporter_reloads_total{", "refused"]) == Some(index as f64 + 1.0);
        let page =
            exporter.page_with(&format!("file {index} is refused"), |page| refused(page) && temperatures(page) == 1);
        assert!(start.elapsed().as_secs_f64() < 5.0, "file {index}: {:?}", start.elapsed());
        assert!(is_in_state(&page, "running"), "{page}");
        let said = exporter.log()[log..].to_owned();
        assert!(said.lines().count() < 120 && said.len() < 30_000, "file {index}: {} bytes", said.len());
    }
    assert!(exporter.resident_kib() < memory + 24 * 1024, "{} KiB, {memory} before", exporter.resident_kib());
}

#[test]
fn the_first_errors_are_listed_and_the_others_counted() {
    let node = Node::new(scenario(&[0]));
    let names: String = (0..150).map(|n| format!("DCGM_FI_DEV_GPU_TEMQ{n}, gauge, x\n")).collect();
    let mut exporter = Exporter::start(&mut node.exporter(&format!("{GPU_TEMP}{names}")));
    let page = exporter.page();
    assert_eq!(value(&page, &["dcgm_exporter_counters_skipped "]), Some(150.0), "{page}");
    let log = exporter.log();
    assert_eq!(log.matches("there is no DCGM field").count(), 100, "{log}");
    assert_eq!(log.matches("did you mean").count(), 20, "{log}");
    assert!(log.contains("counters.csv:102: left out: 50 more rows from here on"), "{log}");
}

fn link(scratch: &Scratch, target: &str, name: &str) {
    let aside = scratch.path("link.aside");
    std::os::unix::fs::symlink(target, &aside).unwrap();
    std::fs::rename(&aside, scratch.path(name)).unwrap();
}

/// Links from one directory to another, of which only the last target or the one in the middle is replaced.
#[test]
fn files_behind_links_are_read_again() {
    let node = Node::new(scenario(&[0]));
    for (version, help) in [("..1", "one"), ("..2", "two")] {
        node.scratch.write(&format!("{version}/c.csv"), format!("DCGM_FI_DEV_GPU_TEMP, gauge, {help}\n"));
    }
    link(&node.scratch, "..1", "..data");
    let mut exporter = Exporter::start(node.exporter(GPU_TEMP).args(["-f"]).arg({
        link(&node.scratch, "..data/c.csv", "link.csv");
        node.scratch.path("link.csv")
    }));
    exporter.page_with("the first is read", |page| page.contains("GPU_TEMP one\n"));
    link(&node.scratch, "..2", "..data");
    exporter.page_with("the directory in the middle was replaced", |page| page.contains("GPU_TEMP two\n"));
    node.scratch.write("..2/c.csv", "DCGM_FI_DEV_GPU_TEMP, gauge, three\n");
    exporter.page_with("the target was replaced", |page| page.contains("GPU_TEMP three\n"));
}

#[test]
fn a_configuration_file_behind_a_link_is_read_again() {
    let node = Node::new(scenario(&[0]));
    let rows = |help: &str| {
        format!(
            "version: 2\nmetrics: {{fields: [{{name: DCGM_FI_DEV_GPU_TEMP, prometheusType: gauge, help: {help}}}]}}\n"
        )
    };
    node.scratch.write("target/config.yaml", rows("one"));
    link(&node.scratch, "target/config.yaml", "config.yaml");
    let mut command = exporter();
    command.env("DCGM_SIMULATOR_SCENARIO", node.scratch.path("scenario.json"));
    let mut exporter = Exporter::start(command.arg("--config-file").arg(node.scratch.path("config.yaml")));
    exporter.page_with("the first is read", |page| page.contains("GPU_TEMP one\n"));
    node.scratch.write("target/config.yaml", rows("two"));
    exporter.page_with("the second is read", |page| page.contains("GPU_TEMP two\n"));
}

/// The thread that looks at files stands still as it would in a file system that hangs.
#[test]
fn a_file_system_that_hangs_costs_nothing_but_changes() {
    let node = Node::new(scenario(&[0]));
    let mut command = node.exporter(GPU_TEMP);
    let mut exporter = Exporter::start(
        command.args(["--stale-after", "2s"]).env("DCGM_EXPORTER_TEST_FAULT", node.scratch.path("fault")),
    );
    exporter.page_with("it collects", |page| temperatures(page) == 1);
    node.scratch.write("fault", "hang files");
    let named = |health: &Response| health.body.contains("pause-profiling has not answered since 2");
    let health = health_with(&mut exporter, "the file is named", named);
    assert_eq!(health.status, 200, "{}", health.body);
    exporter.signal(Signal::HUP);
    after_collections(&mut exporter, 20);
    node.scratch.write("counters.csv", "DCGM_FI_DEV_GPU_TEMP, gauge, later\n");
    node.scratch.write("fault", "");
    exporter.page_with("the change is seen", |page| page.contains("GPU_TEMP later\n") && is_in_state(page, "running"));
    node.scratch.write("fault", "hang files");
    health_with(&mut exporter, "the file is named again", named);
    let (status, took) = exporter.stop();
    assert!(status.success() && took.as_secs() < 2, "{status} after {took:?}");
}
