//! When an engine is to be started again, and how soon the next attempt may be.
//!
//! DCGM schedules and orders its samples by the wall clock: after a step back by an hour it samples nothing for an hour,
//! and only a new engine helps. An engine that started before the driver, or that has stopped sampling, needs the same.
//! After XID 119 it does not: a new engine reads the kernel log from its beginning, and is as silent as the old one.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant, SystemTime};

/// Why an engine is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartReason {
    /// The counters file asks for a module that the engine was told to leave out, or no longer asks for one.
    Modules,
    /// `auto`: the node's host engine has come.
    HostEngine,
    /// The clock was set back, or far forward.
    ClockStep,
    /// All GPUs have stopped answering, for a long time.
    GpusSilent,
    /// The driver has GPUs that the engine does not have.
    GpusAppeared,
}

impl RestartReason {
    pub const ALL: [RestartReason; 5] = [
        RestartReason::Modules,
        RestartReason::HostEngine,
        RestartReason::ClockStep,
        RestartReason::GpusSilent,
        RestartReason::GpusAppeared,
    ];

    /// The label of `dcgm_exporter_engine_restarts_total`.
    pub fn name(self) -> &'static str {
        match self {
            RestartReason::Modules => "modules",
            RestartReason::HostEngine => "host_engine",
            RestartReason::ClockStep => "clock_step",
            RestartReason::GpusSilent => "gpus_silent",
            RestartReason::GpusAppeared => "gpus_appeared",
        }
    }

    /// Whether somebody asked for it or it helps at once, so that nothing is gained by waiting.
    fn is_asked_for(self) -> bool {
        matches!(self, RestartReason::Modules | RestartReason::HostEngine)
    }
}

impl fmt::Display for RestartReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RestartReason::Modules => "the counters file needs other modules of the engine; starting the engine again",
            RestartReason::HostEngine => "the node's host engine answers; switching to it",
            RestartReason::ClockStep => {
                "the clock was set, and DCGM may sample nothing until it has caught up; starting the engine again"
            }
            RestartReason::GpusSilent => "no GPU has answered for a while; starting the engine again",
            RestartReason::GpusAppeared => {
                "the driver has GPUs that the engine does not see; starting the engine again"
            }
        })
    }
}

/// How long to wait before the next attempt to reach an engine. Each attempt of an embedded one costs seconds, so a
/// session that ends soon counts as a failed attempt.
#[derive(Debug)]
pub struct BackOff {
    pause: Duration,
}

impl BackOff {
    pub const FIRST: Duration = Duration::from_millis(200);
    pub const LONGEST: Duration = Duration::from_secs(10);
    /// A session that lasted so long was a success.
    const SUCCESS: Duration = Duration::from_secs(60);

    pub fn new() -> BackOff {
        BackOff { pause: BackOff::FIRST }
    }

    /// A session has ended after so long.
    pub fn session_lasted(&mut self, lasted: Duration) {
        if lasted >= BackOff::SUCCESS {
            self.pause = BackOff::FIRST;
        }
    }

    /// The pause before the next attempt; the one after it is twice as long.
    pub fn next(&mut self, restart: Option<RestartReason>) -> Duration {
        if restart.is_some_and(RestartReason::is_asked_for) {
            return Duration::ZERO;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(BackOff::LONGEST);
        pause
    }
}

/// How far the wall clock went away from the monotonic one between two looks.
#[derive(Debug)]
pub struct ClockSteps {
    looked: (SystemTime, Instant),
}

/// A step of the clock that DCGM does not get over by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Back(Duration),
    Forward(Duration),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (by, where_to) = match self {
            Step::Back(by) => (by, "back"),
            Step::Forward(by) => (by, "forward"),
        };
        write!(f, "the clock was set {where_to} by {}", humantime::format_duration(Duration::from_secs(by.as_secs())))
    }
}

