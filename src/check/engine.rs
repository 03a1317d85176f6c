//! What `--check` asks of DCGM: library, engine, GPUs, profiling, counters, and other engines beside it.
//!
//! It runs in a thread of its own. When a call has not returned for [`LIMIT`] that is the last answer, and the process
//! is to be left without waiting for the call.
//!
//! Profiling fields are never watched here: before Hopper the watch would take the hardware from whoever has it.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::answers::{Answer, Answers, Status};
use super::node;
use crate::config::Config;
use crate::config::engine::{Address, EngineSelection, usual_places};
use crate::counters::{Counters, MetricType, PROFILING, Source};
use crate::dcgm::{EntityGroup, Library, Session, hostengine, inflight, process};
use crate::inventory::{self, Inventory, Kind, Known};
use crate::jobs;
use crate::jobs::gpu_name::GpuName;
use crate::metrics::computed::Events;
use crate::metrics::freshness::is_evidence;
use crate::metrics::plan::{FIELD_XID, MetricSource, Plan};
use crate::metrics::table::{Number, Table};
use crate::metrics::{Collector, Grouping, profiling_support};
use crate::watcher::{CONNECT_TIMEOUT, microseconds, scene};

/// A call of a healthy driver is done in a second or two, stopping an engine included.
const LIMIT: Duration = Duration::from_secs(10);
/// Time between the two looks that show whether values move.
const PACE: Duration = Duration::from_millis(300);

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

struct Asker {
    config: Config,
    counters: Counters,
    driver_gpus: Option<usize>,
    tell: Sender<Answer>,
}

impl Asker {
    fn ok(&self, question: &'static str, found: impl Into<String>) {
        self.put(question, Status::Ok, found, "");
    }

    fn warn(&self, question: &'static str, found: impl Into<String>, mend: impl Into<String>) {
        self.put(question, Status::Warn, found, mend);
    }

    fn fail(&self, question: &'static str, found: impl Into<String>, mend: impl Into<String>) {
        self.put(question, Status::Fail, found, mend);
    }

    fn put(&self, question: &'static str, status: Status, found: impl Into<String>, mend: impl Into<String>) {
        // Whoever stopped listening has given up on a call that hangs.
        let _ = self.tell.send(Answer { question, status, found: found.into(), mend: mend.into() });
    }

