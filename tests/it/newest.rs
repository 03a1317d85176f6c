//! What NVIDIA's newest dcgm-exporter (4.8.3 and later) takes and does: its flags, its counters files.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dcgm_exporter::counters::{Counters, Source};
use dcgm_exporter::dcgm::bounds;
use dcgm_exporter::dcgm::fields::{Field, ValueType, by_name};
use dcgm_exporter::metrics::sources;
use serde_json::{Value, json};

use crate::common::*;
use crate::node::Node;

fn start(scratch: &Scratch, scenario: &Value, arguments: &[&str]) -> Exporter {
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
        "--enable-exporter-metrics=false",
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
    assert!(log.contains("--container-runtime-socket has no effect: it needs --container-labels"), "{log}");
}

#[test]
fn the_peers_defaults_are_no_warning() {
    let scratch = Scratch::new();
    let flags = [
        "--watch-max-keep-age=10m0s",
        "--watch-max-keep-samples=0",
        "--max-concurrent-scrapes=16",
        "--enable-exporter-metrics",
    ];
    let mut exporter = start(&scratch, &scenario(&[0]), &flags);
    assert!(exporter.page().contains("dcgm_exporter_state{"));
    assert!(!exporter.log().contains("has no effect"), "{}", exporter.log());
    let mut without = start(&scratch, &scenario(&[0]), &["--enable-exporter-metrics", "--disable-exporter-metrics"]);
    assert!(!without.page().contains("dcgm_exporter_state{"));
}

