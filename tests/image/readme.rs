//! The README, followed block by block on a fresh Debian: install, scrape, find a GPU that is missing, move from
//! NVIDIA's exporter and back.

use std::path::Path;
use std::process::Command;

use super::markdown::blocks;
use super::packages::nvidias_deb;
use super::{Node, Tree, check, project, release};

const SCENARIO: &str = "/etc/scenario.json";

/// Eight GPUs that answer, and those that are lost.
fn scenario(lost: &[u32]) -> String {
    let gpus: Vec<serde_json::Value> = (0..8)
        .map(|id| serde_json::json!({ "id": id, "uuid": format!("GPU-{id}"), "model": "H200", "pci_bus_id": format!("00000000:{id}B:00.0") }))
        .collect();
    serde_json::json!({ "replay": true, "system": { "gpus": gpus }, "faults": { "lost_gpus": lost } }).to_string()
}

/// The README's blocks of one kind, in their order, as they are typed.
///
/// `--check` exits with 1 or 2 where something is not right, and on this node, which has no driver, something is.
fn typed(kind: &str) -> Vec<String> {
    let text = std::fs::read_to_string(project().join("README.md")).unwrap();
    let line = |line: &str| match line.starts_with("dcgm-exporter --check ") || line == "dcgm-exporter --check" {
        true => format!("{} || test $? -le 2\n", line.split(" #").next().unwrap()),
        false => format!("{line}\n"),
    };
    let found = blocks("README.md", &text).into_iter().filter(|block| block.info == format!("sh {kind}"));
    let found: Vec<String> = found.map(|block| block.text.lines().map(line).collect()).collect();
    assert!(!found.is_empty(), "the README has no block for {kind}");
    found
}

/// Runs a block in the directory where the packages were downloaded to.
#[track_caller]
fn run(node: &Node, block: &str) -> String {
    node.run(&format!("cd /root\nset -eu\n{block}"))
}

/// Makes a package available to apt, as a repository does.
fn offer(tree: &Tree, package: &Path) {
    let folder = tree.0.join("root/repository");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(package, folder.join("nvidias.deb")).unwrap();
    let control = check(Command::new("dpkg-deb").arg("--field").arg(package));
    let size = package.metadata().unwrap().len();
    let sum = check(Command::new("sha256sum").arg(package));
    let sum = sum.split(' ').next().unwrap();
    let index = format!("{}\nFilename: ./nvidias.deb\nSize: {size}\nSHA256: {sum}\n", control.trim_end());
    std::fs::write(folder.join("Packages"), index).unwrap();
    // The node has no network.
    std::fs::write(tree.0.join("etc/apt/sources.list"), "deb [trusted=yes] file:/root/repository ./\n").unwrap();
    check(Command::new("chroot").arg(&tree.0).args(["apt-get", "-o", "APT::Sandbox::User=root", "update"]));
}

#[test]
#[ignore = "needs root and debootstrap: make image"]
fn the_readme_on_a_fresh_debian() {
    let tree = Tree::new("readme");
    let deb = release(".deb");
    tree.put(&deb, &format!("root/{}", deb.file_name().unwrap().to_str().unwrap()));
    std::fs::write(tree.0.join("etc/scenario.json"), scenario(&[])).unwrap();
    offer(&tree, &nvidias_deb());
    let play = tree.0.join("etc/scenario.json");
    let node = tree.boot();

    run(&node, &typed("install").concat());
    node.until("it runs", "systemctl is-active dcgm-exporter");
    // The simulator stands in for GPUs; nothing else is told to it.
    node.run(&format!(
        "echo DCGM_SIMULATOR_SCENARIO={SCENARIO} >>/etc/dcgm-exporter/environment; systemctl restart dcgm-exporter"
    ));
    node.page_with("DCGM_FI_DEV_GPU_TEMP{");

    // Scrape it, check it, change a setting.
    let [scrape, look, setting] = &typed("node")[..] else { panic!("{:?}", typed("node")) };
    assert_eq!(run(&node, scrape).lines().count(), 8);
    let said = run(&node, look);
    assert!(said.starts_with("OK\nrunning\n") && said.contains("unit"), "{said}");
    run(&node, setting);
    node.page_with("DCGM_FI_DEV_GPU_TEMP{");
    node.run("tr '\\0' '\\n' </proc/$(systemctl show -P MainPID dcgm-exporter)/environ | grep -qx DCGM_EXPORTER_INTERVAL=10s");

    // A GPU is lost, and the README says which, and why.
    node.run("echo DCGM_EXPORTER_INTERVAL=1s >>/etc/dcgm-exporter/environment; systemctl restart dcgm-exporter");
    node.page_with("dcgm_exporter_entity_up{gpu=\"3\",UUID=\"GPU-3\"");
    std::fs::write(&play, scenario(&[3])).unwrap();
    node.until(
        "it is lost",
        "curl --silent localhost:9400/metrics | grep '^dcgm_exporter_entity_up{gpu=\"3\"' | grep ' 0$'",
    );
    let missing = run(&node, &typed("missing").concat());
    let first = missing.lines().next().unwrap();
    assert!(
        first.starts_with("dcgm_exporter_entity_up{gpu=\"3\",UUID=\"GPU-3\"") && first.ends_with(" 0"),
        "{missing}"
    );
    assert!(missing.contains("GPU 3"), "the state or the log names it: {missing}");

    // Back to NVIDIA's, to ours again, and back. What was edited stays.
    let mine = "DCGM_FI_DEV_GPU_TEMP, gauge, mine";
    node.run(&format!("echo '{mine}' >/etc/dcgm-exporter/default-counters.csv"));
    let package = |name: &str| {
        node.run(&format!("dpkg-query --show --showformat '${{db:Status-Abbrev}}' {name} || true")).starts_with("ii")
    };
    let (there, back) = (typed("move").concat(), typed("back").concat());
    for _ in 0..2 {
        run(&node, &back);
        assert!(!package("dcgm-exporter") && package("datacenter-gpu-manager-exporter"));
        node.until("NVIDIA's runs", "systemctl is-active nvidia-dcgm-exporter");
        node.run("systemctl disable --now nvidia-dcgm-exporter");
        run(&node, &there);
        assert!(package("dcgm-exporter") && !package("datacenter-gpu-manager-exporter"));
        node.page_with("# HELP DCGM_FI_DEV_GPU_TEMP mine");
        assert_eq!(node.run("cat /etc/dcgm-exporter/default-counters.csv"), mine);
    }
}
