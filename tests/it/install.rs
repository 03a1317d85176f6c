//! `make install` into a directory tree, as for an image: what lies where, twice the same, and edited files kept.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::common::Scratch;

fn install(scratch: &Scratch) -> String {
    let output = Command::new("make")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .arg("install")
        .arg(format!("BINARY={}", env!("CARGO_BIN_EXE_dcgm-exporter")))
        .arg(format!("DESTDIR={}", scratch.path("image").display()))
        .output()
        .expect("make runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Every file below a directory with its mode and content.
fn tree(directory: &Path) -> Vec<(String, u32, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap()) {
        let path = entry.path();
        if path.is_dir() {
            files.extend(tree(&path));
        } else {
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            files.push((path.display().to_string(), mode, std::fs::read(&path).unwrap()));
        }
    }
    files.sort();
    files
}

#[test]
fn twice_is_as_once_and_edited_files_are_kept() {
    let scratch = Scratch::new();
    install(&scratch);
    let image = scratch.path("image");
    let once = tree(&image);
    let modes: Vec<(&str, u32)> =
        once.iter().map(|(path, mode, _)| (path.rsplit('/').next().unwrap(), *mode)).collect();
    let expected = [
        ("1.x-compatibility-metrics.csv", 0o644),
        ("dcp-metrics-included.csv", 0o644),
        ("default-counters.csv", 0o644),
        ("dcgm-exporter.service", 0o644),
        ("dcgm-exporter", 0o755),
        ("environment", 0o644),
        ("dcgm-exporter.socket", 0o644),
        ("dcgm-exporter.conf", 0o644),
        ("dcgm-exporter.1", 0o644),
        ("dcgm-exporter", 0o644),
    ];
    assert!(expected.iter().all(|file| modes.contains(file)) && modes.len() == expected.len(), "{modes:?}");
    install(&scratch);
    assert!(tree(&image) == once);
    let edited = image.join("etc/dcgm-exporter/default-counters.csv");
    std::fs::write(&edited, "DCGM_FI_DEV_GPU_TEMP, gauge, mine\n").unwrap();
    let said = install(&scratch);
    assert_eq!(std::fs::read_to_string(&edited).unwrap(), "DCGM_FI_DEV_GPU_TEMP, gauge, mine\n");
    assert!(said.contains("was changed and is kept"), "{said}");
    let unit = std::fs::read_to_string(image.join("etc/systemd/system/dcgm-exporter.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/local/bin/dcgm-exporter\n"), "{unit}");
    assert!(!unit.contains("@PREFIX@") && !unit.contains("@SYSCONFDIR@"), "{unit}");
}
