//! What `--check` asks of the addresses to serve on: whether each is free or served, by which process, and what the
//! exporter there reports on `/health`.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::Host;
use super::answers::Answers;
use super::node::processes;
use crate::config::Config;
use crate::config::listen::ListenAddress;
use crate::server::tls;
use crate::watcher;

const HTTP_TIMEOUT: Duration = Duration::from_secs(3);
/// More than any page has.
const LONGEST_PAGE: u64 = 64 * 1024 * 1024;

/// Whether each address is free or served by this exporter, and the state that an exporter there reports.
pub fn addresses(host: &Host, config: &Config, answers: &mut Answers) {
    for address in &config.listen {
        match address {
            ListenAddress::Tcp { host: name, port } => tcp_port(host, config, (address, name, *port), answers),
            ListenAddress::Unix { path, .. } => unix_socket(path, answers),
        }
    }
}

fn unix_socket(path: &Path, answers: &mut Answers) {
    const QUESTION: &str = "socket";
    let shown = path.display();
    match UnixStream::connect(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => answers.ok(QUESTION, format!("{shown} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            answers.ok(
                QUESTION,
                format!("{shown} is left from a process that has ended; the exporter replaces it when it starts"),
            );
        }
        Err(error) => answers.warn(QUESTION, format!("{shown}: {error}"), "run the check as root"),
        Ok(stream) => match exchange(stream, "/health", "localhost") {
            Some(health) if is_health(&health) => {
                answers.ok(QUESTION, format!("{shown} is served by this exporter"));
                running(&health, answers);
            }
            _ => answers.warn(
                QUESTION,
                format!("{shown} is served by another program"),
                "stop that program, or give another path with --address",
            ),
        },
    }
}

fn tcp_port(host: &Host, config: &Config, (address, name, port): (&ListenAddress, &str, u16), answers: &mut Answers) {
    const QUESTION: &str = "port";
    let Some(ip) = local_ip(name) else {
        answers.fail(QUESTION, format!("the host of {address} has no IP address"), "correct --address");
        return;
    };
    if port == 0 {
        answers.ok(QUESTION, "any free port");
        return;
    }
    // Port 0 of the address: whether the machine has it, without taking anything from anybody.
    if !ip.is_unspecified() && TcpListener::bind(SocketAddr::new(ip, 0)).is_err() {
        answers.fail(QUESTION, format!("{ip} is not an address of this node"), "correct --address");
        return;
    }
    let Some(socket) = listener(&host.root, port) else {
        match config.systemd_socket {
            true => answers.warn(
                QUESTION,
                format!("nothing listens on {port}, which systemd should pass"),
                "systemctl enable --now dcgm-exporter.socket",
            ),
            false => answers.ok(QUESTION, format!("{port} is free")),
        }
        return;
    };
    // Asking would have systemd start the exporter.
    if config.systemd_socket && processes(&host.root, "dcgm-exporter").is_empty() {
        answers.ok(QUESTION, format!("systemd holds {port} and starts the exporter at the first request"));
        return;
    }
    let target = if ip.is_unspecified() { IpAddr::from(Ipv4Addr::LOCALHOST) } else { ip };
    let target = SocketAddr::new(target, port);
    let page = get(target, "/metrics").unwrap_or_default();
    let health = get(target, "/health").unwrap_or_default();
    let owner = owner(&host.root, socket);
    let holder = owner.as_ref().map_or_else(String::new, |owner| format!(" ({owner})"));
    let version =
        page.lines().find_map(|line| line.strip_prefix("dcgm_exporter_build_info{version=\"")?.strip_suffix("\"} 1"));
    let is_guarded = page == tls::HTTP_TO_HTTPS || page == "Unauthorized\n";
    match version {
        Some(version) => {
            answers.ok(QUESTION, format!("{port} is served by this exporter, version {version}{holder}"));
            running(&health, answers);
        }
        // A stale page is not shown, but /health is.
        None if is_health(&health) => {
            answers.ok(QUESTION, format!("{port} is served by this exporter{holder}"));
            running(&health, answers);
        }
        None if is_guarded && owner.is_some_and(|owner| owner.starts_with("dcgm-exporter,")) => {
            answers.ok(QUESTION, format!("{port} is served with TLS or a password{holder}; its state was not read"));
        }
        None => answers.fail(
            QUESTION,
            format!("{port} is in use by another program{holder}"),
            format!("stop it ('ss -ltnp sport = :{port}' names it), or give another port with --address"),
        ),
    }
}

