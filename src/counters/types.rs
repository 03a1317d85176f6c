//! Fields whose type in counters files is usually wrong, or would be.
//!
//! A rate typed as counter makes `rate()` of a rate; a counter typed as gauge hides resets. The page follows the file
//! all the same, because dashboards do; `--check-counters` says what it should be.

use std::ops::RangeInclusive;

use super::{Counters, MetricType, Row, Source};

/// Ids, the type they are, and why.
const TYPES: &[(RangeInclusive<u16>, MetricType, &str)] = {
    const G: MetricType = MetricType::Gauge;
    const C: MetricType = MetricType::Counter;
    const RATE: &str = "it is a rate, not a running total";
    const LEVEL: &str = "its value goes up and down";
    const TOTAL: &str = "it is a running total";
    &[
        (4..=4, G, LEVEL),
        (100..=115, G, LEVEL),
        (140..=155, G, LEVEL),
        (156..=156, C, TOTAL),
        (157..=164, G, LEVEL),
        (190..=191, G, LEVEL),
        (200..=201, G, RATE),
        (202..=202, C, TOTAL),
        (203..=207, G, LEVEL),
        (230..=230, G, "it is the code of the last error; DCGM_EXP_XID_ERRORS_TOTAL counts"),
        (240..=247, C, TOTAL),
        (250..=254, G, LEVEL),
        (310..=313, C, TOTAL),
        (400..=439, C, TOTAL),
        (440..=449, G, RATE),
        (475..=480, G, RATE),
        (494..=496, G, RATE),
        (825..=843, G, RATE),
        (879..=897, G, RATE),
        (1001..=1008, G, LEVEL),
        (1009..=1012, G, RATE),
        (1013..=1039, G, LEVEL),
        (1040..=1075, G, RATE),
        (1100..=1133, G, LEVEL),
    ]
};

/// What a row's type should be, if it is a gauge for a counter or a counter for a gauge.
fn warning(row: &Row) -> Option<String> {
    let Source::Field(field) = row.source else { return None };
    let (_, right, why) = TYPES.iter().find(|(ids, ..)| ids.contains(&field.id))?;
    let is_number = matches!(row.kind, MetricType::Gauge | MetricType::Counter);
    (is_number && row.kind != *right)
        .then(|| format!("{} is typed {} but is a {}: {why}", row.name, row.kind.as_str(), right.as_str()))
}

/// What is wrong with a measurement that is to be a label.
pub fn changing_label(row: &Row) -> Option<String> {
    let Source::Field(field) = row.source else { return None };
    let (_, right, _) = TYPES.iter().find(|(ids, ..)| ids.contains(&field.id))?;
    (row.kind == MetricType::Label).then(|| {
        let (name, right) = (&row.name, right.as_str());
        format!(
            "{name} is a label, but its value changes, and every change makes new series of all metrics; use {right}"
        )
    })
}

/// Everything odd about a counters file that can be used, by line.
pub fn warnings(counters: &Counters) -> Vec<(u64, String)> {
    let of_rows = counters.rows.iter().filter_map(|row| Some((row.line, warning(row)?)));
    let of_file = counters.warnings.iter().cloned().chain(conflicts(counters));
    let mut warnings: Vec<(u64, String)> = of_rows.chain(of_file).collect();
    warnings.sort();
    warnings
}

/// Fields that spoil each other on known hardware: both ranges in one file, and what happens.
const CONFLICTS: &[(RangeInclusive<u16>, RangeInclusive<u16>, &str)] = &[(
    310..=310,
    1200..=1219,
    "on GB200 neither has a value while both are watched (DCGM 4.4.1); use only one of them there",
)];

/// A warning for each pair of fields that spoil each other, at the line of the row that completes it.
pub fn conflicts(counters: &Counters) -> Vec<(u64, String)> {
    let first = |ids: &RangeInclusive<u16>| {
        counters.rows.iter().find(|row| matches!(row.source, Source::Field(field) if ids.contains(&field.id)))
    };
    let both = CONFLICTS.iter().filter_map(|(one, other, what)| Some((first(one)?, first(other)?, what)));
    both.map(|(one, other, what)| (one.line.max(other.line), format!("{} and {}: {what}", one.name, other.name)))
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::counters::Counters;

    #[test]
    fn rates_and_totals_are_told_apart() {
        let file = "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL, counter, a\nDCGM_FI_PROF_PCIE_TX_BYTES, counter, b\n\
                    DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION, gauge, c\nDCGM_FI_DEV_GPU_TEMP, gauge, d\nDCGM_FI_DRIVER_VERSION, label, e\n";
        let rows = Counters::parse(file.as_bytes(), &[]).unwrap().rows;
        let warnings: Vec<Option<String>> = rows.iter().map(super::warning).collect();
        assert!(warnings[0].as_ref().unwrap().contains("is a gauge: it is a rate"), "{warnings:?}");
        assert!(warnings[1].as_ref().unwrap().contains("is a gauge"), "{warnings:?}");
        assert!(warnings[2].as_ref().unwrap().contains("is a counter"), "{warnings:?}");
        assert_eq!(warnings[3..], [None, None]);
    }
}
