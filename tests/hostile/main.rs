//! Clients that mean harm, against the real binary; normal scrapes go on beside them.
//!
//! Every mode is bounded in connections and time. During each, no normal scrape fails, resident memory grows by at most
//! 8 MB, and the kernel keeps at most 32 MB for the sockets and nothing for those that were let go; after each, threads
//! and descriptors are back where they were. `make test` runs each for a second on the
//! debug build; `make hostile` runs each for five on the release build, with and without TLS and with few descriptors,
//! and asks besides that no scrape takes longer than half a second.

#[allow(dead_code)]
#[path = "../it/common.rs"]
mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use common::{Client, Exporter, Random, Scratch, bare_exporter};

const MOST_KIB: u64 = 8 * 1024;
const MOST_SOCKET_KIB: u64 = 32 * 1024;
const PASSWORD: &str = "secret";

/// Where to attack, and how to be let in.
#[derive(Clone)]
struct Target {
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    login: String,
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

impl Target {
    /// A connection below TLS.
    fn raw(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&([127, 0, 0, 1], self.port).into(), Duration::from_secs(2))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        stream.set_write_timeout(Some(Duration::from_secs(1)))?;
        Ok(stream)
    }

    /// One whose system takes in next to nothing while it does not read.
    fn deaf(&self) -> std::io::Result<TcpStream> {
        use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        // The window of the handshake follows from it.
        sockopt::set_socket_recv_buffer_size(&socket, 2048)?;
        connect(&socket, &std::net::SocketAddr::from(([127, 0, 0, 1], self.port)))?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        stream.set_write_timeout(Some(Duration::from_secs(1)))?;
        Ok(stream)
    }

    fn over(&self, stream: TcpStream) -> Box<dyn Stream> {
        match &self.tls {
            None => Box::new(stream),
            Some(config) => {
                let connection = ClientConnection::new(config.clone(), "localhost".try_into().unwrap()).unwrap();
                Box::new(StreamOwned::new(connection, stream))
            }
        }
    }

    fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        Ok(self.over(self.raw()?))
    }

    /// A client that waits longer than any attack may hold it.
    fn client(&self) -> std::io::Result<Client<Box<dyn Stream>>> {
        let stream = self.raw()?;
        stream.set_read_timeout(Some(common::PATIENCE))?;
        Ok(Client::new(self.over(stream)))
    }

    fn get(&self, path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{}\r\n", self.login)
    }
}

type Mode = (&'static str, fn(&Target, Instant));

const MODES: [Mode; 21] = [
    ("a head without end", endless_head),
    ("2,000 silent connections", silent),
    ("300 that drip a byte a second", drip),
    ("200 that never read", never_read),
    ("ask, never read, 300 a second", ask_and_never_read),
    ("connect and close", churn),
    ("garbage", garbage),
    ("odd heads, 8 at a time", odd_heads),
    ("HTTP/2 prefaces, 8 at a time", prefaces),
    ("a body without end", endless_body),
    ("a huge body announced", announced_body),
    ("connect and reset", reset),
    ("ask and reset, 3 at a time", ask_and_reset),
    ("packets full of requests, 8 at a time", full_packets),
    ("32 that flood after the answer", flood_after_answer),
    ("32 that send requests without end", flood_of_requests),
    ("400 kept connections", kept),
    ("half handshakes", half_handshakes),
    ("250 hellos of 62 KB without their end", long_hellos),
    ("handshakes, 8 at a time", handshakes),
    ("wrong passwords, 8 at a time", wrong_passwords),
];

/// Runs the same in some threads until the time is over.
fn in_threads(count: usize, end: Instant, work: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for thread in 0..count {
            let work = &work;
            scope.spawn(move || {
                while Instant::now() < end {
                    work(thread);
                }
            });
        }
    });
}

fn rest(end: Instant) {
    std::thread::sleep(end.saturating_duration_since(Instant::now()));
}

fn endless_head(target: &Target, end: Instant) {
    while Instant::now() < end {
        let Ok(mut stream) = target.connect() else { continue };
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ");
        while Instant::now() < end && stream.write_all(&[b'a'; 65536]).is_ok() {}
    }
}

