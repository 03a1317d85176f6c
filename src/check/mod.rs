//! `--check`: what an administrator would try by hand when metrics are missing, in one command and as a table.
//!
//! Every question is answered by ok, warn or fail, with what was found and the fix. Nothing is changed and no port is
//! opened, so it may run beside an exporter that serves. The settings are those of the installed unit, unless the
//! command line or the environment has others: a check with other settings than the service's would mislead.
//!
//! - [`answers`]: the table.
//! - [`unit`]: the installed unit and its settings, with [`environment`] files; [`systemd`]: what the running systemd says of
//!   it, and [`service`] of the service; [`unused`]: settings that are not in force; [`rights`]: what the service may read.
//! - [`node`]: driver, permissions, other exporters.
//! - [`addresses`]: the ports and sockets to serve on; [`owner`]: which process has them.
//! - [`job_map`](mod@job_map): whether the job map can be read, and only root can write it.
//! - [`directories`](mod@directories): those that the service writes to, for summaries of jobs and `file_sd`.
//! - [`kernel_log`]: whether an engine can read `/dev/kmsg`.
//! - [`certificates`]: the files that the web configuration names.
//! - [`settings`]: web configuration, hostname label.
//! - [`engine`]: DCGM's library and engine, in a thread of its own, because a driver that hangs is one of the answers;
//!   [`gpus`], [`values`] and [`instances`]: what is asked of that engine.
//! - [`image`]: what is asked of an image instead, and [`tree`]: paths in it.
//! - [`fields`]: `--list-fields`, the names for a counters file.

pub mod addresses;
pub mod answers;
pub mod certificates;
pub mod directories;
pub mod engine;
pub mod environment;
pub mod fields;
pub mod gpus;
pub mod image;
pub mod instances;
pub mod job_map;
pub mod kernel_log;
pub mod node;
pub mod owner;
pub mod rights;
pub mod service;
pub mod settings;
pub mod systemd;
pub mod tree;
pub mod unit;
pub mod unused;
pub mod values;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::cli::{self, Command};
use crate::config::Config;
use crate::counters::{Counters, types};
use crate::dcgm::process;
use crate::metrics::sources;
use answers::{Answers, Told};
use unit::Unit;

/// For the whole check. The engine alone may take 14 s of it.
const LIMIT: Duration = Duration::from_secs(20);
const TOO_MANY_THREADS: &str = "this user has too many processes or threads; end some, or raise the limit (ulimit -u)";

/// The machine that is checked.
#[derive(Debug, Clone)]
pub struct Host {
    /// `/`, or the directory of an image; in tests a directory tree.
    pub root: PathBuf,
    /// A node boots from this tree; what needs the node itself is left out.
    pub is_image: bool,
    /// Asks the running systemd; without it the unit's files are read.
    pub systemctl: Option<PathBuf>,
}

impl Host {
    /// This node, or the image in a directory.
    pub fn at_root(root: &Path) -> Host {
        let is_image = root != Path::new("/");
        let systemctl = if is_image { None } else { systemd::program() };
        Host { root: root.to_owned(), is_image, systemctl }
    }

    /// Where a file of this host lies; in an image all links are followed inside of it.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        if self.root == Path::new("/") {
            return self.root.join(path);
        }
        // One that was found in the tree before.
        tree::resolve(&self.root, path.strip_prefix(&self.root).unwrap_or(path))
    }
}

/// What was found. With `hung` a call has not returned and may never do so: the process has to exit at once.
pub struct Findings {
    pub answers: Answers,
    pub hung: bool,
}

/// What the service has as a variable; `None` if it is not installed.
pub fn service_variable(root: &Path, name: &str) -> Option<String> {
    let unit = Unit::find(&Host::at_root(root), None)?;
    unit.variable(name).filter(|value| !value.is_empty()).map(str::to_owned)
}

