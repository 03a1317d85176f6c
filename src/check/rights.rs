//! Whether the service can read a file with the rights that its unit gives it: root without CAP_DAC_OVERRIDE may not read
//! what belongs to somebody else and is closed, which root's check itself can.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Host;
use super::answers::Answers;
use super::unit::Unit;
use crate::config::Config;

/// Who the service is to the kernel when it opens a file.
struct Rights {
    user: u32,
    groups: Vec<u32>,
    /// It reads everything: `CAP_DAC_OVERRIDE` or `CAP_DAC_READ_SEARCH`.
    reads_all: bool,
    /// As the unit has it, for what is said.
    who: String,
}

impl Rights {
    /// `None` where the user of the unit is not known here.
    fn of(host: &Host, unit: &Unit) -> Option<Rights> {
        let table = |file: &str| fs::read_to_string(host.at(file)).unwrap_or_default();
        let (users, groups) = (table("/etc/passwd"), table("/etc/group"));
        let name = unit.setting("User").filter(|name| !name.is_empty());
        let is_dynamic = unit.is_on("DynamicUser");
        let (user, group) = match name {
            // Such a user is no other user's, and in no group but its own.
            _ if is_dynamic => (u32::MAX - 1, Some(u32::MAX - 1)),
            None | Some("root" | "0") => (0, Some(0)),
            Some(name) => {
                let row = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
                let row = row.into_iter().find(|row| row[0] == name || row.get(2) == Some(&name))?;
                (row.get(2)?.parse().ok()?, row.get(3)?.parse().ok())
            }
        };
        let rows = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let rows: Vec<(&str, u32, &str)> =
            rows.filter_map(|row| Some((row[0], row.get(2)?.parse().ok()?, *row.get(3).unwrap_or(&"")))).collect();
        let named: Vec<&str> = ["Group", "SupplementaryGroups"]
            .iter()
            .flat_map(|setting| unit.list(setting))
            .flat_map(str::split_whitespace)
            .collect();
        let is_in = |(group, id, members): &&(&str, u32, &str)| {
            let is_named = named.iter().any(|one| one == group || *one == id.to_string());
            is_named || name.is_some_and(|name| members.split(',').any(|member| member == name))
        };
        let groups = rows.iter().filter(is_in).map(|(_, id, _)| *id).chain(group).collect();
        let reading = ["CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH"];
        let has = |capability: &&str| unit.has_capability(capability) && (user == 0 || unit.is_ambient(capability));
        let reads_all = reading.iter().any(has);
        let who = match (is_dynamic, user) {
            (true, _) => "the unit has a user of its own (DynamicUser=)".to_owned(),
            (_, 0) => "the unit runs as root without CAP_DAC_OVERRIDE".to_owned(),
            _ => format!("the unit runs as {}", name.unwrap_or_default()),
        };
        Some(Rights { user, groups, reads_all, who })
    }

    /// What keeps the service from reading a file: the file, or a directory above it. `None` also where that is not known.
    fn closed(&self, host: &Host, file: &Path) -> Option<String> {
        let file = fs::canonicalize(file).ok()?;
        // Directories that an image lies in are none of the node's.
        let within = file.strip_prefix(fs::canonicalize(&host.root).ok()?).ok()?;
        let mut path = host.root.clone();
        for part in within.components() {
            path.push(part);
            let found = fs::metadata(&path).ok()?;
            let mut list = [0u8; 4096];
            if rustix::fs::getxattr(&path, "system.posix_acl_access", &mut list[..]).is_ok() {
                // An access control list is not looked into.
                return None;
            }
            let mode = found.mode() & 0o777;
            let of = match (found.uid() == self.user, self.groups.contains(&found.gid())) {
                (true, _) => mode >> 6,
                (_, true) => mode >> 3,
                _ => mode,
            };
            let needed = if found.is_dir() { 0o1 } else { 0o4 };
            if of & needed == 0 {
                let (path, user, group) = (path.display(), found.uid(), found.gid());
                return Some(format!("{path} has mode {mode:04o}, uid {user} and gid {group}"));
            }
        }
        None
    }
}

/// Files that the settings name, other than those of the web configuration.
pub fn settings(host: &Host, config: &Config, unit: Option<&Unit>, answers: &mut Answers) {
    let files = [
        ("counters file", Some(config.counters_file())),
        ("configuration file", config.config_file.as_deref()),
        ("web configuration", config.web_config.as_deref()),
    ];
    for (question, file) in files.into_iter().filter_map(|(question, file)| Some((question, file?))) {
        readable(host, unit, question, file, answers);
    }
}

/// Says so where the service cannot read a file that is there.
pub fn readable(host: &Host, unit: Option<&Unit>, question: &'static str, file: &Path, answers: &mut Answers) {
    let rights = unit.and_then(|unit| Rights::of(host, unit)).filter(|rights| !rights.reads_all);
    let Some(rights) = rights else { return };
    if let Some(closed) = rights.closed(host, file) {
        let fix = match rights.user {
            0 => "give it to root (chown root), or let everybody read it (chmod o+r; a directory: o+x)",
            _ => "give it to that user or its group; 'systemctl show -p User -p Group dcgm-exporter' names them",
        };
        let file: PathBuf = file.into();
        answers.fail(
            question,
            format!("the service cannot read {}: {closed}, and {}", file.display(), rights.who),
            fix,
        );
    }
}