impl ClockSteps {
    /// Smaller steps back cost less time than a new engine does.
    const BACK: Duration = Duration::from_secs(1);
    /// A step forward is harmless to DCGM; after a large one, such as a suspended machine, windows of events are empty.
    /// A second less than an hour: the two clocks are not read at the same moment.
    const FORWARD: Duration = Duration::from_secs(3599);

    pub fn new(wall: SystemTime, monotonic: Instant) -> ClockSteps {
        ClockSteps { looked: (wall, monotonic) }
    }

    /// The step since the last look, if it matters.
    pub fn look(&mut self, wall: SystemTime, monotonic: Instant) -> Option<Step> {
        let (last_wall, last_monotonic) = std::mem::replace(&mut self.looked, (wall, monotonic));
        let expected = last_wall + monotonic.saturating_duration_since(last_monotonic);
        match wall.duration_since(expected) {
            Ok(ahead) => (ahead >= ClockSteps::FORWARD).then_some(Step::Forward(ahead)),
            Err(behind) => Some(behind.duration()).filter(|by| *by >= ClockSteps::BACK).map(Step::Back),
        }
    }
}

/// Counts collections in which no GPU answered, over sessions: if a new engine does not help, the next one is tried
/// later and later.
#[derive(Debug)]
pub struct Silence {
    since: Option<Instant>,
    collections: u32,
    limit: u32,
}

impl Silence {
    const FIRST_LIMIT: u32 = 10;
    const LONGEST_LIMIT: u32 = 640;
    /// Where collections come several times a second, so many of them are still no time.
    const SHORTEST: Duration = Duration::from_secs(1);

    pub fn new() -> Silence {
        Silence { since: None, collections: 0, limit: Silence::FIRST_LIMIT }
    }

    /// Takes in a collection. Returns whether it is time for a new engine.
    pub fn note(&mut self, now: Instant, is_silent: bool) -> bool {
        if !is_silent {
            *self = Silence::new();
            return false;
        }
        let since = *self.since.get_or_insert(now);
        self.collections += 1;
        if self.collections < self.limit || now.duration_since(since) < Silence::SHORTEST * (self.limit - 1) {
            return false;
        }
        (self.since, self.collections) = (None, 0);
        self.limit = (self.limit * 2).min(Silence::LONGEST_LIMIT);
        true
    }
}

/// Which GPUs the driver has, compared with what the engine has.
///
/// A driver that is loaded after the engine was started, or a GPU that is bound later, may never be seen by it. Where
/// the driver's list cannot be read but its device file is there (a container without `/proc/driver/nvidia`), an engine
/// without GPUs is started again after a pause.
#[derive(Debug)]
pub struct DriverGpus {
    /// What the driver had when an engine was last started for it.
    tried: Option<BTreeSet<String>>,
    pause: Duration,
}

impl DriverGpus {
    const FIRST_PAUSE: Duration = Duration::from_secs(5);
    const LONGEST_PAUSE: Duration = Duration::from_secs(300);

    pub fn new() -> DriverGpus {
        DriverGpus { tried: None, pause: DriverGpus::FIRST_PAUSE }
    }

    /// An engine is about to be started; `driver` is the list of the driver's GPUs, `None` without a driver.
    pub fn engine_starts(&mut self, driver: Option<BTreeSet<String>>) {
        self.tried = driver;
    }

