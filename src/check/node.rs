//! What `--check` can tell of the node without DCGM: driver, permissions, other exporters, port, job map, hostname.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::Host;
use super::answers::Answers;
use crate::config::Config;
use crate::config::engine::EngineSelection;
use crate::config::listen::ListenAddress;
use crate::counters::{Counters, PROFILING, Source};
use crate::inventory::hostname;
use crate::jobs;
use crate::server::tls;
use crate::server::web_config::WebConfig;
use crate::watcher;

/// Capability 21 lets a process read profiling fields.
const CAP_SYS_ADMIN: u32 = 21;
const HTTP_TIMEOUT: Duration = Duration::from_secs(3);
/// More than any page has.
const LONGEST_PAGE: u64 = 64 * 1024 * 1024;

/// Whether the engine, and with it the driver, is somewhere else.
fn is_elsewhere(config: &Config) -> bool {
    matches!(config.engine, EngineSelection::Remote(_))
}

/// Whether the kernel has NVIDIA's driver. Returns how many GPUs it has for use, where that can be told.
pub fn driver(host: &Host, config: &Config, answers: &mut Answers) -> Option<usize> {
    const QUESTION: &str = "driver";
    let directory = host.root.join("proc/driver/nvidia");
    let version = fs::read_to_string(directory.join("version")).ok().and_then(|text| driver_version(&text));
    let Some(version) = version else {
        let found = "no NVIDIA driver is loaded (/proc/driver/nvidia/version is not there)";
        match is_elsewhere(config) {
            true => {
                answers.ok(QUESTION, format!("{found}; the engine is a host engine's, which may be on another node"));
            }
            false => {
                answers.fail(
                    QUESTION,
                    found,
                    "install it, or load it: modprobe nvidia; then nvidia-smi shows the GPUs",
                );
            }
        }
        return None;
    };
    let information = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("information")).unwrap_or_default();
    let gpus: Vec<String> =
        fs::read_dir(directory.join("gpus")).into_iter().flatten().flatten().map(information).collect();
    let excluded = gpus.iter().filter(|text| text.lines().any(is_excluded)).count();
    match (gpus.len(), excluded) {
        (0, _) => answers.fail(
            QUESTION,
            format!("{version}, but it has no GPU"),
            "look for the reason in the kernel log: dmesg | grep -i nvrm",
        ),
        (all, 0) => answers.ok(QUESTION, format!("{version}; GPUs: {all}")),
        (all, excluded) => answers.warn(
            QUESTION,
            format!("{version}; GPUs: {all}, of which {excluded} are excluded"),
            "they were excluded on purpose (NVreg_ExcludedGpus); DCGM does not see them",
        ),
    }
    Some(gpus.len() - excluded)
}

/// `NVRM version: NVIDIA UNIX ... 580.65.06 ...`: the first word that is digits and dots.
fn driver_version(text: &str) -> Option<String> {
    let is_version = |word: &&str| {
        word.contains('.') && word.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
    };
    text.lines().next()?.split_whitespace().find(is_version).map(str::to_owned)
}

fn is_excluded(line: &str) -> bool {
    line.split_once(':').is_some_and(|(key, value)| key == "GPU Excluded" && value.trim() == "Yes")
}

/// Whether this user may use the GPUs, and read profiling fields.
pub fn permissions(host: &Host, config: &Config, counters: &Counters, answers: &mut Answers) {
    const QUESTION: &str = "permissions";
    if is_elsewhere(config) {
        answers.ok(QUESTION, "none are needed by a client of a host engine");
        return;
    }
    let before = answers.iter().count();
    let closed: Vec<String> = device_nodes(&host.root.join("dev"))
        .into_iter()
        .filter(|path| {
            rustix::fs::access(path.as_path(), rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK).is_err()
        })
        .map(|path| path.display().to_string())
        .collect();
    if !closed.is_empty() {
        answers.fail(
            QUESTION,
            format!("this user may not open {}", closed.join(", ")),
            "run as root, as the unit does, or give the user read and write access to them",
        );
    }
    let wants_profiling =
        counters.rows.iter().any(|row| matches!(row.source, Source::Field(field) if PROFILING.contains(&field.id)));
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if wants_profiling && !has_capability(&status, CAP_SYS_ADMIN) {
        answers.warn(
            QUESTION,
            "this user has no CAP_SYS_ADMIN, which DCGM_FI_PROF_* fields take in an embedded engine",
            "check as root, as the unit runs: sudo dcgm-exporter --check; or use the node's host engine: -r auto",
        );
    }
    if answers.iter().count() == before {
        answers.ok(QUESTION, "sufficient");
    }
}

