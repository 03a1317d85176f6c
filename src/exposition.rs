//! The Prometheus text format, version 0.0.4: names, labels, escaping, numbers.
//!
//! The static part of every line is put together once, when entities are discovered; a page then is copies of those
//! parts with numbers between them, written into a buffer that is used again. Values are numbers as dcgm-exporter
//! prints them: integers plain, doubles with six decimals.

use crate::config::JobLabels;
use crate::counters::Computed;
use crate::fixed;
use crate::inventory::{Entity, Inventory, Kind};
use crate::jobs::JobMap;
use crate::jobs::gpu_name::GpuName;
use crate::metrics::computed::{Attribution, ComputedSample, ComputedSamples};
use crate::metrics::exporter::Sink;
use crate::metrics::plan::{FIELD_XID, Metric, MetricSource, Plan};
use crate::metrics::table::{Number, Table};
use crate::metrics::xid;

/// All text that does not change from page to page.
pub struct Exposition {
    metrics: Vec<MetricText>,
    entities: Vec<EntityText>,
    /// Kinds that are present, in the order of the page.
    kinds: Vec<KindText>,
    /// The metrics of the job map; they change only with it.
    jobs: String,
}

struct MetricText {
    name: String,
    /// HELP and TYPE lines.
    head: String,
    source: MetricSource,
    printed: bool,
}

struct KindText {
    kind: Kind,
    entities: std::ops::Range<usize>,
    /// Indices of the metrics that entities of this kind can have.
    metrics: Vec<usize>,
}

struct EntityText {
    /// `{gpu="0",...,hostname="x"`, without the label rows.
    fixed: String,
    /// The same with the label rows.
    labels: String,
    /// The same for metrics of our own.
    identity: String,
    /// `,hpc_job="17"} ` for each job, or one `} `.
    endings: Vec<String>,
    /// Under which a job map may have it.
    names: Vec<GpuName>,
}

const NO_JOB: &str = "} ";
/// The label that names a job, wherever it is.
const JOB: &str = "hpc_job";

impl Exposition {
    pub fn new(plan: &Plan, inventory: &Inventory) -> Exposition {
        let metrics = plan.metrics.iter().map(metric_text).collect();
        let entities = inventory.entities.iter().map(|entity| {
            let fixed = fixed_labels(entity);
            EntityText {
                labels: fixed.clone(),
                identity: identity(entity),
                fixed,
                endings: vec![NO_JOB.to_owned()],
                names: entity.names.clone(),
            }
        });
        let kinds = Kind::ALL.into_iter().filter_map(|kind| {
            let first = inventory.entities.iter().position(|entity| entity.kind == kind)?;
            let count = inventory.count(kind);
            let can_have = |(_, metric): &(usize, &Metric)| metric.kinds.contains(&kind);
            let metrics = plan.metrics.iter().enumerate().filter(can_have).map(|(index, _)| index).collect();
            Some(KindText { kind, entities: first..first + count, metrics })
        });
        Exposition { metrics, kinds: kinds.collect(), entities: entities.collect(), jobs: String::new() }
    }

    /// Takes up a job map: labels the samples of each GPU and instance with its jobs, if they are to be there.
    pub fn set_jobs(&mut self, jobs: &JobMap, labels: JobLabels) {
        for entity in &mut self.entities {
            let ids = match labels {
                JobLabels::OnSamples => jobs.jobs_of(&entity.names),
                JobLabels::InfoOnly => Vec::new(),
            };
            entity.endings.clear();
            entity.endings.extend(ids.iter().map(|id| {
                let mut ending = String::new();
                push_job(&mut ending, id);
                ending
            }));
            if ids.is_empty() {
                entity.endings.push(NO_JOB.to_owned());
            }
        }
        self.jobs = self.job_metrics(jobs);
    }

    /// Appends the metrics of the job map: which GPU is allocated, to whom, and what is known of each job.
    pub fn render_jobs(&self, out: &mut String) {
        out.push_str(&self.jobs);
    }

    fn job_metrics(&self, jobs: &JobMap) -> String {
        let of_gpus = self.kinds.iter().filter(|kind| kind.kind == Kind::Gpu);
        let gpus: Vec<&EntityText> = of_gpus.flat_map(|kind| &self.entities[kind.entities.clone()]).collect();
        let mut out = String::new();
        let mut allocated =
            Family::new("dcgm_exporter_gpu_allocated", "1 if a job has a GPU or instance, busy or idle");
        for gpu in &gpus {
            let is_allocated = !jobs.jobs_of(&gpu.names).is_empty();
            allocated.sample(&mut out, &gpu.identity, &[], Number::Int(is_allocated.into()));
        }
        let mut held = Family::new("dcgm_exporter_gpu_job", "A job that has a GPU or instance; always 1");
        for gpu in &gpus {
            for job in jobs.jobs_of(&gpu.names) {
                held.sample(&mut out, &gpu.identity, &[(JOB, job)], Number::Int(1));
            }
        }
        let mut info = Family::new("dcgm_exporter_job_info", "What the job map knows of a job; always 1");
        for (job, facts) in jobs.facts() {
            let facts = facts.labels.iter().map(|(name, value)| (*name, value.as_str()));
            let labels: Vec<(&str, &str)> = std::iter::once((JOB, job)).chain(facts).collect();
            info.sample(&mut out, "{", &labels, Number::Int(1));
        }
        let mut start = Family::new("dcgm_exporter_job_start_time_seconds", "When a job's prolog ran here, since 1970");
        for (job, facts) in jobs.facts() {
            if let Some(seconds) = facts.start_time {
                start.sample(&mut out, "{", &[(JOB, job)], Number::Double(seconds));
            }
        }
        out
    }

