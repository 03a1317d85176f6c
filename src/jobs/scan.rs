//! Reading the job map directory.
//!
//! A file named for a GPU (see [`GpuName`]) has one job per line: its id, or its id and its user's number; `job.<id>` has
//! what the prolog knew of that job, as `key=value` lines. A file or line that is missing, half written, unreadable or too
//! long costs only what it would have given, and is counted. The limits bound memory and page, whatever lies there.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;

use super::directory::{Directory, Unusable};
use super::gpu_name::GpuName;
use super::{Facts, JobMap};
use crate::config::JobMapTrust;

/// Bytes of a job id. Slurm's longest, as `4294967295_4294967295`, have some 25.
pub const LONGEST_ID: usize = 64;
/// Bytes of a value in `job.<id>` that are shown.
const LONGEST_VALUE: usize = 256;
/// Jobs of one GPU. MPS allows 48 or 60 clients; more ids than that are those of jobs whose epilog never
/// ran, and each one repeats every series of the GPU.
pub const MOST_JOBS: usize = 64;
/// Job ids under all names together, which bounds the page.
pub const MOST_IDS: usize = 4096;
/// Files of each sort: no node has more GPUs and instances than this, or more jobs on them.
const MOST_FILES: usize = 1024;
/// Problems that are told one by one.
const MOST_PROBLEMS: usize = 100;

/// Keys of `job.<id>` that become labels of the same names, in their order on the page.
const FACTS: [&str; 9] =
    ["user", "uid", "account", "partition", "cluster", "restart_count", "array_job_id", "array_task_id", "job_name"];
const START_TIME: &str = "start_time";
const PROFILING: &str = "profiling";
const UID: &str = "uid";

/// What one reading of the directory found.
#[derive(Debug, Default, PartialEq)]
pub struct Scan {
    pub map: JobMap,
    /// One sentence for each file and line that could not be used, and for each limit that was reached; at most
    /// [`MOST_PROBLEMS`].
    pub problems: Vec<String>,
    /// Problems beyond those.
    pub more_problems: usize,
    /// `job.<id>` files that this user may not read.
    denied: usize,
}

