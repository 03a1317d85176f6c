//! What the running systemd says of units: `systemctl show`, started without a shell, and given little time.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

/// It answers within 50 ms, unless systemd itself hangs.
const LIMIT: Duration = Duration::from_secs(3);
/// Five units take 3 KB.
const LONGEST_ANSWER: u64 = 256 * 1024;

/// A running systemd makes this directory.
const RUNS: &str = "/run/systemd/system";
const PROGRAMS: [&str; 2] = ["/usr/bin/systemctl", "/bin/systemctl"];

/// The unit that is checked, those that start it, NVIDIA's exporter, and host engines.
pub const UNITS: [&str; 6] = [
    "dcgm-exporter.service",
    "dcgm-exporter.socket",
    "nvidia-dcgm-exporter.service",
    "nvidia-dcgm.service",
    "cuda-dcgm.service",
    "dcgm.service",
];
const PROPERTIES: &str = "--property=Id,LoadState,UnitFileState,ActiveState,SubState,Result,MainPID,ExecMainCode,\
                          ExecMainStatus,NRestarts,FragmentPath,DropInPaths,NeedDaemonReload,\
                          StartLimitIntervalUSec,StartLimitBurst,RestartUSec";

/// Properties of units, by the units' names.
#[derive(Debug, Default)]
pub struct Shown(BTreeMap<String, BTreeMap<String, String>>);

impl Shown {
    /// Of `systemctl show` for several units: lines `Property=value`, units parted by an empty line.
    pub(super) fn parse(text: &str) -> Shown {
        let units = text.split("\n\n").map(|unit| -> BTreeMap<String, String> {
            let lines = unit.lines().filter_map(|line| line.split_once('='));
            lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        });
        Shown(units.filter_map(|unit| Some((unit.get("Id")?.clone(), unit))).collect())
    }

    /// A property; empty if it has none, or there is no such unit.
    pub fn of(&self, unit: &str, property: &str) -> &str {
        self.0.get(unit).and_then(|unit| unit.get(property)).map_or("", String::as_str)
    }
}

/// The program that asks the systemd of this node; `None` where none runs.
pub fn program() -> Option<PathBuf> {
    let programs = PROGRAMS.map(PathBuf::from);
    programs.into_iter().find(|program| Path::new(RUNS).is_dir() && program.is_file())
}

/// Asks for all of [`UNITS`]. `None` where it does not answer.
pub fn show(program: &Path) -> Option<Shown> {
    let mut command = Command::new(program);
    command.args(["show", "--no-pager", PROPERTIES]).args(UNITS);
    command.env_clear().env("LC_ALL", "C").env("SYSTEMD_COLORS", "0");
    let text = output(&mut command, LIMIT)?;
    Some(Shown::parse(&text)).filter(|shown| !shown.0.is_empty())
}

/// What a command prints until it closes its output. It is ended then, or at the limit.
fn output(command: &mut Command, limit: Duration) -> Option<String> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let stdout = child.stdout.take()?;
    let (tell, told) = channel();
    let reader = std::thread::Builder::new().name("systemctl".to_owned()).spawn(move || {
        let mut bytes = Vec::new();
        let is_read = stdout.take(LONGEST_ANSWER).read_to_end(&mut bytes).is_ok();
        // Nobody receives it after the limit.
        let _ = tell.send(is_read.then_some(bytes));
    });
    let bytes = reader.ok().and_then(|_| told.recv_timeout(limit).ok()).flatten();
    let _ = child.kill();
    if bytes.is_some() {
        // One that hangs may not end even so; it is left to init.
        let _ = child.wait();
    }
    Some(String::from_utf8_lossy(&bytes?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn units_are_told_apart() {
        let shown = Shown::parse(
            "Id=dcgm-exporter.service\nLoadState=loaded\nDropInPaths=/a.conf /b.conf\n\n\
             Id=nvidia-dcgm.service\nLoadState=not-found\nFragmentPath=\n",
        );
        assert_eq!(shown.of("dcgm-exporter.service", "DropInPaths"), "/a.conf /b.conf");
        assert_eq!(shown.of("nvidia-dcgm.service", "LoadState"), "not-found");
        assert_eq!(shown.of("cuda-dcgm.service", "LoadState"), "");
        assert_eq!(shown.of("nvidia-dcgm.service", "MainPID"), "");
    }

    #[test]
    fn a_program_that_hangs_or_floods_is_ended() {
        let start = Instant::now();
        assert_eq!(output(Command::new("sleep").arg("600"), Duration::from_millis(50)), None);
        assert!(start.elapsed() < Duration::from_secs(60));
        let flood = output(&mut Command::new("yes"), Duration::from_secs(60)).unwrap();
        assert_eq!(flood.len() as u64, LONGEST_ANSWER);
        assert_eq!(output(Command::new("echo").arg("x"), Duration::from_secs(60)).as_deref(), Some("x\n"));
        assert_eq!(output(&mut Command::new("/nowhere"), LIMIT), None);
    }
}
