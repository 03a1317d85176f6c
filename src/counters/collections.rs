//! Which row has which interval: the patterns of the configuration file's collections, by the rules of dcgm-exporter.
//!
//! A pattern is for the name of a field as the row has it. A field may be in one collection, and a collection has at
//! least one field; metrics that the exporter computes follow the rest of the fields.

use super::{Row, Source};
use crate::config::Config;
use crate::config::file::Collection;
use crate::config::yaml::Problem;

/// Gives the rows their intervals.
///
/// Errors: a field in two collections, a collection without a field; each with the collection's place.
pub fn assign(rows: &mut [Row], config: &Config) -> Result<(), Vec<Problem>> {
    let mut problems = Vec::new();
    let mut of_rows: Vec<Option<&Collection>> = vec![None; rows.len()];
    for collection in &config.collections {
        let mut has_any = false;
        for (row, of_row) in rows.iter().zip(&mut of_rows).filter(|(row, _)| matches!(row.source, Source::Field(_))) {
            if !collection.patterns.iter().any(|pattern| pattern.matches(&row.name)) {
                continue;
            }
            has_any = true;
            match of_row {
                None => *of_row = Some(collection),
                Some(first) => problems.push(in_two(&row.name, first, collection)),
            }
        }
        if !has_any {
            let patterns: Vec<&str> = collection.patterns.iter().map(|pattern| pattern.as_str()).collect();
            let computed = rows.iter().filter(|row| matches!(row.source, Source::Computed(_)));
            let mut computed = computed.filter(|row| collection.patterns.iter().any(|p| p.matches(&row.name)));
            let why = match computed.next() {
                Some(row) => format!(
                    "{} is computed by the exporter and cannot have an interval of its own; remove the collection",
                    row.name
                ),
                None => {
                    format!("correct the pattern, or add a row for a field to {}", config.counters_file().display())
                }
            };
            let what = format!(
                "collection '{}' ({}) matches no field of the counters; {why}",
                collection.name,
                patterns.join(", ")
            );
            problems.push(Problem { at: collection.at, what });
        }
    }
    one_of_each_field(rows, &of_rows, config, &mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    for (row, collection) in rows.iter_mut().zip(of_rows) {
        row.interval = collection.map(|collection| collection.interval);
    }
    Ok(())
}

/// Two rows of one field, such as a name and its older one, are sampled together.
fn one_of_each_field(rows: &[Row], of_rows: &[Option<&Collection>], config: &Config, problems: &mut Vec<Problem>) {
    let id = |row: &Row| match row.source {
        Source::Field(field) => Some(field.id),
        Source::Computed(_) => None,
    };
    for (index, (row, collection)) in rows.iter().zip(of_rows).enumerate() {
        let Some(collection) = collection else { continue };
        let others =
            rows.iter().zip(of_rows).enumerate().filter(|(at, (other, _))| *at != index && id(other) == id(row));
        for (at, (other, of_other)) in others {
            match of_other {
                Some(first) if first.name == collection.name => {}
                // Reported with the other one.
                Some(_) if at > index => {}
                Some(first) => problems.push(in_two(&format!("{} ({})", row.name, other.name), first, collection)),
                None if collection.interval == config.interval => {}
                None => problems.push(Problem {
                    at: collection.at,
                    what: format!(
                        "{} in the collection '{}' is the same field as {}, which is not in it; add that name, or leave \
                         one of them out",
                        row.name, collection.name, other.name
                    ),
                }),
            }
        }
    }
}

fn in_two(field: &str, first: &Collection, second: &Collection) -> Problem {
    let what = format!(
        "{field} is in two collections, '{}' (line {}) and '{}'; take it out of one of them",
        first.name, first.at.line, second.name
    );
    Problem { at: second.at, what }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::config::file::ConfigFile;
    use crate::counters::{Counters, Error};

    /// Reads inline rows and groups of version 1.
    fn read(rows: &[&str], groups: &str) -> Result<Vec<(String, Option<u64>)>, String> {
        let fields: String =
            rows.iter().map(|row| format!("    - {{name: {row}, prometheusType: gauge, help: h}}\n")).collect();
        let text = format!("version: 1\nmetrics:\n  fields:\n{fields}collection:\n  watchGroups:\n{groups}");
        let file = ConfigFile::parse(text.as_bytes()).map_err(|problems| format!("{problems:?}"))?;
        let config = Config {
            config_file: Some(PathBuf::from("c.yaml")),
            rows: file.rows,
            collections: file.collections,
            interval: Duration::from_secs(30),
            ..Config::default()
        };
        let counters =
            Counters::of(&config, &["DCGM_EXP_XID_ERRORS_COUNT"]).map_err(|error: Error| error.to_string())?;
        Ok(counters.rows.into_iter().map(|row| (row.name, row.interval.map(|time| time.as_secs()))).collect())
    }

    #[test]
    fn fields_have_the_interval_of_their_collection() {
        let rows =
            ["DCGM_FI_DEV_GPU_TEMP", "DCGM_FI_DEV_SM_CLOCK", "DCGM_FI_DEV_MEM_CLOCK", "DCGM_EXP_XID_ERRORS_COUNT"];
        let groups = "    - {name: a, interval: 5s, fields: ['*_CLOCK', '*_COUNT']}\n";
        let read = read(&rows, groups).unwrap();
        assert_eq!(read.iter().map(|(_, interval)| *interval).collect::<Vec<_>>(), [None, Some(5), Some(5), None]);
    }

    #[test]
    fn a_field_in_two_and_a_collection_without_any() {
        let temp = ["DCGM_FI_DEV_GPU_TEMP", "DCGM_FI_DEV_SM_CLOCK", "DCGM_EXP_XID_ERRORS_COUNT"];
        for (rows, groups, part) in [
            (
                &temp[..],
                "    - {name: a, interval: 5s, fields: ['*TEMP']}\n    - {name: b, interval: 9s, fields: ['*']}\n",
                "c.yaml:10:7: DCGM_FI_DEV_GPU_TEMP is in two collections, 'a' (line 9) and 'b'",
            ),
            (
                &temp,
                "    - {name: a, interval: 5s, fields: [NOPE*]}\n",
                "c.yaml:9:7: collection 'a' (NOPE*) matches no field",
            ),
            (&temp, "    - {name: a, interval: 5s, fields: ['*_COUNT']}\n", "is computed by the exporter"),
            (
                &["DCGM_FI_DEV_GPU_TEMP", "dcgm_gpu_temp"],
                "    - {name: a, interval: 5s, fields: ['DCGM*']}\n",
                "same field as dcgm_gpu_temp",
            ),
            (
                &["DCGM_FI_DEV_GPU_TEMP", "dcgm_gpu_temp"],
                "    - {name: a, interval: 5s, fields: ['DCGM*']}\n    - {name: b, interval: 9s, fields: ['dcgm*']}\n",
                "dcgm_gpu_temp (DCGM_FI_DEV_GPU_TEMP) is in two collections",
            ),
        ] {
            let error = read(rows, groups).unwrap_err();
            assert!(error.contains(part) && error.lines().count() == 1, "{part}: {error}");
        }
    }
}
