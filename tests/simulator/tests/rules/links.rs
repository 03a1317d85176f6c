//! Links of GPUs: which one a field speaks of.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

use crate::call;
use crate::client::*;

fn linked(version: &str) -> Json {
    let mut node = node();
    node["version"] = json!(version);
    let states = [3; 18];
    node["system"]["links"] = json!([
        { "parent": "GPU", "parent_id": 0, "states": states }, { "parent": "GPU", "parent_id": 1, "states": states },
    ]);
    node
}

/// The link that an index speaks of, by the value.
fn spoken_of(client: &Client, gpu: u32, index: u32, field: u16) -> Option<i64> {
    let group = client.group(&[link(GPU, gpu, index)]);
    let fields = client.fields(&[field]);
    client.watch(group, fields, SECOND);
    let reading = client.one((group, fields));
    assert_eq!(reading.status, 0);
    crate::call!(client, dcgmGroupDestroy(usize, usize), client.handle, group);
    crate::call!(client, dcgmFieldGroupDestroy(usize, usize), client.handle, fields);
    (!reading.is_blank()).then(|| {
        assert_eq!((reading.int() / 1_000_000, reading.int() % 10_000), (i64::from(gpu), i64::from(field)));
        reading.int() / 10_000 % 100
    })
}

#[test]
fn from_4_6_on_the_index_is_the_link_but_for_1509() {
    alone("links::from_4_6_on_the_index_is_the_link_but_for_1509", linked("4.6.0"), |client| {
        let client = client.start();
        for field in [581, 1508, 1525, 1528] {
            let links: Vec<_> = (0..19).map(|index| spoken_of(&client, 1, index, field)).collect();
            let expected: Vec<_> = (0..18).map(Some).chain([None]).collect();
            assert_eq!(links, expected, "{field}");
        }
        assert_eq!(spoken_of(&client, 1, 0, 1509), None);
        assert_eq!(spoken_of(&client, 1, 1, 1509), Some(0));
        assert_eq!(spoken_of(&client, 1, 18, 1509), Some(17));
    });
}

#[test]
fn up_to_4_5_ports_count_from_1() {
    alone("links::up_to_4_5_ports_count_from_1", linked("4.5.3"), |client| {
        let client = client.start();
        assert_eq!(spoken_of(&client, 0, 0, 581), None);
        assert_eq!(spoken_of(&client, 0, 1, 581), Some(0));
        assert_eq!(spoken_of(&client, 0, 18, 581), Some(17));
    });
}

#[test]
fn every_link_has_values_of_its_own() {
    alone("links::every_link_has_values_of_its_own", linked("4.6.0"), |client| {
        let client = client.start();
        let links: Vec<_> = (0..2).flat_map(|gpu| (0..18).map(move |index| link(GPU, gpu, index))).collect();
        let (group, fields) = (client.group(&links), client.fields(&[1525]));
        client.watch(group, fields, SECOND);
        let values: BTreeSet<i64> = client.latest(group, fields).unwrap().iter().map(Reading::int).collect();
        assert_eq!(values.len(), 36);
        assert_eq!(client.add(group, link(GPU, 5, 0)), -1, "no such GPU");
    });
}

/// Links of GPU 0, whose registers 581 and 582 do not exist, and of GPU 1.
fn unregistered() -> Json {
    let mut node = linked("4.6.0");
    node["unsupported_by_links"] = json!([580, 581, 582]);
    node
}

fn links(gpu: u32) -> Vec<Entity> {
    (0..18).map(|index| link(GPU, gpu, index)).collect()
}

#[test]
fn no_interval_holds_links_of_gpus_back() {
    alone("links::no_interval_holds_links_of_gpus_back", linked("4.6.0"), |client| {
        let client = client.start();
        client.watch_one(link(GPU, 0, 3), 1525, 3600 * SECOND);
        client.watch_one(link(GPU, 0, 3), 1532, 3600 * SECOND);
        client.watch_one((GPU, 0), 150, 3600 * SECOND);
        client.update();
        // Three first watches and an update, two looks each, at those that were watched by then.
        assert_eq!(client.stats()["polls"], json!({ "150": 1, "1525": 8, "1532": 6 }));
    });
}

#[test]
fn an_engine_with_a_clock_polls_them_at_every_wake() {
    alone("links::an_engine_with_a_clock_polls_them_at_every_wake", linked("4.6.0"), |client| {
        let client = client.start_automatic();
        let watch = client.watch_one(link(GPU, 0, 3), 1525, 3600 * SECOND);
        (0..10).for_each(|_| drop(client.one(watch)));
        client.update();
        assert_eq!(client.stats()["polls"]["1525"], json!(12));
    });
}

