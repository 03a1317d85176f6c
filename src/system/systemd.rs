//! What systemd is told. Without `NOTIFY_SOCKET` all of this does nothing.
//!
//! Written here and not taken from a crate, because those send in a blocking way: a systemd that does not read its
//! socket would hold the thread that serves the page. sd_notify(3) has the protocol, which is one datagram of text.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The port serves. Whatever comes after the unit in the boot does not wait for a driver: an answer of 503 with the
/// reason is an answer. Waits until systemd takes it, because nothing else would start the unit.
pub fn ready() {
    tell("READY=1", true);
}

/// One line for `systemctl status`.
pub fn status(text: &str) {
    tell(&format!("STATUS={}", text.replace('\n', " ")), false);
}

pub fn stopping() {
    tell("STOPPING=1", false);
}

/// All is well, for the watchdog.
pub fn alive() {
    tell("WATCHDOG=1", false);
}

/// The longest time between two calls of [`alive`], if somebody wants to hear of it.
pub fn watchdog_period() -> Option<Duration> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let is_for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    number("WATCHDOG_USEC").filter(|period| is_for_us && *period > 0).map(Duration::from_micros)
}

fn tell(text: &str, may_wait: bool) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else { return };
    // With a socket that is broken or full there is nobody to tell.
    if let Err(error) = send(&path, text, may_wait) {
        log::debug!("systemd was not told '{text}': {error}");
    }
}

fn send(path: &OsStr, text: &str, may_wait: bool) -> io::Result<()> {
    // A name that begins with an at sign is in the abstract namespace.
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(!may_wait)?;
    socket.send_to_addr(text.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_systemd_that_does_not_listen_holds_nobody() {
        let path = std::env::temp_dir().join(format!("dcgm-exporter-notify-{}", std::process::id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "READY=1", true).unwrap();
        // More than any queue holds.
        let sent = (0..5000).filter(|_| send(path.as_os_str(), "WATCHDOG=1", false).is_ok()).count();
        assert!(sent > 0 && sent < 5000, "{sent}");
        let mut buffer = [0u8; 64];
        let mut heard = || {
            let count = socket.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..count]).into_owned()
        };
        assert_eq!([heard(), heard()], ["READY=1", "WATCHDOG=1"]);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn names_without_a_file() {
        let name = format!("dcgm-exporter-notify-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        send(OsStr::new(&format!("@{name}")), "READY=1", true).unwrap();
        let mut buffer = [0u8; 64];
        assert_eq!(socket.recv(&mut buffer).unwrap(), "READY=1".len());
    }
}
