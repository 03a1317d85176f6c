//! What the border to libdcgm offers the rest of the exporter, against the simulated library: identities over sessions,
//! compute instances, other release lines.
//!
//! The library reads its scenario from the environment, so each test is run again in a process of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dcgm_exporter::config::devices::DeviceSelection;
use dcgm_exporter::config::engine::Address;
use dcgm_exporter::dcgm::watch::{FieldGroup, Group, Keep};
use dcgm_exporter::dcgm::{EntityGroup, EntityId, Library, Major, OpenError, Session, Watch};
use dcgm_exporter::inventory::{self, ComputeInstance, Inventory, Kind, Known, Naming, Scope};
use dcgm_exporter::metrics::fatal_xid::FatalXid;
use dcgm_exporter::metrics::schedule::Every;
use dcgm_exporter::metrics::watches::FieldGroups;
use serde_json::{Value, json};

use crate::common::*;

fn stats(directory: &Path) -> Value {
    std::fs::read(directory.join("stats.json"))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default()
}

const DIRECTORY: &str = "DCGM_EXPORTER_TEST_DIRECTORY";

/// Runs `body` in a process of its own, with a directory whose `scenario.json` the library plays.
fn alone(test: &str, plan: &Value, body: impl FnOnce(&Path)) {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        let directory = PathBuf::from(directory);
        body(&directory);
        std::fs::write(directory.join("done"), "").unwrap();
        return;
    }
    let scratch = Scratch::new();
    let path = scratch.write("scenario.json", plan.to_string());
    simulator();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(DIRECTORY, scratch.path(""))
        .env("DCGM_SIMULATOR_SCENARIO", path)
        .env("DCGM_SIMULATOR_STATS", scratch.path("stats.json"))
        .env("DCGM_SIMULATOR_CLOCK", scratch.path("clock"))
        .output()
        .unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", said(&output.stdout), said(&output.stderr));
    assert!(scratch.path("done").exists(), "no test is called '{test}'");
}

fn write(directory: &Path, name: &str, plan: &Value) -> PathBuf {
    let (path, aside) = (directory.join(name), directory.join("aside"));
    std::fs::write(&aside, plan.to_string()).unwrap();
    std::fs::rename(&aside, &path).unwrap();
    path
}

fn look(session: &Rc<Session>, known: &mut Known) -> Inventory {
    let scope = Scope {
        gpus: DeviceSelection::Flex,
        switches: DeviceSelection::Flex,
        cpus: DeviceSelection::Flex,
        kinds: vec![Kind::Gpu, Kind::WholeGpu],
        minors: true,
        names: Naming {
            old_namespace: false,
            hostname_label: "hostname",
            hostname: String::new(),
            replace_blanks_in_model_name: false,
            fake_gpus: false,
            cpu_serials: false,
        },
    };
    inventory::discover(session, &scope, known).unwrap()
}

fn sliced() -> Value {
    let mut plan = scenario(&[0, 1]);
    plan["replay"] = true.into();
    plan["system"]["gpu_instances"] = json!([
        { "parent_gpu": 1, "entity_id": 0, "nvml_gpu_instance_id": 7, "profile": "1g.18gb", "uuid": "MIG-0" },
        { "parent_gpu": 1, "entity_id": 1, "nvml_gpu_instance_id": 8, "profile": "1g.18gb", "uuid": "MIG-1" },
    ]);
    plan["system"]["compute_instances"] =
        json!([{ "id": 4, "instance": 0 }, { "id": 5, "instance": 1 }, { "id": 6, "instance": 1 }]);
    plan
}

#[test]
fn compute_instances_come_from_the_hierarchy() {
    alone("library::compute_instances_come_from_the_hierarchy", &sliced(), |_| {
        let library = Arc::new(Library::open(Some(simulator())).unwrap());
        let session = Rc::new(Session::embedded(&library, &[]).unwrap());
        let inventory = look(&session, &mut Known::default());
        let expected = [(4, 0), (5, 1), (6, 1)].map(|(entity, instance)| ComputeInstance { entity, instance });
        assert_eq!(inventory.compute_instances, expected);
        let identity = |entity: &dcgm_exporter::inventory::Entity| (entity.gpu_uuid.clone(), entity.uuid.clone());
        let identities: Vec<(String, String)> = inventory.entities.iter().map(identity).collect();
        let pair = |gpu: &str, own: &str| (gpu.to_owned(), own.to_owned());
        let whole = pair("GPU-1", "GPU-1");
        assert_eq!(identities, [pair("GPU-0", "GPU-0"), pair("GPU-1", "MIG-0"), pair("GPU-1", "MIG-1"), whole]);
    });
}