/// Asks every question, for a command line (without the program's name) in an environment.
///
/// Takes at most 20 s. What is asked of files, names and sockets can hang as well as the driver, such as a network file
/// system whose server is gone: so it is asked on a thread of its own, and what has been answered by then is the answer.
pub fn run(
    host: &Host,
    arguments: &[OsString],
    environment: impl Fn(&str) -> Option<OsString> + Send + 'static,
) -> Findings {
    let (tell, told) = channel();
    let (host, arguments) = (host.clone(), arguments.to_vec());
    let asking = std::thread::Builder::new().name("questions".to_owned()).stack_size(process::STACK).spawn(move || {
        let mut answers = Answers::telling(tell);
        ask(&host, &arguments, environment, &mut answers)
    });
    let mut answers = Answers::default();
    let asking = match asking {
        Ok(asking) => asking,
        Err(error) => {
            answers.fail("check", format!("no thread can be started: {error}"), TOO_MANY_THREADS);
            return Findings { answers, hung: false };
        }
    };
    if wait(&told, LIMIT, &mut answers) {
        return Findings { answers, hung: true };
    }
    let hung = asking.join().unwrap_or_else(|_| {
        answers.fail("check", "the check itself failed", "this is a bug; report what it printed");
        true
    });
    Findings { answers, hung }
}

/// Takes what is told until the teller has ended. Returns whether it had not within the limit.
fn wait(told: &Receiver<Told>, limit: Duration, answers: &mut Answers) -> bool {
    let end = Instant::now() + limit;
    let mut asked = "settings";
    loop {
        match told.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(Told::Asks(what)) => asked = what,
            Ok(Told::Answer(answer)) => answers.put(answer),
            Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => {
                answers.fail(
                    "check",
                    format!(
                        "the check did not end within {} s: '{asked}' has no answer yet, and what comes after it was not checked",
                        limit.as_secs()
                    ),
                    "find what does not answer: a network file system, a name server or the driver; see dmesg",
                );
                return true;
            }
        }
    }
}

/// Returns whether a DCGM call hangs.
fn ask(
    host: &Host,
    arguments: &[OsString],
    environment: impl Fn(&str) -> Option<OsString>,
    answers: &mut Answers,
) -> bool {
    answers.asks("settings");
    let shown = host.systemctl.as_deref().and_then(systemd::show);
    let unit = Unit::find(host, shown.as_ref());
    let unit = unit.as_ref();
    let Some(config) = configuration(host, unit, arguments, environment, answers) else { return false };
    settings::file(&config, answers);
    answers.asks("counters file");
    let counters = counters(&config, answers);
    if host.is_image {
        answers.asks("image");
        image::ask(host, &config, unit, answers);
        return false;
    }
    answers.asks("driver");
    let driver_gpus = node::driver(host, &config, answers);
    node::permissions(host, &config, &counters, answers);
    answers.asks("engine");
    let hung = engine::ask(&config, &counters, driver_gpus, answers);
    answers.asks("other exporters");
    node::exporters(host, answers);
    answers.asks("web configuration");
    settings::web(&config, answers);
    certificates::tls_files(host, &config, unit, answers);
    rights::settings(host, &config, unit, answers);
    answers.asks("kernel log");
    kernel_log::kernel_log(host, &config, unit, answers);
    answers.asks("port");
    let service = shown.as_ref().and_then(|shown| shown.of("dcgm-exporter.service", "MainPID").parse().ok());
    addresses::addresses(host, &config, service, answers);
    answers.asks("job map");
    job_map::job_map(&config, answers);
    directories::directories(host, &config, unit, answers);
    answers.asks("unit");
    unit::installed(host, unit, shown.as_ref(), answers);
    unused::unused(host, &config, unit, answers);
    service::service(shown.as_ref(), answers);
    unit::start_limit(unit, shown.as_ref(), answers);
    unit::second_engine(host, &config, shown.as_ref(), answers);
    unit::hidden_files(host, &config, unit, answers);
    answers.asks("hostname label");
    settings::hostname(&config, answers);
    hung
}

