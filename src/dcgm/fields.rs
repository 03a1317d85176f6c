//! Field names and the ids behind them: what an administrator may write in a counters file.
//!
//! The names are those of DCGM's headers from 3.3.9 to 4.7, classic and renamed, and the lower-case ones of
//! dcgm-exporter 1.x. Whether the *loaded* library has a field is asked of the library, not of this table. Pure data:
//! nothing here knows an engine.

use std::collections::HashSet;
use std::sync::LazyLock;

/// `name,id,value_type,entity_level,first_release`, sorted by id.
static FIELDS: &str = include_str!("fields.csv");

/// `name,id,value_type,classic_id,factor`: base-unit fields of DCGM 4.7.
static BASE_UNITS: &str = include_str!("base-units.csv");

/// `DCGM_FI_BIND_UNBIND_EVENT`, a field of the system since DCGM 4.5: 1 while GPUs are attached or detached, 2 when that
/// is done. No sample before the first event.
pub const BIND_UNBIND_EVENT: u16 = 6;

/// Longer than any name below.
const LONGEST_NAME: usize = 96;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    Int64,
    Double,
    Text,
    Binary,
    /// Range markers, which are no fields.
    None,
}

impl ValueType {
    fn parse(text: &str) -> ValueType {
        match text {
            "int64" => ValueType::Int64,
            "double" => ValueType::Double,
            "string" => ValueType::Text,
            "binary" => ValueType::Binary,
            _ => ValueType::None,
        }
    }
}

/// A known name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Field {
    pub name: &'static str,
    pub id: u16,
    pub value_type: ValueType,
    /// For a base-unit field: the classic field that libraries before 4.7 have in its place.
    pub classic: Option<Classic>,
}

/// A classic field and what its value is to be multiplied by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Classic {
    pub id: u16,
    pub value_type: ValueType,
    pub factor: f64,
}

/// Looks a name up, case-sensitively.
///
/// Base-unit names come first: DCGM 4.6's header uses one of them (`DCGM_FI_DEV_GPU_UTIL_RATIO`) for a percentage.
pub fn by_name(name: &str) -> Option<Field> {
    // Names with their rows: a third of the memory of a map of fields, and rows are read fast enough for 2,000 of them.
    static BY_NAME: LazyLock<Box<[(&str, u16)]>> = LazyLock::new(|| {
        let mut rows: Box<[(&str, u16)]> = base_units().chain(fields()).map(|field| field.name).zip(0..).collect();
        rows.sort_unstable();
        rows
    });
    let first = BY_NAME.partition_point(|(known, _)| *known < name);
    let (_, row) = BY_NAME.get(first).filter(|(known, _)| *known == name)?;
    base_units().chain(fields()).nth(usize::from(*row))
}

/// The name that a field has had for longest.
pub fn name_of(id: u16) -> &'static str {
    let names = rows(FIELDS).zip(fields()).filter(|([name, ..], field)| field.id == id && name.starts_with("DCGM_"));
    let oldest = names.min_by_key(|([.., release], _)| *release).map(|(_, field)| field);
    oldest.or_else(|| base_units().find(|field| field.id == id)).map_or("a field without a name", |field| field.name)
}

/// A known name with the kind of entity that has the field, as DCGM's headers have it.
#[derive(Debug, Clone, Copy)]
pub struct Listed {
    pub field: Field,
    pub entity: &'static str,
}

/// All known names, by id.
pub fn all() -> impl Iterator<Item = Listed> {
    let with_entity = fields().zip(rows(FIELDS)).map(|(field, [_, _, _, entity, _])| Listed { field, entity });
    // Of the two fields of one name, the base unit's counts: see `by_name`.
    let mut named: HashSet<&str> = base_units().map(|field| field.name).collect();
    let with_entity = with_entity.filter(move |listed| named.insert(listed.field.name));
    with_entity.chain(base_units().map(|field| {
        let id = field.classic.map_or(field.id, |classic| classic.id);
        let same = fields().zip(rows(FIELDS)).find(|(field, _)| field.id == id);
        Listed { field, entity: same.map_or("gpu", |(_, [_, _, _, entity, _])| entity) }
    }))
}

