//! A stand-in for libdcgm: the same C symbols, played from a scenario file.
//!
//! `DCGM_SIMULATOR_SCENARIO` names the file (see [`scenario`]); without it there are eight H200 under a moving load.
//! `DCGM_SIMULATOR_STATS` names a file that counts calls, groups and watches after every update, for tests of leaks.
//!
//! Struct layouts are written here by offset, not shared with the exporter, so that a slip in one shows in the other.
//! What is wrong in a call is answered as libdcgm answers it: -12 for a wrong version word, -10 before `dcgmInit`, -21
//! for a handle that is not open.

#![allow(non_snake_case, clippy::missing_safety_doc)]

mod engine;
mod scenario;
mod values;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use engine::{BADPARAM, Engine, NOT_SUPPORTED, OfEntity};
use scenario::Source;
use values::Value;

const UNINITIALIZED: c_int = -10;
const VER_MISMATCH: c_int = -12;
const CONNECTION_NOT_VALID: c_int = -21;
const FUNCTION_NOT_FOUND: c_int = -20;
const INSUFFICIENT_SIZE: c_int = -31;

const EMBEDDED_HANDLE: usize = 0x7fff_ffff;
const MANUAL: u32 = 2;

/// Everything the library holds. libdcgm locks too; calls that hang do so without the lock.
static LIBRARY: Mutex<Library> = Mutex::new(Library::new());

struct Library {
    initialised: u32,
    sessions: BTreeMap<usize, Session>,
    next_handle: usize,
    calls: BTreeMap<String, u64>,
    /// Uses that a careful client would not make.
    violations: Vec<String>,
    meta: BTreeMap<u16, usize>,
}

struct Session {
    engine: Engine,
    host: Option<Box<dyn Host>>,
}

// SAFETY: the reference-counted texts inside an engine never leave it, and the library is only used under its lock.
unsafe impl Send for Session {}

trait Host: Read + Write {}
impl<T: Read + Write> Host for T {}

impl Library {
    const fn new() -> Library {
        Library {
            initialised: 0,
            sessions: BTreeMap::new(),
            next_handle: 1,
            calls: BTreeMap::new(),
            violations: Vec::new(),
            meta: BTreeMap::new(),
        }
    }
}

fn scenario_path() -> Option<PathBuf> {
    std::env::var_os("DCGM_SIMULATOR_SCENARIO").filter(|path| !path.is_empty()).map(Into::into)
}

fn version() -> String {
    let scenario = Source::new(scenario_path()).changed();
    scenario.and_then(|scenario| scenario.version).unwrap_or_else(|| "4.6.0".to_owned())
}

/// Runs a call on an open session, after what the scenario holds against it.
fn with(handle: usize, call: &str, function: impl FnOnce(&mut Engine) -> Result<(), c_int>) -> c_int {
    wait_out(handle, call);
    let mut library = LIBRARY.lock().unwrap();
    *library.calls.entry(call.to_owned()).or_default() += 1;
    if library.initialised == 0 {
        return UNINITIALIZED;
    }
    let Some(session) = library.sessions.get_mut(&handle) else {
        let violation = format!("{call} on handle {handle:#x}, which is not open");
        library.violations.push(violation);
        return CONNECTION_NOT_VALID;
    };
    if session.host.as_mut().is_some_and(|host| !ping(host.as_mut())) {
        return CONNECTION_NOT_VALID;
    }
    session.engine.refresh();
    if let Some(code) = session.engine.failure(call, None, None).filter(|_| call != "dcgmWatchFields") {
        return code;
    }
    function(&mut session.engine).err().unwrap_or(0)
}

/// Asks the host engine's process whether it is there; blocks while it is stopped.
fn ping(host: &mut dyn Host) -> bool {
    let mut answer = [0u8; 1];
    host.write_all(&[1]).is_ok() && host.read_exact(&mut answer).is_ok()
}

/// Hangs as long as the scenario says, without the lock.
fn wait_out(handle: usize, call: &str) {
    let start = Instant::now();
    loop {
        let hang = {
            let mut library = LIBRARY.lock().unwrap();
            library.sessions.get_mut(&handle).and_then(|session| {
                session.engine.refresh();
                session.engine.scenario.faults.hang_ms.get(call).copied()
            })
        };
        match hang {
            Some(hang) if start.elapsed() < Duration::from_millis(hang) => {
                std::thread::sleep(Duration::from_millis(20))
            }
            _ => return,
        }
    }
}