    /// Whether a new engine may see more. `in_engine` is how many GPUs the engine has, `session` how long it has run.
    pub fn has_more(&mut self, driver: Option<&BTreeSet<String>>, in_engine: usize, session: Duration) -> bool {
        if in_engine > 0 {
            self.pause = DriverGpus::FIRST_PAUSE;
        }
        match (driver, &self.tried) {
            // What a start did not help once, it will not help again.
            (Some(driver), Some(tried)) => driver.len() > in_engine && !driver.is_subset(tried),
            (Some(driver), None) => driver.len() > in_engine,
            (None, _) if in_engine == 0 && session >= self.pause => {
                self.pause = (self.pause * 2).min(DriverGpus::LONGEST_PAUSE);
                true
            }
            (None, _) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn attempts_become_rarer_until_one_lasts() {
        let mut back_off = BackOff::new();
        let pauses: Vec<_> = (0..8).map(|_| back_off.next(None).as_millis()).collect();
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        back_off.session_lasted(SECOND * 59);
        assert_eq!(back_off.next(Some(RestartReason::ClockStep)), BackOff::LONGEST);
        assert_eq!(back_off.next(Some(RestartReason::Modules)), Duration::ZERO);
        back_off.session_lasted(SECOND * 60);
        assert_eq!(back_off.next(None), BackOff::FIRST);
    }

    #[test]
    fn steps_of_the_clock() {
        let (wall, monotonic) = (SystemTime::UNIX_EPOCH + SECOND * 1_000_000, Instant::now());
        let mut clock = ClockSteps::new(wall, monotonic);
        assert_eq!(clock.look(wall + SECOND * 30, monotonic + SECOND * 30), None);
        // Slewing by 500 ppm, and a small step.
        assert_eq!(clock.look(wall + SECOND * 60 - SECOND / 50, monotonic + SECOND * 60), None);
        assert_eq!(clock.look(wall + SECOND * 89, monotonic + SECOND * 90), None);
        let back = clock.look(wall - SECOND * 3500, monotonic + SECOND * 100);
        assert_eq!(back, Some(Step::Back(SECOND * 3599)));
        assert_eq!(back.unwrap().to_string(), "the clock was set back by 59m 59s");
        assert_eq!(clock.look(wall - SECOND * 3490, monotonic + SECOND * 110), None, "once");
        assert_eq!(clock.look(wall + SECOND * 60, monotonic + SECOND * 120), None, "forward by less than an hour");
        let hour = wall + SECOND * 3660 - SECOND / 1000;
        assert!(matches!(clock.look(hour, monotonic + SECOND * 120), Some(Step::Forward(_))), "an hour, read late");
        assert!(clock.look(wall + SECOND * 60, monotonic + SECOND * 120).is_some());
        assert_eq!(
            clock.look(wall + SECOND * 86_520, monotonic + SECOND * 180),
            Some(Step::Forward(SECOND * 86_400)),
            "a day"
        );
    }

    #[test]
    fn a_new_engine_that_does_not_help_is_tried_less_and_less() {
        let start = Instant::now();
        let restarts = |silence: &mut Silence, interval: Duration, count: u32| -> Vec<u32> {
            (1..count).filter(|number| silence.note(start + interval * *number, true)).collect()
        };
        let mut silence = Silence::new();
        assert_eq!(restarts(&mut silence, SECOND, 200), [10, 30, 70, 150]);
        assert!(!silence.note(start, false));
        assert_eq!(restarts(&mut silence, SECOND * 30, 30), [10]);
        assert_eq!(restarts(&mut Silence::new(), SECOND / 10, 200), [91], "ten seconds, not ten collections");
    }

    #[test]
    fn gpus_that_appear_are_tried_once() {
        let set = |names: &[&str]| -> BTreeSet<String> { names.iter().map(ToString::to_string).collect() };
        let mut gpus = DriverGpus::new();
        gpus.engine_starts(None);
        assert!(gpus.has_more(Some(&set(&["a"])), 0, SECOND), "the driver has come");
        gpus.engine_starts(Some(set(&["a"])));
        assert!(!gpus.has_more(Some(&set(&["a"])), 0, SECOND * 3600), "DCGM cannot use it");
        assert!(!gpus.has_more(Some(&set(&["a"])), 1, SECOND));
        assert!(!gpus.has_more(Some(&set(&["a", "b"])), 2, SECOND), "the engine has found it by itself");
        assert!(gpus.has_more(Some(&set(&["a", "b"])), 1, SECOND));
        let mut blind = DriverGpus::new();
        let tries: Vec<_> = [4, 5, 9, 10, 20, 40, 80, 160, 299, 300, 301]
            .into_iter()
            .filter(|seconds| blind.has_more(None, 0, SECOND * *seconds))
            .collect();
        assert_eq!(tries, [5, 10, 20, 40, 80, 160, 300, 301]);
    }
}