/// The unit of a field, where a name of it or a base-unit field in its place tells.
pub fn unit(field: &Field) -> Option<&'static str> {
    const SUFFIXES: [(&str, &str); 11] = [
        ("_BYTES_PER_SECOND", "B/s"),
        ("_CELSIUS", "Celsius"),
        ("_WATTS", "W"),
        ("_HERTZ", "Hz"),
        ("_JOULES_TOTAL", "J"),
        ("_SECONDS_TOTAL", "s"),
        ("_NS", "ns"),
        ("_BYTES_TOTAL", "B"),
        ("_RATIO", "0..1"),
        ("_PERCENT", "%"),
        ("_BYTES", "B"),
    ];
    const FACTORS: [(f64, &str); 5] =
        [(1_048_576.0, "MiB"), (1_000_000.0, "MHz"), (0.001, "mJ"), (0.01, "%"), (0.000_000_001, "ns")];

    let converted = base_units().find_map(|base| base.classic.filter(|classic| classic.id == field.id));
    if let Some(classic) = converted {
        return FACTORS.into_iter().find(|(factor, _)| *factor == classic.factor).map(|(_, unit)| unit);
    }
    // Profiling fields of that name are rates.
    if (1000..1080).contains(&field.id) && field.name.ends_with("_BYTES") {
        return Some("B/s");
    }
    let names = [field.name].into_iter().chain(fields().filter(|other| other.id == field.id).map(|other| other.name));
    let units: Vec<&str> = names
        .filter_map(|name| SUFFIXES.into_iter().find(|(suffix, _)| name.ends_with(suffix)).map(|(_, unit)| unit))
        .collect();
    // A name in a base unit is more exact than one in percent for the same number.
    units.iter().find(|unit| **unit != "%").or(units.first()).copied()
}

/// Names that public counters files have and DCGM does not, and what they mean.
const OF_OTHERS: [(&str, &str); 4] = [
    ("DCGM_FI_DEV_MEM_USED", "DCGM_FI_DEV_FB_USED"),
    ("DCGM_FI_DEV_MEM_FREE", "DCGM_FI_DEV_FB_FREE"),
    ("DCGM_FI_DEV_MEM_TOTAL", "DCGM_FI_DEV_FB_TOTAL"),
    ("DCGM_FI_DEV_GPU_UTILIZATION", "DCGM_FI_DEV_GPU_UTIL"),
];

