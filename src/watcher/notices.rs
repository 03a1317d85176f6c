//! The watcher's sentences in the log. Each takes plain values; what happened is decided elsewhere.
//!
//! Those that begin with a capital letter are NVIDIA's, word by word, because administrators search for them.

use std::collections::BTreeMap;
use std::path::Path;

use super::phase::Phase;
use super::profiling::Reason;
use crate::config::Config;
use crate::config::engine::Address;
use crate::dcgm::{Error, ErrorKind, Library};
use crate::inventory::architecture::Architecture;
use crate::inventory::{Inventory, Kind};
use crate::metrics::plan::Plan;
use crate::metrics::switch_fields::Change;
use crate::system::listeners::Stranger;
use crate::system::logging::Throttle;

pub fn job_map(directory: &Path) {
    let shown = directory.display().to_string();
    log::info!(directory = shown; "using the job map");
    if !directory.is_dir() {
        log::error!(
            directory = shown, fix = "create it: systemd-tmpfiles --create dcgm-exporter.conf";
            "the job map directory does not exist; no sample has a job until it does"
        );
    }
}

/// A library that somebody else could replace.
pub fn library(library: &Library) {
    if let Some(writable) = library.writable() {
        let path = library.path().display().to_string();
        log::warn!(path = path, hint = writable.fix(); "libdcgm runs with this process's rights, and {writable}");
    }
}

/// The phase has changed. Within one phase, details may change all the time.
pub fn phase(from: &Phase, to: &Phase, throttle: &mut Throttle) {
    if from.name() == to.name() && !throttle.allows(&to.to_string()) {
        return;
    }
    if to.is_trouble() {
        log::warn!(from = from.name(); "state: {to}");
    } else {
        log::info!(from = from.name(); "state: {to}");
    }
}

pub fn connecting(address: Option<&Address>) {
    match address {
        Some(address) => log::info!("Attempting to connect to remote hostengine at {address}"),
        None => log::info!("Attempting to initialize DCGM."),
    }
}

pub fn stranger(address: &Address, owner: &Stranger) {
    let (found, fix) = owner.report(address);
    log::warn!(hint = fix; "{found}");
}

pub fn refused(address: &Address, error: &Error) {
    log::warn!(
        error = error.to_string();
        "{address} accepts connections but is not a usable DCGM host engine; using an embedded engine"
    );
}

pub fn unreachable(address: &str, error: &Error) {
    match address {
        "" => log::error!(
            error = error.to_string(),
            hint = format!("run dcgm-exporter --check on this node; {}", error.hint_of_start());
            "the embedded DCGM engine does not start; trying again"
        ),
        address => log::error!(
            address = address,
            error = error.to_string(),
            hint = "check that nv-hostengine runs there (systemctl status nvidia-dcgm) and that an IPv6 address is in brackets";
            "Failed to connect to remote hostengine; trying again"
        ),
    }
}

pub fn lost(error: &Error) {
    log::error!(error = error.to_string(); "Could not retrieve metrics: the DCGM engine is gone; connecting again");
}

/// Collections follow so many scrapers.
pub fn pace(scrapers: usize) {
    let how = if scrapers > 0 { "collecting just before each scrape" } else { "collecting at the interval" };
    log::info!(scrapers = scrapers; "{how}");
}

/// The configuration file or the counters file was read again.
pub fn reloaded(config: &Config, rows: usize, is_new: bool) {
    let file = config.counters_file().display().to_string();
    match &config.config_file {
        None => log::info!(file = file, rows = rows, changed = is_new; "the counters file was read again"),
        Some(settings) => log::info!(
            file = file,
            settings = settings.display().to_string(),
            rows = rows,
            collections = config.collections.len(),
            seconds = config.interval.as_secs_f64(),
            changed = is_new;
            "the configuration file and the counters were read again"
        ),
    }
}

/// The same, and it cannot be used.
pub fn not_reloaded(error: &str, config: &Config) {
    for line in error.lines() {
        log::error!("{line}");
    }
    let file = config.counters_file().display().to_string();
    match &config.config_file {
        None => log::error!(file = file; "the counters file cannot be used; the old rows stay in force"),
        Some(settings) => log::error!(
            file = settings.display().to_string();
            "the configuration file cannot be used; the old settings and rows stay in force"
        ),
    }
}

