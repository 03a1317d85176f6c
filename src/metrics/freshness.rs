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
use crate::counters::is_profiling;
use crate::dcgm::{EntityGroup, EntityId};
use crate::inventory::{Entity, Inventory, Kind};

/// Collections without a newer time stamp after which a value is no longer believed, if they took as many intervals:
/// collections may follow each other more closely, after a reload of the counters file, and bring no sample then.
const STILL_LIMIT: u32 = 5;

/// A GPU without any value.
const SILENT: &str = "none of its fields has a value";
/// The label by which GPUs of one model are known.
const MODEL: &str = "modelName";

/// Whether a field's time stamp says that the field was sampled. Static data (50 to 63: name, UUID, bus) are read when the
/// engine starts, and a lost GPU has them, too.
pub fn is_evidence(field: u16) -> bool {
    !matches!(field, 0..64 | 156 | 230 | 240..=247 | 310..=399)
}

/// When values are looked at, and how often they are sampled.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    pub now: Instant,
    pub schedule: Schedule,
    /// Nothing of GPUs is watched, or the last reading failed: their silence needs no other evidence.
    pub failing: bool,
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
    expected: HashMap<EntityId, Expected>,
}

/// Entities that are expected to answer: they have had a value, or have been found to lack what others like them have.
/// Outlives sessions, so that a GPU that does not answer a new engine is missed.
#[derive(Default)]
pub struct Answered(HashSet<(String, EntityGroup, u32)>);

impl Answered {
    /// Forgets MIG instances that are no more. Without a GPU nothing is known of them.
    pub fn keep(&mut self, inventory: &Inventory) {
        if !inventory.gpus.is_empty() {
            let here: HashSet<_> = inventory.entities.iter().map(identity).collect();
            self.0.retain(|known| known.1 != EntityGroup::Instance || here.contains(known));
        }
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

/// Whether an entity is expected to answer.
#[derive(Debug, Clone, Copy)]
enum Expected {
    Yes,
    /// It has not had a value yet, in so many looks.
    NotYet {
        since: Instant,
        looks: u32,
    },
}

/// Clocks, temperature and power of a GPU: whichever of these is asked for, every GPU and instance answers it.
const EVERY_GPU_HAS: [u16; 4] = [100, 101, 150, 155];

/// Looks without a value, over at least an interval, after which an entity without any is said to be silent. A host
/// engine's first samples may come late.
const FIRST_LOOKS: u32 = 3;

/// What a look at one entity saw.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// The newest time stamp.
    newest: i64,
    /// One of its fields has a value.
    answers: bool,
    /// It is asked for fields that show whether it is sampled.
    is_asked: bool,
    /// The same without profiling fields, which a healthy GPU may lack.
    is_asked_plainly: bool,
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
    /// A GPU without a value may still bring its first.
    pub awaits_first: bool,
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
        // Not allocated while all answer.
        let mut silent = Vec::new();
        for (index, entity) in inventory.entities.iter().enumerate() {
            let intervals = table.intervals(index);
            let has_classes = intervals.iter().any(|interval| *interval != intervals[0]);
            let seen = self.see(look, index, entity, table, has_classes);
            let interval = self.interval(look, entity, table.intervals(index), has_classes);
            let stamp = self.entities.entry(entity.id).or_insert_with(|| Stamp::new(look.now));
            match seen.is_asked || !table.is_paused(index) {
                true => stamp.see(seen.newest, look.now),
                // Nothing but profiling fields: their silence is no evidence.
                false => stamp.rest(look.now),
            }
            let is_frozen = stamp.is_frozen(look.now, interval);
            judgement.newest = judgement.newest.max(seen.newest);
            if entity.kind == Kind::Gpu {
                (gpus_asked, gpus_answer) = (gpus_asked | seen.is_asked, gpus_answer | seen.answers);
            }
            let expected = self.expect(look, answered, entity, seen);
            if is_frozen && !matches!(entity.kind, Kind::Gpu | Kind::WholeGpu) {
                judgement.stale[index] = true;
                judgement.blame(entity, "its values are no longer updated");
            } else if is_frozen {
                table.blank(index);
                judgement.fail(index, entity, "its values are no longer updated");
            } else if seen.is_asked && !seen.answers && matches!(expected, Expected::Yes) {
                judgement.fail(index, entity, SILENT);
            } else {
                if seen.is_asked_plainly && !seen.answers && matches!(entity.kind, Kind::Gpu | Kind::WholeGpu) {
                    silent.push((index, interval));
                }
                self.judge_profiling(look, index, entity, table, judgement);
            }
        }
        judgement.no_gpu_has_values = gpus_asked && !gpus_answer;
        for (index, interval) in silent {
            self.judge_first_values(look, interval, index, answered, table, inventory, judgement);
        }
        if judgement.up.contains(&false) {
            judgement.lose_parents(inventory);
            (0..judgement.up.len()).filter(|index| !judgement.up[*index]).for_each(|index| table.blank_made_up(index));
        }
    }

