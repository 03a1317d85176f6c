//! When to collect, and which interval the watches have: decided together, by functions that read no clock.
//!
//! Samples are best taken just before somebody comes for them: then they are young, and a profiling average covers just
//! the time from scrape to scrape. So collections follow the most regular scraper: once per scrape, or several times
//! where it comes less often than the interval, and always once just before it. DCGM takes a sample only when the last
//! one is older than the watch's interval, so a collection that comes early brings nothing; both therefore change
//! together, and rarely.

use std::time::{Duration, Instant};

use super::scrapes::{ScrapePeriod, ScrapeTimes};

/// A collection begins this long before the scrape, besides what it takes itself.
const LEAD: Duration = Duration::from_millis(100);
const LONGEST_LEAD: Duration = Duration::from_millis(800);
/// Two collections are at least this share of the period apart; watches have nine tenths of it as their interval.
const CLOSEST: f64 = 0.95;
/// A period that differs from the present one by less than this share is the same.
const SAME: f64 = 0.05;

/// The pace of collections.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    /// The shortest period of a scraper that is followed.
    shortest: Duration,
    followed: Option<Followed>,
    /// Between two collections.
    period: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Followed {
    client: u64,
    period: Duration,
}

impl Pace {
    /// Without a regular scraper collections come every `interval`. A scraper that comes oftener than both `interval` and
    /// `shortest` is not followed: what DCGM does is not decided by whoever asks most often.
    pub fn new(interval: Duration, shortest: Duration) -> Pace {
        Pace { interval, shortest: shortest.min(interval), followed: None, period: interval }
    }

    /// Time between two collections, for which the watches are set.
    pub fn period(&self) -> Duration {
        self.period
    }

    /// Whether collections follow a scraper at another pace than the interval.
    pub fn follows(&self) -> bool {
        self.period != self.interval
    }

    /// Takes up the period of the most regular scraper, or leaves one that is gone. Returns the scraper to collect for,
    /// and whether [`Pace::period`] has changed.
    pub fn adopt(&mut self, scrapes: &ScrapeTimes, now: Instant) -> (Option<ScrapePeriod>, bool) {
        let client = self.followed.map(|followed| followed.client);
        let regular = scrapes.most_regular(now, self.shortest, client);
        match (regular, self.followed) {
            (Some(ScrapePeriod { client, period, .. }), _) => self.followed = Some(Followed { client, period }),
            // A few late scrapes are no reason to change anything.
            (None, Some(Followed { client, period })) if scrapes.still_comes(now, client, period) => {}
            (None, _) => self.followed = None,
        }
        let wanted = self.followed.map_or(self.interval, |followed| self.share(followed.period));
        let is_same = wanted.abs_diff(self.period) <= self.period.max(wanted).mul_f64(SAME);
        if is_same {
            return (regular, false);
        }
        self.period = wanted;
        (regular, true)
    }

    /// The time between two collections for scrapes of this period: as many for each scrape as come nearest to the
    /// interval without being more frequent.
    fn share(&self, scrape_period: Duration) -> Duration {
        let collections = (scrape_period.as_secs_f64() / self.interval.as_secs_f64() + SAME).floor().max(1.0);
        let share = scrape_period.div_f64(collections);
        // A scraper with the interval's own period changes nothing.
        if share.abs_diff(self.interval) <= self.interval.mul_f64(SAME) { self.interval } else { share }
    }

