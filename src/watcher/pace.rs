//! When to collect, and which interval the watches have: functions that read no clock.
//!
//! Samples are best taken just before somebody comes for them. So there is a collection just before the next scrape of
//! each regular scraper, unless one was made less than the shortest time before it, and between two of them as many, evenly
//! spaced, as the interval wants.
//!
//! DCGM takes a sample only when the last one is as old as the watch's interval, so watches have nine tenths of the
//! shortest time between two collections. That time is lowered before a collection that comes sooner, and raised when
//! [`GAPS`] in a row were longer by half: each change sets every watch anew. A profiling average covers the time since the
//! sample before, however long that was.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::scrapes::ScrapeSchedule;
use crate::publish::Client;

/// A collection begins this long before the scrape, and twice what it takes.
const LEAD: Duration = Duration::from_millis(100);
const LONGEST_LEAD: Duration = Duration::from_millis(800);
/// Two collections are at least this share of the shortest time apart.
const CLOSEST: f64 = 0.95;
/// What is longer than the interval by less than this share of it is as long.
const SAME: f64 = 0.05;
/// Times between collections that are remembered.
const GAPS: usize = 8;

/// The pace of collections.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    /// Between two collections, whoever scrapes.
    shortest: Duration,
    scrapes: ScrapeSchedule,
    /// Scrapers that are collected for.
    pub followed: usize,
    gaps: VecDeque<Duration>,
    period: Duration,
}

impl Pace {
    /// Without a regular scraper collections come every `interval`. A scraper that comes more often than both `interval`
    /// and `shortest` is not followed: what DCGM does is not decided by whoever asks most often.
    pub fn new(interval: Duration, shortest: Duration) -> Pace {
        let (scrapes, gaps) = (ScrapeSchedule::default(), VecDeque::with_capacity(GAPS + 1));
        Pace { interval, shortest: shortest.min(interval), scrapes, followed: 0, gaps, period: interval }
    }

    /// The same scrapers at another interval.
    pub fn set(&mut self, interval: Duration, shortest: Duration) {
        *self = Pace { scrapes: std::mem::take(&mut self.scrapes), ..Pace::new(interval, shortest) };
    }

    /// Time between two collections, for which the watches are set.
    pub fn period(&self) -> Duration {
        self.period
    }

    /// Takes in that a client has fetched the page.
    pub fn note(&mut self, client: Client, at: Instant) {
        self.scrapes.note(client, at);
    }

    /// When to collect next. `took` is what a collection takes.
    pub fn due(&mut self, now: Instant, collected: Instant, took: Duration) -> Instant {
        let closest = self.shortest.mul_f64(CLOSEST);
        let lead = (LEAD + took * 2).min(LONGEST_LEAD);
        let scrapers = self.scrapes.followed(now, self.shortest);
        self.followed = scrapers.clone().count();
        let next = scrapers.map(|scraper| scraper.collection(collected, collected + closest, lead)).min();
        let Some(next) = next else { return collected + self.interval };
        let gap = next.saturating_duration_since(collected);
        let collections = (gap.as_secs_f64() / self.interval.as_secs_f64() - SAME).ceil().max(1.0);
        let step = gap.div_f64(collections);
        // Where the interval leaves no room for that, collections move towards the scrape a little at a time.
        collected + if step >= closest { step } else { self.interval.mul_f64(1.0 + SAME) }
    }

    /// Takes in that the last collection was so long before the one that begins now. Returns whether [`Pace::period`] has
    /// changed.
    pub fn take_gap(&mut self, gap: Duration) -> bool {
        if self.followed == 0 {
            self.gaps.clear();
        }
        self.gaps.push_back(gap);
        if self.gaps.len() > GAPS {
            self.gaps.pop_front();
        }
        let shortest = self.gaps.iter().copied().min().unwrap_or(gap);
        let is_settled = self.followed == 0 || self.gaps.len() == GAPS;
        let is_longer = is_settled && shortest > self.period.mul_f64(1.5) && self.period < self.interval;
        let is_shorter = shortest < self.period.mul_f64(CLOSEST) && self.period > self.shortest;
        if is_longer || is_shorter {
            self.period = shortest.clamp(self.shortest, self.interval);
        }
        is_longer || is_shorter
    }
}

