//! Starting and ending: the library, embedded engines, and connections to host engines.

use std::collections::btree_map::Entry;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::codes::*;
use crate::engine::Engine;
use crate::library::{Host, LIBRARY, Session, scenario_path, version, wait_out, wait_out_alone, with, write_stats};
use crate::memory::{get, has_version, put, put_text};
use crate::scenario::Source;

const EMBEDDED_HANDLE: usize = 0x7fff_ffff;
const MANUAL: u32 = 2;
/// A logging severity that is not given.
const UNSPECIFIED: i32 = -1;

#[unsafe(no_mangle)]
pub extern "C" fn dcgmInit() -> c_int {
    wait_out_alone("dcgmInit");
    let mut library = LIBRARY.lock().unwrap();
    library.is_initialized = true;
    library.build_fields();
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn dcgmShutdown() -> c_int {
    wait_out_alone("dcgmShutdown");
    let mut library = LIBRARY.lock().unwrap();
    if !library.is_initialized {
        return UNINITIALIZED;
    }
    // Nothing is counted: whoever else of this process has a session has none after this.
    library.is_initialized = false;
    for handle in library.sessions.keys().copied().collect::<Vec<_>>() {
        library.remove(handle);
    }
    library.fields.clear();
    write_stats(&library);
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn errorString(code: c_int) -> *const c_char {
    let text: &CStr = match code {
        0 => c"Success",
        -1 => c"Bad parameter passed to function",
        -5 => c"Setting not configured",
        -6 => c"Feature not supported",
        -7 => c"DCGM initialization error",
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
    wait_out_alone("dcgmVersionInfo");
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
    if !library.is_initialized {
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
    let log = std::env::var("__DCGM_DBG_FILE").ok();
    match log.as_deref().zip(std::env::var("__DCGM_DBG_LVL").ok()) {
        // A severity that is passed counts, and the variables do not.
        Some(("-", level)) if severity == UNSPECIFIED => println!("simulated engine: logging at {level}"),
        None if severity != 0 => {
            library.violations.push(format!("severity {severity} opens /var/log/nv-hostengine.log"));
        }
        _ => {}
    }
    // A second engine is not made, and no handle filled in; the answer is success all the same.
    if let Entry::Vacant(place) = library.sessions.entry(EMBEDDED_HANDLE) {
        let engine = Engine::new(Source::new(scenario_path()), mode == MANUAL, denied.clone(), None);
        if engine.scenario.unknown_module.is_some_and(|module| denied.contains(&module)) {
            return BADPARAM;
        }
        if !engine.scenario.faults.unreadable_gpus.is_empty() {
            return INIT_ERROR;
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
        let Some(session) = library.remove(handle) else { return CONNECTION_NOT_VALID };
        write_stats(&library);
        session.engine.scenario.stop_ms
    };
    std::thread::sleep(Duration::from_millis(stop));
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmConnect_v2(address: *const c_char, params: *mut c_void, handle: *mut usize) -> c_int {
    wait_out_alone("dcgmConnect_v2");
    if !LIBRARY.lock().unwrap().is_initialized {
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
        if let Some((host, Hello { scenario, newest })) = connect_once(&target, is_unix, timeout) {
            let library_release = Some(Release::parse(&version()));
            let mut engine = Engine::new(Source::new(scenario), false, Vec::new(), library_release);
            engine.inherit(newest);
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
fn connect_once(target: &str, is_unix: bool, timeout: Duration) -> Option<(Box<dyn Host>, Hello)> {
    if is_unix {
        let mut stream = UnixStream::connect(target).ok()?;
        stream.set_read_timeout(Some(timeout)).ok()?;
        let hello = hello(&mut stream)?;
        stream.set_read_timeout(None).ok()?;
        Some((Box::new(stream), hello))
    } else {
        let mut stream = TcpStream::connect(target).ok()?;
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(timeout)).ok()?;
        let hello = hello(&mut stream)?;
        stream.set_read_timeout(None).ok()?;
        Some((Box::new(stream), hello))
    }
}

/// What a host engine says first: its scenario, which may be none, and the time stamp of its newest sample.
struct Hello {
    scenario: Option<PathBuf>,
    newest: i64,
}

/// Reads `dcgm-simulator STAMP PATH`; `None` from anything that is no simulated host engine, or silent.
fn hello(stream: &mut dyn Read) -> Option<Hello> {
    let (mut line, mut byte) = (Vec::new(), [0u8; 1]);
    while line.len() < 4096 && byte[0] != b'\n' {
        stream.read_exact(&mut byte).ok()?;
        line.push(byte[0]);
    }
    let line = String::from_utf8(line).ok()?;
    let (newest, path) = line.strip_prefix("dcgm-simulator ")?.split_once(' ')?;
    let scenario = Some(path.trim_end()).filter(|path| !path.is_empty()).map(PathBuf::from);
    Some(Hello { scenario, newest: newest.parse().ok()? })
}

#[unsafe(no_mangle)]
pub extern "C" fn dcgmDisconnect(handle: usize) -> c_int {
    wait_out(handle, "dcgmDisconnect");
    match LIBRARY.lock().unwrap().remove(handle) {
        Some(_) => 0,
        None => CONNECTION_NOT_VALID,
    }
}
