//! `--list-fields`: the names that a counters file may have, and whether this library and these GPUs have them.
//!
//! GPUs are asked through a session of its own, which takes its groups and watches along when it ends. Profiling fields
//! are not watched, because before Hopper the watch would take the hardware from the process that has it: DCGM's list of
//! them says what a GPU supports.

use std::collections::HashMap;
use std::fmt::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::config::glob::Pattern;
use crate::counters::{Counters, is_profiling};
use crate::dcgm::applies::{Target, targets};
use crate::dcgm::fields::{self, Field, Listed, ValueType};
use crate::dcgm::watch::Keep;
use crate::dcgm::{EntityGroup, EntityId, Error, Library, inflight, process};
use crate::engine::Opener;
use crate::metrics::profiling_support;
use crate::metrics::schedule::Schedule;
use crate::metrics::watches::{FieldGroups, Watcher};
use crate::watcher::active_watches;

/// All questions together. A call that has not returned for as long hangs.
const LIMIT: Duration = Duration::from_secs(15);
/// Fields that are watched together: few enough that a slow driver answers some before the time is over.
const TOGETHER: usize = 32;
/// Of watches that are sampled once, by a call.
const INTERVAL: Duration = Duration::from_secs(1);

/// What the GPUs answer, by field id; `Err` says why nothing is known of the fields that have no answer.
#[derive(Default)]
pub struct OnGpus {
    answers: HashMap<u16, &'static str>,
    pub unknown: Option<String>,
    /// A call has not returned and may never do so: the process has to exit at once.
    pub hung: bool,
}

/// Asks the engine that the exporter would use whether its GPUs have the listed fields that GPUs can have.
pub fn ask(pattern: &str, library: &Arc<Library>, config: &Config) -> OnGpus {
    let candidates: Vec<u16> = fields::all()
        .filter(|listed| matches(pattern, listed.field.name))
        .filter_map(|listed| available(&listed.field, library).0)
        .filter(|id| is_of_gpus(*id, library))
        .collect();
    let mut on_gpus = OnGpus::default();
    let (tell, told) = channel();
    let (library, config, end) = (library.clone(), config.clone(), Instant::now() + LIMIT);
    let spawned = std::thread::Builder::new().name("fields".to_owned()).stack_size(process::STACK).spawn(move || {
        if let Err(error) = ask_engine(&candidates, &library, &config, end, &tell) {
            // Nobody listens any more if it took too long.
            let _ = tell.send(Err(error));
        }
    });
    if let Err(error) = spawned {
        on_gpus.unknown = Some(format!("no thread can be started: {error}"));
        return on_gpus;
    }
    loop {
        match told.recv_timeout(Duration::from_millis(50)) {
            Ok(Ok((id, answer))) => _ = on_gpus.answers.insert(id, answer),
            Ok(Err(error)) => on_gpus.unknown = Some(error),
            Err(RecvTimeoutError::Disconnected) => return on_gpus,
            Err(RecvTimeoutError::Timeout) => {
                if let Some((call, _)) = inflight::current().filter(|(_, since)| since.elapsed() > LIMIT) {
                    let seconds = LIMIT.as_secs();
                    on_gpus.unknown =
                        Some(format!("{call} has not returned for {seconds} s: the driver or the engine hangs"));
                    on_gpus.hung = true;
                    return on_gpus;
                }
            }
        }
    }
}

