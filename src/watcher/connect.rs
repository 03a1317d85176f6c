//! What a session's begin and its loss mean for the report and the log.

use std::time::{Duration, Instant};

use super::active_watches::unneeded_modules;
use super::phase::Event;
use super::session_run::SessionRun;
use super::{Watcher, notices};
use crate::config::engine::Address;
use crate::dcgm::{Error, Library};
use crate::engine::Opened;
use crate::metrics::exporter::ErrorKind;
use crate::system::{allocator, driver};

/// Memory that libdcgm allocates for every read is kept while collections come oftener than this.
const KEEP_MEMORY_BELOW: Duration = Duration::from_secs(5);

impl Watcher {
    pub(super) fn connect(&mut self, run: &mut Option<SessionRun>) -> Event {
        let denied = unneeded_modules(&self.counters, self.engines.library());
        let (report, throttle, driver_gpus) = (&mut self.report, &mut self.throttle, &mut self.driver_gpus);
        let opened = self.engines.open(denied, |address| {
            report.engine_mode = if address.is_some() { "remote" } else { "embedded" };
            report.engine_address = address.map(Address::to_string).unwrap_or_default();
            if address.is_none() {
                driver_gpus.engine_starts(driver::gpus());
            }
            if throttle.allows("connect") {
                notices::connecting(address);
            }
        });
        self.log_strangers();
        match opened {
            Ok(Opened { session, denied_modules, refused }) => {
                if let Some((address, error)) = refused {
                    notices::refused(&address, &error);
                }
                self.use_library(session.library());
                self.report.engine_version = session.engine_version();
                log::info!(version = self.report.engine_version; "DCGM successfully initialized!");
                let begun = run.insert(SessionRun::begin(session, denied_modules));
                allocator::keep_memory(!begun.is_embedded() && self.config.period() < KEEP_MEMORY_BELOW);
                Event::Connected
            }
            Err(error) => Event::ConnectFailed(self.unreachable(&error)),
        }
    }

    pub(super) fn log_strangers(&mut self) {
        for (address, owner) in self.engines.chooser.take_new_strangers() {
            notices::stranger(&address, &owner);
        }
    }

    fn use_library(&mut self, library: &Library) {
        let (path, version) = (library.path().display().to_string(), library.version());
        if path != self.report.library_path {
            notices::library(library);
            log::info!(path = path, version = version; "using another libdcgm for this engine");
            (self.report.library_path, self.report.library_version) = (path, version.to_owned());
        }
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
        self.engines.chooser.lost(Instant::now());
        Event::SessionLost(format!("the DCGM engine is gone ({error})"))
    }
}
