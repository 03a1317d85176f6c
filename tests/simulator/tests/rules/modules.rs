//! Values that modules bring in by their own clocks, and what one bad pair costs.

use serde_json::{Value as Json, json};

use crate::client::*;

fn board(switch_module: &str) -> Json {
    let mut node = node();
    node["switch_module"] = json!(switch_module);
    node["system"]["switches"] = json!([0, 1]);
    node["system"]["links"] = json!([
        { "parent": "SWITCH", "parent_id": 0, "states": [3, 3] }, { "parent": "GPU", "parent_id": 0, "states": [3, 3] },
    ]);
    node["system"]["connectx"] = json!([0]);
    node["system"]["cpus"] = json!([{ "id": 0, "cores": [0, 1] }]);
    node
}

#[test]
fn modules_refresh_by_their_own_clocks() {
    alone("modules::modules_refresh_by_their_own_clocks", board("nscq"), |client| {
        let client = client.start();
        let pairs =
            [((SWITCH, 0), 858), (link(SWITCH, 0, 1), 780), ((CONNECTX, 0), 1300), ((CPU, 0), 1130), ((CORE, 1), 1101)];
        for (entity, field) in pairs {
            let watched = client.watch_one(entity, field, 4 * SECOND);
            client.step(4);
            let first = client.one(watched).stamp;
            client.step(10);
            let second = client.one(watched).stamp;
            assert_eq!(second, first + 8 * SECOND, "{entity:?}: its ticks, without any update");
            client.update();
            assert_eq!(client.one(watched).stamp, second);
        }
    });
}

#[test]
fn utilisation_of_cpus_needs_two_looks() {
    alone("modules::utilisation_of_cpus_needs_two_looks", board("nscq"), |client| {
        let client = client.start();
        let watched = client.watch_one((CPU, 0), 1100, SECOND);
        assert_eq!(client.one(watched).status, -14);
        client.step(1);
        let reading = client.one(watched);
        assert!(reading.status == 0 && !reading.is_blank());
    });
}

#[test]
fn one_failing_pair_stops_all_of_nvsdm() {
    let failing = [
        ((SWITCH, 0), 782),
        ((SWITCH, 1), 856),
        (link(SWITCH, 0, 0), 701),
        (link(SWITCH, 0, 0), 857),
        (link(GPU, 0, 0), 780),
        (link(GPU, 0, 0), 870),
    ];
    alone("modules::one_failing_pair_stops_all_of_nvsdm", board("nvsdm"), move |client| {
        let client = client.start();
        let others: Vec<_> = [((SWITCH, 1), 780), (link(SWITCH, 0, 1), 781), ((CONNECTX, 0), 1300)]
            .into_iter()
            .map(|(entity, field)| client.watch_one(entity, field, SECOND))
            .collect();
        let stamps = || others.iter().map(|watched| client.one(*watched).stamp).collect::<Vec<_>>();
        for (entity, field) in failing {
            client.step(1);
            let before = stamps();
            let bad = client.watch_one(entity, field, SECOND);
            assert_eq!(client.one(bad).status, -14, "{entity:?} {field}");
            for _ in 0..3 {
                client.step(1);
                assert_eq!(stamps(), before, "{entity:?} {field}");
            }
            assert_eq!(client.unwatch(bad.0, bad.1), 0);
            client.step(1);
            assert!(stamps().iter().zip(&before).all(|(now, before)| now > before), "it goes on without the pair");
        }
        let never = client.watch_one((SWITCH, 0), 702, SECOND);
        client.step(1);
        assert_eq!(client.one(never).status, -14);
    });
}

#[test]
fn nscq_is_lenient() {
    alone("modules::nscq_is_lenient", board("nscq"), |client| {
        let client = client.start();
        let good = client.watch_one((SWITCH, 1), 780, SECOND);
        for (entity, field) in [((SWITCH, 0), 782), ((SWITCH, 0), 702), (link(SWITCH, 0, 0), 701)] {
            let reading = client.one(client.watch_one(entity, field, SECOND));
            assert!(reading.status == 0 && reading.is_blank(), "{reading:?}");
        }
        let before = client.one(good).stamp;
        client.step(1);
        assert!(client.one(good).stamp > before);
    });
}

#[test]
fn profiled_links_asked_of_switches_end_them_for_everybody() {
    alone("modules::profiled_links_asked_of_switches_end_them_for_everybody", board("nscq"), |client| {
        let client = client.start();
        let good = client.watch_one(link(GPU, 0, 0), 1532, SECOND);
        client.step(1);
        client.update();
        let before = client.one(good);
        assert!(before.status == 0 && !before.is_blank(), "{before:?}");
        let (group, fields) = (client.group(&[link(SWITCH, 0, 0)]), client.fields(&[1532]));
        assert_eq!(client.watch_keeping(group, fields, SECOND, 60.0, 0), -33);
        client.step(1);
        client.update();
        assert_eq!(client.one(good).stamp, before.stamp);
    });
}
