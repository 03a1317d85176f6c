//! One way to a session with a DCGM engine, for everybody who needs one: the exporter, `--once`, `--check` and `--list-fields`
//! use the same engine by the same library, or fail for the same reason.
//!
//! - [`selection`]: which engine is to be used next, and which listeners are trusted.

pub mod selection;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::config::engine::Address;
use crate::dcgm::{Error, Library, Major, Release, Session, abi};
use selection::{EngineChooser, Next};

/// How long libdcgm may try to connect inside one call; the waiting is done outside it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Opens sessions with the engine that was selected, by the library that fits it.
pub struct Opener {
    library: Arc<Library>,
    /// Of another release line, for a host engine of that line.
    other_library: Option<Arc<Library>>,
    /// The library was named, so no other one is wanted.
    is_library_named: bool,
    pub chooser: EngineChooser,
}

/// A session, and what it was begun with.
pub struct Opened {
    pub session: Session,
    /// Modules that an embedded engine was told not to load.
    pub denied_modules: Vec<u32>,
    /// The host engine that `auto` found and that is of no use, with the reason: this engine is used instead.
    pub refused: Option<(Address, Error)>,
}

impl Opener {
    pub fn new(library: Arc<Library>, config: &Config) -> Opener {
        Opener {
            library,
            other_library: None,
            is_library_named: config.libdcgm.is_some(),
            chooser: EngineChooser::new(config.engine.clone(), Instant::now()),
        }
    }

    /// The library that starts engines.
    pub fn library(&self) -> &Library {
        &self.library
    }

    /// Connects to the host engine that was selected, or starts an embedded one without the modules of `denied`. `tries`
    /// is told the host engine's address, or none for an embedded one, before each attempt.
    ///
    /// Errors: of the last attempt; -21 also while a host engine that was lost is waited for.
    pub fn open(&mut self, denied: Vec<u32>, mut tries: impl FnMut(Option<&Address>)) -> Result<Opened, Error> {
        let mut refused = None;
        match self.chooser.next(Instant::now()) {
            Next::Embedded => {}
            Next::AwaitReturn(address) => {
                tries(Some(&address));
                let text =
                    "the host engine is gone; if it does not return within 5 s, the exporter starts its own engine";
                return Err(Error::new("dcgmConnect_v2", abi::CONNECTION_NOT_VALID, text.to_owned()));
            }
            Next::Remote(address) => {
                tries(Some(&address));
                match self.connect(&address) {
                    Ok(session) => {
                        self.chooser.connected(&address);
                        return Ok(Opened { session, denied_modules: Vec::new(), refused });
                    }
                    Err(error) if self.chooser.refused(Instant::now()) => refused = Some((address, error)),
                    Err(error) => return Err(error),
                }
            }
        }
        tries(None);
        let session = Session::embedded(&self.library, &denied)?;
        Ok(Opened { session, denied_modules: denied, refused })
    }

    /// Connects with the library of the engine's release line: one of another line connects, and then sees nothing.
    fn connect(&mut self, address: &Address) -> Result<Session, Error> {
        let session = Session::remote(&self.library, address, CONNECT_TIMEOUT)?;
        let Some(why) = session.line_mismatch() else { return Ok(session) };
        let line = Release::parse(&session.engine_version()).and_then(Major::of);
        drop(session);
        let mismatch = Error::new("dcgmConnect_v2", abi::VER_MISMATCH, why);
        let Some(line) = line.filter(|_| !self.is_library_named) else { return Err(mismatch) };
        if self.other_library.as_ref().is_none_or(|other| other.major() != line) {
            match self.library.for_line(line) {
                Ok(library) => self.other_library = Some(Arc::new(library)),
                Err(error) => {
                    log::debug!("{error}");
                    return Err(mismatch);
                }
            }
        }
        let library = self.other_library.as_ref().unwrap_or(&self.library);
        Session::remote(library, address, CONNECT_TIMEOUT)
    }
}
