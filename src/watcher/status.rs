//! The data of the page for people, made from the last collection while somebody asks for it.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Watcher;
use super::active_watches::ActiveWatches;
use super::session_run::SessionRun;
use crate::config::StatusPage;
use crate::dcgm::bounds;
use crate::inventory::{Entity, Kind};
use crate::metrics::fatal_xid;
use crate::metrics::number::Number;
use crate::metrics::plan::{Asked, MetricSource, Plan, Scale};
use crate::metrics::sources::{nvlink_links, xid};
use crate::status::advice;
use crate::status::history::History;
use crate::status::model::{self, Gpu, Group, Job, Jobs, Measure, Problem, Snapshot};
use crate::system::threads::{contained, test_fault};

/// Histories by the UUID of the GPU or instance. Empty while nobody asks for the page.
#[derive(Default)]
pub struct Histories {
    by_uuid: HashMap<String, History>,
    /// Seconds are counted from here.
    since: Option<Instant>,
}

/// Fields of a GPU, each with what makes of it the unit of the page. A field of DCGM 4.6's base units comes after the
/// classic one.
const UTILISATION: &[(u16, f64)] = &[(203, 1.0), (1613, 100.0), (1001, 100.0)];
const MEMORY: &[(u16, f64)] = &[(252, 1.0), (1627, 1.0 / MIB)];
const MEMORY_FREE: &[(u16, f64)] = &[(251, 1.0), (1626, 1.0 / MIB)];
const MEMORY_RESERVED: &[(u16, f64)] = &[(253, 1.0), (1628, 1.0 / MIB)];
const MEMORY_TOTAL: &[(u16, f64)] = &[(250, 1.0), (1625, 1.0 / MIB)];
const POWER: &[(u16, f64)] = &[(155, 1.0)];
/// The limit in force, then the one that was set.
const POWER_LIMIT: &[(u16, f64)] = &[(164, 1.0), (160, 1.0)];
const TEMPERATURE: &[(u16, f64)] = &[(150, 1.0)];
const SLOWDOWN: &[(u16, f64)] = &[(158, 1.0)];
const MEMORY_TEMPERATURE: &[(u16, f64)] = &[(140, 1.0)];
const CLOCK_EVENTS: &[(u16, f64)] = &[(112, 1.0)];
const XID: &[(u16, f64)] = &[(xid::FIELD, 1.0)];
const ROW_REMAP_FAILED: &[(u16, f64)] = &[(395, 1.0)];
const ROW_REMAP_PENDING: &[(u16, f64)] = &[(396, 1.0)];
const RECOVERY_ACTION: &[(u16, f64)] = &[(1523, 1.0)];
const MIB: f64 = 1_048_576.0;

impl Watcher {
    /// Makes the data of the page for people and publishes it, if somebody asks for that page; else frees it.
    pub(super) fn publish_status(&mut self, run: Option<&mut SessionRun>) {
        let Some(page) = self.publisher.published().status_page() else { return };
        if !page.is_wanted() {
            self.histories = Histories::default();
            // Without samples it is a few lines, and comes so seldom that nobody should wait for it.
            if run.is_some() {
                return page.release();
            }
        }
        let snapshot = contained("the page for people", || {
            test_fault("status").expect("a fault");
            self.snapshot(run)
        });
        if let Some(page) = self.publisher.published().status_page() {
            page.publish(snapshot.unwrap_or_else(Snapshot::not_made));
        }
    }

    /// The same where somebody waits for the first data: it is of the last collection.
    pub(super) fn publish_status_if_waited_for(&mut self, run: &mut SessionRun) {
        if self.publisher.published().status_page().is_some_and(|page| page.is_waited_for()) {
            self.publish_status(Some(run));
        }
    }

