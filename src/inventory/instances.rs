//! MIG: GPU instances and compute instances, from DCGM's hierarchy.
//!
//! The hierarchy gives ids alone. Profile and UUID of an instance are fields, which can fail; ids never do.

use std::rc::Rc;

use super::gpus::Gpu;
use super::known::{InstanceIdentity, Known};
use super::read::read_once;
use super::{Entity, Inventory, Kind, Naming};
use crate::dcgm::query::{MigHierarchy, MigInstance};
use crate::dcgm::{EntityGroup, EntityId, Result, Session, Value};
use crate::jobs::gpu_name::GpuName;

/// DCGM field 50 on an instance is its profile, such as `1g.18gb`.
const FIELD_NAME: u16 = 50;
/// DCGM field 54 on an instance is its `MIG-...` UUID.
const FIELD_UUID: u16 = 54;

/// Instances of these GPUs, and what they are called, which `known` has afterwards.
pub(super) fn survey(
    session: &Rc<Session>,
    gpus: &[Gpu],
    known: &mut Known,
    inventory: &mut Inventory,
) -> Result<Vec<MigInstance>> {
    let MigHierarchy { instances, compute_instances } = match session.mig_hierarchy() {
        Ok(hierarchy) => hierarchy,
        Err(error) if error.is_absence() => MigHierarchy::default(),
        Err(error) if error.is_connection_lost() => return Err(error),
        Err(error) => {
            inventory.warnings.push(format!("MIG instances cannot be listed: {error}"));
            return Ok(Vec::new());
        }
    };
    let with_gpu = instances.iter().filter_map(|instance| {
        let gpu = gpus.iter().find(|gpu| gpu.id == instance.gpu)?;
        Some((gpu.uuid.as_str(), *instance))
    });
    let present: Vec<(&str, MigInstance)> = with_gpu.collect();
    let (profiles, uuids) = known.unknown_instances(&present);
    let read = if profiles == uuids {
        learn(session, &profiles, &[FIELD_NAME, FIELD_UUID], known)
    } else {
        learn(session, &profiles, &[FIELD_NAME], known).and_then(|()| learn(session, &uuids, &[FIELD_UUID], known))
    };
    match read {
        Err(error) if error.is_connection_lost() => return Err(error),
        Err(error) => inventory.warnings.push(format!("profiles of MIG instances cannot be read: {error}")),
        Ok(()) => {
            let others = uuids.into_iter().filter(|entity| !profiles.contains(entity));
            let asked: Vec<EntityId> = profiles.iter().copied().chain(others).collect();
            known.count_asked(&asked);
        }
    }
    let present: Vec<MigInstance> = present.into_iter().map(|(_, instance)| instance).collect();
    inventory.instances.clone_from(&present);
    let is_here = |instance: u32| present.iter().any(|present| present.entity == instance);
    inventory.compute_instances = compute_instances.into_iter().filter(|compute| is_here(compute.instance)).collect();
    Ok(present)
}

fn learn(session: &Rc<Session>, entities: &[EntityId], fields: &[u16], known: &mut Known) -> Result<()> {
    read_once(session, entities, fields, &mut |entity, field, value| {
        // A blank is no answer: what was known stays.
        if let (Some(identity), Value::Text(text)) = (known.instance_mut(entity), value) {
            let member = if field == FIELD_NAME { &mut identity.profile } else { &mut identity.uuid };
            *member = text.clone().into_owned();
        }
    })
}

pub(super) fn entity(gpu: &Gpu, instance: &MigInstance, identity: &InstanceIdentity, names: &Naming) -> Entity {
    let by_ids = GpuName::Instance(gpu.id, instance.nvml_id);
    Entity {
        id: EntityId::new(EntityGroup::Instance, instance.entity),
        kind: Kind::Gpu,
        labels: names.gpu(gpu, Some((instance, &identity.profile))),
        gpu: Some(gpu.id),
        gpu_uuid: gpu.uuid.clone(),
        gpu_instance: Some(instance.nvml_id),
        names: std::iter::once(by_ids).chain(GpuName::uuid(&identity.uuid)).collect(),
        uuid: identity.uuid.clone(),
    }
}
