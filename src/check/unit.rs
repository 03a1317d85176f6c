//! The installed systemd unit: its files, whether it is enabled, and the settings it gives to the exporter.
//!
//! Where a systemd runs, it says which files count and what state the unit is in. In an image its files are read as
//! systemd would.

use std::path::{Path, PathBuf};

use super::Host;
use super::answers::Answers;
use super::environment;
use super::systemd::Shown;
use crate::config::Config;
use crate::config::engine::{Address, EngineSelection};
use crate::config::listen::ListenAddress;
use crate::system::files;

const NAME: &str = "dcgm-exporter";
pub(super) const SERVICE: &str = "dcgm-exporter.service";
/// The unit of NVIDIA's own exporter, which uses the same port.
pub(super) const PEER: &str = "nvidia-dcgm-exporter.service";
/// Services of a host engine: NVIDIA's package, Base Command Manager's, and DCGM before release 2.
const ENGINES: [&str; 3] = ["nvidia-dcgm.service", "cuda-dcgm.service", "dcgm.service"];

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
    /// Of `ExecStart=`.
    pub program: Option<PathBuf>,
    /// Of `ExecStart=`, without the program.
    pub arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// Lines of environment files that systemd leaves out: file, name and value.
    pub refused: Vec<(PathBuf, String, String)>,
    /// Everything in `[Unit]` and `[Service]`.
    settings: Vec<(String, String)>,
    /// It is a link to /dev/null: `systemctl mask`.
    is_masked: bool,
}

impl Unit {
    /// `None` if it is not installed.
    pub fn find(host: &Host, shown: Option<&Shown>) -> Option<Unit> {
        let (unit, drop_ins) = match shown {
            Some(shown) => {
                let unit = Some(shown.of(SERVICE, "FragmentPath")).filter(|path| !path.is_empty());
                let is_masked = shown.of(SERVICE, "LoadState") == "masked";
                if is_masked {
                    return Some(Unit { is_masked, ..Unit::default() });
                }
                let drop_ins = words(shown.of(SERVICE, "DropInPaths"));
                (host.at(unit?), drop_ins.into_iter().map(|path| host.at(path)).collect())
            }
            None => files(host)?,
        };
        if unit == Path::new("/dev/null") {
            return Some(Unit { is_masked: true, ..Unit::default() });
        }
        let mut found = Unit::default();
        let mut files = Vec::new();
        for file in std::iter::once(unit).chain(drop_ins) {
            let text = files::text(&file).unwrap_or_default();
            found.sources.push(file);
            found.read(&text, host, &mut files);
        }
        // Variables of EnvironmentFile= override those of Environment=, in any order.
        for file in files {
            let Some(text) = files::text(&file) else { continue };
            let read = environment::read(&text);
            found.refused.extend(read.refused.into_iter().map(|(name, value)| (file.clone(), name, value)));
            found.environment.extend(read.variables);
            found.sources.push(file);
        }
        Some(found)
    }

    /// A unit of these lines alone.
    pub fn of(lines: &str) -> Unit {
        let mut unit = Unit::default();
        let host = Host { root: "/".into(), is_image: false, systemctl: None };
        unit.read(lines, &host, &mut Vec::new());
        unit
    }

    /// The value of a variable as the service has it.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Variables and their values, as they are assigned.
    pub fn assigned(&self) -> impl Iterator<Item = &(String, String)> {
        self.environment.iter()
    }

    /// The last value of a setting of the unit.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All values of a setting that may be given more than once; an empty one takes back those before it.
    pub fn list(&self, name: &str) -> Vec<&str> {
        let values: Vec<&str> =
            self.settings.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect();
        let start = values.iter().rposition(|value| value.is_empty()).map_or(0, |at| at + 1);
        values[start..].to_vec()
    }

    /// Whether a setting is on; some have other values than yes and no.
    pub fn is_on(&self, name: &str) -> bool {
        self.setting(name).is_some_and(|value| !matches!(value, "" | "no" | "false" | "off" | "0"))
    }

