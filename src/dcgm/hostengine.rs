//! Whether somebody listens where a host engine should.
//!
//! The probe is a plain connect. It is cheaper than asking libdcgm, which tries for seconds, and leaves the engine alone.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::config::engine::{Address, DEFAULT_PORT};
use crate::system::unix_socket;

const TIMEOUT: Duration = Duration::from_millis(300);
/// glibc's resolver needs some tens of kilobytes.
const STACK: usize = 256 * 1024;

/// The first of these places at which somebody listens.
pub fn first_answering(places: &[Address]) -> Option<&Address> {
    places.iter().find(|place| answers(place))
}

/// Whether somebody listens where a host engine should.
pub fn answers(address: &Address) -> bool {
    match address {
        Address::Unix(path) => unix_socket::connect(path).is_ok(),
        Address::Tcp(address) => {
            let has_port = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            let address = match has_port {
                true => address.clone(),
                false => format!("{}:{DEFAULT_PORT}", address.trim_end_matches(':')),
            };
            resolve(address).into_iter().take(2).any(|to| TcpStream::connect_timeout(&to, TIMEOUT).is_ok())
        }
    }
}

/// The addresses of a name; none if the resolver does not answer soon. It has no time-out of its own that suits us, and
/// may hang for half a minute, so it is asked on a thread that may outlast the question, one at
/// a time.
fn resolve(address: String) -> Vec<SocketAddr> {
    if let Ok(literal) = address.parse() {
        return vec![literal];
    }
    static ASKED: AtomicBool = AtomicBool::new(false);
    if ASKED.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let (sender, found) = channel();
    let thread = std::thread::Builder::new().name("resolver".to_owned()).stack_size(STACK).spawn(move || {
        let addresses = address.to_socket_addrs().map(Iterator::collect::<Vec<_>>).unwrap_or_default();
        ASKED.store(false, Ordering::Relaxed);
        // Whoever asked may no longer wait.
        let _ = sender.send(addresses);
    });
    match thread {
        Ok(_) => found.recv_timeout(TIMEOUT).unwrap_or_default(),
        Err(_) => {
            ASKED.store(false, Ordering::Relaxed);
            Vec::new()
        }
    }
}
