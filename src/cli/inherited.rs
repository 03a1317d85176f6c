//! Flags of dcgm-exporter that have no effect here: accepted, so that its command lines work, or refused, because they
//! are for Kubernetes.

use super::flag::{Effect, FLAG, Flag, Kind, Refusal};
use super::values;
use crate::config::Config;

const KUBERNETES: Flag = Flag { effect: Effect::Kubernetes, apply: kubernetes_switch, ..FLAG };

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
