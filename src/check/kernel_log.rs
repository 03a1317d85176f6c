//! What `--check` asks of `/dev/kmsg`: an embedded engine reads XIDs 79, 119 and 120 from there, and says nothing if it
//! cannot.

use std::fs;
use std::io::ErrorKind;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use super::Host;
use super::answers::Answers;
use super::node::is_elsewhere;
use super::unit::Unit;
use crate::config::Config;

const QUESTION: &str = "kernel log";

pub fn kernel_log(host: &Host, config: &Config, unit: Option<&Unit>, answers: &mut Answers) {
    if is_elsewhere(config) {
        answers.ok(QUESTION, "the host engine reads it, not its client");
        return;
    }
    if let Some(line) = unit.and_then(|unit| closed_by(unit, is_restricted(host))) {
        answers.warn(
            QUESTION,
            format!("the unit has {line}, which closes /dev/kmsg: XIDs 79, 119 and 120 are never counted"),
            "remove that line from the unit: systemctl edit --full dcgm-exporter",
        );
        return;
    }
    if host.is_image {
        answers.ok(QUESTION, "the unit leaves /dev/kmsg open");
        return;
    }
    // Opening and closing it takes no message from anybody: each reader has its own place.
    let path = host.at("/dev/kmsg");
    match open(&path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => answers.ok(QUESTION, format!("{} can be read", path.display())),
        Err(error @ (Errno::PERM | Errno::ACCESS)) => answers.warn(
            QUESTION,
            format!("this user cannot read {}: {error}", path.display()),
            "check as root, as the unit runs: sudo dcgm-exporter --check; a service of another user needs CAP_SYSLOG",
        ),
        Err(error) => answers.warn(
            QUESTION,
            format!("{}: {}", path.display(), std::io::Error::from(error)),
            "without it XIDs 79, 119 and 120 are never counted; a container needs the device",
        ),
    }
}

/// The line of the unit that keeps the service from reading `/dev/kmsg`.
fn closed_by(unit: &Unit, is_restricted: bool) -> Option<String> {
    if let Some(setting) = ["ProtectKernelLogs", "PrivateDevices"].into_iter().find(|setting| unit.is_on(setting)) {
        return Some(format!("{setting}=yes"));
    }
    let policy = unit.setting("DevicePolicy").filter(|policy| matches!(*policy, "closed" | "strict"));
    // Major 1, "mem", has kmsg.
    let is_open = |device: &&str| {
        ["/dev/kmsg", "char-*", "char-mem", "char-1"].contains(&device.split_whitespace().next().unwrap_or_default())
    };
    if let Some(policy) = policy.filter(|_| !unit.list("DeviceAllow").iter().any(is_open)) {
        return Some(format!("DevicePolicy={policy} without DeviceAllow=/dev/kmsg r"));
    }
    (is_restricted && !unit.has_capability("CAP_SYSLOG"))
        .then(|| "CapabilityBoundingSet= without CAP_SYSLOG (and kernel.dmesg_restrict is 1)".to_owned())
}

/// What distributions set by default; an image is taken for such a node.
fn is_restricted(host: &Host) -> bool {
    match fs::read_to_string(host.at("/proc/sys/kernel/dmesg_restrict")) {
        Ok(text) => text.trim() != "0",
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_close_the_kernel_log() {
        let closed = |lines: &str, is_restricted| closed_by(&Unit::of(&format!("[Service]\n{lines}\n")), is_restricted);
        assert_eq!(closed("ProtectKernelLogs=yes", false).as_deref(), Some("ProtectKernelLogs=yes"));
        assert_eq!(closed("ProtectKernelLogs=yes\nProtectKernelLogs=no", true), None);
        assert_eq!(closed("PrivateDevices=true", false).as_deref(), Some("PrivateDevices=yes"));
        assert!(closed("DevicePolicy=closed", false).unwrap().contains("DeviceAllow=/dev/kmsg"));
        assert_eq!(closed("DevicePolicy=closed\nDeviceAllow=/dev/kmsg r", true), None);
        assert_eq!(closed("DevicePolicy=closed\nDeviceAllow=char-* rw", true), None);
        assert!(closed("CapabilityBoundingSet=CAP_SYS_ADMIN", true).unwrap().contains("CAP_SYSLOG"));
        assert!(closed("CapabilityBoundingSet=", true).is_some());
        assert_eq!(closed("CapabilityBoundingSet=CAP_SYS_ADMIN", false), None);
        assert_eq!(closed("CapabilityBoundingSet=CAP_SYS_ADMIN CAP_SYSLOG", true), None);
        assert!(closed("CapabilityBoundingSet=~CAP_SYSLOG", true).is_some());
        assert_eq!(closed("CapabilityBoundingSet=~CAP_CHOWN", true), None);
        // The unit that is installed.
        assert_eq!(closed_by(&Unit::of(include_str!("../../dist/systemd/dcgm-exporter.service")), true), None);
    }
}
