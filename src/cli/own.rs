//! The flags that have an effect, in the groups and the order in which `--help` and the man page show them.
//!
//! One file, because it is one table.

use std::time::Duration;

use super::flag::{FLAG, Flag, Kind, Refusal};
use super::{devices, engine, values};
use crate::config::duration::{LONGEST_INTERVAL, SHORTEST_INTERVAL};
use crate::config::engine::EngineSelection;
use crate::config::listen::ListenAddress;
use crate::config::{CheckFormat, JobLabels, JobMapTrust, LogFormat, OpenMetrics};

/// Flags of one purpose.
pub struct Group {
    pub title: &'static str,
    pub flags: &'static [Flag],
}

pub static GROUPS: &[Group] = &[
    Group { title: "What to report", flags: REPORT },
    Group { title: "When to collect", flags: COLLECT },
    Group { title: "Where to serve", flags: SERVE },
    Group { title: "DCGM engine", flags: ENGINE },
    Group { title: "Jobs of Slurm and other batch systems, containers", flags: JOBS },
    Group { title: "Checks and log", flags: DIAGNOSE },
];

/// A row whose switch is a field of `Config`.
macro_rules! switch {
    ($field:ident) => {
        |config, value| {
            config.$field = values::boolean(value)?;
            Ok(())
        }
    };
}

/// A row whose value is a path in a field of `Config`; an empty one is none.
macro_rules! path {
    ($field:ident) => {
        |config, value| {
            config.$field = if value.is_empty() { None } else { Some(values::absolute(value)?) };
            Ok(())
        }
    };
}

