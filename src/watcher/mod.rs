//! The one thread with the clock: it reaches an engine, finds out what is there, watches it, and then updates, reads,
//! renders and publishes. It alone calls DCGM, so nothing else ever waits for a driver. HTTP is not known here.
//!
//! - [`phase`]: what the watcher is doing, and what each event makes of it: a pure function.
//! - [`session_run`]: what belongs to one session and ends with it; [`active_watches`] is what it watches now.
//! - [`pace`]: when to collect and which interval the watches have; [`scrapes`] is who scrapes regularly.
//! - [`restart`]: when an engine is to be started again, and how soon.
//! - [`connect`]: reaches an engine.
//! - [`profiling`]: on which GPUs profiling makes way for another profiler.
//! - [`page`]: the page, rendered and published. [`status`]: the data of the page for people. [`lost_entities`]: GPUs that were here.
//! - [`files`]: the thread that looks at files.
//! - [`wait`]: the clock, messages, and changes of the job map. [`notices`]: the log's sentences.

pub mod active_watches;
mod connect;
mod files;
mod job_map;
mod lost_entities;
pub mod notices;
mod pace;
mod page;
mod phase;
mod profiling;
mod restart;
mod scrapes;
mod session_run;
mod status;
mod wait;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::config::engine::{EngineSelection, usual_places};
use crate::config::{Config, JobLabels};
use crate::containers::{ContainerMap, Containers};
use crate::counters::Counters;
use crate::dcgm::{Error, Library, bounds, hostengine};
use crate::engine::Opener;
use crate::inventory::hostname;
use crate::inventory::{self, Entity, Inventory, Kind, Known};
use crate::jobs::JobMap;
use crate::metrics::exporter::{ErrorKind, Report};
use crate::metrics::fatal_xid;
use crate::metrics::freshness::{Answered, Look};
use crate::metrics::schedule::Schedule;
use crate::metrics::switch_fields::Change;
use crate::metrics::{Extras, Memory, ProfilingPause, Windows};
use crate::publish::Publisher;
use crate::summary::Summaries;
use crate::summary::writer::Writer;
use crate::system::logging::Throttle;
use crate::system::threads::{Supervisor, test_fault};
use crate::system::{allocator, driver, switch_file, systemd};
use active_watches::{ActiveWatches, unneeded_modules};
use files::Loaded;
pub use files::{Monitors, ReadSettings};
use job_map::JobMapReader;
use lost_entities::LostEntities;
use pace::Pace;
use page::JobMapProblems;
use phase::{Action, Event, Phase, Running};
use profiling::Requests;
use restart::{BackOff, DriverGpus, RestartReason, Silence, Step};
use session_run::SessionRun;
use status::Histories;
pub use wait::{Command, WatcherHandle};
use wait::{Message, Wait, Wake};

/// How often an address is probed during a pause.
const PROBE: Duration = Duration::from_secs(1);
/// How often the watcher looks at scrapes, clock and driver between two collections.
const LOOK: Duration = Duration::from_secs(1);
/// How often this thread shows that it is alive.
const PROGRESS: Duration = Duration::from_secs(5);
/// How often a page without samples is published again, for the exporter's own metrics on it.
const REPUBLISH: Duration = Duration::from_secs(30);
/// The second collection of new watches comes after this: a profiling value needs two samples, and whoever waits for the
/// page should not wait for an interval.
const FIRST_PERIOD: Duration = Duration::from_secs(1);

/// Said where rows ask for switches or links; a node without any answers that it has none.
const NO_SWITCH_MODULE: &str = "rows for switches or links have no samples: the engine has not loaded its NVSwitch module \
                                (nv-hostengine --denylist-modules?)";
/// How long the last summaries of jobs may take to be written.
const SUMMARIES_LIMIT: Duration = Duration::from_millis(500);

/// The states that `dcgm_exporter_state` can be in, and that `/health` begins with.
pub const STATES: [&str; 10] = Phase::NAMES;

/// What files that were read again have brought.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reloaded {
    Nothing,
    /// Another interval for the same rows: all watches stay, so that no sample is lost.
    Interval,
    /// Something else to watch.
    Rows,
}

