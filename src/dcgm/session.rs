//! A session with a DCGM engine, embedded in this process or reached over a socket. Stopped or left when dropped.
//!
//! A call can block for as long as the driver does. There is no time-out to set; [`super::inflight`] says which call.

use std::cell::OnceCell;
use std::ffi::c_int;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::abi::*;
use super::library::{Library, c_string, version_from};
use super::links::{Numbering, Packing};
use super::release::Release;
use super::types::EntityGroup;
use super::{Error, ErrorKind, Result, process};
use crate::config::engine::Address;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Embedded,
    Remote,
}

/// An engine that was started or connected to; stopped or left when dropped.
pub struct Session {
    pub(super) library: Arc<Library>,
    pub(super) handle: Handle,
    mode: Mode,
    took_deny_list: bool,
    serial: u64,
    /// The engine's, once it has said.
    release: OnceCell<Release>,
}

impl Session {
    /// Starts an engine in this process, in MANUAL mode: nothing is polled but by [`Session::update_all_fields`].
    ///
    /// `deny` lists modules (see [`module`]) never to be loaded. DCGM logs only where the environment names a file for it
    /// (see [`super::process::log_to_stdout`]): a severity that is passed counts instead of the environment's, and with
    /// any but None it writes `/var/log/nv-hostengine.log`, which belongs to somebody else.
    ///
    /// Errors: whatever the driver answers; also when an engine of this process still runs, for which libdcgm
    /// returns success without a handle.
    pub fn embedded(library: &Arc<Library>, deny: &[u32]) -> Result<Session> {
        library.initialize()?;
        let mut params = StartEmbeddedParams {
            version: version_word::<StartEmbeddedParams>(1),
            op_mode: OPERATION_MODE_MANUAL,
            handle: 0,
            log_file: std::ptr::null(),
            severity: if process::is_log_wanted() { LOGGING_SEVERITY_UNSPECIFIED } else { LOGGING_SEVERITY_NONE },
            deny_list_count: 0,
            deny_list: [0; 10],
        };
        for (slot, denied) in params.deny_list.iter_mut().zip(deny) {
            *slot = *denied;
            params.deny_list_count += 1;
        }
        let start = |params: &mut StartEmbeddedParams| {
            // SAFETY: `params` is a complete version 1 struct that outlives the call.
            library.call("dcgmStartEmbedded_v2", || unsafe { (library.symbols.dcgmStartEmbedded_v2)(params) })
        };
        let started = match start(&mut params) {
            // A library may not know every module that it is told to deny. It then loads what it likes.
            Err(error) if error.kind == ErrorKind::BadParameter && params.deny_list_count > 0 => {
                log::info!("libdcgm cannot leave out modules ({error}); starting the engine with all of them");
                params.deny_list_count = 0;
                start(&mut params)
            }
            other => other,
        };
        let started = started.and_then(|()| match params.handle {
            0 => {
                let text = "an embedded engine already runs in this process".to_owned();
                Err(Error::new("dcgmStartEmbedded_v2", BADPARAM, text))
            }
            handle => Ok(handle),
        });
        let took_deny_list = params.deny_list_count as usize == deny.len().min(params.deny_list.len());
        Ok(Session::begin(library, started?, Mode::Embedded, took_deny_list))
    }

    /// Connects to a running host engine. libdcgm retries inside the call until `timeout` is over.
    ///
    /// Errors: -21 when nothing answers, -1 for a port that is no number.
    pub fn remote(library: &Arc<Library>, address: &Address, timeout: Duration) -> Result<Session> {
        library.initialize()?;
        let (text, unix) = match address {
            Address::Tcp(text) => (text, 0),
            Address::Unix(path) => (path, 1),
        };
        let text = c_string(text);
        let mut params = ConnectParams {
            version: version_word::<ConnectParams>(2),
            persist_after_disconnect: 0,
            timeout_ms: timeout.as_millis().clamp(1, u128::from(u32::MAX)) as u32,
            address_is_unix_socket: unix,
        };
        let mut handle = 0;
        // SAFETY: a terminated address, a complete version 2 struct and a place for the handle, all outliving the call.
        library.call("dcgmConnect_v2", || unsafe {
            (library.symbols.dcgmConnect_v2)(text.as_ptr(), &mut params, &mut handle)
        })?;
        Ok(Session::begin(library, handle, Mode::Remote, true))
    }

