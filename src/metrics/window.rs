//! Events of the last minutes by GPU or instance, and how many there are of each value.
//!
//! Counts are kept while events come and go, so that asking for them does not walk over the events.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use super::identity::Key;

/// Events remembered in all, 16 bytes each; beyond this the oldest of the entity that has most go first.
const MOST_EVENTS: usize = 500_000;

#[derive(Debug, Default)]
struct Recent {
    /// Time and value, by time.
    events: VecDeque<(i64, i64)>,
    /// Events by value.
    counts: BTreeMap<i64, i64>,
}

impl Recent {
    fn drop_oldest(&mut self) {
        if let Some((_, value)) = self.events.pop_front()
            && let Some(count) = self.counts.get_mut(&value)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&value);
            }
        }
    }

    fn prune(&mut self, oldest: i64) -> usize {
        let before = self.events.len();
        while self.events.front().is_some_and(|(time, _)| *time < oldest) {
            self.drop_oldest();
        }
        before - self.events.len()
    }
}

#[derive(Debug)]
pub struct Window {
    width: Duration,
    recent: HashMap<Key, Recent>,
    events: usize,
}

impl Window {
    pub fn new(width: Duration) -> Window {
        Window { width, recent: HashMap::new(), events: 0 }
    }

    pub fn width(&self) -> Duration {
        self.width
    }

    fn oldest(&self, now: i64) -> i64 {
        now - self.width.as_micros() as i64
    }

    /// Takes in an event and drops those that have left the window. Times are in microseconds since 1970.
    pub fn put(&mut self, now: i64, key: Key, time: i64, value: i64) {
        let oldest = self.oldest(now);
        let recent = self.recent.entry(key).or_default();
        self.events -= recent.prune(oldest);
        if time < oldest {
            return;
        }
        // Events come almost in order: those from the kernel's log are up to a second late.
        let mut at = recent.events.len();
        while at > 0 && recent.events[at - 1].0 > time {
            at -= 1;
        }
        recent.events.insert(at, (time, value));
        *recent.counts.entry(value).or_default() += 1;
        self.events += 1;
        if self.events > MOST_EVENTS
            && let Some(most) = self.recent.values_mut().max_by_key(|recent| recent.events.len())
        {
            most.drop_oldest();
            self.events -= 1;
        }
    }

    /// How many events of each value are in the window.
    pub fn counts(&mut self, now: i64, key: Key) -> impl Iterator<Item = (i64, i64)> {
        let oldest = self.oldest(now);
        let recent = self.recent.get_mut(&key);
        let counts = recent.map(|recent| {
            self.events -= recent.prune(oldest);
            recent.counts.iter().map(|(value, count)| (*value, *count))
        });
        counts.into_iter().flatten()
    }

    /// The clock was set back: what came later than this by the clock of before was then.
    pub fn set_back(&mut self, to: i64) {
        self.recent.values_mut().flat_map(|recent| &mut recent.events).for_each(|(time, _)| *time = to.min(*time));
    }

    pub fn forget(&mut self, key: Key) {
        if let Some(recent) = self.recent.remove(&key) {
            self.events -= recent.events.len();
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        assert_eq!(self.events, self.recent.values().map(|recent| recent.events.len()).sum::<usize>());
        self.events
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::tests::key;
    use super::*;

    const SECOND: i64 = 1_000_000;

    #[test]
    fn what_is_put_prunes_also_when_nobody_counts() {
        let mut window = Window::new(Duration::from_secs(10));
        for time in 0..10_000 {
            window.put(time * SECOND, key(1), time * SECOND, 4);
            window.put(time * SECOND, key(2), time * SECOND - SECOND / 2, 4);
        }
        assert!(window.len() <= 22, "{}", window.len());
        assert_eq!(window.counts(10_000 * SECOND, key(1)).collect::<Vec<_>>(), [(4, 10)]);
        window.forget(key(1));
        assert!((10..=11).contains(&window.len()), "{}", window.len());
    }

    #[test]
    fn late_events_are_counted_and_leave_in_their_order() {
        let mut window = Window::new(Duration::from_secs(10));
        for (time, value) in [(5, 79), (8, 79), (6, 31), (7, 31)] {
            window.put(8 * SECOND, key(1), time * SECOND, value);
        }
        assert_eq!(window.counts(8 * SECOND, key(1)).collect::<Vec<_>>(), [(31, 2), (79, 2)]);
        assert_eq!(window.counts(16 * SECOND + 1, key(1)).collect::<Vec<_>>(), [(31, 1), (79, 1)]);
        window.put(16 * SECOND, key(1), SECOND, 48);
        assert_eq!(window.counts(40 * SECOND, key(1)).count() + window.len(), 0);
    }

    #[test]
    fn there_is_an_end_to_what_is_remembered() {
        let mut window = Window::new(Duration::from_secs(1_000_000));
        for time in 0..MOST_EVENTS as i64 + 10 {
            window.put(time, key(1), time, 1);
        }
        window.put(0, key(2), 0, 1);
        assert_eq!(window.len(), MOST_EVENTS);
        assert_eq!(window.counts(0, key(2)).collect::<Vec<_>>(), [(1, 1)]);
    }
}
