//! The rhythm of the scrapes, and when to collect for them.
//!
//! Samples are best taken just before somebody comes for them: then they are young, and profiling averages cover just
//! the time from scrape to scrape. So the watcher learns when the most regular scraper comes, and beats a little ahead
//! of it. Without a regular scraper it keeps the plain interval, which is the longest time between two collections in
//! any case. No clock is read here.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Scrapes remembered of each client, and clients remembered.
const SCRAPES: usize = 8;
const CLIENTS: usize = 16;
/// Gaps that must agree before a rhythm is believed.
const GAPS: usize = 3;
const SHORTEST: Duration = Duration::from_millis(900);
const LONGEST: Duration = Duration::from_secs(600);
/// How far gaps may differ from their median.
const TOLERANCE: f64 = 0.05;
const SLACK: Duration = Duration::from_millis(50);
/// A collection is done this long before the scrape, besides what it takes itself.
const LEAD: Duration = Duration::from_millis(100);
const LONGEST_LEAD: Duration = Duration::from_millis(800);

/// When a regular client last came, and how far apart its visits are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    pub last: Instant,
    pub period: Duration,
}

#[derive(Default)]
pub struct Rhythm {
    clients: Vec<(u64, VecDeque<Instant>)>,
}

impl Rhythm {
    /// Notes that a client (by some number of its own) has fetched the page.
    pub fn note(&mut self, client: u64, at: Instant) {
        let known = self.clients.iter().position(|(id, _)| *id == client);
        let index = known.unwrap_or_else(|| {
            if self.clients.len() == CLIENTS {
                let longest_away = self.clients.iter().enumerate().min_by_key(|(_, (_, times))| times.back().copied());
                if let Some(index) = longest_away.map(|(index, _)| index) {
                    self.clients.swap_remove(index);
                }
            }
            self.clients.push((client, VecDeque::with_capacity(SCRAPES + 1)));
            self.clients.len() - 1
        });
        let times = &mut self.clients[index].1;
        times.push_back(at);
        if times.len() > SCRAPES {
            times.pop_front();
        }
    }

    /// The rhythm of the most regular client that still comes.
    pub fn beat(&self, now: Instant) -> Option<Beat> {
        let regular = self.clients.iter().filter_map(|(_, times)| regularity(times, now));
        regular.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, beat)| beat)
    }
}

/// How much a client's gaps differ, relative to their median, and its beat; `None` if it has no rhythm.
fn regularity(times: &VecDeque<Instant>, now: Instant) -> Option<(f64, Beat)> {
    let mut gaps: Vec<Duration> = times.iter().zip(times.iter().skip(1)).map(|(a, b)| b.duration_since(*a)).collect();
    if gaps.len() < GAPS {
        return None;
    }
    gaps.sort_unstable();
    let period = gaps[gaps.len() / 2];
    let last = *times.back()?;
    let is_gone = now.saturating_duration_since(last) > period.mul_f64(2.5);
    if is_gone || !(SHORTEST..=LONGEST).contains(&period) {
        return None;
    }
    let tolerated = period.mul_f64(TOLERANCE) + SLACK;
    let agreeing = gaps.iter().filter(|gap| gap.abs_diff(period) <= tolerated);
    // One gap may be off: a scrape that was missed, or a reload of the scraper.
    if agreeing.clone().count() + 1 < gaps.len() || agreeing.clone().count() < GAPS {
        return None;
    }
    let spread: f64 = agreeing.map(|gap| gap.abs_diff(period).as_secs_f64()).sum();
    Some((spread / period.as_secs_f64(), Beat { last, period }))
}

