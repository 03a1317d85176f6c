//! Exit codes and wiring: what is told is understood, opened and started, in this order, and stopped on a signal.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use dcgm_exporter::check::fields::OnGpus;
use dcgm_exporter::check::{self, Findings};
use dcgm_exporter::cli::{self, Command};
use dcgm_exporter::config::engine::EngineSelection;
use dcgm_exporter::config::listen::ListenAddress;
use dcgm_exporter::config::{CheckFormat, Config, StatusPage};
use dcgm_exporter::containers::Containers;
use dcgm_exporter::counters::{Counters, types};
use dcgm_exporter::dcgm::{Library, inflight, process};
use dcgm_exporter::exposition::openmetrics;
use dcgm_exporter::inventory::hostname;
use dcgm_exporter::metrics::sources;
use dcgm_exporter::publish::{Health, PublishedPage, Publisher};
use dcgm_exporter::server::file_sd::Registration;
use dcgm_exporter::server::listen::Listener;
use dcgm_exporter::server::{self, Web};
use dcgm_exporter::summary::store::Store;
use dcgm_exporter::summary::text;
use dcgm_exporter::summary::writer::Writer;
use dcgm_exporter::system::printable::{cut, printable, printable_lines};
use dcgm_exporter::system::threads::{Supervisor, Unexpected};
use dcgm_exporter::system::{allocator, limits, process as usage, systemd};
use dcgm_exporter::watcher::{self, Watcher};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::flag;
use signal_hook::iterator::Signals;

/// How long an engine may take to stop. Eight GPUs and their modules take 2 s; systemd waits for 15.
const STOP_LIMIT: Duration = Duration::from_secs(9);
/// A call other than the engine's own stop that has stood still for so long hangs with the driver.
const HANGS: Duration = Duration::from_secs(4);
/// An attempt to connect does not hold it longer than this.
const CONNECT_LIMIT: Duration = Duration::from_millis(200);
/// The exit status after a bug of ours, as sysexits.h has it.
const EX_SOFTWARE: i32 = 70;

/// Signals that came before there was somebody to take them, with what they ask for.
type EarlySignals = Vec<(watcher::Command, Arc<AtomicBool>)>;

/// Keeps signals that are for a running exporter from ending one that starts. What prints and exits has `is_over` set, and
/// is ended by them as usual.
fn early_signals(is_over: &Arc<AtomicBool>) -> EarlySignals {
    use watcher::Command::{Release, Reload, Resume};
    let take = |(signal, command)| {
        let came = Arc::new(AtomicBool::new(false));
        // What cannot be taken is as it was.
        let _ = flag::register_conditional_default(signal, is_over.clone());
        let _ = flag::register(signal, came.clone());
        (command, came)
    };
    [(SIGHUP, Reload), (SIGUSR1, Release), (SIGUSR2, Resume)].map(take).into()
}

