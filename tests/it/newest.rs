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

#[test]
fn a_bad_row_costs_itself_and_is_an_error_of_the_check_alone() {
    let scratch = Scratch::new();
    let mut plan = scenario(&[0]);
    plan["latest_values"][0]["fields"]["100"] = serde_json::json!({ "type": "int64", "value": "1980" });
    let plan = scratch.write("scenario.json", plan.to_string());
    let rows = "DCGM_FI_DEV_GPU_TEMP, untyped, t\nDCGM_FI_DEV_NAME, gauge, n\nDCGM_FI_DEV_VGPU_UTILIZATIONS, gauge, v\n\
                DCGM_FI_DEV_SM_CLOCK, histogram, c\nDCGM_FI_NOPE, gauge, n\n";
    let counters = scratch.write("counters.csv", rows);
    let mut command = exporter();
    command.env("DCGM_SIMULATOR_SCENARIO", plan).arg("-f").arg(&counters);
    let mut exporter = Exporter::start(&mut command);
    let page = exporter.page();
    for line in ["# TYPE DCGM_FI_DEV_GPU_TEMP untyped\n", "# TYPE DCGM_FI_DEV_SM_CLOCK histogram\n"] {
        assert!(page.contains(line), "{page}");
    }
    assert!(page.contains("DCGM_FI_DEV_GPU_TEMP{") && !page.contains("DCGM_FI_DEV_NAME{"), "{page}");
    assert!(page.contains("dcgm_exporter_counters_skipped 3\n"), "{page}");
    let log = exporter.log();
    for (line, part) in [(2, "type label"), (3, "binary field"), (4, "no buckets"), (5, "no DCGM field")] {
        let note = log.lines().find(|text| text.contains(&format!("counters.csv:{line}: ")));
        assert!(note.is_some_and(|text| text.contains("level=WARN") && text.contains(part)), "{part}: {log}");
    }
    let output = bare_exporter().arg("--check-counters").arg("-f").arg(&counters).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in [":2: error: ", ":3: error: ", ":4: warning: ", ":5: error: "] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(said.ends_with("2 rows can be used\n"), "{said}");
    // With the file made empty, the rows of before stay.
    scratch.write("counters.csv", "# nothing\n");
    exporter.page_with("it is refused", |page| {
        page.contains("reloads_total{outcome=\"refused\"} 1\n") && page.contains("DCGM_FI_DEV_GPU_TEMP{")
    });
}
