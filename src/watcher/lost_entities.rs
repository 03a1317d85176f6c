//! GPUs and instances that were here and are not now, with their last known identity. Outlives sessions.

use crate::inventory::{Entity, Inventory, Kind};

#[derive(Default)]
pub struct LostEntities {
    here: Vec<Entity>,
    lost: Vec<Entity>,
}

impl LostEntities {
    /// Compares what is here with what was. An instance whose GPU is here has been sliced away, which is no loss. GPUs are
    /// known by their UUIDs: another one may get the same number.
    pub fn update(&mut self, inventory: &Inventory) {
        let is_here = |entity: &Entity| inventory.entities.iter().any(|other| other.uuid == entity.uuid);
        let was_here = std::mem::take(&mut self.here).into_iter().chain(std::mem::take(&mut self.lost));
        self.lost = was_here
            .filter(|entity| !is_here(entity))
            .filter(|entity| {
                entity.gpu_instance.is_none() || !entity.gpu.is_some_and(|gpu| inventory.gpus.contains(&gpu))
            })
            .collect();
        self.here = inventory.entities.iter().filter(|entity| entity.kind == Kind::Gpu).cloned().collect();
    }

    pub fn entities(&self) -> &[Entity] {
        &self.lost
    }

    /// A sentence for each.
    pub fn reasons(&self) -> impl Iterator<Item = String> {
        self.lost.iter().map(|entity| {
            let kind = if entity.gpu_instance.is_some() { "GPU instance" } else { "GPU" };
            format!("{kind} {} ({}) is gone", entity.id.id, entity.uuid)
        })
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
            gpu_instance: None,
            names: Vec::new(),
            uuid: uuid.into(),
        }
    }

    fn instance(gpu: u32, id: u32, uuid: &str) -> Entity {
        let id = EntityId::new(EntityGroup::Instance, id);
        Entity { id, gpu: Some(gpu), gpu_instance: Some(id.id + 7), ..self::gpu(gpu, uuid) }
    }

    fn inventory(entities: Vec<Entity>) -> Inventory {
        let mut gpus: Vec<u32> = entities.iter().filter_map(|entity| entity.gpu).collect();
        gpus.dedup();
        Inventory { entities, gpus, ..Inventory::default() }
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
        assert_eq!(entities.reasons().next().unwrap(), "GPU 0 (GPU-a) is gone");
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
        entities.update(&inventory(vec![]));
        assert_eq!(lost(&entities), ["MIG-z", "MIG-y"]);
    }
}
