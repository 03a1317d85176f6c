//! What is being watched now: the entities that are here, the watches on them, and the text they come to.

use std::rc::Rc;
use std::time::Duration;

use crate::config::Config;
use crate::counters::{Computed, Counters};
use crate::dcgm::modules::{self, Used};
use crate::dcgm::{Error, Library, Result, Session};
use crate::exposition::Exposition;
use crate::inventory::{self, Entity, Inventory, Kind, Known, Naming, Scope};
use crate::metrics::computed::Events;
use crate::metrics::freshness::Judgement;
use crate::metrics::plan::Plan;
use crate::metrics::{Collector, Grouping, profiling_support};

pub struct Scene {
    pub inventory: Inventory,
    pub plan: Plan,
    pub collector: Collector,
    pub exposition: Exposition,
    /// What does not answer or is not to be believed, as last judged.
    pub judgement: Judgement,
    /// Modules that the embedded engine was told not to load.
    pub denied: Vec<u32>,
    /// Why profiling is not available, if it is not.
    pub profiling_refusal: Option<Error>,
}

impl Scene {
    /// Plans, watches and prepares the text for these entities.
    ///
    /// Errors: as [`Collector::new`].
    pub fn set(
        session: &Rc<Session>,
        counters: &Counters,
        inventory: Inventory,
        events: &Events,
        pace: Duration,
        grouping: Grouping,
    ) -> Result<Scene> {
        let mut profiling_refusal = None;
        let profiling = profiling_support(session, &inventory.gpus, |_, error| profiling_refusal = Some(error))?;
        let plan = Plan::new(counters, session.library(), profiling);
        let collector = Collector::new(session, &plan, &inventory, pace, events, grouping)?;
        let exposition = Exposition::new(&plan, &inventory);
        let (judgement, denied) = (Judgement::default(), unneeded_modules(counters, session.library()));
        Ok(Scene { inventory, plan, collector, exposition, judgement, denied, profiling_refusal })
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
    let scope = Scope {
        gpus: config.gpus.clone(),
        switches: config.switches.clone(),
        cpus: config.cpus.clone(),
        kinds: Plan::kinds(counters, session.library()),
        minors: config.job_map.is_some(),
        names: Naming {
            old_namespace: config.old_namespace,
            hostname_label: config.hostname_label,
            hostname: hostname.to_owned(),
            replace_blanks_in_model_name: config.replace_blanks_in_model_name,
            fake_gpus: config.fake_gpus,
        },
    };
    inventory::discover(session, &scope, known)
}

/// Modules that no row of the counters file asks for. Each one loaded costs threads, memory and wake-ups.
pub fn unneeded_modules(counters: &Counters, library: &Library) -> Vec<u32> {
    let kinds = Plan::kinds(counters, library);
    let any = |wanted: &[Kind]| kinds.iter().any(|kind| wanted.contains(kind));
    let used = Used {
        health: counters.wants(Computed::GpuHealthStatus),
        switches: any(&[Kind::Switch, Kind::GpuLink, Kind::SwitchLink, Kind::ConnectX]),
        cpus: any(&[Kind::Cpu, Kind::Core]),
    };
    modules::unneeded(library.major(), used)
}

/// GPUs that were here and are not now, with their last known identity.
#[derive(Default)]
pub struct Gone {
    known: Vec<Entity>,
    pub gone: Vec<Entity>,
}

impl Gone {
    /// Compares what is here with what was.
    pub fn update(&mut self, inventory: &Inventory) {
        let here = |entity: &Entity| entity.gpu.is_some_and(|gpu| inventory.gpus.contains(&gpu));
        let was_here = std::mem::take(&mut self.known).into_iter().chain(std::mem::take(&mut self.gone));
        let (_, gone): (Vec<Entity>, Vec<Entity>) = was_here.partition(here);
        self.gone = gone;
        self.known = inventory.entities.iter().filter(|entity| entity.kind == Kind::Gpu).cloned().collect();
    }
}
