//! Listening sockets: opened here, or passed by systemd.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, ipproto, sockopt};

use crate::config::listen::ListenAddress;

/// A bound, listening socket.
pub struct Listener {
    socket: Socket,
    /// systemd owns it, and listens on it after this process has ended.
    is_passed: bool,
}

enum Socket {
    Tcp(TcpListener),
    /// With its path, and the place in the file system that it had there.
    Unix(UnixListener, PathBuf, Option<(u64, u64)>),
}

impl Listener {
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(listener) => listener.as_fd(),
            Socket::Unix(listener, ..) => listener.as_fd(),
        }
    }

    /// For the log.
    pub fn address(&self) -> String {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().map(|address| address.to_string()).unwrap_or_default(),
            Socket::Unix(_, path, _) => format!("unix://{}", path.display()),
        }
    }

    /// The address of a TCP socket.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok(),
            Socket::Unix(..) => None,
        }
    }

    /// Stops listening, so that a successor can bind while this process is still ending: a thread that hangs in a
    /// driver keeps the descriptors of a killed process open. A socket of systemd's is left alone.
    pub fn close(&self) {
        if self.is_passed {
            return;
        }
        // On a listening socket this takes it out of the listening state (Linux), whoever else holds it.
        let _ = rustix::net::shutdown(self.as_fd(), rustix::net::Shutdown::Both);
        if let Socket::Unix(_, path, place) = &self.socket
            // A successor may have put its own there.
            && place_of(path) == *place
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Opens the sockets of one address: for an empty host or `localhost` one for each family that the machine has.
///
/// Errors: one line that names the address and, for one that is in use, what to do.
pub fn open(address: &ListenAddress) -> Result<Vec<Listener>, String> {
    match address {
        ListenAddress::Tcp { host, port } => open_tcp(address, host, *port),
        ListenAddress::Unix { path, mode, group } => {
            let listener = open_unix(path, *mode, group.as_deref())
                .map_err(|error| format!("cannot listen on {address}: {error}; {}", advice(&error)))?;
            let socket = Socket::Unix(listener, path.clone(), place_of(path));
            Ok(vec![Listener { socket, is_passed: false }])
        }
    }
}

fn open_tcp(address: &ListenAddress, host: &str, port: u16) -> Result<Vec<Listener>, String> {
    let candidates = candidates(host, port)
        .map_err(|error| format!("cannot listen on {address}: the host has no address ({error}); see --address"))?;
    let mut sockets: Vec<TcpListener> = Vec::new();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for mut candidate in candidates {
        // Port 0 means any; the second family takes what the first one got.
        let port = match sockets.first().and_then(|socket| socket.local_addr().ok()) {
            Some(bound) => bound.port(),
            None => port,
        };
        candidate.set_port(port);
        match bind(candidate) {
            Ok(socket) => sockets.push(socket),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(in_use(address, port)),
            Err(error) => last = error,
        }
        if host.is_empty() && !sockets.is_empty() {
            break;
        }
    }
    if sockets.is_empty() {
        return Err(format!("cannot listen on {address}: {last}; give an address of this machine with --address"));
    }
    Ok(sockets.into_iter().map(|socket| Listener { socket: Socket::Tcp(socket), is_passed: false }).collect())
}

/// The addresses of a host.
fn candidates(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(match host {
        // One socket for both families, also where the system's default is one for each.
        "" => vec![(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()],
        "localhost" => vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()],
        host => each_once((host, port).to_socket_addrs()?.collect()),
    })
}

/// IPv4 first, and each address once, as in Go.
fn each_once(mut found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    found.sort_by_key(SocketAddr::is_ipv6);
    let mut seen = HashSet::new();
    found.retain(|address| seen.insert(*address));
    found
}

fn in_use(address: &ListenAddress, port: u16) -> String {
    format!(
        "cannot listen on {address}: port {port} is in use; another exporter may be running ('ss -ltnp sport = :{port}' \
         names it). Stop it, or give another port with --address"
    )
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    // The port of a process that has just ended can be bound again at once.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, !address.ip().is_unspecified())?;
    }
    rustix::net::bind(&socket, &address)?;
    prepare(&socket)?;
    Ok(TcpListener::from(socket))
}

/// Makes a TCP socket listen, without waiting, because one thread looks after all of them. Accepted sockets inherit
/// TCP_NODELAY and the sizes of the buffers.
fn prepare(socket: &impl AsFd) -> io::Result<()> {
    // A full queue costs a normal client a second, until its system asks again; the usual 128 are few.
    const QUEUE: i32 = 4096;
    // Bytes that the kernel keeps for each connection, twice that with its own. By itself it takes up to 4 MB to send
    // and 32 MB received, charged to the service's memory limit.
    const SEND_BUFFER: usize = 64 * 1024;
    const RECEIVE_BUFFER: usize = 32 * 1024;
    sockopt::set_socket_send_buffer_size(socket, SEND_BUFFER)?;
    sockopt::set_socket_recv_buffer_size(socket, RECEIVE_BUFFER)?;
    sockopt::set_tcp_nodelay(socket, true)?;
    rustix::net::listen(socket, QUEUE)?;
    Ok(())
}