pub struct Watcher {
    config: Config,
    counters: Counters,
    publisher: Publisher,
    wait: Wait,
    throttle: Throttle,
    phase: Phase,
    engines: Opener,
    back_off: BackOff,
    silence: Silence,
    driver_gpus: DriverGpus,
    pace: Pace,
    hostname: String,
    /// `None` without a job map.
    job_map: Option<JobMapReader>,
    /// `None` until it was read.
    jobs: Option<JobMap>,
    /// Where profiling fields are not watched, and who asks for that.
    pause: ProfilingPause,
    pause_requests: Requests,
    job_map_problems: JobMapProblems,
    /// `None` without labels for containers.
    containers: Option<Containers>,
    container_map: Arc<ContainerMap>,
    /// Names in the job map that no reported GPU or instance has.
    unmatched: BTreeSet<String>,
    known: Known,
    memory: Memory,
    answered: Answered,
    lost: LostEntities,
    /// GPUs and instances as they were last found; their jobs come and go also without a session.
    accounted: Vec<Entity>,
    /// `None` without a directory for them.
    summary_writer: Option<Writer>,
    summaries: Summaries,
    report: Report,
    histories: Histories,
    /// The text of the page, written anew in the same memory every time.
    text: String,
    /// The last collection of any session began.
    collected: Option<Instant>,
    /// It has been logged whether there is another engine on the node.
    neighbour_logged: bool,
}

impl Watcher {
    /// Errors: no event descriptor is to be had.
    pub fn new(
        config: Config,
        library: Arc<Library>,
        counters: Counters,
        publisher: Publisher,
    ) -> std::io::Result<(Watcher, WatcherHandle)> {
        let wait = Wait::new()?;
        let handle = wait.handle();
        if let Some(directory) = &config.job_map {
            notices::job_map(directory);
        }
        // Without metrics of its own and without accounts the exporter is NVIDIA's to whoever reads its page.
        bounds::leave_all_in(!config.exporter_metrics && !config.accounts_jobs());
        let report = Report {
            library_version: library.version().to_owned(),
            library_path: library.path().display().to_string(),
            job_map_errors: config.job_map.is_some().then_some(0),
            state: Phase::default().name(),
            states: &Phase::NAMES,
            is_for_textfile: config.once.is_some(),
            restarts: RestartReason::ALL.map(|reason| (reason.name(), 0)).to_vec(),
            ..Report::default()
        };
        let mut watcher = Watcher {
            wait,
            throttle: Throttle::default(),
            phase: Phase::default(),
            engines: Opener::new(library, &config),
            back_off: BackOff::new(),
            silence: Silence::new(),
            driver_gpus: DriverGpus::new(),
            pace: Pace::new(config.period(), config.min_collect_interval),
            hostname: String::new(),
            job_map: None,
            jobs: None,
            pause: ProfilingPause::default(),
            pause_requests: Requests::default(),
            job_map_problems: JobMapProblems::default(),
            containers: None,
            container_map: Arc::default(),
            unmatched: BTreeSet::new(),
            known: Known::default(),
            memory: Memory::new(
                microseconds(),
                Windows { xid: config.xid_window, clock_events: config.clock_events_window },
            )
            .with(Extras {
                own_metrics: config.exporter_metrics,
                error_labels: config.extended_labels,
                job_accounting: config.accounts_jobs(),
                job_labels: config.job_labels == JobLabels::OnSamples,
                job_series_keep: config.job_series_keep,
                job_series_limit: config.job_series_limit,
            }),
            answered: Answered::default(),
            lost: LostEntities::default(),
            accounted: Vec::new(),
            summary_writer: None,
            summaries: Summaries::default(),
            report,
            histories: Histories::default(),
            text: String::new(),
            collected: None,
            neighbour_logged: false,
            config,
            counters,
            publisher,
        };
        if let Some(file) = &watcher.config.pause_profiling {
            let found = switch_file::look(file);
            watcher.note_pause_file(found);
        }
        Ok((watcher, handle))
    }

