//! Clients at one address that take all they can get, and a scraper at another, which hardly notices.

use std::collections::VecDeque;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

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
