//! Which client gets OpenMetrics, and that what it gets is legal to the letter.

use std::collections::{BTreeMap, HashSet};
use std::io::Read;

use dcgm_exporter::exposition::openmetrics::convert;

use crate::any_page;
use crate::common::*;

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A counter in old style, one that OpenMetrics knows as such, a gauge and a metric without a type.
const COUNTERS: &str = "DCGM_FI_DEV_GPU_TEMP,gauge,\"t in \"\"C\"\"\"\nDCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION, counter, e\n\
                        DCGM_FI_DEV_MEMORY_TEMP, untyped, m\n";

fn start(scratch: &Scratch, arguments: &[&str]) -> Exporter {
    let counters = scratch.write("counters.csv", COUNTERS);
    let mut plan = scenario(&[0, 1]);
    for gpu in plan["latest_values"].as_array_mut().unwrap() {
        gpu["fields"]["156"] = serde_json::json!({ "type": "int64", "value": "1000" });
        gpu["fields"]["140"] = serde_json::json!({ "type": "int64", "value": "40" });
    }
    let plan = scratch.write("scenario.json", plan.to_string());
    let mut exporter =
        Exporter::start(exporter().env("DCGM_SIMULATOR_SCENARIO", plan).args(arguments).arg("-f").arg(counters));
    exporter.page_with("there is a sample", |page| page.contains("DCGM_FI_DEV_MEMORY_TEMP{"));
    exporter
}

/// Asks for the page with these header lines. What comes as OpenMetrics has to be that.
fn get(exporter: &Exporter, lines: &[&str]) -> Response {
    ask(exporter, "GET", lines)
}

fn ask(exporter: &Exporter, method: &str, lines: &[&str]) -> Response {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    let mut response =
        request(exporter.port, &format!("{method} /metrics HTTP/1.1\r\nHost: x\r\n{lines}\r\n")).unwrap();
    if response.header("content-encoding") == Some("gzip") && method == "GET" {
        response.body.clear();
        flate2::read::GzDecoder::new(&response.bytes[..]).read_to_string(&mut response.body).unwrap();
    }
    if response.status == 200 && method == "GET" {
        match response.header("content-type").unwrap().starts_with("application/openmetrics-text") {
            true => drop(legal(&response.body).unwrap_or_else(|what| panic!("{what}, in:\n{}", response.body))),
            false => check_page(&response.body).unwrap(),
        }
    }
    response
}

fn content_type(exporter: &Exporter, accept: &str) -> String {
    let response = get(exporter, &[&format!("Accept: {accept}")]);
    assert_eq!((response.status, response.header("vary")), (200, Some("Accept, Accept-Encoding")), "{accept}");
    response.header("content-type").unwrap().to_owned()
}

/// What the clients of today send. First what each is answered by itself, then with --openmetrics always.
const CLIENTS: [(&str, &str, &str, &str); 5] = [
    (
        "Prometheus 2",
        "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
         text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        TEXT,
        OPEN_METRICS,
    ),
    (
        "Prometheus 3",
        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
         application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
         text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
        "text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8",
        "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8",
    ),
    ("vmagent", "text/plain;version=0.0.4;q=1,*/*;q=0.1", TEXT, TEXT),
    ("Datadog", "text/plain", TEXT, TEXT),
    (
        "Telegraf",
        "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,\
         text/plain;version=0.0.4;q=0.3",
        TEXT,
        TEXT,
    ),
];

