//! The grammar of `-r`: which DCGM engine to use, and how the address of a host engine is written.

use super::flag::Refusal;
use crate::config::engine::{Address, DEFAULT_PORT, EngineSelection, usual_places};

/// Parses a selection of an engine: nothing, an address, `auto`, or `auto,ADDRESS,...`.
///
/// Errors: what would be right.
pub fn parse(text: &str) -> Result<EngineSelection, Refusal> {
    let text = text.trim();
    match text.strip_prefix("auto") {
        _ if text.is_empty() => Ok(EngineSelection::Embedded),
        Some("") => Ok(EngineSelection::Auto(usual_places())),
        Some(list) if list.starts_with(',') => {
            let places: Result<Vec<Address>, Refusal> = list[1..].split(',').map(address).collect();
            Ok(EngineSelection::Auto(places?))
        }
        _ => Ok(EngineSelection::Remote(address(text)?)),
    }
}

fn address(text: &str) -> Result<Address, Refusal> {
    const FORMS: &str = "expected HOST:PORT, [V6]:PORT, unix:///PATH or auto, such as localhost:5555";
    let text = text.trim();
    if text.is_empty() {
        return Err(Refusal::Value(FORMS.to_owned()));
    }
    if let Some(path) = text.strip_prefix("unix://") {
        return match path.starts_with('/') {
            true => Ok(Address::Unix(path.to_owned())),
            false => Err(Refusal::Value(format!("a socket's path is absolute; {FORMS}"))),
        };
    }
    if let Some(path) = text.strip_prefix("unix:").filter(|path| path.starts_with('/')) {
        return Err(Refusal::Value(format!("write unix://{path}")));
    }
    if text.starts_with("vsock://") {
        return Err(Refusal::Value(
            "libdcgm is not known to connect over VSOCK; make the host engine listen on TCP or a Unix socket, and give \
             HOST:PORT or unix:///PATH"
                .to_owned(),
        ));
    }
    let text = text.strip_prefix("tcp://").unwrap_or(text);
    if text.is_empty() || text.contains("://") {
        return Err(Refusal::Value(FORMS.to_owned()));
    }
    // A bare IPv6 address means DCGM's own port; libdcgm would take its last group for one.
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if bare.parse::<std::net::Ipv6Addr>().is_ok() {
        return Ok(Address::Tcp(format!("[{bare}]:{DEFAULT_PORT}")));
    }
    match text.rsplit_once(':') {
        Some((_, "")) | None => {}
        Some((_, port)) => match port.parse::<u16>() {
            Ok(1..) => {}
            _ => return Err(Refusal::Value(format!("'{port}' is not a port (1 to 65535); {FORMS}"))),
        },
    }
    Ok(Address::Tcp(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let tcp = |text: &str| Address::Tcp(text.to_owned());
        for (text, expected) in [
            ("host", tcp("host")),
            ("host:5555 ", tcp("host:5555")),
            ("tcp://host:1", tcp("host:1")),
            ("[::1]:5555", tcp("[::1]:5555")),
            ("[::1]", tcp("[::1]:5555")),
            ("2001:db8::1", tcp("[2001:db8::1]:5555")),
        ] {
            assert_eq!(address(text).unwrap(), expected, "{text}");
        }
        for text in ["", "host:x", "host:0", "host:70000", "unix://run/x", "vsock://3:5555"] {
            assert!(address(text).is_err(), "{text}");
        }
    }
}
