//! Settings: plain types that every module may read and that import none.
//!
//! - [`devices`], [`engine`], [`listen`]: which GPUs to report, which DCGM engine to use, where to serve.
//! - [`duration`], [`glob`]: how times and patterns for names are written.
//! - [`yaml`]: YAML files, read strictly; [`file`](mod@file) is what one says that has settings.

pub mod devices;
pub mod duration;
pub mod engine;
pub mod file;
pub mod glob;
pub mod listen;
pub mod yaml;

use std::path::{Path, PathBuf};
use std::time::Duration;

use devices::DeviceSelection;
use engine::EngineSelection;
use file::{Collection, InlineRow};
use listen::{ListenAddress, Timeouts};

/// All settings, parsed and checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// YAML file that some of these settings are from.
    pub config_file: Option<PathBuf>,
    pub collectors: PathBuf,
    /// Rows of the configuration file, which are there instead of the counters file.
    pub rows: Option<Vec<InlineRow>>,
    /// Fields with an interval of their own.
    pub collections: Vec<Collection>,
    /// At least one.
    pub listen: Vec<ListenAddress>,
    /// Take the listening sockets from systemd instead of opening `listen`.
    pub systemd_socket: bool,
    /// TLS, users and headers, in exporter-toolkit's format.
    pub web_config: Option<PathBuf>,
    pub timeouts: Timeouts,
    /// Where to write this exporter's address for Prometheus' file_sd.
    pub file_sd_dir: Option<PathBuf>,
    /// `HOST:PORT` to write there; `None` follows from the listening sockets.
    pub file_sd_address: Option<String>,
    pub status_page: StatusPage,
    pub open_metrics: OpenMetrics,
    /// Time between two samples of a field that is in none of `collections`.
    pub interval: Duration,
    /// Between two collections that follow scrapers, at the least.
    pub min_collect_interval: Duration,
    /// Age at which a page is no longer shown, longer than the interval; `None` follows from the interval.
    pub stale_after: Option<Duration>,
    pub gpus: DeviceSelection,
    pub switches: DeviceSelection,
    pub cpus: DeviceSelection,
    /// `uuid` instead of `UUID` on GPU samples.
    pub old_namespace: bool,
    pub no_hostname: bool,
    pub hostname_label: &'static str,
    /// The value of that label, where it is not to follow from the engine's place.
    pub hostname: Option<String>,
    pub replace_blanks_in_model_name: bool,
    /// Labels that dcgm-exporter has from 4.8.3 on: of health incidents and of CPUs.
    pub extended_labels: bool,
    pub engine: EngineSelection,
    pub libdcgm: Option<PathBuf>,
    /// Look for GPUs that were bound to the driver or unbound from it once per `bind_unbind_interval`.
    pub bind_unbind_watch: bool,
    pub bind_unbind_interval: Duration,
    /// An embedded engine goes on reading GPUs after XID 119 (`__DCGM_FATAL_XIDS__=-119`). Its calls may hang for ever
    /// in the GPU whose firmware does not answer.
    pub keep_reading_after_xid119: bool,
    /// Go on with UUID `fake<N>` for a GPU whose attributes cannot be read.
    pub fake_gpus: bool,
    pub xid_window: Duration,
    pub clock_events_window: Duration,
    pub debug: bool,
    pub log_format: LogFormat,
    pub dcgm_log: bool,
    pub dcgm_log_level: &'static str,
    pub job_map: Option<PathBuf>,
    pub job_map_trust: JobMapTrust,
    /// What the site writes into the file of a GPU without a job; empty for nothing.
    pub job_map_idle: String,
    pub job_labels: JobLabels,
    /// Say what each job used of its GPUs, where there is a job map.
    pub job_accounting: bool,
    /// Series of jobs that are over stay for so long.
    pub job_series_keep: Duration,
    /// Series by job that may be, all metrics together.
    pub job_series_limit: usize,
    /// A JSON file per job is kept here.
    pub job_summaries: Option<PathBuf>,
    /// For so many days after its last change.
    pub job_summary_days: u32,
    /// Print what this job used and exit.
    pub job_summary: Option<String>,
    /// In one line.
    pub job_summary_short: bool,
    /// While this file exists, no profiling field is watched.
    pub pause_profiling: Option<PathBuf>,
    /// The socket of Docker or Podman, to label samples with the containers that have a GPU.
    pub container_runtime: Option<PathBuf>,
    pub container_labels: bool,
    pub exporter_metrics: bool,
    /// `/health` is 503 while the engine has no GPU, also where there never was one.
    pub health_requires_gpus: bool,
    /// Only checked: nothing depends on it.
    pub retention: Retention,
    /// Print what is wrong with the counters file and exit.
    pub check_counters: bool,
    /// Print one page and exit; wait for it at most this long.
    pub once: Option<Duration>,
    /// Print the fields with this in their name and exit.
    pub list_fields: Option<String>,
    /// Print what is wrong on this node and exit.
    pub check: Option<CheckFormat>,
    /// The tree that is checked.
    pub root: PathBuf,
    /// To be logged once logging has started: flags without effect, arguments that are not used.
    pub warnings: Vec<String>,
}

