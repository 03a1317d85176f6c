//! Where to serve: TCP addresses and Unix sockets.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// From the connection, or the first byte of a further request, to the end of a request's head.
    pub read: Duration,
    /// From there to the end of the answer.
    pub write: Duration,
}

/// One place to listen at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// `HOST:PORT`. An empty host is every address of the machine, of both families.
    Tcp {
        /// Without brackets.
        host: String,
        port: u16,
    },
    /// `unix:///PATH?mode=0660&group=NAME`
    Unix { path: PathBuf, mode: u32, group: Option<String> },
}

/// Root and the socket's group may connect.
const SOCKET_MODE: u32 = 0o660;

impl ListenAddress {
    /// Errors: what would be right, for the end of a message that already names the flag and the value.
    pub fn parse(text: &str) -> Result<ListenAddress, String> {
        match (text.strip_prefix("unix://"), text.strip_prefix("unix:")) {
            (Some(rest), _) => unix(rest),
            (None, Some(path)) if path.starts_with('/') => Err(format!("write unix://{path}")),
            _ => tcp(text),
        }
    }
}

fn tcp(text: &str) -> Result<ListenAddress, String> {
    const FORMS: &str = "expected [HOST]:PORT such as :9400, 127.0.0.1:9400 or [::1]:9400, or unix:///PATH";
    let (host, port) = text.rsplit_once(':').ok_or(FORMS)?;
    let port = port.parse().map_err(|_| format!("'{port}' is not a port (0 to 65535); {FORMS}"))?;
    let host = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
        Some(Some(inside)) if is_ipv6(inside) => inside,
        Some(_) => return Err(format!("{host} is not an IPv6 address in brackets; {FORMS}")),
        None if host.contains(':') => return Err(format!("an IPv6 address is written in brackets; {FORMS}")),
        None => host,
    };
    Ok(ListenAddress::Tcp { host: host.to_owned(), port })
}

/// Whether this is an IPv6 address, perhaps with the interface at which it is valid, as in `fe80::1%eth0`.
fn is_ipv6(text: &str) -> bool {
    let (address, interface) = text.split_once('%').unwrap_or((text, "any"));
    address.parse::<std::net::Ipv6Addr>().is_ok() && !interface.is_empty()
}

fn unix(text: &str) -> Result<ListenAddress, String> {
    const FORMS: &str = "expected unix:///PATH, and optionally ?mode=0660&group=NAME";
    let (path, options) = text.split_once('?').unwrap_or((text, ""));
    if !path.starts_with('/') || path.ends_with('/') {
        return Err(format!("the path of a socket is absolute and names a file; {FORMS}"));
    }
    let (mut mode, mut group) = (SOCKET_MODE, None);
    for option in options.split('&').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("mode", octal)) => {
                let bits = u32::from_str_radix(octal, 8).ok().filter(|bits| *bits <= 0o777);
                mode = bits.ok_or_else(|| format!("'{octal}' is not a mode such as 0660; {FORMS}"))?;
            }
            Some(("group", name)) if !name.is_empty() => group = Some(name.to_owned()),
            _ => return Err(format!("'{option}' is not an option of a socket; {FORMS}")),
        }
    }
    Ok(ListenAddress::Unix { path: PathBuf::from(path), mode, group })
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            ListenAddress::Tcp { host, port } => write!(f, "{host}:{port}"),
            ListenAddress::Unix { path, .. } => write!(f, "unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, host, port) in [
            (":9400", "", 9400),
            ("127.0.0.1:1", "127.0.0.1", 1),
            ("[::1]:9400", "::1", 9400),
            ("[fe80::1%eth0]:9400", "fe80::1%eth0", 9400),
            ("gpu7:0", "gpu7", 0),
        ] {
            let address = ListenAddress::parse(text).unwrap();
            assert_eq!(address, ListenAddress::Tcp { host: host.to_owned(), port });
            assert_eq!(address.to_string(), text);
        }
        for (text, mode, group) in [
            ("unix:///run/x.sock", 0o660, None),
            ("unix:///run/x.sock?mode=0600", 0o600, None),
            ("unix:///run/x.sock?mode=666&group=prometheus", 0o666, Some("prometheus".to_owned())),
        ] {
            let path = PathBuf::from("/run/x.sock");
            assert_eq!(ListenAddress::parse(text), Ok(ListenAddress::Unix { path, mode, group }), "{text}");
        }
        for text in [
            "",
            "9400",
            ":",
            ":x",
            ":-1",
            ":65536",
            "::1:9400",
            "[::1]",
            "[x]:9400",
            "[fe80::1%]:9400",
            "[10.0.0.1%eth0]:9400",
            "[::1:9400",
            "unix://run/x",
            "unix:///",
            "unix:///run/",
            "unix:///x?mode=9",
            "unix:///x?mode=7777",
            "unix:///x?owner=root",
            "unix:///x?group=",
        ] {
            assert!(ListenAddress::parse(text).is_err(), "{text}");
        }
        let error = ListenAddress::parse("unix:/run/x.sock?mode=0600").unwrap_err();
        assert_eq!(error, "write unix:///run/x.sock?mode=0600");
    }
}