    fn snapshot(&mut self, run: Option<&mut SessionRun>) -> Snapshot {
        let mut snapshot = Snapshot {
            node: if self.hostname.is_empty() { crate::system::node_name() } else { self.hostname.clone() },
            interval: self.pace.period(),
            facts: self.facts(),
            has_jobs: self.jobs.is_some(),
            counters_file: self.config.counters_file().display().to_string(),
            ..Snapshot::default()
        };
        snapshot.skipped =
            self.counters.errors.iter().map(|(line, what)| (format!("line {line}"), what.clone())).collect();
        for entity in self.lost.entities() {
            let what = format!("{} ({}) is lost", entity.gpu_name(), entity.uuid);
            snapshot.problems.push(problem(what, advice::LOST));
        }
        for name in &self.unmatched {
            let what = format!("the job map names a GPU '{name}' that is not reported");
            snapshot.problems.push(problem(what, advice::JOB_MAP));
        }
        let Some((run, collected)) = run.and_then(|run| Some((run, self.collected?))) else { return snapshot };
        let Some(watches) = &run.watches else { return snapshot };
        if run.collected.is_none() {
            return snapshot;
        }
        snapshot.taken = Some(collected);
        let seconds = Duration::try_from_secs_f64(self.report.collect_time).unwrap_or_default();
        // The end of the year 9999: no text form has a later time.
        const LATEST: Duration = Duration::from_secs(253_402_300_799);
        snapshot.time = Some(if seconds > LATEST { SystemTime::now() } else { UNIX_EPOCH + seconds });
        snapshot.interval = if run.is_embedded() { self.pace.period() } else { self.config.period() };
        let mut labels = watches.collector.table.labels(0);
        let driver = labels.find(|(name, _)| name.to_ascii_lowercase().contains("driver_version"));
        snapshot.facts.extend(driver.map(|(_, version)| ("Driver", version.to_owned())));
        let fatal = run.fatal_xid.iter().map(|gpu| fatal_xid::sentence(*gpu, &watches.inventory.entities));
        let fix = advice::of_xid(119).unwrap_or(advice::ANY);
        snapshot.problems.extend(fatal.map(|what| problem(what, fix)));
        self.gpus(watches, collected, &mut snapshot);
        snapshot.others = others(watches);
        snapshot.problems.extend(watches.judgement.reasons.iter().map(|what| problem(what.clone(), advice::ANY)));
        snapshot.problems.extend(links_down(watches));
        skipped(watches, &mut snapshot.skipped);
        snapshot
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let report = &self.report;
        let mut facts = vec![("Exporter", env!("CARGO_PKG_VERSION").to_owned())];
        facts.push(("Library", format!("libdcgm {} ({})", report.library_version, report.library_path)));
        if !report.engine_mode.is_empty() {
            let parts = [report.engine_mode, report.engine_address.as_str(), report.engine_version.as_str()];
            let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            facts.push(("Engine", parts.join(" ")));
        }
        let milliseconds = report.collect_duration.as_secs_f64() * 1e3;
        facts.push(("Last collection", format!("took {milliseconds:.1} ms, number {}", report.collections)));
        let [taken, refused] = report.reloads;
        facts.push(("Counters", format!("{} rows in use, {} skipped", report.counters, report.counters_skipped)));
        if let Some(pause) = self.pause_in_words() {
            facts.push(("Profiling", pause));
        }
        if taken + refused > 0 {
            facts.push(("Reloads", format!("{taken} taken over, {refused} refused")));
        }
        facts
    }

    fn gpus(&mut self, watches: &ActiveWatches, collected: Instant, snapshot: &mut Snapshot) {
        let since = *self.histories.since.get_or_insert(collected);
        // A slot is 5 s; a clock of its own per process.
        let seconds = collected.saturating_duration_since(since).as_secs();
        let counts = watches.collector.xid_events(&mut self.memory);
        let mut before = std::mem::take(&mut self.histories.by_uuid);
        for (index, entity) in watches.inventory.entities.iter().enumerate() {
            if !matches!(entity.kind, Kind::Gpu | Kind::WholeGpu) {
                continue;
            }
            let measure = |fields: &[(u16, f64)]| measure(watches, index, fields);
            snapshot.problems.extend(of_hardware(entity, &measure));
            if entity.kind == Kind::WholeGpu {
                // It is shown by its instances.
                let code = measure(XID).value().map_or(0, |code| code as i64);
                snapshot.problems.extend(of_xid(&entity.gpu_name(), code));
                continue;
            }
            let memory = measure(MEMORY);
            let sum = [memory, measure(MEMORY_FREE), measure(MEMORY_RESERVED)].map(Measure::value);
            let total = match sum {
                [Some(used), Some(free), reserved] => Measure::Value(used + free + reserved.unwrap_or(0.0)),
                _ => Measure::NotAsked,
            };
            let xid = measure(XID);
            let label = |name: &str| entity.label(name).unwrap_or_default().to_owned();
            let mut gpu = Gpu {
                name: entity.gpu_name(),
                uuid: entity.uuid.clone(),
                pci_bus_id: label("pci_bus_id"),
                model: label("modelName"),
                profile: label("GPU_I_PROFILE"),
                answers: watches.judgement.up.get(index).copied().unwrap_or(true),
                utilisation: measure(UTILISATION),
                memory,
                memory_total: measure(MEMORY_TOTAL).or(total),
                power: measure(POWER),
                power_limit: measure(POWER_LIMIT),
                temperature: measure(TEMPERATURE),
                slowdown: measure(SLOWDOWN),
                memory_temperature: measure(MEMORY_TEMPERATURE),
                clock_events: measure(CLOCK_EVENTS),
                xid,
                xid_text: xid.value().map_or("", |code| xid::text(code as i64)),
                xid_events: counts.as_ref().and_then(|counts| counts.get(index).copied().flatten()),
                jobs: self.jobs_of(entity),
                history: before.remove(&entity.uuid).unwrap_or_default(),
            };
            let value = |measure: Measure| measure.value().map_or(f32::NAN, |value| value as f32);
            let values = [gpu.utilisation, gpu.memory, gpu.power, gpu.temperature].map(value);
            gpu.history.note(seconds, values);
            self.histories.by_uuid.insert(entity.uuid.clone(), gpu.history.clone());
            snapshot.problems.extend(of_gpu(&gpu));
            snapshot.gpus.push(gpu);
        }
    }