/// `/dev/nvidiactl` and `/dev/nvidia<N>`.
fn device_nodes(directory: &Path) -> Vec<std::path::PathBuf> {
    let is_node = |name: &str| {
        let rest = name.strip_prefix("nvidia").unwrap_or_default();
        rest == "ctl" || (!rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_str().is_some_and(is_node)).map(|entry| entry.path()).collect()
}

fn has_capability(status: &str, capability: u32) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|set| set >> capability & 1 == 1)
}

/// Ids of processes of this name, without our own.
pub fn processes(root: &Path, name: &str) -> Vec<u32> {
    let entries = fs::read_dir(root.join("proc")).into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_it = |pid: &u32| {
        // The kernel cuts names to 15 bytes.
        let comm = fs::read_to_string(root.join(format!("proc/{pid}/comm"))).unwrap_or_default();
        *pid != std::process::id() && comm.trim_end() == &name[..name.len().min(15)]
    };
    pids.filter(is_it).collect()
}

pub fn listed(pids: &[u32]) -> String {
    pids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

/// Other processes that export.
pub fn exporters(host: &Host, answers: &mut Answers) {
    const QUESTION: &str = "other exporters";
    match &processes(&host.root, "dcgm-exporter")[..] {
        [] => answers.ok(QUESTION, "no process is called dcgm-exporter"),
        [one] => answers.ok(QUESTION, format!("one process is called dcgm-exporter: {one}")),
        several => answers.warn(
            QUESTION,
            format!("{} processes are called dcgm-exporter: {}", several.len(), listed(several)),
            "one is enough for a node, and each embedded engine costs memory; stop the others",
        ),
    }
}

/// Whether the web configuration can be used.
pub fn web(config: &Config, answers: &mut Answers) {
    const QUESTION: &str = "web configuration";
    let Some(file) = &config.web_config else { return };
    match WebConfig::read(file) {
        Ok(web) => {
            for warning in &web.warnings {
                answers.warn(QUESTION, warning.clone(), "leave it out, or see the README on TLS");
            }
            let scheme = if web.tls.is_some() { "HTTPS" } else { "HTTP" };
            answers.ok(QUESTION, format!("{}: {scheme}, users: {}", file.display(), web.users.len()));
        }
        Err(problems) => {
            for problem in problems {
                answers.fail(QUESTION, problem, "correct it; the format is exporter-toolkit's");
            }
        }
    }
}

/// Whether each address is free or served by this exporter, and what the exporter there says of itself.
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
            answers.ok(QUESTION, format!("{shown} is left from a process that has ended; it is replaced at the start"));
        }
        Err(error) => answers.warn(QUESTION, format!("{shown}: {error}"), "run the check as root"),
        Ok(stream) => match exchange(stream, "/health", "localhost") {
            Some(health) if is_health(&health) => {
                answers.ok(QUESTION, format!("{shown} is served by this exporter"));
                running(&health, answers);
            }
            _ => answers.warn(QUESTION, format!("{shown} is served, but does not say by whom"), "stop what serves it"),
        },
    }
}

fn tcp_port(host: &Host, config: &Config, (address, name, port): (&ListenAddress, &str, u16), answers: &mut Answers) {
    const QUESTION: &str = "port";
    let Some(ip) = local_ip(name) else {
        answers.fail(QUESTION, format!("the host of {address} has no address"), "correct --address");
        return;
    };
    if port == 0 {
        answers.ok(QUESTION, "any free one");
        return;
    }
    // Port 0 of the address: whether the machine has it, without taking anything from anybody.
    if !ip.is_unspecified() && TcpListener::bind(SocketAddr::new(ip, 0)).is_err() {
        answers.fail(QUESTION, format!("{ip} is no address of this node"), "correct --address");
        return;
    }
    let Some(socket) = listener(&host.root, port) else {
        match config.systemd_socket {
            true => answers.warn(
                QUESTION,
                format!("nobody listens on {port}, which systemd is to pass"),
                "systemctl enable --now dcgm-exporter.socket",
            ),
            false => answers.ok(QUESTION, format!("{port} is free")),
        }
        return;
    };
    // Asking would have systemd start the exporter.
    if config.systemd_socket && processes(&host.root, "dcgm-exporter").is_empty() {
        answers.ok(QUESTION, format!("systemd holds {port} until somebody asks for metrics"));
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
        // A page that is stale is not shown, but health speaks all the same.
        None if is_health(&health) => {
            answers.ok(QUESTION, format!("{port} is served by this exporter{holder}"));
            running(&health, answers);
        }
        None if is_guarded && owner.is_some_and(|owner| owner.starts_with("dcgm-exporter,")) => {
            answers
                .ok(QUESTION, format!("{port} is served with TLS or a password{holder}; its state was not asked for"));
        }
        None => answers.fail(
            QUESTION,
            format!("{port} is taken by another program{holder}"),
            format!("stop it ('ss -ltnp sport = :{port}' names it), or give another port with --address"),
        ),
    }
}

