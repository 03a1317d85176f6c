//! The binary for aarch64 (Grace), which qemu-user runs on this machine: the same pages, and TLS with that processor's
//! arithmetic.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{PATIENCE, check, project, text, work};

fn directory() -> PathBuf {
    work().join("arm64")
}

fn emulated() -> Command {
    let mut command = Command::new("qemu-aarch64-static");
    command.arg("-L").arg(directory().join("root")).arg(directory().join("bin/dcgm-exporter")).env_clear();
    command
}

fn with_simulator(command: &mut Command, simulator: &Path) {
    command.arg("--libdcgm").arg(simulator).arg("-f").arg(project().join("counters/default-counters.csv"));
}

/// Samples without their values, own metrics and comments.
fn series(page: &str) -> Vec<&str> {
    let samples = page.lines().filter(|line| line.starts_with("DCGM_"));
    samples.map(|line| line.rsplit_once(' ').unwrap().0).collect()
}

/// A running exporter; killed when dropped.
struct Running {
    child: Child,
    address: String,
}

impl Running {
    fn start(command: &mut Command) -> Running {
        let mut child = command.args(["-a", "127.0.0.1:0"]).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let mut said = Vec::new();
        let address = loop {
            let line = lines.next().unwrap_or_else(|| panic!("it does not listen: {said:#?}"));
            if let Some((_, rest)) = line.split_once("address=").filter(|_| line.contains("Listening on")) {
                break rest.trim_matches('"').split(['"', ' ']).next().unwrap().to_owned();
            }
            said.push(line);
        };
        // What it says further has to go somewhere.
        std::thread::spawn(move || lines.count());
        Running { child, address }
    }

    /// Waits until the page has these series: some values come with the second collection.
    #[track_caller]
    fn serves(&self, expected: &[&str], arguments: &[&str], url: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let mut curl = Command::new("curl");
            let output = curl.args(["--silent", "--show-error", "--fail"]).args(arguments).arg(url).output().unwrap();
            let page = String::from_utf8_lossy(&output.stdout);
            if series(&page) == expected {
                return;
            }
            let missing = expected.iter().find(|one| !series(&page).contains(one));
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(Instant::now() < end, "{url}: {said}; the first that is missing: {missing:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "needs root, debootstrap and qemu-user: make image"]
fn the_binary_for_arm64() {
    check(Command::new(project().join("tests/image/arm64.sh")).arg(project()).arg(directory()));
    let header = std::fs::read(directory().join("bin/dcgm-exporter")).unwrap();
    assert_eq!(u16::from_le_bytes([header[18], header[19]]), 183, "an ELF file for aarch64");
    assert_eq!(check(emulated().arg("--version")).trim(), concat!("dcgm-exporter ", env!("CARGO_PKG_VERSION")));
    let own = Path::new(env!("CARGO_BIN_EXE_dcgm-exporter"));
    for flag in ["--help", "--generate=man", "--generate=bash"] {
        assert_eq!(check(emulated().arg(flag)), check(Command::new(own).arg(flag)), "{flag}");
    }

    let simulator = directory().join("bin/libdcgm_simulator.so");
    let mut command = emulated();
    with_simulator(&mut command, &simulator);
    let report = command.arg("--check=json").output().unwrap();
    let answers: serde_json::Value =
        serde_json::from_slice(&report.stdout).unwrap_or_else(|_| panic!("{}", text(&report)));
    for question in ["library", "symbols", "engine", "GPUs", "samples", "profiling", "permissions"] {
        let mut rows = answers["answers"].as_array().unwrap().iter().filter(|answer| answer["question"] == question);
        assert!(rows.next().is_some_and(|answer| answer["status"] == "ok"), "{question}: {answers:#}");
    }
    // A library of this machine's is refused with its name and the reason.
    let mut command = emulated();
    with_simulator(&mut command, &project().join("target/release/libdcgm_simulator.so"));
    let refused = command.output().unwrap();
    assert!(
        !refused.status.success() && text(&refused).contains("release/libdcgm_simulator.so ("),
        "{}",
        text(&refused)
    );

    // The same series as on x86-64, once and served.
    let once = |mut command: Command, simulator: &Path| {
        with_simulator(&mut command, simulator);
        check(command.arg("--once"))
    };
    let here = once(Command::new(own), &project().join("target/release/libdcgm_simulator.so"));
    let there = once(emulated(), &simulator);
    assert!(series(&here).len() > 100, "{here}");
    let expected = series(&here);
    assert!(expected == series(&there), "{here}\n\n{there}");
    let mut command = emulated();
    with_simulator(&mut command, &simulator);
    let running = Running::start(command.args(["-c", "200"]));
    running.serves(&expected, &["--compressed"], &format!("http://{}/metrics", running.address));

    // TLS.
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    for (file, text) in [
        ("server.crt", certified.cert.pem()),
        ("server.key", certified.signing_key.serialize_pem()),
        ("web.yml", "tls_server_config: {cert_file: server.crt, key_file: server.key}\n".to_owned()),
    ] {
        std::fs::write(directory().join(file), text).unwrap();
    }
    let mut command = emulated();
    with_simulator(&mut command, &simulator);
    let running = Running::start(command.args(["-c", "200", "--web-config-file"]).arg(directory().join("web.yml")));
    let certificate = directory().join("server.crt").display().to_string();
    let port = running.address.rsplit_once(':').unwrap().1.to_owned();
    let resolve = format!("localhost:{port}:127.0.0.1");
    for version in [["--tls-max", "1.2"], ["--tlsv1.3", "--no-keepalive"]] {
        let arguments = [&version[..], &["--cacert", &certificate, "--resolve", &resolve]].concat();
        running.serves(&expected, &arguments, &format!("https://localhost:{port}/metrics"));
    }
}
