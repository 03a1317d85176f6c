//! Waiting for a time or a message, in one `poll(2)`.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::files::{FilesHandle, Loaded};
use crate::system::switch_file::Switch;

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
    /// The job map was read again.
    JobsChanged,
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
    Stop,
    Told(Message),
}

/// What the watcher waits for.
pub struct Wait {
    messages: Receiver<Message>,
    handle: WatcherHandle,
}

impl Wait {
    /// Errors: no event descriptor is to be had.
    pub fn new() -> std::io::Result<Wait> {
        let (sender, messages) = channel();
        // It stays readable until it has been read once for each message.
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK | EventfdFlags::SEMAPHORE;
        let handle = WatcherHandle {
            messages: sender,
            should_stop: Arc::default(),
            files: Arc::default(),
            wake_up: Arc::new(eventfd(0, flags)?),
        };
        Ok(Wait { messages, handle })
    }

    pub fn handle(&self) -> WatcherHandle {
        self.handle.clone()
    }

    pub fn files(&self) -> &Arc<FilesHandle> {
        &self.handle.files
    }

    /// Waits until `until` or a message.
    pub fn until(&mut self, until: Instant) -> Wake {
        loop {
            // Also where nothing is left of the time: a message that has come meanwhile is seen first.
            self.sleep(until.saturating_duration_since(Instant::now()));
            if self.handle.should_stop.load(Ordering::Acquire) {
                return Wake::Stop;
            }
            match self.messages.try_recv() {
                Ok(message) => return Wake::Told(message),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
            }
            if Instant::now() >= until {
                return Wake::Due;
            }
        }
    }

    /// Sleeps until somebody wakes this thread, at most for `rest`. An interrupted sleep is a short one.
    fn sleep(&self, rest: Duration) {
        let timeout = Timespec { tv_sec: rest.as_secs() as i64, tv_nsec: i64::from(rest.subsec_nanos()) };
        if poll(&mut [PollFd::new(&*self.handle.wake_up, PollFlags::IN)], Some(&timeout)) != Ok(0) {
            let _ = rustix::io::read(&*self.handle.wake_up, &mut [0u8; 8]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message that was not noticed would wait for the next look, a second each.
    #[test]
    fn messages_that_come_together_wait_for_nothing() {
        let mut wait = Wait::new().unwrap();
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
        let mut wait = Wait::new().unwrap();
        for command in [Command::Release, Command::Reload, Command::Resume, Command::Stop] {
            wait.handle().send(command);
        }
        assert!(matches!(wait.until(Instant::now() + Duration::from_secs(600)), Wake::Stop));
    }
}
