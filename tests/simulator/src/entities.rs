//! Which entities the engine sees.

use crate::codes::*;
use crate::engine::Engine;
use crate::{gpus, links};

impl Engine {
    /// Ids of an entity group; `supported_only` leaves out GPUs without a driver.
    pub fn entities(&mut self, group: u32, supported_only: bool) -> Result<Vec<u32>, i32> {
        if matches!(group, CPU | CORE) && !self.sees_cpus() {
            return Err(MODULE_NOT_LOADED);
        }
        let system = &self.scenario.system;
        match group {
            GPU if self.blind => Ok(Vec::new()),
            GPU => {
                let gpus = system.gpus.iter().map(|gpu| gpu.id);
                Ok(gpus.filter(|gpu| !supported_only || !self.bindings.is_detached(*gpu)).collect())
            }
            INSTANCE => Ok(system.gpu_instances.iter().map(|instance| instance.entity_id).collect()),
            COMPUTE_INSTANCE => Ok(system.compute_instances().iter().map(|instance| instance.id).collect()),
            SWITCH if !self.sees_switches() => Err(MODULE_NOT_LOADED),
            SWITCH => Ok(system.switches.clone()),
            CPU => Ok(system.cpus.iter().map(|cpu| cpu.id).collect()),
            CORE => Ok(system.cpus.iter().flat_map(|cpu| cpu.cores.clone()).collect()),
            CONNECTX => Ok(system.connectx.clone()),
            _ => Err(NOT_SUPPORTED),
        }
    }

    pub fn sees_switches(&self) -> bool {
        ![&self.denied, &self.scenario.denied_modules].into_iter().any(|denied| denied.contains(&MODULE_NVSWITCH))
    }

    /// Asking for CPUs loads the module for system monitoring, which crashes in DCGM 3.
    pub fn sees_cpus(&mut self) -> bool {
        if self.denied.contains(&MODULE_SYSMON) {
            return false;
        }
        if self.release < Release(4, 0, 0) {
            self.violations.push("loading module 9 crashes DCGM 3 where /sys/class/hwmon is missing".to_owned());
            return false;
        }
        !self.scenario.system.cpus.is_empty()
    }

    pub fn watches_health(&self) -> bool {
        !self.denied.contains(&MODULE_HEALTH)
    }

    /// Whether a group takes the entity.
    pub fn exists(&mut self, entity: Entity) -> bool {
        if entity.0 != LINK {
            return self.entities(entity.0, false).is_ok_and(|ids| ids.contains(&entity.1));
        }
        let link = links::unpack(self.release, entity.1);
        match link.parent_kind {
            // Links past the last are taken, and blank. DCGM 3 takes no links of GPUs.
            GPU => {
                self.release >= Release(4, 0, 0)
                    && self.entities(GPU, false).is_ok_and(|ids| ids.contains(&link.parent))
            }
            SWITCH => {
                let mut links = self.scenario.system.links.iter();
                let found = links.find(|links| links.parent != "GPU" && links.parent_id == link.parent);
                found.is_some_and(|links| (link.index as usize) < links.states.len())
            }
            _ => false,
        }
    }

    pub fn gpu_status(&self, gpu: u32) -> i32 {
        match gpu {
            gpu if self.scenario.faults.lost_gpus.contains(&gpu) => gpus::STATUS_LOST,
            gpu if self.bindings.is_detached(gpu) => gpus::STATUS_DETACHED,
            gpu if self.scenario.system.gpus.iter().any(|known| known.id == gpu) => gpus::STATUS_OK,
            _ => 0,
        }
    }

    pub fn profiling_fields(&self, gpu: u32) -> Vec<u16> {
        if let Some(fields) = self.scenario.profiling_by_gpu.get(&gpu) {
            return fields.clone();
        }
        match &self.scenario.supported_profiling_fields {
            Some(fields) => fields.clone(),
            None => (1001..=1096).chain([1532, 1533]).filter(|field| self.fields.contains_key(field)).collect(),
        }
    }
}
