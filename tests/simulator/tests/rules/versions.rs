//! DCGM 3, and a library and an engine of different lines.

use serde_json::json;

use crate::call;
use crate::client::*;
use crate::sessions::HostEngine;

fn v3() -> serde_json::Value {
    let mut node = node();
    node["version"] = json!("3.3.9");
    node
}

#[test]
fn dcgm_3_answers_no_sample_with_zero() {
    alone("versions::dcgm_3_answers_no_sample_with_zero", v3(), |client| {
        let client = client.start();
        for field in [230, 450, 521] {
            let reading = client.one(client.watch_one((GPU, 0), field, SECOND));
            assert_eq!((reading.status, reading.kind, reading.datum), (-14, 'i', Datum::Int(0)), "{field}");
        }
        let watched = client.watch_one((GPU, 1), 230, SECOND);
        let (_, since) = client.since(watched, 0).unwrap();
        assert_eq!((since[0].status, &since[0].datum), (-14, &Datum::Int(0)));
    });
}

#[test]
fn dcgm_3_takes_no_links_of_gpus_and_packs_links_otherwise() {
    let mut node = v3();
    node["system"]["switches"] = json!([0, 300]);
    node["system"]["links"] = json!([
        { "parent": "SWITCH", "parent_id": 300, "states": [3, 3] }, { "parent": "GPU", "parent_id": 0, "states": [3] },
    ]);
    alone("versions::dcgm_3_takes_no_links_of_gpus_and_packs_links_otherwise", node, |client| {
        let client = client.start();
        let group = client.new_group().unwrap();
        assert_eq!(client.add(group, (LINK, SWITCH | 1 << 8 | 300 << 16)), 0);
        assert_eq!(client.add(group, link(SWITCH, 300 & 0xff, 1)), -1);
        for id in [GPU, GPU | 1 << 8] {
            assert_eq!(client.add(group, (LINK, id)), -1);
        }
    });
}

#[test]
fn dcgm_3_has_smaller_groups_no_p2p_and_fewer_fields() {
    let mut node = v3();
    let gpus: Vec<_> = (0..2).map(gpu).collect();
    node["system"]["gpus"] = json!(gpus);
    node["system"]["switches"] = json!((0..65).collect::<Vec<u32>>());
    alone("versions::dcgm_3_has_smaller_groups_no_p2p_and_fewer_fields", node, |client| {
        let client = client.start();
        let group = client.new_group().unwrap();
        assert!((0..64).all(|id| client.add(group, (SWITCH, id)) == 0));
        assert_eq!(client.add(group, (SWITCH, 64)), -24);
        let mut status = vec![0u32; 0x1088 / 4];
        status[0] = 0x0100_1088;
        assert_eq!(call!(client, dcgmGetNvLinkP2PStatus(usize, *mut u32), client.handle, status.as_mut_ptr()), -20);
        assert_eq!(client.new_fields(&[1525]), Err(-1));
    });
}

#[test]
fn dcgm_3_crashes_where_system_monitoring_is_loaded() {
    let mut node = v3();
    node["system"]["cpus"] = json!([{ "id": 0, "cores": [0, 1] }]);
    alone("versions::dcgm_3_crashes_where_system_monitoring_is_loaded", node, |mut client| {
        assert_eq!(client.start_denying(&[9]), 0);
        assert_eq!(client.entities(CPU, 0), Err(-33));
        client.update();
        assert_eq!(client.stats()["violations"], json!([]));
        client.restart();
        assert_eq!(client.entities(CPU, 0), Err(-33));
        client.update();
        assert_eq!(client.stats()["violations"].as_array().unwrap().len(), 1);
    });
}

/// Everything is taken, and nothing can be read. Attributes and latest values answer `code`, or as ever.
fn different_lines(test: &str, version: &'static str, engine_version: &'static str, code: Option<i32>) {
    let mut node = node();
    node["version"] = json!(version);
    alone(test, node.clone(), move |mut client| {
        let mut remote = node.clone();
        remote["engine_version"] = json!(engine_version);
        let engine = HostEngine::start(&client, &remote);
        assert_eq!(engine.connect(&mut client), 0);
        let watched = client.watch_one((GPU, 0), 150, SECOND);
        client.update();
        assert_eq!(client.entities(GPU, 0), Err(-12));
        assert_eq!(client.since(watched, 0), Err(-12));
        assert_eq!(client.latest(watched.0, watched.1).err(), code);
        let mut of_gpu = vec![0u32; 0x1464 / 4];
        of_gpu[0] = 0x0300_1464;
        let attributes =
            call!(client, dcgmGetDeviceAttributes(usize, u32, *mut u32), client.handle, 0, of_gpu.as_mut_ptr());
        assert_eq!(attributes, code.unwrap_or(0));
        let mut words = vec![0u32; 0x204 / 4];
        words[0] = 0x0200_0204;
        assert_eq!(call!(client, dcgmHostengineVersionInfo(usize, *mut u32), client.handle, words.as_mut_ptr()), 0);
        let text: Vec<u8> = words[1..].iter().flat_map(|word| word.to_le_bytes()).take_while(|it| *it != 0).collect();
        assert!(String::from_utf8(text).unwrap().contains(&format!("version:{engine_version}")));
    });
}

#[test]
fn a_newer_library() {
    different_lines("versions::a_newer_library", "4.6.0", "3.3.9", Some(-20));
}

#[test]
fn a_newer_engine() {
    different_lines("versions::a_newer_engine", "3.3.9", "4.6.0", None);
}
