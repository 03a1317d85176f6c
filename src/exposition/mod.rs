//! The page: samples as text, in the Prometheus format. [`family`] writes a metric; here is which, and in which order.
//!
//! The static part of every line is put together once, when entities are discovered; a page then is copies of those
//! parts with numbers between them, written into a buffer that is used again.

mod family;
pub mod openmetrics;

use crate::config::JobLabels;
use crate::containers::ContainerMap;
use crate::inventory::{Entity, Inventory, Kind};
use crate::jobs::JobMap;
use crate::jobs::gpu_name::GpuName;
use crate::metrics::accounts::{Account, Accounts};
use crate::metrics::exporter::Sink;
use crate::metrics::identity::Key;
use crate::metrics::number::Number;
use crate::metrics::plan::{Asked, FIELD_XID, Metric, MetricSource, Plan};
use crate::metrics::sample::{Attribution, Sample, Samples};
use crate::metrics::sources::xid;
use crate::metrics::table::Table;
use crate::metrics::{Extras, Memory};
use family::{END, Family, push_label};

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
    is_announced: bool,
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
    /// `,container="web",hpc_job="17"} ` for each container and each job, or one `} `.
    endings: Vec<String>,
    /// Under which a job map may have it.
    names: Vec<GpuName>,
    gpu_uuid: String,
    gpu_instance: Option<u32>,
    /// Of whom `endings` are.
    containers: Vec<String>,
    jobs: Vec<String>,
}

impl EntityText {
    /// Brings `endings` up to date.
    fn set_endings(&mut self) {
        let or_none = |names: &[String]| -> Vec<Option<String>> {
            if names.is_empty() { vec![None] } else { names.iter().cloned().map(Some).collect() }
        };
        let (containers, jobs) = (or_none(&self.containers), or_none(&self.jobs));
        self.endings.clear();
        for container in &containers {
            for job in &jobs {
                let mut end = String::new();
                for (name, value) in [(CONTAINER, container), (JOB, job)] {
                    if let Some(value) = value {
                        push_label(&mut end, name, value);
                    }
                }
                end.push_str(END);
                self.endings.push(end);
            }
        }
    }
}

/// The label that names a job, wherever it is.
const JOB: &str = "hpc_job";
/// The label that names a container.
const CONTAINER: &str = "container";
/// Beyond this a page has each sample for one job of its GPU only. A page without copies for jobs is at most 2 MB; a job
/// map that is full of old jobs multiplies that by 64.
const MOST_BYTES: usize = 16 << 20;