/// After XID 119 every text is `<<<NULL>>>`, in the running engine and in a new one.
#[test]
fn what_was_known_stays_after_xid_119() {
    alone("library::what_was_known_stays_after_xid_119", &sliced(), |directory| {
        let library = Arc::new(Library::open(Some(simulator())).unwrap());
        let (mut known, mut plan) = (Known::default(), sliced());
        let session = Rc::new(Session::embedded(&library, &[]).unwrap());
        let before = look(&session, &mut known);
        drop(session);
        plan["kernel_log"] = json!([{ "gpu": 0, "code": 119, "age_ms": 5000 }]);
        write(directory, "scenario.json", &plan);
        let session = Rc::new(Session::embedded(&library, &[]).unwrap());
        session.update_all_fields().unwrap();
        assert_eq!(session.device_attributes(0).unwrap().uuid, "", "the simulator does not play XID 119");
        let after = look(&session, &mut known);
        assert_eq!(after.entities, before.entities);
        // Who knows nothing has nothing to name them by.
        assert_eq!(look(&session, &mut Known::default()).entities, []);
    });
}

/// XID errors are kept for a month, because a new engine stores those of the kernel's log under their old time; once the log
/// is read and GPUs answer, only as long as metrics need them, or a GPU that brings them all the time fills the engine's memory.
#[test]
fn old_xid_errors_are_forgotten_once_gpus_answer() {
    alone("library::old_xid_errors_are_forgotten_once_gpus_answer", &scenario(&[0]), |directory| {
        let library = Arc::new(Library::open(Some(simulator())).unwrap());
        let session = Rc::new(Session::embedded(&library, &[]).unwrap());
        let every = Every::once_per(Duration::from_millis(1));
        let (mut field_groups, mut no_room) = (FieldGroups::default(), Vec::new());
        let mut xids = FatalXid::new(&session, every, &mut field_groups, &mut no_room).unwrap();
        assert!(no_room.is_empty());
        // Plays so many errors, which come one after the other, and polls until the engine has as many samples.
        let mut played = 0;
        let mut keeps = |more: usize, kept: u64| {
            played += 1;
            let mut plan = scenario(&[0]);
            plan["events"] =
                json!([{ "entity": "GPU", "id": 0, "field_id": 230, "value": 31, "count": more, "every_ms": played }]);
            write(directory, "scenario.json", &plan);
            let end = Instant::now() + PATIENCE;
            let mut last = None;
            while last != Some(kept) && Instant::now() < end {
                session.update_all_fields().unwrap();
                last = stats(directory)["kept_samples"].as_u64();
            }
            assert_eq!(last, Some(kept), "{more} more");
        };
        let after = |milliseconds: u64| write(directory, "clock", &json!(milliseconds));
        keeps(20, 20);
        after(3_600_000);
        keeps(1, 21);
        xids.forget_old().unwrap();
        keeps(1, 2);
        after(2 * 3_600_000);
        keeps(1, 1);
        // A slow collection comes before they are dropped.
        xids.set_interval(Every::once_per(Duration::from_secs(3600))).unwrap();
        after(3 * 3_600_000);
        keeps(1, 2);
    });
}

/// An engine has one watch for each entity and field of a session, so a look that ended one of its own on a field that a
/// row watches would end the row's.
#[test]
fn looking_around_ends_no_watch_of_a_row() {
    alone("library::looking_around_ends_no_watch_of_a_row", &sliced(), |directory| {
        let library = Arc::new(Library::open(Some(simulator())).unwrap());
        let session = Rc::new(Session::embedded(&library, &[]).unwrap());
        let mut known = Known::default();
        let inventory = look(&session, &mut known);
        let watch = |entity: EntityId, fields: &[u16]| {
            let group = Rc::new(Group::new(&session, &[entity], |_, error| panic!("{error}")).unwrap());
            let fields = Rc::new(FieldGroup::new(&session, fields).unwrap());
            Watch::new(&group, &fields, Duration::from_micros(1), Keep::Latest).unwrap()
        };
        let rows = [
            watch(EntityId::new(EntityGroup::Instance, 0), &[50, 54]),
            watch(EntityId::new(EntityGroup::Gpu, 0), &[55, 63]),
        ];
        let stamps = || {
            session.update_all_fields().unwrap();
            let mut stamps = Vec::new();
            for row in &rows {
                row.latest(&mut |_, reading| stamps.push((reading.field, reading.timestamp))).unwrap();
            }
            stamps
        };
        stamps();
        // Another instance comes, so that something is to be asked.
        let mut plan = sliced();
        plan["system"]["gpu_instances"].as_array_mut().unwrap().push(json!(
            { "parent_gpu": 0, "entity_id": 9, "nvml_gpu_instance_id": 7, "profile": "1g.18gb", "uuid": "MIG-9" }
        ));
        write(directory, "scenario.json", &plan);
        assert_ne!(look(&session, &mut known).entities, inventory.entities);
        assert!(inventory::oldest_architecture(&session, &[0, 1]).is_some());
        let before = stamps();
        std::thread::sleep(Duration::from_millis(5));
        for (before, after) in before.iter().zip(stamps()) {
            assert!(after.1 > before.1, "field {} is not watched any more", after.0);
        }
        assert_eq!(before.len(), 4);
    });
}

