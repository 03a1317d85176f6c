//! The page: samples, jobs and the exporter's own metrics, rendered and published.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::active_watches::ActiveWatches;
use super::job_map::{JobMapReader, Reading};
use super::phase::Phase;
use super::session_run::SessionRun;
use super::{Watcher, microseconds, notices};
use crate::config::JobLabels;
use crate::exposition::OwnMetrics;
use crate::inventory::{Kind, hostname};
use crate::metrics::accounts::Accounts;
use crate::metrics::exporter::ErrorKind;
use crate::metrics::sources::xid;
use crate::metrics::{Collector, Extras};
use crate::summary::writer::Writer;
use crate::system::threads::{contained, test_fault};

/// After a job's end something may still be added to what it used, for at least and at most so long.
const SETTLE_SOONEST: Duration = Duration::from_secs(3);
const SETTLE_LATEST: Duration = Duration::from_secs(60);

/// What could not be used at the last reading of the job map.
#[derive(Default)]
pub(super) struct JobMapProblems {
    told: BTreeSet<String>,
    more: usize,
}

impl Watcher {
    /// Renders the samples that there are and publishes the page. If that cannot be done the page before it stays, and ages.
    pub(super) fn publish(&mut self, run: &mut SessionRun) {
        if run.watches.is_none() {
            return;
        }
        self.text.clear();
        if contained("the page", || self.render(run)).is_some() {
            self.publisher.publish(&mut self.text, self.collected);
        }
        self.publish_status(Some(run));
        self.write_summaries();
    }

    fn render(&mut self, run: &mut SessionRun) {
        let Some(watches) = &mut run.watches else { return };
        test_fault("page").expect("a fault");
        let Collector { table, computed, .. } = &mut watches.collector;
        let left_out = watches.exposition.render(table, computed, &mut self.text);
        if left_out > 0 && self.throttle.allows("samples left out") {
            log::warn!(samples = left_out; "with all jobs of the job map the page would be too long; each sample is shown for one job only");
        }
        self.report.samples_left_out = left_out;
        if self.config.exporter_metrics {
            watches.exposition.render_up(&watches.judgement.up, self.lost.entities(), &mut self.text);
            if let Some(counts) = watches.collector.xid_events(&mut self.memory) {
                let gone = self.lost.entities();
                let keys: Vec<_> = gone.iter().map(|entity| self.memory.key(entity)).collect();
                let of_gone = gone.iter().zip(xid::events(&mut self.memory, keys));
                let of_gone: Vec<_> = of_gone.filter_map(|(entity, count)| Some((entity, count?))).collect();
                watches.exposition.render_xid_events(&counts, &of_gone, &mut self.text);
            }
            watches.exposition.render_stale(&watches.judgement.stale, &mut self.text);
            let plan = &watches.plan;
            let paused = |gpu: u32| plan.profiles(gpu).then(|| plan.pause.is_paused(gpu));
            let paused: Vec<_> = watches.inventory.entities.iter().map(|entity| paused(entity.gpu?)).collect();
            watches.exposition.render_paused(&paused, &mut self.text);
        }
        // Where samples do not show jobs, nothing else would.
        if self.config.exporter_metrics || self.config.job_labels == JobLabels::InfoOnly {
            watches.exposition.render_jobs(&mut self.text);
            if self.config.accounts_jobs() {
                let keys = watches.collector.keys();
                let left = self.memory.extras.job_series_limit.saturating_sub(watches.collector.computed.of_jobs());
                let most = left / Extras::ACCOUNT_SERIES;
                watches.exposition.render_accounts(&mut self.memory, most, keys, microseconds(), &mut self.text);
            }
        }
        if self.config.exporter_metrics {
            self.render_report();
        }
    }

    /// Hands what is new of jobs to the thread that writes it down, and releases jobs that are over.
    pub(super) fn write_summaries(&mut self) {
        // It may be read late.
        self.take_in_unfinished();
        if let Some(writer) = &self.summary_writer {
            let accounts = self.memory.parts.of::<Accounts>();
            let host = if self.hostname.is_empty() { hostname::of_node(&self.config) } else { self.hostname.clone() };
            writer.put(self.summaries.new_ones(accounts.records(), &host));
        }
        // A host engine's next sample has the end of the job, and DCGM stamps errors up to two seconds late.
        let settle = (self.config.period() * 2).clamp(SETTLE_SOONEST, SETTLE_LATEST);
        let now = self.now();
        self.memory.forget_ended(now, settle.as_micros() as i64);
    }

    /// Microseconds since 1970; the times of jobs move with the clock.
    pub(super) fn now(&mut self) -> i64 {
        let now = microseconds();
        self.memory.see_clock(now);
        now
    }

    /// Takes in the job map where nothing is sampled. Jobs end all the same, also those that were read back.
    pub(super) fn take_in_jobs_without_session(&mut self) {
        self.take_in_jobs();
        self.take_in_unfinished();
        // There may have been no session yet.
        self.hostname = hostname::of(&self.config);
        self.write_summaries();
    }

    /// Publishes a page without samples: those that were collected no longer hold. Only after a release it does not age,
    /// because nothing is awaited.
    pub(super) fn publish_without_samples(&mut self) {
        self.text.clear();
        self.report.sources.clear();
        if self.config.exporter_metrics {
            self.render_report();
        }
        let taken = match self.phase {
            Phase::Released => None,
            Phase::Connecting { .. } => Some(Instant::now()),
            _ => self.collected.or_else(|| Some(Instant::now())),
        };
        self.publisher.publish(&mut self.text, taken);
        self.publish_status(None);
    }

