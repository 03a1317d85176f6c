//! What `--check` asks of DCGM: library, engine and version here, the rest in [`super::gpus`] and [`super::values`].
//!
//! It runs in a thread of its own. A call that has not returned for [`LIMIT`] gives the last answer, and the process
//! then exits without waiting for it.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::answers::{Answer, Answers, Status};
use crate::config::Config;
use crate::counters::Counters;
use crate::dcgm::{Library, Release, Session, hostengine, inflight, process};
use crate::engine::{Opened, Opener};
use crate::inventory::Known;
use crate::watcher::active_watches;

/// What to do where no session with a host engine is to be had: somebody listens there, or nobody.
const UNUSABLE: &str = "it accepts connections but is not a usable DCGM host engine: restart it (systemctl restart \
                        nvidia-dcgm), and install the same DCGM release for it and for this node";
const ABSENT: &str = "nothing listens there: systemctl enable --now nvidia-dcgm, or correct --remote-hostengine-info \
                      (write an IPv6 address in brackets)";

/// A healthy driver returns within 2 s, also from stopping an engine.
const LIMIT: Duration = Duration::from_secs(10);
/// For all calls together, so that there is time for the other questions.
const LIMIT_OF_ALL: Duration = Duration::from_secs(14);

/// Asks everything; `driver_gpus` is how many GPUs the driver has, if that is known. Returns whether a call is still
/// under way.
pub fn ask(config: &Config, counters: &Counters, driver_gpus: Option<usize>, answers: &mut Answers) -> bool {
    const ON_HANG: &str = "see dmesg | grep -i -e nvrm -e xid. For a host engine: systemctl restart nvidia-dcgm. Otherwise \
                           the node may need a GPU reset or a reboot";
    let start = Instant::now();
    let (tell, told) = channel();
    let (config, counters) = (config.clone(), counters.clone());
    let spawned = std::thread::Builder::new().name("check".to_owned()).stack_size(process::STACK).spawn(move || {
        let asker = Asker { config, counters, driver_gpus, tell };
        asker.ask();
    });
    let asking = match spawned {
        Ok(asking) => asking,
        Err(error) => {
            answers.fail("engine", format!("no thread can be started: {error}"), super::TOO_MANY_THREADS);
            return false;
        }
    };
    loop {
        match told.recv_timeout(Duration::from_millis(50)) {
            Ok(answer) => answers.put(answer),
            Err(RecvTimeoutError::Disconnected) => {
                if asking.join().is_err() {
                    answers.fail("engine", "the check itself failed", "this is a bug; report what it printed");
                }
                return false;
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Some((call, since)) = inflight::current()
                    && since.elapsed() > LIMIT
                {
                    answers.fail(
                        "engine",
                        format!("{call} has not returned for {} s: the driver or the engine hangs", LIMIT.as_secs()),
                        ON_HANG,
                    );
                    return true;
                }
                if start.elapsed() > LIMIT_OF_ALL {
                    let call = inflight::current().map_or("no DCGM call", |(call, _)| call);
                    let found = format!(
                        "the engine's answers took more than {} s together, the last {call}; the rest is not asked",
                        LIMIT_OF_ALL.as_secs()
                    );
                    answers.fail("engine", found, ON_HANG);
                    return true;
                }
            }
        }
    }
}

pub(super) struct Asker {
    pub(super) config: Config,
    pub(super) counters: Counters,
    pub(super) driver_gpus: Option<usize>,
    tell: Sender<Answer>,
}

impl Asker {
    pub(super) fn ok(&self, question: &'static str, found: impl Into<String>) {
        self.put(question, Status::Ok, found, "");
    }

    pub(super) fn warn(&self, question: &'static str, found: impl Into<String>, fix: impl Into<String>) {
        self.put(question, Status::Warn, found, fix);
    }

    pub(super) fn fail(&self, question: &'static str, found: impl Into<String>, fix: impl Into<String>) {
        self.put(question, Status::Fail, found, fix);
    }

    fn put(&self, question: &'static str, status: Status, found: impl Into<String>, fix: impl Into<String>) {
        // Nobody receives any more if a call before hung for too long.
        let _ = self.tell.send(Answer { question, status, found: found.into(), fix: fix.into() });
    }

