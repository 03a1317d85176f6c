//! What to do about a problem, in the words of `--check` and of the alerts in `dist/prometheus`.

pub const LOST: &str = "see dmesg | grep -i xid; it may need a reset or a reboot";
const RESET: &str = "drain the node, then: systemctl kill --signal=SIGUSR1 dcgm-exporter; nvidia-smi --gpu-reset -i \
                     <pci_bus_id>; systemctl kill --signal=SIGUSR2 dcgm-exporter";
const REBOOT: &str = "drain and reboot the node; if the error comes back, reseat or replace the GPU";
const REPLACE: &str = "drain the node and open a case with the vendor, with nvidia-bug-report.sh";
pub const HOT: &str = "look at fans, air flow or coolant; see nvidia-smi -q -d TEMPERATURE,PERFORMANCE";
pub const POWER_BRAKE: &str = "look at the power supplies and power cables of the node";
pub const ROW_REMAP_FAILED: &str = REPLACE;
pub const ROW_REMAP_PENDING: &str = RESET;
pub const LINK_DOWN: &str = "drain the node; see nvidia-smi nvlink -s; a link that is down stays down until a reset";
pub const ANY: &str = "run dcgm-exporter --check on this node; see also journalctl -u dcgm-exporter";
pub const JOB_MAP: &str = "if gres.conf lists GPUs in another order than nvidia-smi, set DCGM_JOB_MAP_GRES in \
                            /etc/dcgm-exporter/environment";

/// What NVIDIA's catalogue advises at once for a code; `None` for codes that only inform.
pub fn of_xid(code: i64) -> Option<&'static str> {
    match code {
        0 | 63 | 92 | 93 | 106 | 107 | 154 | 160..=164 => None,
        46 | 48 | 62 | 74 | 95 | 109 | 110 | 119 | 120 | 136 | 140 | 143..=150 | 155 | 156 | 158 | 169 | 171 | 172 => {
            Some(RESET)
        }
        79 | 151 | 167 => Some(REBOOT),
        54 => Some("look at the power cables; then open a case with the vendor, with nvidia-bug-report.sh"),
        64 | 157 | 165 | 168 => Some(REPLACE),
        8
        | 13
        | 31
        | 32
        | 39
        | 40..=43
        | 45
        | 60
        | 68..=72
        | 75..=77
        | 80
        | 82..=86
        | 88
        | 89
        | 94
        | 96..=105
        | 126..=135
        | 139 => Some(
            "most often the program is the cause: start the job again; look at the GPU if other jobs get the code, too",
        ),
        _ => Some("see dmesg | grep -i -e nvrm -e xid, and NVIDIA's catalogue of XIDs for this code"),
    }
}

/// What the driver advises, by its recovery action: a sentence about the GPU, and what to do.
pub fn of_recovery(action: i64) -> Option<(&'static str, &'static str)> {
    match action {
        0 => None,
        2 => Some(("the driver advises a reboot of the node", REBOOT)),
        _ => Some(("the driver advises a reset", RESET)),
    }
}
