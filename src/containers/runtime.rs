//! What is asked of Docker or Podman: which containers run, and which GPUs each was given.
//!
//! GPUs are in a container's device requests (`--gpus`, of Docker, or CDI), else in NVIDIA_VISIBLE_DEVICES. They are
//! settled when a container is made, so each is looked at once.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Gpu;
use super::http::get;
use crate::jobs::gpu_name::GpuName;
use crate::system::json_reader::{self, Malformed, Reader};
use crate::system::logging::Throttle;

/// One request.
const REQUEST: Duration = Duration::from_secs(2);
/// All requests of one look.
pub const ROUND: Duration = Duration::from_secs(10);
/// A list of 1,000 containers has about 2 MB; the answer about one container, 10 kB.
const MOST_OF_LIST: usize = 8 << 20;
const MOST_OF_CONTAINER: usize = 1 << 20;
const MOST_CONTAINERS: usize = 1024;
/// GPUs of one container: 32 GPUs in a node, of 7 instances each.
const MOST_GPUS: usize = 256;
/// GPUs of all containers together: no more than 16 containers of a GPU are on its samples.
const MOST_IN_ALL: usize = 4096;
/// Bytes of a name; longer ones are cut.
const LONGEST_NAME: usize = 128;

pub struct Runtime {
    socket: PathBuf,
    /// GPUs by container id, of those that ran at the last look; [`MOST_IN_ALL`] at most.
    known: HashMap<String, Vec<Gpu>>,
    /// Those that there was no room for. They are asked for again when another one has ended.
    no_room: HashSet<String>,
    throttle: Throttle,
}

