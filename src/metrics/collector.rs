//! Everything watched for one inventory, and one collection of it: update, read into the table, ask each source.
//!
//! A [`Collector`] lives as long as its inventory: when entities come or go, a new one takes its place. Counts that are
//! to survive that are in the [`Memory`]. [`profiling_watches`] changes what is watched of profiling fields meanwhile.

mod profiling_watches;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::compute_instances;
use super::events::{Events, Wanted};
use super::exporter::SourceRun;
use super::fatal_xid::FatalXid;
use super::identity::Key;
use super::live_links::LiveLinks;
use super::memory::Memory;
use super::number::Number;
use super::plan::Plan;
use super::sample::Samples;
use super::schedule::Schedule;
use super::source::{Context, Setup, Source};
use super::sources::{SOURCES, xid};
use super::switch_fields::{self, Change, SwitchFields};
use super::table::Table;
use super::watches::{self, FieldGroups, Watcher};
use crate::dcgm::links::Numbering;
use crate::dcgm::watch::Group;
use crate::dcgm::{EntityId, Error, ErrorKind, Result, Session, Value, Watch};
use crate::inventory::{self, Entity, Inventory, Kind};

use profiling_watches::is_of_gpus;
pub use profiling_watches::profiling_support;

pub struct Collector {
    pub table: Table,
    pub computed: Samples,
    /// Fields that the engine would not watch, each with its reason.
    pub refused: Vec<(u16, Error)>,
    /// Sources that could not be made.
    pub problems: Vec<String>,
    /// One for each watch that is missing because the engine has no room: its other clients hold the groups.
    pub no_room: Vec<Error>,
    watches: Vec<Watched>,
    field_groups: FieldGroups,
    live_links: LiveLinks,
    switch_fields: SwitchFields,
    schedule: Schedule,
    /// Collections since everything was watched.
    collections: u64,
    /// Watches that were split, and are to be one again.
    split: Vec<(Kind, Option<Duration>)>,
    /// Collections without a failed read since the last.
    good: u32,
    /// How often split watches were joined.
    joined: u32,
    sources: Vec<Box<dyn Source>>,
    events: Events,
    fatal_xid: FatalXid,
    /// By entity of the inventory.
    keys: Vec<Option<Key>>,
    session: Rc<Session>,
}

struct Watched {
    kind: Kind,
    /// Of the collection that the fields are in.
    interval: Option<Duration>,
    watch: Watch,
}

/// What came of watching some fields.
#[derive(Default)]
struct Made {
    watches: Vec<Watched>,
    refused: Vec<(u16, Error)>,
    no_room: Vec<Error>,
}

impl Made {
    /// Watches fields of a kind, those of each interval apart, as `watch` does for some of them.
    ///
    /// Errors: only a lost connection.
    #[allow(clippy::too_many_arguments)]
    fn watch(
        &mut self,
        session: &Rc<Session>,
        plan: &Plan,
        schedule: Schedule,
        field_groups: &mut FieldGroups,
        kind: Kind,
        fields: &[u16],
        watch: impl Fn(&mut Watcher<'_>, &[u16]) -> Result<()>,
    ) -> Result<()> {
        for (interval, ids) in by_interval(plan, fields) {
            let every = schedule.of(interval);
            let mut watcher = Watcher::new(session, every, every.keep(), field_groups);
            watch(&mut watcher, &ids)?;
            self.take_in(watcher, kind, interval);
        }
        Ok(())
    }

    fn take_in(&mut self, watcher: Watcher<'_>, kind: Kind, interval: Option<Duration>) {
        self.watches.extend(watcher.watches.into_iter().map(|watch| Watched { kind, interval, watch }));
        self.refused.extend(watcher.refused);
        self.no_room.extend(watcher.no_room);
    }
}

/// An engine has room for 62 groups, and others want some: beyond this many, groups are not split.
const MOST_WATCHES: usize = 40;

/// Collections without a failed read after which split groups are joined. After each time twice as many, so that a GPU
/// that comes and goes costs few samples of profiling fields.
const JOIN_AFTER: u32 = 20;
const MOST_DOUBLINGS: u32 = 8;

/// What one collection met.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Calls that failed, without those that lose the connection.
    pub errors: Vec<Error>,
    /// What else is to be logged.
    pub problems: Vec<String>,
    /// GPU, and a field that no link of it has and that is left out from now on.
    pub left_out: Vec<(u32, u16)>,
    /// How each source did.
    pub sources: Vec<SourceRun>,
    /// Series that could not be counted for want of room, since the exporter started.
    pub series_left_out: u64,
}

