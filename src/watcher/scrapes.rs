//! Who scrapes regularly, and when each of them comes next. No clock is read here.
//!
//! A scraper is known by its address and User-Agent. Two that share both, such as a pair for availability behind one
//! proxy, are told apart by their phase: four scrapes at the same distance make a scraper, also with others in between.
//! From then on each scrape goes to the scraper that it was expected of; the rest are strays, among which the next
//! scraper is looked for.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::publish::Client;

/// Scrapes after which a scraper is known, and those that its period is reckoned from.
const FIRST: usize = 4;
const REMEMBERED: usize = 12;
/// Collections are made for so many scrapers, the most regular ones, and so many are known.
const FOLLOWED: usize = 8;
const KNOWN: usize = 32;
/// Strays that are remembered, and those of one address: a flood from there costs only its own.
const STRAYS: usize = 256;
const STRAYS_OF_ADDRESS: usize = 32;
/// Scrapers that may share address and User-Agent.
const SHARED: usize = 4;
/// Periods in seconds.
const PERIODS: Range<f64> = 0.9..600.0;
/// How far apart the earliest and the latest of four scrapes may be from their grid, in seconds: half a second either way,
/// but no more than a tenth of the period. With strays in between that are on no grid, chance would find four too often.
const SPREAD: f64 = 1.2;
const SPREAD_AMONG: f64 = 0.15;
/// Strays among the four that no period explains, such as scrapes of somebody who comes four times as seldom.
const UNEXPLAINED: usize = 2;
/// The farthest from its grid that a scrape is taken for a scraper's own, in seconds.
const FARTHEST: f64 = 1.0;

/// A regular scraper: its last scrapes, numbered by periods, and the grid that they are on.
#[derive(Debug, Clone)]
pub struct Scraper {
    client: Client,
    scrapes: VecDeque<(u64, Instant)>,
    /// In seconds, as what follows.
    period: f64,
    /// The grid at the number of the oldest scrape, after that scrape.
    start: f64,
    /// Of the last scrapes, how far from the grid the earliest was (0 or less) and the latest.
    earliest: f64,
    latest: f64,
}

impl Scraper {
    fn new(client: Client, scrapes: impl IntoIterator<Item = (u64, Instant)>) -> Scraper {
        let scrapes = scrapes.into_iter().collect();
        let mut scraper = Scraper { client, scrapes, period: 0.0, start: 0.0, earliest: 0.0, latest: 0.0 };
        scraper.fit();
        scraper
    }

    /// Lays the grid by least squares.
    fn fit(&mut self) {
        let (first, origin) = self.scrapes[0];
        let points = self.scrapes.iter().map(|(number, at)| ((number - first) as f64, seconds(origin, *at)));
        let count = self.scrapes.len() as f64;
        let (x, y) = points.clone().fold((0.0, 0.0), |(x, y), point| (x + point.0 / count, y + point.1 / count));
        let (xy, xx) = points.clone().fold((0.0, 0.0), |(xy, xx), point| {
            (xy + (point.0 - x) * (point.1 - y), xx + (point.0 - x) * (point.0 - x))
        });
        let lay = |period: f64| {
            let start = y - period * x;
            let offs = points.clone().map(|(number, at)| at - start - period * number);
            let (earliest, latest) = offs.fold((0.0f64, 0.0f64), |(low, high), off| (low.min(off), high.max(off)));
            (period, start, earliest, latest)
        };
        let grid = lay(xy / xx);
        // Scrapers are configured in whole seconds: what differs from that by less than they jitter is jitter.
        let whole = lay(grid.0.round());
        let is_whole = (grid.0 - whole.0).abs() * (count - 1.0) <= grid.3 - grid.2;
        (self.period, self.start, self.earliest, self.latest) = if is_whole { whole } else { grid };
    }

    fn last(&self) -> (u64, Instant) {
        *self.scrapes.back().expect("a scraper has scrapes")
    }

    fn spread(&self) -> f64 {
        self.latest - self.earliest
    }

    /// Where a number is on the grid, in seconds after the oldest scrape.
    fn grid(&self, number: u64) -> f64 {
        self.start + self.period * (number - self.scrapes[0].0) as f64
    }

