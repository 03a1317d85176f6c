//! Waiting: for the next beat, a command, or news from a directory, in one `poll(2)`.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::system::directory::DirectoryMonitor;

/// Directories are looked at this often even if nothing says that they changed.
const LOOK_LATEST: Duration = Duration::from_secs(1);
/// Prolog and epilog write several times in a row: their news are taken together.
const JOBS_SOONEST: Duration = Duration::from_millis(50);
/// An editor writes a file in several steps: it is read when it has been left alone for so long.
const SETTLE: Duration = Duration::from_millis(200);

/// What the main thread may ask of the watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Stop,
    /// Read the counters file again.
    Reload,
    /// Let the GPUs go.
    Release,
    /// Take them up again.
    Resume,
}

/// The main thread's end of the line to the watcher.
pub struct Remote {
    commands: Sender<Command>,
    bell: Arc<OwnedFd>,
}

impl Remote {
    pub fn send(&self, command: Command) {
        // A watcher that has ended needs no commands; ringing is adding one to an eventfd.
        if self.commands.send(command).is_ok() {
            let _ = rustix::io::write(&*self.bell, &1u64.to_ne_bytes());
        }
    }
}

/// Why a wait ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Wake {
    Due,
    JobsChanged,
    CountersChanged,
    Command(Command),
}

pub struct Waiting {
    commands: Receiver<Command>,
    bell: Arc<OwnedFd>,
    jobs: Option<DirectoryMonitor>,
    jobs_told: Instant,
    counters: FileWatch,
}

impl Waiting {
    /// Errors: no event descriptor is to be had.
    pub fn new(counters: &Path, jobs: Option<&Path>) -> std::io::Result<(Waiting, Remote)> {
        let (sender, commands) = channel();
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let remote = Remote { commands: sender, bell: bell.clone() };
        let (jobs, counters) = (jobs.map(DirectoryMonitor::new), FileWatch::new(counters));
        Ok((Waiting { commands, bell, jobs, jobs_told: Instant::now(), counters }, remote))
    }

    /// Waits until `until`, a command, or news.
    pub fn until(&mut self, until: Instant) -> Wake {
        loop {
            match self.commands.try_recv() {
                Ok(command) => return Wake::Command(command),
                Err(TryRecvError::Disconnected) => return Wake::Command(Command::Stop),
                Err(TryRecvError::Empty) => {}
            }
            let now = Instant::now();
            if self.counters.changed(now) {
                return Wake::CountersChanged;
            }
            let jobs_from = self.jobs_told + JOBS_SOONEST;
            let jobs_wait = self.jobs.is_some() && now < jobs_from;
            if !jobs_wait && self.jobs.as_mut().is_some_and(DirectoryMonitor::changed) {
                self.jobs_told = now;
                return Wake::JobsChanged;
            }
            if now >= until {
                return Wake::Due;
            }
            let mut rest = (until - now).min(LOOK_LATEST);
            if jobs_wait {
                rest = rest.min(jobs_from - now);
            }
            if let Some((_, settled)) = self.counters.pending {
                rest = rest.min(settled.saturating_duration_since(now));
            }
            self.sleep(rest, jobs_wait);
        }
    }

    /// Sleeps until something rings. Directories that are known to have changed do not ring again meanwhile.
    fn sleep(&self, rest: Duration, without_jobs: bool) {
        let jobs = self.jobs.as_ref().filter(|_| !without_jobs).and_then(DirectoryMonitor::descriptor);
        let descriptors = [Some(&*self.bell), jobs, self.counters.directory.descriptor()];
        let mut descriptors: Vec<PollFd<'_>> =
            descriptors.into_iter().flatten().map(|descriptor| PollFd::new(descriptor, PollFlags::IN)).collect();
        let timeout = Timespec { tv_sec: rest.as_secs() as i64, tv_nsec: i64::from(rest.subsec_nanos()) };
        // An interrupted wait is a short one.
        let _ = poll(&mut descriptors, Some(&timeout));
        let _ = rustix::io::read(&*self.bell, &mut [0u8; 8]);
    }
}

/// One file, watched through its directory, so that it may be replaced.
struct FileWatch {
    file: PathBuf,
    directory: DirectoryMonitor,
    stamp: Option<Stamp>,
    /// A content not yet reported, and when it will have been left alone for long enough.
    pending: Option<(Stamp, Instant)>,
}

/// What tells one content of a file from another without reading it.
type Stamp = (SystemTime, u64, u64);

impl FileWatch {
    fn new(file: &Path) -> FileWatch {
        let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        FileWatch {
            file: file.to_owned(),
            directory: DirectoryMonitor::new(directory),
            stamp: stamp(file),
            pending: None,
        }
    }

    /// Whether the file has changed and settled since this was last true. One that is gone has not changed: it may be
    /// about to be replaced.
    fn changed(&mut self, now: Instant) -> bool {
        if self.directory.changed() {
            let current = stamp(&self.file).filter(|current| Some(*current) != self.stamp);
            // What else happens in the directory does not put it off.
            if current != self.pending.map(|(pending, _)| pending) {
                self.pending = current.map(|current| (current, now + SETTLE));
            }
        }
        match self.pending {
            Some((pending, settled)) if now >= settled => {
                (self.stamp, self.pending) = (Some(pending), None);
                true
            }
            _ => false,
        }
    }
}

fn stamp(file: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.ino(), metadata.len()))
}
