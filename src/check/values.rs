//! What `--check` asks of DCGM about values: which profiling fields GPUs support, which rows of the counters file have
//! values, and whether the values change.
//!
//! Profiling fields are never watched here: before Hopper the watch would take the hardware from the process that has
//! it.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use super::engine::Asker;
use super::gpus::models;
use crate::counters::{Counters, MetricType, Source, is_profiling};
use crate::dcgm::Session;
use crate::inventory::{Inventory, Kind};
use crate::jobs;
use crate::metrics::fatal_xid;
use crate::metrics::freshness::is_evidence;
use crate::metrics::number::Number;
use crate::metrics::plan::{FIELD_XID, MetricSource, Plan};
use crate::metrics::table::Table;
use crate::metrics::{Collector, Memory, Windows, profiling_support};
use crate::system::switch_file::{self, Switch};
use crate::watcher::microseconds;

/// Time between the two readings that show whether values change.
const PACE: Duration = Duration::from_millis(300);

impl Asker {
    /// Profiling fields that GPUs support, by GPU.
    pub(super) fn profiling(&self, session: &Session, inventory: &Inventory) -> HashMap<u32, Vec<u16>> {
        const QUESTION: &str = "profiling";
        let wanted: Vec<(&str, u16)> = profiling_rows(&self.counters).collect();
        let mut refused = Vec::new();
        let supported = profiling_support(session, &inventory.gpus, |gpu, error| refused.push((gpu, error)));
        let supported = match supported {
            Ok(supported) => supported,
            Err(error) => {
                self.fail(QUESTION, error.to_string(), "the engine ended during the check; try again");
                return HashMap::new();
            }
        };
        if wanted.is_empty() {
            self.ok(QUESTION, "not used: the counters file has no profiling fields");
            return supported;
        }
        self.pauses(QUESTION);
        let fix = "check as root; before Hopper DCGM needs its profiling module (package \
                   datacenter-gpu-manager-4-proprietary); MIG, vGPU and other profilers can prevent profiling";
        for (gpu, error) in &refused {
            self.warn(QUESTION, format!("GPU {gpu} does not support it: {error}"), fix);
        }
        for (gpu, fields) in &supported {
            let missing: Vec<&str> =
                wanted.iter().filter(|(_, id)| !fields.contains(id)).map(|(name, _)| *name).collect();
            if !missing.is_empty() {
                self.warn(
                    QUESTION,
                    format!("GPU {gpu} does not have {}", missing.join(", ")),
                    "remove them from the counters file",
                );
            }
        }
        if !supported.is_empty() {
            self.ok(QUESTION, format!("{} of {} GPUs support it", supported.len(), inventory.gpus.len()));
        }
        supported
    }

    /// Why a running exporter has no samples of profiling fields, although they are supported.
    fn pauses(&self, question: &'static str) {
        if let Some(file) = &self.config.pause_profiling {
            match switch_file::look(file) {
                Switch::Off => {}
                Switch::On => {
                    let file = file.display();
                    self.warn(question, format!("paused on all GPUs, because {file} exists"), format!("rm {file}"));
                }
                Switch::Refused(why) => {
                    self.warn(
                        question,
                        format!("the file that pauses profiling is ignored: {why}"),
                        "let only root write there, or remove the file",
                    );
                }
            }
        }
        let Some(directory) = &self.config.job_map else { return };
        let map = jobs::scan(directory, self.config.job_map_trust, &self.config.job_map_idle).map;
        let pausing: Vec<&str> = map.pausing_jobs().collect();
        if !pausing.is_empty() {
            self.ok(question, format!("paused on some or all GPUs until these jobs end: {}", pausing.join(", ")));
        }
    }

