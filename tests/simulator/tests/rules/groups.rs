//! What an engine takes: groups, field groups, entities.

use serde_json::json;

use crate::client::*;

#[test]
fn a_client_gets_62_groups_and_61_field_groups() {
    alone("groups::a_client_gets_62_groups_and_61_field_groups", node(), |client| {
        let client = client.start();
        let groups: Vec<_> = (0..63).map(|_| client.new_group()).collect();
        assert!(groups[..62].iter().all(Result::is_ok));
        assert_eq!(groups[62], Err(-24));
        let fields: Vec<_> = (0..62).map(|_| client.new_fields(&[150])).collect();
        assert!(fields[..61].iter().all(Result::is_ok));
        assert_eq!(fields[61], Err(-24));
    });
}

#[test]
fn other_clients_hold_some() {
    let mut node = node();
    node["taken_groups"] = json!(60);
    node["taken_field_groups"] = json!(61);
    alone("groups::other_clients_hold_some", node, |client| {
        let client = client.start();
        assert!(client.new_group().is_ok() && client.new_group().is_ok());
        assert_eq!(client.new_group(), Err(-24));
        assert_eq!(client.new_fields(&[150]), Err(-24));
    });
}

#[test]
fn an_entity_is_in_a_group_once() {
    alone("groups::an_entity_is_in_a_group_once", node(), |client| {
        let client = client.start();
        let group = client.group(&[(GPU, 0)]);
        assert_eq!(client.add(group, (GPU, 0)), -1);
        assert_eq!(client.add(group, (GPU, 7)), -1, "no such GPU");
        assert_eq!(client.latest(client.group(&[]), client.fields(&[150])), Err(-35), "an empty group");
        assert_eq!(client.new_fields(&[150, 64000]), Err(-1), "one unknown field");
        assert_eq!(client.new_fields(&[150; 128]), Err(-1), "too many");
        assert!(client.new_fields(&[150; 127]).is_ok(), "the same twice");
    });
}