fn main() -> ExitCode {
    let prints = Arc::new(AtomicBool::new(false));
    let early = early_signals(&prints);
    allocator::tune();
    let given = Given::now();
    let config = match given.parse() {
        Ok(Command::Run(config)) => *config,
        Ok(Command::Print(text)) => {
            return print(&text);
        }
        Err(error) => {
            // A check has an answer to wrong settings, too.
            if let Some(format) = cli::typed_check(std::env::args_os()) {
                let root = cli::typed_root(std::env::args_os().skip(1)).unwrap_or_else(|| "/".into());
                return check(format, Path::new(&root));
            }
            // A configuration file may have several problems.
            for line in error.lines() {
                eprintln!("dcgm-exporter: {}", printable(line));
            }
            return ExitCode::FAILURE;
        }
    };
    let serves = !config.check_counters
        && config.check.is_none()
        && config.job_summary.is_none()
        && config.list_fields.is_none()
        && config.once.is_none();
    prints.store(!serves, Ordering::Release);
    if config.check_counters {
        return check_counters(&config);
    }
    if let Some(format) = config.check {
        return check(format, &config.root);
    }
    if let Some(job) = &config.job_summary {
        return job_summary(job, &config);
    }
    if let Some(pattern) = &config.list_fields {
        return list_fields(pattern, &config);
    }
    // Standard output is the page's.
    if config.once.is_none() && config.dcgm_log && !matches!(config.engine, EngineSelection::Remote(_)) {
        process::log_to_stdout(config.dcgm_log_level);
    }
    if config.keep_reading_after_xid119 {
        process::keep_reading_after_xid119();
    }
    dcgm_exporter::system::logging::start(config.log_format, config.debug);
    log_panics();
    if let Some(limit) = config.once {
        return once(config, limit).unwrap_or_else(|error| {
            eprintln!("dcgm-exporter: {}", printable(&error));
            process::exit_at_once(1)
        });
    }
    log::info!(Version = env!("CARGO_PKG_VERSION"); "Starting dcgm-exporter");
    match run(config, given, early) {
        Ok(code) => code,
        Err(error) => {
            // One line for each thing that is wrong.
            for line in error.lines() {
                log::error!("{line}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Prints a text that was asked for. Where it cannot be written, such as to a full disk, that is the answer.
fn print(text: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may read this either.
            let _ = writeln!(std::io::stderr(), "dcgm-exporter: cannot write to standard output: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints what keeps this node from having metrics, and leaves with 0, 1 or 2.
fn check(format: CheckFormat, root: &Path) -> ExitCode {
    let host = check::Host::at_root(root);
    let typed: Vec<_> = std::env::args_os().skip(1).collect();
    let Findings { answers, hung } = check::run(&host, &typed, |name| std::env::var_os(name));
    let text = match format {
        CheckFormat::Table => answers.table(),
        CheckFormat::Json => answers.json(),
    };
    // Whoever asked may have closed the pipe.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    let status = answers.worst() as u8;
    if hung {
        process::exit_at_once(i32::from(status));
    }
    ExitCode::from(status)
}

/// Prints what there is to say of the counters file, a line each: `FILE:LINE: what`. A row that is left out is an error,
/// also where the exporter would start with the others.
fn check_counters(config: &Config) -> ExitCode {
    let file = config.counters_file().display();
    match Counters::of(config, &sources::names()) {
        Err(error) => {
            print(&printable_lines(&format!("{error}\n")));
            ExitCode::FAILURE
        }
        Ok(counters) => {
            let errors = counters.errors.iter().map(|(line, what)| (*line, format!("error: {what}")));
            let warnings =
                types::warnings(&counters).into_iter().map(|(line, what)| (line, format!("warning: {what}")));
            let mut all: Vec<(u64, String)> = errors.chain(warnings).collect();
            all.sort();
            let file = file.to_string();
            let file = printable(&file);
            let lines: String =
                all.into_iter().map(|(line, what)| format!("{file}:{line}: {}\n", printable(&what))).collect();
            let printed = print(&format!("{lines}{file}: {} rows can be used\n", counters.rows.len()));
            if counters.errors.is_empty() { printed } else { ExitCode::FAILURE }
        }
    }
}

/// Prints the fields that a counters file may have. Without a library it is not known which of them this node has.
fn list_fields(pattern: &str, config: &Config) -> ExitCode {
    if !check::fields::has(pattern) {
        let right = "give a part of a name, such as TEMP, or a name with * and ?";
        eprintln!("dcgm-exporter: no field has a name like '{}'; {right}", printable(&cut(pattern)));
        return ExitCode::FAILURE;
    }
    let library = Library::open(config.libdcgm.as_deref()).map(Arc::new);
    let on_gpus = match &library {
        Ok(library) => check::fields::ask(pattern, library, config),
        Err(_) => OnGpus::default(),
    };
    if let Err(error) = &library {
        eprintln!("dcgm-exporter: {}", printable(&error.to_string()));
    }
    if let Some(why) = &on_gpus.unknown {
        eprintln!("dcgm-exporter: fields marked unknown could not be read on the GPUs: {}", printable(why));
    }
    let printed = print(&check::fields::list(pattern, library.as_deref().ok(), &on_gpus));
    if on_gpus.hung {
        process::exit_at_once(i32::from(printed != ExitCode::SUCCESS));
    }
    printed
}

/// Prints what a job used.
fn job_summary(job: &str, config: &Config) -> ExitCode {
    let told = |error: String| {
        eprintln!("dcgm-exporter: {}", printable(&error));
        ExitCode::FAILURE
    };
    let of_service = || check::service_variable(&config.root, "DCGM_EXPORTER_JOB_SUMMARY_DIR").map(PathBuf::from);
    let Some(directory) = &config.job_summaries.clone().or_else(of_service) else {
        return told("--job-summary needs --job-summary-dir, the directory that the exporter writes to".to_owned());
    };
    match Store::read_in(directory).and_then(|store| {
        store.read(job).map_err(|why| format!("no summary of job {job} in {}: {why}", directory.display()))
    }) {
        Err(error) => told(error),
        Ok(summary) if config.job_summary_short => print(&(text::short(&summary) + "\n")),
        Ok(summary) => print(&text::long(&summary, watcher::microseconds())),
    }
}

/// Collects, prints the page and leaves.
///
/// Errors: there is no page within the limit, and why.
fn once(config: Config, limit: Duration) -> Result<ExitCode, String> {
    const LOOK: Duration = Duration::from_millis(20);
    // Whoever reads the page of a cron job wants to hear of trouble alone.
    if !config.debug {
        log::set_max_level(log::LevelFilter::Warn);
    }
    let end = Instant::now() + limit;
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    let counters = Counters::of(&config, &sources::names()).map_err(|error| error.to_string())?;
    counters.notes(config.counters_file()).iter().for_each(|note| log::warn!("{note}"));
    let collections = if counters.need_two_samples() { 2 } else { 1 };
    let library = open_library(&config)?;
    let published = Arc::new(PublishedPage::new(config.period(), config.stale_after, inflight::current));
    let containers = container_runtime(&config).map(Containers::once);
    let (watcher, handle) = Watcher::new(config, Arc::new(library), counters, Publisher::new(published.clone()))
        .map_err(|error| format!("cannot start the collecting thread: {error}"))?;
    let mut watcher = watcher.with_containers(containers);
    let (supervisor, _ends) = Supervisor::new(|| ());
    watcher
        .read_job_map(&supervisor)
        .map_err(|error| format!("cannot start the thread that reads the job map: {error}"))?;
    let (ended, end_of_watcher) = channel();
    std::thread::Builder::new()
        .name("watcher".to_owned())
        .stack_size(process::STACK)
        .spawn(move || {
            watcher.run();
            let _ = ended.send(());
        })
        .map_err(|error| format!("cannot start the collecting thread: {error}"))?;
    let (mut seen, mut newest) = (0, None);
    let page = loop {
        match published.page() {
            Some(page) if page.taken() != newest => {
                (seen, newest) = (seen + 1, page.taken());
                if seen >= collections {
                    break page;
                }
            }
            _ => {}
        }
        if Instant::now() >= end {
            let why = match published.health() {
                _ if seen > 0 => {
                    "a profiling field or the utilization of CPUs needs a second collection, a second after \
                                  the first; give more time, as in --once=5s"
                        .to_owned()
                }
                Health::Starting(status) | Health::Present { status, .. } => status,
                Health::Stale { why, .. } => why,
            };
            return Err(format!("no page within {}: {why}", humantime::format_duration(limit)));
        }
        match end_of_watcher.recv_timeout(LOOK) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return Err("the collecting thread has ended".to_owned()),
        }
    };
    let text = String::from_utf8_lossy(page.plain());
    let is_printed = print(&text) == ExitCode::SUCCESS;
    handle.send(watcher::Command::Stop);
    // The page is out: an engine that does not stop is no reason to call it bad.
    let _ = wait_for_end(&end_of_watcher);
    process::exit_at_once(i32::from(!is_printed))
}

/// The command line and the environment of the start: an embedded engine may change the latter.
struct Given {
    arguments: Vec<OsString>,
    environment: HashMap<OsString, OsString>,
}

impl Given {
    fn now() -> Given {
        Given { arguments: std::env::args_os().skip(1).collect(), environment: std::env::vars_os().collect() }
    }

    /// Errors: as [`cli::parse`].
    fn parse(&self) -> Result<Command, String> {
        let mut command =
            cli::parse(self.arguments.iter().cloned(), |name| self.environment.get(OsStr::new(name)).cloned())?;
        if let Command::Run(config) = &mut command {
            let names = self.environment.keys().filter_map(|name| name.to_str());
            config.warnings.extend(cli::unknown_variables(names));
        }
        Ok(command)
    }

    /// Understands the settings again, for a configuration file that has changed.
    fn settings(self) -> watcher::ReadSettings {
        Box::new(move || match self.parse()? {
            Command::Run(config) => Ok(*config),
            Command::Print(_) => Err("the command line asks for a text".to_owned()),
        })
    }
}

/// Errors: there is no libdcgm that can be used.
fn open_library(config: &Config) -> Result<Library, String> {
    let library = Library::open(config.libdcgm.as_deref()).map_err(|error| error.to_string())?;
    watcher::notices::library(&library);
    Ok(library)
}

fn run(config: Config, given: Given, early: EarlySignals) -> Result<ExitCode, String> {
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    limits::check_open_files()?;
    limits::check_threads()?;
    let monitors = watcher::Monitors::of(&config);
    // Before signals are taken: a file system that hangs does not keep it from being ended.
    let counters = Counters::of(&config, &sources::names()).map_err(|error| error.to_string())?;
    let signals = [SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2];
    let mut signals = Signals::new(signals).map_err(|error| format!("cannot take signals: {error}"))?;
    counters.notes(config.counters_file()).iter().for_each(|note| log::warn!("{note}"));
    let library = open_library(&config)?;
    log::info!(path = library.path().display().to_string(), version = library.version(); "loaded libdcgm");
    let web = Web::open(config.web_config.as_deref())?;
    let listeners = Arc::new(match config.systemd_socket {
        true => server::listen::from_systemd()?,
        false => open_all(&config.listen)?,
    });
    let (supervisor, ends) = Supervisor::new({
        let signals = signals.handle();
        move || signals.close()
    });
    let published = PublishedPage::new(config.period(), config.stale_after, inflight::current);
    let published = Arc::new(
        published.with_open_metrics(openmetrics::convert).with_status_page(config.status_page != StatusPage::Off),
    );
    let has_tls = web.has_tls();
    server::start(listeners.clone(), &published, config.timeouts, config.open_metrics, web, &supervisor)
        .map_err(|error| format!("cannot serve: {error}"))?;
    for listener in listeners.iter() {
        log::info!(address = listener.address(); "Listening on");
    }
    if has_tls {
        log::info!("TLS is enabled");
    }
    let registration = config.file_sd_dir.as_deref().and_then(|directory| {
        let addresses: Vec<_> = listeners.iter().filter_map(Listener::tcp_address).collect();
        Registration::write(directory, config.file_sd_address.as_deref(), &addresses, has_tls)
    });
    usage::all_threads_serve();

    let has_file = config.config_file.is_some();
    let containers = container_runtime(&config).map(|socket| Containers::start(socket, config.interval, &supervisor));
    let containers = containers
        .transpose()
        .map_err(|error| format!("cannot start the thread that asks the container runtime: {error}"))?;
    let summaries = config.job_summaries.clone().filter(|_| config.accounts_jobs());
    let host = hostname::of_node(&config);
    let summaries = summaries.map(|directory| Writer::start(&directory, config.job_summary_days, &host, &supervisor));
    let summaries = summaries.transpose()?;
    let (watcher, handle) = Watcher::new(config, Arc::new(library), counters, Publisher::new(published))
        .map_err(|error| format!("cannot start the collecting thread: {error}"))?;
    let mut watcher = watcher.with_containers(containers).with_summaries(summaries);
    watcher
        .read_job_map(&supervisor)
        .map_err(|error| format!("cannot start the thread that reads the job map: {error}"))?;
    watcher
        .monitor_files(monitors, has_file.then(|| given.settings()), &supervisor)
        .map_err(|error| format!("cannot start the thread that looks at files: {error}"))?;
    let (ended, end) = channel();
    supervisor
        .spawn("watcher", process::STACK, {
            let signals = signals.handle();
            move || {
                // The main thread may have left already.
                watcher.run();
                let _ = ended.send(());
                signals.close();
                Ok(())
            }
        })
        .map_err(|error| format!("cannot start the collecting thread: {error}"))?;
    // Nothing after this can keep it from serving.
    systemd::ready();
    early.into_iter().filter(|(_, came)| came.load(Ordering::Acquire)).for_each(|(command, _)| handle.send(command));

    for signal in signals.forever() {
        log::info!(signal = signal_hook::low_level::signal_name(signal).unwrap_or("?"); "Received signal");
        match signal {
            SIGHUP => handle.send(watcher::Command::Reload),
            SIGUSR1 => handle.send(watcher::Command::Release),
            SIGUSR2 => handle.send(watcher::Command::Resume),
            _ => {
                log::info!("shutting down");
                break;
            }
        }
    }
    // Whatever ended the wait for signals: the engine is to be stopped, if there is still somebody to stop it.
    handle.send(watcher::Command::Stop);
    let ended = match end.recv_timeout(CONNECT_LIMIT) {
        // While it only tries to connect there is nothing to give back, and it may try for seconds.
        Err(RecvTimeoutError::Timeout) if inflight::current().is_some_and(|(call, _)| call == "dcgmConnect_v2") => {
            Ok(())
        }
        Err(RecvTimeoutError::Timeout) => wait_for_end(&end),
        ended => ended,
    };
    listeners.iter().for_each(Listener::close);
    if let Ok(Unexpected { thread, why }) = ends.try_recv() {
        log::error!(thread = thread, reason = why; "a thread of the exporter has ended; this is a bug, please report it");
        process::exit_at_once(EX_SOFTWARE);
    }
    match ended {
        Ok(()) => {
            registration.iter().for_each(Registration::remove);
            log::info!("Shutdown complete");
            process::exit_at_once(0)
        }
        Err(error) => {
            let call = inflight::current().map_or("no DCGM call", |(call, _)| call);
            log::error!(call = call, error = error.to_string(); "DCGM did not stop in time; exiting anyway");
            process::exit_at_once(1)
        }
    }
}

/// Waits until the watcher has ended: as long as an engine may take to stop, but not for a driver that hangs.
fn wait_for_end(end: &Receiver<()>) -> Result<(), RecvTimeoutError> {
    const LOOK: Duration = Duration::from_millis(100);
    let until = Instant::now() + STOP_LIMIT;
    loop {
        let ended = end.recv_timeout(LOOK);
        let hangs = |(call, since): (&str, Instant)| call != "dcgmStopEmbedded" && since.elapsed() >= HANGS;
        match ended {
            Err(RecvTimeoutError::Timeout) if Instant::now() < until && !inflight::current().is_some_and(hangs) => {}
            ended => return ended,
        }
    }
}

/// The socket to ask for containers, where samples are to be labelled with them.
fn container_runtime(config: &Config) -> Option<&Path> {
    config.container_runtime.as_deref().filter(|_| config.container_labels)
}

/// Opens every address.
///
/// Errors: the first that cannot be had.
fn open_all(addresses: &[ListenAddress]) -> Result<Vec<Listener>, String> {
    let mut listeners = Vec::new();
    for address in addresses {
        listeners.extend(server::listen::open(address)?);
    }
    Ok(listeners)
}

/// Logs a panic as one line instead of the usual two on standard error.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        log::error!(thread = thread.name().unwrap_or("?"), place = place; "panicked: {}", panic.payload_as_str().unwrap_or("no message"));
    }));
}
