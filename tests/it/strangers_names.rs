//! Names of jobs and users are whatever their owners wrote: nobody's terminal acts on them.

use dcgm_exporter::system::printable::acts_on_terminal;

use crate::common::*;
use crate::node::*;
use crate::scripts::*;

/// Escape, bell, carriage return, C1, right-to-left, line separator, zero width.
const NAME: &str = "a\x1b[2Jb\x07c\rd\u{9b}e\u{202e}f\u{2028}g\u{200b}h";

#[track_caller]
fn is_harmless(text: &str) {
    let found = text.chars().find(|character| *character != '\n' && acts_on_terminal(*character));
    assert_eq!(found, None, "{}", text.escape_debug());
}

#[test]
fn names_of_jobs_reach_no_terminal() {
    let node = Node::new(scenario(&[0, 1]));
    node.scratch.write("jobs/0", "17\n");
    node.scratch.write("jobs/job.17", format!("user={NAME}\njob_name={NAME}\n"));
    let directory = node.scratch.path("jobs").display().to_string();
    let summaries = node.scratch.path("summaries").display().to_string();
    let arguments = ["--hpc-job-mapping-dir", &directory, "--job-summary-dir", &summaries];
    let mut exporter = Exporter::start(node.exporter(GPU_TEMP).args(arguments));
    let page = exporter.page_with("the job is known", |page| page.contains("dcgm_exporter_job_info{"));
    is_harmless(&page);
    assert!(
        page.contains("user=\"a\\\\x1b[2Jb\\\\x07c\\\\x0dd\\\\x9be\\\\u{202e}f\\\\u{2028}g\\\\u{200b}h\""),
        "{page}"
    );
    let head = "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text; version=1.0.0\r\nConnection: close\r\n\r\n";
    let open_metrics = request(exporter.port, head).unwrap();
    assert!(open_metrics.body.contains("dcgm_exporter_job_info{") && open_metrics.body.ends_with("# EOF\n"));
    is_harmless(&open_metrics.body);
    let once = node.exporter(GPU_TEMP).args(arguments).arg("--once").output().unwrap();
    assert!(once.status.success(), "{once:?}");
    is_harmless(&String::from_utf8(once.stdout).unwrap());
    exporter.until("it is written", |_| node.scratch.path("summaries/17.json").exists().then_some(()));
    for job in ["17", NAME] {
        let printed = bare_exporter().args(["--job-summary", job, "--job-summary-dir", &summaries]).output().unwrap();
        is_harmless(&String::from_utf8([printed.stdout, printed.stderr].concat()).unwrap());
    }
}

#[test]
fn the_prolog_writes_them_so_that_nobody_else_has_to_care() {
    let scratch = Scratch::new();
    let map = scratch.path("map");
    std::fs::create_dir(&map).unwrap();
    let variables =
        [("SLURM_JOB_ID", "17"), ("SLURM_JOB_GPUS", "0"), ("SLURM_JOB_NAME", NAME), ("SLURM_JOB_USER", "J\u{fc}rg")];
    run(&mut script(PROLOG, &map, &variables));
    let text = std::fs::read_to_string(map.join("job.17")).unwrap();
    is_harmless(&text);
    assert!(text.contains("job_name=a?[2Jb?c?d?e?f?g?h\n") && text.contains("user=J\u{fc}rg\n"), "{text}");
}
