//! The exporter's account of itself: what it serves, how old that is, and what went wrong.

use std::time::Duration;

use super::number::Number;
use crate::dcgm::bounds;
use crate::inventory::Kind;
use crate::system::process;

/// Where metrics are put; implemented by the text format.
pub trait Sink {
    /// Begins a metric.
    fn metric(&mut self, name: &'static str, kind: &'static str, help: &'static str);
    /// Adds a sample to the metric begun last.
    fn sample(&mut self, labels: &[(&str, &str)], value: Number);
}

/// Kinds of error that are counted, in the order of [`Report::errors`].
pub const ERROR_KINDS: [&str; 5] = ["connect", "discover", "watch", "update", "read"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    Connect,
    Discover,
    Watch,
    Update,
    Read,
}

/// What there is to say, gathered by the watcher.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub library_version: String,
    pub library_path: String,
    pub engine_mode: &'static str,
    pub engine_address: String,
    pub engine_version: String,
    /// Seconds since 1970.
    pub collect_time: f64,
    pub collect_duration: Duration,
    pub collections: u64,
    pub errors: [u64; ERROR_KINDS.len()],
    pub entities: Vec<(Kind, usize)>,
    pub counters: usize,
    pub counters_skipped: usize,
    /// The page goes into a textfile directory of node_exporter, which has `process_*` of its own: the same series twice
    /// would cost its whole page.
    pub is_for_textfile: bool,
    /// `None` without a job map.
    pub job_map_errors: Option<u64>,
    /// At the last reading.
    pub job_map_problems: usize,
    /// `None` without a job map.
    pub job_ids_left_out: Option<usize>,
    /// Copies of samples for further jobs that the page has no room for.
    pub samples_left_out: usize,
    pub scrapes: u64,
    pub http_restarts: u64,
    /// The watcher's state, among all it can be in.
    pub state: &'static str,
    pub states: &'static [&'static str],
    pub reconnects: u64,
    /// By reason.
    pub restarts: Vec<(&'static str, u64)>,
    /// Taken over, refused.
    pub reloads: [u64; 2],
    pub profiling_rewatches: u64,
    /// Of the last collection, the sources of computed metrics that are in use.
    pub sources: Vec<SourceRun>,
    /// Series of computed metrics that could not be counted for want of room.
    pub series_left_out: u64,
}

/// How one source did in one collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceRun {
    pub name: &'static str,
    pub took: Duration,
    pub success: bool,
}

impl Report {
    pub fn count_error(&mut self, kind: ErrorKind) {
        self.errors[kind as usize] += 1;
    }