    /// When to collect next: just before a scrape or at an even part of the time between two, else a period after the
    /// last collection. `took` is what a collection takes.
    pub fn due(&self, collected: Instant, scrapes: Option<ScrapePeriod>, took: Duration) -> Instant {
        let Some(ScrapePeriod { last, period, .. }) = scrapes else { return collected + self.period };
        let collections = (period.as_secs_f64() / self.period.as_secs_f64()).round().max(1.0);
        let step = period.div_f64(collections);
        let lead = (LEAD + took * 2 + period / 100).min(LONGEST_LEAD).min(period / 2);
        let earliest = collected + self.period.mul_f64(CLOSEST);
        // The first time that is a whole number of steps after a scrape's, less the lead.
        let since = (earliest + lead).saturating_duration_since(last);
        let steps = (since.as_secs_f64() / step.as_secs_f64()).ceil();
        let due = last + step.mul_f64(steps);
        due.checked_sub(lead).unwrap_or(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    struct Played {
        /// Of the newest sample, at each scrape.
        ages: Vec<Duration>,
        changes: usize,
        collections: usize,
        /// Collections that came too early to bring a sample.
        wasted: usize,
    }

    /// Plays scrapes by one client each, and the collections between them, on a clock of its own; DCGM samples when the
    /// last sample is as old as the watch's interval.
    fn play(interval: Duration, shortest: Duration, scrapes: &[(u64, Duration)]) -> Played {
        let start = Instant::now();
        let (mut pace, mut times) = (Pace::new(interval, shortest), ScrapeTimes::default());
        let (mut collected, mut sampled, mut now, mut longest) = (start, start, start, interval * 2);
        let mut played = Played { ages: Vec::new(), changes: 0, collections: 0, wasted: 0 };
        for (client, at) in scrapes {
            let at = start + *at;
            loop {
                let (scraper, changed) = pace.adopt(&times, now);
                played.changes += usize::from(changed);
                let due = pace.due(collected, scraper, ms(5)).max(now);
                if due >= at {
                    break;
                }
                let gap = due.duration_since(collected);
                assert!(
                    gap >= pace.period().mul_f64(0.94) && gap <= longest.max(pace.period() * 2),
                    "{gap:?} {:?}",
                    pace.period()
                );
                (collected, now, longest) = (due, due, pace.period() * 2);
                played.collections += 1;
                match collected.duration_since(sampled) >= pace.period().mul_f64(0.9) {
                    true => sampled = collected,
                    false => played.wasted += 1,
                }
            }
            played.ages.push(at.duration_since(sampled));
            times.note(*client, at);
            now = at;
        }
        played
    }

    /// Scrapes at a period, each up to `jitter` ms late.
    fn regular(period: u64, jitter: u64, count: u64) -> Vec<(u64, Duration)> {
        (0..count).map(|number| (1, ms(700 + number * period + (number * 7919) % (jitter + 1)))).collect()
    }

    #[test]
    fn a_regular_scraper_finds_young_samples_at_any_interval() {
        for interval in [1000, 5000, 10_000, 30_000, 60_000] {
            for period in [5000, 7000, 10_000, 15_000, 29_500, 30_000, 30_500, 60_000, 61_000] {
                for jitter in [0, 3, 20] {
                    let played = play(ms(interval), ms(5000), &regular(period, jitter, 60));
                    let what = format!("interval {interval}, scrapes every {period} ms, jitter {jitter}");
                    assert!(played.ages[8..].iter().all(|age| *age <= ms(1000)), "{what}: {:?}", played.ages);
                    assert!(played.changes <= 1, "{what}: {} changes", played.changes);
                    assert!(played.wasted <= 1, "{what}: {} of {} wasted", played.wasted, played.collections);
                    let longest = (60 * period).div_ceil(interval.min(period)) as usize + 12;
                    assert!(played.collections <= longest, "{what}: {} collections", played.collections);
                }
            }
        }
    }

    #[test]
    fn an_hour_at_exactly_the_interval_changes_nothing() {
        for interval in [1000, 15_000, 30_000] {
            let played = play(ms(interval), ms(5000), &regular(interval, 40, 3_600_000 / interval));
            assert!(played.changes <= 1, "{interval}: {} changes", played.changes);
            let fresh = played.ages[8..].iter().filter(|age| **age <= ms(1000)).count();
            assert!(fresh + 1 >= played.ages.len() - 8, "{interval}: {fresh} of {}", played.ages.len());
        }
    }

    #[test]
    fn probes_and_crowds_are_not_followed() {
        let often = play(ms(30_000), ms(5000), &regular(1000, 3, 600));
        assert_eq!((often.changes, often.collections), (0, 19));
        let crowd: Vec<_> = (0..600).map(|number| (number % 40, ms(number * 977 + (number * number) % 700))).collect();
        assert_eq!(play(ms(30_000), ms(5000), &crowd).changes, 0);
        // Who wants samples every second says so with the interval.
        let wanted = play(ms(1000), ms(5000), &regular(1000, 3, 600));
        assert!(wanted.changes == 0 && wanted.ages[8..].iter().all(|age| *age <= ms(300)), "{:?}", wanted.ages);
        let allowed = play(ms(30_000), ms(1000), &regular(1000, 3, 600));
        assert!(allowed.changes == 1 && allowed.collections > 500);
    }

    #[test]
    fn a_scraper_that_is_gone_is_left() {
        let start = Instant::now();
        let (mut pace, mut times) = (Pace::new(ms(30_000), ms(5000)), ScrapeTimes::default());
        (0..8).for_each(|number| times.note(1, start + ms(number * 5000)));
        assert!(pace.adopt(&times, start + ms(35_100)).1 && pace.follows());
        assert_eq!(pace.period(), ms(5000));
        assert!(!pace.adopt(&times, start + ms(47_000)).1);
        assert!(pace.adopt(&times, start + ms(48_000)).1 && !pace.follows());
        assert_eq!(pace.due(start, None, ms(5)), start + ms(30_000));
    }

    #[test]
    fn of_two_scrapers_the_more_regular_is_followed() {
        let mut scrapes = regular(15_000, 0, 60);
        scrapes.extend((0..200).map(|number| (2, ms(number * 4000 + (number * number * 977) % 3500))));
        scrapes.sort_by_key(|(_, at)| *at);
        let played = play(ms(30_000), ms(5000), &scrapes);
        let followed = scrapes.iter().zip(&played.ages).filter(|((client, at), _)| *client == 1 && *at > ms(120_000));
        assert!(followed.clone().count() > 40 && followed.clone().all(|(_, age)| *age <= ms(1000)));
    }
}
