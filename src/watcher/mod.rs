//! The one thread with the clock: connect, discover, watch, then update → read → render → publish.
//!
//! It alone calls DCGM, so nothing else ever waits for a driver. Connecting again, looking around again, reading the
//! counters file again and letting the GPUs go are states of this loop and of nothing else. HTTP is not known here.
//!
//! - [`wait`]: the clock, commands and news.
//! - [`choice`]: which engine to use.
//! - [`rhythm`]: when scrapes come.
//! - [`scene`]: what is watched now.
//! - [`state`]: what the watcher says of itself.

mod choice;
mod rhythm;
pub mod scene;
mod state;
mod wait;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::config::engine::{EngineSelection, usual_places};
use crate::config::{Config, JobLabels};
use crate::counters::{self, Counters};
use crate::dcgm::Mode;
use crate::dcgm::{Error, Library, Session, abi, hostengine};
use crate::exposition::OwnMetrics;
use crate::inventory::hostname;
use crate::inventory::{self, Inventory, Kind, Minors};
use crate::jobs::{self, JobMap};
use crate::metrics::exporter::{ErrorKind, Report};
use crate::metrics::freshness::Freshness;
use crate::metrics::{Collector, Grouping, Memory, Windows, sources};
use crate::publish::Publisher;
use crate::system::logging::Throttle;
use crate::system::systemd;
use crate::system::threads::test_fault;
use choice::{Choice, Next};
use rhythm::{Beat, Rhythm, next_collection};
use scene::{Gone, Scene};
use state::State;
use wait::Waiting;
pub use wait::{Command, Remote, Wake};

/// How long libdcgm may try to connect inside one call; the waiting is done outside it.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Pauses between attempts to connect. In a long one the engine's door is tried now and then.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const KNOCK: Duration = Duration::from_secs(1);
/// How often the watcher listens for a rhythm in the scrapes.
const LISTEN: Duration = Duration::from_secs(1);
/// How often this thread shows that it is alive.
const PROGRESS: Duration = Duration::from_secs(5);
/// How often entities are looked for again: after so many collections, within these limits. A call that fails makes it
/// happen at once, but not sooner than the first of them.
const LOOK_AGAIN_COLLECTIONS: u32 = 10;
const LOOK_AGAIN_SOONEST: Duration = Duration::from_secs(1);
const LOOK_AGAIN_LATEST: Duration = Duration::from_secs(30);
/// An engine that started before the driver never sees a GPU, so an embedded one is started again: first after this,
/// then after twice as long each time, because every start leaves some memory in libdcgm.
const NO_GPU_FIRST: Duration = Duration::from_secs(5);
const NO_GPU_LATEST: Duration = Duration::from_secs(3600);

/// Why the watcher ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to; watches are released and the engine is stopped.
    Stopped,
    /// It cannot do what it was started for; the text says why.
    Failed(String),
}

/// How a session ended.
enum Leave {
    Stop,
    Lost(Error),
    /// Another session is wanted at once: the engine needs other modules, should look for GPUs anew, or is not the one
    /// to use any more.
    Restart,
    Release,
    Failed(String),
}

pub struct Watcher {
    config: Config,
    choice: Choice,
    library: Arc<Library>,
    counters: Counters,
    publisher: Publisher,
    waiting: Waiting,
    hostname: String,
    jobs: Option<JobMap>,
    minors: Minors,
    report: Report,
    state: State,
    memory: Memory,
    freshness: Freshness,
    gone: Gone,
    throttle: Throttle,
    /// The text of the page, written anew in the same memory every time.
    text: String,
    collected: Option<Instant>,
    rhythm: Rhythm,
    /// The rhythm that the watches are set for.
    followed: Option<Duration>,
    grouping: Grouping,
    /// A group could not be read, and its entities have not been tried apart.
    should_part: bool,
    /// Something failed since entities were last looked for.
    suspicious: bool,
    /// It has been said whether there is another engine on the node.
    said_neighbour: bool,
    no_gpu_pause: Duration,
}

