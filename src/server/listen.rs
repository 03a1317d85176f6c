//! Listening sockets: opened by us, or passed by systemd.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;

/// `HOST:PORT`; an empty host is every address of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddress {
    /// Without brackets.
    pub host: String,
    pub port: u16,
}

impl ListenAddress {
    /// Errors: what would be right, for the end of a message that already names the flag and the value.
    pub fn parse(text: &str) -> Result<ListenAddress, String> {
        const FORMS: &str = "expected [HOST]:PORT such as :9400, 127.0.0.1:9400 or [::1]:9400";
        let (host, port) = text.rsplit_once(':').ok_or(FORMS)?;
        let port = port.parse().map_err(|_| format!("'{port}' is not a port (0 to 65535); {FORMS}"))?;
        let host = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
            Some(Some(inside)) if inside.parse::<std::net::Ipv6Addr>().is_ok() => inside,
            Some(_) => return Err(format!("{host} is not an IPv6 address in brackets; {FORMS}")),
            None if host.contains(':') => return Err(format!("an IPv6 address stands in brackets; {FORMS}")),
            None => host,
        };
        Ok(ListenAddress { host: host.to_owned(), port })
    }

    fn candidates(&self) -> io::Result<Vec<SocketAddr>> {
        if self.host.is_empty() {
            // Both families where the machine has both, else the old one alone.
            let any: [std::net::IpAddr; 2] =
                [std::net::Ipv6Addr::UNSPECIFIED.into(), std::net::Ipv4Addr::UNSPECIFIED.into()];
            return Ok(any.into_iter().map(|ip| SocketAddr::new(ip, self.port)).collect());
        }
        Ok((self.host.as_str(), self.port).to_socket_addrs()?.collect())
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A bound, listening socket.
pub enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Socket {
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(listener) => listener.as_fd(),
            Socket::Unix(listener) => listener.as_fd(),
        }
    }

    /// For the log.
    pub fn address(&self) -> String {
        match self {
            Socket::Tcp(listener) => listener.local_addr().map(|address| address.to_string()).unwrap_or_default(),
            Socket::Unix(listener) => {
                let address = listener.local_addr().ok();
                let path = address.as_ref().and_then(|address| address.as_pathname());
                path.map(|path| format!("unix:{}", path.display())).unwrap_or_default()
            }
        }
    }
}

/// Opens a socket on the first of the address's candidates that the machine has.
///
/// Errors: one line that names the address and, for a port in use, what to do.
pub fn open(address: &ListenAddress) -> Result<Socket, String> {
    let candidates = address
        .candidates()
        .map_err(|error| format!("cannot listen on {address}: the host has no address ({error}); see --address"))?;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for candidate in candidates {
        match TcpListener::bind(candidate) {
            Ok(listener) => return Ok(Socket::Tcp(prepared(listener).map_err(|error| error.to_string())?)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(in_use(address)),
            Err(error) => last = error,
        }
    }
    Err(format!("cannot listen on {address}: {last}; give an address of this machine with --address"))
}

fn in_use(address: &ListenAddress) -> String {
    format!(
        "cannot listen on {address}: port {port} is in use; another exporter may be running ('ss -ltnp sport = :{port}' \
         names it). Stop it, or give another port with --address",
        port = address.port
    )
}

/// Takes the sockets that systemd passes.
///
/// Errors: there are none.
pub fn from_systemd() -> Result<Vec<Socket>, String> {
    let mut passed = listenfd::ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..passed.len() {
        if let Ok(Some(listener)) = passed.take_tcp_listener(index) {
            sockets.push(Socket::Tcp(prepared(listener).map_err(|error| error.to_string())?));
        } else if let Ok(Some(listener)) = passed.take_unix_listener(index) {
            listener.set_nonblocking(true).map_err(|error| error.to_string())?;
            sockets.push(Socket::Unix(listener));
        }
    }
    if sockets.is_empty() {
        return Err(
            "--web-systemd-socket: systemd passed no listening socket; start the exporter through a socket unit, \
                    or leave the flag out"
                .to_owned(),
        );
    }
    Ok(sockets)
}

/// Accepted sockets inherit TCP_NODELAY. Without waiting, because one thread looks after everything.
fn prepared(listener: TcpListener) -> io::Result<TcpListener> {
    // A full queue costs a normal client a second, until its system asks again; std's queue is short.
    const QUEUE: i32 = 4096;
    rustix::net::listen(&listener, QUEUE)?;
    rustix::net::sockopt::set_tcp_nodelay(&listener, true)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, host, port) in
            [(":9400", "", 9400), ("127.0.0.1:1", "127.0.0.1", 1), ("[::1]:9400", "::1", 9400), ("gpu7:0", "gpu7", 0)]
        {
            let address = ListenAddress::parse(text).unwrap();
            assert_eq!((address.host.as_str(), address.port), (host, port));
            assert_eq!(address.to_string(), text);
        }
        for text in ["", "9400", ":", ":x", ":-1", ":65536", "::1:9400", "[::1]", "[x]:9400", "[::1:9400"] {
            assert!(ListenAddress::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_port_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let address = ListenAddress { host: "127.0.0.1".into(), port };
        let Err(error) = open(&address) else { panic!("opened twice") };
        assert!(error.contains(&format!("port {port} is in use")), "{error}");
    }
}
