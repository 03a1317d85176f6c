//! Links of GPUs: which one a field speaks of.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

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