/// The same for a call that has no session yet, or none any more.
fn wait_out_alone(call: &str) {
    let start = Instant::now();
    let hang = || Source::new(scenario_path()).changed()?.faults.hang_ms.get(call).copied();
    while hang().is_some_and(|hang| start.elapsed() < Duration::from_millis(hang)) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

// Access to C structs by offset. SAFETY of all: the caller passes a struct whose version word was checked, or that has
// none, so the offset lies within it.
unsafe fn put<T>(base: *mut c_void, offset: usize, value: T) {
    unsafe { base.cast::<u8>().add(offset).cast::<T>().write_unaligned(value) }
}

unsafe fn get<T>(base: *const c_void, offset: usize) -> T {
    unsafe { base.cast::<u8>().add(offset).cast::<T>().read_unaligned() }
}

unsafe fn put_text(base: *mut c_void, offset: usize, size: usize, text: &str) {
    let bytes = &text.as_bytes()[..text.len().min(size - 1)];
    unsafe {
        let to = base.cast::<u8>().add(offset);
        to.write_bytes(0, size);
        to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
    }
}

unsafe fn has_version(base: *const c_void, words: &[u32]) -> bool {
    !base.is_null() && words.contains(&unsafe { get::<u32>(base, 0) })
}

#[unsafe(no_mangle)]
pub extern "C" fn dcgmInit() -> c_int {
    wait_out_alone("dcgmInit");
    LIBRARY.lock().unwrap().initialised += 1;
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn dcgmShutdown() -> c_int {
    wait_out_alone("dcgmShutdown");
    let mut library = LIBRARY.lock().unwrap();
    if library.initialised == 0 {
        return UNINITIALIZED;
    }
    library.initialised -= 1;
    if library.initialised == 0 {
        library.sessions.clear();
        write_stats(&library);
    }
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn errorString(code: c_int) -> *const c_char {
    let text: &CStr = match code {
        0 => c"Success",
        -1 => c"Bad parameter passed to function",
        -5 => c"Setting not configured",
        -6 => c"Feature not supported",
        -10 => c"DCGM is not initialized",
        -12 => c"API version mismatch",
        -14 => c"No data is available",
        -16 => c"Field is not being watched",
        -18 => c"GPU is lost",
        -20 => c"Function not found",
        -21 => c"Host engine connection invalid/disconnected",
        -24 => c"Max limit reached",
        -31 => c"Insufficient size",
        -33 => c"This request is serviced by a module of DCGM that is not currently loaded",
        -35 => c"The group is empty",
        -36 => c"Profiling is not supported for this group of GPUs or GPU",
        _ => c"Generic unspecified error",
    };
    text.as_ptr()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmVersionInfo(info: *mut c_void) -> c_int {
    unsafe {
        if !has_version(info, &[0x0200_0204]) {
            return VER_MISMATCH;
        }
        put_text(info, 4, 512, &format!("version:{};arch:x86_64;buildtype:Simulated;", version()));
    }
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmHostengineVersionInfo(handle: usize, info: *mut c_void) -> c_int {
    if unsafe { !has_version(info, &[0x0200_0204]) } {
        return VER_MISMATCH;
    }
    with(handle, "dcgmHostengineVersionInfo", |engine| {
        unsafe { put_text(info, 4, 512, &format!("version:{}-simulated;arch:x86_64;", engine.version)) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmStartEmbedded_v2(params: *mut c_void) -> c_int {
    wait_out_alone("dcgmStartEmbedded_v2");
    let mut library = LIBRARY.lock().unwrap();
    *library.calls.entry("dcgmStartEmbedded_v2".to_owned()).or_default() += 1;
    if library.initialised == 0 {
        return UNINITIALIZED;
    }
    let (mode, severity, denied) = unsafe {
        let list = match () {
            () if has_version(params, &[0x0100_0048]) => 32,
            () if has_version(params, &[0x0200_0050]) => 40,
            () => return VER_MISMATCH,
        };
        let count = get::<u32>(params, 28).min(10) as usize;
        let denied: Vec<u32> = (0..count).map(|index| get::<u32>(params, list + 4 * index)).collect();
        (get::<u32>(params, 4), get::<i32>(params, 24), denied)
    };
    if severity != 0 {
        library.violations.push(format!("severity {severity} opens /var/log/nv-hostengine.log"));
    }
    // A second engine is not made, and no handle filled in; the answer is success all the same.
    if let Entry::Vacant(place) = library.sessions.entry(EMBEDDED_HANDLE) {
        let engine = Engine::new(Source::new(scenario_path()), mode == MANUAL, denied.clone());
        if engine.scenario.unknown_module.is_some_and(|module| denied.contains(&module)) {
            return BADPARAM;
        }
        if let Some(code) = engine.failure("dcgmStartEmbedded_v2", None, None) {
            return code;
        }
        place.insert(Session { engine, host: None });
        unsafe { put(params, 8, EMBEDDED_HANDLE) };
    }
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn dcgmStopEmbedded(handle: usize) -> c_int {
    wait_out(handle, "dcgmStopEmbedded");
    let stop = {
        let mut library = LIBRARY.lock().unwrap();
        match library.sessions.remove(&handle) {
            None => return CONNECTION_NOT_VALID,
            Some(session) => session.engine.scenario.stop_ms,
        }
    };
    std::thread::sleep(Duration::from_millis(stop));
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmConnect_v2(address: *const c_char, params: *mut c_void, handle: *mut usize) -> c_int {
    wait_out_alone("dcgmConnect_v2");
    if LIBRARY.lock().unwrap().initialised == 0 {
        return UNINITIALIZED;
    }
    if address.is_null() || handle.is_null() {
        return BADPARAM;
    }
    let (address, timeout, is_unix) = unsafe {
        if !has_version(params, &[0x0200_0010]) {
            return VER_MISMATCH;
        }
        let address = CStr::from_ptr(address).to_string_lossy().into_owned();
        (address, get::<u32>(params, 8), get::<u32>(params, 12) != 0)
    };
    let timeout = Duration::from_millis(if timeout == 0 { 5000 } else { u64::from(timeout) });
    let target = if is_unix { Ok(address) } else { tcp_address(&address) };
    let Ok(target) = target else { return BADPARAM };
    let start = Instant::now();
    loop {
        if let Some((host, scenario)) = connect_once(&target, is_unix, timeout) {
            let engine = Engine::new(Source::new(scenario), false, Vec::new());
            let mut library = LIBRARY.lock().unwrap();
            let id = library.next_handle;
            library.next_handle += 1;
            library.sessions.insert(id, Session { engine, host: Some(host) });
            unsafe { handle.write(id) };
            return 0;
        }
        if start.elapsed() >= timeout {
            return CONNECTION_NOT_VALID;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A host without a port gets DCGM's; a port that is no number is an error.
fn tcp_address(address: &str) -> Result<String, ()> {
    match address.rsplit_once(':') {
        Some((_, port)) if !address.ends_with(']') => port.parse::<u16>().map(|_| address.to_owned()).map_err(drop),
        _ => Ok(format!("{address}:5555")),
    }
}

/// Connects and asks which scenario is played. The hello has a time-out; calls later on have none.
fn connect_once(target: &str, is_unix: bool, timeout: Duration) -> Option<(Box<dyn Host>, Option<PathBuf>)> {
    if is_unix {
        let mut stream = UnixStream::connect(target).ok()?;
        stream.set_read_timeout(Some(timeout)).ok()?;
        let scenario = hello(&mut stream)?;
        stream.set_read_timeout(None).ok()?;
        Some((Box::new(stream), scenario))
    } else {
        let mut stream = TcpStream::connect(target).ok()?;
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(timeout)).ok()?;
        let scenario = hello(&mut stream)?;
        stream.set_read_timeout(None).ok()?;
        Some((Box::new(stream), scenario))
    }
}

/// Reads `dcgm-simulator PATH`; `None` from anything that is no simulated host engine, or silent. The path may be empty.
fn hello(stream: &mut dyn Read) -> Option<Option<PathBuf>> {
    let (mut line, mut byte) = (Vec::new(), [0u8; 1]);
    while line.len() < 4096 && byte[0] != b'\n' {
        stream.read_exact(&mut byte).ok()?;
        line.push(byte[0]);
    }
    let line = String::from_utf8(line).ok()?;
    let path = line.strip_prefix("dcgm-simulator ")?.trim_end();
    Some(Some(path).filter(|path| !path.is_empty()).map(PathBuf::from))
}

#[unsafe(no_mangle)]
pub extern "C" fn dcgmDisconnect(handle: usize) -> c_int {
    wait_out(handle, "dcgmDisconnect");
    match LIBRARY.lock().unwrap().sessions.remove(&handle) {
        Some(_) => 0,
        None => CONNECTION_NOT_VALID,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn DcgmFieldsInit() -> c_int {
    let mut library = LIBRARY.lock().unwrap();
    if library.meta.is_empty() {
        for (id, field) in values::fields(&version()) {
            // As in libdcgm, the table is never freed while the library is loaded.
            let meta: &'static mut [u8; 72] = Box::leak(Box::new([0u8; 72]));
            let base = meta.as_mut_ptr().cast::<c_void>();
            unsafe {
                put(base, 0, id);
                put(base, 2, field.kind);
                put(base, 60, field.level);
            }
            library.meta.insert(id, base as usize);
        }
    }
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn DcgmFieldGetById(id: u16) -> *const c_void {
    LIBRARY.lock().unwrap().meta.get(&id).map_or(std::ptr::null(), |meta| *meta as *const c_void)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmGetEntityGroupEntities(
    handle: usize,
    group: c_uint,
    ids: *mut u32,
    count: *mut c_int,
    _flags: c_uint,
) -> c_int {
    with(handle, "dcgmGetEntityGroupEntities", |engine| {
        let found = engine.entities(group)?;
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
        if let Some(code) = engine.failure("dcgmGetDeviceAttributes", Some((values::GPU, gpu)), None) {
            return Err(code);
        }
        let known = engine.scenario.system.gpus.iter().find(|known| known.id == gpu);
        let text = |text: fn(&scenario::Gpu) -> &str| known.map(text).unwrap_or_default();
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
        let known = engine.scenario.system.gpus.iter().any(|known| known.id == gpu);
        let lost = engine.scenario.faults.lost_gpus.contains(&gpu);
        unsafe { status.write(if lost { 4 } else { c_int::from(known) }) };
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
        let mut entry = |entity: (u32, u32), parent: (u32, u32), nvml_instance: u32| unsafe {
            let at = 8 + 164 * count as usize;
            put(hierarchy, at, entity);
            put(hierarchy, at + 8, parent);
            put(hierarchy, at + 16 + 132, nvml_instance);
            count += 1;
        };
        const COMPUTE_INSTANCE: u32 = 5;
        for instance in &engine.scenario.system.gpu_instances {
            let id = (values::INSTANCE, instance.entity_id);
            entry(id, (values::GPU, instance.parent_gpu), instance.nvml_gpu_instance_id);
            entry((COMPUTE_INSTANCE, instance.entity_id), id, instance.nvml_gpu_instance_id);
        }
        unsafe { put(hierarchy, 4, count) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmGetNvLinkLinkStatus(handle: usize, status: *mut c_void) -> c_int {
    with(handle, "dcgmGetNvLinkLinkStatus", |engine| {
        let (word, links_per_switch) = if engine.is_v3() { (0x0300_15bc, 64usize) } else { (0x0400_39bc, 256) };
        if unsafe { !has_version(status, &[word]) } {
            return Err(VER_MISMATCH);
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
        if engine.version.as_str() < "4.4" {
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

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmGetCpuHierarchy(handle: usize, hierarchy: *mut c_void) -> c_int {
    with(handle, "dcgmGetCpuHierarchy", |engine| {
        if unsafe { !has_version(hierarchy, &[0x0100_0488]) } {
            return Err(VER_MISMATCH);
        }
        if !engine.sees_cpus() {
            return Err(engine::MODULE_NOT_LOADED);
        }
        let cpus = &engine.scenario.system.cpus;
        unsafe {
            put(hierarchy, 4, cpus.len() as u32);
            for (index, cpu) in cpus.iter().enumerate() {
                let at = 8 + 144 * index;
                put(hierarchy, at, cpu.id);
                for word in 0..16u32 {
                    let in_word = cpu.cores.iter().filter(|core| **core / 64 == word);
                    let bits: u64 = in_word.map(|core| 1u64 << (core % 64)).sum();
                    put(hierarchy, at + 16 + 8 * word as usize, bits);
                }
            }
        }
        Ok(())
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
            return Err(engine::PROFILING_NOT_SUPPORTED);
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
pub unsafe extern "C" fn dcgmGroupCreate(handle: usize, kind: c_int, name: *const c_char, group: *mut usize) -> c_int {
    with(handle, "dcgmGroupCreate", |engine| {
        if kind != 1 || name.is_null() || group.is_null() {
            return Err(BADPARAM);
        }
        let id = engine.create_group()?;
        unsafe { group.write(id) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dcgmGroupAddEntity(handle: usize, group: usize, entity_group: c_uint, id: u32) -> c_int {
    with(handle, "dcgmGroupAddEntity", |engine| engine.add_entity(group, (entity_group, id)))
}

#[unsafe(no_mangle)]
pub extern "C" fn dcgmGroupDestroy(handle: usize, group: usize) -> c_int {
    with(handle, "dcgmGroupDestroy", |engine| engine.destroy_group(group))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmFieldGroupCreate(
    handle: usize,
    count: c_int,
    fields: *const u16,
    name: *const c_char,
    id: *mut usize,
) -> c_int {
    with(handle, "dcgmFieldGroupCreate", |engine| {
        if fields.is_null() || name.is_null() || id.is_null() || count < 0 {
            return Err(BADPARAM);
        }
        let fields = unsafe { std::slice::from_raw_parts(fields, count as usize) };
        let made = engine.create_field_group(fields)?;
        unsafe { id.write(made) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dcgmFieldGroupDestroy(handle: usize, id: usize) -> c_int {
    with(handle, "dcgmFieldGroupDestroy", |engine| engine.destroy_field_group(id))
}

#[unsafe(no_mangle)]
pub extern "C" fn dcgmWatchFields(
    handle: usize,
    group: usize,
    field_group: usize,
    interval: i64,
    keep_age: f64,
    keep_samples: c_int,
) -> c_int {
    with(handle, "dcgmWatchFields", |engine| engine.watch(group, field_group, interval, keep_age, keep_samples))
}

#[unsafe(no_mangle)]
pub extern "C" fn dcgmUnwatchFields(handle: usize, group: usize, field_group: usize) -> c_int {
    with(handle, "dcgmUnwatchFields", |engine| engine.unwatch(group, field_group))
}

#[unsafe(no_mangle)]
pub extern "C" fn dcgmUpdateAllFields(handle: usize, wait: c_int) -> c_int {
    let code = with(handle, "dcgmUpdateAllFields", |engine| {
        if wait != 0 {
            engine.update();
        }
        Ok(())
    });
    write_stats(&LIBRARY.lock().unwrap());
    code
}

type Callback = unsafe extern "C" fn(c_uint, u32, *const c_void, c_int, *mut c_void) -> c_int;

const VALUE_SIZE: usize = 4120;
/// Values handed over at once; several calls for one entity keep readers honest.
const BATCH: usize = 16;

/// Hands samples to a callback in structs full of rubbish but for what libdcgm fills in.
unsafe fn deliver(answers: &[OfEntity], callback: Callback, user: *mut c_void) {
    let mut buffer = vec![0xaau8; VALUE_SIZE * BATCH];
    for (entity, samples) in answers {
        for batch in samples.chunks(BATCH) {
            for (index, (field, kind, sample)) in batch.iter().enumerate() {
                let base = buffer[VALUE_SIZE * index..].as_mut_ptr().cast::<c_void>();
                unsafe {
                    put(base, 0, 0x0100_1018u32);
                    put(base, 4, *field);
                    put(base, 6, u16::from(*kind));
                    put(base, 8, sample.status);
                    put(base, 16, sample.timestamp);
                    match &sample.value {
                        Value::Int(number) => put(base, 24, *number),
                        Value::Double(number) => put(base, 24, *number),
                        Value::Text(text) => put_text(base, 24, 256, text),
                        Value::Binary => {}
                    }
                }
            }
            let stop = unsafe { callback(entity.0, entity.1, buffer.as_ptr().cast(), batch.len() as c_int, user) };
            if stop != 0 {
                return;
            }
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmGetLatestValues_v2(
    handle: usize,
    group: usize,
    field_group: usize,
    callback: Option<Callback>,
    user: *mut c_void,
) -> c_int {
    with(handle, "dcgmGetLatestValues_v2", |engine| {
        let callback = callback.ok_or(BADPARAM)?;
        // Written to, as the library does, so that it is resident.
        let message = vec![1u8; engine.scenario.message_bytes];
        std::hint::black_box(&message);
        let answers = engine.latest(group, field_group)?;
        if let Some(code) = answers.iter().find_map(|(entity, _)| engine.failure("latest", Some(*entity), None)) {
            return Err(code);
        }
        let answers = if engine.scenario.by_owner { engine.by_owner(answers) } else { answers };
        unsafe { deliver(&answers, callback, user) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmGetValuesSince_v2(
    handle: usize,
    group: usize,
    field_group: usize,
    since: i64,
    next: *mut i64,
    callback: Option<Callback>,
    user: *mut c_void,
) -> c_int {
    with(handle, "dcgmGetValuesSince_v2", |engine| {
        let callback = callback.ok_or(BADPARAM)?;
        let (following, answers) = engine.since(group, field_group, since)?;
        unsafe {
            if !next.is_null() {
                next.write(following);
            }
            deliver(&answers, callback, user);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmHealthSet_v2(handle: usize, params: *mut c_void) -> c_int {
    with(handle, "dcgmHealthSet_v2", |engine| {
        if unsafe { !has_version(params, &[0x0200_0028]) } {
            return Err(VER_MISMATCH);
        }
        if !engine.watches_health() {
            return Err(engine::MODULE_NOT_LOADED);
        }
        let group = unsafe { get::<usize>(params, 8) };
        engine.health_groups.push(group);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmHealthCheck(handle: usize, group: usize, response: *mut c_void) -> c_int {
    with(handle, "dcgmHealthCheck", |engine| {
        let (word, most) = if engine.is_v3() { (0x0401_050c, 64) } else { (0x0510_500c, 1024) };
        if unsafe { !has_version(response, &[word]) } {
            return Err(VER_MISMATCH);
        }
        if !engine.health_groups.contains(&group) {
            return Err(engine::NOT_CONFIGURED);
        }
        let incidents = &engine.scenario.health_incidents;
        unsafe {
            for (index, incident) in incidents.iter().take(most).enumerate() {
                let at = 12 + 1044 * index;
                put(response, at, incident.system);
                put(response, at + 4, incident.health);
                put_text(response, at + 8, 1024, "simulated");
                put(response, at + 8 + 1024, incident.error_code);
                put(response, at + 1036, (values::GPU, incident.gpu));
            }
            put(response, 4, incidents.iter().map(|incident| incident.health).max().unwrap_or(0));
            put(response, 8, incidents.len().min(most) as u32);
        }
        Ok(())
    })
}

fn write_stats(library: &Library) {
    let Some(path) = std::env::var_os("DCGM_SIMULATOR_STATS") else { return };
    let counts: Vec<_> = library.sessions.values().map(|session| session.engine.counts()).collect();
    let sum = |which: fn(&(usize, usize, usize)) -> usize| counts.iter().map(which).sum::<usize>();
    let stats = serde_json::json!({
        "sessions": counts.len(),
        "groups": sum(|counts| counts.0),
        "field_groups": sum(|counts| counts.1),
        "watches": sum(|counts| counts.2),
        "calls": library.calls,
        "violations": library.violations,
    });
    let aside = std::path::Path::new(&path).with_extension("aside");
    if std::fs::write(&aside, stats.to_string()).is_ok() {
        let _ = std::fs::rename(&aside, &path);
    }
}
