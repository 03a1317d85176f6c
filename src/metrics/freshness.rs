//! Values that have stopped moving, and entities that no longer answer.
//!
//! A driver or engine can go on answering the last thing it knew. What shows it is DCGM's time stamp: a GPU none of
//! whose fields has a newer one for several collections is not shown. The values of switches, links, CPUs and ConnectX
//! come from modules with clocks of their own; those stay on the page and are marked as stale. Profiling fields can go
//! silent one by one, and come back when they are watched anew. Event fields keep their time stamp by nature, and some
//! counters carry the driver's own; neither is evidence.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::number::Number;
use super::schedule::Schedule;
use super::table::Table;
use crate::counters::PROFILING;
use crate::dcgm::{EntityGroup, EntityId};
use crate::inventory::{Entity, Inventory, Kind};

/// Collections without a newer time stamp after which a value is no longer believed, if they took as many intervals:
/// collections may follow each other more closely, after a reload of the counters file, and bring no sample then.
const STILL_LIMIT: u32 = 5;

/// Whether a field's time stamp says that the field was sampled.
pub fn is_evidence(field: u16) -> bool {
    !matches!(field, 0..50 | 156 | 230 | 240..=247 | 310..=399)
}

/// When values are looked at, and how often they are sampled.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    pub now: Instant,
    pub schedule: Schedule,
}

/// Modules with clocks of their own are not expected to bring values oftener than this, whatever their watches say.
const SHORTEST_OF_MODULES: Duration = Duration::from_secs(1);

