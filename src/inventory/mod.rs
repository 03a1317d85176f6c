//! Which GPUs, instances, switches, links, CPUs, cores and ConnectX adapters exist, and the labels that name them.
//!
//! - [`gpus`], [`instances`], [`links`], [`switches`], [`cpus`], [`connectx`]: how each kind is found.
//! - [`labels`]: how entities are named. [`hostname`]: the value of that label.
//! - [`known`]: what is remembered from one look to the next.
//! - [`architecture`]: the generation of GPUs. [`read`]: fields that are read once.
//!
//! Absence is normal: an x86 node has no CPU module, an H100 PCIe has no switch. What cannot be enumerated is left out
//! with the reason beside it, and leaves the other kinds alone. Samples are not known here.

pub mod architecture;
mod connectx;
mod cpus;
mod gpus;
pub mod hostname;
mod instances;
pub mod known;
pub mod labels;
mod links;
mod read;
mod switches;

use std::collections::HashSet;
use std::rc::Rc;

use crate::config::devices::{DeviceSelection, Selection};
use crate::dcgm::applies::Target;
pub use crate::dcgm::query::{ComputeInstance, MigInstance};
use crate::dcgm::{EntityGroup, EntityId, Error, ErrorKind, Result, Session};
use crate::jobs::gpu_name::GpuName;
pub use architecture::{architectures, oldest_architecture};
pub use known::Known;
pub use labels::{Labels, Naming};
pub use read::read_once;

/// The kinds of entity that samples are of, in the order of the page. GPU instances are of kind
/// GPU: they answer the same fields and take their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Gpu,
    Switch,
    /// A link of a GPU.
    GpuLink,
    /// A link of a switch.
    SwitchLink,
    Cpu,
    Core,
    ConnectX,
    /// A GPU that is reported by its instances, for what is only known of it as a whole.
    WholeGpu,
}

impl Kind {
    pub const ALL: [Kind; 8] = [
        Kind::Gpu,
        Kind::Switch,
        Kind::GpuLink,
        Kind::SwitchLink,
        Kind::Cpu,
        Kind::Core,
        Kind::ConnectX,
        Kind::WholeGpu,
    ];

    /// For logs and the exporter's own metrics; no two are the same.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Gpu => "GPU",
            Kind::Switch => "NvSwitch",
            Kind::GpuLink => "GPU NvLink",
            Kind::SwitchLink => "NvSwitch NvLink",
            Kind::Cpu => "CPU",
            Kind::Core => "CPU Core",
            Kind::ConnectX => "ConnectX",
            Kind::WholeGpu => "MIG parent",
        }
    }
}

impl From<Target> for Kind {
    fn from(target: Target) -> Kind {
        match target {
            Target::Gpu => Kind::Gpu,
            Target::Switch => Kind::Switch,
            Target::GpuLink => Kind::GpuLink,
            Target::SwitchLink => Kind::SwitchLink,
            Target::Cpu => Kind::Cpu,
            Target::Core => Kind::Core,
            Target::ConnectX => Kind::ConnectX,
        }
    }
}

/// One thing that samples are of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entity {
    pub id: EntityId,
    pub kind: Kind,
    /// No two entities of a kind have the same.
    pub labels: Labels,
    /// The GPU itself, an instance's, a link's.
    pub gpu: Option<u32>,
    /// The UUID of that GPU; empty where there is none.
    pub gpu_uuid: String,
    /// NVML's id of a GPU instance.
    pub gpu_instance: Option<u32>,
    /// Under which a job map may have it.
    pub names: Vec<GpuName>,
    /// Of an instance: its own UUID, empty if it is not known; else the GPU's.
    pub uuid: String,
}

impl Entity {
    /// A GPU or instance as nvidia-smi numbers it, for people.
    pub fn gpu_name(&self) -> String {
        let gpu = self.gpu.unwrap_or(self.id.id);
        match self.gpu_instance {
            Some(instance) => format!("GPU {gpu}, instance {instance}"),
            None => format!("GPU {gpu}"),
        }
    }

    /// The value of a label that names it.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// One that belongs to no GPU.
    fn of_node(group: EntityGroup, id: u32, kind: Kind, labels: Labels) -> Entity {
        Entity {
            id: EntityId::new(group, id),
            kind,
            labels,
            gpu: None,
            gpu_uuid: String::new(),
            gpu_instance: None,
            names: Vec::new(),
            uuid: String::new(),
        }
    }
}

/// What is here now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// By kind, and within it in the order of the page.
    pub entities: Vec<Entity>,
    /// Whole GPUs behind those entities, selected or not, by DCGM id.
    pub gpus: Vec<u32>,
    /// Instances of all GPUs, selected or not: where a GPU is reported as a whole, their XIDs are its own.
    pub instances: Vec<MigInstance>,
    /// Compute instances of all GPUs, selected or not. They are not reported, but XIDs of programs are stored under them.
    pub compute_instances: Vec<ComputeInstance>,
    /// Kinds of which nothing can be shown, with the reason.
    pub absent: Vec<(Kind, String)>,
    /// Rows ask for switches or links, and the engine has not loaded the module that serves them.
    pub lacks_switch_module: bool,
    /// Worth a warning: single entities that could not be read, listed numbers that do not exist.
    pub warnings: Vec<String>,
    /// There are GPUs, and the settings select none of them.
    pub nothing_selected: Option<String>,
}

impl Inventory {
    pub fn count(&self, kind: Kind) -> usize {
        self.entities.iter().filter(|entity| entity.kind == kind).count()
    }

