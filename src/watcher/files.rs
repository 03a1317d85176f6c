//! The thread that looks at files: the configuration, the counters, and the file that pauses profiling. A file system that
//! hangs holds up this thread and nothing else; `/health` then names the file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Duration;

use super::wait::{Message, WatcherHandle};
use crate::config::Config;
use crate::counters::Counters;
use crate::dcgm::process;
use crate::metrics::sources;
use crate::system::busy::Busy;
use crate::system::files::Monitor;
use crate::system::switch_file::{self, Switch};
use crate::system::threads::{Supervisor, test_fault};

/// Files are looked at this often.
const LOOK: Duration = Duration::from_secs(1);
/// And one that has changed after this: an editor writes in several steps.
const SETTLE: Duration = Duration::from_millis(200);
/// Understands the settings again, from the same command line and the configuration file as it is now.
///
/// Errors: a line for each problem.
pub type ReadSettings = Box<dyn Fn() -> Result<Config, String> + Send>;

/// Settings and rows that were read again.
#[derive(Debug)]
pub struct Loaded {
    /// `None` without a configuration file.
    pub settings: Option<Config>,
    pub counters: Counters,
}

/// What other threads share with the one that looks at files.
#[derive(Default)]
pub struct FilesHandle {
    thread: OnceLock<Thread>,
    is_asked: AtomicBool,
    /// The file that is looked at now.
    busy: Busy,
}

impl FilesHandle {
    /// Has the files read again. Requests that come meanwhile are one.
    pub fn reload(&self) {
        self.is_asked.store(true, Ordering::Release);
        self.thread.get().into_iter().for_each(Thread::unpark);
    }

    /// A sentence on the file whose file system hangs.
    pub fn hanging(&self) -> Option<String> {
        self.busy.hanging("changes are not seen")
    }
}

/// The files that settings and rows come from, as they are now.
pub struct Monitors(Vec<(PathBuf, Monitor)>);

impl Monitors {
    /// To be called before the counters are read: loading the library may take seconds, in which they change.
    pub fn of(config: &Config) -> Monitors {
        Monitors(monitored(config).into_iter().map(|file| (file.to_owned(), monitor(file))).collect())
    }
}

/// Starts the thread. `pause_file` is what is known of the file that pauses profiling.
///
/// Errors: the system cannot start another thread.
pub(super) fn start(
    config: Config,
    Monitors(monitors): Monitors,
    read_settings: Option<ReadSettings>,
    pause_file: Switch,
    watcher: WatcherHandle,
    handle: Arc<FilesHandle>,
    supervisor: &Supervisor,
) -> io::Result<()> {
    let files = Files { config, read_settings, monitors, pause_file, watcher, handle: handle.clone() };
    let thread = supervisor.spawn("files", process::STACK, move || files.run())?;
    let _ = handle.thread.set(thread.thread().clone());
    Ok(())
}

struct Files {
    /// As last read, well or not.
    config: Config,
    read_settings: Option<ReadSettings>,
    monitors: Vec<(PathBuf, Monitor)>,
    pause_file: Switch,
    watcher: WatcherHandle,
    handle: Arc<FilesHandle>,
}

impl Files {
    fn run(mut self) -> Result<(), String> {
        loop {
            let has_changed = self.look();
            if self.handle.is_asked.swap(false, Ordering::AcqRel) || has_changed {
                let loaded = self.load();
                self.watcher.tell(Message::Loaded(Box::new(loaded)));
            }
            self.look_for_pause_file();
            test_fault("files")?;
            self.handle.busy.set(None);
            let is_unsettled = self.monitors.iter().any(|(_, monitor)| monitor.is_unsettled());
            std::thread::park_timeout(if is_unsettled { SETTLE } else { LOOK });
        }
    }

    /// Whether a file has changed and is to be read. All are looked at, so that two that change together are read once. One
    /// that is gone may be about to be replaced.
    fn look(&mut self) -> bool {
        let mut has_changed = false;
        for (file, monitor) in &mut self.monitors {
            self.handle.busy.set(Some(file));
            has_changed |= monitor.changed() && monitor.are_all_there();
        }
        has_changed
    }

    /// Reads settings and rows. Other files may be monitored afterwards, also some that are not there yet.
    fn load(&mut self) -> Result<Loaded, String> {
        self.monitors.clear();
        self.monitor();
        self.handle.busy.set(self.config.config_file.as_deref());
        let settings = self.read_settings.as_ref().map(|read| read()).transpose()?;
        if let Some(settings) = &settings {
            self.config = settings.clone();
            self.monitor();
        }
        self.handle.busy.set(Some(self.config.counters_file()));
        let counters = Counters::of(&self.config, &sources::names()).map_err(|error| error.to_string())?;
        Ok(Loaded { settings, counters })
    }

    /// Monitors the files that settings and rows come from. Those that are monitored already were stamped before they were
    /// read, and stay so.
    fn monitor(&mut self) {
        let files = monitored(&self.config);
        self.monitors.retain(|(known, _)| files.contains(&known.as_path()));
        for file in files {
            if self.monitors.iter().all(|(known, _)| known != file) {
                self.handle.busy.set(Some(file));
                self.monitors.push((file.to_owned(), monitor(file)));
            }
        }
    }

    fn look_for_pause_file(&mut self) {
        let Some(file) = self.config.pause_profiling.as_deref() else { return };
        self.handle.busy.set(Some(file));
        let found = switch_file::look(file);
        if found != self.pause_file {
            self.pause_file = found.clone();
            self.watcher.tell(Message::PauseFile(found));
        }
    }
}

/// The files that settings and rows come from.
fn monitored(config: &Config) -> Vec<&Path> {
    let counters = config.rows.is_none().then_some(config.collectors.as_path());
    config.config_file.as_deref().into_iter().chain(counters).collect()
}

fn monitor(file: &Path) -> Monitor {
    let mut monitor = Monitor::default();
    monitor.add(file);
    monitor
}
