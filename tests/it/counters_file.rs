//! The counters file while the exporter runs: wrong ones in its place, and the ways in which it is replaced.

use std::time::Instant;

use crate::common::*;
use crate::node::*;

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
