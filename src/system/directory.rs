//! Monitors a directory for changes, through inotify.
//!
//! The directory may be missing, be replaced, or be mounted over, so its identity is compared, too: at every look without
//! inotify and after every event of it, and every 5 s where inotify is silent, for it does not tell of a mount. The owner
//! looks at least once a second. Identity is not enough where a directory is removed and made again: ext4 gives the new one
//! the old number, so the end of the watch counts, too.
//!
//! `fs.inotify.max_user_instances` is 128 for each user, root included, and other services may have used them up. Then
//! the directory is listed once a second, and inotify is tried again every minute.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, inotify};
use rustix::io::Errno;

use super::threads::test_fault;

/// Time between two listings where there is no inotify.
const LIST_EVERY: Duration = Duration::from_secs(1);
/// Time between two attempts to have inotify after one failed.
const RETRY_EVERY: Duration = Duration::from_secs(60);
/// Time between two comparisons of the identity where inotify is silent.
const COMPARE_EVERY: Duration = Duration::from_secs(5);
/// Entries of a directory whose size and times are looked at in a listing; of any others only the names.
const MOST_STATS: usize = 4096;

pub struct DirectoryMonitor {
    directory: PathBuf,
    /// Device and inode of what is monitored; `None` while there is no such directory.
    identity: Option<(u64, u64)>,
    source: Source,
    /// The identity was compared last.
    compared: Instant,
    /// inotify failed, and that was logged.
    is_failing: bool,
    /// Replaced by tests.
    open: fn(&Path) -> Result<OwnedFd, Errno>,
}

/// How changes are noticed.
enum Source {
    /// There is no directory; its identity changes when it appears.
    Absent,
    Inotify(OwnedFd),
    Listing {
        stamp: u64,
        listed: Instant,
        retry: Instant,
    },
}

impl DirectoryMonitor {
    pub fn new(directory: &Path) -> DirectoryMonitor {
        DirectoryMonitor::with(directory, open, Instant::now())
    }

    fn with(directory: &Path, open: fn(&Path) -> Result<OwnedFd, Errno>, now: Instant) -> DirectoryMonitor {
        let directory = directory.to_owned();
        let mut monitor = DirectoryMonitor {
            directory,
            identity: None,
            source: Source::Absent,
            compared: now,
            is_failing: false,
            open,
        };
        monitor.rearm(now);
        monitor
    }

    /// What to wait on; `None` where there is no inotify or no directory, and looks have to do.
    pub fn descriptor(&self) -> Option<&OwnedFd> {
        match &self.source {
            Source::Inotify(inotify) => Some(inotify),
            Source::Absent | Source::Listing { .. } => None,
        }
    }

    /// Whether something in the directory may have changed since the last look. `may_have_event` is false when poll has just
    /// said that the descriptor has nothing to read.
    pub fn changed(&mut self, may_have_event: bool) -> bool {
        self.changed_at(Instant::now(), may_have_event)
    }

    fn changed_at(&mut self, now: Instant, may_have_event: bool) -> bool {
        let heard = match &self.source {
            Source::Inotify(inotify) => {
                let heard = if may_have_event { drain(inotify) } else { Heard::Nothing };
                if heard == Heard::Nothing && now < self.compared + COMPARE_EVERY {
                    return false;
                }
                heard
            }
            Source::Absent | Source::Listing { .. } => Heard::Nothing,
        };
        self.compared = now;
        if heard == Heard::End || identity(&self.directory) != self.identity {
            self.rearm(now);
            return true;
        }
        match &mut self.source {
            Source::Absent => false,
            Source::Inotify(_) => heard == Heard::Events,
            Source::Listing { listed, .. } if now < *listed + LIST_EVERY => false,
            Source::Listing { stamp, listed, retry } => {
                let before = *stamp;
                // inotify first, then the listing: a change after the listing is an event.
                if now >= *retry {
                    self.rearm(now);
                    return list(&self.directory) != before;
                }
                (*stamp, *listed) = (list(&self.directory), now);
                *stamp != before
            }
        }
    }

    /// Begins to monitor whatever directory is there now.
    fn rearm(&mut self, now: Instant) {
        self.identity = identity(&self.directory);
        if self.identity.is_none() {
            self.source = Source::Absent;
            return;
        }
        let directory = self.directory.display().to_string();
        match (self.open)(&self.directory) {
            Ok(inotify) => {
                self.source = Source::Inotify(inotify);
                if std::mem::take(&mut self.is_failing) {
                    log::info!(directory = directory; "inotify works again; changes in this directory are seen at once");
                }
            }
            // Between the two calls the directory went away; the next look sees that.
            Err(Errno::NOENT | Errno::NOTDIR) => self.source = Source::Absent,
            Err(error) => {
                let stamp = list(&self.directory);
                self.source = Source::Listing { stamp, listed: now, retry: now + RETRY_EVERY };
                if !std::mem::replace(&mut self.is_failing, true) {
                    log::warn!(
                        directory = directory, error = error.to_string(), fix = fix(error);
                        "inotify is not available; this directory is listed once a second instead"
                    );
                }
            }
        }
    }
}