/// The next time after `now` that is a whole number of intervals after `due`: a late collection shifts none after it.
pub fn next_due(due: Instant, interval: Duration, now: Instant) -> Instant {
    let passed = now.saturating_duration_since(due).div_duration_f64(interval).floor();
    due + interval.mul_f64(passed + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// What a collection takes.
    const TOOK: Duration = ms(5);
    const HOUR: u64 = 3_600_000;

    #[derive(Clone, Copy)]
    struct Scrape {
        /// Who it is, which the client need not tell.
        scraper: usize,
        client: Client,
        at: u64,
    }

    #[derive(Default)]
    struct Played {
        /// Of the samples at each scrape: by whom, when, and how old.
        ages: Vec<(usize, Duration, Duration)>,
        gaps: Vec<Duration>,
        /// Changes of the watches' interval.
        changes: usize,
    }

    impl Played {
        /// Scrapes from each scraper's `from`th on, and those of them whose samples are older than this.
        fn older(&self, age: u64, from: usize) -> (usize, Vec<(usize, Duration, Duration)>) {
            let mut seen = std::collections::HashMap::new();
            let mut ages = self.ages.clone();
            ages.retain(|(scraper, ..)| {
                let count = seen.entry(*scraper).or_insert(0);
                *count += 1;
                *count >= from
            });
            let count = ages.len();
            ages.retain(|(.., old)| *old > ms(age));
            (count, ages)
        }
    }

    /// Plays scrapes and the collections between them on a clock of its own. DCGM samples when the last sample is as old as
    /// the watch's interval: no collection comes too early for it, none sooner than `shortest` or later than `interval`.
    fn play(interval: u64, shortest: u64, mut scrapes: Vec<Scrape>) -> Played {
        let start = Instant::now();
        let mut pace = Pace::new(ms(interval), ms(shortest));
        let (mut collected, mut now, mut played) = (start, start, Played::default());
        scrapes.sort_by_key(|scrape| scrape.at);
        for Scrape { scraper, client, at } in scrapes {
            let at = start + ms(at);
            loop {
                let due = pace.due(now, collected, TOOK).max(now);
                if due > at {
                    break;
                }
                let gap = due - collected;
                played.changes += usize::from(pace.take_gap(gap));
                assert!(gap >= pace.period().mul_f64(0.94), "no samples after {gap:?}: {:?}", pace.period());
                assert!(
                    gap >= ms(shortest.min(interval)).mul_f64(0.94) && gap <= ms(interval).mul_f64(1.06),
                    "{gap:?}"
                );
                played.gaps.push(gap);
                (collected, now) = (due, due);
            }
            let is_late = at < collected + TOOK;
            let of_page = if is_late { collected - played.gaps.last().copied().unwrap_or_default() } else { collected };
            played.ages.push((scraper, at - start, at - of_page));
            pace.note(client, at);
            now = at;
        }
        played
    }

    /// Scrapes at a period for a time, from `phase` on, each up to `jitter` early or late.
    fn regular(scraper: usize, client: Client, (period, phase): (u64, u64), jitter: u64, time: u64) -> Vec<Scrape> {
        let off = |number: u64| (number * number * 7919 + (number + phase) * 104_729) % (2 * jitter + 1);
        let at = |number: u64| 1000 + phase + number * period + off(number);
        (0..time / period).map(|number| Scrape { scraper, client, at: at(number) }).collect()
    }

    const fn client(address: u64, agent: u64) -> Client {
        Client { address, agent }
    }

    /// Scrapers with these periods and phases, each with an address of its own, or behind one with one User-Agent.
    fn together(scrapers: &[(u64, u64)], is_one_client: bool, jitter: u64, time: u64) -> Vec<Scrape> {
        let all = scrapers.iter().enumerate().flat_map(|(index, when)| {
            let address = if is_one_client { 0 } else { index as u64 };
            regular(index, client(address, 1), *when, jitter, time)
        });
        all.collect()
    }

    /// Periods and phases in milliseconds.
    const TOGETHER: [&[(u64, u64)]; 22] = [
        &[(5000, 0)],
        &[(7000, 0)],
        &[(10_000, 0)],
        &[(15_000, 0)],
        &[(29_500, 0)],
        &[(30_000, 0)],
        &[(30_500, 0)],
        &[(60_000, 0)],
        &[(61_000, 0)],
        &[(10_000, 0), (10_000, 5000)],
        &[(15_000, 0), (15_000, 6000)],
        &[(15_000, 0), (15_000, 7000)],
        &[(15_000, 0), (15_000, 300)],
        &[(30_000, 0), (30_000, 14_000)],
        &[(60_000, 0), (60_000, 6000)],
        &[(15_000, 0), (60_000, 6500)],
        &[(15_000, 0), (30_000, 6500)],
        &[(15_000, 0), (60_000, 0)],
        &[(15_000, 0), (15_000, 5000), (15_000, 10_000)],
        &[(30_000, 0), (30_000, 7000), (30_000, 19_000)],
        &[(60_000, 0), (60_000, 7000), (60_000, 19_000)],
        &[(15_000, 0), (30_000, 6000), (60_000, 24_000)],
    ];

    #[test]
    fn each_regular_scraper_finds_young_samples_after_its_fourth_scrape() {
        for interval in [1000, 5000, 10_000, 15_000, 30_000, 60_000] {
            for scrapers in TOGETHER {
                for (jitter, is_one_client) in [(0, false), (0, true), (20, false), (20, true)] {
                    let played = play(interval, 5000, together(scrapers, is_one_client, jitter, HOUR / 2));
                    let what =
                        format!("interval {interval}, {scrapers:?}, jitter {jitter}, one client: {is_one_client}");
                    // What else comes at one address with one User-Agent can hide the first four of the rarest.
                    let from = if is_one_client && scrapers.len() > 2 { 7 } else { 5 };
                    // Between one interval and the next there is no room for another collection.
                    let age = if interval < 10_000 { (interval * 53 / 50).max(1000) } else { 1000 };
                    assert_eq!(played.older(age, from).1, [], "{what}");
                    assert!(played.changes <= 8, "{what}: {} changes", played.changes);
                }
            }
        }
    }

    #[test]
    fn scrapers_that_come_half_a_second_early_or_late() {
        for interval in [10_000, 30_000] {
            for scrapers in TOGETHER {
                // Three periods at one address with one User-Agent are told apart only where each is punctual.
                let is_too_much = scrapers.len() > 2 && scrapers[0].0 != scrapers[2].0;
                for is_one_client in [false, true].into_iter().take(if is_too_much { 1 } else { 2 }) {
                    let played = play(interval, 5000, together(scrapers, is_one_client, 500, HOUR));
                    let (count, old) = played.older(1500, 9);
                    assert!(
                        old.len() * 10 <= count,
                        "{interval} {scrapers:?} {is_one_client}: {} of {count}",
                        old.len()
                    );
                }
            }
        }
    }

    #[test]
    fn two_within_a_second_share_a_collection_and_none_is_sooner_than_the_shortest_time() {
        for shortest in [1000, 5000] {
            let played = play(30_000, shortest, together(&[(15_000, 0), (15_000, 800)], false, 0, HOUR));
            assert_eq!(played.older(1000, 5).1, []);
            assert!(played.gaps[8..].iter().all(|gap| *gap >= ms(14_900)), "{:?}", &played.gaps[8..]);
            let played = play(30_000, shortest, together(&[(15_000, 0), (15_000, 3000)], false, 0, HOUR));
            assert_eq!(played.older(if shortest < 3000 { 1000 } else { 3200 }, 5).1, []);
        }
        let often = play(30_000, 5000, together(&[(1000, 0)], false, 3, HOUR / 6));
        assert!(often.changes == 0 && often.gaps.iter().all(|gap| *gap == ms(30_000)), "{:?}", often.gaps);
        // Who wants samples every second says so with the interval.
        for (interval, shortest) in [(1000, 5000), (30_000, 1000)] {
            let wanted = play(interval, shortest, together(&[(1000, 0)], false, 3, HOUR / 6));
            assert_eq!(wanted.older(400, 25).1, [], "{interval}");
        }
    }

    #[test]
    fn an_odd_scrape_changes_nothing() {
        let regular = together(&[(15_000, 0), (15_000, 6000)], true, 5, HOUR);
        let alone = play(30_000, 5000, regular.clone());
        // From the same address and with the same User-Agent, before and after the scrapers are known.
        for odd in [3500, 22_100, 41_000, 200_000, 1_000_777] {
            let odd_one = Scrape { scraper: 9, client: client(0, 1), at: odd };
            let played = play(30_000, 5000, regular.iter().copied().chain([odd_one]).collect());
            let from = if odd < 60_000 { 6 } else { 5 };
            let (_, old) = played.older(1000, from);
            assert_eq!(old, [], "{odd}");
            assert!(played.gaps.len() <= alone.gaps.len() + 2, "{odd}: {} {}", played.gaps.len(), alone.gaps.len());
        }
    }

    #[test]
    fn restarts_and_drift_are_followed() {
        // Back after two minutes at another phase, or after one missed scrape at the same.
        for (pause, is_same_phase) in [(15_000, true), (120_000, true), (123_100, false), (124_300, false)] {
            let mut scrapes = together(&[(15_000, 0), (15_000, 6000)], true, 5, HOUR);
            scrapes.iter_mut().filter(|it| it.scraper == 1 && it.at > HOUR / 2).for_each(|it| it.at += pause);
            let back = ms(HOUR / 2 + pause);
            let (_, old) = play(30_000, 5000, scrapes).older(1000, 5);
            let of_back = old.iter().filter(|(scraper, at, _)| *scraper == 1 && *at > back).count();
            assert!(of_back <= 4 && old.len() <= of_back + 4, "{pause} {is_same_phase}: {old:?}");
        }
        // Two clocks that differ by a thousandth: their phases pass through each other.
        for is_one_client in [false, true] {
            let played = play(30_000, 5000, together(&[(15_000, 0), (15_015, 3000)], is_one_client, 5, 4 * HOUR));
            let (count, old) = played.older(5200, 5);
            assert!(old.len() * 100 <= count, "{is_one_client}: {old:?}");
            let apart = |at: &Duration| {
                let apart = (at.as_millis() as u64 / 15_000 * 15 + 3000) % 15_000;
                (5300..9700).contains(&apart)
            };
            let old = played.older(1000, 5).1;
            assert!(old.iter().filter(|(_, at, _)| apart(at)).count() * 100 <= count, "{is_one_client}: {old:?}");
        }
    }

    #[test]
    fn strangers_neither_hide_a_scraper_nor_stretch_the_interval() {
        let mut random = 1u64;
        let mut below = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let regular = together(&[(15_000, 0)], false, 5, HOUR);
        // Ten a second from one address, with another User-Agent each; one in four seconds from one client; from everywhere.
        for (every, addresses, agents) in [(100, 1, 1_000_000), (4000, 1, 1), (500, 1_000_000, 1), (2000, 40, 1)] {
            let stray = |at: u64, below: &mut dyn FnMut(u64) -> u64| {
                let client = client(100 + below(addresses), 100 + below(agents));
                Scrape { scraper: 9, client, at: at + below(2 * every) }
            };
            let strays: Vec<Scrape> = (0..HOUR / every).map(|number| stray(number * every, &mut below)).collect();
            let played = play(30_000, 5000, regular.iter().copied().chain(strays).collect());
            let (count, old) = played.older(1000, 5);
            let of_scraper = |it: &&(usize, Duration, Duration)| it.0 == 0;
            let (old, all) = (old.iter().filter(of_scraper).count(), played.ages.iter().filter(of_scraper).count());
            assert!(old * 20 <= all, "{every}: {old} of {all}, {count}");
        }
        // Nobody regular but one who comes at almost twice the interval.
        let irregular =
            (0..200).map(|number| Scrape { scraper: 1, client: client(1, 1), at: number * 15_000 + below(9000) });
        play(30_000, 5000, together(&[(57_000, 0)], false, 0, HOUR).into_iter().chain(irregular).collect());
    }

    #[test]
    fn of_many_the_most_regular_are_collected_for() {
        let clean: Vec<(u64, u64)> = (0..8).map(|index| (60_000, index * 7000)).collect();
        let mut scrapes = together(&clean, false, 5, HOUR);
        for late in 8..20 {
            scrapes.extend(regular(late, client(50 + late as u64, 1), (60_000, late as u64 * 5000), 400, HOUR));
        }
        let played = play(30_000, 1000, scrapes);
        let old = played.older(1000, 14).1;
        assert_eq!(old.iter().filter(|(scraper, ..)| *scraper < 8).count(), 0, "{old:?}");
    }

    #[test]
    fn a_late_collection_does_not_shift_those_after_it() {
        let due = Instant::now();
        for (now, next) in [(0, 10_000), (300, 10_000), (9999, 10_000), (10_000, 20_000), (27_000, 30_000)] {
            assert_eq!(next_due(due, ms(10_000), due + ms(now)), due + ms(next), "{now}");
        }
    }
}
