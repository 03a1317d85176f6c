//! Which metrics the rows of the counters file come to, and which fields have to be asked of which kind of entity.
//!
//! A row meets three judges: this table of names, the loaded library (does it have the field, and at which level), and
//! the GPUs' profiling hardware. A row that fails with the last two is skipped with its reason, never fatal.

use std::collections::HashMap;
use std::time::Duration;

use super::number::Number;
use super::profiling_pause::ProfilingPause;
pub use super::sources::xid::FIELD as FIELD_XID;
use super::sources::{self, ComputedMetric};
use crate::counters::{Counters, MetricType, Row, Source, is_profiling};
use crate::dcgm::Library;
use crate::dcgm::applies::targets;
use crate::dcgm::fields::{Field, ValueType};
use crate::dcgm::links::is_read_live;
use crate::inventory::Kind;

/// State of the node's IMEX: DCGM runs nvidia-imex-ctl twice for it, for up to 30 s each, while nothing else is sampled.
const IMEX: std::ops::RangeInclusive<u16> = 1502..=1503;
/// For so long DCGM keeps the answer.
const IMEX_INTERVAL: Duration = Duration::from_secs(60);

/// One metric of the page.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    pub name: String,
    /// For the TYPE line.
    pub kind: &'static str,
    pub help: String,
    /// Place on the page: the field id, or beyond all of them.
    pub order: u32,
    pub source: MetricSource,
    /// HELP and TYPE are on the page also without samples.
    pub is_announced: bool,
    /// Kinds of entity that can have samples of it.
    pub kinds: Vec<Kind>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MetricSource {
    Field(Asked),
    /// By name, as [`sources::SOURCES`] has it.
    Computed(&'static str),
}

/// A label on every sample of the same entity.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelRow {
    pub name: String,
    pub field: Asked,
    pub kinds: Vec<Kind>,
}

/// A field and how its value becomes the wanted one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Asked {
    pub id: u16,
    pub scale: Scale,
}

/// Conversion of a classic field into base units.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    One,
    /// Integers stay integers.
    Times(i64),
    Over(i64),
    Ratio {
        times: f64,
        over: f64,
    },
}

impl Scale {
    /// A number in base units.
    pub fn apply(self, number: Number) -> Number {
        match (number, self) {
            (number, Scale::One) => number,
            (Number::Blank, _) => Number::Blank,
            (Number::Int(number), Scale::Times(factor)) => Number::Int(number.saturating_mul(factor)),
            (Number::Int(number), Scale::Over(divisor)) => Number::Int(number / divisor),
            (Number::Int(number), Scale::Ratio { times, over }) => Number::Double(number as f64 * times / over),
            (Number::Double(number), Scale::Ratio { times, over }) => Number::Double(number * times / over),
            (Number::Double(number), Scale::Times(factor)) => Number::Double(number * factor as f64),
            (Number::Double(number), Scale::Over(divisor)) => Number::Double(number / divisor as f64),
        }
    }
}

/// Fields asked of all entities of a kind, ascending, each once.
#[derive(Debug, Clone, PartialEq)]
pub struct KindFields {
    pub kind: Kind,
    pub ids: Vec<u16>,
}

impl KindFields {
    /// Fields that are watched.
    pub fn watched(&self) -> impl Iterator<Item = u16> {
        self.ids.iter().copied().filter(|id| !self.is_live(*id))
    }

    /// Fields that are [read live](super::live_links).
    pub fn live(&self) -> impl Iterator<Item = u16> {
        self.ids.iter().copied().filter(|id| self.is_live(*id))
    }

    fn is_live(&self, field: u16) -> bool {
        self.kind == Kind::GpuLink && is_read_live(field)
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// In the order of the page.
    pub metrics: Vec<Metric>,
    /// By name.
    pub labels: Vec<LabelRow>,
    pub fields: Vec<KindFields>,
    /// Rows without a metric here: name and reason.
    pub skipped: Vec<(String, String)>,
    /// Of fields that are in a collection of the configuration file.
    intervals: HashMap<u16, Duration>,
    profiling: HashMap<u32, Vec<u16>>,
    /// Of profiling fields.
    pub pause: ProfilingPause,
}

impl Plan {
    /// Plans with the library alone: enough to know which kinds of entity to look for.
    pub fn kinds(counters: &Counters, library: &Library) -> Vec<Kind> {
        let plan = Plan::draw(counters, library, None);
        plan.fields.iter().map(|fields| fields.kind).collect()
    }

    /// Plans for GPUs with this profiling support, by GPU.
    pub fn new(counters: &Counters, library: &Library, profiling: HashMap<u32, Vec<u16>>) -> Plan {
        Plan::draw(counters, library, Some(profiling))
    }

