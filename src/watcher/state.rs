//! What the watcher is doing, and telling everybody: the log, `/health`, a metric, and systemd.

use std::fmt;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// The states, in words, as the metric and `/health` have them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum State {
    /// Nothing has been collected yet; the text says what is waited for, if there is something.
    #[default]
    Starting,
    Waiting(String),
    Running,
    /// Samples flow, but not all that should.
    Degraded(Vec<String>),
    /// The engine has just gone.
    Lost(String),
    /// And cannot be reached again yet.
    Reconnecting(String),
    Releasing,
    /// The GPUs were let go on request.
    Released,
}

impl State {
    pub const NAMES: [&str; 7] = ["starting", "running", "degraded", "lost", "reconnecting", "releasing", "released"];

    pub fn name(&self) -> &'static str {
        match self {
            State::Starting | State::Waiting(_) => "starting",
            State::Running => "running",
            State::Degraded(_) => "degraded",
            State::Lost(_) => "lost",
            State::Reconnecting(_) => "reconnecting",
            State::Releasing => "releasing",
            State::Released => "released",
        }
    }

    /// Whether somebody who asks for samples gets what there should be, or was meant to be.
    pub fn is_well(&self) -> bool {
        matches!(self, State::Running | State::Degraded(_) | State::Releasing | State::Released)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            State::Waiting(why) | State::Lost(why) | State::Reconnecting(why) => write!(f, ": {why}"),
            State::Degraded(reasons) => write!(f, ": {}", Shortened(reasons)),
            State::Releasing => f.write_str(": letting the GPUs go"),
            State::Released => f.write_str(": the GPUs were let go by SIGUSR1; SIGUSR2 takes them up again"),
            State::Starting => f.write_str(": no samples have been collected yet"),
            State::Running => Ok(()),
        }
    }
}

/// The first few of many reasons.
struct Shortened<'a>(&'a [String]);

impl fmt::Display for Shortened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        f.write_str(&self.0[..self.0.len().min(SHOWN)].join("; "))?;
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// Tells systemd, where there is one that wants to know. The watchdog hears only from here, so from the watcher's own
/// progress.
pub struct Systemd {
    ready: bool,
    watchdog: Option<Duration>,
    patted: Instant,
}

impl Systemd {
    pub fn new() -> Systemd {
        Systemd { ready: false, watchdog: sd_notify::watchdog_enabled(), patted: Instant::now() }
    }

    /// The longest that the watcher may sleep and still pat the watchdog in time.
    pub fn longest_sleep(&self) -> Option<Duration> {
        self.watchdog.map(|watchdog| watchdog / 3)
    }

    pub fn progress(&mut self) {
        if let Some(pause) = self.longest_sleep()
            && self.patted.elapsed() >= pause / 2
        {
            self.patted = Instant::now();
            notify(&[NotifyState::Watchdog]);
        }
    }

    /// The unit is ready when there is a page, or when there is a good reason why there is none yet: whatever comes
    /// after it in the boot does not wait for a driver.
    pub fn tell(&mut self, state: &State) {
        let status = state.to_string();
        if *state != State::Starting && !self.ready {
            self.ready = true;
            notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
        } else {
            notify(&[NotifyState::Status(&status)]);
        }
    }

    pub fn stopping(&self) {
        notify(&[NotifyState::Stopping]);
    }
}

fn notify(states: &[NotifyState<'_>]) {
    // Without NOTIFY_SOCKET this does nothing; with one that is broken there is nobody to tell.
    if let Err(error) = sd_notify::notify(states) {
        log::debug!("systemd was not told: {error}");
    }
}
