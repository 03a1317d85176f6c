//! Return codes and the other numbers of DCGM's interface.

pub const BADPARAM: i32 = -1;
pub const NOT_CONFIGURED: i32 = -5;
pub const NOT_SUPPORTED: i32 = -6;
pub const INIT_ERROR: i32 = -7;
pub const NVML_ERROR: i32 = -8;
pub const UNINITIALIZED: i32 = -10;
pub const VER_MISMATCH: i32 = -12;
pub const NO_DATA: i32 = -14;
pub const GENERIC_ERROR: i32 = -3;
pub const NOT_WATCHED: i32 = -16;
pub const GPU_IS_LOST: i32 = -18;
pub const FUNCTION_NOT_FOUND: i32 = -20;
pub const CONNECTION_NOT_VALID: i32 = -21;
pub const MAX_LIMIT: i32 = -24;
pub const INSUFFICIENT_SIZE: i32 = -31;
pub const FIELD_UNSUPPORTED_BY_API: i32 = -32;
pub const MODULE_NOT_LOADED: i32 = -33;
pub const GROUP_IS_EMPTY: i32 = -35;
pub const PROFILING_NOT_SUPPORTED: i32 = -36;
pub const PROFILING_LIBRARY_ERROR: i32 = -37;

/// (entity group, entity id).
pub type Entity = (u32, u32);

pub const GPU: u32 = 1;
pub const SWITCH: u32 = 3;
pub const INSTANCE: u32 = 4;
pub const COMPUTE_INSTANCE: u32 = 5;
pub const LINK: u32 = 6;
pub const CPU: u32 = 7;
pub const CORE: u32 = 8;
pub const CONNECTX: u32 = 9;

pub const MODULE_NVSWITCH: u32 = 1;
pub const MODULE_HEALTH: u32 = 4;
pub const MODULE_SYSMON: u32 = 9;

pub const FIELD_BIND_UNBIND: u16 = 6;
pub const FIELD_COMPUTE_CAPABILITY: u16 = 63;
pub const FIELD_XID: u16 = 230;

/// Averages between two samples.
pub fn is_profiling(field: u16) -> bool {
    matches!(field, 1001..=1099 | 1532 | 1533)
}

/// A version by its numbers, for comparing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release(pub u32, pub u32, pub u32);

impl Release {
    pub fn parse(text: &str) -> Release {
        let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
        let mut part = || parts.next().unwrap_or(0);
        Release(part(), part(), part())
    }
}
