//! What the watcher is doing: one of a few phases, and one pure function that says what each event makes of each phase.
//!
//! ```text
//!  starting ─► connecting ─► running ◄─► waiting for GPUs
//!                  ▲ │          │ │ │
//!                  │ └──────────┘ │ └─► releasing ─► released ─► connecting
//!                  │   restarting │
//!                  └── lost ◄─────┘        any ─► stopping
//! ```
//!
//! The log, `/health`, `dcgm_exporter_state` and systemd's status line are all derived from the phase. Nothing here has
//! an effect: the actions are carried out by the watcher's loop.

use std::fmt;

use super::restart::RestartReason;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Phase {
    /// Nothing has been tried yet.
    #[default]
    Starting,
    /// An engine is being started or connected to, without a session before. `why` the last attempt failed, if one did.
    Connecting {
        why: Option<String>,
    },
    /// Samples are collected.
    Running(Running),
    /// The engine answers and has no GPU. `had_some` since the exporter started.
    WaitingForGpus {
        had_some: bool,
    },
    /// The engine is being started again, or another one is taken. The last samples stay on the page, and age.
    Restarting {
        reason: RestartReason,
        /// What the phase before was: a new engine is no reason to believe that GPUs answer.
        was_well: bool,
    },
    /// The engine has gone and has not been reached again.
    Lost {
        why: String,
    },
    /// The session is being ended on request.
    Releasing,
    /// The GPUs are free for others until somebody asks to go on.
    Released,
    Stopping,
}

/// How a collection went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Running {
    /// What is not as it should be, a sentence each; empty if all is well.
    pub reasons: Vec<String>,
    /// GPUs were here, and none of them answers.
    pub no_gpu_answers: bool,
}

/// What happens to the watcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Begin,
    ConnectFailed(String),
    Connected,
    Collected(Running),
    /// A collection of an engine without a GPU.
    NoGpus {
        had_some: bool,
    },
    /// A call answered that the engine is gone.
    SessionLost(String),
    /// The session is to be ended for another one.
    Restart(RestartReason),
    SessionEnded,
    PauseOver,
    Release,
    Resume,
    Stop,
}

/// What is to be done after an event, in this order. The last one brings the next event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Starts or connects to an engine: `Connected`, `ConnectFailed`.
    Connect,
    /// Watches and collects until something ends the session: `SessionLost`, `Restart`, `Release`, `Stop`.
    RunSession,
    /// Gives back whatever the session holds, if there is one: `SessionEnded`.
    EndSession,
    /// Waits before the next attempt, longer each time: `PauseOver`, `Release`, `Stop`.
    Pause,
    /// Waits for a command: `Resume`, `Stop`.
    WaitReleased,
    Leave,
    /// Publishes the samples just collected.
    Publish,
    /// Publishes a page without samples, because those that there are no longer hold.
    PublishWithoutSamples,
    CountReconnect,
    CountRestart,
}

impl Phase {
    /// The phase after an event, and what to do. An event that means nothing in a phase changes nothing.
    pub fn next(self, event: Event) -> (Phase, &'static [Action]) {
        use Action::*;
        match (self, event) {
            (phase @ Phase::Stopping, Event::SessionEnded) => (phase, &[Leave]),
            (phase @ Phase::Stopping, _) => (phase, &[]),
            (_, Event::Stop) => (Phase::Stopping, &[EndSession]),

            (Phase::Starting, Event::Begin) => (Phase::Connecting { why: None }, &[Connect]),
            (Phase::Released, Event::Resume) => (Phase::Connecting { why: None }, &[PublishWithoutSamples, Connect]),
            (Phase::Releasing, Event::SessionEnded) => (Phase::Released, &[PublishWithoutSamples, WaitReleased]),
            (phase @ (Phase::Starting | Phase::Releasing | Phase::Released), _) => (phase, &[]),

            // From here on: connecting, running, waiting for GPUs, restarting, lost.
            (_, Event::Release) => (Phase::Releasing, &[EndSession]),
            (_, Event::Collected(running)) => (Phase::Running(running), &[Publish]),
            (_, Event::NoGpus { had_some }) => (Phase::WaitingForGpus { had_some }, &[Publish]),
            (_, Event::SessionLost(why)) => (Phase::Lost { why }, &[PublishWithoutSamples, EndSession]),
            (phase, Event::Restart(reason)) => {
                (Phase::Restarting { reason, was_well: phase.is_well() }, &[CountRestart, EndSession])
            }

            (phase @ Phase::Lost { .. }, Event::Connected) => (phase, &[CountReconnect, RunSession]),
            (phase @ (Phase::Connecting { .. } | Phase::Restarting { .. }), Event::Connected) => (phase, &[RunSession]),
            (Phase::Connecting { .. }, Event::ConnectFailed(why)) => (Phase::Connecting { why: Some(why) }, &[Pause]),
            (Phase::Restarting { .. } | Phase::Lost { .. }, Event::ConnectFailed(why)) => {
                (Phase::Lost { why }, &[PublishWithoutSamples, Pause])
            }
            (phase @ (Phase::Lost { .. } | Phase::Restarting { .. }), Event::SessionEnded) => (phase, &[Pause]),
            (phase @ (Phase::Connecting { .. } | Phase::Restarting { .. } | Phase::Lost { .. }), Event::PauseOver) => {
                (phase, &[Connect])
            }
            (phase, _) => (phase, &[]),
        }
    }