    /// Appends all samples of the table to `out`.
    ///
    /// A metric stands once, with all its samples together, where the first kind of entity stands that has one.
    pub fn render(&mut self, table: &mut Table, computed: &ComputedSamples, out: &mut String) {
        self.refresh_labels(table);
        for metric in &mut self.metrics {
            metric.printed = false;
        }
        for (index, kind) in self.kinds.iter().enumerate() {
            for &metric in &kind.metrics {
                let text = &mut self.metrics[metric];
                if text.printed {
                    continue;
                }
                if let MetricSource::Computed(which) = text.source {
                    let samples = computed.get(&which).map(Vec::as_slice);
                    text.printed = render_computed(text, which, samples, &self.entities, out);
                    continue;
                }
                text.printed = render_metric(text, kind, &self.entities, table, out);
                if !text.printed {
                    continue;
                }
                for later in self.kinds[index + 1..].iter().filter(|kind| kind.metrics.contains(&metric)) {
                    render_metric(text, later, &self.entities, table, out);
                }
            }
        }
        // Numbers get longer; that is no reason to allocate in the next cycle.
        if out.capacity() - out.len() < out.len() / 16 {
            out.reserve(out.len() / 8);
        }
    }

    /// Appends `dcgm_exporter_entity_up`: one sample for each GPU and instance, `up` being by entity, and 0 for those
    /// that have gone, with their last known identity.
    pub fn render_up(&self, up: &[bool], gone: &[Entity], out: &mut String) {
        let gpus = self.kinds.iter().filter(|kind| kind.kind == Kind::Gpu).flat_map(|kind| kind.entities.clone());
        let present = gpus.filter_map(|index| Some((&self.entities[index].identity, *up.get(index)?)));
        let gone: Vec<String> = gone.iter().map(identity).collect();
        let mut family = Family::new("dcgm_exporter_entity_up", "1 if a GPU or instance answers, 0 if it is lost");
        for (labels, up) in present.chain(gone.iter().map(|labels| (labels, false))) {
            family.sample(out, labels, &[], Number::Int(up.into()));
        }
    }

    fn refresh_labels(&mut self, table: &mut Table) {
        for (index, entity) in self.entities.iter_mut().enumerate() {
            if !table.take_relabelled(index) {
                continue;
            }
            entity.labels.clear();
            entity.labels.push_str(&entity.fixed);
            for (name, value) in table.labels(index) {
                push_label(&mut entity.labels, name, value);
            }
        }
    }
}

/// Renders the samples of a field's metric for one kind of entity; says whether there was one, now or before.
fn render_metric(text: &MetricText, kind: &KindText, entities: &[EntityText], table: &Table, out: &mut String) -> bool {
    let mut begun = text.printed;
    let MetricSource::Field(asked) = text.source else { return begun };
    for index in kind.entities.clone() {
        let number = table.number(index, asked);
        if number == Number::Blank {
            continue;
        }
        begin(&mut begun, text, out);
        let entity = &entities[index];
        for ending in &entity.endings {
            out.push_str(&text.name);
            out.push_str(&entity.labels);
            if let (FIELD_XID, Number::Int(code)) = (asked.id, number) {
                push_label(out, "err_code", itoa::Buffer::new().format(code));
                push_label(out, "err_msg", xid::text(code));
            }
            out.push_str(ending);
            push_number(out, number);
            out.push('\n');
        }
    }
    begun
}

/// Renders a computed metric. Health and P2P are announced also when there is nothing to say.
fn render_computed(
    text: &MetricText,
    which: Computed,
    samples: Option<&[ComputedSample]>,
    entities: &[EntityText],
    out: &mut String,
) -> bool {
    let mut begun = text.printed;
    if matches!(which, Computed::GpuHealthStatus | Computed::P2pStatus) {
        begin(&mut begun, text, out);
    }
    for sample in samples.unwrap_or_default() {
        begin(&mut begun, text, out);
        let entity = &entities[sample.entity];
        let mut line = |ending: &dyn Fn(&mut String)| {
            out.push_str(&text.name);
            out.push_str(&entity.labels);
            for (name, value) in &sample.labels {
                push_label(out, name, value);
            }
            ending(out);
            push_number(out, sample.number);
            out.push('\n');
        };
        match &sample.job {
            Attribution::Current => entity.endings.iter().for_each(|ending| line(&|out| out.push_str(ending))),
            Attribution::Then(Some(job)) => line(&|out| push_job(out, job)),
            Attribution::Then(None) => line(&|out| out.push_str(NO_JOB)),
        }
    }
    begun
}

