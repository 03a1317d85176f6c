//! The thread that writes summaries. It always has the latest state of each job, and nobody waits for it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::Summary;
use super::store::Store;
use crate::system::logging::Throttle;
use crate::system::threads::Supervisor;

/// It formats text and writes files.
const STACK: usize = 256 * 1024;
/// How often old files are looked for.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// What waits to be written, by job.
#[derive(Default)]
struct Pending {
    summaries: BTreeMap<Arc<str>, Summary>,
    /// The thread is writing what it took.
    is_writing: bool,
}

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    changed: Condvar,
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

pub struct Writer(Arc<Shared>);

impl Writer {
    /// Reads what was running when the exporter ended, and starts the thread. Files that have not changed for so many
    /// days are removed; 0 is never.
    ///
    /// Errors: the directory cannot be used, or the system cannot start a thread.
    pub fn start(directory: &Path, days: u32, supervisor: &Supervisor) -> Result<(Writer, Vec<Summary>), String> {
        let store = Store::open(directory)?;
        store.check_owner()?;
        let mut problems = Vec::new();
        let unfinished = store.unfinished(&mut problems);
        problems.iter().for_each(|problem| log::warn!("{problem}"));
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        let path = directory.to_owned();
        supervisor
            .spawn("summaries", STACK, move || work(&of_thread, store, &path, days))
            .map_err(|error| format!("cannot write summaries of jobs: {error}"))?;
        Ok((Writer(shared), unfinished))
    }

    /// Hands over the latest state of some jobs.
    pub fn put(&self, summaries: Vec<Summary>) {
        if summaries.is_empty() {
            return;
        }
        let mut pending = self.0.pending();
        pending.summaries.extend(summaries.into_iter().map(|summary| (summary.job.clone(), summary)));
        self.0.changed.notify_all();
    }

    /// Waits until all is written, at most for so long.
    pub fn finish(&self, longest: Duration) {
        let end = Instant::now() + longest;
        let mut pending = self.0.pending();
        while pending.is_writing || !pending.summaries.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.0.changed.wait_timeout(pending, left);
            pending = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
    }
}

/// Never ends by itself.
fn work(shared: &Shared, mut store: Store, directory: &Path, days: u32) -> Result<(), String> {
    let mut throttle = Throttle::default();
    let mut pruned: Option<Instant> = None;
    loop {
        if days > 0 && pruned.is_none_or(|pruned| pruned.elapsed() >= PRUNE_EVERY) {
            store.prune(Duration::from_secs(u64::from(days) * 86_400));
            pruned = Some(Instant::now());
        }
        let taken = {
            let mut pending = shared.pending();
            pending.is_writing = false;
            shared.changed.notify_all();
            if pending.summaries.is_empty() {
                let waited = shared.changed.wait_timeout(pending, PRUNE_EVERY);
                pending = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
            }
            pending.is_writing = !pending.summaries.is_empty();
            std::mem::take(&mut pending.summaries)
        };
        for summary in taken.values() {
            let written = store.write(summary).or_else(|error| {
                // The directory may have been removed and made anew.
                if let Ok(again) = Store::open(directory)
                    && again.check_owner().is_ok()
                {
                    store = again;
                    return store.write(summary);
                }
                Err(error)
            });
            if let Err(error) = written
                && throttle.allows(&error.to_string())
            {
                log::warn!(job = &*summary.job, error = error.to_string(); "the summary of a job cannot be written");
            }
        }
    }
}