/// When to collect next: `interval` after the last collection, or earlier, just before the next scrape; or a twentieth
/// later, where a scraper comes at nearly the same interval and would otherwise drift away.
///
/// `took` is what a collection takes.
pub fn next_collection(
    now: Instant,
    collected: Instant,
    interval: Duration,
    beat: Option<Beat>,
    took: Duration,
) -> Instant {
    let latest = (collected + interval).max(now);
    let Some(Beat { last, period }) = beat else { return latest };
    let latest = latest.max(collected + interval + interval / 20);
    let lead = (LEAD + took * 2 + period / 100).min(LONGEST_LEAD).min(period / 2);
    // The first scrape to come for which nothing has been collected yet.
    let mut scrape = last + period;
    while scrape < now || collected + lead + SLACK >= scrape {
        scrape += period;
    }
    latest.min(scrape.checked_sub(lead).unwrap_or(scrape).max(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// Plays scrapes and collections on a clock of its own; returns the age of the samples at each scrape.
    fn play(interval: Duration, scrapes: &[(u64, Duration)]) -> Vec<Duration> {
        let start = Instant::now();
        let (mut rhythm, mut collected, mut ages) = (Rhythm::default(), start, Vec::new());
        let mut collections = 0;
        for (client, at) in scrapes {
            let at = start + *at;
            loop {
                // Before each scrape everything is known that came before it.
                let due = next_collection(collected + ms(1), collected, interval, rhythm.beat(at), ms(5));
                if due >= at {
                    break;
                }
                assert!(due > collected && due.duration_since(collected) <= interval + interval / 20 + ms(1));
                collected = due;
                collections += 1;
                assert!(collections < 10 * scrapes.len() + 1000);
            }
            ages.push(at.duration_since(collected));
            rhythm.note(*client, at);
        }
        ages
    }

    #[test]
    fn a_regular_scraper_finds_young_samples() {
        for period in [1000, 5000, 15_000, 30_000, 30_500, 60_000] {
            for jitter in [0, 3, 20] {
                let at = |number: u64| ms(700 + number * period + (number * 7919) % (jitter + 1));
                let scrapes: Vec<_> = (0..40).map(|number| (1, at(number))).collect();
                let ages = play(ms(30_000), &scrapes);
                assert!(ages[8..].iter().all(|age| *age <= ms(1000)), "{period} ms, jitter {jitter}: {ages:?}");
            }
        }
    }

    #[test]
    fn of_two_scrapers_the_more_regular_is_followed() {
        let mut scrapes: Vec<(u64, Duration)> = (0..60).map(|number| (1, ms(number * 15_000))).collect();
        scrapes.extend((0..200).map(|number| (2, ms(number * 4000 + (number * number * 977) % 3500))));
        scrapes.sort_by_key(|(_, at)| *at);
        let ages = play(ms(30_000), &scrapes);
        let followed = scrapes.iter().zip(&ages).filter(|((client, at), _)| *client == 1 && *at > ms(100_000));
        assert!(followed.clone().count() > 40 && followed.clone().all(|(_, age)| *age <= ms(1000)));
    }

    #[test]
    fn without_a_rhythm_the_interval_holds() {
        let now = Instant::now();
        assert_eq!(next_collection(now, now, ms(30_000), None, ms(5)), now + ms(30_000));
        let mut rhythm = Rhythm::default();
        for (number, at) in [0u64, 3000, 4000, 11_000, 12_500, 30_000].into_iter().enumerate() {
            rhythm.note(number as u64 % 2, now + ms(at));
            assert_eq!(rhythm.beat(now + ms(at)), None);
        }
        // A scraper that is gone is forgotten.
        let mut rhythm = Rhythm::default();
        (0..8).for_each(|number| rhythm.note(1, now + ms(number * 5000)));
        assert!(rhythm.beat(now + ms(36_000)).is_some());
        assert_eq!(rhythm.beat(now + ms(60_000)), None);
    }

    #[test]
    fn many_clients_are_not_remembered_for_ever() {
        let now = Instant::now();
        let mut rhythm = Rhythm::default();
        (0..10_000).for_each(|client| rhythm.note(client, now + ms(client)));
        assert_eq!(rhythm.clients.len(), CLIENTS);
    }
}
