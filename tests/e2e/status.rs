//! The page for people in a real Chromium: what is seen, that nothing is asked of anybody else, and that it can be used by
//! everybody. Pictures go to `target/status`.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::alerts::root;
use crate::common::{Exporter, Scratch, exporter};

const COUNTERS: &str = "DCGM_FI_DEV_GPU_TEMP, gauge, t\nDCGM_FI_DEV_SLOWDOWN_TEMP, gauge, t\n\
    DCGM_FI_DEV_MEMORY_TEMP, gauge, t\nDCGM_FI_DEV_GPU_UTIL, gauge, u\nDCGM_FI_DEV_FB_USED, gauge, m\n\
    DCGM_FI_DEV_FB_FREE, gauge, m\nDCGM_FI_DEV_POWER_USAGE, gauge, p\nDCGM_FI_DEV_ENFORCED_POWER_LIMIT, gauge, p\n\
    DCGM_FI_DEV_XID_ERRORS, gauge, x\nDCGM_FI_DEV_CLOCKS_EVENT_REASONS, gauge, c\nDCGM_FI_DRIVER_VERSION, label, v\n\
    DCGM_EXP_NVLINK_LINKS, gauge, l\nDCGM_FI_DEV_NO_SUCH_FIELD, gauge, n\n";

/// A script name that a browser must not run, and a long one that must not widen the page.
const USER: &str = "<img/src=x/onerror=console.error(1)>";

/// Eight GPUs at work, one idle, one too hot, one that has fallen off the bus.
fn plan(round: i64) -> Value {
    let mut plan = crate::common::scenario(&[0, 1, 2, 3, 4, 5, 6, 7]);
    let int = |value: i64| json!({ "type": "int64", "value": value.to_string() });
    let double = |value: f64| json!({ "type": "double", "value": value.to_string() });
    for (gpu, of_gpu) in (0i64..).zip(plan["latest_values"].as_array_mut().unwrap()) {
        let busy = if gpu == 7 { 0 } else { 88 + (gpu * 7 + round * 3) % 12 };
        let values = [
            (150, int(if gpu == 5 { 88 } else { 38 + busy / 4 + gpu % 3 })),
            (158, int(87)),
            (140, int(46 + busy / 5)),
            (203, int(busy)),
            (252, int(if gpu == 7 { 4 } else { 121_000 + 700 * gpu })),
            (251, int(if gpu == 7 { 143_000 } else { 22_004 - 700 * gpu })),
            (155, double(if gpu == 7 { 76.2 } else { 560.0 + 9.0 * ((gpu + round) % 8) as f64 })),
            (164, double(700.0)),
            (230, int(if gpu == 3 { 79 } else { 0 })),
            (
                112,
                int(match gpu {
                    5 => 0x40,
                    7 => 0x1,
                    _ => 0x4,
                }),
            ),
        ];
        for (field, value) in values {
            of_gpu["fields"][field.to_string()] = value;
        }
    }
    plan
}

/// axe-core's script, from a package of PyPI.
fn axe() -> PathBuf {
    let place = root().join("target/axe");
    let script = place.join("axe_core_python/axe.min.js");
    if !script.exists() {
        let venv = root().join("target/axe-venv");
        let made = Command::new("python3").args(["-m", "venv"]).arg(&venv).status().unwrap();
        assert!(made.success(), "python3-venv is installed");
        let mut pip = Command::new(venv.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"])
            .arg(&place)
            .arg("axe-core-python==0.1.0");
        assert!(pip.status().unwrap().success(), "axe-core-python cannot be had");
    }
    script
}

/// Nothing was asked for but the page itself; an icon of no bytes is none.
fn only_itself(requests: &Value, url: &str) {
    let requests: Vec<&str> = requests.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(requests.contains(&url), "{requests:?}");
    assert!(requests.iter().all(|asked| *asked == url || *asked == "data:,"), "{requests:?}");
}

#[test]
#[ignore = "needs chromium, python3-websocket and a package registry: make e2e"]
fn in_a_real_browser() {
    let scratch = Scratch::new();
    let counters = scratch.write("counters.csv", COUNTERS);
    for gpu in 0..7 {
        scratch.write(&format!("jobs/{gpu}"), format!("{}\n", 48_113 + gpu / 4));
    }
    scratch.write("jobs/job.48113", "user=alice\n");
    scratch.write("jobs/job.48114", format!("user={USER}\n"));
    let mut command = exporter();
    command.env("DCGM_SIMULATOR_SCENARIO", scratch.write("plan.json", plan(0).to_string()));
    command.args(["-c", "1s", "--hostname", "gpu7", "-f"]).arg(counters);
    command.arg("--hpc-job-mapping-dir").arg(scratch.path("jobs"));
    let mut exporter = Exporter::start(&mut command);
    exporter.page();
    // Graphs of a while; 0 where a picture is not needed.
    exporter.get("/");
    let seconds: u64 = std::env::var("STATUS_SECONDS").map_or(0, |text| text.parse().unwrap());
    for round in 0..seconds / 5 {
        scratch.write("plan.json", plan(round as i64).to_string());
        std::thread::sleep(std::time::Duration::from_secs(5));
    }

    let url = format!("http://127.0.0.1:{}/", exporter.port);
    let mut look = Command::new("/usr/bin/python3");
    look.arg(root().join("tests/e2e/status.py")).arg(&url).arg(root().join("target/status")).arg(axe());
    let output = look.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();

    for (name, width) in [("light", 1280), ("dark", 1280), ("narrow", 360), ("narrow-dark", 360)] {
        let page = &seen[name];
        assert_eq!(page["errors"], json!([]), "{name}");
        only_itself(&page["requests"], &url);
        assert_eq!(page["width"], width, "{name}: it can be scrolled sideways");
        assert_eq!(page["axe"], json!([]), "{name}");
        let text = page["text"].as_str().unwrap();
        for part in ["GPU 7", "fallen off the bus", "hardware thermal", "48113", USER, "too hot", "700", "libdcgm"] {
            assert!(text.contains(part), "{name}: '{part}' is not in {text}");
        }
    }
    assert_ne!(seen["light"]["background"], seen["dark"]["background"]);
    let refreshed = &seen["refreshed"];
    assert_eq!(refreshed["errors"], json!([]));
    only_itself(&refreshed["requests"], &url);
    for what in ["has_new_time", "is_same_table", "is_open"] {
        assert_eq!(refreshed[what], true, "{what}: {refreshed}");
    }
    assert_eq!(refreshed["focus"], "Metrics", "the focus is where it was");
    assert!(refreshed["age"].as_str().is_some_and(|age| age.ends_with("s ago)")), "{refreshed}");
    for link in ["Metrics", "Health", "Text", "JSON"] {
        assert!(seen["reached"].to_string().contains(link), "{link} is not reached by keyboard: {}", seen["reached"]);
    }
    assert_eq!(seen["outline"], "solid");
    assert_eq!(seen["without_script"]["errors"], json!([]));
}
