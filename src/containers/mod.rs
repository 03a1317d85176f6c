//! The label `container`: which containers have which GPU, as Docker or Podman say over their socket. Off by default.
//!
//! - [`runtime`]: what is asked of the runtime. [`http`]: one request to it.
//!
//! A thread of its own asks, so that a runtime that hangs, lies or vanishes holds up neither the collections nor the
//! scrapes: the page then goes on with what was last known, for a minute, and without the label after that. DCGM is not
//! known here.

mod http;
mod runtime;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::jobs::gpu_name::GpuName;
use crate::system::threads::Supervisor;
use runtime::Runtime;

/// The runtime is asked this often, or once per collection if that is rarer.
const SHORTEST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(30);
/// How long the last answer is believed when no other comes.
const BELIEVED: Duration = Duration::from_secs(60);
/// On a GPU that more containers share, the others are on no sample: each multiplies the samples of the GPU.
const MOST_PER_GPU: usize = 16;
const STACK: usize = 256 * 1024;

/// Which GPUs a container has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Gpu {
    All,
    Named(GpuName),
    /// A GPU instance by the UUID of its GPU and NVML's id within that.
    Instance(GpuName, u32),
}

/// What the runtime last said.
#[derive(Debug, Default, PartialEq)]
pub struct ContainerMap {
    names: HashMap<Gpu, Vec<String>>,
}

impl ContainerMap {
    fn new(containers: impl IntoIterator<Item = (String, Vec<Gpu>)>) -> ContainerMap {
        let mut names: HashMap<Gpu, Vec<String>> = HashMap::new();
        for (name, gpus) in containers {
            for gpu in gpus {
                names.entry(gpu).or_default().push(name.clone());
            }
        }
        ContainerMap { names }
    }

    /// Names of the containers that have a GPU or an instance, sorted, each once. It is known by `names`; an instance also
    /// by the UUID of its GPU and its id there.
    pub fn of(&self, names: &[GpuName], gpu_uuid: &str, instance: Option<u32>) -> Vec<&str> {
        if self.names.is_empty() || names.is_empty() {
            return Vec::new();
        }
        let by_name = names.iter().map(|name| Gpu::Named(name.clone()));
        let by_id = GpuName::uuid(gpu_uuid).zip(instance).map(|(gpu, instance)| Gpu::Instance(gpu, instance));
        let gpus = by_name.chain(by_id).chain([Gpu::All]);
        let mut found: Vec<&str> = gpus.filter_map(|gpu| self.names.get(&gpu)).flatten().map(String::as_str).collect();
        found.sort_unstable();
        found.dedup();
        found.truncate(MOST_PER_GPU);
        found
    }
}

/// Where others find what was last said.
#[derive(Clone)]
pub struct Containers(Arc<ArcSwap<ContainerMap>>);

impl Containers {
    /// Asks the runtime behind a socket now and then, on a thread of its own.
    ///
    /// Errors: the system cannot start another thread.
    pub fn start(socket: &Path, interval: Duration, supervisor: &Supervisor) -> std::io::Result<Containers> {
        let mut keeper = Keeper::new(socket);
        let containers = keeper.containers.clone();
        supervisor.spawn("containers", STACK, move || {
            loop {
                keeper.look(Instant::now());
                std::thread::sleep(interval.clamp(SHORTEST, LONGEST));
            }
        })?;
        Ok(containers)
    }

    /// Asks once and waits for the answer, [`runtime::ROUND`] at most.
    pub fn once(socket: &Path) -> Containers {
        let mut keeper = Keeper::new(socket);
        keeper.look(Instant::now());
        keeper.containers
    }

    /// What was last said, where it is not `known`.
    pub fn changed(&self, known: &Arc<ContainerMap>) -> Option<Arc<ContainerMap>> {
        let now = self.0.load_full();
        (!Arc::ptr_eq(&now, known)).then_some(now)
    }
}

