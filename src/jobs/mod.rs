//! The job map directory: which jobs have which GPU, and whose they are, as prolog and epilog scripts write it.
//!
//! A file named for a GPU (see [`GpuName`]) has a job id a line; `job.<id>` has what the prolog knew of that job, as
//! `key=value` lines. A hint, never a duty: whatever is missing, half written, unreadable or no regular file costs what it
//! would have given and is counted. DCGM is not known here.

pub mod gpu_name;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

use gpu_name::GpuName;

/// Bytes of a file that are looked at.
const LONGEST_FILE: u64 = 64 * 1024;
/// Bytes of a line that can still be a job id.
const LONGEST_LINE: usize = 1024;
/// Bytes of a value in `job.<id>` that are shown.
const LONGEST_VALUE: usize = 256;
/// Jobs of one GPU; more than this is a file gone wrong, and each one multiplies the page.
const MOST_JOBS: usize = 256;
/// Files of each sort that are looked at; no node has more GPUs and instances than this, or more jobs on them.
const MOST_FILES: usize = 1024;

/// Keys of `job.<id>` that become labels of the same names, in their order on the page.
const FACTS: [&str; 9] =
    ["user", "uid", "account", "partition", "cluster", "restart_count", "array_job_id", "array_task_id", "job_name"];
const START_TIME: &str = "start_time";

#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobMap {
    jobs: BTreeMap<GpuName, Vec<String>>,
    /// By job id.
    facts: BTreeMap<String, Facts>,
}

/// What is known of a job.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Label names and values, each name at most once, and no value empty.
    pub labels: Vec<(&'static str, String)>,
    /// Seconds since 1970, by the node's clock.
    pub start_time: Option<f64>,
}

impl JobMap {
    /// Ids under any of these names of one GPU, each once.
    pub fn jobs_of(&self, names: &[GpuName]) -> Vec<&str> {
        let mut ids: Vec<&str> = Vec::new();
        for id in names.iter().filter_map(|name| self.jobs.get(name)).flatten() {
            if !ids.contains(&id.as_str()) {
                ids.push(id);
            }
        }
        ids
    }

    /// What is known of jobs, by id.
    pub fn facts(&self) -> impl Iterator<Item = (&str, &Facts)> {
        self.facts.iter().map(|(id, facts)| (id.as_str(), facts))
    }

    /// GPUs that have jobs.
    pub fn names(&self) -> impl Iterator<Item = &GpuName> {
        self.jobs.keys()
    }

    /// How much there is, in words.
    pub fn summary(&self) -> String {
        let jobs: BTreeSet<&String> = self.jobs.values().flatten().collect();
        format!("{} jobs on {} GPUs or instances", jobs.len(), self.jobs.len())
    }
}

/// What a look at the directory found.
#[derive(Debug, Default, PartialEq)]
pub struct Scan {
    pub map: JobMap,
    /// Files and lines that could not be used; each with why.
    pub problems: Vec<String>,
}

/// Reads the whole directory. A missing one is an empty map and no problem: it may come yet.
pub fn scan(directory: &Path) -> Scan {
    let mut scan = Scan::default();
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return scan,
        Err(error) => {
            scan.problems.push(format!("{} cannot be read: {error}", directory.display()));
            return scan;
        }
    };
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    let gpus = names.iter().filter_map(|name| Some((name, GpuName::parse(name)?)));
    for (name, gpu) in gpus.take(MOST_FILES) {
        let found = read_lines(&directory.join(name), ids, &mut scan.problems).unwrap_or_default();
        if !found.is_empty() {
            // A GPU may have several files: under several names, or under one name written in several ways.
            scan.map.jobs.entry(gpu).or_default().extend(found);
        }
    }
    let jobs = names.iter().filter_map(|name| Some((name, job_of(name)?)));
    for (name, id) in jobs.take(MOST_FILES) {
        if let Some(found) = read_lines(&directory.join(name), facts, &mut scan.problems) {
            scan.map.facts.insert(id.to_owned(), found);
        }
    }
    scan
}