/// The known names most like this one, best first; for error messages.
pub fn nearest(name: &str, others: &[&'static str]) -> Vec<&'static str> {
    // Comparing is slow, and a name longer than any known one is no slip.
    if name.len() > LONGEST_NAME {
        return Vec::new();
    }
    if let Some((_, known)) = OF_OTHERS.iter().find(|(other, _)| *other == name) {
        return vec![known];
    }
    let mut scored: Vec<(f64, &'static str)> = base_units()
        .chain(fields())
        .map(|field| field.name)
        .chain(others.iter().copied())
        .map(|known| (strsim::jaro_winkler(&name.to_ascii_uppercase(), &known.to_ascii_uppercase()), known))
        .filter(|(score, _)| *score > 0.85)
        .map(|(_, known)| (strsim::normalized_damerau_levenshtein(name, known), known))
        .filter(|(score, _)| *score > 0.6)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.dedup_by_key(|(_, known)| *known);
    scored.into_iter().take(3).map(|(_, known)| known).collect()
}

fn fields() -> impl Iterator<Item = Field> {
    rows(FIELDS).map(|[name, id, value_type, ..]| Field {
        name,
        id: id.parse().unwrap_or(0),
        value_type: ValueType::parse(value_type),
        classic: None,
    })
}

fn base_units() -> impl Iterator<Item = Field> {
    rows(BASE_UNITS).map(|[name, id, value_type, classic_id, factor]| Field {
        name,
        id: id.parse().unwrap_or(0),
        value_type: ValueType::parse(value_type),
        classic: factor.parse().ok().zip(classic_id.parse().ok()).map(|(factor, id)| Classic {
            id,
            value_type: fields().find(|field| field.id == id).map_or(ValueType::None, |field| field.value_type),
            factor,
        }),
    })
}

/// Both tables are ours, five plain columns without quotes; the tests below read every row.
fn rows(table: &'static str) -> impl Iterator<Item = [&'static str; 5]> {
    table.lines().skip(1).map(|line| {
        let mut columns = line.split(',');
        std::array::from_fn(|_| columns.next().unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_whole() {
        for field in fields() {
            assert!(!field.name.is_empty());
            let is_marker = field.value_type == ValueType::None;
            assert!(field.id != 0 || is_marker, "{} has no id", field.name);
        }
        for [name, id, value_type, classic, factor] in rows(BASE_UNITS) {
            assert!(id.parse::<u16>().is_ok() && classic.parse::<u16>().is_ok(), "{name}");
            assert_ne!(ValueType::parse(value_type), ValueType::None, "{name}");
            assert!(factor.is_empty() || factor.parse::<f64>().is_ok(), "{name}");
        }
    }

    #[test]
    fn units_of_classic_renamed_and_base_unit_names() {
        let unit = |name: &str| unit(&by_name(name).unwrap());
        for (name, expected) in [
            ("DCGM_FI_DEV_FB_USED", Some("MiB")),
            ("DCGM_FI_DEV_FB_USED_BYTES", Some("B")),
            ("DCGM_FI_DEV_SM_CLOCK", Some("MHz")),
            ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", Some("mJ")),
            ("DCGM_FI_DEV_GPU_UTIL", Some("%")),
            ("DCGM_FI_DEV_FB_USED_PERCENT", Some("0..1")),
            ("DCGM_FI_DEV_GPU_TEMP", Some("Celsius")),
            ("DCGM_FI_DEV_POWER_VIOLATION", Some("ns")),
            ("DCGM_FI_PROF_PCIE_TX_BYTES", Some("B/s")),
            ("DCGM_FI_DEV_XID_ERRORS", None),
        ] {
            assert_eq!(unit(name), expected, "{name}");
        }
        assert!(all().all(|listed| by_name(listed.field.name) == Some(listed.field)));
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = fields().chain(base_units()).map(|field| field.name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn classic_renamed_legacy_and_base_unit_names() {
        assert_eq!(by_name("DCGM_FI_DEV_GPU_TEMP").map(|f| f.id), Some(150));
        assert_eq!(by_name("DCGM_FI_DEV_XID_ERROR").map(|f| f.id), Some(230));
        assert_eq!(by_name("dcgm_gpu_temp").map(|f| f.id), Some(150));
        assert_eq!(by_name("dcgm_fi_dev_gpu_temp"), None);
        let ratio = by_name("DCGM_FI_DEV_GPU_UTIL_RATIO").unwrap();
        assert_eq!((ratio.id, ratio.classic.unwrap().id, ratio.classic.unwrap().factor), (1613, 203, 0.01));
        assert_eq!(by_name("DCGM_FI_DEV_NVLINK_THROUGHPUT_BYTES_PER_SECOND").unwrap().classic, None);
    }

    #[test]
    fn a_slip_of_the_pen_is_recognised() {
        assert_eq!(nearest("DCGM_FI_DEV_GPU_TMP", &[])[0], "DCGM_FI_DEV_GPU_TEMP");
        assert_eq!(nearest("DCGM_EXP_XID_ERROR_COUNT", &["DCGM_EXP_XID_ERRORS_COUNT"])[0], "DCGM_EXP_XID_ERRORS_COUNT");
        assert!(nearest("temperature", &[]).is_empty());
        assert_eq!(nearest("DCGM_FI_DEV_MEM_USED", &[]), ["DCGM_FI_DEV_FB_USED"]);
        assert!(OF_OTHERS.iter().all(|(other, known)| by_name(other).is_none() && by_name(known).is_some()));
    }
}
