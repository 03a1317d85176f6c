//! What `--check` asks of DCGM: library, engine and version here, the rest in [`super::gpus`] and [`super::values`].
//!
//! It runs in a thread of its own. A call that has not returned for [`LIMIT`] gives the last answer, and the process then
//! exits without waiting for it.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::answers::{Answer, Answers, Status};
use crate::config::Config;
use crate::config::engine::{Address, EngineSelection};
use crate::counters::Counters;
use crate::dcgm::{Library, Session, hostengine, inflight, process};
use crate::inventory::Minors;
use crate::watcher::{CONNECT_TIMEOUT, scene};

/// A call of a healthy driver is done in a second or two, stopping an engine included.
const LIMIT: Duration = Duration::from_secs(10);
/// Asks everything, the driver having so many GPUs if that is known. Returns whether a call hangs.
pub fn ask(config: &Config, counters: &Counters, driver_gpus: Option<usize>, answers: &mut Answers) -> bool {
    let (tell, told) = channel();
    let (config, counters) = (config.clone(), counters.clone());
    let spawned = std::thread::Builder::new().name("check".to_owned()).stack_size(process::STACK).spawn(move || {
        let asker = Asker { config, counters, driver_gpus, tell };
        asker.ask();
    });
    let asking = match spawned {
        Ok(asking) => asking,
        Err(error) => {
            answers.fail(
                "engine",
                format!("no thread is to be had: {error}"),
                "end what uses up this user's processes",
            );
            return false;
        }
    };
    loop {
        match told.recv_timeout(Duration::from_millis(50)) {
            Ok(answer) => answers.put(answer),
            Err(RecvTimeoutError::Disconnected) => {
                if asking.join().is_err() {
                    answers.fail(
                        "engine",
                        "the check itself went wrong",
                        "this is a bug; please report what it printed",
                    );
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
                        "see dmesg | grep -i -e nvrm -e xid; restart nvidia-dcgm if it is its engine, else the node may \
                         need a GPU reset or a reboot",
                    );
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
        // Whoever stopped listening has given up on a call that hangs.
        let _ = self.tell.send(Answer { question, status, found: found.into(), fix: fix.into() });
    }

    fn ask(&self) {
        let Some(library) = self.library() else { return };
        let Some(session) = self.session(&library) else { return };
        let session = Rc::new(session);
        self.version(&library, &session);
        let inventory = match scene::discover(&session, &self.config, &self.counters, "", &mut Minors::default()) {
            Ok(inventory) => inventory,
            Err(error) => {
                return self.fail("GPUs", error.to_string(), "the engine went away while it was asked; try again");
            }
        };
        self.gpus(&session, &inventory);
        self.job_names(&inventory);
        let supported = self.profiling(&session, &inventory);
        self.samples(&session, &inventory, &supported);
        self.neighbours(&session, &inventory);
        let stop = Instant::now();
        drop(session);
        // The unit gives the exporter ten seconds to stop, and it gives the engine five.
        const SLOW: Duration = Duration::from_secs(4);
        if stop.elapsed() > SLOW {
            let found = format!("stopping the engine took {:.1} s", stop.elapsed().as_secs_f64());
            self.warn("engine", found, "a driver that answers slowly; see dmesg | grep -i -e nvrm -e xid");
        }
    }

    fn library(&self) -> Option<Arc<Library>> {
        match Library::open(self.config.libdcgm.as_deref()) {
            Ok(library) => {
                let version =
                    Some(library.version()).filter(|version| !version.is_empty()).unwrap_or("of unknown version");
                self.ok("library", format!("{}, DCGM {version}", library.path().display()));
                match &library.missing_symbols()[..] {
                    [] => self.ok("symbols", "all there"),
                    missing => self.warn(
                        "symbols",
                        format!(
                            "{} lacks {}; what needs them is left out",
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

    fn session(&self, library: &Arc<Library>) -> Option<Session> {
        let remote = match &self.config.engine {
            EngineSelection::Embedded => None,
            EngineSelection::Remote(address) => Some(address.clone()),
            EngineSelection::Auto(places) => hostengine::first_answering(places).cloned(),
        };
        match remote {
            Some(address) => self.connect(library, &address),
            None => self.start(library),
        }
    }

    fn connect(&self, library: &Arc<Library>, address: &Address) -> Option<Session> {
        match Session::remote(library, address, CONNECT_TIMEOUT) {
            Ok(session) => {
                self.ok("engine", format!("the host engine at {address} answers"));
                Some(session)
            }
            Err(error) => {
                let fix = match hostengine::answers(address) {
                    true => {
                        "somebody listens there who is no host engine of this DCGM, or who hangs: systemctl restart \
                             nvidia-dcgm, and give it and this node the same DCGM"
                    }
                    false => {
                        "nobody listens there: systemctl enable --now nvidia-dcgm, or correct \
                              --remote-hostengine-info (an IPv6 address stands in brackets)"
                    }
                };
                self.fail("engine", format!("no host engine answers at {address}: {error}"), fix);
                None
            }
        }
    }

    fn start(&self, library: &Arc<Library>) -> Option<Session> {
        match Session::embedded(library, &scene::unneeded_modules(&self.counters, library)) {
            Ok(session) if session.took_deny_list() => {
                self.ok("engine", "an embedded one starts");
                Some(session)
            }
            Ok(session) => {
                self.warn(
                    "engine",
                    "an embedded one starts, but not without the modules that nobody needs: it takes more memory",
                    "install a newer DCGM: package datacenter-gpu-manager-4-core",
                );
                Some(session)
            }
            Err(error) => {
                self.fail("engine", format!("an embedded one does not start: {error}"), "see nvidia-smi and dmesg");
                None
            }
        }
    }

    fn version(&self, library: &Library, session: &Session) {
        const QUESTION: &str = "engine version";
        let engine = session.engine_version();
        let is_release_of = |a: &str, b: &str| a.split(['.', '-']).take(2).eq(b.split(['.', '-']).take(2));
        match engine.as_str() {
            "" => self.warn(QUESTION, "the engine does not say its version", "give it and this node the same DCGM"),
            engine if is_release_of(engine, library.version()) => self.ok(QUESTION, format!("DCGM {engine}")),
            engine => self.warn(
                QUESTION,
                format!("the engine is DCGM {engine}, the library {}", library.version()),
                "give both the same release, or calls may answer 'API version mismatch'",
            ),
        }
    }
}
