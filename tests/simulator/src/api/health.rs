//! Health watches.

use std::ffi::{c_int, c_void};

use crate::codes::*;
use crate::library::with;
use crate::memory::{get, has_version, put, put_text};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmHealthSet_v2(handle: usize, params: *mut c_void) -> c_int {
    with(handle, "dcgmHealthSet_v2", |engine| {
        if unsafe { !has_version(params, &[0x0200_0028]) } {
            return Err(VER_MISMATCH);
        }
        let (group, systems) = unsafe { (get::<usize>(params, 8), get::<u32>(params, 16)) };
        engine.set_health(group, systems)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmHealthCheck(handle: usize, group: usize, response: *mut c_void) -> c_int {
    with(handle, "dcgmHealthCheck", |engine| {
        let (word, most) = if engine.has_layouts_of_v3() { (0x0401_050c, 64) } else { (0x0510_500c, 1024) };
        if unsafe { !has_version(response, &[word]) } {
            return Err(VER_MISMATCH);
        }
        let incidents = engine.incidents(group)?;
        unsafe {
            for (index, incident) in incidents.iter().take(most).enumerate() {
                let at = 12 + 1044 * index;
                put(response, at, incident.system);
                put(response, at + 4, incident.health);
                put_text(response, at + 8, 1024, "simulated");
                put(response, at + 8 + 1024, incident.error_code);
                put(response, at + 1036, (GPU, incident.gpu));
            }
            put(response, 4, incidents.iter().map(|incident| incident.health).max().unwrap_or(0));
            put(response, 8, incidents.len().min(most) as u32);
        }
        Ok(())
    })
}
