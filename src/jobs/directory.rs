//! Opening the job map directory, and files in it, so that nobody but root or the exporter's own user decides what is
//! read.
//!
//! Whoever can write there could book GPUs on others, publish files that only root may read, and have the exporter open
//! devices. So a directory that is a link, another user's or writable by others is refused, links in it are not
//! followed, and the type of a file is looked at before it is opened for reading.

use std::fmt;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

use crate::config::JobMapTrust;
use crate::system::files::{is_roots_or_own, refusal};

/// Bytes that are read of a file.
const LONGEST_FILE: u64 = 64 * 1024;
/// Entries of the directory that are looked at: twice what is read of both sorts of files, and as much again.
const MOST_ENTRIES: usize = 8192;

/// The directory, opened: whatever its path names later, this is the one that was looked at.
pub struct Directory {
    opened: OwnedFd,
    path: PathBuf,
    trust: JobMapTrust,
}

/// Why a directory is not used, and what an administrator can do.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    pub found: String,
    pub fix: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.found, self.fix)
    }
}

/// Why a file has nothing to give.
#[derive(Debug)]
pub enum Unusable {
    /// It has been removed since the directory was listed, as an epilog does.
    Gone,
    /// This user may not read it.
    Denied,
    Because(String),
}

impl From<Errno> for Unusable {
    fn from(error: Errno) -> Unusable {
        match error {
            Errno::NOENT => Unusable::Gone,
            Errno::ACCESS => Unusable::Denied,
            error => Unusable::Because(error.to_string()),
        }
    }
}

/// What a file had.
pub struct Content {
    pub bytes: Vec<u8>,
    /// It was longer than [`LONGEST_FILE`]; the last line is a whole one.
    pub is_cut: bool,
}

impl Directory {
    /// Opens a directory; `None` for one that does not exist.
    pub fn open(path: &Path, trust: JobMapTrust) -> Result<Option<Directory>, Refused> {
        // Without the slash at its end, behind which a link would be followed.
        let path = path.components().as_path();
        let shown = path.display();
        let refused = |found: String, fix: String| Err(Refused { found, fix });
        let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if trust == JobMapTrust::RootOnly {
            if path.is_symlink() {
                let fix = "name the directory itself in --hpc-job-mapping-dir".to_owned();
                return refused(format!("{shown} is a link and is refused"), fix);
            }
            flags |= OFlags::NOFOLLOW;
        }
        let opened = match openat(CWD, path, flags, Mode::empty()) {
            Ok(opened) => opened,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return refused(format!("{shown} is not a directory"), "correct --hpc-job-mapping-dir".to_owned());
            }
            Err(error) => {
                let fix = "give the exporter's user read access to it".to_owned();
                return refused(format!("{shown} cannot be read: {error}"), fix);
            }
        };
        let stat = match fstat(&opened) {
            Ok(stat) => stat,
            Err(error) => return refused(format!("{shown} cannot be read: {error}"), "try again".to_owned()),
        };
        if let (JobMapTrust::RootOnly, Some((found, fix))) = (trust, refusal(&stat, "0755")) {
            let fix = format!("{fix} {shown}; then remove what is not root's in it");
            return refused(format!("{shown} {found}"), fix);
        }
        Ok(Some(Directory { opened, path: path.to_owned(), trust }))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names in it that are UTF-8, in order, and whether there are too many to look at all.
    pub fn names(&self) -> Result<(Vec<String>, bool), Errno> {
        let mut names = Vec::new();
        for (count, entry) in Dir::read_from(&self.opened)?.enumerate() {
            if count == MOST_ENTRIES {
                return Ok((names, true));
            }
            if let Ok(name) = entry?.file_name().to_str() {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok((names, false))
    }

    /// Reads a file of the directory.
    pub fn read(&self, name: &str) -> Result<Content, Unusable> {
        // O_PATH names a file without opening it: opening alone waits on a FIFO, and starts the timer of a watchdog.
        let named = openat(&self.opened, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let stat = fstat(&named)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Symlink => return Err(Unusable::Because("not a regular file but a link".to_owned())),
            _ => return Err(Unusable::Because("not a regular file".to_owned())),
        }
        if self.trust == JobMapTrust::RootOnly {
            if !is_roots_or_own(stat.st_uid) {
                return Err(Unusable::Because(format!("belongs to user {}; only root's files are read", stat.st_uid)));
            }
            if stat.st_mode & 0o002 != 0 {
                return Err(Unusable::Because("can be written by all users; chmod 0644".to_owned()));
            }
        }
        let itself = format!("/proc/self/fd/{}", named.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let file = match openat(CWD, itself, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Err(Unusable::Because("/proc is not mounted".to_owned())),
            opened => std::fs::File::from(opened?),
        };
        let mut bytes = Vec::new();
        if let Err(error) = file.take(LONGEST_FILE + 1).read_to_end(&mut bytes) {
            return Err(match error.kind() {
                ErrorKind::PermissionDenied => Unusable::Denied,
                _ => Unusable::Because(error.to_string()),
            });
        }
        let is_cut = bytes.len() as u64 > LONGEST_FILE;
        if is_cut {
            bytes.truncate(LONGEST_FILE as usize);
            bytes.truncate(bytes.iter().rposition(|&byte| byte == b'\n').unwrap_or(0));
        }
        Ok(Content { bytes, is_cut })
    }
}
