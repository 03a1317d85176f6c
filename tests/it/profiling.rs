//! Profiling makes way: a job or a file pauses it, only where it has to, and it comes back.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::*;
use crate::node::*;

const COUNTERS: &str =
    "DCGM_FI_DEV_GPU_TEMP, gauge, t\nDCGM_FI_PROF_GR_ENGINE_ACTIVE, gauge, e\nDCGM_FI_PROF_DRAM_ACTIVE, gauge, d\n";
const HOPPER: i64 = 9;
const AMPERE: i64 = 8;

/// GPUs of this generation, whose engines are active for a share of 0.5.
fn plan(gpus: &[u32], generation: i64) -> Value {
    let mut plan = scenario(gpus);
    plan["supported_profiling_fields"] = json!([1001, 1005]);
    for gpu in plan["latest_values"].as_array_mut().unwrap() {
        gpu["fields"]["63"] = json!({ "type": "int64", "value": (generation << 16).to_string() });
        for field in ["1001", "1005"] {
            gpu["fields"][field] = json!({ "type": "double", "value": "0.5" });
        }
    }
    plan
}

/// A node with a job map and a file for pauses by hand.
struct Pausing {
    node: Node,
}

impl Pausing {
    fn new(plan: Value) -> Pausing {
        let node = Node::new(plan);
        std::fs::create_dir_all(node.scratch.path("jobs")).unwrap();
        std::fs::create_dir_all(node.scratch.path("run")).unwrap();
        Pausing { node }
    }

    fn file(&self) -> PathBuf {
        self.node.scratch.path("run/pause-profiling")
    }

    fn command(&self, counters: &str) -> Command {
        let mut command = self.node.exporter(counters);
        command.arg("--hpc-job-mapping-dir").arg(self.node.scratch.path("jobs"));
        command.arg("--pause-profiling-file").arg(self.file());
        command
    }

    fn start(&self) -> Exporter {
        Exporter::start(&mut self.command(COUNTERS))
    }

    /// What a prolog writes, the GPU last.
    fn job(&self, gpu: &str, ids: &str, pausing: &str) {
        self.node.scratch.write(&format!("jobs/job.{pausing}"), "user=ada\nprofiling=pause\n");
        self.node.scratch.write(&format!("jobs/{gpu}"), ids);
    }

    fn end(&self, gpu: &str) {
        std::fs::remove_file(self.node.scratch.path("jobs").join(gpu)).unwrap();
    }

    fn profiled(&self) -> Value {
        self.node.stats()["profiled_gpus"].clone()
    }
}

/// Values of a profiling metric, by the label that comes first.
fn active(page: &str) -> Vec<String> {
    let lines = page.lines().filter(|line| line.starts_with("DCGM_FI_PROF_GR_ENGINE_ACTIVE{"));
    lines.map(|line| line.split('"').nth(1).unwrap().to_owned()).collect()
}

fn paused(page: &str) -> Vec<(String, f64)> {
    let lines = page.lines().filter(|line| line.starts_with("dcgm_exporter_profiling_paused{"));
    let sample = |line: &str| {
        assert!(line.contains(",UUID=\"GPU-") && line.contains("pci_bus_id="), "{line}");
        (line.split('"').nth(1).unwrap().to_owned(), line.rsplit(' ').next().unwrap().parse().unwrap())
    };
    lines.map(sample).collect()
}

fn states(page: &str) -> Vec<f64> {
    paused(page).into_iter().map(|(_, state)| state).collect()
}

/// The first page on which these GPUs, and no others, have a profiling metric.
fn profiles(exporter: &mut Exporter, what: &str, gpus: &[&str]) -> String {
    exporter.page_with(what, |page| active(page) == gpus)
}

fn never_false(page: &str) {
    for line in page.lines().filter(|line| line.starts_with("DCGM_FI_PROF_")) {
        assert!(line.ends_with(" 0.500000") || line.ends_with(" 0.5"), "{line}");
    }
}

/// Neither health nor counts of trouble show a pause.
fn is_well(exporter: &mut Exporter, page: &str) {
    assert!(is_in_state(page, "running"), "{page}");
    assert!(page.contains("dcgm_exporter_profiling_rewatches_total 0\n"), "{page}");
    assert_eq!(all_restarts(page), 0.0);
    let health = exporter.get("/health");
    assert_eq!((health.status, health.body.contains("profiling")), (200, false), "{}", health.body);
}