#[test]
fn the_clients_of_today() {
    let scratch = Scratch::new();
    for policy in ["auto", "always", "never"] {
        let exporter = match policy {
            "auto" => start(&scratch, &[]),
            policy => start(&scratch, &["--openmetrics", policy]),
        };
        for (client, accept, auto, always) in CLIENTS {
            let expected = match policy {
                "always" => always,
                // Only OpenMetrics is forbidden.
                _ => auto,
            };
            assert_eq!(content_type(&exporter, accept), expected, "{client}, {policy}");
        }
        // One that is told to take OpenMetrics alone: Datadog with use_latest_spec, Prometheus with scrape_protocols.
        for accept in [
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text;version=1.0.0;q=0.6,*/*;q=0.5",
        ] {
            let expected = if policy == "never" { TEXT } else { OPEN_METRICS };
            assert_eq!(content_type(&exporter, accept), expected, "{accept}, {policy}");
        }
        assert_eq!(get(&exporter, &[]).header("content-type"), Some(TEXT), "{policy}");
    }
    let (_, message) = refused(exporter().args(["--openmetrics", "yes"]));
    assert!(message.contains("--openmetrics") && message.contains("auto, always or never"), "{message}");
}

#[test]
fn the_samples_are_those_of_the_plain_page() {
    let scratch = Scratch::new();
    let exporter = start(&scratch, &["-c", "1h", "--min-collect-interval", "1h"]);
    let samples =
        |text: &str| -> Vec<String> { text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect() };
    let plain = get(&exporter, &[]);
    let open = get(&exporter, &["Accept: application/openmetrics-text"]);
    assert_eq!(samples(&plain.body), samples(&open.body));
    let metrics = legal(&open.body).unwrap();
    for (name, kind) in [
        ("DCGM_FI_DEV_GPU_TEMP", "gauge"),
        ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "unknown"),
        ("DCGM_FI_DEV_MEMORY_TEMP", "unknown"),
        ("dcgm_exporter_collections", "counter"),
        ("process_cpu_seconds", "counter"),
        ("process_resident_memory_bytes", "gauge"),
    ] {
        assert_eq!(metrics.get(name).map(String::as_str), Some(kind), "{name}: {}", open.body);
    }
    for line in ["# HELP DCGM_FI_DEV_GPU_TEMP t in \\\"C\\\"", "# UNIT process_cpu_seconds seconds"] {
        assert!(open.body.lines().any(|found| found == line), "{line}: {}", open.body);
    }
    let version1 = get(&exporter, &["Accept: text/plain;version=1.0.0"]);
    assert_eq!(plain.body, version1.body);
}

#[test]
fn head_and_gzip_are_of_the_same_form() {
    let scratch = Scratch::new();
    let exporter = start(&scratch, &["-c", "1h", "--min-collect-interval", "1h"]);
    for accept in [
        "Accept: application/openmetrics-text",
        "Accept: text/plain;version=1.0.0;escaping=underscores",
        "Accept: text/plain",
    ] {
        for encoding in ["", "Accept-Encoding: gzip"] {
            let lines: Vec<&str> = [accept, encoding].into_iter().filter(|line| !line.is_empty()).collect();
            let (head, get) = (ask(&exporter, "HEAD", &lines), get(&exporter, &lines));
            let without_date = |response: &Response| -> Vec<String> {
                response.head.lines().filter(|line| !line.starts_with("Date:")).map(str::to_owned).collect()
            };
            assert_eq!(without_date(&head), without_date(&get), "{lines:?}");
            let is_compressed = get.header("content-encoding") == Some("gzip");
            // OpenMetrics is compressed at once; the plain page from the next collection on.
            assert_eq!(is_compressed, accept.contains("openmetrics") && !encoding.is_empty(), "{lines:?}");
        }
    }
    let options = ask(&exporter, "OPTIONS", &["Accept: application/openmetrics-text"]);
    assert_eq!((options.status, options.header("allow")), (204, Some("GET, HEAD, OPTIONS")));
    for path in ["/", "/health", "/nowhere"] {
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text\r\n\r\n");
        let response = request(exporter.port, &head).unwrap();
        assert!(!response.header("content-type").unwrap().contains("openmetrics"), "{path}: {response:?}");
    }
}

/// Whoever asks at whatever moment gets a page in one piece, and in time the newest.
#[test]
fn each_collection_is_seen_in_both_forms() {
    let scratch = Scratch::new();
    let mut exporter = start(&scratch, &["-c", "100"]);
    let collections = |text: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix("dcgm_exporter_collections_total "));
        line.expect("it is on the page").parse().unwrap()
    };
    let lines = ["Accept: application/openmetrics-text", "Accept-Encoding: gzip"];
    let mut last = 0;
    for _ in 0..200 {
        let before = collections(&exporter.get("/metrics").body);
        let open = collections(&get(&exporter, &lines).body);
        // A collection may end between the answer's decision and its sending.
        assert!(open + 1 >= before && open >= last, "{open} after {before} and {last}");
        last = open;
    }
    exporter
        .until("there are new pages", |exporter| (collections(&get(exporter, &lines).body) > last + 2).then_some(()));
}

#[test]
fn accept_headers_that_mean_harm_or_nothing() {
    let scratch = Scratch::new();
    let exporter = start(&scratch, &[]);
    const OM: &str = "application/openmetrics-text";
    for (lines, expected) in [
        (&["Accept: application/openmetrics-text;version=1.0.0;q=0"][..], TEXT),
        (&["Accept:"], TEXT),
        (&["Accept: "], TEXT),
        (&["Accept: application/openmetrics-text, text/plain"], TEXT),
        (&["Accept: APPLICATION/OPENMETRICS-TEXT; VERSION=1.0.0"], OPEN_METRICS),
        (&["accept:\tapplication/openmetrics-text ; version = \"1.0.0\" ; q = 1 "], OPEN_METRICS),
        (&["Accept: x/y;a=\"b, application/openmetrics-text\""], TEXT),
        (&["Accept: x/y;a=\"b, text/plain;q=1\", application/openmetrics-text"], OPEN_METRICS),
        (&["Accept: application/openmetrics-text", "Accept: text/plain;q=0.1"], TEXT),
        (&["Accept: text/html", "Accept: application/openmetrics-text;q=0.001"], OPEN_METRICS),
        (&["Accept: application/openmetrics-text; escaping=\"x\\\r"], ""),
        (&["Accept: application/openmetrics-text\u{fc}"], ""),
    ] {
        let response = get(&exporter, lines);
        match expected {
            "" => assert_eq!(response.status, 400, "{lines:?}"),
            _ => assert_eq!((response.status, response.header("content-type")), (200, Some(expected)), "{lines:?}"),
        }
    }
    // As much as fits into a head, then more.
    for part in ["application/openmetrics-text;q=0,", ",", "\"", "\\", "*/*;q=0.1,", ";"] {
        let response = get(&exporter, &[&format!("Accept: {}", part.repeat(7 * 1024 / part.len()))]);
        assert_eq!((response.status, response.header("content-type")), (200, Some(TEXT)), "{part}");
    }
    let many = vec![format!("Accept: {OM};q=0.5"); 90];
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(get(&exporter, &many).header("content-type"), Some(OPEN_METRICS));
    let long = format!("Accept: {}", "application/openmetrics-text,".repeat(100 * 1024 / 29));
    assert_eq!(get(&exporter, &[&long]).status, 431);
    assert!(exporter.get("/metrics").body.contains("\ndcgm_exporter_http_restarts_total 0\n"));
}

#[test]
fn the_reason_why_there_is_no_page_is_text() {
    let scratch = Scratch::new();
    let counters = scratch.write("counters.csv", GPU_TEMP);
    let mut plan = scenario(&[0]);
    let path = scratch.write("scenario.json", plan.to_string());
    let arguments = ["-c", "100", "--stale-after", "1s", "--openmetrics", "always", "-f"];
    let mut exporter = Exporter::start(exporter().env("DCGM_SIMULATOR_SCENARIO", path).args(arguments).arg(counters));
    exporter.page();
    let lines = ["Accept: application/openmetrics-text"];
    assert_eq!(get(&exporter, &lines).header("content-type"), Some(OPEN_METRICS));
    plan["faults"]["hang_ms"]["dcgmUpdateAllFields"] = 60_000.into();
    scratch.write("scenario.json", plan.to_string());
    let stale = exporter
        .until("the page is stale", |exporter| Some(get(exporter, &lines)).filter(|response| response.status == 503));
    assert_eq!(stale.header("content-type"), Some(TEXT), "{stale:?}");
    assert!(!stale.body.contains("# EOF"), "{stale:?}");
}

#[test]
fn once_prints_plain_text() {
    let scratch = Scratch::new();
    let counters = scratch.write("counters.csv", COUNTERS);
    let output = exporter().args(["--once", "--openmetrics", "always", "-f"]).arg(counters).output().unwrap();
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && page.contains("# TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter\n"),
        "{page}"
    );
    assert!(!page.contains("# EOF"), "{page}");
}

