//! OpenMetrics as others read it: the strict parser of Prometheus' Python client, and a real Prometheus that prefers it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use dcgm_exporter::exposition::openmetrics::convert;

use crate::common::{Exporter, Scratch, exporter, request};
use crate::{Database, INTERVAL, any_page, scenario_with_everything, scrape_every_second};

/// Debian's Python has Debian's python3-prometheus-client, whatever `python3` on the path is.
const PYTHON: &str = "/usr/bin/python3";

/// Reads pages, each after a line with its length in bytes, and prints the number of samples of each.
const PARSER: &str = r"
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
while line := sys.stdin.buffer.readline():
    page = sys.stdin.buffer.read(int(line)).decode()
    try:
        print(sum(len(family.samples) for family in text_string_to_metric_families(page)))
    except Exception as error:
        sys.exit(f'{error!r} in:\n{page}')
";

/// The number of samples that the parser finds on each page.
fn parse(pages: &[String]) -> Vec<usize> {
    let mut python = Command::new(PYTHON)
        .args(["-c", PARSER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python3 is installed");
    let mut stdin = python.stdin.take().unwrap();
    let text: String = pages.iter().map(|page| format!("{}\n{page}", page.len())).collect();
    // Where the parser gives up, what it printed says more than a broken pipe.
    let writer = std::thread::spawn(move || drop(stdin.write_all(text.as_bytes())));
    let output = python.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|count| count.parse().unwrap()).collect()
}

fn samples(page: &str) -> usize {
    page.split('\n').filter(|line| !line.is_empty() && !line.starts_with("# ")).count()
}

fn serve(counters: &str, arguments: &[&str]) -> (Scratch, Exporter) {
    let scratch = Scratch::new();
    let counters = Path::new(env!("CARGO_MANIFEST_DIR")).join("counters").join(counters);
    let plan = scratch.write("scenario.json", scenario_with_everything().to_string());
    let mut exporter = Exporter::start(
        exporter().env("DCGM_SIMULATOR_SCENARIO", plan).args(["-c", INTERVAL, "-f"]).arg(counters).args(arguments),
    );
    exporter.page();
    (scratch, exporter)
}

#[test]
#[ignore = "needs python3-prometheus-client: make e2e"]
fn the_strict_parser_reads_every_shipped_counters_file() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("counters");
    let mut pages = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let (_scratch, exporter) = serve(&file, &[]);
        let ask = "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text;version=1.0.0\r\n\r\n";
        let response = request(exporter.port, ask).unwrap();
        assert!(response.header("content-type").unwrap().starts_with("application/openmetrics-text"), "{file}");
        pages.push(response.body);
    }
    let expected: Vec<usize> = pages.iter().map(|page| samples(page)).collect();
    assert_eq!(parse(&pages), expected);
    assert!(expected.len() > 5 && expected.iter().all(|count| *count > 50), "{expected:?}");
    println!("{} pages with {expected:?} samples", pages.len());
}

#[test]
#[ignore = "needs python3-prometheus-client: make e2e"]
fn the_strict_parser_reads_any_page() {
    let pages: Vec<String> = (0..2000)
        .map(|seed| {
            let mut out = Vec::new();
            convert(any_page::page(seed).as_bytes(), &mut out);
            String::from_utf8(out).unwrap()
        })
        .collect();
    assert_eq!(parse(&pages), pages.iter().map(|page| samples(page)).collect::<Vec<_>>());
    // What the parser is for: the page as it is would not do.
    let plain = "# TYPE a counter\na 1\n# EOF\n".to_owned();
    assert!(std::panic::catch_unwind(|| parse(&[plain])).is_err());
}

/// Prometheus prefers OpenMetrics, so with `always` it gets it; what it stores is the same but for the types.
#[test]
#[ignore = "needs prometheus: make e2e"]
fn prometheus_stores_the_same_from_either_format() {
    for (policy, types) in [("auto", ["counter", "counter"]), ("always", ["unknown", "counter"])] {
        let (scratch, exporter) = serve("default-counters.csv", &["--openmetrics", policy]);
        let mut database = Database::prometheus(&scratch, &scrape_every_second(&scratch, exporter.port));
        for series in
            ["DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "dcgm_exporter_collections_total", "DCGM_FI_DEV_GPU_TEMP"]
        {
            let on_page = exporter.get("/metrics").body;
            let count = on_page.lines().filter(|line| line.split(['{', ' ']).next() == Some(series)).count();
            assert!(count > 0, "{series}");
            database.until(&format!("{policy}: {series} is there"), |database| database.query(series).len() == count);
        }
        // The name under which a counter is known differs: OpenMetrics names it without _total.
        let own = if policy == "auto" { "dcgm_exporter_collections_total" } else { "dcgm_exporter_collections" };
        for (metric, kind) in ["DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", own].into_iter().zip(types) {
            let path = format!("/api/v1/targets/metadata?metric={metric}");
            database.until(&format!("{policy}: {metric} is {kind}"), |database| {
                let ask = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
                let Ok(response) = request(database.port, &ask) else { return false };
                let answer: serde_json::Value = serde_json::from_str(&response.body).unwrap_or_default();
                answer["data"][0]["type"] == kind
            });
        }
    }
}
