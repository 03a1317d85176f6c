//! Waiting for a time, a command or a change in a directory, in one `poll(2)`.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::system::directory::DirectoryMonitor;
use crate::system::files::{Stamp, stamp};

/// Whether directories are others now is looked at this often, and, without inotify, what is in them.
const LOOK_LATEST: Duration = Duration::from_secs(1);
/// After an event of a directory no other one is heard for so long. Prolog and epilog write several times in a row: their
/// changes are taken together. And whoever can write beside a monitored file keeps nobody busy.
const EVENTS_SOONEST: Duration = Duration::from_millis(50);
/// An editor writes a file in several steps: it is read when it has been left alone for so long.
const SETTLE: Duration = Duration::from_millis(200);

/// What the main thread may ask of the watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Stop,
    /// Read the configuration file and the counters file again.
    Reload,
    /// Release the GPUs.
    Release,
    /// Go on after a release.
    Resume,
}

/// How other threads send commands to the watcher.
pub struct WatcherHandle {
    commands: Sender<Command>,
    wake_up: Arc<OwnedFd>,
}

impl WatcherHandle {
    pub fn send(&self, command: Command) {
        // A watcher that has ended needs no commands; adding one to an eventfd makes it readable.
        if self.commands.send(command).is_ok() {
            let _ = rustix::io::write(&*self.wake_up, &1u64.to_ne_bytes());
        }
    }
}

/// Why a wait ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Wake {
    Due,
    JobsChanged,
    FilesChanged,
    /// The file that pauses profiling may have come or gone.
    PauseFileChanged,
    Command(Command),
}

/// What the watcher waits for.
pub struct Wait {
    commands: Receiver<Command>,
    wake_up: Arc<OwnedFd>,
    jobs: Option<DirectoryMonitor>,
    files: Vec<FileMonitor>,
    /// The directory of the file that pauses profiling.
    pause: Option<DirectoryMonitor>,
    /// When a directory last had an event.
    heard: Instant,
}

impl Wait {
    /// Monitors these files, the job map's directory, and that of the file that pauses profiling.
    ///
    /// Errors: no event descriptor is to be had.
    pub fn new(
        files: &[&Path],
        jobs: Option<&Path>,
        pause_file: Option<&Path>,
    ) -> std::io::Result<(Wait, WatcherHandle)> {
        let (sender, commands) = channel();
        // It stays readable until it has been read once for each command.
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK | EventfdFlags::SEMAPHORE;
        let wake_up = Arc::new(eventfd(0, flags)?);
        let handle = WatcherHandle { commands: sender, wake_up: wake_up.clone() };
        let mut wait = Wait {
            commands,
            wake_up,
            jobs: jobs.map(DirectoryMonitor::new),
            files: Vec::new(),
            pause: pause_file.map(|file| DirectoryMonitor::new(directory_of(file))),
            heard: Instant::now(),
        };
        wait.monitor(files);
        Ok((wait, handle))
    }

    /// Monitors these files instead of those so far. What is already known of one stays known.
    pub fn monitor(&mut self, files: &[&Path]) {
        self.files.retain(|monitor| files.contains(&monitor.file.as_path()));
        for file in files {
            if self.files.iter().all(|monitor| monitor.file != *file) {
                self.files.push(FileMonitor::new(file));
            }
        }
    }