#[test]
fn a_job_pauses_its_gpu_and_no_other() {
    let node = Pausing::new(plan(&[0, 1, 2], HOPPER));
    let mut exporter = node.start();
    let page = profiles(&mut exporter, "all are profiled", &["0", "1", "2"]);
    assert_eq!(states(&page), [0.0, 0.0, 0.0], "{page}");
    for _ in 0..2 {
        node.job("1", "17\n", "17");
        let page = profiles(&mut exporter, "one is paused", &["0", "2"]);
        assert_eq!(states(&page), [0.0, 1.0, 0.0], "{page}");
        assert_eq!(temperatures(&page), 3, "{page}");
        // Long enough for silence to be noticed.
        let page = after_collections(&mut exporter, 12);
        is_well(&mut exporter, &page);
        assert_eq!((active(&page), node.profiled()), (vec!["0".to_owned(), "2".to_owned()], json!([0, 2])), "{page}");
        node.end("1");
        let page = profiles(&mut exporter, "it is profiled again", &["0", "1", "2"]);
        never_false(&page);
        let page = after_collections(&mut exporter, 12);
        assert_eq!((states(&page), node.profiled()), (vec![0.0; 3], json!([0, 1, 2])), "{page}");
        is_well(&mut exporter, &page);
    }
    let log = exporter.log();
    let sentence = "profiling fields are not watched on GPU 1 until job 17 ends: its file job.17 has the line \
                    profiling=pause";
    assert_eq!(log.matches(sentence).count(), 2, "{log}");
    assert_eq!(log.matches("profiling fields are watched again on GPU 1").count(), 2, "{log}");
    assert_eq!(exporter.stop().0.code(), Some(0));
    assert_eq!(node.node.stats()["violations"], json!([]));
}

#[test]
fn links_of_a_paused_gpu_are_paused_with_it() {
    const TX: &str = "DCGM_FI_PROF_NVLINK_TX_BYTES_PER_LINK";
    const RX: &str = "DCGM_FI_PROF_NVLINK_RX_BYTES_PER_LINK";
    let mut nodes = plan(&[0, 1], HOPPER);
    nodes["replay"] = true.into();
    nodes["supported_profiling_fields"] = json!([1001, 1005, 1532, 1533]);
    let links = |gpu: u32| json!({ "parent": "GPU", "parent_id": gpu, "states": [3, 3, 3] });
    nodes["system"]["links"] = json!([links(0), links(1)]);
    let of_links = format!("{TX}, gauge, t\n{RX}, gauge, r\nDCGM_FI_DEV_NVLINK_GET_STATE, gauge, s\n");
    // Beside profiling fields of GPUs, and alone.
    for counters in [format!("{COUNTERS}{of_links}"), format!("DCGM_FI_DEV_GPU_TEMP, gauge, t\n{of_links}")] {
        let node = Pausing::new(nodes.clone());
        let mut exporter = Exporter::start(&mut node.command(&counters));
        exporter.page_with("links are profiled", |page| [TX, RX].iter().all(|name| series(page, name) == 6));
        for _ in 0..2 {
            node.job("1", "17\n", "17");
            let page = exporter.page_with("those of GPU 1 are paused", |page| series(page, TX) == 3);
            assert_eq!((series(&page, RX), states(&page)), (3, vec![0.0, 1.0]), "{page}");
            let page = after_collections(&mut exporter, 12);
            is_well(&mut exporter, &page);
            assert!([TX, RX].iter().all(|name| series(&page, name) == 3), "{page}");
            assert_eq!(series(&page, "DCGM_FI_DEV_NVLINK_GET_STATE"), 6, "{page}");
            assert_eq!(node.profiled(), json!([0]));
            node.end("1");
            exporter.page_with("they are profiled again", |page| [TX, RX].iter().all(|name| series(page, name) == 6));
            let page = after_collections(&mut exporter, 12);
            assert_eq!((states(&page), node.profiled()), (vec![0.0; 2], json!([0, 1])), "{page}");
            is_well(&mut exporter, &page);
        }
        assert_eq!(exporter.stop().0.code(), Some(0));
        assert_eq!(node.node.stats()["violations"], json!([]));
    }
}

/// Other fields and other GPUs have a new sample at every collection.
#[test]
fn nothing_else_is_disturbed() {
    let mut plan = plan(&[0, 1], HOPPER);
    let counter = json!({ "type": "int64", "value": "0", "per_second": 1000 });
    plan["supported_profiling_fields"] = json!([1001, 1009]);
    plan["latest_values"][0]["fields"]["156"] = counter.clone();
    plan["latest_values"][1]["fields"]["1009"] = counter;
    let node = Pausing::new(plan);
    let more = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION, counter, e\nDCGM_FI_PROF_PCIE_TX_BYTES, gauge, p\n";
    let mut exporter = Exporter::start(&mut node.command(&format!("{COUNTERS}{more}")));
    profiles(&mut exporter, "both are profiled", &["0", "1"]);
    let (mut last, mut changes) = ((0.0, 0.0, 0.0), 0);
    while changes < 10 {
        if changes % 2 == 0 {
            node.job("0", "17\n", "17")
        } else {
            node.end("0")
        }
        let (until, mut is_seen) = (last.0 + 4.0, false);
        while last.0 < until || !is_seen {
            let page = exporter.page();
            let of = |parts: &[&str]| value(&page, parts).unwrap_or_else(|| panic!("{parts:?} {page}"));
            let energy = of(&["DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{", "gpu=\"0\""]);
            let now = (collections(&page), energy, of(&["DCGM_FI_PROF_PCIE_TX_BYTES{", "gpu=\"1\""]));
            assert!(now.0 == last.0 || now.1 > last.1 && now.2 > last.2, "{last:?}, {now:?}, change {changes}");
            (last, is_seen) = (now, states(&page)[0] == f64::from((changes + 1) % 2));
        }
        changes += 1;
    }
}