/// Opens inotify for a directory.
///
/// Errors: `EMFILE` if the user has no instances left, `ENOSPC` if the user has no watches left, and the system's
/// others.
fn open(directory: &Path) -> Result<OwnedFd, Errno> {
    use inotify::{CreateFlags, WatchFlags};
    if test_fault("inotify").is_err() {
        return Err(Errno::MFILE);
    }
    let created = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let events = WatchFlags::CREATE
        | WatchFlags::MODIFY
        | WatchFlags::ATTRIB
        | WatchFlags::DELETE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR;
    inotify::add_watch(&created, directory, events)?;
    Ok(created)
}

/// What an administrator can do about inotify that fails.
fn fix(error: Errno) -> &'static str {
    match error {
        Errno::MFILE => "sysctl fs.inotify.max_user_instances=1024",
        Errno::NOSPC => "sysctl fs.inotify.max_user_watches=524288",
        _ => "give the exporter's user read access to the directory",
    }
}

/// What inotify had to say; the last one outdoes the others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Heard {
    Nothing,
    Events,
    /// The directory that was watched is gone.
    End,
}

/// Takes all events.
fn drain(inotify: &OwnedFd) -> Heard {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(inotify, &mut buffer);
    let mut heard = Heard::Nothing;
    while let Ok(event) = events.next() {
        let is_end = event.events().contains(inotify::ReadFlags::IGNORED);
        heard = heard.max(if is_end { Heard::End } else { Heard::Events });
    }
    heard
}

fn identity(directory: &Path) -> Option<(u64, u64)> {
    rustix::fs::stat(directory).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

/// A number that is another one after a file came, went, was replaced, written or had its mode changed. It does not
/// depend on the order in which the system lists the files. 0 for a directory that cannot be listed.
fn list(directory: &Path) -> u64 {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(opened) = rustix::fs::open(directory, flags, Mode::empty()) else { return 0 };
    let Ok(entries) = Dir::read_from(&opened) else { return 0 };
    let entries = entries.flatten().filter(|entry| !matches!(entry.file_name().to_bytes(), b"." | b".."));
    let mut sum = 0u64;
    for (index, entry) in entries.enumerate() {
        let mut hasher = DefaultHasher::new();
        (entry.file_name(), entry.ino()).hash(&mut hasher);
        if index < MOST_STATS
            && let Ok(stat) = rustix::fs::statat(&opened, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
        {
            let times = (stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec);
            (stat.st_size, times).hash(&mut hasher);
        }
        sum = sum.wrapping_add(hasher.finish());
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("dcgm-exporter-directory-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// ext4 gives the new directory the number of the old one.
    #[test]
    fn a_directory_that_is_made_again_is_monitored_again() {
        let path = directory("again");
        let mut monitor = DirectoryMonitor::new(&path);
        for round in 0..10 {
            std::fs::remove_dir_all(&path).unwrap();
            std::fs::create_dir(&path).unwrap();
            assert!(monitor.changed(true), "round {round}");
            std::fs::write(path.join("0"), "17\n").unwrap();
            assert!(monitor.changed(true), "round {round}");
        }
    }

    #[test]
    fn changes_are_seen_and_a_missing_directory_is_waited_for() {
        let path = directory("inotify");
        let mut monitor = DirectoryMonitor::new(&path);
        assert!(!monitor.changed(true));
        std::fs::write(path.join("0"), "17\n").unwrap();
        assert!(monitor.changed(true) && !monitor.changed(true));
        std::fs::remove_dir_all(&path).unwrap();
        assert!(monitor.changed(true) && !monitor.changed(true) && monitor.descriptor().is_none());
        std::fs::create_dir(&path).unwrap();
        assert!(monitor.changed(true));
        std::fs::write(path.join("0"), "18\n").unwrap();
        assert!(monitor.changed(true));
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn without_inotify_the_directory_is_listed_once_a_second_until_it_is_back() {
        static IS_BACK: AtomicBool = AtomicBool::new(false);
        let path = directory("listing");
        let start = Instant::now();
        let open_or_not =
            |directory: &Path| if IS_BACK.load(Ordering::SeqCst) { open(directory) } else { Err(Errno::MFILE) };
        let mut monitor = DirectoryMonitor::with(&path, open_or_not, start);
        let mut at = |milliseconds| monitor.changed_at(start + Duration::from_millis(milliseconds), true);
        // Nothing has changed, however often it is looked at.
        assert!((0..=100).all(|look| !at(look * 50)));
        std::fs::write(path.join("0"), "17\n").unwrap();
        assert!(!at(5900), "not before the second is over");
        assert!(at(6000) && !at(6050) && !at(8000));
        // One of the same size in its place is another file.
        std::fs::write(path.join("sedAbC"), "18\n").unwrap();
        assert!(at(9000));
        std::fs::rename(path.join("sedAbC"), path.join("0")).unwrap();
        assert!(at(10_000) && !at(11_000));
        std::fs::remove_file(path.join("0")).unwrap();
        assert!(at(12_000) && !at(13_000));
        // The directory itself goes and comes back.
        std::fs::remove_dir(&path).unwrap();
        assert!(at(13_010) && !at(14_000));
        std::fs::create_dir(&path).unwrap();
        assert!(at(14_010) && !at(15_010));
        IS_BACK.store(true, Ordering::SeqCst);
        assert!(!at(60_000) && monitor.descriptor().is_none());
        assert!(!monitor.changed_at(start + Duration::from_secs(75), true) && monitor.descriptor().is_some());
        std::fs::write(path.join("0"), "17\n").unwrap();
        assert!(monitor.changed(true) && !monitor.changed(true));
        std::fs::remove_dir_all(&path).unwrap();
    }
}
