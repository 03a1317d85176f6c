//! Who owns a listening socket of this node, from `/proc/net` and from the socket itself.
//!
//! Ports from 1024 up are anybody's. A program that talks to whoever listens there, with more rights than that one has,
//! first asks whose socket it is.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use rustix::net::sockopt;

use super::unix_socket;
use crate::config::engine::{Address, DEFAULT_PORT};

/// The user that NVIDIA's packages make for `nvidia-dcgm.service`.
const SERVICE_USER: &str = "nvidia-dcgm";
/// `TCP_LISTEN` in the column `st`.
const LISTENING: &str = "0A";

/// Why a listener is not to be trusted with what root does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stranger {
    /// The socket's owner, by user id and, where /etc/passwd has it, by name.
    User(u32, Option<String>),
    /// There is no such socket, or it cannot be asked.
    Unknown,
}

impl Stranger {
    /// What the log and `--check` report of a listener at this address: what was found, and what an administrator can do.
    pub fn report(&self, address: &Address) -> (String, String) {
        (
            format!("{address} is not used: its listener belongs to {self}, not to root or NVIDIA's service"),
            format!("end that process; to use it anyway, name it: -r {address}"),
        )
    }
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stranger::User(id, Some(name)) => write!(f, "user {name} (uid {id})"),
            Stranger::User(id, None) => write!(f, "uid {id}"),
            Stranger::Unknown => f.write_str("an owner that cannot be told"),
        }
    }
}

/// Who listens at this place of this node, if it is neither root, nor this process's user, nor the user of NVIDIA's
/// service. An address of another node has no owner here, and gives `None`.
pub fn stranger(address: &Address) -> Option<Stranger> {
    let owners = match address {
        Address::Unix(path) => socket_owner(path).map(|owner| vec![owner]),
        Address::Tcp(address) => {
            let (host, port) = host_and_port(address)?;
            owners(Path::new("/proc/net"), host, port)
        }
    };
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    judge(&owners.unwrap_or_default(), rustix::process::geteuid().as_raw(), &passwd)
}

/// The first owner that is not trusted; [`Stranger::Unknown`] where there is no owner.
fn judge(owners: &[u32], own: u32, passwd: &str) -> Option<Stranger> {
    let service = users(passwd).find(|(name, _)| *name == SERVICE_USER).map(|(_, id)| id);
    if owners.is_empty() {
        return Some(Stranger::Unknown);
    }
    let stranger = owners.iter().copied().find(|&id| id != 0 && id != own && Some(id) != service)?;
    let name = users(passwd).find(|&(_, id)| id == stranger).map(|(name, _)| name.to_owned());
    Some(Stranger::User(stranger, name))
}

/// Names and user ids of `/etc/passwd`.
fn users(passwd: &str) -> impl Iterator<Item = (&str, u32)> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some((fields.next()?, fields.nth(1)?.parse().ok()?))
    })
}

/// Whoever called listen(2) on a Unix socket. With socket activation that is systemd, as root.
fn socket_owner(path: &str) -> io::Result<u32> {
    Ok(sockopt::socket_peercred(unix_socket::connect(path)?)?.uid.as_raw())
}

/// The address that a listener on this node may have for `host:port`; `None` for one of another node.
fn host_and_port(address: &str) -> Option<(IpAddr, u16)> {
    if let Ok(address) = address.parse::<SocketAddr>() {
        return address.ip().to_canonical().is_loopback().then(|| (address.ip().to_canonical(), address.port()));
    }
    let (host, port) = match address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?))) {
        Some(parts) => parts,
        None => (address.trim_end_matches(':'), DEFAULT_PORT),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_own =
        |name: &str| name.is_empty() || name == super::node_name() || name.split('.').next() == Some("localhost");
    match host.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback().then(|| (ip.to_canonical(), port)),
        // A name may stand for several addresses: any listener of the port counts.
        Err(_) => is_own(host).then_some((IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)),
    }
}

/// The owners of all sockets that listen at this port for this address; an unspecified address is any.
fn owners(proc_net: &Path, host: IpAddr, port: u16) -> io::Result<Vec<u32>> {
    let at_port = listening(proc_net, port)?.into_iter();
    let is_meant = |ip: IpAddr| ip == host || ip.is_unspecified() || host.is_unspecified();
    Ok(at_port.filter(|listener| is_meant(listener.ip)).map(|listener| listener.user).collect())
}

/// A TCP socket that listens, as the kernel's tables have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// An IPv4 address that is mapped into IPv6 is one of IPv4.
    pub ip: IpAddr,
    pub inode: u64,
    /// The user that made it.
    pub user: u32,
}

/// All that listen at this port, of IPv4 first; `proc_net` is `/proc/net`.
///
/// Errors: a table that is there cannot be read.
pub fn listening(proc_net: &Path, port: u16) -> io::Result<Vec<Listener>> {
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        let file = match File::open(proc_net.join(table)) {
            Ok(file) => file,
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for line in BufReader::new(file).lines().skip(1) {
            let line = line?;
            // sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
            let columns: Vec<&str> = line.split_ascii_whitespace().take(10).collect();
            let [_, local, _, state, _, _, _, user, _, inode] = columns[..] else { continue };
            // The kernel lists sockets that listen first; there may be tens of thousands of others.
            if state != LISTENING {
                break;
            }
            if let Some((ip, at)) = local_address(local)
                && let (Ok(user), Ok(inode)) = (user.parse(), inode.parse())
                && at == port
            {
                found.push(Listener { ip, inode, user });
            }
        }
    }
    Ok(found)
}

