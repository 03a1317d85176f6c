//! One watch for each connection, entity and field.

use serde_json::json;

use crate::client::*;

#[test]
fn a_second_watch_replaces_the_first() {
    alone("watches::a_second_watch_replaces_the_first", node(), |client| {
        let client = client.start();
        let first = client.watch_one((GPU, 0), 150, 10 * SECOND);
        let before = client.one(first).stamp;
        assert!(before > 0, "the first watch looks at once");
        let second = client.watch_one((GPU, 0), 150, 3 * SECOND);
        assert_eq!(client.one(second).stamp, before, "a repeat does not look");
        client.step(4);
        client.update();
        assert!(client.one(first).stamp > before, "the later interval counts, in both groups");
        assert_eq!(client.unwatch(first.0, first.1), 0);
        assert_eq!(client.unwatch(second.0, second.1), -16, "one unwatch ended both");
        let last = client.one(second);
        client.step(60);
        client.update();
        assert_eq!((client.one(second), last.status), (last.clone(), 0), "the value stays");
    });
}

#[test]
fn a_watch_outlives_its_groups_and_is_counted_by_pair() {
    alone("watches::a_watch_outlives_its_groups_and_is_counted_by_pair", node(), |client| {
        let client = client.start();
        let (group, fields) = (client.group(&[(GPU, 0), (GPU, 1)]), client.fields(&[150, 155, 203]));
        client.watch(group, fields, SECOND);
        client.update();
        assert_eq!(client.stats()["watches"], json!(6));
        assert_eq!(client.stats()["polls"]["150"], json!(2));
        assert_eq!(crate::call!(client, dcgmGroupDestroy(usize, usize), client.handle, group), 0);
        client.update();
        assert_eq!(client.stats()["watches"], json!(6));
    });
}

#[test]
fn keep_age_keeps_and_keep_samples_does_not() {
    alone("watches::keep_age_keeps_and_keep_samples_does_not", node(), |client| {
        let client = client.start();
        let (group, fields) = (client.group(&[(GPU, 0)]), client.fields(&[150]));
        assert_eq!(client.watch_keeping(group, fields, SECOND, 3.5, 1), 0);
        for _ in 0..9 {
            client.step(1);
            client.update();
        }
        let (_, kept) = client.since((group, fields), 0).unwrap();
        assert_eq!(kept.len(), 4, "{kept:?}");
        assert_eq!(client.watch_keeping(group, fields, SECOND, 0.0, 0), -1, "neither");
    });
}

#[test]
fn the_next_read_since_goes_on_after_now() {
    alone("watches::the_next_read_since_goes_on_after_now", node(), |client| {
        let client = client.start();
        let watched = client.watch_one((GPU, 0), 150, SECOND);
        client.step(100);
        let before = client.now();
        let (next, readings) = client.since(watched, 0).unwrap();
        assert_eq!(readings.len(), 1);
        assert!(next > before && next <= client.now() + 1, "{before} {next}");
        let (_, readings) = client.since(watched, next).unwrap();
        assert_eq!((readings.len(), readings[0].status, readings[0].stamp), (1, -14, 0));
        assert!(readings[0].is_blank());
    });
}

#[test]
fn profiling_needs_two_looks() {
    alone("watches::profiling_needs_two_looks", node(), |client| {
        let client = client.start();
        let watched = client.watch_one((GPU, 0), 1001, SECOND);
        assert_eq!(client.one(watched).status, -14);
        client.step(1);
        client.update();
        let reading = client.one(watched);
        assert!(reading.status == 0 && !reading.is_blank(), "{reading:?}");
        // In place, no sample is lost.
        client.watch(watched.0, watched.1, 2 * SECOND);
        client.step(2);
        client.update();
        assert!(client.one(watched).stamp > reading.stamp);
        // Watched anew, the first look has none.
        let last = client.one(watched).stamp;
        client.unwatch(watched.0, watched.1);
        client.step(5);
        client.watch(watched.0, watched.1, SECOND);
        assert_eq!(client.one(watched).stamp, last);
        client.step(1);
        client.update();
        assert!(client.one(watched).stamp > last);
    });
}

#[test]
fn before_hopper_profiling_has_one_owner() {
    let capability = |gpu: u32, major: i64| json!({ "entity": "GPU", "id": gpu, "fields": { "63": { "type": "int64", "value": (major << 16).to_string() } } });
    let mut plan = node();
    plan["latest_values"] = json!([capability(0, 8), capability(1, 9)]);
    alone("watches::before_hopper_profiling_has_one_owner", plan.clone(), |client| {
        let client = client.start();
        let [ampere, hopper] = [0, 1].map(|gpu| client.watch_one((GPU, gpu), 1001, SECOND));
        let look = || {
            client.step(1);
            client.update();
        };
        look();
        let before = client.one(ampere);
        assert!(before.status == 0 && !before.is_blank(), "{before:?}");
        assert_eq!(client.stats()["profiled_gpus"], json!([0, 1]));
        plan["faults"]["profiler"] = json!(true);
        client.set_scenario(&plan);
        look();
        assert_eq!(client.one(ampere), before, "no sample is new");
        assert!(client.one(hopper).stamp > before.stamp, "from Hopper on both work");
        assert_eq!(client.unwatch(ampere.0, ampere.1), 0);
        let watch = || client.watch_keeping(ampere.0, ampere.1, SECOND, 0.0, 1);
        assert_eq!(watch(), -37);
        look();
        assert_eq!(client.stats()["profiled_gpus"], json!([1]));
        plan["faults"]["profiler"] = json!(false);
        client.set_scenario(&plan);
        assert_eq!(watch(), 0);
    });
}

#[test]
fn profiling_over_a_sliver_of_time_is_zero() {
    alone("watches::profiling_over_a_sliver_of_time_is_zero", node(), |client| {
        let client = client.start();
        let watched = client.watch_one((GPU, 0), 1002, 1000);
        for _ in 0..3 {
            client.step(2);
            client.update();
            let reading = client.latest(watched.0, watched.1).unwrap().remove(0);
            assert_eq!(reading.datum, Datum::Double(0.0));
        }
        client.watch(watched.0, watched.1, 1_900_000);
        client.step(17);
        client.update();
        assert_ne!(client.one(watched).datum, Datum::Double(0.0));
    });
}
