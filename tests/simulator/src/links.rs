//! Links: how their ids are packed, which link a field speaks of, and values that tell one link from another.

use crate::codes::{Entity, GPU, LINK, Release};
use crate::values::Value;

/// A link by its parent (an entity group and an id) and its number there, from 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    pub parent_kind: u32,
    pub parent: u32,
    pub index: u32,
}

/// 8 bits of kind, then 8 of index and 16 of parent in DCGM 3, 16 and 8 from 4 on. The header of 4.0.0 to 4.2.3 is
/// wrong: the parent does not fit, and is lost.
pub fn unpack(release: Release, id: u32) -> Link {
    let parent_kind = id & 0xff;
    match release {
        Release(..=3, ..) => Link { parent_kind, index: id >> 8 & 0xff, parent: id >> 16 },
        release if release < Release(4, 3, 1) => Link { parent_kind, index: id >> 8 & 0xffff, parent: 0 },
        _ => Link { parent_kind, index: id >> 8 & 0xffff, parent: id >> 24 },
    }
}

pub fn pack(release: Release, link: Link) -> Entity {
    let Link { parent_kind, index, parent } = link;
    let shift = if release < Release(4, 0, 0) { 16 } else { 24 };
    (LINK, parent_kind | index << 8 | parent << shift)
}

/// Fields that DCGM reads link by link. It does not note when it last did, so each look reads them again.
pub fn is_always_due(field: u16) -> bool {
    matches!(field, 580..=592 | 1508 | 1509 | 1525..=1533)
}

/// Fields whose samples have no expiry, and whose failed read answers a live read with two values instead of one.
pub fn is_kept_for_ever(field: u16) -> bool {
    matches!(field, 580 | 1508 | 1509)
}

/// Port registers: a read that fails has no sample.
pub fn is_register(field: u16) -> bool {
    matches!(field, 581..=592)
}

/// Served by the driver's PRM registers, whose local ports count from 1.
fn is_served_by_port(field: u16) -> bool {
    matches!(field, 580..=592 | 1509)
}

/// The link of a GPU that a field speaks of, from 0. 4.6 adds 1 to what it asks PRM for, except for field 1509; earlier
/// releases never did.
pub fn spoken_of(release: Release, field: u16, index: u32) -> Option<u32> {
    let shifted = release >= Release(4, 6, 0) && field != 1509;
    if is_served_by_port(field) && !shifted { index.checked_sub(1) } else { Some(index) }
}

/// Whether links of GPUs have this field. `replay` gives them values.
pub fn has_field(field: u16) -> bool {
    matches!(field, 580..=592 | 1200..=1219 | 1404..=1419 | 1508 | 1509 | 1525..=1533)
}

/// What a link of a GPU answers: GPU × 1,000,000 + link × 10,000 + field.
pub fn value(kind: u8, gpu: u32, link: u32, field: u16) -> Value {
    let number = i64::from(gpu) * 1_000_000 + i64::from(link) * 10_000 + i64::from(field);
    match kind {
        b'i' => Value::Int(number),
        b'd' => Value::Double(number as f64),
        b's' => Value::Text(format!("link {link} of GPU {gpu}").into()),
        _ => Value::Binary,
    }
}

/// The GPU that a link belongs to.
pub fn gpu(release: Release, id: u32) -> Option<u32> {
    let link = unpack(release, id);
    (link.parent_kind == GPU).then_some(link.parent)
}
