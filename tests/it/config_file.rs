//! `--config-file`: the YAML of NVIDIA's dcgm-exporter, versions 1 and 2, at the start, at a reload and in the checks.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::*;
use crate::node::*;

const CLOCK: &str = "DCGM_FI_DEV_SM_CLOCK, gauge, c\n";
const SHARE: &str = "DCGM_FI_PROF_GR_ENGINE_ACTIVE, gauge, p\n";

/// One GPU with a temperature, a clock and a profiling field.
fn gpu() -> Value {
    let mut plan = scenario(&[0]);
    plan["latest_values"][0]["fields"]["100"] = json!({ "type": "int64", "value": "1980" });
    plan["latest_values"][0]["fields"]["1001"] = json!({ "type": "double", "value": "0.5" });
    plan["supported_profiling_fields"] = json!([1001]);
    plan
}

/// The exporter on that GPU with a configuration file, which may name `counters.csv`, and nothing else.
fn exporter_with(scratch: &Scratch, text: &str) -> Command {
    scratch.write("counters.csv", format!("{GPU_TEMP}{CLOCK}{SHARE}"));
    let mut command = exporter();
    command
        .env("DCGM_SIMULATOR_SCENARIO", scratch.write("scenario.json", gpu().to_string()))
        .env("DCGM_SIMULATOR_STATS", scratch.path("stats.json"))
        .arg("--config-file")
        .arg(scratch.write("config.yaml", named(scratch, text)));
    command
}

/// The text with the path of the counters file.
fn named(scratch: &Scratch, text: &str) -> String {
    text.replace("COUNTERS", scratch.path("counters.csv").to_str().unwrap())
}

