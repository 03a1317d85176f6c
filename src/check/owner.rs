//! Who holds a socket of this node: the socket's inode in `/proc/net`, the process that has it among its files, and
//! whether that process runs the file that this program was started from.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::net::sockopt::socket_peercred;

use crate::system::files::is_roots_or_own;
use crate::system::listeners::{self, Listener};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// Root's, this user's or the service's process, which runs the same file as this one.
    ThisProgram {
        pid: u32,
    },
    /// The same file, but the process belongs to somebody else, who chose its settings and its libdcgm.
    OtherUser {
        pid: u32,
        user: u32,
    },
    /// Its file has been removed since, and another one has that name: an update without a restart.
    ReplacedFile {
        pid: u32,
    },
    OtherProgram {
        pid: u32,
        name: String,
    },
    /// Some process of this user, which the caller may not look into.
    Hidden {
        user: u32,
        is_trusted: bool,
    },
    /// No process has it: it is in another process namespace, or has just been closed.
    Nobody,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::ThisProgram { pid } | Owner::ReplacedFile { pid } => write!(f, "process {pid}"),
            Owner::OtherUser { pid, user } => write!(f, "process {pid} of uid {user}"),
            Owner::OtherProgram { pid, name } => write!(f, "{name}, process {pid}"),
            Owner::Hidden { user, .. } => write!(f, "a process of uid {user}"),
            Owner::Nobody => f.write_str("no process that can be seen here"),
        }
    }
}

/// The socket that answers at this address and port; an unspecified address is any. One that listens at the address
/// itself comes before one that listens at all.
pub fn listener(root: &Path, ip: IpAddr, port: u16) -> Option<Listener> {
    let at_port = listeners::listening(&root.join("proc/net"), port).unwrap_or_default().into_iter();
    let is_meant = |at: IpAddr| ip.is_unspecified() || at.is_unspecified() || at == ip.to_canonical();
    at_port.filter(|listener| is_meant(listener.ip)).min_by_key(|listener| listener.ip.is_unspecified())
}

/// `service` is the process that systemd has for the exporter's unit.
pub fn of_socket(root: &Path, socket: Listener, service: Option<u32>) -> Owner {
    let holders = holders(root, &BTreeSet::from([socket.inode]));
    of_process(root, holders.first().copied(), socket.user, service)
}

/// A connected socket knows who called listen(2); where that was systemd, some process has the socket from it.
pub fn of_unix_socket(root: &Path, stream: &UnixStream, path: &Path, service: Option<u32>) -> Owner {
    let Ok(peer) = socket_peercred(stream) else { return Owner::Nobody };
    let mut pid = peer.pid.as_raw_nonzero().get().unsigned_abs();
    if pid == 1 {
        // Num RefCount Protocol Flags Type St Inode Path
        let table = fs::read_to_string(root.join("proc/net/unix")).unwrap_or_default();
        let shown = path.display().to_string();
        let of_path = table.lines().filter_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            (columns.get(7).copied() == Some(shown.as_str())).then(|| columns[6].parse().ok()).flatten()
        });
        pid = holders(root, &of_path.collect()).first().copied().unwrap_or(1);
    }
    of_process(root, Some(pid), peer.uid.as_raw(), service)
}

/// Processes that have one of these sockets, as far as this user may see. systemd holds the sockets that it passes, so any
/// other comes first.
fn holders(root: &Path, inodes: &BTreeSet<u64>) -> Vec<u32> {
    let wanted: Vec<PathBuf> = inodes.iter().map(|inode| format!("socket:[{inode}]").into()).collect();
    let entries = fs::read_dir(root.join("proc")).into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let holds = |pid: &u32| {
        let files = fs::read_dir(root.join(format!("proc/{pid}/fd"))).into_iter().flatten().flatten();
        files.into_iter().any(|file| fs::read_link(file.path()).is_ok_and(|link| wanted.contains(&link)))
    };
    let mut holders: Vec<u32> = pids.filter(holds).collect();
    holders.sort_by_key(|pid| (*pid == 1, *pid));
    holders
}

fn of_process(root: &Path, pid: Option<u32>, socket_user: u32, service: Option<u32>) -> Owner {
    let hidden = Owner::Hidden { user: socket_user, is_trusted: is_roots_or_own(socket_user) };
    let Some(pid) = pid else { return if rustix::process::geteuid().is_root() { Owner::Nobody } else { hidden } };
    let directory = root.join(format!("proc/{pid}"));
    let file = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    let own = PathBuf::from("/proc/self/exe");
    let (Ok(its), Ok(ours)) = (file(&directory.join("exe")), file(&own)) else { return hidden };
    let Ok(user) = fs::metadata(&directory).map(|process| process.uid()) else { return Owner::Nobody };
    let is_ours = is_roots_or_own(user) || service == Some(pid);
    if its == ours {
        return if is_ours { Owner::ThisProgram { pid } } else { Owner::OtherUser { pid, user } };
    }
    let link = |path: &Path| fs::read_link(path).ok().and_then(|link| link.into_os_string().into_string().ok());
    let is_replaced = match (link(&directory.join("exe")), link(&own)) {
        (Some(its), Some(ours)) => its == format!("{ours} (deleted)"),
        _ => false,
    };
    if is_replaced && is_ours {
        return Owner::ReplacedFile { pid };
    }
    let name = fs::read_to_string(directory.join("comm")).unwrap_or_default();
    Owner::OtherProgram { pid, name: name.trim_end().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};
    use std::os::unix::net::UnixListener;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn a_listener_is_found_without_touching_its_port() {
        let root = Path::new("/");
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listening.local_addr().unwrap().port();
        let socket = listener(root, LOOPBACK, port).expect("it listens");
        assert_eq!(listener(root, Ipv4Addr::UNSPECIFIED.into(), port), Some(socket));
        assert_eq!(listener(root, "127.0.0.2".parse().unwrap(), port), None, "another address");
        // These tests are the program that runs.
        assert_eq!(of_socket(root, socket, None), Owner::ThisProgram { pid: std::process::id() });
        drop(listening);
        assert_eq!(listener(root, LOOPBACK, port), None);
    }

    #[test]
    fn a_unix_socket_knows_who_listens() {
        let path = std::env::temp_dir().join(format!("dcgm-exporter-owner-of-{}.sock", std::process::id()));
        let _listening = UnixListener::bind(&path).unwrap();
        let stream = UnixStream::connect(&path).unwrap();
        let owner = of_unix_socket(Path::new("/"), &stream, &path, None);
        assert_eq!(owner, Owner::ThisProgram { pid: std::process::id() });
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn another_program_is_not_this_one_whatever_its_name() {
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        // Until it has become `sleep` it is this program.
        let owner = loop {
            match of_process(Path::new("/"), Some(other.id()), 0, Some(other.id())) {
                Owner::ThisProgram { .. } => std::thread::yield_now(),
                owner => break owner,
            }
        };
        assert!(matches!(&owner, Owner::OtherProgram { .. }), "{owner}");
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
