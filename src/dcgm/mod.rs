//! libdcgm behind a safe face: everything that crosses the C border, and nothing that knows Prometheus.
//!
//! - [`fields`]: the names an administrator may write, and the ids behind them. Pure data.
//! - [`abi`]: C structs and constants, checked at compile time.
//! - [`library`]: finding and opening `libdcgm.so.4` or `.3`, and its symbols.
//! - [`engine`]: a session with an engine, embedded or remote; watches that clean up after themselves.
//! - [`hostengine`]: whether a host engine listens at an address.
//! - [`process`]: what libdcgm wants of the whole process, set before the first thread.
//! - [`inflight`]: which call is being waited for, so that a hang can be named.
//!
//! This module and `server::socket` are the only places with `unsafe`; each block says why it holds.

pub mod abi;
pub mod engine;
pub mod fields;
pub mod hostengine;
pub mod inflight;
pub mod library;
pub mod process;

pub use engine::{EntityGroup, EntityId, Reading, Session, Value, Watch};
pub use library::{Library, Major, OpenError};

use std::ffi::c_int;
use std::fmt;

/// A call into libdcgm that answered something other than 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The C function.
    pub call: &'static str,
    /// `dcgmReturn_t`: negative.
    pub code: c_int,
    /// The library's own words for the code.
    pub text: String,
}

impl Error {
    /// The engine is gone; nothing of this session works any more.
    pub fn is_connection_lost(&self) -> bool {
        self.code == abi::CONNECTION_NOT_VALID
    }

    /// The library, engine or hardware does not have this: absence, not failure.
    pub fn is_absence(&self) -> bool {
        matches!(self.code, abi::NOT_SUPPORTED | abi::MODULE_NOT_LOADED | abi::FUNCTION_NOT_FOUND)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.call, self.text, self.code)
    }
}

impl std::error::Error for Error {}

pub type Result<T> = std::result::Result<T, Error>;
