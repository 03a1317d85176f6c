//! What `--check` asks of the job map: whether it can be read, and only root can write it.

use super::answers::Answers;
use crate::config::{Config, JobMapTrust};
use crate::jobs;
use crate::jobs::directory::Directory;

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
                format!("{shown}: No such file or directory"),
                "create it now with systemd-tmpfiles --create dcgm-exporter.conf; every boot does so, too",
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
    let scan = jobs::scan(directory, config.job_map_trust);
    for problem in &scan.problems {
        answers.warn(QUESTION, problem.clone(), "correct or remove the file; prolog and epilog write whole files");
    }
    if scan.more_problems > 0 {
        answers.warn(QUESTION, format!("{} more problems", scan.more_problems), "correct these first");
    }
    answers.ok(QUESTION, format!("{shown}, {}", scan.map.summary()));
}
