//! The release files in a fresh Debian, with a real systemd that runs the real unit; the binary for aarch64 by qemu-user.
//! Run by `make image`, as root.
//!
//! Debian comes from debootstrap, once; every test boots a copy of it in namespaces of its own. Its libdcgm is the
//! simulated one, installed where the real one would be.

mod arm64;
#[allow(dead_code)]
#[path = "../it/markdown.rs"]
mod markdown;
mod packages;
mod readme;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const PACKAGES: &str = "systemd,systemd-sysv,make,curl";

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn work() -> PathBuf {
    project().join("target/image")
}

#[track_caller]
fn check(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn text(output: &Output) -> String {
    format!("{} {}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The release file with this ending.
fn release(ending: &str) -> PathBuf {
    let files = std::fs::read_dir(project().join("target/dist/x86_64")).expect("dist/package.sh made release files");
    let found = files.map(|file| file.unwrap().path()).find(|file| file.display().to_string().ends_with(ending));
    found.unwrap_or_else(|| panic!("no release file ends with {ending}"))
}

/// A Debian with nothing of ours but the simulated library.
fn base() -> &'static Path {
    static BASE: OnceLock<PathBuf> = OnceLock::new();
    BASE.get_or_init(|| {
        assert!(rustix::process::geteuid().is_root(), "make image needs root, for debootstrap and namespaces");
        let (base, made) = (work().join("debian"), work().join("debian/.made-for"));
        if std::fs::read_to_string(&made).is_ok_and(|made| made == PACKAGES) {
            return base;
        }
        let _ = std::fs::remove_dir_all(&base);
        std::fs::create_dir_all(work()).unwrap();
        let include = format!("--include={PACKAGES}");
        check(Command::new("debootstrap").args(["--variant=minbase", &include, "bookworm"]).arg(&base));
        std::fs::write(made, PACKAGES).unwrap();
        base
    })
}

/// A tree of a test's own; removed when dropped.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str) -> Tree {
        let tree = work().join(name);
        let _ = std::fs::remove_dir_all(&tree);
        check(Command::new("cp").args(["-a", "--reflink=auto"]).arg(base()).arg(&tree));
        let library = tree.join("usr/lib/x86_64-linux-gnu/libdcgm.so.4");
        std::fs::copy(project().join("target/release/libdcgm_simulator.so"), library).unwrap();
        check(Command::new("ldconfig").arg("-r").arg(&tree));
        std::fs::write(tree.join("etc/hostname"), "gpu-node-1\n").unwrap();
        Tree(tree)
    }

    fn put(&self, file: &Path, at: &str) {
        std::fs::copy(file, self.0.join(at.trim_start_matches('/'))).unwrap();
    }

    fn boot(self) -> Node {
        Node::boot(self)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The release tarball as a head node has it.
fn unpacked() -> Tree {
    let unpacked = work().join("unpacked");
    let _ = std::fs::remove_dir_all(&unpacked);
    std::fs::create_dir_all(&unpacked).unwrap();
    check(Command::new("tar").arg("-xzf").arg(release(".tar.gz")).arg("-C").arg(&unpacked).arg("--strip-components=1"));
    Tree(unpacked)
}

/// Nodes that were booted so far: several may run at once.
static NODES: AtomicU32 = AtomicU32::new(0);

/// A booted tree; killed when dropped.
struct Node {
    unshare: Child,
    init: u32,
    cgroup: PathBuf,
    _tree: Tree,
}

impl Node {
    fn boot(tree: Tree) -> Node {
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        let cgroup = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|mount| mount[2] == "cgroup2");
        let cgroup = Path::new(cgroup.expect("a cgroup2 hierarchy is mounted")[1]).join(format!(
            "dcgm-exporter-test-{}-{}",
            std::process::id(),
            NODES.fetch_add(1, Ordering::Relaxed)
        ));
        let mut unshare = Command::new(project().join("tests/image/boot.sh"));
        let unshare = unshare.arg(&tree.0).arg(&cgroup).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let mut node = Node { unshare, init: 0, cgroup, _tree: tree };
        let end = Instant::now() + PATIENCE;
        // The child of unshare is the script at first, and systemd then.
        while node.init == 0 {
            assert!(Instant::now() < end && node.unshare.try_wait().unwrap().is_none(), "it does not boot");
            std::thread::sleep(Duration::from_millis(20));
            let child = std::fs::read_to_string(&children).unwrap_or_default().trim().parse().unwrap_or(0);
            let name = std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
            if name.trim_end() == "systemd" {
                node.init = child;
            }
        }
        node.until("systemd answers", "systemctl is-system-running --wait; test -S /run/systemd/private");
        node
    }

    fn output(&self, script: &str) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--all", "--", "/bin/sh", "-c", script]);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
        command.output().expect("nsenter runs")
    }

    #[track_caller]
    fn run(&self, script: &str) -> String {
        let output = self.output(script);
        assert!(output.status.success(), "{script}: {}\n{}", text(&output), self.journal());
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    #[track_caller]
    fn until(&self, what: &str, script: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let output = self.output(script);
            if output.status.success() {
                return String::from_utf8_lossy(&output.stdout).trim().to_owned();
            }
            assert!(Instant::now() < end, "waited in vain until {what}: {}\n{}", text(&output), self.journal());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn journal(&self) -> String {
        text(
            &self.output(
                "systemctl status dcgm-exporter --no-pager; journalctl --no-pager -u dcgm-exporter | tail -n 40",
            ),
        )
    }

    /// The page, once it is served and has this in it.
    #[track_caller]
    fn page_with(&self, part: &str) -> String {
        self.until(part, &format!("curl --silent --fail localhost:9400/metrics >/tmp/page && grep -q -F '{part}' /tmp/page && cat /tmp/page"))
    }

    fn main_pid(&self) -> String {
        self.run("systemctl show -P MainPID dcgm-exporter")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The first process of the namespace takes all others with it.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let _ = std::fs::write(self.cgroup.join("cgroup.kill"), "1");
        let end = Instant::now() + PATIENCE;
        let populated = || {
            std::fs::read_to_string(self.cgroup.join("cgroup.events")).is_ok_and(|text| text.contains("populated 1"))
        };
        while populated() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        remove_cgroups(&self.cgroup);
    }
}

fn remove_cgroups(cgroup: &Path) {
    let entries = std::fs::read_dir(cgroup).into_iter().flatten().flatten();
    for child in entries.map(|entry| entry.path()).filter(|path| path.is_dir()) {
        remove_cgroups(&child);
    }
    let _ = std::fs::remove_dir(cgroup);
}

/// The service runs as it is meant to, whichever way it came.
fn works(node: &Node) {
    assert_eq!(node.until("it runs", "systemctl is-active dcgm-exporter"), "active");
    assert_eq!(node.run("systemctl is-enabled dcgm-exporter"), "enabled");
    let made = "stat -c '%a %U' /run/dcgm-job-map /run/dcgm-exporter /var/spool/dcgm-exporter";
    assert_eq!(node.run(made), "755 root\n755 root\n755 root");
    // Profiling values come with the second collection.
    let page = node.page_with("DCGM_FI_PROF_GR_ENGINE_ACTIVE{");
    assert!(page.contains("hostname=\"gpu-node-1\"") && page.contains("engine_info{mode=\"embedded\""), "{page}");
    assert!(node.run("systemctl show -P StatusText dcgm-exporter").starts_with("running"));
    node.run("journalctl --no-pager -u dcgm-exporter | grep -q 'Starting dcgm-exporter'");
    let report = node.output("dcgm-exporter --check=json");
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
    let answers = report["answers"].as_array().unwrap();
    let found = |question: &str| {
        let answer = answers.iter().find(|answer| answer["question"] == question).unwrap();
        (answer["status"].as_str().unwrap(), answer["found"].as_str().unwrap())
    };
    assert!(found("unit").0 == "ok" && found("unit").1.contains("enabled by dcgm-exporter.service"), "{report:#}");
    assert!(found("settings").1.contains("dcgm-exporter.service"), "{report:#}");
    assert!(found("port").0 == "ok" && found("port").1.contains("served by this exporter"), "{report:#}");
    assert_eq!(found("running exporter").0, "ok", "{report:#}");
    node.run(
        "systemd-analyze verify --man=no dcgm-exporter.service dcgm-exporter.socket dcgm-exporter-devices.service",
    );
    let security = node
        .run("systemd-analyze security --offline=true --threshold=30 $(systemctl show -P FragmentPath dcgm-exporter)");
    println!("{}", security.lines().last().unwrap());

    let before = node.main_pid();
    node.run("systemctl reload dcgm-exporter");
    node.until(
        "it has read its file again",
        "curl --silent localhost:9400/metrics | grep -q 'reloads_total{outcome=\"taken\"} 1'",
    );
    assert_eq!(node.main_pid(), before);
    node.run(&format!("kill -9 {before}"));
    node.until("it runs again", &format!("test $(systemctl show -P MainPID dcgm-exporter) -gt 0 && test $(systemctl show -P MainPID dcgm-exporter) != {before}"));
    node.page_with("DCGM_FI_DEV_GPU_TEMP{");
    let stop = Instant::now();
    node.run("systemctl stop dcgm-exporter");
    assert!(stop.elapsed() < Duration::from_secs(5), "{:?}", stop.elapsed());
    assert_eq!(node.run("systemctl show -P Result dcgm-exporter"), "success");
    node.run("systemctl start dcgm-exporter");
}

/// A client of the node's host engine, as nobody and without a device.
fn works_remotely(node: &Node, share: &str) {
    node.run(
        "printf '[Service]\\nRuntimeDirectory=nvidia-dcgm\\nUMask=0\\nExecStart=/root/hostengine --socket /run/nvidia-dcgm/nv-hostengine.sock\\n' \
         >/etc/systemd/system/nvidia-dcgm.service; \
         systemctl daemon-reload; systemctl start nvidia-dcgm",
    );
    node.run("systemctl restart dcgm-exporter");
    node.page_with("DCGM_FI_DEV_GPU_TEMP{");
    node.run("journalctl --no-pager -u dcgm-exporter | grep -q 'a host engine answers at unix:///run/nvidia-dcgm/nv-hostengine.sock beside the embedded one'");
    node.run(&format!(
        "install -D -m 0644 {share}/remote.conf /etc/systemd/system/dcgm-exporter.service.d/remote.conf; \
         systemctl daemon-reload; systemctl restart dcgm-exporter"
    ));
    let page = node.page_with("engine_info{mode=\"remote\",address=\"unix:///run/nvidia-dcgm/nv-hostengine.sock\"");
    assert!(page.contains("DCGM_FI_DEV_GPU_TEMP{") && page.contains("hostname=\"gpu-node-1\""), "{page}");
    let pid = node.main_pid();
    assert_ne!(node.run(&format!("stat -c %u /proc/{pid}")), "0", "not root");
    node.run("systemd-analyze verify --man=no dcgm-exporter.service");
    node.run("systemctl restart nvidia-dcgm");
    node.page_with("reconnects_total 1");
    node.run(
        "rm -r /etc/systemd/system/dcgm-exporter.service.d; systemctl daemon-reload; systemctl restart dcgm-exporter",
    );
}

/// systemd holds the port, and the exporter takes it from there.
fn works_by_socket(node: &Node) {
    node.run(
        "systemctl stop dcgm-exporter; echo DCGM_EXPORTER_SYSTEMD_SOCKET=true >>/etc/dcgm-exporter/environment; \
         systemctl enable --now dcgm-exporter.socket",
    );
    assert_ne!(node.output("systemctl is-active dcgm-exporter").status.code(), Some(0), "nobody has asked yet");
    let said = node.output("dcgm-exporter --check; systemctl is-active dcgm-exporter");
    assert!(text(&said).contains("systemd holds 9400") && !said.status.success(), "{}", text(&said));
    node.page_with("DCGM_FI_DEV_GPU_TEMP{");
    // The same with TLS.
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = "tls_server_config: {cert_file: server.crt, key_file: server.key}";
    for (file, text) in [
        ("server.crt", certified.cert.pem()),
        ("server.key", certified.signing_key.serialize_pem()),
        ("web.yml", tls.to_owned()),
        ("curlrc", "silent\nfail\ncacert = /etc/dcgm-exporter/server.crt\n".to_owned()),
    ] {
        node.run(&format!("cat >/etc/dcgm-exporter/{file} <<'end'\n{text}\nend"));
    }
    node.run(
        "echo DCGM_EXPORTER_WEB_CONFIG_FILE=/etc/dcgm-exporter/web.yml >>/etc/dcgm-exporter/environment; \
         systemctl stop dcgm-exporter",
    );
    node.until(
        "the page comes over TLS",
        "curl -K /etc/dcgm-exporter/curlrc https://localhost:9400/metrics | grep -q 'DCGM_FI_DEV_GPU_TEMP{'",
    );
    let report = text(&node.output("dcgm-exporter --check"));
    assert!(
        report.contains("web.yml: HTTPS, users: 0")
            && report.contains("9400 is served by this exporter")
            && report.contains("with TLS or a password"),
        "{report}"
    );
    node.run("sed -i /WEB_CONFIG/d /etc/dcgm-exporter/environment; rm /etc/dcgm-exporter/server.* /etc/dcgm-exporter/web.yml /etc/dcgm-exporter/curlrc");
    node.run("systemctl disable --now dcgm-exporter.socket; sed -i /SYSTEMD_SOCKET/d /etc/dcgm-exporter/environment; systemctl restart dcgm-exporter");
    node.page_with("DCGM_FI_DEV_GPU_TEMP{");
}

#[test]
#[ignore = "needs root and debootstrap: make image"]
fn the_deb_in_an_image_and_on_the_node() {
    let tree = Tree::new("deb");
    tree.put(&release(".deb"), "root/exporter.deb");
    tree.put(&project().join("target/release/dcgm-simulator-hostengine"), "root/hostengine");
    // As into an image: no systemd runs.
    check(Command::new("chroot").arg(&tree.0).args(["dpkg", "-i", "/root/exporter.deb"]));
    let node = tree.boot();
    works(&node);
    works_remotely(&node, "/usr/share/dcgm-exporter");
    works_by_socket(&node);
    node.run("echo '# mine' >>/etc/dcgm-exporter/default-counters.csv");
    let before = node.main_pid();
    node.run("dpkg -i /root/exporter.deb");
    assert_ne!(node.main_pid(), before, "an upgrade restarts it");
    node.run("grep -q '# mine' /etc/dcgm-exporter/default-counters.csv");
    node.run("dpkg --purge dcgm-exporter");
    assert!(!node.output("systemctl is-active dcgm-exporter").status.success());
    assert_eq!(node.run("find / -xdev -name '*dcgm-exporter*' -not -path '/root/*' -not -path '/proc/*' -not -path '/var/lib/systemd/*' -not -path '/run/*'"), "");
}

#[test]
#[ignore = "needs root and debootstrap: make image"]
fn the_tarball_on_the_node() {
    let tree = Tree::new("tarball");
    tree.put(&release(".tar.gz"), "root/exporter.tar.gz");
    tree.put(&project().join("target/release/dcgm-simulator-hostengine"), "root/hostengine");
    let node = tree.boot();
    node.run("cd /root && tar xzf exporter.tar.gz && make -C dcgm-exporter-* install");
    works(&node);
    works_remotely(&node, "/usr/local/share/dcgm-exporter");
    let before = node.main_pid();
    let again = node.run("make --no-print-directory -C /root/dcgm-exporter-* install");
    assert!(again.contains("nothing has changed\n"), "{again}");
    assert_eq!(node.main_pid(), before, "it was left alone");
    node.run("make -C /root/dcgm-exporter-* uninstall");
    assert!(!node.output("systemctl is-active dcgm-exporter").status.success());
    // The settings were changed above and changed back.
    let left = "find / -xdev -name '*dcgm-exporter*' -not -path '/root/*' -not -path '/proc/*' -not -path '/var/lib/systemd/*' -not -path '/run/*'";
    assert_eq!(node.run(left), "");
    node.run("test ! -e /run/dcgm-job-map && test ! -e /run/dcgm-exporter");
}

#[test]
#[ignore = "needs root and debootstrap: make image"]
fn the_tarball_into_an_image() {
    let tree = Tree::new("image");
    let unpacked = unpacked();
    let destination = format!("DESTDIR={}", tree.0.display());
    // Neither cargo nor a network is at hand on a head node.
    check(
        Command::new("unshare")
            .args(["--net", "make", "install", &destination])
            .current_dir(&unpacked.0)
            .env("CARGO", "/bin/false"),
    );
    works(&tree.boot());
}

#[test]
#[ignore = "needs root and debootstrap: make image"]
fn the_rpm_into_an_image() {
    let tree = Tree::new("rpm");
    let rpm = |arguments: &[&str]| {
        let mut command = Command::new("rpm");
        // What it needs is there, but dpkg brought it.
        check(command.arg("--root").arg(&tree.0).arg("--nodeps").args(arguments));
    };
    rpm(&["--install", &release(".rpm").display().to_string()]);
    assert!(tree.0.join("etc/systemd/system/multi-user.target.wants/dcgm-exporter.service").is_symlink());
    let edited = tree.0.join("etc/dcgm-exporter/environment");
    std::fs::write(&edited, "# mine\n").unwrap();
    rpm(&["--install", "--replacepkgs", &release(".rpm").display().to_string()]);
    assert_eq!(std::fs::read_to_string(&edited).unwrap(), "# mine\n");
    let node = tree.boot();
    works(&node);
}

/// A driver that hangs: the page with the reason stays for as long as it does, and no restart takes it away.
/// `HANG_MINUTES` is for how long that is watched.
#[test]
#[ignore = "needs root and debootstrap: make image"]
fn a_driver_that_hangs_brings_no_restart() {
    let tree = Tree::new("hang");
    tree.put(&release(".deb"), "root/exporter.deb");
    check(Command::new("chroot").arg(&tree.0).args(["dpkg", "-i", "/root/exporter.deb"]));
    let scenario = tree.0.join("etc/scenario.json");
    std::fs::write(&scenario, "{}").unwrap();
    std::fs::write(
        tree.0.join("etc/dcgm-exporter/environment"),
        "DCGM_SIMULATOR_SCENARIO=/etc/scenario.json\nDCGM_EXPORTER_INTERVAL=1s\n",
    )
    .unwrap();
    let node = tree.boot();
    node.until("it runs", "systemctl is-active dcgm-exporter");
    let pid = node.main_pid();
    // The scenario of `{}` has no GPU; what hangs is the clock's call.
    std::fs::write(scenario, r#"{"faults": {"hang_ms": {"dcgmUpdateAllFields": 86400000}}}"#).unwrap();
    node.until(
        "the reason is told",
        "curl --silent localhost:9400/metrics | grep -q 'dcgmUpdateAllFields was called at'",
    );
    let minutes = std::env::var("HANG_MINUTES").map_or(4.0, |text| text.parse::<f64>().unwrap());
    let end = Instant::now() + Duration::from_secs_f64(minutes * 60.0);
    let mut looks = 0;
    while Instant::now() < end {
        for path in ["metrics", "health"] {
            let answer = node.run(&format!("curl --silent --write-out '%{{http_code}}' localhost:9400/{path}"));
            assert!(answer.ends_with("503") && answer.contains("dcgmUpdateAllFields was called at"), "{answer}");
        }
        assert_eq!(node.main_pid(), pid, "{}", node.journal());
        looks += 1;
        std::thread::sleep(Duration::from_secs(2));
    }
    assert_eq!(node.run("systemctl show -P NRestarts dcgm-exporter"), "0");
    println!("503 with the reason for {minutes} minutes, {looks} times looked at; no restart");
    // It ends in time all the same, and systemd is told the truth.
    let stop = Instant::now();
    let _ = node.output("systemctl stop dcgm-exporter");
    assert!(stop.elapsed() < Duration::from_secs(10), "{:?}", stop.elapsed());
}

/// Blocks of the guide of one kind, in their order.
fn guide(kind: &str) -> Vec<String> {
    let file = "dist/bcm/README.md";
    let text = std::fs::read_to_string(project().join(file)).unwrap();
    let blocks = markdown::blocks(file, &text).into_iter().filter(|block| block.info == format!("sh {kind}"));
    let blocks: Vec<String> = blocks.map(|block| block.text).collect();
    assert!(!blocks.is_empty(), "the guide has no blocks for {kind}");
    blocks
}

#[test]
#[ignore = "needs root and debootstrap: make image"]
fn the_guide_for_bcm() {
    let tree = Tree::new("bcm");
    let unpacked = unpacked();
    let targets = tree.0.join("targets");
    let on_head = |script: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-eu", "-c", script]).current_dir(&unpacked.0).env("CARGO", "/bin/false");
        check(shell.env("IMAGE", &tree.0).env("TARGETS", &targets).env("NODES", "dgx-01 dgx-02"))
    };
    let (head, node, undo) = (guide("head"), guide("node").concat(), guide("undo").concat());
    let (names, head) = (head[0].clone(), head.concat());
    let said = on_head(&head);
    assert!(
        said.contains("libdcgm.so.4") && said.contains(&format!("dcgm-exporter {}", env!("CARGO_PKG_VERSION"))),
        "{said}"
    );
    let target: serde_json::Value =
        serde_json::from_slice(&std::fs::read(targets.join("dgx-02.json")).unwrap()).unwrap();
    assert_eq!(target[0]["targets"][0], "dgx-02:9400");
    on_head(&format!("{names}{undo}"));
    let left = check(Command::new("find").arg(&tree.0).args(["-name", "*dcgm-exporter*"]));
    assert_eq!(left.trim(), tree.0.join("etc/dcgm-exporter").display().to_string());
    // And once more, as an administrator who is not sure would.
    on_head(&head);
    on_head(&head);
    let settings = std::fs::read_to_string(tree.0.join("etc/dcgm-exporter/environment")).unwrap();
    assert_eq!(settings.matches("\nDCGM_HPC_JOB_MAPPING_DIR=").count(), 1, "{settings}");

    let booted = tree.boot();
    booted.page_with("DCGM_FI_DEV_GPU_TEMP{");
    booted.run(&format!("set -eu\n{node}"));
    let run = |role: &str| {
        booted
            .run(&format!("env -i SLURM_JOB_ID=17 SLURM_JOB_GPUS=3 /cm/local/apps/slurm/var/{role}s/60-{role}-dcgm.sh"))
    };
    assert!(run("prolog").contains("job 17 has 3"));
    booted.page_with("hpc_job=\"17\"");
    run("epilog");
    booted.until("the label is gone", "! curl --silent --fail localhost:9400/metrics | grep -q ^DCGM.*hpc_job=");
}

#[test]
#[ignore = "needs shellcheck: make image"]
fn scripts_are_clean() {
    let listed = check(Command::new("git").args(["ls-files", "dist", "tests", ".ci"]).current_dir(project()));
    let is_script = |file: &&str| {
        let text = std::fs::read_to_string(project().join(file)).unwrap_or_default();
        text.starts_with("#!/bin/sh") || text.starts_with("#!/usr/bin/env bash") || file.ends_with(".sh")
    };
    let scripts: Vec<&str> = listed.lines().filter(is_script).collect();
    assert!(scripts.len() >= 5, "{scripts:?}");
    check(Command::new("shellcheck").args(&scripts).current_dir(project()));
}
