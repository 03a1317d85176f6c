//! Metrics that the exporter makes itself from events and answers of DCGM.
//!
//! What counts since the start of the exporter ([`Events`]) outlives sessions and inventories; what is asked of an
//! engine ([`Sources`]) lives as long as the watches behind it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::clock_events::ClockEvents;
use super::health::HealthChecks;
use super::plan::{FIELD_XID, Plan};
use super::table::Number;
use super::watches::Watcher;
use super::xid::XidEvents;
use super::{note, p2p};
use crate::counters::Computed;
use crate::dcgm::watch::Keep;
use crate::dcgm::{EntityId, Error, Result, Session, Value, Watch};
use crate::inventory::{Inventory, Kind};

/// Field 112, the reasons for which clocks are held down, as a bit mask.
const FIELD_CLOCK_EVENTS: u16 = 112;

/// A sample of a computed metric.
#[derive(Debug, Clone, PartialEq)]
pub struct ComputedSample {
    /// Index into the inventory.
    pub entity: usize,
    /// After the labels of the entity, by name.
    pub labels: Vec<(&'static str, String)>,
    pub job: Attribution,
    pub number: Number,
}

/// Which job a sample belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribution {
    /// Whichever jobs have the GPU now, as all other samples.
    Current,
    /// The one that had it when the event happened, or none.
    Then(Option<Arc<str>>),
}

/// Samples by metric; a metric that is present without samples is announced by its HELP and TYPE lines alone.
pub type ComputedSamples = BTreeMap<Computed, Vec<ComputedSample>>;

/// How long the engine keeps events for us: long enough for a few missed collections.
fn kept(window: Duration, interval: Duration) -> Duration {
    const LONGEST: Duration = Duration::from_secs(600);
    window.min(LONGEST).max(interval * 3 + Duration::from_secs(60))
}

/// Events counted since the exporter started.
pub struct Events {
    pub xid: XidEvents,
    pub clock: ClockEvents,
    /// Where reading goes on, in microseconds since 1970, by field.
    next: HashMap<u16, i64>,
    jobs: JobTimeline,
}

impl Events {
    /// `now` is in microseconds since 1970.
    pub fn new(now: i64, xid_window: Duration, clock_window: Duration) -> Events {
        Events {
            xid: XidEvents::new(now, xid_window),
            clock: ClockEvents::new(now, clock_window),
            next: HashMap::new(),
            jobs: JobTimeline::default(),
        }
    }

    /// An entity is gone, and its id may come to mean another.
    pub fn forget(&mut self, entity: EntityId) {
        self.xid.forget(entity);
        self.clock.forget(entity);
        self.jobs.changes.remove(&entity);
    }

    /// Notes who has an entity from now on.
    pub fn set_jobs(&mut self, now: i64, entity: EntityId, jobs: &[&str]) {
        self.jobs.set(now, entity, jobs);
    }
}

type JobIds = Arc<[Arc<str>]>;

/// Who had which entity when.
#[derive(Default)]
struct JobTimeline {
    changes: HashMap<EntityId, VecDeque<(i64, JobIds)>>,
}

impl JobTimeline {
    /// Events are read within seconds, so a few changes back are all that is ever asked for.
    const LONGEST: usize = 64;

    fn set(&mut self, now: i64, entity: EntityId, jobs: &[&str]) {
        let changes = self.changes.entry(entity).or_default();
        let same = match changes.back() {
            Some((_, last)) => last.iter().map(|job| &**job).eq(jobs.iter().copied()),
            None => jobs.is_empty(),
        };
        if !same {
            changes.push_back((now, jobs.iter().map(|job| Arc::from(*job)).collect()));
            if changes.len() > JobTimeline::LONGEST {
                changes.pop_front();
            }
        }
    }

    fn at(&self, time: i64, entity: EntityId) -> JobIds {
        let changes = self.changes.get(&entity).into_iter().flatten();
        changes.rev().find(|(since, _)| *since <= time).map(|(_, jobs)| jobs.clone()).unwrap_or_default()
    }
}

/// A counter of one entity, one kind of event and one job.
pub type SeriesKey<K> = (EntityId, K, Option<Arc<str>>);

