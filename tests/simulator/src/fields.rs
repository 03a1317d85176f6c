//! The fields that a release has, as DCGM's own table lists them.

use std::collections::HashMap;

use crate::codes::Release;

/// `value_type` and `entity_level` of a field, as DCGM's table has them.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    pub kind: u8,
    pub level: i32,
}

static FIELDS: &str = include_str!("../../../src/dcgm/fields.csv");
static BASE_UNITS: &str = include_str!("../../../src/dcgm/base-units.csv");

/// Fields that a release has, by id.
pub fn of(release: Release) -> HashMap<u16, Field> {
    let mut fields = HashMap::new();
    for line in FIELDS.lines().skip(1) {
        let columns: Vec<&str> = line.split(',').collect();
        if columns[2] == "none" || Release::parse(columns[4]) > release {
            continue;
        }
        fields.insert(columns[1].parse().unwrap(), Field { kind: kind(columns[2]), level: level(columns[3]) });
    }
    for line in BASE_UNITS.lines().skip(1).filter(|_| release >= Release(4, 7, 0)) {
        let columns: Vec<&str> = line.split(',').collect();
        fields.insert(columns[1].parse().unwrap(), Field { kind: kind(columns[2]), level: level("gpu") });
    }
    fields
}

fn kind(text: &str) -> u8 {
    match text {
        "int64" => b'i',
        "double" => b'd',
        "string" => b's',
        _ => b'b',
    }
}

fn level(text: &str) -> i32 {
    const LEVELS: [&str; 10] = [
        "global",
        "gpu",
        "vgpu",
        "nvswitch",
        "gpu_instance",
        "compute_instance",
        "link",
        "cpu",
        "cpu_core",
        "connectx",
    ];
    LEVELS.iter().position(|known| *known == text).unwrap_or(0) as i32
}
