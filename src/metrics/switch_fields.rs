//! Fields of the switch module that no switch, link or ConnectX adapter here has, and what they would cost the others.
//!
//! With NVSDM (Blackwell) the module's round ends at the first field that fails, and what else was due with it is lost.
//! Which fields fail depends on the hardware, and DCGM's answer to a watch does not tell. A sample does:
//!
//! 1. After the [first collections](FIRST) every field of a kind of entity without any sample is no longer watched. In a
//!    first round a failing field is only ignored, so this leaves what the hardware has.
//! 2. Should a failing field have cost others their first sample, too, they are missing now without being at fault. So
//!    each field is tried once again, one at a time and alone beside those that work, with a [pause](PAUSE) in between.
//!    It stays if it has a sample after two collections and the module's time stamps still move two collections later.
//!
//! Each step leaves fewer fields to try, so it ends; a field that fails is watched for two collections, which is too
//! short for values to count as frozen. NSCQ (HGX H100 and H200) answers fields that it lacks with a blank sample, which
//! harms nobody, so there nothing is dropped.

use std::collections::VecDeque;

use super::plan::KindFields;
use super::table::Table;
use crate::inventory::{Inventory, Kind};

/// Collections after which a field without a sample is no longer watched, and for which one is tried.
pub const FIRST: u32 = 2;
/// Collections of a trial.
const TRIAL: u32 = 4;
/// Collections between two trials, while other fields have values that a trial can hold up.
const PAUSE: u32 = 10;

/// Kinds of entity that the switch module serves.
const KINDS: [Kind; 3] = [Kind::Switch, Kind::SwitchLink, Kind::ConnectX];

/// Whether the switch module serves this field.
fn is_of_module(field: u16) -> bool {
    matches!(field, 700..=899 | 1300..=1310)
}

/// A field of all entities of a kind.
pub type Pair = (Kind, u16);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Collections since everything was watched.
    First(u32),
    /// Collections since the last trial.
    Between(u32),
    /// Collections since the field was watched again, and the newest stamp of the module at the second of them.
    Trial { pair: Pair, collections: u32, newest: i64 },
}

#[derive(Debug)]
pub struct SwitchFields {
    state: State,
    /// Not tried again yet.
    waiting: VecDeque<Pair>,
    left_out: Vec<Pair>,
}

/// What a collection makes different.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The fields of these kinds are to be watched anew, without those that are [left out](SwitchFields::leaves_out).
    pub rewatch: Vec<Kind>,
    pub dropped: Vec<Pair>,
    /// Dropped earlier, and kept now.
    pub kept: Option<Pair>,
}

/// What the module's fields have.
#[derive(Debug, Default)]
struct Seen {
    without: Vec<Pair>,
    /// The newest stamp, in microseconds since 1970; 0 without any sample.
    newest: i64,
}

impl Default for SwitchFields {
    fn default() -> SwitchFields {
        SwitchFields { state: State::First(0), waiting: VecDeque::new(), left_out: Vec::new() }
    }
}

impl SwitchFields {
    /// Whether entities of this kind are the switch module's.
    pub fn serves(kind: Kind) -> bool {
        KINDS.contains(&kind)
    }

    pub fn leaves_out(&self, pair: Pair) -> bool {
        self.left_out.contains(&pair)
    }

    /// Fields that no kind of entity is asked for, although `asked` has them; a trial does not change that.
    pub fn skipped(&self, asked: &[KindFields]) -> Vec<u16> {
        let is_out = |pair: Pair| {
            self.leaves_out(pair) || matches!(self.state, State::Trial { pair: tried, .. } if tried == pair)
        };
        let is_skipped = |field: u16| {
            let mut kinds = asked.iter().filter(|fields| fields.ids.contains(&field));
            kinds.all(|fields| is_out((fields.kind, field)))
        };
        let mut fields: Vec<u16> = self.left_out.iter().map(|(_, field)| *field).collect();
        if let State::Trial { pair, .. } = self.state {
            fields.push(pair.1);
        }
        fields.sort_unstable();
        fields.dedup();
        fields.retain(|field| is_skipped(*field));
        fields
    }

