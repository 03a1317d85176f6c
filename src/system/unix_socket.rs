//! Unix sockets as a client.

use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Connects without waiting: the queue of a listener that hangs may be full, and a plain connect would hang with it. The
/// socket stays non-blocking.
///
/// Errors: the system's; `EAGAIN` for a full queue.
pub fn connect(path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}