/// The settings that the exporter would have: the unit's arguments before the typed ones, its variables behind those
/// that are set.
fn configuration(
    host: &Host,
    unit: Option<&Unit>,
    typed: &[OsString],
    environment: impl Fn(&str) -> Option<OsString>,
    answers: &mut Answers,
) -> Option<Config> {
    const QUESTION: &str = "settings";
    let of_unit = unit.map(|unit| unit.arguments.as_slice()).unwrap_or_default();
    let arguments = of_unit.iter().map(OsString::from).chain(typed.iter().cloned());
    let variable = |name: &str| {
        // The environment of the head node's shell says nothing of an image.
        let set = environment(name).filter(|value| !value.is_empty() && !host.is_image);
        set.or_else(|| unit.and_then(|unit| unit.variable(name)).map(OsString::from))
    };
    let parsed = match host.is_image {
        true => image::parse(host, arguments.collect(), variable),
        false => cli::parse(arguments, variable),
    };
    match parsed {
        Ok(Command::Run(config)) => {
            let from: Vec<String> =
                unit.iter().flat_map(|unit| &unit.sources).map(|file| file.display().to_string()).collect();
            let from =
                if from.is_empty() { "the command line and the environment".to_owned() } else { from.join(", ") };
            answers.ok(QUESTION, format!("from {from}"));
            let own = std::env::vars_os().filter(|_| !host.is_image).filter_map(|(name, _)| name.into_string().ok());
            let names = unit
                .iter()
                .flat_map(|unit| unit.assigned().map(|(name, _)| name.as_str()).map(str::to_owned))
                .chain(own);
            let names: BTreeSet<String> = names.collect();
            for warning in config.warnings.iter().chain(&cli::unknown_variables(names.iter().map(String::as_str))) {
                answers.warn(QUESTION, warning.clone(), "correct or remove this setting");
            }
            Some(*config)
        }
        Ok(Command::Print(_)) => None,
        Err(error) => {
            for line in error.lines() {
                answers.fail(
                    QUESTION,
                    line,
                    "correct it; dcgm-exporter --help lists all flags, --help FLAG says what a flag takes",
                );
            }
            None
        }
    }
}

/// The counters file; without a usable one, none of its rows.
fn counters(config: &Config, answers: &mut Answers) -> Counters {
    const QUESTION: &str = "counters file";
    let file = config.counters_file().display();
    match Counters::of(config, &sources::names()) {
        Ok(counters) => {
            answers.ok(QUESTION, format!("{file}, {} rows", counters.rows.len()));
            for (line, what) in &counters.errors {
                answers.warn(
                    QUESTION,
                    format!("{file}:{line}: left out: {what}"),
                    "correct it; dcgm-exporter --check-counters checks this file alone",
                );
            }
            for (line, what) in types::warnings(&counters) {
                answers.ok(QUESTION, format!("{file}:{line}: {what}"));
            }
            counters
        }
        Err(error) => {
            for line in error.to_string().lines() {
                answers.fail(
                    QUESTION,
                    line.to_owned(),
                    "correct it; dcgm-exporter --check-counters checks this file alone",
                );
            }
            Counters::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who types --job-summary has none of the service's variables.
    #[test]
    fn variables_of_the_service() {
        let root = std::env::temp_dir().join(format!("dcgm-exporter-service-{}", std::process::id()));
        for (file, text) in [
            ("etc/systemd/system/dcgm-exporter.service", "[Service]\nEnvironmentFile=/etc/dcgm-exporter/environment\n"),
            ("etc/dcgm-exporter/environment", "DCGM_EXPORTER_JOB_SUMMARY_DIR=/var/lib/x\nDCGM_EXPORTER_LISTEN=\n"),
        ] {
            let file = root.join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        let of = |name: &str| service_variable(&root, name);
        assert_eq!(of("DCGM_EXPORTER_JOB_SUMMARY_DIR").as_deref(), Some("/var/lib/x"));
        assert_eq!(of("DCGM_EXPORTER_LISTEN"), None);
        assert_eq!(service_variable(&root.join("nothing"), "DCGM_EXPORTER_JOB_SUMMARY_DIR"), None);
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_question_that_is_never_answered_ends_the_check() {
        let (tell, told) = channel();
        let mut asked = Answers::telling(tell);
        asked.ok("settings", "from nowhere");
        asked.asks("web configuration");
        let mut answers = Answers::default();
        // The teller is still there, as one that hangs would be.
        assert!(wait(&told, Duration::from_millis(10), &mut answers));
        let found: Vec<&str> = answers.iter().map(|answer| answer.found.as_str()).collect();
        assert!(found[0] == "from nowhere" && found[1].contains("'web configuration' has no answer yet"), "{found:?}");
        let (tell, told) = channel();
        drop(Answers::telling(tell));
        assert!(!wait(&told, LIMIT, &mut answers));
    }
}
