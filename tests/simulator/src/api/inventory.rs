//! Fields, entities, and what is known of each.

use std::ffi::{c_int, c_uint, c_void};

use crate::codes::*;
use crate::engine::{Engine, Lines};
use crate::library::{LIBRARY, wait_out_alone, with};
use crate::memory::{get, has_version, put, put_text};
use crate::scenario::{Cpu, Gpu};

/// The array that the caller has.
const MOST_GPUS: usize = 32;
const ONLY_SUPPORTED: c_uint = 1;

/// The text of DCGM's for a string that it could not read.
const NULL: &str = "<<<NULL>>>";

#[unsafe(no_mangle)]
pub extern "C" fn DcgmFieldsInit() -> c_int {
    wait_out_alone("DcgmFieldsInit");
    LIBRARY.lock().unwrap().build_fields();
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn DcgmFieldGetById(id: u16) -> *const c_void {
    let library = LIBRARY.lock().unwrap();
    library.fields.get(&id).map_or(std::ptr::null(), |meta| meta.as_ptr().cast())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmGetEntityGroupEntities(
    handle: usize,
    group: c_uint,
    ids: *mut u32,
    count: *mut c_int,
    flags: c_uint,
) -> c_int {
    with(handle, "dcgmGetEntityGroupEntities", |engine| {
        if engine.lines != Lines::Same {
            return Err(VER_MISMATCH);
        }
        let found = engine.entities(group, flags & ONLY_SUPPORTED != 0)?;
        if ids.is_null() || count.is_null() {
            return Err(BADPARAM);
        }
        unsafe {
            let capacity = count.read();
            count.write(found.len() as c_int);
            if (capacity as usize) < found.len() {
                return Err(INSUFFICIENT_SIZE);
            }
            ids.copy_from_nonoverlapping(found.as_ptr(), found.len());
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmGetDeviceAttributes(handle: usize, gpu: c_uint, attributes: *mut c_void) -> c_int {
    if unsafe { !has_version(attributes, &[0x0300_1464]) } {
        return VER_MISMATCH;
    }
    with(handle, "dcgmGetDeviceAttributes", |engine| {
        if let Some(code) = engine.failure("dcgmGetDeviceAttributes", Some((GPU, gpu)), None) {
            return Err(code);
        }
        if engine.lines == Lines::NewerLibrary {
            return Err(FUNCTION_NOT_FOUND);
        }
        let known = engine.scenario.system.gpus.iter().find(|known| known.id == gpu);
        let is_blank = engine.xids.is_driver_dead();
        let text =
            |text: fn(&Gpu) -> &str| known.map(|gpu| if is_blank { NULL } else { text(gpu) }).unwrap_or_default();
        const IDENTIFIERS: usize = 3120;
        unsafe {
            put_text(attributes, IDENTIFIERS + 260, 256, text(|gpu| &gpu.model));
            put_text(attributes, IDENTIFIERS + 516, 256, text(|gpu| &gpu.pci_bus_id));
            put_text(attributes, IDENTIFIERS + 1028, 256, text(|gpu| &gpu.uuid));
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmGetGpuStatus(handle: usize, gpu: c_uint, status: *mut c_int) -> c_int {
    with(handle, "dcgmGetGpuStatus", |engine| {
        unsafe { status.write(engine.gpu_status(gpu)) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmGetGpuInstanceHierarchy(handle: usize, hierarchy: *mut c_void) -> c_int {
    if unsafe { !has_version(hierarchy, &[0x0201_1f08]) } {
        return VER_MISMATCH;
    }
    with(handle, "dcgmGetGpuInstanceHierarchy", |engine| {
        let mut count = 0u32;
        let mut entry = |entity: Entity, parent: Entity, nvml_instance: u32, nvml_compute_instance: u32| unsafe {
            let at = 8 + 164 * count as usize;
            put(hierarchy, at, entity);
            put(hierarchy, at + 8, parent);
            put(hierarchy, at + 16 + 132, nvml_instance);
            put(hierarchy, at + 16 + 136, nvml_compute_instance);
            count += 1;
        };
        let system = &engine.scenario.system;
        let compute_instances = system.compute_instances();
        for instance in &system.gpu_instances {
            let id = (INSTANCE, instance.entity_id);
            entry(id, (GPU, instance.parent_gpu), instance.nvml_gpu_instance_id, 0);
            let parts = compute_instances.iter().filter(|part| part.instance == instance.entity_id);
            for (number, part) in parts.enumerate() {
                entry((COMPUTE_INSTANCE, part.id), id, instance.nvml_gpu_instance_id, number as u32);
            }
        }
        unsafe { put(hierarchy, 4, count) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmGetNvLinkLinkStatus(handle: usize, status: *mut c_void) -> c_int {
    with(handle, "dcgmGetNvLinkLinkStatus", |engine| {
        let (word, links_per_switch) =
            if engine.has_layouts_of_v3() { (0x0300_15bc, 64usize) } else { (0x0400_39bc, 256) };
        if unsafe { !has_version(status, &[word]) } {
            return Err(VER_MISMATCH);
        }
        if !engine.sees_switches() {
            return Err(MODULE_NOT_LOADED);
        }
        let system = &engine.scenario.system;
        let write = |at: usize, id: u32, capacity: usize, states: &[u32]| unsafe {
            put(status, at, id);
            for index in 0..capacity {
                put(status, at + 4 + 4 * index, states.get(index).copied().unwrap_or(0));
            }
        };
        let states_of = |parent: &str, id: u32| {
            let links = system.links.iter().find(|links| links.parent == parent && links.parent_id == id);
            links.map(|links| links.states.clone()).unwrap_or_default()
        };
        for (index, gpu) in system.gpus.iter().enumerate() {
            write(8 + 76 * index, gpu.id, 18, &states_of("GPU", gpu.id));
        }
        let switches: &[u32] = if engine.sees_switches() { &system.switches } else { &[] };
        for (index, switch) in switches.iter().enumerate() {
            write(2444 + (4 + 4 * links_per_switch) * index, *switch, links_per_switch, &states_of("SWITCH", *switch));
        }
        unsafe {
            put(status, 4, system.gpus.len() as u32);
            put(status, 2440, switches.len() as u32);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmGetNvLinkP2PStatus(handle: usize, status: *mut c_void) -> c_int {
    with(handle, "dcgmGetNvLinkP2PStatus", |engine| {
        if unsafe { !has_version(status, &[0x0100_1088]) } {
            return Err(VER_MISMATCH);
        }
        if engine.release < Release(4, 4, 0) {
            return Err(FUNCTION_NOT_FOUND);
        }
        let matrix = &engine.scenario.p2p_matrix;
        if matrix.is_empty() {
            return Err(NOT_SUPPORTED);
        }
        unsafe {
            put(status, 4, matrix.len() as u32);
            for (index, row) in matrix.iter().enumerate() {
                let gpu = engine.scenario.system.gpus.get(index).map_or(index as u32, |gpu| gpu.id);
                put(status, 8 + 132 * index, gpu);
                for (column, state) in row.iter().enumerate() {
                    put(status, 8 + 132 * index + 4 + 4 * column, *state);
                }
            }
        }
        Ok(())
    })
}

/// The CPUs in either version of the hierarchy. `rest` fills in what follows the id of the CPU whose entry is at an offset.
fn put_cpus(
    engine: &mut Engine,
    hierarchy: *mut c_void,
    entry_size: usize,
    rest: impl Fn(usize, &Cpu),
) -> Result<(), c_int> {
    if !engine.sees_cpus() {
        return Err(MODULE_NOT_LOADED);
    }
    let cpus = &engine.scenario.system.cpus;
    unsafe { put(hierarchy, 4, cpus.len() as u32) };
    for (index, cpu) in cpus.iter().enumerate() {
        let at = 8 + entry_size * index;
        unsafe { put(hierarchy, at, cpu.id) };
        rest(at, cpu);
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmGetCpuHierarchy(handle: usize, hierarchy: *mut c_void) -> c_int {
    with(handle, "dcgmGetCpuHierarchy", |engine| {
        if unsafe { !has_version(hierarchy, &[0x0100_0488]) } {
            return Err(VER_MISMATCH);
        }
        put_cpus(engine, hierarchy, 144, |at, cpu| {
            for word in 0..16u32 {
                let in_word = cpu.cores.iter().filter(|core| **core / 64 == word);
                let bits: u64 = in_word.map(|core| 1u64 << (core % 64)).sum();
                unsafe { put(hierarchy, at + 16 + 8 * word as usize, bits) };
            }
        })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmGetCpuHierarchy_v2(handle: usize, hierarchy: *mut c_void) -> c_int {
    with(handle, "dcgmGetCpuHierarchy_v2", |engine| {
        if unsafe { !has_version(hierarchy, &[0x0200_0c88]) } {
            return Err(VER_MISMATCH);
        }
        if engine.release < Release(4, 0, 0) {
            return Err(FUNCTION_NOT_FOUND);
        }
        put_cpus(engine, hierarchy, 400, |at, cpu| {
            for (offset, byte) in cpu.serial.bytes().take(255).chain([0]).enumerate() {
                unsafe { put(hierarchy, at + 144 + offset, byte) };
            }
        })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmProfGetSupportedMetricGroups(handle: usize, groups: *mut c_void) -> c_int {
    with(handle, "dcgmProfGetSupportedMetricGroups", |engine| {
        if unsafe { !has_version(groups, &[0x0300_0560]) } {
            return Err(VER_MISMATCH);
        }
        let gpu = unsafe { get::<u32>(groups, 8) };
        let fields = engine.profiling_fields(gpu);
        if fields.is_empty() {
            return Err(PROFILING_NOT_SUPPORTED);
        }
        unsafe {
            put(groups, 12, fields.chunks(64).count() as u32);
            for (index, chunk) in fields.chunks(64).enumerate() {
                let at = 16 + 136 * index;
                put(groups, at, index as u16);
                put(groups, at + 4, chunk.len() as u32);
                for (position, field) in chunk.iter().enumerate() {
                    put(groups, at + 8 + 2 * position, *field);
                }
            }
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmGetAllSupportedDevices(handle: usize, ids: *mut u32, count: *mut c_int) -> c_int {
    with(handle, "dcgmGetAllSupportedDevices", |engine| {
        if ids.is_null() || count.is_null() {
            return Err(BADPARAM);
        }
        let found = engine.entities(GPU, true)?;
        unsafe {
            ids.copy_from_nonoverlapping(found.as_ptr(), found.len().min(MOST_GPUS));
            count.write(found.len().min(MOST_GPUS) as c_int);
        }
        Ok(())
    })
}
