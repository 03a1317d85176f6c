//! What the watcher is doing, in words.

use std::fmt;

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