impl Look {
    /// Time between two samples of a field of a collection, `None` being the rest.
    fn interval(self, kind: Kind, of_field: Option<Duration>) -> Duration {
        let interval = self.schedule.of(of_field).time();
        match kind {
            Kind::Gpu | Kind::WholeGpu | Kind::GpuLink => interval,
            Kind::Switch | Kind::SwitchLink | Kind::ConnectX | Kind::Cpu | Kind::Core => {
                interval.max(SHORTEST_OF_MODULES)
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Stamp {
    newest: i64,
    /// When it was newer than before.
    moved: Instant,
    /// Collections since then.
    still: u32,
    /// It has been watched anew since it went silent.
    rewatched: bool,
}

impl Stamp {
    fn new(now: Instant) -> Stamp {
        Stamp { newest: 0, moved: now, still: 0, rewatched: false }
    }

    fn see(&mut self, timestamp: i64, now: Instant) {
        if timestamp > self.newest {
            *self = Stamp { newest: timestamp, ..Stamp::new(now) };
        } else if self.newest > 0 {
            self.still = self.still.saturating_add(1);
        }
    }

    /// Nothing is sampled on purpose: what is silent is so from now on.
    fn rest(&mut self, now: Instant) {
        (self.moved, self.still, self.rewatched) = (now, 0, false);
    }

    /// `interval` is the time between two samples.
    fn is_frozen(&self, now: Instant, interval: Duration) -> bool {
        self.still >= STILL_LIMIT && now.duration_since(self.moved) >= interval.mul_f64(0.9) * STILL_LIMIT
    }
}

/// The fields of an entity that are sampled together.
#[derive(Debug, Clone, Copy)]
struct Class {
    newest: i64,
    /// The newest stamp before the look that is going on, and the time of that look.
    before: i64,
    look: Instant,
    /// Its stamp has moved since it was first seen, so it is expected to move on.
    moves: bool,
}

impl Class {
    fn new(now: Instant) -> Class {
        Class { newest: 0, before: 0, look: now, moves: false }
    }

    fn see(&mut self, timestamp: i64, now: Instant) {
        if now != self.look {
            (self.before, self.look) = (self.newest, now);
        }
        self.moves |= self.before > 0 && timestamp > self.before;
        self.newest = self.newest.max(timestamp);
    }
}

/// The newest stamps of one session. Outlives its watches, so that nothing looks fresh because it was watched anew.
#[derive(Default)]
pub struct Freshness {
    entities: HashMap<EntityId, Stamp>,
    /// By field.
    profiling: HashMap<EntityId, Vec<(u16, Stamp)>>,
    /// By the interval of their collection; only where there is more than one.
    classes: HashMap<(EntityId, Option<Duration>), Class>,
    /// What [`Answered`] says of the entities of this session.
    answered: HashMap<EntityId, bool>,
}

/// Entities that have ever had a value. Outlives sessions, so that a GPU that does not answer a new engine is missed.
#[derive(Default)]
pub struct Answered(HashSet<(String, EntityGroup, u32)>);

impl Answered {
    fn contains(&self, entity: &Entity) -> bool {
        self.0.contains(&identity(entity))
    }

    fn insert(&mut self, entity: &Entity) {
        self.0.insert(identity(entity));
    }
}

/// Numbers of GPUs and instances may come to mean others; UUIDs do not.
fn identity(entity: &Entity) -> (String, EntityGroup, u32) {
    let id = match entity.id.group {
        EntityGroup::Gpu => 0,
        EntityGroup::Instance => entity.gpu_instance.unwrap_or(0),
        _ => entity.id.id,
    };
    (entity.uuid.clone(), entity.id.group, id)
}

/// What is found in a look at the table.
#[derive(Debug, Default, PartialEq)]
pub struct Judgement {
    /// By entity of the inventory: false for one that should answer and does not.
    pub up: Vec<bool>,
    /// What does not answer, in words.
    pub reasons: Vec<String>,
    /// Profiling fields have gone silent and should be watched anew.
    pub rewatch: bool,
    /// By entity of the inventory: true for one that is shown with values that have stopped moving.
    pub stale: Vec<bool>,
    /// No GPU or instance has a value, although some were asked for one.
    pub no_gpu_has_values: bool,
    /// The stamp of the newest sample, in microseconds since 1970; 0 if there is none.
    pub newest: i64,
}

impl Freshness {
    /// Looks at the values just read, and blanks those that are not to be believed. What `judgement` said before is
    /// written over.
    pub fn judge(
        &mut self,
        look: Look,
        answered: &mut Answered,
        table: &mut Table,
        inventory: &Inventory,
        judgement: &mut Judgement,
    ) {
        judgement.clear(inventory.entities.len());
        let (mut gpus_asked, mut gpus_answer) = (false, false);
        for (index, entity) in inventory.entities.iter().enumerate() {
            let (mut newest, mut answers, mut asked) = (0, false, false);
            let intervals = table.intervals(index);
            let has_classes = intervals.iter().any(|interval| *interval != intervals[0]);
            let is_paused = table.is_paused(index);
            let is_asked = |field: u16| is_evidence(field) && !(is_paused && PROFILING.contains(&field));
            let cells = table.cells(index).zip(intervals);
            // Where there are none, an empty list is not allocated.
            let profiling = self.profiling.entry(entity.id).or_default();
            for ((field, number, timestamp), interval) in cells.filter(|((field, ..), _)| is_asked(*field)) {
                asked = true;
                // Profiling fields can go silent while all others of the entity move.
                if has_classes && !PROFILING.contains(&field) {
                    self.classes
                        .entry((entity.id, *interval))
                        .or_insert_with(|| Class::new(look.now))
                        .see(timestamp, look.now);
                }
                newest = newest.max(timestamp);
                answers |= number != Number::Blank;
                if PROFILING.contains(&field) {
                    let at = match profiling.binary_search_by_key(&field, |(field, _)| *field) {
                        Ok(at) => at,
                        Err(at) => {
                            profiling.insert(at, (field, Stamp::new(look.now)));
                            at
                        }
                    };
                    profiling[at].1.see(timestamp, look.now);
                }
            }
            let interval = self.interval(look, entity, intervals, has_classes);
            let stamp = self.entities.entry(entity.id).or_insert_with(|| Stamp::new(look.now));
            match asked || !is_paused {
                true => stamp.see(newest, look.now),
                // Nothing but profiling fields: their silence is no evidence.
                false => stamp.rest(look.now),
            }
            if is_paused {
                let of_entity = self.profiling.get_mut(&entity.id).into_iter().flatten();
                of_entity.for_each(|(_, stamp)| stamp.rest(look.now));
            }
            judgement.newest = judgement.newest.max(newest);
            if entity.kind == Kind::Gpu {
                (gpus_asked, gpus_answer) = (gpus_asked | asked, gpus_answer | answers);
            }
            let is_frozen = stamp.is_frozen(look.now, interval);
            let has_answered = self.answered.entry(entity.id).or_insert_with(|| answered.contains(entity));
            if answers && !std::mem::replace(has_answered, true) {
                answered.insert(entity);
            }
            let is_silent = asked && *has_answered && !answers;
            if is_frozen && !matches!(entity.kind, Kind::Gpu | Kind::WholeGpu) {
                judgement.stale[index] = true;
                judgement.blame(entity.id, "its values are no longer updated");
            } else if is_frozen {
                table.blank(index);
                judgement.fail(index, entity.kind, entity.id, "its values are no longer updated");
            } else if is_silent {
                judgement.fail(index, entity.kind, entity.id, "none of its fields has a value");
            } else {
                self.judge_profiling(look, index, entity, table, judgement);
            }
        }
        judgement.no_gpu_has_values = gpus_asked && !gpus_answer;
    }

    /// Time between two samples of an entity: of its fields that are sampled most often, among those that have been seen
    /// to move. Before that, of those that are sampled most rarely.
    fn interval(&self, look: Look, entity: &Entity, intervals: &[Option<Duration>], has_classes: bool) -> Duration {
        let time = |interval: &Option<Duration>| look.interval(entity.kind, *interval);
        if !has_classes {
            return intervals.first().map_or_else(|| time(&None), time);
        }
        let moves =
            |interval: &&Option<Duration>| self.classes.get(&(entity.id, **interval)).is_some_and(|class| class.moves);
        let most_often = intervals.iter().filter(moves).map(time).min();
        most_often.or_else(|| intervals.iter().map(time).max()).unwrap_or_else(|| time(&None))
    }

    fn judge_profiling(
        &mut self,
        look: Look,
        index: usize,
        entity: &Entity,
        table: &mut Table,
        judgement: &mut Judgement,
    ) {
        for (field, stamp) in self.profiling.get_mut(&entity.id).into_iter().flatten() {
            let interval = look.interval(entity.kind, table.interval(index, *field));
            if !stamp.is_frozen(look.now, interval) {
                continue;
            }
            table.blank_cell(index, *field);
            if !stamp.rewatched {
                stamp.rewatched = true;
                judgement.rewatch = true;
            }
            judgement.blame(entity.id, &format!("profiling field {field} has no new samples"));
        }
    }

    /// An entity is gone, and its id may come to mean another.
    pub fn forget(&mut self, entity: EntityId) {
        self.entities.remove(&entity);
        self.answered.remove(&entity);
        self.profiling.remove(&entity);
        self.classes.retain(|(owner, _), _| *owner != entity);
    }
}

impl Judgement {
    /// Forgets what was judged before, and keeps the memory.
    fn clear(&mut self, entities: usize) {
        self.up.clear();
        self.up.resize(entities, true);
        self.stale.clear();
        self.stale.resize(entities, false);
        self.reasons.clear();
        (self.rewatch, self.no_gpu_has_values, self.newest) = (false, false, 0);
    }

    fn fail(&mut self, index: usize, kind: Kind, entity: EntityId, why: &str) {
        self.up[index] = false;
        // A parent is not shown by itself; its instances speak for it.
        if kind != Kind::WholeGpu {
            self.blame(entity, why);
        }
    }

    fn blame(&mut self, entity: EntityId, why: &str) {
        self.reasons.push(format!("{} {}: {why}", entity.group.name(), entity.id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_freezes_after_five_intervals_and_thaws_at_once() {
        let (start, interval) = (Instant::now(), Duration::from_secs(30));
        let at = |number: u32| start + interval * number;
        let mut stamp = Stamp::new(start);
        (0..10).for_each(|number| stamp.see(0, at(number)));
        assert!(!stamp.is_frozen(at(10), interval), "what was never sampled has not stopped");
        (10..15).for_each(|number| stamp.see(100, at(number)));
        assert!(!stamp.is_frozen(at(14), interval));
        stamp.see(100, at(15));
        assert!(stamp.is_frozen(at(15), interval));
        stamp.see(101, at(16));
        assert!(!stamp.is_frozen(at(16), interval));
    }

    #[test]
    fn collections_that_follow_closely_or_after_a_long_pause_freeze_nothing() {
        let (start, interval) = (Instant::now(), Duration::from_secs(30));
        let mut stamp = Stamp::new(start);
        (0..50).for_each(|number| stamp.see(100, start + Duration::from_millis(number)));
        assert!(!stamp.is_frozen(start + interval, interval));
        let mut stamp = Stamp::new(start);
        stamp.see(100, start);
        stamp.see(100, start + interval * 100);
        assert!(!stamp.is_frozen(start + interval * 100, interval));
    }

    const SLOW: Option<Duration> = Some(Duration::from_secs(60));

    /// One GPU with some fields at every collection, which comes once per second, and others once per minute.
    struct Played {
        freshness: Freshness,
        table: Table,
        inventory: Inventory,
        judgement: Judgement,
        now: Instant,
        /// Seconds since the start.
        second: i64,
    }

    impl Played {
        fn new(fast: &[u16], slow: &[u16]) -> Played {
            let entities = vec![crate::metrics::source::tests::gpu(0, Kind::Gpu)];
            let inventory = Inventory { entities, ..Inventory::default() };
            Played {
                freshness: Freshness::default(),
                table: Table::of_fields(&inventory, fast, slow, SLOW),
                inventory,
                judgement: Judgement::default(),
                now: Instant::now(),
                second: 0,
            }
        }

        /// The next second. `moves`: the fields with a new sample.
        fn next(&mut self, fields: &[u16], moves: &[u16], stamps: &mut HashMap<u16, i64>) {
            self.second += 1;
            self.now += Duration::from_secs(1);
            self.table.clear();
            let entity = self.inventory.entities[0].id;
            for field in fields {
                if moves.contains(field) {
                    // The fields of one collection do not have quite the same stamp.
                    stamps.insert(*field, self.second * 1_000_000 + i64::from(*field));
                }
                let timestamp = stamps[field];
                self.table.put(
                    entity,
                    &crate::dcgm::Reading { field: *field, status: 0, timestamp, value: crate::dcgm::Value::Int(1) },
                );
            }
            let look = Look { now: self.now, schedule: Schedule::from(Duration::from_secs(1)) };
            self.freshness.judge(look, &mut Answered::default(), &mut self.table, &self.inventory, &mut self.judgement);
        }

        /// How many of the fields are shown.
        fn shown(&self) -> usize {
            self.table.cells(0).filter(|(_, number, _)| *number != Number::Blank).count()
        }
    }

    /// Plays so many seconds of a GPU whose driver stands still from `stops` on. Returns the seconds in which something
    /// was not shown.
    fn missing(fast: &[u16], slow: &[u16], seconds: i64, stops: i64) -> Vec<i64> {
        let mut played = Played::new(fast, slow);
        let all: Vec<u16> = fast.iter().chain(slow).copied().collect();
        let (mut stamps, mut missing) = (HashMap::new(), Vec::new());
        for second in 1..=seconds {
            let is_slow = second <= 2 || second % 60 == 0;
            let moves: &[u16] = match second {
                _ if second >= stops => &[],
                _ if is_slow => &all,
                _ => fast,
            };
            played.next(&all, moves, &mut stamps);
            if played.shown() < all.len() {
                missing.push(second);
            }
        }
        missing
    }

    #[test]
    fn a_slow_field_is_shown_until_its_next_sample() {
        let never = i64::MAX;
        for (fast, slow) in
            [(&[150, 155][..], &[100, 203][..]), (&[], &[100]), (&[1001], &[100, 1002]), (&[230], &[100])]
        {
            assert_eq!(missing(fast, slow, 600, never), [0i64; 0], "{fast:?} {slow:?}");
        }
    }

    #[test]
    fn a_gpu_that_stands_still_is_seen_at_the_pace_of_its_fastest_fields() {
        assert_eq!(missing(&[150], &[100], 400, 100).first(), Some(&104));
        // After five of its minutes, less a tenth: the last sample is of second 60.
        assert_eq!(missing(&[], &[100], 400, 100).first(), Some(&330));
    }
}
