//! The thread that reads the job map whenever it changes. A file system that hangs holds up this thread and nothing else;
//! `/health` then names the directory.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::microseconds;
use super::wait::{Message, WatcherHandle};
use crate::config::Config;
use crate::jobs::{Scan, scan};
use crate::system::busy::Busy;
use crate::system::directory::DirectoryMonitor;
use crate::system::threads::{Supervisor, test_fault};

/// It reads files of 64 KiB.
const STACK: usize = 256 * 1024;
/// Whether the directory is another one now is looked at this often, and, without inotify, what is in it.
const LOOK_LATEST: Duration = Duration::from_secs(1);
/// Prolog and epilog write several files in a row: their changes are taken together.
const SETTLE: Duration = Duration::from_millis(20);
/// After a reading no event is heard for so long: whoever can write there keeps nobody busy.
const EVENTS_SOONEST: Duration = Duration::from_millis(50);
/// The first page has jobs if the first reading takes no longer than this.
const FIRST_READING: Duration = Duration::from_millis(500);

/// One reading of the job map.
pub struct Reading {
    pub scan: Scan,
    /// When it began, in microseconds since 1970: what happens from then on belongs to these jobs.
    pub began: i64,
}

#[derive(Default)]
struct Shared {
    latest: Mutex<Option<Reading>>,
    changed: Condvar,
    busy: Busy,
}

impl Shared {
    fn latest(&self) -> MutexGuard<'_, Option<Reading>> {
        self.latest.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The job map, as it was last read.
pub struct JobMapReader {
    shared: Arc<Shared>,
    started: Instant,
}

impl JobMapReader {
    /// Starts the thread.
    ///
    /// Errors: the system cannot start another thread.
    pub fn start(
        directory: PathBuf,
        config: &Config,
        watcher: WatcherHandle,
        supervisor: &Supervisor,
    ) -> std::io::Result<JobMapReader> {
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        let (trust, idle) = (config.job_map_trust, config.job_map_idle.clone());
        supervisor.spawn("job map", STACK, move || {
            work(&of_thread, &directory, &watcher, || scan(&directory, trust, &idle))
        })?;
        Ok(JobMapReader { shared, started: Instant::now() })
    }

    /// What was read since the last call. Waits for the first reading, though not for a directory that hangs.
    pub fn take(&self) -> Option<Reading> {
        let longest = FIRST_READING.saturating_sub(self.started.elapsed());
        let waited = self.shared.changed.wait_timeout_while(self.shared.latest(), longest, |latest| latest.is_none());
        waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0.take()
    }

    /// A sentence, if the directory does not answer.
    pub fn hanging(&self) -> Option<String> {
        self.shared.busy.hanging("jobs are those that were read before")
    }
}

/// Never ends by itself.
fn work(shared: &Shared, directory: &Path, watcher: &WatcherHandle, scan: impl Fn() -> Scan) -> Result<(), String> {
    shared.busy.set(Some(directory));
    test_fault("job map")?;
    let mut monitor = DirectoryMonitor::new(directory);
    let mut has_changed = true;
    loop {
        if has_changed {
            let began = microseconds();
            let scan = scan();
            log::debug!("the job map has been read: {}", scan.map.summary());
            *shared.latest() = Some(Reading { scan, began });
            shared.changed.notify_all();
            watcher.tell(Message::JobsChanged);
        }
        shared.busy.set(None);
        if has_changed {
            std::thread::sleep(EVENTS_SOONEST);
        }
        let has_event = sleep(monitor.descriptor());
        shared.busy.set(Some(directory));
        test_fault("job map")?;
        has_changed = monitor.changed(has_event);
        if has_changed && has_event {
            std::thread::sleep(SETTLE);
        }
    }
}

/// Sleeps until the directory has an event, or may have become another one. Returns whether it may have one.
fn sleep(monitor: Option<&OwnedFd>) -> bool {
    let mut descriptors: Vec<PollFd<'_>> = monitor.into_iter().map(|it| PollFd::new(it, PollFlags::IN)).collect();
    let timeout = Timespec { tv_sec: LOOK_LATEST.as_secs() as i64, tv_nsec: 0 };
    poll(&mut descriptors, Some(&timeout)) != Ok(0)
}
