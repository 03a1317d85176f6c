//! XIDs: where they come from, where they are stored, and what 119 does.

use serde_json::{Value as Json, json};

use crate::call;
use crate::client::*;

fn sliced(events: Json) -> Json {
    let mut node = node();
    node["system"]["gpu_instances"] = json!([
        { "parent_gpu": 1, "entity_id": 0, "nvml_gpu_instance_id": 7, "profile": "3g.71gb" },
        { "parent_gpu": 1, "entity_id": 1, "nvml_gpu_instance_id": 8, "profile": "3g.71gb" },
    ]);
    node["system"]["compute_instances"] = json!([
        { "id": 0, "instance": 0 }, { "id": 1, "instance": 0 }, { "id": 2, "instance": 1 },
    ]);
    node["events"] = events;
    node
}

const EVERYBODY: [Entity; 7] = [
    (GPU, 0),
    (GPU, 1),
    (INSTANCE, 0),
    (INSTANCE, 1),
    (COMPUTE_INSTANCE, 0),
    (COMPUTE_INSTANCE, 1),
    (COMPUTE_INSTANCE, 2),
];

fn watch_all(client: &Client) -> (usize, usize) {
    let watched = (client.group(&EVERYBODY), client.fields(&[230]));
    client.watch(watched.0, watched.1, SECOND);
    watched
}

/// Entity and code of every event, and its time stamp.
fn events(client: &Client, watched: (usize, usize)) -> Vec<(Entity, i64, i64)> {
    let (_, readings) = client.since(watched, 0).unwrap();
    let of_events = readings.iter().filter(|reading| reading.status == 0 && !reading.is_blank());
    of_events.map(|reading| (reading.entity, reading.int(), reading.stamp)).collect()
}

#[test]
fn nvml_names_the_entity_and_nothing_is_copied_upward() {
    let node = sliced(json!([
        { "from": "nvml", "entity": "GPU_CI", "id": 1, "field_id": 230, "value": 31, "count": 2, "every_ms": 0 },
        { "from": "nvml", "entity": "GPU_I", "id": 1, "field_id": 230, "value": 13, "count": 1, "every_ms": 0 },
        { "from": "nvml", "entity": "GPU", "id": 0, "field_id": 230, "value": 43, "count": 1, "every_ms": 0 },
    ]));
    alone("xids::nvml_names_the_entity_and_nothing_is_copied_upward", node, |client| {
        let client = client.start();
        let watched = watch_all(&client);
        assert!(
            client
                .latest(watched.0, watched.1)
                .unwrap()
                .iter()
                .all(|reading| reading.status == -14 && reading.is_blank())
        );
        let began = client.now();
        let found = client.until(|| Some(events(&client, watched)).filter(|found| !found.is_empty()));
        let mut codes: Vec<_> = found.iter().map(|(entity, code, _)| (*entity, *code)).collect();
        codes.sort();
        let part = (COMPUTE_INSTANCE, 1);
        assert_eq!(codes, [((GPU, 0), 43), ((INSTANCE, 1), 13), (part, 31), (part, 31)]);
        assert!(found.iter().all(|(.., stamp)| *stamp >= began), "stamped when fetched, not when it happened");
        let latest = client.latest(watched.0, watched.1).unwrap();
        assert_eq!(latest[5].datum, Datum::Int(31));
    });
}

#[test]
fn the_hierarchy_has_compute_instances() {
    alone("xids::the_hierarchy_has_compute_instances", sliced(json!([])), |client| {
        let client = client.start();
        assert_eq!(client.entities(COMPUTE_INSTANCE, 0), Ok(vec![0, 1, 2]));
        let mut hierarchy = vec![0u32; 0x1_1f08 / 4];
        hierarchy[0] = 0x0201_1f08;
        assert_eq!(
            call!(client, dcgmGetGpuInstanceHierarchy(usize, *mut u32), client.handle, hierarchy.as_mut_ptr()),
            0
        );
        let entries: Vec<_> = (0..hierarchy[1] as usize)
            .map(|index| 2 + 41 * index)
            .map(|at| (hierarchy[at], hierarchy[at + 1], hierarchy[at + 3]))
            .collect();
        assert_eq!(entries, [(4, 0, 1), (5, 0, 0), (5, 1, 0), (4, 1, 1), (5, 2, 1)]);
    });
}

fn logged(codes: &[i64], late_ms: u64) -> Json {
    let of_code = |code: &i64| {
        json!({ "from": "kernel_log", "entity": "GPU_CI", "id": 2, "field_id": 230, "value": code, "count": 1,
            "every_ms": 0, "late_ms": late_ms })
    };
    sliced(json!(codes.iter().map(of_code).collect::<Vec<_>>()))
}

