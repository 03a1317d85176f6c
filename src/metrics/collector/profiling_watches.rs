//! Pausing: profiling fields of some GPUs stop being sampled, or are sampled again, while all else goes on.
//!
//! Of two watches on the same pair of entity and field the later one takes over, and no sample is lost. So what goes on
//! is watched once more, in as few groups as possible, before the old watches are given back without ending the sampling.
//! However often pauses come and go, a collection takes as many calls as before.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::{Collector, Made, Watched, gather, watch_fields_where};
use crate::counters::is_profiling;
use crate::dcgm::{EntityId, Error, Result, Session};
use crate::inventory::{Entity, Inventory, Kind};
use crate::metrics::accounts::Accounts;
use crate::metrics::memory::Memory;
use crate::metrics::plan::Plan;
use crate::metrics::profiling_pause::ProfilingPause;
use crate::metrics::watches::Watcher;

impl Collector {
    /// Ends and makes watches of profiling fields after `plan.pause` has changed; `before` is what it was. All other fields,
    /// and those of all other GPUs, are sampled on. Values of paused fields are taken back.
    ///
    /// Returns the GPUs that are not paused and yet not watched, and why: another profiler may have the hardware.
    ///
    /// Errors: only a lost connection.
    pub fn pause_profiling(
        &mut self,
        plan: &Plan,
        inventory: &Inventory,
        before: &ProfilingPause,
        memory: &mut Memory,
    ) -> Result<Vec<(u32, Error)>> {
        let gpus = || inventory.gpus.iter().copied();
        let returns = |gpu: &u32| before.is_paused(*gpu) && !plan.pause.is_paused(*gpu);
        let wanted: Vec<u32> = gpus().filter(|gpu| returns(gpu) || self.is_profiled(inventory, *gpu)).collect();
        let mut refused = BTreeMap::new();
        for gpu in gpus().filter(returns) {
            if let Some(error) = self.watch_profiling(plan, inventory, gpu)? {
                refused.insert(gpu, error);
            }
        }
        let mut to_arrange: Vec<(Kind, Option<Duration>)> = Vec::new();
        for it in self.watches.iter().filter(|it| is_of_gpus(it.kind) && it.is_of_profiling()) {
            if !to_arrange.contains(&(it.kind, it.interval)) {
                to_arrange.push((it.kind, it.interval));
            }
        }
        let (mut errors, mut is_anew) = (Vec::new(), false);
        for (kind, interval) in to_arrange {
            if let Some(more) = self.arrange(plan, inventory, kind, interval)? {
                is_anew = true;
                errors.extend(more);
            }
        }
        if is_anew {
            self.restore_sources()?;
        }
        let is_lacking =
            |gpu: &u32| !plan.pause.is_paused(*gpu) && plan.profiles(*gpu) && !self.is_profiled(inventory, *gpu);
        let reason = |gpu: u32| Some((gpu, refused.get(&gpu).or(errors.first())?.clone()));
        let lacking: Vec<(u32, Error)> = wanted.into_iter().filter(is_lacking).filter_map(reason).collect();
        for (index, entity) in inventory.entities.iter().enumerate() {
            let is_off = |gpu: u32| plan.pause.is_paused(gpu) || lacking.iter().any(|(lacks, _)| *lacks == gpu);
            let is_new = entity.gpu.is_some_and(|gpu| is_off(gpu) && !before.is_paused(gpu));
            if let (true, Some(key)) = (is_new, self.keys[index]) {
                memory.parts.of::<Accounts>().pause_profiling(key);
            }
        }
        self.table.pause(&plan.pause, inventory);
        Ok(lacking)
    }

    /// Whether a profiling field of this GPU, or of an instance or a link of it, is watched.
    pub fn is_profiled(&self, inventory: &Inventory, gpu: u32) -> bool {
        let mut watched = self.watches.iter().filter(|it| it.is_of_profiling()).flat_map(|it| it.watch.entities());
        watched.any(|id| inventory.entities.iter().any(|entity| entity.id == *id && entity.gpu == Some(gpu)))
    }

    /// Watches the profiling fields of a GPU beside what is watched already. Returns why some are not watched.
    ///
    /// Errors: only a lost connection.
    fn watch_profiling(&mut self, plan: &Plan, inventory: &Inventory, gpu: u32) -> Result<Option<Error>> {
        let mut made = Made::default();
        for fields in plan.fields.iter().filter(|fields| is_of_gpus(fields.kind)) {
            let ids: Vec<u16> = fields.ids.iter().copied().filter(|field| is_profiling(*field)).collect();
            let kind = fields.kind;
            made.watch(&self.session, plan, self.schedule, &mut self.field_groups, kind, &ids, |watcher, ids| {
                watch_fields_where(watcher, plan, inventory, kind, ids, |entity| entity.gpu == Some(gpu))
            })?;
        }
        self.watches.append(&mut made.watches);
        Ok(made.errors().next())
    }

