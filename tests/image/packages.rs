//! How the packages behave beside what an administrator has decided: masks, presets, policy-rc.d, a stopped engine, a
//! `make install` on the same node, and NVIDIA's own exporter, for which a package of that name stands in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Node, Tree, check, release, text, work};

const WANTED: &str = "/etc/systemd/system/dcgm-exporter.service.wants/nvidia-dcgm.service";
/// A host engine as NVIDIA's package installs one; whether it is enabled is the node's matter.
const ENGINE: &str = "[Unit]\nDescription=engine\n[Service]\nExecStart=/root/hostengine --listen 127.0.0.1:5555\n\
                      [Install]\nWantedBy=multi-user.target\n";

/// A node with the .deb in /root, and an engine that is installed but neither enabled nor running.
fn node(name: &str) -> Node {
    let tree = Tree::new(name);
    tree.put(&release(".deb"), "root/exporter.deb");
    tree.put(&super::project().join("target/release/dcgm-simulator-hostengine"), "root/hostengine");
    fs::write(tree.0.join("usr/lib/systemd/system/nvidia-dcgm.service"), ENGINE).unwrap();
    tree.boot()
}

fn is(node: &Node, state: &str) -> bool {
    node.output(&format!("systemctl is-{state} dcgm-exporter")).status.success()
}

#[track_caller]
fn assert_is(node: &Node, enabled: bool, active: bool) {
    assert_eq!((is(node, "enabled"), is(node, "active")), (enabled, active), "(enabled, active)\n{}", node.journal());
}

#[test]
#[ignore = "needs root and debootstrap: make image"]
fn a_stopped_engine_stays_stopped() {
    let node = node("engine");
    let engine_runs = || node.output("systemctl is-active nvidia-dcgm").status.success();
    let fail_once = || {
        let before = node.main_pid();
        node.run(&format!("kill -9 {before}"));
        let again = format!("pid=$(systemctl show -P MainPID dcgm-exporter); test $pid -gt 0 && test $pid != {before}");
        node.until("it runs again", &again);
        node.until("it is ready", "systemctl is-active dcgm-exporter");
    };
    node.run("dpkg -i /root/exporter.deb");
    node.until("it runs", "systemctl is-active dcgm-exporter");
    assert!(!engine_runs(), "installing starts no engine");
    fail_once();
    assert!(!engine_runs(), "a restart starts no engine");
    assert!(!node.output(&format!("test -L {WANTED}")).status.success());

    // Where it is enabled it is wanted; the next upgrade notes that.
    node.run("systemctl enable nvidia-dcgm; dpkg -i /root/exporter.deb");
    assert!(node.run("systemctl show -P Wants dcgm-exporter").contains("nvidia-dcgm.service"));
    node.run("systemctl restart dcgm-exporter");
    assert!(engine_runs());
    // And disabled again it is not, without any upgrade.
    node.run("systemctl disable --now nvidia-dcgm");
    node.run("systemctl restart dcgm-exporter");
    fail_once();
    assert!(!engine_runs(), "{}", node.run(&format!("ls -l {WANTED} || true")));
    node.run("systemctl enable nvidia-dcgm; dpkg -i /root/exporter.deb; dpkg -r dcgm-exporter");
    assert!(!node.output(&format!("test -L {WANTED}")).status.success(), "removing takes the link away");
    node.run("test -L /etc/systemd/system/multi-user.target.wants/nvidia-dcgm.service");
}

