//! The label `container`, against a runtime that the test plays: one that answers, and ones that hang, lie and vanish.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::*;
use crate::node::*;

/// A runtime on a socket: answers `GET PATH` with what it is told to.
struct Runtime {
    socket: PathBuf,
    asked: Arc<Mutex<Vec<String>>>,
    play: Arc<Mutex<Arc<Play>>>,
}

#[derive(Clone)]
enum Play {
    /// What `docker inspect` would say of each, with its id and name.
    Containers(Vec<Value>),
    /// Takes the question and says nothing.
    Silence,
    /// This, again and again, for as long as somebody reads.
    Endless(&'static str),
    /// This, and the end.
    Bytes(&'static str),
}

impl Runtime {
    fn new(scratch: &Scratch, play: Play) -> Runtime {
        let socket = scratch.path("runtime.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (asked, play) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Arc::new(play))));
        std::thread::spawn({
            let (asked, play) = (asked.clone(), play.clone());
            move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    let (asked, play) = (asked.clone(), play.lock().unwrap().clone());
                    std::thread::spawn(move || answer(stream, &asked, &play));
                }
            }
        });
        Runtime { socket, asked, play }
    }

    fn flags(&self) -> [String; 3] {
        let socket = self.socket.display().to_string();
        ["--container-labels".to_owned(), "--container-runtime-socket".to_owned(), socket]
    }

    fn asked(&self, path: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == path).count()
    }
}

fn answer(mut stream: UnixStream, asked: &Mutex<Vec<String>>, play: &Play) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    asked.lock().unwrap().push(path.clone());
    // Whoever asked may have left.
    let _ = match play {
        Play::Containers(containers) => {
            let of_path =
                |container: &&Value| path == format!("/containers/{}/json", container["Id"].as_str().unwrap());
            let said = match path.as_str() {
                "/containers/json" => {
                    let list = containers
                        .iter()
                        .map(|it| json!({ "Id": it["Id"], "Names": [it["Name"]], "State": "running" }));
                    Some(list.collect::<Value>())
                }
                _ => containers.iter().find(of_path).cloned(),
            };
            match said.map(|said| said.to_string()) {
                Some(said) => write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{said}", said.len()),
                None => write!(stream, "HTTP/1.0 404 Not Found\r\n\r\n{{\"message\":\"no such container\"}}"),
            }
        }
        // Until the other side gives up.
        Play::Silence => stream.read(&mut byte).map(drop),
        Play::Endless(text) => loop {
            if let Err(error) = stream.write_all(text.repeat(1000).as_bytes()) {
                break Err(error);
            }
        },
        Play::Bytes(text) => stream.write_all(text.as_bytes()),
    };
}

/// A container as `docker run --gpus` makes it; `devices` as `NVIDIA_VISIBLE_DEVICES` has them.
fn container(id: &str, name: &str, devices: &[&str]) -> Value {
    let count = if devices == ["all"] { -1 } else { 0 };
    let ids = if count < 0 { Value::Null } else { json!(devices) };
    json!({
        "Id": id, "Name": format!("/{name}"),
        "HostConfig": { "DeviceRequests": [{ "Driver": "", "Count": count, "DeviceIDs": ids, "Capabilities": [["gpu"]] }] },
        "Config": { "Env": ["NVIDIA_VISIBLE_DEVICES=all"] },
    })
}

/// Containers on samples of the temperature, by GPU; an empty name for a sample without one.
fn labels(page: &str) -> Vec<(String, String)> {
    let samples = page.lines().filter(|line| line.starts_with("DCGM_FI_DEV_GPU_TEMP{"));
    let label = |line: &str, name: &str| {
        let after = line.split(&format!("{name}=\"")).nth(1).unwrap_or_default();
        after.split('"').next().unwrap_or_default().to_owned()
    };
    samples.map(|line| (label(line, "UUID"), label(line, "container"))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(gpu, container)| ((*gpu).to_owned(), (*container).to_owned())).collect()
}