/// Name, type and help of a metric of accounts, and its value.
type AccountMetric = (&'static str, &'static str, &'static str, fn(&Account) -> Number);

const ACCOUNT_METRICS: [AccountMetric; Extras::ACCOUNT_SERIES] = [
    (
        "dcgm_exporter_job_gpu_seconds_total",
        "counter",
        "Seconds for which a job has had a GPU or instance",
        |account| Number::Double(account.held_seconds),
    ),
    (
        "dcgm_exporter_job_gpu_busy_seconds_total",
        "counter",
        "Seconds for which a job's GPU or instance was busy: its utilization, summed over time",
        |account| match account.busy.seconds > 0.0 || account.energy_millijoules.is_some() {
            true => Number::Double(account.busy.sum),
            false => Number::Blank,
        },
    ),
    (
        "dcgm_exporter_job_energy_joules_total",
        "counter",
        "Energy in joules that a job's GPU used; jobs that share a GPU have equal parts of it",
        |account| account.energy_millijoules.map_or(Number::Blank, |used| Number::Double(used / 1e3)),
    ),
    (
        "dcgm_exporter_job_memory_used_max_bytes",
        "gauge",
        "Largest amount of memory in bytes that was in use on a job's GPU or instance",
        |account| account.memory_max.map_or(Number::Blank, |used| Number::Int(used.saturating_mul(1 << 20))),
    ),
];

impl Exposition {
    pub fn new(plan: &Plan, inventory: &Inventory) -> Exposition {
        let metrics = plan.metrics.iter().map(metric_text).collect();
        let entities = inventory.entities.iter().map(|entity| {
            let fixed = fixed_labels(entity);
            EntityText {
                labels: fixed.clone(),
                identity: identity(entity),
                fixed,
                endings: vec![END.to_owned()],
                names: entity.names.clone(),
                gpu_uuid: entity.gpu_uuid.clone(),
                gpu_instance: entity.gpu_instance,
                containers: Vec::new(),
                jobs: Vec::new(),
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
            entity.jobs = ids.into_iter().map(str::to_owned).collect();
            entity.set_endings();
        }
        self.jobs = self.job_metrics(jobs);
    }

    /// Labels the samples of each GPU and instance with the containers that have it.
    pub fn set_containers(&mut self, containers: &ContainerMap) {
        for entity in &mut self.entities {
            let names = containers.of(&entity.names, &entity.gpu_uuid, entity.gpu_instance);
            entity.containers = names.into_iter().map(str::to_owned).collect();
            entity.set_endings();
        }
    }

    /// Appends the metrics of the job map: which GPU is allocated, to whom, and what is known of each job.
    pub fn render_jobs(&self, out: &mut String) {
        out.push_str(&self.jobs);
    }

    /// Appends what jobs have used of each GPU and instance, and for how long those that are allocated have been idle.
    /// `keys` are by entity, `now` is in microseconds since 1970. At most `most` accounts are shown, those of jobs that run
    /// first.
    pub fn render_accounts(&self, memory: &mut Memory, most: usize, keys: &[Option<Key>], now: i64, out: &mut String) {
        let Memory { extras, parts, jobs: timeline, .. } = memory;
        let accounts: &Accounts = parts.of();
        let of_gpus = self.kinds.iter().filter(|kind| kind.kind == Kind::Gpu).flat_map(|kind| kind.entities.clone());
        let gpus: Vec<(&str, Key)> =
            of_gpus.filter_map(|index| Some((self.entities[index].identity.as_str(), (*keys.get(index)?)?))).collect();
        let all = || gpus.iter().flat_map(|(labels, key)| accounts.of(*key).map(|(job, it)| (*labels, job, it)));
        let running = all().filter(|(.., account)| account.ended.is_none());
        // Of a job that is over, what is not 0 stays for a while.
        let over = all().filter(|(.., account)| account.ended.is_some_and(|ended| now - ended < extras.keep()));
        let shown: Vec<(&str, &str, &Account)> = running.chain(over).take(most).collect();
        for (name, kind, help, number) in ACCOUNT_METRICS {
            let mut family = Family::new(name, kind, help);
            for &(labels, job, account) in &shown {
                let number = number(account);
                let is_zero = [Number::Int(0), Number::Double(0.0)].contains(&number);
                let is_shown = number != Number::Blank && !(is_zero && account.ended.is_some());
                if is_shown && out.len() < MOST_BYTES {
                    family.sample(out, labels, [(JOB, job)], END, number);
                }
            }
        }
        let help =
            "Seconds for which an allocated GPU or instance has not been used; 0 while it is in use or not allocated";
        let mut family = Family::new("dcgm_exporter_gpu_idle_seconds", "gauge", help);
        for (labels, key) in &gpus {
            if let Some(seconds) = accounts.idle_seconds(timeline, *key, now) {
                family.sample(out, labels, [], END, Number::Double(seconds));
            }
        }
    }

    fn job_metrics(&self, jobs: &JobMap) -> String {
        let of_gpus = self.kinds.iter().filter(|kind| kind.kind == Kind::Gpu);
        let gpus: Vec<&EntityText> = of_gpus.flat_map(|kind| &self.entities[kind.entities.clone()]).collect();
        let mut out = String::new();
        let gauge = |name, help| Family::new(name, "gauge", help);
        let mut allocated = gauge("dcgm_exporter_gpu_allocated", "1 if a job has a GPU or instance, busy or idle");
        for gpu in &gpus {
            let is_allocated = !jobs.jobs_of(&gpu.names).is_empty();
            allocated.sample(&mut out, &gpu.identity, [], END, Number::Int(is_allocated.into()));
        }
        let mut held = gauge("dcgm_exporter_gpu_job", "Which job has a GPU or instance; always 1");
        for gpu in &gpus {
            for job in jobs.jobs_of(&gpu.names) {
                held.sample(&mut out, &gpu.identity, [(JOB, job)], END, Number::Int(1));
            }
        }
        let mut info =
            gauge("dcgm_exporter_job_info", "User, account and partition of a job, from the job map; always 1");
        for (job, facts) in jobs.facts() {
            let facts = facts.labels.iter().map(|(name, value)| (*name, value.as_str()));
            info.sample(&mut out, "{", std::iter::once((JOB, job)).chain(facts), END, Number::Int(1));
        }
        let mut start = gauge(
            "dcgm_exporter_job_start_time_seconds",
            "Time when a job's prolog ran on this node, in seconds since 1970",
        );
        for (job, facts) in jobs.facts() {
            if let Some(seconds) = facts.start_time {
                start.sample(&mut out, "{", [(JOB, job)], END, Number::Double(seconds));
            }
        }
        out
    }

    /// Appends all samples of the table to `out`. Returns how many copies for jobs are left out, because the page is too long.
    ///
    /// Each metric is written once, with all its samples together, at the place of the first kind of entity that has one.
    pub fn render(&mut self, table: &mut Table, computed: &Samples, out: &mut String) -> usize {
        let mut left_out = 0;
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
                let mut family = Family::prepared(&text.name, &text.head);
                if text.is_announced {
                    family.begin(out);
                }
                match text.source {
                    MetricSource::Computed(name) => {
                        left_out += render_computed(&mut family, computed.get(name), &self.entities, out);
                    }
                    MetricSource::Field(asked) => {
                        left_out += render_field(&mut family, asked, &self.entities, kind, table, out);
                        if family.is_begun() {
                            let later = self.kinds[index + 1..].iter();
                            for later in later.filter(|kind| kind.metrics.contains(&metric)) {
                                left_out += render_field(&mut family, asked, &self.entities, later, table, out);
                            }
                        }
                    }
                }
                text.printed = family.is_begun();
            }
        }
        // Reserve 12 % so that longer numbers do not reallocate.
        if out.capacity() - out.len() < out.len() / 16 {
            out.reserve(out.len() / 8);
        }
        left_out
    }

    /// Appends `dcgm_exporter_entity_up`: one sample for each GPU and instance, `up` being by entity, and 0 for those
    /// that have gone, with their last known identity.
    pub fn render_up(&self, up: &[bool], gone: &[Entity], out: &mut String) {
        let gpus = self.kinds.iter().filter(|kind| kind.kind == Kind::Gpu).flat_map(|kind| kind.entities.clone());
        let present = gpus.filter_map(|index| Some((&self.entities[index].identity, *up.get(index)?)));
        let gone: Vec<String> = gone.iter().map(identity).collect();
        let help = "1 if a GPU or instance answers, 0 if it is lost";
        let mut family = Family::new("dcgm_exporter_entity_up", "gauge", help);
        for (labels, up) in present.chain(gone.iter().map(|labels| (labels, false))) {
            family.sample(out, labels, [], END, Number::Int(up.into()));
        }
    }

    /// Appends `dcgm_exporter_xid_events_total`: one sample for each GPU and instance, and for each GPU behind instances, with
    /// `counts` by entity; then those of entities that have gone, with their last known identity.
    pub fn render_xid_events(&self, counts: &[Option<u64>], gone: &[(&Entity, u64)], out: &mut String) {
        let help = "XID errors of all codes on a GPU or instance since the exporter started";
        let mut family = Family::new("dcgm_exporter_xid_events_total", "counter", help);
        let number = |count: u64| Number::Int(i64::try_from(count).unwrap_or(i64::MAX));
        let gpus = self.kinds.iter().filter(|kind| matches!(kind.kind, Kind::Gpu | Kind::WholeGpu));
        for index in gpus.flat_map(|kind| kind.entities.clone()) {
            if let Some(Some(count)) = counts.get(index) {
                family.sample(out, &self.entities[index].identity, [], END, number(*count));
            }
        }
        for (entity, count) in gone {
            family.sample(out, &identity(entity), [], END, number(*count));
        }
    }

    /// Appends `dcgm_exporter_entity_stale`: one sample for each entity whose last values are shown although they have
    /// stopped moving, `stale` being by entity.
    pub fn render_stale(&self, stale: &[bool], out: &mut String) {
        let help = "1 for a switch, link, CPU or ConnectX adapter whose values are old: DCGM has no newer ones";
        let mut family = Family::new("dcgm_exporter_entity_stale", "gauge", help);
        let stale = self.entities.iter().zip(stale).filter(|(_, stale)| **stale);
        for (entity, _) in stale {
            family.sample(out, &entity.identity, [], END, Number::Int(1));
        }
    }

    /// Appends `dcgm_exporter_profiling_paused`: one sample for each GPU and instance that has profiling fields, `paused`
    /// being by entity.
    pub fn render_paused(&self, paused: &[Option<bool>], out: &mut String) {
        let help =
            "1 while the profiling fields of a GPU or instance are not watched, so that another profiler can run";
        let mut family = Family::new("dcgm_exporter_profiling_paused", "gauge", help);
        for index in self.kinds.iter().filter(|kind| kind.kind == Kind::Gpu).flat_map(|kind| kind.entities.clone()) {
            if let Some(Some(paused)) = paused.get(index) {
                family.sample(out, &self.entities[index].identity, [], END, Number::Int((*paused).into()));
            }
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

/// The endings of an entity's samples that still have room on the page, at least one.
fn with_room<'a>(endings: &'a [String], out: &str) -> &'a [String] {
    if out.len() < MOST_BYTES { endings } else { &endings[..1] }
}

/// Renders the samples of a field's metric for one kind of entity. Returns how many copies for jobs are left out.
fn render_field(
    family: &mut Family<'_>,
    asked: Asked,
    entities: &[EntityText],
    kind: &KindText,
    table: &Table,
    out: &mut String,
) -> usize {
    let mut left_out = 0;
    for index in kind.entities.clone() {
        let number = table.number(index, asked);
        if number == Number::Blank {
            continue;
        }
        let entity = &entities[index];
        let endings = with_room(&entity.endings, out);
        left_out += entity.endings.len() - endings.len();
        for ending in endings {
            if let (FIELD_XID, Number::Int(code)) = (asked.id, number) {
                let mut digits = itoa::Buffer::new();
                let more = [("err_code", digits.format(code)), ("err_msg", xid::text(code))];
                family.sample(out, &entity.labels, more, ending, number);
            } else {
                family.sample(out, &entity.labels, [], ending, number);
            }
        }
    }
    left_out
}

fn render_computed(family: &mut Family<'_>, samples: &[Sample], entities: &[EntityText], out: &mut String) -> usize {
    let mut left_out = 0;
    for sample in samples {
        let entity = &entities[sample.entity];
        let endings = with_room(&entity.endings, out);
        let mut put = |ending: &str| {
            let more = sample.labels.iter().map(|(name, value)| (*name, value.as_str()));
            family.sample(out, &entity.labels, more, ending, sample.number);
        };
        match &sample.job {
            Attribution::Current => {
                left_out += entity.endings.len() - endings.len();
                endings.iter().for_each(|ending| put(ending));
            }
            Attribution::Then(Some(job)) => put(&job_end(job)),
            Attribution::Then(None) => put(END),
        }
    }
    left_out
}

/// The label of a job and what ends the labels.
fn job_end(job: &str) -> String {
    let mut end = String::new();
    push_label(&mut end, JOB, job);
    end.push_str(END);
    end
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
    MetricText {
        name: metric.name.clone(),
        head: family::head(&metric.name, metric.kind, &metric.help),
        source: metric.source,
        is_announced: metric.is_announced,
        printed: false,
    }
}

/// Writes the exporter's own metrics.
pub struct OwnMetrics<'a> {
    out: &'a mut String,
    family: Family<'static>,
}

impl<'a> OwnMetrics<'a> {
    pub fn new(out: &'a mut String) -> OwnMetrics<'a> {
        OwnMetrics { out, family: Family::new("", "", "") }
    }
}

impl Sink for OwnMetrics<'_> {
    fn metric(&mut self, name: &'static str, kind: &'static str, help: &'static str) {
        self.family = Family::new(name, kind, help);
        self.family.begin(self.out);
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: Number) {
        let prepared = if labels.is_empty() { "" } else { "{" };
        self.family.sample(self.out, prepared, labels.iter().copied(), END, value);
    }
}