impl Watcher {
    /// Errors: no event descriptor is to be had.
    pub fn new(
        config: Config,
        library: Arc<Library>,
        counters: Counters,
        publisher: Publisher,
    ) -> std::io::Result<(Watcher, Remote)> {
        let (waiting, remote) = Waiting::new(&config.collectors, config.job_map.as_deref())?;
        if let Some(directory) = &config.job_map {
            log::info!(directory = directory.display().to_string(); "HPC job mapping is enabled");
            if !directory.is_dir() {
                log::error!(directory = directory.display().to_string(); "HPC job mapping directory not found; waiting for it");
            }
        }
        let report = Report {
            library_version: library.version().to_owned(),
            library_path: library.path().display().to_string(),
            job_map_errors: config.job_map.is_some().then_some(0),
            state: State::default().name(),
            states: &State::NAMES,
            ..Report::default()
        };
        let watcher = Watcher {
            jobs: config.job_map.is_some().then(JobMap::default),
            memory: Memory::new(
                microseconds(),
                Windows { xid: config.xid_window, clock_events: config.clock_events_window },
            ),
            no_gpu_pause: no_gpu_first(config.interval),
            choice: Choice::new(config.engine.clone(), Instant::now()),
            hostname: hostname::of(&config),
            config,
            library,
            counters,
            publisher,
            waiting,
            minors: Minors::default(),
            report,
            state: State::default(),
            freshness: Freshness::default(),
            gone: Gone::default(),
            throttle: Throttle::default(),
            text: String::new(),
            collected: None,
            rhythm: Rhythm::default(),
            followed: None,
            grouping: Grouping::default(),
            should_part: false,
            suspicious: false,
            said_neighbour: false,
        };
        Ok((watcher, remote))
    }