    /// How far a scrape at this time is from the grid, and its number there; `None` if it is none of this scraper.
    fn takes(&self, at: Instant) -> Option<(f64, u64)> {
        let (number, last) = self.last();
        let since = seconds(self.scrapes[0].1, at) - self.grid(number);
        let periods = (since / self.period).round();
        let off = (since - periods * self.period).abs();
        let tolerated = (0.25 + 2.0 * self.spread()).min(FARTHEST).min(self.period / 5.0);
        (periods >= 1.0 && at > last && off <= tolerated).then(|| (off, number + periods as u64))
    }

    fn push(&mut self, number: u64, at: Instant) {
        self.scrapes.push_back((number, at));
        if self.scrapes.len() > REMEMBERED {
            self.scrapes.pop_front();
        }
        self.fit();
    }

    /// Whether it has missed more scrapes than a restart takes, or, while there were few of them, the very next one.
    fn is_gone(&self, now: Instant) -> bool {
        let (number, _) = self.last();
        let periods = if self.scrapes.len() < 2 * FIRST { 1.5 } else { 2.5 };
        seconds(self.scrapes[0].1, now) > self.grid(number) + periods * self.period
    }

    /// When to collect for the first scrape that a collection at `soonest` or later can come before, unless the samples
    /// of `collected` are young enough for it. A collection begins `lead` before the earliest time of a scrape.
    pub fn collection(&self, collected: Instant, soonest: Instant, lead: Duration) -> Instant {
        let (number, _) = self.last();
        let origin = self.scrapes[0].1;
        let lead = lead.as_secs_f64().min(self.period / 2.0);
        // Of a few scrapes the earliest is not as early as the next one may be.
        let early = self.earliest - self.spread() / (self.scrapes.len() - 1) as f64;
        let next = self.grid(number + 1) + early;
        let young = 1f64.min(self.period / 4.0);
        // Half of the lead is enough for a collection that may not begin sooner.
        let from = (seconds(origin, soonest) + lead / 2.0).max(seconds(origin, collected) + young);
        let scrape = next + ((from - next) / self.period).ceil().max(0.0) * self.period;
        soonest.max(origin + Duration::from_secs_f64((scrape - lead).max(0.0)))
    }

    /// Two at twice the period, if each is far more punctual than both as one.
    fn halves(&self) -> Option<[Scraper; 2]> {
        let halves = [0, 1].map(|odd| {
            let scrapes = self.scrapes.iter().filter(|(number, _)| number % 2 == odd);
            Scraper { scrapes: scrapes.map(|(number, at)| (number / 2, *at)).collect(), ..self.clone() }
        });
        if self.spread() < SPREAD_AMONG || halves.iter().any(|half| half.scrapes.len() < FIRST) {
            return None;
        }
        let halves = halves.map(|half| Scraper::new(half.client, half.scrapes));
        halves.iter().all(|half| half.spread() < self.spread() / 2.0).then_some(halves)
    }
}

/// The regular scrapers, and scrapes that belong to none of them.
#[derive(Debug, Default)]
pub struct ScrapeSchedule {
    known: Vec<Scraper>,
    /// Oldest first.
    strays: VecDeque<(Client, Instant)>,
}

impl ScrapeSchedule {
    /// Takes in that a client has fetched the page.
    pub fn note(&mut self, client: Client, at: Instant) {
        let of_client = self.known.iter().enumerate().filter(|(_, scraper)| scraper.client == client);
        let takers =
            of_client.filter_map(|(index, scraper)| scraper.takes(at).map(|(off, number)| (off, number, index)));
        match takers.min_by(|a, b| a.0.total_cmp(&b.0)) {
            Some((_, number, index)) => {
                self.known[index].push(number, at);
                if let Some([half, other]) = self.known[index].halves() {
                    self.known[index] = half;
                    self.learn(other);
                }
            }
            None => self.note_stray(client, at),
        }
    }