    /// Watches everything but profiling for a moment: which fields have values, and whether these change.
    pub(super) fn samples(&self, session: &Rc<Session>, inventory: &Inventory, profiling: &HashMap<u32, Vec<u16>>) {
        const QUESTION: &str = "samples";
        let plan = Plan::new(&self.counters, session.library(), HashMap::new());
        let windows = Windows { xid: self.config.xid_window, clock_events: self.config.clock_events_window };
        let mut memory = Memory::new(microseconds(), windows);
        let collector = Collector::new(session, &plan, inventory, PACE, &mut memory);
        let mut collector = match collector {
            Ok(collector) => collector,
            Err(error) => {
                return self.fail(QUESTION, format!("nothing can be watched: {error}"), "see the engine's log");
            }
        };
        for problem in &collector.problems {
            self.warn(QUESTION, problem.clone(), "remove the metric from the counters file");
        }
        if let Some(error) = collector.no_room.first() {
            let found = format!("{} watches are missing: {error}", collector.no_room.len());
            self.fail(QUESTION, found, "other clients hold the engine's groups: dcgmi group -l, dcgmi fieldgroup -l");
        }
        let mut stamps = Vec::new();
        for look in 0..2 {
            if look > 0 {
                std::thread::sleep(PACE + PACE / 3);
            }
            match collector.collect(inventory, &mut memory, microseconds()) {
                Ok(outcome) => {
                    let mut errors: Vec<String> = outcome.errors.iter().map(ToString::to_string).collect();
                    errors.dedup();
                    for error in errors.into_iter().filter(|_| look > 0) {
                        self.fail(QUESTION, error, "see dmesg | grep -i -e nvrm -e xid, and the engine's log");
                    }
                }
                Err(error) => {
                    return self.fail(QUESTION, error.to_string(), "the engine ended during the check; try again");
                }
            }
            collector.table.settle_labels();
            stamps.push(newest_stamps(&collector.table, inventory));
        }
        match collector.gpus_with_fatal_xid() {
            Ok(gpus) if !gpus.is_empty() && stamps[1].iter().all(|seen| !matches!(seen, Seen::At(_))) => {
                for gpu in gpus {
                    let found = fatal_xid::sentence(gpu, &inventory.entities);
                    self.fail(
                        QUESTION,
                        found,
                        "reset the GPU (nvidia-smi -r) or reboot the node, then restart the engine",
                    );
                }
                return;
            }
            Ok(_) => {}
            Err(error) => {
                return self.fail(QUESTION, error.to_string(), "the engine ended during the check; try again");
            }
        }
        let before = &stamps[0];
        for (index, entity) in inventory.entities.iter().enumerate().filter(|(_, entity)| entity.kind == Kind::Gpu) {
            let what = match (before[index], stamps[1][index]) {
                (_, Seen::NotAsked) => continue,
                (_, Seen::Nothing) => "none of its fields has a value",
                (Seen::At(first), Seen::At(second)) if second <= first => "its values do not change",
                _ => continue,
            };
            self.fail(QUESTION, format!("{} ({}): {what}", entity.gpu_name(), entity.uuid), "see nvidia-smi and dmesg");
        }
        let moving = stamps[1].iter().filter(|seen| matches!(seen, Seen::At(_))).count();
        let found = format!("{moving} of {} entities have values", inventory.entities.len());
        match moving > 0 || stamps[1].iter().all(|seen| *seen == Seen::NotAsked) {
            true => self.ok(QUESTION, found),
            false => self.fail(QUESTION, found, "see nvidia-smi and dmesg"),
        }
        self.rows(&plan, &collector, inventory, profiling);
        if let Err(error) = self.instances(session, &plan, &collector, inventory) {
            self.warn("MIG instances", format!("the whole GPUs cannot be asked: {error}"), "see the engine's log");
        }
    }

