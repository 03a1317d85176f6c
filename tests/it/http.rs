//! What a scraper, a browser and a probe get.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::common::*;

fn start(scratch: &Scratch) -> Exporter {
    start_with(scratch, &[])
}

fn start_with(scratch: &Scratch, arguments: &[&str]) -> Exporter {
    let counters = scratch.write("counters.csv", GPU_TEMP);
    let plan = scratch.write("scenario.json", scenario(&[0]).to_string());
    let mut exporter =
        Exporter::start(exporter().env("DCGM_SIMULATOR_SCENARIO", plan).args(arguments).arg("-f").arg(counters));
    exporter.page();
    exporter
}

#[test]
fn routes_and_headers() {
    let scratch = Scratch::new();
    let exporter = start(&scratch);
    const PLAIN: &str = "text/plain; charset=utf-8";
    const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
    for (path, status, content_type, body) in [
        ("/metrics", 200, METRICS, "DCGM_FI_DEV_GPU_TEMP{"),
        ("/metrics?collect=all", 200, METRICS, "DCGM_FI_DEV_GPU_TEMP{"),
        ("http://node:9400/metrics", 200, METRICS, "DCGM_FI_DEV_GPU_TEMP{"),
        ("/health", 200, PLAIN, "OK\nrunning\n"),
        ("/-/healthy", 200, PLAIN, "OK\nrunning\n"),
        ("/-/ready", 200, PLAIN, "OK\nrunning\n"),
        ("/", 200, "text/html; charset=utf-8", "GPU Exporter</title>"),
        ("/metrics/", 404, PLAIN, "404 page not found"),
        ("/favicon.ico", 404, PLAIN, "404 page not found"),
    ] {
        let response = exporter.get(path);
        assert_eq!(response.status, status, "{path}");
        assert_eq!(response.header("content-type"), Some(content_type), "{path}");
        assert_eq!(response.header("content-length"), Some(response.body.len().to_string().as_str()), "{path}");
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(response.header("server"), None, "{path}");
        assert!(response.body.contains(body), "{path}: {}", response.body);
        let date = httpdate::parse_http_date(response.header("date").expect("a date")).unwrap();
        assert!(date.elapsed().is_ok_and(|age| age < PATIENCE), "{path}: {date:?}");
    }
}