    /// Runs until told to stop.
    pub fn run(mut self) -> Ended {
        self.publisher.published().set_status(self.state.to_string(), false);
        self.read_jobs();
        let mut pause = FIRST_PAUSE;
        loop {
            match self.connect() {
                Ok(session) => {
                    pause = FIRST_PAUSE;
                    let leave = self.serve(Rc::new(session));
                    match leave {
                        Leave::Stop => return self.stopped(),
                        Leave::Failed(why) => return Ended::Failed(why),
                        Leave::Restart => continue,
                        Leave::Release => match self.rest() {
                            Command::Stop => return self.stopped(),
                            _ => continue,
                        },
                        Leave::Lost(error) => self.lose(&error),
                    }
                }
                Err(error) => self.say_unreachable(&error),
            }
            match self.pause(pause) {
                Some(Command::Stop) => return self.stopped(),
                Some(Command::Release) if self.rest() == Command::Stop => return self.stopped(),
                _ => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn stopped(&self) -> Ended {
        systemd::stopping();
        Ended::Stopped
    }

    fn connect(&mut self) -> Result<Session, Error> {
        match self.choice.next(Instant::now()) {
            Next::AwaitReturn(address) => {
                self.set_engine("remote", address.to_string());
                let text =
                    "the host engine has gone; if it does not return, an embedded one takes its place".to_owned();
                Err(Error::new("dcgmConnect_v2", abi::CONNECTION_NOT_VALID, text))
            }
            Next::Remote(address) => {
                self.set_engine("remote", address.to_string());
                if self.throttle.allows("connect") {
                    log::info!("Attempting to connect to remote hostengine at {address}");
                }
                let connected = Session::remote(&self.library, &address, CONNECT_TIMEOUT);
                match &connected {
                    Ok(_) => self.choice.connected(&address),
                    Err(error) if self.choice.refused(Instant::now()) => {
                        log::warn!(
                            error = error.to_string();
                            "something listens at {address} but is no host engine that lets us in; using an embedded one"
                        );
                        return self.start_embedded();
                    }
                    Err(_) => {}
                }
                connected
            }
            Next::Embedded => self.start_embedded(),
        }
    }

    fn start_embedded(&mut self) -> Result<Session, Error> {
        self.set_engine("embedded", String::new());
        if self.throttle.allows("connect") {
            log::info!("Attempting to initialize DCGM.");
        }
        Session::embedded(&self.library, &scene::unneeded_modules(&self.counters, &self.library))
    }

    fn set_engine(&mut self, mode: &'static str, address: String) {
        (self.report.engine_mode, self.report.engine_address) = (mode, address);
    }

    /// Watches and publishes until something ends it. The session ends with it.
    fn serve(&mut self, session: Rc<Session>) -> Leave {
        self.report.engine_version = session.engine_version();
        log::info!(version = self.report.engine_version; "DCGM successfully initialized!");
        if matches!(self.state, State::Lost(_) | State::Reconnecting(_)) {
            self.report.reconnects += 1;
        }
        (self.suspicious, self.grouping) = (false, Grouping::default());
        let leave = match self.look_around(&session) {
            Ok(scene) => {
                self.say_neighbour(&session, &scene);
                self.beat(&session, scene).unwrap_or_else(|leave| leave)
            }
            Err(leave) => leave,
        };
        if matches!(leave, Leave::Release) {
            self.enter(State::Releasing);
        }
        leave
    }

    /// The loop: look around when it is time, collect when it is due, and wait.
    fn beat(&mut self, session: &Rc<Session>, mut scene: Scene) -> Result<Leave, Leave> {
        let started = Instant::now();
        let (mut looked, mut due) = (started, started);
        loop {
            let now = Instant::now();
            if now >= looked + self.look_again() {
                looked = now;
                self.suspicious = false;
                if self.should_restart(session, &scene, started) {
                    return Ok(Leave::Restart);
                }
                let (found, is_new) = self.look_around_again(session, scene)?;
                scene = found;
                if is_new {
                    due = now;
                }
            }
            if now >= due {
                self.collect(&mut scene).map_err(Leave::Lost)?;
                self.publish(&mut scene);
                due = match session.mode() {
                    Mode::Embedded => Instant::now() + self.config.interval,
                    Mode::Remote => next_due(due, self.config.interval),
                };
                if self.should_part {
                    (self.should_part, self.grouping) = (false, Grouping::Apart);
                    log::warn!("a group of entities could not be read; reading them in smaller groups");
                    scene = self.set_scene_again(session, scene)?;
                    due = Instant::now();
                }
                if scene.judgement.rewatch {
                    self.report.profiling_rewatches += 1;
                    log::warn!("profiling fields have gone silent; watching them anew");
                    scene = self.set_scene_again(session, scene)?;
                }
            }
            // A remote engine polls on its own clock.
            if session.mode() == Mode::Embedded {
                let beat = self.beat_of_scrapes();
                if self.follow(beat) {
                    scene = self.set_scene_again(session, scene)?;
                    due = Instant::now();
                } else if let Some(collected) = self.collected {
                    let took = self.report.collect_duration;
                    due = due.min(next_collection(Instant::now(), collected, self.config.interval, beat, took));
                }
            }
            if session.mode() == Mode::Embedded
                && let Some(address) = self.choice.has_come(Instant::now())
            {
                log::info!("a host engine answers at {address}; leaving the embedded one for it");
                return Ok(Leave::Restart);
            }
            match self.wait(due.min(looked + self.look_again()).min(Instant::now() + LISTEN)) {
                Wake::Due => {}
                Wake::JobsChanged => {
                    self.read_jobs();
                    self.relabel(&mut scene);
                    self.publish_again(&mut scene);
                }
                Wake::CountersChanged | Wake::Command(Command::Reload) => {
                    if !self.reload() {
                        // Whoever asked for it wants to see the outcome before the next collection.
                        self.publish_again(&mut scene);
                        continue;
                    }
                    let denied = scene::unneeded_modules(&self.counters, &self.library);
                    if session.mode() == Mode::Embedded && scene.denied != denied {
                        return Ok(Leave::Restart);
                    }
                    drop(scene);
                    scene = self.look_around(session)?;
                    (looked, due) = (Instant::now(), Instant::now());
                }
                Wake::Command(Command::Stop) => return Ok(Leave::Stop),
                Wake::Command(Command::Release) => return Ok(Leave::Release),
                Wake::Command(Command::Resume) => {}
            }
        }
    }

    fn beat_of_scrapes(&mut self) -> Option<Beat> {
        let rhythm = &mut self.rhythm;
        self.publisher.published().take_visits(|client, at| rhythm.note(client, at));
        rhythm.beat(Instant::now())
    }

    /// Takes up a rhythm, or lets one go. Says whether watches have to be set for it: they are to be due once a beat.
    fn follow(&mut self, beat: Option<Beat>) -> bool {
        let period = beat.map(|beat| beat.period).filter(|period| *period < self.config.interval);
        let is_close = |a: Duration, b: Duration| a.abs_diff(b) <= a.max(b) / 20;
        let same = match (period, self.followed) {
            (Some(period), Some(followed)) => is_close(period, followed),
            (None, None) => true,
            _ => false,
        };
        if !same {
            let seconds = period.map_or(self.config.interval, |period| period).as_secs_f64();
            log::info!(seconds = seconds; "collecting {}", if period.is_some() { "just before each scrape" } else { "at the interval" });
            self.followed = period;
        }
        !same
    }

    /// Time between two collections: the interval, or that of the scrapes if they come more often.
    fn pace(&self) -> Duration {
        self.followed.map_or(self.config.interval, |followed| followed.min(self.config.interval))
    }

    fn look_again(&self) -> Duration {
        if self.suspicious {
            return LOOK_AGAIN_SOONEST;
        }
        (self.config.interval * LOOK_AGAIN_COLLECTIONS).clamp(LOOK_AGAIN_SOONEST, LOOK_AGAIN_LATEST)
    }

    /// An embedded engine that sees no GPU may have been started before the driver.
    fn should_restart(&mut self, session: &Rc<Session>, scene: &Scene, started: Instant) -> bool {
        if session.mode() == Mode::Remote || !scene.inventory.gpus.is_empty() {
            self.no_gpu_pause = no_gpu_first(self.config.interval);
            return false;
        }
        if started.elapsed() < self.no_gpu_pause {
            return false;
        }
        self.no_gpu_pause = (self.no_gpu_pause * 2).min(NO_GPU_LATEST);
        log::info!("DCGM sees no GPU; starting the engine again in case the driver has come");
        true
    }

    fn look_around(&mut self, session: &Rc<Session>) -> Result<Scene, Leave> {
        let inventory = self.discover(session)?;
        self.set_scene(session, inventory)
    }

    /// Looks for entities again; keeps what is watched if they are the same. Says whether they are not.
    fn look_around_again(&mut self, session: &Rc<Session>, old: Scene) -> Result<(Scene, bool), Leave> {
        let inventory = self.discover(session)?;
        if inventory == old.inventory {
            return Ok((old, false));
        }
        for entity in old.inventory.entities.iter().filter(|entity| !inventory.entities.contains(entity)) {
            self.freshness.forget(entity.id);
        }
        // What was watched is given back first: an engine has room for few groups.
        drop(old);
        Ok((self.set_scene(session, inventory)?, true))
    }

    fn set_scene_again(&mut self, session: &Rc<Session>, old: Scene) -> Result<Scene, Leave> {
        let inventory = old.inventory.clone();
        drop(old);
        self.set_scene(session, inventory)
    }

    fn discover(&mut self, session: &Rc<Session>) -> Result<Inventory, Leave> {
        let found = scene::discover(session, &self.config, &self.counters, &self.hostname, &mut self.minors);
        let inventory = found.map_err(|error| self.failed(ErrorKind::Discover, error))?;
        self.gone.update(&inventory);
        self.memory.inventory(&inventory);
        Ok(inventory)
    }

    fn set_scene(&mut self, session: &Rc<Session>, inventory: Inventory) -> Result<Scene, Leave> {
        self.say_inventory(&inventory);
        let pace = self.pace();
        let set = Scene::set(session, &self.counters, inventory, &mut self.memory, pace, self.grouping);
        let mut scene = set.map_err(|error| self.failed(ErrorKind::Watch, error))?;
        if !scene.plan.errors.is_empty() && self.collected.is_none() {
            let (file, errors) = (self.config.collectors.clone(), scene.plan.errors.clone());
            return Err(Leave::Failed(counters::Error::Rows { file, errors }.to_string()));
        }
        self.say_plan(&scene);
        self.relabel(&mut scene);
        Ok(scene)
    }

    fn failed(&mut self, kind: ErrorKind, error: Error) -> Leave {
        self.report.count_error(kind);
        Leave::Lost(error)
    }

    fn collect(&mut self, scene: &mut Scene) -> Result<(), Error> {
        let start = Instant::now();
        let outcome = scene.collector.collect(&scene.inventory, &mut self.memory, microseconds())?;
        self.suspicious |= !outcome.errors.is_empty();
        self.should_part = outcome.isolate && self.grouping == Grouping::Together;
        scene.collector.table.settle_labels();
        self.freshness.judge(&mut scene.collector.table, &scene.inventory, &mut scene.judgement);
        for error in outcome.errors {
            let kind = if error.call == "dcgmUpdateAllFields" { ErrorKind::Update } else { ErrorKind::Read };
            self.report.count_error(kind);
            if self.throttle.allows(&error.to_string()) {
                log::warn!("some samples are missing: {error}");
            }
            scene.judgement.reasons.push(error.to_string());
        }
        for problem in outcome.problems {
            log::warn!("{problem}");
        }
        let missing = scene.collector.no_room.len();
        if missing > 0 {
            let reason = format!("the engine has no room for more groups ({missing} watches missing)");
            scene.judgement.reasons.push(reason);
        }
        (self.report.sources, self.report.series_left_out) = (outcome.sources, outcome.series_left_out);
        self.report.collect_duration = start.elapsed();
        self.report.collect_time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        self.report.collections += 1;
        self.collected = Some(start);
        Ok(())
    }

    /// Renders the samples that there are and hangs the page out.
    fn publish(&mut self, scene: &mut Scene) {
        self.enter(self.state_of(scene));
        self.publish_again(scene);
    }

    fn publish_again(&mut self, scene: &mut Scene) {
        self.text.clear();
        let Collector { table, computed, .. } = &mut scene.collector;
        scene.exposition.render(table, computed, &mut self.text);
        if self.config.exporter_metrics {
            scene.exposition.render_up(&scene.judgement.up, &self.gone.gone, &mut self.text);
            scene.exposition.render_jobs(&mut self.text);
            self.render_report();
        }
        self.publisher.publish(&self.text, self.collected);
    }

    /// Hangs out a page without samples: one that was collected is no longer true.
    fn publish_without_samples(&mut self, taken: Option<Instant>) {
        self.text.clear();
        self.report.sources.clear();
        if self.config.exporter_metrics {
            self.render_report();
        }
        self.publisher.publish(&self.text, taken);
    }

    fn render_report(&mut self) {
        self.report.scrapes = self.publisher.published().scrapes();
        self.report.http_restarts = self.publisher.published().http_restarts();
        self.report.put(&mut OwnMetrics::new(&mut self.text));
    }

    fn state_of(&self, scene: &Scene) -> State {
        let mut reasons = scene.judgement.reasons.clone();
        reasons.extend(self.gone.gone.iter().map(|entity| {
            let (name, id) =
                if entity.gpu_instance.is_some() { ("GPU instance", entity.id.id) } else { ("GPU", entity.id.id) };
            format!("{name} {id} ({}) is gone", entity.uuid)
        }));
        if scene.inventory.gpus.is_empty() {
            reasons.push("no GPU is found; looking again".to_owned());
        }
        reasons.sort();
        if reasons.is_empty() { State::Running } else { State::Degraded(reasons) }
    }

    /// Goes over to a state, and says so where it is another.
    fn enter(&mut self, state: State) {
        if state == self.state {
            return;
        }
        self.report.state = state.name();
        self.publisher.published().set_status(state.to_string(), state.is_well());
        systemd::status(&state.to_string());
        let (from, to) = (self.state.name(), state.name());
        // Within a state, details may change all the time.
        if from != to || self.throttle.allows(&state.to_string()) {
            match &state {
                State::Degraded(_) | State::Lost(_) | State::Reconnecting(_) => {
                    log::warn!(from = from; "state: {state}");
                }
                _ => log::info!(from = from; "state: {state}"),
            }
        }
        self.state = state;
    }

    fn relabel(&mut self, scene: &mut Scene) {
        let Some(jobs) = &self.jobs else { return };
        scene.exposition.set_jobs(jobs, self.config.job_labels);
        if self.config.job_labels == JobLabels::OnSamples {
            let now = microseconds();
            for entity in scene.inventory.entities.iter().filter(|entity| !entity.names.is_empty()) {
                self.memory.set_jobs(now, entity, &jobs.jobs_of(&entity.names));
            }
        }
    }

    fn read_jobs(&mut self) {
        let Some(directory) = &self.config.job_map else { return };
        let jobs::Scan { map, problems } = jobs::scan(directory);
        self.jobs = Some(map);
        *self.report.job_map_errors.get_or_insert(0) += problems.len() as u64;
        for problem in problems {
            if self.throttle.allows(&problem) {
                log::warn!(error = problem; "part of the HPC job map cannot be used");
            }
        }
    }

    /// Reads the counters file again. Says whether there is something new to watch; what is wrong is said, and the rows
    /// that there were stay.
    fn reload(&mut self) -> bool {
        let file = self.config.collectors.display().to_string();
        match Counters::read(&self.config.collectors, &sources::names()) {
            Err(error) => {
                self.report.reloads[1] += 1;
                for line in error.to_string().lines() {
                    log::error!("{line}");
                }
                log::error!(file = file; "the counters file cannot be used; the rows that were read before stay");
                false
            }
            Ok(counters) => {
                self.report.reloads[0] += 1;
                for (line, warning) in &counters.warnings {
                    log::warn!("{file}:{line}: {warning}");
                }
                let is_new = counters != self.counters;
                log::info!(file = file, rows = counters.rows.len(), changed = is_new; "the counters file was read again");
                self.counters = counters;
                is_new
            }
        }
    }

    /// Waits, and shows meanwhile that this thread is alive.
    fn wait(&mut self, until: Instant) -> Wake {
        loop {
            self.publisher.published().note_progress();
            if let Err(why) = test_fault("watcher") {
                panic!("{why}");
            }
            let pause = until.min(Instant::now() + PROGRESS);
            match self.waiting.until(pause) {
                Wake::Due if pause < until => {}
                wake => return wake,
            }
        }
    }

    /// Waits between two attempts; ends early on a command that matters without a session, and when somebody answers
    /// at the engine's address.
    fn pause(&mut self, pause: Duration) -> Option<Command> {
        let until = Instant::now() + pause;
        loop {
            let now = Instant::now();
            if now >= until {
                return None;
            }
            match self.wait(until.min(now + KNOCK)) {
                Wake::Due if self.choice.answers() => return None,
                Wake::Due => {}
                Wake::JobsChanged => self.read_jobs(),
                Wake::CountersChanged | Wake::Command(Command::Reload) => drop(self.reload()),
                Wake::Command(Command::Resume) => {}
                Wake::Command(command) => return Some(command),
            }
        }
    }

    /// Stays without a session until told otherwise.
    fn rest(&mut self) -> Command {
        self.enter(State::Released);
        self.publish_without_samples(None);
        loop {
            match self.wait(Instant::now() + LOOK_AGAIN_LATEST) {
                Wake::Due => self.publish_without_samples(None),
                Wake::JobsChanged => self.read_jobs(),
                Wake::CountersChanged | Wake::Command(Command::Reload) => drop(self.reload()),
                Wake::Command(Command::Release) => {}
                Wake::Command(command) => return command,
            }
        }
    }

    fn lose(&mut self, error: &Error) {
        if self.throttle.allows("lost") {
            log::error!(error = error.to_string(); "Could not retrieve metrics: the DCGM engine is gone; connecting again");
        }
        self.choice.lost(Instant::now());
        self.enter(State::Lost(format!("the DCGM engine is gone ({error})")));
        self.publish_without_samples(self.collected.or_else(|| Some(Instant::now())));
    }

    fn say_unreachable(&mut self, error: &Error) {
        self.report.count_error(ErrorKind::Connect);
        let address = self.report.engine_address.as_str();
        let why = match address {
            "" => format!("cannot start the embedded DCGM engine ({error})"),
            address => format!("cannot connect to the host engine at {address} ({error})"),
        };
        if self.throttle.allows(&format!("unreachable {error}")) {
            match address {
                "" => log::error!(error = error.to_string(); "Failed to start the embedded DCGM engine; trying again"),
                address => log::error!(
                    address = address,
                    error = error.to_string(),
                    hint = "check that nv-hostengine runs there (systemctl status nvidia-dcgm) and that an IPv6 address stands in brackets";
                    "Failed to connect to remote hostengine; trying again"
                ),
            }
        }
        match self.collected {
            None => self.enter(State::Waiting(why)),
            Some(taken) => {
                self.enter(State::Reconnecting(why));
                self.publish_without_samples(Some(taken));
            }
        }
    }

    /// An embedded engine may have a neighbour: says once what that means on these GPUs, and how to share it.
    fn say_neighbour(&mut self, session: &Rc<Session>, scene: &Scene) {
        if self.config.engine != EngineSelection::Embedded || std::mem::replace(&mut self.said_neighbour, true) {
            return;
        }
        let places = usual_places();
        let Some(address) = hostengine::first_answering(&places) else {
            let places: Vec<String> = places.iter().map(ToString::to_string).collect();
            log::info!("no other DCGM engine answers on this node (looked at {})", places.join(" and "));
            return;
        };
        match inventory::oldest_architecture(session, &scene.inventory.gpus) {
            Some(architecture) if architecture.engines_share_profiling() => log::info!(
                "a host engine answers at {address} beside the embedded one; on these GPUs ({architecture}) both work, \
                 profiling included. To use it instead of a second engine: -r auto, or -r {address}"
            ),
            architecture => log::warn!(
                "a host engine answers at {address} beside the embedded one; {} profiling has one owner, so \
                 DCGM_FI_PROF_* metrics of one of them may be missing. To use it instead of a second engine: -r auto, or \
                 -r {address}",
                match architecture {
                    Some(architecture) => format!("on these GPUs ({architecture})"),
                    None => "on GPUs before Hopper".to_owned(),
                }
            ),
        }
    }

    fn say_inventory(&mut self, inventory: &Inventory) {
        for (kind, reason) in &inventory.absent {
            log::info!("Not collecting {} metrics; {reason}", kind.name());
        }
        for warning in &inventory.warnings {
            log::warn!("{warning}");
        }
        let counts = Kind::ALL.into_iter().map(|kind| (kind, inventory.count(kind)));
        self.report.entities = counts.filter(|(_, count)| *count > 0).collect();
        let counts: Vec<String> =
            self.report.entities.iter().map(|(kind, count)| format!("{}={count}", kind.name())).collect();
        log::info!(entities = counts.join(","), hostname = self.hostname; "looked around");
    }

    fn say_plan(&mut self, scene: &Scene) {
        let Scene { plan, collector, profiling_refusal, .. } = scene;
        if let Some(error) = profiling_refusal {
            log::info!("Not collecting DCP metrics: {error}");
        }
        for (line, what) in &plan.errors {
            log::warn!("{}:{line}: {what}; skipped", self.config.collectors.display());
        }
        for (name, reason) in &plan.skipped {
            log::warn!("Skipping '{name}': metric not enabled; {reason}");
        }
        for (field, error) in &collector.refused {
            self.report.count_error(ErrorKind::Watch);
            let names: Vec<&str> = plan.names_of(*field).collect();
            log::warn!("Skipping '{}': the engine does not watch field {field}; {error}", names.join("', '"));
        }
        for problem in &collector.problems {
            self.report.count_error(ErrorKind::Watch);
            log::warn!("{problem}");
        }
        self.report.counters_skipped = plan.skipped.len() + plan.errors.len() + collector.refused.len();
        self.report.counters = self.counters.rows.len().saturating_sub(self.report.counters_skipped);
    }
}

fn no_gpu_first(interval: Duration) -> Duration {
    (interval * LOOK_AGAIN_COLLECTIONS).clamp(LOOK_AGAIN_SOONEST, NO_GPU_FIRST)
}

/// Now, as DCGM counts: since 1970.
pub fn microseconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}

/// The next beat after this one; beats that have passed meanwhile are left out.
fn next_due(due: Instant, interval: Duration) -> Instant {
    let next = due + interval;
    let now = Instant::now();
    if next > now { next } else { now + interval }
}
