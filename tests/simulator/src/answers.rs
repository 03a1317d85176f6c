//! What the real libraries answered when each field was watched alone on each kind of entity.
//!
//! `answers/4.6.0.csv` and `answers/3.3.9.csv` have a row for each field and a column for each kind of entity. A cell is
//! `WATCH STATUS TYPE CLASS`: the code of the watch, status and type of the value that was read, and what it was:
//! `value`, or a kind of blank. A shorter cell is all that was answered; `no_field` and `no_entity` are -1 to the field
//! group and to adding the entity. An empty cell was not asked.

use std::collections::HashMap;

use crate::codes::{CONNECTX, CORE, CPU, Release, SWITCH};

const V4: &str = include_str!("../answers/4.6.0.csv");
const V3: &str = include_str!("../answers/3.3.9.csv");

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Gpu,
    SlicedGpu,
    Instance,
    ComputeInstance,
    GpuLink,
    Cpu,
    Core,
    Switch,
    SwitchLink,
    ConnectX,
}

impl Kind {
    /// In the order of the columns.
    const ALL: [Kind; 10] = [
        Kind::Gpu,
        Kind::SlicedGpu,
        Kind::Instance,
        Kind::ComputeInstance,
        Kind::GpuLink,
        Kind::Cpu,
        Kind::Core,
        Kind::Switch,
        Kind::SwitchLink,
        Kind::ConnectX,
    ];

    /// For groups that are one kind.
    pub fn of_group(group: u32) -> Option<Kind> {
        match group {
            SWITCH => Some(Kind::Switch),
            CPU => Some(Kind::Cpu),
            CORE => Some(Kind::Core),
            CONNECTX => Some(Kind::ConnectX),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Class {
    Value,
    Blank,
    NotFound,
    NotSupported,
}

/// What was answered to a watch and a read. No class: nothing was delivered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cell {
    pub watch: i32,
    pub status: i32,
    pub kind: u8,
    pub class: Option<Class>,
}

pub struct Table(HashMap<(u16, Kind), Cell>);

impl Table {
    /// The table of a release: of 3.3.9 or of 4.6.0, whichever is nearer.
    pub fn of(release: Release) -> Table {
        let text = if release < Release(4, 0, 0) { V3 } else { V4 };
        let mut cells = HashMap::new();
        for line in text.lines().skip(1) {
            let mut columns = line.split(',');
            let field = columns.next().and_then(|id| id.parse().ok()).expect("a field id");
            for (kind, text) in Kind::ALL.into_iter().zip(columns) {
                if let Some(cell) = cell(text) {
                    cells.insert((field, kind), cell);
                }
            }
        }
        Table(cells)
    }

    pub fn cell(&self, field: u16, kind: Kind) -> Option<Cell> {
        self.0.get(&(field, kind)).copied()
    }
}

fn cell(text: &str) -> Option<Cell> {
    let mut parts = text.split(' ');
    let watch = parts.next()?.parse().ok()?;
    let status = parts.next().and_then(|status| status.parse().ok()).unwrap_or(0);
    let kind = parts.next().map_or(0, |kind| kind.as_bytes()[0]);
    let class = parts.next().map(|class| match class {
        "value" | "binary" => Class::Value,
        "blank" => Class::Blank,
        "not_found" => Class::NotFound,
        "not_supported" => Class::NotSupported,
        other => panic!("no answer is called '{other}'"),
    });
    Some(Cell { watch, status, kind, class })
}
