//! `--file-sd-dir`: the file that tells Prometheus where the exporter is.

use std::os::unix::fs::PermissionsExt;

use crate::common::*;

fn start(scratch: &Scratch, arguments: &[&str]) -> Exporter {
    let counters = scratch.write("counters.csv", GPU_TEMP);
    let plan = scratch.write("scenario.json", scenario(&[0]).to_string());
    let mut command = exporter();
    command.env("DCGM_SIMULATOR_SCENARIO", plan).env("DCGM_EXPORTER_FILE_SD_DIR", scratch.path("sd")).args(arguments);
    Exporter::start(command.arg("-f").arg(counters))
}

fn files(scratch: &Scratch) -> Vec<String> {
    let entries = std::fs::read_dir(scratch.path("sd")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn name() -> String {
    format!("{}.json", rustix::system::uname().nodename().to_str().unwrap())
}

fn registered(scratch: &Scratch, exporter: &mut Exporter) -> serde_json::Value {
    exporter
        .until("it is registered", |exporter| exporter.log().contains("wrote the file for Prometheus").then_some(()));
    assert_eq!(files(scratch), [name()], "and nothing is left beside it");
    serde_json::from_str(&std::fs::read_to_string(scratch.path("sd").join(name())).unwrap()).unwrap()
}

#[test]
fn a_clean_stop_removes_the_file_and_a_crash_does_not() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("sd")).unwrap();
    let address = ["--file-sd-address", "gpu7.example.org:9400"];
    let mut exporter = start(&scratch, &address);
    let expected = serde_json::json!([{ "targets": ["gpu7.example.org:9400"], "labels": { "__scheme__": "http" } }]);
    assert_eq!(registered(&scratch, &mut exporter), expected);
    exporter.signal(Signal::KILL);
    exporter.wait();
    assert_eq!(files(&scratch), [name()]);

    let mut exporter = start(&scratch, &address);
    registered(&scratch, &mut exporter);
    assert!(exporter.stop().0.success());
    assert!(files(&scratch).is_empty());

    // Another exporter's file is its own.
    let mut exporter = start(&scratch, &address);
    registered(&scratch, &mut exporter);
    scratch.write(&format!("sd/{}", name()), "[]");
    assert!(exporter.stop().0.success());
    assert_eq!(files(&scratch), [name()]);
}

#[test]
fn the_address_is_one_that_others_reach() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("sd")).unwrap();
    let mut exporter = start(&scratch, &["--address", "0.0.0.0:0"]);
    // The other address is the standard one of tests, on loopback.
    let port = exporter.until("it listens there, too", |exporter| {
        let log = exporter.log();
        let after = log.split("Listening on\" address=0.0.0.0:").nth(1)?;
        Some(after.lines().next()?.to_owned())
    });
    let node = name().trim_end_matches(".json").to_owned();
    assert_eq!(registered(&scratch, &mut exporter)[0]["targets"], serde_json::json!([format!("{node}:{port}")]));
    exporter.stop();
    // The standard flags of tests serve on loopback.
    let mut exporter = start(&scratch, &[]);
    exporter.until("it says so", |exporter| exporter.log().contains("other nodes can reach none").then_some(()));
    assert!(files(&scratch).is_empty());
}

#[test]
fn a_directory_that_cannot_be_written_is_one_warning() {
    let scratch = Scratch::new();
    // Not even root can make a file below a file.
    let file = scratch.write("sd", "");
    std::fs::set_permissions(file, PermissionsExt::from_mode(0o600)).unwrap();
    let mut exporter = start(&scratch, &["--file-sd-address", "gpu7:9400"]);
    exporter.page();
    assert_eq!(exporter.log().matches("the file cannot be written").count(), 1, "{}", exporter.log());
    assert!(exporter.stop().0.success());
    let (status, text) = refused(super::common::exporter().args(["--file-sd-address", "gpu7"]));
    assert!(!status.success() && text.contains("--file-sd-address"), "{text}");
}