fn refuses(command: &mut Command, parts: &[&str]) {
    let (status, said) = refused(command);
    assert_eq!(status.code(), Some(1), "{said}");
    for part in parts {
        assert!(said.contains(part), "'{part}': {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

/// Files with everything that the formats have.
const EXAMPLES: [&str; 6] = [
    r#"version: 2
metrics:
  file: COUNTERS
  enableExporterMetrics: false
collections:
  - name: scrape
    every: 30s
    metrics: {include: ["*"]}
  - name: fast-thermals
    every: 5s
    metrics: {include: [DCGM_FI_DEV_GPU_TEMP, DCGM_FI_DEV_NVLINK_PPCNT_*]}
    sources: {dcgm: {watch: {maxKeepAge: 0s, maxKeepSamples: 2}}}
sources:
  dcgm:
    watch: {maxKeepAge: 10m, maxKeepSamples: 0}
    detectBindUnbind: {enabled: false, pollInterval: 1s}
server: {maxConcurrentScrapes: 16}
"#,
    r#"version: 2
metrics:
  fields:
    - {name: DCGM_FI_DEV_GPU_TEMP, prometheusType: gauge, help: GPU temperature.}
"#,
    "version: 2\nmetrics: {file: COUNTERS}\ncollections:\n  - {name: all, every: 1s, metrics: {include: ['*']}}\n",
    r#"version: 1
metrics:
  file: COUNTERS
collection:
  interval: 30s
  retention: {maxAge: 10m, maxSamples: 0}
  watchGroups:
    - name: fast
      interval: 5s
      fields: [DCGM_FI_DEV_GPU_*]
      retention: {maxAge: 0s, maxSamples: 2}
sources: {dcgm: {detectBindUnbind: {enabled: true, pollInterval: 1s}}}
server: {maxConcurrentScrapes: 4}
"#,
    "version: 1\nmetrics: {file: COUNTERS}\n",
    "version: 1\nmetrics:\n  fields: [{name: DCGM_FI_DEV_GPU_TEMP, prometheusType: gauge, help: t}]\ncollection: {interval: 1s}\n",
];

#[test]
fn each_example_starts_the_exporter() {
    for text in EXAMPLES {
        let scratch = Scratch::new();
        let mut exporter = Exporter::start(&mut exporter_with(&scratch, text));
        let page = exporter.page();
        assert!(page.contains("DCGM_FI_DEV_GPU_TEMP{gpu=\"0\"") && page.contains("dcgm_exporter_state{"), "{page}");
        assert_eq!(page.contains("DCGM_FI_DEV_SM_CLOCK{"), text.contains("COUNTERS"), "{page}");
        assert!(!exporter.log().contains("level=ERROR"), "{}", exporter.log());
    }
    // Metrics of the exporter alone; the counters file is the default one or is given.
    let scratch = Scratch::new();
    let mut command = exporter_with(&scratch, "version: 2\nmetrics: {enableExporterMetrics: true}\n");
    let page = Exporter::start(command.arg("-f").arg(scratch.path("counters.csv"))).page();
    assert!(page.contains("DCGM_FI_DEV_GPU_TEMP{"), "{page}");
}

/// What is shipped, without the # before its settings.
#[test]
fn the_shipped_example_has_every_key_and_takes_effect() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/config.yaml");
    let shipped = std::fs::read_to_string(shipped).unwrap();
    assert!(shipped.lines().all(|line| line.is_empty() || line.starts_with('#') || line == "version: 2"), "{shipped}");
    // A setting is indented by an even number of blanks, prose by one.
    let is_prose = |line: &str| line == "#" || line.starts_with("# ") && !line.starts_with("#  ");
    let settings = shipped.lines().filter(|line| !is_prose(line));
    let settings: Vec<&str> = settings.map(|line| line.strip_prefix('#').unwrap_or(line)).collect();
    // The keys that each map expects instead of a wrong one.
    let wrong = "version: 2\nz: 1\nmetrics: {z: 1, fields: [{z: 1}]}\nserver: {z: 1}\n\
                 collections: [{z: 1, metrics: {z: 1}, sources: {z: 1, dcgm: {z: 1, watch: {z: 1}}}}]\n\
                 sources: {z: 1, dcgm: {z: 1, watch: {z: 1}, detectBindUnbind: {z: 1}}}\n";
    let (_, said) = refused(&mut exporter_with(&Scratch::new(), wrong));
    let expected: Vec<&str> =
        said.lines().filter_map(|line| Some(line.split_once("'z' is not a key of ")?.1)).collect();
    assert_eq!(expected.len(), 13, "{said}");
    for key in expected.iter().flat_map(|of_map| of_map.split_once("expected ").unwrap().1.trim_end().split(", ")) {
        let is_there = |line: &&str| line.trim_start_matches([' ', '-']).starts_with(&format!("{key}:"));
        assert!(settings.iter().any(is_there), "{key}");
    }

    let scratch = Scratch::new();
    let place_of = |name: &str| settings.iter().position(|line| line.starts_with(&format!("  {name}:"))).unwrap();
    let (file, rows, end) = (place_of("file"), place_of("fields"), place_of("enableExporterMetrics"));
    let with_file = [&settings[..rows], &settings[end..]].concat().join("\n");
    let with_file = with_file.replace("/etc/dcgm-exporter/default-counters.csv", "COUNTERS");
    let with_rows = [&settings[..file], &settings[rows..]].concat().join("\n");
    for (text, rows) in [(with_file, "3 rows"), (with_rows, "2 rows")] {
        let output = exporter_with(&scratch, &text).arg("--check=json").output().unwrap();
        let report = String::from_utf8(output.stdout).unwrap();
        for part in ["config.yaml, interval 30s, temperatures 5s", rows] {
            assert!(report.contains(part), "{part}: {report}");
        }
        let page = Exporter::start(&mut exporter_with(&scratch, &text)).page();
        assert!(page.contains("DCGM_FI_DEV_GPU_TEMP{gpu=\"0\"") && page.contains("DCGM_FI_DEV_SM_CLOCK{"), "{page}");
    }
}

#[test]
fn rows_of_the_file_are_those_of_the_page() {
    let scratch = Scratch::new();
    let text = "version: 2\nmetrics:\n  fields:\n    - {name: ' DCGM_FI_DEV_SM_CLOCK ', prometheusType: counter, help: 'a, \"b\"'}\n    \
                - {name: DCGM_FI_NOPE, prometheusType: gauge, help: n}\n";
    let mut exporter = Exporter::start(&mut exporter_with(&scratch, text));
    let page = exporter.page();
    assert!(page.contains("# HELP DCGM_FI_DEV_SM_CLOCK a, \"b\"\n# TYPE DCGM_FI_DEV_SM_CLOCK counter\n"), "{page}");
    assert!(!page.contains("GPU_TEMP"), "{page}");
    assert!(
        exporter.log().contains("config.yaml:5: left out: there is no DCGM field 'DCGM_FI_NOPE'"),
        "{}",
        exporter.log()
    );
    let output = exporter_with(&scratch, text).arg("--check-counters").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("config.yaml:5: error: ") && said.ends_with("config.yaml: 1 rows can be used\n"), "{said}");
}

#[test]
fn what_is_wrong_ends_the_start_with_its_place() {
    let scratch = Scratch::new();
    for (text, parts) in [
        (
            "version: 2\nmetrics: {files: x}\nserver: {max: 1}\n",
            &["config.yaml:2:11: 'files'", "config.yaml:3:10: 'max'"][..],
        ),
        ("version: 2\nkubernetes: {}\n", &["config.yaml:2:1: 'kubernetes' is for Kubernetes", "bare metal"]),
        (
            "version: 2\nmetrics: {file: COUNTERS}\ncollections:\n  - {name: a, every: 1s, metrics: {include: [NOPE_*]}}\n",
            &["config.yaml:4:5: collection 'a' (NOPE_*) matches no field of the counters", "counters.csv"],
        ),
        (
            "version: 1\nmetrics: {file: COUNTERS}\ncollection:\n  watchGroups:\n    - {name: a, interval: 1s, fields: ['*TEMP']}\n    \
             - {name: b, interval: 2s, fields: [DCGM_FI_DEV_*]}\n",
            &["config.yaml:6:7: DCGM_FI_DEV_GPU_TEMP is in two collections, 'a' (line 5) and 'b'"],
        ),
        ("version: 2\nmetrics: {file: /nowhere.csv}\n", &["/nowhere.csv: No such file"]),
        (
            "version: 2\nmetrics: {fields: [{name: X, prometheusType: gauge, help: h}]}\n",
            &["config.yaml:2: there is no DCGM field 'X'"],
        ),
    ] {
        refuses(&mut exporter_with(&scratch, text), parts);
    }
}

#[test]
fn odd_files_are_refused_at_once() {
    let scratch = Scratch::new();
    let with = |path: &Path| {
        let mut command = exporter();
        command.arg("--config-file").arg(path);
        command
    };
    let start = Instant::now();
    for (bytes, part) in [
        (b"".to_vec(), "odd:1:1: version is missing"),
        (vec![b'x'; 2 << 20], "odd: longer than 1048576 bytes"),
        (format!("version: 2\nserver: {}", "[".repeat(1 << 19)).into_bytes(), "odd:2:"),
        (format!("version: 2\nserver: {}", "{a: ".repeat(1 << 17)).into_bytes(), "odd:2:"),
        (b"version: 2\n\xff\xfe\n".to_vec(), "odd:2:1: byte 0xff is not UTF-8"),
        (b"v\0e\0r\0".to_vec(), "odd:1:2: a NUL byte"),
        (b"version: 2\nmetrics:\n\tfile: x\n".to_vec(), "odd:3:"),
        (b"version: 2\nserver: &a [*a]\n".to_vec(), "odd:2:"),
        (b"a: &a [x, x, x, x, x, x, x, x, x, x]\n".repeat(2), "is given twice"),
        (b"version: 2\nmetrics: {file: \"/a\\0b\"}\n".to_vec(), "cannot read counters file"),
    ] {
        refuses(&mut with(&scratch.write("odd", bytes)), &[part]);
    }
    let fifo = scratch.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    refuses(&mut with(&fifo), &["--config-file: cannot read", "fifo: a FIFO, not a regular file"]);
    refuses(&mut with(&scratch.path("")), &["a directory, not a regular file"]);
    refuses(&mut with(Path::new("/dev/zero")), &["/dev/zero: a device, not a regular file"]);
    let (one, other) = (scratch.path("one"), scratch.path("other"));
    std::os::unix::fs::symlink(&one, &other).unwrap();
    std::os::unix::fs::symlink(&other, &one).unwrap();
    refuses(&mut with(&one), &["one: ", "symbolic links"]);
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
}

/// Collections at 100 ms and at 6 s, as 1 s and a minute would be.
#[test]
fn slow_fields_are_polled_slowly_and_never_dropped() {
    let scratch = Scratch::new();
    let text = "version: 2\nmetrics: {file: COUNTERS}\ncollections:\n  - {name: rest, every: 100ms, metrics: {include: ['*']}}\n  \
                - {name: slow, every: 6s, metrics: {include: [DCGM_FI_DEV_SM_CLOCK, DCGM_FI_PROF_*]}}\n";
    let mut exporter = Exporter::start(&mut exporter_with(&scratch, text));
    let names = ["DCGM_FI_DEV_GPU_TEMP{", "DCGM_FI_DEV_SM_CLOCK{", "DCGM_FI_PROF_GR_ENGINE_ACTIVE{"];
    exporter.page_with("all fields have a sample", |page| names.iter().all(|name| page.contains(name)));
    let polls = |field: &str| stats(&scratch)["polls"][field].as_u64().unwrap();
    exporter.until("the first two samples are there", |_| (polls("100") == 2).then_some(()));
    let (start, fast) = (Instant::now(), polls("150"));
    while polls("100") < 4 {
        let page = exporter.get("/metrics").body;
        for name in names {
            assert!(page.contains(name), "{name} {:?}: {page}", start.elapsed());
        }
        assert!(is_in_state(&page, "running"), "{page}");
        assert!(start.elapsed() < PATIENCE, "{}", stats(&scratch));
        std::thread::sleep(Duration::from_millis(20));
    }
    // Twice six seconds, less a look's delay; on a busy machine more.
    assert!(start.elapsed() > Duration::from_millis(11_500), "{:?}", start.elapsed());
    assert_eq!((polls("100"), polls("1001")), (4, 4), "{}", stats(&scratch));
    assert!(polls("150") - fast > 50, "{}", stats(&scratch));
    let page = exporter.page();
    assert!(page.contains("dcgm_exporter_profiling_rewatches_total 0\n"), "{page}");
    assert!(
        !exporter.log().contains("no longer updated") && !exporter.log().contains("no new samples"),
        "{}",
        exporter.log()
    );
    assert_eq!(stats(&scratch)["violations"], json!([]));
}

/// Without a collection for the rest it has the collect interval; the fast ones decide how often collections come.
#[test]
fn a_fast_collection_does_not_make_the_rest_faster() {
    let scratch = Scratch::new();
    let text = "version: 1\nmetrics: {file: COUNTERS}\ncollection:\n  interval: 1m\n  watchGroups:\n    - {name: fast, interval: \
                100ms, fields: ['*_TEMP']}\n";
    let mut exporter = Exporter::start(&mut exporter_with(&scratch, text));
    exporter.page();
    let polls = |field: &str| stats(&scratch)["polls"][field].as_u64().unwrap_or(0);
    exporter.until("the fast field has been polled often", |_| (polls("150") >= 30).then_some(()));
    assert_eq!((polls("100"), polls("1001")), (2, 2), "{}", stats(&scratch));
    assert!(exporter.page().contains("DCGM_FI_DEV_SM_CLOCK{"));
    // A flag counts before the file.
    let mut command = exporter_with(&scratch, text);
    let mut exporter = Exporter::start(command.args(["-c", "100ms"]));
    exporter.page();
    exporter.until("the rest is polled often, too", |_| (polls("100") >= 10).then_some(()));
}

#[test]
fn a_host_engine_polls_on_its_own_clock() {
    let node = Node::new(gpu());
    let (_engine, address) = node.host_engine();
    let text = "version: 1\nmetrics: {file: COUNTERS}\ncollection:\n  interval: 100ms\n  watchGroups:\n    - {name: slow, interval: \
                30s, fields: ['*_CLOCK']}\n";
    let mut command = exporter_with(&node.scratch, text);
    let mut exporter = Exporter::start(command.args(["-r", &address]));
    exporter.page_with("both fields are there", |page| {
        page.contains("DCGM_FI_DEV_GPU_TEMP{") && page.contains("DCGM_FI_DEV_SM_CLOCK{")
    });
    let page = after_collections(&mut exporter, 20);
    assert!(page.contains("DCGM_FI_DEV_SM_CLOCK{") && is_in_state(&page, "running"), "{page}");
}

fn reloads(page: &str, outcome: &str) -> f64 {
    value(page, &["dcgm_exporter_reloads_total{", outcome]).unwrap()
}

#[test]
fn the_file_is_read_again_when_it_changes() {
    let scratch = Scratch::new();
    let mut exporter = Exporter::start(&mut exporter_with(&scratch, "version: 2\nmetrics: {file: COUNTERS}\n"));
    exporter.page_with("there is a clock", |page| page.contains("DCGM_FI_DEV_SM_CLOCK{"));
    // Another interval: it shows by the collections.
    let fast =
        "version: 2\nmetrics: {file: COUNTERS}\ncollections: [{name: a, every: 100ms, metrics: {include: ['*']}}]\n";
    scratch.write("config.yaml", named(&scratch, fast));
    exporter.page_with("it has been taken", |page| reloads(page, "taken") == 1.0);
    after_collections(&mut exporter, 10);
    // A wrong one: everything stays.
    scratch.write("config.yaml", "version: 2\nmetrics: {file: x}\nmetrics: {file: y}\n");
    let page = exporter.page_with("it has been refused", |page| reloads(page, "refused") == 1.0);
    assert!(page.contains("DCGM_FI_DEV_SM_CLOCK{"), "{page}");
    after_collections(&mut exporter, 10);
    let log = exporter.log();
    assert!(log.contains("config.yaml:3:1: 'metrics' is given twice; the first is in line 2"), "{log}");
    assert_eq!(log.matches("the old settings and rows stay in force").count(), 1, "{log}");
    // Another counters file, which is not there yet, and is monitored from now on.
    let other = scratch.path("other.csv");
    scratch.write("config.yaml", format!("version: 2\nmetrics: {{file: {}}}\n", other.display()));
    exporter.page_with("it has been refused, too", |page| reloads(page, "refused") == 2.0);
    scratch.write("other.csv", GPU_TEMP);
    let without = |page: &str| page.contains("DCGM_FI_DEV_GPU_TEMP{") && !page.contains("DCGM_FI_DEV_SM_CLOCK{");
    exporter.page_with("the other file is used", without);
    scratch.write("other.csv", CLOCK);
    exporter.page_with("it has changed", |page| !page.contains("GPU_TEMP{") && page.contains("DCGM_FI_DEV_SM_CLOCK{"));
    // Rows in the file itself, and a change of a counters file that nobody uses.
    let rows = "version: 2\nmetrics: {fields: [{name: DCGM_FI_DEV_GPU_TEMP, prometheusType: untyped, help: t}]}\n";
    scratch.write("config.yaml", rows);
    exporter
        .page_with("its rows are used", |page| page.contains("# TYPE DCGM_FI_DEV_GPU_TEMP untyped\n") && without(page));
}

/// Watches that are made anew lose samples: a profiling value needs two.
#[test]
fn another_interval_keeps_all_watches() {
    let scratch = Scratch::new();
    let text = |interval| format!("version: 1\nmetrics: {{file: COUNTERS}}\ncollection: {{interval: {interval}}}\n");
    let mut exporter = Exporter::start(&mut exporter_with(&scratch, &text("10m")));
    exporter.page_with("it collects", |page| page.contains("DCGM_FI_DEV_SM_CLOCK{"));
    exporter.page_with("the first two collections are over", |page| collections(page) >= 2.0);
    let calls = || {
        let calls = stats(&scratch)["calls"].clone();
        ["dcgmUnwatchFields", "dcgmGroupCreate", "dcgmFieldGroupCreate"].map(|name| calls[name].as_u64().unwrap_or(0))
    };
    let before = calls();
    scratch.write("config.yaml", named(&scratch, &text("100ms")));
    // Ten minutes are not waited for.
    exporter.page_with("it collects at the new interval", |page| collections(page) >= 10.0);
    assert_eq!(calls(), before);
    scratch.write("config.yaml", named(&scratch, &text("10m")));
    exporter.page_with("it has been taken", |page| reloads(page, "taken") == 2.0);
}

#[test]
fn a_file_that_is_gone_changes_nothing() {
    let scratch = Scratch::new();
    let text =
        "version: 2\nmetrics: {file: COUNTERS}\ncollections: [{name: a, every: 100ms, metrics: {include: ['*']}}]\n";
    let mut exporter = Exporter::start(&mut exporter_with(&scratch, text));
    exporter.page();
    std::fs::remove_file(scratch.path("config.yaml")).unwrap();
    let page = after_collections(&mut exporter, 15);
    assert_eq!((reloads(&page, "taken"), reloads(&page, "refused")), (0.0, 0.0));
    exporter.signal(Signal::HUP);
    exporter.page_with("it cannot be read", |page| reloads(page, "refused") == 1.0);
    assert!(exporter.log().contains("cannot read configuration file"), "{}", exporter.log());
    // A FIFO and a directory in its place hold nothing up.
    assert!(Command::new("mkfifo").arg(scratch.path("config.yaml")).status().unwrap().success());
    exporter.page_with("the FIFO is refused", |page| reloads(page, "refused") >= 2.0);
    std::fs::remove_file(scratch.path("config.yaml")).unwrap();
    std::fs::create_dir(scratch.path("config.yaml")).unwrap();
    exporter.page_with("the directory is refused", |page| reloads(page, "refused") >= 3.0);
    std::fs::remove_dir(scratch.path("config.yaml")).unwrap();
    scratch.write("config.yaml", named(&scratch, text));
    exporter.page_with("it is back", |page| reloads(page, "taken") == 1.0);
    after_collections(&mut exporter, 5);
    assert!(exporter.page().contains("DCGM_FI_DEV_SM_CLOCK{"));
}

/// The unit changes directory nowhere, but an engine may.
#[test]
fn relative_paths_stay_what_they_were() {
    let scratch = Scratch::new();
    let mut command = exporter_with(&scratch, "version: 2\nmetrics: {file: counters.csv}\n");
    let mut exporter = Exporter::start(command.current_dir(scratch.path("")));
    exporter.page();
    exporter.signal(Signal::HUP);
    exporter.page_with("it is read again", |page| reloads(page, "taken") == 1.0);
    let line = exporter.until("it is logged", |exporter| {
        exporter.log().lines().find(|line| line.contains("were read again")).map(str::to_owned)
    });
    assert!(line.contains("changed=false"), "{line}");
}

#[test]
fn the_checks_report_the_file() {
    let scratch = Scratch::new();
    let run = |text: &str| {
        let output = exporter_with(&scratch, text).arg("--check=json").output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code().unwrap(), report["answers"].as_array().unwrap().clone())
    };
    let has = |answers: &[Value], question: &str, status: &str, part: &str| {
        let mut of_question =
            answers.iter().filter(|answer| answer["question"] == question && answer["status"] == status);
        assert!(of_question.any(|answer| answer["found"].as_str().unwrap().contains(part)), "{part}: {answers:#?}");
    };
    let (_, answers) = run(EXAMPLES[0]);
    has(&answers, "configuration file", "ok", "config.yaml, interval 30s, fast-thermals 5s");
    has(&answers, "counters file", "ok", "counters.csv, 3 rows");
    let (status, answers) = run("version: 2\nserver: {a: 1}\nmetrics: {b: 2}\n");
    assert_eq!(status, 2);
    has(&answers, "settings", "fail", "config.yaml:2:10: 'a'");
    has(&answers, "settings", "fail", "config.yaml:3:11: 'b'");
    let conflict =
        "version: 1\nmetrics: {file: COUNTERS}\ncollection: {watchGroups: [{name: a, interval: 1s, fields: [X]}]}\n";
    let (status, answers) = run(conflict);
    assert_eq!(status, 2);
    has(&answers, "counters file", "fail", "config.yaml:3:28: collection 'a' (X) matches no field");
    let output = exporter_with(&scratch, conflict).arg("--check-counters").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stdout).unwrap().contains("config.yaml:3:28: "));
    let output = exporter_with(&scratch, "version: 9\n").arg("--check-counters").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("config.yaml:1:10: version 9 is not known"));
}

#[test]
fn once_reads_the_file_too() {
    let scratch = Scratch::new();
    let text = "version: 2\nmetrics: {file: COUNTERS}\ncollections: [{name: slow, every: 1h, metrics: {include: [DCGM_FI_PROF_*]}}]\n";
    let output = exporter_with(&scratch, text).arg("--once").output().unwrap();
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(page.contains("DCGM_FI_PROF_GR_ENGINE_ACTIVE{") && page.contains("DCGM_FI_DEV_GPU_TEMP{"), "{page}");
}
