//! A real Slurm on one node, or two on one host, whose GPUs are harmless device files, with the prolog and epilog of `dist/slurm`: a job's
//! label is on the page of the real binary while the job has its GPUs, and nothing is left behind.
//!
//! munged, slurmctld and slurmd run from a throw-away directory on loopback and are stopped by their ids.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Exporter, GPU_TEMP, Scratch, Signal, exporter, free_port, scenario, signal_to};
use crate::scripts::{EPILOG, PROLOG, SUMMARY, TASK_EPILOG, directory, files, hostile_lock, random_jobs, run, script};

const PATIENCE: Duration = Duration::from_secs(60);
const GPUS: u32 = 8;
/// As a user who is not root. Every Debian has this one, with the number 34; Slurm 26.05 refuses `nobody`.
const AS_USER: &str = "--uid=backup";
/// From a prolog's or epilog's last write until the page shows it.
const SOON: Duration = Duration::from_secs(1);

/// A daemon; stopped when dropped.
struct Daemon {
    name: &'static str,
    child: Child,
}

impl Daemon {
    fn start(name: &'static str, command: &mut Command) -> Daemon {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Daemon { name, child: child.unwrap_or_else(|error| panic!("{name} is installed: {error}")) }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let end = Instant::now() + Duration::from_secs(10);
        signal_to(self.child.id(), Signal::TERM);
        while self.child.try_wait().unwrap().is_none() {
            if Instant::now() > end {
                println!("{} had to be killed", self.name);
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A cluster of one or two nodes. Fields are dropped in the order in which the daemons are to be stopped.
struct Slurm {
    slurmd: Option<Daemon>,
    _second_slurmd: Option<Daemon>,
    _slurmctld: Daemon,
    _munged: Daemon,
    scratch: Scratch,
}

impl Slurm {
    fn start(nodes: u32) -> Slurm {
        assert!(rustix::process::geteuid().is_root(), "the test with Slurm needs root, for device files and daemons");
        let scratch = Scratch::new();
        for directory in ["etc", "run", "log", "state", "spool", "dev", "map", "map2"] {
            std::fs::create_dir_all(scratch.path(directory)).unwrap();
        }
        for device in (0..GPUS).flat_map(|gpu| [format!("dev/nvidia{gpu}"), format!("dev/nvidia-cap{gpu}")]) {
            // The same device as /dev/null.
            use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
            let mode = Mode::from_raw_mode(0o666);
            mknodat(CWD, scratch.path(&device), FileType::CharacterDevice, mode, makedev(1, 3)).unwrap();
        }
        let munged = start_munged(&scratch);
        configure(&scratch, nodes);
        let slurmctld = Daemon::start("slurmctld", with_conf(&mut Command::new("slurmctld"), &scratch).arg("-D"));
        let second = (nodes == 2).then(|| slurmd(&scratch, "node2"));
        let mut slurm = Slurm { slurmd: None, _second_slurmd: second, _slurmctld: slurmctld, _munged: munged, scratch };
        slurm.start_slurmd();
        slurm.until("the nodes are idle", |slurm| slurm.node_state() == "idle");
        slurm
    }

    fn start_slurmd(&mut self) {
        self.slurmd = Some(slurmd(&self.scratch, "node1"));
    }

    fn map(&self) -> PathBuf {
        self.scratch.path("map")
    }

    /// Runs a client, which may hang when its controller does.
    fn client(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("timeout");
        let command = with_conf(command.arg("30").args(arguments), &self.scratch);
        command.stdin(Stdio::null()).output().unwrap()
    }

    #[track_caller]
    fn ask(&self, arguments: &[&str]) -> String {
        let output = self.client(arguments);
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// The state of all nodes, as far as it is one.
    fn node_state(&self) -> String {
        let output = self.client(&["sinfo", "--noheader", "--partition=batch", "--format=%T"]);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Submits a script and returns the job's id.
    fn submit(&self, options: &[&str], script: &str) -> String {
        let wrap = format!("--wrap={script}");
        let directory = format!("--chdir={}", self.scratch.path("").display());
        let fixed = ["sbatch", "--parsable", "--output=/dev/null", &directory, &wrap];
        self.ask(&[&fixed[..], options].concat())
    }

    #[track_caller]
    fn until(&self, what: &str, is: impl Fn(&Slurm) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is(self) {
            let log = |name: &str| std::fs::read_to_string(self.scratch.path(name)).unwrap_or_default();
            assert!(
                Instant::now() < end,
                "waited in vain until {what}; map: {:?}\n{}\n{}",
                files(&self.map()),
                log("log/slurmctld.log"),
                log("log/slurmd.node1.log")
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Year and month of the Slurm that is installed: (22, 5).
fn version() -> (u32, u32) {
    let output = Command::new("slurmd").arg("-V").output().expect("slurmd is installed");
    let text = String::from_utf8(output.stdout).unwrap();
    let numbers: Vec<u32> = text.split(['.', ' ']).filter_map(|part| part.parse().ok()).collect();
    assert!(numbers.len() >= 2, "{text}");
    (numbers[0], numbers[1])
}

fn with_conf<'a>(command: &'a mut Command, scratch: &Scratch) -> &'a mut Command {
    command.env("SLURM_CONF", scratch.path("etc/slurm.conf"))
}

fn slurmd(scratch: &Scratch, node: &str) -> Daemon {
    Daemon::start("slurmd", with_conf(&mut Command::new("slurmd"), scratch).args(["-D", "-N", node]))
}

fn start_munged(scratch: &Scratch) -> Daemon {
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    let (key, socket) = (scratch.path("etc/munge.key"), scratch.path("run/munge.socket"));
    let mut bytes = [0u8; 128];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    std::fs::write(&key, bytes).unwrap();
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    let mut command = Command::new("munged");
    command
        .arg("--foreground")
        .arg(format!("--socket={}", socket.display()))
        .arg(format!("--key-file={}", key.display()));
    for (option, file) in
        [("log-file", "log/munged.log"), ("pid-file", "run/munged.pid"), ("seed-file", "run/munged.seed")]
    {
        command.arg(format!("--{option}={}", scratch.path(file).display()));
    }
    let munged = Daemon::start("munged", &mut command);
    let end = Instant::now() + PATIENCE;
    while !socket.exists() {
        assert!(Instant::now() < end, "munged: {:?}", std::fs::read_to_string(scratch.path("log/munged.log")));
        std::thread::sleep(Duration::from_millis(10));
    }
    munged
}

/// The first node has whole GPUs; the second has two parts of each of the first four, in Slurm's form for MIG.
fn configure(scratch: &Scratch, nodes: u32) {
    use std::os::unix::fs::PermissionsExt;
    let map = |name: &str| format!("DCGM_HPC_JOB_MAPPING_DIR={}\n", scratch.path(name).display());
    scratch.write("etc/environment.node1", map("map"));
    let instances: Vec<String> = (0..GPUS).map(|part| format!("{}.{}", part / 2, 7 + part % 2)).collect();
    scratch.write("etc/environment.node2", format!("{}DCGM_JOB_MAP_GRES={}\n", map("map2"), instances.join(" ")));
    // slurmd gives a prolog no environment, so this machine's own settings would count; the wait is for a test below.
    for name in [PROLOG, EPILOG, TASK_EPILOG] {
        let text = format!(
            "#!/bin/sh\nif [ -e {slow} ]; then PATH=/bin:/usr/bin sleep 2; fi\n\
             DCGM_EXPORTER_ENVIRONMENT_FILE={settings}.$SLURMD_NODENAME exec {script}\n",
            slow = scratch.path(&format!("slow-{name}")).display(),
            settings = scratch.path("etc/environment").display(),
            script = directory().join(name).display(),
        );
        let path = scratch.write(&format!("etc/{name}"), text);
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let at = |path: &str| scratch.path(path).display().to_string();
    let mut conf = vec![
        "ClusterName=fake".to_owned(),
        format!("SlurmctldHost={host}(127.0.0.1)"),
        "SlurmUser=root\nSlurmdUser=root".to_owned(),
        format!("AuthType=auth/munge\nAuthInfo=socket={}\nCredType=cred/munge", at("run/munge.socket")),
        format!("SlurmctldPort={}", free_port()),
        "MpiDefault=none\nProctrackType=proctrack/linuxproc\nTaskPlugin=task/none".to_owned(),
        "JobAcctGatherType=jobacct_gather/none\nAccountingStorageType=accounting_storage/none".to_owned(),
        "SelectType=select/cons_tres\nSelectTypeParameters=CR_Core\nSlurmdParameters=config_overrides".to_owned(),
        "SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=1,sched_interval=1".to_owned(),
        "PreemptType=preempt/partition_prio\nPreemptMode=REQUEUE".to_owned(),
        "ReturnToService=2\nKillWait=2".to_owned(),
        format!("StateSaveLocation={}\nSlurmdSpoolDir={}.%n", at("state"), at("spool")),
        format!("SlurmctldPidFile={}\nSlurmdPidFile={}", at("run/slurmctld.pid"), at("run/slurmd.%n.pid")),
        format!("SlurmctldLogFile={}\nSlurmdLogFile={}", at("log/slurmctld.log"), at("log/slurmd.%n.log")),
        format!("Prolog={}\nEpilog={}", at("etc/prolog.sh"), at("etc/epilog.sh")),
        format!("TaskEpilog={}", at("etc/task-epilog.sh")),
        "GresTypes=gpu,shard".to_owned(),
    ];
    for node in 1..=nodes {
        let shards = if node == 1 { ",shard:32" } else { "" };
        conf.push(format!(
            "NodeName=node{node} NodeHostname={host} NodeAddr=127.0.0.1 Port={} CPUs=16 Boards=1 SocketsPerBoard=1 \
             CoresPerSocket=16 ThreadsPerCore=1 RealMemory=1000 Gres=gpu:{GPUS}{shards}",
            free_port()
        ));
    }
    if version() > (22, 5) {
        // Newer ones start no slurmd without control groups unless they are told to.
        scratch.write("etc/cgroup.conf", "CgroupPlugin=disabled\n");
    }
    let names = if nodes == 2 { "node1,node2" } else { "node1" };
    conf.push(format!("PartitionName=batch Nodes={names} Default=YES MaxTime=INFINITE State=UP PriorityTier=1"));
    conf.push(format!("PartitionName=urgent Nodes={names} MaxTime=INFINITE State=UP PriorityTier=9\n"));
    scratch.write("etc/slurm.conf", conf.join("\n"));
    let mut gres = format!(
        "AutoDetect=off\nNodeName=node1 Name=gpu File={}/nvidia[0-7]\nNodeName=node1 Name=shard Count=32\n",
        at("dev")
    );
    for part in (0..GPUS).filter(|_| nodes == 2) {
        let (dev, gpu) = (at("dev"), part / 2);
        gres.push_str(&format!("NodeName=node2 Name=gpu MultipleFiles={dev}/nvidia{gpu},{dev}/nvidia-cap{part}\n"));
    }
    scratch.write("etc/gres.conf", gres);
}

/// The exporter beside a job map.
fn start_exporter(scratch: &Scratch, map: &Path) -> Exporter {
    let gpus: Vec<u32> = (0..GPUS).collect();
    let plan = scratch.write("scenario.json", scenario(&gpus).to_string());
    let counters = scratch.write("counters.csv", GPU_TEMP);
    // A long interval: labels do not wait for it.
    let mut command = exporter();
    command.env("DCGM_SIMULATOR_SCENARIO", plan).args(["-c", "1h", "-f"]).arg(counters);
    let mut exporter = Exporter::start(command.arg("--hpc-job-mapping-dir").arg(map));
    exporter.page();
    exporter
}

type Held = BTreeMap<String, BTreeSet<String>>;

fn label<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_once(&format!("{name}=\""))?.1.split('"').next()
}

/// GPUs by job, as the samples have them.
fn on_page(page: &str) -> Held {
    let mut held = Held::new();
    for line in page.lines().filter(|line| line.starts_with("DCGM_FI_DEV_GPU_TEMP{")) {
        if let (Some(job), Some(gpu)) = (label(line, "hpc_job"), label(line, "gpu")) {
            held.entry(job.to_owned()).or_default().insert(gpu.to_owned());
        }
    }
    held
}

/// GPUs by job, as the files have them.
fn in_map(map: &Path) -> Held {
    let mut held = Held::new();
    for (gpu, jobs) in files(map).into_iter().filter(|(name, _)| name.bytes().all(|byte| byte.is_ascii_digit())) {
        for job in jobs {
            held.entry(job).or_default().insert(gpu.clone());
        }
    }
    held
}

/// Waits until the map has what is wanted, and checks that the page follows soon.
#[track_caller]
fn page_follows(slurm: &Slurm, exporter: &Exporter, what: &str, is: impl Fn(&Held) -> bool) -> Held {
    slurm.until(what, |slurm| is(&in_map(&slurm.map())));
    let changed = Instant::now();
    loop {
        let held = on_page(&exporter.get("/metrics").body);
        if held == in_map(&slurm.map()) && is(&held) {
            println!("{what}: {} ms later on the page", changed.elapsed().as_millis());
            return held;
        }
        assert!(changed.elapsed() < SOON, "{what}: not on the page: {held:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn count(held: &Held, job: &str) -> usize {
    held.get(job).map_or(0, BTreeSet::len)
}

#[track_caller]
fn all_is_over(slurm: &Slurm, exporter: &Exporter) {
    page_follows(slurm, exporter, "no job is left", |held| held.is_empty());
    slurm.until("no file is left", |slurm| files(&slurm.map()).is_empty());
    slurm.until("the node is idle", |slurm| slurm.node_state() == "idle");
}

#[test]
#[ignore = "needs slurmctld, slurmd, munge and root: make e2e"]
fn jobs_of_a_real_slurm() {
    let mut slurm = Slurm::start(1);
    let exporter = start_exporter(&slurm.scratch, &slurm.map());

    for gpus in [1, 2, GPUS as usize] {
        let job = slurm.submit(&[&format!("--gres=gpu:{gpus}"), AS_USER], "sleep 600");
        page_follows(&slurm, &exporter, &format!("a job with {gpus} GPUs runs"), |held| count(held, &job) == gpus);
        let page = exporter.get("/metrics").body;
        let info =
            page.lines().find(|line| line.starts_with("dcgm_exporter_job_info{")).expect("it has an info metric");
        for part in
            [&*format!("hpc_job=\"{job}\""), "user=\"backup\"", "uid=\"34\"", "partition=\"batch\"", "cluster=\"fake\""]
        {
            assert!(info.contains(part), "{info}");
        }
        let allocated = |line: &&str| line.starts_with("dcgm_exporter_gpu_allocated{") && line.ends_with(" 1");
        assert_eq!(page.lines().filter(allocated).count(), gpus, "{page}");
        slurm.ask(&["scancel", &job]);
        all_is_over(&slurm, &exporter);
    }

    slurm.submit(&["--gres=gpu:1", "--array=0-2"], "sleep 600");
    let held = page_follows(&slurm, &exporter, "an array runs", |held| held.len() == 3);
    let gpus: BTreeSet<&String> = held.values().flatten().collect();
    assert_eq!(gpus.len(), 3, "{held:?}");
    slurm.ask(&["scancel", "--user=root"]);
    all_is_over(&slurm, &exporter);

    let shards = [slurm.submit(&["--gres=shard:1"], "sleep 600"), slurm.submit(&["--gres=shard:1"], "sleep 600")];
    let held =
        page_follows(&slurm, &exporter, "two jobs share a GPU", |held| shards.iter().all(|job| count(held, job) == 1));
    assert_eq!(held[&shards[0]], held[&shards[1]]);
    slurm.ask(&["scancel", &shards[0]]);
    page_follows(&slurm, &exporter, "one of them is over", |held| held.len() == 1 && count(held, &shards[1]) == 1);
    slurm.ask(&["scancel", &shards[1]]);
    all_is_over(&slurm, &exporter);

    let mut srun = Command::new("timeout");
    let srun = with_conf(srun.args(["60", "srun", "--gres=gpu:2", "sleep", "3"]), &slurm.scratch);
    let mut srun = srun.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    page_follows(&slurm, &exporter, "srun runs", |held| held.values().next().is_some_and(|gpus| gpus.len() == 2));
    assert!(srun.wait().unwrap().success());
    all_is_over(&slurm, &exporter);

    // Without a step there is an epilog and no prolog.
    slurm.ask(&["salloc", "--gres=gpu:1", "sleep", "1"]);
    all_is_over(&slurm, &exporter);

    cancelled_before_during_and_after(&slurm, &exporter);

    let job = slurm.submit(&["--gres=gpu:3"], "sleep 600");
    page_follows(&slurm, &exporter, "a job runs", |held| count(held, &job) == 3);
    let slurmd = slurm.slurmd.take().unwrap();
    signal_to(slurmd.child.id(), Signal::KILL);
    let mut slurmd = slurmd;
    slurmd.child.wait().unwrap();
    std::mem::forget(slurmd);
    slurm.start_slurmd();
    slurm.until("slurmd is back", |slurm| slurm.node_state().starts_with("mix"));
    page_follows(&slurm, &exporter, "the job is still there", |held| count(held, &job) == 3);
    slurm.ask(&["scancel", &job]);
    all_is_over(&slurm, &exporter);
}

fn cancelled_before_during_and_after(slurm: &Slurm, exporter: &Exporter) {
    let whole = slurm.submit(&["--gres=gpu:8"], "sleep 600");
    page_follows(slurm, exporter, "the node is full", |held| count(held, &whole) == 8);
    let pending = slurm.submit(&["--gres=gpu:8"], "sleep 600");
    slurm.ask(&["scancel", &pending]);
    slurm.ask(&["scancel", &whole]);
    all_is_over(slurm, exporter);

    let slow = slurm.scratch.write("slow-prolog.sh", "");
    let job = slurm.submit(&["--gres=gpu:2"], "sleep 600");
    slurm.until("its prolog runs", |slurm| slurm.node_state().starts_with("mix"));
    slurm.ask(&["scancel", &job]);
    std::fs::remove_file(slow).unwrap();
    // The prolog goes on to its end, and the epilog comes after it.
    slurm.until("it is forgotten", |slurm| slurm.ask(&["squeue", "--noheader"]).is_empty());
    all_is_over(slurm, exporter);

    let job = slurm.submit(&["--gres=gpu:2"], "exit 3");
    slurm.until("it has ended by itself", |slurm| {
        let state = slurm.ask(&["scontrol", "--oneliner", "show", "job", &job]);
        state.contains("JobState=FAILED")
    });
    all_is_over(slurm, exporter);
}

/// The names under which a map has a job.
fn names_of(slurm: &Slurm, map: &str, job: &str) -> Vec<String> {
    let files = files(&slurm.scratch.path(map)).into_iter();
    files.filter(|(_, jobs)| jobs.contains(job)).map(|(name, _)| name).collect()
}

fn fact(slurm: &Slurm, job: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(slurm.map().join(format!("job.{job}"))).ok()?;
    text.lines().find_map(|line| Some(line.strip_prefix(key)?.strip_prefix('=')?.to_owned()))
}

/// Lets a requeued job run again. Slurm would let it wait for two minutes; within the second of its epilog slurmd 22.05
/// takes a job for the one that it knows already, and runs no prolog.
#[track_caller]
fn runs_again(slurm: &Slurm, job: &str, restarts: &str) {
    slurm.until("it is pending again", |slurm| {
        slurm.ask(&["squeue", "--noheader", "--jobs", job, "--format=%T %r"]) == "PENDING BeginTime"
    });
    slurm.ask(&["scontrol", "update", &format!("JobId={job}"), "StartTime=now+4"]);
    slurm.until(&format!("it runs with {restarts} restarts"), |slurm| {
        fact(slurm, job, "restart_count").as_deref() == Some(restarts)
    });
    assert_eq!(names_of(slurm, "map", job), ["0", "1"]);
}

/// Jobs of several nodes, of several components, and jobs that run twice.
#[test]
#[ignore = "needs slurmctld, slurmd, munge and root: make e2e"]
fn jobs_of_two_nodes_one_with_parts_of_gpus() {
    let slurm = Slurm::start(2);
    let none_is_left = |slurm: &Slurm| {
        slurm.until("no file is left", |slurm| {
            ["map", "map2"].iter().all(|map| files(&slurm.scratch.path(map)).is_empty())
        });
    };

    // Each node has its part: whole GPUs on one, instances by the positions in gres.conf on the other.
    let job = slurm.submit(&["--nodes=2", "--gres=gpu:3"], "srun sleep 600");
    slurm.until("both nodes have it", |slurm| {
        names_of(slurm, "map", &job) == ["0", "1", "2"] && names_of(slurm, "map2", &job) == ["0.7", "0.8", "1.7"]
    });
    slurm.ask(&["scancel", &job]);
    none_is_left(&slurm);

    // Each component of a heterogeneous job is a job of its own.
    let script = slurm.scratch.write("het.sh", "#!/bin/sh\nsrun --het-group=0,1 sleep 600\n").display().to_string();
    let chdir = format!("--chdir={}", slurm.scratch.path("").display());
    let (first, second) = (["--nodelist=node1", "--gres=gpu:2"], ["--nodelist=node2", "--gres=gpu:1"]);
    let common = ["sbatch", "--parsable", "--output=/dev/null", &chdir];
    let job = slurm.ask(&[&common[..], &first, &[":"], &second, &[&script]].concat());
    let next = (job.parse::<u32>().unwrap() + 1).to_string();
    slurm.until("both components have their GPUs", |slurm| {
        names_of(slurm, "map", &job) == ["0", "1"] && names_of(slurm, "map2", &next) == ["0.7"]
    });
    slurm.ask(&["scancel", &job]);
    none_is_left(&slurm);

    let job = slurm.submit(&["--nodelist=node1", "--gres=gpu:2"], "sleep 600");
    slurm.until("it runs", |slurm| names_of(slurm, "map", &job) == ["0", "1"]);
    assert_eq!(fact(&slurm, &job, "restart_count").as_deref(), Some("0"));
    slurm.ask(&["scontrol", "requeue", &job]);
    slurm.until("it is away", |slurm| names_of(slurm, "map", &job).is_empty());
    runs_again(&slurm, &job, "1");

    // A job with a right of way takes its GPUs, and gives them back.
    let urgent = slurm.submit(&["--partition=urgent", "--nodelist=node1", "--gres=gpu:8"], "sleep 600");
    slurm.until("it has been preempted", |slurm| {
        names_of(slurm, "map", &job).is_empty() && names_of(slurm, "map", &urgent).len() == 8
    });
    slurm.ask(&["scancel", &urgent]);
    runs_again(&slurm, &job, "2");
    assert_eq!(names_of(&slurm, "map", &urgent), Vec::<String>::new());
    slurm.ask(&["scancel", &job]);
    none_is_left(&slurm);
}

/// Ten thousand scripts, and the page of the exporter beside them in the end. Somebody holds the directory's lock all the
/// time, which is anybody's to hold.
#[test]
#[ignore = "takes a minute or two: make e2e"]
fn ten_thousand_prologs_and_epilogs() {
    let scratch = Scratch::new();
    let map = scratch.path("map");
    std::fs::create_dir(&map).unwrap();
    let mut exporter = start_exporter(&scratch, &map);
    let _held = hostile_lock(&map);
    let start = Instant::now();
    let ran = random_jobs(&map, 5300, 4, 7);
    println!("{ran} scripts, four at a time, in {:.0} s", start.elapsed().as_secs_f64());
    assert!(ran >= 10_000, "{ran}");
    let expected = in_map(&map);
    assert!(expected.len() > 20, "some have lost their epilog: {expected:?}");
    exporter.until("the page has the map", |exporter| {
        let page = exporter.get("/metrics").body;
        // By UUID there are GPUs that this node does not have.
        let held = on_page(&page);
        (expected.iter().all(|(job, gpus)| held.get(job) == Some(gpus)) && held.len() == expected.len()).then_some(())
    });
}

/// A file system of 16 KiB; unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn on(path: &Path) -> Mounted {
        std::fs::create_dir(path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=16k,nr_inodes=200,mode=0755", "tmpfs"])
            .arg(path)
            .status();
        assert!(mounted.unwrap().success(), "a tmpfs can be mounted");
        Mounted(path.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// What a job uses: GPU 0 is 40 % busy at 150 W with 1000 MiB, the others have jobs and do nothing.
const WATTS: f64 = 150.0;
const BUSY: f64 = 0.4;

fn start_accounting(scratch: &Scratch, map: &Path) -> Exporter {
    let gpus: Vec<u32> = (0..GPUS).collect();
    let mut plan = scenario(&gpus);
    for (id, gpu) in plan["latest_values"].as_array_mut().unwrap().iter_mut().enumerate() {
        let whole = |value: i64| serde_json::json!({ "type": "int64", "value": value.to_string() });
        let works = id == 0;
        gpu["fields"]["156"] = whole(1_000_000);
        if works {
            gpu["fields"]["156"]["per_second"] = ((WATTS * 1e3) as i64).into();
        }
        gpu["fields"]["203"] = whole(if works { (BUSY * 100.0) as i64 } else { 0 });
        gpu["fields"]["252"] = whole(if works { 1000 } else { 1 });
    }
    let plan = scratch.write("scenario.json", plan.to_string());
    let mut command = exporter();
    command.env("DCGM_SIMULATOR_SCENARIO", plan).args(["-c", "1s", "-f"]).arg(scratch.write("counters.csv", GPU_TEMP));
    command.arg("--hpc-job-mapping-dir").arg(map).arg("--job-summary-dir").arg(scratch.path("summaries"));
    let mut exporter = Exporter::start(&mut command);
    exporter.page();
    exporter
}

#[track_caller]
fn within_a_percent(found: f64, expected: f64) {
    assert!((found - expected).abs() <= expected * 0.01, "{found} instead of {expected}");
}

/// The number before a unit.
fn before(text: &str, unit: &str) -> Option<f64> {
    let words: Vec<&str> = text.split([' ', ',', ';', '\n', '"']).collect();
    words.windows(2).find(|pair| pair[1].trim_end_matches('.') == unit).and_then(|pair| pair[0].parse().ok())
}

/// In its own output, while it still runs, and in the file of the site, when it is over.
#[test]
#[ignore = "needs slurmctld, slurmd, munge and root: make e2e"]
fn a_job_is_told_what_it_used() {
    use std::os::unix::fs::PermissionsExt;
    let slurm = Slurm::start(1);
    let scratch = &slurm.scratch;
    let (map, log) = (slurm.map(), scratch.path("log/jobs"));
    let program = Path::new(env!("CARGO_BIN_EXE_dcgm-exporter")).parent().unwrap();
    scratch.write(
        "etc/environment.node1",
        format!(
            "DCGM_HPC_JOB_MAPPING_DIR={}\nDCGM_EXPORTER_JOB_SUMMARY_DIR={}\nDCGM_JOB_SUMMARY_TO={}\n\
             DCGM_JOB_SUMMARY_PATH={}\n",
            map.display(),
            scratch.path("summaries").display(),
            log.display(),
            program.display()
        ),
    );
    // Where any user may write.
    std::fs::create_dir(scratch.path("out")).unwrap();
    std::fs::set_permissions(scratch.path("out"), PermissionsExt::from_mode(0o1777)).unwrap();
    let exporter = start_accounting(scratch, &map);

    let output = |name: &str| format!("--output={}", scratch.path("out").join(name).display());
    let job = slurm.submit(&["--gres=gpu:2", AS_USER, &output("own")], "srun sleep 10; sleep 10; echo done");
    page_follows(&slurm, &exporter, "it runs", |held| count(held, &job) == 2);
    let line = |job: &str| {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.lines().find(|line| line.contains(&format!(" job={job} "))).map(str::to_owned)
    };
    slurm.until("its line is written", |_| line(&job).is_some());

    let own = std::fs::read_to_string(scratch.path("out/own")).unwrap();
    println!("{own}");
    let lines: Vec<&str> = own.lines().collect();
    assert_eq!((lines[0], lines.len()), ("done", 7), "once, and not for each step: {own}");
    let head = format!("Job {job} (user backup, partition batch) on ");
    assert!(lines[1].starts_with(&head) && lines[1].contains(": still running, GPUs held for "), "{own}");
    let cells: Vec<&str> = lines[3].split_whitespace().collect();
    assert_eq!((cells[0], &cells[2..6]), ("0", &["40", "%", "1.0", "GiB"][..]), "{own}");
    let seconds: f64 = cells[1].strip_suffix('s').and_then(|seconds| seconds.parse().ok()).unwrap();
    let joules = before(lines[3], "J").unwrap();
    assert!((17.0..=22.0).contains(&seconds), "up to the last collection: {own}");
    // Seconds are whole ones here.
    assert!((joules / WATTS - seconds).abs() <= 0.5 + seconds * 0.01, "{own}");
    assert!(lines[4].starts_with("1 ") && lines[4].contains(" 0 % "), "{own}");
    assert!(lines[5].starts_with("1 of 2 GPUs never used."), "{own}");

    let line = line(&job).unwrap();
    println!("{line}");
    let node = " node=node1 ";
    assert!(line.contains(node) && line.contains(" user=backup summary=\"1 of 2 GPUs never used; 2 GPUs, "), "{line}");
    let json = std::fs::read(scratch.path("summaries").join(format!("{job}.json"))).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let number = |name: &str| json["gpus"][0][name].as_f64().unwrap();
    assert_eq!((&json["state"], json["gpus"].as_array().map(Vec::len)), (&"ended".into(), Some(2)), "{json}");
    let held = number("held_seconds");
    assert!((20.0..22.0).contains(&held), "{json}");
    within_a_percent(number("energy_joules"), held * WATTS);
    within_a_percent(number("busy_seconds"), held * BUSY);
    assert_eq!(number("memory_used_max_bytes"), 1000.0 * 1_048_576.0);
    assert_eq!(json["gpus"][1]["energy_joules"], 0.0, "{json}");
    assert_eq!(before(&line, "J"), Some(number("energy_joules").round()), "the same as in the file: {json}");
    assert!(joules <= number("energy_joules") && joules + 2.5 * WATTS > number("energy_joules"), "{own}\n{json}");

    // Without a batch script, srun shows it; a job without GPUs is told nothing.
    let mut srun = Command::new("timeout");
    let srun = with_conf(srun.args(["60", "srun", "--gres=gpu:1", "sleep", "3"]), scratch);
    let shown = String::from_utf8(srun.stdin(Stdio::null()).output().unwrap().stderr).unwrap();
    assert!(shown.contains(": still running, GPUs held for ") && shown.contains("1 GPU, "), "{shown}");
    let job = slurm.submit(&[AS_USER, &output("none")], "echo done");
    slurm.until("it is over", |slurm| slurm.ask(&["squeue", "--noheader"]).is_empty());
    assert_eq!(std::fs::read_to_string(scratch.path("out/none")).unwrap(), "done\n");
    assert!(!std::fs::read_to_string(&log).unwrap().contains(&format!(" job={job} ")));
    all_is_over(&slurm, &exporter);
}

/// A disk that is full costs the lines that it has no room for, and no job.
#[test]
#[ignore = "needs root, to mount: make e2e"]
fn a_full_disk_costs_a_line() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    let log = scratch.path("log");
    let _mounted = Mounted::on(&log);
    let program = scratch.write("bin/dcgm-exporter", format!("#!/bin/sh\necho {}\n", "x".repeat(300)));
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let tell = || {
        let mut command = script(SUMMARY, &scratch.path("map"), &[("SLURM_JOB_ID", "17")]);
        command.env("DCGM_JOB_SUMMARY_TO", log.join("jobs")).env("DCGM_JOB_SUMMARY_PATH", scratch.path("bin"));
        run(command.env("DCGM_EXPORTER_JOB_SUMMARY_DIR", "/nonexistent"))
    };
    // Until the second page of the file has no room for a line.
    let mut told = 0;
    let hog = vec![0; 8192];
    std::fs::write(log.join("hog"), hog).unwrap();
    let said = loop {
        let said = tell();
        if !said.contains("written to ") {
            break said;
        }
        told += 1;
        assert!(told < 100);
    };
    assert!(said.contains("/log/jobs cannot be written"), "{said}");
    tell();
    std::fs::remove_file(log.join("hog")).unwrap();
    tell();
    let text = std::fs::read_to_string(log.join("jobs")).unwrap();
    let is_whole = |line: &&str| line.ends_with('"') && line.matches("job=17").count() == 1 && line.len() > 300;
    assert_eq!(text.lines().filter(is_whole).count(), told + 1, "{text}");
    assert!(is_whole(&text.lines().last().unwrap()) && text.lines().count() <= told + 3, "{text}");
}

/// A directory that is full takes no job away from anybody.
#[test]
#[ignore = "needs root, to mount: make e2e"]
fn a_full_directory_loses_nobody() {
    let scratch = Scratch::new();
    let map = scratch.path("map");
    let _mounted = Mounted::on(&map);
    let tell = |name: &str, job: &str, gpus: &str| {
        run(&mut script(name, &map, &[("SLURM_JOB_ID", job), ("SLURM_JOB_GPUS", gpus)]))
    };
    tell(PROLOG, "1", "0");
    tell(PROLOG, "2", "0");
    std::fs::write(map.join("hog"), vec![0; 60_000]).unwrap_err();
    let said = tell(PROLOG, "3", "0,1");
    assert!(said.contains("cannot be written; nothing is changed"), "{said}");
    let said = tell(EPILOG, "1", "");
    assert!(said.contains("there is no room to write"), "{said}");
    let of = |gpu: &str| files(&map).remove(gpu).unwrap_or_default().into_iter().collect::<Vec<_>>();
    assert_eq!((of("0"), of("1")), (vec!["1".to_owned(), "2".to_owned()], vec![]));
    std::fs::remove_file(map.join("hog")).unwrap();
    tell(EPILOG, "1", "");
    assert_eq!(of("0"), ["2"]);
}

/// Not a test of time, which says nothing on a loaded machine: the figure is for the README.
#[test]
#[ignore = "prints what the scripts take: make e2e"]
fn what_the_scripts_take() {
    let scratch = Scratch::new();
    let map = scratch.path("map");
    let mut times = BTreeMap::new();
    for number in 0..50 {
        let id = number.to_string();
        for name in [PROLOG, EPILOG] {
            let start = Instant::now();
            run(&mut script(name, &map, &[("SLURM_JOB_ID", &id), ("SLURM_JOB_GPUS", "0-7"), ("SLURM_JOB_USER", "me")]));
            times.entry(name).or_insert_with(Vec::new).push(start.elapsed());
        }
    }
    for (name, mut times) in times {
        times.sort();
        println!("{name} with 8 GPUs: median {:.1?}, 90th percentile {:.1?}", times[25], times[45]);
        assert!(times.len() == 50);
    }
}
