//! Clients at one address that take all they can get, and a scraper at another, which hardly notices.

use std::collections::VecDeque;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::net::{AddressFamily, SocketType};

use crate::common::*;
use crate::tls::Site;

/// Connects from another address of this machine.
fn connect_from(last: u8, port: u16) -> std::io::Result<TcpStream> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)))?;
    rustix::net::connect(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// The longest of some scrapes, one after the other, while `attack` goes on in some threads. One that fails ends it.
fn longest(count: u32, attackers: u8, attack: impl Fn(u8) + Sync, scrape: impl Fn() -> bool) -> Duration {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..attackers {
            let (attack, stop) = (&attack, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    attack(thread);
                }
            });
        }
        std::thread::sleep(Duration::from_secs(1));
        let times = (0..count).map(|_| {
            let start = Instant::now();
            if scrape() { start.elapsed() } else { Duration::MAX }
        });
        let longest = times.max().unwrap();
        stop.store(true, Ordering::Relaxed);
        longest
    })
}

#[test]
fn handshakes_in_turns() {
    let site = Site::new();
    let key = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/keys/rsa-4096.pem");
    site.install(&site.authority.server_with(&std::fs::read_to_string(key).unwrap()));
    let exporter = site.serve_tls("");
    let held = std::sync::Mutex::new(VecDeque::new());
    let flood = |_| {
        let Ok(mut stream) = connect_from(2, exporter.port) else { return };
        let _ = stream.write_all(include_bytes!("../fuzz/corpus/tls/hello-1.3"));
        let mut held = held.lock().unwrap();
        held.push_back(stream);
        if held.len() > 1000 {
            held.pop_front();
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let scrape = || site.scraper().is_let_in(exporter.port);
    let longest = longest(5, 1, flood, scrape);
    assert!(longest < Duration::from_secs(2), "{longest:?}");
}

#[test]
fn passwords_one_from_each_network() {
    let site = Site::new();
    // Some 100 ms each in a debug build.
    let users = (0..3).map(|user| format!("  user{user}: {}\n", bcrypt::hash("right", 8).unwrap()));
    let exporter = site.serve(&format!("basic_auth_users:\n{}", users.collect::<String>()));
    let guesses = AtomicU64::new(0);
    let ask = |from: u8, user: &str, password: &str| {
        let login = STANDARD.encode(format!("{user}:{password}"));
        let mut client = Client::new(connect_from(from, exporter.port).unwrap());
        client.ask(&format!("GET /-/healthy HTTP/1.1\r\nAuthorization: Basic {login}\r\n\r\n")).unwrap().status
    };
    let guess = |thread: u8| {
        let status = ask(2 + thread % 4, "user0", &guesses.fetch_add(1, Ordering::Relaxed).to_string());
        assert!(matches!(status, 401 | 429), "{status}");
    };
    let user = AtomicU64::new(0);
    // Each logs in for the first time, so none is known yet.
    let scrape = || ask(1, &format!("user{}", user.fetch_add(1, Ordering::Relaxed)), "right") == 200;
    let longest = longest(3, 16, guess, scrape);
    assert!(longest < Duration::from_secs(2), "{longest:?}");
}

/// Each reads another page, as there is a new one by then.
#[test]
fn slow_readers_of_long_pages() {
    let scratch = Scratch::new();
    // Each row is as long as it may be.
    let fields: Vec<Vec<&str>> =
        include_str!("../../src/dcgm/fields.csv").lines().map(|row| row.split(',').collect()).collect();
    let fields: Vec<&Vec<&str>> = fields.iter().filter(|row| row[2] == "int64" && row[3] == "gpu").take(150).collect();
    let help = "long ".repeat(3200);
    let counters: String = fields.iter().map(|row| format!("{}, gauge, {help}\n", row[0])).collect();
    let value = serde_json::json!({ "type": "int64", "value": "3" });
    let values = fields.iter().map(|row| (row[1].to_owned(), value.clone()));
    let mut plan = scenario(&[0]);
    plan["latest_values"][0]["fields"] = serde_json::Value::Object(values.collect());
    let mut exporter = Exporter::start(
        exporter()
            .env("DCGM_SIMULATOR_SCENARIO", scratch.write("scenario.json", plan.to_string()))
            .args(["-c", "100", "-f"])
            .arg(scratch.write("counters.csv", counters)),
    );
    let length = exporter.page().len();
    let before = exporter.resident_kib();
    let mut readers = Vec::new();
    for _ in 0..30 {
        let mut stream = connect_from(2, exporter.port).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
        readers.push(stream);
        std::thread::sleep(Duration::from_millis(250));
    }
    let grown = exporter.resident_kib().saturating_sub(before);
    let most = (32 * 1024 * 1024 + 4 * length as u64) / 1024;
    assert!(grown < most, "{grown} KiB more, with pages of {length}");
    // Those who came last get all of it, and so does everybody else.
    let answer = Client::new(readers.pop().unwrap()).response(false).unwrap();
    assert!(answer.bytes.len() > length / 2 && exporter.page().len() > length / 2);
}