    /// To be called after every collection.
    pub fn collected(&mut self, asked: &[KindFields], table: &Table, inventory: &Inventory) -> Change {
        if matches!(self.state, State::Between(_)) && self.waiting.is_empty() {
            return Change::default();
        }
        self.next(|| look(asked, table, inventory))
    }

    fn next(&mut self, look: impl Fn() -> Seen) -> Change {
        match self.state {
            State::First(collections) if collections + 1 < FIRST => {
                self.state = State::First(collections + 1);
                Change::default()
            }
            State::First(_) => {
                self.state = State::Between(0);
                let dropped = look().without;
                self.left_out.clone_from(&dropped);
                self.waiting = dropped.iter().copied().collect();
                let mut rewatch: Vec<Kind> = dropped.iter().map(|(kind, _)| *kind).collect();
                rewatch.dedup();
                Change { rewatch, dropped, kept: None }
            }
            State::Between(collections) => {
                let pause = if look().newest == 0 { 1 } else { PAUSE };
                self.state = State::Between(collections + 1);
                match self.waiting.front() {
                    Some(&pair) if collections + 1 >= pause => {
                        self.waiting.pop_front();
                        self.left_out.retain(|left_out| *left_out != pair);
                        self.state = State::Trial { pair, collections: 0, newest: 0 };
                        Change { rewatch: vec![pair.0], ..Change::default() }
                    }
                    _ => Change::default(),
                }
            }
            State::Trial { pair, collections, newest } => {
                let (collections, seen) = (collections + 1, look());
                self.state =
                    State::Trial { pair, collections, newest: if collections <= FIRST { seen.newest } else { newest } };
                let fails = match collections {
                    FIRST => seen.without.contains(&pair),
                    TRIAL => seen.newest <= newest,
                    _ => return Change::default(),
                };
                if fails {
                    self.left_out.push(pair);
                    self.state = State::Between(0);
                    return Change { rewatch: vec![pair.0], ..Change::default() };
                }
                if collections < TRIAL {
                    return Change::default();
                }
                self.state = State::Between(0);
                Change { kept: Some(pair), ..Change::default() }
            }
        }
    }
}

