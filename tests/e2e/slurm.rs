//! A real Slurm on one node whose GPUs are harmless device files, with the prolog and epilog of `dist/slurm`: a job's
//! label is on the page of the real binary while the job has its GPUs, and nothing is left behind.
//!
//! munged, slurmctld and slurmd run from a throw-away directory on loopback and are stopped by their ids.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Exporter, GPU_TEMP, Scratch, Signal, exporter, free_port, scenario, signal_to};
use crate::scripts::{EPILOG, PROLOG, directory, files, random_jobs, run, script};

const PATIENCE: Duration = Duration::from_secs(60);
const GPUS: u32 = 8;
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

/// A cluster of one node. Fields are dropped in the order in which the daemons are to be stopped.
struct Slurm {
    slurmd: Option<Daemon>,
    _slurmctld: Daemon,
    _munged: Daemon,
    scratch: Scratch,
}

impl Slurm {
    fn start() -> Slurm {
        assert!(rustix::process::geteuid().is_root(), "the test with Slurm needs root, for device files and daemons");
        let scratch = Scratch::new();
        for directory in ["etc", "run", "log", "state", "spool", "dev", "map"] {
            std::fs::create_dir_all(scratch.path(directory)).unwrap();
        }
        for gpu in 0..GPUS {
            // The same device as /dev/null.
            use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
            let path = scratch.path(&format!("dev/nvidia{gpu}"));
            mknodat(CWD, path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 3)).unwrap();
        }
        let munged = start_munged(&scratch);
        configure(&scratch);
        let slurmctld = Daemon::start("slurmctld", with_conf(&mut Command::new("slurmctld"), &scratch).arg("-D"));
        let mut slurm = Slurm { slurmd: None, _slurmctld: slurmctld, _munged: munged, scratch };
        slurm.start_slurmd();
        slurm.until("the node is idle", |slurm| slurm.node_state() == "idle");
        slurm
    }

    fn start_slurmd(&mut self) {
        let mut command = Command::new("slurmd");
        self.slurmd = Some(Daemon::start("slurmd", with_conf(&mut command, &self.scratch).args(["-D", "-N", "node1"])));
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

    fn node_state(&self) -> String {
        let output = self.client(&["sinfo", "--noheader", "--format=%T"]);
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
                log("log/slurmd.log")
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn with_conf<'a>(command: &'a mut Command, scratch: &Scratch) -> &'a mut Command {
    command.env("SLURM_CONF", scratch.path("etc/slurm.conf"))
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

fn configure(scratch: &Scratch) {
    use std::os::unix::fs::PermissionsExt;
    let settings =
        scratch.write("etc/environment", format!("DCGM_HPC_JOB_MAPPING_DIR={}\n", scratch.path("map").display()));
    // slurmd gives a prolog no environment, so this machine's own settings would count; the wait is for a test below.
    for name in [PROLOG, EPILOG] {
        let text = format!(
            "#!/bin/sh\nif [ -e {slow} ]; then PATH=/bin:/usr/bin sleep 2; fi\n\
             DCGM_EXPORTER_ENVIRONMENT_FILE={settings} exec {script}\n",
            slow = scratch.path(&format!("slow-{name}")).display(),
            settings = settings.display(),
            script = directory().join(name).display(),
        );
        let path = scratch.write(&format!("etc/{name}"), text);
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let at = |path: &str| scratch.path(path).display().to_string();
    let conf = [
        "ClusterName=fake".to_owned(),
        format!("SlurmctldHost={host}(127.0.0.1)"),
        "SlurmUser=root\nSlurmdUser=root".to_owned(),
        format!("AuthType=auth/munge\nAuthInfo=socket={}\nCredType=cred/munge", at("run/munge.socket")),
        format!("SlurmctldPort={}\nSlurmdPort={}", free_port(), free_port()),
        "MpiDefault=none\nProctrackType=proctrack/linuxproc\nTaskPlugin=task/none".to_owned(),
        "JobAcctGatherType=jobacct_gather/none\nAccountingStorageType=accounting_storage/none".to_owned(),
        "SelectType=select/cons_tres\nSelectTypeParameters=CR_Core\nSlurmdParameters=config_overrides".to_owned(),
        "SchedulerParameters=batch_sched_delay=0,sched_min_interval=0".to_owned(),
        "ReturnToService=2\nKillWait=2".to_owned(),
        format!("StateSaveLocation={}\nSlurmdSpoolDir={}", at("state"), at("spool")),
        format!("SlurmctldPidFile={}\nSlurmdPidFile={}", at("run/slurmctld.pid"), at("run/slurmd.pid")),
        format!("SlurmctldLogFile={}\nSlurmdLogFile={}", at("log/slurmctld.log"), at("log/slurmd.log")),
        format!("Prolog={}\nEpilog={}", at("etc/prolog.sh"), at("etc/epilog.sh")),
        "GresTypes=gpu,shard".to_owned(),
        format!(
            "NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 CPUs=16 Boards=1 SocketsPerBoard=1 CoresPerSocket=16 \
             ThreadsPerCore=1 RealMemory=1000 Gres=gpu:{GPUS},shard:32"
        ),
        "PartitionName=batch Nodes=node1 Default=YES MaxTime=INFINITE State=UP\n".to_owned(),
    ];
    scratch.write("etc/slurm.conf", conf.join("\n"));
    scratch.write(
        "etc/gres.conf",
        format!(
            "AutoDetect=off\nNodeName=node1 Name=gpu File={}/nvidia[0-7]\nNodeName=node1 Name=shard Count=32\n",
            at("dev")
        ),
    );
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
    let mut slurm = Slurm::start();
    let exporter = start_exporter(&slurm.scratch, &slurm.map());

    for gpus in [1, 2, GPUS as usize] {
        let job = slurm.submit(&[&format!("--gres=gpu:{gpus}"), "--uid=nobody"], "sleep 600");
        page_follows(&slurm, &exporter, &format!("a job with {gpus} GPUs runs"), |held| count(held, &job) == gpus);
        let page = exporter.get("/metrics").body;
        let info =
            page.lines().find(|line| line.starts_with("dcgm_exporter_job_info{")).expect("it has an info metric");
        for part in [
            &*format!("hpc_job=\"{job}\""),
            "user=\"nobody\"",
            "uid=\"65534\"",
            "partition=\"batch\"",
            "cluster=\"fake\"",
        ] {
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

/// Ten thousand scripts, and the page of the exporter beside them in the end.
#[test]
#[ignore = "takes a minute or two: make e2e"]
fn ten_thousand_prologs_and_epilogs() {
    let scratch = Scratch::new();
    let map = scratch.path("map");
    std::fs::create_dir(&map).unwrap();
    let mut exporter = start_exporter(&scratch, &map);
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

/// A directory that is full takes no job away from anybody.
#[test]
#[ignore = "needs root, to mount: make e2e"]
fn a_full_directory_loses_nobody() {
    struct Mounted(PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(&self.0).status();
        }
    }
    let scratch = Scratch::new();
    let map = scratch.path("map");
    std::fs::create_dir(&map).unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=16k,nr_inodes=200", "tmpfs"]).arg(&map).status();
    assert!(mounted.unwrap().success(), "a tmpfs can be mounted");
    let _mounted = Mounted(map.clone());
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
