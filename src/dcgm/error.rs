//! What a call into libdcgm can answer other than 0.

use std::ffi::c_int;
use std::fmt;

use super::abi;

/// A call that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The C function.
    pub call: &'static str,
    pub kind: ErrorKind,
    /// The library's own words for the code.
    pub text: String,
}

/// What the code means to whoever called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The engine is gone; nothing of this session works any more (-21). The only one that means so.
    ConnectionLost,
    /// The engine has no room for another group or field group; other clients may hold them (-24).
    NoRoom,
    /// The library, engine or hardware does not have this: absence, not failure (-6, -20, -36).
    Absent,
    /// The engine has not loaded the module that serves this (-33). Absence as well: no x86 engine has the one of CPUs.
    ModuleNotLoaded,
    /// A wrong argument, or an entity or field that does not exist (-1).
    BadParameter,
    /// Library and engine are of different release lines (-12).
    VersionMismatch,
    Other(c_int),
}

impl Error {
    pub fn new(call: &'static str, code: c_int, text: String) -> Error {
        let kind = match code {
            abi::CONNECTION_NOT_VALID => ErrorKind::ConnectionLost,
            abi::MAX_LIMIT => ErrorKind::NoRoom,
            abi::NOT_SUPPORTED | abi::FUNCTION_NOT_FOUND | abi::PROFILING_NOT_SUPPORTED => ErrorKind::Absent,
            abi::MODULE_NOT_LOADED => ErrorKind::ModuleNotLoaded,
            abi::BADPARAM => ErrorKind::BadParameter,
            abi::VER_MISMATCH => ErrorKind::VersionMismatch,
            other => ErrorKind::Other(other),
        };
        Error { call, kind, text: format!("{text} ({code})") }
    }

    pub fn is_connection_lost(&self) -> bool {
        self.kind == ErrorKind::ConnectionLost
    }

    /// What to look at where an embedded engine does not start.
    pub fn hint_of_start(&self) -> &'static str {
        match self.kind {
            ErrorKind::Other(abi::INIT_ERROR) => {
                "a lost GPU is one cause: nvidia-smi names the GPU that it cannot read, dmesg | grep -i xid says why"
            }
            _ => "see nvidia-smi and dmesg",
        }
    }

    pub fn is_absence(&self) -> bool {
        matches!(self.kind, ErrorKind::Absent | ErrorKind::ModuleNotLoaded)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, self.text)
    }
}

impl std::error::Error for Error {}

pub type Result<T> = std::result::Result<T, Error>;
