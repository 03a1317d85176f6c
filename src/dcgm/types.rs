//! What is asked of, and what is answered: entities, readings, values. C strings and blanks end here.

use std::borrow::Cow;
use std::ffi::{c_int, c_uint};

use super::abi::*;

/// `dcgm_field_entity_group_t`: what kind of thing an entity is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum EntityGroup {
    Gpu = 1,
    Switch = 3,
    /// A GPU instance of MIG.
    Instance = 4,
    /// A compute instance within a GPU instance.
    ComputeInstance = 5,
    Link = 6,
    Cpu = 7,
    Core = 8,
    ConnectX = 9,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityId {
    pub group: EntityGroup,
    pub id: u32,
}

impl EntityId {
    pub const fn new(group: EntityGroup, id: u32) -> EntityId {
        EntityId { group, id }
    }

    pub(super) fn from_c(group: c_uint, id: u32) -> Option<EntityId> {
        let group = match group {
            1 => EntityGroup::Gpu,
            3 => EntityGroup::Switch,
            4 => EntityGroup::Instance,
            5 => EntityGroup::ComputeInstance,
            6 => EntityGroup::Link,
            7 => EntityGroup::Cpu,
            8 => EntityGroup::Core,
            9 => EntityGroup::ConnectX,
            _ => return None,
        };
        Some(EntityId { group, id })
    }
}

/// One value as it lies in libdcgm's memory, seen from inside the callback.
#[derive(Debug)]
pub struct Reading<'a> {
    pub field: u16,
    /// `dcgmReturn_t` of this value alone.
    pub status: c_int,
    /// Microseconds since 1970 by DCGM's clock; 0 if nothing was sampled.
    pub timestamp: i64,
    pub value: Value<'a>,
}

#[derive(Debug, PartialEq)]
pub enum Value<'a> {
    Int(i64),
    Double(f64),
    Text(Cow<'a, str>),
    /// Nothing to show: no data, not supported, not permitted.
    Blank,
    /// Binary and time-stamp fields: no text form.
    Opaque,
}

/// A value as the callback gets it.
pub(super) fn reading(value: &FieldValue) -> Reading<'_> {
    // SAFETY: the field's type says which member libdcgm wrote; every bit pattern is an integer or a double, and
    // text is looked at as bytes, up to its NUL or the end of the member.
    let shown = unsafe {
        match value.field_type as u8 {
            b'i' => match value.value.i64 {
                number
                    if (INT32_BLANK..INT32_BLANK + 4).contains(&number)
                        || (INT64_BLANK..=INT64_BLANK + 3).contains(&number) =>
                {
                    Value::Blank
                }
                number => Value::Int(number),
            },
            b'd' => match value.value.dbl {
                number if is_blank_double(number) => Value::Blank,
                number => Value::Double(number),
            },
            b's' => {
                let member = &value.value.str;
                let bytes = std::slice::from_raw_parts(member.as_ptr().cast::<u8>(), member.len());
                let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
                match String::from_utf8_lossy(&bytes[..end]) {
                    text if is_blank_text(&text) => Value::Blank,
                    text => Value::Text(text),
                }
            }
            _ => Value::Opaque,
        }
    };
    Reading { field: value.field_id, status: value.status, timestamp: value.ts, value: shown }
}

fn is_blank_double(number: f64) -> bool {
    (0..4).any(|sub_code| number == FP64_BLANK + f64::from(sub_code))
}

pub(super) fn is_blank_text(text: &str) -> bool {
    matches!(
        text,
        "<<<NULL>>>" | "<<<NOT_FOUND>>>" | "<<<NOT_SUPPORTED>>>" | "<<<NOT_PERM>>>" | "<<<NOT_PERMISSIONED>>>"
    )
}
