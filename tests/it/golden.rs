//! The golden cases: for given inputs, the exact page.
//!
//! `tests/golden/NAME/` holds `input.json`, which is a scenario of the simulator as it stands, and what is to be
//! printed: `expected-error.txt`, else `expected-fixed.txt`, else `expected-valid.txt`, else `expected.txt`.
//! `GOLDEN_DIR` names another directory of such cases to run as well.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{Exporter, Scratch, check_page, exporter, is_second_session, refused};

fn cases(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut cases: Vec<PathBuf> =
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.join("input.json").is_file()).collect();
    cases.sort();
    cases
}

#[test]
fn every_case() {
    let own = cases(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"));
    assert!(own.len() >= 25, "only {} cases", own.len());
    let more = std::env::var_os("GOLDEN_DIR").map(|directory| cases(Path::new(&directory))).unwrap_or_default();
    // Their XID errors come with each engine, and are counted on over sessions.
    let counts_on = |case: &&PathBuf| case.ends_with("16-xid") || case.ends_with("30-xid-count-mig");
    let all = own.iter().chain(&more).filter(|case| !(is_second_session() && counts_on(case)));
    let failures: Vec<String> = all.filter_map(|case| run(case).err()).collect();
    assert!(
        failures.is_empty(),
        "{} of {} cases fail:\n\n{}",
        failures.len(),
        own.len() + more.len(),
        failures.join("\n\n")
    );
}

fn run(case: &Path) -> Result<(), String> {
    let name = case.file_name().unwrap().to_string_lossy().into_owned();
    let scratch = Scratch::new();
    let mut command = command(case, &scratch);
    if let Ok(names) = std::fs::read_to_string(case.join("expected-error.txt")) {
        let (status, message) = refused(&mut command);
        let missing: Vec<&str> = names.lines().filter(|name| !message.contains(name)).collect();
        return match (status.code(), missing[..].is_empty()) {
            (Some(1), true) => Ok(()),
            _ => Err(format!("{name}: ended with {status} and a message without {missing:?}:\n{message}")),
        };
    }
    let expected = ["expected-fixed.txt", "expected-valid.txt", "expected.txt"]
        .into_iter()
        .find_map(|file| std::fs::read_to_string(case.join(file)).ok())
        .unwrap_or_else(|| panic!("{name} expects nothing"));
    let mut exporter = Exporter::start(&mut command);
    // Profiling values are differences and come with the second collection, a second after the first.
    let end = Instant::now() + Duration::from_secs(5);
    let mut page = exporter.page();
    while page != expected && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
        page = exporter.page();
    }
    if page == expected {
        return Ok(());
    }
    let differing = page.lines().zip(expected.lines()).find(|(ours, theirs)| ours != theirs);
    Err(format!(
        "{name}: first difference {differing:#?}\n--- printed\n{page}--- expected\n{expected}--- log\n{}",
        exporter.log()
    ))
}

fn command(case: &Path, scratch: &Scratch) -> Command {
    let input: serde_json::Value = serde_json::from_slice(&std::fs::read(case.join("input.json")).unwrap()).unwrap();
    let options = &input["options"];
    let text = |key: &str| options[key].as_str().unwrap_or_default().to_owned();
    let milliseconds = |key: &str| options[key].as_u64().unwrap_or(300_000).to_string();
    let mut command = exporter();
    command
        .env("DCGM_SIMULATOR_SCENARIO", case.join("input.json"))
        .arg("--disable-exporter-metrics")
        .arg("--collectors")
        .arg(scratch.write("counters.csv", input["collectors_csv"].as_str().unwrap()))
        .args(["--devices", &text("devices")])
        .args(["--switch-devices", &text("switch_devices")])
        .args(["--cpu-devices", &text("cpu_devices")])
        .args(["--xid-count-window-size", &milliseconds("xid_count_window_size_ms")])
        .args(["--clock-events-count-window-size", &milliseconds("clock_events_count_window_size_ms")])
        .arg(format!("--use-old-namespace={}", options["use_old_namespace"] == true))
        .arg(format!("--replace-blanks-in-model-name={}", options["replace_blanks_in_model_name"] == true));
    match text("hostname") {
        none if none.is_empty() => command.arg("--no-hostname"),
        hostname => command.env("NODE_NAME", hostname),
    };
    if let Some(files) = options["hpc_job_mapping_files"].as_object() {
        std::fs::create_dir_all(scratch.path("jobs")).unwrap();
        for (file, content) in files {
            std::fs::write(scratch.path("jobs").join(file), content.as_str().unwrap()).unwrap();
        }
        command.arg("--hpc-job-mapping-dir").arg(scratch.path("jobs"));
    }
    command
}

#[test]
fn a_bad_page_is_found() {
    let good = "# HELP a h\n# TYPE a gauge\na{b=\"1\"} 1\na{b=\"2\"} 1\n# HELP b h\n# TYPE b gauge\nb 1\n";
    assert_eq!(check_page(good), Ok(()));
    for (bad, what) in [
        (good.replace("b=\"2\"", "b=\"1\""), "twice"),
        (format!("{good}a{{b=\"3\"}} 1\n"), "two pieces"),
        (good.replace("# TYPE b gauge\n", ""), "before its TYPE"),
        (good.replace("# TYPE b gauge\n", "# TYPE b gauge\n# TYPE b gauge\n"), "two types"),
    ] {
        assert!(check_page(&bad).unwrap_err().contains(what), "{bad}");
    }
}

crate::also_in_second_session!(every_case,);
