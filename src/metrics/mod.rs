//! From readings to samples: what is asked of which entity, and the table that the answers go into.
//!
//! - [`plan`]: which metrics the rows of the counters file come to with this library, and which fields that takes.
//! - [`table`]: the latest value of every field of every entity. Text and HTTP are not known here.
//! - [`computed`]: metrics that the exporter makes itself, with one file for each source: [`xid`], [`clock_events`],
//!   [`health`], [`p2p`].
//! - [`watches`]: groups and field groups that keep what works when one entity or field does not.
//! - [`freshness`]: values that have stopped moving.
//! - [`exporter`]: the exporter's account of itself.
//!
//! A [`Collector`] lives as long as its inventory: when entities come or go, a new one takes its place.

pub mod clock_events;
pub mod computed;
pub mod exporter;
pub mod freshness;
pub mod health;
pub mod p2p;
pub mod plan;
pub mod table;
pub mod watches;
pub mod xid;

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use crate::dcgm::watch::Keep;
use crate::dcgm::{EntityId, Error, Result, Session, Watch};
use crate::inventory::{Inventory, Kind};
use computed::{ComputedSamples, Events, Sources};
use plan::Plan;
use table::Table;

/// Everything watched for one inventory, and the latest samples of it.
pub struct Collector {
    pub table: Table,
    pub computed: ComputedSamples,
    /// Fields that the engine would not watch, each with its reason.
    pub refused: Vec<(u16, Error)>,
    /// Why a source of computed metrics is missing.
    pub problems: Vec<String>,
    watches: Vec<Watch>,
    sources: Sources,
    session: Rc<Session>,
}

/// How entities share groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Grouping {
    /// As many as there are: one read for all.
    #[default]
    Together,
    /// As few as the engine's room for groups allows, because a group could not be read.
    Apart,
}

impl Grouping {
    /// An engine has room for 64 groups, and others want some.
    const MOST_GROUPS: usize = 40;

    fn most_together(self, entities: usize) -> usize {
        match self {
            Grouping::Together => usize::MAX,
            Grouping::Apart => entities.div_ceil(Grouping::MOST_GROUPS).max(1),
        }
    }
}

/// Lets a lost connection through; any other error joins those that cost a few samples.
fn note(result: Result<()>, failed: &mut Vec<Error>) -> Result<()> {
    match result {
        Err(error) if error.is_connection_lost() => Err(error),
        Err(error) => {
            failed.push(error);
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// What one collection met.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Calls that failed, without those that lose the connection.
    pub errors: Vec<Error>,
    /// A whole group could not be read; smaller groups may save what the culprit does not own.
    pub isolate: bool,
}

impl Collector {
    /// Watches what `plan` asks of the entities of `inventory`.
    ///
    /// Errors: -21 when the engine is gone, -24 when it has no room for more groups. Anything else costs only the
    /// field or entity that it is about.
    pub fn new(
        session: &Rc<Session>,
        plan: &Plan,
        inventory: &Inventory,
        interval: Duration,
        events: &Events,
        grouping: Grouping,
    ) -> Result<Collector> {
        let together = grouping.most_together(inventory.entities.len());
        let table = Table::new(plan, inventory);
        let mut watcher = watches::Watcher::new(session, interval, Keep::Latest);
        for fields in &plan.fields {
            let of_kind = inventory.entities.iter().filter(|entity| entity.kind == fields.kind);
            // GPUs of different models support different profiling fields; each asks what it can answer.
            let mut by_fields: Vec<(Vec<u16>, Vec<EntityId>)> = Vec::new();
            for entity in of_kind {
                let asked = match (fields.kind, entity.gpu) {
                    (Kind::Gpu | Kind::WholeGpu, Some(gpu)) => plan.supported_by(gpu, &fields.ids),
                    _ => fields.ids.clone(),
                };
                match by_fields.iter_mut().find(|(ids, _)| *ids == asked) {
                    Some((_, entities)) => entities.push(entity.id),
                    None => by_fields.push((asked, vec![entity.id])),
                }
            }
            for (ids, entities) in by_fields {
                for entities in entities.chunks(together) {
                    watcher.watch(entities, &ids)?;
                }
            }
        }
        let watches::Watcher { watches, refused, .. } = watcher;
        let windows = (events.xid.window(), events.clock.window());
        let mut sources = Sources::new(session, plan, inventory, interval, windows)?;
        let problems = std::mem::take(&mut sources.problems);
        let computed = ComputedSamples::new();
        Ok(Collector { table, computed, refused, problems, watches, sources, session: session.clone() })
    }

    /// Changes how often everything is sampled, in place.
    ///
    /// Errors: only a lost connection.
    pub fn set_interval(&mut self, interval: Duration) -> Result<()> {
        for watch in &self.watches {
            note(watch.set_interval(interval.mul_f64(watches::WATCH_SHARE)), &mut Vec::new())?;
        }
        Ok(())
    }

    /// Polls what is due and reads it into the table. What could not be read is blank, never old.
    ///
    /// Errors: only a lost connection; others are in the outcome.
    /// `now` is in microseconds since 1970.
    pub fn collect(&mut self, inventory: &Inventory, events: &mut Events, now: i64) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        note(self.session.update_all_fields(), &mut outcome.errors)?;
        self.table.clear();
        let table = &mut self.table;
        for watch in &self.watches {
            let read = watch.latest(&mut |entity, reading| table.put(entity, &reading));
            outcome.isolate |= read.is_err();
            note(read, &mut outcome.errors)?;
        }
        self.sources.collect(events, inventory, now, &mut self.computed, &mut outcome.errors)?;
        Ok(outcome)
    }
}

/// Profiling fields by GPU. A GPU without profiling has none, for the reason handed to `refused`.
pub fn profiling_support(
    session: &Session,
    gpus: &[u32],
    mut refused: impl FnMut(u32, Error),
) -> Result<HashMap<u32, Vec<u16>>> {
    let mut supported = HashMap::new();
    for &gpu in gpus {
        match session.profiling_fields(gpu) {
            Ok(fields) => {
                supported.insert(gpu, fields);
            }
            Err(error) if error.is_connection_lost() => return Err(error),
            Err(error) => refused(gpu, error),
        }
    }
    Ok(supported)
}