    fn jobs_of(&self, entity: &Entity) -> Jobs {
        let Some(map) = &self.jobs else { return Jobs::Unknown };
        let ids = map.jobs_of(&entity.names);
        if self.config.status_page != StatusPage::Full {
            return Jobs::Count(ids.len());
        }
        let user = |id: &str| {
            let (_, facts) = map.facts().find(|(known, _)| *known == id)?;
            facts.labels.iter().find(|(name, _)| *name == "user").map(|(_, user)| user.clone())
        };
        Jobs::Named(ids.into_iter().map(|id| Job { id: id.to_owned(), user: user(id).unwrap_or_default() }).collect())
    }
}

fn problem(what: impl Into<String>, fix: &str) -> Problem {
    Problem { what: what.into(), fix: fix.to_owned() }
}

/// The first of these fields that has a value.
fn measure(watches: &ActiveWatches, entity: usize, fields: &[(u16, f64)]) -> Measure {
    let kind = watches.inventory.entities[entity].kind;
    let asked = watches.plan.fields.iter().find(|fields| fields.kind == kind);
    fields.iter().fold(Measure::NotAsked, |so_far, (id, factor)| {
        let number = watches.collector.table.number(entity, Asked { id: *id, scale: Scale::One });
        so_far.or(match number {
            Number::Int(number) if bounds::can_be(*id, number as f64) => Measure::Value(number as f64 * factor),
            Number::Double(number) if number.is_finite() && bounds::can_be(*id, number) => {
                Measure::Value(number * factor)
            }
            _ if asked.is_some_and(|fields| fields.ids.binary_search(id).is_ok()) => Measure::NoSample,
            _ => Measure::NotAsked,
        })
    })
}

/// Problems of a GPU as a piece of hardware.
fn of_hardware(entity: &Entity, measure: &impl Fn(&[(u16, f64)]) -> Measure) -> Vec<Problem> {
    let is_set = |fields: &[(u16, f64)]| measure(fields).value().is_some_and(|value| value != 0.0);
    let mut problems = Vec::new();
    let name = entity.gpu_name();
    if is_set(ROW_REMAP_FAILED) {
        problems.push(problem(format!("{name}: a memory row could not be remapped"), advice::ROW_REMAP_FAILED));
    }
    if is_set(ROW_REMAP_PENDING) {
        problems
            .push(problem(format!("{name}: memory rows are remapped at its next reset"), advice::ROW_REMAP_PENDING));
    }
    let action = measure(RECOVERY_ACTION).value().and_then(|action| advice::of_recovery(action as i64));
    problems.extend(action.map(|(what, fix)| problem(format!("{name}: {what}"), fix)));
    problems
}

fn of_xid(name: &str, code: i64) -> Option<Problem> {
    advice::of_xid(code).map(|fix| problem(format!("{name}: XID {code}, {}", xid::text(code)), fix))
}

/// Problems that the values of a GPU or instance show.
fn of_gpu(gpu: &Gpu) -> Vec<Problem> {
    let mut problems = Vec::new();
    problems.extend(gpu.xid_code().and_then(|code| of_xid(&gpu.name, code)));
    let bits = gpu.clock_events.value().map_or(0, |bits| bits as i64);
    if gpu.is_hot() || bits & model::THERMAL != 0 {
        problems.push(problem(format!("{}: too hot, its clocks are held down", gpu.name), advice::HOT));
    }
    if bits & model::POWER_BRAKE != 0 {
        problems.push(problem(format!("{}: the power brake holds its clocks down", gpu.name), advice::POWER_BRAKE));
    }
    problems
}

/// NVLinks that are down, where the counters file asks for them.
fn links_down(watches: &ActiveWatches) -> Vec<Problem> {
    let mut problems = Vec::new();
    for sample in watches.collector.computed.get(nvlink_links::LINKS) {
        let is_down = sample.labels.iter().any(|(name, value)| *name == "state" && value == "down");
        if let (true, Number::Int(count @ 1..)) = (is_down, sample.number) {
            let name = watches.inventory.entities[sample.entity].gpu_name();
            problems.push(problem(format!("{name}: {count} NVLinks are down"), advice::LINK_DOWN));
        }
    }
    problems
}