#[test]
#[ignore = "needs root and debootstrap: make image"]
fn the_deb_keeps_what_an_administrator_decided() {
    let node = node("decided");
    let install = || node.run("dpkg -i /root/exporter.deb");
    // policy-rc.d forbids: image builders rely on it.
    node.run("printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d");
    install();
    assert_is(&node, true, false);
    node.run("rm /usr/sbin/policy-rc.d; dpkg -P dcgm-exporter");
    // A preset says no, at the first installation.
    node.run("mkdir -p /etc/systemd/system-preset; echo 'disable dcgm-exporter.service' >/etc/systemd/system-preset/10-x.preset");
    install();
    assert_is(&node, false, false);
    install();
    assert_is(&node, false, false);
    node.run("systemctl enable --now dcgm-exporter");
    install();
    assert_is(&node, true, true);
    node.run("rm /etc/systemd/system-preset/10-x.preset; dpkg -P dcgm-exporter");
    // Removed and installed again.
    install();
    assert_is(&node, true, true);
    node.run("dpkg -r dcgm-exporter");
    assert!(!is(&node, "active"));
    install();
    assert_is(&node, true, true);
    // Disabled stays disabled: over an upgrade, and over removal and installation.
    node.run("systemctl disable --now dcgm-exporter");
    install();
    assert_is(&node, false, false);
    node.run("dpkg -r dcgm-exporter");
    install();
    assert_is(&node, false, false);
    // A mask stays.
    node.run("systemctl mask dcgm-exporter");
    install();
    assert_eq!(node.run("readlink /etc/systemd/system/dcgm-exporter.service"), "/dev/null");
    assert!(!is(&node, "active"));
    node.run("systemctl unmask dcgm-exporter; dpkg -P dcgm-exporter");
    node.run("test ! -e /run/dcgm-job-map && test ! -e /run/dcgm-exporter && test ! -e /var/spool/dcgm-exporter");
    install();
    assert_is(&node, true, true);
}

#[test]
#[ignore = "needs root and debootstrap: make image"]
fn the_unit_reads_the_kernel_log_and_never_gives_up() {
    let node = node("unit");
    node.run("dpkg -i /root/exporter.deb");
    // What the service may see, asked from inside of its sandbox. The node's /dev has none that may be touched.
    node.run("echo '6,1,0,-;NVRM: Xid (PCI:0000:1b:00): 79' >/dev/kmsg");
    node.run(
        "mkdir -p /etc/systemd/system/dcgm-exporter.service.d; printf '[Service]\\nExecStartPre=/bin/grep -q Xid /dev/kmsg\\n\
         RestartSec=100ms\\n' >/etc/systemd/system/dcgm-exporter.service.d/test.conf; systemctl daemon-reload",
    );
    node.run("systemctl restart dcgm-exporter");
    let status = node.run(&format!("grep CapBnd /proc/{}/status", node.main_pid()));
    // CAP_SYS_ADMIN and CAP_SYSLOG, and nothing else.
    assert_eq!(u64::from_str_radix(status.split_whitespace().nth(1).unwrap(), 16).unwrap(), 1 << 21 | 1 << 34);
    assert_eq!(node.run("systemctl show -P TimeoutStopUSec dcgm-exporter"), "15s");

    // The host's name is the node's, also when it changes.
    let namespace = |pid: &str| node.run(&format!("readlink /proc/{pid}/ns/uts"));
    assert_eq!(namespace(&node.main_pid()), namespace("1"));

    // The port is somebody else's for more starts than any limit would allow.
    node.run("systemctl stop dcgm-exporter; rm /etc/systemd/system/dcgm-exporter.service.d/test.conf");
    node.run(
        "printf '[Service]\\nRestartSec=100ms\\n' >/etc/systemd/system/dcgm-exporter.service.d/test.conf; \
         systemctl daemon-reload",
    );
    node.run("systemd-run --unit=squatter /root/hostengine --listen 0.0.0.0:9400");
    node.until("the port is taken", "systemctl is-active squatter");
    let _ = node.output("systemctl start dcgm-exporter");
    node.until("it was started again and again", "test $(systemctl show -P NRestarts dcgm-exporter) -ge 15");
    node.run("systemctl stop squatter");
    node.until("it runs", "systemctl is-active dcgm-exporter");
    node.page_with("DCGM_FI_DEV_GPU_TEMP{");

    // Device files are made where a driver is, and nothing loads one.
    assert_eq!(node.run("systemctl show -P ConditionResult dcgm-exporter-devices"), "no");
}