    /// Waits until `until`, a command, or a change.
    pub fn until(&mut self, until: Instant) -> Wake {
        loop {
            let now = Instant::now();
            let mut rest = until.saturating_duration_since(now).min(LOOK_LATEST);
            let hears_from = self.heard + EVENTS_SOONEST;
            let hears = now >= hears_from;
            if !hears {
                rest = rest.min(hears_from - now);
            }
            for (_, settled) in self.files.iter().filter_map(|file| file.pending) {
                rest = rest.min(settled.saturating_duration_since(now));
            }
            // Also where nothing is left of the time: a command that has come meanwhile is seen first, and a change, unless
            // one was heard a moment ago.
            let has_event = self.sleep(rest, hears);
            match self.commands.try_recv() {
                Ok(command) => return Wake::Command(command),
                Err(TryRecvError::Disconnected) => return Wake::Command(Command::Stop),
                Err(TryRecvError::Empty) => {}
            }
            let now = Instant::now();
            // It was no command, so it was a directory.
            if has_event {
                self.heard = now;
            }
            // Of all, so that two that change together are read once.
            if self.files.iter_mut().filter_map(|file| file.changed(now, has_event).then_some(())).count() > 0 {
                return Wake::FilesChanged;
            }
            if hears && self.jobs.as_mut().is_some_and(|jobs| jobs.changed(has_event)) {
                return Wake::JobsChanged;
            }
            if hears && self.pause.as_mut().is_some_and(|pause| pause.changed(has_event)) {
                return Wake::PauseFileChanged;
            }
            if now >= until {
                return Wake::Due;
            }
        }
    }

    /// Sleeps until a descriptor is readable, at most for `rest`. Returns whether one is.
    fn sleep(&self, rest: Duration, hears_directories: bool) -> bool {
        let files = self.files.iter().map(|file| &file.directory);
        let directories = self.jobs.iter().chain(&self.pause).chain(files).filter(|_| hears_directories);
        let descriptors = std::iter::once(&*self.wake_up).chain(directories.filter_map(DirectoryMonitor::descriptor));
        let mut descriptors: Vec<PollFd<'_>> =
            descriptors.map(|descriptor| PollFd::new(descriptor, PollFlags::IN)).collect();
        let timeout = Timespec { tv_sec: rest.as_secs() as i64, tv_nsec: i64::from(rest.subsec_nanos()) };
        // An interrupted wait is a short one.
        if poll(&mut descriptors, Some(&timeout)) == Ok(0) {
            return false;
        }
        let _ = rustix::io::read(&*self.wake_up, &mut [0u8; 8]);
        true
    }
}

/// A file without a directory is in the one that the process runs in.
fn directory_of(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// One file, monitored through its directory, so that it may be replaced.
struct FileMonitor {
    file: PathBuf,
    directory: DirectoryMonitor,
    stamp: Option<Stamp>,
    /// A content not yet reported, and when it will have been left alone for long enough.
    pending: Option<(Stamp, Instant)>,
}

impl FileMonitor {
    fn new(file: &Path) -> FileMonitor {
        FileMonitor {
            file: file.to_owned(),
            directory: DirectoryMonitor::new(directory_of(file)),
            stamp: stamp(file),
            pending: None,
        }
    }

    /// Whether the file has changed and settled since this was last true. One that is gone has not changed: it may be
    /// about to be replaced.
    fn changed(&mut self, now: Instant, has_event: bool) -> bool {
        let is_settled = self.pending.is_some_and(|(_, settled)| now >= settled);
        // At the end once more: it may have been written on, of which nothing was heard yet.
        if !self.directory.changed(has_event) && !is_settled {
            return false;
        }
        let current = stamp(&self.file).filter(|current| Some(*current) != self.stamp);
        // What else happens in the directory does not put it off.
        if current != self.pending.map(|(pending, _)| pending) {
            self.pending = current.map(|current| (current, now + SETTLE));
            return false;
        }
        if is_settled {
            (self.stamp, self.pending) = (current, None);
        }
        is_settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A command that was not noticed would wait for the next look, a second each.
    #[test]
    fn commands_that_come_together_wait_for_nothing() {
        let (mut wait, handle) = Wait::new(&[], None, None).unwrap();
        let start = Instant::now();
        for _ in 0..20 {
            let commands = [Command::Release, Command::Resume, Command::Stop];
            commands.into_iter().for_each(|command| handle.send(command));
            let got = commands.map(|_| wait.until(start + Duration::from_secs(600)));
            assert_eq!(got, commands.map(Wake::Command));
        }
        assert!(start.elapsed() < Duration::from_secs(15));
        assert_eq!(wait.until(Instant::now()), Wake::Due);
    }
}