/// What to do where a Unix socket cannot be made.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            "the unit lets the service write below /run/dcgm-exporter: unix:///run/dcgm-exporter/http.sock; another \
             directory needs a drop-in with [Service] ReadWritePaths= (systemctl edit dcgm-exporter)"
        }
        _ => "see --address",
    }
}

fn open_unix(path: &Path, mode: u32, group: Option<&str>) -> io::Result<UnixListener> {
    let gid = group.map(group_id).transpose()?;
    remove_abandoned(path)?;
    // The socket gets its name last, so that no client connects before its mode is set. It is made in a directory that
    // nobody else may write: whoever may write the one where it is to be could put another file in its place.
    let directory = PathBuf::from(format!("{}.{}", path.display(), std::process::id()));
    let _ = std::fs::remove_dir(&directory);
    rustix::fs::mkdir(&directory, Mode::RWXU)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::open(&directory, flags, Mode::empty()).map_err(io::Error::from).and_then(|held| {
        let found = rustix::fs::fstat(&held)?;
        if found.st_uid != rustix::process::geteuid().as_raw() || found.st_mode & 0o077 != 0 {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "somebody changes its directory just now"));
        }
        let aside = PathBuf::from(format!("/proc/self/fd/{}/{ASIDE}", held.as_raw_fd()));
        let listener = UnixListener::bind(&aside)?;
        let prepared = rustix::fs::chown(&aside, None, gid)
            .and_then(|()| rustix::fs::chmod(&aside, Mode::from_raw_mode(mode)))
            .and_then(|()| rustix::fs::renameat(&held, ASIDE, CWD, path));
        if prepared.is_err() {
            let _ = rustix::fs::unlinkat(&held, ASIDE, AtFlags::empty());
        }
        prepared?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    let _ = std::fs::remove_dir(&directory);
    made
}

/// The socket's name before it has its own.
const ASIDE: &str = "http";

/// Removes the socket of a process that has ended; anything else at its path is an error.
fn remove_abandoned(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is not a socket"))
        }
        Ok(_) if is_served(path)? => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process serves there")),
        Ok(_) => std::fs::remove_file(path),
    }
}

/// Device and inode.
fn place_of(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Whether a process listens at a socket; does not wait for one that accepts no connection.
fn is_served(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let refused = rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) == Err(Errno::CONNREFUSED);
    Ok(!refused)
}

/// The id of a group by name or number, from the local group file.
fn group_id(group: &str) -> io::Result<Gid> {
    let number = match group.parse() {
        Ok(number) => Some(number),
        Err(_) => {
            let groups = std::fs::read_to_string("/etc/group")?;
            groups.lines().find_map(|line| {
                let mut fields = line.split(':');
                (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok()).flatten()
            })
        }
    };
    let unknown = || io::Error::new(io::ErrorKind::NotFound, format!("the group '{group}' is not in /etc/group"));
    number.map(Gid::from_raw).ok_or_else(unknown)
}

/// Takes the sockets that systemd passes. None of this process listens by then, so a number of them that is too large
/// shows.
///
/// Errors: there are none, or one that is counted does not listen.
pub fn from_systemd() -> Result<Vec<Listener>, String> {
    let mut passed = listenfd::ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..passed.len() {
        let socket = if let Ok(Some(listener)) = passed.take_tcp_listener(index) {
            Socket::Tcp(listener)
        } else if let Ok(Some(listener)) = passed.take_unix_listener(index) {
            let path = listener.local_addr().ok().and_then(|address| address.as_pathname().map(Path::to_owned));
            Socket::Unix(listener, path.unwrap_or_default(), None)
        } else {
            return Err(not_passed(index, passed.len()));
        };
        let listener = Listener { socket, is_passed: true };
        if sockopt::socket_acceptconn(listener.as_fd()) != Ok(true) {
            // It belongs to something else in this process, which would lose it here.
            std::mem::forget(listener);
            return Err(not_passed(index, passed.len()));
        }
        let prepared = match &listener.socket {
            Socket::Tcp(listener) => listener.set_nonblocking(true).and_then(|()| prepare(listener)),
            Socket::Unix(listener, ..) => listener.set_nonblocking(true),
        };
        prepared.map_err(|error| error.to_string())?;
        listeners.push(listener);
    }
    if listeners.is_empty() {
        return Err(
            "--web-systemd-socket: systemd passed no listening socket; start the exporter through a socket unit, \
                    or leave the flag out"
                .to_owned(),
        );
    }
    Ok(listeners)
}

