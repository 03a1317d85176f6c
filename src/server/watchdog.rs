//! systemd's watchdog: the poll loop notifies it, and only while the whole way to an answer works.
//!
//! It is for bugs of ours: a page thread that hangs outside the library, a server that does not answer. A driver that
//! hangs is none: the page with the reason is worth more than a new process in the same call, and one that is killed
//! while a thread is stuck in the kernel keeps the port.

use std::time::{Duration, Instant};

use crate::system::systemd;

pub struct Watchdog {
    pause: Duration,
    due: Instant,
    has_complained: bool,
}

impl Watchdog {
    /// The watchdog's id among those who ask tiny_http.
    pub const ID: u64 = 0;

    /// `None` where systemd has no watchdog for this process.
    pub fn from_environment() -> Option<Watchdog> {
        let period = systemd::watchdog_period()?;
        Some(Watchdog { pause: period / 3, due: Instant::now(), has_complained: false })
    }

    pub fn due(&self) -> Instant {
        self.due
    }

    /// Whether tiny_http is to be asked now: it is time, and the page's thread goes on.
    pub fn begin(&mut self, now: Instant, watcher_is_alive: bool) -> bool {
        if now < self.due {
            return false;
        }
        self.due = now + self.pause;
        if !watcher_is_alive && !std::mem::replace(&mut self.has_complained, true) {
            log::error!(
                "the collecting thread makes no progress, and no DCGM call is under way; systemd will restart the service"
            );
        }
        watcher_is_alive
    }

    /// tiny_http has answered.
    pub fn pat(&mut self, now: Instant) {
        self.has_complained = false;
        self.due = now + self.pause;
        systemd::alive();
    }
}