#[test]
fn before_hopper_a_job_pauses_all_gpus() {
    let mut plan = plan(&[0, 1], AMPERE);
    plan["faults"]["profiler"] = json!(false);
    let mut node = Pausing::new(plan);
    let mut exporter = node.start();
    profiles(&mut exporter, "both are profiled", &["0", "1"]);
    node.job("1", "17\n", "17");
    let page = profiles(&mut exporter, "both are paused", &[]);
    assert_eq!((states(&page), temperatures(&page)), (vec![1.0, 1.0], 2), "{page}");
    let page = after_collections(&mut exporter, 2);
    assert_eq!(node.profiled(), json!([]), "{page}");
    // The profiler runs and is not disturbed.
    node.node.plan["faults"]["profiler"] = json!(true);
    node.node.play();
    let page = after_collections(&mut exporter, 8);
    is_well(&mut exporter, &page);
    let errors = value(&page, &["dcgm_exporter_errors_total{kind=\"watch\"}"]);
    // It outlives its job.
    node.end("1");
    exporter.until("the engine refuses", |exporter| {
        exporter.log().contains("profiling fields cannot be watched again on GPUs 0, 1").then_some(())
    });
    let page = after_collections(&mut exporter, 3);
    assert_eq!((states(&page), temperatures(&page)), (vec![1.0, 1.0], 2), "{page}");
    assert!(value(&page, &["dcgm_exporter_errors_total{kind=\"watch\"}"]) > errors, "{page}");
    node.node.plan["faults"]["profiler"] = json!(false);
    node.node.play();
    let page = profiles(&mut exporter, "both are profiled again", &["0", "1"]);
    never_false(&page);
    assert_eq!(states(&page), [0.0, 0.0], "{page}");
    let log = exporter.log();
    assert!(
        log.contains("profiling fields are not watched on GPU 0 until job 17 ends: its file has the line profiling=pause, and before Hopper"),
        "{log}"
    );
}

/// The value from before a pause is still in the engine, which answers it until there is a new one.
#[test]
fn no_value_from_before_the_pause_is_shown_after_it() {
    let mut node = Pausing::new(plan(&[0, 1], HOPPER));
    let mut exporter = Exporter::start(node.command(COUNTERS).args(["-c", "700ms"]));
    profiles(&mut exporter, "both are profiled", &["0", "1"]);
    node.job("0", "17\n", "17");
    profiles(&mut exporter, "one is paused", &["1"]);
    node.node.plan["latest_values"][0]["fields"]["1001"]["value"] = "0.75".into();
    node.node.play();
    after_collections(&mut exporter, 2);
    // So that the next collection comes before the field is due.
    std::thread::sleep(Duration::from_millis(350));
    node.end("0");
    let page = exporter.page_with("it is back", |page| {
        let of_one = value(page, &["DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu=\"0\""]);
        assert!(of_one.is_none_or(|value| value == 0.75), "{page}");
        of_one.is_some()
    });
    assert_eq!(states(&page), [0.0, 0.0], "{page}");
}

#[test]
fn a_job_that_was_there_before_the_exporter() {
    let node = Pausing::new(plan(&[0, 1], HOPPER));
    node.job("0", "17\n", "17");
    let mut exporter = node.start();
    let page = profiles(&mut exporter, "the other is profiled", &["1"]);
    assert_eq!(states(&page), [1.0, 0.0], "{page}");
    after_collections(&mut exporter, 1);
    let polls = node.node.stats()["polls"].clone();
    let page = after_collections(&mut exporter, 8);
    is_well(&mut exporter, &page);
    assert_eq!(node.profiled(), json!([1]), "{polls}");
    node.end("0");
    never_false(&profiles(&mut exporter, "both are profiled", &["0", "1"]));
}

/// An engine with room for one more group, or for none: the pause comes. Without room not even a GPU's generation can be
/// asked, and it counts as an old one.
#[test]
fn an_engine_without_room() {
    for (free, of_others) in [(1, &["1"][..]), (0, &[])] {
        let mut node = Pausing::new(plan(&[0, 1], HOPPER));
        let mut exporter = node.start();
        profiles(&mut exporter, "both are profiled", &["0", "1"]);
        // Groups that are made for a moment at the start are gone by then.
        after_collections(&mut exporter, 10);
        let used = node.node.stats()["groups"].as_u64().unwrap();
        node.node.plan["taken_groups"] = json!(62 - used - free);
        node.node.play();
        node.job("0", "17\n", "17");
        let page = profiles(&mut exporter, "it is paused", of_others);
        assert_eq!(temperatures(&page), 2, "{page}");
        let page = after_collections(&mut exporter, 8);
        assert_eq!((active(&page).len(), temperatures(&page)), (of_others.len(), 2), "{page}");
        is_well(&mut exporter, &page);
        node.node.plan["taken_groups"] = json!(0);
        node.node.play();
        node.end("0");
        profiles(&mut exporter, "both are profiled again", &["0", "1"]);
    }
}

