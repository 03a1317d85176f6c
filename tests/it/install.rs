//! `make install` into a directory tree, as for an image: what lies where, twice the same, and edited files kept.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::Scratch;

fn make(target: &str, image: &Path, more: &[&str]) -> String {
    let output = Command::new("make")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["--no-print-directory", target])
        .arg(format!("BINARY={}", env!("CARGO_BIN_EXE_dcgm-exporter")))
        .arg(format!("DESTDIR={}", image.display()))
        .args(more)
        .output()
        .expect("make runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Every file below a directory: its path in it, its mode, its content, or where it links to.
fn tree(directory: &Path) -> Vec<(String, u32, Vec<u8>)> {
    let mut files = Vec::new();
    let mut rest = vec![directory.to_owned()];
    while let Some(path) = rest.pop() {
        let metadata = path.symlink_metadata().unwrap();
        let name = path.strip_prefix(directory).unwrap().display().to_string();
        if metadata.is_dir() {
            rest.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if metadata.is_symlink() {
            files.push((name, 0, std::fs::read_link(&path).unwrap().display().to_string().into_bytes()));
        } else {
            files.push((name, metadata.permissions().mode() & 0o7777, std::fs::read(&path).unwrap()));
        }
    }
    files.sort();
    files
}

fn names(image: &Path) -> Vec<(String, u32)> {
    tree(image).into_iter().map(|(name, mode, _)| (name, mode)).collect()
}

const LINK: &str = "etc/systemd/system/multi-user.target.wants/dcgm-exporter.service";

const INSTALLED: [(&str, u32); 21] = [
    ("etc/dcgm-exporter/1.x-compatibility-metrics.csv", 0o644),
    ("etc/dcgm-exporter/base-units.csv", 0o644),
    ("etc/dcgm-exporter/blackwell.csv", 0o644),
    ("etc/dcgm-exporter/datadog.csv", 0o644),
    ("etc/dcgm-exporter/dcp-metrics-included.csv", 0o644),
    ("etc/dcgm-exporter/default-counters.csv", 0o644),
    ("etc/dcgm-exporter/environment", 0o644),
    ("etc/dcgm-exporter/fleet-health.csv", 0o644),
    ("etc/dcgm-exporter/hpc.csv", 0o644),
    ("etc/systemd/system/dcgm-exporter.service", 0o644),
    ("etc/systemd/system/dcgm-exporter.socket", 0o644),
    (LINK, 0),
    ("usr/local/bin/dcgm-exporter", 0o755),
    ("usr/local/lib/tmpfiles.d/dcgm-exporter.conf", 0o644),
    ("usr/local/share/bash-completion/completions/dcgm-exporter", 0o644),
    ("usr/local/share/dcgm-exporter/config.sha256", 0o644),
    ("usr/local/share/dcgm-exporter/remote.conf", 0o644),
    ("usr/local/share/dcgm-exporter/slurm/epilog.sh", 0),
    ("usr/local/share/dcgm-exporter/slurm/job-map.sh", 0o755),
    ("usr/local/share/dcgm-exporter/slurm/prolog.sh", 0),
    ("usr/local/share/man/man1/dcgm-exporter.1", 0o644),
];

fn image(scratch: &Scratch) -> PathBuf {
    scratch.path("image with a blank")
}

#[test]
fn twice_is_as_once() {
    let scratch = Scratch::new();
    let image = image(&scratch);
    make("install", &image, &[]);
    let once = tree(&image);
    assert_eq!(names(&image), INSTALLED.map(|(name, mode)| (name.to_owned(), mode)));
    let link = std::fs::read_link(image.join(LINK)).unwrap();
    assert_eq!(link, Path::new("/etc/systemd/system/dcgm-exporter.service"), "as seen from inside the image");
    let modified = || image.join("usr/local/bin/dcgm-exporter").metadata().unwrap().modified().unwrap();
    let before = modified();
    assert_eq!(make("install", &image, &[]), "nothing has changed\n");
    assert!(tree(&image) == once && modified() == before);
    let unit = std::fs::read_to_string(image.join("etc/systemd/system/dcgm-exporter.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/local/bin/dcgm-exporter\n"), "{unit}");
    assert!(!unit.contains("@PREFIX@") && !unit.contains("@SYSCONFDIR@"), "{unit}");
}

#[test]
fn what_an_administrator_did_is_kept() {
    let scratch = Scratch::new();
    let image = image(&scratch);
    make("install", &image, &[]);
    let edited = image.join("etc/dcgm-exporter/default-counters.csv");
    std::fs::write(&edited, "DCGM_FI_DEV_GPU_TEMP, gauge, mine\n").unwrap();
    // A file of an earlier release that nobody changed is not the administrator's.
    let old = image.join("etc/dcgm-exporter/dcp-metrics-included.csv");
    std::fs::write(&old, "# as an earlier release had it\n").unwrap();
    let sums = image.join("usr/local/share/dcgm-exporter/config.sha256");
    let sum = Command::new("sha256sum").arg(&old).output().unwrap().stdout;
    let sum = String::from_utf8(sum).unwrap().split(' ').next().unwrap().to_owned();
    let line = format!("{sum}  /etc/dcgm-exporter/dcp-metrics-included.csv\n");
    std::fs::write(&sums, std::fs::read_to_string(&sums).unwrap() + &line).unwrap();
    // Disabled on purpose.
    std::fs::remove_file(image.join(LINK)).unwrap();
    for _ in 0..2 {
        let said = make("install", &image, &[]);
        assert!(said.contains("default-counters.csv was changed and is kept"), "{said}");
        assert_eq!(std::fs::read_to_string(&edited).unwrap(), "DCGM_FI_DEV_GPU_TEMP, gauge, mine\n");
        assert!(std::fs::read_to_string(format!("{}.new", edited.display())).unwrap().contains("DCGM_FI_DEV_SM_CLOCK"));
        assert!(std::fs::read_to_string(&old).unwrap().contains("DCGM_FI_DEV_SM_CLOCK"));
        assert!(!image.join(LINK).is_symlink(), "it stays disabled");
    }
    make("uninstall", &image, &[]);
    let left = names(&image);
    assert!(left.iter().all(|(name, _)| name.starts_with("etc/dcgm-exporter/")), "{left:?}");
    assert_eq!(std::fs::read_to_string(&edited).unwrap(), "DCGM_FI_DEV_GPU_TEMP, gauge, mine\n");
}

#[test]
fn other_places_and_not_enabled() {
    let scratch = Scratch::new();
    let image = image(&scratch);
    let places = ["PREFIX=/opt/x", "SYSCONFDIR=/opt/x/etc", "UNITDIR=/usr/lib/systemd/system", "ENABLE=no"];
    make("install", &image, &places);
    let unit = std::fs::read_to_string(image.join("usr/lib/systemd/system/dcgm-exporter.service")).unwrap();
    assert!(unit.contains("ExecStart=/opt/x/bin/dcgm-exporter\n"), "{unit}");
    assert!(unit.contains("/opt/x/etc/dcgm-exporter/default-counters.csv"), "{unit}");
    let script = std::fs::read_to_string(image.join("opt/x/share/dcgm-exporter/slurm/job-map.sh")).unwrap();
    assert!(script.contains(":-/opt/x/etc/dcgm-exporter/environment}"), "{script}");
    assert!(image.join("opt/x/etc/dcgm-exporter/environment").is_file() && !image.join(LINK).is_symlink());
    make("uninstall", &image, &places);
    let left = names(&image);
    assert!(left.iter().all(|(name, _)| name.starts_with("opt/x/etc/dcgm-exporter/")), "{left:?}");
}