fn not_passed(index: usize, count: usize) -> String {
    // Descriptors are passed from 3 on.
    let descriptor = 3 + index;
    format!(
        "--web-systemd-socket: descriptor {descriptor} is no listening socket, but LISTEN_FDS={count} counts it; start the \
         exporter through a socket unit that has ListenStream= alone"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> ListenAddress {
        ListenAddress::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn a_port_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let Err(error) = open(&tcp("127.0.0.1", port)) else { panic!("opened twice") };
        assert!(error.contains(&format!("port {port} is in use")), "{error}");
    }

    #[test]
    fn addresses_of_a_host() {
        let of = |addresses: &[&str]| addresses.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let found = of(&["[::2]:1", "10.0.0.2:1", "10.0.0.1:1", "10.0.0.2:1", "[::1]:1", "[::2]:1"]);
        assert_eq!(each_once(found), of(&["10.0.0.2:1", "10.0.0.1:1", "[::2]:1", "[::1]:1"]));
        // The loopback interface is the first of every machine.
        assert_eq!(candidates("fe80::1%lo", 9400).unwrap(), of(&["[fe80::1%1]:9400"]));
    }

    #[test]
    fn both_families() {
        for host in ["", "localhost"] {
            let listeners = open(&tcp(host, 0)).unwrap();
            let port = listeners[0].address().rsplit(':').next().unwrap().parse().unwrap();
            std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            // A machine may have no IPv6 at all.
            if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
                std::net::TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
            }
        }
    }

    #[test]
    fn a_closed_port_can_be_bound_while_its_socket_is_held() {
        let held = open(&tcp("127.0.0.1", 0)).unwrap();
        let port = held[0].address().rsplit(':').next().unwrap().parse().unwrap();
        assert!(open(&tcp("127.0.0.1", port)).is_err());
        held.iter().for_each(Listener::close);
        open(&tcp("127.0.0.1", port)).unwrap();
    }

    #[test]
    fn a_directory_that_the_unit_closes_is_told_with_the_one_that_is_open() {
        assert!(advice(&Errno::ROFS.into()).contains("unix:///run/dcgm-exporter/"));
        assert_eq!(advice(&Errno::NOENT.into()), "see --address");
        // As the unit has it.
        let unit = include_str!("../../dist/systemd/dcgm-exporter.service");
        assert!(unit.lines().any(|line| line == "ReadWritePaths=-/run/dcgm-exporter"));
    }

    #[test]
    fn a_socket_in_the_file_system() {
        use std::os::unix::fs::PermissionsExt;
        let directory = std::env::temp_dir().join(format!("dcgm-exporter-listen-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("http.sock");
        let address = |group: Option<&str>| ListenAddress::Unix {
            path: path.clone(),
            mode: 0o640,
            group: group.map(str::to_owned),
        };
        let listeners = open(&address(None)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        let Err(error) = open(&address(None)) else { panic!("opened twice") };
        assert!(error.contains("another process serves there"), "{error}");
        let Err(error) = open(&address(Some("no-such-group"))) else { panic!("no such group") };
        assert!(error.contains("'no-such-group'"), "{error}");
        drop(listeners);
        // Its process has ended; the name is still there.
        assert!(path.exists());
        open(&address(None)).unwrap()[0].close();
        assert!(!path.exists());
        let old = open(&address(None)).unwrap();
        std::fs::remove_file(&path).unwrap();
        let successor = open(&address(None)).unwrap();
        old[0].close();
        assert!(path.exists(), "it is the successor's");
        successor[0].close();
        std::fs::write(&path, "a file").unwrap();
        assert!(open(&address(None)).is_err());
        std::fs::remove_dir_all(&directory).unwrap();
    }

    /// Whoever may write a directory puts links in place of what comes and goes there.
    #[test]
    fn a_socket_in_somebody_elses_directory() {
        use std::os::unix::fs::PermissionsExt;
        use std::sync::atomic::{AtomicBool, Ordering};
        let directory = std::env::temp_dir().join(format!("dcgm-exporter-others-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let victim = directory.join("victim");
        std::fs::write(&victim, "").unwrap();
        std::fs::set_permissions(&victim, std::fs::Permissions::from_mode(0o600)).unwrap();
        let path = directory.join("http.sock");
        let address = ListenAddress::Unix { path: path.clone(), mode: 0o666, group: None };
        let aside = directory.join(format!("http.sock.{}", std::process::id()));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if std::fs::rename(&aside, directory.join("moved")).is_ok() {
                        let _ = std::os::unix::fs::symlink(&victim, &aside);
                    }
                }
            });
            for _ in 0..300 {
                if let Ok(listeners) = open(&address) {
                    listeners[0].close();
                }
                let _ = std::fs::remove_file(&aside);
                let _ = std::fs::remove_file(directory.join("moved"));
                let _ = std::fs::remove_dir(directory.join("moved"));
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(std::fs::metadata(&victim).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
