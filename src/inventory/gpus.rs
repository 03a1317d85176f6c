//! GPUs, and which of them and of their instances are reported.

use std::rc::Rc;

use super::known::{GpuIdentity, Known};
use super::read::read_once;
use super::{Entity, Inventory, Kind, Naming, Scope, instances};
use crate::config::devices::{DeviceSelection, Selection};
use crate::dcgm::query::{MigInstance, gpu_status};
use crate::dcgm::{EntityGroup, EntityId, Result, Session, Value};
use crate::jobs::gpu_name::{GpuName, PciAddress};

/// DCGM field 55 is N of `/dev/nvidiaN`.
const FIELD_MINOR: u16 = 55;

/// A whole GPU's identity.
#[derive(Debug, Clone)]
pub(super) struct Gpu {
    pub id: u32,
    pub uuid: String,
    pub model: String,
    pub pci_bus_id: String,
    minor: Option<u32>,
}

impl Gpu {
    pub(super) fn names(&self) -> Vec<GpuName> {
        let pci = PciAddress::parse(&self.pci_bus_id).map(GpuName::Pci);
        let others = [GpuName::uuid(&self.uuid), pci, self.minor.map(GpuName::Minor)];
        std::iter::once(GpuName::Index(self.id)).chain(others.into_iter().flatten()).collect()
    }

    fn entity(&self, kind: Kind, names: &Naming) -> Entity {
        Entity {
            id: EntityId::new(EntityGroup::Gpu, self.id),
            kind,
            labels: names.gpu(self, None),
            gpu: Some(self.id),
            gpu_uuid: self.uuid.clone(),
            gpu_instance: None,
            names: self.names(),
            uuid: self.uuid.clone(),
        }
    }
}

/// Every GPU that can be used and named. A GPU that is bound to another driver, or too old for DCGM, is not among them; one
/// that has fallen off the bus is, for its last XID is about that.
pub(super) fn survey(
    session: &Rc<Session>,
    scope: &Scope,
    known: &mut Known,
    inventory: &mut Inventory,
) -> Result<Vec<Gpu>> {
    let all = session.entities(EntityGroup::Gpu)?;
    let supported = match session.supported_entities(EntityGroup::Gpu) {
        Err(error) if error.is_connection_lost() => return Err(error),
        supported => supported.unwrap_or_else(|_| all.clone()),
    };
    let mut gpus: Vec<Gpu> = Vec::new();
    for id in all {
        let status = match session.gpu_status(id) {
            Err(error) if error.is_connection_lost() => return Err(error),
            status => status.unwrap_or(0),
        };
        let found = match absence(status, supported.contains(&id)) {
            Some(reason) if !scope.names.fake_gpus => Err(format!("GPU {id} is left out: {reason}")),
            _ => identify(session, id, status, known)?
                .map_err(|reason| format!("GPU {id} cannot be named and is left out: {reason}")),
        };
        match found {
            Ok(GpuIdentity { uuid, model, pci_bus_id }) => {
                gpus.push(Gpu { id, uuid, model, pci_bus_id, minor: None });
            }
            Err(_) if scope.names.fake_gpus => {
                let uuid = format!("fake{id}");
                gpus.push(Gpu { id, uuid, model: String::new(), pci_bus_id: String::new(), minor: None });
            }
            Err(warning) => inventory.warnings.push(warning),
        }
    }
    known.here(|id| gpus.iter().any(|gpu| gpu.id == id));
    if scope.minors {
        learn_minors(session, &gpus, known, inventory)?;
        for gpu in &mut gpus {
            gpu.minor = known.minor(&gpu.uuid).flatten();
        }
    }
    Ok(gpus)
}

/// Why a GPU that the engine lists is not here.
fn absence(status: i32, is_supported: bool) -> Option<&'static str> {
    match status {
        gpu_status::DETACHED => Some("it is detached (unbound from the NVIDIA driver)"),
        gpu_status::UNSUPPORTED => Some("DCGM does not support it"),
        // Between unbind and bind: DCGM can have changed one of its two answers and not the other.
        0 | gpu_status::OK if !is_supported => Some("DCGM does not list it among the GPUs that it can use"),
        _ => None,
    }
}

/// The inner error says why it has no identity.
fn identify(
    session: &Session,
    id: u32,
    status: i32,
    known: &mut Known,
) -> Result<std::result::Result<GpuIdentity, String>> {
    let is_well = matches!(status, 0 | gpu_status::OK);
    if let Some(identity) = known.told_gpu(id).filter(|_| is_well) {
        return Ok(Ok(identity.clone()));
    }
    let answered = match session.device_attributes(id) {
        Err(error) if error.is_connection_lost() => return Err(error),
        Ok(found) => GpuIdentity { uuid: found.uuid, model: found.name, pci_bus_id: found.pci_bus_id },
        Err(_) if matches!(status, gpu_status::LOST | gpu_status::INACCESSIBLE) => GpuIdentity::default(),
        Err(error) => return Ok(Err(error.to_string())),
    };
    let identity = known.gpu(id, answered);
    // An id that does not exist answers with empty texts; after XID 119 all GPUs do.
    Ok(if identity.uuid.is_empty() { Err("it has no UUID".to_owned()) } else { Ok(identity) })
}

