//! When collections come: just before a regular scraper's visits, and never more often because somebody asks.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::common::*;
use crate::node::*;

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

fn sampled(page: &str) -> f64 {
    value(page, &["dcgm_exporter_last_collect_timestamp_seconds "]).unwrap()
}

/// Scrapes every 1.5 s at an interval of 1 s.
#[test]
fn a_regular_scraper_gets_young_samples_and_a_true_time() {
    let node = Node::new(scenario(&[0]));
    let mut command = node.exporter(GPU_TEMP);
    let mut exporter = Exporter::start(command.args(["-c", "1s", "--min-collect-interval", "500ms"]));
    exporter.page();
    let (start, period) = (Instant::now(), Duration::from_millis(1500));
    let mut ages = Vec::new();
    for scrape in 1..=11 {
        std::thread::sleep((start + period * scrape).saturating_duration_since(Instant::now()));
        let page = exporter.get("/metrics").body;
        let age = now() - sampled(&page);
        assert!((0.0..3.0).contains(&age), "{age}");
        ages.push(age);
    }
    // The scraper has to be known first. A loaded machine may spoil a few.
    let mut last = ages.split_off(6);
    last.sort_by(f64::total_cmp);
    assert!(last[2] < 0.9, "{last:?}, before that {ages:?}");
    let log = exporter.log();
    assert!(log.contains("collecting just before each scrape"), "{log}");
}

/// Two with one User-Agent at one address, as a pair for availability behind a proxy: every 1.5 s, 0.6 s apart, at an
/// interval of 3 s. Others who want no page of samples come from there as well.
#[test]
fn each_of_two_scrapers_gets_young_samples_whoever_else_comes() {
    let node = Node::new(scenario(&[0]));
    let mut command = node.exporter(GPU_TEMP);
    let mut exporter = Exporter::start(command.args(["-c", "3s", "--min-collect-interval", "500ms"]));
    exporter.page();
    let (exporter, start) = (&exporter, Instant::now() + Duration::from_millis(700));
    let is_over = &std::sync::atomic::AtomicBool::new(false);
    let scrape = |phase: u64| {
        let mut ages = Vec::new();
        for scrape in 0..12 {
            let at = start + Duration::from_millis(phase + 1500 * scrape);
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            ages.push(now() - sampled(&exporter.get("/metrics").body));
        }
        ages
    };
    let ages = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                for ask in ["HEAD /metrics", "GET /health", "GET /", "GET /missing"] {
                    let ask = format!("{ask} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
                    request(exporter.port, &ask).unwrap();
                }
                std::thread::sleep(Duration::from_millis(70));
            }
        });
        let ages = [0, 600].map(|phase| scope.spawn(move || scrape(phase))).map(|scraper| scraper.join().unwrap());
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        ages
    });
    for ages in &ages {
        // A loaded machine may spoil a few.
        let mut last = ages[4..].to_vec();
        last.sort_by(f64::total_cmp);
        assert!(last[5] < 0.5, "{ages:?}\n{}", exporter.log());
    }
    let log = exporter.log();
    assert!(log.contains("collecting just before each scrape\" scrapers=2"), "{log}");
    let most = start.elapsed().as_secs_f64() / 0.5 + 3.0;
    assert!(collections(&exporter.get("/metrics").body) <= most, "{most}");
}

/// A probe comes once per second, the interval is 30 s.
#[test]
fn a_probe_causes_no_collection() {
    let node = Node::new(scenario(&[0]));
    let mut command = node.exporter(GPU_TEMP);
    let mut exporter = Exporter::start(command.args(["-c", "30s"]));
    exporter.page_with("the first collections are over", |page| collections(page) == 2.0);
    let first = sampled(&exporter.page());
    for _ in 0..14 {
        std::thread::sleep(Duration::from_secs(1));
        let page = exporter.get("/metrics").body;
        assert_eq!((collections(&page), sampled(&page)), (2.0, first));
    }
    assert_eq!(node.stats()["polls"]["150"], 2, "{}", node.stats());
    assert!(!exporter.log().contains("collecting just before"), "{}", exporter.log());
}
