//! The thread that writes summaries. It always has the latest state of each job, and nobody waits for it.
//!
//! A directory that cannot be used costs the summaries and nothing else: what could not be written is tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::Summary;
use super::store::Store;
use crate::system::busy::Busy;
use crate::system::logging::Throttle;
use crate::system::threads::{Supervisor, test_fault};

/// It formats text and writes files.
const STACK: usize = 256 * 1024;
/// How often old files are looked for.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);
/// How often what could not be written is tried again, if nothing new comes.
const TRY_AGAIN: Duration = Duration::from_secs(30);
/// The first page has what jobs used before if reading it takes no longer than this.
const FIRST_READING: Duration = Duration::from_millis(300);
/// Jobs whose summaries wait for a directory that can be written: 700 bytes per GPU of a job.
const MOST_UNWRITTEN: usize = 1000;

/// What waits to be written, by job.
#[derive(Default)]
struct Pending {
    summaries: BTreeMap<Arc<str>, Summary>,
    /// The thread is writing what it took.
    is_writing: bool,
    /// What was running when the exporter ended, once it was read, until it is taken.
    unfinished: Option<Vec<Summary>>,
    is_read: bool,
}

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    changed: Condvar,
    busy: Busy,
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

pub struct Writer {
    shared: Arc<Shared>,
    started: Instant,
}

impl Writer {
    /// Starts the thread, which first reads what was running when the exporter ended on this host. Files that have not
    /// changed for so many days are removed; 0 is never. A directory that cannot be used is logged, and looked at again with
    /// every summary.
    ///
    /// Errors: the system cannot start a thread.
    pub fn start(directory: &Path, days: u32, host: &str, supervisor: &Supervisor) -> Result<Writer, String> {
        let shared = Arc::new(Shared::default());
        let (of_thread, place, host) = (shared.clone(), Place::new(directory), host.to_owned());
        supervisor
            .spawn("summaries", STACK, move || work(&of_thread, place, days, host))
            .map_err(|error| format!("cannot write summaries of jobs: {error}"))?;
        Ok(Writer { shared, started: Instant::now() })
    }

    /// What was running when the exporter ended, once. At the start it is waited for, though not for a directory that hangs.
    pub fn unfinished(&self) -> Option<Vec<Summary>> {
        let longest = FIRST_READING.saturating_sub(self.started.elapsed());
        let mut pending = self.shared.pending();
        if !longest.is_zero() {
            let waited = self.shared.changed.wait_timeout_while(pending, longest, |pending| !pending.is_read);
            pending = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
        pending.unfinished.take()
    }

    /// A sentence, if the directory does not answer.
    pub fn hanging(&self) -> Option<String> {
        self.shared.busy.hanging("summaries of jobs wait")
    }

    /// Hands over the latest state of some jobs.
    pub fn put(&self, summaries: Vec<Summary>) {
        if summaries.is_empty() {
            return;
        }
        let mut pending = self.shared.pending();
        pending.summaries.extend(summaries.into_iter().map(|summary| (summary.job.clone(), summary)));
        while pending.summaries.len() > MOST_UNWRITTEN {
            pending.summaries.pop_first();
        }
        self.shared.changed.notify_all();
    }

    /// Waits until all is written, at most for so long.
    pub fn finish(&self, longest: Duration) {
        let end = Instant::now() + longest;
        let mut pending = self.shared.pending();
        while pending.is_writing || !pending.summaries.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.shared.changed.wait_timeout(pending, left);
            pending = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
    }
}

/// The directory, as long as it can be used.
struct Place {
    path: PathBuf,
    store: Option<Store>,
    /// Why it could not be used when that was last looked at.
    told: Option<String>,
    throttle: Throttle,
}

impl Place {
    fn new(path: &Path) -> Place {
        Place { path: path.to_owned(), store: None, told: None, throttle: Throttle::default() }
    }

    /// The directory that the path names now. `None`, and a line in the log, if it cannot be used.
    fn store(&mut self) -> Option<&Store> {
        let usable = |store: Store| store.check_owner().map(|()| store);
        let known = self.store.take().filter(Store::is_in_place);
        match known.map_or_else(|| Store::open(&self.path), Ok).and_then(usable) {
            Ok(store) => {
                if self.told.take().is_some() {
                    log::info!(directory = self.path.display().to_string(); "summaries of jobs are written again");
                }
                self.store = Some(store);
            }
            Err(why) if self.told.as_ref() != Some(&why) => {
                log::warn!("no summaries of jobs are written until this is fixed: {why}");
                self.told = Some(why);
            }
            Err(_) => {}
        }
        self.store.as_ref()
    }

    /// Writes summaries, and keeps those that could not be written.
    fn write(&mut self, summaries: &mut BTreeMap<Arc<str>, Summary>, ours: &BTreeSet<String>) {
        if summaries.is_empty() || self.store().is_none() {
            return;
        }
        let Place { store: Some(store), throttle, .. } = self else { return };
        summaries.retain(|job, summary| {
            let Err(error) = store.write(summary, ours) else { return false };
            if throttle.allows(&error.to_string()) {
                log::warn!(job = &**job, error = error.to_string(); "the summary of a job cannot be written");
            }
            // Another node's stays as long as it likes.
            error.kind() != ErrorKind::AlreadyExists
        });
    }
}

/// Never ends by itself.
fn work(shared: &Shared, mut place: Place, days: u32, host: String) -> Result<(), String> {
    let path = place.path.clone();
    let mut pruned: Option<Instant> = None;
    let mut unwritten: BTreeMap<Arc<str>, Summary> = BTreeMap::new();
    shared.busy.set(Some(&path));
    test_fault("summaries")?;
    let mut problems = Vec::new();
    let unfinished = place.store().map_or(Vec::new(), |store| store.unfinished(&host, &mut problems));
    problems.iter().for_each(|problem| log::warn!("{problem}"));
    {
        let mut pending = shared.pending();
        (pending.unfinished, pending.is_read) = (Some(unfinished), true);
        shared.changed.notify_all();
    }
    // The node may get another name while it runs.
    let mut ours = BTreeSet::from([host]);
    loop {
        if days > 0 && pruned.is_none_or(|pruned| pruned.elapsed() >= PRUNE_EVERY) {
            if let Some(store) = place.store() {
                store.prune(Duration::from_secs(u64::from(days) * 86_400), &ours);
            }
            pruned = Some(Instant::now());
        }
        shared.busy.set(None);
        let longest = if unwritten.is_empty() { PRUNE_EVERY } else { TRY_AGAIN };
        let taken = {
            let mut pending = shared.pending();
            pending.is_writing = false;
            shared.changed.notify_all();
            if pending.summaries.is_empty() {
                let waited = shared.changed.wait_timeout(pending, longest);
                pending = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
            }
            pending.is_writing = !pending.summaries.is_empty();
            std::mem::take(&mut pending.summaries)
        };
        shared.busy.set(Some(&path));
        test_fault("summaries")?;
        ours.extend(taken.values().map(|summary| summary.hostname.clone()));
        unwritten.extend(taken);
        place.write(&mut unwritten, &ours);
        while unwritten.len() > MOST_UNWRITTEN {
            unwritten.pop_first();
        }
    }
}