    fn ask(&self) {
        let Some(library) = self.library() else { return };
        let Some(session) = self.session(library) else { return };
        let session = Rc::new(session);
        self.version(&session);
        let inventory =
            match active_watches::discover(&session, &self.config, &self.counters, "", &mut Known::default()) {
                Ok(inventory) => inventory,
                Err(error) => {
                    return self.fail("GPUs", error.to_string(), "the engine ended during the check; try again");
                }
            };
        self.gpus(&session, &inventory);
        self.job_names(&inventory);
        let supported = self.profiling(&session, &inventory);
        self.samples(&session, &inventory, &supported);
        self.neighbours(&session, &inventory);
        let stop = Instant::now();
        drop(session);
        // The exporter gives an engine 9 s to stop, and the unit gives the exporter 15.
        const SLOW: Duration = Duration::from_secs(4);
        if stop.elapsed() > SLOW {
            let found = format!("stopping the engine took {:.1} s", stop.elapsed().as_secs_f64());
            self.warn("engine", found, "the driver answers slowly; see dmesg | grep -i -e nvrm -e xid");
        }
    }

    fn library(&self) -> Option<Arc<Library>> {
        match Library::open(self.config.libdcgm.as_deref()) {
            Ok(library) => {
                let version =
                    Some(library.version()).filter(|version| !version.is_empty()).unwrap_or("of unknown version");
                let found = format!("{}, DCGM {version}", library.path().display());
                match library.writable() {
                    None => self.ok("library", found),
                    Some(writable) if writable.by_everybody() && rustix::process::geteuid().is_root() => {
                        self.fail("library", format!("{found}; {writable}"), writable.fix());
                    }
                    Some(writable) => self.warn("library", format!("{found}; {writable}"), writable.fix()),
                }
                match &library.missing_symbols()[..] {
                    [] => self.ok("symbols", "all found"),
                    missing => self.warn(
                        "symbols",
                        format!(
                            "{} lacks {}; the metrics that need them are left out",
                            library.path().display(),
                            missing.join(", ")
                        ),
                        "install a newer DCGM: package datacenter-gpu-manager-4-core",
                    ),
                }
                Some(Arc::new(library))
            }
            Err(error) => {
                let text = error.to_string();
                let (found, fix) = text.split_once(". ").unwrap_or((&text, "install NVIDIA DCGM"));
                self.fail("library", found, fix);
                None
            }
        }
    }

    /// Opens a session as the exporter does.
    fn session(&self, library: Arc<Library>) -> Option<Session> {
        let denied = active_watches::unneeded_modules(&self.counters, &library);
        let mut opener = Opener::new(library, &self.config);
        let mut tried = None;
        let opened = opener.open(denied, |address| tried = address.cloned());
        for (address, owner) in opener.chooser.take_new_strangers() {
            let (found, fix) = owner.report(&address);
            self.warn("engine", found, fix);
        }
        match opened {
            Ok(Opened { session, refused, .. }) => {
                if let Some((address, error)) = refused {
                    let found = format!("the host engine at {address} is not used: {error}");
                    self.warn("engine", found, UNUSABLE);
                }
                match &tried {
                    Some(address) => self.ok("engine", format!("the host engine at {address} answers")),
                    None if session.took_deny_list() => self.ok("engine", "an embedded engine starts"),
                    None => self.warn(
                        "engine",
                        "an embedded engine starts, but loads modules that no counter needs, and takes more memory",
                        "install a newer DCGM: package datacenter-gpu-manager-4-core",
                    ),
                }
                Some(session)
            }
            Err(error) => {
                match &tried {
                    None => {
                        let found = format!("an embedded engine does not start: {error}");
                        self.fail("engine", found, error.hint_of_start());
                    }
                    Some(address) => {
                        let fix = if hostengine::answers(address) { UNUSABLE } else { ABSENT };
                        self.fail("engine", format!("no host engine answers at {address}: {error}"), fix);
                    }
                }
                None
            }
        }
    }

    fn version(&self, session: &Session) {
        let library = session.library();
        const QUESTION: &str = "engine version";
        let engine = session.engine_version();
        let line = |version: &str| Release::parse(version).map(|release| (release.major, release.minor));
        match engine.as_str() {
            "" => self.warn(
                QUESTION,
                "the engine does not report its version",
                "install the same DCGM release for it and for this node",
            ),
            engine if line(engine) == line(library.version()) => self.ok(QUESTION, format!("DCGM {engine}")),
            engine => self.warn(
                QUESTION,
                format!("the engine is DCGM {engine}, the library {}", library.version()),
                "install the same release for both; otherwise calls fail with 'API version mismatch'",
            ),
        }
    }
}
