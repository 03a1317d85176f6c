//! Which GPUs, instances, switches, links, CPUs, cores and ConnectX adapters exist, and the labels that name them.
//!
//! Absence is normal: an x86 node has no CPU module, an H100 PCIe has no switch. What cannot be enumerated is left out
//! with the reason beside it, and leaves the other kinds alone. Samples are not known here.

pub mod hostname;

use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use crate::config::devices::{DeviceSelection, Selection};
use crate::dcgm::query::{LinkStates, MigInstance};
use crate::dcgm::watch::{FieldGroup, Group, Keep};
use crate::dcgm::{EntityGroup, EntityId, Error, Result, Session, Value, Watch};
use crate::jobs::gpu_name::{GpuName, PciAddress};

/// DCGM field 50 on an instance is its profile, such as `1g.18gb`.
const FIELD_NAME: u16 = 50;
/// DCGM field 54 on an instance is its `MIG-...` UUID.
const FIELD_UUID: u16 = 54;
/// DCGM field 63: CUDA compute capability, major in the upper half and minor in the lower.
const FIELD_COMPUTE_CAPABILITY: u16 = 63;
/// DCGM field 55 is N of `/dev/nvidiaN`.
const FIELD_MINOR: u16 = 55;
const LINK_UP: u32 = 3;

/// The kinds of entity that samples are of, in the order in which they stand on the page. GPU instances are of kind
/// GPU: they answer the same fields and take their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Gpu,
    Switch,
    Link,
    Cpu,
    Core,
    ConnectX,
    /// A GPU that is reported by its instances, for what is only known of it as a whole.
    WholeGpu,
}

impl Kind {
    pub const ALL: [Kind; 7] =
        [Kind::Gpu, Kind::Switch, Kind::Link, Kind::Cpu, Kind::Core, Kind::ConnectX, Kind::WholeGpu];

    /// For logs and the exporter's own metrics.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Gpu => "GPU",
            Kind::Switch => "NvSwitch",
            Kind::Link => "NvLink",
            Kind::Cpu => "CPU",
            Kind::Core => "CPU Core",
            Kind::ConnectX => "ConnectX",
            Kind::WholeGpu => "MIG parent",
        }
    }
}

/// One thing that samples are of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entity {
    pub id: EntityId,
    pub kind: Kind,
    /// In the order of the page; none is empty.
    pub labels: Vec<(&'static str, String)>,
    /// The GPU itself, an instance's, a link's.
    pub gpu: Option<u32>,
    /// NVML's id of a GPU instance.
    pub gpu_instance: Option<u32>,
    /// Under which a job map may have it.
    pub names: Vec<GpuName>,
    /// Of an instance: its own UUID; else the GPU's.
    pub uuid: String,
}

/// What is here now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// By kind, and within it in the order of the page.
    pub entities: Vec<Entity>,
    /// Whole GPUs behind those entities, selected or not, by DCGM id.
    pub gpus: Vec<u32>,
    /// MIG compute instances: DCGM's entity id of each, and that of its GPU instance.
    pub compute_instances: Vec<(u32, u32)>,
    /// Kinds of which nothing can be shown, with the reason.
    pub absent: Vec<(Kind, String)>,
    /// Worth a warning: single entities that could not be read, listed numbers that do not exist.
    pub warnings: Vec<String>,
}

impl Inventory {
    pub fn count(&self, kind: Kind) -> usize {
        self.entities.iter().filter(|entity| entity.kind == kind).count()
    }