/// Keeps what the runtime says, and for how long it is believed.
struct Keeper {
    runtime: Runtime,
    containers: Containers,
    answered: Option<Instant>,
    /// It has been logged that the runtime does not answer.
    is_failing: bool,
}

impl Keeper {
    fn new(socket: &Path) -> Keeper {
        let containers = Containers(Arc::new(ArcSwap::default()));
        Keeper { runtime: Runtime::new(socket), containers, answered: None, is_failing: false }
    }

    fn look(&mut self, now: Instant) {
        match self.runtime.containers() {
            Ok(containers) => {
                self.answered = Some(now);
                self.publish(ContainerMap::new(containers));
                log::debug!("the container runtime has answered");
                if std::mem::take(&mut self.is_failing) {
                    log::info!("the container runtime answers again");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_failing, true) {
                    let socket = self.runtime.socket().display().to_string();
                    let seconds = BELIEVED.as_secs();
                    log::warn!(
                        socket = socket, error = error;
                        "the container runtime cannot be asked; the label container keeps its last values for {seconds} s"
                    );
                }
                if self.answered.is_none_or(|answered| now.duration_since(answered) >= BELIEVED) {
                    self.publish(ContainerMap::default());
                }
            }
        }
    }

    fn publish(&self, map: ContainerMap) {
        // Whoever has the map looks at the pointer: what is the same stays.
        if **self.containers.0.load() != map {
            self.containers.0.store(Arc::new(map));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_container_is_on_the_gpus_that_it_has() {
        let uuid = |text: &str| GpuName::uuid(text).unwrap();
        let map = ContainerMap::new([
            ("everything".to_owned(), vec![Gpu::All]),
            ("b".to_owned(), vec![Gpu::Named(GpuName::Index(0)), Gpu::Named(uuid("GPU-A"))]),
            ("slice".to_owned(), vec![Gpu::Instance(uuid("GPU-b"), 7)]),
        ]);
        let first = [GpuName::Index(0), uuid("GPU-a")];
        assert_eq!(map.of(&first, "GPU-a", None), ["b", "everything"], "by two names, and once");
        assert_eq!(map.of(&[uuid("MIG-1")], "GPU-B", Some(7)), ["everything", "slice"]);
        assert_eq!(map.of(&[uuid("MIG-2")], "GPU-b", Some(8)), ["everything"]);
        assert_eq!(map.of(&[], "", None), Vec::<&str>::new(), "a switch");
        let many = ContainerMap::new((0..40).map(|number| (format!("{number:02}"), vec![Gpu::All])));
        assert_eq!(many.of(&first, "GPU-a", None).len(), MOST_PER_GPU);
    }

    /// The runtime answers once and vanishes.
    #[test]
    fn what_was_said_is_believed_for_a_minute() {
        let socket = std::env::temp_dir().join(format!("dcgm-exporter-containers-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let server = std::thread::spawn(move || {
            use std::io::{Read, Write};
            let id = "a".repeat(64);
            for answer in [
                format!(r#"[{{"Id":"{id}","Names":["/web"]}}]"#),
                r#"{"HostConfig":{"DeviceRequests":[{"Driver":"nvidia","Count":-1}]}}"#.to_owned(),
            ] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    head.push(byte[0]);
                }
                write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{answer}", answer.len()).unwrap();
            }
        });
        let (mut keeper, start) = (Keeper::new(&socket), Instant::now());
        keeper.look(start);
        server.join().unwrap();
        std::fs::remove_file(&socket).unwrap();
        let known = keeper.containers.changed(&Arc::default()).unwrap();
        let gpu = [GpuName::Index(0)];
        assert_eq!(known.of(&gpu, "", None), ["web"]);
        keeper.look(start + BELIEVED - Duration::from_secs(1));
        assert!(keeper.is_failing && keeper.containers.changed(&known).is_none());
        keeper.look(start + BELIEVED);
        let after = keeper.containers.changed(&known).expect("it is believed no more");
        assert_eq!(after.of(&gpu, "", None), Vec::<&str>::new());
    }
}