    /// Has files looked at: settings and rows are read again when they change and on [`Command::Reload`], settings with
    /// `read` where there is a configuration file. `monitors` are of before the rows were read.
    ///
    /// Errors: the system cannot start another thread.
    pub fn monitor_files(
        &mut self,
        monitors: Monitors,
        read: Option<ReadSettings>,
        supervisor: &Supervisor,
    ) -> std::io::Result<()> {
        let (pause_file, files) = (self.pause_requests.file.clone(), self.wait.files().clone());
        files::start(self.config.clone(), monitors, read, pause_file, self.wait.handle(), files, supervisor)
    }

    /// Reads the job map, if there is one, whenever it changes.
    ///
    /// Errors: the system cannot start another thread.
    pub fn read_job_map(&mut self, supervisor: &Supervisor) -> std::io::Result<()> {
        let Some(directory) = self.config.job_map.clone() else { return Ok(()) };
        let reader = JobMapReader::start(directory, &self.config, self.wait.handle(), supervisor)?;
        self.job_map = Some(reader);
        Ok(())
    }

    /// Labels samples with what these say.
    pub fn with_containers(self, containers: Option<Containers>) -> Watcher {
        Watcher { containers, ..self }
    }

    /// Keeps summaries of jobs with this writer, and goes on with those that were running.
    pub fn with_summaries(self, writer: Option<Writer>) -> Watcher {
        Watcher { summary_writer: writer, ..self }
    }

    /// Runs until told to stop; then the watches are released and the engine is stopped.
    pub fn run(mut self) {
        self.take_in_jobs_without_session();
        // Not a member: it holds what may not be sent to another thread.
        let mut run: Option<SessionRun> = None;
        let mut event = Event::Begin;
        loop {
            let mut next = None;
            for action in self.advance(event) {
                next = match action {
                    Action::Leave => {
                        self.write_summaries();
                        if let Some(writer) = &self.summary_writer {
                            writer.finish(SUMMARIES_LIMIT);
                        }
                        return;
                    }
                    Action::Connect => Some(self.connect(&mut run)),
                    Action::RunSession => Some(self.run_session(run.as_mut().expect("a session was begun"))),
                    Action::EndSession => Some(self.end_session(run.take())),
                    Action::Pause => Some(self.pause()),
                    Action::WaitReleased => Some(self.wait_released()),
                    Action::PublishWithoutSamples => {
                        self.publish_without_samples();
                        None
                    }
                    Action::CountReconnect => {
                        self.report.reconnects += 1;
                        None
                    }
                    Action::CountRestart => {
                        self.count_restart();
                        None
                    }
                    // The session's own loop publishes what it has collected.
                    Action::Publish => None,
                };
            }
            event = next.expect("the last action of every phase brings an event");
        }
    }