/// Reads the whole directory. A missing one is an empty map and no problem: it may be created later. One that is refused
/// is an empty map and one problem. `idle` is what the site writes into the file of a GPU without a job; empty for nothing.
pub fn scan(directory: &Path, trust: JobMapTrust, idle: &str) -> Scan {
    let mut scan = Scan::default();
    let directory = match Directory::open(directory, trust) {
        Ok(Some(directory)) => directory,
        Ok(None) => return scan,
        Err(refused) => {
            scan.problem(format!("{refused}; on a test bed, --job-map-insecure allows what is refused"));
            return scan;
        }
    };
    let shown = directory.path().display();
    let names = match directory.names() {
        Ok((names, false)) => names,
        Ok((names, true)) => {
            scan.problem(format!("{shown} has more than {} entries; the rest is ignored", names.len()));
            names
        }
        Err(error) => {
            scan.problem(format!("{shown} cannot be read: {error}"));
            return scan;
        }
    };
    let gpus: Vec<_> = names.iter().filter_map(|name| Some((name, gpu_of(name)?))).collect();
    for name in
        names.iter().filter(|name| !name.starts_with('.') && !name.starts_with("job.") && gpu_of(name).is_none())
    {
        let hint = "names are those of the guide: 0, 0.7, GPU-..., MIG-..., 0000:1b:00.0, minor0, a file per GPU";
        scan.problem(format!("{shown}/{name}: its name means no GPU, so nobody reads it; {hint}"));
    }
    scan.bound_files(&directory, gpus.len(), "files named for GPUs");
    let mut room = MOST_IDS;
    let mut users: Vec<(String, String)> = Vec::new();
    for (name, gpu) in gpus.into_iter().take(MOST_FILES) {
        let Some(bytes) = scan.read(&directory, name) else { continue };
        let path = directory.path().join(name);
        let mut found = jobs(&bytes, &mut |problem| scan.problem(format!("{}: {problem}", path.display())));
        found.jobs.retain(|(id, _)| id != idle);
        scan.map.left_out += found.refused;
        // A GPU may have several files: under several names, or under one name written in several ways.
        let of_gpu = scan.map.jobs.get(&gpu).map_or(0, Vec::len);
        let kept = found.jobs.len().min(MOST_JOBS - of_gpu).min(room);
        if kept < found.jobs.len() {
            let left_out = found.jobs.len() - kept;
            scan.map.left_out += left_out;
            let limit = match kept < room {
                true => format!("the limit is {MOST_JOBS} jobs per GPU"),
                false => format!("the limit is {MOST_IDS} job ids in all"),
            };
            scan.problem(format!("{}: {left_out} job ids are left out; {limit}", path.display()));
        }
        room -= kept;
        for (id, user) in found.jobs.into_iter().take(kept) {
            users.extend(user.map(|user| (id.clone(), user)));
            scan.map.jobs.entry(gpu.clone()).or_default().push(id);
        }
    }
    let jobs: Vec<_> = names.iter().filter_map(|name| Some((name, job_of(name)?))).collect();
    scan.bound_files(&directory, jobs.len(), "job.<id> files");
    for (name, id) in jobs.into_iter().take(MOST_FILES) {
        let Some(bytes) = scan.read(&directory, name) else { continue };
        let path = directory.path().join(name);
        let found = facts(&bytes, &mut |problem| scan.problem(format!("{}: {problem}", path.display())));
        scan.map.facts.insert(id.to_owned(), found);
    }
    if scan.denied > 0 {
        let denied = scan.denied;
        scan.problem(format!(
            "{shown}: this user may not read {denied} job.<id> files; let DCGM_JOB_MAP_GROUP name a group of this user, so \
             that the next jobs' files are that group's"
        ));
    }
    // What the prolog wrote of a job counts first.
    for (id, user) in users {
        let facts = scan.map.facts.entry(id).or_default();
        if !facts.labels.iter().any(|(name, _)| *name == UID) {
            facts.labels.push((UID, user));
            facts.sort();
        }
    }
    scan
}

impl Scan {
    /// Files, lines and limits: what `problems` tells, and the rest.
    pub fn errors(&self) -> usize {
        self.problems.len() + self.more_problems
    }

    fn problem(&mut self, problem: String) {
        if self.problems.len() < MOST_PROBLEMS {
            self.problems.push(problem);
        } else {
            self.more_problems += 1;
        }
    }

    fn bound_files(&mut self, directory: &Directory, count: usize, what: &str) {
        if count > MOST_FILES {
            self.map.left_out += count - MOST_FILES;
            let shown = directory.path().display();
            self.problem(format!("{shown}: {count} {what}; only {MOST_FILES} are read"));
        }
    }

    /// Reads a file. `None` for one that cannot be used, which is a problem unless it has just been removed: an epilog
    /// does that between the listing and this.
    fn read(&mut self, directory: &Directory, name: &str) -> Option<Vec<u8>> {
        let path = directory.path().join(name);
        match directory.read(name) {
            Ok(content) => {
                if content.is_cut {
                    self.problem(format!("{}: longer than 64 KiB, the rest is left out", path.display()));
                }
                return Some(content.bytes);
            }
            Err(Unusable::Gone) => {}
            // One problem for all of them, after the last.
            Err(Unusable::Denied) if job_of(name).is_some() => self.denied += 1,
            Err(Unusable::Denied) => self.problem(format!("{}: this user may not read it", path.display())),
            Err(Unusable::Because(reason)) => self.problem(format!("{}: {reason}", path.display())),
        }
        None
    }
}