/// Whether there is another engine on the node beside the embedded one, and what that means on these GPUs.
pub fn neighbour(found: Option<&Address>, places: &[Address], oldest: Option<Architecture>) {
    let Some(address) = found else {
        let places: Vec<String> = places.iter().map(ToString::to_string).collect();
        log::info!("no other DCGM engine answers on this node (looked at {})", places.join(" and "));
        return;
    };
    match oldest {
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

pub fn inventory(inventory: &Inventory, counts: &[(Kind, usize)], hostname: &str) {
    for (kind, reason) in &inventory.absent {
        log::info!("Not collecting {} metrics; {reason}", kind.name());
    }
    for warning in &inventory.warnings {
        log::warn!("{warning}");
    }
    let counts: Vec<String> = counts.iter().map(|(kind, count)| format!("{}={count}", kind.name())).collect();
    log::info!(entities = counts.join(","), hostname = hostname; "entities found");
}

/// Profiling makes way for another profiler.
pub fn profiling_paused(gpus: &[u32], reason: &Reason, file: Option<&Path>) {
    let gpus = self::gpus(gpus);
    match reason {
        Reason::ByHand => {
            let file = file.unwrap_or(Path::new("")).display();
            log::info!("profiling fields are not watched on {gpus} until {file} is removed");
        }
        Reason::Job(job) => {
            log::info!(
                "profiling fields are not watched on {gpus} until job {job} ends: its file job.{job} has the line profiling=pause"
            );
        }
        Reason::JobElsewhere(job) => log::info!(
            hint = "a GPU whose generation cannot be read counts as older than Hopper";
            "profiling fields are not watched on {gpus} until job {job} ends: its file has the line profiling=pause, and \
             before Hopper a job that profiles on one GPU needs the profiling hardware of all"
        ),
        // The engine's reason is logged by itself.
        Reason::Refused => {}
    }
}

pub fn profiling_goes_on(gpus: &[u32]) {
    log::info!("profiling fields are watched again on {}", self::gpus(gpus));
}

pub fn profiling_refused(gpus: &[u32], error: &Error) {
    let fix = match error.kind {
        ErrorKind::NoRoom => "end other clients of the engine that hold groups",
        _ => "end the other profiler",
    };
    log::warn!(
        error = error.to_string(), fix = fix;
        "profiling fields cannot be watched again on {}; trying again at every collection", self::gpus(gpus)
    );
}

/// GPUs in words.
pub fn gpus(gpus: &[u32]) -> String {
    let ids: Vec<String> = gpus.iter().map(u32::to_string).collect();
    format!("{} {}", if ids.len() == 1 { "GPU" } else { "GPUs" }, ids.join(", "))
}

/// A name in the job map that no reported GPU or instance has.
pub fn unmatched(name: &str) {
    log::warn!(
        gpu = name,
        hint = "name a MIG instance as 0.7 or MIG-...; if gres.conf lists GPUs in another order than nvidia-smi, set \
                DCGM_JOB_MAP_GRES in /etc/dcgm-exporter/environment";
        "the job map names a GPU that is not reported, so no sample has that job"
    );
}

/// Where values of MIG instances come from, if not from the instances.
pub fn compute_instances(fields: &[u16], plan: &Plan) {
    if !fields.is_empty() {
        let names: Vec<&str> = fields.iter().flat_map(|field| plan.names_of(*field)).collect();
        log::info!("MIG instances have no value of {}; those of their compute instances are shown", names.join(", "));
    }
}

/// Rows of the counters file without samples: name and reason. Those with the same reason are one line.
pub fn skipped<'a>(rows: impl Iterator<Item = (&'a str, String)>) {
    let mut by_reason: Vec<(String, Vec<&str>)> = Vec::new();
    for (name, reason) in rows {
        match by_reason.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, names)) => names.push(name),
            None => by_reason.push((reason, vec![name])),
        }
    }
    for (reason, names) in by_reason {
        log::warn!("Skipping '{}': {reason}", names.join("', '"));
    }
}

/// Fields of the switch module that are no longer watched, and one that is again.
pub fn switch_fields(change: &Change, plan: &Plan) {
    let names = |field: u16| plan.names_of(field).collect::<Vec<&str>>().join("', '");
    skipped(change.dropped.iter().flat_map(|(kind, field)| {
        plan.names_of(*field).map(|name| (name, format!("no {} here has a sample of it", kind.name())))
    }));
    if let Some((kind, field)) = change.kept {
        log::info!("no longer skipping '{}' of {}: it has samples now", names(field), kind.name());
    }
}

/// Fields that no link of a GPU has, by the GPUs that lack the same.
pub fn unsupported_by_links(left_out: &[(u32, u16)], plan: &Plan) {
    let mut by_field: BTreeMap<u16, Vec<u32>> = BTreeMap::new();
    left_out.iter().for_each(|(gpu, field)| by_field.entry(*field).or_default().push(*gpu));
    let mut by_gpus: BTreeMap<Vec<u32>, Vec<u16>> = BTreeMap::new();
    by_field.into_iter().for_each(|(field, gpus)| by_gpus.entry(gpus).or_default().push(field));
    for (gpus, fields) in by_gpus {
        let names: Vec<&str> = fields.iter().flat_map(|field| plan.names_of(*field)).collect();
        let gpus = self::gpus(&gpus);
        log::info!("links of {gpus} do not have {}; asking again every 10 minutes", names.join(", "));
    }
}
