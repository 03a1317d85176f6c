//! A file that tells Prometheus where this exporter is (`file_sd_configs`; vmagent reads the same): `<hostname>.json` in
//! a directory that is usually shared by all nodes.
//!
//! It is removed on a clean stop only: a node that crashed stays a target, so that `up` turns 0 and somebody is told.
//!
//! The directory may be on a network file system that does not answer. So it is used on a thread that lives for one
//! write or one removal, and that nobody waits for longer than [`PATIENCE`].

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::system::{self, files, json::Json};

/// How long the start or the end of the exporter may be held up.
const PATIENCE: Duration = Duration::from_secs(1);
/// A file of ours is one line.
const LONGEST: u64 = 4096;

/// The file that was written.
pub struct Registration {
    path: PathBuf,
    text: String,
}

impl Registration {
    /// Writes the file. `given` is the address that others are to use; without one it follows from the addresses of the
    /// listening sockets. What goes wrong is logged, and costs nothing else.
    pub fn write(directory: &Path, given: Option<&str>, sockets: &[SocketAddr], has_tls: bool) -> Option<Registration> {
        let node = system::node_name();
        let Some(target) = given.map(str::to_owned).or_else(|| target(&node, sockets)) else {
            log::warn!(
                fix = "give --file-sd-address HOST:PORT, or an --address that other nodes can reach";
                "--file-sd-dir: no file is written, because other nodes can reach none of the addresses that are served"
            );
            return None;
        };
        let Some(name) = file_name(&node) else {
            let node = node.escape_debug();
            log::warn!(
                fix = "give the node a name of letters, digits and dashes: hostnamectl hostname NAME";
                "--file-sd-dir: no file is written, because the node's name '{node}' cannot be a file name"
            );
            return None;
        };
        let registration = Registration { path: directory.join(name), text: text(&target, has_tls) };
        let (path, text) = (registration.path.clone(), registration.text.clone());
        let written = in_time(move || replace(&path, &text));
        let file = registration.path.display().to_string();
        match written {
            Ok(()) => log::info!(file = file, target = target; "wrote the file for Prometheus' file_sd"),
            Err(error) => {
                log::warn!(
                    file = file, error = error.to_string(),
                    fix = "let the exporter's user write to the directory; under systemd also: ReadWritePaths=DIR";
                    "--file-sd-dir: the file cannot be written, so Prometheus does not find this exporter"
                );
                // Late is not never.
                return (error.kind() == io::ErrorKind::TimedOut).then_some(registration);
            }
        }
        Some(registration)
    }

    /// Removes the file, unless another exporter has put its own there.
    pub fn remove(&self) {
        let (path, text) = (self.path.clone(), self.text.clone());
        let removed = in_time(move || match files::read(&path, LONGEST) {
            Ok(found) if found == text.as_bytes() => std::fs::remove_file(&path),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        });
        if let Err(error) = removed {
            log::warn!(file = self.path.display().to_string(), error = error.to_string(); "--file-sd-dir: the file cannot be removed");
        }
    }
}

/// Runs something on a thread of its own.
///
/// Errors: its own, `TimedOut` if it takes longer than [`PATIENCE`].
fn in_time(run: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    let (done, end) = channel();
    std::thread::Builder::new().name("file_sd".to_owned()).spawn(move || done.send(run()))?;
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the directory does not answer");
    end.recv_timeout(PATIENCE).unwrap_or_else(|_| Err(late()))
}

/// Replaces the file. The name aside is none that `*.json` finds.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let directory = std::fs::File::open(path.parent().unwrap_or(Path::new(".")))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = format!(".{name}.{}", std::process::id());
    files::replace(directory, &name, &aside, |file| files::set_mode(file, 0o644), text.as_bytes(), true)
}

fn text(target: &str, has_tls: bool) -> String {
    let scheme = if has_tls { "https" } else { "http" };
    format!("[{{\"targets\": [{}], \"labels\": {{\"__scheme__\": \"{scheme}\"}}}}]\n", Json(target))
}

/// The address under which others reach one of these sockets: the node's name where it listens on all of the node's
/// addresses. `None` if all are on loopback.
fn target(node: &str, sockets: &[SocketAddr]) -> Option<String> {
    let reachable = |socket: &&SocketAddr| !socket.ip().to_canonical().is_loopback();
    // One that takes every address first: the node's name then leads to it.
    let mut sockets: Vec<&SocketAddr> = sockets.iter().filter(reachable).collect();
    sockets.sort_by_key(|socket| !socket.ip().is_unspecified());
    sockets.first().map(|socket| match socket.ip().is_unspecified() {
        true => format!("{node}:{}", socket.port()),
        false => SocketAddr::new(socket.ip().to_canonical(), socket.port()).to_string(),
    })
}

fn file_name(node: &str) -> Option<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    (!node.is_empty() && !node.starts_with('.') && node.chars().all(is_plain)).then(|| format!("{node}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        for (sockets, expected) in [
            (&["[::]:9400"][..], Some("gpu7:9400")),
            (&["0.0.0.0:9400"], Some("gpu7:9400")),
            (&["127.0.0.1:9400", "10.1.2.3:9401"], Some("10.1.2.3:9401")),
            (&["10.1.2.3:9401", "[::]:9400"], Some("gpu7:9400")),
            (&["[fd00::7]:9400"], Some("[fd00::7]:9400")),
            (&["[::ffff:10.1.2.3]:9400"], Some("10.1.2.3:9400")),
            (&["127.0.0.1:9400", "[::1]:9400", "[::ffff:127.0.0.1]:1"], None),
            (&[], None),
        ] {
            let sockets: Vec<SocketAddr> = sockets.iter().map(|socket| socket.parse().unwrap()).collect();
            assert_eq!(target("gpu7", &sockets).as_deref(), expected, "{sockets:?}");
        }
    }

    #[test]
    fn names_of_files() {
        assert_eq!(file_name("gpu7.example.org").as_deref(), Some("gpu7.example.org.json"));
        for node in ["", "..", ".x", "a/b", "a b", "a\n", "\u{e4}"] {
            assert_eq!(file_name(node), None, "{node:?}");
        }
    }
}
