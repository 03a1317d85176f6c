//! `make install` into a directory tree, as for an image: what lies where, twice the same, edited files and masks kept, and
//! what is taken away again. And the list of crates whose licences go with the binary.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::Scratch;

fn make(target: &str, image: &Path, more: &[&str]) -> String {
    let output = try_make(target, image, more);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn try_make(target: &str, image: &Path, more: &[&str]) -> Output {
    Command::new("make")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["--no-print-directory", target])
        .arg(format!("BINARY={}", env!("CARGO_BIN_EXE_dcgm-exporter")))
        .arg(format!("DESTDIR={}", image.display()))
        .args(more)
        .output()
        .expect("make runs")
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

const INSTALLED: [(&str, u32); 25] = [
    ("etc/dcgm-exporter/1.x-compatibility-metrics.csv", 0o644),
    ("etc/dcgm-exporter/base-units.csv", 0o644),
    ("etc/dcgm-exporter/blackwell.csv", 0o644),
    ("etc/dcgm-exporter/datadog.csv", 0o644),
    ("etc/dcgm-exporter/dcp-metrics-included.csv", 0o644),
    ("etc/dcgm-exporter/default-counters.csv", 0o644),
    ("etc/dcgm-exporter/environment", 0o644),
    ("etc/dcgm-exporter/fleet-health.csv", 0o644),
    ("etc/dcgm-exporter/hpc.csv", 0o644),
    ("etc/systemd/system/dcgm-exporter-devices.service", 0o644),
    ("etc/systemd/system/dcgm-exporter.service", 0o644),
    ("etc/systemd/system/dcgm-exporter.socket", 0o644),
    (LINK, 0),
    ("usr/local/bin/dcgm-exporter", 0o755),
    ("usr/local/lib/tmpfiles.d/dcgm-exporter.conf", 0o644),
    ("usr/local/share/bash-completion/completions/dcgm-exporter", 0o644),
    ("usr/local/share/dcgm-exporter/config.sha256", 0o644),
    ("usr/local/share/dcgm-exporter/make-devices.sh", 0o755),
    ("usr/local/share/dcgm-exporter/remote.conf", 0o644),
    ("usr/local/share/doc/dcgm-exporter/CHANGELOG.md.gz", 0o644),
    ("usr/local/share/doc/dcgm-exporter/LICENSE", 0o644),
    ("usr/local/share/doc/dcgm-exporter/copyright", 0o644),
    ("usr/local/share/fish/vendor_completions.d/dcgm-exporter.fish", 0o644),
    ("usr/local/share/man/man1/dcgm-exporter.1.gz", 0o644),
    ("usr/local/share/zsh/site-functions/_dcgm-exporter", 0o644),
];

const DOCUMENTS: &str = "usr/local/share/doc/dcgm-exporter";

/// README, guides, and what they lead to, in the same folders as in the project.
const GUIDES: [&str; 13] = [
    "CONTRIBUTING.md",
    "README.md",
    "benches/FIGURES.md",
    "dist/bcm/README.md",
    "dist/config.yaml",
    "dist/from-nvidia/README.md",
    "dist/grafana/README.md",
    "dist/package/README.md",
    "dist/prometheus/README.md",
    "dist/slurm/README.md",
    "dist/status-page.png",
    "dist/systemd/README.md",
    "dist/web/README.md",
];

/// Besides, whatever lies in these folders.
fn installed() -> Vec<(String, u32)> {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist");
    let mut all: Vec<(String, u32)> = INSTALLED.map(|(name, mode)| (name.to_owned(), mode)).into();
    all.extend(GUIDES.map(|file| (format!("{DOCUMENTS}/{file}"), 0o644)));
    for folder in ["slurm", "prometheus", "grafana"].map(|folder| dist.join(folder)) {
        let files = if folder.is_dir() { tree(&folder) } else { Vec::new() };
        // The guide lies with the other guides, and what makes the dashboards is of no use on a node.
        let is_used = |name: &str| !["README.md", "make.py", "requirements.txt"].contains(&name);
        let files = files.into_iter().filter(|(name, ..)| is_used(name));
        let shown = folder.strip_prefix(&dist).unwrap().display().to_string();
        all.extend(files.map(|(name, mode, _)| {
            // A link has none.
            let mode = if mode == 0 {
                0
            } else if mode & 0o111 == 0 {
                0o644
            } else {
                0o755
            };
            (format!("usr/local/share/dcgm-exporter/{shown}/{name}"), mode)
        }));
    }
    all.sort();
    all
}

fn image(scratch: &Scratch) -> PathBuf {
    let image = scratch.path("image `with` \"all\" sorts & 'kinds' | of; characters");
    std::fs::create_dir(&image).unwrap();
    image
}

#[test]
fn twice_is_as_once() {
    let scratch = Scratch::new();
    let image = image(&scratch);
    make("install", &image, &[]);
    let once = tree(&image);
    assert_eq!(names(&image), installed());
    assert!(installed().iter().any(|(name, mode)| name.ends_with("slurm/job-map.sh") && *mode == 0o755));
    assert!(installed().iter().any(|(name, mode)| name.ends_with("slurm/prolog.sh") && *mode == 0));
    let link = std::fs::read_link(image.join(LINK)).unwrap();
    assert_eq!(link, Path::new("/etc/systemd/system/dcgm-exporter.service"), "as seen from inside the image");
    let modified = || image.join("usr/local/bin/dcgm-exporter").metadata().unwrap().modified().unwrap();
    let before = modified();
    assert!(make("install", &image, &[]).starts_with("nothing has changed\n"));
    assert!(tree(&image) == once && modified() == before);
    let unit = std::fs::read_to_string(image.join("etc/systemd/system/dcgm-exporter.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/local/bin/dcgm-exporter\n"), "{unit}");
    assert!(!unit.contains("@PREFIX@") && !unit.contains("@SYSCONFDIR@"), "{unit}");
}

/// Also in a package, where nothing else of the project is.
#[test]
fn every_guide_is_there_and_its_links_lead_somewhere() {
    let scratch = Scratch::new();
    let image = image(&scratch);
    make("install", &image, &[]);
    let documents = image.join(DOCUMENTS);
    let mut links = 0;
    for (file, _, text) in tree(&documents).into_iter().filter(|(file, ..)| file.ends_with(".md")) {
        let text = String::from_utf8(text).unwrap();
        for rest in text.split("](").skip(1) {
            let target = rest.split([')', '#']).next().unwrap();
            let path = documents.join(&file).parent().unwrap().join(target);
            assert!(target.contains("://") || path.exists(), "{file}: there is no {target}");
            links += 1;
        }
    }
    assert!(links > 15, "{links}");
    let all: Vec<String> = crate::markdown::files().into_iter().map(|(file, _)| file).collect();
    let guides: Vec<&String> = all.iter().filter(|file| file.starts_with("dist/") || *file == "README.md").collect();
    for guide in guides {
        assert!(documents.join(guide).is_file(), "{guide}");
    }
    // What an earlier release put elsewhere.
    let old = image.join("usr/local/share/dcgm-exporter/grafana/make.py");
    std::fs::write(&old, "").unwrap();
    make("install", &image, &[]);
    assert!(!old.exists());
}

/// The man page names every directory of the exporter that is written, read or installed.
#[test]
fn the_man_page_lists_all_files() {
    let page = Command::new(env!("CARGO_BIN_EXE_dcgm-exporter")).args(["--generate", "man"]).output().unwrap().stdout;
    let page = String::from_utf8(page).unwrap().replace('\\', "");
    let files = page.split(".SH FILES").nth(1).unwrap();
    for place in [
        "/etc/dcgm-exporter/default-counters.csv",
        "/etc/dcgm-exporter/*.csv",
        "/etc/dcgm-exporter/environment",
        "/etc/systemd/system/dcgm-exporter.service.d/",
        "/run/dcgm-job-map/",
        "/run/dcgm-exporter/pause-profiling",
        "/var/lib/dcgm-exporter/",
        "/var/spool/dcgm-exporter/",
        "/usr/share/dcgm-exporter/",
        "/usr/share/doc/dcgm-exporter/",
    ] {
        assert!(files.lines().any(|line| line == place), "{place}\n{files}");
    }
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
    // What was installed goes; what was edited or added stays, without the new version of it.
    std::fs::write(image.join("etc/dcgm-exporter/mine.csv"), "").unwrap();
    let said = make("uninstall", &image, &[]);
    assert!(said.contains("/etc/dcgm-exporter has files that were changed or added"), "{said}");
    let left: Vec<String> = names(&image).into_iter().map(|(name, _)| name).collect();
    assert_eq!(left, ["etc/dcgm-exporter/default-counters.csv", "etc/dcgm-exporter/mine.csv"]);
    assert_eq!(std::fs::read_to_string(&edited).unwrap(), "DCGM_FI_DEV_GPU_TEMP, gauge, mine\n");
}

#[test]
fn what_nobody_touched_is_gone_after_uninstall() {
    let scratch = Scratch::new();
    let image = image(&scratch);
    make("install", &image, &[]);
    make("uninstall", &image, &[]);
    assert_eq!(names(&image), []);
    assert!(!image.join("etc/dcgm-exporter").exists());
}

#[test]
fn a_mask_stays() {
    let scratch = Scratch::new();
    let image = image(&scratch);
    let unit = image.join("etc/systemd/system/dcgm-exporter.service");
    std::fs::create_dir_all(unit.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/null", &unit).unwrap();
    let is_masked = || std::fs::read_link(&unit).is_ok_and(|target| target == Path::new("/dev/null"));
    let said = make("install", &image, &[]);
    assert!(said.contains("dcgm-exporter.service is masked and left alone"), "{said}");
    assert!(is_masked() && !image.join(LINK).is_symlink());
    assert!(image.join("usr/local/bin/dcgm-exporter").is_file());
    make("uninstall", &image, &[]);
    assert!(is_masked());
}

/// `Wants=nvidia-dcgm.service`, by a link, where that is enabled, and nowhere else.
#[test]
fn an_engine_is_wanted_only_where_it_is_enabled() {
    let scratch = Scratch::new();
    let image = image(&scratch);
    let system = image.join("etc/systemd/system");
    let wanted = system.join("dcgm-exporter.service.wants/nvidia-dcgm.service");
    make("install", &image, &[]);
    assert!(!wanted.is_symlink());
    let unit = std::fs::read_to_string(system.join("dcgm-exporter.service")).unwrap();
    assert!(!unit.lines().any(|line| line.starts_with("Wants=") && line.contains("nvidia-dcgm")), "{unit}");
    let enabled = system.join("multi-user.target.wants/nvidia-dcgm.service");
    std::os::unix::fs::symlink("/lib/systemd/system/nvidia-dcgm.service", &enabled).unwrap();
    make("install", &image, &[]);
    assert!(wanted.is_symlink());
    std::fs::remove_file(&enabled).unwrap();
    make("install", &image, &[]);
    assert!(!wanted.is_symlink());
    // Masked, although a link from before says enabled.
    std::os::unix::fs::symlink("/lib/systemd/system/nvidia-dcgm.service", &enabled).unwrap();
    std::os::unix::fs::symlink("/dev/null", system.join("nvidia-dcgm.service")).unwrap();
    make("install", &image, &[]);
    assert!(!wanted.is_symlink());
    std::fs::remove_file(system.join("nvidia-dcgm.service")).unwrap();
    make("install", &image, &[]);
    assert!(wanted.is_symlink());
    make("uninstall", &image, &[]);
    assert!(!wanted.is_symlink() && enabled.is_symlink());
}

#[test]
fn a_package_and_make_install_do_not_mix() {
    let scratch = Scratch::new();
    let image = image(&scratch);
    let places = ["PREFIX=/usr", "UNITDIR=/usr/lib/systemd/system", "ENABLE=no"];
    make("install", &image, &places);
    let before = tree(&image);
    for target in ["install", "uninstall"] {
        let output = try_make(target, &image, &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("is installed as a package here"), "{said}");
        assert!(tree(&image) == before, "nothing has changed");
    }
}

/// A fresh clone: one command builds and installs. Without a compiler there is one clear error.
#[test]
fn a_checkout_is_built_first() {
    let scratch = Scratch::new();
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("Makefile"), scratch.path("Makefile")).unwrap();
    let make = |arguments: &[&str]| {
        let output = Command::new("make")
            .current_dir(scratch.path("."))
            .env_remove("BINARY")
            .args(["--no-print-directory", "install"])
            .args(arguments)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (output.status.success(), said.into_owned())
    };
    let (_, said) = make(&["--dry-run", "CARGO=true"]);
    assert!(said.starts_with("true build --release --locked\n"), "{said}");
    // Also one that was built before: it may be older than its source.
    std::fs::create_dir_all(scratch.path("target/release")).unwrap();
    scratch.write("target/release/dcgm-exporter", "");
    let (_, said) = make(&["--dry-run", "CARGO=true"]);
    assert!(said.starts_with("true build --release --locked\n"), "{said}");
    let (_, said) = make(&["--dry-run", "CARGO=true", "BINARY=/somewhere/else"]);
    assert!(!said.contains("build --release"), "{said}");
    std::fs::remove_file(scratch.path("target/release/dcgm-exporter")).unwrap();
    let (succeeded, said) = make(&["CARGO=/nowhere/cargo"]);
    assert!(!succeeded && said.contains("no cargo to build it: install Rust"), "{said}");
    // A release has its own.
    std::fs::create_dir(scratch.path("bin")).unwrap();
    scratch.write("bin/dcgm-exporter", "");
    let (_, said) = make(&["--dry-run", "CARGO=true"]);
    assert!(!said.contains("build --release") && said.contains("BINARY=\"bin/dcgm-exporter\""), "{said}");
}

/// Device files of all GPUs and of MIG, by a stand-in for nvidia-modprobe; nothing without a driver.
#[test]
fn device_files_are_asked_for_where_a_driver_is() {
    let scratch = Scratch::new();
    let modprobe = scratch.write("nvidia-modprobe", "#!/bin/sh\necho \"$@\"\n");
    std::fs::set_permissions(&modprobe, std::fs::Permissions::from_mode(0o755)).unwrap();
    let driver = scratch.path("driver");
    let make_devices = || {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/systemd/make-devices.sh");
        let output = Command::new("sh").arg(script).arg(&driver).arg(&modprobe).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(make_devices(), "", "no driver is loaded by it");
    let write = |file: &str, text: &str| {
        let path = driver.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("version", "NVRM version: 580\n");
    assert_eq!(make_devices(), "-c 255\n");
    write("gpus/0000:1b:00.0/information", "Model: H200\nDevice Minor: \t 3\nGPU Excluded:\t No\n");
    write("gpus/0000:2b:00.0/information", "Device Minor: \t 12\n");
    write("capabilities/mig/monitor", "DeviceFileMinor: 2\n");
    write("capabilities/gpu3/mig/gi1/access", "");
    write("capabilities/gpu3/mig/gi1/ci0/access", "");
    let capabilities = driver.join("capabilities").display().to_string();
    let expected = format!(
        "-c 255 -c 3 -c 12 -f {capabilities}/mig/monitor -f {capabilities}/gpu3/mig/gi1/access \
         -f {capabilities}/gpu3/mig/gi1/ci0/access\n"
    );
    assert_eq!(make_devices(), expected);
}

/// Everything that is linked in is in the file of licences, and nothing else is; `dist/package/third-party.py copyright`
/// writes it.
#[test]
fn licences_of_all_linked_crates_are_there() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/package/copyright")).unwrap();
    let listed: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_prefix("Files: crate ")).collect();
    let mut linked = BTreeSet::new();
    for machine in ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"] {
        let output = Command::new(env!("CARGO"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["tree", "--locked", "--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}"])
            .args(["--package", "dcgm-exporter", "--target", machine])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // `name v1.2.3`, and for a crate that was printed before, ` (*)`.
        for line in String::from_utf8(output.stdout).unwrap().lines().skip(1) {
            let (name, rest) = line.split_once(" v").unwrap();
            linked.insert(format!("{name} {}", rest.split(' ').next().unwrap()));
        }
    }
    let linked: BTreeSet<&str> = linked.iter().map(String::as_str).collect();
    let both = linked.difference(&listed).chain(listed.difference(&linked)).collect::<Vec<_>>();
    assert!(linked.len() > 30 && both.is_empty(), "run dist/package/third-party.py copyright: {both:?}");
}

#[test]
fn other_places_and_not_enabled() {
    let scratch = Scratch::new();
    let image = image(&scratch);
    let places = ["PREFIX=/opt/x-1.0+b_2", "SYSCONFDIR=/opt/x/etc", "UNITDIR=/usr/lib/systemd/system", "ENABLE=no"];
    make("install", &image, &places);
    let unit = std::fs::read_to_string(image.join("usr/lib/systemd/system/dcgm-exporter.service")).unwrap();
    assert!(unit.contains("ExecStart=/opt/x-1.0+b_2/bin/dcgm-exporter\n"), "{unit}");
    assert!(unit.contains("/opt/x/etc/dcgm-exporter/default-counters.csv"), "{unit}");
    let script = std::fs::read_to_string(image.join("opt/x-1.0+b_2/share/dcgm-exporter/slurm/job-map.sh")).unwrap();
    assert!(script.contains(":-/opt/x/etc/dcgm-exporter/environment}"), "{script}");
    assert!(image.join("opt/x/etc/dcgm-exporter/environment").is_file() && !image.join(LINK).is_symlink());
    make("uninstall", &image, &places);
    assert_eq!(names(&image), []);
}

/// Places go into units, scripts and packages, where other characters would mean something else.
#[test]
fn a_place_that_would_break_the_unit_is_refused() {
    let scratch = Scratch::new();
    let image = image(&scratch);
    make("install", &image, &[]);
    let before = tree(&image);
    let bad = [
        ("PREFIX", "/opt/a&b"),
        ("PREFIX", "/opt/a b"),
        ("PREFIX", "/opt/a|b"),
        ("PREFIX", "/opt/a\nb"),
        ("PREFIX", "/opt/\u{e4}"),
        ("PREFIX", "/opt/a\"b"),
        ("PREFIX", "/opt/`touch gone-wrong`"),
        ("PREFIX", "/opt/a\\1b"),
        ("PREFIX", "opt/a"),
        ("SYSCONFDIR", "/etc/a&b"),
        ("SYSCONFDIR", "/etc/a;b"),
        ("UNITDIR", "/etc/systemd/a b"),
        ("DATADIR", "/opt/a|b/dcgm-exporter"),
        ("DATADIR", "/opt/%h/dcgm-exporter"),
        ("TMPFILESDIR", "/opt/a b"),
        ("MANDIR", "/opt/a*"),
        ("COMPLETIONS", "/opt/[ab]"),
        ("ZSH", "/opt/a'b"),
        ("FISH", "/opt/a<b"),
        // Uninstalling removes these two whole.
        ("DATADIR", "/usr/share"),
        ("DOCDIR", "/usr/share/doc/dcgm-exporter/.."),
    ];
    for target in ["install", "uninstall"] {
        for (variable, value) in bad {
            let output = try_make(target, &image, &[&format!("{variable}={value}")]);
            let said = String::from_utf8_lossy(&output.stderr);
            let said: Vec<&str> = said.lines().filter(|line| !line.starts_with("make")).collect();
            let [said] = said[..] else { panic!("not one line for {variable}={value}: {said:?}") };
            assert!(!output.status.success(), "{said}");
            assert!(said.contains(&format!("{variable}=")) && said.contains("Nothing has been changed"), "{said}");
            assert!(tree(&image) == before, "{variable}={value} changed something: {said}");
        }
    }
    assert!(!Path::new(env!("CARGO_MANIFEST_DIR")).join("gone-wrong").exists());
}

/// An image is not left through links in it: those that begin with a slash would lead to the machine that installs.
#[test]
fn a_link_out_of_the_image_is_refused() {
    let scratch = Scratch::new();
    let (image, outside) = (image(&scratch), scratch.path("outside"));
    std::fs::create_dir_all(image.join("usr")).unwrap();
    std::fs::create_dir_all(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, image.join("usr/local")).unwrap();
    for target in ["install", "uninstall"] {
        let output = try_make(target, &image, &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("PREFIX=/usr/local leads out of"), "{said}");
        assert_eq!(names(&image), [("usr/local".to_owned(), 0)]);
        assert_eq!(names(&outside), []);
    }
    // One within the image is followed.
    std::fs::remove_file(image.join("usr/local")).unwrap();
    std::fs::create_dir(image.join("opt")).unwrap();
    std::os::unix::fs::symlink("../opt", image.join("usr/local")).unwrap();
    make("install", &image, &[]);
    assert!(image.join("opt/bin/dcgm-exporter").is_file());
    make("uninstall", &image, &[]);
    assert_eq!(names(&image), [("usr/local".to_owned(), 0)]);
}

/// A drop-in of NVIDIA's unit, and a unit of the site's own: nothing of them is lost without a word.
#[test]
fn settings_that_are_not_in_force_are_named() {
    let scratch = Scratch::new();
    let image = image(&scratch);
    let system = image.join("etc/systemd/system");
    std::fs::create_dir_all(system.join("nvidia-dcgm-exporter.service.d")).unwrap();
    let drop_in = system.join("nvidia-dcgm-exporter.service.d/override.conf");
    std::fs::write(drop_in, include_str!("unit-of-ones-own/override.conf")).unwrap();
    let unit = system.join("dcgm-exporter.service");
    let own = include_str!("unit-of-ones-own/own.service");
    std::fs::write(&unit, own).unwrap();
    let output = try_make("install", &image, &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("is a unit of this site"), "{said}");
    assert!(said.contains("Nothing has been changed") && std::fs::read_to_string(&unit).unwrap() == own, "{said}");
    std::fs::remove_file(&unit).unwrap();
    let said = String::from_utf8(try_make("install", &image, &[]).stderr).unwrap();
    assert!(said.contains("override.conf belongs to nvidia-dcgm-exporter.service and is not in force"), "{said}");
    assert!(said.contains("neither TLS nor a password now"), "{said}");
    let settings = image.join("etc/dcgm-exporter/environment");
    std::fs::write(&settings, "DCGM_EXPORTER_WEB_CONFIG_FILE=/etc/dcgm-exporter/web.yml\n").unwrap();
    let said = String::from_utf8(try_make("install", &image, &[]).stderr).unwrap();
    assert!(said.contains("is not in force") && !said.contains("password"), "{said}");

    // In the scripts of both packages.
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/package");
    for script in ["deb/postinst", "dcgm-exporter.spec"] {
        let text = std::fs::read_to_string(scripts.join(script)).unwrap();
        assert!(text.lines().any(|line| line.starts_with("not_in_force ")), "{script}");
    }
    std::fs::create_dir_all(image.join("usr/lib/systemd/system")).unwrap();
    std::fs::write(image.join("usr/lib/systemd/system/dcgm-exporter.service"), "").unwrap();
    let said = || {
        let script = ". \"$0/engine-link.sh\"; not_in_force \"$1\"";
        let output = Command::new("sh").args(["-euc", script]).arg(&scripts).arg(&image).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(said().contains("which 'make install' has made, hides the unit of this package"), "{}", said());
    std::fs::write(&unit, own).unwrap();
    let said = said();
    assert!(said.contains("a unit of this site, hides the unit of this package and does not read"), "{said}");
    assert!(said.contains("; then: rm "), "{said}");
}

/// Every directory that is written to, and every link that stands where a file is to go. Installing runs as root of the
/// machine that has the image.
#[test]
fn no_link_in_the_image_leads_a_file_out_of_it() {
    for link in [
        "etc/systemd/system",
        "etc/systemd/system/multi-user.target.wants",
        "etc/systemd/system/dcgm-exporter.service.wants",
        "usr/local/lib/tmpfiles.d",
        "usr/local/share/dcgm-exporter/slurm",
        "usr/local/share/dcgm-exporter/prometheus/rules",
        "usr/local/share/bash-completion",
        "usr/local/share/zsh/site-functions",
    ] {
        let scratch = Scratch::new();
        let (image, outside) = (image(&scratch), scratch.path("outside"));
        std::fs::create_dir_all(image.join(link).parent().unwrap()).unwrap();
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(outside.join("dcgm-exporter.service"), "of the host").unwrap();
        std::os::unix::fs::symlink(&outside, image.join(link)).unwrap();
        for target in ["install", "uninstall"] {
            let output = try_make(target, &image, &[]);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(names(&outside).len(), 1, "{target} {link}");
            // Uninstalling removes this whole directory, and of a link the link.
            if target == "install" || !link.contains("share/dcgm-exporter") {
                assert!(!output.status.success() && said.contains("leads out of"), "{target} {link}: {said}");
                assert!(said.contains("Nothing has been changed"), "{target} {link}: {said}");
                assert_eq!(names(&image), [(link.to_owned(), 0)], "{target} {link}");
            }
        }
    }
    // In place of a file: the link is replaced, and what it leads to is left alone.
    let scratch = Scratch::new();
    let (image, outside) = (image(&scratch), scratch.path("outside"));
    std::fs::create_dir_all(&outside).unwrap();
    std::fs::write(outside.join("file"), "of the host").unwrap();
    let before = tree(&outside);
    for (file, _) in installed() {
        let (path, target) = (image.join(&file), if file.ends_with("sh") { "" } else { "file" });
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        if !file.starts_with("etc/dcgm-exporter/") && !file.ends_with(".service") {
            std::os::unix::fs::symlink(outside.join(target), path).unwrap();
        }
    }
    make("install", &image, &[]);
    assert_eq!(names(&image), installed());
    assert!(tree(&outside) == before, "{:?}", names(&outside));
    // A settings file that is a link is the administrator's, wherever it leads.
    let settings = image.join("etc/dcgm-exporter/environment");
    std::fs::remove_file(&settings).unwrap();
    std::os::unix::fs::symlink("/cm/shared/environment", &settings).unwrap();
    let said = make("install", &image, &[]);
    assert!(said.contains("environment was changed and is kept"), "{said}");
    make("uninstall", &image, &[]);
    assert_eq!(names(&image), [("etc/dcgm-exporter/environment".to_owned(), 0)]);
    assert!(tree(&outside) == before, "{:?}", names(&outside));
}

/// Whoever can write into an image may not have files of the machine removed that uninstalls from it.
#[test]
fn only_names_that_are_installed_are_removed() {
    let scratch = Scratch::new();
    let (image, outside) = (image(&scratch), scratch.write("outside", "of the host\n"));
    make("install", &image, &[]);
    let kept = [image.join("etc/passwd"), image.join("etc/dcgm-exporter/sub/x.csv"), image.join("etc/.csv"), outside];
    std::fs::create_dir(image.join("etc/dcgm-exporter/sub")).unwrap();
    let mut lines = String::new();
    for (file, name) in kept.iter().zip([
        "/etc/passwd",
        "/etc/dcgm-exporter/sub/x.csv",
        "/etc/dcgm-exporter/../.csv",
        "/etc/dcgm-exporter/../../../outside",
    ]) {
        std::fs::write(file, "of the host\n").unwrap();
        let sum = Command::new("sha256sum").arg(file).output().unwrap().stdout;
        lines += &format!("{}  {name}\n", String::from_utf8(sum).unwrap().split(' ').next().unwrap());
        std::fs::write(format!("{}.new", file.display()), "").unwrap();
    }
    let sums = image.join("usr/local/share/dcgm-exporter/config.sha256");
    std::fs::write(&sums, std::fs::read_to_string(&sums).unwrap() + &lines).unwrap();
    make("uninstall", &image, &[]);
    for file in kept {
        assert!(file.exists() && Path::new(&format!("{}.new", file.display())).exists(), "{}", file.display());
    }
    assert!(!image.join("etc/dcgm-exporter/environment").exists());
}

/// A full disk, or a power cut: there is the old file or the new one, whole.
#[test]
fn a_full_disk_leaves_the_old_binary() {
    let scratch = Scratch::new();
    let image = image(&scratch);
    make("install", &image, &[]);
    let binary = image.join("usr/local/bin/dcgm-exporter");
    std::fs::write(&binary, "old").unwrap();
    let before = tree(&image);
    // The limit on the size of a file ends a write as a full disk does.
    let output = Command::new("sh")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["-c", "ulimit -f 200; trap '' XFSZ; exec make --no-print-directory install \"$0\" \"$1\""])
        .arg(format!("BINARY={}", env!("CARGO_BIN_EXE_dcgm-exporter")))
        .arg(format!("DESTDIR={}", image.display()))
        .output()
        .unwrap();
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(tree(&image) == before, "{:?}", names(&image));
    make("install", &image, &[]);
    assert!(binary.metadata().unwrap().len() > 1 << 20);
}

/// A typing error makes no new image, and a relative one none within the release.
#[test]
fn an_image_that_is_not_there_is_refused() {
    let scratch = Scratch::new();
    for target in ["install", "uninstall"] {
        for (image, part) in [
            (scratch.path("imgae"), "there is no directory"),
            (scratch.write("file", ""), "there is no directory"),
            ("target".into(), "is relative"),
        ] {
            let output = try_make(target, &image, &[]);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && said.contains(part), "{target} {}: {said}", image.display());
            assert!(said.contains("DESTDIR=") && said.contains("Nothing has been changed"), "{said}");
        }
        assert!(!scratch.path("imgae").exists());
    }
}

