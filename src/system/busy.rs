//! What a thread that works with files is waiting for, so that a file system that hangs can be named.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

/// What takes longer than this hangs.
const HANGS: Duration = Duration::from_secs(5);

/// The file or directory that is asked now, and since when.
#[derive(Debug, Default)]
pub struct Busy(Mutex<Option<(PathBuf, Instant)>>);

impl Busy {
    /// The thread turns to this file or directory, or is done.
    pub fn set(&self, path: Option<&Path>) {
        let path = path.map(|path| (path.to_owned(), Instant::now()));
        *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = path;
    }

    /// A sentence on the file or directory whose file system hangs, and what that costs.
    pub fn hanging(&self, cost: &str) -> Option<String> {
        let busy = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (path, since) = busy.as_ref().filter(|(_, since)| since.elapsed() >= HANGS)?;
        let since = humantime::format_rfc3339_seconds(SystemTime::now().checked_sub(since.elapsed())?);
        Some(format!("{} has not answered since {since}: its file system hangs, {cost}", path.display()))
    }
}
