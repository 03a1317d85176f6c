//! Everything that belongs to one session with an engine, and ends with it.
//!
//! What must outlive a session (totals, lost GPUs, who scrapes when) is elsewhere, and is keyed by UUIDs.

use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use super::active_watches::ActiveWatches;
use super::restart::{ClockSteps, Step};
use crate::counters::Counters;
use crate::dcgm::{Mode, Result, Session};
use crate::inventory::Inventory;
use crate::metrics::freshness::Freshness;
use crate::metrics::schedule::Schedule;
use crate::metrics::switch_fields;
use crate::metrics::{Memory, ProfilingPause};

/// How often entities are looked for again: after so many collections, within these limits. A call that fails makes it
/// happen at once, but not sooner than the first of them.
const LOOK_AGAIN_COLLECTIONS: u32 = 30;
const LOOK_AGAIN_SOONEST: Duration = Duration::from_secs(1);
const LOOK_AGAIN_LATEST: Duration = Duration::from_secs(30);
/// Where the engine had no room for all groups, they are tried again after so many collections, within these limits:
/// other clients may have given theirs back. Watches that are made anew miss one sample of profiling fields.
const TRY_ROOM_COLLECTIONS: u32 = 20;
const TRY_ROOM_SOONEST: Duration = Duration::from_secs(10);
const TRY_ROOM_LATEST: Duration = Duration::from_secs(300);
/// While a GPU is missing.
const LOOK_FOR_MISSING: Duration = Duration::from_secs(5);

pub struct SessionRun {
    /// Declared before the session: what is watched is given back before the session ends.
    pub watches: Option<ActiveWatches>,
    pub session: Rc<Session>,
    pub started: Instant,
    /// Modules that the embedded engine was told not to load.
    pub denied_modules: Vec<u32>,
    pub freshness: Freshness,
    /// Something failed since entities were last looked for.
    pub has_failed: bool,
    /// Entities were last looked for.
    pub looked: Instant,
    /// What is watched now was last watched anew.
    watched: Instant,
    /// The next collection.
    pub due: Instant,
    /// The last collection of what is watched now began.
    pub collected: Option<Instant>,
    /// Collections of what is watched now.
    pub collections: u32,
    /// GPUs with XID 119; while there is one, DCGM answers for none.
    pub fatal_xid: Vec<u32>,
    /// Which GPUs and instances answered at the last collection, by entity.
    answered: Vec<bool>,
    /// A GPU has stopped answering, and its watches are to be made anew at the next look: after it was unbound and bound,
    /// old groups bring no values.
    pub should_rewatch: bool,
    clock: ClockSteps,
    /// A host engine samples nothing until this: the clock was set back.
    pub catches_up: Option<(Step, Instant)>,
}

impl SessionRun {
    /// A new engine reads the kernel's log from its beginning; by then it certainly has.
    pub const KERNEL_LOG_IS_READ: Duration = Duration::from_secs(600);
    /// Collections until profiling fields, and all others that are differences, have a value.
    pub const FIRST_COLLECTIONS: u32 = switch_fields::FIRST;

    /// Whether not everything that is watched has a value yet.
    pub fn is_new(&self) -> bool {
        self.collections < SessionRun::FIRST_COLLECTIONS
    }

    pub fn begin(session: Session, denied_modules: Vec<u32>) -> SessionRun {
        let now = Instant::now();
        SessionRun {
            watches: None,
            session: Rc::new(session),
            started: now,
            denied_modules,
            freshness: Freshness::default(),
            has_failed: false,
            looked: now,
            watched: now,
            due: now,
            collected: None,
            collections: 0,
            fatal_xid: Vec::new(),
            answered: Vec::new(),
            should_rewatch: false,
            clock: ClockSteps::new(SystemTime::now(), now),
            catches_up: None,
        }
    }

    pub fn is_embedded(&self) -> bool {
        self.session.mode() == Mode::Embedded
    }

    /// Watches these entities instead of those that were watched so far. A collection is due at once.
    ///
    /// Errors: as [`ActiveWatches::new`].
    pub fn watch(
        &mut self,
        counters: &Counters,
        inventory: Inventory,
        memory: &mut Memory,
        schedule: Schedule,
        pause: &ProfilingPause,
    ) -> Result<&mut ActiveWatches> {
        (self.collected, self.collections, self.due) = (None, 0, Instant::now());
        (self.should_rewatch, self.answered, self.watched) = (false, Vec::new(), Instant::now());
        if let Some(old) = self.watches.take() {
            for entity in old.inventory.entities.iter().filter(|entity| !inventory.entities.contains(entity)) {
                self.freshness.forget(entity.id);
            }
            // Dropped before new ones are made: an engine has room for few groups, and of two watches on the same field
            // of an entity the first to be dropped ends both.
        }
        let watches = ActiveWatches::new(&self.session, counters, inventory, memory, schedule, pause)?;
        Ok(self.watches.insert(watches))
    }

    /// Whether watches that the engine had no room for are to be tried again.
    pub fn should_try_room(&self, interval: Duration) -> bool {
        let is_missing_some = self.watches.as_ref().is_some_and(|watches| !watches.collector.no_room.is_empty());
        let pause = (interval * TRY_ROOM_COLLECTIONS).clamp(TRY_ROOM_SOONEST, TRY_ROOM_LATEST);
        is_missing_some && self.watched.elapsed() >= pause
    }

    /// Takes in what answered at this collection. What did before and no longer does is looked for soon.
    pub fn note_answers(&mut self) {
        let Some(watches) = &self.watches else { return };
        let up = &watches.judgement.up;
        let has_stopped = self.answered.iter().zip(up).any(|(before, now)| *before && !now);
        if has_stopped {
            (self.has_failed, self.should_rewatch) = (true, true);
        }
        self.answered.clear();
        self.answered.extend_from_slice(up);
    }

    /// When entities are to be looked for again.
    pub fn looks_again(&self, interval: Duration, is_missing_some: bool) -> Instant {
        if self.has_failed {
            return self.looked + LOOK_AGAIN_SOONEST;
        }
        let latest = if is_missing_some { LOOK_FOR_MISSING } else { LOOK_AGAIN_LATEST };
        self.looked + (interval * LOOK_AGAIN_COLLECTIONS).clamp(LOOK_AGAIN_SOONEST, latest)
    }

    /// Looks at the clock: the step since the last look, if it is one that the engine does not get over by itself.
    pub fn clock_step(&mut self) -> Option<Step> {
        let now = Instant::now();
        let step = self.clock.look(SystemTime::now(), now);
        if let Some(Step::Back(by)) = step {
            self.catches_up = Some((step?, now + by));
        }
        self.catches_up = self.catches_up.filter(|(_, until)| now < *until);
        step
    }
}
