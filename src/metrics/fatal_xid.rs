//! XID 119: the error after which DCGM calls the driver no more and answers for no GPU of the node.
//!
//! Every field of every GPU then has a fresh time stamp and a blank value, and health, status and lists show nothing.
//! Only the samples of field 230 tell. A new engine reads the kernel's log from its beginning and is as silent, so the
//! error has to be known apart from a GPU that merely does not answer.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use super::events;
use super::schedule::Every;
use super::sources::xid;
use super::watches::{self, FieldGroups, Watcher};
use crate::dcgm::watch::Keep;
use crate::dcgm::{EntityGroup, EntityId, Error, Result, Session, Value, Watch};
use crate::inventory::Entity;

/// The code that DCGM treats so by default; `__DCGM_FATAL_XIDS__` in the engine's environment changes it.
pub const CODE: i64 = 119;

/// After a restart the engine stores the error under the kernel's old time, and must not drop it at once.
const KEEP: Duration = Duration::from_secs(30 * 86_400);

/// Watches field 230 of all GPUs. Nothing is read until somebody asks.
pub struct FatalXid {
    watches: Vec<Watch>,
    every: Every,
    /// Samples are kept for [`KEEP`].
    keeps_all: bool,
}

impl FatalXid {
    /// To be called after all other watches are made: of two watches on the same entity and field the later one decides
    /// how long the engine keeps samples.
    ///
    /// Errors: only a lost connection. `no_room` gets an error if there is no room for the watch.
    pub fn new(
        session: &Rc<Session>,
        every: Every,
        field_groups: &mut FieldGroups,
        no_room: &mut Vec<Error>,
    ) -> Result<FatalXid> {
        // Not the inventory's: after the error GPUs have no names, and may be missing there.
        let gpus = match session.entities(EntityGroup::Gpu) {
            Err(error) if error.is_connection_lost() => return Err(error),
            other => other.unwrap_or_default(),
        };
        let gpus: Vec<EntityId> = gpus.into_iter().map(|gpu| EntityId::new(EntityGroup::Gpu, gpu)).collect();
        let mut watcher = Watcher::new(session, every, Keep::Window(KEEP), field_groups);
        watcher.watch(&gpus, &[xid::FIELD])?;
        let Watcher { watches, no_room: more, .. } = watcher;
        no_room.extend(more);
        Ok(FatalXid { watches, every, keeps_all: true })
    }

    pub fn set_interval(&mut self, every: Every) -> Result<()> {
        self.every = every;
        let keep = Keep::Window(self.keep());
        watches::first_error(self.watches.iter().map(|watch| watch.set(every.watch_interval(), keep)))
    }

    fn keep(&self) -> Duration {
        if self.keeps_all { KEEP } else { events::kept(KEEP, self.every.time()) }
    }

    /// The engine has read the kernel's log and GPUs answer: an error from now on has the time of now. A GPU that brings
    /// errors all the time would fill the engine's memory for a month.
    pub fn forget_old(&mut self) -> Result<()> {
        if std::mem::take(&mut self.keeps_all) {
            self.set_interval(self.every)?;
        }
        Ok(())
    }

    /// GPUs that have had the error, ascending.
    ///
    /// Errors: whatever the reading of samples answers.
    pub fn gpus(&self) -> Result<Vec<u32>> {
        let mut gpus = BTreeSet::new();
        for watch in &self.watches {
            watch.since(0, &mut |entity, reading| {
                if reading.status == 0 && reading.value == Value::Int(CODE) {
                    gpus.insert(entity.id);
                }
            })?;
        }
        Ok(gpus.into_iter().collect())
    }
}

/// Why DCGM answers for no GPU, if this one had XID 119.
pub fn sentence(gpu: u32, entities: &[Entity]) -> String {
    let known = entities.iter().find(|entity| entity.gpu == Some(gpu));
    let name = known.map_or_else(String::new, |entity| {
        let pci = entity.label("pci_bus_id");
        format!(" ({}{}{})", entity.gpu_uuid, if pci.is_some() { ", " } else { "" }, pci.unwrap_or_default())
    });
    format!(
        "XID 119 on GPU {gpu}{name}: DCGM answers for no GPU until the GPU is reset and the engine is started again"
    )
}