fn is_health(text: &str) -> bool {
    watcher::STATES.iter().chain(&["stale"]).any(|state| text.trim_start_matches("OK\n").starts_with(state))
}

/// What the exporter that is running says of itself.
fn running(health: &str, answers: &mut Answers) {
    const QUESTION: &str = "running exporter";
    let health = health.trim();
    match health.strip_prefix("OK\n") {
        Some(state) if state.starts_with("running") => answers.ok(QUESTION, state),
        Some(state) => answers.warn(QUESTION, state, "its log says since when: journalctl -u dcgm-exporter"),
        None => answers.fail(QUESTION, health, "its log says since when: journalctl -u dcgm-exporter"),
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

/// The inode of a socket that listens on this port, whatever its address: only reading tells without taking the port.
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

/// Name and id of a process that holds a socket, as far as this user may see. systemd holds the sockets that it passes, so
/// any other comes first.
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

/// Whether the job map can be read, and by nobody but root written.
pub fn job_map(config: &Config, answers: &mut Answers) {
    const QUESTION: &str = "job map";
    let Some(directory) = &config.job_map else {
        answers.ok(QUESTION, "not asked for (--hpc-job-mapping-dir)");
        return;
    };
    let shown = directory.display();
    let metadata = match fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => metadata,
        Ok(_) => {
            answers.fail(QUESTION, format!("{shown} is no directory"), "correct --hpc-job-mapping-dir");
            return;
        }
        Err(error) => {
            answers.warn(
                QUESTION,
                format!("{shown}: {error}"),
                "systemd-tmpfiles --create dcgm-exporter.conf makes it, as every boot does",
            );
            return;
        }
    };
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o022 != 0 {
        answers.warn(
            QUESTION,
            format!("{shown} has mode {mode:04o}: others than its owner may change whose job a GPU is said to have"),
            format!("chmod 0755 {shown}"),
        );
    }
    if metadata.uid() != 0 {
        answers.warn(QUESTION, format!("{shown} belongs to user {}", metadata.uid()), format!("chown root: {shown}"));
    }
    let scan = jobs::scan(directory);
    for problem in &scan.problems {
        answers.warn(QUESTION, problem.clone(), "remove it; prolog and epilog write whole files");
    }
    answers.ok(QUESTION, format!("{shown}, {}", scan.map.summary()));
}

/// Whether the hostname label tells nodes apart.
pub fn hostname(config: &Config, answers: &mut Answers) {
    const QUESTION: &str = "hostname label";
    if config.no_hostname {
        answers.ok(QUESTION, "left out (--no-hostname)");
        return;
    }
    let name = hostname::of(config);
    let is_loopback = name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match name.as_str() {
        "" => answers.warn(QUESTION, "it would be empty", "give the engine's address with its host: -r HOST:5555"),
        "localhost" | "localhost.localdomain" | "(none)" => same_everywhere(config, &name, answers),
        _ if is_loopback => same_everywhere(config, &name, answers),
        _ => answers.ok(QUESTION, format!("{}=\"{name}\"", config.hostname_label)),
    }
}

fn same_everywhere(config: &Config, name: &str, answers: &mut Answers) {
    let mend = match is_elsewhere(config) {
        true => "give the node's name with --hostname, or reach its engine by -r auto",
        false => "give the node a name (hostnamectl hostname NAME), or set NODE_NAME",
    };
    answers.warn("hostname label", format!("{}=\"{name}\", the same on every node", config.hostname_label), mend);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_is_read_from_proc() {
        let text =
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build\nGCC version: x\n";
        assert_eq!(driver_version(text).as_deref(), Some("580.159.04"));
        assert_eq!(driver_version("NVRM version: x86_64 ."), None);
        assert!(is_excluded("GPU Excluded:\t Yes") && !is_excluded("GPU Excluded:\t No"));
    }

    #[test]
    fn capabilities_are_read_from_status() {
        assert!(has_capability("Name:\tx\nCapEff:\t000001fffeffffff\n", CAP_SYS_ADMIN));
        assert!(!has_capability("CapEff:\t0000000000000000\n", CAP_SYS_ADMIN));
        assert!(!has_capability("", CAP_SYS_ADMIN));
    }

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