/// Counters by entity, kind of event and the job that had the entity.
///
/// Every kind worth an alert starts at 0 for every job, so that `increase()` sees its first event. Series of jobs that
/// are over stay for a while, to be scraped once more, and then go: their number would grow for years.
#[derive(Debug)]
pub struct Tally<K> {
    series: BTreeMap<SeriesKey<K>, (f64, i64)>,
}

impl<K> Default for Tally<K> {
    fn default() -> Tally<K> {
        Tally { series: BTreeMap::new() }
    }
}

impl<K: Ord + Copy> Tally<K> {
    const AFTERLIFE: i64 = 3_600_000_000;
    const MOST_SERIES: usize = 20_000;

    /// Adds to the series of every job that had the entity.
    pub fn add(&mut self, now: i64, entity: EntityId, kind: K, jobs: &[Arc<str>], amount: f64) {
        for job in each_or_none(jobs) {
            if self.series.len() < Self::MOST_SERIES || self.series.contains_key(&(entity, kind, job.clone())) {
                let (count, touched) = self.series.entry((entity, kind, job)).or_default();
                *count += amount;
                *touched = now;
            }
        }
    }

    /// Lets the series of today's jobs exist, and forgets those of jobs long over.
    pub fn tend(&mut self, now: i64, entity: EntityId, kinds: &[K], jobs: &[Arc<str>]) {
        for kind in kinds {
            self.add(now, entity, *kind, jobs, 0.0);
        }
        self.series.retain(|(owner, _, job), (_, touched)| {
            let current = job.as_ref().is_none_or(|job| jobs.contains(job));
            if *owner == entity && current {
                *touched = now;
            }
            now - *touched < Self::AFTERLIFE
        });
    }

    pub fn forget(&mut self, entity: EntityId) {
        self.series.retain(|(owner, ..), _| *owner != entity);
    }

    pub fn of(&self, entity: EntityId) -> impl Iterator<Item = (K, Option<Arc<str>>, f64)> {
        let of_entity = self.series.iter().filter(move |((owner, ..), _)| *owner == entity);
        of_entity.map(|((_, kind, job), (count, _))| (*kind, job.clone(), *count))
    }
}

/// No job is a job of its own.
fn each_or_none(jobs: &[Arc<str>]) -> Vec<Option<Arc<str>>> {
    if jobs.is_empty() { vec![None] } else { jobs.iter().cloned().map(Some).collect() }
}

/// What a session is asked for.
pub struct Sources {
    session: Rc<Session>,
    xid: Vec<Watch>,
    clock: Vec<Watch>,
    health: Option<HealthChecks>,
    p2p: bool,
    wanted: Vec<Computed>,
    /// Why a source is missing; said once.
    pub problems: Vec<String>,
}

impl Sources {
    /// Watches what the plan's computed metrics need.
    ///
    /// Errors: as [`super::Collector::new`].
    pub fn new(
        session: &Rc<Session>,
        plan: &Plan,
        inventory: &Inventory,
        interval: Duration,
        windows: (Duration, Duration),
    ) -> Result<Sources> {
        let wanted: Vec<Computed> =
            Computed::ALL.into_iter().map(|(_, computed)| computed).filter(|c| plan.wants(*c)).collect();
        let any = |of: &[Computed]| of.iter().any(|computed| wanted.contains(computed));
        let gpus: Vec<EntityId> =
            inventory.entities.iter().filter(|entity| entity.kind == Kind::Gpu).map(|entity| entity.id).collect();
        let mut problems = Vec::new();
        let mut events_of = |field: u16, window: Duration, wanted: bool| -> Result<Vec<Watch>> {
            if !wanted {
                return Ok(Vec::new());
            }
            let mut watcher = Watcher::new(session, interval, Keep::Window(kept(window, interval)));
            watcher.watch(&gpus, &[field])?;
            problems
                .extend(watcher.refused.iter().map(|(field, error)| format!("field {field} is not watched: {error}")));
            Ok(watcher.watches)
        };
        let of_xid = any(&[Computed::XidErrorsCount, Computed::XidErrorsTotal, Computed::LastXidTimestamp]);
        let xid = events_of(FIELD_XID, windows.0, of_xid)?;
        let of_clock =
            any(&[Computed::ClockEventsCount, Computed::ClockEventsTotal, Computed::ClockEventsSecondsTotal]);
        let clock = events_of(FIELD_CLOCK_EVENTS, windows.1, of_clock)?;
        let health = match any(&[Computed::GpuHealthStatus]) && !inventory.reported_gpus().is_empty() {
            true => match HealthChecks::new(session, inventory, interval) {
                Ok(health) => Some(health),
                Err(error) if error.is_connection_lost() => return Err(error),
                Err(error) => {
                    problems.push(format!("GPU health is not checked: {error}"));
                    None
                }
            },
            false => None,
        };
        let p2p = any(&[Computed::P2pStatus]);
        Ok(Sources { session: session.clone(), xid, clock, health, p2p, wanted, problems })
    }