/// The id in `job.<id>`.
fn job_of(name: &str) -> Option<&str> {
    let id = name.strip_prefix("job.")?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (!id.is_empty() && id.bytes().all(is_plain)).then_some(id)
}

/// Reads a file and takes it apart; says what is wrong with it.
fn read_lines<T>(path: &Path, parse: fn(&[u8], &mut dyn FnMut(String)) -> T, problems: &mut Vec<String>) -> Option<T> {
    let mut tell = |problem: String| problems.push(format!("{}: {problem}", path.display()));
    match read_file(path, &mut tell) {
        Ok(bytes) => Some(parse(&bytes, &mut tell)),
        Err(problem) => {
            tell(problem);
            None
        }
    }
}

fn read_file(path: &Path, problem: &mut dyn FnMut(String)) -> Result<Vec<u8>, String> {
    // Non-blocking: a FIFO with a digit for a name must not hold the watcher until somebody writes to it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file: OwnedFd = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| error.to_string())?;
    let stat = rustix::fs::fstat(&file).map_err(|error| error.to_string())?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err("not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    let mut limited = std::fs::File::from(file).take(LONGEST_FILE + 1);
    limited.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > LONGEST_FILE {
        problem(format!("longer than {LONGEST_FILE} bytes, the rest is left out"));
        bytes.truncate(LONGEST_FILE as usize);
        // The last line is cut somewhere.
        bytes.truncate(bytes.iter().rposition(|&byte| byte == b'\n').unwrap_or(0));
    }
    Ok(bytes)
}

/// `key=value` lines. Keys that nobody here knows are another reader's.
fn facts(bytes: &[u8], problem: &mut dyn FnMut(String)) -> Facts {
    let mut facts = Facts::default();
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let Ok(line) = std::str::from_utf8(line) else {
            problem(format!("line {} is not UTF-8", index + 1));
            continue;
        };
        let Some((key, value)) = line.split_once('=') else {
            if !line.trim().is_empty() {
                problem(format!("line {} is no key=value", index + 1));
            }
            continue;
        };
        let (key, value) = (key.trim(), bounded(value.trim()));
        if key == START_TIME {
            match value.parse::<f64>().ok().filter(|seconds| seconds.is_finite() && *seconds >= 0.0) {
                Some(seconds) => facts.start_time = Some(seconds),
                None => problem(format!("line {} is no time in seconds since 1970", index + 1)),
            }
        } else if let Some(known) = FACTS.iter().find(|known| **known == key).filter(|_| !value.is_empty()) {
            facts.labels.retain(|(name, _)| name != known);
            facts.labels.push((known, value.to_owned()));
        }
    }
    facts.labels.sort_by_key(|(name, _)| FACTS.iter().position(|known| known == name));
    facts
}

/// As much of a value as is shown; a character is not cut in two.
fn bounded(value: &str) -> &str {
    &value[..value.floor_char_boundary(LONGEST_VALUE)]
}

/// One id a line, trimmed; blank and repeated lines are dropped.
fn ids(bytes: &[u8], problem: &mut dyn FnMut(String)) -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let Ok(line) = std::str::from_utf8(line).map(str::trim) else {
            problem(format!("line {} is not UTF-8", index + 1));
            continue;
        };
        if line.is_empty() || ids.iter().any(|known| known == line) {
            continue;
        }
        if line.len() > LONGEST_LINE {
            problem(format!("line {} is longer than {LONGEST_LINE} bytes", index + 1));
        } else if ids.len() == MOST_JOBS {
            problem(format!("more than {MOST_JOBS} jobs, the rest is left out"));
            break;
        } else {
            ids.push(line.to_owned());
        }
    }
    ids
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
        assert_eq!(found, ["17", "18", "19"]);
        assert!(problems.borrow().is_empty());
        let long = [b"20\n".as_slice(), &vec![b'x'; 2000], b"\n\xff\n21\n"].concat();
        assert_eq!(ids(&long, &mut |problem| problems.borrow_mut().push(problem)), ["20", "21"]);
        assert_eq!(problems.borrow().len(), 2);
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
        let Scan { map, problems } = scan(&path);
        assert_eq!(problems, Vec::<String>::new());
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
