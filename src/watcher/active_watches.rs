//! What is being watched now: the entities that are here, the watches on them, and the text of their samples.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::config::Config;
use crate::counters::Counters;
use crate::dcgm::modules::{self, Used};
use crate::dcgm::{Error, Library, Result, Session};
use crate::exposition::Exposition;
use crate::inventory::{self, Inventory, Kind, Known, Naming, Scope};
use crate::metrics::freshness::Judgement;
use crate::metrics::plan::Plan;
use crate::metrics::schedule::Schedule;
use crate::metrics::sources::{health, nvlink_links};
use crate::metrics::{Collector, Memory, ProfilingPause, profiling_support};

pub struct ActiveWatches {
    pub inventory: Inventory,
    pub plan: Plan,
    pub collector: Collector,
    pub exposition: Exposition,
    /// What does not answer or is not to be believed, as last judged.
    pub judgement: Judgement,
    /// Why profiling is not available, if it is not.
    pub profiling_refusal: Option<Error>,
    /// GPUs of which the engine has not said what profiling they support, with the reason: one that may pass, such as
    /// another profiler.
    pub untold: BTreeMap<u32, Error>,
}

impl ActiveWatches {
    /// Plans, watches and prepares the text for these entities. Profiling fields that are paused are not watched.
    ///
    /// Errors: as [`Collector::new`].
    pub fn new(
        session: &Rc<Session>,
        counters: &Counters,
        inventory: Inventory,
        memory: &mut Memory,
        schedule: Schedule,
        pause: &ProfilingPause,
    ) -> Result<ActiveWatches> {
        let (mut profiling_refusal, mut untold) = (None, BTreeMap::new());
        let profiling = profiling_support(session, &inventory.gpus, |gpu, error| {
            if !error.is_absence() {
                untold.insert(gpu, error.clone());
            }
            profiling_refusal = Some(error);
        })?;
        let mut plan = Plan::new(counters, session.library(), profiling);
        plan.pause = pause.clone();
        let collector = Collector::new(session, &plan, &inventory, schedule, memory)?;
        let exposition = Exposition::new(&plan, &inventory);
        let judgement = Judgement::default();
        Ok(ActiveWatches { inventory, plan, collector, exposition, judgement, profiling_refusal, untold })
    }

    /// Asks again what profiling is supported by the GPUs that are `wanted` and untold. Returns whether one has told it:
    /// then everything is to be planned anew.
    ///
    /// Errors: only a lost connection.
    pub fn ask_for_support(&mut self, session: &Session, wanted: impl Fn(u32) -> bool) -> Result<bool> {
        let gpus: Vec<u32> = self.untold.keys().copied().filter(|gpu| wanted(*gpu)).collect();
        let told = profiling_support(session, &gpus, |gpu, error| match error.is_absence() {
            true => _ = self.untold.remove(&gpu),
            false => _ = self.untold.insert(gpu, error),
        })?;
        Ok(!told.is_empty())
    }

    /// Pauses profiling and ends pauses as `pause` says now. GPUs that the engine refuses to watch again stay paused, and
    /// are returned with the reason.
    ///
    /// Errors: only a lost connection.
    pub fn pause_profiling(
        &mut self,
        pause: &mut ProfilingPause,
        memory: &mut Memory,
        now: i64,
    ) -> Result<Vec<(u32, Error)>> {
        let before = std::mem::replace(&mut self.plan.pause, pause.clone());
        let refused = self.collector.pause_profiling(&self.plan, &self.inventory, &before, memory)?;
        if !refused.is_empty() {
            let stay = refused.iter().map(|(gpu, _)| *gpu);
            pause.set(&pause.gpus().chain(stay).collect(), now);
            self.plan.pause = pause.clone();
            self.collector.table.pause(pause, &self.inventory);
        }
        Ok(refused)
    }
}

/// Looks for entities that rows of the counters file can have samples of.
pub fn discover(
    session: &Rc<Session>,
    config: &Config,
    counters: &Counters,
    hostname: &str,
    known: &mut Known,
) -> Result<Inventory> {
    let mut kinds = Plan::kinds(counters, session.library());
    // XID errors of a whole GPU are counted beside those of its instances.
    if config.exporter_metrics && kinds.contains(&Kind::Gpu) && !kinds.contains(&Kind::WholeGpu) {
        kinds.push(Kind::WholeGpu);
    }
    let scope = Scope {
        gpus: config.gpus.clone(),
        switches: config.switches.clone(),
        cpus: config.cpus.clone(),
        kinds,
        minors: config.job_map.is_some(),
        names: Naming {
            old_namespace: config.old_namespace,
            hostname_label: config.hostname_label,
            hostname: hostname.to_owned(),
            replace_blanks_in_model_name: config.replace_blanks_in_model_name,
            fake_gpus: config.fake_gpus,
            cpu_serials: config.extended_labels,
        },
    };
    inventory::discover(session, &scope, known)
}

/// Modules that no row of the counters file asks for. Each one loaded costs threads, memory and wake-ups.
pub fn unneeded_modules(counters: &Counters, library: &Library) -> Vec<u32> {
    let kinds = Plan::kinds(counters, library);
    let any = |wanted: &[Kind]| kinds.iter().any(|kind| wanted.contains(kind));
    let used = Used {
        health: counters.wants(health::STATUS),
        switches: counters.wants(nvlink_links::LINKS)
            || any(&[Kind::Switch, Kind::GpuLink, Kind::SwitchLink, Kind::ConnectX]),
        cpus: any(&[Kind::Cpu, Kind::Core]),
    };
    modules::unneeded(library.major(), used)
}
