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
            answers.warn(
                QUESTION,
                format!("{shown} does not exist"),
                "systemd-tmpfiles --create dcgm-exporter.conf creates it now; every boot does the same",
            );
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
    let scan = jobs::scan(directory, config.job_map_trust);
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
    const FIX: &str = "systemd-tmpfiles --create dcgm-exporter.conf gives them the modes that prolog and epilog use";
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
    if !open.is_empty() {
        answers.warn(QUESTION, format!("users other than root can write in {shown}: {}", some(&open)), FIX);
    }
    if !readable.is_empty() {
        let found = format!("every user can read whose jobs run here, from {} in {shown}", some(&readable));
        answers.warn(QUESTION, found, FIX);
    }
    if open.is_empty() && readable.is_empty() {
        let (mode, user) = (of_directory.mode() & 0o777, of_directory.uid());
        answers
            .ok(QUESTION, format!("{shown} has mode {mode:04o} and uid {user}; files: {count}, none open to others"));
    }
}
