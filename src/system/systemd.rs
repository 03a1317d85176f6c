//! Notifications to systemd (sd_notify). Without `NOTIFY_SOCKET` they do nothing.
//!
//! Not from a crate, because the crates' sends block: a systemd that does not read its socket would stop the thread
//! that serves the page. The protocol, in sd_notify(3), is one datagram of text.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The port serves: the unit has started. Units ordered after this one do not wait for a driver; until there is a page
/// the answer is 503 with the reason. Waits until systemd has taken the message, because it is sent once.
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

/// Tells the watchdog that the exporter works.
pub fn alive() {
    tell("WATCHDOG=1", false);
}

/// The longest time that systemd allows between two calls of [`alive`]; `None` without a watchdog.
pub fn watchdog_period() -> Option<Duration> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let is_for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    number("WATCHDOG_USEC").filter(|period| is_for_us && *period > 0).map(Duration::from_micros)
}

fn tell(text: &str, may_wait: bool) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else { return };
    // A broken or full socket cannot be reported anywhere else.
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
    fn a_systemd_that_does_not_read_blocks_nothing() {
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