#[test]
fn every_page_becomes_legal() {
    let (mut counters, mut unknown) = (0, 0);
    for seed in 0..3000 {
        let page = any_page::page(seed);
        check_page(&page).unwrap_or_else(|what| panic!("page {seed}: {what}, in:\n{page}"));
        let mut out = Vec::new();
        convert(page.as_bytes(), &mut out);
        let text = String::from_utf8(out).unwrap();
        let metrics = legal(&text).unwrap_or_else(|what| panic!("page {seed}: {what}, in:\n{text}\nfrom:\n{page}"));
        assert_eq!(metrics.len(), page.matches("\n# TYPE ").count(), "{seed}: {text}");
        counters += metrics.values().filter(|kind| *kind == "counter").count();
        unknown += metrics.values().filter(|kind| *kind == "unknown").count();
        let samples = |text: &str| -> Vec<String> {
            text.split('\n').filter(|line| !line.starts_with("# ")).map(str::to_owned).collect()
        };
        assert_eq!(samples(&page), samples(&text), "{seed}");
    }
    assert!(counters > 1000 && unknown > 1000, "{counters} {unknown}");
}

#[test]
fn the_check_finds_what_is_not_legal() {
    let good = "# TYPE a counter\n# UNIT a_s s\n";
    assert!(legal(good).is_err());
    for (text, part) in [
        ("", "# EOF"),
        ("# TYPE a gauge\n", "# EOF"),
        ("# EOF\n# EOF\n", "# EOF"),
        ("# EOF", "line feed"),
        ("\n# EOF\n", "blank"),
        ("# TYPE a gauge\na 1\n\n# EOF\n", "blank"),
        ("# TYPE a untyped\n# EOF\n", "type"),
        ("# TYPE a counter\na 1\n# EOF\n", "a"),
        ("# TYPE a gauge\n# TYPE a gauge\n# EOF\n", "TYPE"),
        ("# HELP a x\n# HELP a x\n# EOF\n", "HELP"),
        ("# TYPE a gauge\na 1\n# HELP a x\n# EOF\n", "HELP"),
        ("# TYPE a gauge\na 1\n# TYPE b gauge\nb 1\na{x=\"1\"} 2\n# EOF\n", "a"),
        ("# HELP a \"x\"\n# EOF\n", "quote"),
        ("# HELP a \\x\n# EOF\n", "escape"),
        ("# UNIT a seconds\n# EOF\n", "unit"),
        ("# TYPE a gauge\na 1 \n# EOF\n", "number"),
        ("# TYPE a gauge\na  1\n# EOF\n", "number"),
        ("# TYPE a gauge\na 1 123\n# EOF\n", "number"),
        ("# TYPE a gauge\na 0x1\n# EOF\n", "number"),
        ("# TYPE a gauge\na{b=\"1\",} 1\n# EOF\n", "label"),
        ("# TYPE a gauge\na{b=\"1\" c=\"2\"} 1\n# EOF\n", "label"),
        ("# TYPE a gauge\na{b=\"1\",b=\"2\"} 1\n# EOF\n", "twice"),
        ("# TYPE a gauge\na{0=\"1\"} 1\n# EOF\n", "label"),
        ("# TYPE a gauge\na{b=\"\"\"} 1\n# EOF\n", "label"),
        ("# TYPE a gauge\na 1\na 2\n# EOF\n", "twice"),
        ("# TYPE a counter\na_total -1\n# EOF\n", "below"),
        ("# TYPE a counter\na_total NaN\n# EOF\n", "below"),
        ("# TYPE a counter\n# TYPE a_total unknown\n# EOF\n", "clash"),
        ("# TYPE a counter\n# TYPE a_created gauge\n# EOF\n", "clash"),
        ("# TYPE a-b gauge\n# EOF\n", "name"),
        ("a 1\n# EOF\n", "a"),
    ] {
        let error = legal(text).expect_err(text);
        assert!(error.contains(part), "{text:?}: {error}");
    }
    let legal_one = "# TYPE a_s counter\n# UNIT a_s s\n# HELP a_s \\\"x\\\"\na_s_total{b=\"\\\"}\\\\\",c=\"\"} 1.5\n\
                     # TYPE b gauge\nb{} -Inf\n# EOF\n";
    assert_eq!(legal(legal_one).unwrap().len(), 2);
}