fn silent(target: &Target, end: Instant) {
    let held: Vec<TcpStream> = (0..2000).map_while(|_| target.raw().ok()).collect();
    rest(end);
    drop(held);
}

fn drip(target: &Target, end: Instant) {
    let mut held: Vec<_> = (0..300).map_while(|_| target.connect().ok()).collect();
    while Instant::now() < end {
        held.retain_mut(|stream| stream.write_all(b"G").and_then(|()| stream.flush()).is_ok());
        std::thread::sleep(Duration::from_secs(1).min(end.saturating_duration_since(Instant::now())));
    }
}

fn never_read(target: &Target, end: Instant) {
    let held: Vec<_> = (0..200)
        .filter_map(|_| {
            let mut stream = target.over(target.deaf().ok()?);
            stream.write_all(target.get("/metrics").repeat(50).as_bytes()).ok()?;
            Some(stream)
        })
        .collect();
    rest(end);
    drop(held);
}

fn ask_and_never_read(target: &Target, end: Instant) {
    let mut held = Vec::new();
    let request = target.get("/metrics").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    for number in 0.. {
        let Ok(stream) = target.deaf() else { continue };
        let (end_of_requests, mut stream) = (stream.try_clone().unwrap(), target.over(stream));
        let _ = stream.write_all(request.as_bytes()).and_then(|()| stream.flush());
        if number % 2 == 0 {
            let _ = end_of_requests.shutdown(std::net::Shutdown::Write);
        }
        held.push(stream);
        if Instant::now() >= end {
            return;
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

fn churn(target: &Target, end: Instant) {
    for _ in (0..100_000).take_while(|_| Instant::now() < end) {
        drop(target.raw());
    }
}

fn garbage(target: &Target, end: Instant) {
    let mut random = Random(7);
    for number in (0..20_000).take_while(|_| Instant::now() < end) {
        // Below TLS and through it.
        let stream = if number % 2 == 0 { target.raw().map(|stream| Box::new(stream) as _) } else { target.connect() };
        let Ok(mut stream) = stream else { continue };
        let bytes: Vec<u8> = (0..random.below(3000)).map(|_| random.below(256) as u8).collect();
        let _ = stream.write_all(&bytes);
        let _ = stream.flush();
        drop(stream);
    }
}

/// Heads of every kind, valid and not; see also the table in `tests/it/http.rs`.
const ODD: [&str; 36] = [
    "GET / HTTP/1.1\r\nX: \u{e9}\r\n\r\n",
    "GET /\u{fc} HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1\r\n\u{fc}: 1\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "GET / HTTP/2.0\r\n\r\n",
    "GET / HTTP/3.0\r\n\r\n",
    "GET / HTTP/9.9\r\n\r\n",
    "GET / HTTP/0.9\r\n\r\n",
    " HEAD / HTTP/1.1\r\n\r\n",
    "\tHEAD / HTTP/1.1\r\n\r\n",
    "\u{b}HEAD / HTTP/1.1\r\n\r\n",
    "\u{c}GET / HTTP/1.1\r\n\r\n",
    "GET\r\n\r\n",
    "GET /\r\n\r\n",
    "GET  / HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1 \r\n\r\n",
    "GET /a b HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1\r\n: x\r\n\r\n",
    "GET / HTTP/1.1\r\nX\r\n\r\n",
    "GET / HTTP/1.1\r\nX : 1\r\n\r\n",
    "GET / HTTP/1.1\r\nX: 1\r\n 2\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "GET / HTTP/1.1\nHost: a\n\n",
    "GET / HTTP/1.1\r\nX: \0\r\n\r\n",
    "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    "HEAD /metrics HTTP/1.1\r\nExpect: 100-continue\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\n\r\n",
    "CONNECT a:1 HTTP/1.1\r\n\r\n",
    "TRACE / HTTP/1.1\r\n\r\n",
    "GET http://h/metrics HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    "GET /%00 HTTP/1.1\r\n\r\n",
    "\r\n\r\n\r\n\r\nGET / HTTP/1.0\r\n\r\n",
    "\0\0\0\r\n\r\n",
    "SSH-2.0-x\r\n\r\n",
];

fn send_and_read(target: &Target, bytes: &[u8]) {
    let Ok(mut stream) = target.connect() else { return };
    let _ = stream.write_all(bytes);
    let _ = stream.read(&mut [0u8; 512]);
}

fn odd_heads(target: &Target, end: Instant) {
    let next = AtomicUsize::new(0);
    in_threads(8, end, |_| send_and_read(target, ODD[next.fetch_add(1, Ordering::Relaxed) % ODD.len()].as_bytes()));
}

fn prefaces(target: &Target, end: Instant) {
    in_threads(8, end, |_| send_and_read(target, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
}

fn endless_body(target: &Target, end: Instant) {
    while Instant::now() < end {
        let Ok(mut stream) = target.connect() else { continue };
        let _ = stream.write_all(b"POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
        while Instant::now() < end && stream.write_all(b"4\r\nabcd\r\n").is_ok() {}
    }
}

fn announced_body(target: &Target, end: Instant) {
    let head = b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n";
    in_threads(1, end, |_| send_and_read(target, head));
}

fn reset(target: &Target, end: Instant) {
    for _ in (0..100_000).take_while(|_| Instant::now() < end) {
        let Ok(mut stream) = target.raw() else { continue };
        let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\n");
    }
}

fn ask_and_reset(target: &Target, end: Instant) {
    in_threads(3, end, |_| {
        let Ok(mut stream) = target.raw() else { return };
        let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n");
        let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
    });
}

fn full_packets(target: &Target, end: Instant) {
    in_threads(8, end, |thread| {
        let request = ["HEAD /metrics HTTP/1.1\r\n\r\n", "A / HTTP/1.1\r\n\r\n"][thread % 2];
        let Ok(mut stream) = target.connect() else { return };
        let _ = stream.write_all(request.repeat(16_000 / request.len()).as_bytes());
        while stream.read(&mut [0u8; 16 * 1024]).is_ok_and(|count| count > 0) {}
    });
}

fn flood_after_answer(target: &Target, end: Instant) {
    in_threads(32, end, |_| {
        let Ok(mut stream) = target.connect() else { return };
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n");
        while Instant::now() < end && stream.write_all(&[b'x'; 16 * 1024]).is_ok() {}
    });
}

fn flood_of_requests(target: &Target, end: Instant) {
    let requests = target.get("/health").repeat(100);
    in_threads(32, end, |_| {
        let Ok(mut stream) = target.connect() else { return };
        let mut answers = [0u8; 64 * 1024];
        while Instant::now() < end && stream.write_all(requests.as_bytes()).is_ok() {
            if stream.read(&mut answers).is_err() {
                return;
            }
        }
    });
}

fn kept(target: &Target, end: Instant) {
    let mut held = Vec::new();
    for _ in (0..400).take_while(|_| Instant::now() < end) {
        let Ok(mut client) = target.client() else { continue };
        if client.ask(&target.get("/health")).is_ok() {
            held.push(client);
        }
    }
    rest(end);
}

fn half_handshakes(target: &Target, end: Instant) {
    let hello = include_bytes!("../fuzz/corpus/tls/hello-1.3");
    let mut held = std::collections::VecDeque::new();
    for number in (0..20_000).take_while(|_| Instant::now() < end) {
        let Ok(mut stream) = target.raw() else { continue };
        let _ = stream.write_all(&hello[..hello.len() - number % 3 * 50]);
        held.push_back(stream);
        if held.len() > 300 {
            held.pop_front();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn long_hellos(target: &Target, end: Instant) {
    // A record of a handshake: a client's hello with some 64 KB.
    let record = |content: &[u8]| [&[22, 3, 1, (content.len() >> 8) as u8, content.len() as u8], content].concat();
    let hello = record(&[&[1, 0, 0xff, 0xf0][..], &[0; 15_000]].concat());
    let more = record(&[0; 15_000]);
    let held: Vec<_> = (0..250)
        .filter_map(|_| {
            let mut stream = target.raw().ok()?;
            let _ = stream.write_all(&hello);
            (0..3).for_each(|_| drop(stream.write_all(&more)));
            Some(stream)
        })
        .collect();
    rest(end);
    drop(held);
}

fn handshakes(target: &Target, end: Instant) {
    in_threads(8, end, |_| send_and_read(target, target.get("/nowhere").as_bytes()));
}

fn wrong_passwords(target: &Target, end: Instant) {
    let next = AtomicUsize::new(0);
    in_threads(8, end, |_| {
        let guess = STANDARD.encode(format!("alice:{}", next.fetch_add(1, Ordering::Relaxed)));
        send_and_read(target, format!("GET / HTTP/1.1\r\nAuthorization: Basic {guess}\r\n\r\n").as_bytes());
    });
}

/// What normal scrapes met: how many, how many failed, the longest.
#[derive(Default)]
struct Scrapes {
    count: u32,
    failures: Vec<String>,
    longest: Duration,
}

fn scrapes(target: &Target, stop: &AtomicBool) -> Scrapes {
    let mut scrapes = Scrapes::default();
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let answer = target.client().and_then(|mut client| client.ask(&target.get("/metrics")));
        scrapes.longest = scrapes.longest.max(start.elapsed());
        scrapes.count += 1;
        match answer {
            Ok(answer) if answer.status == 200 && answer.body.contains("DCGM_FI_") => {}
            Ok(answer) => scrapes.failures.push(format!("{} {}", answer.status, answer.body)),
            Err(error) => scrapes.failures.push(format!("{error} after {:?}", start.elapsed())),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    scrapes
}

/// KiB that the kernel keeps for sockets at a port, to be sent or to be read: of all, and what is to be sent for those
/// that belong to no process any more.
fn socket_kib(port: u16) -> (u64, u64) {
    let (mut all, mut orphans) = (0, 0);
    for line in std::fs::read_to_string("/proc/net/tcp").unwrap().lines().skip(1) {
        // Number, local address, remote address, state, queues (hexadecimal, sent and received), timer, retransmissions,
        // user, timeout, inode.
        let fields: Vec<&str> = line.split_whitespace().collect();
        if fields[1].ends_with(&format!(":{port:04X}")) {
            let queues: Vec<u64> = fields[4].split(':').map(|bytes| u64::from_str_radix(bytes, 16).unwrap()).collect();
            all += queues.iter().sum::<u64>();
            orphans += if fields[9] == "0" { queues[0] } else { 0 };
        }
    }
    (all / 1024, orphans / 1024)
}

/// Threads and descriptors of the exporter.
fn counts(exporter: &Exporter) -> (usize, usize) {
    let count = |of: &str| std::fs::read_dir(format!("/proc/{}/{of}", exporter.pid())).unwrap().count();
    (count("task"), count("fd"))
}

/// Runs an attack while normal scrapes go on, and prints a row of a table.
fn attack(exporter: &Exporter, target: &Target, name: &str, longest: Duration, mode: impl FnOnce() + Send) {
    let (before, level) = (exporter.resident_kib(), counts(exporter));
    let stop = AtomicBool::new(false);
    let (mut worst, mut sockets) = (before, (0, 0));
    let scrapes = std::thread::scope(|scope| {
        let scraper = scope.spawn(|| scrapes(target, &stop));
        let attacker = scope.spawn(mode);
        while !attacker.is_finished() {
            worst = worst.max(exporter.resident_kib());
            let (all, orphans) = socket_kib(target.port);
            sockets = (all.max(sockets.0), orphans.max(sockets.1));
            std::thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Ordering::Relaxed);
        scraper.join().unwrap()
    });
    let grown = worst.saturating_sub(before);
    let Scrapes { count, failures, longest: slowest } = scrapes;
    let (sockets, orphans) = sockets;
    let longest_ms = slowest.as_secs_f64() * 1e3;
    println!("| {name} | +{grown} KiB | {sockets} KiB | {count} | {} | {longest_ms:.1} ms |", failures.len());
    assert!(failures.is_empty(), "{name}: {failures:?}");
    assert!(grown <= MOST_KIB && slowest < longest, "{name}: +{grown} KiB, {slowest:?}");
    assert!(sockets <= MOST_SOCKET_KIB && orphans == 0, "{name}: the kernel keeps {sockets} KiB, {orphans} for nobody");
    let end = Instant::now() + common::PATIENCE;
    while counts(exporter).0 > level.0 || counts(exporter).1 > level.1 {
        assert!(Instant::now() < end, "{name}: {:?} threads and descriptors, {level:?} before", counts(exporter));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A certificate, a password, and what a client needs for both.
fn web(scratch: &Scratch, with_tls: bool) -> Target {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    scratch.write("cert.pem", certified.cert.pem());
    scratch.write("key.pem", certified.signing_key.serialize_pem());
    let tls = "tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n";
    let hash = bcrypt::hash(PASSWORD, 4).unwrap();
    scratch.write("web.yml", format!("{}basic_auth_users: {{alice: {hash}}}\n", if with_tls { tls } else { "" }));
    let mut roots = RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(certified.cert.pem().as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Target {
        port: 0,
        tls: with_tls.then(|| Arc::new(config)),
        login: format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("alice:{PASSWORD}"))),
    }
}

/// Starts the exporter with a limit of descriptors.
fn start(scratch: &Scratch, with_tls: bool, files: u32) -> (Exporter, Target) {
    let mut target = web(scratch, with_tls);
    // A shell sets the limit and becomes the exporter.
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit -n {files} && exec \"$@\"")).arg("sh").arg(bare_exporter().get_program());
    command.args(["--address", "127.0.0.1:0", "--libdcgm"]).arg(common::simulator());
    command.arg("--web-config-file").arg(scratch.path("web.yml"));
    let counters = Path::new(env!("CARGO_MANIFEST_DIR")).join("counters/default-counters.csv");
    let mut exporter = Exporter::start(command.args(["-c", "1s", "-f"]).arg(counters));
    target.port = exporter.port;
    exporter.until("there is a page", |_| {
        let answer = target.client().ok()?.ask(&target.get("/metrics")).ok()?;
        (answer.status == 200).then_some(())
    });
    // What is allocated once, by the first who come together, is not the attack's.
    for _ in 0..50 {
        let mut clients: Vec<_> = (0..8).map(|_| target.client().unwrap()).collect();
        clients.iter_mut().for_each(|client| assert_eq!(client.ask(&target.get("/metrics")).unwrap().status, 200));
    }
    (exporter, target)
}

fn heading(text: &str) {
    println!(
        "\n{text}\n| clients | memory | of sockets | scrapes | failed | longest |\n| --- | --- | --- | --- | --- | --- |"
    );
}

fn every_mode(with_tls: bool, files: u32, seconds: f64, longest: Duration) {
    let scratch = Scratch::new();
    let (exporter, target) = start(&scratch, with_tls, files);
    heading(&format!("{}, {files} descriptors", if with_tls { "HTTPS" } else { "HTTP" }));
    for (name, mode) in MODES {
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        attack(&exporter, &target, name, longest, || mode(&target, end));
    }
    assert!(!exporter.log().contains("level=ERROR"), "{}", exporter.log());
}

/// Odd requests, `count` of them, in parallel with scrapes.
fn odd_requests(with_tls: bool, count: usize, longest: Duration) {
    let scratch = Scratch::new();
    let (exporter, target) = start(&scratch, with_tls, 1024);
    heading(&format!("{}, {count} odd requests of {} kinds", if with_tls { "HTTPS" } else { "HTTP" }, ODD.len()));
    let next = AtomicUsize::new(0);
    attack(&exporter, &target, "8 at a time", longest, || {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            return;
                        }
                        send_and_read(&target, ODD[number % ODD.len()].as_bytes());
                    }
                });
            }
        });
    });
    assert!(!exporter.log().contains("level=ERROR"), "{}", exporter.log());
}

/// Long enough that only a hang shows: these run on machines that do other things as well.
const PATIENT: Duration = Duration::from_secs(5);

#[test]
fn a_short_attack_over_http() {
    every_mode(false, 1024, 0.8, PATIENT);
    odd_requests(false, 2000, PATIENT);
}

#[test]
fn a_short_attack_over_https() {
    every_mode(true, 1024, 0.8, PATIENT);
    odd_requests(true, 500, PATIENT);
}

#[test]
#[ignore = "takes five minutes and a quiet machine: make hostile"]
fn nothing_a_client_does_hurts() {
    const LONGEST: Duration = Duration::from_millis(500);
    for (with_tls, files) in [(false, 1024), (false, 256), (true, 1024), (true, 256)] {
        every_mode(with_tls, files, 4.0, LONGEST);
    }
    odd_requests(false, 20_000, LONGEST);
    odd_requests(true, 20_000, LONGEST);
}