const REPORT: &[Flag] = &[
    Flag {
        long: "collectors",
        short: Some("f"),
        variable: "DCGM_EXPORTER_COLLECTORS",
        kind: Kind::Value("FILE"),
        default: "/etc/dcgm-exporter/default-counters.csv",
        help: "Counters file: which DCGM fields to export, one 'name, type, help' per line",
        apply: |config, value| {
            config.collectors = values::absolute(value)?;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "config-file",
        variable: "DCGM_EXPORTER_CONFIG_FILE",
        kind: Kind::Value("FILE"),
        default: "",
        help: "YAML file with settings, in the format of NVIDIA's dcgm-exporter (version 1 or 2): counters, and collections \
               of fields with an interval of their own. Flags and variables count before it. Read again when it changes",
        apply: path!(config_file),
        ..FLAG
    },
    Flag {
        long: "devices",
        short: Some("d"),
        variable: "DCGM_EXPORTER_DEVICES_STR",
        kind: Kind::Value("DEVICES"),
        default: "f",
        help: "GPUs to report. f: the MIG instances of a GPU that has them, else the GPU. g or g:0,2-4: whole GPUs, all or \
               listed. i or i:7: MIG instances, all or listed. g:0+i:7: both",
        apply: |config, value| {
            config.gpus = devices::parse(value)?;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "switch-devices",
        short: Some("s"),
        variable: "DCGM_EXPORTER_OTHER_DEVICES_STR",
        kind: Kind::Value("DEVICES"),
        default: "f",
        help: "NVSwitches (g) and their links (i) to report, written as for --devices",
        apply: |config, value| {
            config.switches = devices::parse(value)?;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "cpu-devices",
        short: Some("p"),
        variable: "DCGM_EXPORTER_CPU_DEVICES_STR",
        kind: Kind::Value("DEVICES"),
        default: "f",
        help: "CPUs (g) and their cores (i) to report, written as for --devices",
        apply: |config, value| {
            config.cpus = devices::parse(value)?;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "no-hostname",
        short: Some("n"),
        variable: "DCGM_EXPORTER_NO_HOSTNAME",
        help: "Leave out the hostname label",
        apply: switch!(no_hostname),
        ..FLAG
    },
    Flag {
        long: "hostname-label",
        variable: "DCGM_EXPORTER_HOSTNAME_LABEL",
        kind: Kind::Value("NAME"),
        default: "hostname",
        help: "Name of the hostname label: hostname, or Hostname as in dcgm-exporter up to 4.8.2",
        apply: |config, value| {
            config.hostname_label = match value {
                "hostname" => "hostname",
                "Hostname" => "Hostname",
                _ => return Err(Refusal::Value("expected hostname or Hostname".to_owned())),
            };
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "hostname",
        variable: "DCGM_EXPORTER_HOSTNAME",
        kind: Kind::Value("NAME"),
        default: "",
        help: "Value of the hostname label. Without it: the host of the engine's address for a host engine on another \
               node, else this node's name",
        apply: |config, value| {
            config.hostname = (!value.is_empty()).then(|| value.to_owned());
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "use-old-namespace",
        short: Some("o"),
        variable: "DCGM_EXPORTER_USE_OLD_NAMESPACE",
        help: "Label GPU samples with uuid instead of UUID",
        apply: switch!(old_namespace),
        ..FLAG
    },
    Flag {
        long: "replace-blanks-in-model-name",
        short: Some("rbmn"),
        variable: "DCGM_EXPORTER_REPLACE_BLANKS_IN_MODEL_NAME",
        help: "Write dashes instead of blanks in modelName of GPU samples",
        apply: switch!(replace_blanks_in_model_name),
        ..FLAG
    },
    Flag {
        long: "extended-labels",
        variable: "DCGM_EXPORTER_EXTENDED_LABELS",
        help: "Add the labels of dcgm-exporter 4.8.3 and later: health_error_severity and health_error_category on \
               DCGM_EXP_GPU_HEALTH_STATUS, cpu_serial on CPUs",
        apply: switch!(extended_labels),
        ..FLAG
    },
    Flag {
        long: "xid-count-window-size",
        short: Some("x"),
        variable: "DCGM_EXPORTER_XID_COUNT_WINDOW_SIZE",
        kind: Kind::Value("TIME"),
        default: "300000",
        help: "Window of DCGM_EXP_XID_ERRORS_COUNT",
        apply: |config, value| {
            config.xid_window = values::window(value)?;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "clock-events-count-window-size",
        variable: "DCGM_EXPORTER_CLOCK_EVENTS_COUNT_WINDOW_SIZE",
        kind: Kind::Value("TIME"),
        default: "300000",
        help: "Window of DCGM_EXP_CLOCK_EVENTS_COUNT",
        apply: |config, value| {
            config.clock_events_window = values::window(value)?;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "disable-exporter-metrics",
        variable: "DCGM_EXPORTER_DISABLE_EXPORTER_METRICS",
        help: "Leave out the exporter's own metrics (dcgm_exporter_*, process_*); those of jobs stay with --job-labels \
               info-only",
        apply: |config, value| {
            config.exporter_metrics = !values::boolean(value)?;
            Ok(())
        },
        ..FLAG
    },
];

const COLLECT: &[Flag] = &[
    Flag {
        long: "collect-interval",
        short: Some("c"),
        variable: "DCGM_EXPORTER_INTERVAL",
        kind: Kind::Value("TIME"),
        default: "30000",
        help: "Time between two collections: 30s, 500ms, or a number of milliseconds; at least 100 ms",
        apply: |config, value| {
            let interval = values::duration(value)?;
            if interval < SHORTEST_INTERVAL {
                return Err(Refusal::Value(
                    "DCGM's profiling fields need at least 100 ms between samples; a plain number is milliseconds, so \
                     30 seconds are 30000 or 30s"
                        .to_owned(),
                ));
            }
            if interval > LONGEST_INTERVAL {
                return Err(Refusal::Value("expected at most 24h".to_owned()));
            }
            config.interval = interval;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "min-collect-interval",
        variable: "DCGM_EXPORTER_MIN_COLLECT_INTERVAL",
        kind: Kind::Value("TIME"),
        default: "5s",
        help: "Shortest period of a regular scraper that collections follow, so that its samples are new; at least 100 ms. \
               Scrapes that come more often change nothing",
        apply: |config, value| {
            config.min_collect_interval = values::between(value, SHORTEST_INTERVAL, LONGEST_INTERVAL)?;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "stale-after",
        variable: "DCGM_EXPORTER_STALE_AFTER",
        kind: Kind::Value("TIME"),
        default: "",
        help: "Age of the samples at which /metrics answers 503, so that 'up' turns 0; longer than the collect interval. By \
               default three intervals, and at least 15s",
        apply: |config, value| {
            config.stale_after = if value.is_empty() { None } else { Some(values::duration(value)?) };
            Ok(())
        },
        check: |config| match config.stale_after {
            Some(age) if age <= config.interval => Err(Refusal::Value(format!(
                "/metrics would answer 503 before each collection; expected more than --collect-interval, which is {}",
                humantime::format_duration(config.interval)
            ))),
            _ => Ok(()),
        },
        ..FLAG
    },
];

const SERVE: &[Flag] = &[
    Flag {
        long: "address",
        short: Some("a"),
        variable: "DCGM_EXPORTER_LISTEN",
        kind: Kind::List("ADDRESS"),
        default: ":9400",
        help: "Address to serve on: [HOST]:PORT, [V6]:PORT or unix:///PATH (mode 0660; set others with ?mode= and ?group=). \
               May be given more than once; the variable takes a list with commas",
        apply: |config, value| {
            let addresses = value.split(',').map(|address| ListenAddress::parse(address.trim()));
            config.listen = addresses.collect::<Result<_, String>>()?;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "web-systemd-socket",
        variable: "DCGM_EXPORTER_SYSTEMD_SOCKET",
        help: "Serve on the sockets that systemd passes, and not on --address",
        apply: switch!(systemd_socket),
        ..FLAG
    },
    Flag {
        long: "web-config-file",
        variable: "DCGM_EXPORTER_WEB_CONFIG_FILE",
        kind: Kind::Value("FILE"),
        default: "",
        help: "TLS, passwords, headers and a rate limit for all addresses, in the format of Prometheus' exporter-toolkit. It \
               and its certificates are read again when they change",
        apply: path!(web_config),
        ..FLAG
    },
    Flag {
        long: "web-read-timeout",
        variable: "DCGM_EXPORTER_WEB_READ_TIMEOUT",
        kind: Kind::Value("TIME"),
        default: "10s",
        help: "Longest time that a client may take to send a request",
        apply: |config, value| {
            config.timeouts.read = values::web_timeout(value)?;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "web-write-timeout",
        variable: "DCGM_EXPORTER_WEB_WRITE_TIMEOUT",
        kind: Kind::Value("TIME"),
        default: "30s",
        help: "Longest time that a client may take to read an answer",
        apply: |config, value| {
            config.timeouts.write = values::web_timeout(value)?;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "openmetrics",
        variable: "DCGM_EXPORTER_OPENMETRICS",
        kind: Kind::Value("WHEN"),
        default: "auto",
        help: "When /metrics answers in the OpenMetrics format. auto: to clients that ask for it and do not take text/plain of \
               version 0.0.4. always: to clients that prefer it, as Prometheus does; counters without _total in their name \
               then are of unknown type there. never: to none",
        apply: |config, value| {
            config.open_metrics = match value {
                "auto" => OpenMetrics::Auto,
                "always" => OpenMetrics::Always,
                "never" => OpenMetrics::Never,
                _ => return Err(Refusal::Value("expected auto, always or never".to_owned())),
            };
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "health-require-gpus",
        variable: "DCGM_EXPORTER_HEALTH_REQUIRE_GPUS",
        help: "Answer 503 on /health while DCGM has no GPU. Without it, a node that never had a GPU is healthy",
        apply: switch!(health_requires_gpus),
        ..FLAG
    },
];

const DCGM_LOG_LEVELS: [&str; 7] = ["NONE", "FATAL", "ERROR", "WARN", "INFO", "DEBUG", "VERB"];

const ENGINE: &[Flag] = &[
    Flag {
        long: "remote-hostengine-info",
        short: Some("r"),
        variable: "DCGM_REMOTE_HOSTENGINE_INFO",
        kind: Kind::Value("ADDRESS"),
        default: "",
        help: "Use a running host engine instead of an embedded one: HOST:PORT, [V6]:PORT or unix:///PATH. auto: the node's \
               host engine while it answers, else an embedded one; auto,ADDRESS if it is not at its usual place",
        apply: |config, value| {
            config.engine = engine::parse(value)?;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "libdcgm",
        variable: "DCGM_EXPORTER_LIBDCGM",
        kind: Kind::Value("PATH"),
        default: "",
        help: "The libdcgm to load, instead of the system's libdcgm.so.4 or libdcgm.so.3",
        apply: path!(libdcgm),
        ..FLAG
    },
    Flag {
        long: "enable-gpu-bind-unbind-watch",
        variable: "DCGM_EXPORTER_ENABLE_GPU_BIND_UNBIND_WATCH",
        help: "Look for GPUs that were bound to the driver or unbound from it once per --gpu-bind-unbind-poll-interval. \
               Without it they are looked for at every tenth collection, at least every 30 s",
        apply: switch!(bind_unbind_watch),
        ..FLAG
    },
    Flag {
        long: "gpu-bind-unbind-poll-interval",
        variable: "DCGM_EXPORTER_GPU_BIND_UNBIND_POLL_INTERVAL",
        kind: Kind::Value("TIME"),
        default: "1s",
        help: "Time between two such looks; at least 100 ms",
        apply: |config, value| {
            config.bind_unbind_interval = values::between(value, SHORTEST_INTERVAL, LONGEST_INTERVAL)?;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "keep-reading-after-xid119",
        variable: "DCGM_EXPORTER_KEEP_READING_AFTER_XID119",
        help: "After XID 119 (a GPU's firmware, the GSP, does not answer) DCGM gives no value of any GPU until the GPU is \
               reset and the engine restarted. This sets __DCGM_FATAL_XIDS__=-119 for an embedded engine, so that it goes on \
               reading. Risk: a call into the GPU whose firmware hangs may never return, and then there are no metrics at \
               all",
        apply: switch!(keep_reading_after_xid119),
        check: |config| {
            if config.keep_reading_after_xid119 && matches!(config.engine, EngineSelection::Remote(_)) {
                config.warnings.push(
                    "--keep-reading-after-xid119 has no effect on a host engine: set __DCGM_FATAL_XIDS__=-119 in the \
                     environment of nvidia-dcgm.service"
                        .to_owned(),
                );
            }
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "enable-dcgm-log",
        variable: "DCGM_EXPORTER_ENABLE_DCGM_LOG",
        help: "Let an embedded engine log to standard output",
        apply: switch!(dcgm_log),
        ..FLAG
    },
    Flag {
        long: "dcgm-log-level",
        variable: "DCGM_EXPORTER_DCGM_LOG_LEVEL",
        kind: Kind::Value("LEVEL"),
        default: "NONE",
        help: "Level of that log: NONE, FATAL, ERROR, WARN, INFO, DEBUG or VERB",
        apply: |config, value| {
            let known = DCGM_LOG_LEVELS.into_iter().find(|level| *level == value);
            config.dcgm_log_level = known.ok_or_else(|| format!("expected one of {}", DCGM_LOG_LEVELS.join(", ")))?;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "fake-gpus",
        variable: "DCGM_EXPORTER_USE_FAKE_GPUS",
        help: "For tests: report a GPU whose attributes cannot be read, with UUID fake<N>",
        apply: switch!(fake_gpus),
        ..FLAG
    },
];

const JOBS: &[Flag] = &[
    Flag {
        long: "hpc-job-mapping-dir",
        variable: "DCGM_HPC_JOB_MAPPING_DIR",
        kind: Kind::Value("DIR"),
        default: "",
        help: "Directory of job map files: one file per GPU, one job id per line. A file's name is the GPU's index, \
               <gpu>.<instance>, UUID, PCI bus id or minor<N>. Samples get the label hpc_job. Only root, or the \
               exporter's user, may be able to write there",
        apply: path!(job_map),
        ..FLAG
    },
    Flag {
        long: "job-map-insecure",
        variable: "DCGM_JOB_MAP_INSECURE",
        help: "For test beds: use a job map directory that is a link, another user's, or writable by others. Whoever can \
               write there decides what is published. Prolog and epilog read the variable, too",
        apply: |config, value| {
            config.job_map_trust = match values::boolean(value)? {
                true => JobMapTrust::Anybody,
                false => JobMapTrust::RootOnly,
            };
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "job-labels",
        variable: "DCGM_EXPORTER_JOB_LABELS",
        kind: Kind::Value("WHERE"),
        default: "on-samples",
        help: "Where jobs are shown. on-samples: as the label hpc_job. info-only: in dcgm_exporter_gpu_job and \
               dcgm_exporter_job_info alone, so that other series stay the same when a job starts or ends",
        apply: |config, value| {
            config.job_labels = match value {
                "on-samples" => JobLabels::OnSamples,
                "info-only" => JobLabels::InfoOnly,
                _ => return Err(Refusal::Value("expected on-samples or info-only".to_owned())),
            };
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "job-accounting",
        variable: "DCGM_EXPORTER_JOB_ACCOUNTING",
        default: "true",
        help: "Count what each job of the job map uses of its GPUs: dcgm_exporter_job_gpu_seconds_total and others, and \
               dcgm_exporter_gpu_idle_seconds. --job-accounting=false: do not",
        apply: switch!(job_accounting),
        ..FLAG
    },
    Flag {
        long: "job-summary-dir",
        variable: "DCGM_EXPORTER_JOB_SUMMARY_DIR",
        kind: Kind::Value("DIR"),
        default: "",
        help: "Directory for one JSON file per job, with what it used of its GPUs: written at every collection while the job \
               runs, and at its end. After a restart the exporter goes on with them. Needs --hpc-job-mapping-dir",
        apply: path!(job_summaries),
        check: |config| {
            if config.job_summaries.is_some() && !config.accounts_jobs() && config.job_summary.is_none() {
                let warning = "--job-summary-dir has no effect: it needs --hpc-job-mapping-dir and --job-accounting";
                config.warnings.push(warning.to_owned());
            }
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "job-summary-days",
        variable: "DCGM_EXPORTER_JOB_SUMMARY_DAYS",
        kind: Kind::Value("DAYS"),
        default: "7",
        help: "Days after which such a file is removed; 0 is never",
        apply: |config, value| {
            config.job_summary_days = value.parse().map_err(|_| "expected a number of days, such as 7".to_owned())?;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "job-summary",
        variable: "DCGM_EXPORTER_JOB_SUMMARY",
        kind: Kind::Value("ID"),
        default: "",
        help: "Print what this job used of its GPUs, from its file in --job-summary-dir, and exit: 1 if there is none",
        apply: |config, value| {
            config.job_summary = (!value.is_empty()).then(|| value.to_owned());
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "job-summary-short",
        variable: "DCGM_EXPORTER_JOB_SUMMARY_SHORT",
        help: "Let --job-summary print one line, for a job's comment",
        apply: switch!(job_summary_short),
        ..FLAG
    },
    Flag {
        long: "container-labels",
        variable: "DCGM_EXPORTER_CONTAINER_LABELS",
        help: "Add the label container to samples of GPUs and instances that containers of Docker or Podman have, a sample \
               per container. Needs --container-runtime-socket",
        apply: switch!(container_labels),
        check: |config| match (config.container_labels, &config.container_runtime) {
            (true, None) => Err(Refusal::Flag(
                "needs --container-runtime-socket, such as --container-runtime-socket /run/docker.sock".to_owned(),
            )),
            (false, Some(_)) => {
                let warning =
                    "--container-runtime-socket has no effect: it belongs to --container-labels, which is off";
                config.warnings.push(warning.to_owned());
                Ok(())
            }
            _ => Ok(()),
        },
        ..FLAG
    },
    Flag {
        long: "container-runtime-socket",
        variable: "DCGM_CONTAINER_RUNTIME_SOCKET",
        kind: Kind::Value("PATH"),
        default: "",
        help: "Socket of Docker or Podman for --container-labels, such as /run/docker.sock or /run/podman/podman.sock",
        apply: |config, value| {
            let path = value.strip_prefix("unix://").unwrap_or(value);
            config.container_runtime = if path.is_empty() { None } else { Some(values::absolute(path)?) };
            Ok(())
        },
        ..FLAG
    },
];

/// How long `--once` waits for a page. An engine with eight GPUs and its modules takes 2 s to start.
const ONCE_LIMIT: Duration = Duration::from_secs(30);

const DIAGNOSE: &[Flag] = &[
    Flag {
        long: "check",
        variable: "DCGM_EXPORTER_CHECK",
        help: "Check library, driver, permissions, GPUs, counters, port and job map, print what is wrong and how to fix it, \
               and exit: 0 ok, 1 warnings, 2 failures. --check=json prints JSON. Changes nothing",
        apply: |config, value| {
            config.check = match value {
                "json" => Some(CheckFormat::Json),
                "table" => Some(CheckFormat::Table),
                _ => values::boolean(value)
                    .map_err(|_| "expected nothing, table or json".to_owned())?
                    .then_some(CheckFormat::Table),
            };
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "check-counters",
        variable: "DCGM_EXPORTER_CHECK_COUNTERS",
        help: "Read the counters file, print what is wrong or unusual about it, and exit: 1 if it cannot be used",
        apply: switch!(check_counters),
        ..FLAG
    },
    Flag {
        long: "once",
        variable: "DCGM_EXPORTER_ONCE",
        help: "Collect, print the page and exit: 0, or 1 if there is none within 30 s or the time given, as in --once=5s. For \
               textfile collectors and reports. A profiling field takes a second longer. No port is opened",
        apply: |config, value| {
            config.once = match values::boolean(value) {
                Ok(wanted) => wanted.then_some(ONCE_LIMIT),
                Err(_) => Some(values::between(value, SHORTEST_INTERVAL, LONGEST_INTERVAL)?),
            };
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "list-fields",
        variable: "DCGM_EXPORTER_LIST_FIELDS",
        kind: Kind::Optional("PATTERN"),
        default: "false",
        help: "Print the names that a counters file may have, with id, type, unit, entity and whether this libdcgm and these \
               GPUs have the field, and exit. PATTERN is a part of the name, or the name with * and ?",
        apply: |config, value| {
            config.list_fields = match values::boolean(value) {
                Ok(wanted) => wanted.then(String::new),
                Err(_) => Some(value.to_owned()),
            };
            Ok(())
        },
        ..FLAG
    },
    Flag { long: "debug", variable: "DCGM_EXPORTER_DEBUG", help: "Log at level debug", apply: switch!(debug), ..FLAG },
    Flag {
        long: "log-format",
        variable: "DCGM_EXPORTER_LOG_FORMAT",
        kind: Kind::Value("FORMAT"),
        default: "text",
        help: "Format of log lines: text or json",
        apply: |config, value| {
            config.log_format = match value {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => return Err(Refusal::Value("expected text or json".to_owned())),
            };
            Ok(())
        },
        ..FLAG
    },
];
