//! What `--check` asks of the addresses to serve on: whether each is free or served, by which process, and what the
//! exporter there reports on `/health`.
//!
//! Ports from 1024 up are anybody's, so an answer proves nothing: first the socket's owner is looked up, and only a
//! process that runs this program's file is taken for this exporter. [`super::owner`] says who it is.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Host;
use super::answers::Answers;
use super::node::processes;
use super::owner::{self, Owner};
use crate::config::Config;
use crate::config::listen::ListenAddress;
use crate::server::tls;
use crate::watcher;

/// For one exchange from connect to the last byte, however slowly the bytes come.
const HTTP_TIMEOUT: Duration = Duration::from_secs(3);
/// More than the page of 16 GPUs with all fields has. What is behind it is not read.
const LONGEST_ANSWER: u64 = 1024 * 1024;

/// Whether each address is free or served by this exporter, and the state that an exporter there reports.
pub fn addresses(host: &Host, config: &Config, service: Option<u32>, answers: &mut Answers) {
    for address in &config.listen {
        match address {
            ListenAddress::Tcp { host: name, port } => tcp_port(host, config, (address, name, *port), service, answers),
            ListenAddress::Unix { path, .. } => unix_socket(host, path, service, answers),
        }
    }
}

fn unix_socket(host: &Host, path: &Path, service: Option<u32>, answers: &mut Answers) {
    const QUESTION: &str = "socket";
    let shown = path.display().to_string();
    match UnixStream::connect(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => answers.ok(QUESTION, format!("{shown} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            answers.ok(
                QUESTION,
                format!("{shown} is left from a process that has ended; the exporter replaces it at its start"),
            );
        }
        Err(error) => answers.warn(QUESTION, format!("{shown}: {error}"), "run the check as root"),
        Ok(stream) => {
            let owner = owner::of_unix_socket(&host.root, &stream, path, service);
            drop(stream);
            let ask = |what: &str| exchange(UnixStream::connect(path).ok()?, what, "localhost");
            let fix = "stop that program, or give another path with --address".to_owned();
            served(QUESTION, &shown, owner, &ask, fix, answers);
        }
    }
}

