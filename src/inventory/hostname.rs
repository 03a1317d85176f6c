//! The value of the hostname label, which follows from where the engine is.

use std::net::IpAddr;

use crate::config::Config;
use crate::config::engine::{Address, EngineSelection};
use crate::system;

/// What the label says with these settings; empty leaves it out.
pub fn of(config: &Config) -> String {
    match &config.hostname {
        _ if config.no_hostname => String::new(),
        Some(name) => name.clone(),
        None => resolve(&config.engine, std::env::var("NODE_NAME").ok()),
    }
}

/// What names this node where the label may be left out.
pub fn of_node(config: &Config) -> String {
    Some(of(config)).filter(|name| !name.is_empty()).unwrap_or_else(system::node_name)
}

/// The node's name for samples of an engine on this node: embedded, behind a Unix socket or a loopback address, or
/// whichever of them `auto` finds. For an engine elsewhere the host part of its address. As dcgm-exporter has it from
/// 4.8.3 on; until then it said `localhost`. `NODE_NAME`, if set, wins locally.
fn resolve(engine: &EngineSelection, node_name: Option<String>) -> String {
    match engine {
        EngineSelection::Remote(Address::Tcp(address)) if !is_loopback(&host_of(address)) => host_of(address),
        EngineSelection::Remote(_) | EngineSelection::Embedded | EngineSelection::Auto(_) => {
            node_name.filter(|name| !name.is_empty()).unwrap_or_else(system::node_name)
        }
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The part before the port, or the whole text if it cannot be told apart.
fn host_of(address: &str) -> String {
    if let Some((bracketed, _port)) = address.strip_prefix('[').and_then(|rest| rest.split_once("]:")) {
        return bracketed.to_owned();
    }
    match address.split_once(':') {
        Some((host, port)) if !port.contains(':') => host.to_owned(),
        _ => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peers_table() {
        let table: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/golden/remote-hostname.json")).unwrap();
        let cases = table["cases"].as_array().unwrap();
        assert!(cases.len() > 15);
        for case in cases {
            let text = case["remote_hostengine_info"].as_str().unwrap();
            // Sockets and the empty address are ours to decide: the peer knows neither.
            if text.starts_with("unix:") || text.is_empty() {
                continue;
            }
            assert_eq!(host_of(text), case["hostname"].as_str().unwrap(), "{text}");
        }
    }

    #[test]
    fn local_engines_have_the_nodes_name() {
        let tcp = Address::Tcp("gpu1:5555".into());
        assert!(!resolve(&EngineSelection::Embedded, Some(String::new())).is_empty());
        for (engine, name) in [
            (EngineSelection::Embedded, "node7"),
            (EngineSelection::Remote(Address::Unix("/run/x".into())), "node7"),
            (EngineSelection::Auto(vec![tcp.clone()]), "node7"),
            (EngineSelection::Remote(tcp), "gpu1"),
            (EngineSelection::Remote(Address::Tcp("localhost:5555".into())), "node7"),
            (EngineSelection::Remote(Address::Tcp("127.9.0.1".into())), "node7"),
            (EngineSelection::Remote(Address::Tcp("[::1]:5555".into())), "node7"),
            (EngineSelection::Remote(Address::Tcp("[2001:db8::1]:5555".into())), "2001:db8::1"),
            (EngineSelection::Remote(Address::Tcp("128.0.0.1:5555".into())), "128.0.0.1"),
        ] {
            assert_eq!(resolve(&engine, Some("node7".into())), name, "{engine:?}");
        }
    }
}
