//! What the exporter costs as a client of a host engine: CPU and page faults per collection, and calls to libdcgm.
//!
//! Everything runs at once for 20 s against one simulated host engine with eight GPUs, each process collecting every
//! second, with the 4 MiB message that libdcgm allocates for every read. Beside the exporter runs a bare client, which only
//! connects, watches the same fields, and once a second updates and reads them: what is left is the exporter's own.
//!
//! Of each there are several, and the one in the middle counts: a core that somebody else uses makes one process twice as
//! dear as its twin.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use dcgm_exporter::config::engine::Address;
use dcgm_exporter::counters::Counters;
use dcgm_exporter::dcgm::watch::{FieldGroup, Group, Keep};
use dcgm_exporter::dcgm::{EntityGroup, EntityId, Library, Session, Watch};
use dcgm_exporter::inventory::Kind;
use dcgm_exporter::metrics::plan::Plan;
use dcgm_exporter::metrics::{profiling_support, sources};

const INTERVAL: Duration = Duration::from_secs(1);
/// Until caches are filled and the first looks are over.
const WARM_UP: Duration = Duration::from_secs(5);
const MEASURED: u32 = 20;
/// Processes of each kind.
const TWINS: usize = 3;
const DEFAULT_FILE: &str = include_str!("../counters/default-counters.csv");

fn release(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("release").join(name)
}

fn main() {
    if let Some(address) = std::env::var_os("BARE_CLIENT_OF") {
        bare_client(address.into_string().unwrap());
    }
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("cost-{}", std::process::id()));
    // An exporter looks at what changes beside its counters file, so statistics that are written all the time lie elsewhere.
    let statistics = directory.join("statistics");
    std::fs::create_dir_all(&statistics).unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(directory.join(name), text).unwrap();
        directory.join(name)
    };
    let gpu = |id: u32| serde_json::json!({ "id": id, "uuid": format!("GPU-{id}"), "model": "NVIDIA H200", "pci_bus_id": format!("00000000:{id:02X}:00.0") });
    let links = |id: u32| serde_json::json!({ "parent": "GPU", "parent_id": id, "states": vec![3; 18] });
    let scenario = serde_json::json!({
        "replay": true,
        "message_bytes": 4 << 20,
        "system": { "gpus": (0..8).map(gpu).collect::<Vec<_>>(), "links": (0..8).map(links).collect::<Vec<_>>() },
    });
    let scenario = write("scenario.json", &scenario.to_string());
    let default_file = write("default.csv", DEFAULT_FILE);
    let rows: String = sources::names().iter().map(|name| format!("{name}, gauge, h\n")).collect();
    let all_file = write("all.csv", &format!("{DEFAULT_FILE}\n{rows}"));
    let address = {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        format!("127.0.0.1:{port}")
    };
    let mut engine = Command::new(release("dcgm-simulator-hostengine"));
    let engine = engine.args(["--listen", &address, "--scenario"]).arg(&scenario);
    let mut engine = Running::start("host engine", engine.stdout(Stdio::piped()));
    BufReader::new(engine.child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    let exporter = |name: &'static str, counters: &Path, environment: &[(&str, &str)], stats: Option<&str>| {
        let mut command = Command::new(release("dcgm-exporter"));
        command.env_clear().args(["-c", "1000", "-a", "127.0.0.1:0", "-r", &address, "--libdcgm"]);
        command.arg(release("libdcgm_simulator.so")).arg("-f").arg(counters).envs(environment.iter().copied());
        if let Some(stats) = stats {
            command.env("DCGM_SIMULATOR_STATS", statistics.join(stats));
        }
        Running::start(name, command.stderr(Stdio::null()))
    };
    let pinned = [("MALLOC_MMAP_THRESHOLD_", "131072"), ("MALLOC_TRIM_THRESHOLD_", "131072")];
    let client = || {
        let mut client = Command::new(std::env::current_exe().unwrap());
        Running::start("bare client", client.env("BARE_CLIENT_OF", &address).stdout(Stdio::null()))
    };
    let twins = std::array::from_fn::<_, TWINS, _>(|_| {
        [
            client(),
            exporter("default file", &default_file, &[], None),
            exporter("default file, glibc's own settings", &default_file, &[("MALLOC_ARENA_MAX", "64")], None),
            exporter("default file, memory given back", &default_file, &pinned, None),
            exporter("all computed metrics", &all_file, &[], None),
        ]
    });
    // Writing the statistics costs CPU, so those that count calls are not measured.
    let counting = [("default file", &default_file, "default.json"), ("all computed metrics", &all_file, "all.json")];
    let _counting = counting.map(|(name, file, stats)| exporter(name, file, &[], Some(stats)));
    std::thread::sleep(WARM_UP);
    let calls = |stats: &str| -> serde_json::Value {
        let text = std::fs::read(statistics.join(stats)).unwrap();
        serde_json::from_slice::<serde_json::Value>(&text).unwrap()["calls"].clone()
    };
    let usage = || twins.each_ref().map(|processes| processes.each_ref().map(Running::usage));
    let before = usage();
    let calls_before = counting.map(|(.., stats)| calls(stats));
    std::thread::sleep(INTERVAL * MEASURED);
    let after = usage();
    let mut costs = Vec::new();
    println!("\nper collection, as a client of a host engine, 8 GPUs, every second; the middle one of {TWINS}:");
    for (at, process) in twins[0].iter().enumerate() {
        let each = |what: fn(&Usage) -> f64| {
            let per_collection = |twin: usize| (what(&after[twin][at]) - what(&before[twin][at])) / f64::from(MEASURED);
            middle(std::array::from_fn(per_collection))
        };
        let (cost, faults) = (each(|usage| usage.cpu), each(|usage| usage.faults));
        let resident = middle(std::array::from_fn(|twin| after[twin][at].resident_kib));
        let (name, milliseconds) = (process.name, cost * 1e3);
        println!("  {name:<36} {milliseconds:>6.3} ms CPU, {faults:>6.0} page faults, {resident:>6.0} KiB resident");
        costs.push(cost);
    }
    println!("  exporter to bare client: {:.2} (target 1.3)", costs[1] / costs[0]);
    println!("  all computed metrics to default file: {:.2} (target 2)", costs[4] / costs[1]);
    for ((name, _, stats), before) in counting.into_iter().zip(calls_before) {
        println!("  calls in {MEASURED} s, {name}:");
        let count = |calls: &serde_json::Value, call: &str| calls[call].as_u64().unwrap_or(0);
        let after = calls(stats);
        for call in after.as_object().unwrap().keys() {
            let made = count(&after, call) - count(&before, call);
            if made > 0 {
                println!("    {made:>5} {call}");
            }
        }
    }
    drop((twins, engine));
    std::fs::remove_dir_all(&directory).unwrap();
}