fn learn_minors(session: &Rc<Session>, gpus: &[Gpu], known: &mut Known, inventory: &mut Inventory) -> Result<()> {
    let unknown = gpus.iter().filter(|gpu| known.minor(&gpu.uuid).is_none());
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
            known.learn_minor(&gpu.uuid, minor);
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

/// Adds the GPUs and instances that are selected, in the order of their GPUs and within one in the hierarchy's.
pub(super) fn add(
    session: &Rc<Session>,
    scope: &Scope,
    gpus: &[Gpu],
    known: &mut Known,
    inventory: &mut Inventory,
) -> Result<()> {
    let instances = instances::survey(session, gpus, known, inventory)?;
    let instances_of = |gpu: u32| instances.iter().filter(move |instance| instance.gpu == gpu);
    let ids: Vec<u32> = gpus.iter().map(|gpu| gpu.id).collect();
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
        DeviceSelection::Listed { major, minor, instances: named } => {
            let in_order: Vec<&MigInstance> = ids.iter().flat_map(|&gpu| instances_of(gpu)).collect();
            inventory.warn_missing("--devices", "GPU", major, &ids);
            chosen.extend(major.of(&ids).into_iter().map(|gpu| (gpu, None)));
            let parts = selected_instances(minor, named, &in_order, &mut inventory.warnings);
            chosen.extend(parts.into_iter().map(|instance| (instance.gpu, Some(instance))));
        }
    }
    if chosen.is_empty() && !ids.is_empty() {
        let nothing = format!("--devices selects none of {} GPUs and {} MIG instances", ids.len(), instances.len());
        inventory.warnings.push(nothing.clone());
        inventory.nothing_selected = Some(nothing);
    }
    for (gpu, instance) in chosen {
        let Some(gpu) = gpus.iter().find(|known| known.id == gpu) else { continue };
        inventory.entities.push(match instance {
            None => gpu.entity(Kind::Gpu, &scope.names),
            Some(instance) => instances::entity(gpu, &instance, &known.instance(&gpu.uuid, &instance), &scope.names),
        });
    }
    Ok(())
}

/// Instances that a list selects, by DCGM's id or by GPU and NVML's id. Says what does not exist, with both ids of what does.
fn selected_instances(
    numbers: &Selection,
    named: &[(u32, u32)],
    present: &[&MigInstance],
    warnings: &mut Vec<String>,
) -> Vec<MigInstance> {
    let ids: Vec<u32> = present.iter().map(|instance| instance.entity).collect();
    let by_number = |id: u32| present.iter().find(|instance| instance.entity == id);
    let by_name = |(gpu, id): (u32, u32)| present.iter().find(|one| (one.gpu, one.nvml_id) == (gpu, id));
    let unknown = numbers.missing(&ids).into_iter().map(|id| id.to_string());
    let unnamed = named.iter().filter(|name| by_name(**name).is_none()).map(|(gpu, id)| format!("{gpu}.{id}"));
    for wanted in unknown.chain(unnamed) {
        let there: Vec<String> =
            present.iter().map(|one| format!("{}.{}, DCGM's {}", one.gpu, one.nvml_id, one.entity)).collect();
        let there = if there.is_empty() { "none".to_owned() } else { there.join("; ") };
        warnings.push(format!("--devices lists GPU instance {wanted}, which does not exist (there are: {there})"));
    }
    let mut selected: Vec<MigInstance> = Vec::new();
    let numbered = numbers.of(&ids).into_iter().filter_map(by_number);
    for instance in numbered.chain(named.iter().filter_map(|name| by_name(*name))) {
        if !selected.contains(instance) {
            selected.push(**instance);
        }
    }
    selected
}

/// Adds the GPUs that are reported only by their instances.
pub(super) fn add_parents(gpus: &[Gpu], names: &Naming, inventory: &mut Inventory) {
    let has = |gpu: &Gpu, group: EntityGroup| {
        let mut of_gpu = inventory.entities.iter().filter(|entity| entity.kind == Kind::Gpu);
        of_gpu.any(|entity| entity.id.group == group && entity.gpu == Some(gpu.id))
    };
    let parents = gpus.iter().filter(|gpu| has(gpu, EntityGroup::Instance) && !has(gpu, EntityGroup::Gpu));
    let parents: Vec<Entity> = parents.map(|gpu| gpu.entity(Kind::WholeGpu, names)).collect();
    inventory.entities.extend(parents);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_gpus_are_here() {
        assert_eq!(absence(gpu_status::OK, true), None);
        assert!(absence(gpu_status::DETACHED, true).unwrap().contains("detached"));
        assert!(absence(gpu_status::UNSUPPORTED, false).is_some());
        assert!(absence(gpu_status::OK, false).is_some());
        // It is not in the list of supported ones either, but its XIDs are to be seen.
        assert_eq!(absence(gpu_status::LOST, false), None);
        assert_eq!(absence(gpu_status::INACCESSIBLE, false), None);
    }
}
