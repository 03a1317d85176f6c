//! Which DCGM engine to use, and where host engines answer.

use std::fmt;

/// The port of a host engine that is told no other.
pub const DEFAULT_PORT: u16 = 5555;

/// Which DCGM engine to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineSelection {
    /// One in this process.
    Embedded,
    /// A running host engine, and no other.
    Remote(Address),
    /// The node's own host engine while one answers at one of these places, else an embedded one.
    Auto(Vec<Address>),
}

/// Where a running host engine answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `host:port`, `[v6]:port` or a bare host, for which DCGM uses port 5555.
    Tcp(String),
    /// A Unix socket's path.
    Unix(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => f.write_str(address),
            Address::Unix(path) => write!(f, "unix://{path}"),
        }
    }
}

/// Where `nvidia-dcgm.service` serves: the socket of newer packages, and the port of all.
pub fn usual_places() -> Vec<Address> {
    vec![
        Address::Unix("/run/nvidia-dcgm/nv-hostengine.sock".to_owned()),
        Address::Tcp(format!("127.0.0.1:{DEFAULT_PORT}")),
    ]
}
