//! Starting, connecting and ending.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use crate::call;
use crate::client::*;

/// A host engine with its own scenario; ended when dropped.
pub struct HostEngine {
    child: Child,
    pub address: String,
}

impl HostEngine {
    pub fn start(client: &Client, scenario: &Json) -> HostEngine {
        client.write("host.json", &scenario.to_string());
        let mut child = Command::new(library_path().with_file_name("dcgm-simulator-hostengine"))
            .args(["--listen", "127.0.0.1:0", "--scenario"])
            .arg(client.directory.join("host.json"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim_end().rsplit(' ').next().unwrap().to_owned();
        HostEngine { child, address }
    }

    pub fn connect(&self, client: &mut Client) -> i32 {
        let address = std::ffi::CString::new(self.address.as_str()).unwrap();
        let mut params = [0x0200_0010u32, 0, 5000, 0];
        call!(
            client,
            dcgmConnect_v2(*const i8, *mut u32, *mut usize),
            address.as_ptr().cast(),
            params.as_mut_ptr(),
            &mut client.handle
        )
    }
}

impl Drop for HostEngine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every call with a session and every call without one hangs as long as the scenario says.
#[test]
fn every_call_can_hang() {
    alone("sessions::every_call_can_hang", node(), |mut client| {
        let hang = |client: &Client, call: &str| {
            let mut node = node();
            node["faults"]["hang_ms"][call] = json!(150);
            client.set_scenario(&node);
            client.write("host.json", &node.to_string());
            Instant::now()
        };
        let hung = |call: &str, since: Instant| {
            assert!(since.elapsed() >= Duration::from_millis(150), "{call} did not hang");
        };
        let engine = HostEngine::start(&client, &node());
        let since = hang(&client, "dcgmInit");
        call!(client, dcgmInit(),);
        hung("dcgmInit", since);
        let since = hang(&client, "dcgmConnect_v2");
        assert_eq!(engine.connect(&mut client), 0);
        hung("dcgmConnect_v2", since);
        let since = hang(&client, "dcgmDisconnect");
        assert_eq!(call!(client, dcgmDisconnect(usize), client.handle), 0);
        hung("dcgmDisconnect", since);
        let since = hang(&client, "dcgmStartEmbedded_v2");
        assert_eq!(client.start_denying(&[]), 0);
        hung("dcgmStartEmbedded_v2", since);
        let since = hang(&client, "dcgmGroupCreate");
        client.new_group().unwrap();
        hung("dcgmGroupCreate", since);
        let since = hang(&client, "dcgmUpdateAllFields");
        client.update();
        hung("dcgmUpdateAllFields", since);
        let since = hang(&client, "dcgmStopEmbedded");
        assert_eq!(call!(client, dcgmStopEmbedded(usize), client.handle), 0);
        hung("dcgmStopEmbedded", since);
        let since = hang(&client, "dcgmShutdown");
        assert_eq!(call!(client, dcgmShutdown(),), 0);
        hung("dcgmShutdown", since);
    });
}

#[test]
fn an_engine_started_without_gpus_stays_blind() {
    alone("sessions::an_engine_started_without_gpus_stays_blind", json!({ "replay": true }), |client| {
        let mut client = client.start();
        assert_eq!(client.entities(GPU, 0), Ok(vec![]));
        client.set_scenario(&node());
        assert_eq!(client.entities(GPU, 0), Ok(vec![]));
        client.restart();
        assert_eq!(client.entities(GPU, 0), Ok(vec![0, 1]));
    });
}

#[test]
fn a_shutdown_frees_the_fields_and_ends_every_session_of_the_process() {
    let test = "sessions::a_shutdown_frees_the_fields_and_ends_every_session_of_the_process";
    alone(test, node(), |client| {
        let mut client = client.start();
        let has_field = |client: &Client| {
            let field: extern "C" fn(u16) -> *const u8 = client.symbol("DcgmFieldGetById");
            !field(150).is_null()
        };
        assert_eq!(call!(client, dcgmInit(),), 0);
        assert!(has_field(&client));
        assert_eq!(call!(client, dcgmShutdown(),), 0);
        assert!(!has_field(&client), "initializations are not counted");
        assert_eq!(call!(client, dcgmUpdateAllFields(usize, i32), client.handle, 1), -10);
        assert_eq!(call!(client, DcgmFieldsInit(),), 0);
        assert!(has_field(&client));
        assert_eq!(call!(client, dcgmInit(),), 0);
        assert_eq!(call!(client, dcgmUpdateAllFields(usize, i32), client.handle, 1), -21, "the engine is gone");
        assert_eq!(client.start_denying(&[]), 0);
    });
}

#[test]
fn a_gpu_without_attributes_keeps_the_engine_from_starting() {
    let mut unreadable = node();
    unreadable["faults"]["unreadable_gpus"] = json!([1]);
    alone("sessions::a_gpu_without_attributes_keeps_the_engine_from_starting", unreadable, |mut client| {
        assert_eq!(client.start_denying(&[]), -7);
        client.set_scenario(&node());
        assert_eq!(client.start_denying(&[]), 0);
    });
}
