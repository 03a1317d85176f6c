//! What `--check` asks of the directories that the service writes to, for summaries of jobs, for `file_sd` and for Unix
//! sockets: whether its unit lets it, and whether they are such as the exporter accepts.

use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::Host;
use super::answers::Answers;
use super::unit::Unit;
use crate::config::Config;
use crate::config::listen::ListenAddress;
use crate::summary::store::Store;

const SUMMARIES: &str = "job summaries";
const FILE_SD: &str = "file_sd";
/// Below the unit's StateDirectory=.
const USUAL: &str = "DCGM_EXPORTER_JOB_SUMMARY_DIR=/var/lib/dcgm-exporter/jobs";

/// Settings of a unit that make a directory for it, and where.
const OWN_DIRECTORIES: [(&str, &str); 4] = [
    ("StateDirectory", "/var/lib"),
    ("RuntimeDirectory", "/run"),
    ("CacheDirectory", "/var/cache"),
    ("LogsDirectory", "/var/log"),
];

pub fn directories(host: &Host, config: &Config, unit: Option<&Unit>, answers: &mut Answers) {
    if let Some(path) = config.job_summaries.as_deref().filter(|_| config.accounts_jobs()) {
        let usual = format!("{USUAL}, or a drop-in with ReadWritePaths={}", path.display());
        if is_let(path, SUMMARIES, &usual, unit, answers) && !host.is_image {
            summaries(path, unit, answers);
        }
    }
    if let Some(path) = &config.file_sd_dir {
        let fix = format!("a drop-in for the unit: [Service] ReadWritePaths={}", path.display());
        if is_let(path, FILE_SD, &fix, unit, answers) && !host.is_image {
            writable(path, FILE_SD, answers);
        }
    }
    sockets(config, unit, answers);
}

/// Whether the unit lets the service make its Unix sockets; systemd makes those that it passes.
fn sockets(config: &Config, unit: Option<&Unit>, answers: &mut Answers) {
    for address in config.listen.iter().filter(|_| !config.systemd_socket) {
        let ListenAddress::Unix { path, .. } = address else { continue };
        let above = path.parent().unwrap_or(path).display();
        let fix = format!("unix:///run/dcgm-exporter/http.sock, or a drop-in with [Service] ReadWritePaths={above}");
        is_let(path, "socket", &fix, unit, answers);
    }
}

/// Whether the unit lets the service write there.
fn is_let(path: &Path, question: &'static str, fix: &str, unit: Option<&Unit>, answers: &mut Answers) -> bool {
    let Some(unit) = unit else { return true };
    let shown = path.display();
    let is_below = |directories: &[PathBuf]| directories.iter().any(|directory| path.starts_with(directory));
    // What PrivateTmp= hides is told of by another question.
    let is_private = unit.is_on("PrivateTmp") && ["/tmp", "/var/tmp"].iter().any(|private| path.starts_with(private));
    if is_private || is_below(&own(unit)) {
        return true;
    }
    let words = unit.list("ReadWritePaths").into_iter().flat_map(str::split_whitespace);
    let writable: Vec<PathBuf> = words.map(|word| word.trim_start_matches(['-', '+']).into()).collect();
    if unit.setting("ProtectSystem") == Some("strict") && !is_below(&writable) {
        let found = format!("the service cannot write to {shown}, because its unit has ProtectSystem=strict");
        answers.fail(question, found, fix);
        return false;
    }
    if unit.is_on("DynamicUser") {
        let found = format!("the service has a user of its own (DynamicUser=), to whom {shown} cannot belong");
        answers.fail(question, found, "a directory below the unit's StateDirectory=, such as /var/lib/dcgm-exporter");
        return false;
    }
    true
}

/// Directories that systemd makes for the service and gives to its user.
fn own(unit: &Unit) -> Vec<PathBuf> {
    let of_setting = |(setting, above): (&'static str, &'static str)| {
        let names = unit.list(setting).into_iter().flat_map(str::split_whitespace);
        names.map(move |name| Path::new(above).join(name.split(':').next().unwrap_or(name)))
    };
    OWN_DIRECTORIES.into_iter().flat_map(of_setting).collect()
}

fn summaries(path: &Path, unit: Option<&Unit>, answers: &mut Answers) {
    let shown = path.display();
    let is_own = unit.is_some_and(|unit| own(unit).iter().any(|directory| path.starts_with(directory)));
    if !path.exists() {
        match path.parent() {
            Some(above) if above.is_dir() || is_own => {
                answers.ok(SUMMARIES, format!("{shown} is made when the exporter starts"));
            }
            above => {
                let above = above.unwrap_or(path).display();
                answers.fail(SUMMARIES, format!("there is no {above} to make {shown} in"), format!("mkdir -p {above}"));
            }
        }
        return;
    }
    // A unit's own user is not known here; systemd gives it what is its own.
    let checked = match is_own && unit.is_some_and(|unit| unit.is_on("DynamicUser")) {
        true => Store::read_in(path).map(drop),
        false => Store::read_in(path).and_then(|store| store.check_owner()),
    };
    match checked {
        Ok(()) => writable(path, SUMMARIES, answers),
        Err(why) => {
            answers.fail(SUMMARIES, why, "no summaries are written until then; the exporter makes a missing one itself")
        }
    }
}