/// Not even for a moment: before Hopper that would cost the profiler its hardware.
#[test]
fn what_is_paused_at_the_start_is_never_sampled() {
    let node = Pausing::new(plan(&[0], AMPERE));
    std::fs::write(node.file(), "").unwrap();
    let mut exporter = node.start();
    exporter.page_with("it is there", |page| states(page) == [1.0] && temperatures(page) == 1);
    let page = after_collections(&mut exporter, 8);
    is_well(&mut exporter, &page);
    let polls = node.node.stats()["polls"].clone();
    assert!(polls["150"].as_u64() > Some(5) && polls["1001"].is_null() && polls["1005"].is_null(), "{polls}");
    exporter.signal(Signal::HUP);
    exporter.until("it was read again", |exporter| exporter.log().contains("was read again").then_some(()));
    after_collections(&mut exporter, 3);
    assert!(node.node.stats()["polls"]["1001"].is_null());
}

/// Beside another profiler the engine may not even say what it supports.
#[test]
fn support_that_is_not_known_before_the_pause_ends() {
    let mut plan = plan(&[0, 1], AMPERE);
    plan["faults"]["fail"] = json!([{ "call": "dcgmProfGetSupportedMetricGroups", "code": -37 }]);
    let mut node = Pausing::new(plan);
    std::fs::write(node.file(), "").unwrap();
    let mut exporter = node.start();
    let page = exporter.page_with("it runs", |page| temperatures(page) == 2);
    assert!(paused(&page).is_empty(), "{page}");
    node.node.plan["faults"]["fail"] = json!([]);
    node.node.play();
    std::fs::remove_file(node.file()).unwrap();
    let page = profiles(&mut exporter, "both are profiled", &["0", "1"]);
    assert_eq!(states(&page), [0.0, 0.0], "{page}");
}

/// A GPU that the engine refuses to watch again is tried again also after everything else was watched anew.
#[test]
fn a_refusal_outlives_a_reload() {
    let mut node = Pausing::new(plan(&[0, 1], AMPERE));
    let mut exporter = node.start();
    profiles(&mut exporter, "both are profiled", &["0", "1"]);
    std::fs::write(node.file(), "").unwrap();
    profiles(&mut exporter, "both are paused", &[]);
    node.node.plan["faults"]["profiler"] = json!(true);
    node.node.play();
    std::fs::remove_file(node.file()).unwrap();
    exporter.until("it is refused", |exporter| exporter.log().contains("cannot be watched again").then_some(()));
    node.node.scratch.write("counters.csv", format!("{COUNTERS}DCGM_FI_DEV_SM_CLOCK, gauge, c\n"));
    exporter.until("it was read again", |exporter| exporter.log().contains("was read again").then_some(()));
    let page = after_collections(&mut exporter, 5);
    assert_eq!((states(&page), temperatures(&page)), (vec![1.0, 1.0], 2), "{page}");
    node.node.plan["faults"]["profiler"] = json!(false);
    node.node.play();
    profiles(&mut exporter, "both are profiled again", &["0", "1"]);
}

#[test]
fn quick_changes_end_in_the_last_state() {
    let node = Pausing::new(plan(&[0, 1], HOPPER));
    let mut exporter = node.start();
    profiles(&mut exporter, "both are profiled", &["0", "1"]);
    for round in 0..30 {
        node.job("0", "17\n", "17");
        if round % 3 == 0 {
            std::thread::sleep(Duration::from_millis(40));
        }
        node.job("1", "18\n", "18");
        node.end("0");
        if round % 2 == 0 {
            std::fs::write(node.file(), "").unwrap();
            std::fs::remove_file(node.file()).unwrap();
        }
        node.end("1");
    }
    node.job("1", "19\n", "19");
    let page = profiles(&mut exporter, "the last state", &["0"]);
    never_false(&page);
    let page = after_collections(&mut exporter, 8);
    is_well(&mut exporter, &page);
    assert_eq!((states(&page), node.profiled()), (vec![0.0, 1.0], json!([0])), "{page}");
    node.end("1");
    profiles(&mut exporter, "both are profiled", &["0", "1"]);
    // Neither groups nor watches have been left over.
    let stats = node.node.stats();
    assert!(stats["groups"].as_u64() < Some(20) && stats["violations"] == json!([]), "{stats}");
    drop(exporter);
}

#[test]
fn two_jobs_on_one_gpu_of_which_one_pauses() {
    let node = Pausing::new(plan(&[0, 1], HOPPER));
    let mut exporter = node.start();
    node.node.scratch.write("jobs/job.16", "user=bob\nprofiling=on\n");
    node.node.scratch.write("jobs/0", "16\n");
    exporter.page_with("the first is there", |page| page.contains("hpc_job=\"16\""));
    profiles(&mut exporter, "both are profiled", &["0", "1"]);
    assert!(exporter.log().contains("'pause' is the only value of profiling"), "{}", exporter.log());
    node.job("0", "16\n17\n", "17");
    profiles(&mut exporter, "it is paused", &["1"]);
    node.node.scratch.write("jobs/0", "16\n");
    profiles(&mut exporter, "the other goes on", &["0", "1"]);
}