impl Outcome {
    /// Lets a lost connection through; any other error joins those that cost a few samples. Says whether all went well.
    fn note(&mut self, result: Result<()>) -> Result<bool> {
        match result {
            Err(error) if error.is_connection_lost() => Err(error),
            Err(error) => {
                // Two sources may have failed for the same reason.
                if !self.errors.contains(&error) {
                    self.errors.push(error);
                }
                Ok(false)
            }
            Ok(()) => Ok(true),
        }
    }
}

impl Collector {
    /// Watches what `plan` asks of the entities of `inventory`. What cannot be watched costs its own samples and is in
    /// [`Collector::refused`], [`Collector::problems`] and [`Collector::no_room`].
    ///
    /// Errors: only a lost connection (-21).
    pub fn new(
        session: &Rc<Session>,
        plan: &Plan,
        inventory: &Inventory,
        schedule: impl Into<Schedule>,
        memory: &mut Memory,
    ) -> Result<Collector> {
        let schedule = schedule.into();
        let rest = schedule.of(None);
        let table = Table::new(plan, inventory);
        let mut field_groups = FieldGroups::default();
        let mut made = Made::default();
        for fields in &plan.fields {
            let (kind, ids) = (fields.kind, fields.watched().collect::<Vec<u16>>());
            made.watch(session, plan, schedule, &mut field_groups, kind, &ids, |watcher, ids| {
                watch_fields(watcher, plan, inventory, kind, ids)
            })?;
        }
        let Made { watches, mut refused, mut no_room } = made;
        let live_links = match session.has_live_reads() {
            Ok(()) => LiveLinks::new(session, plan, inventory),
            Err(error) => {
                let fields = plan.fields.iter().flat_map(|fields| fields.live());
                refused.extend(fields.map(|field| (field, error.clone())));
                LiveLinks::default()
            }
        };
        let keys: Vec<Option<Key>> = inventory.entities.iter().map(|entity| memory.key(entity)).collect();
        let (wanted, shown): (Vec<_>, Vec<_>) = (plan.computed().collect(), plan.shown().collect());
        let mut wanted_events = Wanted::default();
        let (mut sources, mut problems) = (Vec::new(), Vec::new());
        let mut setup = Setup {
            session,
            inventory,
            keys: &keys,
            interval: rest.time(),
            windows: memory.windows,
            events: &mut wanted_events,
            wanted: &wanted,
            shown: &shown,
            extras: memory.extras,
            field_groups: &mut field_groups,
            no_room: &mut no_room,
        };
        for row in SOURCES {
            match (row.new)(&mut setup) {
                Ok(source) => sources.extend(source),
                Err(error) if error.is_connection_lost() => return Err(error),
                Err(error) => {
                    let names: Vec<&str> =
                        row.metrics.iter().map(|metric| metric.name).filter(|name| wanted.contains(name)).collect();
                    problems.push(format!("{} cannot be collected: {error}", names.join(", ")));
                    if error.kind == ErrorKind::NoRoom {
                        setup.no_room.push(error);
                    }
                }
            }
        }
        let made = Events::new(session, &wanted_events, rest, &mut field_groups, &mut no_room)?;
        let (events, refused_events) = made;
        let fatal_xid = FatalXid::new(session, rest, &mut field_groups, &mut no_room)?;
        refused.extend(refused_events);
        Ok(Collector {
            table,
            computed: Samples::of(wanted),
            refused,
            problems,
            no_room,
            watches,
            field_groups,
            live_links,
            switch_fields: SwitchFields::default(),
            schedule,
            collections: 0,
            split: Vec::new(),
            good: 0,
            joined: 0,
            sources,
            events,
            fatal_xid,
            keys,
            session: session.clone(),
        })
    }

    /// Changes when fields are sampled: all watches get their new interval in place, and lose no sample.
    ///
    /// Errors: as [`watches::first_error`]; the watch that failed keeps its interval.
    pub fn set_schedule(&mut self, schedule: Schedule) -> Result<()> {
        self.schedule = schedule;
        let of_watches = self
            .watches
            .iter()
            .map(|Watched { interval, watch, .. }| watches::set_interval([watch], schedule.of(*interval)));
        let of_watches = watches::first_error(of_watches);
        watches::first_error([of_watches, self.set_intervals_of_sources()])
    }

