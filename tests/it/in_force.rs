//! `--check` sees what the service sees: the files that its unit reads, as systemd reads them and with the rights that the
//! unit has; settings that are not in force; and how the service is.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use dcgm_exporter::check::answers::{Answer, Answers};
use dcgm_exporter::check::{self, Host};

use crate::common::*;

/// A node's files in a directory, with the packaged unit.
struct Node {
    scratch: Scratch,
    root: PathBuf,
}

impl Node {
    fn new() -> Node {
        let scratch = Scratch::new();
        let node = Node { root: scratch.path("root"), scratch };
        let unit = include_str!("../../dist/systemd/dcgm-exporter.service");
        let unit = unit.replace("@PREFIX@", "/usr").replace("@SYSCONFDIR@", "/etc");
        node.write("usr/lib/systemd/system/dcgm-exporter.service", &unit);
        node.write("etc/dcgm-exporter/default-counters.csv", GPU_TEMP);
        node.write("etc/dcgm-exporter/environment", "# nothing\n");
        node
    }

    fn write(&self, file: &str, text: &str) -> PathBuf {
        let path = self.root.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    fn check(&self, is_image: bool, systemctl: Option<PathBuf>) -> Answers {
        let host = Host { root: self.root.clone(), is_image, systemctl };
        let counters = self.root.join("etc/dcgm-exporter/default-counters.csv");
        // On a node that lies in a directory the settings name files of this machine.
        let typed: Vec<std::ffi::OsString> = match is_image {
            true => Vec::new(),
            false => vec!["--libdcgm".into(), simulator().into(), "-f".into(), counters.into()],
        };
        check::run(&host, &typed, |_| None).answers
    }
}

#[track_caller]
fn says<'a>(answers: &'a Answers, question: &str, status: &str, part: &str) -> &'a Answer {
    let is_it =
        |answer: &&Answer| answer.question == question && answer.status.name() == status && answer.found.contains(part);
    answers.iter().find(is_it).unwrap_or_else(|| panic!("no {status} '{part}' for {question}: {}", answers.table()))
}

#[track_caller]
fn says_nothing_of(answers: &Answers, question: &str) {
    let found: Vec<&Answer> =
        answers.iter().filter(|answer| answer.question == question && answer.status.name() != "ok").collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn a_drop_in_of_nvidias_unit_and_a_unit_of_ones_own() {
    let node = Node::new();
    says_nothing_of(&node.check(false, None), "settings in force");
    // Both in use and in an image.
    for is_image in [false, true] {
        let file = "etc/systemd/system/nvidia-dcgm-exporter.service.d/override.conf";
        node.write(file, include_str!("unit-of-ones-own/override.conf"));
        let answers = node.check(is_image, None);
        let lost = says(&answers, "settings in force", "fail", "override.conf belongs to nvidia-dcgm-exporter.service");
        assert!(lost.found.contains("neither TLS nor a password"), "{}", lost.found);
        for setting in [
            "DCGM_EXPORTER_COLLECTORS=/etc/dcgm-exporter/own.csv",
            "DCGM_EXPORTER_LISTEN=:19400",
            "DCGM_EXPORTER_INTERVAL=5000",
            "DCGM_EXPORTER_WEB_CONFIG_FILE=/etc/dcgm-exporter/web.yml",
            "DCGM_HPC_JOB_MAPPING_DIR=/run/own-job-map",
        ] {
            assert!(lost.fix.contains(setting), "{setting}: {}", lost.fix);
        }
        // As the advice has it.
        let lines = lost.fix.split(": ").nth(1).unwrap().split(';').next().unwrap().replace(' ', "\n");
        node.write("etc/dcgm-exporter/environment", &format!("{lines}\n"));
        node.write("etc/dcgm-exporter/own.csv", GPU_TEMP);
        node.write("etc/dcgm-exporter/web.yml", "basic_auth_users: {}\n");
        says_nothing_of(&node.check(is_image, None), "settings in force");

        let own = node.write("etc/systemd/system/dcgm-exporter.service", include_str!("unit-of-ones-own/own.service"));
        let answers = node.check(is_image, None);
        let hidden = says(&answers, "unit", "warn", "hides");
        assert!(hidden.fix.contains(&format!("rm {}", own.display())), "{}", hidden.fix);
        let unread = says(&answers, "settings in force", "fail", "does not read");
        assert!(unread.found.contains("neither TLS nor a password"), "{}", unread.found);
        assert!(unread.fix.contains("EnvironmentFile=-/etc/dcgm-exporter/environment"), "{}", unread.fix);
        std::fs::remove_file(own).unwrap();
        node.write("etc/dcgm-exporter/environment", "# nothing\n");
    }
}

#[test]
fn an_environment_file_is_read_as_systemd_reads_it() {
    let node = Node::new();
    let text = "DCGM_EXPORTER_INTERVAL=10s   # every ten seconds\n";
    node.write("etc/dcgm-exporter/environment", text);
    let answers = node.check(true, None);
    says(&answers, "settings", "fail", "10s   # every ten seconds");
    node.write("etc/dcgm-exporter/environment", "DCGM_EXPORTER_HOSTNAME=node1 # of the rack\n");
    says(&node.check(true, None), "settings in force", "warn", "a comment behind a value is part of it");
    node.write("etc/dcgm-exporter/environment", "export DCGM_EXPORTER_WEB_CONFIG_FILE=/etc/dcgm-exporter/web.yml\n");
    let answers = node.check(true, None);
    let lost = says(&answers, "settings in force", "fail", "export DCGM_EXPORTER_WEB_CONFIG_FILE");
    assert!(lost.found.contains("neither TLS nor a password") && lost.fix.contains("without export"), "{lost:?}");
}

#[test]
fn files_that_the_unit_may_not_read() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("not root: nothing is tested");
    }
    let node = Node::new();
    let is_open = |answers: &Answers| {
        ["counters file", "web configuration", "TLS files"]
            .iter()
            .for_each(|question| says_nothing_of(answers, question));
    };
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    node.write("etc/dcgm-exporter/cert.pem", &certificate.pem());
    let key = node.write("etc/dcgm-exporter/key.pem", &key.serialize_pem());
    node.write("etc/dcgm-exporter/web.yml", "tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n");
    node.write("etc/dcgm-exporter/environment", "DCGM_EXPORTER_WEB_CONFIG_FILE=/etc/dcgm-exporter/web.yml\n");
    std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    is_open(&node.check(true, None));
    // Root can read it, and the unit's root, without CAP_DAC_OVERRIDE, cannot.
    std::os::unix::fs::chown(&key, Some(4321), Some(4321)).unwrap();
    let answers = node.check(true, None);
    let closed = says(&answers, "TLS files", "fail", "the service cannot read");
    assert!(closed.found.contains("key.pem has mode 0600, uid 4321"), "{}", closed.found);
    std::fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
    says(&node.check(true, None), "TLS files", "fail", "the service cannot read");
    std::os::unix::fs::chown(&key, None, Some(0)).unwrap();
    is_open(&node.check(true, None));
    // A directory above.
    let directory = node.root.join("etc/dcgm-exporter");
    std::os::unix::fs::chown(&directory, Some(4321), Some(4321)).unwrap();
    std::fs::set_permissions(&directory, Permissions::from_mode(0o700)).unwrap();
    says(&node.check(true, None), "counters file", "fail", "dcgm-exporter has mode 0700");
    // With the capability it may.
    let drop_in = "etc/systemd/system/dcgm-exporter.service.d/x.conf";
    node.write(drop_in, "[Service]\nCapabilityBoundingSet=CAP_DAC_READ_SEARCH\n");
    is_open(&node.check(true, None));
    // A user of its own.
    std::fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
    node.write(drop_in, "[Service]\nDynamicUser=yes\n");
    says(&node.check(true, None), "TLS files", "fail", "DynamicUser=");
    node.write(drop_in, "[Service]\nUser=monitor\n");
    node.write("etc/passwd", "root:x:0:0::/root:/bin/sh\nmonitor:x:4321:4321::/:/bin/sh\n");
    is_open(&node.check(true, None));
}

