//! Running the prolog and the epilog of `dist/slurm` as slurmd does: as they are, with nothing but Slurm's variables.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use crate::common::Random;

pub const PROLOG: &str = "prolog.sh";
pub const EPILOG: &str = "epilog.sh";
pub const SUMMARY: &str = "job-summary.sh";
pub const TASK_EPILOG: &str = "task-epilog.sh";

pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/slurm")
}

/// A script, with a job map directory, no settings of this machine, and more variables.
pub fn script(name: &str, map: &Path, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(directory().join(name));
    command
        .env_clear()
        .env("DCGM_HPC_JOB_MAPPING_DIR", map)
        .env("DCGM_EXPORTER_ENVIRONMENT_FILE", "/nonexistent")
        .envs(variables.iter().copied())
        .stdin(Stdio::null());
    command
}

/// Runs a script and returns the line it says. It never fails.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}{complained}", output.status);
    assert_eq!(complained, "", "{command:?}");
    assert_eq!(said.lines().count(), 1, "{said}");
    said.trim_end().to_owned()
}

/// What any user can do to a directory that can be listed: holds its lock, which is none of the scripts'. Ends with the
/// value.
pub fn hostile_lock(directory: &Path) -> impl Drop {
    struct Held(std::fs::File);
    impl Drop for Held {
        fn drop(&mut self) {
            rustix::fs::flock(&self.0, rustix::fs::FlockOperation::Unlock).unwrap();
        }
    }
    let opened = std::fs::File::open(directory).unwrap();
    rustix::fs::flock(&opened, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    Held(opened)
}

/// The whole map: every entry with its lines, which only regular files have. Names with a dot are the scripts' own.
pub fn files(map: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let entries = std::fs::read_dir(map).into_iter().flatten().flatten();
    let entries = entries.filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."));
    let read = |path: PathBuf| {
        let text = if path.is_file() { std::fs::read_to_string(path).unwrap_or_default() } else { String::new() };
        text.lines().map(str::to_owned).collect()
    };
    entries.map(|entry| (entry.file_name().into_string().unwrap(), read(entry.path()))).collect()
}

/// Prologs and epilogs of `jobs` jobs in random order, `workers` at a time, some missing, some with garbage; in the end
/// the map has exactly the jobs that lost their epilog. Returns how many scripts ran.
pub fn random_jobs(map: &Path, jobs: u64, workers: usize, seed: u64) -> usize {
    const GARBAGE: [&str; 6] = ["", "12;reboot", "../../etc/passwd", "-1", "1 2", "99999999999999999999999"];
    let expected: Mutex<BTreeMap<String, BTreeSet<String>>> = Mutex::default();
    let (ran, next) = (Mutex::new(0), Mutex::new(1));
    std::thread::scope(|threads| {
        for worker in 0..workers as u64 {
            let (expected, ran, next) = (&expected, &ran, &next);
            threads.spawn(move || {
                let mut random = Random(seed ^ worker.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                let mut running: Vec<(u64, Vec<String>)> = Vec::new();
                loop {
                    let job = {
                        let mut next = next.lock().unwrap();
                        *next += 1;
                        *next - 1
                    };
                    if job > jobs && running.is_empty() {
                        return;
                    }
                    let mut started = 0;
                    if job <= jobs {
                        let gpus = random.gpus();
                        let list = random.with_rubbish(&gpus);
                        // One in ten is salloc without a step, which has an epilog and no prolog.
                        if random.below(10) > 0 {
                            let id = job.to_string();
                            run(&mut script(
                                PROLOG,
                                map,
                                &[("SLURM_JOB_ID", &id), ("SLURM_JOB_GPUS", &list), ("SLURM_JOB_USER", "me")],
                            ));
                            started += 1;
                            running.push((job, gpus));
                        } else {
                            running.push((job, Vec::new()));
                        }
                        if random.below(20) == 0 {
                            let garbage = GARBAGE[random.below(GARBAGE.len() as u64) as usize];
                            let name = if random.below(2) == 0 { PROLOG } else { EPILOG };
                            run(&mut script(name, map, &[("SLURM_JOB_ID", garbage), ("SLURM_JOB_GPUS", "0-7")]));
                            started += 1;
                        }
                    }
                    if running.len() > 3 || job > jobs {
                        let index = random.below(running.len() as u64) as usize;
                        let (job, gpus) = running.swap_remove(index);
                        let id = job.to_string();
                        // One in fifty loses its epilog.
                        if random.below(50) > 0 {
                            let other = random.gpus().join(",");
                            run(&mut script(EPILOG, map, &[("SLURM_JOB_ID", &id), ("SLURM_JOB_GPUS", &other)]));
                            started += 1;
                        } else if !gpus.is_empty() {
                            let mut expected = expected.lock().unwrap();
                            for gpu in gpus {
                                expected.entry(gpu).or_default().insert(id.clone());
                            }
                            expected.insert(format!("job.{id}"), BTreeSet::new());
                        }
                    }
                    *ran.lock().unwrap() += started;
                }
            });
        }
    });
    let mut found = files(map);
    for (name, lines) in &mut found {
        if name.starts_with("job.") {
            assert!(lines.contains("user=me"), "{name}: {lines:?}");
            lines.clear();
        }
    }
    assert_eq!(found, expected.into_inner().unwrap());
    ran.into_inner().unwrap()
}

/// What a scheduler hands out.
trait Allocations {
    fn gpus(&mut self) -> Vec<String>;
    fn with_rubbish(&mut self, gpus: &[String]) -> String;
}

impl Allocations for Random {
    /// One to eight of eight GPUs, sometimes by UUID.
    fn gpus(&mut self) -> Vec<String> {
        let (first, count) = (self.below(8), self.below(8) + 1);
        let by_uuid = self.below(5) == 0;
        let name = |gpu: u64| if by_uuid { format!("GPU-0000000{gpu}") } else { gpu.to_string() };
        (first..(first + count).min(8)).map(name).collect()
    }

    fn with_rubbish(&mut self, gpus: &[String]) -> String {
        const RUBBISH: [&str; 6] = ["x", "", "../0", "GPU-a/b", "01", "4-"];
        let mut list = gpus.to_vec();
        if self.below(4) == 0 {
            list.insert(self.below(list.len() as u64 + 1) as usize, RUBBISH[self.below(6) as usize].to_owned());
        }
        list.join(",")
    }
}