#[test]
fn three_fields_keep_every_sample_for_ever() {
    alone("links::three_fields_keep_every_sample_for_ever", unregistered(), |client| {
        let client = client.start();
        let (group, fields) = (client.group(&links(0)), client.fields(&[580, 1508, 1525, 1529]));
        assert_eq!(client.watch_keeping(group, fields, SECOND, 0.0, 1), 0);
        let after_one = 18 * 2 * 2;
        (0..9).for_each(|_| client.update());
        assert_eq!(client.stats()["kept_samples"], json!(after_one * 10), "blanks of 580 as well");
        assert_eq!(client.stats()["kept_bytes"], json!(after_one * 10 * 26));
        assert_eq!(client.unwatch(group, fields), 0);
        client.update();
        assert_eq!(client.stats()["kept_samples"], json!(after_one * 10), "the end of the watch gives nothing back");
    });
}

#[test]
fn a_register_that_cannot_be_read_stores_nothing_and_costs_its_call() {
    alone("links::a_register_that_cannot_be_read_stores_nothing_and_costs_its_call", unregistered(), |client| {
        let client = client.start();
        let watch = client.watch_one(link(GPU, 0, 3), 581, SECOND);
        (0..9).for_each(|_| client.update());
        assert_eq!((client.one(watch).status, client.one(watch).stamp), (-14, 0));
        assert_eq!(client.stats()["driver_calls"]["581"], json!(20));
    });
}

#[test]
fn live_reads_need_no_watch_and_cost_one_call_for_each_pair() {
    alone("links::live_reads_need_no_watch_and_cost_one_call_for_each_pair", unregistered(), |client| {
        let client = client.start();
        let fields: Vec<u16> = [1508].into_iter().chain(1525..=1533).chain([581, 583]).collect();
        let read = client.live(&links(1), &fields).unwrap();
        assert_eq!(read.len(), 18 * fields.len());
        for reading in read {
            match reading.field {
                581 => assert_eq!((reading.status, reading.stamp), (-8, 0)),
                1529..=1531 => assert_eq!((reading.status, reading.int()), (0, 0)),
                1532 | 1533 => assert!(reading.status == 0 && reading.is_blank()),
                field => {
                    let index = reading.entity.1 >> 8 & 0xffff;
                    let expected = 1_000_000 + i64::from(index) * 10_000 + i64::from(field);
                    assert_eq!((reading.status, reading.int()), (0, expected));
                    assert!(reading.stamp > 0);
                }
            }
        }
        client.update();
        let stats = client.stats();
        assert_eq!((&stats["driver_calls"]["1508"], &stats["driver_calls"]["581"]), (&json!(18), &json!(18)));
        assert_eq!((&stats["watches"], &stats["kept_samples"], &stats["polls"]), (&json!(0), &json!(0), &json!({})));
    });
}

#[test]
fn one_pair_can_fail_a_whole_live_read() {
    alone("links::one_pair_can_fail_a_whole_live_read", unregistered(), |client| {
        let client = client.start();
        let both = [links(0), links(1)].concat();
        assert!(client.live(&both, &[1525, 581]).is_ok());
        assert_eq!(client.live(&[link(GPU, 0, 17), link(GPU, 0, 18)], &[1525]), Err(-3), "past the last link");
        assert_eq!(client.live(&both, &[1525, 580]), Err(-3), "a counter that stores its failure");
        let mut node = unregistered();
        node["faults"]["lost_gpus"] = json!([1]);
        client.set_scenario(&node);
        assert_eq!(client.live(&both, &[1525]), Err(-3), "a GPU that the driver has lost");
        assert!(client.live(&links(0), &[1525]).is_ok());
        let status = crate::call!(client, dcgmGetGpuStatus(usize, u32, *mut i32), client.handle, 0, &mut 0);
        assert_eq!(status, 0);
    });
}

#[test]
fn profiling_fields_are_not_for_live_reads() {
    alone("links::profiling_fields_are_not_for_live_reads", linked("4.6.0"), |client| {
        let client = client.start();
        assert!(client.live(&[(GPU, 0)], &[150]).is_ok());
        client.update();
        assert_eq!(client.stats()["violations"], json!([]));
        assert!(client.live(&[(GPU, 0)], &[150, 1001]).is_err());
        client.update();
        assert_eq!(client.stats()["violations"].as_array().unwrap().len(), 1);
    });
}

#[test]
fn a_call_of_the_driver_takes_its_time() {
    let mut node = linked("4.6.0");
    node["call_us"] = json!({ "1525": 2000 });
    alone("links::a_call_of_the_driver_takes_its_time", node, |client| {
        let client = client.start();
        let start = std::time::Instant::now();
        client.live(&links(0), &[1525, 1526]).unwrap();
        assert!(start.elapsed() >= std::time::Duration::from_millis(36));
    });
}

#[test]
fn without_the_module_there_are_no_states() {
    let mut plan = node();
    plan["denied_modules"] = json!([1]);
    plan["system"]["links"] = json!([{ "parent": "GPU", "parent_id": 0, "states": [3, 3] }]);
    alone("links::without_the_module_there_are_no_states", plan, |client| {
        let client = client.start();
        let mut status = vec![0u32; 0x39bc / 4];
        status[0] = 0x0400_39bc;
        assert_eq!(call!(client, dcgmGetNvLinkLinkStatus(usize, *mut u32), client.handle, status.as_mut_ptr()), -33);
        assert_eq!(client.entities(SWITCH, 0), Err(-33));
    });
}
