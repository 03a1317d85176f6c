//! The counters file: which fields to export, under which name, type and help.
//!
//! One record a line, `name, type, help`, as dcgm-exporter reads it (Go's `encoding/csv` with `#` comments); every file
//! it accepts gives the same rows here. Names are looked up in [`crate::dcgm::fields`] and among the computed metrics,
//! which the caller knows; whether this library and these GPUs have the field is not known here and is never an error of
//! the file.

mod collections;
mod text;
pub mod types;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::Config;
use crate::config::file::InlineRow;
use crate::dcgm::fields::{self, Field, ValueType};
use crate::system::files;
use crate::system::printable::cut;

/// A file larger than this is not a counters file.
const LARGEST_FILE: u64 = 4 * 1024 * 1024;

/// Errors and warnings that are listed; further ones are counted.
const MOST_LISTED: usize = 100;
/// The first errors of a file are compared with all names that there are, which takes about a millisecond each.
const MOST_SUGGESTIONS: usize = 20;

/// Profiling fields exist only where the GPU's metric groups have them: those of GPUs, and two of their links.
pub fn is_profiling(field: u16) -> bool {
    matches!(field, 1000..1100 | 1532 | 1533)
}

/// One row that counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Line in the file, from 1.
    pub line: u64,
    /// As written: the sample carries this name.
    pub name: String,
    pub source: Source,
    pub kind: MetricType,
    pub help: String,
    /// Of the collection that the field is in; `None` for the rest.
    pub interval: Option<Duration>,
}

/// Where the values of a row come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Source {
    Field(Field),
    /// A metric that the exporter makes itself from what DCGM says, by name.
    Computed(&'static str),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricType {
    Gauge,
    Counter,
    Histogram,
    Summary,
    Untyped,
    /// Not a metric: a label on all samples of the same entity.
    Label,
    /// Anything else, which only computed metrics may have: dcgm-exporter does not check their types.
    Other(String),
}

impl MetricType {
    fn parse(text: &str) -> MetricType {
        match text {
            "gauge" => MetricType::Gauge,
            "counter" => MetricType::Counter,
            "histogram" => MetricType::Histogram,
            "summary" => MetricType::Summary,
            "untyped" => MetricType::Untyped,
            "label" => MetricType::Label,
            other => MetricType::Other(other.to_owned()),
        }
    }

    /// As written in the file.
    pub fn as_str(&self) -> &str {
        match self {
            MetricType::Gauge => "gauge",
            MetricType::Counter => "counter",
            MetricType::Histogram => "histogram",
            MetricType::Summary => "summary",
            MetricType::Untyped => "untyped",
            MetricType::Label => "label",
            MetricType::Other(other) => other,
        }
    }
}

/// A counters file of which something can be used.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counters {
    pub rows: Vec<Row>,
    /// The first of the rows that are left out because they are wrong: line, what is wrong and what would be right.
    pub errors: Vec<(u64, String)>,
    /// How many there are.
    pub left_out: usize,
    /// Harmless but surely not meant, each with its line.
    pub warnings: Vec<(u64, String)>,
}

/// Why a counters file cannot be used at all.
#[derive(Debug)]
pub enum Error {
    Unreadable {
        file: PathBuf,
        reason: String,
    },
    /// None of its rows can be used; what is wrong with each.
    NoRows {
        file: PathBuf,
        errors: Vec<(u64, String)>,
    },
    /// The rows and the collections of the configuration file do not go together: `FILE:LINE:COLUMN: what`.
    Collections(Vec<String>),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unreadable { file, reason } => {
                write!(f, "cannot read counters file {}: {reason}. Give another with --collectors", file.display())
            }
            Error::NoRows { file, errors } => {
                for (line, what) in errors {
                    writeln!(f, "{}:{line}: {what}", file.display())?;
                }
                let file = file.display();
                write!(f, "counters file {file} has no row that can be used; a row is written NAME, TYPE, HELP")
            }
            Error::Collections(problems) => f.write_str(&problems.join("\n")),
        }
    }
}

impl std::error::Error for Error {}

