//! Making way for another profiler: which jobs or which file ask for it, and on which GPUs profiling fields are then not
//! watched.
//!
//! Before Hopper the profiling hardware of a node has one owner, so a job on one of those GPUs needs all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::session_run::SessionRun;
use super::{Watcher, microseconds, notices};
use crate::config::StatusPage;
use crate::dcgm::Session;
use crate::inventory::architecture::Architecture;
use crate::inventory::{self, Inventory, Kind};
use crate::metrics::exporter::ErrorKind;
use crate::system::switch_file::Switch;
use crate::watcher::phase::Event;

/// Why the profiling fields of a GPU are not watched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The file exists.
    ByHand,
    /// This job has the GPU.
    Job(String),
    /// This job has another GPU.
    JobElsewhere(String),
    /// Nobody asks for it any more, but the engine refuses to watch them.
    Refused,
}

/// Who asks for it, as last looked at.
pub struct Requests {
    pub file: Switch,
    reasons: BTreeMap<u32, Reason>,
    /// What GPUs have told of their generation, and in which session.
    generations: (Option<u64>, BTreeMap<u32, Architecture>),
}

impl Default for Requests {
    fn default() -> Requests {
        Requests { file: Switch::Off, reasons: BTreeMap::new(), generations: Default::default() }
    }
}

impl Requests {
    /// The generations of these GPUs, as far as they tell them. Asking takes one of the engine's groups, so it is done once per
    /// session: a generation never changes.
    fn generations(&mut self, session: &Rc<Session>, gpus: &[u32]) -> &BTreeMap<u32, Architecture> {
        let (serial, known) = &mut self.generations;
        if serial.replace(session.serial()) != Some(session.serial()) {
            known.clear();
        }
        let unknown: Vec<u32> = gpus.iter().copied().filter(|gpu| !known.contains_key(gpu)).collect();
        if !unknown.is_empty() {
            known.extend(inventory::architectures(session, &unknown));
        }
        known
    }

    /// Whether some GPU is only paused because the engine refuses to watch it.
    pub fn is_refused(&self) -> bool {
        self.reasons.values().any(|reason| *reason == Reason::Refused)
    }

    /// The GPUs of each reason.
    fn by_reason(reasons: &BTreeMap<u32, Reason>) -> BTreeMap<&Reason, Vec<u32>> {
        let mut by_reason: BTreeMap<&Reason, Vec<u32>> = BTreeMap::new();
        for (gpu, reason) in reasons {
            by_reason.entry(reason).or_default().push(*gpu);
        }
        by_reason
    }
}

impl Watcher {
    /// Notes what is known of the file. Returns whether it has come or gone.
    pub(super) fn note_pause_file(&mut self, found: Switch) -> bool {
        if let Switch::Refused(why) = &found
            && self.throttle.allows(why)
        {
            log::warn!(error = why; "the file that pauses profiling is ignored");
        }
        let before = std::mem::replace(&mut self.pause_requests.file, found);
        (before == Switch::On) != (self.pause_requests.file == Switch::On)
    }

    /// Pauses profiling, or ends that, if the file has come or gone.
    pub(super) fn take_in_pause_file(&mut self, run: &mut SessionRun, found: Switch) -> Result<(), Event> {
        if self.note_pause_file(found) {
            self.pause_profiling(run)?;
            self.publish(run);
        }
        Ok(())
    }

    /// Decides where profiling is paused among these GPUs, before they are watched. Returns who asks for it.
    ///
    /// Pauses that are over are ended by [`Watcher::set_pause`] when all else is watched: what is refused then is tried
    /// again.
    pub(super) fn pause_before_watching(&mut self, run: &SessionRun, inventory: &Inventory) -> BTreeMap<u32, Reason> {
        let reasons = self.pause_reasons(&run.session, inventory);
        self.pause.set(&self.pause.gpus().chain(reasons.keys().copied()).collect(), now_of(run));
        reasons
    }

    /// Pauses profiling and ends pauses, because a job or the file has come or gone, or the engine has refused to end one.
    pub(super) fn pause_profiling(&mut self, run: &mut SessionRun) -> Result<(), Event> {
        let Some(watches) = &mut run.watches else { return Ok(()) };
        let reasons = self.pause_reasons(&run.session, &watches.inventory);
        let ends = |gpu: u32| self.pause.is_paused(gpu) && !reasons.contains_key(&gpu);
        let told = watches.ask_for_support(&run.session, ends);
        if told.map_err(|error| self.lost(Some(ErrorKind::Watch), &error))? {
            // The plan has no rows for what nobody was known to support.
            let inventory = watches.inventory.clone();
            return self.watch(run, inventory);
        }
        self.set_pause(run, reasons)
    }