    /// Reads what is new and puts today's samples together. `now` is in microseconds since 1970.
    ///
    /// Errors: only a lost connection; others go to `failed`.
    pub fn collect(
        &mut self,
        events: &mut Events,
        inventory: &Inventory,
        now: i64,
        samples: &mut ComputedSamples,
        failed: &mut Vec<Error>,
    ) -> Result<()> {
        let Events { xid, clock, next, jobs } = events;
        let since = |field: u16, window: Duration| next.get(&field).copied().unwrap_or(now - window.as_micros() as i64);
        let xid_since = since(FIELD_XID, xid.window());
        let clock_since = since(FIELD_CLOCK_EVENTS, clock.window());
        let xid_next = read(&self.xid, xid_since, failed, &mut |entity, time, code| {
            xid.put(entity, time, code, &jobs.at(time, entity));
        })?;
        let clock_next = read(&self.clock, clock_since, failed, &mut |entity, time, mask| {
            clock.put(entity, time, mask, &jobs.at(time, entity));
        })?;
        next.insert(FIELD_XID, xid_next);
        next.insert(FIELD_CLOCK_EVENTS, clock_next);
        for &computed in &self.wanted {
            samples.entry(computed).or_default().clear();
        }
        let gpus = inventory.entities.iter().enumerate().filter(|(_, entity)| entity.kind == Kind::Gpu);
        for (index, entity) in gpus {
            let current = jobs.at(now, entity.id);
            for &computed in &self.wanted {
                let list = samples.entry(computed).or_default();
                match computed {
                    Computed::XidErrorsCount => xid.put_counts(index, entity.id, now, list),
                    Computed::XidErrorsTotal => xid.put_totals(index, entity.id, now, &current, list),
                    Computed::LastXidTimestamp => xid.put_last(index, entity.id, list),
                    Computed::ClockEventsCount => clock.put_counts(index, entity.id, now, list),
                    Computed::ClockEventsTotal => clock.put_totals(index, entity.id, now, &current, list),
                    Computed::ClockEventsSecondsTotal => clock.put_seconds(index, entity.id, now, &current, list),
                    Computed::GpuHealthStatus | Computed::P2pStatus => {}
                }
            }
        }
        if let Some(health) = &mut self.health {
            let list = samples.entry(Computed::GpuHealthStatus).or_default();
            note(health.put(inventory, list), failed)?;
        }
        if self.p2p {
            let list = samples.entry(Computed::P2pStatus).or_default();
            note(p2p::put(&self.session, inventory, list), failed)?;
        }
        Ok(())
    }
}

/// Hands every usable event since `since` to `each` and returns where to go on.
fn read(
    watches: &[Watch],
    since: i64,
    failed: &mut Vec<Error>,
    each: &mut dyn FnMut(EntityId, i64, i64),
) -> Result<i64> {
    let mut next = since;
    for watch in watches {
        let result = watch.since(since, &mut |entity, reading| {
            if let (0, Value::Int(number)) = (reading.status, &reading.value) {
                each(entity, reading.timestamp, *number);
            }
        });
        match result {
            Ok(after) => next = next.max(after),
            Err(error) => note(Err(error), failed)?,
        }
    }
    Ok(next)
}