    /// Every GPU that is reported, whole or by instances, ascending: index of the entity that stands for it, and its id.
    pub fn reported_gpus(&self) -> Vec<(usize, u32)> {
        let whole = self.entities.iter().enumerate().filter(|(_, entity)| entity.id.group == EntityGroup::Gpu);
        let mut gpus: Vec<(usize, u32)> = whole.map(|(index, entity)| (index, entity.id.id)).collect();
        gpus.sort_by_key(|(_, gpu)| *gpu);
        gpus
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

/// How entities are labelled.
#[derive(Debug, Clone)]
pub struct Naming {
    pub old_namespace: bool,
    pub hostname_label: &'static str,
    /// Empty leaves the label out.
    pub hostname: String,
    pub replace_blanks_in_model_name: bool,
    pub fake_gpus: bool,
}

/// A whole GPU's identity.
#[derive(Debug, Clone)]
struct Gpu {
    id: u32,
    uuid: String,
    model: String,
    pci_bus_id: String,
    minor: Option<u32>,
}

impl Gpu {
    fn names(&self) -> Vec<GpuName> {
        let pci = PciAddress::parse(&self.pci_bus_id).map(GpuName::Pci);
        let others = [GpuName::uuid(&self.uuid), pci, self.minor.map(GpuName::Minor)];
        std::iter::once(GpuName::Index(self.id)).chain(others.into_iter().flatten()).collect()
    }
}

/// Minor numbers of GPUs by UUID, `None` for one that does not tell. They do not change while the driver is loaded, and
/// asking for them takes a watch.
pub type Minors = HashMap<String, Option<u32>>;

/// Looks around.
///
/// Errors: only a lost connection; all else costs no more than what it is about.
pub fn discover(session: &Rc<Session>, scope: &Scope, minors: &mut Minors) -> Result<Inventory> {
    let mut inventory = Inventory::default();
    let wanted = |kind| scope.kinds.contains(&kind);
    let gpus = match survey_gpus(session, scope, minors, &mut inventory) {
        Ok(gpus) => gpus,
        Err(error) => {
            fail(&mut inventory, Kind::Gpu, error)?;
            Vec::new()
        }
    };
    inventory.gpus = gpus.iter().map(|gpu| gpu.id).collect();
    if wanted(Kind::Gpu) {
        match add_gpus(session, scope, &gpus, &mut inventory) {
            Ok(()) => {}
            Err(error) => fail(&mut inventory, Kind::Gpu, error)?,
        }
    }
    if wanted(Kind::Switch) {
        let found = add_switches(session, scope, &mut inventory);
        found.or_else(|error| fail(&mut inventory, Kind::Switch, error))?;
    }
    if wanted(Kind::Link) {
        let found = add_links(session, scope, &gpus, &mut inventory);
        found.or_else(|error| fail(&mut inventory, Kind::Link, error))?;
    }
    if wanted(Kind::Cpu) || wanted(Kind::Core) {
        let found = add_cpus(session, scope, &mut inventory);
        found.or_else(|error| fail(&mut inventory, Kind::Cpu, error))?;
    }
    if wanted(Kind::ConnectX) {
        let found = add_connectx(session, scope, &mut inventory);
        found.or_else(|error| fail(&mut inventory, Kind::ConnectX, error))?;
    }
    if wanted(Kind::WholeGpu) {
        add_parents(&gpus, &scope.names, &mut inventory);
    }
    for kind in scope.kinds.iter().filter(|kind| **kind != Kind::WholeGpu) {
        if inventory.count(*kind) == 0 && !inventory.absent.iter().any(|(absent, _)| absent == kind) {
            inventory.absent.push((*kind, "none found or none selected".to_owned()));
        }
    }
    Ok(inventory)
}

fn fail(inventory: &mut Inventory, kind: Kind, error: Error) -> Result<()> {
    if error.is_connection_lost() {
        return Err(error);
    }
    inventory.absent.push((kind, error.to_string()));
    Ok(())
}

fn survey_gpus(
    session: &Rc<Session>,
    scope: &Scope,
    minors: &mut Minors,
    inventory: &mut Inventory,
) -> Result<Vec<Gpu>> {
    let mut gpus: Vec<Gpu> = Vec::new();
    for id in session.entities(EntityGroup::Gpu)? {
        let attributes = match session.device_attributes(id) {
            Err(error) if error.is_connection_lost() => return Err(error),
            // An id that does not exist answers with empty texts.
            Ok(attributes) if !attributes.uuid.is_empty() => Ok(attributes),
            Ok(_) => Err("it has no UUID".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        match attributes {
            Ok(found) => {
                let (uuid, pci_bus_id) = (found.uuid, found.pci_bus_id);
                gpus.push(Gpu { id, uuid, model: found.name, pci_bus_id, minor: None });
            }
            Err(_) if scope.names.fake_gpus => {
                let uuid = format!("fake{id}");
                gpus.push(Gpu { id, uuid, model: String::new(), pci_bus_id: String::new(), minor: None });
            }
            Err(reason) => inventory.warnings.push(format!("GPU {id} cannot be named and is left out: {reason}")),
        }
    }
    if scope.minors {
        learn_minors(session, &gpus, minors, inventory)?;
        for gpu in &mut gpus {
            gpu.minor = minors.get(&gpu.uuid).copied().flatten();
        }
    }
    Ok(gpus)
}

fn learn_minors(session: &Rc<Session>, gpus: &[Gpu], minors: &mut Minors, inventory: &mut Inventory) -> Result<()> {
    let unknown = gpus.iter().filter(|gpu| !minors.contains_key(&gpu.uuid));
    let unknown: Vec<EntityId> = unknown.map(|gpu| EntityId::new(EntityGroup::Gpu, gpu.id)).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let read = read_once(session, &unknown, &[FIELD_MINOR], &mut |entity, _, value| {
        if let Some(gpu) = gpus.iter().find(|gpu| gpu.id == entity.id) {
            let minor = match value {
                Value::Int(minor) => u32::try_from(*minor).ok(),
                _ => None,
            };
            minors.insert(gpu.uuid.clone(), minor);
        }
    });
    match read {
        Err(error) if error.is_connection_lost() => Err(error),
        Err(error) => {
            inventory.warnings.push(format!("minor numbers of GPUs cannot be read: {error}"));
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

fn add_gpus(session: &Rc<Session>, scope: &Scope, gpus: &[Gpu], inventory: &mut Inventory) -> Result<()> {
    let instances = match session.mig_instances() {
        Ok(instances) => instances,
        Err(error) if error.is_absence() => Vec::new(),
        Err(error) if error.is_connection_lost() => return Err(error),
        Err(error) => {
            inventory.warnings.push(format!("MIG instances cannot be listed: {error}"));
            Vec::new()
        }
    };
    let identities = instance_identities(session, &instances, inventory)?;
    let ids: Vec<u32> = gpus.iter().map(|gpu| gpu.id).collect();
    let instance_ids: Vec<u32> = instances.iter().map(|instance| instance.entity).collect();
    // In the order of their GPUs, and within one in the hierarchy's.
    let instances_of = |gpu: u32| instances.iter().filter(move |instance| instance.gpu == gpu);
    let mut chosen: Vec<(u32, Option<MigInstance>)> = Vec::new();
    match &scope.gpus {
        DeviceSelection::Flex => {
            for &gpu in &ids {
                match instances_of(gpu).next() {
                    None => chosen.push((gpu, None)),
                    Some(_) => chosen.extend(instances_of(gpu).map(|instance| (gpu, Some(*instance)))),
                }
            }
        }
        DeviceSelection::Listed { major, minor } => {
            warn_missing(inventory, "--devices", "GPU", major, &ids);
            warn_missing(inventory, "--devices", "GPU instance", minor, &instance_ids);
            chosen.extend(major.of(&ids).into_iter().map(|gpu| (gpu, None)));
            let in_order: Vec<u32> =
                ids.iter().flat_map(|&gpu| instances_of(gpu)).map(|instance| instance.entity).collect();
            for id in minor.of(&in_order) {
                chosen.extend(
                    instances.iter().filter(|i| i.entity == id).map(|instance| (instance.gpu, Some(*instance))),
                );
            }
        }
    }
    for (gpu, instance) in chosen {
        let Some(gpu) = gpus.iter().find(|known| known.id == gpu) else { continue };
        let identity = instance.map(|instance| {
            let known = identities.iter().find(|(entity, ..)| *entity == instance.entity);
            let (profile, uuid) = known.map(|(_, profile, uuid)| (profile.clone(), uuid.clone())).unwrap_or_default();
            (instance, profile, uuid)
        });
        inventory.entities.push(gpu_entity(gpu, identity, &scope.names));
    }
    Ok(())
}

/// Profile and UUID of every instance, read once through a watch of its own.
fn instance_identities(
    session: &Rc<Session>,
    instances: &[MigInstance],
    inventory: &mut Inventory,
) -> Result<Vec<(u32, String, String)>> {
    let mut identities: Vec<(u32, String, String)> =
        instances.iter().map(|instance| (instance.entity, String::new(), String::new())).collect();
    if instances.is_empty() {
        return Ok(identities);
    }
    let entities: Vec<EntityId> =
        instances.iter().map(|instance| EntityId::new(EntityGroup::Instance, instance.entity)).collect();
    let read = read_once(session, &entities, &[FIELD_NAME, FIELD_UUID], &mut |entity, field, value| {
        let identity = identities.iter_mut().find(|(id, ..)| *id == entity.id);
        if let (Some(identity), Value::Text(text)) = (identity, value) {
            match field {
                FIELD_NAME => identity.1 = text.clone().into_owned(),
                _ => identity.2 = text.clone().into_owned(),
            }
        }
    });
    match read {
        Err(error) if error.is_connection_lost() => return Err(error),
        Err(error) => inventory.warnings.push(format!("profiles of MIG instances cannot be read: {error}")),
        Ok(()) => {}
    }
    Ok(identities)
}

/// A generation of GPUs, by its CUDA compute capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Architecture {
    major: i64,
    minor: i64,
}

impl Architecture {
    const HOPPER: Architecture = Architecture { major: 9, minor: 0 };

    /// Whether several engines can watch profiling fields at once. Before Hopper the hardware has one owner.
    pub fn engines_share_profiling(self) -> bool {
        self >= Architecture::HOPPER
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.engines_share_profiling() { "Hopper or newer" } else { "before Hopper" };
        write!(f, "{side}, compute capability {}.{}", self.major, self.minor)
    }
}

/// The oldest generation among these GPUs; `None` where none of them tells.
pub fn oldest_architecture(session: &Rc<Session>, gpus: &[u32]) -> Option<Architecture> {
    let gpus: Vec<EntityId> = gpus.iter().map(|gpu| EntityId::new(EntityGroup::Gpu, *gpu)).collect();
    let mut oldest: Option<Architecture> = None;
    let read = read_once(session, &gpus, &[FIELD_COMPUTE_CAPABILITY], &mut |_, _, value| {
        if let Value::Int(capability) = value {
            let architecture = Architecture { major: capability >> 16, minor: capability & 0xffff };
            oldest = Some(oldest.map_or(architecture, |oldest| oldest.min(architecture)));
        }
    });
    if let Err(error) = read {
        log::debug!("the GPUs' generation cannot be read: {error}");
    }
    oldest
}

fn read_once(
    session: &Rc<Session>,
    entities: &[EntityId],
    fields: &[u16],
    each: &mut dyn FnMut(EntityId, u16, &Value<'_>),
) -> Result<()> {
    for chunk in entities.chunks(Group::capacity(session)) {
        let group = Rc::new(Group::new(session, chunk, |_, _| {})?);
        let fields = Rc::new(FieldGroup::new(session, fields)?);
        let watch = Watch::new(&group, &fields, Duration::from_secs(3600), Keep::Latest)?;
        session.update_all_fields()?;
        watch.latest(&mut |entity, reading| each(entity, reading.field, &reading.value))?;
    }
    Ok(())
}

fn gpu_entity(gpu: &Gpu, instance: Option<(MigInstance, String, String)>, names: &Naming) -> Entity {
    let model = if names.replace_blanks_in_model_name {
        gpu.model.split_whitespace().collect::<Vec<_>>().join("-")
    } else {
        gpu.model.clone()
    };
    let mut labels = vec![
        ("gpu", gpu.id.to_string()),
        (if names.old_namespace { "uuid" } else { "UUID" }, gpu.uuid.clone()),
        ("pci_bus_id", gpu.pci_bus_id.clone()),
        ("device", format!("nvidia{}", gpu.id)),
        ("modelName", model),
    ];
    if let Some((instance, profile, _)) = &instance
        && !profile.is_empty()
    {
        labels.push(("GPU_I_PROFILE", profile.clone()));
        labels.push(("GPU_I_ID", instance.nvml_id.to_string()));
    }
    add_hostname(&mut labels, names);
    Entity {
        id: match &instance {
            Some((instance, ..)) => EntityId::new(EntityGroup::Instance, instance.entity),
            None => EntityId::new(EntityGroup::Gpu, gpu.id),
        },
        kind: Kind::Gpu,
        labels,
        gpu: Some(gpu.id),
        gpu_instance: instance.as_ref().map(|(instance, ..)| instance.nvml_id),
        names: match &instance {
            Some((instance, _, uuid)) => {
                let by_ids = GpuName::Instance(gpu.id, instance.nvml_id);
                std::iter::once(by_ids).chain(GpuName::uuid(uuid)).collect()
            }
            None => gpu.names(),
        },
        uuid: instance.map_or_else(|| gpu.uuid.clone(), |(_, _, uuid)| uuid),
    }
}

fn add_parents(gpus: &[Gpu], names: &Naming, inventory: &mut Inventory) {
    let has = |gpu: &Gpu, group: EntityGroup| {
        inventory
            .entities
            .iter()
            .any(|entity| entity.kind == Kind::Gpu && entity.id.group == group && entity.gpu == Some(gpu.id))
    };
    let parents = gpus.iter().filter(|gpu| has(gpu, EntityGroup::Instance) && !has(gpu, EntityGroup::Gpu));
    let parents: Vec<Entity> =
        parents.map(|gpu| Entity { kind: Kind::WholeGpu, ..gpu_entity(gpu, None, names) }).collect();
    inventory.entities.extend(parents);
}

fn add_hostname(labels: &mut Vec<(&'static str, String)>, names: &Naming) {
    if !names.hostname.is_empty() {
        labels.push((names.hostname_label, names.hostname.clone()));
    }
}

fn other_entity(
    group: EntityGroup,
    id: u32,
    kind: Kind,
    mut labels: Vec<(&'static str, String)>,
    names: &Naming,
) -> Entity {
    add_hostname(&mut labels, names);
    let (id, names) = (EntityId::new(group, id), Vec::new());
    Entity { id, kind, labels, gpu: None, gpu_instance: None, names, uuid: String::new() }
}

fn warn_missing(inventory: &mut Inventory, flag: &str, what: &str, selection: &Selection, present: &[u32]) {
    for id in selection.missing(present) {
        let known: Vec<String> = present.iter().map(u32::to_string).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        inventory.warnings.push(format!("{flag} lists {what} {id}, which does not exist (there are: {known})"));
    }
}

/// Which whole devices and which of their parts an option selects.
fn selections(option: &DeviceSelection) -> (Selection, Selection) {
    match option {
        DeviceSelection::Flex => (Selection::All, Selection::All),
        DeviceSelection::Listed { major, minor } => (major.clone(), minor.clone()),
    }
}

fn add_switches(session: &Session, scope: &Scope, inventory: &mut Inventory) -> Result<()> {
    let present = session.entities(EntityGroup::Switch)?;
    let (major, _) = selections(&scope.switches);
    warn_missing(inventory, "--switch-devices", "NVSwitch", &major, &present);
    for id in major.of(&present) {
        let labels = vec![("nvswitch", format!("nvswitch{id}"))];
        inventory.entities.push(other_entity(EntityGroup::Switch, id, Kind::Switch, labels, &scope.names));
    }
    Ok(())
}

fn add_links(session: &Session, scope: &Scope, gpus: &[Gpu], inventory: &mut Inventory) -> Result<()> {
    let states = match session.link_states() {
        Ok(states) => states,
        Err(error) if error.is_absence() => Vec::new(),
        Err(error) => return Err(error),
    };
    let of_gpus = match &scope.gpus {
        DeviceSelection::Flex => Selection::All,
        DeviceSelection::Listed { major, .. } => major.clone(),
    };
    for gpu in of_gpus.of(&gpus.iter().map(|gpu| gpu.id).collect::<Vec<_>>()) {
        let Some(gpu) = gpus.iter().find(|known| known.id == gpu) else { continue };
        let parent = EntityId::new(EntityGroup::Gpu, gpu.id);
        for index in links_up(&states, parent) {
            // GPU links are numbered from 1, on the page and in the entity id alike.
            inventory.entities.push(gpu_link(gpu, index + 1, &scope.names));
        }
    }
    let (of_switches, numbers) = selections(&scope.switches);
    // A list of links alone means links of whichever switch has them.
    let of_switches = if of_switches == Selection::None { Selection::All } else { of_switches };
    for links in states.iter().filter(|links| links.parent.group == EntityGroup::Switch) {
        if !of_switches.contains(links.parent.id) {
            continue;
        }
        for index in links_up(&states, links.parent).into_iter().filter(|index| numbers.contains(*index)) {
            let labels = vec![("nvlink", index.to_string()), ("nvswitch", format!("nvswitch{}", links.parent.id))];
            let id = link_id(links.parent, index);
            inventory.entities.push(other_entity(EntityGroup::Link, id, Kind::Link, labels, &scope.names));
        }
    }
    Ok(())
}

fn links_up(states: &[LinkStates], parent: EntityId) -> Vec<u32> {
    let of_parent = states.iter().find(|links| links.parent == parent);
    let states = of_parent.map(|links| links.states.as_slice()).unwrap_or_default();
    states.iter().enumerate().filter(|(_, state)| **state == LINK_UP).map(|(index, _)| index as u32).collect()
}

/// DCGM's packing: bits 0-7 the parent's kind, 8-23 the link's index, 24-31 the parent's id.
fn link_id(parent: EntityId, index: u32) -> u32 {
    parent.group as u32 | (index & 0xffff) << 8 | (parent.id & 0xff) << 24
}

fn gpu_link(gpu: &Gpu, number: u32, names: &Naming) -> Entity {
    let mut labels = vec![("nvlink", number.to_string()), ("gpu", gpu.id.to_string())];
    let optional = [
        ("gpu_uuid", gpu.uuid.clone()),
        ("pci_bus_id", gpu.pci_bus_id.clone()),
        ("device", format!("nvidia{}", gpu.id)),
        ("model_name", gpu.model.clone()),
    ];
    labels.extend(optional.into_iter().filter(|(_, value)| !value.is_empty()));
    let id = link_id(EntityId::new(EntityGroup::Gpu, gpu.id), number);
    let entity = other_entity(EntityGroup::Link, id, Kind::Link, labels, names);
    Entity { gpu: Some(gpu.id), names: gpu.names(), uuid: gpu.uuid.clone(), ..entity }
}

fn add_cpus(session: &Session, scope: &Scope, inventory: &mut Inventory) -> Result<()> {
    let cpus = session.cpus()?;
    let (major, minor) = selections(&scope.cpus);
    let present: Vec<u32> = cpus.iter().map(|(id, _)| *id).collect();
    warn_missing(inventory, "--cpu-devices", "CPU", &major, &present);
    if scope.kinds.contains(&Kind::Cpu) {
        for id in major.of(&present) {
            let labels = vec![("cpu", id.to_string())];
            inventory.entities.push(other_entity(EntityGroup::Cpu, id, Kind::Cpu, labels, &scope.names));
        }
    }
    if scope.kinds.contains(&Kind::Core) {
        // A list of cores alone means cores of whichever CPU has them.
        let of_cpus = if major == Selection::None { Selection::All } else { major };
        for (cpu, cores) in cpus.iter().filter(|(cpu, _)| of_cpus.contains(*cpu)) {
            for core in minor.of(cores) {
                let labels = vec![("cpucore", core.to_string()), ("cpu", cpu.to_string())];
                inventory.entities.push(other_entity(EntityGroup::Core, core, Kind::Core, labels, &scope.names));
            }
        }
    }
    Ok(())
}

fn add_connectx(session: &Session, scope: &Scope, inventory: &mut Inventory) -> Result<()> {
    for id in session.entities(EntityGroup::ConnectX)? {
        let labels = vec![("connectx", id.to_string())];
        inventory.entities.push(other_entity(EntityGroup::ConnectX, id, Kind::ConnectX, labels, &scope.names));
    }
    Ok(())
}
