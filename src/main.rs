//! Exit codes and wiring: what is told is understood, opened and started, in this order, and stopped on a signal.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use dcgm_exporter::check::{self, Findings};
use dcgm_exporter::cli::{self, CheckFormat, Command, Config, EngineChoice};
use dcgm_exporter::collect::process as usage;
use dcgm_exporter::counters::{Counters, types};
use dcgm_exporter::dcgm::{Library, inflight, process};
use dcgm_exporter::page::{Board, Publisher};
use dcgm_exporter::server;
use dcgm_exporter::watcher::{self, Ended, Watcher};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

/// A driver that hangs does not hold the exit longer than this.
const STOP_LIMIT: Duration = Duration::from_millis(4300);
/// An attempt to connect does not hold it longer than this.
const CONNECT_LIMIT: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    process::tune_allocator();
    let config = match cli::parse(std::env::args_os().skip(1), |name| std::env::var_os(name)) {
        Ok(Command::Run(config)) => *config,
        Ok(Command::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            // A check has an answer to wrong settings, too.
            if let Some(format) = cli::typed_check(std::env::args_os()) {
                return check(format);
            }
            eprintln!("dcgm-exporter: {error}");
            return ExitCode::FAILURE;
        }
    };
    if config.check_counters {
        return check_counters(&config);
    }
    if let Some(format) = config.check {
        return check(format);
    }
    if config.dcgm_log && !matches!(config.engine, EngineChoice::Remote(_)) {
        process::log_to_stdout(config.dcgm_log_level);
    }
    dcgm_exporter::logging::start(config.log_format, config.debug);
    log::info!(Version = env!("CARGO_PKG_VERSION"); "Starting dcgm-exporter");
    match run(config) {
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

/// Prints what keeps this node from having metrics, and leaves with 0, 1 or 2.
fn check(format: CheckFormat) -> ExitCode {
    let host = check::Host { root: "/".into() };
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
        process::leave_at_once(i32::from(status));
    }
    ExitCode::from(status)
}

/// Prints what there is to say of the counters file, a line each: `FILE:LINE: what`.
fn check_counters(config: &Config) -> ExitCode {
    let file = config.collectors.display();
    match Counters::read(&config.collectors) {
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
        Ok(counters) => {
            for (line, what) in types::remarks(&counters) {
                println!("{file}:{line}: {what}");
            }
            println!("{file}: {} rows can be used", counters.rows.len());
            ExitCode::SUCCESS
        }
    }
}

fn run(config: Config) -> Result<ExitCode, String> {
    for remark in &config.remarks {
        log::warn!("{remark}");
    }
    let signals = [SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2];
    let mut signals = Signals::new(signals).map_err(|error| format!("cannot take signals: {error}"))?;
    let counters = Counters::read(&config.collectors).map_err(|error| error.to_string())?;
    for (line, warning) in &counters.warnings {
        log::warn!("{}:{line}: {warning}", config.collectors.display());
    }
    let library = Library::open(config.libdcgm.as_deref()).map_err(|error| error.to_string())?;
    log::info!(path = library.path().display().to_string(), version = library.version(); "loaded libdcgm");
    let sockets = match config.systemd_socket {
        true => server::listen::from_systemd()?,
        false => vec![server::listen::open(&config.listen)?],
    };
    let board = Arc::new(Board::new(config.interval, config.stale_after));
    for socket in &sockets {
        log::info!(address = socket.address(); "Listening on");
    }
    server::start(sockets, &board).map_err(|error| format!("cannot serve: {error}"))?;

    usage::own_all_threads("serving");

    let (watcher, remote) = Watcher::new(config, Arc::new(library), counters, Publisher::new(board))
        .map_err(|error| format!("cannot start the watcher: {error}"))?;
    let (ended, end) = channel();
    std::thread::Builder::new()
        .name("watcher".to_owned())
        .stack_size(process::STACK)
        .spawn({
            let signals = signals.handle();
            move || {
                usage::own_this_thread("watching");
                // The main thread may have left already.
                let _ = ended.send(watcher.run());
                signals.close();
            }
        })
        .map_err(|error| format!("cannot start the watcher: {error}"))?;

    for signal in signals.forever() {
        log::info!(signal = signal_hook::low_level::signal_name(signal).unwrap_or("?"); "Received signal");
        match signal {
            SIGHUP => remote.send(watcher::Command::Reload),
            SIGUSR1 => remote.send(watcher::Command::Release),
            SIGUSR2 => remote.send(watcher::Command::Resume),
            _ => {
                log::info!("shutting down");
                remote.send(watcher::Command::Stop);
                break;
            }
        }
    }
    let ended = match end.recv_timeout(CONNECT_LIMIT) {
        // While it only tries to connect there is nothing to give back, and it may try for seconds.
        Err(RecvTimeoutError::Timeout) if inflight::current().is_some_and(|(call, _)| call == "dcgmConnect_v2") => {
            log::info!("Shutdown complete");
            process::leave_at_once(0);
        }
        Err(RecvTimeoutError::Timeout) => end.recv_timeout(STOP_LIMIT),
        ended => ended,
    };
    match ended {
        Ok(Ended::Stopped) => {
            log::info!("Shutdown complete");
            Ok(ExitCode::SUCCESS)
        }
        Ok(Ended::Failed(why)) => Err(why),
        Err(RecvTimeoutError::Disconnected) => Err("the watcher ended without a word; this is a bug".to_owned()),
        Err(RecvTimeoutError::Timeout) => {
            let call = inflight::current().map_or("no DCGM call", |(call, _)| call);
            log::error!(call = call; "DCGM does not let go; leaving without it");
            process::leave_at_once(1)
        }
    }
}