#[test]
fn the_kernel_log_has_three_codes_and_its_own_time() {
    alone("xids::the_kernel_log_has_three_codes_and_its_own_time", logged(&[79, 31, 120], 400), |client| {
        let client = client.start();
        let watched = watch_all(&client);
        let watched_at = client.now();
        assert_eq!(events(&client, watched), [], "it is stored late");
        let found = client.until(|| Some(events(&client, watched)).filter(|found| found.len() == 2));
        assert_eq!([found[0].1, found[1].1], [79, 120], "31 is not taken");
        assert!(found.iter().all(|(entity, ..)| *entity == (GPU, 1)), "stored under the GPU");
        assert!(found.iter().all(|(.., stamp)| *stamp <= watched_at), "with the time at which it happened: {found:?}");
    });
}

#[test]
fn the_environment_adds_codes_of_the_kernel_log() {
    let environment = [("__DCGM_XID_KMSG__", "31,-79")];
    alone_with("xids::the_environment_adds_codes_of_the_kernel_log", logged(&[79, 31], 0), &environment, |client| {
        let client = client.start();
        let watched = watch_all(&client);
        let codes: Vec<_> = events(&client, watched).iter().map(|event| event.1).collect();
        assert_eq!(codes, [31]);
    });
}

#[test]
fn a_new_engine_reads_the_kernel_log_from_its_beginning() {
    let mut node = logged(&[79], 0);
    node["kernel_log"] = json!([{ "gpu": 0, "code": 79, "age_ms": 3_600_000 }]);
    alone("xids::a_new_engine_reads_the_kernel_log_from_its_beginning", node, |client| {
        let mut client = client.start();
        let watched = watch_all(&client);
        let first = events(&client, watched);
        assert_eq!(first.len(), 2);
        assert!(first[0].2 < client.now() - 3599 * SECOND, "older than the process");
        client.restart();
        assert_eq!(events(&client, watch_all(&client)), first, "with the old times");
    });
}

fn text(reading: &Reading) -> Option<&str> {
    if let Datum::Text(text) = &reading.datum { Some(text) } else { None }
}

#[test]
fn after_119_every_gpu_is_blank_and_looks_well() {
    alone("xids::after_119_every_gpu_is_blank_and_looks_well", logged(&[119], 0), |client| {
        let mut client = client.start();
        for _ in 0..2 {
            let events_of = watch_all(&client);
            let watched = (client.group(&EVERYBODY), client.fields(&[54, 150, 155]));
            client.watch(watched.0, watched.1, SECOND);
            client.step(1);
            client.update();
            for reading in client.latest(watched.0, watched.1).unwrap() {
                assert!(reading.status == 0 && reading.is_blank(), "{reading:?}");
                assert!(reading.stamp > client.now() - SECOND, "fresh");
                assert!(text(&reading).is_none_or(|text| text == "<<<NULL>>>"));
            }
            let mut attributes = vec![0u8; 0x1464];
            attributes[..4].copy_from_slice(&0x0300_1464u32.to_le_bytes());
            assert_eq!(
                call!(client, dcgmGetDeviceAttributes(usize, u32, *mut u8), client.handle, 0, attributes.as_mut_ptr()),
                0
            );
            assert!(attributes[3120 + 1028..].starts_with(b"<<<NULL>>>\0"));
            let mut status = 0;
            assert_eq!(call!(client, dcgmGetGpuStatus(usize, u32, *mut i32), client.handle, 1, &mut status), 0);
            assert_eq!((status, client.entities(GPU, 1)), (1, Ok(vec![0, 1])));
            assert!(client.latest(events_of.0, events_of.1).unwrap().iter().all(Reading::is_blank));
            assert_eq!(events(&client, events_of).iter().map(|it| (it.0, it.1)).collect::<Vec<_>>(), [((GPU, 1), 119)]);
            client.restart();
        }
    });
}

#[test]
fn the_environment_keeps_the_values_after_119() {
    let environment = [("__DCGM_FATAL_XIDS__", "-119")];
    alone_with("xids::the_environment_keeps_the_values_after_119", logged(&[119], 0), &environment, |client| {
        let client = client.start();
        let watched = client.watch_one((GPU, 1), 150, SECOND);
        assert_eq!(events(&client, watch_all(&client)).len(), 1);
        client.step(1);
        client.update();
        assert!(!client.one(watched).is_blank());
    });
}
