//! The flags that have an effect, in the groups and the order in which `--help` and the man page show them.
//!
//! One file, because it is one table.

use std::path::Path;
use std::time::Duration;

use super::flag::{FLAG, Flag, Kind, Refusal};
use super::{devices, engine, values};
use crate::config::duration::{LONGEST_INTERVAL, SHORTEST_INTERVAL};
use crate::config::engine::EngineSelection;
use crate::config::listen::ListenAddress;
use crate::config::{CheckFormat, JobLabels, JobMapTrust, LogFormat, OpenMetrics, StatusPage};

/// Flags of one purpose.
pub struct Group {
    pub title: &'static str,
    pub flags: &'static [Flag],
}

pub static GROUPS: &[Group] = &[
    Group { title: "What to export", flags: REPORT },
    Group { title: "When to collect", flags: COLLECT },
    Group { title: "Where to serve", flags: SERVE },
    Group { title: "DCGM engine", flags: ENGINE },
    Group { title: "Slurm jobs and containers", flags: JOBS },
    Group { title: "Diagnostics", flags: DIAGNOSE },
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
        help: "Counters file: which fields to export",
        details: "One 'name, type, help' per line; lines that begin with # are comments. Names are those that \
                  --list-fields prints; types are gauge, counter, untyped and label. A row that cannot be used \
                  is left out with a warning. The file is read again when it changes. A --config-file may have \
                  the rows, or name a counters file; this flag has precedence.",
        example: "--collectors /etc/dcgm-exporter/hpc.csv",
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
        help: "YAML file with settings, in the format of NVIDIA's dcgm-exporter",
        details: "Versions 1 and 2: counters, and collections of fields with an interval of their own. Flags \
                  and variables have precedence over it. An unknown key is an error that has its place. The \
                  file is read again when it changes.",
        example: "--config-file /etc/dcgm-exporter/config.yaml",
        apply: path!(config_file),
        ..FLAG
    },
    Flag {
        long: "devices",
        short: Some("d"),
        variable: "DCGM_EXPORTER_DEVICES_STR",
        kind: Kind::Value("DEVICES"),
        default: "f",
        help: "GPUs and MIG instances to report: f, g[:LIST], i[:LIST] or g[:LIST]+i[:LIST]",
        details: "f: the MIG instances of a GPU that has them, else the GPU. g: all GPUs. g:0,2-4: GPUs 0, 2, 3 and \
                  4. i: all MIG instances. i:0.7: instance 7 of GPU 0, as nvidia-smi and the label GPU_I_ID have it. A \
                  number without a point is DCGM's own id of an instance, which counts through the node, as for NVIDIA's \
                  exporter: i:3. g:0+i:1.7: GPU 0 and an instance of GPU 1.",
        example: "--devices g:0,2-4",
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
        example: "--switch-devices g:0-1",
        apply: |config, value| {
            config.switches = devices::parse_other(value)?;
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
        example: "--cpu-devices g",
        apply: |config, value| {
            config.cpus = devices::parse_other(value)?;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "no-hostname",
        short: Some("n"),
        variable: "DCGM_EXPORTER_NO_HOSTNAME",
        help: "Leave out the hostname label",
        example: "--no-hostname",
        apply: switch!(no_hostname),
        ..FLAG
    },
    Flag {
        long: "hostname-label",
        variable: "DCGM_EXPORTER_HOSTNAME_LABEL",
        kind: Kind::Value("NAME"),
        default: "hostname",
        help: "Name of the hostname label: hostname or Hostname",
        details: "Hostname is the name in NVIDIA's dcgm-exporter up to 4.8.2.",
        example: "--hostname-label Hostname",
        choices: &["hostname", "Hostname"],
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
        help: "Value of the hostname label",
        details: "Without it: for a host engine on another node the host of its address, else this node's name.",
        example: "--hostname gpu-node-1",
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
        example: "--use-old-namespace",
        apply: switch!(old_namespace),
        ..FLAG
    },
    Flag {
        long: "replace-blanks-in-model-name",
        short: Some("rbmn"),
        variable: "DCGM_EXPORTER_REPLACE_BLANKS_IN_MODEL_NAME",
        help: "Write dashes instead of spaces in the label modelName",
        example: "--replace-blanks-in-model-name",
        apply: switch!(replace_blanks_in_model_name),
        ..FLAG
    },
    Flag {
        long: "extended-labels",
        variable: "DCGM_EXPORTER_EXTENDED_LABELS",
        help: "Add the labels that NVIDIA's dcgm-exporter has from 4.8.3 on",
        details: "These are health_error_severity and health_error_category on DCGM_EXP_GPU_HEALTH_STATUS, cpu_serial on \
                  CPUs.",
        example: "--extended-labels",
        apply: switch!(extended_labels),
        ..FLAG
    },
    Flag {
        long: "xid-count-window-size",
        short: Some("x"),
        variable: "DCGM_EXPORTER_XID_COUNT_WINDOW_SIZE",
        kind: Kind::Value("TIME"),
        default: "300000",
        help: "Time over which DCGM_EXP_XID_ERRORS_COUNT counts",
        details: "A time with its unit, or a number of milliseconds.",
        example: "--xid-count-window-size 10m",
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
        help: "Time over which DCGM_EXP_CLOCK_EVENTS_COUNT counts",
        details: "A time with its unit, or a number of milliseconds.",
        example: "--clock-events-count-window-size 10m",
        apply: |config, value| {
            config.clock_events_window = values::window(value)?;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "disable-exporter-metrics",
        variable: "DCGM_EXPORTER_DISABLE_EXPORTER_METRICS",
        help: "Leave out the exporter's own metrics: dcgm_exporter_* and process_*",
        details: "With --job-labels info-only the metrics of jobs stay.",
        example: "--disable-exporter-metrics",
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
        help: "Time between two collections: 30s, 500ms, or a number of milliseconds",
        details: "At most 24h. A shorter interval than 100ms is 100ms. With an embedded engine collections follow regular scrapers, \
                  see --min-collect-interval. A plain number is milliseconds, as in NVIDIA's dcgm-exporter.",
        example: "--collect-interval 10s",
        apply: |config, value| {
            let mut interval = values::between(value, Duration::from_nanos(1), LONGEST_INTERVAL)?;
            // Guides of two vendors have 33 and 3.
            if interval < SHORTEST_INTERVAL {
                config.warnings.push(format!(
                    "an interval of {} is too short for DCGM's profiling fields; it is 100ms instead. A plain number is \
                     milliseconds: 30 seconds are 30s or 30000",
                    humantime::format_duration(interval)
                ));
                interval = SHORTEST_INTERVAL;
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
        help: "Shortest time between two collections that follow a scraper",
        details: "With an embedded engine collections come just before each scrape of regular scrapers, so \
                  that samples are new. A scraper that comes more often than this is not followed. At least 100ms.",
        example: "--min-collect-interval 1s",
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
        help: "Age of the samples at which /metrics answers 503, so that 'up' turns 0",
        details: "By default three intervals, and at least 15s. Must be longer than the collect interval.",
        example: "--stale-after 2m",
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
    Flag {
        long: "pause-profiling-file",
        variable: "DCGM_EXPORTER_PAUSE_PROFILING_FILE",
        kind: Kind::Value("FILE"),
        default: "/run/dcgm-exporter/pause-profiling",
        help: "While this file exists, profiling fields (DCGM_FI_PROF_*) are not watched",
        details: "For Nsight and other profilers, which need the profiling hardware of GPUs before Hopper for \
                  themselves. Only root, or the exporter's user, may be able to create it. A job pauses profiling on \
                  its own GPUs with the line profiling=pause in job.<id> of the job map.",
        example: "--pause-profiling-file /run/dcgm-exporter/pause-profiling",
        apply: path!(pause_profiling),
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
        help: "Address to serve on: [HOST]:PORT, [V6]:PORT or unix:///PATH",
        details: "May be given more than once; the variable takes a list with commas. A Unix socket has mode \
                  0660; set others with ?mode= and ?group=. The unit lets the service make one in /run/dcgm-exporter.",
        example: "--address 127.0.0.1:9400 --address 'unix:///run/dcgm-exporter/http.sock?mode=0666'",
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
        details: "For dcgm-exporter.socket: systemd then holds the port while the exporter is restarted.",
        example: "--web-systemd-socket",
        apply: switch!(systemd_socket),
        ..FLAG
    },
    Flag {
        long: "web-config-file",
        variable: "DCGM_EXPORTER_WEB_CONFIG_FILE",
        kind: Kind::Value("FILE"),
        default: "",
        help: "TLS, passwords, headers and a rate limit for all addresses",
        details: "The format is that of Prometheus' exporter-toolkit. The file and its certificates are read again \
                  when they change.",
        example: "--web-config-file /etc/dcgm-exporter/web.yml",
        apply: path!(web_config),
        ..FLAG
    },
    Flag {
        long: "web-read-timeout",
        variable: "DCGM_EXPORTER_WEB_READ_TIMEOUT",
        kind: Kind::Value("TIME"),
        default: "10s",
        help: "Longest time that a client may take to send a request",
        details: "0 means one hour.",
        example: "--web-read-timeout 5s",
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
        details: "0 means one hour.",
        example: "--web-write-timeout 1m",
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
        help: "When /metrics answers in the OpenMetrics format: auto, always or never",
        details: "auto: for clients that ask for it and do not accept text/plain of version 0.0.4. always: for \
                  clients that prefer it, as Prometheus does; counters without _total in their name then have \
                  no known type. never: for no client.",
        example: "--openmetrics always",
        choices: &["auto", "always", "never"],
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
        long: "status-page",
        variable: "DCGM_EXPORTER_STATUS_PAGE",
        kind: Kind::Value("WHAT"),
        default: "full",
        help: "What the page at / shows to people: full, gpus or off",
        details: "full: GPUs, their jobs and users, problems and what to do. gpus: without names of users and jobs. \
                  off: only links to /metrics and /health. /?text is the same page for a terminal, /status.json for \
                  programs.",
        example: "--status-page gpus",
        choices: &["full", "gpus", "off"],
        apply: |config, value| {
            config.status_page = match value {
                "off" => StatusPage::Off,
                "gpus" => StatusPage::Gpus,
                "full" => StatusPage::Full,
                _ => return Err(Refusal::Value("expected off, gpus or full".to_owned())),
            };
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "file-sd-dir",
        variable: "DCGM_EXPORTER_FILE_SD_DIR",
        kind: Kind::Value("DIR"),
        default: "",
        help: "Directory for a file with this exporter's address, for Prometheus' file_sd",
        details: "The file is <hostname>.json. It is written when the exporter serves, and removed when it is stopped.",
        example: "--file-sd-dir /shared/prometheus-targets",
        apply: path!(file_sd_dir),
        ..FLAG
    },
    Flag {
        long: "file-sd-address",
        variable: "DCGM_EXPORTER_FILE_SD_ADDRESS",
        kind: Kind::Value("ADDRESS"),
        default: "",
        help: "HOST:PORT for the file in --file-sd-dir, instead of the node's name and port",
        details: "For nodes that others reach under another name.",
        example: "--file-sd-dir /shared/prometheus-targets --file-sd-address gpu-node-1.cluster:9400",
        apply: |config, value| {
            config.file_sd_address = match ListenAddress::parse(value) {
                _ if value.is_empty() => None,
                Ok(ListenAddress::Tcp { host, port }) if !host.is_empty() && port != 0 => Some(value.to_owned()),
                _ => return Err(Refusal::Value("expected HOST:PORT such as gpu7.example.org:9400".to_owned())),
            };
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "health-require-gpus",
        variable: "DCGM_EXPORTER_HEALTH_REQUIRE_GPUS",
        help: "Answer 503 on /health while DCGM has no GPU",
        details: "Without it, a node that never had a GPU is reported as healthy.",
        example: "--health-require-gpus",
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
        help: "Use a host engine: HOST:PORT, [V6]:PORT, unix:///PATH or auto",
        details: "Without it the exporter starts an engine in its own process. auto: the node's host engine \
                  while it answers, else an embedded engine. auto,ADDRESS if the host engine is not at its \
                  usual place.",
        example: "--remote-hostengine-info auto",
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
        help: "The libdcgm to load",
        details: "Without it: the system's libdcgm.so.4, else libdcgm.so.3. One that other users \
                  could replace is loaded with a warning: a file or a directory on its path that they can write.",
        example: "--libdcgm /opt/dcgm/lib/libdcgm.so.4",
        apply: path!(libdcgm),
        ..FLAG
    },
    Flag {
        long: "enable-gpu-bind-unbind-watch",
        variable: "DCGM_EXPORTER_ENABLE_GPU_BIND_UNBIND_WATCH",
        help: "Look more often for GPUs that were bound to the driver or unbound from it",
        details: "Once per --gpu-bind-unbind-poll-interval. Without it: at every thirtieth collection, and at least \
                  every 30 s.",
        example: "--enable-gpu-bind-unbind-watch",
        apply: switch!(bind_unbind_watch),
        ..FLAG
    },
    Flag {
        long: "gpu-bind-unbind-poll-interval",
        variable: "DCGM_EXPORTER_GPU_BIND_UNBIND_POLL_INTERVAL",
        kind: Kind::Value("TIME"),
        default: "1s",
        help: "Time between two looks of --enable-gpu-bind-unbind-watch",
        details: "At least 100ms. Has no effect without --enable-gpu-bind-unbind-watch.",
        example: "--enable-gpu-bind-unbind-watch --gpu-bind-unbind-poll-interval 5s",
        apply: |config, value| {
            config.bind_unbind_interval = values::between(value, SHORTEST_INTERVAL, LONGEST_INTERVAL)?;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "keep-reading-after-xid119",
        variable: "DCGM_EXPORTER_KEEP_READING_AFTER_XID119",
        help: "Read the other GPUs after XID 119; a call may then hang for ever",
        details: "After XID 119 (a GPU's firmware, the GSP, does not answer) DCGM gives no value of any GPU \
                  until that GPU is reset and the engine restarted. This flag sets __DCGM_FATAL_XIDS__=-119 for \
                  an embedded engine, so that it continues to read. Risk: a call into the GPU whose firmware \
                  hangs may never return, and then there are no metrics at all.",
        example: "--keep-reading-after-xid119",
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
        help: "Write the log of an embedded engine to standard output",
        example: "--enable-dcgm-log --dcgm-log-level ERROR",
        apply: switch!(dcgm_log),
        ..FLAG
    },
    Flag {
        long: "dcgm-log-level",
        variable: "DCGM_EXPORTER_DCGM_LOG_LEVEL",
        kind: Kind::Value("LEVEL"),
        default: "NONE",
        help: "Level of DCGM's log: NONE, FATAL, ERROR, WARN, INFO, DEBUG or VERB",
        details: "Has no effect without --enable-dcgm-log.",
        example: "--enable-dcgm-log --dcgm-log-level ERROR",
        choices: &DCGM_LOG_LEVELS,
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
        help: "For tests: report a GPU whose attributes cannot be read",
        details: "Its UUID is fake<N>.",
        example: "--fake-gpus",
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
        help: "Job map: a directory with one file per GPU, one job id per line",
        details: "A file's name is the GPU's index, <gpu>.<instance>, UUID, PCI bus id or minor<N>. Samples get \
                  the label hpc_job. Only root, or the exporter's user, may be able to write there. The prolog \
                  and epilog in share/dcgm-exporter/slurm write it.",
        example: "--hpc-job-mapping-dir /run/dcgm-job-map",
        apply: path!(job_map),
        ..FLAG
    },
    Flag {
        long: "job-map-insecure",
        variable: "DCGM_JOB_MAP_INSECURE",
        help: "For test beds: use a job map directory that others can write",
        details: "The directory may then also be a link or belong to another user. Whoever can write there decides \
                  what is published. The prolog and the epilog read the variable, too.",
        example: "--hpc-job-mapping-dir /tmp/jobs --job-map-insecure",
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
        long: "job-map-idle",
        variable: "DCGM_EXPORTER_JOB_MAP_IDLE",
        kind: Kind::Value("TEXT"),
        default: "",
        help: "What the job map has for a GPU without a job, such as 0",
        details: "For sites whose scripts keep a file for every GPU and write this into it when the job is over. Without it, an \
                  idle GPU has no file or an empty one, and every line is a job.",
        example: "--hpc-job-mapping-dir /run/dcgm-job-map --job-map-idle 0",
        apply: |config, value| {
            config.job_map_idle = value.to_owned();
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "job-labels",
        variable: "DCGM_EXPORTER_JOB_LABELS",
        kind: Kind::Value("WHERE"),
        default: "on-samples",
        help: "Where jobs are shown: on-samples or info-only",
        details: "on-samples: as the label hpc_job, besides the metrics of jobs. info-only: in \
                  dcgm_exporter_gpu_job and dcgm_exporter_job_info alone, so that other series stay the same \
                  when a job starts or ends.",
        example: "--hpc-job-mapping-dir /run/dcgm-job-map --job-labels info-only",
        choices: &["on-samples", "info-only"],
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
        help: "Count what each job of the job map uses of its GPUs",
        details: "The metrics are dcgm_exporter_job_gpu_seconds_total and others, and dcgm_exporter_gpu_idle_seconds. \
                  --job-accounting=false switches it off.",
        example: "--job-accounting=false",
        apply: switch!(job_accounting),
        ..FLAG
    },
    Flag {
        long: "job-series-keep",
        variable: "DCGM_EXPORTER_JOB_SERIES_KEEP",
        kind: Kind::Value("TIME"),
        default: "5m",
        help: "How long series of jobs that are over stay on the page, 0 to 1h",
        details: "Long enough to be scraped once more. Only what is not 0 stays. A job that runs has a series of 0 for \
                  everything that may be counted, so that increase() sees the first event.",
        example: "--job-series-keep 1m",
        apply: |config, value| {
            config.job_series_keep = values::between(value, Duration::ZERO, Duration::from_secs(3600))?;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "job-series-limit",
        variable: "DCGM_EXPORTER_JOB_SERIES_LIMIT",
        kind: Kind::Value("COUNT"),
        default: "2000",
        help: "Series of jobs in all metrics that count by job together, 100 to 20000",
        details: "When it is reached, series of jobs that are over go first, those that ended first before others, then \
                  zeroes. The log says so once, and dcgm_exporter_series_left_out_total counts them.",
        example: "--job-series-limit 5000",
        apply: |config, value| {
            let count = value.parse().ok().filter(|count| (100..=20_000).contains(count));
            config.job_series_limit = count.ok_or_else(|| "expected a number from 100 to 20000".to_owned())?;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "job-summary-dir",
        variable: "DCGM_EXPORTER_JOB_SUMMARY_DIR",
        kind: Kind::Value("DIR"),
        default: "",
        help: "Directory for one JSON file per job, with what it used of its GPUs",
        details: "A job's file is written at every collection while the job runs, and at its end. After a restart \
                  the exporter continues the files. Root and the job's user can read them. Needs --hpc-job-mapping-dir.",
        example: "--hpc-job-mapping-dir /run/dcgm-job-map --job-summary-dir /var/lib/dcgm-exporter/jobs",
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
        help: "Days after which a job's file in --job-summary-dir is removed; 0 is never",
        example: "--hpc-job-mapping-dir /run/dcgm-job-map --job-summary-dir /var/lib/dcgm-exporter/jobs --job-summary-days 30",
        apply: |config, value| {
            config.job_summary_days = value.parse().map_err(|_| "expected a number of days, such as 7".to_owned())?;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "job-summary",
        kind: Kind::Value("ID"),
        default: "",
        help: "Print what this job used of its GPUs and exit",
        details: "Reads the job's file in --job-summary-dir, or where the service keeps it. Exit status: 0, or 1 if there is no such file.",
        example: "--job-summary 17 --job-summary-dir /var/lib/dcgm-exporter/jobs",
        apply: |config, value| {
            config.job_summary = (!value.is_empty()).then(|| value.to_owned());
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "job-summary-short",
        help: "Print the summary of --job-summary in one line, for a job's comment",
        example: "--job-summary 17 --job-summary-short --job-summary-dir /var/lib/dcgm-exporter/jobs",
        apply: switch!(job_summary_short),
        ..FLAG
    },
    Flag {
        long: "container-labels",
        variable: "DCGM_EXPORTER_CONTAINER_LABELS",
        help: "Add the label container, from Docker or Podman",
        details: "A GPU or instance that several containers have is shown once per container. Needs \
                  --container-runtime-socket.",
        example: "--container-labels --container-runtime-socket /run/docker.sock",
        apply: switch!(container_labels),
        check: |config| match (config.container_labels, &config.container_runtime) {
            (true, None) => Err(Refusal::Flag(
                "needs --container-runtime-socket, such as --container-runtime-socket /run/docker.sock".to_owned(),
            )),
            _ => Ok(()),
        },
        ..FLAG
    },
    Flag {
        long: "container-runtime-socket",
        variable: "DCGM_CONTAINER_RUNTIME_SOCKET",
        kind: Kind::Value("PATH"),
        default: "",
        help: "Socket of Docker or Podman for --container-labels",
        details: "Usually /run/docker.sock or /run/podman/podman.sock.",
        example: "--container-labels --container-runtime-socket /run/podman/podman.sock",
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
        help: "Check everything that metrics depend on, print how to fix it, and exit",
        details: "Checks library, driver, permissions, GPUs, counters, port, job map and unit, with the settings of \
                  the installed unit. Exit status: 0 ok, 1 warnings, 2 failures. --check=json prints JSON. \
                  Changes nothing, so it may run beside a serving exporter.",
        example: "--check",
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
        long: "root",
        kind: Kind::Value("DIR"),
        default: "/",
        help: "With --check, check the image in this directory, as on a head node",
        details: "Paths, links and settings are those of the image, nothing in it is run, and what needs libdcgm or the node \
                  itself is left out.",
        apply: |config, value| {
            config.root = values::absolute(value)?;
            Ok(())
        },
        check: |config| {
            let is_usual = config.root == Path::new("/");
            match (is_usual || config.check.is_some(), config.root.is_dir()) {
                (false, _) => Err(Refusal::Flag("is for --check only".to_owned())),
                (true, false) => Err(Refusal::Value("no such directory".to_owned())),
                (true, true) => Ok(()),
            }
        },
        ..FLAG
    },
    Flag {
        long: "check-counters",
        help: "Check the counters file and exit",
        details: "Prints what is wrong or unusual about each row. Exit status: 0, or 1 if a row cannot be used.",
        example: "--check-counters --collectors mine.csv",
        apply: switch!(check_counters),
        ..FLAG
    },
    Flag {
        long: "once",
        help: "Collect once, print the page of /metrics and exit",
        details: "For textfile collectors and reports. Exit status: 0, or 1 if there is no page within 30s or \
                  the time given, as in --once=5s. A profiling field takes a second longer. No port is opened. \
                  Put one such file per node into the directory of a textfile collector: it refuses a sample that \
                  comes twice and a name with two help texts, and the exporter's own metrics are in each.",
        example: "--once",
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
        kind: Kind::Optional("PATTERN"),
        default: "false",
        help: "Print the names that a counters file may have, and exit",
        details: "Each with its id, type, unit and entity, and whether this libdcgm and these GPUs have it. PATTERN \
                  is a part of the name, or the name with * and ?. Exit status: 0, or 1 if no name matches.",
        example: "--list-fields 'DCGM_FI_DEV_*TEMP*'",
        apply: |config, value| {
            config.list_fields = match values::boolean(value) {
                Ok(wanted) => wanted.then(String::new),
                Err(_) => Some(value.to_owned()),
            };
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "debug",
        variable: "DCGM_EXPORTER_DEBUG",
        help: "Log at level debug",
        example: "--debug",
        apply: switch!(debug),
        ..FLAG
    },
    Flag {
        long: "log-format",
        variable: "DCGM_EXPORTER_LOG_FORMAT",
        kind: Kind::Value("FORMAT"),
        default: "text",
        help: "Format of log lines: text or json",
        example: "--log-format json",
        choices: &["text", "json"],
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