    fn draw(counters: &Counters, library: &Library, profiling: Option<HashMap<u32, Vec<u16>>>) -> Plan {
        let mut plan = Plan::default();
        for row in &counters.rows {
            let drawn = match row.source {
                Source::Field(field) => plan.add_field(row, field, library, profiling.as_ref()),
                Source::Computed(name) => match sources::metrics().find(|metric| metric.name == name) {
                    Some(metric) => {
                        plan.add_computed(row, metric);
                        Ok(())
                    }
                    None => Err("this exporter does not compute it".to_owned()),
                },
            };
            if let Err(reason) = drawn {
                plan.skipped.push((row.name.clone(), reason));
            }
        }
        plan.metrics.sort_by(|a, b| (a.order, &a.name, a.kind, &a.help).cmp(&(b.order, &b.name, b.kind, &b.help)));
        plan.labels.sort_by(|a, b| a.name.cmp(&b.name));
        plan.fields = plan.fields_by_kind();
        plan.intervals.retain(|_, interval| !interval.is_zero());
        for field in IMEX {
            plan.intervals.entry(field).or_insert(IMEX_INTERVAL);
        }
        plan.profiling = profiling.unwrap_or_default();
        plan
    }

    fn add_field(
        &mut self,
        row: &Row,
        field: Field,
        library: &Library,
        profiling: Option<&HashMap<u32, Vec<u16>>>,
    ) -> Result<(), String> {
        let (asked, level) = resolve(field, library)?;
        self.note_interval(asked.id, row.interval);
        if let Some(profiling) = profiling
            && is_profiling(asked.id)
            && !profiling.values().any(|ids| ids.contains(&asked.id))
        {
            return Err("no GPU here supports this profiling field, or profiling is not available".to_owned());
        }
        let kind = match &row.kind {
            MetricType::Label => {
                self.labels.push(LabelRow {
                    name: row.name.clone(),
                    field: asked,
                    kinds: kinds_of(asked.id, level, true),
                });
                return Ok(());
            }
            known => type_line(known),
        };
        let mut kinds = kinds_of(asked.id, level, false);
        // An error of a GPU that is reported by its instances is shown on the whole GPU.
        if asked.id == FIELD_XID {
            kinds.push(Kind::WholeGpu);
        }
        self.metrics.push(Metric {
            name: row.name.clone(),
            kind,
            help: row.help.clone(),
            order: u32::from(asked.id),
            source: MetricSource::Field(asked),
            is_announced: false,
            kinds,
        });
        Ok(())
    }

    /// Two rows come to one field where the library lacks that of one: it is sampled as the more frequent wants it, and
    /// like the rest if one of them is no part of a collection.
    fn note_interval(&mut self, field: u16, interval: Option<Duration>) {
        // Of the rest, until all rows are known.
        let interval = interval.unwrap_or(Duration::ZERO);
        self.intervals.entry(field).and_modify(|known| *known = interval.min(*known)).or_insert(interval);
    }

    fn add_computed(&mut self, row: &Row, metric: &ComputedMetric) {
        self.metrics.push(Metric {
            name: row.name.clone(),
            kind: type_line(&row.kind),
            help: row.help.clone(),
            order: metric.order,
            source: MetricSource::Computed(metric.name),
            is_announced: metric.is_announced,
            kinds: vec![Kind::Gpu],
        });
    }

    /// Label rows alone cause no queries: a kind without metrics is asked nothing.
    fn fields_by_kind(&self) -> Vec<KindFields> {
        let of_kind = |kind: Kind| {
            let metrics = self.metrics.iter().filter(|metric| metric.kinds.contains(&kind));
            if metrics.clone().next().is_none() {
                return self.whole_gpu_fields(kind);
            }
            let of_metrics = metrics.filter_map(|metric| match metric.source {
                MetricSource::Field(asked) => Some(asked.id),
                MetricSource::Computed(_) => None,
            });
            let of_labels = self.labels.iter().filter(|label| label.kinds.contains(&kind)).map(|label| label.field.id);
            let mut ids: Vec<u16> = of_metrics.chain(of_labels).collect();
            ids.sort_unstable();
            ids.dedup();
            Some(KindFields { kind, ids })
        };
        Kind::ALL.into_iter().filter_map(of_kind).collect()
    }

    /// A GPU that is reported by its instances has some metrics as a whole, and labels for those samples.
    fn whole_gpu_fields(&self, kind: Kind) -> Option<KindFields> {
        let is_wanted = sources::metrics().any(|metric| metric.of_whole_gpus && self.wants(metric.name));
        if kind != Kind::WholeGpu || !is_wanted {
            return None;
        }
        let mut ids: Vec<u16> =
            self.labels.iter().filter(|label| label.kinds.contains(&kind)).map(|label| label.field.id).collect();
        ids.sort_unstable();
        ids.dedup();
        Some(KindFields { kind, ids })
    }

