//! What `--check` asks of the settings: what the configuration file has, whether the web configuration can be used, and
//! whether the hostname label tells nodes apart.

use std::net::IpAddr;

use super::answers::Answers;
use super::node::is_elsewhere;
use crate::config::Config;
use crate::config::file::Collection;
use crate::inventory::hostname;
use crate::server::web_config::WebConfig;

/// What the configuration file has; one that is wrong is no settings at all.
pub fn file(config: &Config, answers: &mut Answers) {
    let Some(file) = &config.config_file else { return };
    let mut found = format!("{}, interval {}", file.display(), humantime::format_duration(config.interval));
    for Collection { name, interval, .. } in &config.collections {
        found.push_str(&format!(", {name} {}", humantime::format_duration(*interval)));
    }
    answers.ok("configuration file", found);
}

/// Whether the web configuration can be used.
pub fn web(config: &Config, answers: &mut Answers) {
    const QUESTION: &str = "web configuration";
    let Some(file) = &config.web_config else { return };
    match WebConfig::read(file) {
        Ok(web) => {
            for warning in &web.warnings {
                answers.warn(
                    QUESTION,
                    warning.clone(),
                    "correct or remove it; see dcgm-exporter --help web-config-file",
                );
            }
            let scheme = if web.tls.is_some() { "HTTPS" } else { "HTTP" };
            answers.ok(QUESTION, format!("{}: {scheme}, users: {}", file.display(), web.users.len()));
        }
        Err(problems) => {
            for problem in problems {
                answers.fail(QUESTION, problem, "correct it; its format is that of Prometheus' exporter-toolkit");
            }
        }
    }
}

/// The same of an image: a name that its settings have is that of every node.
pub fn hostname_of_image(config: &Config, answers: &mut Answers) {
    match &config.hostname {
        Some(name) if !config.no_hostname => same_everywhere(config, name, answers),
        _ => answers.ok("hostname label", "each node's own name, or none"),
    }
}

/// Whether the hostname label tells nodes apart.
pub fn hostname(config: &Config, answers: &mut Answers) {
    const QUESTION: &str = "hostname label";
    if config.no_hostname {
        answers.ok(QUESTION, "left out (--no-hostname)");
        return;
    }
    let name = hostname::of(config);
    let is_loopback = name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match name.as_str() {
        "" => {
            answers.warn(QUESTION, "the label would be empty", "give the engine's address with its host: -r HOST:5555")
        }
        "localhost" | "localhost.localdomain" | "(none)" => same_everywhere(config, &name, answers),
        _ if is_loopback => same_everywhere(config, &name, answers),
        _ => answers.ok(QUESTION, format!("{}=\"{name}\"", config.hostname_label)),
    }
}

fn same_everywhere(config: &Config, name: &str, answers: &mut Answers) {
    let fix = match is_elsewhere(config) {
        true => "give the node's name with --hostname, or use its engine with -r auto",
        false => "give the node a name (hostnamectl hostname NAME), or set NODE_NAME",
    };
    answers.warn("hostname label", format!("{}=\"{name}\", the same on every node", config.hostname_label), fix);
}
