//! Reading the job map directory.
//!
//! A file named for a GPU (see [`GpuName`]) has one job id per line; `job.<id>` has what the prolog knew of that job,
//! as `key=value` lines. A file or line that is missing, half written, unreadable or too long costs only what it would
//! have given, and is counted.

use std::collections::HashSet;
use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::gpu_name::GpuName;
use super::{Facts, JobMap};

/// Bytes that are read of a file.
const LONGEST_FILE: u64 = 64 * 1024;
/// Bytes of a job id. Slurm's longest, as `4294967295_4294967295`, have some 25.
pub const LONGEST_ID: usize = 64;
/// Bytes of a value in `job.<id>` that are shown.
const LONGEST_VALUE: usize = 256;
/// Jobs under one name of a GPU. MPS allows 48 or 60 clients; more ids than that are those of jobs whose epilog never
/// ran, and each one repeats every series of the GPU.
pub const MOST_JOBS: usize = 64;
/// Job ids under all names together, which bounds the page.
pub const MOST_IDS: usize = 4096;
/// Files of each sort: no node has more GPUs and instances than this, or more jobs on them.
const MOST_FILES: usize = 1024;

/// Keys of `job.<id>` that become labels of the same names, in their order on the page.
const FACTS: [&str; 9] =
    ["user", "uid", "account", "partition", "cluster", "restart_count", "array_job_id", "array_task_id", "job_name"];
const START_TIME: &str = "start_time";

/// What one reading of the directory found.
#[derive(Debug, Default, PartialEq)]
pub struct Scan {
    pub map: JobMap,
    /// One sentence for each file and line that could not be used, and for each limit that was reached.
    pub problems: Vec<String>,
    /// Job ids and files that were left out because of a limit, or because they are no ids.
    pub left_out: usize,
}

/// Reads the whole directory. A missing one is an empty map and no problem: it may be created later.
pub fn scan(directory: &Path) -> Scan {
    let mut scan = Scan::default();
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return scan,
        Err(error) => {
            scan.problems.push(format!("{} cannot be read: {error}", directory.display()));
            return scan;
        }
    };
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    let gpus: Vec<_> = names.iter().filter_map(|name| Some((name, GpuName::parse(name)?))).collect();
    scan.bound_files(directory, gpus.len(), "files named for GPUs");
    let mut room = MOST_IDS;
    for (name, gpu) in gpus.into_iter().take(MOST_FILES) {
        let path = directory.join(name);
        let Some(bytes) = scan.read(&path) else { continue };
        let found = ids(&bytes, &mut |problem| scan.problems.push(format!("{}: {problem}", path.display())));
        scan.left_out += found.refused;
        // A GPU may have several files: under several names, or under one name written in several ways.
        let of_gpu = scan.map.jobs.get(&gpu).map_or(0, Vec::len);
        let kept = found.ids.len().min(MOST_JOBS - of_gpu).min(room);
        if kept < found.ids.len() {
            let left_out = found.ids.len() - kept;
            scan.left_out += left_out;
            let limit = match kept < room {
                true => format!("the limit is {MOST_JOBS} jobs per GPU"),
                false => format!("the limit is {MOST_IDS} job ids in all"),
            };
            scan.problems.push(format!("{}: {left_out} job ids are left out; {limit}", path.display()));
        }
        room -= kept;
        if kept > 0 {
            scan.map.jobs.entry(gpu).or_default().extend(found.ids.into_iter().take(kept));
        }
    }
    let jobs: Vec<_> = names.iter().filter_map(|name| Some((name, job_of(name)?))).collect();
    scan.bound_files(directory, jobs.len(), "job.<id> files");
    for (name, id) in jobs.into_iter().take(MOST_FILES) {
        let path = directory.join(name);
        let Some(bytes) = scan.read(&path) else { continue };
        let found = facts(&bytes, &mut |problem| scan.problems.push(format!("{}: {problem}", path.display())));
        scan.map.facts.insert(id.to_owned(), found);
    }
    scan
}

impl Scan {
    fn bound_files(&mut self, directory: &Path, count: usize, what: &str) {
        if count > MOST_FILES {
            self.left_out += count - MOST_FILES;
            self.problems.push(format!("{}: {count} {what}; only {MOST_FILES} are read", directory.display()));
        }
    }

    /// Reads a file. `None` for one that cannot be used, which is a problem unless it has just been removed: an epilog
    /// does that between the listing and this.
    fn read(&mut self, path: &Path) -> Option<Vec<u8>> {
        let mut problem = |problem: String| self.problems.push(format!("{}: {problem}", path.display()));
        match read_file(path, &mut problem) {
            Ok(bytes) => Some(bytes),
            Err(Unusable::System(Errno::NOENT)) if path.symlink_metadata().is_err() => None,
            Err(Unusable::System(error)) => {
                problem(error.to_string());
                None
            }
            Err(Unusable::NotAFile) => {
                problem("not a regular file".to_owned());
                None
            }
        }
    }
}

/// Why a file has nothing to give.
enum Unusable {
    System(Errno),
    NotAFile,
}

impl From<Errno> for Unusable {
    fn from(error: Errno) -> Unusable {
        Unusable::System(error)
    }
}