    /// To be called after plain watches were made, one by one: of two watches of the same field the later one decides how
    /// long the engine keeps its samples.
    ///
    /// Errors: only a lost connection.
    fn restore_sources(&mut self) -> Result<()> {
        self.set_intervals_of_sources().or_else(|error| {
            if error.is_connection_lost() {
                return Err(error);
            }
            log::warn!("some samples that sources read may be missing: {error}");
            Ok(())
        })
    }

    /// Makes the watches of sources and events what they are to be, which plain watches of the same fields may have changed.
    ///
    /// Errors: as [`watches::first_error`].
    fn set_intervals_of_sources(&mut self) -> Result<()> {
        let rest = self.schedule.of(None);
        let of_sources = self.sources.iter_mut().map(|source| source.set_interval(rest.time()));
        let of_sources = watches::first_error(of_sources);
        // Last: a plain watch of the same field ends how long the engine keeps its samples.
        watches::first_error([of_sources, self.events.set_interval(rest), self.fatal_xid.set_interval(rest)])
    }

    /// To be called when the engine has run for a while and GPUs answer: the engine then keeps XID errors no longer than the
    /// metrics need.
    ///
    /// Errors: only a lost connection; without room or memory the engine keeps them as before.
    pub fn forget_old_xids(&mut self) -> Result<()> {
        self.fatal_xid.forget_old().or_else(|error| if error.is_connection_lost() { Err(error) } else { Ok(()) })
    }

    /// Why nothing is watched of GPUs, where something was to be watched and all of it was refused.
    pub fn watches_no_gpu(&self, plan: &Plan) -> Option<&Error> {
        if self.watches.iter().any(|watched| watched.kind == Kind::Gpu) {
            return None;
        }
        let of_gpus = plan.fields.iter().find(|fields| fields.kind == Kind::Gpu)?;
        let refused = self.refused.iter().find(|(field, _)| of_gpus.ids.contains(field)).map(|(_, error)| error);
        refused.or(self.no_room.first())
    }

    /// By entity of the inventory.
    pub fn keys(&self) -> &[Option<Key>] {
        &self.keys
    }

    /// GPUs of which XID 119 is known, after which DCGM answers for none.
    ///
    /// Errors: only a lost connection.
    pub fn gpus_with_fatal_xid(&self) -> Result<Vec<u32>> {
        match self.fatal_xid.gpus() {
            Err(error) if !error.is_connection_lost() => {
                log::debug!("XID errors cannot be read: {error}");
                Ok(Vec::new())
            }
            gpus => gpus,
        }
    }

    /// XID errors since the exporter started, by entity of the inventory. `None` where they are not counted, because nobody
    /// asks for them or the engine does not watch for them.
    pub fn xid_events(&self, memory: &mut Memory) -> Option<Vec<Option<u64>>> {
        let is_counted = self.events.is_watched() && self.sources.iter().any(|source| source.name() == xid::NAME);
        is_counted.then(|| xid::events(memory, self.keys.iter().copied()))
    }

