//! `DCGM_EXP_GPU_HEALTH_STATUS`: what DCGM's health watches say of each GPU and system.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use super::computed::{Attribution, ComputedSample};
use super::table::Number;
use crate::dcgm::health::Health;
use crate::dcgm::watch::Group;
use crate::dcgm::{EntityGroup, EntityId, Result, Session};
use crate::inventory::Inventory;

/// `dcgmHealthSystems_t`, as labels, in the order of the page. The last is for incidents of the whole GPU.
const SYSTEMS: [(u32, &str); 11] = [
    (0x1, "PCIE"),
    (0x2, "NVLINK"),
    (0x4, "PMU"),
    (0x8, "MCU"),
    (0x10, "MEM"),
    (0x20, "SM"),
    (0x40, "INFOROM"),
    (0x80, "THERMAL"),
    (0x100, "POWER"),
    (0x200, "DRIVER"),
    (u32::MAX, "ALL"),
];

/// `code label`, a line each: `dcgmError_t` as dcgm-exporter spells it.
static CODES: &str = include_str!("health-codes.txt");

pub struct HealthChecks {
    health: Health,
    /// The worst incident by GPU and system since the last check: (health, code).
    worst: HashMap<(u32, u32), (i32, i32)>,
}

impl HealthChecks {
    /// Sets the health watches of all GPUs that are reported, whole or by their instances.
    pub fn new(session: &Rc<Session>, inventory: &Inventory, interval: Duration) -> Result<HealthChecks> {
        const KEEP: Duration = Duration::from_secs(600);
        let gpus: Vec<EntityId> =
            inventory.reported_gpus().into_iter().map(|(_, gpu)| EntityId::new(EntityGroup::Gpu, gpu)).collect();
        let group = Rc::new(Group::new(session, &gpus, |entity, error| {
            log::warn!("GPU {} has no health checks: {error}", entity.id);
        })?);
        Ok(HealthChecks { health: Health::new(&group, interval, KEEP)?, worst: HashMap::new() })
    }

    /// Checks, and adds eleven samples a GPU: 0 pass, 10 warn, 20 fail.
    pub fn put(&mut self, inventory: &Inventory, list: &mut Vec<ComputedSample>) -> Result<()> {
        let worst = &mut self.worst;
        worst.clear();
        self.health.check(&mut |incident| {
            if incident.entity.group == EntityGroup::Gpu {
                let known = worst.entry((incident.entity.id, incident.system)).or_insert((0, 0));
                if incident.health > known.0 {
                    *known = (incident.health, incident.code);
                }
            }
        })?;
        for (entity, gpu) in inventory.reported_gpus() {
            for (system, name) in SYSTEMS {
                let (health, code) = self.worst.get(&(gpu, system)).copied().unwrap_or((0, 0));
                list.push(ComputedSample {
                    entity,
                    labels: vec![("health_error_code", code_name(code)), ("health_watch", name.to_owned())],
                    job: Attribution::Current,
                    number: Number::Int(i64::from(health)),
                });
            }
        }
        Ok(())
    }
}

fn code_name(code: i32) -> String {
    let number = code.to_string();
    let known = CODES.lines().find_map(|line| line.split_once(' ').filter(|(known, _)| *known == number));
    known.map_or_else(|| format!("DCGM_FR_UNKNOWN({code})"), |(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_names() {
        assert_eq!(code_name(0), "DCGM_FR_OK");
        assert_eq!(code_name(-1), "DCGM_FR_UNKNOWN(-1)");
        assert!(CODES.lines().enumerate().all(|(index, line)| line.starts_with(&format!("{index} DCGM_FR_"))));
    }
}