    /// Watches in as few groups as possible what is watched of a kind at an interval, without what is paused.
    ///
    /// Returns what the engine had no room for, or refused, of what was watched and is to stay; `None` where all watches
    /// are as they were.
    ///
    /// Errors: only a lost connection.
    pub(super) fn arrange(
        &mut self,
        plan: &Plan,
        inventory: &Inventory,
        kind: Kind,
        interval: Option<Duration>,
    ) -> Result<Option<Vec<Error>>> {
        // Not those of compute instances, which have no profiling fields.
        let is_reported = |id: &EntityId| inventory.entities.iter().any(|entity| entity.id == *id);
        let is_old =
            |it: &Watched| it.kind == kind && it.interval == interval && it.watch.entities().iter().all(is_reported);
        let (old, rest): (Vec<Watched>, Vec<Watched>) = self.watches.drain(..).partition(is_old);
        self.watches = rest;
        let is_paused = |entity: &Entity| entity.gpu.is_some_and(|gpu| plan.pause.is_paused(gpu));
        let (mut stay, mut leave) = (Vec::new(), Vec::new());
        for entity in inventory.entities.iter().filter(|entity| entity.kind == kind) {
            let watches = old.iter().filter(|it| it.watch.entities().contains(&entity.id));
            let mut fields: Vec<u16> = watches.flat_map(|it| it.watch.fields().ids()).copied().collect();
            fields.sort_unstable();
            fields.dedup();
            let leaves = |field: &u16| is_profiling(*field) && is_paused(entity);
            let (leaving, staying): (Vec<u16>, Vec<u16>) = fields.into_iter().partition(leaves);
            gather(&mut leave, leaving, entity.id);
            gather(&mut stay, staying, entity.id);
        }
        if leave.is_empty() && stay.len() >= old.len() {
            self.watches.extend(old);
            return Ok(None);
        }
        let made = self.watch_some(kind, interval, &stay)?;
        if leave.is_empty() && !made.is_whole() {
            made.watches.into_iter().for_each(|it| it.watch.replaced());
            self.watches.extend(old);
            return Ok(Some(Vec::new()));
        }
        // A watch on what leaves alone ends its sampling when it is dropped.
        let ending = self.watch_some(kind, interval, &leave)?;
        if made.is_whole() && ending.is_whole() {
            drop(ending);
            old.into_iter().for_each(|it| it.watch.replaced());
            self.watches.extend(made.watches);
            return Ok(Some(Vec::new()));
        }
        // There is no room for old and new ones at the same time, or something is refused by now. The pause comes all the
        // same: the old ones go first, which may cost what stays a sample of profiling fields.
        drop((made, ending, old));
        let mut made = self.watch_some(kind, interval, &stay)?;
        self.watches.append(&mut made.watches);
        self.no_room.extend(made.no_room.iter().cloned());
        Ok(Some(made.errors().collect()))
    }

    /// Watches fields of entities, as far as the engine lets.
    ///
    /// Errors: only a lost connection.
    fn watch_some(
        &mut self,
        kind: Kind,
        interval: Option<Duration>,
        wanted: &[(Vec<u16>, Vec<EntityId>)],
    ) -> Result<Made> {
        let every = self.schedule.of(interval);
        let mut watcher = Watcher::new(&self.session, every, every.keep(), &mut self.field_groups);
        for (fields, entities) in wanted {
            watcher.watch(entities, fields)?;
        }
        let mut made = Made::default();
        made.take_in(watcher, kind, interval);
        Ok(made)
    }
}

impl Watched {
    fn is_of_profiling(&self) -> bool {
        self.watch.fields().ids().iter().any(|field| is_profiling(*field))
    }
}

impl Made {
    /// Whether the engine has refused nothing.
    fn is_whole(&self) -> bool {
        self.refused.is_empty() && self.no_room.is_empty()
    }

    /// Why fields are not watched.
    fn errors(self) -> impl Iterator<Item = Error> {
        self.refused.into_iter().map(|(_, error)| error).chain(self.no_room)
    }
}

/// Whether profiling fields are asked of this kind.
pub(super) fn is_of_gpus(kind: Kind) -> bool {
    matches!(kind, Kind::Gpu | Kind::WholeGpu | Kind::GpuLink)
}

/// Profiling fields by GPU. A GPU without profiling has none, for the reason handed to `refused`.
///
/// Errors: only a lost connection.
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
