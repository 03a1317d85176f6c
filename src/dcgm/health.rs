//! DCGM's health watches on a group of GPUs, and what they found.

use std::ffi::{c_uint, c_void};
use std::rc::Rc;
use std::time::Duration;

use super::Result;
use super::abi::*;
use super::library::Major;
use super::session::Session;
use super::types::EntityId;
use super::watch::Group;

/// `dcgmHealthCheck`'s report of one problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incident {
    /// A bit of `dcgmHealthSystems_t`, or all of them.
    pub system: u32,
    /// 0 pass, 10 warn, 20 fail.
    pub health: i32,
    /// `dcgmError_t`.
    pub code: i32,
    pub entity: EntityId,
}

/// Health watches on a group of GPUs, and the megabyte the engine answers into.
pub struct Health {
    response: HealthBuffer,
    group: Rc<Group>,
}

enum HealthBuffer {
    V3(Box<HealthResponse<64>>),
    V4(Box<HealthResponse<1024>>),
}

impl Health {
    /// Sets all health watches on the group, sampled every `interval` and kept for `keep`.
    pub fn new(group: &Rc<Group>, interval: Duration, keep: Duration) -> Result<Health> {
        let session = &group.session();
        let set = session.wanted("dcgmHealthSet_v2", session.library.symbols.dcgmHealthSet_v2)?;
        let mut params = HealthSetParams {
            version: version_word::<HealthSetParams>(2),
            group: group.id,
            systems: c_uint::MAX,
            update_interval: i64::try_from(interval.as_micros()).unwrap_or(i64::MAX),
            max_keep_age: keep.as_secs_f64(),
        };
        // SAFETY: a complete version 2 struct.
        session.call("dcgmHealthSet_v2", || unsafe { set(session.handle, &mut params) })?;
        let response = match session.library.major() {
            Major::V3 => HealthBuffer::V3(zeroed()),
            Major::V4 => HealthBuffer::V4(zeroed()),
        };
        Ok(Health { response, group: group.clone() })
    }

    /// Problems found since the last check.
    pub fn check(&mut self, each: &mut dyn FnMut(Incident)) -> Result<()> {
        let session = self.group.session().clone();
        match &mut self.response {
            HealthBuffer::V3(response) => check_into(&session, self.group.id, response, 4, each),
            HealthBuffer::V4(response) => check_into(&session, self.group.id, response, 5, each),
        }
    }
}

fn check_into<const N: usize>(
    session: &Session,
    group: usize,
    response: &mut HealthResponse<N>,
    version: u32,
    each: &mut dyn FnMut(Incident),
) -> Result<()> {
    let check = session.wanted("dcgmHealthCheck", session.library.symbols.dcgmHealthCheck)?;
    response.version = version_word::<HealthResponse<N>>(version);
    // SAFETY: a complete struct of the version that this library's release line fills.
    session.call("dcgmHealthCheck", || unsafe {
        check(session.handle, group, std::ptr::from_mut(response).cast::<c_void>())
    })?;
    let count = (response.incident_count as usize).min(N);
    for incident in &response.incidents[..count] {
        if let Some(entity) = EntityId::from_c(incident.entity.group, incident.entity.id) {
            let &IncidentInfo { system, health, code, .. } = incident;
            each(Incident { system, health, code, entity });
        }
    }
    Ok(())
}
