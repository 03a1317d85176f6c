//! The wall clock, by which everything is scheduled and ordered.

use std::time::{Instant, SystemTime};

use crate::client::*;
use crate::sessions::HostEngine;

const HOUR: i64 = 3600;

#[test]
fn after_a_step_back_nothing_is_sampled_until_the_clock_has_caught_up() {
    alone("clock::after_a_step_back_nothing_is_sampled_until_the_clock_has_caught_up", node(), |client| {
        let mut client = client.start();
        let watched = client.watch_one((GPU, 0), 150, SECOND);
        let before = client.one(watched).stamp;
        client.step(-HOUR);
        for _ in 0..3 {
            client.step(2);
            client.update();
        }
        assert_eq!(client.one(watched).stamp, before);
        client.unwatch(watched.0, watched.1);
        let again = client.watch_one((GPU, 0), 150, 2 * SECOND);
        client.step(5);
        client.update();
        assert_eq!(client.one(again).stamp, before, "a new group, a new watch and another interval do not help");
        client.step(HOUR);
        client.update();
        assert!(client.one(again).stamp > before, "it has caught up");
        client.step(-HOUR);
        client.restart();
        let renewed = client.watch_one((GPU, 0), 150, SECOND);
        assert!(client.one(renewed).stamp < before, "a new engine does help");
    });
}

#[test]
fn a_step_forward_is_harmless() {
    alone("clock::a_step_forward_is_harmless", node(), |client| {
        let client = client.start();
        let watched = client.watch_one((GPU, 0), 150, SECOND);
        for _ in 0..3 {
            client.step(HOUR);
            client.update();
            assert!((client.now() - client.one(watched).stamp) < 60 * SECOND);
        }
    });
}

#[test]
fn an_engine_with_a_clock_samples_at_whole_intervals() {
    alone("clock::an_engine_with_a_clock_samples_at_whole_intervals", node(), |client| {
        let client = client.start_automatic();
        let watched = client.watch_one((GPU, 0), 150, 10 * SECOND);
        let first = client.one(watched).stamp;
        client.step(25);
        assert_eq!(client.one(watched).stamp, first + 20 * SECOND);
        client.step(-HOUR);
        assert_eq!(client.one(watched).stamp, first + 20 * SECOND);
    });
}

/// The library in front of libc, so that the whole process has the stepped clock.
#[test]
fn a_process_can_be_stepped_as_a_whole() {
    let preload = [("LD_PRELOAD", library_path().to_str().unwrap())];
    alone_with("clock::a_process_can_be_stepped_as_a_whole", node(), &preload, |client| {
        let client = client.start();
        let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
        let (wall, monotonic) = (seconds(SystemTime::now()), Instant::now());
        client.step(-HOUR);
        let stepped = client.until(|| Some(seconds(SystemTime::now())).filter(|now| *now < wall - HOUR / 2));
        assert!((wall - HOUR..wall).contains(&stepped), "{wall} {stepped}");
        assert!(monotonic.elapsed().as_secs() < 60, "monotonic time goes on");
        // SAFETY: places of ours, or none.
        let (of_time, of_day) = unsafe {
            let mut day = libc::timeval { tv_sec: 0, tv_usec: 0 };
            libc::gettimeofday(&mut day, std::ptr::null_mut());
            (libc::time(std::ptr::null_mut()), day.tv_sec)
        };
        assert!((wall - HOUR..wall).contains(&of_time) && (wall - HOUR..wall).contains(&of_day));
        // The engine's clock is the same, not stepped twice.
        let watched = client.watch_one((GPU, 0), 150, SECOND);
        assert!((stepped..stepped + 60).contains(&(client.one(watched).stamp / SECOND)));
    });
}

#[test]
fn a_new_client_does_not_help_a_host_engine() {
    alone("clock::a_new_client_does_not_help_a_host_engine", node(), |mut client| {
        let engine = HostEngine::start(&client, &node());
        assert_eq!(engine.connect(&mut client), 0);
        let watched = client.watch_one((GPU, 0), 150, SECOND);
        assert!(client.one(watched).stamp > 0);
        client.update();
        client.step(-HOUR);
        assert_eq!(crate::call!(client, dcgmDisconnect(usize), client.handle), 0);
        assert_eq!(engine.connect(&mut client), 0);
        let again = client.watch_one((GPU, 0), 150, SECOND);
        client.step(5);
        assert_eq!(client.one(again).stamp, 0, "nothing is sampled");
        client.step(HOUR);
        assert!(client.one(again).stamp > 0);
        client.step(-HOUR);
        let renewed = HostEngine::start(&client, &node());
        assert_eq!(renewed.connect(&mut client), 0);
        let watched = client.watch_one((GPU, 0), 150, SECOND);
        assert!(client.one(watched).stamp > 0, "another engine does help");
    });
}
