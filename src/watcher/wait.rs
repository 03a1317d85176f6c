//! Waiting for a time, a message or a change of the job map, in one `poll(2)`.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::files::{FilesHandle, Loaded};
use crate::dcgm::inflight;
use crate::system::directory::DirectoryMonitor;
use crate::system::switch_file::Switch;

/// Whether the job map's directory is another one now is looked at this often, and, without inotify, what is in it.
const LOOK_LATEST: Duration = Duration::from_secs(1);
/// After an event of it no other one is heard for so long. Prolog and epilog write several times in a row: their changes
/// are taken together. And whoever can write there keeps nobody busy.
const EVENTS_SOONEST: Duration = Duration::from_millis(50);

/// What the main thread may ask of the watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Overtakes all else.
    Stop,
    /// Read the configuration file and the counters file again.
    Reload,
    /// Release the GPUs.
    Release,
    /// Go on after a release.
    Resume,
}

/// What other threads tell the watcher.
#[derive(Debug)]
pub enum Message {
    Release,
    Resume,
    /// Files were read again.
    Loaded(Box<Result<Loaded, String>>),
    /// The file that pauses profiling has come, gone or changed.
    PauseFile(Switch),
}

/// How other threads send commands to the watcher.
#[derive(Clone)]
pub struct WatcherHandle {
    messages: Sender<Message>,
    should_stop: Arc<AtomicBool>,
    files: Arc<FilesHandle>,
    wake_up: Arc<OwnedFd>,
}

impl WatcherHandle {
    pub fn send(&self, command: Command) {
        match command {
            Command::Reload => self.files.reload(),
            Command::Release => self.tell(Message::Release),
            Command::Resume => self.tell(Message::Resume),
            Command::Stop => {
                self.should_stop.store(true, Ordering::Release);
                self.wake();
            }
        }
    }

    pub(super) fn tell(&self, message: Message) {
        // A watcher that has ended needs no messages.
        if self.messages.send(message).is_ok() {
            self.wake();
        }
    }

    /// Adding to an eventfd makes it readable.
    fn wake(&self) {
        let _ = rustix::io::write(&*self.wake_up, &1u64.to_ne_bytes());
    }
}

/// Why a wait ended.
#[derive(Debug)]
pub enum Wake {
    Due,
    JobsChanged,
    Stop,
    Told(Message),
}

/// What the watcher waits for.
pub struct Wait {
    messages: Receiver<Message>,
    handle: WatcherHandle,
    jobs: Option<DirectoryMonitor>,
    /// When the job map last had an event.
    heard: Instant,
}

impl Wait {
    /// Monitors the job map's directory.
    ///
    /// Errors: no event descriptor is to be had.
    pub fn new(jobs: Option<&Path>) -> std::io::Result<Wait> {
        let (sender, messages) = channel();
        // It stays readable until it has been read once for each message.
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK | EventfdFlags::SEMAPHORE;
        let handle = WatcherHandle {
            messages: sender,
            should_stop: Arc::default(),
            files: Arc::default(),
            wake_up: Arc::new(eventfd(0, flags)?),
        };
        Ok(Wait { messages, handle, jobs: jobs.map(DirectoryMonitor::new), heard: Instant::now() })
    }

    pub fn handle(&self) -> WatcherHandle {
        self.handle.clone()
    }

    pub fn files(&self) -> &Arc<FilesHandle> {
        &self.handle.files
    }

    /// Waits until `until`, a message, or a change.
    pub fn until(&mut self, until: Instant) -> Wake {
        loop {
            let now = Instant::now();
            let mut rest = until.saturating_duration_since(now).min(LOOK_LATEST);
            let hears_from = self.heard + EVENTS_SOONEST;
            let hears = now >= hears_from;
            if !hears {
                rest = rest.min(hears_from - now);
            }
            // Also where nothing is left of the time: a message that has come meanwhile is seen first, and a change, unless
            // one was heard a moment ago.
            let has_event = self.sleep(rest, hears);
            if self.handle.should_stop.load(Ordering::Acquire) {
                return Wake::Stop;
            }
            match self.messages.try_recv() {
                Ok(message) => return Wake::Told(message),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
            }
            let now = Instant::now();
            // It was no message, so it was the directory.
            if has_event {
                self.heard = now;
            }
            if hears && self.jobs.as_mut().is_some_and(|jobs| has_changed(jobs, has_event)) {
                return Wake::JobsChanged;
            }
            if now >= until {
                return Wake::Due;
            }
        }
    }

    /// Sleeps until a descriptor is readable, at most for `rest`. Returns whether one is.
    fn sleep(&self, rest: Duration, hears_jobs: bool) -> bool {
        let jobs = self.jobs.iter().filter(|_| hears_jobs).filter_map(DirectoryMonitor::descriptor);
        let descriptors = std::iter::once(&*self.handle.wake_up).chain(jobs);
        let mut descriptors: Vec<PollFd<'_>> =
            descriptors.map(|descriptor| PollFd::new(descriptor, PollFlags::IN)).collect();
        let timeout = Timespec { tv_sec: rest.as_secs() as i64, tv_nsec: i64::from(rest.subsec_nanos()) };
        // An interrupted wait is a short one.
        if poll(&mut descriptors, Some(&timeout)) == Ok(0) {
            return false;
        }
        let _ = rustix::io::read(&*self.handle.wake_up, &mut [0u8; 8]);
        true
    }
}

/// Whether the job map may have changed. Its file system may hang.
fn has_changed(jobs: &mut DirectoryMonitor, has_event: bool) -> bool {
    let _named = inflight::enter("stat(job map)");
    jobs.changed(has_event)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message that was not noticed would wait for the next look, a second each.
    #[test]
    fn messages_that_come_together_wait_for_nothing() {
        let mut wait = Wait::new(None).unwrap();
        let (handle, start) = (wait.handle(), Instant::now());
        for _ in 0..20 {
            handle.send(Command::Release);
            handle.send(Command::Resume);
            let later = start + Duration::from_secs(600);
            assert!(matches!(wait.until(later), Wake::Told(Message::Release)));
            assert!(matches!(wait.until(later), Wake::Told(Message::Resume)));
        }
        assert!(start.elapsed() < Duration::from_secs(15));
        assert!(matches!(wait.until(Instant::now()), Wake::Due));
    }

    #[test]
    fn a_stop_overtakes_all_else() {
        let mut wait = Wait::new(None).unwrap();
        for command in [Command::Release, Command::Reload, Command::Resume, Command::Stop] {
            wait.handle().send(command);
        }
        assert!(matches!(wait.until(Instant::now() + Duration::from_secs(600)), Wake::Stop));
    }
}