/// Reads a page by the letter of OpenMetrics 1.0.0, as far as this exporter uses it: every metric has a TYPE, which is
/// gauge, counter or unknown; there are no timestamps and no exemplars. Returns the types by name.
fn legal(text: &str) -> Result<BTreeMap<String, String>, String> {
    let body = text.strip_suffix('\n').ok_or("no line feed or # EOF at the end")?;
    let body = body.strip_suffix("# EOF").ok_or("no # EOF at the end")?;
    let mut types: BTreeMap<String, String> = BTreeMap::new();
    let (mut reserved, mut series) = (HashSet::new(), HashSet::new());
    // Of the present metric: its name, the lines about it, and whether it has samples.
    let (mut name, mut seen, mut has_samples): (&str, Vec<&str>, bool) = ("", Vec::new(), false);
    for line in body.split_inclusive('\n') {
        let line = line.strip_suffix('\n').ok_or("# EOF is not on a line of its own")?;
        if line.is_empty() {
            return Err("a blank line".to_owned());
        }
        let Some(about) = line.strip_prefix("# ") else {
            sample(line, name, types.get(name), &mut series)?;
            has_samples = true;
            continue;
        };
        let mut parts = about.splitn(3, ' ');
        let (Some(keyword), Some(of), Some(value)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(format!("'{line}' is no line about a metric, nor # EOF in its place"));
        };
        if !is_name(of, true) {
            return Err(format!("'{of}' is no name of a metric"));
        }
        if of != name {
            (name, has_samples) = (of, false);
            seen.clear();
        }
        if has_samples || seen.contains(&keyword) {
            return Err(format!("{keyword} of {name} is there twice, or after samples"));
        }
        seen.push(keyword);
        match keyword {
            "TYPE" => {
                let endings: &[&str] = match value {
                    "gauge" | "unknown" => &[""],
                    "counter" => &["", "_total", "_created"],
                    _ => return Err(format!("'{value}' is no type")),
                };
                for ending in endings {
                    if !reserved.insert(format!("{name}{ending}")) {
                        return Err(format!("{name}{ending} would clash with another metric's name"));
                    }
                }
                types.insert(name.to_owned(), value.to_owned());
            }
            "UNIT" if name.strip_suffix(value).is_some_and(|rest| rest.ends_with('_')) => {}
            "UNIT" => return Err(format!("{name} does not end in its unit {value}")),
            "HELP" => drop(unescaped(value).map_err(|what| format!("HELP of {name}: {what}"))?),
            _ => return Err(format!("'{line}' is no line about a metric")),
        }
    }
    Ok(types)
}