/// The last line: what is enabled, and what to do next.
#[test]
fn the_last_line_says_what_comes_next() {
    let scratch = Scratch::new();
    let image = image(&scratch);
    let last = |said: String| said.lines().last().unwrap_or_default().to_owned();
    let said = last(make("install", &image, &[]));
    assert!(said.contains("dcgm-exporter.service is enabled in") && said.contains("--check --root"), "{said}");
    let again = last(make("install", &image, &[]));
    assert_eq!(again, said);
    std::fs::remove_file(image.join(LINK)).unwrap();
    let said = last(make("install", &image, &[]));
    assert!(said.contains("is not enabled in") && said.contains("systemctl --root="), "{said}");
    let said = last(make("uninstall", &image, &[]));
    assert!(said.contains("dcgm-exporter is no longer in"), "{said}");
}

/// On most systems /lib is a link to usr/lib: two names of one directory, and no package.
#[test]
fn two_names_of_a_directory_are_no_package() {
    let scratch = Scratch::new();
    let image = image(&scratch);
    std::fs::create_dir_all(image.join("usr/lib/systemd/system")).unwrap();
    std::fs::create_dir_all(image.join("usr/bin")).unwrap();
    for directory in ["lib", "bin"] {
        std::os::unix::fs::symlink(format!("usr/{directory}"), image.join(directory)).unwrap();
    }
    for unit_directory in ["/lib/systemd/system", "/usr/lib/systemd/system/", "/usr//lib/systemd/system"] {
        let places = [format!("UNITDIR={unit_directory}"), "PREFIX=/usr/".to_owned(), "ENABLE=no".to_owned()];
        let places: Vec<&str> = places.iter().map(String::as_str).collect();
        make("install", &image, &places);
        let said = make("install", &image, &places);
        assert!(said.starts_with("nothing has changed\n"), "{unit_directory}: {said}");
        make("uninstall", &image, &places);
        assert_eq!(names(&image), [("bin".to_owned(), 0), ("lib".to_owned(), 0)], "{unit_directory}");
    }
    // A package's unit is still found by either name.
    make("install", &image, &["UNITDIR=/usr/lib/systemd/system", "PREFIX=/usr", "ENABLE=no"]);
    let output = try_make("install", &image, &[]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("is installed as a package here"));
}

/// What goes into the packages' texts is refused, too, where it would break them, before anything is built.
#[test]
fn a_maintainer_that_would_break_the_packages_is_refused() {
    for bad in ["a\nb <a@b>", "50%team <a@b>", "a\\b <a@b>", "nobody"] {
        let output = Command::new("make")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["--no-print-directory", "dist"])
            .env("PATH", "/usr/bin:/bin")
            .arg(format!("MAINTAINER={bad}"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("MAINTAINER="), "{bad:?}: {said}");
    }
}
