//! GPUs that are unbound and bound again.

use std::ffi::c_int;

use serde_json::json;

use crate::call;
use crate::client::*;

#[test]
fn unbind_and_bind() {
    alone("gpus::unbind_and_bind", node(), |client| {
        let client = client.start();
        let old = (client.group(&[(GPU, 0), (GPU, 1)]), client.fields(&[150]));
        client.watch(old.0, old.1, SECOND);
        let events = client.watch_one((GPU, 0), 6, SECOND);
        let status = |gpu: u32| {
            let mut status = 0;
            assert_eq!(call!(client, dcgmGetGpuStatus(usize, u32, *mut c_int), client.handle, gpu, &mut status), 0);
            status
        };
        let supported = || {
            let (mut ids, mut count) = ([0u32; 32], 0);
            let code = call!(
                client,
                dcgmGetAllSupportedDevices(usize, *mut u32, *mut c_int),
                client.handle,
                ids.as_mut_ptr(),
                &mut count
            );
            assert_eq!(code, 0);
            ids[..count as usize].to_vec()
        };
        let look = || {
            client.step(1);
            client.update();
            client.latest(old.0, old.1).unwrap()
        };
        assert!(look().iter().all(|reading| !reading.is_blank()));
        assert_eq!((status(1), supported()), (1, vec![0, 1]));

        let mut node = node();
        node["faults"]["unbound_gpus"] = json!([1]);
        client.set_scenario(&node);
        client.step(1);
        client.update();
        let (_, during) = client.since(old, 0).unwrap();
        for gpu in [0, 1] {
            let last = during.iter().rfind(|reading| reading.entity == (GPU, gpu)).unwrap();
            assert!(last.status == 0 && last.is_blank(), "one update finds all GPUs blank: {last:?}");
        }
        let after = look();
        assert!(!after[0].is_blank() && after[1].is_blank(), "{after:?}");
        assert_eq!((status(0), status(1), supported()), (1, 7, vec![0]));
        assert_eq!(client.entities(GPU, 1), Ok(vec![0]));
        assert_eq!(client.entities(GPU, 0), Ok(vec![0, 1]));

        node["faults"]["unbound_gpus"] = json!([]);
        client.set_scenario(&node);
        let after = look();
        assert_eq!((status(1), supported()), (1, vec![0, 1]));
        assert_eq!(client.one(events).datum, Datum::Int(2));
        assert!(!after[0].is_blank() && after[1].is_blank(), "an old group has nothing for it");
        client.watch(old.0, old.1, SECOND);
        assert!(look()[1].is_blank(), "nor after another watch");
        let new = client.watch_one((GPU, 1), 150, SECOND);
        client.step(1);
        client.update();
        assert!(!client.one(new).is_blank());
    });
}

#[test]
fn an_instance_with_the_id_of_another_starts_afresh() {
    let sliced = |gpu: u32, profile: &str| {
        let mut node = node();
        node["system"]["gpu_instances"] =
            json!([{ "parent_gpu": gpu, "entity_id": 0, "nvml_gpu_instance_id": 1, "profile": profile }]);
        node
    };
    alone("gpus::an_instance_with_the_id_of_another_starts_afresh", sliced(1, "1g.18gb"), |client| {
        let client = client.start();
        let profile = client.watch_one((INSTANCE, 0), 50, 60 * SECOND);
        assert_eq!(client.one(profile).datum, Datum::Text("1g.18gb".to_owned()));
        client.set_scenario(&sliced(0, "7g.141gb"));
        assert_eq!(client.one(profile).status, -14);
        client.update();
        assert_eq!(client.one(profile).datum, Datum::Text("7g.141gb".to_owned()));
    });
}

/// The kernel has lost it, the engine has not: it is listed and its status is OK.
#[test]
fn a_gpu_that_was_lost_before_the_engine_started() {
    let mut lost = node();
    lost["faults"]["lost_before_start"] = json!([1]);
    alone("gpus::a_gpu_that_was_lost_before_the_engine_started", lost, |client| {
        let client = client.start();
        assert_eq!((client.entities(GPU, 0), client.entities(GPU, 1)), (Ok(vec![0, 1]), Ok(vec![0, 1])));
        let mut status = 0;
        assert_eq!(call!(client, dcgmGetGpuStatus(usize, u32, *mut c_int), client.handle, 1, &mut status), 0);
        assert_eq!(status, 1);
        let (group, fields) = (client.group(&[(GPU, 1)]), client.fields(&[54, 57, 100, 150, 155, 203, 230, 252, 1001]));
        client.watch(group, fields, SECOND);
        for _ in 0..3 {
            client.step(1);
            client.update();
        }
        let readings = client.latest(group, fields).unwrap();
        assert_eq!(readings[0].datum, Datum::Text("GPU-1".to_owned()));
        assert!(!readings[1].is_blank());
        assert!(readings[2..].iter().all(Reading::is_blank), "{readings:?}");
        let no_data: Vec<u16> =
            readings.iter().filter(|reading| reading.status == -14).map(|reading| reading.field).collect();
        assert_eq!(no_data, [230]);
    });
}
