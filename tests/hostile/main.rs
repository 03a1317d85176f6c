//! Clients that mean harm, against the release binary; normal scrapes go on beside them. Run by `make hostile`.
//!
//! Every mode is bounded in connections and time. The targets: resident memory at most 8 MB more, no normal scrape
//! fails, none takes longer than a second, and the exporter answers afterwards; also with 256 file descriptors.

#[allow(dead_code)]
#[path = "../it/common.rs"]
mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Exporter, bare_exporter, exporter, request};

const SECONDS: u64 = 5;
const MOST_KIB: u64 = 8 * 1024;

type Mode = (&'static str, fn(u16, Instant));

const MODES: [Mode; 9] = [
    ("a head without end", endless_head),
    ("2,000 silent connections", silent),
    ("300 that drip a byte a second", drip),
    ("100 that never read", never_read),
    ("connect and close", churn),
    ("garbage", garbage),
    ("a body without end", endless_body),
    ("a huge body announced", announced_body),
    ("connect and reset", reset),
];

fn connect(port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    Ok(stream)
}

fn endless_head(port: u16, end: Instant) {
    while Instant::now() < end {
        let Ok(mut stream) = connect(port) else { continue };
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ");
        while Instant::now() < end && stream.write_all(&[b'a'; 65536]).is_ok() {}
    }
}

fn silent(port: u16, end: Instant) {
    let held: Vec<TcpStream> = (0..2000).map_while(|_| connect(port).ok()).collect();
    std::thread::sleep(end.saturating_duration_since(Instant::now()));
    drop(held);
}

fn drip(port: u16, end: Instant) {
    let mut held: Vec<TcpStream> = (0..300).map_while(|_| connect(port).ok()).collect();
    while Instant::now() < end {
        held.retain_mut(|stream| stream.write_all(b"G").is_ok());
        std::thread::sleep(Duration::from_secs(1).min(end.saturating_duration_since(Instant::now())));
    }
}

fn never_read(port: u16, end: Instant) {
    let held: Vec<TcpStream> = (0..100)
        .filter_map(|_| {
            let mut stream = connect(port).ok()?;
            rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 4096).ok()?;
            stream.write_all("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(50).as_bytes()).ok()?;
            Some(stream)
        })
        .collect();
    std::thread::sleep(end.saturating_duration_since(Instant::now()));
    drop(held);
}

fn churn(port: u16, end: Instant) {
    for _ in 0..100_000 {
        if Instant::now() >= end {
            break;
        }
        drop(connect(port));
    }
}

fn garbage(port: u16, end: Instant) {
    let lines: [&[u8]; 8] = [
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\0\0\0\r\n\r\n",
        b"GET /%00 HTTP/1.1\r\n\r\n",
        b"\xff\xfe\xfd",
        b"\r\n\r\n\r\n\r\n",
        b"GET / HTTP/1.1\r\n: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\n\r\n",
    ];
    for line in lines.iter().cycle().take(20_000) {
        if Instant::now() >= end {
            break;
        }
        let Ok(mut stream) = connect(port) else { continue };
        let _ = stream.write_all(line);
        let _ = stream.read(&mut [0u8; 512]);
    }
}

fn endless_body(port: u16, end: Instant) {
    while Instant::now() < end {
        let Ok(mut stream) = connect(port) else { continue };
        let _ = stream.write_all(b"POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
        while Instant::now() < end && stream.write_all(b"4\r\nabcd\r\n").is_ok() {}
    }
}

fn announced_body(port: u16, end: Instant) {
    for _ in 0..20_000 {
        if Instant::now() >= end {
            break;
        }
        let Ok(mut stream) = connect(port) else { continue };
        let _ = stream.write_all(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n");
        let _ = stream.read(&mut [0u8; 512]);
    }
}

fn reset(port: u16, end: Instant) {
    for _ in 0..100_000 {
        if Instant::now() >= end {
            break;
        }
        let Ok(mut stream) = connect(port) else { continue };
        let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\n");
    }
}

/// What normal scrapes met: how many, how many failed, the longest.
fn scrapes(port: u16, stop: &AtomicBool) -> (u32, u32, Duration) {
    let (mut count, mut failures, mut longest) = (0, 0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let answer = request(port, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        longest = longest.max(start.elapsed());
        count += 1;
        failures += u32::from(!answer.is_ok_and(|answer| answer.status == 200 && answer.body.contains("DCGM_FI_")));
        std::thread::sleep(Duration::from_millis(50));
    }
    (count, failures, longest)
}

fn attack(exporter: &Exporter, (name, mode): Mode) {
    let before = exporter.resident_kib();
    let stop = AtomicBool::new(false);
    let end = Instant::now() + Duration::from_secs(SECONDS);
    let mut worst = before;
    let (count, failures, longest) = std::thread::scope(|scope| {
        let scraper = scope.spawn(|| scrapes(exporter.port, &stop));
        let attacker = scope.spawn(|| mode(exporter.port, end));
        while !attacker.is_finished() {
            worst = worst.max(exporter.resident_kib());
            std::thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Ordering::Relaxed);
        scraper.join().unwrap()
    });
    let grown = worst.saturating_sub(before);
    println!("| {name} | +{grown} KiB | {count} | {failures} | {:.1} ms |", longest.as_secs_f64() * 1e3);
    assert!(grown <= MOST_KIB && failures == 0 && longest < Duration::from_secs(1), "{name}");
    assert_eq!(exporter.get("/health").status, 200, "{name}");
}

#[test]
#[ignore = "takes two minutes: make hostile"]
fn nothing_a_client_does_hurts() {
    let counters = Path::new(env!("CARGO_MANIFEST_DIR")).join("counters/default-counters.csv");
    for files in [None, Some(256)] {
        let mut command = exporter();
        if let Some(files) = files {
            // A shell sets the limit and becomes the exporter.
            command = Command::new("sh");
            let program = bare_exporter().get_program().to_owned();
            command.arg("-c").arg(format!("ulimit -n {files} && exec \"$@\"")).arg("sh").arg(program);
            command.args(["--address", "127.0.0.1:0", "--libdcgm"]).arg(common::simulator());
        }
        let mut exporter = Exporter::start(command.args(["-c", "1s", "-f"]).arg(&counters));
        exporter.page();
        let limit = files.map_or("the machine's".to_owned(), |files: u32| files.to_string());
        println!(
            "\n{limit} file descriptors\n| clients | memory | scrapes | failed | longest |\n| --- | --- | --- | --- | --- |"
        );
        for mode in MODES {
            attack(&exporter, mode);
        }
    }
}
