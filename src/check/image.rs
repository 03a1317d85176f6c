//! `--check --root DIR`: what can be asked of a node's image without running anything of it, so also of an aarch64 image
//! on an x86 head node.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::answers::Answers;
use super::unit::Unit;
use super::{Host, certificates, directories, kernel_log, rights, settings, unit, unused};
use crate::cli::{self, Command};
use crate::config::Config;
use crate::system::files;

/// Where packages put libdcgm; `{}` is the processor.
const LIBRARIES: [&str; 7] = [
    "usr/lib/{}-linux-gnu",
    "usr/lib64",
    "usr/lib",
    "usr/local/lib64",
    "usr/local/lib",
    "usr/local/dcgm/lib64",
    "cm/local/apps/cuda-dcgm/current/lib64",
];
const MACHINES: [&str; 2] = ["x86_64", "aarch64"];
const LEFT_OUT: &str = "driver, engine, GPUs, samples, ports, job map content and host name need the node itself: run \
                        dcgm-exporter --check there";

/// Understands the settings of an image: every file that they name is one of the image.
///
/// Errors: as [`cli::parse`].
pub fn parse(
    host: &Host,
    arguments: Vec<OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Command, String> {
    let mut command = cli::parse_in(arguments, variable, |file| host.at(file))?;
    if let Command::Run(config) = &mut command {
        config.collectors = host.at(&config.collectors);
        config.web_config = config.web_config.as_ref().map(|file| host.at(file));
    }
    Ok(command)
}

/// Asks everything that needs neither the library nor a running system.
pub fn ask(host: &Host, config: &Config, unit: Option<&Unit>, answers: &mut Answers) {
    let machine = program(host, unit, answers);
    library(host, config, machine, answers);
    kernel_log::kernel_log(host, config, unit, answers);
    unit::second_engine(host, config, None, answers);
    if let Some(file) = &config.web_config {
        answers.ok("web configuration", format!("{}: only its TLS files are looked at in an image", file.display()));
    }
    certificates::tls_files(host, config, unit, answers);
    rights::settings(host, config, unit, answers);
    unused::unused(host, config, unit, answers);
    job_map(host, config, answers);
    directories::directories(host, config, unit, answers);
    unit::installed(host, unit, None, answers);
    unit::start_limit(unit, None, answers);
    unit::hidden_files(host, config, unit, answers);
    settings::hostname_of_image(config, answers);
    answers.ok("left out", LEFT_OUT);
}

/// The program that the unit starts. Returns the processor it is for.
fn program(host: &Host, unit: Option<&Unit>, answers: &mut Answers) -> Option<&'static str> {
    const QUESTION: &str = "program";
    const FIX: &str = "install the package, or 'make install' with DESTDIR, in this image";
    let path = host.at(unit?.program.as_ref()?);
    let shown = path.display();
    match fs::metadata(&path) {
        Ok(file) if file.is_file() && file.permissions().mode() & 0o111 != 0 => {}
        Ok(_) => {
            answers.fail(QUESTION, format!("{shown}, which the unit starts, is not a program"), FIX);
            return None;
        }
        Err(error) => {
            answers.fail(QUESTION, format!("{shown}, which the unit starts: {error}"), FIX);
            return None;
        }
    }
    match machine(&path) {
        Some(machine) => {
            answers.ok(QUESTION, format!("{shown}, for {machine}"));
            Some(machine)
        }
        None => {
            answers.fail(QUESTION, format!("{shown} is not a program for x86_64 or aarch64 Linux"), FIX);
            None
        }
    }
}

/// Whether there is a libdcgm for the same processor. It is not loaded.
fn library(host: &Host, config: &Config, program: Option<&str>, answers: &mut Answers) {
    const QUESTION: &str = "library";
    const FIX: &str = "install DCGM in this image: package datacenter-gpu-manager-4-core";
    let found: Vec<PathBuf> = match &config.libdcgm {
        Some(path) => vec![host.at(path)],
        None => {
            let directories = LIBRARIES.iter().flat_map(|directory| MACHINES.map(|one| directory.replace("{}", one)));
            let files = directories.flat_map(|directory| {
                ["libdcgm.so.4", "libdcgm.so.3"].map(|name| host.at(Path::new(&directory).join(name)))
            });
            files.collect()
        }
    };
    let found = found.into_iter().find_map(|path| Some((machine(&path)?, path)));
    match (found, program) {
        (None, _) => answers.warn(QUESTION, "no libdcgm is in the places where its packages put it", FIX),
        (Some((machine, path)), Some(program)) if machine != program => answers.fail(
            QUESTION,
            format!("{} is for {machine}, and the exporter for {program}", path.display()),
            "install both for the processor of the nodes",
        ),
        (Some((machine, path)), _) => {
            answers.ok(QUESTION, format!("{}, for {machine}; it was not loaded", path.display()))
        }
    }
}

/// The processor of an ELF file, by its header.
fn machine(path: &Path) -> Option<&'static str> {
    let mut header = [0; 20];
    files::open(path).ok()?.read_exact(&mut header).ok()?;
    // 64 bit, little endian.
    let is_elf = header.starts_with(b"\x7fELF\x02\x01");
    match u16::from_le_bytes([header[18], header[19]]) {
        62 if is_elf => Some("x86_64"),
        183 if is_elf => Some("aarch64"),
        _ => None,
    }
}

/// A directory below /run exists only on the running node; systemd-tmpfiles makes it there.
fn job_map(host: &Host, config: &Config, answers: &mut Answers) {
    const QUESTION: &str = "job map";
    let Some(directory) = &config.job_map else {
        answers.ok(QUESTION, "not used (--hpc-job-mapping-dir is not set)");
        return;
    };
    let files = ["etc/tmpfiles.d", "run/tmpfiles.d", "usr/local/lib/tmpfiles.d", "usr/lib/tmpfiles.d"];
    let texts = files.iter().flat_map(|files| {
        let entries = fs::read_dir(host.at(files)).into_iter().flatten().flatten();
        entries.map(|entry| files::text(&host.at(entry.path())).unwrap_or_default()).collect::<Vec<_>>()
    });
    let line = texts.into_iter().find_map(|text| {
        let mut lines = text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        lines.find(|words| words.len() > 3 && words[0].starts_with('d') && Path::new(&words[1]) == directory)
    });
    let shown = directory.display();
    match line {
        None => answers.warn(
            QUESTION,
            format!("nothing in the image's tmpfiles.d makes {shown} at boot"),
            "install dcgm-exporter.conf into /usr/lib/tmpfiles.d, with this directory",
        ),
        Some(words) => {
            let mode = u32::from_str_radix(words[2].trim_start_matches(['~', ':']), 8).unwrap_or(0o755);
            let found = format!("{shown} is made at boot with mode {}, for {}", words[2], words[3]);
            let is_roots = matches!(words[3].as_str(), "root" | "0" | "-");
            match mode & 0o022 == 0 && is_roots {
                true => answers.ok(QUESTION, found),
                false => answers.fail(
                    QUESTION,
                    format!("{found}: the exporter refuses a directory that users other than root can write"),
                    "write mode 0755 and user root in its line in tmpfiles.d",
                ),
            }
        }
    }
}
