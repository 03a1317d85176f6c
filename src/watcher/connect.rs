//! Reaching an engine: the one that was selected, with the library that fits it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::active_watches::unneeded_modules;
use super::engine_selection::Next;
use super::phase::Event;
use super::session_run::SessionRun;
use super::{CONNECT_TIMEOUT, Watcher, notices};
use crate::config::engine::Address;
use crate::dcgm::release::Release;
use crate::dcgm::{Error, Library, Major, Session, abi};
use crate::metrics::exporter::ErrorKind;
use crate::system::{allocator, driver};

/// Memory that libdcgm allocates for every read is kept while collections come oftener than this.
const KEEP_MEMORY_BELOW: Duration = Duration::from_secs(5);

impl Watcher {
    pub(super) fn connect(&mut self, run: &mut Option<SessionRun>) -> Event {
        let begun = match self.engines.next(Instant::now()) {
            Next::AwaitReturn(address) => {
                self.set_engine("remote", address.to_string());
                let text =
                    "the host engine is gone; if it does not return within 5 s, the exporter starts its own engine";
                Err(Error::new("dcgmConnect_v2", abi::CONNECTION_NOT_VALID, text.to_owned()))
            }
            Next::Remote(address) => {
                self.set_engine("remote", address.to_string());
                if self.throttle.allows("connect") {
                    notices::connecting(Some(&address));
                }
                match self.connect_to(&address) {
                    Ok(session) => {
                        self.engines.connected(&address);
                        Ok(SessionRun::begin(session, Vec::new()))
                    }
                    Err(error) if self.engines.refused(Instant::now()) => {
                        notices::refused(&address, &error);
                        self.start_embedded()
                    }
                    Err(error) => Err(error),
                }
            }
            Next::Embedded => self.start_embedded(),
        };
        match begun {
            Ok(begun) => {
                self.report.engine_version = begun.session.engine_version();
                log::info!(version = self.report.engine_version; "DCGM successfully initialized!");
                allocator::keep_memory(!begun.is_embedded() && self.config.period() < KEEP_MEMORY_BELOW);
                *run = Some(begun);
                Event::Connected
            }
            Err(error) => Event::ConnectFailed(self.unreachable(&error)),
        }
    }

    /// Connects with the library of the engine's release line: one of another line connects, and then sees nothing.
    fn connect_to(&mut self, address: &Address) -> Result<Session, Error> {
        let session = Session::remote(&self.library, address, CONNECT_TIMEOUT)?;
        let Some(why) = session.line_mismatch() else {
            self.use_library(self.library.clone());
            return Ok(session);
        };
        let line = Release::parse(&session.engine_version()).and_then(Major::of);
        drop(session);
        let mismatch = Error::new("dcgmConnect_v2", abi::VER_MISMATCH, why);
        // Whoever names a library wants that one.
        let Some(line) = line.filter(|_| self.config.libdcgm.is_none()) else { return Err(mismatch) };
        let other = match &self.other_library {
            Some(other) if other.major() == line => other.clone(),
            _ => match self.library.for_line(line) {
                Ok(library) => Arc::new(library),
                Err(error) => {
                    log::debug!("{error}");
                    return Err(mismatch);
                }
            },
        };
        let session = Session::remote(&other, address, CONNECT_TIMEOUT)?;
        notices::library(&other);
        log::info!(path = other.path().display().to_string(), version = other.version(); "using the libdcgm of the host engine's version");
        self.use_library(other.clone());
        self.other_library = Some(other);
        Ok(session)
    }

    fn use_library(&mut self, library: Arc<Library>) {
        self.report.library_version = library.version().to_owned();
        self.report.library_path = library.path().display().to_string();
    }

    fn start_embedded(&mut self) -> Result<SessionRun, Error> {
        self.set_engine("embedded", String::new());
        if self.throttle.allows("connect") {
            notices::connecting(None);
        }
        self.use_library(self.library.clone());
        self.driver_gpus.engine_starts(driver::gpus());
        let denied = unneeded_modules(&self.counters, &self.library);
        Session::embedded(&self.library, &denied).map(|session| SessionRun::begin(session, denied))
    }

    fn set_engine(&mut self, mode: &'static str, address: String) {
        (self.report.engine_mode, self.report.engine_address) = (mode, address);
    }

    fn unreachable(&mut self, error: &Error) -> String {
        self.report.count_error(ErrorKind::Connect);
        let address = self.report.engine_address.as_str();
        if self.throttle.allows(&format!("unreachable {error}")) {
            notices::unreachable(address, error);
        }
        match address {
            "" => format!("cannot start the embedded DCGM engine ({error}); {}", error.hint_of_start()),
            address => format!("cannot connect to the host engine at {address} ({error})"),
        }
    }

    pub(super) fn lost(&mut self, kind: Option<ErrorKind>, error: &Error) -> Event {
        if let Some(kind) = kind {
            self.report.count_error(kind);
        }
        if self.throttle.allows("lost") {
            notices::lost(error);
        }
        self.engines.lost(Instant::now());
        Event::SessionLost(format!("the DCGM engine is gone ({error})"))
    }
}