type Told = Result<(u16, &'static str), String>;

/// Errors: why the fields that were not told of are not known.
fn ask_engine(
    candidates: &[u16],
    library: &Arc<Library>,
    config: &Config,
    end: Instant,
    tell: &Sender<Told>,
) -> Result<(), String> {
    let mut opener = Opener::new(library.clone(), config);
    let mut tried = None;
    let unneeded = active_watches::unneeded_modules(&Counters::default(), library);
    let opened = opener.open(unneeded, |address| tried = address.cloned());
    for (address, owner) in opener.chooser.take_new_strangers() {
        eprintln!("{}", owner.report(&address).0);
    }
    let session = match (opened, tried) {
        (Ok(opened), _) => opened.session,
        (Err(error), Some(address)) => return Err(format!("no host engine answers at {address}: {error}")),
        (Err(error), None) => return Err(format!("an embedded engine does not start: {error}")),
    };
    let session = Rc::new(session);
    let failed = |error: Error| error.to_string();
    let gpus = session.supported_entities(EntityGroup::Gpu).map_err(failed)?;
    if gpus.is_empty() {
        return Err("the engine has no GPU".to_owned());
    }
    let mut refusal = None;
    let profiling = profiling_support(&session, &gpus, |_, error| refusal = Some(error)).map_err(failed)?;
    let (of_profiling, others): (Vec<u16>, Vec<u16>) = candidates.iter().copied().partition(|id| is_profiling(*id));
    let tell = |id: u16, answer| _ = tell.send(Ok((id, answer)));
    // Where no GPU lists any, it may be the user who lacks a permission.
    if refusal.is_none() || !profiling.is_empty() {
        for id in of_profiling {
            tell(id, if profiling.values().any(|fields| fields.contains(&id)) { "yes" } else { "no" });
        }
    }
    let gpus: Vec<EntityId> = gpus.into_iter().map(|gpu| EntityId::new(EntityGroup::Gpu, gpu)).collect();
    for some in others.chunks(TOGETHER) {
        if Instant::now() >= end {
            return Err(format!("not all fields could be read within {} s", LIMIT.as_secs()));
        }
        let mut best: HashMap<u16, &'static str> = HashMap::new();
        let mut field_groups = FieldGroups::default();
        let mut watcher =
            Watcher::new(&session, Schedule::new(INTERVAL, None).of(None), Keep::Latest, &mut field_groups);
        watcher.watch(&gpus, some).map_err(failed)?;
        if let Some(error) = watcher.no_room.first() {
            return Err(error.to_string());
        }
        session.update_all_fields().map_err(failed)?;
        for watch in &watcher.watches {
            let read = watch.latest(&mut |_, reading| {
                let answer = match reading.value.is_blank() {
                    true if reading.has_no_data() => "no data",
                    true => "no",
                    false => "yes",
                };
                // Of several GPUs the one that has most.
                let known = best.entry(reading.field).or_insert(answer);
                if answer == "yes" || *known == "no" {
                    *known = answer;
                }
            });
            read.map_err(failed)?;
        }
        for &id in some {
            let is_refused = watcher.refused.iter().any(|(refused, _)| *refused == id);
            if let Some(answer) = best.get(&id).copied().or(is_refused.then_some("no")) {
                tell(id, answer);
            }
        }
    }
    match refusal {
        Some(error) if profiling.is_empty() => Err(format!("profiling fields: {error}")),
        _ => Ok(()),
    }
}

/// The id that the library has for a field, and how it has it.
fn available(field: &Field, library: &Library) -> (Option<u16>, &'static str) {
    let has = |id: u16| library.field(id).is_some();
    match field.classic {
        _ if has(field.id) => (Some(field.id), "yes"),
        Some(classic) if has(classic.id) => (Some(classic.id), "converted"),
        _ => (None, "no"),
    }
}

fn is_of_gpus(id: u16, library: &Library) -> bool {
    library.field(id).is_some_and(|info| targets(id, info.entity_level).contains(&Target::Gpu))
}

/// A table of the fields whose name has `pattern` in it, in any case; `*` and `?` in the pattern stand for any text and
/// for any character, and it is then the whole name. An empty pattern is all of them. Without a library its column says
/// `?`.
///
/// The column GPU: `yes` where a GPU has a value, `no data` where none has had one so far, `no`, `unknown`, and `-` for
/// what is not of GPUs.
pub fn list(pattern: &str, library: Option<&Library>, on_gpus: &OnGpus) -> String {
    let mut text =
        format!("{:<66} {:>5} {:<7} {:<8} {:<17} {:<9} {}\n", "NAME", "ID", "TYPE", "UNIT", "ENTITY", "LIBRARY", "GPU");
    for listed in fields::all().filter(|listed| matches(pattern, listed.field.name)) {
        let Listed { field, entity } = listed;
        let value_type = match field.value_type {
            ValueType::Int64 => "int64",
            ValueType::Double => "double",
            ValueType::Text => "text",
            ValueType::Binary => "binary",
            ValueType::None => continue,
        };
        let (id, availability) = library.map_or((None, "?"), |library| available(&field, library));
        let on_gpu = match (id, library) {
            (Some(id), Some(library)) if is_of_gpus(id, library) => {
                on_gpus.answers.get(&id).copied().unwrap_or("unknown")
            }
            (Some(_), _) => "-",
            (None, Some(_)) => "no",
            (None, None) => "unknown",
        };
        let unit = fields::unit(&field).unwrap_or("-");
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:<66} {:>5} {value_type:<7} {unit:<8} {entity:<17} {availability:<9} {on_gpu}",
            field.name, field.id
        );
    }
    text
}

/// Whether there is any such field.
pub fn has(pattern: &str) -> bool {
    fields::all().any(|listed| matches(pattern, listed.field.name))
}

/// A text without wildcards may be any part of the name.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.to_ascii_uppercase(), name.to_ascii_uppercase());
    match Pattern::parse(&pattern) {
        Ok(wildcards) if pattern.contains(['*', '?']) => wildcards.matches(&name),
        _ => name.contains(&pattern),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("", "ANY", true),
            ("gpu_temp", "DCGM_FI_DEV_GPU_TEMP", true),
            ("TEMP_GPU", "DCGM_FI_DEV_GPU_TEMP", false),
            ("*GPU_TEMP", "DCGM_FI_DEV_GPU_TEMP", true),
            ("*GPU_TEMP", "DCGM_FI_DEV_GPU_TEMP_LIMIT", false),
            ("DCGM*GPU*", "DCGM_FI_DEV_GPU_TEMP", true),
            ("DCGM_FI_DEV_GPU_TEM?", "DCGM_FI_DEV_GPU_TEMP", true),
            ("?", "", false),
            ("a*b*c", "axbxbxc", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
