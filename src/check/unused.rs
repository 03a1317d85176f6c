//! What `--check` says of settings that are not in force, although they look so: lines that systemd leaves out, drop-ins of
//! NVIDIA's unit, an environment file that the unit does not read, and a unit of the site's own that hides the package's.
//! The worst is a lost web configuration, for then the port has no password.

use std::fs;
use std::path::Path;

use super::Host;
use super::answers::Answers;
use super::environment;
use super::unit::{PEER, SERVICE, Unit, drop_ins, places};
use crate::cli::flag;
use crate::config::Config;
use crate::system::files;

const QUESTION: &str = "settings in force";
const ENVIRONMENT: &str = "/etc/dcgm-exporter/environment";
const WEB_CONFIG: &str = "DCGM_EXPORTER_WEB_CONFIG_FILE";
const RESTART: &str = "systemctl daemon-reload; systemctl restart dcgm-exporter";

/// Name of a variable, and its value.
type Setting = (String, String);

pub fn unused(host: &Host, config: &Config, unit: Option<&Unit>, answers: &mut Answers) {
    let Some(unit) = unit.filter(|unit| !unit.sources.is_empty()) else { return };
    for (file, name, value) in &unit.refused {
        let lost = name.rsplit(' ').next().unwrap_or(name).to_owned();
        let found = format!("{}: systemd leaves '{name}={value}' out, which is no NAME=VALUE", file.display());
        lose(config, unit, vec![(lost, value.clone())], &found, "write NAME=VALUE, without export or blanks", answers);
    }
    for (name, value) in unit.assigned().filter(|(_, value)| value.contains(" #")) {
        answers.warn(
            QUESTION,
            format!("{name} has the value '{value}': for systemd a comment behind a value is part of it"),
            "give the comment a line of its own",
        );
    }
    for file in drop_ins(host, PEER) {
        let text = files::text(&file).unwrap_or_default();
        let peers = Unit::of(&text);
        let settings: Vec<Setting> =
            from_arguments(&peers.arguments).into_iter().chain(peers.assigned().cloned()).collect();
        let lines: Vec<String> = settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let found = format!("{} belongs to {PEER}, and nothing in it is in force for {SERVICE}", file.display());
        let fix = format!(
            "put what is wanted into {ENVIRONMENT}: {}; then: systemctl restart dcgm-exporter; rm {}",
            lines.join(" "),
            file.display()
        );
        lose(config, unit, settings, &found, &fix, answers);
    }
    let file = host.at(ENVIRONMENT);
    if let Some(text) = files::text(&file).filter(|_| !unit.sources.contains(&file)) {
        let own = unit.sources[0].display();
        let found = format!("{own} does not read {}, so nothing in it is in force", file.display());
        let fix = format!("add EnvironmentFile=-{ENVIRONMENT} to [Service] of {own}; then: {RESTART}");
        lose(config, unit, environment::read(&text).variables, &found, &fix, answers);
    }
    hides(host, unit, answers);
}

/// Reports settings that are not in force, but for those that are so by another way.
fn lose(config: &Config, unit: &Unit, mut settings: Vec<Setting>, found: &str, fix: &str, answers: &mut Answers) {
    let in_force = from_arguments(&unit.arguments);
    settings.retain(|(name, value)| {
        unit.variable(name) != Some(value) && !in_force.contains(&(name.clone(), value.clone()))
    });
    let names: Vec<&str> = settings.iter().map(|(name, _)| name.as_str()).collect();
    if names.is_empty() {
        return;
    }
    let found = format!("{found}: {}", names.join(", "));
    match names.contains(&WEB_CONFIG) && config.web_config.is_none() {
        true => answers.fail(QUESTION, format!("{found}; the port has neither TLS nor a password"), fix),
        false => answers.warn(QUESTION, found, fix),
    }
}

/// A unit that lies before the package's, which would read its settings and has less rights.
fn hides(host: &Host, unit: &Unit, answers: &mut Answers) {
    let own = &unit.sources[0];
    let real = |path: &Path| fs::canonicalize(path).ok();
    let others = places(host).into_iter().filter(|place| place.is_file() && real(place) != real(own));
    // Of those before it none is in force.
    let Some(hidden) = others.into_iter().next() else { return };
    let is_installed = files::text(own).is_some_and(|text| text.contains("Documentation=man:dcgm-exporter(1)"));
    let fix = match is_installed {
        true => {
            "one way of installing is enough: 'make uninstall' in the directory of that release, or remove the package"
                .to_owned()
        }
        false => format!(
            "keep in {ENVIRONMENT}, or in a drop-in ('systemctl edit dcgm-exporter'), what differs; then: rm {}; {RESTART}",
            own.display()
        ),
    };
    let found = format!("{} hides {}, whose settings and limits are not in force", own.display(), hidden.display());
    answers.warn("unit", found, fix);
}

/// Flags of a command line as the variables that stand for them.
fn from_arguments(arguments: &[String]) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let Some(text) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else { continue };
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value.to_owned())));
        let Some(flag) = flag::all().find(|flag| flag.is_called(name)) else { continue };
        let value = match flag.value() {
            Some(_) => value.or_else(|| rest.next().cloned()),
            None => value.or(Some("true".to_owned())),
        };
        settings.extend(value.map(|value| (flag.variable.to_owned(), value)));
    }
    settings
}