    fn note_stray(&mut self, client: Client, at: Instant) {
        let is_of_address = |stray: &(Client, Instant)| stray.0.address == client.address;
        if self.strays.iter().filter(|stray| is_of_address(stray)).count() >= STRAYS_OF_ADDRESS {
            let oldest = self.strays.iter().position(is_of_address);
            oldest.map(|oldest| self.strays.remove(oldest));
        }
        if self.strays.len() >= STRAYS {
            self.strays.pop_front();
        }
        self.strays.push_back((client, at));
        let of_client = self.strays.iter().rev().filter(|stray| stray.0 == client).take((FIRST - 1) * SHARED + 1);
        let mut times: Vec<Instant> = of_client.map(|(_, at)| *at).collect();
        times.reverse();
        if let Some(scraper) = regular(client, &times) {
            self.strays.retain(|stray| stray.0 != client || scraper.scrapes.iter().all(|(_, at)| *at != stray.1));
            self.learn(scraper);
        }
    }

    fn learn(&mut self, scraper: Scraper) {
        self.known.push(scraper);
        self.known.sort_by_key(rank);
        self.known.truncate(KNOWN);
    }

    /// The most regular scrapers that still come, without those that come more often than `shortest`.
    pub fn followed(&mut self, now: Instant, shortest: Duration) -> impl Iterator<Item = &Scraper> + Clone {
        self.known.retain(|scraper| !scraper.is_gone(now));
        self.known.sort_by_key(rank);
        let shortest = shortest.as_secs_f64() * 0.9;
        self.known.iter().filter(move |scraper| scraper.period >= shortest).take(FOLLOWED)
    }
}

/// The most regular first: who has come for longest, then who is most punctual, to a twentieth of a second.
fn rank(scraper: &Scraper) -> (Reverse<usize>, u32) {
    (Reverse(scraper.scrapes.len()), (scraper.spread() * 20.0) as u32)
}

/// The scraper of which the last of these strays of a client is the fourth scrape.
fn regular(client: Client, times: &[Instant]) -> Option<Scraper> {
    (1..=SHARED).find_map(|together| repeated(client, times, together)).or_else(|| among(client, times))
}

/// One of so many scrapers, if all that the client did lately it did at the same distance four times.
fn repeated(client: Client, times: &[Instant], together: usize) -> Option<Scraper> {
    let times = &times[times.len().checked_sub((FIRST - 1) * together + 1)?..];
    let period = seconds(times[0], times[times.len() - 1]) / (FIRST - 1) as f64;
    let spread = |one: usize| {
        let offs = times.iter().skip(one).step_by(together).enumerate();
        let offs = offs.map(|(number, at)| seconds(times[0], *at) - number as f64 * period);
        let (low, high) = offs.fold((f64::INFINITY, -f64::INFINITY), |(low, high), off| (low.min(off), high.max(off)));
        high - low
    };
    let tolerated = SPREAD.min(period / 10.0 + 0.05);
    let is_regular = PERIODS.contains(&period) && (0..together).all(|one| spread(one) <= tolerated);
    is_regular.then(|| Scraper::new(client, (0..).zip(times.iter().step_by(together).copied())))
}

/// The most punctual of several with different periods.
fn among(client: Client, times: &[Instant]) -> Option<Scraper> {
    let others = &times[..times.len().checked_sub(1)?];
    let of_first = |first: usize| {
        let at = |index: usize| seconds(times[first], times[index]);
        let period = at(others.len()) / (FIRST - 1) as f64;
        let nearest = |time: f64| {
            let between = first + 1..others.len();
            between.min_by(|a, b| (at(*a) - time).abs().total_cmp(&(at(*b) - time).abs()))
        };
        let four = [first, nearest(period)?, nearest(2.0 * period)?, others.len()];
        // A period away from another scrape.
        let is_explained = |index: &usize| {
            let offs = (0..times.len()).map(|other| ((at(other) - at(*index)).abs() - period).abs());
            offs.fold(f64::INFINITY, f64::min) <= SPREAD_AMONG
        };
        let between = (first..others.len()).filter(|index| !four.contains(index));
        if !PERIODS.contains(&period) || between.filter(|index| !is_explained(index)).count() > UNEXPLAINED {
            return None;
        }
        Some(Scraper::new(client, (0..).zip(four.map(|index| times[index])))).filter(|it| it.spread() <= SPREAD_AMONG)
    };
    let found = (0..others.len()).filter_map(of_first);
    found.min_by(|a, b| a.spread().total_cmp(&b.spread()))
}

/// From one time to another, negative if that was sooner.
fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() - from.saturating_duration_since(to).as_secs_f64()
}