    fn render_report(&mut self) {
        self.report.scrapes = self.publisher.published().scrapes();
        self.report.http_restarts = self.publisher.published().http_restarts();
        self.report.put(&mut OwnMetrics::new(&mut self.text));
    }

    pub(super) fn relabel(&mut self, run: &mut SessionRun) {
        let (Some(jobs), Some(watches)) = (&self.jobs, &mut run.watches) else { return };
        watches.exposition.set_jobs(jobs, self.config.job_labels);
        let reported = watches.inventory.entities.iter().filter(|entity| entity.kind == Kind::Gpu);
        let unmatched = jobs.unmatched(reported.map(|entity| entity.names.as_slice()));
        let unmatched: BTreeSet<String> = unmatched.into_iter().map(ToString::to_string).collect();
        for name in unmatched.difference(&self.unmatched) {
            notices::unmatched(name);
        }
        self.unmatched = unmatched;
        let beyond: usize = watches.inventory.entities.iter().map(|entity| jobs.beyond_limit(&entity.names)).sum();
        self.report.job_ids_left_out = Some(jobs.left_out() + beyond);
    }

    /// Takes up what the container runtime has said since the last time.
    pub(super) fn relabel_containers(&mut self, run: &mut SessionRun) {
        let changed = self.containers.as_ref().and_then(|containers| containers.changed(&self.container_map));
        if let (Some(map), Some(watches)) = (changed, &mut run.watches) {
            watches.exposition.set_containers(&map);
            self.container_map = map;
        }
    }

    /// Takes in what was read back of jobs that were running when the exporter ended.
    pub(super) fn take_in_unfinished(&mut self) {
        let accounts = self.memory.parts.of::<Accounts>();
        if let Some(unfinished) = self.summary_writer.as_ref().and_then(Writer::unfinished) {
            self.summaries.restore(&unfinished);
            accounts.restore(unfinished.into_iter().flat_map(|summary| summary.records));
        }
        if let Some(jobs) = &self.jobs {
            let jobs = jobs.ids();
            accounts.end_restored(|job| jobs.contains(job));
        }
    }

    /// Takes in the job map as it was last read. Returns whether a GPU or instance has other jobs than before.
    pub(super) fn take_in_jobs(&mut self) -> bool {
        let Some(Reading { scan, began }) = self.job_map.as_ref().and_then(JobMapReader::take) else { return false };
        self.now();
        let before = std::mem::take(&mut self.job_map_problems);
        // A file stays as it is while others come and go; it is counted and told when that begins.
        let new: Vec<&String> = scan.problems.iter().filter(|problem| !before.told.contains(*problem)).collect();
        let count = new.len() + scan.more_problems.saturating_sub(before.more);
        *self.report.job_map_errors.get_or_insert(0) += count as u64;
        self.report.job_map_problems = scan.errors();
        for problem in new {
            if self.throttle.allows(problem) {
                log::warn!(error = problem; "part of the job map cannot be used");
            }
        }
        self.report.job_ids_left_out = Some(scan.map.left_out());
        self.jobs = Some(scan.map);
        self.job_map_problems = JobMapProblems { told: scan.problems.into_iter().collect(), more: scan.more_problems };
        if let Some(jobs) = self.jobs.as_ref().filter(|_| self.summary_writer.is_some()) {
            for (job, facts) in jobs.facts() {
                self.summaries.describe(job, facts.labels.iter().map(|(name, value)| (*name, value.as_str())));
            }
            let ids = jobs.ids();
            self.summaries.tidy(|job| ids.contains(job));
        }
        self.set_jobs(began)
    }

    /// Notes which jobs what happens from `now` on belongs to, also on GPUs that no engine answers for at the moment.
    pub(super) fn set_jobs(&mut self, now: i64) -> bool {
        if !self.accounted.is_empty() {
            self.take_in_unfinished();
        }
        let Some(jobs) = &self.jobs else { return false };
        let mut is_new = false;
        for entity in &self.accounted {
            is_new |= self.memory.set_jobs(now, entity, &jobs.jobs_of(&entity.names));
        }
        is_new
    }

    pub(super) fn report_plan(&mut self, watches: &ActiveWatches) {
        let ActiveWatches { plan, collector, profiling_refusal, .. } = watches;
        if let Some(error) = profiling_refusal {
            log::info!("Not collecting DCP metrics: {error}");
        }
        notices::skipped(plan.skipped.iter().map(|(name, why)| (name.as_str(), format!("metric not enabled; {why}"))));
        let refused = collector.refused.iter().flat_map(|(field, error)| {
            let why = format!("the engine does not watch the field; {error}");
            plan.names_of(*field).map(move |name| (name, why.clone()))
        });
        notices::skipped(refused);
        collector.refused.iter().for_each(|_| self.report.count_error(ErrorKind::Watch));
        for problem in &collector.problems {
            self.report.count_error(ErrorKind::Watch);
            log::warn!("{problem}");
        }
        self.count_skipped(watches);
    }

    pub(super) fn count_skipped(&mut self, watches: &ActiveWatches) {
        let ActiveWatches { plan, collector, .. } = watches;
        let of_switches = collector.skipped_switch_fields(plan).len();
        let not_watched = plan.skipped.len() + collector.refused.len() + of_switches;
        self.report.counters_skipped = self.counters.left_out + not_watched;
        self.report.counters = self.counters.rows.len().saturating_sub(not_watched);
    }
}
