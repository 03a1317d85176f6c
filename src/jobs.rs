//! The job map directory: which jobs have which GPU, as prolog and epilog scripts write it.
//!
//! A hint, never a duty: whatever is missing, half written, unreadable or no regular file costs the label it would
//! have given and is counted. DCGM is not known here.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

/// Bytes of a file that are looked at.
const LONGEST_FILE: u64 = 64 * 1024;
/// Bytes of a line that can still be a job id.
const LONGEST_LINE: usize = 1024;
/// Jobs of one GPU; more than this is a file gone wrong, and each one multiplies the page.
const MOST_JOBS: usize = 256;
/// Files looked at; no node has more GPUs and instances than this.
const MOST_FILES: usize = 1024;

/// Jobs by file name: `<gpu>`, or `<gpu>.<NVML GPU-instance id>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobMap {
    jobs: BTreeMap<String, Vec<String>>,
}

impl JobMap {
    /// Ids in the order of the file; empty if there are none.
    pub fn jobs_of(&self, key: &str) -> &[String] {
        self.jobs.get(key).map(Vec::as_slice).unwrap_or_default()
    }

    /// How much there is, in words.
    pub fn summary(&self) -> String {
        let jobs: std::collections::BTreeSet<&String> = self.jobs.values().flatten().collect();
        format!("{} jobs on {} GPUs or instances", jobs.len(), self.jobs.len())
    }
}

/// What a look at the directory found.
#[derive(Debug, Default, PartialEq, Eq)]
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
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    for name in names.filter(|name| is_key(name)).take(MOST_FILES) {
        match read_file(&directory.join(&name), &mut scan.problems) {
            Ok(ids) if ids.is_empty() => {}
            Ok(ids) => {
                scan.map.jobs.insert(name, ids);
            }
            Err(problem) => scan.problems.push(format!("{}: {problem}", directory.join(&name).display())),
        }
    }
    scan
}

/// `<digits>` or `<digits>.<digits>`.
fn is_key(name: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match name.split_once('.') {
        Some((gpu, instance)) => digits(gpu) && digits(instance),
        None => digits(name),
    }
}

fn read_file(path: &Path, problems: &mut Vec<String>) -> Result<Vec<String>, String> {
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
        problems.push(format!("{}: longer than {LONGEST_FILE} bytes, the rest is left out", path.display()));
        bytes.truncate(LONGEST_FILE as usize);
        // The last line is cut somewhere.
        bytes.truncate(bytes.iter().rposition(|&byte| byte == b'\n').unwrap_or(0));
    }
    Ok(ids(&bytes, &mut |problem| problems.push(format!("{}: {problem}", path.display()))))
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
    use crate::directory::DirectoryWatch;

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
    fn names_of_files() {
        for name in ["0", "12", "0.9", "3.14"] {
            assert!(is_key(name), "{name}");
        }
        for name in ["", ".", "0.", ".9", "a", "0.a", "0.1.2", "-1", "sedX1", "0~"] {
            assert!(!is_key(name), "{name}");
        }
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
        assert_eq!((scan.map.jobs_of("0"), scan.map.jobs_of("4")), (&["17".to_owned()][..], &["17".to_owned()][..]));
        assert_eq!(scan.map.jobs.len(), 2, "{scan:?}");
        assert_eq!(scan.problems.len(), 4, "{scan:?}");
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn changes_are_seen_and_a_missing_directory_is_waited_for() {
        let path = directory("watch");
        let mut watch = DirectoryWatch::new(&path);
        assert!(!watch.changed());
        std::fs::write(path.join("0"), "17\n").unwrap();
        assert!(watch.changed() && !watch.changed());
        std::fs::remove_dir_all(&path).unwrap();
        assert!(watch.changed() && !watch.changed());
        assert_eq!(scan(&path), Scan::default());
        std::fs::create_dir(&path).unwrap();
        assert!(watch.changed());
        std::fs::write(path.join("0"), "18\n").unwrap();
        assert!(watch.changed());
        std::fs::remove_dir_all(&path).unwrap();
    }
}