    /// Takes in the time stamps of an entity.
    fn see(&mut self, look: Look, index: usize, entity: &Entity, table: &Table, has_classes: bool) -> Seen {
        let mut seen = Seen::default();
        let is_paused = table.is_paused(index);
        let is_asked = |field: u16| is_evidence(field) && !(is_paused && is_profiling(field));
        let cells = table.cells(index).zip(table.intervals(index));
        // Where there are none, an empty list is not allocated.
        let profiling = self.profiling.entry(entity.id).or_default();
        for ((field, number, timestamp), interval) in cells.filter(|((field, ..), _)| is_asked(*field)) {
            seen.is_asked = true;
            seen.newest = seen.newest.max(timestamp);
            seen.answers |= number != Number::Blank;
            // Profiling fields can go silent while all others of the entity move.
            if is_profiling(field) {
                let at = match profiling.binary_search_by_key(&field, |(field, _)| *field) {
                    Ok(at) => at,
                    Err(at) => {
                        profiling.insert(at, (field, Stamp::new(look.now)));
                        at
                    }
                };
                profiling[at].1.see(timestamp, look.now);
                continue;
            }
            seen.is_asked_plainly = true;
            if has_classes {
                let class = self.classes.entry((entity.id, *interval)).or_insert_with(|| Class::new(look.now));
                class.see(timestamp, look.now);
            }
        }
        if is_paused {
            profiling.iter_mut().for_each(|(_, stamp)| stamp.rest(look.now));
        }
        seen
    }

    /// Takes in whether an entity answers. Returns what is expected of it.
    fn expect(&mut self, look: Look, answered: &mut Answered, entity: &Entity, seen: Seen) -> Expected {
        let expected = self.expected.entry(entity.id).or_insert_with(|| match answered.0.contains(&identity(entity)) {
            true => Expected::Yes,
            false => Expected::NotYet { since: look.now, looks: 0 },
        });
        if let Expected::NotYet { looks, .. } = expected {
            *looks = looks.saturating_add(1);
            if seen.answers {
                answered.0.insert(identity(entity));
                *expected = Expected::Yes;
            }
        }
        *expected
    }

    /// A GPU that has not had any value, and was asked for some. It is down if others of its model answer the same fields,
    /// or if it is asked for what every GPU has, or if nothing can be asked of it; this is said when first samples have had
    /// time to come.
    #[allow(clippy::too_many_arguments)]
    fn judge_first_values(
        &mut self,
        look: Look,
        interval: Duration,
        index: usize,
        answered: &mut Answered,
        table: &Table,
        inventory: &Inventory,
        judgement: &mut Judgement,
    ) {
        let entity = &inventory.entities[index];
        let Some(Expected::NotYet { since, looks }) = self.expected.get(&entity.id).copied() else { return };
        let is_over = looks >= FIRST_LOOKS && look.now.duration_since(since) >= interval.mul_f64(0.9);
        let has_value = |(field, number, _): (u16, Number, i64)| {
            is_evidence(field) && !is_profiling(field) && number != Number::Blank
        };
        let is_alike = |other: &Entity| {
            (other.kind, other.id.group, other.label(MODEL)) == (entity.kind, entity.id.group, entity.label(MODEL))
        };
        let mut others = inventory.entities.iter().enumerate().filter(|(_, other)| is_alike(other));
        let should_answer = look.failing
            || table.cells(index).any(|(field, ..)| EVERY_GPU_HAS.contains(&field))
            || others.any(|(other, _)| table.cells(other).any(has_value));
        if should_answer && is_over {
            answered.0.insert(identity(entity));
            self.expected.insert(entity.id, Expected::Yes);
            judgement.fail(index, entity, SILENT);
        } else if should_answer {
            judgement.up[index] = false;
            judgement.awaits_first = true;
        } else if is_over && judgement.no_gpu_has_values && entity.kind == Kind::Gpu {
            judgement.blame(entity, SILENT);
        }
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
            judgement.blame(entity, &format!("profiling field {field} has no new samples"));
        }
    }

    /// An entity is gone, and its id may come to mean another.
    pub fn forget(&mut self, entity: EntityId) {
        self.entities.remove(&entity);
        self.expected.remove(&entity);
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
        (self.rewatch, self.awaits_first, self.no_gpu_has_values, self.newest) = (false, false, false, 0);
    }

    /// A GPU that is reported by its instances is lost with all of them.
    fn lose_parents(&mut self, inventory: &Inventory) {
        let entities = &inventory.entities;
        for (index, parent) in entities.iter().enumerate().filter(|(_, entity)| entity.kind == Kind::WholeGpu) {
            let parts = entities.iter().zip(&self.up);
            let mut parts = parts.filter(|(part, _)| part.kind == Kind::Gpu && part.gpu == parent.gpu).peekable();
            let is_lost = parts.peek().is_some() && parts.all(|(_, up)| !up);
            self.up[index] &= !is_lost;
        }
    }

    fn fail(&mut self, index: usize, entity: &Entity, why: &str) {
        self.up[index] = false;
        // A parent is not shown by itself; its instances speak for it.
        if entity.kind != Kind::WholeGpu {
            self.blame(entity, why);
        }
    }

    fn blame(&mut self, entity: &Entity, why: &str) {
        let name = match entity.id.group {
            EntityGroup::Gpu | EntityGroup::Instance => entity.gpu_name(),
            group => format!("{} {}", group.name(), entity.id.id),
        };
        self.reasons.push(format!("{name}: {why}"));
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
            let look = Look { now: self.now, schedule: Schedule::from(Duration::from_secs(1)), failing: false };
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
    fn instances_that_are_gone_are_forgotten() {
        use crate::metrics::source::tests::{gpu, instance};
        let inventory = |gpus: Vec<u32>, entities| Inventory { gpus, entities, ..Inventory::default() };
        let all = [gpu(0, Kind::Gpu), instance(3, 1), instance(4, 1)];
        let mut answered = Answered(all.iter().map(identity).collect());
        answered.keep(&inventory(vec![], vec![]));
        assert_eq!(answered.0.len(), 3, "the driver is away");
        answered.keep(&inventory(vec![1], vec![all[2].clone()]));
        assert_eq!(answered.0, HashSet::from([identity(&all[0]), identity(&all[2])]), "a GPU may come back");
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
