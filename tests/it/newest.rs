//! What NVIDIA's newest dcgm-exporter (4.8.3 and later) takes and does: its flags, its counters files.

use crate::common::*;

fn start(scratch: &Scratch, scenario: &serde_json::Value, arguments: &[&str]) -> Exporter {
    let counters = scratch.write("counters.csv", GPU_TEMP);
    let plan = scratch.write("scenario.json", scenario.to_string());
    Exporter::start(exporter().env("DCGM_SIMULATOR_SCENARIO", plan).arg("-f").arg(counters).args(arguments))
}

#[test]
fn flags_without_effect_are_taken_with_a_reason() {
    let scratch = Scratch::new();
    let flags = [
        "--watch-max-keep-age=5m",
        "--watch-max-keep-samples=3",
        "--max-concurrent-scrapes=4",
        "--enable-exporter-metrics",
        "--container-runtime-socket=/run/docker.sock",
        "--container-labels=false",
        "--config-file=",
    ];
    let mut exporter = start(&scratch, &scenario(&[0]), &flags);
    let page = exporter.page();
    assert!(page.contains("DCGM_FI_DEV_GPU_TEMP{") && page.contains("dcgm_exporter_state{"), "{page}");
    let log = exporter.log();
    for flag in &flags[..5] {
        let name = flag.split('=').next().unwrap();
        let line = log.lines().find(|line| line.contains(&format!("{name} has no effect: ")));
        assert!(line.is_some_and(|line| line.contains("level=WARN")), "{name}: {log}");
    }
    assert!(!log.contains("--container-labels") || log.contains("it belongs to --container-labels"), "{log}");
}

#[test]
fn the_peers_defaults_are_no_warning() {
    let scratch = Scratch::new();
    let flags = [
        "--watch-max-keep-age=10m0s",
        "--watch-max-keep-samples=0",
        "--max-concurrent-scrapes=16",
        "--enable-exporter-metrics=false",
    ];
    let mut exporter = start(&scratch, &scenario(&[0]), &flags);
    // Switched off by default in the peer, the exporter's own metrics are on here.
    assert!(exporter.page().contains("dcgm_exporter_state{"));
    assert!(!exporter.log().contains("has no effect"), "{}", exporter.log());
    let mut without = start(&scratch, &scenario(&[0]), &["--enable-exporter-metrics", "--disable-exporter-metrics"]);
    assert!(!without.page().contains("dcgm_exporter_state{"));
}

#[test]
fn health_may_require_a_gpu() {
    let scratch = Scratch::new();
    let health = |exporter: &mut Exporter| {
        exporter.until("the engine is asked", |exporter| {
            Some(exporter.get("/health")).filter(|answer| answer.body.contains("waiting_for_gpus: no GPU"))
        })
    };
    let mut exporter = start(&scratch, &scenario(&[]), &[]);
    assert_eq!(health(&mut exporter).status, 200);
    let mut exporter = start(&scratch, &scenario(&[]), &["--health-require-gpus"]);
    assert_eq!(health(&mut exporter).status, 503);
    let mut exporter = start(&scratch, &scenario(&[0]), &["--health-require-gpus"]);
    exporter.page();
    assert_eq!(exporter.get("/health").status, 200);
}