#[test]
fn a_service_that_ends_again_and_again() {
    let node = Node::new();
    let show = |properties: &str| {
        let path = node.root.join("usr/lib/systemd/system/dcgm-exporter.service");
        let text = format!(
            "#!/bin/sh\ncat <<'END'\nId=dcgm-exporter.service\nLoadState=loaded\nUnitFileState=enabled\nFragmentPath={}\n\
             DropInPaths=\n{properties}\nEND\n",
            path.strip_prefix(&node.root).unwrap().display()
        );
        let program = node.scratch.write("systemctl", text);
        std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        node.check(false, Some(program))
    };
    let ended = "ExecMainCode=1\nExecMainStatus=1\nResult=exit-code\nNRestarts=12";
    let answers = show(&format!("ActiveState=activating\nSubState=auto-restart\n{ended}"));
    let row = says(&answers, "service", "fail", "12 times; last ended with status 1");
    assert!(row.fix.contains("journalctl -u dcgm-exporter"), "{}", row.fix);
    says(&show("ActiveState=inactive\nExecMainCode=0\nResult=success"), "service", "warn", "does not run");
    says(&show("ActiveState=active\nSubState=running\nMainPID=17\nNRestarts=0"), "service", "ok", "as process 17");
}

/// The unit has PrivateTmp= and ProtectHome=, and the image does not lie there for the node that boots it.
#[test]
fn an_image_is_judged_alike_wherever_it_lies() {
    let node = Node::new();
    assert!(node.root.starts_with("/tmp"), "{}", node.root.display());
    let answers = node.check(true, None);
    says_nothing_of(&answers, "counters file");
    node.write("tmp/own.csv", GPU_TEMP);
    node.write("etc/dcgm-exporter/environment", "DCGM_EXPORTER_COLLECTORS=/tmp/own.csv\n");
    let answers = node.check(true, None);
    says(&answers, "counters file", "fail", "does not see /tmp/own.csv, because its unit has PrivateTmp=");
    node.write("root/own.csv", GPU_TEMP);
    node.write("etc/dcgm-exporter/environment", "DCGM_EXPORTER_COLLECTORS=/root/own.csv\n");
    says(&node.check(true, None), "counters file", "fail", "ProtectHome=");
    assert!(Path::new("/").join("tmp").is_dir());
}