    /// The interval of the collection that a field is in; `None` for the rest.
    pub fn interval_of(&self, field: u16) -> Option<Duration> {
        self.intervals.get(&field).copied()
    }

    /// Whether a field is asked of one GPU only, because it is of the node and costs much. A label is on every GPU.
    pub fn is_asked_once(&self, field: u16) -> bool {
        IMEX.contains(&field) && !self.labels.iter().any(|label| label.field.id == field)
    }

    /// Those of `ids` that this GPU can answer, without those that are paused.
    pub fn supported_by(&self, gpu: u32, ids: &[u16]) -> Vec<u16> {
        let profiling = if self.pause.is_paused(gpu) { None } else { self.profiling.get(&gpu) };
        let profiling = profiling.map(Vec::as_slice).unwrap_or_default();
        ids.iter().copied().filter(|id| !is_profiling(*id) || profiling.contains(id)).collect()
    }

    /// Whether a row asks for a profiling field that this GPU has, paused or not.
    pub fn profiles(&self, gpu: u32) -> bool {
        let supported = self.profiling.get(&gpu).map(Vec::as_slice).unwrap_or_default();
        let of_gpus = self.fields.iter().filter(|fields| matches!(fields.kind, Kind::Gpu | Kind::GpuLink));
        of_gpus.flat_map(|fields| &fields.ids).any(|id| is_profiling(*id) && supported.contains(id))
    }

    /// Whether a row asks for this computed metric.
    pub fn wants(&self, computed: &str) -> bool {
        self.computed().any(|name| name == computed)
    }

    /// The computed metrics that rows ask for.
    pub fn computed(&self) -> impl Iterator<Item = &'static str> {
        self.metrics.iter().filter_map(|metric| match metric.source {
            MetricSource::Computed(name) => Some(name),
            MetricSource::Field(_) => None,
        })
    }

    /// The fields that are metrics by themselves.
    pub fn shown(&self) -> impl Iterator<Item = u16> {
        self.metrics.iter().filter_map(|metric| match metric.source {
            MetricSource::Field(asked) => Some(asked.id),
            MetricSource::Computed(_) => None,
        })
    }

    /// Names under which the page shows a field.
    pub fn names_of(&self, field: u16) -> impl Iterator<Item = &str> {
        let is_it = move |asked: &Asked| asked.id == field;
        let of_metrics = self.metrics.iter().filter(move |metric| match &metric.source {
            MetricSource::Field(asked) => is_it(asked),
            MetricSource::Computed(_) => false,
        });
        let of_labels = self.labels.iter().filter(move |label| label.field.id == field);
        of_metrics.map(|metric| metric.name.as_str()).chain(of_labels.map(|label| label.name.as_str()))
    }
}

/// A type for the TYPE line.
fn type_line(kind: &MetricType) -> &'static str {
    match kind {
        MetricType::Gauge => "gauge",
        MetricType::Counter => "counter",
        MetricType::Histogram => "histogram",
        MetricType::Summary => "summary",
        MetricType::Untyped | MetricType::Label | MetricType::Other(_) => "untyped",
    }
}

/// The id to ask for: the library's own field, else the classic one that the library has in its place.
fn resolve(field: Field, library: &Library) -> Result<(Asked, i32), String> {
    if let Some(info) = library.field(field.id) {
        return Ok((Asked { id: field.id, scale: Scale::One }, info.entity_level));
    }
    let missing = || format!("libdcgm {} does not have this field", library.version());
    let classic = field.classic.ok_or_else(missing)?;
    let info = library.field(classic.id).ok_or_else(missing)?;
    let inverse = (1.0 / classic.factor).round();
    let whole = field.value_type == ValueType::Int64 && classic.value_type == ValueType::Int64;
    let scale = match (whole, classic.factor >= 1.0) {
        (true, true) => Scale::Times(classic.factor as i64),
        (true, false) => Scale::Over(inverse as i64),
        (false, true) => Scale::Ratio { times: classic.factor, over: 1.0 },
        (false, false) => Scale::Ratio { times: 1.0, over: inverse },
    };
    Ok((Asked { id: classic.id, scale }, info.entity_level))
}

/// Which kinds of entity have samples of a field of this level (an entity group number; 0 is global). A label is on all
/// samples of an entity, so also on those of a whole GPU.
fn kinds_of(field: u16, level: i32, is_label: bool) -> Vec<Kind> {
    // A field of the system is a label of everything: DCGM samples it once, whoever it is asked of.
    if is_label && level == 0 {
        return Kind::ALL.to_vec();
    }
    let mut kinds: Vec<Kind> = targets(field, level).iter().map(|target| Kind::from(*target)).collect();
    if is_label && kinds.contains(&Kind::Gpu) {
        kinds.push(Kind::WholeGpu);
    }
    kinds
}
