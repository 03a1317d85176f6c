//! Flags of dcgm-exporter that have no effect here: accepted, so that its command lines work, or refused, because what
//! they ask for is not here and somebody would miss it.

use std::time::Duration;

use super::flag::{Effect, FLAG, Flag, Kind, Refusal};
use super::values;
use crate::config::duration::parse_go;
use crate::config::{Config, Retention};

const KUBERNETES: Flag = Flag { effect: Effect::Kubernetes, apply: kubernetes_switch, ..FLAG };

/// Longest time and most samples that DCGM can be told to keep.
const MOST_KEPT: u64 = i32::MAX as u64;

const NO_RETENTION: &str = "every collection takes the newest sample, and DCGM keeps as many as the counts of XIDs and \
                            clock events need";

const NO_DUMP: Flag = Flag {
    help: "Accepted; nothing is dumped",
    effect: Effect::None("the exporter writes no files; /metrics has everything it reads"),
    ..FLAG
};

pub static FLAGS: &[Flag] = &[
    Flag {
        long: "disable-startup-validate",
        variable: "DISABLE_STARTUP_VALIDATE",
        help: "Accepted; the exporter starts without a driver, an engine or GPUs in any case",
        effect: Effect::None("the exporter leaves out what it cannot read and logs it, with or without this flag"),
        ..FLAG
    },
    Flag { long: "dump-enabled", variable: "DCGM_EXPORTER_DUMP_ENABLED", ..NO_DUMP },
    Flag {
        long: "dump-directory",
        variable: "DCGM_EXPORTER_DUMP_DIRECTORY",
        kind: Kind::Value("DIR"),
        default: "/tmp/dcgm-exporter-debug",
        apply: |_, _| Ok(()),
        ..NO_DUMP
    },
    Flag {
        long: "dump-retention",
        variable: "DCGM_EXPORTER_DUMP_RETENTION",
        kind: Kind::Value("HOURS"),
        default: "24",
        apply: |_, value| match value.parse::<i64>() {
            Ok(_) => Ok(()),
            Err(_) => Err(Refusal::Value("expected a number of hours".to_owned())),
        },
        ..NO_DUMP
    },
    Flag { long: "dump-compression", variable: "DCGM_EXPORTER_DUMP_COMPRESSION", default: "true", ..NO_DUMP },
    Flag {
        long: "enable-pprof",
        variable: "DCGM_EXPORTER_ENABLE_PPROF",
        help: "Accepted; there are no Go profiles",
        effect: Effect::None("the exporter is not a Go program and has no Go profiles"),
        ..FLAG
    },
    Flag {
        long: "watch-max-keep-age",
        variable: "DCGM_EXPORTER_WATCH_MAX_KEEP_AGE",
        kind: Kind::Value("TIME"),
        default: "10m0s",
        help: "Accepted; DCGM keeps what the exporter needs",
        effect: Effect::None(NO_RETENTION),
        apply: |config, value| {
            let age = parse_go(value).ok_or("expected a time with its unit, such as 10m or 0s".to_owned())?;
            if age.as_secs() > MOST_KEPT {
                return Err(Refusal::Value(format!("expected at most {MOST_KEPT}s")));
            }
            config.retention.age = age;
            Ok(())
        },
        check: |config| match config.retention {
            Retention { age: Duration::ZERO, samples: 0 } => Err(Refusal::Value(
                "--watch-max-keep-age and --watch-max-keep-samples cannot both be 0; expected one of them above 0"
                    .to_owned(),
            )),
            _ => Ok(()),
        },
        ..FLAG
    },
    Flag {
        long: "watch-max-keep-samples",
        variable: "DCGM_EXPORTER_WATCH_MAX_KEEP_SAMPLES",
        kind: Kind::Value("NUMBER"),
        default: "0",
        help: "Accepted; DCGM keeps what the exporter needs",
        effect: Effect::None(NO_RETENTION),
        apply: |config, value| {
            let samples = value.parse().ok().filter(|samples| *samples <= MOST_KEPT);
            config.retention.samples = samples.ok_or_else(|| format!("expected a number from 0 to {MOST_KEPT}"))?;
            Ok(())
        },
        ..FLAG
    },
    Flag {
        long: "max-concurrent-scrapes",
        variable: "DCGM_EXPORTER_MAX_CONCURRENT_SCRAPES",
        kind: Kind::Value("NUMBER"),
        default: "16",
        help: "Accepted; scrapes need no such limit",
        effect: Effect::None(
            "a scrape sends the page that is there and starts no work; at most 256 connections are open at a time",
        ),
        apply: |_, value| match value.parse::<i64>() {
            Ok(1..) => Ok(()),
            _ => Err(Refusal::Value("expected a number above 0".to_owned())),
        },
        ..FLAG
    },
    Flag {
        long: "enable-exporter-metrics",
        variable: "DCGM_EXPORTER_ENABLE_EXPORTER_METRICS",
        default: "true",
        help: "Accepted; they are on in any case",
        effect: Effect::None(
            "the exporter's own metrics (dcgm_exporter_*, process_*) are on, and --disable-exporter-metrics leaves them \
             out; there are no go_* and promhttp_*",
        ),
        ..FLAG
    },
    Flag { long: "kubernetes", short: Some("k"), variable: "DCGM_EXPORTER_KUBERNETES", ..KUBERNETES },
    Flag {
        long: "configmap-data",
        short: Some("m"),
        variable: "DCGM_EXPORTER_CONFIGMAP_DATA",
        kind: Kind::Value("NAMESPACE:NAME"),
        default: "none",
        apply: |_, value| kubernetes_default(value, "none"),
        ..KUBERNETES
    },
    Flag { long: "kubernetes-enable-pod-labels", variable: "DCGM_EXPORTER_KUBERNETES_ENABLE_POD_LABELS", ..KUBERNETES },
    Flag { long: "kubernetes-enable-pod-uid", variable: "DCGM_EXPORTER_KUBERNETES_ENABLE_POD_UID", ..KUBERNETES },
    Flag {
        long: "kubernetes-gpu-id-type",
        variable: "DCGM_EXPORTER_KUBERNETES_GPU_ID_TYPE",
        kind: Kind::Value("TYPE"),
        default: "uid",
        apply: |_, value| kubernetes_default(value, "uid"),
        ..KUBERNETES
    },
    Flag {
        long: "kubernetes-pod-label-allowlist-regex",
        variable: "DCGM_EXPORTER_KUBERNETES_POD_LABEL_ALLOWLIST_REGEX",
        kind: Kind::Value("REGEX"),
        default: "",
        apply: |_, value| kubernetes_default(value, ""),
        ..KUBERNETES
    },
    Flag {
        long: "pod-resources-kubelet-socket",
        variable: "DCGM_POD_RESOURCES_KUBELET_SOCKET",
        kind: Kind::Value("PATH"),
        default: KUBELET_SOCKET,
        apply: |_, value| kubernetes_default(value, KUBELET_SOCKET),
        ..KUBERNETES
    },
    Flag {
        long: "nvidia-resource-names",
        variable: "NVIDIA_RESOURCE_NAMES",
        kind: Kind::Value("NAMES"),
        default: "",
        apply: |_, value| kubernetes_default(value, ""),
        ..KUBERNETES
    },
    Flag { long: "kubernetes-virtual-gpus", variable: "KUBERNETES_VIRTUAL_GPUS", ..KUBERNETES },
    Flag { long: "kubernetes-enable-dra", variable: "KUBERNETES_ENABLE_DRA", ..KUBERNETES },
];

const KUBELET_SOCKET: &str = "/var/lib/kubelet/pod-resources/kubelet.sock";

fn kubernetes_switch(_: &mut Config, value: &str) -> Result<(), Refusal> {
    if values::boolean(value)? { Err(refuse_kubernetes()) } else { Ok(()) }
}

/// Refuses any value but the default.
fn kubernetes_default(value: &str, default: &str) -> Result<(), Refusal> {
    if value == default { Ok(()) } else { Err(refuse_kubernetes()) }
}

fn refuse_kubernetes() -> Refusal {
    Refusal::Flag(
        "is for Kubernetes; this exporter is for bare metal and has no pod mapping: leave the flag out".to_owned(),
    )
}