/// All that is no GPU: a line per switch and CPU, and a line per GPU for its links.
fn others(watches: &ActiveWatches) -> Vec<Group> {
    let mut links: Vec<(String, String)> = Vec::new();
    for sample in watches.collector.computed.get(nvlink_links::LINKS) {
        let (Some((_, state)), Number::Int(count @ 1..)) = (sample.labels.first(), sample.number) else { continue };
        let name = watches.inventory.entities[sample.entity].gpu_name();
        match links.last_mut().filter(|(known, _)| *known == name) {
            Some((_, text)) => text.push_str(&format!(", {count} {state}")),
            None => links.push((name, format!("{count} {state}"))),
        }
    }
    let mut groups = vec![Group { title: "NVLinks", lines: links }];
    for (kind, title) in [
        (Kind::GpuLink, "Links of GPUs"),
        (Kind::Switch, "Switches"),
        (Kind::SwitchLink, "Links of switches"),
        (Kind::Cpu, "CPUs"),
        (Kind::ConnectX, "ConnectX adapters"),
    ] {
        groups.push(Group { title, lines: lines(watches, kind) });
    }
    groups.retain(|group| !group.lines.is_empty());
    groups
}

/// The owner, how many there are, and the values of each metric added up.
type Line = (String, usize, Vec<(String, f64)>);

/// A line per entity of a kind, or, of links, per GPU or switch.
fn lines(watches: &ActiveWatches, kind: Kind) -> Vec<(String, String)> {
    let is_link = matches!(kind, Kind::GpuLink | Kind::SwitchLink);
    let mut lines: Vec<Line> = Vec::new();
    for (index, entity) in watches.inventory.entities.iter().enumerate().filter(|(_, entity)| entity.kind == kind) {
        let wanted: &[&str] = if is_link { &["gpu", "nvswitch"] } else { &["nvswitch", "cpu", "connectx"] };
        let owner = entity.labels.iter().find(|(name, _)| wanted.contains(name));
        let name = match owner {
            Some((_, id)) if kind == Kind::GpuLink => format!("GPU {id}"),
            Some((_, id)) if is_link => format!("Switch {id}"),
            _ => format!("{} {}", kind.name(), entity.id.id),
        };
        if lines.last().is_none_or(|(known, ..)| *known != name) {
            lines.push((name, 0, Vec::new()));
        }
        let Some((_, count, sums)) = lines.last_mut() else { continue };
        *count += 1;
        for (metric, value) in values(watches, &watches.plan, kind, index) {
            match sums.iter_mut().find(|(known, _)| *known == metric) {
                Some((_, sum)) => *sum += value,
                None => sums.push((metric, value)),
            }
        }
    }
    let line = |(name, count, sums): Line| {
        let values = sums.into_iter().map(|(metric, value)| format!("{metric} {}", number_text(value)));
        let count = is_link.then(|| format!("{count} links"));
        let text: Vec<String> = count.into_iter().chain(values).collect();
        (name, text.join(", "))
    };
    lines.into_iter().map(line).collect()
}

/// The values of an entity, by short names of their metrics.
fn values<'a>(
    watches: &'a ActiveWatches,
    plan: &'a Plan,
    kind: Kind,
    entity: usize,
) -> impl Iterator<Item = (String, f64)> + 'a {
    plan.metrics.iter().filter(move |metric| metric.kinds.contains(&kind)).filter_map(move |metric| {
        let MetricSource::Field(asked) = metric.source else { return None };
        let value = match watches.collector.table.number(entity, asked) {
            Number::Int(number) => number as f64,
            Number::Double(number) => number,
            Number::Blank => return None,
        };
        let name = metric.name.strip_prefix("DCGM_FI_DEV_").unwrap_or(&metric.name);
        let name = name.strip_prefix("NVSWITCH_").unwrap_or(name);
        Some((name.to_lowercase().replace('_', " "), value))
    })
}

/// Rows without samples, with the reason.
fn skipped(watches: &ActiveWatches, skipped: &mut Vec<(String, String)>) {
    let ActiveWatches { plan, collector, .. } = watches;
    skipped.extend(plan.skipped.iter().cloned());
    for (field, error) in &collector.refused {
        skipped.extend(
            plan.names_of(*field).map(|name| (name.to_owned(), format!("the engine does not watch it: {error}"))),
        );
    }
    for field in collector.skipped_switch_fields(plan) {
        let why = "no switch, link or CPU here has a value of it";
        skipped.extend(plan.names_of(field).map(|name| (name.to_owned(), why.to_owned())));
    }
}

/// Whole numbers without a fraction, others with two digits.
fn number_text(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}
