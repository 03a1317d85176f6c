//! Whether somebody listens where a host engine should.
//!
//! The probe is a plain connect. It is cheaper than asking libdcgm, which tries for seconds, and leaves the engine alone.

use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::config::engine::{Address, DEFAULT_PORT};

const TIMEOUT: Duration = Duration::from_millis(300);

/// The first of these places at which somebody listens.
pub fn first_answering(places: &[Address]) -> Option<&Address> {
    places.iter().find(|place| answers(place))
}

/// Whether somebody listens where a host engine should.
pub fn answers(address: &Address) -> bool {
    match address {
        Address::Unix(path) => connect_unix(path).is_ok(),
        Address::Tcp(address) => {
            let has_port = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            let address = match has_port {
                true => address.clone(),
                false => format!("{}:{DEFAULT_PORT}", address.trim_end_matches(':')),
            };
            let candidates = address.to_socket_addrs().into_iter().flatten();
            candidates.take(2).any(|to| TcpStream::connect_timeout(&to, TIMEOUT).is_ok())
        }
    }
}

/// Without waiting: the queue of an engine that hangs may be full, and a plain connect would hang with it.
fn connect_unix(path: &str) -> rustix::io::Result<()> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)
}