fn writable(path: &Path, question: &'static str, answers: &mut Answers) {
    let shown = path.display();
    match rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => answers.ok(question, format!("{shown} can be written")),
        Err(error) => answers.fail(question, format!("{shown}: {error}"), "let the exporter's user write there"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(ask: impl FnOnce(&mut Answers)) -> Vec<(&'static str, String)> {
        let mut answers = Answers::default();
        ask(&mut answers);
        answers.iter().map(|answer| (answer.status.name(), answer.found.clone())).collect()
    }

    fn found(config: &Config, lines: &str) -> Vec<(&'static str, String)> {
        let host = Host { root: "/".into(), is_image: true, systemctl: None };
        asked(|answers| directories(&host, config, Some(&Unit::of(lines)), answers))
    }

    #[test]
    fn what_the_unit_lets_the_service_write() {
        let config = |path: &str| Config {
            job_map: Some("/run/x".into()),
            job_accounting: true,
            job_summaries: Some(path.into()),
            ..Config::default()
        };
        let unit = include_str!("../../dist/systemd/dcgm-exporter.service");
        let remote = format!("{unit}\n{}", include_str!("../../dist/systemd/remote.conf"));
        for unit in [unit, remote.as_str()] {
            assert_eq!(found(&config("/var/lib/dcgm-exporter/jobs"), unit), []);
            let refused = found(&config("/var/lib/dcgm-jobs"), unit);
            assert!(refused.len() == 1 && refused[0].1.contains("ProtectSystem=strict"), "{refused:?}");
        }
        let with_path = |unit: &str| format!("{unit}\n[Service]\nReadWritePaths=/srv -/var/lib/dcgm-jobs\n");
        assert_eq!(found(&config("/var/lib/dcgm-jobs"), &with_path(unit)), []);
        let refused = found(&config("/var/lib/dcgm-jobs"), &with_path(&remote));
        assert!(refused.len() == 1 && refused[0].1.contains("DynamicUser="), "{refused:?}");
        assert_eq!(found(&config("/anywhere"), "[Service]\nProtectSystem=full\n"), []);
        // Nothing is written without a job map.
        assert_eq!(found(&Config { job_map: None, ..config("/anywhere") }, unit), []);
        // A Unix socket to serve on.
        let socket = |path: &str| {
            let address = ListenAddress::parse(&format!("unix://{path}")).unwrap();
            Config { listen: vec![address], ..Config::default() }
        };
        assert_eq!(found(&socket("/run/dcgm-exporter/http.sock"), unit), []);
        let refused = found(&socket("/run/http.sock"), unit);
        assert!(refused.len() == 1 && refused[0].1.contains("cannot write to /run/http.sock"), "{refused:?}");
        assert_eq!(found(&socket("/srv/http.sock"), &with_path(unit)), []);
        let config = Config { file_sd_dir: Some("/shared/targets".into()), ..Config::default() };
        let refused = found(&config, unit);
        assert!(refused.len() == 1 && refused[0].1.contains("/shared/targets"), "{refused:?}");
        assert_eq!(found(&config, &format!("{unit}\n[Service]\nReadWritePaths=/shared\n")), []);
    }

    #[test]
    fn what_is_there() {
        let root = std::env::temp_dir().join(format!("dcgm-exporter-directories-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir_all(&root).unwrap();
        let ask = |path: &Path| {
            let answers = asked(|answers| summaries(path, None, answers));
            answers.into_iter().map(|(status, found)| format!("{status} {found}")).collect::<Vec<_>>().join("\n")
        };
        let jobs = root.join("jobs");
        assert!(ask(&jobs).starts_with("ok ") && ask(&jobs).ends_with("is made when the exporter starts"));
        assert!(ask(&root.join("a/b")).starts_with("fail there is no "));
        std::fs::create_dir(&jobs).unwrap();
        let chmod = |mode| std::fs::set_permissions(&jobs, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        chmod(0o755);
        assert!(ask(&jobs).ends_with("can be written"), "{}", ask(&jobs));
        chmod(0o777);
        assert!(ask(&jobs).starts_with("fail ") && ask(&jobs).contains("others can write there"), "{}", ask(&jobs));
        std::fs::remove_dir_all(&root).unwrap();
    }
}