    /// Puts everything into `sink`, the process's own use of the machine included. To be called on the watcher's thread.
    pub fn put(&self, sink: &mut dyn Sink) {
        let one = Number::Int(1);
        sink.metric("dcgm_exporter_build_info", "gauge", "Version of the exporter; always 1");
        sink.sample(&[("version", env!("CARGO_PKG_VERSION"))], one);
        sink.metric("dcgm_exporter_library_info", "gauge", "The libdcgm in use; always 1");
        sink.sample(&[("version", &self.library_version), ("path", &self.library_path)], one);
        sink.metric("dcgm_exporter_engine_info", "gauge", "The DCGM engine in use; always 1");
        let engine = [("mode", self.engine_mode), ("address", &self.engine_address), ("version", &self.engine_version)];
        sink.sample(&engine, one);
        sink.metric("dcgm_exporter_state", "gauge", "1 for the state that the exporter is in, 0 for the others");
        for state in self.states {
            sink.sample(&[("state", state)], Number::Int(i64::from(*state == self.state)));
        }
        sink.metric(
            "dcgm_exporter_last_collect_timestamp_seconds",
            "gauge",
            "Time of the newest sample on this page in seconds since 1970",
        );
        sink.sample(&[], Number::Double(self.collect_time));
        sink.metric(
            "dcgm_exporter_last_collect_duration_seconds",
            "gauge",
            "Duration of the last collection in seconds",
        );
        sink.sample(&[], Number::Double(self.collect_duration.as_secs_f64()));
        sink.metric("dcgm_exporter_collections_total", "counter", "Collections since the exporter started");
        sink.sample(&[], int(self.collections));
        sink.metric("dcgm_exporter_errors_total", "counter", "Calls to DCGM that failed, by purpose");
        for (kind, count) in ERROR_KINDS.into_iter().zip(self.errors) {
            sink.sample(&[("kind", kind)], int(count));
        }
        sink.metric(
            "dcgm_exporter_reconnects_total",
            "counter",
            "Times the exporter connected again after it had lost the engine",
        );
        sink.sample(&[], int(self.reconnects));
        sink.metric(
            "dcgm_exporter_engine_restarts_total",
            "counter",
            "Times the engine was started again or exchanged for another one, by reason",
        );
        for (reason, count) in &self.restarts {
            sink.sample(&[("reason", reason)], int(*count));
        }
        sink.metric(
            "dcgm_exporter_reloads_total",
            "counter",
            "Times the counters or configuration file was read again, by outcome",
        );
        for (outcome, count) in ["taken", "refused"].into_iter().zip(self.reloads) {
            sink.sample(&[("outcome", outcome)], int(count));
        }
        sink.metric(
            "dcgm_exporter_profiling_rewatches_total",
            "counter",
            "Times profiling fields without new samples were watched again",
        );
        sink.sample(&[], int(self.profiling_rewatches));
        if !self.entities.is_empty() {
            sink.metric(
                "dcgm_exporter_entities",
                "gauge",
                "Entities on this page, by kind; MIG instances count as GPUs",
            );
            for (kind, count) in &self.entities {
                sink.sample(&[("kind", kind.name())], int(*count as u64));
            }
        }
        sink.metric("dcgm_exporter_counters", "gauge", "Rows of the counters file that are in use");
        sink.sample(&[], int(self.counters as u64));
        sink.metric(
            "dcgm_exporter_counters_skipped",
            "gauge",
            "Rows of the counters file that this library or these GPUs do not have",
        );
        sink.sample(&[], int(self.counters_skipped as u64));
        put_out_of_range(sink);
        self.put_sources(sink);
        if let Some(errors) = self.job_map_errors {
            sink.metric(
                "dcgm_exporter_job_map_errors_total",
                "counter",
                "Files and lines of the job map that could not be used, each when it appeared",
            );
            sink.sample(&[], int(errors));
            sink.metric(
                "dcgm_exporter_job_map_problems",
                "gauge",
                "Files and lines of the job map that cannot be used now; dcgm-exporter --check names them",
            );
            sink.sample(&[], int(self.job_map_problems as u64));
        }
        if let Some(left_out) = self.job_ids_left_out {
            sink.metric(
                "dcgm_exporter_job_ids_left_out",
                "gauge",
                "Job ids of the job map that are on no sample, because there are too many or they are malformed",
            );
            sink.sample(&[], int(left_out as u64));
            sink.metric(
                "dcgm_exporter_samples_left_out",
                "gauge",
                "Samples that are on this page for one job only, because with all jobs it would be too long",
            );
            sink.sample(&[], int(self.samples_left_out as u64));
        }
        sink.metric(
            "dcgm_exporter_scrapes_total",
            "counter",
            "Answers to /metrics from the start of the exporter to this page",
        );
        sink.sample(&[], int(self.scrapes));
        sink.metric(
            "dcgm_exporter_http_restarts_total",
            "counter",
            "Times the HTTP server was replaced because it did not answer; more than 0 is a bug",
        );
        sink.sample(&[], int(self.http_restarts));
        sink.metric(
            "dcgm_exporter_own_cpu_seconds_total",
            "counter",
            "CPU time of the exporter's own threads in seconds, without libdcgm's",
        );
        let works = [("serving", process::serving_cpu_seconds()), ("watching", process::this_threads_cpu_seconds())];
        for (work, seconds) in works {
            sink.sample(&[("work", work)], Number::Double(seconds));
        }
        if !self.is_for_textfile {
            put_process(sink);
        }
    }
}

impl Report {
    fn put_sources(&self, sink: &mut dyn Sink) {
        if self.sources.is_empty() {
            return;
        }
        sink.metric(
            "dcgm_exporter_source_duration_seconds",
            "gauge",
            "Time that a source of computed metrics took in the last collection, in seconds",
        );
        for source in &self.sources {
            sink.sample(&[("source", source.name)], Number::Double(source.took.as_secs_f64()));
        }
        sink.metric(
            "dcgm_exporter_source_success",
            "gauge",
            "1 if a source of computed metrics had no error in the last collection",
        );
        for source in &self.sources {
            sink.sample(&[("source", source.name)], Number::Int(source.success.into()));
        }
        sink.metric(
            "dcgm_exporter_series_left_out_total",
            "counter",
            "Series of computed metrics that are not counted because there are too many",
        );
        sink.sample(&[], int(self.series_left_out));
    }
}

fn put_out_of_range(sink: &mut dyn Sink) {
    let counts = bounds::out_of_range();
    if counts.is_empty() {
        return;
    }
    let help = "Values that are not shown because the field cannot have them, by field";
    sink.metric("dcgm_exporter_values_out_of_range_total", "counter", help);
    for (field, count) in counts {
        sink.sample(&[("field", field)], int(count));
    }
}

fn put_process(sink: &mut dyn Sink) {
    let usage = process::usage();
    let mut put = |name, kind, help, value| {
        sink.metric(name, kind, help);
        sink.sample(&[], value);
    };
    put(
        "process_cpu_seconds_total",
        "counter",
        "Total user and system CPU time spent in seconds",
        Number::Double(usage.cpu_seconds),
    );
    put("process_resident_memory_bytes", "gauge", "Resident memory size in bytes", int(usage.resident_bytes));
    put("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes", int(usage.virtual_bytes));
    put(
        "process_start_time_seconds",
        "gauge",
        "Start time of the process since unix epoch in seconds",
        Number::Double(usage.start_time),
    );
    put("process_threads", "gauge", "Number of threads, including those of libdcgm", int(usage.threads));
    put("process_open_fds", "gauge", "Number of open file descriptors", int(usage.open_files));
    put("process_max_fds", "gauge", "Maximum number of open file descriptors", int(usage.max_files));
}

fn int(number: u64) -> Number {
    Number::Int(i64::try_from(number).unwrap_or(i64::MAX))
}