#[test]
fn an_instances_job_pauses_its_gpu() {
    let mut plan = plan(&[0, 1], HOPPER);
    let instance = |id: u32| json!({ "parent_gpu": 0, "entity_id": id, "nvml_gpu_instance_id": 7 + id, "profile": "1g.18gb", "uuid": format!("MIG-{id}") });
    plan["system"]["gpu_instances"] = json!([instance(0), instance(1)]);
    for id in 0..2 {
        let value = json!({ "entity": "GPU_I", "id": id, "fields": { "150": { "type": "int64", "value": "40" },
            "1001": { "type": "double", "value": "0.5" }, "1005": { "type": "double", "value": "0.5" } } });
        plan["latest_values"].as_array_mut().unwrap().push(value);
    }
    let node = Pausing::new(plan);
    let mut exporter = node.start();
    profiles(&mut exporter, "all are profiled", &["0", "0", "1"]);
    let before = effort(&node, &mut exporter);
    node.job("0.8", "17\n", "17");
    let page = profiles(&mut exporter, "both instances are paused", &["1"]);
    assert_eq!(states(&page), [1.0, 1.0, 0.0], "{page}");
    assert!(page.contains("dcgm_exporter_profiling_paused{gpu=\"0\"") && page.contains("GPU_I_ID=\"8\""), "{page}");
    let page = after_collections(&mut exporter, 12);
    is_well(&mut exporter, &page);
    assert_eq!((temperatures(&page), node.profiled()), (3, json!([1])), "{page}");
    node.end("0.8");
    never_false(&profiles(&mut exporter, "all are profiled", &["0", "0", "1"]));
    assert_eq!(effort(&node, &mut exporter), before);
}

#[test]
fn the_file_pauses_all_gpus() {
    let node = Pausing::new(plan(&[0, 1], HOPPER));
    let mut exporter = Exporter::start(node.command(COUNTERS).args(["-c", "1h"]));
    profiles(&mut exporter, "both are profiled", &["0", "1"]);
    std::fs::write(node.file(), "").unwrap();
    let page = profiles(&mut exporter, "both are paused", &[]);
    assert_eq!((states(&page), temperatures(&page)), (vec![1.0, 1.0], 2), "{page}");
    let text = exporter.get("/?text").body;
    assert!(text.contains("paused on GPUs 0, 1 (by hand)"), "{text}");
    std::fs::remove_file(node.file()).unwrap();
    exporter.page_with("they are not paused", |page| states(page) == [0.0, 0.0]);
    let log = exporter.log();
    let sentence = format!("profiling fields are not watched on GPUs 0, 1 until {} is removed", node.file().display());
    assert!(log.contains(&sentence) && log.contains("profiling fields are watched again on GPUs 0, 1"), "{log}");
}

/// The directory comes later, whole, and goes again: the collection that would show it is an hour away.
#[test]
fn a_directory_that_comes_with_the_file_in_it() {
    let node = Pausing::new(plan(&[0], HOPPER));
    let [run, aside] = ["run", "aside"].map(|name| node.node.scratch.path(name));
    std::fs::write(node.file(), "").unwrap();
    std::fs::rename(&run, &aside).unwrap();
    let mut exporter = Exporter::start(node.command(COUNTERS).args(["-c", "1h"]));
    profiles(&mut exporter, "there is no directory", &["0"]);
    for round in 0..3 {
        std::fs::rename(&aside, &run).unwrap();
        exporter.page_with(&format!("the file has come, round {round}"), |page| states(page) == [1.0]);
        std::fs::rename(&run, &aside).unwrap();
        exporter.page_with(&format!("it is gone, round {round}"), |page| states(page) == [0.0]);
    }
}

#[test]
fn what_is_no_file_of_roots_pauses_nothing() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let node = Pausing::new(plan(&[0], HOPPER));
    let (file, run) = (node.file(), node.node.scratch.path("run"));
    let mut exporter = node.start();
    profiles(&mut exporter, "it is profiled", &["0"]);
    let chmod = |path: &PathBuf, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    let mut refuses = |what: &str, count: usize| {
        exporter.until(what, |exporter| {
            (exporter.log().matches("the file that pauses profiling is ignored").count() == count).then_some(())
        });
        let page = after_collections(&mut exporter, 15);
        assert_eq!((states(&page), active(&page)), (vec![0.0], vec!["0".to_owned()]), "{what}: {page}");
        assert_eq!(exporter.log().matches("the file that pauses profiling is ignored").count(), count, "said once");
    };
    std::fs::create_dir(&file).unwrap();
    refuses("a directory", 1);
    std::fs::remove_dir(&file).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    // The same sentence.
    refuses("a FIFO", 1);
    std::fs::remove_file(&file).unwrap();
    symlink("/etc/passwd", &file).unwrap();
    refuses("a link", 1);
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, "").unwrap();
    chmod(&run, 0o777);
    drop(exporter);
    let mut exporter = node.start();
    let page = profiles(&mut exporter, "it is profiled", &["0"]);
    assert_eq!(states(&page), [0.0], "{page}");
    assert!(exporter.log().contains("has mode 0777, others can write there"), "{}", exporter.log());
    chmod(&run, 0o755);
    profiles(&mut exporter, "now it counts", &[]);
}

