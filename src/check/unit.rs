//! The installed systemd unit: its files, whether it is enabled, and the settings it gives to the exporter.
//!
//! Read from its files, so that it works without a running systemd, as in an image.

use std::path::{Path, PathBuf};

use super::Host;
use super::answers::Answers;

const NAME: &str = "dcgm-exporter";
/// The unit of NVIDIA's own exporter, which uses the same port.
const PEER: &str = "nvidia-dcgm-exporter.service";

/// Where units lie, the first one winning.
const DIRECTORIES: [&str; 5] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unit {
    /// The unit, its drop-ins and its environment files.
    pub sources: Vec<PathBuf>,
    /// Of `ExecStart=`, without the program.
    pub arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Unit {
    /// `None` if it is not installed.
    pub fn find(root: &Path) -> Option<Unit> {
        let unit = DIRECTORIES.iter().map(|directory| root.join(directory).join(format!("{NAME}.service")));
        let unit = unit.into_iter().find(|file| file.is_file())?;
        let drop_ins = DIRECTORIES.iter().map(|directory| root.join(directory).join(format!("{NAME}.service.d")));
        let mut drop_ins: Vec<PathBuf> = drop_ins.flat_map(|directory| entries(&directory)).collect();
        drop_ins.retain(|file| file.extension().is_some_and(|extension| extension == "conf"));
        // By name, whichever directory they lie in; of two with one name the first directory's counts.
        drop_ins.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
        drop_ins.dedup_by(|later, earlier| later.file_name() == earlier.file_name());
        let mut found = Unit::default();
        let mut files = Vec::new();
        for file in std::iter::once(unit).chain(drop_ins) {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            found.sources.push(file);
            found.read(&text, root, &mut files);
        }
        // Variables of EnvironmentFile= override those of Environment=, in any order.
        for file in files {
            let Ok(text) = std::fs::read_to_string(&file) else { continue };
            let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
            let pairs = lines.filter_map(|line| line.split_once('='));
            found.environment.extend(pairs.map(|(name, value)| (name.trim().to_owned(), words(value).join(" "))));
            found.sources.push(file);
        }
        Some(found)
    }

    /// The value of a variable as the service has it.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn read(&mut self, text: &str, root: &Path, files: &mut Vec<PathBuf>) {
        // Of systemd's specifiers the one that our own drop-in has.
        let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let joined = text.replace("\\\n", " ").replace("%H", &node);
        let mut section = "";
        for line in joined.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
            if line.starts_with('[') {
                section = line;
                continue;
            }
            let Some((key, value)) = line.split_once('=').filter(|_| section == "[Service]") else { continue };
            match (key.trim(), value.trim()) {
                ("ExecStart", value) => self.arguments = words(value).into_iter().skip(1).collect(),
                ("Environment", "") => self.environment.clear(),
                ("Environment", value) => {
                    let pairs = words(value).into_iter().filter_map(|word| {
                        word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
                    });
                    self.environment.extend(pairs);
                }
                ("EnvironmentFile", "") => files.clear(),
                ("EnvironmentFile", value) => {
                    files.push(root.join(value.trim_start_matches('-').trim_start_matches('/')))
                }
                _ => {}
            }
        }
    }
}

/// Words as systemd splits them, quotes taken off; a text with an open quote is one word.
fn words(text: &str) -> Vec<String> {
    shlex::split(text).unwrap_or_else(|| vec![text.trim().to_owned()])
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// Whether the unit is installed and starts at boot, and whether another exporter's does.
pub fn installed(host: &Host, unit: Option<&Unit>, answers: &mut Answers) {
    const QUESTION: &str = "unit";
    match unit {
        None => answers.warn(
            QUESTION,
            "dcgm-exporter.service is not installed",
            "install it with 'make install' or the package; then: systemctl enable --now dcgm-exporter",
        ),
        Some(unit) => {
            let file = unit.sources.first().map(|file| file.display().to_string()).unwrap_or_default();
            let by = [format!("{NAME}.service"), format!("{NAME}.socket")];
            let enabled: Vec<&str> = by.iter().map(String::as_str).filter(|name| is_enabled(host, name)).collect();
            match enabled[..] {
                [] => answers.warn(
                    QUESTION,
                    format!("{file} is not enabled: it does not start at boot"),
                    "systemctl enable --now dcgm-exporter",
                ),
                _ => answers.ok(QUESTION, format!("{file}, enabled by {}", enabled.join(" and "))),
            }
        }
    }
    if is_enabled(host, PEER) {
        answers.warn(
            QUESTION,
            format!("{PEER} is enabled, too, and uses the same port"),
            format!("systemctl disable --now {PEER}"),
        );
    }
}

/// Some target wants it.
fn is_enabled(host: &Host, unit: &str) -> bool {
    let directories = DIRECTORIES.iter().flat_map(|directory| entries(&host.root.join(directory)));
    let wants = directories.filter(|path| path.extension().is_some_and(|extension| extension == "wants"));
    // The link's target may lie outside of the root that is looked at.
    wants.into_iter().any(|directory| directory.join(unit).symlink_metadata().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_from_the_unit_its_drop_ins_and_their_files() {
        let root = std::env::temp_dir().join(format!("dcgm-exporter-unit-{}", std::process::id()));
        let write = |file: &str, text: &str| {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(Unit::find(&root), None);
        write(
            "usr/lib/systemd/system/dcgm-exporter.service",
            "[Unit]\nExecStart=no\n[Service]\nExecStart=/usr/bin/dcgm-exporter -a \\\n  :9500 --log-format=\"json\"\n\
             Environment=A=1 \"B=two words\" C=3\nEnvironmentFile=-/etc/dcgm-exporter/environment\n",
        );
        write(
            "etc/systemd/system/dcgm-exporter.service.d/50-x.conf",
            "[Service]\n# Environment=A=9\nEnvironment=A=2\n",
        );
        write("usr/lib/systemd/system/dcgm-exporter.service.d/50-x.conf", "[Service]\nEnvironment=A=never\n");
        write("etc/dcgm-exporter/environment", "# x\nC='4'\nD=5 6\n");
        let unit = Unit::find(&root).unwrap();
        assert_eq!(unit.arguments, ["-a", ":9500", "--log-format=json"]);
        let variables = ["A", "B", "C", "D", "E"].map(|name| unit.variable(name));
        assert_eq!(variables, [Some("2"), Some("two words"), Some("4"), Some("5 6"), None]);
        assert_eq!(unit.sources.len(), 3, "{:?}", unit.sources);

        let host = Host { root: root.clone() };
        let status = |unit: Option<&Unit>| {
            let mut answers = Answers::default();
            installed(&host, unit, &mut answers);
            answers.iter().map(|answer| (answer.status, answer.found.clone())).collect::<Vec<_>>()
        };
        assert!(status(None)[0].1.contains("not installed"));
        assert!(status(Some(&unit))[0].1.contains("not enabled"));
        let wants = root.join("etc/systemd/system/multi-user.target.wants");
        std::fs::create_dir_all(&wants).unwrap();
        for name in ["dcgm-exporter.service", PEER] {
            std::os::unix::fs::symlink(Path::new("/nowhere").join(name), wants.join(name)).unwrap();
        }
        let both = status(Some(&unit));
        assert!(both[0].1.contains("enabled by dcgm-exporter.service") && both[1].1.contains(PEER), "{both:?}");
        std::fs::remove_dir_all(&root).unwrap();
    }
}