#[test]
fn supported_gpus_are_those_that_are_bound() {
    let mut plan = scenario(&[0, 1]);
    plan["faults"] = json!({ "unbound_gpus": [0] });
    alone("library::supported_gpus_are_those_that_are_bound", &plan, |_| {
        let library = Arc::new(Library::open(Some(simulator())).unwrap());
        let session = Rc::new(Session::embedded(&library, &[]).unwrap());
        assert_eq!(session.entities(EntityGroup::Gpu).unwrap(), [0, 1]);
        assert_eq!(session.supported_entities(EntityGroup::Gpu).unwrap(), [1]);
        assert_eq!(look(&session, &mut Known::default()).gpus, [1]);
    });
}

fn lines(test: &str, version: &'static str, engine_version: &'static str, expected: &'static [&str]) {
    let mut plan = scenario(&[0]);
    plan["version"] = version.into();
    alone(test, &plan.clone(), |directory| {
        plan["engine_version"] = engine_version.into();
        let remote = write(directory, "remote.json", &plan);
        let socket = directory.join("socket").to_string_lossy().into_owned();
        let _engine = HostEngine::start(["--socket", &socket], &remote);
        let library = Arc::new(Library::open(Some(simulator())).unwrap());
        let session = Session::remote(&library, &Address::Unix(socket), Duration::from_secs(5)).unwrap();
        let said = session.line_mismatch().unwrap_or_default();
        assert_eq!(said.is_empty(), expected.is_empty(), "{said}");
        assert!(expected.iter().all(|part| said.contains(part)), "{said}");
        let embedded = Session::embedded(&library, &[]).unwrap();
        assert_eq!(embedded.line_mismatch(), None);
    });
}

#[test]
fn a_newer_library_than_the_engine() {
    let expected = &["libdcgm 4.6.0", "DCGM 3.3.9", "libdcgm.so.3 (package datacenter-gpu-manager)"];
    lines("library::a_newer_library_than_the_engine", "4.6.0", "3.3.9", expected);
}

#[test]
fn a_newer_engine_than_the_library() {
    let expected = &["libdcgm 3.3.9", "DCGM 4.6.0", "libdcgm.so.4 (package datacenter-gpu-manager-4-core)"];
    lines("library::a_newer_engine_than_the_library", "3.3.9", "4.6.0", expected);
}

#[test]
fn a_library_and_an_engine_of_one_line() {
    lines("library::a_library_and_an_engine_of_one_line", "4.6.0", "4.5.3", &[]);
}

#[test]
fn another_line_beside_the_library() {
    let mut plan = scenario(&[0]);
    plan["version"] = "4.6.0".into();
    alone("library::another_line_beside_the_library", &plan.clone(), |directory| {
        let newer = directory.join("libdcgm.so.4");
        std::fs::copy(simulator(), &newer).unwrap();
        let library = Library::open(Some(&newer)).unwrap();
        assert_eq!((library.major(), library.others()), (Major::V4, vec![]));
        let Err(OpenError::NotFound { tried, .. }) = library.for_line(Major::V3) else { panic!("there is none") };
        assert_eq!(tried[0].0, "libdcgm.so.3");

        let older = directory.join("libdcgm.so.3");
        std::fs::copy(simulator(), &older).unwrap();
        assert_eq!(library.others(), [(Major::V3, older.clone())]);
        // A file's name is not its line.
        assert!(matches!(library.for_line(Major::V3), Err(OpenError::OtherLine { .. })));
        plan["version"] = "3.3.9".into();
        write(directory, "scenario.json", &plan);
        let other = library.for_line(Major::V3).unwrap();
        assert_eq!((other.major(), other.version(), other.path()), (Major::V3, "3.3.9", older.as_path()));
    });
}
