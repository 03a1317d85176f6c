//! What one call of the prolog and the epilog of `dist/slurm` takes: a job with 8 GPUs, while 64 others are in the map.
//!
//! Run by `make bench`, as any user. The map is in the system's directory of temporary files.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const CALLS: usize = 101;
const GPUS: u32 = 8;
const JOBS: u32 = 64;

fn call(map: &Path, name: &str, id: u32, gpus: &str) -> Duration {
    let program = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("dist/slurm").join(name);
    let mut command = Command::new(program);
    command.env_clear().env("DCGM_HPC_JOB_MAPPING_DIR", map).env("DCGM_EXPORTER_ENVIRONMENT_FILE", "/nonexistent");
    // As slurmd 22.05 gives them.
    for (variable, value) in [
        ("SLURM_JOB_ID", &*id.to_string()),
        ("SLURM_JOB_GPUS", gpus),
        ("SLURM_JOB_USER", "somebody"),
        ("SLURM_JOB_UID", "1000"),
        ("SLURM_JOB_ACCOUNT", "an-account"),
        ("SLURM_JOB_PARTITION", "gpu"),
        ("SLURM_CLUSTER_NAME", "cluster"),
        ("SLURM_JOB_RESTART_COUNT", "0"),
    ] {
        command.env(variable, value);
    }
    let start = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "{name}: {status}");
    start.elapsed()
}

/// CPU time of the processes that have ended.
fn cpu_of_children() -> Duration {
    /// Linux counts it for user space in hundredths of a second.
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // Behind the name, which may have blanks: proc(5) has cutime and cstime as 16 and 17.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[13..15].iter().map(|ticks| TICK * ticks.parse::<u32>().unwrap()).sum()
}

fn main() {
    let map = std::env::temp_dir().join(format!("dcgm-exporter-prolog-{}", std::process::id()));
    std::fs::create_dir_all(&map).unwrap();
    std::fs::set_permissions(&map, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for job in 0..JOBS {
        call(&map, "prolog.sh", 1000 + job, &(job % GPUS).to_string());
    }
    let mut times = [("prolog.sh", Vec::new()), ("epilog.sh", Vec::new())];
    let before = cpu_of_children();
    for _ in 0..CALLS {
        for (name, times) in &mut times {
            times.push(call(&map, name, 17, "0-7"));
        }
    }
    let cpu = (cpu_of_children() - before) / (2 * CALLS) as u32;
    let left = std::fs::read_dir(&map).unwrap().flatten().count();
    // A file for each job and GPU, the lock, and the directory that is written in.
    assert_eq!(left, (JOBS + GPUS + 2) as usize, "nothing is left of the job that was measured");
    println!("one call, {GPUS} GPUs, {JOBS} other jobs in the map, median of {CALLS} (target 20 ms)");
    for (name, mut times) in times {
        times.sort();
        println!("{name}: {:.1?}, 90th percentile {:.1?}", times[CALLS / 2], times[CALLS * 9 / 10]);
    }
    println!("CPU per call: {cpu:.1?}, which other work on this machine does not change");
    std::fs::remove_dir_all(&map).unwrap();
}