#[test]
#[ignore = "needs root and debootstrap: make image"]
fn the_deb_and_make_install_say_that_they_do_not_mix() {
    let tree = Tree::new("mixed");
    tree.put(&release(".deb"), "root/exporter.deb");
    tree.put(&release(".tar.gz"), "root/exporter.tar.gz");
    let node = tree.boot();
    node.run("cd /root && tar xzf exporter.tar.gz && make -C dcgm-exporter-* install");
    let said = text(&node.output("dpkg -i /root/exporter.deb"));
    assert!(said.contains("which 'make install' has made, hides the unit of this package"), "{said}");
    node.run("make -C /root/dcgm-exporter-* uninstall; systemctl enable --now dcgm-exporter");
    assert_eq!(node.run("systemctl show -P FragmentPath dcgm-exporter"), "/lib/systemd/system/dcgm-exporter.service");
    let mixed = node.output("make -C /root/dcgm-exporter-* install");
    assert!(!mixed.status.success() && text(&mixed).contains("is installed as a package here"), "{}", text(&mixed));
    node.until("it runs", "systemctl is-active dcgm-exporter");
}

/// What stands in for NVIDIA's package: its name, and the paths that its unit names.
fn files_of_nvidias(root: &Path) {
    let _ = fs::remove_dir_all(root);
    for (file, content) in [
        ("usr/bin/dcgm-exporter", "#!/bin/sh\nexec sleep infinity\n"),
        ("etc/dcgm-exporter/default-counters.csv", "DCGM_FI_DEV_GPU_TEMP, gauge, as NVIDIA ships it\n"),
        (
            "usr/lib/systemd/system/nvidia-dcgm-exporter.service",
            "[Unit]\nDescription=NVIDIA's\n[Service]\nExecStart=/usr/bin/dcgm-exporter -f \
             /etc/dcgm-exporter/default-counters.csv\n[Install]\nWantedBy=multi-user.target\n",
        ),
    ] {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    check(Command::new("chmod").arg("755").arg(root.join("usr/bin/dcgm-exporter")));
}

pub fn nvidias_deb() -> PathBuf {
    let root = work().join("nvidias-deb");
    files_of_nvidias(&root);
    fs::create_dir_all(root.join("DEBIAN")).unwrap();
    let control = "Package: datacenter-gpu-manager-exporter\nVersion: 1:4.8.2-1\nArchitecture: amd64\n\
                   Maintainer: stand-in <stand-in@packages.invalid>\nDescription: stands in for NVIDIA's package\n";
    fs::write(root.join("DEBIAN/control"), control).unwrap();
    fs::write(root.join("DEBIAN/conffiles"), "/etc/dcgm-exporter/default-counters.csv\n").unwrap();
    let file = work().join("nvidias.deb");
    check(Command::new("dpkg-deb").args(["--root-owner-group", "--build"]).arg(&root).arg(&file));
    file
}

#[test]
#[ignore = "needs root and debootstrap: make image"]
fn from_nvidias_deb_to_ours_and_back() {
    let tree = Tree::new("move-deb");
    tree.put(&release(".deb"), "root/exporter.deb");
    tree.put(&nvidias_deb(), "root/nvidias.deb");
    let node = tree.boot();
    // As the notes have it; a prompt would end it, for nobody answers.
    let apt = |file: &str| node.run(&format!("apt-get install -y -o Dpkg::Options::=--force-confold /root/{file}.deb"));
    let installed = |name: &str| {
        node.run(&format!("dpkg-query --show --showformat '${{db:Status-Abbrev}}' {name} || true")).starts_with("ii")
    };
    let counters = || node.run("cat /etc/dcgm-exporter/default-counters.csv");
    apt("nvidias");
    node.run("systemctl enable --now nvidia-dcgm-exporter");
    let mine = "DCGM_FI_DEV_GPU_TEMP, gauge, mine";
    node.run(&format!("echo '{mine}' >/etc/dcgm-exporter/default-counters.csv"));
    apt("exporter");
    assert!(installed("dcgm-exporter") && !installed("datacenter-gpu-manager-exporter"));
    assert_eq!(counters(), mine);
    assert_is(&node, true, true);
    let page = node.page_with("DCGM_FI_DEV_GPU_TEMP{");
    assert!(page.contains("# HELP DCGM_FI_DEV_GPU_TEMP mine\n"), "{page}");
    apt("nvidias");
    assert!(!installed("dcgm-exporter") && installed("datacenter-gpu-manager-exporter"));
    assert_eq!(counters(), mine);
    // With the file as NVIDIA ships it, ours comes.
    node.run("dpkg -P dcgm-exporter datacenter-gpu-manager-exporter; rm -rf /etc/dcgm-exporter");
    apt("nvidias");
    apt("exporter");
    assert!(counters().contains("DCGM_FI_DEV_SM_CLOCK"), "{}", counters());
}

/// An .rpm of these files.
fn rpm(name: &str, version: &str, more: &str, root: &Path, files: &str) -> PathBuf {
    let top = work().join(format!("rpm-{name}"));
    let _ = fs::remove_dir_all(&top);
    fs::create_dir_all(&top).unwrap();
    let spec = top.join("x.spec");
    let text = format!(
        "Name: {name}\nVersion: {version}\nRelease: 1\nSummary: x\nLicense: x\n{more}\n%description\nx\n%install\n\
         cp -a {}/. %{{buildroot}}/\n%files\n{files}\n",
        root.display()
    );
    fs::write(&spec, text).unwrap();
    check(
        Command::new("rpmbuild")
            .args(["--quiet", "-bb", "--target", "x86_64", "--define"])
            .arg(format!("_topdir {}", top.display()))
            .arg("--buildroot")
            .arg(top.join("root"))
            .arg(&spec),
    );
    let found = fs::read_dir(top.join("RPMS/x86_64")).unwrap().next().unwrap().unwrap();
    found.path()
}

/// With Debian's dnf on a Debian tree: there is no userland of Red Hat's in the registries that this project's machines
/// reach. A package that provides what the other two need stands in for one.
#[test]
#[ignore = "needs root, debootstrap and dnf: make image"]
fn from_nvidias_rpm_to_ours_and_back() {
    let tree = Tree::new("move-rpm");
    let ours = release(".rpm");
    let root = work().join("nvidias-rpm");
    files_of_nvidias(&root);
    let nvidias = rpm(
        "datacenter-gpu-manager-exporter",
        "4.8.2",
        "",
        &root,
        "/usr/bin/dcgm-exporter\n/usr/lib/systemd/system/nvidia-dcgm-exporter.service\n%config(noreplace) /etc/dcgm-exporter/*",
    );
    let needs = check(Command::new("rpm").args(["-qp", "--requires"]).arg(&ours));
    let provides: Vec<&str> =
        needs.lines().filter(|line| !line.starts_with(['/', ' ']) && !line.starts_with("rpmlib")).collect();
    let provides = format!("Provides: {}\nAutoReqProv: no", [&provides[..], &["/bin/sh"]].concat().join(", "));
    let empty = work().join("userland");
    fs::create_dir_all(&empty).unwrap();
    let userland = rpm("userland", "1", &provides, &empty, "");
    // A repository has NVIDIA's, as on a node.
    let repository = work().join("repository");
    let _ = fs::remove_dir_all(&repository);
    fs::create_dir_all(&repository).unwrap();
    for file in [&nvidias, &userland] {
        fs::copy(file, repository.join(file.file_name().unwrap())).unwrap();
    }
    check(Command::new("createrepo_c").arg("--quiet").arg(&repository));
    let list = format!("[x]\nname=x\nbaseurl=file://{}\ngpgcheck=0\n", repository.display());
    fs::write(repository.join("x.repo"), list).unwrap();
    let dnf = |command: &[&str]| {
        let mut run = Command::new("dnf");
        run.arg(format!("--installroot={}", tree.0.display())).args(["-y", "--nogpgcheck", "--releasever=9"]);
        check(run.arg(format!("--setopt=reposdir={}", repository.display())).args(command))
    };
    let installed = |name: &str| {
        Command::new("rpm").arg("--root").arg(&tree.0).args(["-q", name]).output().unwrap().status.success()
    };
    let counters = tree.0.join("etc/dcgm-exporter/default-counters.csv");
    let size = || tree.0.join("usr/bin/dcgm-exporter").metadata().unwrap().len();
    let mine = "DCGM_FI_DEV_GPU_TEMP, gauge, mine\n";
    dnf(&["install", "userland", "datacenter-gpu-manager-exporter"]);
    fs::write(&counters, mine).unwrap();
    dnf(&["install", &ours.display().to_string()]);
    assert!(installed("dcgm-exporter") && !installed("datacenter-gpu-manager-exporter") && size() > 1 << 20);
    assert_eq!(fs::read_to_string(&counters).unwrap(), mine);
    dnf(&["swap", "dcgm-exporter", "datacenter-gpu-manager-exporter"]);
    assert!(!installed("dcgm-exporter") && installed("datacenter-gpu-manager-exporter") && size() < 1000);
    assert_eq!(fs::read_to_string(&counters).unwrap(), mine);
}

/// Red Hat's presets leave new services disabled; Debian's leave them enabled.
#[test]
#[ignore = "needs root and debootstrap: make image"]
fn the_rpm_asks_the_presets() {
    let tree = Tree::new("presets");
    let link = tree.0.join("etc/systemd/system/multi-user.target.wants/dcgm-exporter.service");
    let rpm =
        |arguments: &[&str]| check(Command::new("rpm").arg("--root").arg(&tree.0).arg("--nodeps").args(arguments));
    let file = release(".rpm").display().to_string();
    let presets = tree.0.join("usr/lib/systemd/system-preset");
    fs::create_dir_all(&presets).unwrap();
    fs::write(presets.join("99-default-disable.preset"), "disable *\n").unwrap();
    let said = rpm(&["--install", &file]);
    assert!(said.contains("systemctl enable --now dcgm-exporter") && !link.is_symlink(), "{said}");
    rpm(&["--erase", "dcgm-exporter"]);
    fs::remove_file(presets.join("99-default-disable.preset")).unwrap();
    rpm(&["--install", &file]);
    assert!(link.is_symlink());
    // Disabled stays disabled over an upgrade, and nothing is left after removal.
    fs::remove_file(&link).unwrap();
    rpm(&["--upgrade", "--replacepkgs", &file]);
    assert!(!link.is_symlink());
    rpm(&["--erase", "dcgm-exporter"]);
    let left = check(Command::new("find").arg(&tree.0).args(["-name", "*dcgm-exporter*"]));
    assert_eq!(left, "");
}

/// Licences, notices, documents, sums and the list of what is linked in.
#[test]
#[ignore = "needs the release files: make image"]
fn what_goes_with_the_binary() {
    let listed = check(Command::new("dpkg-deb").arg("--contents").arg(release(".deb")));
    let rpm = check(Command::new("rpm").args(["-qlp"]).arg(release(".rpm")));
    for file in ["copyright", "LICENSE", "CHANGELOG.md.gz", "README.md", "dist/slurm/README.md", "dist/web/README.md"]
        .map(|file| format!("/usr/share/doc/dcgm-exporter/{file}"))
    {
        assert!(listed.contains(&file) && rpm.contains(&file), "{file}\n{listed}\n{rpm}");
    }
    assert!(listed.contains("/usr/share/doc/dcgm-exporter/changelog.gz"), "{listed}");
    assert!(listed.contains("/usr/share/man/man1/dcgm-exporter.1.gz"), "{listed}");
    let license = check(Command::new("rpm").args(["-qp", "--queryformat", "%{LICENSE}"]).arg(release(".rpm")));
    assert!(license.starts_with("Apache-2.0 AND ") && license.contains("ISC"), "{license}");
    for query in ["--provides", "--obsoletes", "--conflicts"] {
        let answer = check(Command::new("rpm").args(["-qp", query]).arg(release(".rpm")));
        assert!(answer.contains("datacenter-gpu-manager-exporter"), "{query}: {answer}");
    }
    let directory = release(".deb").parent().unwrap().to_owned();
    check(Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(&directory));
    let sums = fs::read_to_string(directory.join("SHA256SUMS")).unwrap();
    assert_eq!(sums.lines().count(), 4, "{sums}");
    let list: serde_json::Value = serde_json::from_slice(&fs::read(release(".cdx.json")).unwrap()).unwrap();
    assert_eq!(list["bomFormat"], "CycloneDX");
    let components = list["components"].as_array().unwrap();
    assert!(components.len() > 30 && components.iter().all(|one| one["hashes"][0]["content"].is_string()));
    assert!(components.iter().any(|one| one["purl"].as_str().unwrap().starts_with("pkg:cargo/rustls@")));
    // Debian's own opinion.
    let lintian = Command::new("lintian").args(["--fail-on", "error"]).arg(release(".deb")).output().unwrap();
    assert!(lintian.status.success(), "{}", text(&lintian));
}