    /// Polls what is due and reads it into the table, then asks the sources. What could not be read is blank, never old.
    /// `now` is in microseconds since 1970.
    ///
    /// Errors: only a lost connection; others are in the outcome.
    pub fn collect(&mut self, inventory: &Inventory, memory: &mut Memory, now: i64) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        outcome.note(self.session.update_all_fields())?;
        self.collections += 1;
        self.table.clear();
        let mut unread = Vec::new();
        self.good += 1;
        let table = &mut self.table;
        for (at, Watched { watch, .. }) in self.watches.iter().enumerate() {
            let read = watch.latest(&mut |entity, reading| table.put(entity, &xid::none_so_far(reading)));
            if read.is_err() {
                self.good = 0;
                unread.extend((watch.entities().len() > 1).then_some(at));
            }
            outcome.note(read)?;
        }
        let has_value = |table: &Table, index: usize| table.cells(index).any(|(_, number, _)| number != Number::Blank);
        let answers = |table: &Table, gpu: u32| {
            let of_gpu =
                inventory.entities.iter().enumerate().filter(|(_, it)| it.gpu == Some(gpu) && it.kind == Kind::Gpu);
            of_gpu.into_iter().any(|(index, _)| has_value(table, index))
        };
        let live = self.live_links.collect(&self.session, self.schedule, now, &mut self.table, answers)?;
        live.errors.into_iter().try_for_each(|error| outcome.note(Err(error)).map(drop))?;
        outcome.left_out = live.left_out;
        let mut is_split = false;
        // From the last: a watch that is split moves those behind it.
        for at in unread.into_iter().rev() {
            if !self.may_split() {
                break;
            }
            let Watched { kind, interval, watch } = &self.watches[at];
            if !self.split.contains(&(*kind, *interval)) {
                self.split.push((*kind, *interval));
            }
            log::warn!(
                "the values of {} entities ({}) cannot be read in one call; reading them in halves",
                watch.entities().len(),
                kind.name()
            );
            self.split(at, &mut outcome)?;
            is_split = true;
        }
        if is_split {
            self.restore_sources()?;
        }
        if !self.sources.is_empty() {
            self.ask_sources(inventory, memory, now, &mut outcome)?;
        }
        Ok(outcome)
    }

    /// Lets sources that read between two collections do so: a job has come or gone. Events are read, too: an XID error
    /// that ended the job is to be in its summary.
    ///
    /// Errors: only a lost connection; what could not be read is read at the next collection.
    pub fn read_between(&mut self, inventory: &Inventory, memory: &mut Memory, now: i64) -> Result<()> {
        if !self.sources.iter().any(|source| source.reads_between_collections()) {
            return Ok(());
        }
        let mut outcome = Outcome::default();
        outcome.note(self.session.update_all_fields())?;
        self.events.read_now();
        let mut failed = Vec::new();
        // The table's time stamps are those of the last collection, so the next one reads what else has come.
        let set_back = self.read_events(memory, now, &mut failed)?;
        let mut context = Context::new(inventory, &self.keys, &self.table, now, memory);
        (context.events, context.set_back, context.events_failed) = (&self.events.read, set_back, failed.first());
        // The page has each sample of the last collection once.
        let mut no_samples = Samples::default();
        // All sources of events: reading goes on from here, and would bring them no more.
        for source in self.sources.iter_mut().filter(|it| it.reads_between_collections() || it.is_of_events()) {
            outcome.note(source.collect(&mut context, &mut no_samples))?;
        }
        Ok(())
    }

    /// Takes in the events that no collection will see, because the session is about to end. The driver may be the reason
    /// for that, so nothing is asked that could wait for it.
    ///
    /// Errors: as [`Collector::collect`].
    pub fn take_in_last_events(&mut self, inventory: &Inventory, memory: &mut Memory, now: i64) -> Result<()> {
        self.sources.retain(|source| source.is_of_events());
        self.events.read_now();
        if self.sources.is_empty() { Ok(()) } else { self.ask_sources(inventory, memory, now, &mut Outcome::default()) }
    }

    fn may_split(&self) -> bool {
        self.watches.len() < MOST_WATCHES
    }

    /// A group that cannot be read as a whole is split in halves and read again, until the entity at fault is alone: its
    /// own samples are missing, and a group of N costs about log2(N) more.
    ///
    /// Errors: only a lost connection.
    fn split(&mut self, at: usize, outcome: &mut Outcome) -> Result<()> {
        let Watched { kind, interval, watch } = self.watches.remove(at);
        let (fields, entities) = (watch.fields().clone(), watch.entities().to_vec());
        // Before new ones are made: of two watches on the same field of an entity the first to be dropped ends both.
        drop(watch);
        let numbering = fields.ids().first().map_or(Numbering::Index, |field| self.session.link_numbering(*field));
        let (left, right) = entities.split_at(entities.len().div_ceil(2));
        for half in [left, right].into_iter().filter(|half| !half.is_empty()) {
            let made = Group::numbered(&self.session, half, numbering, |_, _| {}).and_then(|group| {
                let every = self.schedule.of(interval);
                Watch::new(&Rc::new(group), &fields, every.watch_interval(), every.keep())
            });
            let watch = match made {
                Err(error) => {
                    outcome.note(Err(error))?;
                    continue;
                }
                Ok(watch) => watch,
            };
            let table = &mut self.table;
            let read = watch.latest(&mut |entity, reading| table.put(entity, &xid::none_so_far(reading)));
            let should_split = read.is_err() && half.len() > 1;
            outcome.note(read)?;
            self.watches.push(Watched { kind, interval, watch });
            if should_split && self.may_split() {
                self.split(self.watches.len() - 1, outcome)?;
            }
        }
        Ok(())
    }

    /// Joins groups that were split, when everything can be read again. To be called after every collection.
    ///
    /// Errors: only a lost connection.
    pub fn join_split(&mut self, plan: &Plan, inventory: &Inventory) -> Result<()> {
        if self.split.is_empty() || self.good < JOIN_AFTER << self.joined.min(MOST_DOUBLINGS) {
            return Ok(());
        }
        self.joined += 1;
        for (kind, interval) in std::mem::take(&mut self.split) {
            self.arrange(plan, inventory, kind, interval)?;
        }
        self.restore_sources()
    }

    /// Stops watching fields of the switch module that nothing here has a sample of; see [`SwitchFields`]. To be called
    /// after every collection.
    ///
    /// Errors: only a lost connection.
    pub fn settle_switch_fields(&mut self, plan: &Plan, inventory: &Inventory) -> Result<Change> {
        // The first collections sample everything.
        let is_first = self.collections <= u64::from(switch_fields::FIRST);
        if !is_first && !self.collections.is_multiple_of(u64::from(self.switch_collections(plan))) {
            return Ok(Change::default());
        }
        let change = self.switch_fields.collected(&plan.fields, &self.table, inventory);
        for &kind in &change.rewatch {
            let Some(fields) = plan.fields.iter().find(|fields| fields.kind == kind) else { continue };
            // Before new ones are made: of two watches on the same field of an entity the first to be dropped ends both.
            self.watches.retain(|watched| watched.kind != kind);
            let ids: Vec<u16> =
                fields.ids.iter().copied().filter(|field| !self.switch_fields.leaves_out((kind, *field))).collect();
            // What is refused was refused before.
            let _ =
                self.watch_more(plan, kind, &ids, |watcher, ids| watch_fields(watcher, plan, inventory, kind, ids))?;
        }
        Ok(change)
    }

    /// Watches fields of compute instances where their GPU instance has no value; see [`compute_instances`]. To be called
    /// after every collection; it does so once, when every field has been sampled twice. Returns the fields.
    ///
    /// Errors: only a lost connection.
    pub fn settle_compute_instances(&mut self, plan: &Plan, inventory: &Inventory) -> Result<Vec<u16>> {
        let mut found = Vec::new();
        if self.collections != 2 {
            return Ok(found);
        }
        let to_ask = compute_instances::to_ask(plan, &self.table, inventory, self.session.library());
        for (fields, parts) in to_ask {
            let ids: Vec<EntityId> = parts.iter().map(|(part, _)| *part).collect();
            let mut with_value: Vec<u16> = Vec::new();
            let read = inventory::read_once(&self.session, &ids, &fields, &mut |_, field, value| {
                if matches!(value, Value::Int(_) | Value::Double(_)) && !with_value.contains(&field) {
                    with_value.push(field);
                }
            });
            match read {
                Err(error) if error.is_connection_lost() => return Err(error),
                Err(error) => {
                    log::debug!("compute instances cannot be asked: {error}");
                    continue;
                }
                Ok(()) => {}
            }
            if with_value.is_empty() {
                continue;
            }
            let _ = self.watch_more(plan, Kind::Gpu, &with_value, |watcher, fields| watcher.watch(&ids, fields))?;
            parts.into_iter().for_each(|(part, index)| self.table.answers_for(part, index));
            found.extend(with_value);
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Watches fields beside what is watched already. Returns those that are refused.
    ///
    /// Errors: only a lost connection.
    fn watch_more(
        &mut self,
        plan: &Plan,
        kind: Kind,
        fields: &[u16],
        watch: impl Fn(&mut Watcher<'_>, &[u16]) -> Result<()>,
    ) -> Result<Vec<(u16, Error)>> {
        let mut made = Made::default();
        made.watch(&self.session, plan, self.schedule, &mut self.field_groups, kind, fields, watch)?;
        self.watches.extend(made.watches);
        self.no_room.extend(made.no_room);
        self.restore_sources()?;
        Ok(made.refused)
    }

    /// Collections after which every field of the switch module has a new sample: the steps of [`SwitchFields`].
    fn switch_collections(&self, plan: &Plan) -> u32 {
        let fields = plan.fields.iter().filter(|fields| SwitchFields::serves(fields.kind));
        let every = fields.flat_map(|fields| &fields.ids).map(|field| self.schedule.of(plan.interval_of(*field)));
        every.map(|every| every.collections).max().unwrap_or(1)
    }

    /// Fields that no entity here has a sample of, and that are not watched for that reason.
    pub fn skipped_switch_fields(&self, plan: &Plan) -> Vec<u16> {
        self.switch_fields.skipped(&plan.fields)
    }

    /// Reads what is new of the events. Returns the time of the last read on the clock of today, if the engine's clock was
    /// set back since; the memory's times are set back with it.
    ///
    /// Errors: only a lost connection; others go to `failed`.
    fn read_events(&mut self, memory: &mut Memory, now: i64, failed: &mut Vec<Error>) -> Result<Option<i64>> {
        let stamps = self.table.stamps(self.events.fields());
        let set_back = self.events.collect(now, stamps, &mut memory.next_event, failed)?;
        if let Some(last_read) = set_back {
            memory.parts.started = memory.parts.started.min(last_read);
        }
        Ok(set_back)
    }

    fn ask_sources(
        &mut self,
        inventory: &Inventory,
        memory: &mut Memory,
        now: i64,
        outcome: &mut Outcome,
    ) -> Result<()> {
        self.computed.clear();
        memory.forget_ended_totals(now);
        let mut failed = Vec::new();
        let set_back = self.read_events(memory, now, &mut failed)?;
        let mut context = Context::new(inventory, &self.keys, &self.table, now, memory);
        (context.events, context.set_back, context.events_failed) = (&self.events.read, set_back, failed.first());
        for source in &mut self.sources {
            let start = Instant::now();
            let collected = source.collect(&mut context, &mut self.computed);
            let success = outcome.note(collected)?;
            outcome.sources.push(SourceRun { name: source.name(), took: start.elapsed(), success });
        }
        for error in failed {
            outcome.note(Err(error))?;
        }
        for value in &self.computed.values {
            self.table.put_newer(*value);
        }
        outcome.series_left_out = memory.left_out();
        if outcome.series_left_out > 0 && !std::mem::replace(&mut memory.told_left_out, true) {
            outcome.problems.push(format!(
                "there are more series of jobs than {} (--job-series-limit), or of others than {}: zeroes and jobs that \
                 are over are left out; dcgm_exporter_series_left_out_total counts them",
                memory.extras.job_series_limit,
                super::tally::MOST_SERIES
            ));
        }
        Ok(())
    }
}

/// The fields by the interval of their collection, those of the rest first.
fn by_interval(plan: &Plan, fields: &[u16]) -> BTreeMap<Option<Duration>, Vec<u16>> {
    let mut by_interval: BTreeMap<Option<Duration>, Vec<u16>> = BTreeMap::new();
    for field in fields {
        by_interval.entry(plan.interval_of(*field)).or_default().push(*field);
    }
    by_interval
}

/// Watches these fields of all entities of a kind.
fn watch_fields(
    watcher: &mut Watcher<'_>,
    plan: &Plan,
    inventory: &Inventory,
    kind: Kind,
    fields: &[u16],
) -> Result<()> {
    watch_fields_where(watcher, plan, inventory, kind, fields, |_| true)
}

/// The same of some of them.
fn watch_fields_where(
    watcher: &mut Watcher<'_>,
    plan: &Plan,
    inventory: &Inventory,
    kind: Kind,
    fields: &[u16],
    is_wanted: impl Fn(&Entity) -> bool,
) -> Result<()> {
    // GPUs of different models support different profiling fields; each asks what it can answer.
    let mut by_fields: Vec<(Vec<u16>, Vec<EntityId>)> = Vec::new();
    let mut of_kind = inventory.entities.iter().filter(|entity| entity.kind == kind).peekable();
    let first = of_kind.peek().map(|entity| entity.id);
    for entity in of_kind.filter(|entity| is_wanted(entity)) {
        let mut asked = match (kind, entity.gpu) {
            (kind, Some(gpu)) if is_of_gpus(kind) => plan.supported_by(gpu, fields),
            _ => fields.to_vec(),
        };
        asked.retain(|field| first == Some(entity.id) || !plan.is_asked_once(*field));
        gather(&mut by_fields, asked, entity.id);
    }
    by_fields.into_iter().try_for_each(|(ids, entities)| watcher.watch(&entities, &ids))
}

/// Adds an entity to those of which the same fields are asked, if any are.
fn gather(by_fields: &mut Vec<(Vec<u16>, Vec<EntityId>)>, fields: Vec<u16>, entity: EntityId) {
    match by_fields.iter_mut().find(|(ids, _)| *ids == fields) {
        _ if fields.is_empty() => {}
        Some((_, entities)) => entities.push(entity),
        None => by_fields.push((fields, vec![entity])),
    }
}
