//! When scrapes come: the period of the most regular client. No clock is read here.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Scrapes remembered of each client, and clients remembered.
const SCRAPES: usize = 8;
const CLIENTS: usize = 16;
/// Gaps that must agree before a client counts as regular.
const GAPS: usize = 3;
const SHORTEST: Duration = Duration::from_millis(900);
const LONGEST: Duration = Duration::from_secs(600);
/// How far gaps may differ from their median: a share of it, and this much besides.
const TOLERANCE: f64 = 0.05;
const SLACK: Duration = Duration::from_millis(50);
/// A client that has not come for so many periods is gone.
const GONE_AFTER: f64 = 2.5;

/// When a regular client last came, and how far apart its scrapes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrapePeriod {
    pub client: u64,
    pub last: Instant,
    pub period: Duration,
}

/// The last scrapes of each client.
#[derive(Default)]
pub struct ScrapeTimes {
    clients: Vec<(u64, VecDeque<Instant>)>,
}

impl ScrapeTimes {
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

    /// The period of the most regular client that still comes, among those that come no oftener than `shortest`.
    /// `followed` is preferred while it is regular, so that two equal scrapers do not take turns.
    pub fn most_regular(&self, now: Instant, shortest: Duration, followed: Option<u64>) -> Option<ScrapePeriod> {
        let regular = self.clients.iter().filter_map(|(client, times)| regularity(*client, times, now));
        let mut regular: Vec<_> = regular.filter(|(_, scrapes)| scrapes.period >= shortest.mul_f64(0.9)).collect();
        regular.sort_by(|a, b| a.0.total_cmp(&b.0));
        let preferred = regular.iter().find(|(_, scrapes)| Some(scrapes.client) == followed);
        preferred.or(regular.first()).map(|(_, scrapes)| *scrapes)
    }

    /// Whether a client with this period still comes, however irregularly.
    pub fn still_comes(&self, now: Instant, client: u64, period: Duration) -> bool {
        let times = self.clients.iter().find(|(id, _)| *id == client).and_then(|(_, times)| times.back());
        times.is_some_and(|last| now.saturating_duration_since(*last) <= period.mul_f64(GONE_AFTER))
    }
}

/// How much a client's gaps differ, relative to their median, and its period; `None` if it is not regular.
fn regularity(client: u64, times: &VecDeque<Instant>, now: Instant) -> Option<(f64, ScrapePeriod)> {
    let mut gaps: Vec<Duration> = times.iter().zip(times.iter().skip(1)).map(|(a, b)| b.duration_since(*a)).collect();
    if gaps.len() < GAPS {
        return None;
    }
    gaps.sort_unstable();
    let period = gaps[gaps.len() / 2];
    let last = *times.back()?;
    let is_gone = now.saturating_duration_since(last) > period.mul_f64(GONE_AFTER);
    if is_gone || !(SHORTEST..=LONGEST).contains(&period) {
        return None;
    }
    let tolerated = period.mul_f64(TOLERANCE) + SLACK;
    let agreeing = gaps.iter().filter(|gap| gap.abs_diff(period) <= tolerated);
    // One gap may differ: a scrape that was missed, or a reload of the scraper.
    if agreeing.clone().count() + 1 < gaps.len() || agreeing.clone().count() < GAPS {
        return None;
    }
    let spread: f64 = agreeing.map(|gap| gap.abs_diff(period).as_secs_f64()).sum();
    Some((spread / period.as_secs_f64(), ScrapePeriod { client, last, period }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn irregular_clients_and_those_that_are_gone() {
        let now = Instant::now();
        let mut times = ScrapeTimes::default();
        for (number, at) in [0u64, 3000, 4000, 11_000, 12_500, 30_000].into_iter().enumerate() {
            times.note(number as u64 % 2, now + ms(at));
            assert_eq!(times.most_regular(now + ms(at), ms(0), None), None);
        }
        let mut times = ScrapeTimes::default();
        (0..8).for_each(|number| times.note(1, now + ms(number * 5000)));
        let period = |at| times.most_regular(now + ms(at), ms(5000), None).map(|scrapes| scrapes.period);
        assert_eq!(period(36_000), Some(ms(5000)));
        assert_eq!(period(60_000), None);
        assert_eq!(times.most_regular(now + ms(36_000), ms(10_000), None), None, "too often");
        assert!(times.still_comes(now + ms(47_000), 1, ms(5000)) && !times.still_comes(now + ms(48_000), 1, ms(5000)));
    }

    #[test]
    fn of_several_the_one_that_is_followed_is_kept() {
        let now = Instant::now();
        let mut times = ScrapeTimes::default();
        for number in 0..8 {
            times.note(1, now + ms(number * 15_000));
            times.note(2, now + ms(number * 15_000 + 7000 + number % 2));
        }
        let most_regular = |followed| times.most_regular(now + ms(112_001), ms(0), followed).unwrap().client;
        assert_eq!([most_regular(None), most_regular(Some(2)), most_regular(Some(3))], [1, 2, 1]);
    }

    #[test]
    fn many_clients_are_not_remembered_for_ever() {
        let now = Instant::now();
        let mut times = ScrapeTimes::default();
        (0..10_000).for_each(|client| times.note(client, now + ms(client)));
        assert_eq!(times.clients.len(), CLIENTS);
    }
}