/// `0100007F:15B3`: words of 32 bits in the processor's byte order, and the port.
fn local_address(text: &str) -> Option<(IpAddr, u16)> {
    let (ip, port) = text.split_once(':')?;
    let words = ip
        .as_bytes()
        .chunks(8)
        .map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok().map(u32::to_ne_bytes));
    let bytes: Vec<u8> = words.collect::<Option<Vec<_>>>()?.concat();
    let ip = match bytes.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)).to_canonical(),
        _ => return None,
    };
    Some((ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nnvidia-dcgm:x:990:990::/:/bin/false\nada:x:1001:1001::/:/bin/sh\n";

    #[test]
    fn root_the_service_and_this_user_are_trusted() {
        assert_eq!(judge(&[0], 1000, PASSWD), None);
        assert_eq!(judge(&[990, 0], 1000, PASSWD), None);
        assert_eq!(judge(&[1000], 1000, PASSWD), None);
        assert_eq!(judge(&[0, 1001], 0, PASSWD).unwrap().to_string(), "user ada (uid 1001)");
        assert_eq!(judge(&[65534], 0, PASSWD).unwrap().to_string(), "uid 65534");
        assert_eq!(judge(&[990], 0, "root:x:0:0::/:\n"), Some(Stranger::User(990, None)), "no such service");
        assert_eq!(judge(&[], 0, PASSWD), Some(Stranger::Unknown));
    }

    #[test]
    fn addresses_of_other_nodes_have_no_owner_here() {
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let four = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let six = IpAddr::V6(Ipv6Addr::LOCALHOST);
        for (address, expected) in [
            ("127.0.0.1:5555", Some((four, 5555))),
            ("127.0.0.1", Some((four, 5555))),
            ("[::1]:6000", Some((six, 6000))),
            ("[::1]", Some((six, 5555))),
            ("[::ffff:127.0.0.1]:5555", Some((four, 5555))),
            ("localhost:5556", Some((any, 5556))),
            ("localhost", Some((any, 5555))),
            ("10.0.0.5:5555", None),
            ("head-node:5555", None),
        ] {
            assert_eq!(host_and_port(address), expected, "{address}");
        }
        assert_eq!(host_and_port(&format!("{}:5555", crate::system::node_name())), Some((any, 5555)));
    }

    #[test]
    fn owners_come_from_the_kernels_tables() {
        let directory = std::env::temp_dir().join(format!("dcgm-exporter-listeners-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        // As this processor would write them.
        let word = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
        let (loopback, other, zero) = (word([127, 0, 0, 1]), word([10, 0, 0, 5]), word([0; 4]));
        let mapped = format!("{zero}{zero}{}{loopback}", word([0, 0, 255, 255]));
        let line = |local: &str, state: &str, uid: u32| {
            format!("   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 {uid:5} 0 12345 1\n")
        };
        let header =
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
        let tcp = [
            header.to_owned(),
            line(&format!("{loopback}:15B3"), "0A", 1001),
            line(&format!("{other}:15B3"), "0A", 1002),
            line(&format!("{zero}:15B4"), "0A", 1003),
            line(&format!("{loopback}:15B3"), "01", 1004),
            line(&format!("{loopback}:15B3"), "0A", 1005),
        ];
        std::fs::write(directory.join("tcp"), tcp.concat()).unwrap();
        let ask = |host: &str, port| owners(&directory, host.parse().unwrap(), port).unwrap();
        assert_eq!(ask("127.0.0.1", 5555), [1001], "nothing is read behind the first that does not listen");
        assert_eq!(ask("0.0.0.0", 5555), [1001, 1002], "a name may be any of them");
        assert_eq!(ask("127.0.0.1", 5556), [1003]);
        std::fs::write(
            directory.join("tcp6"),
            [
                header.to_owned(),
                line(&format!("{mapped}:15B3"), "0A", 7),
                line(&format!("{}:15B3", zero.repeat(4)), "0A", 8),
            ]
            .concat(),
        )
        .unwrap();
        assert_eq!(ask("127.0.0.1", 5555), [1001, 7, 8]);
        assert_eq!(ask("::1", 5555), [8]);
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_listener_of_this_process_is_no_stranger() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert_eq!(stranger(&Address::Tcp(address.clone())), None);
        drop(listener);
        assert_eq!(stranger(&Address::Tcp(address)), Some(Stranger::Unknown));
        let path = std::env::temp_dir().join(format!("dcgm-exporter-owner-{}.sock", std::process::id()));
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let address = Address::Unix(path.display().to_string());
        assert_eq!(stranger(&address), None);
        drop(listener);
        assert_eq!(stranger(&address), Some(Stranger::Unknown));
        std::fs::remove_file(path).unwrap();
    }
}
