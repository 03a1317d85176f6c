//! Health watches.

use serde_json::{Value as Json, json};

use crate::call;
use crate::client::*;

fn ill(version: &str) -> Json {
    let mut node = node();
    node["version"] = json!(version);
    node["health_incidents"] = json!([
        { "gpu": 0, "system": 16, "health": 20, "error_code": 4 },
        { "gpu": 1, "system": 16, "health": 10, "error_code": 131 },
        { "gpu": 0, "system": 1, "health": 10, "error_code": 5, "after_ms": 300 },
        { "gpu": 0, "system": 2, "health": 10, "error_code": 6, "for_ms": 0 },
    ]);
    node
}

fn set(client: &Client, group: usize, systems: u64) -> i32 {
    let mut params = [0x0200_0028u64, group as u64, systems, 0, 0];
    call!(client, dcgmHealthSet_v2(usize, *mut u64), client.handle, params.as_mut_ptr())
}

/// GPU and code of each incident.
fn check(client: &Client, group: usize) -> Result<Vec<(u32, u32)>, i32> {
    let mut response = vec![0u32; 0x10_500c / 4 + 1];
    response[0] = 0x0510_500c;
    let code = call!(client, dcgmHealthCheck(usize, usize, *mut u32), client.handle, group, response.as_mut_ptr());
    let incident = |index: usize| {
        let at = (12 + 1044 * index) / 4;
        (response[at + 1036 / 4 + 1], response[at + 1032 / 4])
    };
    if code == 0 { Ok((0..response[2] as usize).map(incident).collect()) } else { Err(code) }
}

#[test]
fn incidents_since_the_watch_was_set() {
    alone("health::incidents_since_the_watch_was_set", ill("4.6.0"), |client| {
        let client = client.start();
        let (both, first) = (client.group(&[(GPU, 0), (GPU, 1)]), client.group(&[(GPU, 0)]));
        assert_eq!(check(&client, both), Err(-5), "it was not set");
        assert_eq!((set(&client, both, 16), set(&client, first, 0xffff_ffff)), (0, 0));
        assert_eq!(check(&client, both), Ok(vec![(0, 4), (1, 131)]), "of the systems that were asked for");
        let later = client.until(|| Some(check(&client, first).unwrap()).filter(|found| found.len() == 2));
        assert_eq!(later, [(0, 4), (0, 5)]);
        assert_eq!(set(&client, both, 0), 0);
        assert_eq!(check(&client, both), Err(-5));
    });
}

#[test]
fn codes_are_those_of_the_release() {
    alone("health::codes_are_those_of_the_release", ill("4.5.3"), |client| {
        let client = client.start();
        let both = client.group(&[(GPU, 0), (GPU, 1)]);
        assert_eq!(set(&client, both, 16), 0);
        assert_eq!(check(&client, both), Ok(vec![(0, 4)]));
    });
}
