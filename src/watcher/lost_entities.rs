//! GPUs and instances that were here and are not now, with their last known identity. Outlives sessions.

use crate::inventory::{Entity, Inventory, Kind};

#[derive(Default)]
pub struct LostEntities {
    here: Vec<Entity>,
    lost: Vec<Entity>,
}

impl LostEntities {
    /// Compares what is here with what was. What was sliced away or together is no loss while its GPU is here. GPUs are
    /// known by their UUIDs: another one may get the same number.
    pub fn update(&mut self, inventory: &Inventory) {
        let is_here = |entity: &Entity| inventory.entities.iter().any(|other| other.gpu_uuid == entity.gpu_uuid);
        let was_here = std::mem::take(&mut self.here).into_iter().chain(std::mem::take(&mut self.lost));
        self.lost = was_here.filter(|entity| !is_here(entity)).collect();
        self.here = inventory.entities.iter().filter(|entity| entity.kind == Kind::Gpu).cloned().collect();
    }

    pub fn entities(&self) -> &[Entity] {
        &self.lost
    }

    /// A sentence for each.
    pub fn reasons(&self) -> impl Iterator<Item = String> {
        self.lost.iter().map(|entity| format!("{} ({}) is lost", entity.gpu_name(), entity.uuid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dcgm::{EntityGroup, EntityId};

    fn gpu(id: u32, uuid: &str) -> Entity {
        Entity {
            id: EntityId::new(EntityGroup::Gpu, id),
            kind: Kind::Gpu,
            labels: Vec::new(),
            gpu: Some(id),
            gpu_uuid: uuid.into(),
            gpu_instance: None,
            names: Vec::new(),
            uuid: uuid.into(),
        }
    }

    fn instance(gpu: u32, id: u32, uuid: &str) -> Entity {
        let id = EntityId::new(EntityGroup::Instance, id);
        let whole = self::gpu(gpu, &format!("GPU-{gpu}"));
        Entity { id, gpu_instance: Some(id.id + 7), uuid: uuid.into(), ..whole }
    }

    fn inventory(entities: Vec<Entity>) -> Inventory {
        Inventory { entities, ..Inventory::default() }
    }

    fn lost(entities: &LostEntities) -> Vec<&str> {
        entities.entities().iter().map(|entity| entity.uuid.as_str()).collect()
    }

    #[test]
    fn a_gpu_is_lost_until_it_is_back_under_whatever_number() {
        let mut entities = LostEntities::default();
        entities.update(&inventory(vec![gpu(0, "GPU-a"), gpu(1, "GPU-b")]));
        assert!(lost(&entities).is_empty());
        entities.update(&inventory(vec![gpu(0, "GPU-b")]));
        assert_eq!(lost(&entities), ["GPU-a"], "its number now means another");
        assert_eq!(entities.reasons().next().unwrap(), "GPU 0 (GPU-a) is lost");
        entities.update(&inventory(vec![]));
        assert_eq!(lost(&entities), ["GPU-b", "GPU-a"]);
        entities.update(&inventory(vec![gpu(1, "GPU-a"), gpu(0, "GPU-b")]));
        assert!(lost(&entities).is_empty());
    }

    #[test]
    fn an_instance_is_lost_only_with_its_gpu() {
        let mut entities = LostEntities::default();
        entities.update(&inventory(vec![instance(0, 0, "MIG-x"), instance(0, 1, "MIG-y")]));
        entities.update(&inventory(vec![instance(0, 0, "MIG-z"), instance(0, 1, "MIG-y")]));
        assert!(lost(&entities).is_empty());
        entities.update(&inventory(vec![gpu(0, "GPU-0")]));
        assert!(lost(&entities).is_empty(), "the GPU is in one piece again");
        entities.update(&inventory(vec![instance(0, 0, "MIG-z"), instance(0, 1, "MIG-y")]));
        entities.update(&inventory(vec![]));
        assert_eq!(lost(&entities), ["MIG-z", "MIG-y"]);
    }
}