#[test]
fn health_may_require_a_gpu() {
    let scratch = Scratch::new();
    let health = |exporter: &mut Exporter| {
        exporter.page();
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
    plan["latest_values"][0]["fields"]["100"] = json!({ "type": "int64", "value": "1980" });
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

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn list(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().map(|item| item.as_str().unwrap()).collect()
}

/// What GPU 0 says of a field, in DCGM's own unit: a number of the field's own, so that one cannot pass for another.
fn reading(field: &Field) -> Value {
    let value = match field.value_type {
        ValueType::Double => return json!({ "type": "double", "value": format!("0.{:04}", field.id) }),
        ValueType::Text => return json!({ "type": "string", "value": format!("text-{}", field.id) }),
        // A code that there is.
        _ if field.id == 230 => 31,
        _ => match 1000 + i64::from(field.id) {
            value if bounds::can_be(field.id, value as f64) => value,
            _ => i64::from(field.id % 90),
        },
    };
    json!({ "type": "int64", "value": value.to_string() })
}

/// One GPU that has a value for every field of a counters file.
fn gpu_with(file: &Path) -> Value {
    let mut plan = scenario(&[0]);
    let counters = Counters::read(file, &sources::names()).unwrap();
    let mut profiling = Vec::new();
    for row in &counters.rows {
        if let Source::Field(field) = row.source {
            let classic = field.classic.map_or(field.id, |classic| classic.id);
            plan["latest_values"][0]["fields"][classic.to_string()] = reading(&field);
            profiling.extend((1000..1100).contains(&field.id).then_some(field.id));
        }
    }
    profiling.sort_unstable();
    profiling.dedup();
    plan["supported_profiling_fields"] = json!(profiling);
    plan
}

/// The first page that has samples of all these names, or after a while the last one.
fn page_with_all(exporter: &mut Exporter, names: &[&str]) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        let page = exporter.page();
        if names.iter().all(|name| page.contains(&format!("\n{name}{{"))) || Instant::now() > end {
            return page;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Every consumer's names, types, labels and units, on the page of the file that is meant for it.
#[test]
fn consumers_find_what_they_read() {
    let mut consumers = 0;
    for entry in std::fs::read_dir(project("tests/consumers")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let consumer: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let file = project("counters").join(consumer["counters"].as_str().unwrap());
        let scratch = Scratch::new();
        let mut command = exporter();
        let plan = scratch.write("scenario.json", gpu_with(&file).to_string());
        command.env("DCGM_SIMULATOR_SCENARIO", plan).env("NODE_NAME", "node7").arg("-f").arg(&file);
        command.args(list(&consumer["arguments"]));
        for (name, jobs) in consumer["jobs"].as_object().into_iter().flatten() {
            scratch.write(&format!("jobs/{name}"), jobs.as_str().unwrap());
            command.arg("--hpc-job-mapping-dir").arg(scratch.path("jobs"));
        }
        let mut exporter = Exporter::start(&mut command);
        let metrics = consumer["metrics"].as_object().unwrap();
        let names: Vec<&str> = metrics.keys().map(String::as_str).collect();
        let page = page_with_all(&mut exporter, &names);
        for (name, wanted) in metrics {
            let about = format!("{}: {name}", path.display());
            let sample = page.lines().find(|line| line.starts_with(&format!("{name}{{")));
            let sample = sample.unwrap_or_else(|| panic!("{about} is missing:\n{page}\n{}", exporter.log()));
            for label in list(&consumer["labels"]).into_iter().chain(list(&wanted["labels"])) {
                let has = sample.contains(&format!("{{{label}=\"")) || sample.contains(&format!(",{label}=\""));
                assert!(has, "{about} lacks {label}: {sample}");
            }
            let kind = page.lines().find_map(|line| line.strip_prefix(&format!("# TYPE {name} "))).unwrap();
            assert!(list(&wanted["types"]).contains(&kind), "{about} is a {kind}");
            // The units are DCGM's own, so its numbers are to stand on the page as they are.
            if let (Some(unit), Some(field)) = (wanted["unit"].as_str(), by_name(name)) {
                let reading = reading(&field);
                let value: f64 = sample.rsplit(' ').next().unwrap().parse().unwrap();
                assert_eq!(value, reading["value"].as_str().unwrap().parse::<f64>().unwrap(), "{about} in {unit}");
            }
        }
        consumers += 1;
    }
    assert!(consumers >= 15, "{consumers}");
}

/// Counters files that others publish, by their rows and by the forms that they are written in.
#[test]
fn public_counters_files_start_the_exporter() {
    let files: Value =
        serde_json::from_slice(&std::fs::read(project("tests/consumers/files/public.json")).unwrap()).unwrap();
    let files = files.as_array().unwrap();
    assert!(files.len() >= 11);
    for file in files {
        let forms = list(&file["forms"]);
        let (names, left_out) = (list(&file["names"]), list(&file["left_out"]));
        let mut text = String::from("# Format\n# Name, type, help\n");
        for name in names.iter().chain(&left_out) {
            let kind = if name.ends_with("_TOTAL") || name.ends_with("VIOLATION") { "counter" } else { "gauge" };
            let help = if forms.contains(&"empty help") { "" } else { "a help text." };
            let row = match forms.contains(&"padded") {
                true => format!("{name},   {kind},   {help}\n"),
                false => format!("{name}, {kind}, {help}\n"),
            };
            text.push_str(&row);
            if forms.contains(&"duplicates") && name.ends_with("BYTES") {
                text.push_str(&row);
            }
            if forms.contains(&"comments") {
                text.push_str("  # indented, with, commas\n\n");
            }
        }
        text.push_str("DCGM_FI_DRIVER_VERSION, label, Driver Version\n");
        if forms.contains(&"trailing comma") {
            text.push_str("DCGM_FI_PROCESS_NAME, label,\n");
        }
        let scratch = Scratch::new();
        let counters = scratch.write("counters.csv", text);
        let plan = scratch.write("scenario.json", gpu_with(&counters).to_string());
        let mut command = exporter();
        let mut exporter = Exporter::start(command.env("DCGM_SIMULATOR_SCENARIO", plan).arg("-f").arg(&counters));
        let of_gpus: Vec<&str> = names.iter().copied().filter(|name| !name.contains("NVSWITCH")).collect();
        let page = page_with_all(&mut exporter, &of_gpus);
        for name in of_gpus {
            assert!(page.contains(&format!("\n{name}{{")), "{}: {name}\n{page}\n{}", file["file"], exporter.log());
        }
        for name in left_out {
            assert!(!page.contains(name) && exporter.log().contains(name), "{}: {name}", file["file"]);
        }
    }
}

#[test]
fn every_shipped_file_starts_the_exporter() {
    for file in std::fs::read_dir(project("counters")).unwrap().map(|entry| entry.unwrap().path()) {
        let scratch = Scratch::new();
        let plan = scratch.write("scenario.json", gpu_with(&file).to_string());
        let mut command = exporter();
        let mut exporter = Exporter::start(command.env("DCGM_SIMULATOR_SCENARIO", plan).arg("-f").arg(&file));
        let page = exporter.page();
        assert!(
            page.lines().filter(|line| line.starts_with("DCGM_") || line.starts_with("dcgm_")).count() > 15,
            "{page}"
        );
        assert!(!exporter.log().contains("level=ERROR"), "{}: {}", file.display(), exporter.log());
    }
}

#[test]
fn base_units_are_converted_for_libraries_that_lack_them() {
    let scratch = Scratch::new();
    let mut plan = scenario(&[0]);
    plan["latest_values"][0]["fields"] = json!({
        "100": { "type": "int64", "value": "1980" },
        "156": { "type": "int64", "value": "5000" },
        "203": { "type": "int64", "value": "50" },
        "250": { "type": "int64", "value": "2" },
    });
    let plan = scratch.write("scenario.json", plan.to_string());
    let mut command = exporter();
    let file = project("counters/base-units.csv");
    let mut exporter = Exporter::start(command.env("DCGM_SIMULATOR_SCENARIO", plan).arg("-f").arg(file));
    let page = exporter.page();
    for (name, value) in [
        ("SM_CLOCK_HERTZ", "1980000000"),
        ("GPU_ENERGY_JOULES_TOTAL", "5"),
        ("GPU_UTIL_RATIO", "0.500000"),
        ("FB_CAPACITY_BYTES", "2097152"),
    ] {
        let sample = page.lines().find(|line| line.starts_with(&format!("DCGM_FI_DEV_{name}{{")));
        assert!(sample.is_some_and(|sample| sample.ends_with(&format!(" {value}"))), "{name}: {page}");
    }
}

#[test]
fn once_prints_the_page_and_leaves() {
    let scratch = Scratch::new();
    let plan = scratch.write("scenario.json", scenario(&[0, 1]).to_string());
    let counters = scratch.write("counters.csv", GPU_TEMP);
    let mut command = bare_exporter();
    command.env("DCGM_SIMULATOR_SCENARIO", plan).arg("--libdcgm").arg(simulator()).arg("-f").arg(counters);
    // An address that cannot be had does no harm: nothing is served.
    let output = command.args(["--once", "-a", "192.0.2.1:1"]).output().unwrap();
    let page = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{page}");
    check_page(&page).unwrap();
    for gpu in ["gpu=\"0\"", "gpu=\"1\""] {
        assert!(page.contains(&format!("DCGM_FI_DEV_GPU_TEMP{{{gpu}")), "{page}");
    }
    // Whatever node_exporter has, too, would cost its whole page in a textfile directory.
    let ours = |line: &str| {
        let name = line.trim_start_matches("# HELP ").trim_start_matches("# TYPE ");
        ["DCGM_", "dcgm_"].iter().any(|prefix| name.starts_with(prefix))
    };
    assert!(page.lines().all(ours) && page.contains("dcgm_exporter_entity_up{"), "{page}");
    assert!(!page.contains(" -0"), "{page}");
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(!log.contains("level=INFO"), "{log}");
}

#[test]
fn once_waits_for_profiling_values() {
    let file = project("counters/default-counters.csv");
    let scratch = Scratch::new();
    let plan = scratch.write("scenario.json", gpu_with(&file).to_string());
    let mut command = bare_exporter();
    command.env("DCGM_SIMULATOR_SCENARIO", plan).arg("--libdcgm").arg(simulator()).arg("-f").arg(file);
    let output = command.arg("--once").output().unwrap();
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(page.contains("DCGM_FI_PROF_GR_ENGINE_ACTIVE{"), "{page}");
    let output = command.arg("--once=300ms").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("no page within 300ms: a profiling field") && said.contains("--once=5s"), "{said}");
}

#[test]
fn once_says_why_there_is_no_page() {
    let scratch = Scratch::new();
    let mut command = bare_exporter();
    command.arg("--libdcgm").arg(simulator()).arg("-f").arg(scratch.write("counters.csv", GPU_TEMP));
    let address = format!("127.0.0.1:{}", free_port());
    let output = command.args(["--once=300ms", "-r", &address]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{said}");
    assert!(said.contains("no page within 300ms: ") && said.contains("connecting"), "{said}");
}

#[test]
fn fields_are_listed() {
    let listed = |arguments: &[&str]| {
        let output = bare_exporter().args(arguments).arg("--libdcgm").arg(simulator()).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let columns = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
        line.map(|line| line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>().join(" "))
    };
    let all = listed(&["--list-fields"]);
    for (name, expected) in [
        ("DCGM_FI_DEV_GPU_TEMP", "150 int64 Celsius gpu yes yes"),
        ("DCGM_FI_DEV_FB_USED_BYTES", "1627 int64 B compute_instance converted yes"),
        ("DCGM_FI_DEV_NVLINK_GET_STATE", "1508 int64 - link yes -"),
        ("DCGM_FI_DEV_NVLINK_THROUGHPUT_BYTES_PER_SECOND", "1648 int64 B/s gpu no no"),
    ] {
        assert_eq!(columns(&all, name).as_deref(), Some(expected), "{name}");
    }
    for arguments in [&["--list-fields", "gpu_temp"][..], &["--list-fields=*gpu_temp*"]] {
        let some = listed(arguments);
        assert!(
            some.lines().count() > 2 && some.lines().skip(1).all(|line| line.to_uppercase().contains("GPU_TEMP")),
            "{some}"
        );
    }
    let output = bare_exporter().args(["--list-fields", "gpu_tmep"]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("no field has a name like 'gpu_tmep'; give a part of a name"), "{said}");
    let output = bare_exporter().args(["--list-fields", "gpu_temp", "--libdcgm", "/nowhere.so"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && columns(&text, "DCGM_FI_DEV_GPU_TEMP").unwrap().ends_with("? unknown"),
        "{text}"
    );
    assert!(String::from_utf8(output.stderr).unwrap().contains("/nowhere.so"));
}

/// Whether the GPUs have a field is asked of the engine that the exporter would use, which has nothing of it afterwards.
#[test]
fn fields_of_these_gpus() {
    let mut plan = scenario(&[0, 1]);
    plan["replay"] = false.into();
    plan["supported_profiling_fields"] = json!([1001]);
    let node = Node::new(plan);
    let listed = |pattern: &str, arguments: &[&str]| {
        let mut command = bare_exporter();
        command.env("DCGM_SIMULATOR_SCENARIO", node.scratch.path("scenario.json"));
        command.env("DCGM_SIMULATOR_STATS", node.scratch.path("stats.json"));
        command.args(["--list-fields", pattern]).arg("--libdcgm").arg(simulator()).args(arguments);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let on_gpu = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
        line.split_whitespace().skip(6).collect::<Vec<_>>().join(" ")
    };
    let (text, said) = listed("", &[]);
    assert_eq!(said, "");
    let in_library = text.lines().skip(1).filter(|line| line.split_whitespace().nth(5) == Some("yes")).count();
    assert!(in_library > 900, "the session is over when the table is printed: {text}");
    for (name, expected) in [
        ("DCGM_FI_DEV_GPU_TEMP", "yes"),
        ("DCGM_FI_DEV_XID_ERRORS", "no data"),
        ("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "yes"),
        ("DCGM_FI_PROF_SM_ACTIVE", "no"),
        ("DCGM_FI_DEV_NVLINK_GET_STATE", "-"),
    ] {
        assert_eq!(on_gpu(&text, name), expected, "{name}: {text}");
    }
    // A host engine, whose other clients go on; and none.
    let (_engine, address) = node.host_engine();
    let (text, said) = listed("GPU_TEMP", &["-r", &address]);
    assert_eq!((on_gpu(&text, "DCGM_FI_DEV_GPU_TEMP"), said.as_str()), ("yes".to_owned(), ""));
    let stats = node.stats();
    let calls = |name: &str| stats["calls"][name].as_u64().unwrap_or(0);
    assert_eq!(calls("dcgmWatchFields"), calls("dcgmUnwatchFields"), "{stats}");
    assert_eq!(calls("dcgmGroupCreate"), calls("dcgmGroupDestroy"), "{stats}");
    let address = format!("127.0.0.1:{}", free_port());
    let (text, said) = listed("GPU_TEMP", &["-r", &address]);
    assert_eq!(on_gpu(&text, "DCGM_FI_DEV_GPU_TEMP"), "unknown");
    assert!(said.contains("fields marked unknown could not be read on the GPUs") && said.contains(&address), "{said}");
}
