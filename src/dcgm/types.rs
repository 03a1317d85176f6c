//! What is asked of, and what is answered: entities, readings, values. C strings and blanks end here.

use std::borrow::Cow;
use std::ffi::{c_int, c_uint};

use super::abi::*;
use super::bounds;

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

impl EntityGroup {
    /// The word for one of its entities.
    pub fn name(self) -> &'static str {
        match self {
            EntityGroup::Gpu => "GPU",
            EntityGroup::Switch => "NVSwitch",
            EntityGroup::Instance => "GPU instance",
            EntityGroup::ComputeInstance => "compute instance",
            EntityGroup::Link => "link",
            EntityGroup::Cpu => "CPU",
            EntityGroup::Core => "core",
            EntityGroup::ConnectX => "ConnectX",
        }
    }
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
#[derive(Debug, PartialEq)]
pub struct Reading<'a> {
    pub field: u16,
    /// `dcgmReturn_t` of this value alone.
    pub status: c_int,
    /// Microseconds since 1970 by DCGM's clock; 0 if nothing was sampled.
    pub timestamp: i64,
    pub value: Value<'a>,
}

impl Reading<'_> {
    /// The engine watches the field and has no sample of it: nothing to sample has happened (-14).
    pub fn has_no_data(&self) -> bool {
        self.status == NO_DATA
    }

    /// The hardware or its driver does not have the field, as the status (-6) or the blank says; -8 is what a port register
    /// answers that cannot be read.
    pub fn is_unsupported(&self) -> bool {
        self.value == Value::NotSupported || matches!(self.status, NOT_SUPPORTED | NVML_ERROR)
    }
}

#[derive(Debug, PartialEq)]
pub enum Value<'a> {
    Int(i64),
    Double(f64),
    Text(Cow<'a, str>),
    /// Nothing to show: no data, not permitted, or a value that cannot be.
    Blank,
    /// Nothing to show: the hardware does not have it.
    NotSupported,
    /// Binary and time-stamp fields: no text form.
    Opaque,
}

impl Value<'_> {
    pub fn is_blank(&self) -> bool {
        matches!(self, Value::Blank | Value::NotSupported)
    }
}

/// A value as the callback gets it. One with a status other than 0 is blank whatever it holds: DCGM 3.3 answers "no
/// data" with a 0.
pub(super) fn reading(value: &FieldValue) -> Reading<'_> {
    let FieldValue { field_id, field_type, status, ts, value, .. } = value;
    reading_of(*field_id, *field_type, *status, *ts, value)
}

/// The same of a live read.
pub(super) fn live_reading(value: &EntityFieldValue) -> Reading<'_> {
    let EntityFieldValue { field_id, field_type, status, ts, value, .. } = value;
    reading_of(*field_id, *field_type, *status, *ts, value)
}

fn reading_of(field: u16, field_type: u16, status: c_int, timestamp: i64, value: &FieldValueData) -> Reading<'_> {
    if status != OK {
        return Reading { field, status, timestamp, value: Value::Blank };
    }
    // SAFETY: the field's type says which member libdcgm wrote; every bit pattern is an integer or a double, and
    // text is looked at as bytes, up to its NUL or the end of the member.
    let shown = unsafe {
        match field_type as u8 {
            b'i' => match value.i64 {
                number if number == INT32_BLANK + NOT_SUPPORTED_CODE || number == INT64_BLANK + NOT_SUPPORTED_CODE => {
                    Value::NotSupported
                }
                number
                    if (INT32_BLANK..INT32_BLANK + 4).contains(&number)
                        || (INT64_BLANK..=INT64_BLANK + 3).contains(&number) =>
                {
                    Value::Blank
                }
                number if !bounds::holds(field, number as f64) => Value::Blank,
                number => Value::Int(number),
            },
            b'd' => match value.dbl {
                number if number == FP64_BLANK + NOT_SUPPORTED_CODE as f64 => Value::NotSupported,
                number if is_blank_double(number) => Value::Blank,
                number if !bounds::holds(field, number) => Value::Blank,
                number => Value::Double(number),
            },
            b's' => {
                let bytes = std::slice::from_raw_parts(value.str.as_ptr().cast::<u8>(), value.str.len());
                let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
                match String::from_utf8_lossy(&bytes[..end]) {
                    text if text == TEXT_NOT_SUPPORTED => Value::NotSupported,
                    text if is_blank_text(&text) => Value::Blank,
                    text => Value::Text(text),
                }
            }
            _ => Value::Opaque,
        }
    };
    Reading { field, status, timestamp, value: shown }
}

/// The blank that means "not supported" is so much above the plain one.
const NOT_SUPPORTED_CODE: i64 = 2;
const TEXT_NOT_SUPPORTED: &str = "<<<NOT_SUPPORTED>>>";

fn is_blank_double(number: f64) -> bool {
    (0..4).any(|sub_code| number == FP64_BLANK + f64::from(sub_code))
}

pub(super) fn is_blank_text(text: &str) -> bool {
    matches!(text, "<<<NULL>>>" | "<<<NOT_FOUND>>>" | TEXT_NOT_SUPPORTED | "<<<NOT_PERM>>>" | "<<<NOT_PERMISSIONED>>>")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(field_type: u8, status: c_int, data: FieldValueData) -> FieldValue {
        FieldValue { version: 0, field_id: 150, field_type: field_type.into(), status, ts: 7, value: data }
    }

    fn text(text: &str) -> FieldValueData {
        let mut member = [0; 256];
        for (place, byte) in member.iter_mut().zip(text.bytes()) {
            *place = byte as std::ffi::c_char;
        }
        FieldValueData { str: member }
    }

    #[test]
    fn a_failed_sample_is_blank_whatever_it_holds() {
        for status in [-6, -14, -16, -33, 1] {
            let zero = value(b'i', status, FieldValueData { i64: 0 });
            assert_eq!(reading(&zero), Reading { field: 150, status, timestamp: 7, value: Value::Blank });
            assert_eq!(reading(&value(b'd', status, FieldValueData { dbl: 0.0 })).value, Value::Blank);
            assert_eq!(reading(&value(b's', status, text("GPU"))).value, Value::Blank);
            assert_eq!(reading(&value(b'b', status, text(""))).value, Value::Blank);
        }
    }

    #[test]
    fn values_and_blanks() {
        let of = |field_type, data| {
            let value = value(field_type, 0, data);
            format!("{:?}", reading(&value).value)
        };
        assert_eq!(of(b'i', FieldValueData { i64: 0 }), "Int(0)");
        assert_eq!(of(b'i', FieldValueData { i64: INT64_BLANK + 2 }), "NotSupported");
        assert_eq!(of(b'i', FieldValueData { i64: INT32_BLANK }), "Blank");
        assert_eq!(of(b'd', FieldValueData { dbl: FP64_BLANK + 2.0 }), "NotSupported");
        assert_eq!(of(b's', text("<<<NOT_SUPPORTED>>>")), "NotSupported");
        assert_eq!(of(b'd', FieldValueData { dbl: 0.5 }), "Double(0.5)");
        assert_eq!(of(b'd', FieldValueData { dbl: FP64_BLANK + 3.0 }), "Blank");
        assert_eq!(of(b's', text("580.1")), "Text(\"580.1\")");
        assert_eq!(of(b's', text("<<<NULL>>>")), "Blank");
        assert_eq!(of(b'b', text("")), "Opaque");
    }
}