/// The GPU that a file is named for. Other tools name the device file (`nvidia7`) or the index (`gpu7`); what may mean two
/// things, such as `0-1`, is no name.
fn gpu_of(name: &str) -> Option<GpuName> {
    let index = |name: &str| GpuName::parse(name).filter(|name| matches!(name, GpuName::Index(_)));
    let device = name.strip_prefix("nvidia").and_then(|number| GpuName::parse(&format!("minor{number}")));
    GpuName::parse(name).or(device).or_else(|| index(name.strip_prefix("gpu")?))
}

/// The id in `job.<id>`.
fn job_of(name: &str) -> Option<&str> {
    name.strip_prefix("job.").filter(|id| is_id(id))
}

/// Whether this can be a job id: at most [`LONGEST_ID`] characters of those that batch systems use, as in `17`, `17_4`,
/// `17_[1-9]`, `17+1`, `17.batch` and `17[4].server.example`. Blanks, quotes and backslashes are never among them.
fn is_id(text: &str) -> bool {
    let is_used = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+[]:,@#%=/~".contains(&byte);
    (1..=LONGEST_ID).contains(&text.len()) && text.bytes().all(is_used)
}

/// `key=value` lines. A key that is none of [`FACTS`] is left to other readers.
fn facts(bytes: &[u8], problem: &mut dyn FnMut(String)) -> Facts {
    let mut facts = Facts::default();
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let line = readable(line);
        let Some((key, value)) = line.split_once('=') else {
            if !line.trim().is_empty() {
                problem(format!("line {} is not key=value", index + 1));
            }
            continue;
        };
        if key.contains(char::REPLACEMENT_CHARACTER) {
            problem(format!("line {} has a key that is not UTF-8", index + 1));
            continue;
        }
        let (key, value) = (key.trim(), bounded(value.trim()));
        if key == START_TIME {
            match value.parse::<f64>().ok().filter(|seconds| seconds.is_finite() && *seconds >= 0.0) {
                Some(seconds) => facts.start_time = Some(seconds),
                None => problem(format!("line {} is not a time in seconds since 1970", index + 1)),
            }
        } else if key == PROFILING {
            facts.pauses_profiling = value == "pause";
            if !facts.pauses_profiling {
                problem(format!("line {}: 'pause' is the only value of {PROFILING}", index + 1));
            }
        } else if let Some(known) = FACTS.iter().find(|known| **known == key).filter(|_| !value.is_empty()) {
            facts.labels.retain(|(name, _)| name != known);
            facts.labels.push((known, value.to_owned()));
        }
    }
    facts.sort();
    facts
}

impl Facts {
    fn sort(&mut self) {
        self.labels.sort_by_key(|(name, _)| FACTS.iter().position(|known| known == name));
    }
}

/// A line as text. Names may be in another encoding than UTF-8, or cut in the middle of a character, which is left out.
fn readable(line: &[u8]) -> Cow<'_, str> {
    let end = match std::str::from_utf8(line) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => line.len(),
    };
    String::from_utf8_lossy(&line[..end])
}

/// The first [`LONGEST_VALUE`] bytes of a value, without half a character at the end.
fn bounded(value: &str) -> &str {
    &value[..value.floor_char_boundary(LONGEST_VALUE)]
}

#[derive(Debug, Default, PartialEq)]
struct Jobs {
    /// Ids, each once, and the numbers of their users where these are there, too.
    jobs: Vec<(String, Option<String>)>,
    /// Lines that are no job id.
    refused: usize,
}

/// One job per line, as `id` or as `id uid`; blank and repeated ones are dropped.
fn jobs(bytes: &[u8], problem: &mut dyn FnMut(String)) -> Jobs {
    let mut found = Jobs::default();
    let mut known: HashSet<&str> = HashSet::new();
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let mut words = std::str::from_utf8(line).unwrap_or("\u{fffd}").split_whitespace();
        let (id, user, more) = (words.next(), words.next(), words.next());
        match (id, user) {
            (None, _) => {}
            (Some(id), user) if is_id(id) && user.is_none_or(is_user) && more.is_none() => {
                if known.insert(id) {
                    found.jobs.push((id.to_owned(), user.map(str::to_owned)));
                }
            }
            _ => {
                found.refused += 1;
                // The first one names the place; a file of another program may have thousands.
                if found.refused == 1 {
                    problem(format!(
                        "line {} is not a job id (at most {LONGEST_ID} letters, digits and . _ - + [ ] : , @ # % = / ~), \
                         alone or with a user's number behind it",
                        index + 1
                    ));
                }
            }
        }
    }
    found
}

