//! The library's state in this process: its sessions, and what every call does first.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_int;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::clock;
use crate::codes::*;
use crate::engine::Engine;
use crate::fields;
use crate::memory::put;
use crate::scenario::Source;

/// Everything the library holds. libdcgm locks too; calls that hang do so without the lock.
pub static LIBRARY: Mutex<Library> = Mutex::new(Library::new());

pub struct Library {
    pub is_initialized: bool,
    pub sessions: BTreeMap<usize, Session>,
    pub next_handle: usize,
    calls: BTreeMap<String, u64>,
    /// Uses that a careful client would not make.
    pub violations: Vec<String>,
    /// Looks, and calls of the driver, by field, of engines that are gone.
    polls: BTreeMap<u16, u64>,
    driver_calls: BTreeMap<u16, u64>,
    /// What `DcgmFieldGetById` answers; empty before the first initialization and after a shutdown.
    pub fields: BTreeMap<u16, Box<[u8; 72]>>,
}

pub struct Session {
    pub engine: Engine,
    pub host: Option<Box<dyn Host>>,
}

// SAFETY: the reference-counted texts inside an engine never leave it, and the library is only used under its lock.
unsafe impl Send for Session {}

pub trait Host: Read + Write {}
impl<T: Read + Write> Host for T {}

impl Library {
    const fn new() -> Library {
        Library {
            is_initialized: false,
            sessions: BTreeMap::new(),
            next_handle: 1,
            calls: BTreeMap::new(),
            violations: Vec::new(),
            polls: BTreeMap::new(),
            driver_calls: BTreeMap::new(),
            fields: BTreeMap::new(),
        }
    }

    pub fn count(&mut self, call: &str) {
        match self.calls.get_mut(call) {
            Some(count) => *count += 1,
            None => drop(self.calls.insert(call.to_owned(), 1)),
        }
    }

    /// Builds the table of fields, unless it is there.
    pub fn build_fields(&mut self) {
        if !self.fields.is_empty() {
            return;
        }
        for (id, field) in fields::of(Release::parse(&version())) {
            let mut meta = Box::new([0u8; 72]);
            let base = meta.as_mut_ptr().cast::<std::ffi::c_void>();
            // SAFETY: the offsets are within the 72 bytes.
            unsafe {
                put(base, 0, id);
                put(base, 2, field.kind);
                put(base, 60, field.level);
            }
            self.fields.insert(id, meta);
        }
    }

    /// Ends a session and returns it.
    pub fn remove(&mut self, handle: usize) -> Option<Session> {
        let session = self.sessions.remove(&handle)?;
        add(&mut self.polls, &session.engine.polls);
        add(&mut self.driver_calls, &session.engine.driver_calls);
        Some(session)
    }
}

/// What a stored sample of a number takes in DCGM.
const SAMPLE_BYTES: usize = 26;

fn add(counts: &mut BTreeMap<u16, u64>, more: &BTreeMap<u16, u64>) {
    for (field, count) in more {
        *counts.entry(*field).or_default() += count;
    }
}

pub fn scenario_path() -> Option<PathBuf> {
    std::env::var_os("DCGM_SIMULATOR_SCENARIO").filter(|path| !path.is_empty()).map(Into::into)
}

/// The library's own version. One that was opened as `libdcgm.so.3` is of that line.
pub fn version() -> String {
    let scenario = Source::new(scenario_path()).changed();
    let by_name = || if is_named_3() { "3.3.9" } else { "4.6.0" }.to_owned();
    scenario.and_then(|scenario| scenario.version).unwrap_or_else(by_name)
}

fn is_named_3() -> bool {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: dladdr fills `info` when it returns non-zero; the name is then a terminated string of the loader's.
    unsafe {
        let here = is_named_3 as *const () as *const libc::c_void;
        libc::dladdr(here, info.as_mut_ptr()) != 0
            && std::ffi::CStr::from_ptr(info.assume_init().dli_fname).to_bytes().ends_with(b".so.3")
    }
}

/// Runs a call on an open session, after what the scenario holds against it.
pub fn with(handle: usize, call: &str, function: impl FnOnce(&mut Engine) -> Result<(), c_int>) -> c_int {
    wait_out(handle, call);
    clock::look();
    let mut library = LIBRARY.lock().unwrap();
    library.count(call);
    if !library.is_initialized {
        return UNINITIALIZED;
    }
    let Some(session) = library.sessions.get_mut(&handle) else {
        let violation = format!("{call} on handle {handle:#x}, which is not open");
        library.violations.push(violation);
        return CONNECTION_NOT_VALID;
    };
    let newest = session.engine.newest;
    if session.host.as_mut().is_some_and(|host| !ping(host.as_mut(), newest)) {
        return CONNECTION_NOT_VALID;
    }
    session.engine.refresh();
    if let Some(code) = session.engine.failure(call, None, None).filter(|_| call != "dcgmWatchFields") {
        return code;
    }
    let code = function(&mut session.engine).err().unwrap_or(0);
    let violations = std::mem::take(&mut session.engine.violations);
    library.violations.extend(violations);
    code
}

/// Asks the host engine's process whether it is there, and tells it the newest time stamp; blocks while it is stopped.
fn ping(host: &mut dyn Host, newest: i64) -> bool {
    let mut answer = [0u8; 1];
    host.write_all(&newest.to_ne_bytes()).is_ok() && host.read_exact(&mut answer).is_ok()
}

/// Hangs as long as the scenario says, without the lock.
pub fn wait_out(handle: usize, call: &str) {
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
pub fn wait_out_alone(call: &str) {
    let start = Instant::now();
    let hang = || Source::new(scenario_path()).changed()?.faults.hang_ms.get(call).copied();
    while hang().is_some_and(|hang| start.elapsed() < Duration::from_millis(hang)) {
        std::thread::sleep(Duration::from_millis(20));
    }
    LIBRARY.lock().unwrap().count(call);
}

/// Writes the file of `DCGM_SIMULATOR_STATS`: what exists, what was called, and what should not have been.
pub fn write_stats(library: &Library) {
    let Some(path) = std::env::var_os("DCGM_SIMULATOR_STATS") else { return };
    let engines = || library.sessions.values().map(|session| &session.engine);
    let (mut polls, mut driver_calls) = (library.polls.clone(), library.driver_calls.clone());
    for engine in engines() {
        add(&mut polls, &engine.polls);
        add(&mut driver_calls, &engine.driver_calls);
    }
    let kept = engines().map(|engine| engine.pairs.kept()).sum::<usize>();
    let stats = serde_json::json!({
        "sessions": library.sessions.len(),
        "groups": engines().map(|engine| engine.groups.len()).sum::<usize>(),
        "field_groups": engines().map(|engine| engine.field_groups.len()).sum::<usize>(),
        "watches": engines().map(|engine| engine.pairs.watched()).sum::<usize>(),
        "profiled_gpus": engines().flat_map(Engine::profiled_gpus).collect::<BTreeSet<u32>>(),
        "kept_samples": kept,
        "kept_bytes": kept * SAMPLE_BYTES,
        "polls": polls,
        "driver_calls": driver_calls,
        "calls": library.calls,
        "violations": library.violations,
    });
    let aside = std::path::Path::new(&path).with_extension("aside");
    if std::fs::write(&aside, stats.to_string()).is_ok() {
        let _ = std::fs::rename(&aside, &path);
    }
}
