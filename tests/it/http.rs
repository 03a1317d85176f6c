//! What a scraper, a browser and a probe get.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::common::*;

fn start(scratch: &Scratch) -> Exporter {
    let counters = scratch.write("counters.csv", GPU_TEMP);
    let plan = scratch.write("scenario.json", scenario(&[0]).to_string());
    let mut exporter = Exporter::start(exporter().env("DCGM_SIMULATOR_SCENARIO", plan).arg("-f").arg(counters));
    exporter.page();
    exporter
}

#[test]
fn routes_and_headers() {
    let scratch = Scratch::new();
    let exporter = start(&scratch);
    for (path, status, content_type, body) in [
        ("/metrics", 200, "text/plain; version=0.0.4; charset=utf-8", "DCGM_FI_DEV_GPU_TEMP{"),
        ("/metrics?collect=all", 200, "text/plain; version=0.0.4; charset=utf-8", "DCGM_FI_DEV_GPU_TEMP{"),
        ("/health", 200, "text/plain; charset=utf-8", "OK\nrunning"),
        ("/", 200, "text/html; charset=utf-8", "<title>GPU Exporter</title>"),
        ("/metrics/", 404, "text/plain; charset=utf-8", "404 page not found"),
        ("/favicon.ico", 404, "text/plain; charset=utf-8", "404 page not found"),
    ] {
        let response = exporter.get(path);
        assert_eq!(response.status, status, "{path}");
        assert_eq!(response.header("content-type"), Some(content_type), "{path}");
        assert_eq!(response.header("content-length"), Some(response.body.len().to_string().as_str()), "{path}");
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert!(response.body.contains(body), "{path}: {}", response.body);
    }
}

#[test]
fn head_has_the_length_and_no_body() {
    let scratch = Scratch::new();
    let exporter = start(&scratch);
    for path in ["/metrics", "/health", "/"] {
        let text = format!("HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let response = request(exporter.port, &text).unwrap();
        assert_eq!((response.status, response.body.as_str()), (200, ""), "{path}");
        assert_ne!(response.header("content-length"), Some("0"), "{path}");
    }
}

#[test]
fn one_request_a_connection_and_http_1_0() {
    let scratch = Scratch::new();
    let exporter = start(&scratch);
    let old = request(exporter.port, "GET /health HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!((old.status, old.body.as_str()), (200, "OK\nrunning\n"));
    // Sent in one go, the first is answered and the connection is said to close and closed.
    let two = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2);
    let answer = request(exporter.port, &two).unwrap();
    assert_eq!(
        (answer.status, answer.body.as_str(), answer.header("connection")),
        (200, "OK\nrunning\n", Some("close"))
    );
}

#[test]
fn a_request_that_comes_in_pieces() {
    let scratch = Scratch::new();
    let exporter = start(&scratch);
    let mut stream = TcpStream::connect(("127.0.0.1", exporter.port)).unwrap();
    for byte in b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" {
        stream.write_all(&[*byte]).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nOK\nrunning\n"), "{answer}");
}

#[test]
fn requests_that_would_cost_are_refused() {
    let scratch = Scratch::new();
    let exporter = start(&scratch);
    for (text, status) in [
        ("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n".to_owned(), 413),
        ("POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), 413),
        (format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(9000)), 431),
        ("nonsense\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/9.9\r\n\r\n".to_owned(), 505),
    ] {
        let answer = request(exporter.port, &text).unwrap();
        assert_eq!(answer.status, status, "{text:.60}");
    }
    assert_eq!(exporter.get("/health").status, 200);
}

#[test]
fn the_exporters_own_metrics_can_be_left_out() {
    let scratch = Scratch::new();
    let counters = scratch.write("counters.csv", GPU_TEMP);
    let mut with = Exporter::start(exporter().args(["-c", "100", "-f"]).arg(&counters));
    for name in [
        "build_info",
        "library_info",
        "engine_info",
        "last_collect_timestamp_seconds",
        "last_collect_duration_seconds",
        "errors_total",
        "entities",
        "counters_skipped",
        "scrapes_total",
    ] {
        assert!(with.page().contains(&format!("\ndcgm_exporter_{name}")), "{name}");
    }
    for name in [
        "cpu_seconds_total",
        "resident_memory_bytes",
        "virtual_memory_bytes",
        "start_time_seconds",
        "open_fds",
        "max_fds",
    ] {
        assert!(with.page().contains(&format!("\nprocess_{name} ")), "{name}");
    }
    with.page_with("scrapes are counted", |page| !page.contains("dcgm_exporter_scrapes_total 0\n"));
    let mut without = Exporter::start(exporter().arg("--disable-exporter-metrics").arg("-f").arg(counters));
    let page = without.page();
    assert!(
        page.contains("DCGM_FI_DEV_GPU_TEMP{") && !page.contains("dcgm_exporter_") && !page.contains("process_"),
        "{page}"
    );
}

#[test]
fn labels_by_choice() {
    let scratch = Scratch::new();
    let counters = scratch.write("counters.csv", GPU_TEMP);
    for (arguments, has, has_not) in [
        (&["--hostname-label", "Hostname"][..], "Hostname=\"n1\"", "hostname="),
        (&["-n"], "modelName=", "ostname="),
        (&["-o"], "uuid=\"GPU-", "UUID="),
        (&["-rbmn"], "modelName=\"NVIDIA-H200-(simulated)\"", "NVIDIA H200"),
        (&["-d", "g:7,2-3"], "gpu=\"7\"", "gpu=\"0\""),
    ] {
        let mut exporter = Exporter::start(exporter().env("NODE_NAME", "n1").args(arguments).arg("-f").arg(&counters));
        let page = exporter.page();
        assert!(page.contains(has) && !page.contains(has_not), "{arguments:?}: {page}");
    }
}

#[test]
fn log_lines_as_json() {
    let scratch = Scratch::new();
    let counters = scratch.write("counters.csv", "DCGM_FI_NOPE, gauge, x\n");
    let (_, log) = refused(exporter().args(["--log-format", "json", "-f"]).arg(counters));
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(line["time"].is_string() && line["level"].is_string() && line["msg"].is_string(), "{line}");
    }
}

/// Heads that tiny_http answers with silence, or reads as another request than the one that was sent.
#[test]
fn odd_heads_are_answered_at_once_and_cost_no_thread() {
    let scratch = Scratch::new();
    let exporter = start(&scratch);
    let threads = || std::fs::read_dir(format!("/proc/{}/task", exporter.pid())).unwrap().count();
    let before = threads();
    for _ in 0..50 {
        for (head, status) in [
            ("GET / HTTP/1.1\r\nUser-Agent: \u{fc}\r\n\r\n", 400),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
            ("GET / HTTP/3.0\r\n\r\n", 505),
            (" HEAD / HTTP/1.1\r\n\r\n", 400),
            ("\tGET / HTTP/1.1\r\n\r\n", 400),
        ] {
            assert_eq!(request(exporter.port, head).unwrap().status, status, "{head:?}");
        }
    }
    assert_eq!(threads(), before);
    assert_eq!(exporter.get("/metrics").status, 200);
    assert!(!exporter.log().contains("WARN"), "{}", exporter.log());
}
