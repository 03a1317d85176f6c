//! `--check`: what an administrator would try by hand when metrics are missing, in one command and as a table.
//!
//! Every question is answered by ok, warn or fail, with what was found and the fix. Nothing is changed and no port is
//! opened, so it may run beside an exporter that serves. The settings are those of the installed unit, unless the
//! command line or the environment has others: a check with other settings than the service's would mislead.
//!
//! - [`answers`]: the table.
//! - [`unit`]: the installed unit and its settings.
//! - [`node`]: driver, permissions, other exporters.
//! - [`addresses`]: the ports and sockets to serve on.
//! - [`job_map`](mod@job_map): whether the job map can be read, and only root can write it.
//! - [`settings`]: web configuration, hostname label.
//! - [`engine`]: DCGM's library and engine, in a thread of its own, because a driver that hangs is one of the answers;
//!   [`gpus`], [`values`] and [`instances`]: what is asked of that engine.
//! - [`fields`]: `--list-fields`, the names for a counters file.

pub mod addresses;
pub mod answers;
pub mod engine;
pub mod fields;
pub mod gpus;
pub mod instances;
pub mod job_map;
pub mod node;
pub mod settings;
pub mod unit;
pub mod values;

use std::ffi::OsString;
use std::path::PathBuf;

use crate::cli::{self, Command};
use crate::config::Config;
use crate::counters::{Counters, types};
use crate::metrics::sources;
use answers::Answers;
use unit::Unit;

/// The machine that is checked.
pub struct Host {
    /// `/`; in tests a directory tree.
    pub root: PathBuf,
}

/// What was found. With `hung` a DCGM call has not returned and may never do so: the process has to exit at once.
pub struct Findings {
    pub answers: Answers,
    pub hung: bool,
}

/// Asks every question, for a command line (without the program's name) in an environment.
pub fn run(host: &Host, arguments: &[OsString], environment: impl Fn(&str) -> Option<OsString>) -> Findings {
    let mut answers = Answers::default();
    let unit = Unit::find(&host.root);
    let Some(config) = configuration(unit.as_ref(), arguments, environment, &mut answers) else {
        return Findings { answers, hung: false };
    };
    settings::file(&config, &mut answers);
    let counters = counters(&config, &mut answers);
    let driver_gpus = node::driver(host, &config, &mut answers);
    node::permissions(host, &config, &counters, &mut answers);
    let hung = engine::ask(&config, &counters, driver_gpus, &mut answers);
    node::exporters(host, &mut answers);
    settings::web(&config, &mut answers);
    addresses::addresses(host, &config, &mut answers);
    job_map::job_map(&config, &mut answers);
    unit::installed(host, unit.as_ref(), &mut answers);
    settings::hostname(&config, &mut answers);
    Findings { answers, hung }
}

/// The settings that the exporter would have: the unit's arguments before the typed ones, its variables behind those
/// that are set.
fn configuration(
    unit: Option<&Unit>,
    typed: &[OsString],
    environment: impl Fn(&str) -> Option<OsString>,
    answers: &mut Answers,
) -> Option<Config> {
    const QUESTION: &str = "settings";
    let of_unit = unit.map(|unit| unit.arguments.as_slice()).unwrap_or_default();
    let arguments = of_unit.iter().map(OsString::from).chain(typed.iter().cloned());
    let variable = |name: &str| {
        let set = environment(name).filter(|value| !value.is_empty());
        set.or_else(|| unit.and_then(|unit| unit.variable(name)).map(OsString::from))
    };
    match cli::parse(arguments, variable) {
        Ok(Command::Run(config)) => {
            let from: Vec<String> =
                unit.iter().flat_map(|unit| &unit.sources).map(|file| file.display().to_string()).collect();
            let from =
                if from.is_empty() { "the command line and the environment".to_owned() } else { from.join(", ") };
            answers.ok(QUESTION, format!("from {from}"));
            for warning in &config.warnings {
                answers.warn(QUESTION, warning.clone(), "remove it");
            }
            Some(*config)
        }
        Ok(Command::Print(_)) => None,
        Err(error) => {
            for line in error.lines() {
                answers.fail(QUESTION, line, "correct it; dcgm-exporter --help lists all flags and variables");
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
                    format!("{file}:{line}: {what}; the row is left out"),
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
