//! The one thread with the clock: connect, discover, watch, then update → read → render → publish.
//!
//! It alone calls DCGM, so nothing else ever waits for a driver. Connecting again, looking around again and taking in
//! new jobs are states of this loop and of nothing else. HTTP is not known here.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::cli::Config;
use crate::collect::computed::Events;
use crate::collect::exporter::{ErrorKind, Report};
use crate::collect::plan::Plan;
use crate::collect::{Collector, profiling_support};
use crate::counters::{Computed, Counters};
use crate::dcgm::engine::Mode;
use crate::dcgm::{Error, Library, Major, Session, abi};
use crate::exposition::{Exposition, OwnMetrics};
use crate::hostname;
use crate::inventory::{self, Inventory, Kind, Naming, Scope};
use crate::jobs::{self, DirectoryWatch, JobMap};
use crate::logging::Throttle;
use crate::page::Publisher;

/// How long libdcgm may try to connect inside one call; the waiting is done outside it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Pauses between attempts to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How often entities are looked for again: after so many collections, within these limits. A call that fails makes it
/// happen at once, but not sooner than the first of them.
const LOOK_AGAIN_COLLECTIONS: u32 = 10;
const LOOK_AGAIN_SOONEST: Duration = Duration::from_secs(1);
const LOOK_AGAIN_LATEST: Duration = Duration::from_secs(30);
/// Job files are looked at this often even if nothing says that they changed, and at most as often as the other.
const JOBS_LATEST: Duration = Duration::from_secs(1);
const JOBS_SOONEST: Duration = Duration::from_millis(50);

/// What the main thread may ask of the watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Stop,
}

/// Why the watcher ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to; watches are released and the engine is stopped.
    Stopped,
    /// It cannot do what it was started for; the text says why.
    Failed(String),
}

/// The main thread's end of the line to the watcher.
pub struct Remote {
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
}

impl Remote {
    pub fn send(&self, command: Command) {
        // A watcher that has ended needs no commands; waking is adding one to an eventfd.
        if self.commands.send(command).is_ok() {
            let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
        }
    }
}

/// Why a wait ended.
enum Wake {
    Due,
    JobsChanged,
    Command(Command),
}

/// How a session ended.
enum Leave {
    Stop,
    Lost(Error),
    Failed(String),
}

pub struct Watcher {
    config: Config,
    library: Arc<Library>,
    counters: Counters,
    publisher: Publisher,
    commands: Receiver<Command>,
    wake: Arc<OwnedFd>,
    hostname: String,
    jobs: Option<Jobs>,
    report: Report,
    events: Events,
    throttle: Throttle,
    /// The text of the page, written anew in the same memory every time.
    text: String,
    collected: Option<Instant>,
    /// Something failed since entities were last looked for.
    suspicious: bool,
}

/// The job map and what tells of its changes.
struct Jobs {
    directory: PathBuf,
    watch: DirectoryWatch,
    map: JobMap,
    read: Instant,
}

/// What is being watched now.
struct Scene {
    inventory: Inventory,
    collector: Collector,
    exposition: Exposition,
}

impl Watcher {
    /// Errors: no event descriptor is to be had.
    pub fn new(
        config: Config,
        library: Arc<Library>,
        counters: Counters,
        publisher: Publisher,
    ) -> std::io::Result<(Watcher, Remote)> {
        let (sender, commands) = channel();
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let remote = Remote { commands: sender, wake: wake.clone() };
        let node_name = if config.no_hostname { None } else { std::env::var("NODE_NAME").ok() };
        let hostname = match config.no_hostname {
            true => String::new(),
            false => hostname::resolve(config.remote.as_ref(), node_name),
        };
        let jobs = config.job_map.clone().map(Jobs::new);
        let report = Report {
            library_version: library.version().to_owned(),
            library_path: library.path().display().to_string(),
            engine_mode: if config.remote.is_some() { "remote" } else { "embedded" },
            engine_address: config.remote.as_ref().map(ToString::to_string).unwrap_or_default(),
            job_map_errors: config.job_map.is_some().then_some(0),
            ..Report::default()
        };
        let events = Events::new(microseconds(), config.xid_window, config.clock_events_window);
        let watcher = Watcher {
            config,
            library,
            counters,
            publisher,
            commands,
            wake,
            hostname,
            jobs,
            report,
            events,
            throttle: Throttle::default(),
            text: String::new(),
            collected: None,
            suspicious: false,
        };
        Ok((watcher, remote))
    }

