//! Health watches: what happened to the GPUs of a group since its watch was set.

use std::time::{Duration, Instant};

use crate::codes::*;
use crate::engine::Engine;
use crate::scenario::Incident;

pub struct HealthWatch {
    /// A bit for each system that is watched.
    systems: u32,
    since: Instant,
}

/// Codes that came with 4.6.
const NEW_IN_4_6: std::ops::RangeInclusive<i32> = 131..=132;

impl Engine {
    /// Watches a group's systems; none ends the watch.
    pub fn set_health(&mut self, group: usize, systems: u32) -> Result<(), i32> {
        if !self.watches_health() {
            return Err(MODULE_NOT_LOADED);
        }
        if systems == 0 {
            self.health.remove(&group);
        } else {
            let since = self.health.get(&group).map_or_else(Instant::now, |watch| watch.since);
            self.health.insert(group, HealthWatch { systems, since });
        }
        Ok(())
    }

    /// The incidents of a group that was set.
    pub fn incidents(&self, group: usize) -> Result<Vec<&Incident>, i32> {
        let watch = self.health.get(&group).ok_or(NOT_CONFIGURED)?;
        let members = self.groups.get(&group).map(Vec::as_slice).unwrap_or_default();
        let age = watch.since.elapsed();
        let applies = |incident: &&Incident| {
            let begins = Duration::from_millis(incident.after_ms);
            let ends = incident.for_ms.map(|milliseconds| begins + Duration::from_millis(milliseconds));
            let is_watched = incident.system & watch.systems != 0;
            let is_known = !NEW_IN_4_6.contains(&incident.error_code) || self.release >= Release(4, 6, 0);
            let is_member = members.iter().any(|(entity, _)| self.values.gpu(*entity) == Some(incident.gpu));
            // After a fatal XID the driver is not asked, and nothing unusual is seen.
            let is_seen = !self.xids.is_driver_dead();
            is_seen && is_watched && is_known && is_member && age >= begins && ends.is_none_or(|ends| age < ends)
        };
        Ok(self.scenario.health_incidents.iter().filter(applies).collect())
    }
}