fn middle(mut values: [f64; TWINS]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[TWINS / 2]
}

/// A process; killed when dropped.
struct Running {
    name: &'static str,
    child: Child,
}

struct Usage {
    /// Seconds, user and system.
    cpu: f64,
    faults: f64,
    resident_kib: f64,
}

impl Running {
    fn start(name: &'static str, command: &mut Command) -> Running {
        Running {
            name,
            child: command.spawn().unwrap_or_else(|error| panic!("{name}: {error} (make build simulator)")),
        }
    }

    /// From /proc/PID/stat, fields 10, 14, 15 and 24, as proc(5) numbers them, and schedstat, which is in nanoseconds.
    fn usage(&self) -> Usage {
        let of = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap();
        let stat = of("stat");
        let fields: Vec<f64> =
            stat.rsplit_once(") ").unwrap().1.split(' ').map(|field| field.trim().parse().unwrap_or(0.0)).collect();
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let nanoseconds = tasks.filter_map(|task| {
            let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<f64>().ok()
        });
        Usage { cpu: nanoseconds.sum::<f64>() / 1e9, faults: fields[7], resident_kib: fields[21] * 4.0 }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a client in C would do, and nothing else.
fn bare_client(address: String) -> ! {
    let library = Arc::new(Library::open(Some(&release("libdcgm_simulator.so"))).unwrap());
    let session = Rc::new(Session::remote(&library, &Address::Tcp(address), Duration::from_secs(2)).unwrap());
    let counters = Counters::parse(DEFAULT_FILE.as_bytes(), &sources::names()).unwrap();
    let gpus: Vec<u32> = (0..8).collect();
    let plan = Plan::new(&counters, &library, profiling_support(&session, &gpus, |_, _| {}).unwrap());
    let fields = plan.fields.iter().find(|fields| fields.kind == Kind::Gpu).unwrap();
    let entities: Vec<EntityId> = gpus.iter().map(|gpu| EntityId::new(EntityGroup::Gpu, *gpu)).collect();
    let group = Rc::new(Group::new(&session, &entities, |_, error| panic!("{error}")).unwrap());
    let ids = plan.supported_by(0, &fields.ids);
    let fields = Rc::new(FieldGroup::new(&session, &ids).unwrap());
    let watch = Watch::new(&group, &fields, INTERVAL.mul_f64(0.9), Keep::Latest).unwrap();
    loop {
        session.update_all_fields().unwrap();
        let mut values = 0;
        watch.latest(&mut |_, _| values += 1).unwrap();
        assert_eq!(values, ids.len() * gpus.len());
        std::thread::sleep(INTERVAL);
    }
}