    /// Runs until told to stop.
    pub fn run(mut self) -> Ended {
        self.read_jobs();
        let mut pause = FIRST_PAUSE;
        loop {
            match self.connect() {
                Ok(session) => {
                    pause = FIRST_PAUSE;
                    match self.serve(&Rc::new(session)) {
                        Leave::Stop => return Ended::Stopped,
                        Leave::Failed(why) => return Ended::Failed(why),
                        Leave::Lost(error) => self.say_lost(&error),
                    }
                }
                Err(error) => self.say_unreachable(&error),
            }
            if self.pause(pause) {
                return Ended::Stopped;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn connect(&mut self) -> Result<Session, Error> {
        match &self.config.remote {
            Some(address) => {
                if self.throttle.allows("connect") {
                    log::info!("Attempting to connect to remote hostengine at {address}");
                }
                Session::remote(&self.library, address, CONNECT_TIMEOUT)
            }
            None => {
                if self.throttle.allows("connect") {
                    log::info!("Attempting to initialize DCGM.");
                }
                Session::embedded(&self.library, &self.unneeded_modules())
            }
        }
    }

    /// Modules that no row of the counters file asks for. Each one loaded costs threads, memory and wake-ups.
    fn unneeded_modules(&self) -> Vec<u32> {
        use abi::module::*;
        let kinds = Plan::kinds(&self.counters, &self.library);
        let health = self.counters.wants(Computed::GpuHealthStatus);
        let mut unneeded = vec![VGPU, INTROSPECT, POLICY, CONFIG, DIAG];
        let conditional = [
            (MNDIAG, self.library.major() == Major::V4),
            (HEALTH, !health),
            (NVSWITCH, !kinds.iter().any(|kind| matches!(kind, Kind::Switch | Kind::Link | Kind::ConnectX))),
            (SYSMON, !kinds.iter().any(|kind| matches!(kind, Kind::Cpu | Kind::Core))),
        ];
        unneeded.extend(conditional.into_iter().filter(|(_, unneeded)| *unneeded).map(|(module, _)| module));
        unneeded
    }

    /// Watches and publishes until something ends it.
    fn serve(&mut self, session: &Rc<Session>) -> Leave {
        self.report.engine_version = session.engine_version();
        match session.mode() {
            Mode::Embedded => log::info!("DCGM successfully initialized!"),
            Mode::Remote => log::info!(version = self.report.engine_version; "DCGM successfully initialized!"),
        }
        let mut scene = match self.look_around(session) {
            Ok(found) => found,
            Err(leave) => return leave,
        };
        let (mut looked, mut due) = (Instant::now(), Instant::now());
        loop {
            let now = Instant::now();
            if now >= looked + self.look_again() {
                looked = now;
                self.suspicious = false;
                let (found, is_new) = match self.look_around_again(session, scene) {
                    Ok(found) => found,
                    Err(leave) => return leave,
                };
                scene = found;
                if is_new {
                    due = now;
                }
            }
            if now >= due {
                if let Err(error) = self.collect(&mut scene) {
                    return Leave::Lost(error);
                }
                self.publish(&mut scene);
                due = next_due(due, self.config.interval);
            }
            match self.wait(due.min(looked + self.look_again())) {
                Wake::Due => {}
                Wake::JobsChanged => {
                    self.read_jobs();
                    self.relabel(&mut scene);
                    self.publish(&mut scene);
                }
                Wake::Command(Command::Stop) => return Leave::Stop,
            }
        }
    }

    fn look_again(&self) -> Duration {
        if self.suspicious {
            return LOOK_AGAIN_SOONEST;
        }
        (self.config.interval * LOOK_AGAIN_COLLECTIONS).clamp(LOOK_AGAIN_SOONEST, LOOK_AGAIN_LATEST)
    }

    /// Looks for entities again; keeps what is watched if they are the same. Says whether they are not.
    fn look_around_again(&mut self, session: &Rc<Session>, old: Scene) -> Result<(Scene, bool), Leave> {
        let inventory = self.discover(session)?;
        if inventory == old.inventory {
            return Ok((old, false));
        }
        for entity in old.inventory.entities.iter().filter(|entity| !inventory.entities.contains(entity)) {
            self.events.forget(entity.id);
        }
        // What was watched is given back first: an engine has room for few groups.
        drop(old);
        Ok((self.set_up(session, inventory)?, true))
    }

    fn look_around(&mut self, session: &Rc<Session>) -> Result<Scene, Leave> {
        let inventory = self.discover(session)?;
        self.set_up(session, inventory)
    }

    fn discover(&mut self, session: &Rc<Session>) -> Result<Inventory, Leave> {
        let scope = Scope {
            gpus: self.config.gpus.clone(),
            switches: self.config.switches.clone(),
            cpus: self.config.cpus.clone(),
            kinds: Plan::kinds(&self.counters, &self.library),
            names: Naming {
                old_namespace: self.config.old_namespace,
                hostname_label: self.config.hostname_label,
                hostname: self.hostname.clone(),
                replace_blanks_in_model_name: self.config.replace_blanks_in_model_name,
                fake_gpus: self.config.fake_gpus,
            },
        };
        inventory::discover(session, &scope).map_err(|error| self.lost(ErrorKind::Discover, error))
    }

    /// Plans, watches and prepares the text for these entities.
    fn set_up(&mut self, session: &Rc<Session>, inventory: Inventory) -> Result<Scene, Leave> {
        self.say_inventory(&inventory);
        let mut refusal = None;
        let profiling = profiling_support(session, &inventory.gpus, |_, error| refusal = Some(error))
            .map_err(|error| self.lost(ErrorKind::Discover, error))?;
        let plan = Plan::new(&self.counters, &self.library, profiling);
        if !plan.errors.is_empty() && self.collected.is_none() {
            let file = self.config.collectors.clone();
            return Err(Leave::Failed(crate::counters::Error::Rows { file, errors: plan.errors }.to_string()));
        }
        let collector = Collector::new(session, &plan, &inventory, self.config.interval, &self.events)
            .map_err(|error| self.lost(ErrorKind::Watch, error))?;
        self.say_plan(&plan, refusal.as_ref(), &collector);
        let exposition = Exposition::new(&plan, &inventory);
        let mut scene = Scene { inventory, collector, exposition };
        self.relabel(&mut scene);
        Ok(scene)
    }

    fn lost(&mut self, kind: ErrorKind, error: Error) -> Leave {
        self.report.count_error(kind);
        Leave::Lost(error)
    }

    fn collect(&mut self, scene: &mut Scene) -> Result<(), Error> {
        let start = Instant::now();
        let outcome = scene.collector.collect(&scene.inventory, &mut self.events, microseconds())?;
        self.suspicious |= !outcome.errors.is_empty();
        for error in outcome.errors {
            let kind = if error.call == "dcgmUpdateAllFields" { ErrorKind::Update } else { ErrorKind::Read };
            self.report.count_error(kind);
            if self.throttle.allows(&error.to_string()) {
                log::warn!("some samples are missing: {error}");
            }
        }
        scene.collector.table.settle_labels();
        self.report.collect_duration = start.elapsed();
        self.report.collect_time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        self.report.collections += 1;
        self.collected = Some(Instant::now());
        Ok(())
    }

    /// Renders the samples that there are and hangs the page out.
    fn publish(&mut self, scene: &mut Scene) {
        self.text.clear();
        let Collector { table, computed, .. } = &mut scene.collector;
        scene.exposition.render(table, computed, &mut self.text);
        if self.config.exporter_metrics {
            self.report.scrapes = self.publisher.board().scrapes();
            self.report.put(&mut OwnMetrics::new(&mut self.text));
        }
        let taken = self.collected.unwrap_or_else(Instant::now);
        self.publisher.publish(&self.text, taken);
    }

    fn relabel(&mut self, scene: &mut Scene) {
        let Some(jobs) = &self.jobs else { return };
        scene.exposition.set_jobs(&jobs.map);
        let now = microseconds();
        for entity in &scene.inventory.entities {
            if let Some(key) = entity.job_key() {
                self.events.set_jobs(now, entity.id, jobs.map.jobs_of(&key));
            }
        }
    }

    fn read_jobs(&mut self) {
        let Some(jobs) = &mut self.jobs else { return };
        let jobs::Scan { map, problems } = jobs::scan(&jobs.directory);
        jobs.map = map;
        jobs.read = Instant::now();
        *self.report.job_map_errors.get_or_insert(0) += problems.len() as u64;
        for problem in problems {
            if self.throttle.allows(&problem) {
                log::warn!(error = problem; "part of the HPC job map cannot be used");
            }
        }
    }

    /// Waits between two attempts; says whether to stop.
    fn pause(&mut self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        loop {
            match self.wait(until) {
                Wake::Due => return false,
                Wake::JobsChanged => self.read_jobs(),
                Wake::Command(Command::Stop) => return true,
            }
        }
    }

    /// Waits until `until`, a command, or news of the job map.
    fn wait(&mut self, until: Instant) -> Wake {
        loop {
            match self.commands.try_recv() {
                Ok(command) => return Wake::Command(command),
                Err(TryRecvError::Disconnected) => return Wake::Command(Command::Stop),
                Err(TryRecvError::Empty) => {}
            }
            let now = Instant::now();
            if now >= until {
                return Wake::Due;
            }
            let mut rest = until - now;
            if let Some(jobs) = &mut self.jobs {
                // Prolog and epilog write several times in a row: their news are taken together.
                let too_soon = JOBS_SOONEST.saturating_sub(jobs.read.elapsed());
                if too_soon.is_zero() && jobs.watch.changed() {
                    return Wake::JobsChanged;
                }
                rest = rest.min(if too_soon.is_zero() { JOBS_LATEST } else { too_soon });
                if !too_soon.is_zero() {
                    self.sleep(rest, false);
                    continue;
                }
            }
            self.sleep(rest, true);
        }
    }

    fn sleep(&self, rest: Duration, with_jobs: bool) {
        let jobs = self.jobs.as_ref().filter(|_| with_jobs).and_then(|jobs| jobs.watch.descriptor());
        let mut descriptors = [PollFd::new(&*self.wake, PollFlags::IN), PollFd::new(&*self.wake, PollFlags::empty())];
        let count = match jobs {
            Some(inotify) => {
                descriptors[1] = PollFd::new(inotify, PollFlags::IN);
                2
            }
            None => 1,
        };
        let timeout = Timespec { tv_sec: rest.as_secs() as i64, tv_nsec: i64::from(rest.subsec_nanos()) };
        // An interrupted wait is a short one.
        let _ = poll(&mut descriptors[..count], Some(&timeout));
        let _ = rustix::io::read(&*self.wake, &mut [0u8; 8]);
    }

    fn say_lost(&mut self, error: &Error) {
        self.publisher.board().set_trouble(format!("the DCGM engine is gone ({error})"));
        if self.throttle.allows("lost") {
            log::error!(error = error.to_string(); "Could not retrieve metrics: the DCGM engine is gone; connecting again");
        }
    }

    fn say_unreachable(&mut self, error: &Error) {
        self.report.count_error(ErrorKind::Connect);
        let trouble = match &self.config.remote {
            Some(address) => format!("cannot connect to the host engine at {address} ({error})"),
            None => format!("cannot start the embedded DCGM engine ({error})"),
        };
        self.publisher.board().set_trouble(trouble);
        if !self.throttle.allows(&format!("unreachable {error}")) {
            return;
        }
        match &self.config.remote {
            Some(address) => log::error!(
                address = address.to_string(),
                error = error.to_string(),
                hint = "check that nv-hostengine runs there (systemctl status nvidia-dcgm) and that an IPv6 address stands in brackets";
                "Failed to connect to remote hostengine; trying again"
            ),
            None => log::error!(error = error.to_string(); "Failed to start the embedded DCGM engine; trying again"),
        }
    }

    fn say_inventory(&mut self, inventory: &Inventory) {
        for (kind, reason) in &inventory.absent {
            log::info!("Not collecting {} metrics; {reason}", kind.name());
        }
        for warning in &inventory.warnings {
            log::warn!("{warning}");
        }
        self.report.entities =
            Kind::ALL.into_iter().map(|kind| (kind, inventory.count(kind))).filter(|(_, count)| *count > 0).collect();
        let counts: Vec<String> =
            self.report.entities.iter().map(|(kind, count)| format!("{}={count}", kind.name())).collect();
        log::info!(entities = counts.join(","), hostname = self.hostname; "looked around");
    }

    fn say_plan(&mut self, plan: &Plan, profiling_refusal: Option<&Error>, collector: &Collector) {
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
        let refused = collector.refused.len();
        self.report.counters_skipped = plan.skipped.len() + plan.errors.len() + refused;
        self.report.counters = self.counters.rows.len().saturating_sub(self.report.counters_skipped);
    }
}

impl Jobs {
    fn new(directory: PathBuf) -> Jobs {
        log::info!(directory = directory.display().to_string(); "HPC job mapping is enabled");
        if !directory.is_dir() {
            log::error!(directory = directory.display().to_string(); "HPC job mapping directory not found; waiting for it");
        }
        Jobs { watch: DirectoryWatch::new(&directory), directory, map: JobMap::default(), read: Instant::now() }
    }
}

fn microseconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}

/// The next beat after this one; beats that have passed meanwhile are left out.
fn next_due(due: Instant, interval: Duration) -> Instant {
    let next = due + interval;
    let now = Instant::now();
    if next > now { next } else { now + interval }
}
