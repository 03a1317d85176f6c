//! Fields of MIG instances that only their compute instances have.
//!
//! DCGM's table gives some fields the level of a compute instance (memory, BAR1). It answers most of them for a GPU
//! instance, too; where it has none, and the instance is not divided further, the compute instance's value is the
//! instance's. Profiling fields are not among them: the profiling module answers for GPU instances.

use std::collections::BTreeMap;

use super::number::Number;
use super::plan::{Asked, FIELD_XID, Plan, Scale};
use super::table::Table;
use crate::counters::is_profiling;
use crate::dcgm::{EntityGroup, EntityId, Library};
use crate::inventory::{Inventory, Kind};

/// DCGM's level of such fields.
const LEVEL: i32 = EntityGroup::ComputeInstance as i32;

/// Compute instances to be asked, with the entity that each answers for, by the fields that it lacks.
pub fn to_ask(
    plan: &Plan,
    table: &Table,
    inventory: &Inventory,
    library: &Library,
) -> BTreeMap<Vec<u16>, Vec<(EntityId, usize)>> {
    let mut to_ask: BTreeMap<Vec<u16>, Vec<(EntityId, usize)>> = BTreeMap::new();
    let fields = plan.fields.iter().filter(|fields| fields.kind == Kind::Gpu).flat_map(|fields| &fields.ids);
    let of_level = |field: &u16| library.field(*field).is_some_and(|info| info.entity_level == LEVEL);
    let fields: Vec<u16> =
        fields.copied().filter(|id| *id != FIELD_XID && !is_profiling(*id) && of_level(id)).collect();
    let instances = inventory.entities.iter().enumerate();
    for (index, entity) in instances.filter(|(_, entity)| entity.id.group == EntityGroup::Instance) {
        let mut parts = inventory.compute_instances.iter().filter(|part| part.instance == entity.id.id);
        let (Some(part), None) = (parts.next(), parts.next()) else { continue };
        let has_value = |id: u16| table.number(index, Asked { id, scale: Scale::One }) != Number::Blank;
        let lacks: Vec<u16> = fields.iter().copied().filter(|field| !has_value(*field)).collect();
        if !lacks.is_empty() {
            let part = EntityId::new(EntityGroup::ComputeInstance, part.entity);
            to_ask.entry(lacks).or_default().push((part, index));
        }
    }
    to_ask
}