fn read_file(path: &Path, problem: &mut dyn FnMut(String)) -> Result<Vec<u8>, Unusable> {
    // Non-blocking: opening a FIFO must not hold the watcher until somebody writes to it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file: OwnedFd = rustix::fs::open(path, flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(Unusable::NotAFile);
    }
    let mut bytes = Vec::new();
    let mut limited = std::fs::File::from(file).take(LONGEST_FILE + 1);
    limited.read_to_end(&mut bytes).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    if bytes.len() as u64 > LONGEST_FILE {
        problem(format!("longer than {LONGEST_FILE} bytes, the rest is left out"));
        bytes.truncate(LONGEST_FILE as usize);
        // The last line is incomplete.
        bytes.truncate(bytes.iter().rposition(|&byte| byte == b'\n').unwrap_or(0));
    }
    Ok(bytes)
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
        let Ok(line) = std::str::from_utf8(line) else {
            problem(format!("line {} is not UTF-8", index + 1));
            continue;
        };
        let Some((key, value)) = line.split_once('=') else {
            if !line.trim().is_empty() {
                problem(format!("line {} is not key=value", index + 1));
            }
            continue;
        };
        let (key, value) = (key.trim(), bounded(value.trim()));
        if key == START_TIME {
            match value.parse::<f64>().ok().filter(|seconds| seconds.is_finite() && *seconds >= 0.0) {
                Some(seconds) => facts.start_time = Some(seconds),
                None => problem(format!("line {} is not a time in seconds since 1970", index + 1)),
            }
        } else if let Some(known) = FACTS.iter().find(|known| **known == key).filter(|_| !value.is_empty()) {
            facts.labels.retain(|(name, _)| name != known);
            facts.labels.push((known, value.to_owned()));
        }
    }
    facts.labels.sort_by_key(|(name, _)| FACTS.iter().position(|known| known == name));
    facts
}

/// The first [`LONGEST_VALUE`] bytes of a value, without half a character at the end.
fn bounded(value: &str) -> &str {
    &value[..value.floor_char_boundary(LONGEST_VALUE)]
}

#[derive(Debug, Default, PartialEq)]
struct Ids {
    ids: Vec<String>,
    /// Lines that are no job id.
    refused: usize,
}

/// One id per line, trimmed; blank and repeated lines are dropped.
fn ids(bytes: &[u8], problem: &mut dyn FnMut(String)) -> Ids {
    let mut found = Ids::default();
    let mut known: HashSet<&str> = HashSet::new();
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        match std::str::from_utf8(line).map(str::trim) {
            Ok("") => {}
            Ok(line) if is_id(line) => {
                if known.insert(line) {
                    found.ids.push(line.to_owned());
                }
            }
            _ => {
                found.refused += 1;
                // The first one names the place; a file of another program may have thousands.
                if found.refused == 1 {
                    problem(format!(
                        "line {} is not a job id (at most {LONGEST_ID} letters, digits and . _ - + [ ] : , @ # % = / ~)",
                        index + 1
                    ));
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("dcgm-exporter-jobs-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn lines_are_trimmed_and_blank_and_repeated_ones_dropped() {
        let problems = std::cell::RefCell::new(Vec::new());
        let found = ids(b" 17\r\n\n17\n\t18 \n \n19", &mut |problem| problems.borrow_mut().push(problem));
        assert_eq!((found.ids, found.refused), (["17", "18", "19"].map(str::to_owned).to_vec(), 0));
        assert!(problems.borrow().is_empty());
        let long = [b"20\n".as_slice(), &[b'x'; 65], b"\n\xff\n21\n"].concat();
        let found = ids(&long, &mut |problem| problems.borrow_mut().push(problem));
        assert_eq!((found.ids, found.refused), (["20", "21"].map(str::to_owned).to_vec(), 2));
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
        assert_eq!((of("0"), of("GPU-ab"), found.left_out), (MOST_JOBS, MOST_JOBS, 6 + 56));
        assert_eq!(found.problems.len(), 2, "{:?}", found.problems);
        assert!(found.problems.iter().all(|problem| problem.contains("64 jobs per GPU")), "{:?}", found.problems);
        for gpu in 0..65 {
            std::fs::write(path.join(gpu.to_string()), ids(gpu * 1000, 64)).unwrap();
        }
        let found = scan(&path);
        let all: usize = found.map.jobs.values().map(Vec::len).sum();
        assert_eq!((all, found.left_out), (MOST_IDS, 64 + 60 + 60));
        assert!(found.problems.iter().any(|problem| problem.contains("4096 job ids in all")), "{:?}", found.problems);
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn a_file_that_an_epilog_removes_meanwhile_is_no_problem() {
        let path = directory("gone");
        let mut scan = Scan::default();
        assert_eq!(scan.read(&path.join("0")), None);
        assert_eq!(scan.problems, Vec::<String>::new());
        std::os::unix::fs::symlink(path.join("nowhere"), path.join("1")).unwrap();
        assert_eq!(scan.read(&path.join("1")), None);
        assert_eq!(scan.problems.len(), 1, "{:?}", scan.problems);
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
        let Scan { map, problems, left_out } = scan(&path);
        assert_eq!((problems, left_out), (Vec::<String>::new(), 0));
        let names = ["0", "GPU-ab", "00000000:1B:00.0", "minor2"].map(|name| GpuName::parse(name).unwrap());
        assert_eq!(map.jobs_of(&names), ["1", "2", "4", "3", "5"]);
        assert_eq!(map.jobs_of(&[GpuName::Instance(0, 7)]), ["6"]);
        assert_eq!(map.jobs_of(&[GpuName::Minor(0), GpuName::Index(1)]), Vec::<&str>::new());
        assert_eq!(map.facts().map(|(id, facts)| (id, facts.labels.len())).collect::<Vec<_>>(), [("1", 1)]);
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
        let scan = scan(&path);
        assert_eq!([0, 4].map(|gpu| scan.map.jobs_of(&[GpuName::Index(gpu)])), [["17"], ["17"]]);
        assert_eq!(scan.map.jobs.len(), 2, "{scan:?}");
        assert_eq!(scan.problems.len(), 4, "{scan:?}");
        std::fs::remove_dir_all(&path).unwrap();
    }
}