#[test]
fn samples_have_the_containers_of_their_gpu() {
    let node = Node::new(scenario(&[0, 1, 2]));
    let containers = vec![
        container("aa", "train", &["0", "GPU-1"]),
        container("bb", "web \"x\"", &["1"]),
        container("cc", "cpu-only", &[]),
    ];
    let runtime = Runtime::new(&node.scratch, Play::Containers(containers));
    std::fs::create_dir(node.scratch.path("jobs")).unwrap();
    std::fs::write(node.scratch.path("jobs/0"), "17\n").unwrap();
    let counters = format!("{GPU_TEMP}DCGM_FI_DEV_XID_ERRORS, gauge, x\nDCGM_EXP_XID_ERRORS_TOTAL, counter, t\n");
    let mut command = node.exporter(&counters);
    command.args(runtime.flags()).arg("--hpc-job-mapping-dir").arg(node.scratch.path("jobs"));
    let mut exporter = Exporter::start(&mut command);
    let all = pairs(&[("GPU-0", "train"), ("GPU-1", "train"), ("GPU-1", "web \\"), ("GPU-2", "")]);
    let page = exporter.page_with("they are labelled", |page| labels(page) == all);
    assert!(page.contains(",container=\"train\",hpc_job=\"17\"} 30\n"), "{page}");
    assert!(page.contains(",container=\"web \\\"x\\\"\"} 31\n"), "{page}");
    assert!(page.contains("err_msg=\"No Error\",container=\"train\",hpc_job=\"17\"} 0\n"), "{page}");
    // A count belongs to whoever had the GPU then, and our own metrics keep their identity.
    for start in ["DCGM_EXP_XID_ERRORS_TOTAL{", "dcgm_exporter_"] {
        assert!(!page.lines().any(|line| line.starts_with(start) && line.contains("container=")), "{page}");
    }
    // One goes, one comes; what is known is not asked for again.
    *runtime.play.lock().unwrap() =
        Play::Containers(vec![container("aa", "train", &["0", "GPU-1"]), container("dd", "late", &["all"])]).into();
    let all = pairs(&[("GPU-0", "late"), ("GPU-0", "train"), ("GPU-1", "late"), ("GPU-1", "train"), ("GPU-2", "late")]);
    exporter.page_with("they have changed", |page| labels(page) == all);
    assert_eq!((runtime.asked("/containers/aa/json"), runtime.asked("/containers/dd/json")), (1, 1));
    assert!(!exporter.log().contains("level=WARN"), "{}", exporter.log());
}

#[test]
fn an_instance_has_the_container_that_was_given_it() {
    let mut plan = scenario(&[0]);
    plan["system"]["gpu_instances"] = json!([
        { "parent_gpu": 0, "entity_id": 0, "nvml_gpu_instance_id": 7, "profile": "1g.18gb", "uuid": "MIG-a" },
        { "parent_gpu": 0, "entity_id": 1, "nvml_gpu_instance_id": 9, "profile": "1g.18gb", "uuid": "MIG-b" },
    ]);
    plan["replay"] = true.into();
    let node = Node::new(plan);
    let containers = vec![container("aa", "one", &["MIG-GPU-0/7/0"]), container("bb", "other", &["MIG-b"])];
    let runtime = Runtime::new(&node.scratch, Play::Containers(containers));
    let mut exporter = Exporter::start(node.exporter(GPU_TEMP).args(runtime.flags()));
    let all = pairs(&[("GPU-0", "one"), ("GPU-0", "other")]);
    let page = exporter.page_with("they are labelled", |page| labels(page) == all);
    assert!(page.lines().any(|line| line.contains("GPU_I_ID=\"7\"") && line.contains("container=\"one\"")), "{page}");
}

#[test]
fn off_nobody_is_asked() {
    let node = Node::new(scenario(&[0]));
    let runtime = Runtime::new(&node.scratch, Play::Containers(vec![container("aa", "train", &["all"])]));
    let mut exporter = Exporter::start(node.exporter(GPU_TEMP).args(&runtime.flags()[1..]));
    let page = after_collections(&mut exporter, 5);
    assert_eq!(labels(&page), pairs(&[("GPU-0", "")]));
    assert!(runtime.asked.lock().unwrap().is_empty());
    let threads = std::fs::read_dir(format!("/proc/{}/task", exporter.pid())).unwrap();
    let names: Vec<String> =
        threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("comm")).unwrap()).collect();
    assert!(!names.iter().any(|name| name.trim() == "containers"), "{names:?}");
    let log = exporter.log();
    assert!(log.contains("--container-runtime-socket has no effect: it needs --container-labels"), "{log}");
}

#[test]
fn once_has_the_label_too() {
    let node = Node::new(scenario(&[0]));
    let runtime = Runtime::new(&node.scratch, Play::Containers(vec![container("aa", "train", &["all"])]));
    let output = node.exporter(GPU_TEMP).args(runtime.flags()).arg("--once").output().unwrap();
    let page = String::from_utf8(output.stdout).unwrap();
    assert_eq!(labels(&page), pairs(&[("GPU-0", "train")]), "{page}");
}

