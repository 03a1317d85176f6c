//! What `--check` asks of the job map: whether it can be read, and only root can write it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::answers::Answers;
use crate::config::{Config, JobMapTrust};
use crate::jobs;
use crate::jobs::directory::Directory;
use crate::system::files::is_roots_or_own;

const QUESTION: &str = "job map";
/// The directory that the package makes.
const USUAL: &str = "/run/dcgm-job-map";

fn is_usual(directory: &Path) -> bool {
    directory.components().as_path() == Path::new(USUAL)
}

/// Whether the job map can be read, and nobody else can write it.
pub fn job_map(config: &Config, answers: &mut Answers) {
    let Some(directory) = &config.job_map else {
        answers.ok(QUESTION, "not used (--hpc-job-mapping-dir is not set)");
        return;
    };
    let shown = directory.display();
    // What the exporter would refuse is to be known on a test bed, too.
    match (Directory::open(directory, JobMapTrust::RootOnly), config.job_map_trust) {
        (Ok(Some(_)), _) => {}
        (Ok(None), _) => {
            let fix = match is_usual(directory) {
                true => {
                    "systemd-tmpfiles --create dcgm-exporter.conf creates it now; every boot does the same".to_owned()
                }
                false => format!("mkdir -m 0755 {shown}, after every boot if it is below /run; or use {USUAL}"),
            };
            answers.warn(QUESTION, format!("{shown} does not exist"), fix);
            return;
        }
        (Err(refused), JobMapTrust::RootOnly) => {
            answers.fail(QUESTION, refused.found, refused.fix);
            return;
        }
        (Err(refused), JobMapTrust::Anybody) => {
            answers.warn(QUESTION, format!("{}, but --job-map-insecure allows it", refused.found), refused.fix);
        }
    }
    permissions(directory, answers);
    let scan = jobs::scan(directory, config.job_map_trust, &config.job_map_idle);
    if config.job_map_idle.is_empty() && scan.map.ids().contains("0") {
        let found = format!("{shown} names job 0, which is how some sites mark a GPU without a job");
        answers.warn(QUESTION, found, "--job-map-idle 0 if no job has this id");
    }
    for problem in &scan.problems {
        answers.warn(QUESTION, problem.clone(), "correct or remove the file; prolog and epilog write whole files");
    }
    if scan.more_problems > 0 {
        answers.warn(QUESTION, format!("{} more problems", scan.more_problems), "correct these first");
    }
    answers.ok(QUESTION, format!("{shown}, {}", scan.map.summary()));
}

/// Who may read and write what the prolog wrote. Files that name users and accounts are closed to others, so that Slurm's
/// PrivateData=jobs holds.
fn permissions(directory: &Path, answers: &mut Answers) {
    const QUESTION: &str = "job map permissions";
    /// As many as the exporter looks at.
    const MOST_FILES: usize = 8192;
    let Ok(of_directory) = fs::metadata(directory) else { return };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().take(MOST_FILES);
    let files = entries.filter_map(|entry| {
        // Of a link the link itself.
        let file = fs::symlink_metadata(entry.path()).ok().filter(fs::Metadata::is_file)?;
        Some((entry.file_name().to_string_lossy().into_owned(), file.mode() & 0o777, file.uid()))
    });
    let (mut open, mut readable, mut count) = (Vec::new(), Vec::new(), 0);
    for (name, mode, user) in files {
        count += 1;
        if mode & 0o022 != 0 || !is_roots_or_own(user) {
            open.push(format!("{name} (mode {mode:04o}, uid {user})"));
        } else if mode & 0o004 != 0 && name.starts_with("job.") {
            readable.push(name);
        }
    }
    let shown = directory.display();
    let some = |names: &[String]| match names {
        [first] => first.clone(),
        names => format!("{} and {} more", names[0], names.len() - 1),
    };
    // Whose modes the package knows.
    let fix = |by_hand: String| match is_usual(directory) {
        true => {
            "systemd-tmpfiles --create dcgm-exporter.conf gives them the modes that prolog and epilog use".to_owned()
        }
        false => by_hand,
    };
    if !open.is_empty() {
        let fix = fix(format!("chmod go-w {shown}/FILE and chown root {shown}/FILE, and correct what writes it"));
        answers.warn(QUESTION, format!("users other than root can write in {shown}: {}", some(&open)), fix);
    }
    if !readable.is_empty() {
        let found = format!("every user can read whose jobs run here, from {} in {shown}", some(&readable));
        answers.warn(QUESTION, found, fix(format!("chmod o-r {shown}/job.*, and correct what writes them")));
    }
    if open.is_empty() && readable.is_empty() {
        let (mode, user) = (of_directory.mode() & 0o777, of_directory.uid());
        answers
            .ok(QUESTION, format!("{shown} has mode {mode:04o} and uid {user}; files: {count}, none open to others"));
    }
}
