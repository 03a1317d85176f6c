//! NVLinks of GPUs and of switches.
//!
//! A link is reported if it is up or down: one that goes down keeps its series. Links that the hardware does not have, or
//! that are disabled, are not reported, as in dcgm-exporter.

use super::gpus::Gpu;
use super::{Entity, Inventory, Kind, Scope, selections};
use crate::config::devices::{DeviceSelection, Selection};
use crate::dcgm::links::Packing;
use crate::dcgm::query::LinkStates;
use crate::dcgm::{EntityGroup, EntityId, ErrorKind, Result, Session};

/// 0 is "not supported", 1 "disabled", 3 "up".
const DOWN: u32 = 2;

pub(super) fn add(session: &Session, scope: &Scope, gpus: &[Gpu], inventory: &mut Inventory) -> Result<()> {
    let kinds: Vec<Kind> = [Kind::GpuLink, Kind::SwitchLink].into_iter().filter(|kind| scope.wants(*kind)).collect();
    if kinds.is_empty() {
        return Ok(());
    }
    let states = match session.link_states() {
        Ok(states) => states,
        Err(error) if error.kind == ErrorKind::Absent => Vec::new(),
        Err(error) => {
            return kinds.into_iter().try_for_each(|kind| inventory.absence(kind, error.clone()));
        }
    };
    let packing = session.link_packing();
    if packing == Packing::Unusable {
        let reason = format!(
            "DCGM {} cannot tell links of different GPUs and switches apart (its link ids have no room for them); \
             DCGM 4.3.1 and newer can",
            session.engine_release()
        );
        if states.iter().any(|links| !reported(links).is_empty()) {
            inventory.warnings.push(format!("NVLinks are left out: {reason}"));
        }
        inventory.absent.extend(kinds.into_iter().map(|kind| (kind, reason.clone())));
        return Ok(());
    }
    for kind in kinds {
        match kind {
            Kind::GpuLink if packing == Packing::NarrowIndex => {
                let reason = format!("DCGM {} has no fields of them", session.engine_release());
                inventory.absent.push((kind, reason));
            }
            Kind::GpuLink => add_gpu_links(&states, packing, scope, gpus, inventory),
            _ => add_switch_links(&states, packing, scope, inventory),
        }
    }
    Ok(())
}

fn add_gpu_links(states: &[LinkStates], packing: Packing, scope: &Scope, gpus: &[Gpu], inventory: &mut Inventory) {
    let selected = match &scope.gpus {
        DeviceSelection::Flex => Selection::All,
        DeviceSelection::Listed { major, .. } => major.clone(),
    };
    for gpu in selected.of(&gpus.iter().map(|gpu| gpu.id).collect::<Vec<_>>()) {
        let Some(gpu) = gpus.iter().find(|known| known.id == gpu) else { continue };
        let parent = EntityId::new(EntityGroup::Gpu, gpu.id);
        for links in states.iter().filter(|links| links.parent == parent) {
            for index in reported(links) {
                let Some(id) = packing.link(parent, index) else { continue };
                inventory.entities.push(Entity {
                    id,
                    kind: Kind::GpuLink,
                    labels: scope.names.gpu_link(gpu, index),
                    gpu: Some(gpu.id),
                    gpu_uuid: gpu.uuid.clone(),
                    gpu_instance: None,
                    names: gpu.names(),
                    uuid: gpu.uuid.clone(),
                });
            }
        }
    }
}

fn add_switch_links(states: &[LinkStates], packing: Packing, scope: &Scope, inventory: &mut Inventory) {
    let (of_switches, numbers) = selections(&scope.switches);
    // A list of links alone means links of whichever switch has them.
    let of_switches = if of_switches == Selection::None { Selection::All } else { of_switches };
    let of_switches = states
        .iter()
        .filter(|links| links.parent.group == EntityGroup::Switch && of_switches.contains(links.parent.id));
    for links in of_switches {
        for index in reported(links).into_iter().filter(|index| numbers.contains(*index)) {
            let Some(id) = packing.link(links.parent, index) else { continue };
            let labels = vec![("nvlink", index.to_string()), ("nvswitch", format!("nvswitch{}", links.parent.id))];
            let labels = scope.names.finish(labels);
            inventory.entities.push(Entity::of_node(id.group, id.id, Kind::SwitchLink, labels));
        }
    }
}

/// Indices of the links that have samples.
fn reported(links: &LinkStates) -> Vec<u32> {
    links.states.iter().zip(0u32..).filter(|(state, _)| **state >= DOWN).map(|(_, index)| index).collect()
}