fn is_health(text: &str) -> bool {
    watcher::STATES.iter().chain(&["stale"]).any(|state| text.trim_start_matches("OK\n").starts_with(state))
}

/// The state that the running exporter reports.
fn running(health: &str, answers: &mut Answers) {
    const QUESTION: &str = "running exporter";
    let health = health.trim();
    match health.strip_prefix("OK\n") {
        Some(state) if state.starts_with("running") => answers.ok(QUESTION, state),
        Some(state) => answers.warn(QUESTION, state, "see its log: journalctl -u dcgm-exporter"),
        None => answers.fail(QUESTION, health, "see its log: journalctl -u dcgm-exporter"),
    }
}

fn local_ip(host: &str) -> Option<IpAddr> {
    use std::net::ToSocketAddrs;
    match host {
        "" => Some(IpAddr::from(Ipv6Addr::UNSPECIFIED)),
        "localhost" => Some(IpAddr::from(Ipv4Addr::LOCALHOST)),
        host => (host, 0).to_socket_addrs().ok()?.next().map(|address| address.ip()),
    }
}

/// The inode of a socket that listens on this port, at any address. Read from /proc, so that the port is not taken.
fn listener(root: &Path, port: u16) -> Option<u64> {
    const LISTEN: &str = "0A";
    let tables = ["proc/net/tcp", "proc/net/tcp6"].map(|file| fs::read_to_string(root.join(file)).unwrap_or_default());
    let inode_of = |line: &str| {
        // sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (_, local_port) = columns.get(1)?.rsplit_once(':')?;
        let is_it = *columns.get(3)? == LISTEN && u16::from_str_radix(local_port, 16) == Ok(port);
        if is_it { columns.get(9)?.parse().ok() } else { None }
    };
    tables.iter().flat_map(|table| table.lines().skip(1)).find_map(inode_of)
}

/// Name and id of a process that holds a socket, as far as this user may see. systemd holds the sockets that it passes,
/// so any other comes first.
fn owner(root: &Path, inode: u64) -> Option<String> {
    let wanted = format!("socket:[{inode}]");
    let pids = fs::read_dir(root.join("proc")).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let holds = |pid: &String| {
        let files = fs::read_dir(root.join("proc").join(pid).join("fd")).into_iter().flatten().flatten();
        files.into_iter().any(|file| fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == wanted.as_str()))
    };
    let is_process = |name: &String| name.bytes().all(|byte| byte.is_ascii_digit());
    let mut holders: Vec<String> = pids.filter(is_process).filter(holds).collect();
    holders.sort_by_key(|pid| pid == "1");
    let pid = holders.first()?;
    let name = fs::read_to_string(root.join("proc").join(pid).join("comm")).unwrap_or_default();
    Some(format!("{}, process {pid}", name.trim_end()))
}

/// The body that a path answers, of any status.
fn get(target: SocketAddr, path: &str) -> Option<String> {
    let stream = TcpStream::connect_timeout(&target, HTTP_TIMEOUT).ok()?;
    stream.set_read_timeout(Some(HTTP_TIMEOUT)).ok()?;
    stream.set_write_timeout(Some(HTTP_TIMEOUT)).ok()?;
    exchange(stream, path, &target.to_string())
}

fn exchange(mut stream: impl Read + Write, path: &str, host: &str) -> Option<String> {
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.take(LONGEST_PAGE).read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8(answer).ok()?;
    Some(answer.split_once("\r\n\r\n")?.1.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_found_without_touching_its_port() {
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listening.local_addr().unwrap().port();
        let inode = listener(Path::new("/"), port).expect("it listens");
        assert!(owner(Path::new("/"), inode).expect("it is ours").contains(&std::process::id().to_string()));
        drop(listening);
        assert_eq!(listener(Path::new("/"), port), None);
    }
}
