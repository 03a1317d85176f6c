//! What a source of computed metrics is, and what it is given.

use std::rc::Rc;
use std::time::Duration;

use super::events::{Event, Wanted};
use super::identity::Key;
use super::job_timeline::JobTimeline;
use super::memory::{Parts, Windows};
use super::sample::Samples;
use crate::dcgm::{Error, Result, Session};
use crate::inventory::Inventory;

/// Makes samples of computed metrics. It lives as long as the inventory and the watches; what it counts for longer is in
/// its [`Part`](super::memory::Part) of the memory.
pub trait Source {
    /// As the exporter's own metrics name it.
    fn name(&self) -> &'static str;

    /// Adds the samples of this collection.
    ///
    /// Errors: -21 ends the collection. Any other one is counted and costs what was not added.
    fn collect(&mut self, context: &mut Context<'_>, samples: &mut Samples) -> Result<()>;

    /// The time between two collections has changed.
    fn set_interval(&mut self, _interval: Duration) -> Result<()> {
        Ok(())
    }
}

/// Makes a source; `None` where it has nothing to do. Errors other than -21 are logged once and leave the source out.
pub type New = fn(&mut Setup<'_>) -> Result<Option<Box<dyn Source>>>;

/// What a source is made of.
pub struct Setup<'a> {
    pub session: &'a Rc<Session>,
    pub inventory: &'a Inventory,
    /// By entity of the inventory.
    pub keys: &'a [Option<Key>],
    /// Time between two collections.
    pub interval: Duration,
    pub windows: Windows,
    /// Event fields to read.
    pub events: &'a mut Wanted,
    /// Computed metrics that rows of the counters file ask for.
    pub wanted: &'a [&'static str],
    /// Fields that rows of the counters file show by themselves.
    pub shown: &'a [u16],
}

impl Setup<'_> {
    /// Whether any of these metrics is asked for.
    pub fn wants(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.wanted.contains(name))
    }
}

/// What a source may use during a collection.
pub struct Context<'a> {
    pub inventory: &'a Inventory,
    /// By entity of the inventory; `None` for what is no GPU or instance.
    pub keys: &'a [Option<Key>],
    /// Microseconds since 1970.
    pub now: i64,
    pub parts: &'a mut Parts,
    pub jobs: &'a JobTimeline,
    /// What happened since the last collection, and [`OVERLAP`](super::events::OVERLAP) before it.
    pub events: &'a [Event],
    /// From where on events may come again, in microseconds since 1970.
    pub events_from: i64,
    /// Why some events could not be read.
    pub events_failed: Option<&'a Error>,
}

impl Context<'_> {
    /// For a source to end with that works with events: fails if some could not be read.
    pub fn events_complete(&self) -> Result<()> {
        self.events_failed.map_or(Ok(()), |error| Err(error.clone()))
    }
}