    /// Takes in an event and tells everybody who wants to know the phase. Returns what is to be done.
    fn advance(&mut self, event: Event) -> &'static [Action] {
        let before = self.phase.clone();
        let (after, actions) = std::mem::take(&mut self.phase).next(event);
        if after != before || after == Phase::Starting {
            self.report.state = after.name();
            let lacks_gpus = self.config.health_requires_gpus && matches!(after, Phase::WaitingForGpus { .. });
            self.publisher.published().set_status(after.to_string(), after.is_well() && !lacks_gpus);
            systemd::status(&after.to_string());
            if after == Phase::Stopping {
                systemd::stopping();
            }
            notices::phase(&before, &after, &mut self.throttle);
        }
        self.phase = after;
        actions
    }

    fn end_session(&mut self, run: Option<SessionRun>) -> Event {
        if let Some(mut run) = run {
            if matches!(self.phase, Phase::Restarting { .. } | Phase::Releasing)
                && let Some(watches) = &mut run.watches
            {
                let ActiveWatches { collector, inventory, .. } = watches;
                if let Err(error) = collector.take_in_last_events(inventory, &mut self.memory, microseconds()) {
                    log::debug!("the last XID errors and clock events could not be read: {error}");
                }
            }
            self.back_off.session_lasted(run.started.elapsed());
        }
        Event::SessionEnded
    }

    fn count_restart(&mut self) {
        if let Phase::Restarting { reason, .. } = self.phase {
            let counts = self.report.restarts.iter_mut().filter(|(name, _)| *name == reason.name());
            counts.for_each(|(_, count)| *count += 1);
        }
    }

    /// Watches and publishes until something ends the session.
    fn run_session(&mut self, run: &mut SessionRun) -> Event {
        self.collect_until_ended(run).unwrap_or_else(|ended| ended)
    }

    /// The loop of a session: look for entities when it is time, collect when it is due, and wait.
    ///
    /// Errors: an event that ends the session, like the one that is returned.
    fn collect_until_ended(&mut self, run: &mut SessionRun) -> Result<Event, Event> {
        let inventory = self.discover(run)?;
        self.watch(run, inventory)?;
        self.log_neighbour(run);
        loop {
            if let Some(reason) = self.should_restart(run) {
                return Ok(Event::Restart(reason));
            }
            if Instant::now() >= self.looks_again(run) {
                self.look_again(run)?;
            }
            self.follow_scrapes(run);
            if Instant::now() >= run.due {
                self.take_gap(run)?;
                if let Some(reason) = self.collect(run)? {
                    return Ok(Event::Restart(reason));
                }
                self.watch_anew_if_needed(run)?;
                if self.pause_requests.is_refused() {
                    self.pause_profiling(run)?;
                }
            }
            self.follow_scrapes(run);
            self.publish_status_if_waited_for(run);
            match self.wait(run.due.min(self.looks_again(run)).min(Instant::now() + LOOK)) {
                Wake::Due => {}
                Wake::Told(Message::JobsChanged) => {
                    if self.take_in_jobs() {
                        self.read_between(run)?;
                    }
                    self.pause_profiling(run)?;
                    self.relabel(run);
                    self.publish(run);
                }
                Wake::Told(Message::PauseFile(found)) => self.take_in_pause_file(run, found)?,
                Wake::Told(Message::Loaded(loaded)) => {
                    match self.take_loaded(*loaded) {
                        // Whoever asked for it wants to see the outcome before the next collection.
                        Reloaded::Nothing => {
                            self.publish(run);
                            continue;
                        }
                        Reloaded::Interval => {
                            self.set_period(run)?;
                            run.due = run.due.min(Instant::now() + self.period(run));
                            self.publish(run);
                            continue;
                        }
                        Reloaded::Rows => {}
                    }
                    if run.is_embedded()
                        && run.denied_modules != unneeded_modules(&self.counters, self.engines.library())
                    {
                        return Ok(Event::Restart(RestartReason::Modules));
                    }
                    let inventory = self.discover(run)?;
                    self.watch(run, inventory)?;
                }
                Wake::Stop => return Ok(Event::Stop),
                Wake::Told(Message::Release) => return Ok(Event::Release),
                Wake::Told(Message::Resume) => {}
            }
        }
    }

    /// What is seen between collections: a step of the clock, the node's host engine, GPUs of the driver.
    fn should_restart(&mut self, run: &mut SessionRun) -> Option<RestartReason> {
        let step = run.clock_step();
        if let Some(step) = step {
            log::warn!("{step}");
            self.pause.clock_was_set();
        }
        if !run.is_embedded() {
            return None;
        }
        if step.is_some() {
            return Some(RestartReason::ClockStep);
        }
        let has_come = self.engines.chooser.has_come(Instant::now()).is_some();
        self.log_strangers();
        if has_come {
            return Some(RestartReason::HostEngine);
        }
        // A new engine would be as silent.
        if !run.fatal_xid.is_empty() {
            return None;
        }
        let in_engine = run.watches.as_ref().map_or(0, |watches| watches.inventory.gpus.len());
        let driver = driver::gpus();
        // Each start of an engine costs memory that libdcgm does not give back: none without a driver.
        if driver.is_none() && !driver::has_device() {
            return None;
        }
        let has_more = self.driver_gpus.has_more(driver.as_ref(), in_engine, run.started.elapsed());
        has_more.then_some(RestartReason::GpusAppeared)
    }

    fn looks_again(&self, run: &SessionRun) -> Instant {
        let has_none = run.watches.as_ref().is_none_or(|watches| watches.inventory.gpus.is_empty());
        let looks_again = run.looks_again(self.config.period(), has_none || !self.lost.entities().is_empty());
        match self.config.bind_unbind_watch {
            true => looks_again.min(run.looked + self.config.bind_unbind_interval),
            false => looks_again,
        }
    }

    /// Looks for entities again; keeps what is watched if they are the same.
    fn look_again(&mut self, run: &mut SessionRun) -> Result<(), Event> {
        let has_stopped = std::mem::take(&mut run.should_rewatch) && run.fatal_xid.is_empty();
        let should_rewatch = has_stopped || run.should_try_room(self.config.period());
        let inventory = self.discover(run)?;
        if !should_rewatch && run.watches.as_ref().is_some_and(|watches| watches.inventory == inventory) {
            return Ok(());
        }
        self.watch(run, inventory)
    }

    /// Time between two collections. A host engine samples on its own clock: there the interval holds.
    fn period(&self, run: &SessionRun) -> Duration {
        if run.is_embedded() { self.pace.period() } else { self.config.period() }
    }

    /// When fields are sampled, once new watches have their first samples.
    fn schedule(&self, run: &SessionRun) -> Schedule {
        Schedule::new(self.period(run), self.config.slower_rest()).uneven(self.config.period())
    }

    /// Decides when to collect next: just before a regular scraper comes.
    fn follow_scrapes(&mut self, run: &mut SessionRun) {
        let Some(collected) = run.collected.filter(|_| run.is_embedded()) else { return };
        let pace = &mut self.pace;
        self.publisher.published().take_scrapes(|client, at| pace.note(client, at));
        let before = pace.followed;
        let due = pace.due(Instant::now(), collected, self.report.collect_duration);
        if pace.followed != before && self.throttle.allows(&format!("{} scrapers", pace.followed)) {
            notices::pace(pace.followed);
        }
        if !run.is_new() {
            run.due = due;
        }
    }

    /// Has the engine sample at a collection that comes sooner after the last one than those before.
    fn take_gap(&mut self, run: &mut SessionRun) -> Result<(), Event> {
        let Some(collected) = run.collected.filter(|_| run.is_embedded() && !run.is_new()) else { return Ok(()) };
        if self.pace.take_gap(collected.elapsed()) { self.set_period(run) } else { Ok(()) }
    }

    fn set_period(&mut self, run: &mut SessionRun) -> Result<(), Event> {
        let schedule = self.schedule(run);
        let Some(watches) = &mut run.watches else { return Ok(()) };
        match watches.collector.set_schedule(schedule) {
            Err(error) if error.is_connection_lost() => Err(self.lost(Some(ErrorKind::Watch), &error)),
            Err(error) => {
                self.report.count_error(ErrorKind::Watch);
                log::warn!("DCGM still samples some fields at the old interval: {error}");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn discover(&mut self, run: &mut SessionRun) -> Result<Inventory, Event> {
        (run.looked, run.has_failed) = (Instant::now(), false);
        // A node may get its name after the exporter was started.
        self.hostname = hostname::of(&self.config);
        let found =
            active_watches::discover(&run.session, &self.config, &self.counters, &self.hostname, &mut self.known);
        let inventory = found.map_err(|error| self.lost(Some(ErrorKind::Discover), &error))?;
        self.lost.update(&inventory);
        self.memory.inventory(&inventory);
        self.answered.keep(&inventory);
        // Before it is watched: what is sampled then belongs to these jobs.
        let reported = inventory.entities.iter().filter(|entity| entity.kind == Kind::Gpu);
        // Without a driver for a moment, jobs still come and go.
        if reported.clone().next().is_some() {
            self.accounted = reported.cloned().collect();
        }
        let now = self.now();
        self.set_jobs(now);
        Ok(inventory)
    }

    /// Watches these entities, and collects at once.
    fn watch(&mut self, run: &mut SessionRun, inventory: Inventory) -> Result<(), Event> {
        let counts = Kind::ALL.into_iter().map(|kind| (kind, inventory.count(kind)));
        self.report.entities = counts.filter(|(_, count)| *count > 0).collect();
        notices::inventory(&inventory, &self.report.entities, &self.hostname);
        let first = Schedule::first(self.period(run).min(FIRST_PERIOD));
        let reasons = self.pause_before_watching(run, &inventory);
        let watched = run.watch(&self.counters, inventory, &mut self.memory, first, &self.pause);
        let watches = watched.map_err(|error| self.lost(Some(ErrorKind::Watch), &error))?;
        self.report_plan(watches);
        watches.exposition.set_containers(&self.container_map);
        self.set_pause(run, reasons)?;
        self.relabel(run);
        Ok(())
    }

    /// Collects and publishes. Returns why the engine should be started again, if it should.
    fn collect(&mut self, run: &mut SessionRun) -> Result<Option<RestartReason>, Event> {
        let (start, interval, schedule) = (Instant::now(), self.period(run), self.schedule(run));
        let now = self.now();
        let watches = run.watches.as_mut().expect("something is watched");
        let collected = watches.collector.collect(&watches.inventory, &mut self.memory, now);
        let outcome = collected.map_err(|error| self.lost(None, &error))?;
        run.has_failed |= !outcome.errors.is_empty();
        let unwatched = watches.collector.watches_no_gpu(&watches.plan).map(ToString::to_string);
        let (table, judgement) = (&mut watches.collector.table, &mut watches.judgement);
        table.settle_labels();
        let is_read = |error: &Error| matches!(error.call, "dcgmUpdateAllFields" | "dcgmGetLatestValues_v2");
        let failing = unwatched.is_some() || outcome.errors.iter().any(is_read);
        let look = Look { now: start, schedule, failing };
        run.freshness.judge(look, &mut self.answered, table, &watches.inventory, judgement);
        judgement.reasons.extend(unwatched.map(|why| format!("DCGM watches no field of the GPUs: {why}")));
        if !judgement.no_gpu_has_values && !watches.inventory.gpus.is_empty() {
            run.fatal_xid.clear();
            if run.started.elapsed() >= SessionRun::KERNEL_LOG_IS_READ {
                let forgotten = watches.collector.forget_old_xids();
                forgotten.map_err(|error| self.lost(Some(ErrorKind::Watch), &error))?;
            }
        } else if run.fatal_xid.is_empty() {
            let gpus = watches.collector.gpus_with_fatal_xid();
            run.fatal_xid = gpus.map_err(|error| self.lost(None, &error))?;
        }
        if !run.fatal_xid.is_empty() {
            judgement.up.fill(false);
        }
        for error in outcome.errors {
            let kind = if error.call == "dcgmUpdateAllFields" { ErrorKind::Update } else { ErrorKind::Read };
            self.report.count_error(kind);
            if self.throttle.allows(&error.to_string()) {
                log::warn!("some samples are missing: {error}");
            }
            judgement.reasons.push(error.to_string());
        }
        for problem in outcome.problems {
            log::warn!("{problem}");
        }
        notices::unsupported_by_links(&outcome.left_out, &watches.plan);
        let missing = watches.collector.no_room.len();
        if missing > 0 {
            judgement.reasons.push(format!("the engine has no room for more groups ({missing} watches are missing)"));
        }
        (self.report.sources, self.report.series_left_out) = (outcome.sources, outcome.series_left_out);
        self.report.collect_duration = start.elapsed();
        self.report.collect_time = match judgement.newest {
            0 => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            newest => newest as f64 / 1e6,
        };
        self.report.collections += 1;
        (self.collected, run.collected) = (Some(start), Some(start));
        run.collections += 1;
        run.due = match run.is_embedded() {
            _ if run.is_new() => start + interval.min(FIRST_PERIOD),
            true => start + self.config.period(),
            false => pace::next_due(run.due, interval, start),
        };
        if run.collections == SessionRun::FIRST_COLLECTIONS {
            self.set_period(run)?;
            allocator::give_back();
        }
        if let Some(watches) = &mut run.watches {
            let settled = watches.collector.settle_switch_fields(&watches.plan, &watches.inventory);
            let change = settled.map_err(|error| self.lost(Some(ErrorKind::Watch), &error))?;
            if change != Change::default() {
                notices::switch_fields(&change, &watches.plan);
                self.count_skipped(&*watches);
            }
            let joined = watches.collector.join_split(&watches.plan, &watches.inventory);
            joined.map_err(|error| self.lost(Some(ErrorKind::Watch), &error))?;
            let settled = watches.collector.settle_compute_instances(&watches.plan, &watches.inventory);
            let fields = settled.map_err(|error| self.lost(Some(ErrorKind::Watch), &error))?;
            notices::compute_instances(&fields, &watches.plan);
        }
        run.note_answers();
        let event = self.judge(run);
        let no_gpu_answers = matches!(&event, Event::Collected(running) if running.no_gpu_answers);
        self.advance(event);
        self.relabel_containers(run);
        self.publish(run);
        let is_silent = self.silence.note(start, no_gpu_answers && run.is_embedded() && run.fatal_xid.is_empty());
        Ok(is_silent.then_some(RestartReason::GpusSilent))
    }

    /// Samples what jobs use, because one has come or gone.
    fn read_between(&mut self, run: &mut SessionRun) -> Result<(), Event> {
        let now = self.now();
        let Some(watches) = &mut run.watches else { return Ok(()) };
        let read = watches.collector.read_between(&watches.inventory, &mut self.memory, now);
        read.map_err(|error| self.lost(None, &error))
    }

    /// What the last collection says of the GPUs.
    fn judge(&self, run: &SessionRun) -> Event {
        let Some(watches) = &run.watches else { return Event::NoGpus { had_some: false } };
        if !run.fatal_xid.is_empty() {
            let entities = &watches.inventory.entities;
            let reasons = run.fatal_xid.iter().map(|gpu| fatal_xid::sentence(*gpu, entities)).collect();
            return Event::Collected(Running { reasons, no_gpu_answers: true });
        }
        let had_some = !self.lost.entities().is_empty();
        if watches.inventory.gpus.is_empty() {
            return Event::NoGpus { had_some };
        }
        let mut reasons = watches.judgement.reasons.clone();
        reasons.extend(self.lost.reasons());
        reasons.extend(watches.inventory.nothing_selected.clone());
        if watches.inventory.lacks_switch_module {
            reasons.push(NO_SWITCH_MODULE.to_owned());
        }
        reasons.extend(self.wait.files().hanging());
        reasons.extend(self.job_map.as_ref().and_then(JobMapReader::hanging));
        reasons.extend(self.summary_writer.as_ref().and_then(Writer::hanging));
        if let Some((step @ Step::Back(_), _)) = run.catches_up {
            reasons.push(format!(
                "{step}; the host engine samples nothing until it has caught up: restart nv-hostengine (systemctl restart \
                 nvidia-dcgm)"
            ));
        }
        reasons.sort();
        let up = watches.inventory.entities.iter().zip(&watches.judgement.up);
        let mut gpus = up.filter(|(entity, _)| entity.kind == Kind::Gpu).map(|(_, up)| *up).peekable();
        let no_gpu_answers = gpus.peek().is_some() && !gpus.any(|up| up) && !watches.judgement.awaits_first;
        Event::Collected(Running { reasons, no_gpu_answers })
    }

    /// Watches again where the last collection showed that it is worth it.
    fn watch_anew_if_needed(&mut self, run: &mut SessionRun) -> Result<(), Event> {
        let Some(watches) = &run.watches else { return Ok(()) };
        if !watches.judgement.rewatch {
            return Ok(());
        }
        self.report.profiling_rewatches += 1;
        log::warn!("profiling fields have no new samples; watching them again");
        let inventory = watches.inventory.clone();
        self.watch(run, inventory)
    }

    /// Takes in settings and rows that were read again. If one of the files cannot be used, the log says why, and all
    /// settings and rows stay as they were.
    fn take_loaded(&mut self, loaded: Result<Loaded, String>) -> Reloaded {
        match loaded {
            Err(error) => {
                self.report.reloads[1] += 1;
                notices::not_reloaded(&error, &self.config);
                Reloaded::Nothing
            }
            Ok(Loaded { settings, counters }) => {
                self.report.reloads[0] += 1;
                let has_interval = settings.as_ref().is_some_and(|settings| settings.interval != self.config.interval);
                let reloaded = match counters != self.counters {
                    true => Reloaded::Rows,
                    false if has_interval => Reloaded::Interval,
                    false => Reloaded::Nothing,
                };
                if let Some(settings) = settings {
                    self.take_settings(settings);
                }
                counters.notes(self.config.counters_file()).iter().for_each(|note| log::warn!("{note}"));
                notices::reloaded(&self.config, counters.rows.len(), reloaded != Reloaded::Nothing);
                self.counters = counters;
                reloaded
            }
        }
    }

    /// Takes over the settings of a configuration file that was read again.
    fn take_settings(&mut self, settings: Config) {
        for warning in settings.warnings.iter().filter(|warning| !self.config.warnings.contains(warning)) {
            log::warn!("{warning}");
        }
        let period = self.config.period();
        self.config.take_from_file(settings);
        if self.config.period() != period {
            self.pace.set(self.config.period(), self.config.min_collect_interval);
            self.publisher.published().set_interval(self.config.period(), self.config.stale_after);
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
            match self.wait.until(pause) {
                Wake::Due if pause < until => {}
                wake => return wake,
            }
        }
    }

    /// Waits between two attempts to reach an engine. Ends early on a command, and when somebody answers at its address.
    fn pause(&mut self) -> Event {
        let restart = match self.phase {
            Phase::Restarting { reason, .. } => Some(reason),
            _ => None,
        };
        let until = Instant::now() + self.back_off.next(restart);
        let mut probe = Instant::now() + PROBE;
        loop {
            if Instant::now() >= until {
                return Event::PauseOver;
            }
            match self.wait(until.min(probe)) {
                Wake::Due if self.engines.chooser.answers() => return Event::PauseOver,
                Wake::Due => probe = Instant::now() + PROBE,
                Wake::Told(Message::JobsChanged) => self.take_in_jobs_without_session(),
                Wake::Told(Message::PauseFile(found)) => _ = self.note_pause_file(found),
                Wake::Told(Message::Loaded(loaded)) => _ = self.take_loaded(*loaded),
                Wake::Told(Message::Resume) => {}
                Wake::Told(Message::Release) => return Event::Release,
                Wake::Stop => return Event::Stop,
            }
        }
    }

    /// Stays without a session until told otherwise.
    fn wait_released(&mut self) -> Event {
        let mut publish = Instant::now() + REPUBLISH;
        loop {
            match self.wait(publish) {
                Wake::Due => {
                    self.publish_without_samples();
                    publish = Instant::now() + REPUBLISH;
                }
                Wake::Told(Message::JobsChanged) => self.take_in_jobs_without_session(),
                Wake::Told(Message::PauseFile(found)) => _ = self.note_pause_file(found),
                Wake::Told(Message::Loaded(loaded)) => _ = self.take_loaded(*loaded),
                Wake::Told(Message::Release) => {}
                Wake::Told(Message::Resume) => return Event::Resume,
                Wake::Stop => return Event::Stop,
            }
        }
    }

    /// An embedded engine may have a neighbour: logs once what that means on these GPUs, and how to share it.
    fn log_neighbour(&mut self, run: &SessionRun) {
        if self.config.engine != EngineSelection::Embedded || std::mem::replace(&mut self.neighbour_logged, true) {
            return;
        }
        let Some(watches) = &run.watches else { return };
        let places = usual_places();
        let found = hostengine::first_answering(&places);
        let oldest = found.and_then(|_| inventory::oldest_architecture(&run.session, &watches.inventory.gpus));
        notices::neighbour(found, &places, oldest);
    }
}

/// Now, as DCGM counts: since 1970.
pub fn microseconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}