/// Only the GPU's own directory entry says whose job it is: facts of a job without a GPU pause nothing.
#[test]
fn facts_alone_pause_nothing() {
    let node = Pausing::new(plan(&[0], HOPPER));
    node.node.scratch.write("jobs/job.17", "profiling=pause\n");
    node.node.scratch.write("jobs/0", "18\n");
    node.node.scratch.write("jobs/job.18", "user=x profiling=pause\njob_name=profiling=pause\nPROFILING=pause\n");
    let mut exporter = node.start();
    let page = profiles(&mut exporter, "it is profiled", &["0"]);
    assert_eq!(states(&page), [0.0], "{page}");
}

#[test]
fn a_pause_outlives_releases_and_engines() {
    let node = Pausing::new(plan(&[0, 1], AMPERE));
    let (engine, address) = node.node.host_engine();
    let mut engine = Some(engine);
    node.job("0", "17\n", "17");
    let mut exporter = Exporter::start(node.command(COUNTERS).args(["-r", &address]));
    exporter.page_with("it is paused", |page| states(page) == [1.0, 1.0] && temperatures(page) == 2);
    for round in 0..2 {
        drop(engine.take());
        exporter.page_with("it is lost", |page| temperatures(page) == 0);
        if round == 1 {
            // It ends while nobody is there.
            node.end("0");
        }
        engine = Some(node.node.host_engine_again().0);
        let wanted = [1.0, 0.0][round];
        let page = exporter.page_with("it is back", |page| states(page) == [wanted; 2] && temperatures(page) == 2);
        assert!(active(&page).is_empty() || round == 1, "{page}");
    }
    profiles(&mut exporter, "both are profiled", &["0", "1"]);
    node.job("1", "18\n", "18");
    profiles(&mut exporter, "both are paused", &[]);
    exporter.signal(Signal::USR1);
    exporter.page_with("it is released", |page| is_in_state(page, "released"));
    exporter.signal(Signal::USR2);
    exporter.page_with("it is back", |page| states(page) == [1.0, 1.0] && temperatures(page) == 2);
    let page = after_collections(&mut exporter, 8);
    assert!(active(&page).is_empty() && is_in_state(&page, "running"), "{page}");
    node.end("1");
    never_false(&profiles(&mut exporter, "both are profiled", &["0", "1"]));
}

/// A new engine has samples of an hour ago, which are from after the pause all the same.
#[test]
fn a_clock_that_is_set_back_after_a_pause() {
    let node = Pausing::new(plan(&[0, 1], HOPPER));
    let mut command = node.command(COUNTERS);
    let mut exporter = Exporter::start(node.node.with_clock(&mut command));
    profiles(&mut exporter, "both are profiled", &["0", "1"]);
    node.job("0", "17\n", "17");
    profiles(&mut exporter, "one is paused", &["1"]);
    node.end("0");
    profiles(&mut exporter, "both are profiled", &["0", "1"]);
    node.job("1", "18\n", "18");
    profiles(&mut exporter, "the other is paused", &["0"]);
    node.node.set_clock(-3_600_000);
    let page = exporter
        .page_with("the engine was restarted", |page| restarts(page, "clock_step") == 1.0 && temperatures(page) == 2);
    assert_eq!(states(&page), [0.0, 1.0], "{page}");
    profiles(&mut exporter, "as before", &["0"]);
    node.end("1");
    profiles(&mut exporter, "both are profiled", &["0", "1"]);
}

/// A counters file of profiling fields alone: a GPU of which nothing is asked is not lost.
#[test]
fn a_gpu_of_which_nothing_else_is_asked() {
    let node = Pausing::new(plan(&[0], AMPERE));
    let mut exporter = Exporter::start(&mut node.command("DCGM_FI_PROF_GR_ENGINE_ACTIVE, gauge, e\n"));
    profiles(&mut exporter, "it is profiled", &["0"]);
    std::fs::write(node.file(), "").unwrap();
    profiles(&mut exporter, "it is paused", &[]);
    let page = after_collections(&mut exporter, 15);
    is_well(&mut exporter, &page);
    assert_eq!(value(&page, &["dcgm_exporter_entity_up{gpu=\"0\""]), Some(1.0), "{page}");
    std::fs::remove_file(node.file()).unwrap();
    profiles(&mut exporter, "it is profiled again", &["0"]);
}

/// Without profiling fields there is nothing to pause, and nothing to say.
#[test]
fn without_profiling_fields_there_is_no_metric() {
    let node = Pausing::new(plan(&[0], HOPPER));
    std::fs::write(node.file(), "").unwrap();
    let mut exporter = Exporter::start(&mut node.command(GPU_TEMP));
    let page = exporter.page_with("it runs", |page| temperatures(page) == 1);
    assert!(paused(&page).is_empty() && !exporter.log().contains("profiling fields"), "{page}");
}

/// The scraper's pace changes the interval of all watches; what is paused stays so.
#[test]
fn a_change_of_the_interval_watches_nothing_that_is_paused() {
    let node = Pausing::new(plan(&[0, 1], HOPPER));
    let mut exporter = Exporter::start(node.command(COUNTERS).args(["-c", "1s", "--min-collect-interval", "500ms"]));
    profiles(&mut exporter, "both are profiled", &["0", "1"]);
    node.job("0", "17\n", "17");
    exporter.page_with("one is paused", |page| states(page) == [1.0, 0.0]);
    let (start, period) = (Instant::now(), Duration::from_millis(1500));
    for scrape in 1.. {
        std::thread::sleep((start + period * scrape).saturating_duration_since(Instant::now()));
        exporter.get("/metrics");
        if exporter.log().contains("collecting just before each scrape") {
            break;
        }
        assert!(scrape < 20, "{}", exporter.log());
    }
    let page = after_collections(&mut exporter, 2);
    assert_eq!((states(&page), node.profiled()), (vec![1.0, 0.0], json!([1])), "{page}");
}