/// Whatever the runtime does, collections go on and the log has one line of it.
#[test]
fn a_runtime_that_hangs_or_lies_costs_the_label_alone() {
    const LIST: &str = "HTTP/1.0 200 OK\r\n\r\n[{\"Id\":\"aa\",\"Names\":[\"/train\"]},";
    for (play, why) in [
        (Play::Silence, "it does not answer in time"),
        (Play::Endless("HTTP/1.0 200 OK\r\n\r\n[ "), "its answer has more than 8388608 bytes"),
        (Play::Endless("x"), "its answer is not HTTP"),
        (Play::Bytes(LIST), "its list is malformed at byte"),
        (Play::Bytes("HTTP/1.0 200 OK\r\nContent-Length: 99\r\n\r\n[]"), "before its answer was complete"),
        (Play::Bytes("HTTP/1.0 500 Internal Server Error\r\n\r\n"), "with status 500"),
        (Play::Bytes(""), "before its answer was complete"),
    ] {
        let node = Node::new(scenario(&[0]));
        let runtime = Runtime::new(&node.scratch, play);
        let mut exporter = Exporter::start(node.exporter(GPU_TEMP).args(runtime.flags()));
        let page = exporter.page_with("it collects", |page| collections(page) >= 3.0);
        assert_eq!(labels(&page), pairs(&[("GPU-0", "")]), "{why}");
        exporter.until("it is logged", |exporter| exporter.log().contains(why).then_some(()));
        exporter.until("it is asked again", |_| (runtime.asked("/containers/json") >= 2).then_some(()));
        after_collections(&mut exporter, 3);
        let log = exporter.log();
        assert_eq!(log.matches("the container runtime cannot be asked").count(), 1, "{log}");
        assert!(exporter.resident_kib() < 64 * 1024, "{why}: {} KiB", exporter.resident_kib());
        assert!(is_in_state(&exporter.page(), "running"), "{why}");
    }
}

#[test]
fn a_runtime_that_vanishes_and_comes_back() {
    let node = Node::new(scenario(&[0]));
    let runtime = Runtime::new(&node.scratch, Play::Containers(vec![container("aa", "train", &["0"])]));
    let mut exporter = Exporter::start(node.exporter(GPU_TEMP).args(runtime.flags()));
    let labelled = pairs(&[("GPU-0", "train")]);
    exporter.page_with("it is labelled", |page| labels(page) == labelled);
    std::fs::remove_file(&runtime.socket).unwrap();
    exporter.until("it is logged", |exporter| {
        exporter.log().contains("the container runtime cannot be asked").then_some(())
    });
    let start = Instant::now();
    let page = after_collections(&mut exporter, 3);
    // The label is believed for a minute.
    assert!(labels(&page) == labelled || start.elapsed() > Duration::from_secs(30), "{page}");
    let again = Runtime::new(&node.scratch, Play::Containers(vec![container("aa", "renamed", &["0"])]));
    exporter.page_with("it is labelled anew", |page| labels(page) == pairs(&[("GPU-0", "renamed")]));
    let log = exporter.log();
    assert!(log.contains("the container runtime answers again") && again.asked("/containers/json") > 0, "{log}");
}

/// A container whose description cannot be had is left out; the others keep their label.
#[test]
fn one_container_that_cannot_be_looked_at() {
    let node = Node::new(scenario(&[0, 1]));
    let mut broken = container("bb", "broken", &["1"]);
    broken["HostConfig"] = json!("none");
    let runtime = Runtime::new(&node.scratch, Play::Containers(vec![container("aa", "train", &["0"]), broken]));
    let mut exporter = Exporter::start(node.exporter(GPU_TEMP).args(runtime.flags()));
    exporter.page_with("one is labelled", |page| labels(page) == pairs(&[("GPU-0", "train"), ("GPU-1", "")]));
    let log = exporter.log();
    assert!(log.contains("no sample names container broken: the answer about it is malformed at byte"), "{log}");
}

/// A node has at most 32 GPUs of 7 instances, and a page no more than 16 containers on each.
#[test]
fn a_runtime_that_lies_about_how_much_there_is_costs_little_memory() {
    let node = Node::new(scenario(&[0]));
    let mut containers = vec![container("aa", "train", &["0"])];
    for number in 0..600 {
        let name = |at: u32| format!("GPU-{:076}", number * 256 + at);
        let names: Vec<String> = (0..256).map(name).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        containers.push(container(&format!("b{number}"), &format!("liar{number}-{}", "x".repeat(100)), &names));
    }
    let numbers: Vec<String> = (0..256).map(|number| number.to_string()).collect();
    let late = container("cc", "late", &numbers.iter().map(String::as_str).collect::<Vec<_>>());
    containers.push(late.clone());
    let runtime = Runtime::new(&node.scratch, Play::Containers(containers));
    let mut exporter = Exporter::start(node.exporter(GPU_TEMP).args(runtime.flags()));
    exporter.page_with("it is labelled", |page| labels(page) == pairs(&[("GPU-0", "train")]));
    exporter.until("it is asked again", |_| (runtime.asked("/containers/json") >= 2).then_some(()));
    let page = after_collections(&mut exporter, 3);
    assert_eq!(labels(&page), pairs(&[("GPU-0", "train")]));
    assert!(exporter.resident_kib() < 32 * 1024, "{} KiB", exporter.resident_kib());
    let log = exporter.log();
    assert_eq!(log.matches(": the containers before it have up to 4096 GPUs").count(), 1, "{log}");
    assert_eq!(runtime.asked("/containers/b599/json"), 1, "it is not asked for at every look");
    *runtime.play.lock().unwrap() = Play::Containers(vec![late]).into();
    exporter.page_with("there is room now", |page| labels(page) == pairs(&[("GPU-0", "late")]));
}