#[test]
fn methods() {
    let scratch = Scratch::new();
    let exporter = start(&scratch);
    for (method, status) in
        [("OPTIONS", 204), ("POST", 405), ("PUT", 405), ("DELETE", 405), ("TRACE", 405), ("PATCH", 405), ("get", 405)]
    {
        for path in ["/", "/metrics", "/health"] {
            let response = request(exporter.port, &format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n")).unwrap();
            assert_eq!(
                (response.status, response.header("allow")),
                (status, Some("GET, HEAD, OPTIONS")),
                "{method} {path}"
            );
            assert_eq!(response.header("content-length").is_none(), status == 204, "{method} {path}");
        }
    }
    let server = request(exporter.port, "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!((server.status, server.header("allow")), (204, Some("GET, HEAD, OPTIONS")));
}

#[test]
fn head_has_the_length_and_no_body() {
    let scratch = Scratch::new();
    let exporter = start(&scratch);
    let mut client = Client::connect(exporter.port).unwrap();
    for (path, status) in [("/metrics", 200), ("/health", 200), ("/", 200), ("/nowhere", 404)] {
        let head = client.ask(&format!("HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n")).unwrap();
        let length: usize = head.header("content-length").unwrap().parse().unwrap();
        // What comes next on the connection is the next answer, so there was no body before it.
        let get = client.ask(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).unwrap();
        assert_eq!((head.status, get.status), (status, status), "{path}");
        assert!(length > 0 && (length == get.bytes.len() || path == "/metrics"), "{path}: {length}");
    }
    for head in ["HEAD / HTTP/2.0\r\n\r\n", "HEAD /\u{e9} HTTP/1.1\r\n\r\n", "HEAD / HTTP/1.1\r\nX : 1\r\n\r\n"] {
        let mut client = Client::connect(exporter.port).unwrap();
        let refused = client.ask(head).unwrap();
        assert!(refused.status >= 400 && client.is_closed(), "{head:?}: {refused:?}");
    }
}

#[test]
fn connections_are_kept() {
    let scratch = Scratch::new();
    let exporter = start(&scratch);
    let mut client = Client::connect(exporter.port).unwrap();
    for path in ["/metrics", "/health", "/nowhere", "/metrics"].into_iter().cycle().take(200) {
        let response = client.ask(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).unwrap();
        assert_eq!(response.status, if path == "/nowhere" { 404 } else { 200 });
        assert_eq!(response.header("connection"), None);
    }
    let last = client.ask("GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!((last.header("connection"), client.is_closed()), (Some("close"), true));

    let mut old = Client::connect(exporter.port).unwrap();
    let response = old.ask("GET /health HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!((response.status, response.header("connection"), old.is_closed()), (200, Some("close"), true));
    let mut old = Client::connect(exporter.port).unwrap();
    for _ in 0..3 {
        let response = old.ask("GET /health HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").unwrap();
        assert_eq!((response.status, response.header("connection")), (200, Some("keep-alive")));
    }
}

#[test]
fn requests_that_come_together_are_answered_in_order() {
    let scratch = Scratch::new();
    let exporter = start(&scratch);
    let mut client = Client::connect(exporter.port).unwrap();
    let paths: Vec<&str> = ["/metrics", "/health", "/", "/nowhere"].into_iter().cycle().take(100).collect();
    let text: String = paths.iter().map(|path| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).collect();
    client.stream.write_all(text.as_bytes()).unwrap();
    for path in paths {
        let response = client.response(false).unwrap();
        let is_it = match path {
            "/metrics" => response.body.contains("DCGM_FI_DEV_GPU_TEMP{"),
            "/health" => response.body.starts_with("OK\n"),
            "/" => response.body.starts_with("<!doctype html>"),
            _ => response.status == 404,
        };
        assert!(is_it, "{path}: {response:?}");
    }
    // After a refusal nobody knows where the next request begins.
    client.stream.write_all(b"GET /health HTTP/1.1\r\n\r\nGET / HTTP/2.0\r\n\r\nGET /health HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(client.response(false).unwrap().status, 200);
    assert_eq!(client.response(false).unwrap().status, 505);
    assert!(client.is_closed());
}

/// As many requests as a packet holds, of every kind that is answered without tiny_http and with it.
#[test]
fn a_packet_full_of_requests() {
    let scratch = Scratch::new();
    let exporter = start(&scratch);
    for request in ["HEAD /metrics HTTP/1.1\r\n\r\n", "A / HTTP/1.1\r\n\r\n", "HEAD / HTTP/1.1\r\n\r\n", "\r\n"] {
        let mut client = Client::connect(exporter.port).unwrap();
        let count = 4096 / request.len();
        client.stream.write_all(request.repeat(count).as_bytes()).unwrap();
        if request == "\r\n" {
            // Empty lines before a request that does not come.
            continue;
        }
        for number in 0..count {
            let response = client.response(request.starts_with("HEAD")).unwrap();
            assert!(matches!(response.status, 200 | 405), "{request:?} {number}: {response:?}");
        }
    }
    assert_eq!(exporter.get("/health").status, 200);
}

#[test]
fn a_request_that_comes_in_pieces() {
    let scratch = Scratch::new();
    let exporter = start(&scratch);
    let mut client = Client::connect(exporter.port).unwrap();
    for _ in 0..2 {
        for byte in b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" {
            client.stream.write_all(&[*byte]).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(client.response(false).unwrap().body, "OK\nrunning\n");
    }
}

#[test]
fn gzip_for_those_who_take_it() {
    let scratch = Scratch::new();
    let mut exporter = start_with(&scratch, &["-c", "100"]);
    let get = |port: u16, encoding: &str| {
        request(port, &format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{encoding}\r\n")).unwrap()
    };
    // The first one who asks gets plain text; pages are compressed from the next one on.
    let compressed = exporter.until("a page is compressed", |exporter| {
        let response = get(exporter.port, "Accept-Encoding: deflate, GZIP;q=0.5\r\n");
        assert_eq!((response.status, response.header("vary")), (200, Some("Accept, Accept-Encoding")));
        response.header("content-encoding").map(str::to_owned).map(|encoding| (encoding, response.bytes))
    });
    assert_eq!(compressed.0, "gzip");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&compressed.1[..]).read_to_string(&mut text).unwrap();
    assert!(text.contains("DCGM_FI_DEV_GPU_TEMP{"), "{text}");
    for declined in
        ["", "Accept-Encoding: gzip;q=0\r\n", "Accept-Encoding: gzip;Q=0, *\r\n", "Accept-Encoding: identity\r\n"]
    {
        let response = get(exporter.port, declined);
        assert_eq!(response.header("content-encoding"), None, "{declined}");
        assert!(response.body.contains("DCGM_FI_DEV_GPU_TEMP{"), "{declined}");
    }
}

#[test]
fn several_addresses_and_a_socket() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    let socket = scratch.path("http.sock");
    let address = format!("unix://{}?mode=0600", socket.display());
    let mut exporter = start_with(&scratch, &["--address", &address]);
    assert_eq!(exporter.get("/health").status, 200);
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let mut client = Client::new(std::os::unix::net::UnixStream::connect(&socket).unwrap());
    for _ in 0..3 {
        let response = client.ask("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        assert!(response.status == 200 && response.body.contains("DCGM_FI_DEV_GPU_TEMP{"), "{response:?}");
    }
    assert!(exporter.stop().0.success());
    assert!(!socket.exists(), "a clean stop removes it");
    assert!(exporter.log().contains(&format!("address=unix://{}", socket.display())), "{}", exporter.log());
}

#[test]
fn localhost_is_both_families() {
    let scratch = Scratch::new();
    let counters = scratch.write("counters.csv", GPU_TEMP);
    let mut command = bare_exporter();
    let mut exporter = Exporter::start(
        command.args(["--address", "localhost:0", "--libdcgm"]).arg(simulator()).arg("-f").arg(counters),
    );
    exporter.page();
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        let mut client = Client::new(TcpStream::connect(("::1", exporter.port)).unwrap());
        assert_eq!(client.ask("GET /health HTTP/1.1\r\nHost: x\r\n\r\n").unwrap().status, 200);
    }
}

#[test]
fn an_ipv6_address() {
    // Where the machine has no IPv6 there is nothing to listen on.
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return;
    }
    let scratch = Scratch::new();
    let counters = scratch.write("counters.csv", GPU_TEMP);
    let mut command = bare_exporter();
    let mut exporter =
        Exporter::start(command.args(["--address", "[::1]:0", "--libdcgm"]).arg(simulator()).arg("-f").arg(counters));
    let port = exporter.port;
    exporter.until("there is a page", |_| {
        let mut client = Client::new(TcpStream::connect(("::1", port)).unwrap());
        let response = client.ask("GET /metrics HTTP/1.1\r\nHost: [::1]\r\n\r\n").unwrap();
        (response.status == 200 && response.body.contains("DCGM_FI_DEV_GPU_TEMP{")).then_some(())
    });
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "IPv4 was not asked for");
    assert!(exporter.log().contains(&format!("address=[::1]:{port}\n")), "{}", exporter.log());
    let taken = format!("[::1]:{port}");
    let mut command = bare_exporter();
    command.args(["--address", &taken, "--libdcgm"]).arg(simulator()).arg("-f").arg(scratch.path("counters.csv"));
    let (status, message) = refused(&mut command);
    assert!(!status.success() && message.contains(&format!("cannot listen on {taken}: port")), "{message}");
}

#[test]
fn http_over_a_socket_is_the_same_http() {
    let scratch = Scratch::new();
    let socket = scratch.path("http.sock");
    let mut exporter = start_with(&scratch, &["-c", "100", "--address", &format!("unix://{}", socket.display())]);
    let connect = || Client::new(std::os::unix::net::UnixStream::connect(&socket).unwrap());
    let ask = |text: &str| connect().ask(text).unwrap();
    let text = exporter.until("a page is compressed", |_| {
        let response = ask("GET /metrics HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n");
        response.header("content-encoding").filter(|encoding| *encoding == "gzip")?;
        let mut text = String::new();
        flate2::read::GzDecoder::new(&response.bytes[..]).read_to_string(&mut text).ok().map(|_| text)
    });
    assert!(text.contains("DCGM_FI_DEV_GPU_TEMP{"), "{text}");
    for (request, status) in [
        ("HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        ("GET /health HTTP/1.0\r\n\r\n", 200),
        ("GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405),
    ] {
        assert_eq!(ask(request).status, status, "{request}");
    }
    let mut client = connect();
    client.ask("GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    assert!(client.is_closed());
}

/// Heads of every kind, and what each is answered.
const HEADS: [(&str, u16); 54] = [
    ("GET /metrics HTTP/1.1\r\n\r\n", 200),
    ("GET /metrics HTTP/1.0\r\n\r\n", 200),
    ("GET /metrics?a=b%20c#d HTTP/1.1\r\nHost: x\r\n\r\n", 200),
    ("GET HTTP://a/metrics HTTP/1.1\r\nHost: x\r\n\r\n", 200),
    ("\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n", 200),
    ("GET /metrics HTTP/1.1\r\nExpect: 100-continue\r\n\r\n", 200),
    (
        "GET /metrics HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        200,
    ),
    ("GET /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 200),
    ("GET /metrics HTTP/1.1\r\nX: a\tb\r\nY:\r\nZ:z\r\n\r\n", 200),
    ("GET /metrics HTTP/1.1\r\nAccept-Encoding: ;q=, ,gzip;;q=x\r\n\r\n", 200),
    ("HEAD /metrics HTTP/1.1\r\n\r\n", 200),
    ("OPTIONS * HTTP/1.1\r\n\r\n", 204),
    ("OPTIONS /metrics HTTP/1.1\r\n\r\n", 204),
    ("GET /%00 HTTP/1.1\r\n\r\n", 404),
    ("GET /../../etc/passwd HTTP/1.1\r\n\r\n", 404),
    ("GET //metrics HTTP/1.1\r\n\r\n", 404),
    ("POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 405),
    ("CONNECT node:443 HTTP/1.1\r\n\r\n", 405),
    ("BREW /metrics HTTP/1.1\r\n\r\n", 405),
    ("GET /metrics HTTP/1.1\r\nUser-Agent: \u{fc}\r\n\r\n", 400),
    ("GET /\u{fc} HTTP/1.1\r\n\r\n", 400),
    ("G\u{cb}T / HTTP/1.1\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\n\u{fc}: x\r\n\r\n", 400),
    (" GET / HTTP/1.1\r\n\r\n", 400),
    (" HEAD / HTTP/1.1\r\n\r\n", 400),
    ("\tHEAD / HTTP/1.1\r\n\r\n", 400),
    ("\u{b}HEAD / HTTP/1.1\r\n\r\n", 400),
    ("\u{c}HEAD / HTTP/1.1\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\n folded: x\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nX: 1\r\n 2\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nX : 1\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nX\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\n: x\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    ("GET / HTTP/1.1\nHost: a\n\n", 400),
    ("GET / HTTP/1.1\r\nX: a\rb\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nX: \0\r\n\r\n", 400),
    ("GET /a b HTTP/1.1\r\n\r\n", 400),
    ("GET  / HTTP/1.1\r\n\r\n", 400),
    ("GET / HTTP/1.1 \r\n\r\n", 400),
    ("GET /\r\n\r\n", 400),
    ("GET metrics HTTP/1.1\r\n\r\n", 400),
    ("GET / http/1.1\r\n\r\n", 400),
    ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}", 400),
    ("\0\0\0\0", 400),
    ("SSH-2.0-scanner\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", 413),
    ("POST / HTTP/1.1\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", 413),
    ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", 413),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("GET / HTTP/2.0\r\n\r\n", 505),
    ("GET / HTTP/3.0\r\n\r\n", 505),
    ("GET / HTTP/0.9\r\n\r\n", 505),
];

/// Sends a head and returns the answer's status; asks again where the machine stalled, so that what is slow each time
/// is what fails.
fn answered_at_once(port: u16, head: &str) -> u16 {
    const AT_ONCE: std::time::Duration = std::time::Duration::from_millis(100);
    for _ in 0..5 {
        let mut client = Client::connect(port).unwrap();
        let start = std::time::Instant::now();
        let status = client.ask(head).unwrap_or_else(|error| panic!("{head:?}: {error}")).status;
        if start.elapsed() < AT_ONCE {
            return status;
        }
    }
    panic!("{head:?} is answered too late");
}

#[test]
fn every_head_is_answered_at_once_and_costs_no_thread() {
    let scratch = Scratch::new();
    let exporter = start(&scratch);
    let count = |of: &str| std::fs::read_dir(format!("/proc/{}/{of}", exporter.pid())).unwrap().count();
    // tiny_http opens its one connection with the first question.
    assert_eq!(exporter.get("/metrics").status, 200);
    let before = (count("task"), count("fd"));
    for _ in 0..20 {
        for (head, status) in HEADS {
            assert_eq!(answered_at_once(exporter.port, head), status, "{head:?}");
        }
    }
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(9000));
    assert_eq!(answered_at_once(exporter.port, &long), 431);
    let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "X: 1\r\n".repeat(150));
    assert_eq!(answered_at_once(exporter.port, &many), 431);
    let page = exporter.get("/metrics");
    assert!(page.status == 200 && page.body.contains("\ndcgm_exporter_http_restarts_total 0\n"), "{}", page.body);
    let end = std::time::Instant::now() + PATIENCE;
    // The first connection may still have been open when it was counted.
    while count("task") > before.0 || count("fd") > before.1 {
        assert!(
            std::time::Instant::now() < end,
            "{:?} threads and descriptors, {before:?} before",
            (count("task"), count("fd"))
        );
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(!exporter.log().contains("WARN") && !exporter.log().contains("ERROR"), "{}", exporter.log());
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
