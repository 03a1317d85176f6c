//! What `--check` asks of the node: driver, permissions, and other exporters.

use std::fs;
use std::path::Path;

use super::Host;
use super::answers::Answers;
use crate::config::Config;
use crate::config::engine::EngineSelection;
use crate::counters::{Counters, Source, is_profiling};

/// Capability 21 lets a process read profiling fields.
const CAP_SYS_ADMIN: u32 = 21;

/// Whether the engine, and with it the driver, is somewhere else.
pub(super) fn is_elsewhere(config: &Config) -> bool {
    matches!(config.engine, EngineSelection::Remote(_))
}

/// Whether the kernel has NVIDIA's driver. Returns how many GPUs it has for use, where that can be told.
pub fn driver(host: &Host, config: &Config, answers: &mut Answers) -> Option<usize> {
    const QUESTION: &str = "driver";
    let directory = host.root.join("proc/driver/nvidia");
    let version = fs::read_to_string(directory.join("version")).ok().and_then(|text| driver_version(&text));
    let Some(version) = version else {
        let found = "no NVIDIA driver is loaded (/proc/driver/nvidia/version does not exist)";
        match is_elsewhere(config) {
            true => {
                answers.ok(
                    QUESTION,
                    format!(
                        "{found}; none is needed here, because a host engine is used, which may be on another node"
                    ),
                );
            }
            false => {
                answers.fail(
                    QUESTION,
                    found,
                    "install the driver, or load it with modprobe nvidia; nvidia-smi then shows the GPUs",
                );
            }
        }
        return None;
    };
    let information = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("information")).unwrap_or_default();
    let gpus: Vec<String> =
        fs::read_dir(directory.join("gpus")).into_iter().flatten().flatten().map(information).collect();
    let excluded = gpus.iter().filter(|text| text.lines().any(is_excluded)).count();
    match (gpus.len(), excluded) {
        (0, _) => answers.fail(
            QUESTION,
            format!("{version}, but it has no GPU"),
            "see the kernel log for the reason: dmesg | grep -i nvrm",
        ),
        (all, 0) => answers.ok(QUESTION, format!("{version}; GPUs: {all}")),
        (all, excluded) => answers.warn(
            QUESTION,
            format!("{version}; GPUs: {all}, of which {excluded} are excluded"),
            "the driver's option NVreg_ExcludedGpus excludes them; DCGM does not see them",
        ),
    }
    Some(gpus.len() - excluded)
}

/// `NVRM version: NVIDIA UNIX ... 580.65.06 ...`: the first word that is digits and dots.
fn driver_version(text: &str) -> Option<String> {
    let is_version = |word: &&str| {
        word.contains('.') && word.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
    };
    text.lines().next()?.split_whitespace().find(is_version).map(str::to_owned)
}

fn is_excluded(line: &str) -> bool {
    line.split_once(':').is_some_and(|(key, value)| key == "GPU Excluded" && value.trim() == "Yes")
}

/// Whether this user may use the GPUs, and read profiling fields.
pub fn permissions(host: &Host, config: &Config, counters: &Counters, answers: &mut Answers) {
    const QUESTION: &str = "permissions";
    if is_elsewhere(config) {
        answers.ok(QUESTION, "a client of a host engine needs none");
        return;
    }
    let before = answers.iter().count();
    let closed: Vec<String> = device_nodes(&host.root.join("dev"))
        .into_iter()
        .filter(|path| {
            rustix::fs::access(path.as_path(), rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK).is_err()
        })
        .map(|path| path.display().to_string())
        .collect();
    if !closed.is_empty() {
        answers.fail(
            QUESTION,
            format!("this user cannot open {}", closed.join(", ")),
            "run as root, as the unit does, or give the user read and write access to them",
        );
    }
    let wants_profiling =
        counters.rows.iter().any(|row| matches!(row.source, Source::Field(field) if is_profiling(field.id)));
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if wants_profiling && !has_capability(&status, CAP_SYS_ADMIN) {
        answers.warn(
            QUESTION,
            "this user has no CAP_SYS_ADMIN, which an embedded engine needs for DCGM_FI_PROF_* fields",
            "check as root, as the unit runs: sudo dcgm-exporter --check; or use the node's host engine: -r auto",
        );
    }
    if answers.iter().count() == before {
        answers.ok(QUESTION, "sufficient");
    }
}

/// `/dev/nvidiactl` and `/dev/nvidia<N>`.
fn device_nodes(directory: &Path) -> Vec<std::path::PathBuf> {
    let is_node = |name: &str| {
        let rest = name.strip_prefix("nvidia").unwrap_or_default();
        rest == "ctl" || (!rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_str().is_some_and(is_node)).map(|entry| entry.path()).collect()
}

fn has_capability(status: &str, capability: u32) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|set| set >> capability & 1 == 1)
}

/// Ids of processes of this name, without our own.
pub fn processes(root: &Path, name: &str) -> Vec<u32> {
    let entries = fs::read_dir(root.join("proc")).into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_it = |pid: &u32| {
        // The kernel cuts names to 15 bytes.
        let comm = fs::read_to_string(root.join(format!("proc/{pid}/comm"))).unwrap_or_default();
        *pid != std::process::id() && comm.trim_end() == &name[..name.len().min(15)]
    };
    pids.filter(is_it).collect()
}

pub fn listed(pids: &[u32]) -> String {
    pids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

/// Other processes that export.
pub fn exporters(host: &Host, answers: &mut Answers) {
    const QUESTION: &str = "other exporters";
    match &processes(&host.root, "dcgm-exporter")[..] {
        [] => answers.ok(QUESTION, "no other dcgm-exporter runs"),
        [one] => answers.ok(QUESTION, format!("one dcgm-exporter runs, as process {one}")),
        several => answers.warn(
            QUESTION,
            format!("{} processes of dcgm-exporter run: {}", several.len(), listed(several)),
            "one per node is enough, and each embedded engine costs memory; stop the others",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_is_read_from_proc() {
        let text =
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build\nGCC version: x\n";
        assert_eq!(driver_version(text).as_deref(), Some("580.159.04"));
        assert_eq!(driver_version("NVRM version: x86_64 ."), None);
        assert!(is_excluded("GPU Excluded:\t Yes") && !is_excluded("GPU Excluded:\t No"));
    }

    #[test]
    fn capabilities_are_read_from_status() {
        assert!(has_capability("Name:\tx\nCapEff:\t000001fffeffffff\n", CAP_SYS_ADMIN));
        assert!(!has_capability("CapEff:\t0000000000000000\n", CAP_SYS_ADMIN));
        assert!(!has_capability("", CAP_SYS_ADMIN));
    }
}
