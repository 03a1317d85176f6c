//! The table of flags. Parsing, `--help` and the checks of the documentation all come from it.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use super::{devices, values};
use crate::config::engine::{Address, EngineSelection, usual_places};
use crate::config::listen::ListenAddress;
use crate::config::{CheckFormat, Config, JobLabels, LogFormat, duration};

/// One flag.
pub struct Flag {
    pub long: &'static str,
    pub short: Option<&'static str>,
    /// Environment variable, looked at when the flag is not typed.
    pub variable: &'static str,
    pub kind: Kind,
    pub default: &'static str,
    /// One or two sentences for `--help`.
    pub help: &'static str,
    pub effect: Effect,
    /// Lets a value take effect.
    pub apply: fn(&mut Config, &str) -> Result<(), Refusal>,
}

pub enum Kind {
    /// `--flag` or `--flag=false`.
    Switch,
    /// Needs a value; the text names it in the help.
    Value(&'static str),
    /// The same, and may be given more than once: its values reach `apply` as one text, with commas between them.
    List(&'static str),
}

pub enum Effect {
    Yes,
    /// Accepted so that a command line for dcgm-exporter works; the reason why there is nothing to do.
    None(&'static str),
    /// For Kubernetes: refused when it differs from its default.
    Kubernetes,
}

/// Why a value was not taken.
#[derive(Debug)]
pub enum Refusal {
    /// The value is wrong; this would be right.
    Value(String),
    /// The flag itself cannot be used.
    Flag(String),
}

impl From<String> for Refusal {
    fn from(right: String) -> Refusal {
        Refusal::Value(right)
    }
}

impl Flag {
    pub fn is_called(&self, name: &str) -> bool {
        self.long == name || self.short == Some(name)
    }
}

const FLAG: Flag = Flag {
    long: "",
    short: None,
    variable: "",
    kind: Kind::Switch,
    default: "false",
    help: "",
    effect: Effect::Yes,
    apply: |_, value| values::boolean(value).map(drop).map_err(Refusal::Value),
};

const KUBERNETES: Flag = Flag { effect: Effect::Kubernetes, apply: kubernetes_switch, ..FLAG };

fn kubernetes_switch(_: &mut Config, value: &str) -> Result<(), Refusal> {
    if values::boolean(value)? { Err(refuse_kubernetes()) } else { Ok(()) }
}

fn refuse_kubernetes() -> Refusal {
    Refusal::Flag(
        "is for Kubernetes; this exporter is for bare metal and has no pod mapping: leave the flag out".to_owned(),
    )
}

macro_rules! switch {
    ($field:ident) => {
        |config, value| {
            config.$field = values::boolean(value)?;
            Ok(())
        }
    };
}

/// Refuses any value but the default.
macro_rules! kubernetes_default {
    ($default:literal) => {
        |_, value| if value == $default { Ok(()) } else { Err(refuse_kubernetes()) }
    };
}

/// DCGM needs this long between two samples of a profiling field on Hopper; below it they come out as 0.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
const LONGEST_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

const DCGM_LOG_LEVELS: [&str; 7] = ["NONE", "FATAL", "ERROR", "WARN", "INFO", "DEBUG", "VERB"];

pub static FLAGS: &[Flag] = &[
    Flag {
        long: "collectors",
        short: Some("f"),
        variable: "DCGM_EXPORTER_COLLECTORS",
        kind: Kind::Value("FILE"),
        default: "/etc/dcgm-exporter/default-counters.csv",
        help: "Counters file: which DCGM fields to export, one 'name, type, help' a line",
        apply: |config, value| {
            config.collectors = absolute(value)?;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "address",
        short: Some("a"),
        variable: "DCGM_EXPORTER_LISTEN",
        kind: Kind::List("ADDRESS"),
        default: ":9400",
        help: "Address to serve on: [HOST]:PORT, [V6]:PORT or unix:///PATH (mode 0660; ?mode= and ?group= set others). May \
               be given more than once; a variable takes a list with commas",
        apply: |config, value| {
            let addresses = value.split(',').map(|address| ListenAddress::parse(address.trim()));
            config.listen = addresses.collect::<Result<_, String>>()?;
            Ok(())
        },
        ..FLAG
    },
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
        long: "stale-after",
        variable: "DCGM_EXPORTER_STALE_AFTER",
        kind: Kind::Value("TIME"),
        default: "",
        help: "Age of the samples at which /metrics answers 503, so that 'up' turns 0; by default three intervals, and at \
               least 15s",
        apply: |config, value| {
            config.stale_after = if value.is_empty() { None } else { Some(values::duration(value)?) };
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "remote-hostengine-info",
        short: Some("r"),
        variable: "DCGM_REMOTE_HOSTENGINE_INFO",
        kind: Kind::Value("ADDRESS"),
        default: "",
        help: "Use a running host engine instead of an embedded one: HOST:PORT, [V6]:PORT or unix:///PATH; or auto: the \
               node's own while it answers, else an embedded one (auto,ADDRESS where it is not at its usual place)",
        apply: |config, value| {
            config.engine = engine_choice(value)?;
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
        apply: |config, value| {
            config.libdcgm = if value.is_empty() { None } else { Some(absolute(value)?) };
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "devices",
        short: Some("d"),
        variable: "DCGM_EXPORTER_DEVICES_STR",
        kind: Kind::Value("DEVICES"),
        default: "f",
        help: "GPUs to report: f (by MIG instance where there are any), g (GPUs), i (instances), each of the last two \
               with an optional list, combined by a plus: g:0,2-4+i:7",
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
        help: "NVSwitches (g) and their links (i) to report, written as --devices",
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
        help: "CPUs (g) and their cores (i) to report, written as --devices",
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
        help: "Leave the hostname label out",
        apply: switch!(no_hostname),
        ..FLAG
    },
    Flag {
        long: "hostname-label",
        variable: "DCGM_EXPORTER_HOSTNAME_LABEL",
        kind: Kind::Value("NAME"),
        default: "hostname",
        help: "Name of the hostname label: hostname, or Hostname as dcgm-exporter had it up to 4.8.2",
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
        help: "Value of the hostname label, instead of the node's name or, with a host engine over TCP, the host of its \
               address",
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
        help: "Write dashes for the blanks in modelName of GPU samples",
        apply: switch!(replace_blanks_in_model_name),
        ..FLAG
    },
    Flag {
        long: "hpc-job-mapping-dir",
        variable: "DCGM_HPC_JOB_MAPPING_DIR",
        kind: Kind::Value("DIR"),
        default: "",
        help: "Directory of job map files: one a GPU, named by its index, <gpu>.<instance>, UUID, PCI bus id or minor<N>, \
               with a job id a line; samples get the label hpc_job",
        apply: |config, value| {
            config.job_map = if value.is_empty() { None } else { Some(absolute(value)?) };
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "job-labels",
        variable: "DCGM_EXPORTER_JOB_LABELS",
        kind: Kind::Value("WHERE"),
        default: "on-samples",
        help: "Where jobs are shown: on-samples (the label hpc_job), or info-only (only in dcgm_exporter_gpu_job and \
               dcgm_exporter_job_info, so that a job that comes or goes leaves all other series alone)",
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
        long: "xid-count-window-size",
        short: Some("x"),
        variable: "DCGM_EXPORTER_XID_COUNT_WINDOW_SIZE",
        kind: Kind::Value("TIME"),
        default: "300000",
        help: "Window of DCGM_EXP_XID_ERRORS_COUNT",
        apply: |config, value| {
            config.xid_window = window(value)?;
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
            config.clock_events_window = window(value)?;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "disable-exporter-metrics",
        variable: "DCGM_EXPORTER_DISABLE_EXPORTER_METRICS",
        help: "Leave the exporter's own metrics (dcgm_exporter_*, process_*) out of the page",
        apply: |config, value| {
            config.exporter_metrics = !values::boolean(value)?;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "check-counters",
        variable: "DCGM_EXPORTER_CHECK_COUNTERS",
        help: "Read the counters file, print what is wrong or odd about it, and leave: with 1 if it cannot be used",
        apply: switch!(check_counters),
        ..FLAG
    },
    Flag {
        long: "check",
        variable: "DCGM_EXPORTER_CHECK",
        help: "Look at everything that metrics depend on, print what was found and how to mend it (--check=json for \
               machines), and leave: with 0 if all is well, 1 after a warning, 2 if something fails. Changes nothing",
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
    Flag { long: "debug", variable: "DCGM_EXPORTER_DEBUG", help: "Log at level debug", apply: switch!(debug), ..FLAG },
    Flag {
        long: "log-format",
        variable: "DCGM_EXPORTER_LOG_FORMAT",
        kind: Kind::Value("FORMAT"),
        default: "text",
        help: "Form of log lines: text or json",
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
        long: "web-systemd-socket",
        variable: "DCGM_EXPORTER_SYSTEMD_SOCKET",
        help: "Serve on the sockets that systemd passes; --address is not used then",
        apply: switch!(systemd_socket),
        ..FLAG
    },
    Flag {
        long: "web-config-file",
        variable: "DCGM_EXPORTER_WEB_CONFIG_FILE",
        kind: Kind::Value("FILE"),
        default: "",
        help: "TLS, passwords, headers and a rate limit for all addresses, in the format of Prometheus' exporter-toolkit; \
               read again when it or a certificate changes",
        apply: |config, value| {
            config.web_config = if value.is_empty() { None } else { Some(absolute(value)?) };
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "web-read-timeout",
        variable: "DCGM_EXPORTER_WEB_READ_TIMEOUT",
        kind: Kind::Value("TIME"),
        default: "10s",
        help: "How long a client may take to send a request",
        apply: |config, value| {
            config.timeouts.read = web_timeout(value)?;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "web-write-timeout",
        variable: "DCGM_EXPORTER_WEB_WRITE_TIMEOUT",
        kind: Kind::Value("TIME"),
        default: "30s",
        help: "How long a client may take to read an answer",
        apply: |config, value| {
            config.timeouts.write = web_timeout(value)?;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "fake-gpus",
        variable: "DCGM_EXPORTER_USE_FAKE_GPUS",
        help: "For tests: a GPU whose attributes cannot be read is reported with UUID fake<N>",
        apply: switch!(fake_gpus),
        ..FLAG
    },
    Flag {
        long: "disable-startup-validate",
        variable: "DISABLE_STARTUP_VALIDATE",
        help: "Accepted; nothing that can be missing stops the start here",
        effect: Effect::None("what cannot be read is left out and said, with or without it"),
        ..FLAG
    },
    Flag {
        long: "enable-gpu-bind-unbind-watch",
        variable: "DCGM_EXPORTER_ENABLE_GPU_BIND_UNBIND_WATCH",
        help: "Accepted; entities that come and go are always looked for",
        effect: Effect::None("the exporter looks for GPUs that come and go in any case"),
        ..FLAG
    },
    Flag {
        long: "gpu-bind-unbind-poll-interval",
        variable: "DCGM_EXPORTER_GPU_BIND_UNBIND_POLL_INTERVAL",
        kind: Kind::Value("TIME"),
        default: "1s",
        help: "Accepted; see --enable-gpu-bind-unbind-watch",
        effect: Effect::None("the exporter looks for GPUs that come and go in its own time"),
        apply: |_, value| values::duration(value).map(drop).map_err(Refusal::Value),
        ..FLAG
    },
    Flag {
        long: "dump-enabled",
        variable: "DCGM_EXPORTER_DUMP_ENABLED",
        help: "Accepted; nothing is dumped",
        effect: Effect::None("the page holds all that was read, and --debug logs the rest"),
        ..FLAG
    },
    Flag {
        long: "dump-directory",
        variable: "DCGM_EXPORTER_DUMP_DIRECTORY",
        kind: Kind::Value("DIR"),
        default: "/tmp/dcgm-exporter-debug",
        help: "Accepted; nothing is dumped",
        effect: Effect::None("nothing is dumped"),
        apply: |_, _| Ok(()),
        ..FLAG
    },
    Flag {
        long: "dump-retention",
        variable: "DCGM_EXPORTER_DUMP_RETENTION",
        kind: Kind::Value("HOURS"),
        default: "24",
        help: "Accepted; nothing is dumped",
        effect: Effect::None("nothing is dumped"),
        apply: |_, value| match value.parse::<i64>() {
            Ok(_) => Ok(()),
            Err(_) => Err(Refusal::Value("expected a number of hours".to_owned())),
        },
        ..FLAG
    },
    Flag {
        long: "dump-compression",
        variable: "DCGM_EXPORTER_DUMP_COMPRESSION",
        default: "true",
        help: "Accepted; nothing is dumped",
        effect: Effect::None("nothing is dumped"),
        ..FLAG
    },
    Flag {
        long: "enable-pprof",
        variable: "DCGM_EXPORTER_ENABLE_PPROF",
        help: "Accepted; there are no Go profiles",
        effect: Effect::None("profiles of the Go runtime do not exist here"),
        ..FLAG
    },
    Flag { long: "kubernetes", short: Some("k"), variable: "DCGM_EXPORTER_KUBERNETES", ..KUBERNETES },
    Flag {
        long: "configmap-data",
        short: Some("m"),
        variable: "DCGM_EXPORTER_CONFIGMAP_DATA",
        kind: Kind::Value("NAMESPACE:NAME"),
        default: "none",
        apply: kubernetes_default!("none"),
        ..KUBERNETES
    },
    Flag { long: "kubernetes-enable-pod-labels", variable: "DCGM_EXPORTER_KUBERNETES_ENABLE_POD_LABELS", ..KUBERNETES },
    Flag { long: "kubernetes-enable-pod-uid", variable: "DCGM_EXPORTER_KUBERNETES_ENABLE_POD_UID", ..KUBERNETES },
    Flag {
        long: "kubernetes-gpu-id-type",
        variable: "DCGM_EXPORTER_KUBERNETES_GPU_ID_TYPE",
        kind: Kind::Value("TYPE"),
        default: "uid",
        apply: kubernetes_default!("uid"),
        ..KUBERNETES
    },
    Flag {
        long: "kubernetes-pod-label-allowlist-regex",
        variable: "DCGM_EXPORTER_KUBERNETES_POD_LABEL_ALLOWLIST_REGEX",
        kind: Kind::Value("REGEX"),
        default: "",
        apply: kubernetes_default!(""),
        ..KUBERNETES
    },
    Flag {
        long: "pod-resources-kubelet-socket",
        variable: "DCGM_POD_RESOURCES_KUBELET_SOCKET",
        kind: Kind::Value("PATH"),
        default: "/var/lib/kubelet/pod-resources/kubelet.sock",
        apply: kubernetes_default!("/var/lib/kubelet/pod-resources/kubelet.sock"),
        ..KUBERNETES
    },
    Flag {
        long: "nvidia-resource-names",
        variable: "NVIDIA_RESOURCE_NAMES",
        kind: Kind::Value("NAMES"),
        default: "",
        apply: kubernetes_default!(""),
        ..KUBERNETES
    },
    Flag { long: "kubernetes-virtual-gpus", variable: "KUBERNETES_VIRTUAL_GPUS", ..KUBERNETES },
    Flag { long: "kubernetes-enable-dra", variable: "KUBERNETES_ENABLE_DRA", ..KUBERNETES },
];

/// Relative paths are made absolute at once: an embedded engine may change the working directory.
fn absolute(path: &str) -> Result<PathBuf, Refusal> {
    std::path::absolute(path).map_err(|error| Refusal::Value(format!("expected a path ({error})")))
}

/// Go takes 0 for "no limit"; here a client's time always has one.
fn web_timeout(text: &str) -> Result<Duration, Refusal> {
    const LONGEST: Duration = Duration::from_secs(60 * 60);
    match duration::parse_go(text) {
        Some(Duration::ZERO) => Ok(LONGEST),
        Some(time) if time <= LONGEST => Ok(time),
        Some(_) => Err(Refusal::Value("expected at most 1h".to_owned())),
        None => Err(Refusal::Value("expected a time with its unit, such as 10s or 500ms".to_owned())),
    }
}

fn window(text: &str) -> Result<Duration, Refusal> {
    match values::duration(text)? {
        Duration::ZERO => {
            Err(Refusal::Value("a window of no time holds nothing; the default is 300000 (5m)".to_owned()))
        }
        window => Ok(window),
    }
}

fn engine_choice(text: &str) -> Result<EngineSelection, Refusal> {
    let text = text.trim();
    match text.strip_prefix("auto") {
        _ if text.is_empty() => Ok(EngineSelection::Embedded),
        Some("") => Ok(EngineSelection::Auto(usual_places())),
        Some(list) if list.starts_with(',') => {
            let places: Result<Vec<Address>, Refusal> = list[1..].split(',').map(remote_address).collect();
            Ok(EngineSelection::Auto(places?))
        }
        _ => Ok(EngineSelection::Remote(remote_address(text)?)),
    }
}

fn remote_address(text: &str) -> Result<Address, Refusal> {
    const FORMS: &str = "expected HOST:PORT, [V6]:PORT, unix:///PATH or auto, such as localhost:5555";
    let text = text.trim();
    if text.is_empty() {
        return Err(Refusal::Value(FORMS.to_owned()));
    }
    if let Some(path) = text.strip_prefix("unix://") {
        return match path.starts_with('/') {
            true => Ok(Address::Unix(path.to_owned())),
            false => Err(Refusal::Value(format!("a socket's path is absolute; {FORMS}"))),
        };
    }
    let text = text.strip_prefix("tcp://").unwrap_or(text);
    if text.contains("://") {
        return Err(Refusal::Value(FORMS.to_owned()));
    }
    // A bare IPv6 address means DCGM's own port; libdcgm would take its last group for one.
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if bare.parse::<std::net::Ipv6Addr>().is_ok() {
        return Ok(Address::Tcp(format!("[{bare}]:5555")));
    }
    match text.rsplit_once(':') {
        Some((_, "")) | None => {}
        Some((_, port)) => match port.parse::<u16>() {
            Ok(1..) => {}
            _ => return Err(Refusal::Value(format!("'{port}' is not a port (1 to 65535); {FORMS}"))),
        },
    }
    Ok(Address::Tcp(text.to_owned()))
}

/// The text of `--help`.
pub fn help() -> String {
    let mut text = String::from(
        "dcgm-exporter: NVIDIA datacenter GPUs as Prometheus metrics\n\nUsage: dcgm-exporter [FLAGS]\n\n\
         Flags (one or two dashes; a value follows or stands behind '='):\n",
    );
    let shown = |flag: &&Flag| matches!(flag.effect, Effect::Yes);
    for flag in FLAGS.iter().filter(shown) {
        describe(&mut text, flag);
    }
    text.push_str(
        "  --help, -h\n        Print this\n  --version, -v\n        Print the version\n  \
                   --generate man|bash\n        Print the man page, or completion for bash\n",
    );
    let names = |wanted: fn(&Effect) -> bool| {
        let names: Vec<String> =
            FLAGS.iter().filter(|flag| wanted(&flag.effect)).map(|flag| format!("--{}", flag.long)).collect();
        names.join(", ")
    };
    let _ = write!(
        text,
        "\nAccepted without effect, so that command lines for dcgm-exporter work:\n  {}\n\nRefused when switched on, because \
         they are for Kubernetes:\n  {}\n",
        names(|effect| matches!(effect, Effect::None(_))),
        names(|effect| matches!(effect, Effect::Kubernetes)),
    );
    text
}

fn describe(text: &mut String, flag: &Flag) {
    let _ = write!(text, "  --{}", flag.long);
    if let Some(short) = flag.short {
        let _ = write!(text, ", -{short}");
    }
    if let Kind::Value(what) | Kind::List(what) = flag.kind {
        let _ = write!(text, " {what}");
    }
    let _ = write!(text, "  [{}]", flag.variable);
    if !flag.default.is_empty() && flag.default != "false" {
        let _ = write!(text, " (default {})", flag.default);
    }
    let _ = writeln!(text, "\n        {}", flag.help);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole() {
        for (index, flag) in FLAGS.iter().enumerate() {
            assert!(!flag.long.is_empty() && !flag.variable.is_empty());
            assert!(!flag.help.is_empty() || matches!(flag.effect, Effect::Kubernetes), "--{} has no help", flag.long);
            let mut config = Config::default();
            (flag.apply)(&mut config, flag.default).unwrap_or_else(|_| panic!("--{} refuses its default", flag.long));
            for other in &FLAGS[index + 1..] {
                assert!(!other.is_called(flag.long) && other.variable != flag.variable, "--{}", flag.long);
                assert!(flag.short.is_none_or(|short| !other.is_called(short)), "--{}", other.long);
            }
        }
    }

    #[test]
    fn help_names_every_flag_and_variable() {
        let help = help();
        for flag in FLAGS {
            assert!(help.contains(&format!("--{}", flag.long)), "--{}", flag.long);
            if matches!(flag.effect, Effect::Yes) {
                assert!(help.contains(flag.variable), "{}", flag.variable);
            }
        }
    }

    #[test]
    fn remote_addresses() {
        let tcp = |text: &str| Address::Tcp(text.to_owned());
        for (text, address) in [
            ("host", tcp("host")),
            ("host:5555 ", tcp("host:5555")),
            ("tcp://host:1", tcp("host:1")),
            ("[::1]:5555", tcp("[::1]:5555")),
            ("[::1]", tcp("[::1]:5555")),
            ("2001:db8::1", tcp("[2001:db8::1]:5555")),
        ] {
            assert_eq!(remote_address(text).unwrap(), address, "{text}");
        }
        for text in ["", "host:x", "host:0", "host:70000", "unix://run/x", "vsock://3:5555"] {
            assert!(remote_address(text).is_err(), "{text}");
        }
    }
}