impl Runtime {
    pub fn new(socket: &Path) -> Runtime {
        Runtime {
            socket: socket.to_owned(),
            known: HashMap::new(),
            no_room: HashSet::new(),
            throttle: Throttle::default(),
        }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Containers that run and have GPUs: name and GPUs. One that cannot be looked at is left out, and tried again the
    /// next time.
    ///
    /// Errors: a sentence for the log; nothing is known then.
    pub fn containers(&mut self) -> Result<Vec<(String, Vec<Gpu>)>, String> {
        let end = Instant::now() + ROUND;
        let list = self.ask("/containers/json", MOST_OF_LIST, end)?;
        let mut listed = list_of(&list).map_err(|Malformed(at)| format!("its list is malformed at byte {at}"))?;
        if listed.len() > MOST_CONTAINERS {
            self.warn(&format!("more than {MOST_CONTAINERS} containers run; samples do not name the others"));
            listed.truncate(MOST_CONTAINERS);
        }
        let ids: HashSet<&str> = listed.iter().map(|(id, _)| id.as_str()).collect();
        let before = self.known.len();
        self.known.retain(|known, _| ids.contains(known.as_str()));
        if self.known.len() < before {
            self.no_room.clear();
        }
        self.no_room.retain(|id| ids.contains(id.as_str()));
        let mut in_all: usize = self.known.values().map(Vec::len).sum();
        let mut left_out: Vec<(&str, String)> = Vec::new();
        for (id, name) in &listed {
            if self.known.contains_key(id) || self.no_room.contains(id) {
                continue;
            }
            if Instant::now() >= end {
                return Err(format!("it needs more than {} s for {} containers", ROUND.as_secs(), listed.len()));
            }
            let said = self.ask(&format!("/containers/{id}/json"), MOST_OF_CONTAINER, end);
            let gpus = said.and_then(|said| {
                gpus_of(&said).map_err(|Malformed(at)| format!("the answer about it is malformed at byte {at}"))
            });
            match gpus {
                Ok(gpus) if in_all + gpus.len() <= MOST_IN_ALL => {
                    in_all += gpus.len();
                    self.known.insert(id.clone(), gpus);
                }
                Ok(_) => {
                    left_out.push((name, format!("the containers before it have up to {MOST_IN_ALL} GPUs in all")));
                    self.no_room.insert(id.clone());
                }
                Err(error) => left_out.push((name, error)),
            }
        }
        // One line, however many there are: names are the runtime's to choose.
        if let Some((name, error)) = left_out.first()
            && self.throttle.allows("a container is left out")
        {
            log::warn!(containers = left_out.len(); "no sample names container {name}: {error}");
        }
        let with_gpus = listed.into_iter().filter_map(|(id, name)| Some((name, self.known.get(&id)?.clone())));
        Ok(with_gpus.filter(|(_, gpus)| !gpus.is_empty()).collect())
    }

    fn ask(&self, path: &str, most: usize, until: Instant) -> Result<Vec<u8>, String> {
        match get(&self.socket, path, most, until.min(Instant::now() + REQUEST))? {
            (200, body) => Ok(body),
            (status, _) => Err(format!("it answers {path} with status {status}")),
        }
    }

    fn warn(&mut self, what: &str) {
        if self.throttle.allows(what) {
            log::warn!("{what}");
        }
    }
}

/// Ids and names of `GET /containers/json`. An id that could be more than a part of a path is not asked for.
fn list_of(body: &[u8]) -> json_reader::Result<Vec<(String, String)>> {
    let (mut reader, mut listed, mut ids) = (Reader::new(body), Vec::new(), HashSet::new());
    reader.array(&mut |reader| {
        let (mut id, mut name) = (String::new(), String::new());
        reader.object(&mut |member, reader| match member {
            "Id" => reader.text().map(|text| id = text),
            "Names" => reader.array(&mut |reader| {
                let text = reader.text()?;
                // Further names are those of links: `/other/alias`.
                if name.is_empty() || name.matches('/').count() > text.matches('/').count() {
                    name = text;
                }
                Ok(())
            }),
            _ => reader.skip(),
        })?;
        let is_id = (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if is_id && listed.len() <= MOST_CONTAINERS && ids.insert(id.clone()) {
            let name = name_of(&name, &id);
            listed.push((id, name));
        }
        Ok(())
    })?;
    reader.end()?;
    Ok(listed)
}

/// A name as a label: without its slash, or the beginning of the id where there is none.
fn name_of(name: &str, id: &str) -> String {
    let name = match name.trim_start_matches('/') {
        "" => &id[..id.len().min(12)],
        name => name,
    };
    let name: String = name.chars().map(|c| if c.is_control() { '_' } else { c }).collect();
    name[..name.floor_char_boundary(LONGEST_NAME)].to_owned()
}

/// GPUs of `GET /containers/ID/json`.
fn gpus_of(body: &[u8]) -> json_reader::Result<Vec<Gpu>> {
    let (mut requested, mut visible) = (None, Vec::new());
    let mut reader = Reader::new(body);
    reader.object(&mut |member, reader| match member {
        "HostConfig" => reader.object(&mut |member, reader| match member {
            "DeviceRequests" => reader.array(&mut |reader| {
                if let Some(gpus) = request(reader)? {
                    requested.get_or_insert_with(Vec::new).extend(gpus);
                }
                Ok(())
            }),
            _ => reader.skip(),
        }),
        "Config" => reader.object(&mut |member, reader| match member {
            "Env" => reader.array(&mut |reader| {
                if let Some(devices) = reader.text()?.strip_prefix("NVIDIA_VISIBLE_DEVICES=") {
                    visible = devices.split(',').take(MOST_GPUS).filter_map(|device| gpu(device.trim())).collect();
                }
                Ok(())
            }),
            _ => reader.skip(),
        }),
        _ => reader.skip(),
    })?;
    reader.end()?;
    let mut gpus = requested.unwrap_or(visible);
    gpus.sort_unstable();
    gpus.dedup();
    gpus.truncate(MOST_GPUS);
    Ok(gpus)
}

/// The GPUs of one device request; `None` if it is for something else. Which GPUs a request for a number of them got is
/// not told.
fn request(reader: &mut Reader<'_>) -> json_reader::Result<Option<Vec<Gpu>>> {
    let (mut driver, mut count, mut ids, mut is_for_gpus) = (String::new(), 0, Vec::new(), false);
    reader.object(&mut |member, reader| match member {
        "Driver" => reader.text().map(|text| driver = text),
        "Count" => reader.integer().map(|number| count = number.unwrap_or(0)),
        "DeviceIDs" => reader.array(&mut |reader| {
            let id = reader.text()?;
            if ids.len() < MOST_GPUS {
                ids.push(id);
            }
            Ok(())
        }),
        // Sets of which one is enough; each set is what has to be there together.
        "Capabilities" => reader.array(&mut |reader| {
            reader.array(&mut |reader| {
                is_for_gpus |= reader.text()? == "gpu";
                Ok(())
            })
        }),
        _ => reader.skip(),
    })?;
    let named = |ids: &[String]| ids.iter().filter_map(|id| gpu(id)).collect();
    Ok(match driver.as_str() {
        "cdi" => {
            let of_nvidia = ids.iter().filter_map(|id| id.strip_prefix("nvidia.com/gpu=")).map(str::to_owned);
            let of_nvidia: Vec<String> = of_nvidia.collect();
            if of_nvidia.is_empty() { None } else { Some(named(&of_nvidia)) }
        }
        "nvidia" => Some(if count < 0 { vec![Gpu::All] } else { named(&ids) }),
        _ if is_for_gpus => Some(if count < 0 { vec![Gpu::All] } else { named(&ids) }),
        _ => None,
    })
}

/// One GPU as NVIDIA's container toolkit names it: `all`, an index, `GPU-UUID`, `MIG-UUID`, or `MIG-GPU-UUID/7/0` for a
/// compute instance of instance 7. Others (`none`, `void`, `0:1`) name no GPU.
fn gpu(text: &str) -> Option<Gpu> {
    if text == "all" {
        return Some(Gpu::All);
    }
    if let Some((uuid, rest)) = text.strip_prefix("MIG-").and_then(|text| text.split_once('/')) {
        let instance = rest.split('/').next()?.parse().ok()?;
        return uuid.starts_with("GPU-").then(|| GpuName::uuid(uuid))?.map(|uuid| Gpu::Instance(uuid, instance));
    }
    match GpuName::parse(text)? {
        name @ (GpuName::Index(_) | GpuName::Uuid(_)) => Some(Gpu::Named(name)),
        GpuName::Instance(..) | GpuName::Pci(_) | GpuName::Minor(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn gpus(said: &Value) -> Vec<Gpu> {
        gpus_of(said.to_string().as_bytes()).unwrap()
    }

    fn requests(requests: Value, visible: &str) -> Vec<Gpu> {
        let env = ["PATH=/bin".to_owned(), format!("NVIDIA_VISIBLE_DEVICES={visible}")];
        gpus(&json!({
            "Id": "x",
            "Mounts": [{ "a": [1, null] }],
            "HostConfig": { "Memory": 0, "DeviceRequests": requests },
            "Config": { "Env": env },
        }))
    }

    fn named(text: &str) -> Gpu {
        Gpu::Named(GpuName::parse(text).unwrap())
    }

    #[test]
    fn gpus_of_a_container() {
        let uuid = GpuName::uuid("GPU-a-1").unwrap();
        // docker run --gpus all; --gpus device=1,GPU-a-1; --gpus 2.
        let gpus = [["gpu"]];
        let all = json!([{ "Driver": "", "Count": -1, "DeviceIDs": null, "Capabilities": gpus, "Options": {} }]);
        assert_eq!(requests(all, "void"), [Gpu::All]);
        let some = json!([{ "Driver": "nvidia", "Count": 0, "DeviceIDs": ["1", "GPU-a-1"], "Capabilities": null }]);
        assert_eq!(requests(some, "all"), [named("1"), Gpu::Named(uuid.clone())], "a request goes before the variable");
        assert_eq!(requests(json!([{ "Driver": "", "Count": 2, "Capabilities": gpus }]), "all"), []);
        let cdi = json!([{ "Driver": "cdi", "Count": 0, "DeviceIDs": ["vendor.com/nic=0", "nvidia.com/gpu=3"] }]);
        assert_eq!(requests(cdi, ""), [named("3")]);
        let other = json!([{ "Driver": "cdi", "DeviceIDs": ["vendor.com/nic=0"] }, { "Capabilities": [["tpu"]] }]);
        assert_eq!(requests(other, "0"), [named("0")]);
        // The runtime of NVIDIA's container toolkit, and Podman.
        for (visible, expected) in [
            ("all", vec![Gpu::All]),
            ("0, 2", vec![named("0"), named("2")]),
            ("GPU-a-1", vec![Gpu::Named(uuid.clone())]),
            ("MIG-b-2", vec![named("MIG-b-2")]),
            ("MIG-GPU-a-1/7/0", vec![Gpu::Instance(uuid, 7)]),
            ("MIG-GPU-a-1/x/0,MIG-b/7/0,0:1,minor0,1b:00.0,-1", vec![]),
            ("none", vec![]),
            ("void", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(requests(Value::Null, visible), expected, "{visible}");
        }
        assert_eq!(self::gpus(&json!({ "HostConfig": null, "Config": {} })), []);
        let endless: Vec<String> = (0..100_000).map(|number| number.to_string()).collect();
        assert_eq!(requests(json!([{ "Driver": "nvidia", "DeviceIDs": endless }]), "").len(), MOST_GPUS);
    }

    #[test]
    fn names_and_ids() {
        let long = "\u{e4}".repeat(100);
        let list = json!([
            { "Id": "0123456789abcdef", "Names": ["/db/alias", "/web"], "State": "running" },
            { "Id": "0123456789abcdee", "Names": null },
            { "Id": "c", "Names": ["/a\n\u{7f}b"] },
            { "Id": "d", "Names": [format!("/{long}")] },
            { "Id": "../images", "Names": ["/x"] },
            { "Id": "", "Names": ["/x"] },
            { "Id": "c", "Names": ["/twice"] },
            { "Names": ["/x"] },
        ]);
        let listed = list_of(list.to_string().as_bytes()).unwrap();
        let names: Vec<&str> = listed.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["web", "0123456789ab", "a__b", &long[..128]]);
        assert!(list_of(b"[] x").is_err() && list_of(b"{}").is_err() && list_of(b"").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_answer_makes_it_panic(body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let _ = (list_of(&body), gpus_of(&body));
            let _ = gpu(&String::from_utf8_lossy(&body));
        }
    }
}