    /// The values of `dcgm_exporter_state`, in the order of the page.
    pub const NAMES: [&str; 10] = [
        "starting",
        "connecting",
        "running",
        "degraded",
        "waiting_for_gpus",
        "restarting",
        "lost",
        "releasing",
        "released",
        "stopping",
    ];

    pub fn name(&self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Connecting { .. } => "connecting",
            Phase::Running(Running { reasons, .. }) if reasons.is_empty() => "running",
            Phase::Running(_) => "degraded",
            Phase::WaitingForGpus { .. } => "waiting_for_gpus",
            Phase::Restarting { .. } => "restarting",
            Phase::Lost { .. } => "lost",
            Phase::Releasing => "releasing",
            Phase::Released => "released",
            Phase::Stopping => "stopping",
        }
    }

    /// Whether somebody who asks for samples gets what there should be, or was meant to be: `/health` is 200 or 503.
    /// How old the page is is judged beside this, so a restart is well as long as the samples of before are young.
    pub fn is_well(&self) -> bool {
        match self {
            Phase::Starting | Phase::Lost { .. } | Phase::Stopping => false,
            Phase::Running(Running { no_gpu_answers, .. }) => !no_gpu_answers,
            Phase::WaitingForGpus { had_some } => !had_some,
            // Before the first samples and after a resume there is no page, or one that ages.
            Phase::Connecting { why } => why.is_none(),
            Phase::Restarting { was_well, .. } => *was_well,
            Phase::Releasing | Phase::Released => true,
        }
    }

    /// Whether an administrator should look.
    pub fn is_trouble(&self) -> bool {
        match self {
            Phase::Running(Running { reasons, .. }) => !reasons.is_empty(),
            Phase::Connecting { why } => why.is_some(),
            Phase::WaitingForGpus { .. } | Phase::Lost { .. } => true,
            _ => false,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Phase::Starting => f.write_str(": no samples have been collected yet"),
            Phase::Connecting { why: None } => f.write_str(": no samples have been collected yet"),
            Phase::Connecting { why: Some(why) } | Phase::Lost { why } => write!(f, ": {why}"),
            Phase::Running(Running { reasons, .. }) if reasons.is_empty() => Ok(()),
            Phase::Running(Running { reasons, no_gpu_answers }) => {
                f.write_str(if *no_gpu_answers { ": no GPU answers; " } else { ": " })?;
                write!(f, "{}", FirstOf(reasons))
            }
            Phase::WaitingForGpus { had_some: false } => f.write_str(": no GPU is found; looking again"),
            Phase::WaitingForGpus { had_some: true } => f.write_str(": all GPUs are lost; looking again"),
            Phase::Restarting { reason, .. } => write!(f, ": {reason}"),
            Phase::Releasing => f.write_str(": the GPUs are being released"),
            Phase::Released => f.write_str(": the GPUs were released by SIGUSR1; send SIGUSR2 to go on"),
            Phase::Stopping => Ok(()),
        }
    }
}

/// The first few of many reasons, and how many more there are.
struct FirstOf<'a>(&'a [String]);