/// The first watch after a pause may be a fresh one. What it is refused is tried again at every collection, too.
#[test]
fn a_refusal_after_a_release() {
    let mut node = Pausing::new(plan(&[0, 1], AMPERE));
    let mut exporter = node.start();
    profiles(&mut exporter, "both are profiled", &["0", "1"]);
    std::fs::write(node.file(), "").unwrap();
    profiles(&mut exporter, "both are paused", &[]);
    exporter.signal(Signal::USR1);
    exporter.page_with("it is released", |page| is_in_state(page, "released"));
    std::fs::remove_file(node.file()).unwrap();
    node.node.plan["faults"]["profiler"] = json!(true);
    node.node.play();
    exporter.signal(Signal::USR2);
    exporter.page_with("it is back", |page| temperatures(page) == 2);
    let refused = "profiling fields cannot be watched again on GPU";
    exporter.until("it is refused", |exporter| exporter.log().contains(refused).then_some(()));
    let page = after_collections(&mut exporter, 3);
    assert_eq!((states(&page), temperatures(&page)), (vec![1.0, 1.0], 2), "{page}");
    // It is no field that the engine does not have.
    assert!(page.contains("dcgm_exporter_counters_skipped 0\n"), "{page}");
    let log = exporter.log();
    assert!(!log.contains("profiling fields are watched again") && !log.contains("Skipping"), "{log}");
    node.node.plan["faults"]["profiler"] = json!(false);
    node.node.play();
    let page = profiles(&mut exporter, "both are profiled again", &["0", "1"]);
    never_false(&page);
    assert_eq!(states(&page), [0.0, 0.0], "{page}");
    assert!(exporter.log().contains("profiling fields are watched again on GPUs 0, 1"), "{}", exporter.log());
}

/// The engine says what it supports only long after the pause.
#[test]
fn support_that_is_not_known_after_the_pause_either() {
    for (code, is_tried_again) in [(-37, true), (-36, false), (-33, false)] {
        let mut plan = plan(&[0, 1], AMPERE);
        plan["faults"]["fail"] = json!([{ "call": "dcgmProfGetSupportedMetricGroups", "code": code }]);
        let mut node = Pausing::new(plan);
        std::fs::write(node.file(), "").unwrap();
        let mut exporter = node.start();
        exporter.page_with("it runs", |page| temperatures(page) == 2);
        std::fs::remove_file(node.file()).unwrap();
        let page = after_collections(&mut exporter, 15);
        is_well(&mut exporter, &page);
        let log = exporter.log();
        assert!(!log.contains("profiling fields are watched again"), "{code}: {log}");
        assert_eq!(log.contains("profiling fields cannot be watched again"), is_tried_again, "{code}: {log}");
        if is_tried_again {
            node.node.plan["faults"]["fail"] = json!([]);
            node.node.play();
            let page = profiles(&mut exporter, "both are profiled", &["0", "1"]);
            assert_eq!(states(&page), [0.0, 0.0], "{page}");
            assert!(exporter.log().contains("profiling fields are watched again on GPUs 0, 1"), "{}", exporter.log());
        }
    }
}

/// Groups, watched pairs, and reads per collection.
fn effort(node: &Pausing, exporter: &mut Exporter) -> (u64, u64, f64) {
    let counts = |stats: &Value| {
        let calls = |name: &str| stats["calls"][name].as_u64().unwrap();
        (calls("dcgmUpdateAllFields"), calls("dcgmGetLatestValues_v2"))
    };
    after_collections(exporter, 4);
    let (updates, reads) = counts(&node.node.stats());
    after_collections(exporter, 5);
    let stats = node.node.stats();
    let later = counts(&stats);
    let per_collection = (later.1 - reads) as f64 / (later.0 - updates) as f64;
    (stats["groups"].as_u64().unwrap(), stats["watches"].as_u64().unwrap(), per_collection)
}

#[test]
fn after_pauses_everything_is_watched_as_before() {
    let gpus = [0, 1, 2, 3, 4, 5, 6, 7];
    let names = gpus.map(|gpu| gpu.to_string());
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let node = Pausing::new(plan(&gpus, HOPPER));
    let mut exporter = node.start();
    profiles(&mut exporter, "all are profiled", &all);
    let before = effort(&node, &mut exporter);
    for gpu in &all {
        node.job(gpu, "17\n", "17");
        let others: Vec<&str> = all.iter().copied().filter(|other| other != gpu).collect();
        profiles(&mut exporter, "one is paused", &others);
        node.end(gpu);
        profiles(&mut exporter, "it is back", &all);
    }
    assert_eq!(effort(&node, &mut exporter), before);
    // All at once, and back in two steps.
    gpus.iter().for_each(|gpu| node.job(&gpu.to_string(), "17\n", "17"));
    profiles(&mut exporter, "all are paused", &[]);
    all[..4].iter().for_each(|gpu| node.end(gpu));
    profiles(&mut exporter, "half are back", &all[..4]);
    all[4..].iter().for_each(|gpu| node.end(gpu));
    profiles(&mut exporter, "all are back", &all);
    assert_eq!(effort(&node, &mut exporter), before);
    let page = exporter.page();
    is_well(&mut exporter, &page);
    assert_eq!(node.node.stats()["violations"], json!([]));
}