    /// Whether the service may have a capability.
    pub fn has_capability(&self, name: &str) -> bool {
        let lines = self.settings.iter().filter(|(known, _)| known == "CapabilityBoundingSet");
        // All, until a line says otherwise; further lines add or, with a tilde, take away. An empty one takes back all.
        let mut has = None;
        for (_, line) in lines {
            let is_named = |line: &str| line.split_whitespace().any(|word| word == name);
            has = Some(match line.strip_prefix('~') {
                Some("") => true,
                Some(line) => has.unwrap_or(true) && !is_named(line),
                None => !line.is_empty() && (has.unwrap_or(false) || is_named(line)),
            });
        }
        has.unwrap_or(true)
    }

    /// Whether a service that is not root has a capability.
    pub fn is_ambient(&self, name: &str) -> bool {
        self.list("AmbientCapabilities").iter().any(|line| line.split_whitespace().any(|word| word == name))
    }

    fn read(&mut self, text: &str, host: &Host, files: &mut Vec<PathBuf>) {
        // Of systemd's specifiers the one that our own drop-in has.
        let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let joined = text.replace("\\\n", " ").replace("%H", &node);
        let mut section = "";
        for line in joined.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
            if line.starts_with('[') {
                section = line;
                continue;
            }
            let is_read = matches!(section, "[Unit]" | "[Service]");
            let Some((key, value)) = line.split_once('=').filter(|_| is_read) else { continue };
            let (key, value) = (key.trim(), value.trim());
            self.settings.push((key.to_owned(), value.to_owned()));
            if section != "[Service]" {
                continue;
            }
            match (key, value) {
                ("ExecStart", value) => {
                    let mut words = words(value).into_iter();
                    // Signs before the path, such as '-' and '!', are no part of it.
                    let program = words.next().map(|word| word.trim_start_matches(['-', '@', ':', '+', '!']).into());
                    self.program = program.filter(|program: &PathBuf| program.is_absolute());
                    self.arguments = words.collect();
                }
                ("Environment", "") => self.environment.clear(),
                ("Environment", value) => {
                    let pairs = words(value).into_iter().filter_map(|word| {
                        word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
                    });
                    self.environment.extend(pairs);
                }
                ("EnvironmentFile", "") => files.clear(),
                ("EnvironmentFile", value) => files.push(host.at(value.trim_start_matches('-'))),
                _ => {}
            }
        }
    }
}

/// The unit's file and its drop-ins, as systemd would find them.
fn files(host: &Host) -> Option<(PathBuf, Vec<PathBuf>)> {
    // A link to /dev/null is there, too.
    let unit = places(host).into_iter().find(|file| file.symlink_metadata().is_ok())?;
    if std::fs::read_link(&unit).is_ok_and(|target| target == Path::new("/dev/null")) {
        return Some(("/dev/null".into(), Vec::new()));
    }
    let unit = Some(host.at(unit)).filter(|file| file.is_file())?;
    Some((unit, drop_ins(host, SERVICE)))
}

/// Where the unit may lie.
pub(super) fn places(host: &Host) -> Vec<PathBuf> {
    DIRECTORIES.iter().map(|directory| host.at(directory).join(SERVICE)).collect()
}

/// The drop-ins of a unit: by name, whichever directory they lie in; of two with one name the first directory's counts.
pub(super) fn drop_ins(host: &Host, unit: &str) -> Vec<PathBuf> {
    let found = DIRECTORIES.iter().map(|directory| host.at(Path::new(directory).join(format!("{unit}.d"))));
    let mut found: Vec<PathBuf> = found.flat_map(|directory| entries(&directory)).collect();
    found.retain(|file| file.extension().is_some_and(|extension| extension == "conf"));
    found.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    found.dedup_by(|later, earlier| later.file_name() == earlier.file_name());
    found.into_iter().map(|file| host.at(file)).collect()
}