fn push_job(out: &mut String, job: &str) {
    push_label(out, JOB, job);
    out.push_str(NO_JOB);
}

fn begin(begun: &mut bool, text: &MetricText, out: &mut String) {
    if !*begun {
        out.push_str(&text.head);
        *begun = true;
    }
}

/// A gauge of our own, announced before its first sample.
struct Family {
    name: &'static str,
    help: &'static str,
    begun: bool,
}

impl Family {
    fn new(name: &'static str, help: &'static str) -> Family {
        Family { name, help, begun: false }
    }

    /// Adds a sample with `fixed`, which is an open brace and labels, and more labels.
    fn sample(&mut self, out: &mut String, fixed: &str, more: &[(&str, &str)], value: Number) {
        if !self.begun {
            push_head(out, self.name, "gauge", self.help);
            self.begun = true;
        }
        out.push_str(self.name);
        out.push_str(fixed);
        for (name, value) in more {
            push_label(out, name, value);
        }
        out.push_str(NO_JOB);
        push_number(out, value);
        out.push('\n');
    }
}

/// `{` and the labels that name an entity.
fn fixed_labels(entity: &Entity) -> String {
    labels_where(entity, |_| true)
}

/// The same without the model: its label's name is inherited and would not pass for a name of our own.
fn identity(entity: &Entity) -> String {
    labels_where(entity, |name| name != "modelName")
}

fn labels_where(entity: &Entity, is_wanted: fn(&str) -> bool) -> String {
    let mut labels = String::from("{");
    for (name, value) in entity.labels.iter().filter(|(name, _)| is_wanted(name)) {
        push_label(&mut labels, name, value);
    }
    labels
}

fn metric_text(metric: &Metric) -> MetricText {
    let mut head = String::new();
    push_head(&mut head, &metric.name, metric.kind, &metric.help);
    MetricText { name: metric.name.clone(), head, source: metric.source, printed: false }
}

fn push_head(out: &mut String, name: &str, kind: &str, help: &str) {
    out.push_str("# HELP ");
    out.push_str(name);
    out.push(' ');
    for character in help.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
    out.push_str("\n# TYPE ");
    out.push_str(name);
    out.push(' ');
    out.push_str(kind);
    out.push('\n');
}

/// Adds `name="value"`, after a comma unless it is the first.
fn push_label(out: &mut String, name: &str, value: &str) {
    if !out.ends_with('{') {
        out.push(',');
    }
    out.push_str(name);
    out.push_str("=\"");
    for character in value.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
    out.push('"');
}

fn push_number(out: &mut String, number: Number) {
    match number {
        Number::Int(number) => out.push_str(itoa::Buffer::new().format(number)),
        Number::Double(number) if number.is_nan() => out.push_str("NaN"),
        Number::Double(number) if number.is_infinite() => out.push_str(if number > 0.0 { "+Inf" } else { "-Inf" }),
        Number::Double(number) => fixed::push(out, number),
        Number::Blank => {}
    }
}

/// Writes the exporter's own metrics.
pub struct OwnMetrics<'a> {
    out: &'a mut String,
    name: &'static str,
}

impl<'a> OwnMetrics<'a> {
    pub fn new(out: &'a mut String) -> OwnMetrics<'a> {
        OwnMetrics { out, name: "" }
    }
}

impl Sink for OwnMetrics<'_> {
    fn metric(&mut self, name: &'static str, kind: &'static str, help: &'static str) {
        push_head(self.out, name, kind, help);
        self.name = name;
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: Number) {
        self.out.push_str(self.name);
        if !labels.is_empty() {
            self.out.push('{');
            for (name, value) in labels {
                push_label(self.out, name, value);
            }
            self.out.push('}');
        }
        self.out.push(' ');
        push_number(self.out, value);
        self.out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(number: Number) -> String {
        let mut out = String::new();
        push_number(&mut out, number);
        out
    }

    #[test]
    fn numbers_as_c_prints_them() {
        for (value, text) in [
            (0.0, "0.000000"),
            (-0.0, "-0.000000"),
            (1e-7, "0.000000"),
            (0.0078125, "0.007812"),
            (0.0234375, "0.023438"),
            (1e20, "100000000000000000000.000000"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            assert_eq!(number(Number::Double(value)), text);
        }
        assert_eq!(number(Number::Int(i64::MIN)), "-9223372036854775808");
    }

    #[test]
    fn label_and_help_text_is_escaped() {
        let mut out = String::from("{");
        push_label(&mut out, "a", "say \"hi\"\\\n");
        push_label(&mut out, "b", "ü");
        assert_eq!(out, "{a=\"say \\\"hi\\\"\\\\\\n\",b=\"ü\"");
        let mut head = String::new();
        push_head(&mut head, "x", "gauge", "a \\ \"b\"\nc");
        assert_eq!(head, "# HELP x a \\\\ \"b\"\\nc\n# TYPE x gauge\n");
    }
}