fn look(asked: &[KindFields], table: &Table, inventory: &Inventory) -> Seen {
    let mut seen = Seen::default();
    for fields in asked.iter().filter(|fields| KINDS.contains(&fields.kind)) {
        let mut stamps: Vec<(u16, i64)> =
            fields.ids.iter().filter(|field| is_of_module(**field)).map(|field| (*field, 0)).collect();
        let of_kind = inventory.entities.iter().enumerate().filter(|(_, entity)| entity.kind == fields.kind);
        let mut has_some = false;
        for (index, _) in of_kind {
            has_some = true;
            for (field, _, timestamp) in table.cells(index) {
                if let Ok(at) = stamps.binary_search_by_key(&field, |(field, _)| *field) {
                    stamps[at].1 = stamps[at].1.max(timestamp);
                }
            }
        }
        seen.newest = stamps.iter().map(|(_, stamp)| *stamp).max().unwrap_or(0).max(seen.newest);
        if has_some {
            let without = stamps.iter().filter(|(_, stamp)| *stamp == 0);
            seen.without.extend(without.map(|(field, _)| (fields.kind, *field)));
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module that is played: which pairs are watched, and what the table has of them after each collection.
    struct Module {
        fields: SwitchFields,
        all: Vec<Pair>,
        /// NVSDM fails on these.
        failing: Vec<Pair>,
        stamps: Vec<(Pair, i64)>,
        collections: i64,
        /// Since when a pair is watched.
        watched: Vec<(Pair, i64)>,
    }

    const LINK: Kind = Kind::SwitchLink;

    impl Module {
        fn new(all: &[u16], failing: &[u16]) -> Module {
            let pairs = |fields: &[u16]| fields.iter().map(|field| (LINK, *field)).collect::<Vec<Pair>>();
            let all = pairs(all);
            Module {
                watched: all.iter().map(|pair| (*pair, 0)).collect(),
                fields: SwitchFields::default(),
                failing: pairs(failing),
                stamps: Vec::new(),
                collections: 0,
                all,
            }
        }

        /// `has_first`: a failing field is ignored in a pair's first round, as in NVSDM's mock.
        fn collect(&mut self, has_first: bool) -> Change {
            self.collections += 1;
            let now = self.collections;
            let failing = self
                .watched
                .iter()
                .position(|(pair, since)| self.failing.contains(pair) && (!has_first || now > since + 1));
            for (at, (pair, _)) in self.watched.iter().enumerate() {
                // What comes before the failing field was stored.
                if self.failing.contains(pair) || failing.is_some_and(|failing| has_first || at > failing) {
                    continue;
                }
                self.stamps.retain(|(known, _)| known != pair);
                self.stamps.push((*pair, now));
            }
            let is_watched = |pair: &Pair| self.watched.iter().any(|(watched, _)| watched == pair);
            let newest = self.stamps.iter().filter(|(pair, _)| is_watched(pair)).map(|(_, stamp)| *stamp).max();
            let has = |pair: &Pair| self.stamps.iter().any(|(known, _)| known == pair);
            let without: Vec<Pair> = self.all.iter().filter(|pair| !has(pair) || !is_watched(pair)).copied().collect();
            let change = self.fields.next(|| Seen { without: without.clone(), newest: newest.unwrap_or(0) });
            let watched = std::mem::take(&mut self.watched);
            let since = |pair: &Pair| watched.iter().find(|(known, _)| known == pair).map_or(now, |(_, since)| *since);
            let kept = self.all.iter().filter(|pair| !self.fields.leaves_out(**pair));
            self.watched = kept.map(|pair| (*pair, since(pair))).collect();
            change
        }

        fn watched(&self) -> Vec<u16> {
            self.watched.iter().map(|((_, field), _)| *field).collect()
        }
    }

    #[test]
    fn fields_without_a_sample_are_dropped_and_tried_once() {
        let mut module = Module::new(&[780, 781, 782, 856, 870], &[782, 856]);
        assert_eq!(module.collect(true), Change::default());
        let change = module.collect(true);
        assert_eq!((change.rewatch, change.dropped), (vec![LINK], vec![(LINK, 782), (LINK, 856)]));
        let mut longest = 0;
        for _ in 0..100 {
            module.collect(true);
            let newest = module.stamps.iter().map(|(_, stamp)| *stamp).max().unwrap();
            longest = longest.max(module.collections - newest);
            let asked = [KindFields { kind: LINK, ids: vec![780, 781, 782, 856, 870] }];
            assert_eq!(module.fields.skipped(&asked), [782, 856], "also during a trial");
        }
        assert_eq!(module.watched(), [780, 781, 870]);
        assert!(module.fields.waiting.is_empty());
        assert!((1..=2).contains(&longest), "a trial holds the others up for {longest} collections");
    }

    #[test]
    fn a_field_that_stops_all_behind_it_from_the_start_is_found() {
        for (failing, left) in [(780, vec![781, 870]), (781, vec![780, 870])] {
            let mut module = Module::new(&[780, 781, 870], &[failing]);
            for _ in 0..60 {
                module.collect(false);
            }
            assert_eq!(module.watched(), left);
        }
    }

    #[test]
    fn nothing_is_dropped_where_every_field_has_a_sample() {
        let mut module = Module::new(&[780, 781], &[]);
        assert!((0..50).all(|_| module.collect(true) == Change::default()));
    }
}