/// The number of a user.
fn is_user(text: &str) -> bool {
    const LONGEST: usize = 10;
    text.len() <= LONGEST && text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u32>().is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use rustix::fs::{FileType, Mode};

    use super::*;

    fn scan(directory: &Path) -> Scan {
        super::scan(directory, JobMapTrust::RootOnly, "")
    }

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("dcgm-exporter-jobs-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        chmod(&path, 0o755);
        path
    }

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    /// Jobs without their users.
    fn ids(bytes: &[u8], problem: &mut dyn FnMut(String)) -> (Vec<String>, usize) {
        let found = jobs(bytes, problem);
        (found.jobs.into_iter().map(|(id, _)| id).collect(), found.refused)
    }

    #[test]
    fn lines_are_trimmed_and_blank_and_repeated_ones_dropped() {
        let problems = std::cell::RefCell::new(Vec::new());
        let found = ids(b" 17\r\n\n17\n\t18 \n \n19", &mut |problem| problems.borrow_mut().push(problem));
        assert_eq!(found, (["17", "18", "19"].map(str::to_owned).to_vec(), 0));
        assert!(problems.borrow().is_empty());
        let long = [b"20\n".as_slice(), &[b'x'; 65], b"\n\xff\n21\n"].concat();
        let found = ids(&long, &mut |problem| problems.borrow_mut().push(problem));
        assert_eq!(found, (["20", "21"].map(str::to_owned).to_vec(), 2));
        assert_eq!(problems.borrow().len(), 1);
        assert!(problems.borrow()[0].starts_with("line 2 is not a job id"), "{problems:?}");
    }

    #[test]
    fn ids_as_batch_systems_write_them() {
        let longest = "x".repeat(64);
        for id in ["17", "17_4", "17_[1-9,12%3]", "17+1", "17.batch", "17[4].server.example", "a@b#c:d/e~", &longest] {
            assert!(is_id(id), "{id}");
        }
        for text in ["", "17 18", "o\"neil", "back\\slash", "\u{e4}", "a\tb", "{17}", &"x".repeat(65)] {
            assert!(!is_id(text), "{text}");
        }
    }

    #[test]
    fn what_is_beyond_the_limits_is_left_out_and_counted() {
        let path = directory("limits");
        let ids = |from: usize, count: usize| (from..from + count).map(|id| format!("{id}\n")).collect::<String>();
        std::fs::write(path.join("0"), ids(0, 70)).unwrap();
        // Two files of one name share its limit.
        std::fs::write(path.join("GPU-aB"), ids(100, 60)).unwrap();
        std::fs::write(path.join("GPU-ab"), ids(200, 60)).unwrap();
        let found = scan(&path);
        let of = |text: &str| found.map.jobs_of(&[GpuName::parse(text).unwrap()]).len();
        assert_eq!((of("0"), of("GPU-ab"), found.map.left_out), (MOST_JOBS, MOST_JOBS, 6 + 56));
        assert_eq!(found.problems.len(), 2, "{:?}", found.problems);
        assert!(found.problems.iter().all(|problem| problem.contains("64 jobs per GPU")), "{:?}", found.problems);
        for gpu in 0..65 {
            std::fs::write(path.join(gpu.to_string()), ids(gpu * 1000, 64)).unwrap();
        }
        let found = scan(&path);
        let all: usize = found.map.jobs.values().map(Vec::len).sum();
        assert_eq!((all, found.map.left_out), (MOST_IDS, 64 + 60 + 60));
        assert!(found.problems.iter().any(|problem| problem.contains("4096 job ids in all")), "{:?}", found.problems);
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn a_file_that_an_epilog_removes_meanwhile_is_no_problem() {
        let path = directory("gone");
        let opened = Directory::open(&path, JobMapTrust::RootOnly).unwrap().unwrap();
        let mut scan = Scan::default();
        assert_eq!(scan.read(&opened, "0"), None);
        assert_eq!(scan.problems, Vec::<String>::new());
        std::os::unix::fs::symlink(path.join("nowhere"), path.join("1")).unwrap();
        assert_eq!(scan.read(&opened, "1"), None);
        assert_eq!(scan.problems.len(), 1, "{:?}", scan.problems);
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn a_directory_that_others_can_change_is_refused() {
        let path = directory("open");
        std::fs::write(path.join("0"), "17\n").unwrap();
        let has_job = |found: &Scan| !found.map.jobs_of(&[GpuName::Index(0)]).is_empty();
        assert!(has_job(&scan(&path)));
        let refused = |path: &Path, why: &str| {
            let found = scan(path);
            assert!(!has_job(&found) && found.problems.len() == 1, "{found:?}");
            assert!(found.problems[0].contains(why) && found.problems[0].contains("--job-map-insecure"), "{found:?}");
            assert!(has_job(&super::scan(path, JobMapTrust::Anybody, "")));
        };
        for mode in [0o775, 0o757, 0o777, 0o1777] {
            chmod(&path, mode);
            refused(&path, &format!("has mode {mode:04o}, others can write there, and is refused; chmod 0755"));
        }
        chmod(&path, 0o755);
        let link = path.with_extension("link");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(&path, &link).unwrap();
        refused(&link, "is a link and is refused");
        refused(&link.join(""), "is a link and is refused");
        std::fs::remove_file(&link).unwrap();
        assert_eq!(scan(&path.join("0")).problems.len(), 1, "a file is no directory");
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
            refused(&path, "belongs to user 65534 and is refused; chown root");
        }
        std::fs::remove_dir_all(&path).unwrap();
    }

    /// Left from before the directory was closed.
    #[test]
    fn files_that_others_can_change_are_refused() {
        let path = directory("files");
        for name in ["0", "1", "2"] {
            std::fs::write(path.join(name), "17\n").unwrap();
        }
        chmod(&path.join("1"), 0o666);
        let is_root = rustix::process::geteuid().is_root();
        if is_root {
            std::os::unix::fs::chown(path.join("2"), Some(65_534), None).unwrap();
        }
        let found = scan(&path);
        let known = |gpu: u32| !found.map.jobs_of(&[GpuName::Index(gpu)]).is_empty();
        assert_eq!([0, 1, 2].map(known), [true, false, !is_root], "{found:?}");
        assert_eq!(found.problems.len(), 1 + usize::from(is_root), "{found:?}");
        assert_eq!(super::scan(&path, JobMapTrust::Anybody, "").map.names().count(), 3);
        std::fs::remove_dir_all(&path).unwrap();
    }

    /// A GPU has many names, each with a file; each file has its limit, and the GPU has one, too.
    #[test]
    fn a_gpu_under_many_names_has_one_limit() {
        let path = directory("many-names");
        let names = ["0", "GPU-a", "1b:00.0", "minor0"];
        for (index, name) in names.into_iter().enumerate() {
            let ids: String = (0..50).map(|id| format!("{}\n", 1000 * index + id)).collect();
            std::fs::write(path.join(name), ids).unwrap();
        }
        let found = scan(&path);
        let names = names.map(|name| GpuName::parse(name).unwrap());
        assert_eq!((found.map.jobs_of(&names).len(), found.map.beyond_limit(&names)), (MOST_JOBS, 200 - MOST_JOBS));
        assert_eq!(found.map.beyond_limit(&names[..1]), 0);
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn problems_are_told_up_to_a_hundred_and_counted_beyond() {
        let path = directory("problems");
        std::fs::write(path.join("job.1"), "x\n".repeat(30_000)).unwrap();
        std::fs::write(path.join("0"), "a b c\n".repeat(9_000)).unwrap();
        let found = scan(&path);
        assert_eq!((found.problems.len(), found.errors()), (MOST_PROBLEMS, 30_001));
        assert_eq!(found.map.left_out, 9_000);
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn more_entries_than_can_be_are_not_all_looked_at() {
        let path = directory("entries");
        for number in 0..8_300 {
            std::fs::write(path.join(format!("x{number}")), "").unwrap();
        }
        let found = scan(&path);
        assert!(found.problems[0].contains("entries"), "{found:?}");
        assert!(found.problems.len() == MOST_PROBLEMS && found.errors() > 8_000, "{}", found.errors());
        std::fs::remove_dir_all(&path).unwrap();
    }

    /// plazonic's form, which its prolog writes by index and by UUID.
    #[test]
    fn an_id_may_have_a_users_number_behind_it() {
        let path = directory("users");
        std::fs::write(path.join("0"), "17 1000\n").unwrap();
        std::fs::write(path.join("MIG-a-1"), " 18\t1001 \n19\n17 1000\n").unwrap();
        std::fs::write(path.join("1"), "20 me\n21 4294967296\n22 -1\n23 1 1\n24 +5\n").unwrap();
        std::fs::write(path.join("job.18"), "partition=gpu\naccount=x\nuid=1\n").unwrap();
        std::fs::write(path.join("job.19"), "account=x\n").unwrap();
        std::fs::write(path.join("2"), "19 1002\n").unwrap();
        let found = scan(&path);
        let of = |name: &str| found.map.jobs_of(&[GpuName::parse(name).unwrap()]).join(" ");
        assert_eq!(["0", "MIG-a-1", "1", "2"].map(of), ["17", "18 19 17", "", "19"]);
        let facts: Vec<String> =
            found.map.facts().map(|(id, facts)| format!("{id} {:?}", facts.labels)).collect::<Vec<_>>();
        assert_eq!(
            facts,
            [
                "17 [(\"uid\", \"1000\")]",
                "18 [(\"uid\", \"1\"), (\"account\", \"x\"), (\"partition\", \"gpu\")]",
                "19 [(\"uid\", \"1002\"), (\"account\", \"x\")]",
            ]
        );
        assert_eq!((found.map.left_out, found.problems.len()), (5, 1), "{found:?}");
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn facts_are_bounded_and_unknown_ones_left_out() {
        let problems = std::cell::RefCell::new(Vec::new());
        let mut problem = |text: String| problems.borrow_mut().push(text);
        let long = "\u{e4}".repeat(200);
        let text = format!(
            "partition=gpu\r\nuser = me\naccount=\nflavour=x\nuid=1000\nuser=you\njob_name={long}\nstart_time=1700000000\n"
        );
        let found = facts(text.as_bytes(), &mut problem);
        let labels: Vec<(&str, &str)> = found.labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let name = "\u{e4}".repeat(128);
        assert_eq!(labels, [("user", "you"), ("uid", "1000"), ("partition", "gpu"), ("job_name", name.as_str())]);
        assert_eq!(found.start_time, Some(1.7e9));
        assert!(problems.borrow().is_empty());
        assert_eq!(facts(b"start_time=never\nstart_time=-1\nnonsense\n\n\xff=x\n", &mut problem), Facts::default());
        assert_eq!(problems.borrow().len(), 4);
    }

    /// Prologs cut names by bytes, and old accounts have names in Latin-1.
    #[test]
    fn names_that_are_not_utf_8_cost_only_what_cannot_be_read() {
        let problems = std::cell::RefCell::new(Vec::new());
        let bytes = b"user=me\njob_name=caf\xc3\naccount=B\xfcro 1\npartition=\xe2\x82\nstart_time=1\n";
        let found = facts(bytes, &mut |text| problems.borrow_mut().push(text));
        let labels: Vec<(&str, &str)> = found.labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(labels, [("user", "me"), ("account", "B\u{fffd}ro 1"), ("job_name", "caf")]);
        assert_eq!((found.start_time, problems.borrow().len()), (Some(1.0), 0), "{problems:?}");
    }

    #[test]
    fn a_gpu_under_all_its_names() {
        let path = directory("names");
        for (name, ids) in [
            ("0", "1\n"),
            ("GPU-aB", "2\n1\n"),
            ("1B:00.0", "3\n"),
            ("0000:1b:00.0", "4\n"),
            ("minor2", "5\n"),
            ("0.7", "6\n"),
            ("job.1", "user=me\n"),
            ("job.", "user=x\n"),
            ("job.$x", "user=x\n"),
        ] {
            std::fs::write(path.join(name), ids).unwrap();
        }
        let Scan { map, problems, .. } = scan(&path);
        assert_eq!((problems, map.left_out), (Vec::<String>::new(), 0));
        let names = ["0", "GPU-ab", "00000000:1B:00.0", "minor2"].map(|name| GpuName::parse(name).unwrap());
        assert_eq!(map.jobs_of(&names), ["1", "2", "4", "3", "5"]);
        assert_eq!(map.jobs_of(&[GpuName::Instance(0, 7)]), ["6"]);
        assert_eq!(map.jobs_of(&[GpuName::Minor(0), GpuName::Index(1)]), Vec::<&str>::new());
        assert_eq!(map.facts().map(|(id, facts)| (id, facts.labels.len())).collect::<Vec<_>>(), [("1", 1)]);
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn names_that_other_tools_write() {
        let path = directory("other-tools");
        for (name, ids) in
            [("nvidia7", "88"), ("gpu7", "99"), ("0-1", "77"), ("1", "0"), ("gpu07", "5"), ("Gpu-1", "6")]
        {
            std::fs::write(path.join(name), ids).unwrap();
        }
        let found = scan(&path);
        let of = |found: &Scan, name| found.map.jobs_of(&[name]).join(" ");
        assert_eq!(
            [GpuName::Minor(7), GpuName::Index(7), GpuName::Index(1)].map(|name| of(&found, name)),
            ["88", "99", "0"]
        );
        let names: Vec<_> =
            ["0-1", "Gpu-1", "gpu07"].map(|name| format!("{}/{name}: its name means", path.display())).into();
        assert!(found.problems.iter().zip(&names).all(|(found, name)| found.starts_with(name)), "{found:?}");
        assert_eq!(found.problems.len(), 3);
        assert_eq!(of(&super::scan(&path, JobMapTrust::RootOnly, "0"), GpuName::Index(1)), "");
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn whatever_lies_there_costs_only_itself() {
        use std::os::unix::fs::symlink;
        let path = directory("odd");
        std::fs::write(path.join("0"), "17\n").unwrap();
        std::fs::write(path.join("1"), "").unwrap();
        std::fs::write(path.join("notes"), "x").unwrap();
        std::fs::write(path.join("job.17"), "user=x\n").unwrap();
        std::fs::create_dir(path.join("2")).unwrap();
        symlink(path.join("nowhere"), path.join("3")).unwrap();
        symlink(path.join("0"), path.join("4")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, path.join("5"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        std::fs::write(path.join("6"), vec![b'7'; 200_000]).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path.join("7")).unwrap();
        let scan = scan(&path);
        // A link is not followed, even one to a file of the map.
        assert_eq!([0, 4].map(|gpu| scan.map.jobs_of(&[GpuName::Index(gpu)])), [vec!["17"], vec![]]);
        assert_eq!(scan.map.jobs.len(), 1, "{scan:?}");
        assert_eq!(scan.problems.len(), 7, "{scan:?}");
        std::fs::remove_dir_all(&path).unwrap();
    }
}
