//! Every sample of the event fields since the last collection, in one read for all sources.
//!
//! Each read costs a message of 4 MiB inside libdcgm, so XID errors and clock events share one group and one field group.

use std::time::{Duration, Instant};

use super::schedule::Every;
use super::watches::{self, FieldGroups, Watcher};
use crate::dcgm::watch::Keep;
use crate::dcgm::{EntityId, Error, Result, Session, Value, Watch};
use std::rc::Rc;

/// How far each read goes back behind the last one. DCGM's "where to go on" is the engine's time of the read, while XID
/// errors from the kernel's log are stored up to a second late under the kernel's time; 5 s lost none of 36.
pub const OVERLAP: i64 = 5_000_000;

/// How far the kernel's time may be ahead of the wall clock: 50 ppm over two weeks.
const CLOCK_DRIFT: i64 = 60_000_000;

/// Where nobody needs them at every collection, events are read when a latest value is another one than at the last read, and
/// this often for those that are stored later than newer ones. Each read costs up to 2 ms of page faults in libdcgm.
const AT_LEISURE: Duration = Duration::from_secs(30);
/// The same where latest values are not read, because the counters file has no row for the field.
const UNSEEN: Duration = Duration::from_secs(5);

/// A sample of an event field. The same one comes again within [`OVERLAP`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    pub entity: EntityId,
    pub field: u16,
    /// Microseconds since 1970.
    pub time: i64,
    pub value: i64,
    /// It is stamped ahead of the engine's clock: it happened before that was set back, and was read then.
    pub is_old: bool,
}

/// Where reading goes on. Outlives sessions.
#[derive(Debug, Clone, Copy)]
pub struct Cursor {
    /// The engine's time of the last read, in microseconds since 1970.
    pub next: i64,
    read: Instant,
}

/// What the sources want to be read.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    fields: Vec<u16>,
    entities: Vec<EntityId>,
    window: Duration,
    at_every_collection: bool,
}

impl Wanted {
    /// Asks for all samples of a field of these entities, from so long before the first read.
    pub fn add(&mut self, field: u16, entities: &[EntityId], window: Duration) {
        self.at_every_collection = true;
        self.add_at_leisure(field, entities, window);
    }

    /// The same for whoever does not need them at every collection.
    pub fn add_at_leisure(&mut self, field: u16, entities: &[EntityId], window: Duration) {
        self.fields.push(field);
        for entity in entities {
            if !self.entities.contains(entity) {
                self.entities.push(*entity);
            }
        }
        self.window = self.window.max(window);
    }
}

/// The watches behind the event fields, and what was read last.
#[derive(Default)]
pub struct Events {
    watches: Vec<Watch>,
    fields: Vec<u16>,
    window: Duration,
    at_every_collection: bool,
    /// When they were last read, and the stamps of their latest values then.
    looked: Option<(Instant, Option<i64>)>,
    pub read: Vec<Event>,
}

impl Events {
    /// Watches what is wanted. To be called after all other watches are made: of two watches on the same entity and field
    /// the later one decides how long the engine keeps samples.
    ///
    /// Errors: only a lost connection. `no_room` gets an error for each watch that the engine had no room for; fields that
    /// are not watched are handed back.
    pub fn new(
        session: &Rc<Session>,
        wanted: &Wanted,
        every: Every,
        field_groups: &mut FieldGroups,
        no_room: &mut Vec<Error>,
    ) -> Result<(Events, Vec<(u16, Error)>)> {
        let mut watcher = Watcher::new(session, every, Keep::Window(kept(wanted.window, every.time())), field_groups);
        watcher.watch(&wanted.entities, &wanted.fields)?;
        let Watcher { watches, refused, no_room: more, .. } = watcher;
        no_room.extend(more);
        let Wanted { fields, window, at_every_collection, .. } = wanted.clone();
        Ok((Events { watches, fields, window, at_every_collection, looked: None, read: Vec::new() }, refused))
    }

    /// Whether anything is watched: the engine may have refused it or had no room.
    pub fn is_watched(&self) -> bool {
        !self.watches.is_empty()
    }

