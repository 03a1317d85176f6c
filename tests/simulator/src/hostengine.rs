//! A host engine to connect to: tells a client which scenario it plays and answers its pings.
//!
//! usage: dcgm-simulator-hostengine (--listen HOST:PORT | --socket PATH) [--scenario FILE]
//!
//! The simulated library keeps the engine's state in the client and asks this process before every call whether it is
//! still there. So killing it loses the connection, and stopping it (SIGSTOP) blocks calls, as with the real ones.
//!
//! It says `dcgm-simulator STAMP SCENARIO` to a client. A ping is the time stamp of the client's newest sample in 8 bytes,
//! and is answered with one byte. STAMP is the newest of all clients: a new client does not help an engine whose clock
//! was stepped back.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

static NEWEST: AtomicI64 = AtomicI64::new(0);

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (mut listen, mut socket, mut scenario) = (None, None, String::new());
    while let Some(name) = arguments.next() {
        let value = arguments.next().unwrap_or_else(|| panic!("{name} needs a value"));
        match name.as_str() {
            "--listen" => listen = Some(value),
            "--socket" => socket = Some(value),
            "--scenario" => scenario = value,
            other => panic!("{other} is not known"),
        }
    }
    match (listen, socket) {
        (Some(address), _) => {
            let listener = TcpListener::bind(&address).unwrap_or_else(|error| panic!("{address}: {error}"));
            println!("listening on {}", listener.local_addr().expect("a bound socket has an address"));
            for client in listener.incoming().flatten() {
                serve(client, scenario.clone());
            }
        }
        (None, Some(path)) => {
            let _ = std::fs::remove_file(&path);
            let listener = UnixListener::bind(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            println!("listening on {path}");
            for client in listener.incoming().flatten() {
                serve(client, scenario.clone());
            }
        }
        (None, None) => panic!("--listen or --socket is needed"),
    }
}

fn serve(mut client: impl Read + Write + Send + 'static, scenario: String) {
    std::thread::spawn(move || {
        if client.write_all(format!("dcgm-simulator {} {scenario}\n", NEWEST.load(Relaxed)).as_bytes()).is_err() {
            return;
        }
        let mut ping = [0u8; 8];
        while client.read_exact(&mut ping).is_ok() && client.write_all(&[1]).is_ok() {
            NEWEST.fetch_max(i64::from_ne_bytes(ping), Relaxed);
        }
    });
}