/// Words as systemd splits them, quotes taken off; a text with an open quote is one word.
fn words(text: &str) -> Vec<String> {
    shlex::split(text).unwrap_or_else(|| vec![text.trim().to_owned()])
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// Whether the unit is installed and starts at boot, and whether another exporter's does.
pub fn installed(host: &Host, unit: Option<&Unit>, shown: Option<&Shown>, answers: &mut Answers) {
    const QUESTION: &str = "unit";
    match unit {
        None => answers.warn(
            QUESTION,
            "dcgm-exporter.service is not installed",
            "install it with 'make install' or the package; then: systemctl enable --now dcgm-exporter",
        ),
        Some(unit) if unit.is_masked => answers.warn(
            QUESTION,
            format!("{SERVICE} is masked: nothing can start it"),
            "systemctl unmask dcgm-exporter",
        ),
        Some(unit) => {
            let file = unit.sources.first().map(|file| file.display().to_string()).unwrap_or_default();
            let by = [format!("{NAME}.service"), format!("{NAME}.socket")];
            let enabled: Vec<&str> =
                by.iter().map(String::as_str).filter(|name| is_enabled(host, shown, name)).collect();
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
    if shown.is_some_and(|shown| shown.of(SERVICE, "NeedDaemonReload") == "yes") {
        answers.warn(
            QUESTION,
            format!("the files of {SERVICE} have changed since systemd read them"),
            "systemctl daemon-reload; systemctl restart dcgm-exporter",
        );
    }
    if is_enabled(host, shown, PEER) {
        answers.warn(
            QUESTION,
            format!("{PEER} is enabled, too, and uses the same port"),
            format!("systemctl disable --now {PEER}"),
        );
    }
}

/// Whether systemd stops to start the exporter after some failures.
pub fn start_limit(unit: Option<&Unit>, shown: Option<&Shown>, answers: &mut Answers) {
    const QUESTION: &str = "start limit";
    let Some(unit) = unit.filter(|unit| !unit.is_masked) else { return };
    if shown.is_some_and(|shown| shown.of(SERVICE, "Result") == "start-limit-hit") {
        answers.fail(
            QUESTION,
            "systemd has given up starting the exporter, after too many failures in a short time",
            "correct what its log says (journalctl -u dcgm-exporter); then: systemctl reset-failed dcgm-exporter; \
             systemctl start dcgm-exporter",
        );
    }
    let of_systemd = |property: &str| shown.map(|shown| shown.of(SERVICE, property)).filter(|text| !text.is_empty());
    let of_files = |names: &[&str]| names.iter().find_map(|name| unit.setting(name)).filter(|text| !text.is_empty());
    // systemd's own defaults.
    let interval = of_systemd("StartLimitIntervalUSec")
        .or_else(|| of_files(&["StartLimitIntervalSec", "StartLimitInterval"]))
        .map_or(Some(10.0), seconds);
    let burst = of_systemd("StartLimitBurst").or_else(|| of_files(&["StartLimitBurst"])).map_or(Some(5.0), seconds);
    let pause = of_systemd("RestartUSec").or_else(|| of_files(&["RestartSec"])).map_or(Some(0.1), seconds);
    let (Some(interval), Some(burst), Some(pause)) = (interval, burst, pause) else {
        answers.warn(
            QUESTION,
            "the start limit of the unit cannot be understood",
            "see systemctl show -p StartLimitIntervalUSec dcgm-exporter",
        );
        return;
    };
    // With such a pause the number of starts is not reached within the interval.
    if interval == 0.0 || burst == 0.0 || interval <= burst * pause {
        answers.ok(QUESTION, "none: systemd starts a failed exporter again and again");
    } else {
        answers.warn(
            QUESTION,
            format!(
                "systemd gives up after {burst} failed starts within {interval} s, and the node has no metrics until \
                 somebody starts the exporter"
            ),
            "StartLimitIntervalSec=0 in [Unit]: systemctl edit dcgm-exporter",
        );
    }
}

/// A time span of systemd: seconds, or with units as in `1min 30s`.
fn seconds(text: &str) -> Option<f64> {
    match text {
        "infinity" => Some(f64::INFINITY),
        text => text.parse().ok().or_else(|| humantime::parse_duration(text).ok().map(|span| span.as_secs_f64())),
    }
}

/// Whether a service starts a second engine beside that of the exporter, or none where the exporter needs one.
pub fn second_engine(host: &Host, config: &Config, shown: Option<&Shown>, answers: &mut Answers) {
    const QUESTION: &str = "second engine";
    let enabled: Vec<&str> = ENGINES.into_iter().filter(|unit| is_enabled(host, shown, unit)).collect();
    let names = enabled.join(" and ");
    let runs = |unit: &&str| shown.is_some_and(|shown| shown.of(unit, "ActiveState") == "active");
    match (&config.engine, &enabled[..]) {
        (EngineSelection::Remote(Address::Tcp(_)), _) => {
            answers.ok(QUESTION, "not asked: the host engine may be on another node")
        }
        (EngineSelection::Remote(Address::Unix(path)), []) => answers.warn(
            QUESTION,
            format!("the exporter uses the host engine at {path}, but no service of one is enabled"),
            "systemctl enable --now nvidia-dcgm",
        ),
        (EngineSelection::Remote(_) | EngineSelection::Auto(_), [_, ..]) => {
            answers.ok(QUESTION, format!("none: {names} is enabled, and the exporter uses it"))
        }
        (_, []) => answers.ok(QUESTION, "none: no service of a host engine is enabled"),
        // 'other engines' has what it means for these GPUs.
        (EngineSelection::Embedded, units) if units.iter().all(runs) => {
            answers.ok(QUESTION, format!("{names} runs beside the exporter's own; see 'other engines'"))
        }
        (EngineSelection::Embedded, _) => answers.warn(
            QUESTION,
            format!(
                "{names} is enabled, and the exporter starts an engine of its own: before Hopper only one of them has the \
                 profiling hardware, and both take memory"
            ),
            "use the host engine: DCGM_REMOTE_HOSTENGINE_INFO=auto; or disable that service",
        ),
    }
}

/// Files that the service does not see, although they are there. Those of an image lie elsewhere on the node.
pub fn hidden_files(host: &Host, config: &Config, unit: Option<&Unit>, answers: &mut Answers) {
    let Some(unit) = unit else { return };
    let named = [
        ("counters file", Some(config.counters_file())),
        ("web configuration", config.web_config.as_deref()),
        ("job map", config.job_map.as_deref()),
        ("job summaries", config.job_summaries.as_deref()),
        ("file_sd", config.file_sd_dir.as_deref()),
        ("library", config.libdcgm.as_deref()),
    ];
    let sockets = config.listen.iter().filter_map(|address| match address {
        ListenAddress::Unix { path, .. } if !config.systemd_socket => Some(("socket", Some(path.as_path()))),
        _ => None,
    });
    let named: Vec<(&str, Option<&Path>)> = named.into_iter().chain(sockets).collect();
    let on_node = |path: &Path| match path.strip_prefix(&host.root) {
        Ok(inside) if host.is_image => Path::new("/").join(inside),
        _ => path.to_owned(),
    };
    for (setting, directories) in
        [("PrivateTmp", &["/tmp", "/var/tmp"][..]), ("ProtectHome", &["/home", "/root", "/run/user"])]
    {
        let is_hidden = |path: &Path| unit.is_on(setting) && directories.iter().any(|hidden| path.starts_with(hidden));
        for &(question, path) in &named {
            if let Some(path) = path.map(on_node).filter(|path| is_hidden(path)) {
                answers.fail(
                    question,
                    format!("the service does not see {}, because its unit has {setting}=", path.display()),
                    "put it elsewhere, such as below /etc/dcgm-exporter or /run",
                );
            }
        }
    }
}

/// Some target wants it.
fn is_enabled(host: &Host, shown: Option<&Shown>, unit: &str) -> bool {
    if let Some(shown) = shown {
        return shown.of(unit, "UnitFileState").starts_with("enabled");
    }
    let directories = DIRECTORIES.iter().flat_map(|directory| entries(&host.at(directory)));
    let wants = directories.filter(|path| path.extension().is_some_and(|extension| extension == "wants"));
    // The link's target may lie outside of the root that is looked at.
    wants.into_iter().any(|directory| host.at(directory).join(unit).symlink_metadata().is_ok())
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
        let host = Host { root: root.clone(), is_image: false, systemctl: None };
        assert_eq!(Unit::find(&host, None), None);
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
        let unit = Unit::find(&host, None).unwrap();
        assert_eq!(unit.arguments, ["-a", ":9500", "--log-format=json"]);
        let variables = ["A", "B", "C", "D", "E"].map(|name| unit.variable(name));
        assert_eq!(variables, [Some("2"), Some("two words"), Some("4"), Some("5 6"), None]);
        assert_eq!(unit.sources.len(), 3, "{:?}", unit.sources);

        let status = |unit: Option<&Unit>| {
            let mut answers = Answers::default();
            installed(&host, unit, None, &mut answers);
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

    fn asked(ask: impl FnOnce(&mut Answers)) -> Vec<(&'static str, String)> {
        let mut answers = Answers::default();
        ask(&mut answers);
        answers.iter().map(|answer| (answer.status.name(), answer.found.clone())).collect()
    }

    #[test]
    fn a_start_limit_that_can_be_reached() {
        for (lines, expected) in [
            ("[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestartSec=5\n", "ok"),
            // systemd's defaults: five starts take 25 s, and are looked for in 10.
            ("[Service]\nRestartSec=5\n", "ok"),
            ("[Service]\nRestart=on-failure\n", "warn"),
            ("[Unit]\nStartLimitIntervalSec=5min\nStartLimitBurst=10\n[Service]\nRestartSec=5\n", "warn"),
            ("[Unit]\nStartLimitIntervalSec=infinity\n", "warn"),
            ("[Unit]\nStartLimitIntervalSec=soon\n", "warn"),
        ] {
            let found = asked(|answers| start_limit(Some(&Unit::of(lines)), None, answers));
            assert_eq!(found.iter().map(|(status, _)| *status).collect::<Vec<_>>(), [expected], "{lines}: {found:?}");
        }
        assert!(asked(|answers| start_limit(None, None, answers)).is_empty());
    }

    #[test]
    fn files_that_the_service_does_not_see() {
        let config =
            Config { job_map: Some("/tmp/jobs".into()), libdcgm: Some("/home/a/x.so".into()), ..Config::default() };
        let host = Host { root: "/".into(), is_image: false, systemctl: None };
        let found = |lines| asked(|answers| hidden_files(&host, &config, Some(&Unit::of(lines)), answers));
        assert_eq!(found("[Service]\nPrivateTmp=no\n"), []);
        let both = found("[Service]\nPrivateTmp=yes\nProtectHome=yes\n");
        assert!(both.len() == 2 && both[0].1.contains("/tmp/jobs") && both[1].1.contains("/home/a"), "{both:?}");
    }

    #[test]
    fn an_empty_value_takes_back_those_before_it() {
        let unit = Unit::of(
            "[Service]\nDeviceAllow=a\nDeviceAllow=\nDeviceAllow=b r\nDeviceAllow=c\nExecStart=-/usr/bin/x -a\n",
        );
        assert_eq!(unit.list("DeviceAllow"), ["b r", "c"]);
        assert_eq!(unit.program.as_deref(), Some(Path::new("/usr/bin/x")));
        assert!(!unit.is_on("PrivateTmp"));
    }
}