/// The GPU next to the one that is paused is watched anew, and the engine refuses it.
#[test]
fn a_refusal_beside_the_pause() {
    let mut node = Pausing::new(plan(&[0, 1], HOPPER));
    let mut exporter = node.start();
    profiles(&mut exporter, "both are profiled", &["0", "1"]);
    let before = effort(&node, &mut exporter);
    let of_one =
        |field: u16| json!({ "call": "dcgmWatchFields", "code": -37, "entity": "GPU", "id": 1, "field": field });
    node.node.plan["faults"]["fail"] = json!([of_one(1001), of_one(1005)]);
    node.node.play();
    after_collections(&mut exporter, 1);
    node.job("0", "17\n", "17");
    let page = exporter.page_with("both are paused", |page| states(page) == [1.0, 1.0]);
    assert!(active(&page).is_empty() && temperatures(&page) == 2, "{page}");
    assert!(exporter.log().contains("profiling fields cannot be watched again on GPU 1"), "{}", exporter.log());
    let page = after_collections(&mut exporter, 12);
    assert!(page.contains("dcgm_exporter_profiling_rewatches_total 0\n"), "{page}");
    node.node.plan["faults"]["fail"] = json!([]);
    node.node.play();
    let page = profiles(&mut exporter, "the other is back", &["1"]);
    assert_eq!(states(&page), [1.0, 0.0], "{page}");
    node.end("0");
    profiles(&mut exporter, "both are back", &["0", "1"]);
    assert_eq!(effort(&node, &mut exporter), before);
}

/// The engine still keeps every sample of a field that is read as a sequence, although it is a metric of its own and is
/// watched once more as such; also where it has no room for old and new watches at the same time.
#[test]
fn sequences_of_samples_go_on() {
    for free in [None, Some(1)] {
        let mut plan = plan(&[0, 1], HOPPER);
        for gpu in 0..2 {
            plan["latest_values"][gpu]["fields"]["112"] = json!({ "type": "int64", "value": "64" });
        }
        let mut node = Pausing::new(plan);
        let more = "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS, gauge, r\nDCGM_EXP_CLOCK_EVENTS_SECONDS_TOTAL, counter, s\n";
        let mut exporter = Exporter::start(&mut node.command(&format!("{COUNTERS}{more}")));
        profiles(&mut exporter, "both are profiled", &["0", "1"]);
        after_collections(&mut exporter, 3);
        if let Some(free) = free {
            let used = node.node.stats()["groups"].as_u64().unwrap();
            node.node.plan["taken_groups"] = json!(62 - used - free);
            node.node.play();
        }
        node.job("0", "17\n", "17");
        profiles(&mut exporter, "one is paused", &["1"]);
        // Of the GPU without a job: it has one series.
        let seconds =
            |page: &str| value(page, &["DCGM_EXP_CLOCK_EVENTS_SECONDS_TOTAL{", "gpu=\"1\"", "hw_thermal"]).unwrap();
        let before = seconds(&after_collections(&mut exporter, 2));
        let after = seconds(&after_collections(&mut exporter, 6));
        assert!(after > before + 0.2, "room for {free:?}: {before} s, then {after} s");
    }
}

/// A GPU is away when its pause ends, and another profiler has its hardware when it is back.
#[test]
fn a_gpu_that_is_away_at_the_end_of_its_pause() {
    let mut node = Pausing::new(plan(&[0, 1], AMPERE));
    let mut exporter = Exporter::start(node.command(COUNTERS).args(["--enable-gpu-bind-unbind-watch"]));
    profiles(&mut exporter, "both are profiled", &["0", "1"]);
    std::fs::write(node.file(), "").unwrap();
    profiles(&mut exporter, "both are paused", &[]);
    node.node.plan["faults"]["unbound_gpus"] = json!([1]);
    node.node.play();
    exporter.page_with("one is away", |page| states(page).len() == 1);
    std::fs::remove_file(node.file()).unwrap();
    profiles(&mut exporter, "the other is profiled", &["0"]);
    let of_one =
        |field: u16| json!({ "call": "dcgmWatchFields", "code": -37, "entity": "GPU", "id": 1, "field": field });
    node.node.plan["faults"] = json!({ "unbound_gpus": [], "fail": [of_one(1001), of_one(1005)] });
    node.node.play();
    exporter.page_with("it is back and still paused", |page| states(page) == [0.0, 1.0]);
    node.node.plan["faults"] = json!({});
    node.node.play();
    let page = profiles(&mut exporter, "both are profiled again", &["0", "1"]);
    assert_eq!(states(&page), [0.0, 0.0], "{page}");
}