    fn begin(library: &Arc<Library>, handle: Handle, mode: Mode, took_deny_list: bool) -> Session {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        Session { library: library.clone(), handle, mode, took_deny_list, serial, release: OnceCell::new() }
    }

    pub fn library(&self) -> &Library {
        &self.library
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Tells this session from every other one of the process.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Whether the embedded engine was started without the modules it was told to leave out.
    pub fn took_deny_list(&self) -> bool {
        self.took_deny_list
    }

    /// The engine's own version, which in remote mode may differ from the library's. Empty if it does not say.
    pub fn engine_version(&self) -> String {
        let Some(version_info) = self.library.symbols.dcgmHostengineVersionInfo else { return String::new() };
        let mut info = VersionInfo { version: version_word::<VersionInfo>(2), raw: [0; 512] };
        // SAFETY: a complete version 2 struct.
        let asked = self.call("dcgmHostengineVersionInfo", || unsafe { version_info(self.handle, &mut info) });
        asked.ok().and_then(|()| version_from(&info)).unwrap_or_default()
    }

    /// The engine's release: what it does depends on that, not on the library in front of it. The library's where the
    /// engine does not say.
    pub fn engine_release(&self) -> Release {
        if let Some(release) = self.release.get() {
            return *release;
        }
        match Release::parse(&self.engine_version()) {
            Some(release) => *self.release.get_or_init(|| release),
            None => self.library.release(),
        }
    }

    /// How the engine packs entity ids of links.
    pub fn link_packing(&self) -> Packing {
        Packing::of(self.engine_release())
    }

    /// Which number of a GPU's link this field is to be asked with; see [`super::watch::Group::numbered`].
    pub fn link_numbering(&self, field: u16) -> Numbering {
        Numbering::of(field, self.engine_release())
    }

    /// One sentence if the host engine is of another major version than the library, with which a session connects and
    /// watches but sees no entities: which versions they are, and what to do.
    pub fn line_mismatch(&self) -> Option<String> {
        let (version, path) = (self.library.version(), self.library.path().display());
        let ours = self.library.release().major;
        match Release::parse(&self.engine_version()).map(|engine| engine.major) {
            _ if self.mode == Mode::Embedded => None,
            Some(theirs) if theirs == ours => None,
            Some(theirs) => {
                let package = if theirs >= 4 { "datacenter-gpu-manager-4-core" } else { "datacenter-gpu-manager" };
                Some(format!(
                    "libdcgm {version} ({path}) cannot read from this host engine, which is DCGM {}: install libdcgm.so.{theirs} (package {package}), or give its path with --libdcgm",
                    self.engine_version()
                ))
            }
            None => {
                let asked = self.entities(EntityGroup::Gpu);
                asked.is_err_and(|error| error.kind == ErrorKind::VersionMismatch).then(|| {
                    format!(
                        "libdcgm {version} ({path}) cannot read from this host engine, which is of another major \
                         version, but does not report it: install the libdcgm that belongs to the engine, or give its \
                         path with --libdcgm"
                    )
                })
            }
        }
    }

    /// Polls every watch that is due (its age has reached its interval) and returns when all is read. In embedded
    /// mode nothing else polls; in remote mode it brings forward what the engine would do on its own clock.
    pub fn update_all_fields(&self) -> Result<()> {
        // SAFETY: no memory of ours is involved.
        self.call("dcgmUpdateAllFields", || unsafe { (self.library.symbols.dcgmUpdateAllFields)(self.handle, 1) })
    }

    pub(super) fn call(&self, name: &'static str, function: impl FnOnce() -> c_int) -> Result<()> {
        self.library.call(name, function)
    }

    pub(super) fn wanted<F>(&self, name: &'static str, function: Option<F>) -> Result<F> {
        let text = || format!("{} does not have it", self.library.path().display());
        function.ok_or_else(|| Error::new(name, FUNCTION_NOT_FOUND, text()))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let symbols = &self.library.symbols;
        let (name, end) = match self.mode {
            Mode::Embedded => ("dcgmStopEmbedded", symbols.dcgmStopEmbedded),
            Mode::Remote => ("dcgmDisconnect", symbols.dcgmDisconnect),
        };
        // SAFETY: the handle is of this kind and is not used after this.
        if let Err(error) = self.call(name, || unsafe { end(self.handle) }) {
            log::debug!("while leaving DCGM: {error}");
        }
    }
}