    /// Pauses profiling where these reasons are, and ends it elsewhere. A GPU that the engine refuses to watch again, or
    /// whose support it has not told, stays paused.
    pub(super) fn set_pause(&mut self, run: &mut SessionRun, mut reasons: BTreeMap<u32, Reason>) -> Result<(), Event> {
        let now = now_of(run);
        let Some(watches) = &mut run.watches else { return Ok(()) };
        let here = |gpu: &u32| watches.inventory.gpus.contains(gpu);
        let before: BTreeSet<u32> = self.pause.gpus().collect();
        if before.iter().filter(|gpu| here(gpu)).eq(reasons.keys()) {
            self.note_pause(reasons, &[]);
            return Ok(());
        }
        let mut refused = Vec::new();
        if self.counters.asks_for_profiling() {
            let ended = before.iter().filter(|gpu| here(gpu) && !reasons.contains_key(gpu));
            refused.extend(ended.filter_map(|gpu| Some((*gpu, watches.untold.get(gpu)?.clone()))));
        }
        // One that is not here is tried when it is back.
        let absent = before.iter().copied().filter(|gpu| !here(gpu));
        let paused = reasons.keys().copied().chain(refused.iter().map(|(gpu, _)| *gpu)).chain(absent).collect();
        self.pause.set(&paused, now);
        let more = watches.pause_profiling(&mut self.pause, &mut self.memory, now);
        refused.extend(more.map_err(|error| self.lost(Some(ErrorKind::Watch), &error))?);
        if let Some((_, error)) = refused.first() {
            self.report.count_error(ErrorKind::Watch);
            if self.throttle.allows(&format!("profiling {error}")) {
                let gpus: Vec<u32> = refused.iter().map(|(gpu, _)| *gpu).collect();
                notices::profiling_refused(&gpus, error);
            }
        }
        let is_watched =
            |gpu: &u32| !self.pause.is_paused(*gpu) && watches.collector.is_profiled(&watches.inventory, *gpu);
        let ended: Vec<u32> = before.iter().copied().filter(is_watched).collect();
        reasons.extend(refused.into_iter().map(|(gpu, _)| (gpu, Reason::Refused)));
        self.note_pause(reasons, &ended);
        Ok(())
    }

    /// Who asks for a pause, by GPU.
    fn pause_reasons(&mut self, session: &Rc<Session>, inventory: &Inventory) -> BTreeMap<u32, Reason> {
        let mut reasons = BTreeMap::new();
        if !self.counters.asks_for_profiling() {
            return reasons;
        }
        if self.pause_requests.file == Switch::On {
            return inventory.gpus.iter().map(|gpu| (*gpu, Reason::ByHand)).collect();
        }
        let Some(jobs) = &self.jobs else { return reasons };
        let gpus = inventory.entities.iter().filter(|entity| matches!(entity.kind, Kind::Gpu | Kind::WholeGpu));
        for entity in gpus.clone() {
            if let (Some(gpu), Some(job)) = (entity.gpu, jobs.pausing_job(&entity.names)) {
                reasons.entry(gpu).or_insert_with(|| Reason::Job(job.to_owned()));
            }
        }
        // One that is not reported, or goes by a name that nobody knows.
        let others = jobs.unmatched(gpus.map(|entity| entity.names.as_slice()));
        let other = others.into_iter().find_map(|name| jobs.pausing_job(std::slice::from_ref(name)));
        if reasons.is_empty() && other.is_none() {
            return reasons;
        }
        let generations = self.pause_requests.generations(session, &inventory.gpus);
        let shares = |gpu: &u32| generations.get(gpu).is_some_and(|found| found.engines_share_profiling());
        let of_owner = reasons.iter().find(|(gpu, _)| !shares(gpu)).and_then(|(_, reason)| match reason {
            Reason::Job(job) => Some(job.as_str()),
            _ => None,
        });
        if let Some(job) = of_owner.or(other).map(str::to_owned) {
            for gpu in inventory.gpus.iter().filter(|gpu| !shares(gpu)) {
                reasons.entry(*gpu).or_insert_with(|| Reason::JobElsewhere(job.clone()));
            }
        }
        reasons
    }

    /// Logs what is new. These GPUs are watched again.
    fn note_pause(&mut self, reasons: BTreeMap<u32, Reason>, ended: &[u32]) {
        let before = std::mem::replace(&mut self.pause_requests.reasons, reasons);
        let after = &self.pause_requests.reasons;
        let is_new = |(gpu, reason): &(&u32, &Reason)| before.get(gpu) != Some(reason);
        let new = after.iter().filter(is_new).map(|(gpu, reason)| (*gpu, reason.clone())).collect();
        for (reason, gpus) in Requests::by_reason(&new) {
            notices::profiling_paused(&gpus, reason, self.config.pause_profiling.as_deref());
        }
        if !ended.is_empty() {
            notices::profiling_goes_on(ended);
        }
    }

    /// Where profiling is paused and why, for people.
    pub(super) fn pause_in_words(&self) -> Option<String> {
        let by_reason = Requests::by_reason(&self.pause_requests.reasons);
        let shows_jobs = self.config.status_page == StatusPage::Full;
        let parts = by_reason.into_iter().map(|(reason, gpus)| {
            let why = match reason {
                Reason::ByHand => "by hand".to_owned(),
                Reason::Job(job) | Reason::JobElsewhere(job) if shows_jobs => format!("for job {job}"),
                Reason::Job(_) | Reason::JobElsewhere(_) => "for a job".to_owned(),
                Reason::Refused => "the engine refuses to watch profiling fields again".to_owned(),
            };
            format!("paused on {} ({why})", notices::gpus(&gpus))
        });
        let text = parts.collect::<Vec<String>>().join(", ");
        (!text.is_empty()).then_some(text)
    }
}

/// A time that no sample has that the engine has taken so far, by its own clock if it has taken some.
fn now_of(run: &SessionRun) -> i64 {
    match run.watches.as_ref().map_or(0, |watches| watches.judgement.newest) {
        0 => microseconds(),
        newest => newest + 1,
    }
}