fn tcp_port(
    host: &Host,
    config: &Config,
    (address, name, port): (&ListenAddress, &str, u16),
    service: Option<u32>,
    answers: &mut Answers,
) {
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
    let target = if ip.is_unspecified() { IpAddr::from(Ipv4Addr::LOCALHOST) } else { ip };
    let Some(socket) = owner::listener(&host.root, target, port).or_else(|| {
        // Listening at one other address of the node keeps an unspecified one from being taken, too.
        ip.is_unspecified().then(|| owner::listener(&host.root, ip, port)).flatten()
    }) else {
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
    let target = SocketAddr::new(target, port);
    let owner = owner::of_socket(&host.root, socket, service);
    let ask = |what: &str| get(target, what);
    let fix = format!("stop it ('ss -ltnp sport = :{port}' names it), or give another port with --address");
    served(QUESTION, &port.to_string(), owner, &ask, fix, answers);
}

/// Says who serves at `place`. Only this exporter is asked for its state; of what others would answer nothing is known.
fn served(
    question: &'static str,
    place: &str,
    owner: Owner,
    ask: &dyn Fn(&str) -> Option<String>,
    fix: String,
    answers: &mut Answers,
) {
    let who = owner.to_string();
    match owner {
        Owner::ThisProgram { .. } => {}
        // Without root's rights it is not known which program root runs there. That it is root's is in the kernel's table.
        Owner::Hidden { is_trusted: true, .. } => {}
        Owner::ReplacedFile { .. } => {
            answers.warn(
                question,
                format!("{place} is served by {who}, whose program file has been replaced since it started"),
                "restart it, so that it runs the installed version: systemctl restart dcgm-exporter",
            );
            return;
        }
        Owner::OtherUser { .. } => {
            answers.fail(
                question,
                format!(
                    "{place} is served by {who}, which belongs neither to root nor to the service: its values may be forged"
                ),
                "end that process; if you have started it yourself, run the check as that user",
            );
            return;
        }
        Owner::Hidden { is_trusted: false, .. } => {
            answers.warn(
                question,
                format!("{place} is in use by {who}; it cannot be told whether that is this exporter"),
                "run the check as root",
            );
            return;
        }
        Owner::OtherProgram { .. } | Owner::Nobody => {
            answers.fail(question, format!("{place} is in use by another program ({who})"), fix);
            return;
        }
    }
    let health = ask("/health").unwrap_or_default();
    let page = ask("/metrics").unwrap_or_default();
    let version =
        page.lines().find_map(|line| line.strip_prefix("dcgm_exporter_build_info{version=\"")?.strip_suffix("\"} 1"));
    let version = version.map_or_else(String::new, |version| format!(", version {version}"));
    let by = match owner {
        Owner::ThisProgram { .. } => format!("{place} is served by this exporter{version} ({who})"),
        _ => {
            format!(
                "{place} is served by {who}, which answers as this exporter does{version}; run the check as root to see its program"
            )
        }
    };
    if is_health(&health) {
        answers.ok(question, by);
        running(&health, answers);
    } else if page == tls::HTTP_TO_HTTPS || page == "Unauthorized\n" {
        answers.ok(question, format!("{by}, with TLS or a password: its state was not read"));
    } else if let Owner::ThisProgram { .. } = owner {
        let seconds = HTTP_TIMEOUT.as_secs();
        answers.fail(
            question,
            format!("{place} is held by this exporter ({who}), which does not answer within {seconds} s"),
            "see its log: journalctl -u dcgm-exporter",
        );
    } else {
        answers.fail(question, format!("{place} is in use by another program ({who})"), fix);
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

/// A connection whose next read and write can be given a limit.
trait Limited: Read + Write {
    fn limit(&self, limit: Duration) -> std::io::Result<()>;
}

impl Limited for TcpStream {
    fn limit(&self, limit: Duration) -> std::io::Result<()> {
        self.set_read_timeout(Some(limit))?;
        self.set_write_timeout(Some(limit))
    }
}

impl Limited for UnixStream {
    fn limit(&self, limit: Duration) -> std::io::Result<()> {
        self.set_read_timeout(Some(limit))?;
        self.set_write_timeout(Some(limit))
    }
}

/// The body that a path answers, of any status.
fn get(target: SocketAddr, path: &str) -> Option<String> {
    let stream = TcpStream::connect_timeout(&target, HTTP_TIMEOUT).ok()?;
    exchange(stream, path, &target.to_string())
}

/// The first [`LONGEST_ANSWER`] bytes of what came within [`HTTP_TIMEOUT`], without the head. `None` if not all came.
fn exchange(mut stream: impl Limited, path: &str, host: &str) -> Option<String> {
    let end = Instant::now() + HTTP_TIMEOUT;
    // A limit of zero would be none.
    let rest = || Some(end.saturating_duration_since(Instant::now())).filter(|rest| !rest.is_zero());
    stream.limit(rest()?).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes()).ok()?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    while (answer.len() as u64) < LONGEST_ANSWER {
        stream.limit(rest()?).ok()?;
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    answer.truncate(LONGEST_ANSWER as usize);
    let answer = String::from_utf8_lossy(&answer);
    Some(answer.split_once("\r\n\r\n")?.1.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client reads of a server that writes like this, and how long that took.
    fn read_of(server: impl FnOnce(TcpStream) + Send + 'static) -> (Option<String>, Duration) {
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listening.local_addr().unwrap();
        let serving = std::thread::spawn(move || server(listening.accept().unwrap().0));
        let start = Instant::now();
        let answer = get(address, "/health");
        let took = start.elapsed();
        serving.join().unwrap();
        (answer, took)
    }

    #[test]
    fn an_answer_that_drips_or_has_no_end_is_cut() {
        // A byte each 100 ms: no single read waits for long.
        let (answer, took) = read_of(|mut stream| {
            while stream.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        assert_eq!(answer, None);
        // Endless, it would never have returned.
        assert!(took >= HTTP_TIMEOUT, "{took:?}");
        let (answer, _) = read_of(|mut stream| {
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n");
            while stream.write_all(&[b'x'; 64 * 1024]).is_ok() {}
        });
        let answer = answer.unwrap();
        assert!(answer.len() as u64 <= LONGEST_ANSWER && answer.len() > 1_000_000, "{}", answer.len());
    }
}