impl Default for Config {
    /// Placeholders: `cli` applies every flag's value or default and replaces all of them.
    fn default() -> Config {
        Config {
            config_file: None,
            collectors: PathBuf::new(),
            rows: None,
            collections: Vec::new(),
            listen: Vec::new(),
            systemd_socket: false,
            web_config: None,
            timeouts: Timeouts { read: Duration::ZERO, write: Duration::ZERO },
            file_sd_dir: None,
            file_sd_address: None,
            status_page: StatusPage::Full,
            open_metrics: OpenMetrics::Auto,
            interval: Duration::ZERO,
            min_collect_interval: Duration::ZERO,
            stale_after: None,
            gpus: DeviceSelection::Flex,
            switches: DeviceSelection::Flex,
            cpus: DeviceSelection::Flex,
            old_namespace: false,
            no_hostname: false,
            hostname_label: "",
            hostname: None,
            replace_blanks_in_model_name: false,
            extended_labels: false,
            engine: EngineSelection::Embedded,
            libdcgm: None,
            bind_unbind_watch: false,
            bind_unbind_interval: Duration::ZERO,
            keep_reading_after_xid119: false,
            fake_gpus: false,
            xid_window: Duration::ZERO,
            clock_events_window: Duration::ZERO,
            debug: false,
            log_format: LogFormat::Text,
            dcgm_log: false,
            dcgm_log_level: "",
            job_map: None,
            job_map_trust: JobMapTrust::RootOnly,
            job_map_idle: String::new(),
            job_labels: JobLabels::OnSamples,
            job_accounting: true,
            job_series_keep: Duration::ZERO,
            job_series_limit: 0,
            job_summaries: None,
            job_summary_days: 0,
            job_summary: None,
            job_summary_short: false,
            pause_profiling: None,
            container_runtime: None,
            container_labels: false,
            exporter_metrics: true,
            health_requires_gpus: false,
            retention: Retention::default(),
            check_counters: false,
            once: None,
            list_fields: None,
            check: None,
            root: PathBuf::from("/"),
            warnings: Vec::new(),
        }
    }
}

impl Config {
    /// Time between two collections: the shortest interval that some field has.
    pub fn period(&self) -> Duration {
        self.collections.iter().map(|collection| collection.interval).fold(self.interval, Duration::min)
    }

    /// The interval of fields that are in no collection, where others are sampled more often.
    pub fn slower_rest(&self) -> Option<Duration> {
        (self.interval > self.period()).then_some(self.interval)
    }

    /// A sentence for each interval that is not a whole number of collections: the nearest one is taken.
    pub fn uneven_intervals(&self) -> Vec<String> {
        let period = self.period().as_secs_f64().max(1e-3);
        let rest = ("*", self.interval);
        let named = self.collections.iter().map(|collection| (collection.name.as_str(), collection.interval));
        let uneven = named.chain([rest]).filter_map(|(name, interval)| {
            let count = (interval.as_secs_f64() / period).round().max(1.0);
            let sampled = Duration::from_secs_f64(count * period);
            (sampled.abs_diff(interval) > interval.mul_f64(0.05)).then(|| {
                let [asked, sampled, period] = [interval, sampled, self.period()].map(humantime::format_duration);
                format!(
                    "collection '{name}': its interval {asked} is not a whole number of collections, which come every {period}; \
                     its fields are sampled every {sampled}"
                )
            })
        });
        uneven.collect()
    }

    /// Whether it is counted what jobs use.
    pub fn accounts_jobs(&self) -> bool {
        self.job_accounting && self.job_map.is_some()
    }

    /// The file that the rows are in.
    pub fn counters_file(&self) -> &Path {
        self.config_file.as_deref().filter(|_| self.rows.is_some()).unwrap_or(&self.collectors)
    }

    /// Takes over what the configuration file can say, from settings that were read again; nothing else can be different.
    pub fn take_from_file(&mut self, new: Config) {
        self.collectors = new.collectors;
        self.rows = new.rows;
        self.collections = new.collections;
        self.interval = new.interval;
        self.bind_unbind_watch = new.bind_unbind_watch;
        self.bind_unbind_interval = new.bind_unbind_interval;
        self.retention = new.retention;
        self.warnings = new.warnings;
    }
}

/// How much dcgm-exporter would tell DCGM to keep of each field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    pub age: Duration,
    /// 0 for no limit.
    pub samples: u64,
}

/// When the page is sent in the OpenMetrics format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMetrics {
    /// To a client that asks for it and does not take version 0.0.4 of the text format.
    Auto,
    /// To every client that prefers it.
    Always,
    Never,
}

/// What the page at `/` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusPage {
    /// Links to the metrics and to the health alone.
    Off,
    /// GPUs and the exporter, without names of users, jobs and containers.
    Gpus,
    Full,
}

/// Whose job map is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobMapTrust {
    /// That of root or of the exporter's own user, which nobody else can write.
    RootOnly,
    /// Any, which is for test beds.
    Anybody,
}

/// Where the job map shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobLabels {
    /// As `hpc_job` on every sample of a GPU that has a job, besides the info metrics.
    OnSamples,
    /// In the info metrics alone, so that samples keep their identity.
    InfoOnly,
}

/// How `--check` prints what it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckFormat {
    Table,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}