/// The file beside one that is not there whose name is most like its name.
fn near(missing: &Path) -> Option<PathBuf> {
    const MOST_FILES: usize = 1000;
    let (directory, name) = (missing.parent()?, missing.file_name()?.to_str()?);
    let others = std::fs::read_dir(directory).ok()?.take(MOST_FILES);
    let others = others.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let alike = others.map(|other| (strsim::jaro_winkler(name, &other), other)).filter(|(alike, _)| *alike > 0.8);
    alike.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, other)| directory.join(other))
}

impl Counters {
    /// The rows that the settings ask for, from the counters file or the configuration file, with their intervals.
    /// `computed` are the names of the metrics that are not fields.
    ///
    /// Errors: as [`Counters::read`]; rows and collections do not go together.
    pub fn of(config: &Config, computed: &[&'static str]) -> Result<Counters, Error> {
        let mut counters = match &config.rows {
            None => Counters::read(&config.collectors, computed)?,
            Some(rows) => Counters::inline(rows, computed)
                .map_err(|errors| Error::NoRows { file: config.counters_file().to_owned(), errors })?,
        };
        collections::assign(&mut counters.rows, config).map_err(|problems| {
            let file = config.config_file.as_deref().unwrap_or(Path::new("")).display();
            Error::Collections(problems.iter().map(|problem| format!("{file}:{problem}")).collect())
        })?;
        Ok(counters)
    }

    /// Rows of the configuration file.
    fn inline(rows: &[InlineRow], computed: &[&'static str]) -> Result<Counters, Vec<(u64, String)>> {
        let rows = rows
            .iter()
            .map(|InlineRow { at, name, kind, help }| (at.line as u64, vec![name.clone(), kind.clone(), help.clone()]));
        Counters::from_rows(rows.collect(), Vec::new(), computed)
    }

    /// Reads a file. `computed` are the names of the metrics that are not fields.
    ///
    /// Errors: the file cannot be read, or none of its rows can be used.
    pub fn read(file: &Path, computed: &[&'static str]) -> Result<Counters, Error> {
        let unreadable = |reason: String| Error::Unreadable { file: file.to_owned(), reason };
        let bytes = files::read(file, LARGEST_FILE).map_err(|error| {
            let near = (error.kind() == io::ErrorKind::NotFound).then(|| near(file)).flatten();
            let hint = near.map(|near| format!("; did you mean {}?", near.display())).unwrap_or_default();
            unreadable(format!("{error}{hint}"))
        })?;
        Counters::parse(&bytes, computed).map_err(|errors| Error::NoRows { file: file.to_owned(), errors })
    }

    /// Parses a file's content, `computed` as for [`Counters::read`]. A bad row costs only itself.
    ///
    /// Errors: no row can be used; what is wrong with each, by line.
    pub fn parse(bytes: &[u8], computed: &[&'static str]) -> Result<Counters, Vec<(u64, String)>> {
        match text::records(bytes) {
            Ok(text::Records { records, errors }) => Counters::from_rows(records, errors, computed),
            Err(line) => Err(vec![too_many_rows(line)]),
        }
    }

    /// `errors` are those of rows that are no records.
    fn from_rows(
        rows: Vec<(u64, Vec<String>)>,
        mut errors: Vec<(u64, String)>,
        computed: &[&'static str],
    ) -> Result<Counters, Vec<(u64, String)>> {
        if let Some((line, _)) = rows.get(text::MOST_ROWS) {
            return Err(vec![too_many_rows(*line)]);
        }
        let mut counters = Counters::default();
        for (line, fields) in rows {
            match row(line, &fields, computed, errors.len() < MOST_SUGGESTIONS) {
                Ok(row) => counters.add(row),
                Err(what) => errors.push((line, what)),
            }
        }
        counters.left_out = errors.len();
        counters.errors = first_of(errors);
        counters.warnings = first_of(counters.warnings);
        if counters.rows.is_empty() { Err(counters.errors) } else { Ok(counters) }
    }

    /// Whether a row's values come with the second collection only: profiling fields and the utilization of CPUs are
    /// differences of two samples.
    pub fn need_two_samples(&self) -> bool {
        const CPU_UTILIZATION: std::ops::RangeInclusive<u16> = 1100..=1104;
        self.rows.iter().any(|row| match row.source {
            Source::Field(field) => is_profiling(field.id) || CPU_UTILIZATION.contains(&field.id),
            Source::Computed(_) => false,
        })
    }

    /// Whether a row asks for a profiling field.
    pub fn asks_for_profiling(&self) -> bool {
        self.rows.iter().any(|row| matches!(row.source, Source::Field(field) if is_profiling(field.id)))
    }

    /// A line for the log on everything that is wrong or odd: `FILE:LINE: what`.
    pub fn notes(&self, file: &Path) -> Vec<String> {
        let left_out = self.errors.iter().map(|(line, what)| (*line, format!("left out: {what}")));
        let mut notes: Vec<(u64, String)> =
            left_out.chain(self.warnings.iter().cloned()).chain(types::conflicts(self)).collect();
        notes.sort();
        notes.into_iter().map(|(line, what)| format!("{}:{line}: {what}", file.display())).collect()
    }

    /// Whether a row asks for this computed metric.
    pub fn wants(&self, computed: &str) -> bool {
        self.rows.iter().any(|row| matches!(row.source, Source::Computed(name) if name == computed))
    }

    fn add(&mut self, row: Row) {
        if let Some(warning) = types::changing_label(&row) {
            self.warnings.push((row.line, warning));
        }
        match self.rows.iter().find(|earlier| earlier.name == row.name) {
            Some(earlier) => {
                let warning =
                    format!("{} is listed again; this row is left out, line {} is used", row.name, earlier.line);
                self.warnings.push((row.line, warning));
            }
            None => {
                match &row.kind {
                    MetricType::Other(kind) => {
                        let kind = cut(kind);
                        let warning = format!("'{kind}' is not a metric type; {} is exported as untyped", row.name);
                        self.warnings.push((row.line, warning));
                    }
                    kind @ (MetricType::Histogram | MetricType::Summary) => {
                        let (kind, name) = (kind.as_str(), &row.name);
                        let warning = format!(
                            "{name} is typed {kind}, but has one number and no buckets or quantiles; use gauge or counter"
                        );
                        self.warnings.push((row.line, warning));
                    }
                    _ => {}
                }
                self.rows.push(row);
            }
        }
    }
}

fn too_many_rows(line: u64) -> (u64, String) {
    (line, format!("more than {} rows; the whole file is left out", text::MOST_ROWS))
}

/// The first ones by line, and how many more there are.
fn first_of(mut all: Vec<(u64, String)>) -> Vec<(u64, String)> {
    all.sort();
    if let Some((line, _)) = all.get(MOST_LISTED) {
        let more = (*line, format!("{} more rows from here on", all.len() - MOST_LISTED));
        all.truncate(MOST_LISTED);
        all.push(more);
    }
    all
}

/// With `suggest`, an error names what is like an unknown name.
fn row(line: u64, fields: &[String], computed: &[&'static str], suggest: bool) -> Result<Row, String> {
    let [name, kind, help @ ..] = fields else { return Err(too_few_fields(fields)) };
    if help.is_empty() {
        return Err(too_few_fields(fields));
    }
    let name = name.trim_matches([' ', '\t']).to_owned();
    let kind = MetricType::parse(kind.trim_matches([' ', '\t']));
    if help.len() > 1 && help.iter().any(|part| part.contains('\r')) {
        return Err("a carriage return inside the line; end lines with a line feed".to_owned());
    }
    // Commas of the help that are not in quotes have split it. Blanks only: dcgm-exporter keeps tabs in help texts.
    let help = help.join(",").trim_matches(' ').to_owned();
    let source = match (fields::by_name(&name), computed.iter().find(|known| **known == name)) {
        (Some(field), _) => Source::Field(field),
        (None, Some(computed)) => Source::Computed(computed),
        (None, None) => return Err(unknown_name(&name, computed, suggest)),
    };
    if let Source::Field(field) = source {
        check_type(&field, &kind)?;
    }
    Ok(Row { line, name, source, kind, help, interval: None })
}

fn too_few_fields(fields: &[String]) -> String {
    format!("{} fields where there should be three (name, type, help)", fields.len())
}

fn check_type(field: &Field, kind: &MetricType) -> Result<(), String> {
    match kind {
        MetricType::Label => Ok(()),
        MetricType::Other(kind) => Err(bad_type(field.name, kind)),
        _ if matches!(field.value_type, ValueType::Text | ValueType::Binary) => Err(format!(
            "{} is a {} field and cannot be a {}: its value is not a number. {}",
            field.name,
            if field.value_type == ValueType::Text { "text" } else { "binary" },
            kind.as_str(),
            if field.value_type == ValueType::Text { "Use type label, or leave it out" } else { "Leave it out" },
        )),
        _ => Ok(()),
    }
}

fn bad_type(name: &str, kind: &str) -> String {
    let kind = cut(kind);
    format!("type '{kind}' of {name} is not known; use gauge, counter, untyped or label, in lower case")
}

fn unknown_name(name: &str, computed: &[&'static str], suggest: bool) -> String {
    let nearest = if suggest { fields::nearest(name, computed) } else { Vec::new() };
    let name = cut(name);
    match nearest[..] {
        [] => format!("there is no DCGM field '{name}'"),
        [one] => format!("there is no DCGM field '{name}'; did you mean {one}?"),
        ref several => format!("there is no DCGM field '{name}'; did you mean one of {}?", several.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files that dcgm-exporter refuses for things that harm nobody, or that 4.8.3 takes.
    const HARMLESS: [&str; 9] = [
        "unquoted-comma-in-help",
        "type-untyped",
        "whitespace-only-line-between",
        "whitespace-only-line-first",
        "comment-with-leading-space",
        "comment-with-leading-space-and-two-commas",
        "bom",
        "bom-comment-first",
        "tab-separated-type",
    ];

    /// Computed metrics in the order of the peer's ids, which begin with 9001.
    const COMPUTED: [&str; 4] = [
        "DCGM_EXP_XID_ERRORS_COUNT",
        "DCGM_EXP_CLOCK_EVENTS_COUNT",
        "DCGM_EXP_GPU_HEALTH_STATUS",
        "DCGM_EXP_P2P_STATUS",
    ];

    fn parse(text: &str) -> Result<Counters, Vec<(u64, String)>> {
        Counters::parse(text.as_bytes(), &COMPUTED)
    }

    /// The peer drops profiling rows while parsing; here that happens when the GPUs are known.
    fn expected_rows(case: &serde_json::Value) -> Vec<(u64, String, String, String)> {
        let mut rows: Vec<(u64, String, String, String)> = Vec::new();
        for list in ["dcgm_counters", "exporter_counters"] {
            for row in case[list].as_array().unwrap() {
                let text = |key: &str| row[key].as_str().unwrap().to_owned();
                if !rows.iter().any(|(_, name, ..)| *name == text("name")) {
                    rows.push((row["field_id"].as_u64().unwrap(), text("name"), text("type"), text("help")));
                }
            }
        }
        rows
    }

    #[test]
    fn the_peers_table() {
        let table: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/golden/csv-parsing.json")).unwrap();
        let cases = table["cases"].as_array().unwrap();
        assert!(cases.len() > 40);
        for case in cases {
            let name = case["name"].as_str().unwrap();
            let parsed = parse(case["csv"].as_str().unwrap());
            // The peer serves an empty page for a file without a row; here that ends the start.
            if matches!(name, "empty-file" | "only-comments") {
                assert_eq!(parsed, Err(Vec::new()), "{name}");
                continue;
            }
            // Of a bad file the other rows are used.
            if case["result"] == "error" {
                let is_clean = parsed.as_ref().is_ok_and(|counters| counters.errors.is_empty());
                assert_eq!(is_clean, HARMLESS.contains(&name), "{name}: {parsed:?}");
                continue;
            }
            let supported = case["supported_profiling_fields"].as_array().unwrap();
            let rows: Vec<_> = parsed
                .unwrap_or_else(|errors| panic!("{name}: {errors:?}"))
                .rows
                .into_iter()
                .map(|row| {
                    let id = match row.source {
                        Source::Field(field) => u64::from(field.id),
                        Source::Computed(name) => {
                            9001 + COMPUTED.iter().position(|known| *known == name).unwrap() as u64
                        }
                    };
                    (id, row.name, row.kind.as_str().to_owned(), row.help)
                })
                .filter(|(id, ..)| !(1000..1100).contains(id) || supported.contains(&serde_json::json!(id)))
                .collect();
            assert_eq!(rows, expected_rows(case), "{name}");
        }
    }

    #[test]
    fn every_error_with_its_line_and_the_other_rows() {
        let file = "# counters\nDCGM_FI_DEV_GPU_TMP, gauge, t\n\nDCGM_FI_DEV_GPU_TEMP, number, t\nDCGM_FI_DEV_NAME, gauge, n\n\
                    DCGM_FI_DEV_SM_CLOCK, gauge\nDCGM_FI_DEV_FB_USED, gauge, a \"b\" c\nDCGM_FI_DEV_FB_FREE,gauge,\"open\n\
                    DCGM_FI_DEV_SUPPORTED_CLOCKS, counter, c\nDCGM_FI_DEV_POWER_USAGE\n";
        let counters = parse(&format!("{file}DCGM_FI_DEV_MEM_CLOCK, untyped, m\n")).unwrap();
        assert_eq!((counters.rows.len(), counters.rows[0].line), (1, 11));
        assert_eq!(parse(file).unwrap_err(), counters.errors);
        let errors = counters.errors;
        let lines: Vec<u64> = errors.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [2, 4, 5, 6, 7, 8, 9, 10], "{errors:#?}");
        for (index, part) in
            ["DCGM_FI_DEV_GPU_TEMP", "'number'", "label", "2 fields", "quote", "closed", "binary", "1 fields"]
                .iter()
                .enumerate()
        {
            assert!(errors[index].1.contains(part), "{:?} lacks {part}", errors[index]);
        }
    }

    #[test]
    fn a_name_listed_twice_counts_once_and_two_names_of_a_field_both() {
        let file = "DCGM_FI_DEV_GPU_TEMP, untyped, a\nDCGM_FI_DEV_GPU_TEMP, gauge, b\ndcgm_gpu_temp, gauge, c\n";
        let counters = parse(file).unwrap();
        let rows: Vec<_> = counters.rows.iter().map(|row| (row.name.as_str(), row.kind.as_str())).collect();
        assert_eq!(rows, [("DCGM_FI_DEV_GPU_TEMP", "untyped"), ("dcgm_gpu_temp", "gauge")]);
        assert_eq!(counters.warnings.len(), 1);
        assert_eq!(counters.warnings[0].0, 2);
    }

    /// Rows of public files: commas in the help without quotes, and further columns behind it.
    #[test]
    fn all_behind_the_second_comma_is_help() {
        let counters = parse(include_str!("../../tests/it/cases/help-with-commas.csv")).unwrap();
        let rows: Vec<_> = counters.rows.iter().map(|row| (row.name.as_str(), row.help.as_str())).collect();
        assert_eq!(
            rows,
            [
                ("DCGM_FI_PROF_PCIE_TX_BYTES", "sent over PCIe, headers and payload, in bytes per second"),
                ("DCGM_FI_DEV_GPU_TEMP", "temperature, other_name_celsius, temperature of the device, 1"),
                ("DCGM_FI_DEV_POWER_USAGE", "power in W, other_name_milliwatts, power of the device, 1000"),
            ]
        );
        assert!(counters.errors.is_empty() && counters.warnings.is_empty(), "{counters:?}");
    }

    #[test]
    fn a_measurement_is_no_label() {
        let file = "DCGM_FI_DEV_GPU_TEMP, label, t\nDCGM_FI_DRIVER_VERSION, label, d\n";
        let warnings = parse(file).unwrap().warnings;
        assert!(warnings.len() == 1 && warnings[0].1.contains("use gauge"), "{warnings:?}");
        let total = parse("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION, label, e\n").unwrap().warnings;
        assert!(total[0].1.contains("use counter"), "{total:?}");
    }

    /// All computed metrics that a shipped file may ask for.
    const SHIPPED: [&str; 9] = [
        "DCGM_EXP_XID_ERRORS_COUNT",
        "DCGM_EXP_CLOCK_EVENTS_COUNT",
        "DCGM_EXP_GPU_HEALTH_STATUS",
        "DCGM_EXP_P2P_STATUS",
        "DCGM_EXP_XID_ERRORS_TOTAL",
        "DCGM_EXP_LAST_XID_TIMESTAMP_SECONDS",
        "DCGM_EXP_CLOCK_EVENTS_TOTAL",
        "DCGM_EXP_CLOCK_EVENTS_SECONDS_TOTAL",
        "DCGM_EXP_NVLINK_LINKS",
    ];

    fn shipped(file: &str) -> String {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("counters").join(file)).unwrap()
    }

    #[test]
    fn shipped_files_are_clean() {
        let mut files = 0;
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("counters")).unwrap() {
            let file = entry.unwrap().file_name().into_string().unwrap();
            let counters = Counters::parse(shipped(&file).as_bytes(), &SHIPPED).unwrap();
            assert!(counters.errors.is_empty() && counters.notes(Path::new(&file)).is_empty(), "{file}: {counters:?}");
            // Three files keep types that old dashboards know.
            let rows = match file.as_str() {
                "default-counters.csv" | "dcp-metrics-included.csv" => 26,
                "1.x-compatibility-metrics.csv" => 20,
                "base-units.csv" => 27,
                _ => {
                    assert!(counters.rows.len() > 30, "{file}: {}", counters.rows.len());
                    assert_eq!(types::warnings(&counters), [], "{file}");
                    counters.rows.len()
                }
            };
            assert_eq!(counters.rows.len(), rows, "{file}");
            files += 1;
        }
        assert_eq!(files, 8);
    }

    #[test]
    fn rows_that_are_commented_out_are_as_good() {
        let is_row = |line: &&str| line.starts_with("# DCGM_") && line.contains(", ");
        let on: String = shipped("default-counters.csv")
            .lines()
            .filter(is_row)
            .map(|line| format!("{}\n", line.trim_start_matches("# ")))
            .collect();
        let counters = Counters::parse(on.as_bytes(), &SHIPPED).unwrap();
        assert!(counters.rows.len() > 200 && counters.errors.is_empty(), "{:?}", counters.errors);
        assert!(counters.warnings.is_empty(), "{:?}", counters.warnings);
        let warnings = types::warnings(&counters);
        assert!(warnings.iter().all(|(_, warning)| warning.contains("on GB200")), "{warnings:?}");
    }

    #[test]
    fn every_field_of_a_link_is_offered() {
        let offered: Vec<u16> = shipped("default-counters.csv")
            .lines()
            .filter_map(|line| fields::by_name(line.trim_start_matches("# ").split(',').next()?))
            .map(|field| field.id)
            .collect();
        let table = include_str!("../dcgm/fields.csv");
        let links = table.lines().filter(|line| line.contains(",link,"));
        for link in links {
            let id: u16 = link.split(',').nth(1).unwrap().parse().unwrap();
            assert!(offered.contains(&id), "{link}");
        }
    }

    #[test]
    fn fields_that_spoil_each_other_are_named_with_their_line() {
        let file = "DCGM_FI_DEV_NVLINK_RX_ERROR_TOTAL, counter, n\nDCGM_FI_DEV_ECC_SBE_VOL_TOTAL, counter, e\n";
        let notes = parse(file).unwrap().notes(Path::new("f.csv"));
        assert_eq!(notes.len(), 1, "{notes:?}");
        for part in ["f.csv:2: ", "ECC_SBE_VOL_TOTAL", "NVLINK_RX_ERROR_TOTAL", "GB200"] {
            assert!(notes[0].contains(part), "{notes:?}");
        }
        assert!(parse("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL, counter, e\n").unwrap().notes(Path::new("f")).is_empty());
    }
}