    fn ask(&self) {
        let Some(library) = self.library() else { return };
        let Some(session) = self.session(&library) else { return };
        let session = Rc::new(session);
        self.version(&library, &session);
        let inventory = match scene::discover(&session, &self.config, &self.counters, "", &mut Known::default()) {
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
                let (found, mend) = text.split_once(". ").unwrap_or((&text, "install NVIDIA DCGM"));
                self.fail("library", found, mend);
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
                let mend = match hostengine::answers(address) {
                    true => {
                        "somebody listens there who is no host engine of this DCGM, or who hangs: systemctl restart \
                             nvidia-dcgm, and give it and this node the same DCGM"
                    }
                    false => {
                        "nobody listens there: systemctl enable --now nvidia-dcgm, or correct \
                              --remote-hostengine-info (an IPv6 address stands in brackets)"
                    }
                };
                self.fail("engine", format!("no host engine answers at {address}: {error}"), mend);
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

    fn gpus(&self, session: &Session, inventory: &Inventory) {
        const QUESTION: &str = "GPUs";
        let ids = match session.entities(EntityGroup::Gpu) {
            Ok(ids) => ids,
            Err(error) => return self.fail(QUESTION, format!("they cannot be listed: {error}"), "see nvidia-smi"),
        };
        if ids.is_empty() {
            self.fail(
                QUESTION,
                "DCGM sees none",
                "see nvidia-smi; an engine that started before the driver is to be restarted",
            );
        }
        // An engine behind an address may be another node's.
        let is_here = !matches!(self.config.engine, EngineSelection::Remote(Address::Tcp(_)));
        if let Some(count) = self.driver_gpus.filter(|count| is_here && *count != ids.len()) {
            self.fail(
                QUESTION,
                format!("DCGM sees {}, the driver has {count}", ids.len()),
                "see nvidia-smi; an engine that started before a GPU came is to be restarted",
            );
        }
        for gpu in &ids {
            let state = match session.gpu_status(*gpu) {
                Ok(1) => continue,
                Ok(2) => "is not supported by DCGM".to_owned(),
                Ok(3) => "is inaccessible".to_owned(),
                Ok(4) => "is lost: it has fallen off the bus".to_owned(),
                Ok(6) => "is disabled".to_owned(),
                Ok(7) => "is detached".to_owned(),
                Ok(other) => format!("has status {other}"),
                // What the library cannot say is not the GPU's fault.
                Err(error) if error.is_absence() => continue,
                Err(error) => format!("cannot be asked for its status: {error}"),
            };
            self.fail(
                QUESTION,
                format!("GPU {gpu} {state}"),
                "see dmesg | grep -i xid; it may need a reset or a reboot",
            );
        }
        for warning in &inventory.warnings {
            self.warn(QUESTION, warning.clone(), "see nvidia-smi, or correct the option that is named");
        }
        for (kind, reason) in inventory.absent.iter().filter(|(kind, _)| *kind != Kind::Gpu || !ids.is_empty()) {
            self.ok(QUESTION, format!("no {} metrics: {reason}", kind.name()));
        }
        if !ids.is_empty() {
            let models: Vec<String> = models(inventory)
                .into_iter()
                .map(|(model, of_model)| format!("{} x {model}", of_model.len()))
                .collect();
            self.ok(QUESTION, format!("{} seen; reported: {}", ids.len(), models.join(", ")));
        }
    }

    /// Whether the job map speaks of GPUs that are here.
    fn job_names(&self, inventory: &Inventory) {
        let Some(directory) = &self.config.job_map else { return };
        let map = jobs::scan(directory).map;
        let is_here = |name: &&GpuName| inventory.entities.iter().any(|entity| entity.names.contains(name));
        for name in map.names().filter(|name| !is_here(name)) {
            self.warn(
                "job map",
                format!("it names a GPU '{name}', which is not here or not reported: the job's label is nowhere"),
                "see DCGM_JOB_MAP_GRES in the prolog, if gres.conf does not count as nvidia-smi",
            );
        }
    }

    /// Profiling fields that GPUs support, by GPU.
    fn profiling(&self, session: &Session, inventory: &Inventory) -> HashMap<u32, Vec<u16>> {
        const QUESTION: &str = "profiling";
        let wanted: Vec<(&str, u16)> = profiling_rows(&self.counters).collect();
        let mut refused = Vec::new();
        let supported = profiling_support(session, &inventory.gpus, |gpu, error| refused.push((gpu, error)));
        let supported = match supported {
            Ok(supported) => supported,
            Err(error) => {
                self.fail(QUESTION, error.to_string(), "the engine went away while it was asked; try again");
                return HashMap::new();
            }
        };
        if wanted.is_empty() {
            self.ok(QUESTION, "the counters file asks for none of its fields");
            return supported;
        }
        let mend = "check as root; driver and DCGM need their profiling module (package datacenter-gpu-manager-4-proprietary \
                    before Hopper); MIG, vGPU and other profilers can stand in the way";
        for (gpu, error) in &refused {
            self.warn(QUESTION, format!("GPU {gpu} has none: {error}"), mend);
        }
        for (gpu, fields) in &supported {
            let missing: Vec<&str> =
                wanted.iter().filter(|(_, id)| !fields.contains(id)).map(|(name, _)| *name).collect();
            if !missing.is_empty() {
                self.warn(QUESTION, format!("GPU {gpu} does not have {}", missing.join(", ")), "leave them out");
            }
        }
        if !supported.is_empty() {
            self.ok(QUESTION, format!("{} of {} GPUs have it", supported.len(), inventory.gpus.len()));
        }
        supported
    }

    /// Watches everything but profiling for a moment: what has values, and whether they move.
    fn samples(&self, session: &Rc<Session>, inventory: &Inventory, profiling: &HashMap<u32, Vec<u16>>) {
        const QUESTION: &str = "samples";
        let plan = Plan::new(&self.counters, session.library(), HashMap::new());
        let mut events = Events::new(microseconds(), self.config.xid_window, self.config.clock_events_window);
        let collector = Collector::new(session, &plan, inventory, PACE, &events, Grouping::Together);
        let mut collector = match collector {
            Ok(collector) => collector,
            Err(error) => {
                return self.fail(QUESTION, format!("nothing can be watched: {error}"), "see the engine's log");
            }
        };
        for problem in &collector.problems {
            self.warn(QUESTION, problem.clone(), "leave the metric out of the counters file");
        }
        let mut stamps = Vec::new();
        for look in 0..2 {
            if look > 0 {
                std::thread::sleep(PACE + PACE / 3);
            }
            match collector.collect(inventory, &mut events, microseconds()) {
                Ok(outcome) => {
                    let mut errors: Vec<String> = outcome.errors.iter().map(ToString::to_string).collect();
                    errors.dedup();
                    for error in errors.into_iter().filter(|_| look > 0) {
                        self.fail(QUESTION, error, "see dmesg | grep -i -e nvrm -e xid, and the engine's log");
                    }
                }
                Err(error) => {
                    return self.fail(
                        QUESTION,
                        error.to_string(),
                        "the engine went away while it was asked; try again",
                    );
                }
            }
            collector.table.settle_labels();
            stamps.push(newest_stamps(&collector.table, inventory));
        }
        let before = &stamps[0];
        for (index, entity) in inventory.entities.iter().enumerate().filter(|(_, entity)| entity.kind == Kind::Gpu) {
            let name = if entity.gpu_instance.is_some() { "GPU instance" } else { "GPU" };
            let what = match (before[index], stamps[1][index]) {
                (_, Seen::NotAsked) => continue,
                (_, Seen::Nothing) => "none of its fields has a value",
                (Seen::At(first), Seen::At(second)) if second <= first => "its values do not move",
                _ => continue,
            };
            self.fail(
                QUESTION,
                format!("{name} {} ({}): {what}", entity.id.id, entity.uuid),
                "see nvidia-smi and dmesg",
            );
        }
        let moving = stamps[1].iter().filter(|seen| matches!(seen, Seen::At(_))).count();
        self.ok(QUESTION, format!("{moving} of {} entities have values", inventory.entities.len()));
        self.rows(&plan, &collector, inventory, profiling);
    }

    /// Which rows of the counters file have no value on which model.
    fn rows(&self, plan: &Plan, collector: &Collector, inventory: &Inventory, profiling: &HashMap<u32, Vec<u16>>) {
        const QUESTION: &str = "counters";
        let of_profiling: Vec<(&str, u16)> = profiling_rows(&self.counters).collect();
        for (name, reason) in
            plan.skipped.iter().filter(|(name, _)| !of_profiling.iter().any(|(known, _)| known == name))
        {
            self.warn(QUESTION, format!("{name}: {reason}"), "leave it out, or install a newer DCGM");
        }
        for (field, error) in &collector.refused {
            let names: Vec<&str> = plan.names_of(*field).collect();
            let found = format!("{}: the engine does not watch field {field}: {error}", names.join(", "));
            self.warn(QUESTION, found, "leave it out of the counters file");
        }
        for (model, entities) in models(inventory) {
            let has_value = |source: &MetricSource| match source {
                MetricSource::Computed(_) => true,
                // Without an XID error there is none to show.
                MetricSource::Field(asked) if asked.id == FIELD_XID => true,
                MetricSource::Field(asked) => {
                    entities.iter().any(|entity| collector.table.number(*entity, *asked) != Number::Blank)
                }
            };
            let metrics: Vec<(&str, bool)> = plan
                .metrics
                .iter()
                .filter(|metric| metric.kinds.contains(&Kind::Gpu))
                .map(|metric| (metric.name.as_str(), has_value(&metric.source)))
                .collect();
            let is_shown = |name: &str| {
                entities.iter().any(|entity| collector.table.labels(*entity).any(|(known, _)| known == name))
            };
            let labels = plan.labels.iter().filter(|label| label.kinds.contains(&Kind::Gpu));
            let labels = labels.map(|label| (label.name.as_str(), is_shown(&label.name)));
            let gpu_of = |entity: &usize| inventory.entities[*entity].gpu;
            let has_profiling = |id: &u16| {
                entities.iter().filter_map(gpu_of).any(|gpu| profiling.get(&gpu).is_some_and(|ids| ids.contains(id)))
            };
            let profiled = of_profiling.iter().map(|(name, id)| (*name, has_profiling(id)));
            let all: Vec<(&str, bool)> = metrics.into_iter().chain(labels).chain(profiled).collect();
            let missing: Vec<&str> = all.iter().filter(|(_, has)| !has).map(|(name, _)| *name).collect();
            let found = format!("{} of {} rows have values on {model}", all.len() - missing.len(), all.len());
            match missing[..] {
                [] => self.ok(QUESTION, found),
                _ => self.warn(
                    QUESTION,
                    format!("{found}; none for {}", missing.join(", ")),
                    "this model, its driver or its configuration does not have them; they may be left out",
                ),
            }
        }
    }

    /// Other engines on this node, and what they mean for these GPUs.
    fn neighbours(&self, session: &Rc<Session>, inventory: &Inventory) {
        const QUESTION: &str = "other engines";
        let running = node::processes("/".as_ref(), "nv-hostengine");
        let answering = usual_places();
        let answering = hostengine::first_answering(&answering);
        let is_client = !matches!(self.config.engine, EngineSelection::Embedded);
        match (answering, &running[..]) {
            (Some(address), _) if is_client => self.ok(QUESTION, format!("a host engine answers at {address}")),
            (None, []) => self.ok(QUESTION, "none on this node"),
            (None, [pid, ..]) if is_client => self.ok(QUESTION, format!("nv-hostengine runs as process {pid}")),
            (None, [pid, ..]) => self.warn(
                QUESTION,
                format!("nv-hostengine runs as process {pid} but does not answer at its usual places"),
                "it hangs, or listens elsewhere: systemctl status nvidia-dcgm",
            ),
            (Some(address), _) => {
                let architecture = inventory::oldest_architecture(session, &inventory.gpus);
                match architecture {
                    Some(architecture) if architecture.engines_share_profiling() => self.ok(
                        QUESTION,
                        format!(
                            "a host engine answers at {address}; with the embedded one both work on these GPUs \
                             ({architecture}). -r auto would use it"
                        ),
                    ),
                    _ => self.warn(
                        QUESTION,
                        format!(
                            "a host engine answers at {address}; before Hopper profiling has one owner, so \
                             DCGM_FI_PROF_* metrics of one of them may be missing"
                        ),
                        format!("share it: -r auto, or -r {address}"),
                    ),
                }
            }
        }
    }
}

/// Rows of the counters file that ask for profiling fields, with their ids.
fn profiling_rows(counters: &Counters) -> impl Iterator<Item = (&str, u16)> {
    counters.rows.iter().filter_map(|row| match row.source {
        Source::Field(field) if PROFILING.contains(&field.id) && row.kind != MetricType::Label => {
            Some((row.name.as_str(), field.id))
        }
        _ => None,
    })
}

/// Reported GPUs and instances by model, as indices into the inventory.
fn models(inventory: &Inventory) -> BTreeMap<&str, Vec<usize>> {
    let mut models: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, entity) in inventory.entities.iter().enumerate().filter(|(_, entity)| entity.kind == Kind::Gpu) {
        let label =
            |wanted: &str| entity.labels.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.as_str());
        let model = label("modelName").filter(|model| !model.is_empty()).unwrap_or("GPUs without a name");
        models.entry(model).or_default().push(index);
    }
    models
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Seen {
    NotAsked,
    Nothing,
    /// The newest time stamp, in microseconds since 1970.
    At(i64),
}

fn newest_stamps(table: &Table, inventory: &Inventory) -> Vec<Seen> {
    let newest = |index: usize| {
        let cells: Vec<_> = table.cells(index).filter(|(field, ..)| is_evidence(*field)).collect();
        let with_value = cells.iter().filter(|(_, number, _)| *number != Number::Blank);
        match (cells.is_empty(), with_value.map(|(.., stamp)| *stamp).max()) {
            (true, _) => Seen::NotAsked,
            (false, None) => Seen::Nothing,
            (false, Some(stamp)) => Seen::At(stamp),
        }
    };
    (0..inventory.entities.len()).map(newest).collect()
}