    /// Every GPU that is reported, whole or by instances, ascending: index of its entity, and its id.
    pub fn reported_gpus(&self) -> Vec<(usize, u32)> {
        let whole = self.entities.iter().enumerate().filter(|(_, entity)| entity.id.group == EntityGroup::Gpu);
        let mut gpus: Vec<(usize, u32)> = whole.map(|(index, entity)| (index, entity.id.id)).collect();
        gpus.sort_by_key(|(_, gpu)| *gpu);
        gpus
    }

    /// Notes why there is nothing of a kind. Lets only a lost connection through.
    fn absence(&mut self, kind: Kind, error: Error) -> Result<()> {
        if error.is_connection_lost() {
            return Err(error);
        }
        self.lacks_switch_module |= kind != Kind::Cpu && error.kind == ErrorKind::ModuleNotLoaded;
        self.absent.push((kind, error.to_string()));
        Ok(())
    }

    /// A warning for each number that an option lists and that does not exist.
    fn warn_missing(&mut self, flag: &str, what: &str, selection: &Selection, present: &[u32]) {
        for id in selection.missing(present) {
            let known: Vec<String> = present.iter().map(u32::to_string).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            self.warnings.push(format!("{flag} lists {what} {id}, which does not exist (there are: {known})"));
        }
    }

    /// Two series with the same labels are one to Prometheus, which keeps either: the later entity is left out.
    fn drop_repeated(&mut self) {
        let mut seen: HashSet<(Kind, Labels)> = HashSet::new();
        let (mut kept, warnings) = (Vec::with_capacity(self.entities.len()), &mut self.warnings);
        for entity in self.entities.drain(..) {
            if seen.insert((entity.kind, entity.labels.clone())) {
                kept.push(entity);
            } else {
                let (kind, id) = (entity.kind.name(), entity.id.id);
                warnings
                    .push(format!("{kind} with entity id {id} has the same labels as another one, and is left out"));
            }
        }
        self.entities = kept;
    }
}

/// What to look for and how to name it.
#[derive(Debug, Clone)]
pub struct Scope {
    pub gpus: DeviceSelection,
    pub switches: DeviceSelection,
    pub cpus: DeviceSelection,
    /// Kinds that some row of the counters file could print a sample of; the others are not looked for.
    pub kinds: Vec<Kind>,
    /// Ask for minor numbers, too.
    pub minors: bool,
    pub names: Naming,
}

impl Scope {
    fn wants(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }
}

/// Which whole devices and which of their parts an option selects.
fn selections(option: &DeviceSelection) -> (Selection, Selection) {
    match option {
        DeviceSelection::Flex => (Selection::All, Selection::All),
        DeviceSelection::Listed { major, minor, .. } => (major.clone(), minor.clone()),
    }
}

/// Looks around. `known` is what earlier looks of this process have learnt; it is brought up to date.
///
/// Errors: only a lost connection; all else costs no more than what it is about.
pub fn discover(session: &Rc<Session>, scope: &Scope, known: &mut Known) -> Result<Inventory> {
    let mut inventory = Inventory::default();
    known.begin(session);
    let gpus = match gpus::survey(session, scope, known, &mut inventory) {
        Ok(gpus) => gpus,
        Err(error) => {
            inventory.absence(Kind::Gpu, error)?;
            Vec::new()
        }
    };
    inventory.gpus = gpus.iter().map(|gpu| gpu.id).collect();
    if scope.wants(Kind::Gpu) {
        gpus::add(session, scope, &gpus, known, &mut inventory)?;
    }
    if scope.wants(Kind::Switch) {
        let found = switches::add(session, scope, &mut inventory);
        found.or_else(|error| inventory.absence(Kind::Switch, error))?;
    }
    links::add(session, scope, &gpus, &mut inventory)?;
    if scope.wants(Kind::Cpu) || scope.wants(Kind::Core) {
        let found = cpus::add(session, scope, &mut inventory);
        found.or_else(|error| inventory.absence(Kind::Cpu, error))?;
    }
    if scope.wants(Kind::ConnectX) {
        let found = connectx::add(session, scope, &mut inventory);
        found.or_else(|error| inventory.absence(Kind::ConnectX, error))?;
    }
    if scope.wants(Kind::WholeGpu) {
        gpus::add_parents(&gpus, &scope.names, &mut inventory);
    }
    inventory.drop_repeated();
    for kind in scope.kinds.iter().filter(|kind| **kind != Kind::WholeGpu) {
        if inventory.count(*kind) == 0 && !inventory.absent.iter().any(|(absent, _)| absent == kind) {
            inventory.absent.push((*kind, "none found or none selected".to_owned()));
        }
    }
    Ok(inventory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_entities_have_the_same_labels() {
        let labels = |id: &str| vec![("gpu", id.to_owned())];
        let of = |id, kind, text| Entity::of_node(EntityGroup::Gpu, id, kind, labels(text));
        let mut inventory = Inventory {
            entities: vec![of(0, Kind::Gpu, "0"), of(1, Kind::Gpu, "0"), of(0, Kind::WholeGpu, "0")],
            ..Inventory::default()
        };
        inventory.drop_repeated();
        let left: Vec<(Kind, u32)> = inventory.entities.iter().map(|entity| (entity.kind, entity.id.id)).collect();
        assert_eq!(left, [(Kind::Gpu, 0), (Kind::WholeGpu, 0)]);
        assert_eq!(inventory.warnings.len(), 1);
    }

    #[test]
    fn names_of_kinds_are_different() {
        let names: HashSet<&str> = Kind::ALL.into_iter().map(Kind::name).collect();
        assert_eq!(names.len(), Kind::ALL.len());
    }
}
