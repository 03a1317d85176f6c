//! A libdcgm that others could replace is used and reported: its code runs with the exporter's rights.

use std::fs::{Permissions, copy, create_dir, set_permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::common::{Exporter, GPU_TEMP, Scratch, bare_exporter, scenario, simulator};

const SOMEBODY: u32 = 4321;

fn mode(path: &Path, mode: u32) {
    set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A directory that has a libdcgm.so.4.
fn directory(scratch: &Scratch, name: &str) -> (PathBuf, PathBuf) {
    let directory = scratch.path(name);
    create_dir(&directory).unwrap();
    let library = directory.join("libdcgm.so.4");
    copy(simulator(), &library).unwrap();
    mode(&directory, 0o755);
    mode(&library, 0o755);
    (directory, library)
}

fn exporter(scratch: &Scratch) -> Command {
    let mut command = bare_exporter();
    command.env("DCGM_SIMULATOR_SCENARIO", scratch.write("scenario.json", scenario(&[0]).to_string()));
    command.args(["--address", "127.0.0.1:0", "-f"]).arg(scratch.write("counters.csv", GPU_TEMP));
    command
}

/// Status, what was found and the fix, of `--check`'s row for the library.
fn checked(command: &mut Command) -> [String; 3] {
    let output = command.arg("--check=json").output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let answers = report["answers"].as_array().unwrap().iter();
    let row = answers.filter(|answer| answer["question"] == "library").collect::<Vec<_>>();
    assert_eq!(row.len(), 1, "{report:#}");
    ["status", "found", "fix"].map(|part| row[0][part].as_str().unwrap().to_owned())
}

/// The exporter goes on with a warning, and `--check` says the same; as root that is a failure.
#[track_caller]
fn assert_reported(scratch: &Scratch, told: impl Fn(&mut Command) -> &mut Command, writable: &Path) {
    let (what, fix) =
        (format!("every user can write {}", writable.display()), format!("chmod o-w {}", writable.display()));
    let mut command = exporter(scratch);
    let [status, found, advice] = checked(told(&mut command));
    assert!(found.contains(&what) && advice.contains(&fix), "{found} {advice}");
    assert_eq!(status, if rustix::process::geteuid().is_root() { "fail" } else { "warn" }, "{found}");
    let mut command = exporter(scratch);
    let mut running = Exporter::start(told(&mut command));
    running.page_with("there are samples", |page| page.contains("DCGM_FI_DEV_GPU_TEMP{"));
    assert!(running.log().contains(&what) && running.log().contains(&fix), "{}", running.log());
}

#[test]
fn a_library_that_everybody_could_replace_is_reported() {
    let scratch = Scratch::new();
    let (open, library) = directory(&scratch, "open");
    mode(&library, 0o777);
    assert_reported(&scratch, |command| command.arg("--libdcgm").arg(&library), &library);
    mode(&library, 0o755);
    mode(&open, 0o777);
    assert_reported(&scratch, |command| command.arg("--libdcgm").arg(&library), &open);
    // By a link.
    let link = scratch.path("link");
    symlink(&library, &link).unwrap();
    assert_reported(&scratch, |command| command.arg("--libdcgm").arg(&link), &open);
    // The loader's own way.
    let path = |directory: &Path| directory.display().to_string();
    assert_reported(&scratch, |command| command.env("LD_LIBRARY_PATH", path(&open)), &open);
    // One in which others could put what comes first, although it has nothing yet; and the working directory.
    let (kept, _) = directory(&scratch, "kept");
    let empty = scratch.path("empty");
    create_dir(&empty).unwrap();
    mode(&empty, 0o777);
    let both = format!("{};{}", path(&empty), path(&kept));
    assert_reported(&scratch, |command| command.env("LD_LIBRARY_PATH", &both), &empty);
    let here = format!(":{}", path(&kept));
    assert_reported(&scratch, |command| command.env("LD_LIBRARY_PATH", &here).current_dir(&empty), &empty);
}

#[test]
fn a_library_that_nobody_else_could_replace_is_used_without_a_word() {
    let scratch = Scratch::new();
    let (kept, library) = directory(&scratch, "kept");
    for by_name in [true, false] {
        let mut command = exporter(&scratch);
        match by_name {
            true => command.arg("--libdcgm").arg(&library),
            false => command.env("LD_LIBRARY_PATH", &kept),
        };
        let [status, found, _] = checked(&mut command);
        assert!(status == "ok" && found.contains(library.to_str().unwrap()), "{found}");
    }
}

#[test]
fn a_library_of_another_user_is_used_and_reported() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("not root: nothing is tested");
    }
    let scratch = Scratch::new();
    let (kept, library) = directory(&scratch, "kept");
    let is_said = |what: &str, fix: &str| {
        let mut command = exporter(&scratch);
        let [status, found, advice] = checked(command.arg("--libdcgm").arg(&library));
        assert!(status == "warn" && found.contains(what) && advice == fix, "{status} {found} {advice}");
        let mut command = exporter(&scratch);
        let mut running = Exporter::start(command.arg("--libdcgm").arg(&library));
        running.page_with("there are samples", |page| page.contains("DCGM_FI_DEV_GPU_TEMP{"));
        assert!(running.log().contains(what) && running.log().contains(fix), "{}", running.log());
    };
    chown(&library, Some(SOMEBODY), None).unwrap();
    is_said(&format!("{} belongs to user {SOMEBODY}", library.display()), &format!("chown root {}", library.display()));
    chown(&library, Some(0), None).unwrap();
    chown(&kept, None, Some(SOMEBODY)).unwrap();
    mode(&kept, 0o775);
    is_said(&format!("group {SOMEBODY} can write {}", kept.display()), &format!("chmod g-w {}", kept.display()));
}