    /// The event fields, some maybe more than once.
    pub fn fields(&self) -> &[u16] {
        &self.fields
    }

    /// Lets the next collection read them in any case.
    pub fn read_now(&mut self) {
        self.looked = None;
    }

    /// Reads what is new since the last read, from where the cursor moves on unless something could not be read. After
    /// the engine's clock was set back, the time at which the last read was on the clock of today.
    ///
    /// `stamps` is what [`Table::stamps`](super::table::Table::stamps) says of the fields.
    ///
    /// Errors: only a lost connection; others go to `failed`.
    pub fn collect(
        &mut self,
        now: i64,
        stamps: Option<i64>,
        cursor: &mut Option<Cursor>,
        failed: &mut Vec<Error>,
    ) -> Result<Option<i64>> {
        self.read.clear();
        let read = Instant::now();
        let often = stamps.map_or(UNSEEN, |_| AT_LEISURE).mul_f64(0.9);
        let is_known = |(looked, known)| stamps == known && read.duration_since(looked) < often;
        let has_none = self.looked.is_some_and(is_known);
        if self.watches.is_empty() || has_none && !self.at_every_collection {
            return Ok(None);
        }
        let since = cursor.map_or(now - self.window.as_micros() as i64, |cursor| cursor.next - OVERLAP);
        let (mut reached, mut set_back): (Option<i64>, Option<i64>) = (None, None);
        for watch in &self.watches {
            let start = self.read.len();
            let mut after = read_since(watch, since, &mut self.read, failed)?;
            match (after, *cursor) {
                (Some(now), Some(cursor)) if now < cursor.next => {
                    // What was just read happened before the clock was set back. The rest is stamped by the clock of
                    // today, and comes together with what was read long ago.
                    let last_read = now - cursor.read.elapsed().as_micros() as i64;
                    set_back = Some(last_read);
                    let start = self.read.len();
                    after = read_since(watch, last_read - OVERLAP, &mut self.read, failed)?.or(after);
                    mark_old(&mut self.read[start..], after);
                }
                _ => mark_old(&mut self.read[start..], after),
            }
            let after = after.or(cursor.map(|cursor| cursor.next)).unwrap_or(since);
            reached = Some(reached.map_or(after, |reached| reached.min(after)));
        }
        *cursor = reached.map(|next| Cursor { next, read });
        // What could not be read is tried again at the next collection.
        self.looked = failed.is_empty().then_some((read, stamps));
        Ok(set_back)
    }

    /// Changes the interval of the watches in place, and how long the engine keeps their samples; to be called after the
    /// plain watches have theirs, see [`Events::new`].
    pub fn set_interval(&mut self, every: Every) -> Result<()> {
        let keep = Keep::Window(kept(self.window, every.time()));
        watches::first_error(self.watches.iter().map(|watch| watch.set(every.watch_interval(), keep)))
    }
}

/// Appends all samples since a time. Returns the engine's time; `None` if the read failed.
///
/// Errors: only a lost connection; others go to `failed`.
fn read_since(watch: &Watch, since: i64, read: &mut Vec<Event>, failed: &mut Vec<Error>) -> Result<Option<i64>> {
    let after = watch.since(since, &mut |entity, reading| {
        if let (0, Value::Int(value)) = (reading.status, &reading.value) {
            read.push(Event { entity, field: reading.field, time: reading.timestamp, value: *value, is_old: false });
        }
    });
    match after {
        Ok(after) => Ok(Some(after)),
        Err(error) if error.is_connection_lost() => Err(error),
        Err(error) => {
            failed.push(error);
            Ok(None)
        }
    }
}

fn mark_old(events: &mut [Event], engine_time: Option<i64>) {
    let Some(engine_time) = engine_time else { return };
    events.iter_mut().for_each(|event| event.is_old = event.time > engine_time + CLOCK_DRIFT);
}

/// How long the engine keeps events for us: long enough for a few missed collections.
pub fn kept(window: Duration, interval: Duration) -> Duration {
    const LONGEST: Duration = Duration::from_secs(600);
    window.min(LONGEST).max(interval * 3 + Duration::from_secs(60))
}
