//! What jobs use of GPUs: reads the fields that their accounts need, whether or not the counters file has them.
//!
//! It has watches of its own, so that it can also read between two collections, when a job comes or goes. They hold no
//! profiling field: those are averages over the time between two samples, and are taken from the table where the counters
//! file asks for them.

use std::collections::HashMap;
use std::time::Duration;

use crate::dcgm::watch::Keep;
use crate::dcgm::{EntityId, Mode, Reading, Result, Value, Watch};
use crate::inventory::Kind;
use crate::metrics::accounts::{ACTIVITIES, Accounts, CLOCK_EVENTS, ENERGY, ENGINE_ACTIVE, MEMORY, UTILIZATION};
use crate::metrics::number::Number;
use crate::metrics::sample::Samples;
use crate::metrics::schedule::Every;
use crate::metrics::source::{Context, Setup, Source};
use crate::metrics::watches::{Watcher, set_interval};

/// As the exporter's own metrics name this source.
pub const NAME: &str = "job_accounting";

const OF_GPUS: [u16; 4] = [CLOCK_EVENTS, ENERGY, UTILIZATION, MEMORY];
/// Others are answered with the GPU's own values.
const OF_INSTANCES: [u16; 1] = [MEMORY];

/// An engine that samples when it is told to has a new sample whenever a job comes or goes, and not more of them.
const SHORTEST: Duration = Duration::from_millis(1);
/// Of a longer gap between two samples nothing is known.
const LONGEST_GAP: Duration = Duration::from_secs(10);

pub struct JobAccounting {
    watches: Vec<Watch>,
    is_embedded: bool,
    interval: Duration,
    entities: HashMap<EntityId, usize>,
}

/// `None` without a job map or GPUs.
pub fn new(setup: &mut Setup<'_>) -> Result<Option<Box<dyn Source>>> {
    let reported = setup.inventory.entities.iter().enumerate().filter(|(_, entity)| entity.kind == Kind::Gpu);
    let entities: HashMap<EntityId, usize> = reported.clone().map(|(index, entity)| (entity.id, index)).collect();
    if entities.is_empty() || !setup.extras.job_accounting {
        return Ok(None);
    }
    let is_embedded = setup.session.mode() == Mode::Embedded;
    let every = every(is_embedded, setup.interval);
    let mut watcher = Watcher::new(setup.session, every, Keep::Latest, setup.field_groups);
    let of = |is_instance: bool| -> Vec<EntityId> {
        let some = reported.clone().filter(|(_, entity)| entity.gpu_instance.is_some() == is_instance);
        some.map(|(_, entity)| entity.id).collect()
    };
    for (entities, fields) in [(of(false), OF_GPUS.as_slice()), (of(true), &OF_INSTANCES)] {
        if !entities.is_empty() {
            watcher.watch(&entities, fields)?;
        }
    }
    let watches = watcher.watches;
    setup.no_room.extend(watcher.no_room);
    Ok(Some(Box::new(JobAccounting { watches, is_embedded, interval: setup.interval, entities })))
}

/// A host engine samples by its own clock: more often than it is read would cost it for nothing.
fn every(is_embedded: bool, interval: Duration) -> Every {
    Every::once_per(if is_embedded { SHORTEST.min(interval) } else { interval })
}

impl Source for JobAccounting {
    fn name(&self) -> &'static str {
        NAME
    }

    fn set_interval(&mut self, interval: Duration) -> Result<()> {
        self.interval = interval;
        set_interval(&self.watches, every(self.is_embedded, interval))
    }

    fn reads_between_collections(&self) -> bool {
        true
    }

    /// Adds no samples: the page's are made of the accounts.
    fn collect(&mut self, context: &mut Context<'_>, _: &mut Samples) -> Result<()> {
        let accounts = context.parts.of::<Accounts>();
        let longest = LONGEST_GAP.max(self.interval * 3).as_micros() as i64;
        let key_of = |entity: EntityId| self.entities.get(&entity).and_then(|index| context.keys[*index]);
        let mut failed = None;
        for watch in &self.watches {
            let read = watch.latest(&mut |entity, Reading { field, status, timestamp, value }| {
                let value = match value {
                    Value::Int(value) => value as f64,
                    Value::Double(value) => value,
                    _ => return,
                };
                if status == 0
                    && timestamp > 0
                    && let Some(key) = key_of(entity)
                {
                    accounts.take_in(context.jobs, key, field, timestamp, value, longest);
                }
            });
            match read {
                Err(error) if error.is_connection_lost() => return Err(error),
                Err(error) => failed = Some(error),
                Ok(()) => {}
            }
        }
        for &index in self.entities.values() {
            let Some(key) = context.keys[index] else { continue };
            let is_instance = context.inventory.entities[index].gpu_instance.is_some();
            for (field, number, time) in context.table.cells(index) {
                let is_wanted =
                    field == ENGINE_ACTIVE && is_instance || ACTIVITIES.iter().any(|(activity, _)| *activity == field);
                let value = match number {
                    Number::Double(value) => value,
                    Number::Int(value) => value as f64,
                    Number::Blank => continue,
                };
                if is_wanted && time > 0 {
                    accounts.take_in(context.jobs, key, field, time, value, longest);
                }
            }
        }
        accounts.count_to(context.now, context.jobs);
        failed.map_or(Ok(()), Err)
    }
}