fn sample(line: &str, metric: &str, kind: Option<&String>, series: &mut HashSet<String>) -> Result<(), String> {
    let name_end = line.find(['{', ' ']).ok_or_else(|| format!("'{line}' has no number"))?;
    let (name, rest) = line.split_at(name_end);
    let ending = match kind.map(String::as_str) {
        Some("counter") => "_total",
        Some(_) => "",
        None => return Err(format!("{name} has no TYPE")),
    };
    if name.strip_suffix(ending) != Some(metric) {
        return Err(format!("{name} is no sample of {metric}"));
    }
    let bad_label = || format!("a label is wrong in '{line}'");
    let (mut labels, mut rest) = (Vec::new(), rest);
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            if !labels.is_empty() {
                rest = rest.strip_prefix(',').ok_or_else(bad_label)?;
            }
            let (label, value) = rest.split_once("=\"").ok_or_else(bad_label)?;
            if !is_name(label, false) {
                return Err(bad_label());
            }
            // The first quote without a backslash that counts.
            let mut is_escaped = false;
            let end = value.find(|character| {
                let is_end = character == '"' && !is_escaped;
                is_escaped = character == '\\' && !is_escaped;
                is_end
            });
            let (value, after) = value.split_at(end.ok_or_else(bad_label)?);
            labels.push((label, unescaped(value)?));
            rest = &after[1..];
        }
        rest = &rest[1..];
    }
    labels.sort();
    if labels.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err(format!("a label is there twice in '{line}'"));
    }
    if !series.insert(format!("{name}{labels:?}")) {
        return Err(format!("'{line}' is there twice"));
    }
    let number = rest.strip_prefix(' ').ok_or_else(|| format!("no blank before the number of '{line}'"))?;
    let digits = number.strip_prefix(['-', '+']).unwrap_or(number);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if !(is_number && number.parse::<f64>().is_ok() || matches!(number, "NaN" | "+Inf" | "-Inf")) {
        return Err(format!("'{number}' is no number, in '{line}'"));
    }
    if ending == "_total" && (number.starts_with('-') || number == "NaN") {
        return Err(format!("a counter is below zero or not a number: '{line}'"));
    }
    Ok(())
}

fn is_name(name: &str, may_have_colons: bool) -> bool {
    let is_letter =
        |character: char| character.is_ascii_alphabetic() || character == '_' || (may_have_colons && character == ':');
    name.starts_with(is_letter) && name.chars().all(|character| is_letter(character) || character.is_ascii_digit())
}

fn unescaped(text: &str) -> Result<String, String> {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        plain.push(match character {
            '"' => return Err(format!("a quote that is not escaped in '{text}'")),
            '\\' => match characters.next() {
                Some('n') => '\n',
                Some(character @ ('"' | '\\')) => character,
                other => return Err(format!("the escape {other:?} in '{text}'")),
            },
            other => other,
        });
    }
    Ok(plain)
}