impl fmt::Display for FirstOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        f.write_str(&self.0[..self.0.len().min(SHOWN)].join("; "))?;
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phases() -> Vec<Phase> {
        vec![
            Phase::Starting,
            Phase::Connecting { why: None },
            Phase::Running(Running::default()),
            Phase::WaitingForGpus { had_some: false },
            Phase::Restarting { reason: RestartReason::ClockStep, was_well: true },
            Phase::Lost { why: "gone".into() },
            Phase::Releasing,
            Phase::Released,
            Phase::Stopping,
        ]
    }

    fn events() -> Vec<Event> {
        vec![
            Event::Begin,
            Event::ConnectFailed("no".into()),
            Event::Connected,
            Event::Collected(Running { reasons: vec!["x".into()], no_gpu_answers: true }),
            Event::NoGpus { had_some: true },
            Event::SessionLost("gone".into()),
            Event::Restart(RestartReason::GpusSilent),
            Event::SessionEnded,
            Event::PauseOver,
            Event::Release,
            Event::Resume,
            Event::Stop,
        ]
    }

    /// A line for each event, a column for each phase: the phase after it and what is done; `.` where nothing changes.
    const TABLE: &str = "
        event          | starting       | connecting         | running            | waiting_for_gpus   | restarting         | lost                     | releasing             | released        | stopping
        Begin          | connecting C   | .                  | .                  | .                  | .                  | .                        | .                     | .               | .
        ConnectFailed  | .              | connecting P       | .                  | .                  | lost e,P           | lost e,P                 | .                     | .               | .
        Connected      | .              | connecting R       | .                  | .                  | restarting R       | lost n,R                 | .                     | .               | .
        Collected      | .              | degraded p         | degraded p         | degraded p         | degraded p         | degraded p               | .                     | .               | .
        NoGpus         | .              | waiting_for_gpus p | waiting_for_gpus p | waiting_for_gpus p | waiting_for_gpus p | waiting_for_gpus p       | .                     | .               | .
        SessionLost    | .              | lost e,E           | lost e,E           | lost e,E           | lost e,E           | lost e,E                 | .                     | .               | .
        Restart        | .              | restarting r,E     | restarting r,E     | restarting r,E     | restarting r,E     | restarting r,E           | .                     | .               | .
        SessionEnded   | .              | .                  | .                  | .                  | restarting P       | lost P                   | released e,W          | .               | stopping L
        PauseOver      | .              | connecting C       | .                  | .                  | restarting C       | lost C                   | .                     | .               | .
        Release        | .              | releasing E        | releasing E        | releasing E        | releasing E        | releasing E              | .                     | .               | .
        Resume         | .              | .                  | .                  | .                  | .                  | .                        | .                     | connecting e,C  | .
        Stop           | stopping E     | stopping E         | stopping E         | stopping E         | stopping E         | stopping E               | stopping E            | stopping E      | .
    ";

    fn letter(action: &Action) -> &'static str {
        match action {
            Action::Connect => "C",
            Action::RunSession => "R",
            Action::EndSession => "E",
            Action::Pause => "P",
            Action::WaitReleased => "W",
            Action::Leave => "L",
            Action::Publish => "p",
            Action::PublishWithoutSamples => "e",
            Action::CountReconnect => "n",
            Action::CountRestart => "r",
        }
    }

    #[test]
    fn every_event_in_every_phase() {
        let mut lines = TABLE.trim().lines().map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
        let names: Vec<_> = phases().iter().map(Phase::name).collect();
        assert_eq!(lines.next().unwrap()[1..], names);
        let (mut lines, mut seen) = (lines, 0);
        for event in events() {
            let line = lines.next().expect("a line for each event");
            assert!(format!("{event:?}").starts_with(line[0]), "{event:?} is not {}", line[0]);
            for (phase, expected) in phases().into_iter().zip(&line[1..]) {
                let before = phase.clone();
                let (after, actions) = phase.next(event.clone());
                let actions: Vec<_> = actions.iter().map(letter).collect();
                match *expected {
                    "." => assert_eq!((&after, actions.len()), (&before, 0), "{event:?} in {before:?}"),
                    expected => {
                        assert_eq!(
                            format!("{} {}", after.name(), actions.join(",")),
                            expected,
                            "{event:?} in {before:?}"
                        )
                    }
                }
                seen += 1;
            }
        }
        assert_eq!((seen, lines.next()), (phases().len() * events().len(), None));
    }

    /// Whatever is done, the last action is the one that brings the next event, and no other does.
    #[test]
    fn one_action_at_the_end_brings_the_next_event() {
        let brings = |action: &Action| letter(action).chars().all(char::is_uppercase);
        for phase in phases() {
            for event in events() {
                let (_, actions) = phase.clone().next(event);
                if let Some((last, before)) = actions.split_last() {
                    assert!(before.iter().all(|action| !brings(action)));
                    assert!(brings(last) || *last == Action::Publish, "{actions:?}");
                }
            }
        }
    }

    #[test]
    fn every_name_is_listed() {
        let degraded = Phase::Running(Running { reasons: vec!["x".into()], no_gpu_answers: false });
        let all = phases().into_iter().chain([degraded]);
        let names: Vec<_> = all.map(|phase| phase.name()).collect();
        assert!(Phase::NAMES.iter().all(|name| names.contains(name)) && names.len() == Phase::NAMES.len());
    }

    #[test]
    fn health_is_honest() {
        let running = |reasons: &[&str], no_gpu_answers| {
            Phase::Running(Running { reasons: reasons.iter().map(ToString::to_string).collect(), no_gpu_answers })
        };
        for (phase, is_well, text) in [
            (running(&[], false), true, "running"),
            (running(&["GPU 1: x"], false), true, "degraded: GPU 1: x"),
            (running(&["GPU 0: x"], true), false, "degraded: no GPU answers; GPU 0: x"),
            (Phase::WaitingForGpus { had_some: false }, true, "waiting_for_gpus: no GPU is found; looking again"),
            (Phase::WaitingForGpus { had_some: true }, false, "waiting_for_gpus: all GPUs are lost; looking again"),
            (Phase::Lost { why: "gone".into() }, false, "lost: gone"),
            (Phase::Connecting { why: Some("refused".into()) }, false, "connecting: refused"),
        ] {
            assert_eq!((phase.is_well(), phase.to_string().as_str()), (is_well, text));
            let (restarting, _) = phase.next(Event::Restart(RestartReason::GpusSilent));
            assert_eq!((restarting.name(), restarting.is_well()), ("restarting", is_well), "{text}");
        }
    }
}