    /// Which rows of the counters file have no value on which model.
    pub(super) fn rows(
        &self,
        plan: &Plan,
        collector: &Collector,
        inventory: &Inventory,
        profiling: &HashMap<u32, Vec<u16>>,
    ) {
        const QUESTION: &str = "counters";
        let of_profiling: Vec<(&str, u16)> = profiling_rows(&self.counters).collect();
        for (name, reason) in
            plan.skipped.iter().filter(|(name, _)| !of_profiling.iter().any(|(known, _)| known == name))
        {
            self.warn(
                QUESTION,
                format!("{name}: {reason}"),
                "remove it from the counters file, or install a newer DCGM",
            );
        }
        for (field, error) in &collector.refused {
            let names: Vec<&str> = plan.names_of(*field).collect();
            let found = format!("{}: the engine does not watch field {field}: {error}", names.join(", "));
            self.warn(QUESTION, found, "remove it from the counters file");
        }
        for (model, entities) in models(inventory) {
            let has_value = |source: &MetricSource| match source {
                MetricSource::Computed(_) => true,
                // Without an XID error there is none to show.
                MetricSource::Field(asked) if asked.id == FIELD_XID => true,
                MetricSource::Field(asked) => {
                    entities.iter().any(|entity| collector.table.number(*entity, *asked) != Number::Blank)
                }
            };
            let metrics: Vec<(&str, bool)> = plan
                .metrics
                .iter()
                .filter(|metric| metric.kinds.contains(&Kind::Gpu))
                .map(|metric| (metric.name.as_str(), has_value(&metric.source)))
                .collect();
            let is_shown = |name: &str| {
                entities.iter().any(|entity| collector.table.labels(*entity).any(|(known, _)| known == name))
            };
            let labels = plan.labels.iter().filter(|label| label.kinds.contains(&Kind::Gpu));
            let labels = labels.map(|label| (label.name.as_str(), is_shown(&label.name)));
            let gpu_of = |entity: &usize| inventory.entities[*entity].gpu;
            let has_profiling = |id: &u16| {
                entities.iter().filter_map(gpu_of).any(|gpu| profiling.get(&gpu).is_some_and(|ids| ids.contains(id)))
            };
            let profiled = of_profiling.iter().map(|(name, id)| (*name, has_profiling(id)));
            let all: Vec<(&str, bool)> = metrics.into_iter().chain(labels).chain(profiled).collect();
            let missing: Vec<&str> = all.iter().filter(|(_, has)| !has).map(|(name, _)| *name).collect();
            let found = format!("{} of {} rows have values on {model}", all.len() - missing.len(), all.len());
            let is_left_out = |name: &&str| {
                plan.metrics.iter().any(|metric| metric.name == **name && is_not_everywhere(&metric.source))
            };
            match missing[..] {
                [] => self.ok(QUESTION, found),
                _ if missing.iter().all(is_left_out) => {
                    let names = missing.join(", ");
                    self.ok(QUESTION, format!("{found}; none for {names}, which not every generation of GPUs has"));
                }
                _ => self.warn(
                    QUESTION,
                    format!("{found}; none for {}", missing.join(", ")),
                    "this model, its driver or its configuration does not provide them; they can be removed from the counters file",
                ),
            }
        }
    }
}

/// Fields in counters files that are shipped for all generations, of which an H200 has no value: the fabric manager's error,
/// single-bit errors, retired pages, sums over links by older and by newer registers, and a flag of Blackwell's.
const NOT_EVERYWHERE: [u16; 14] = [171, 310, 390, 391, 392, 409, 419, 429, 439, 449, 497, 498, 499, 1507];

fn is_not_everywhere(source: &MetricSource) -> bool {
    matches!(source, MetricSource::Field(asked) if NOT_EVERYWHERE.contains(&asked.id))
}

/// Rows of the counters file that ask for profiling fields, with their ids.
fn profiling_rows(counters: &Counters) -> impl Iterator<Item = (&str, u16)> {
    counters.rows.iter().filter_map(|row| match row.source {
        Source::Field(field) if is_profiling(field.id) && row.kind != MetricType::Label => {
            Some((row.name.as_str(), field.id))
        }
        _ => None,
    })
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Seen {
    NotAsked,
    Nothing,
    /// The newest time stamp, in microseconds since 1970.
    At(i64),
}

fn newest_stamps(table: &Table, inventory: &Inventory) -> Vec<Seen> {
    let newest = |index: usize| {
        let cells: Vec<_> = table.cells(index).filter(|(field, ..)| is_evidence(*field)).collect();
        let with_value = cells.iter().filter(|(_, number, _)| *number != Number::Blank);
        match (cells.is_empty(), with_value.map(|(.., stamp)| *stamp).max()) {
            (true, _) => Seen::NotAsked,
            (false, None) => Seen::Nothing,
            (false, Some(stamp)) => Seen::At(stamp),
        }
    };
    (0..inventory.entities.len()).map(newest).collect()
}
