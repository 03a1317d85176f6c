//! The value of the hostname label.

use crate::dcgm::Address;

/// The node's name for samples of an embedded engine or of one behind a Unix socket; for a remote engine the host
/// part of its address, as dcgm-exporter has it. `NODE_NAME`, if set, wins locally.
pub fn resolve(remote: Option<&Address>, node_name: Option<String>) -> String {
    match remote {
        Some(Address::Tcp(address)) => host_of(address),
        Some(Address::Unix(_)) | None => node_name
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned()),
    }
}

/// What stands before the port, or the whole text where there is no telling.
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
            serde_json::from_str(include_str!("../tests/golden/remote-hostname.json")).unwrap();
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
        assert_eq!(resolve(None, Some("node7".into())), "node7");
        assert!(!resolve(None, Some(String::new())).is_empty());
        let socket = Address::Unix("/run/x".into());
        assert_eq!(resolve(Some(&socket), Some("node7".into())), "node7");
        assert_eq!(resolve(Some(&Address::Tcp("gpu1:5555".into())), Some("node7".into())), "gpu1");
    }
}
