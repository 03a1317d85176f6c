//! The epilog's line about what a job used, and what a TaskEpilog prints: `dist/slurm/job-summary.sh`, with an exporter's
//! program and a `sacctmgr` that do what the test wants.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::*;
use crate::scripts::*;

const LINE: &str = "2 of 8 GPUs never used; 8 GPUs, 0.03 GPU hours, 37 % busy, 1235 J";

struct Site {
    scratch: Scratch,
}

impl Site {
    fn new() -> Site {
        let site = Site { scratch: Scratch::new() };
        for directory in ["bin", "log"] {
            std::fs::create_dir(site.scratch.path(directory)).unwrap();
        }
        site
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.scratch.write(&format!("bin/{name}"), format!("#!/bin/sh\n{script}\n"));
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    fn exporter_that_prints(&self, text: &str) {
        let text = self.scratch.write("text", text);
        self.program("dcgm-exporter", &format!("cat {}", text.display()));
    }

    fn file(&self) -> PathBuf {
        self.scratch.path("log/jobs")
    }

    fn script(&self, name: &str, to: &str, variables: &[(&str, &str)]) -> Command {
        let mut command = Command::new(directory().join(name));
        self.environment(&mut command, to).envs(variables.iter().copied());
        command
    }

    fn environment<'a>(&self, command: &'a mut Command, to: &str) -> &'a mut Command {
        command
            .env_clear()
            .env("DCGM_EXPORTER_ENVIRONMENT_FILE", "/nonexistent")
            .env("DCGM_JOB_SUMMARY_PATH", self.scratch.path("bin"))
            .env("DCGM_EXPORTER_JOB_SUMMARY_DIR", self.scratch.path("summaries"))
            .env("DCGM_JOB_SUMMARY_TO", to)
            .env("SLURM_JOB_ID", "17")
            .env("SLURM_JOB_USER", "me")
            .env("SLURMD_NODENAME", "node1")
            .stdin(Stdio::null())
    }

    /// What the step of the epilog says.
    #[track_caller]
    fn tell(&self, to: &Path) -> String {
        run(&mut self.script(SUMMARY, &to.display().to_string(), &[]))
    }

    /// The lines of the file, without their times.
    #[track_caller]
    fn written(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.file()).unwrap_or_default();
        assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
        let without_time = |line: &str| {
            let (time, rest) = line.split_at(21);
            assert!(time.ends_with("Z ") && time.as_bytes()[10] == b'T', "{line}");
            rest.to_owned()
        };
        text.lines().map(without_time).collect()
    }
}

fn line(text: &str) -> String {
    format!("node=node1 job=17 user=me summary=\"{text}\"")
}

fn words(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{output:?}");
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_line_for_each_job_in_a_file() {
    let site = Site::new();
    site.exporter_that_prints(&format!("{LINE}\n"));
    let said = site.tell(&site.file());
    assert!(said.contains("job 17: written to ") && said.ends_with("/log/jobs"), "{said}");
    assert_eq!(std::fs::metadata(site.file()).unwrap().permissions().mode() & 0o7777, 0o640);
    site.tell(&site.file());
    assert_eq!(site.written(), [line(LINE), line(LINE)]);
    // Without the setting nothing is done and said.
    let output = site.script(SUMMARY, "", &[]).output().unwrap();
    assert_eq!(words(&output), (String::new(), String::new()));
    for (variable, value) in [("SLURM_JOB_USER", "a\nb"), ("SLURM_JOB_USER", "x user=root"), ("SLURM_JOB_USER", "")] {
        run(&mut site.script(SUMMARY, &site.file().display().to_string(), &[(variable, value)]));
        assert_eq!(site.written().last().unwrap(), &line(LINE).replace("user=me", "user=?"));
    }
}

#[test]
fn it_waits_until_the_exporter_has_finished_but_not_for_ever() {
    let site = Site::new();
    let calls = site.scratch.path("calls");
    let calls = calls.display();
    site.program(
        "dcgm-exporter",
        &format!("echo x >>{calls}; [ $(wc -l <{calls}) -gt 3 ] || printf 'still running: '; echo '{LINE}'"),
    );
    site.tell(&site.file());
    assert_eq!(site.written(), [line(LINE)]);
    // An exporter that has died leaves what it has last written.
    site.exporter_that_prints(&format!("still running: {LINE}\n"));
    let start = Instant::now();
    site.tell(&site.file());
    assert_eq!(site.written()[1], line(&format!("until the last collection: {LINE}")));
    assert!(start.elapsed() >= Duration::from_secs(4), "{:?}", start.elapsed());
}

/// A requeued job keeps its id, and no exporter may have run since.
#[test]
fn a_summary_of_an_earlier_run_is_not_written_again() {
    let site = Site::new();
    site.exporter_that_prints(LINE);
    std::fs::create_dir(site.scratch.path("summaries")).unwrap();
    let updated = |seconds: &str| {
        let about = r#"{"user":"\"updated\":9999999999.000000","updated":"9999999999.5"}"#;
        let file = format!(
            "{{\"format\":1,\"job\":\"17\",\"state\":\"ended\",\"hostname\":\"n\",\"began\":1000.000000,\
             \"updated\":{seconds},\"about\":{about},\"gpus\":[\n{{\"gpu\":\"0\",\"updated\":9999999999.000000}}\n]}}\n"
        );
        site.scratch.write("summaries/17.json", file);
    };
    let to = site.file().display().to_string();
    let since = |start: &str| run(&mut site.script(SUMMARY, &to, &[("SLURM_JOB_START_TIME", start)]));
    updated("1500.999999");
    let said = since("1501");
    assert!(said.contains("job 17: nothing was recorded since its start"), "{said}");
    assert_eq!(site.written(), [""; 0]);
    let in_output = |start: &str| {
        let mut script = site.script(TASK_EPILOG, "", &[("SLURM_JOB_START_TIME", start)]);
        words(&script.output().unwrap()).1
    };
    assert_eq!((in_output("1501").as_str(), in_output("1500").trim_end()), ("", LINE));
    // It is written while this looks.
    let mut child =
        site.script(SUMMARY, &to, &[("SLURM_JOB_START_TIME", "1501")]).stdout(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    updated("1501.000000");
    child.wait().unwrap();
    assert_eq!(site.written().len(), 1);
    // Without a start that can be compared, or a file of this kind, it is written as it is.
    for start in ["1501", "1500", "", "0", "x", "1501 -o 1", "99999999999999999999"] {
        since(start);
    }
    std::fs::write(site.scratch.path("summaries/17.json"), "{").unwrap();
    since("1501");
    assert_eq!(site.written().len(), 9);
}

#[test]
fn whatever_is_printed_is_one_line_and_no_other_field() {
    let site = Site::new();
    for (printed, expected) in [
        ("a\nnode=x job=18\n", "a node=x job=18"),
        ("a\" user=\"root", "a user=root"),
        ("a\u{1b}[2J\r\tb\\`$(id)'", "a[2J b$(id)"),
        ("\u{e4}b", "b"),
        ("%s%n%d -n", "%s%n%d -n"),
    ] {
        site.exporter_that_prints(printed);
        site.tell(&site.file());
        assert_eq!(site.written().last().unwrap(), &line(expected), "{printed:?}");
    }
    assert_eq!(site.written().len(), 5);
    site.exporter_that_prints(&"x".repeat(100_000));
    site.tell(&site.file());
    assert_eq!(site.written().last().unwrap(), &line(&"x".repeat(500)));
}

#[test]
fn a_place_that_others_can_change_is_refused() {
    let site = Site::new();
    site.exporter_that_prints(LINE);
    let path = |name: &str| site.scratch.path(name);
    let chmod = |name: &str, mode: u32| {
        std::fs::set_permissions(path(name), PermissionsExt::from_mode(mode)).unwrap();
    };
    let refused = |name: &str, why: &str| {
        let said = site.tell(&path(name));
        assert!(said.contains("job 17: not written: ") && said.contains(why), "{name}: {said}");
    };
    let elsewhere = site.scratch.write("elsewhere", "root's\n");
    symlink(&elsewhere, path("log/link")).unwrap();
    refused("log/link", "is no regular file");
    symlink(path("nowhere"), path("log/dangling")).unwrap();
    refused("log/dangling", "is no regular file");
    std::fs::create_dir(path("log/directory")).unwrap();
    refused("log/directory", "is no regular file");
    let fifo = path("log/fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    refused("log/fifo", "is no regular file");
    std::fs::hard_link(&elsewhere, path("log/second")).unwrap();
    refused("log/second", "has a second name");
    site.scratch.write("log/open", "");
    chmod("log/open", 0o666);
    refused("log/open", "has mode 666, and others can write to it; chmod go-w ");
    symlink(path("log"), path("way")).unwrap();
    refused("way/jobs", "is reached over a link");
    refused("log/../log/jobs", "is not the plain path");
    refused("missing/jobs", "there is no directory");
    refused("elsewhere/jobs", "there is no directory");
    std::fs::create_dir_all(path("log/deep/er")).unwrap();
    for mode in [0o777, 0o1777, 0o775] {
        chmod("log/deep/er", mode);
        refused("log/deep/er/jobs", &format!("has mode {mode:o}: others can write there"));
    }
    chmod("log/deep/er", 0o755);
    chmod("log/deep", 0o777);
    refused("log/deep/er/jobs", "has mode 777: others can write there");
    chmod("log/deep", 0o1777);
    site.tell(&path("log/deep/er/jobs"));
    assert!(path("log/deep/er/jobs").exists(), "in a sticky directory nobody can replace another's");
    if rustix::process::geteuid().is_root() {
        let give = |name: &str| std::os::unix::fs::chown(path(name), Some(65_534), None).unwrap();
        site.scratch.write("log/nobodys", "");
        give("log/nobodys");
        refused("log/nobodys", "belongs to somebody else");
        give("log/deep");
        refused("log/deep/er/jobs", "belongs to user 65534");
    }
    assert_eq!(std::fs::read_to_string(elsewhere).unwrap(), "root's\n");
    for to in ["jobs", "comments", "-x"] {
        let said = run(&mut site.script(SUMMARY, to, &[]));
        assert!(said.contains("is neither a path nor"), "{said}");
    }
}

/// A place that is made for root, and not below /var/log: there Debian's Slurm has a directory of its own, and Ubuntu's
/// rsyslog makes /var/log its group's.
#[test]
fn the_place_that_is_suggested_is_made_for_it() {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist");
    let text = |file: &str| std::fs::read_to_string(dist.join(file)).unwrap();
    let settings = text("systemd/environment");
    let file = settings.lines().find_map(|line| line.strip_prefix("#DCGM_JOB_SUMMARY_TO=")).unwrap();
    let (directory, _) = file.rsplit_once('/').unwrap();
    assert!(!directory.starts_with("/var/log"), "{directory}");
    let made = format!("d {directory} 0755 root root -");
    assert!(text("tmpfiles/dcgm-exporter.conf").lines().any(|line| line == made), "{made}");
    assert!(text("slurm/README.md").contains(&format!("a path, `{file}`")), "{file}");
    for script in ["uninstall.sh", "package/dcgm-exporter.spec", "package/deb/postrm"] {
        assert!(text(script).contains(directory), "{script} leaves {directory}");
    }
}

#[test]
fn half_a_line_is_ended_first() {
    let site = Site::new();
    site.exporter_that_prints(LINE);
    std::fs::write(site.file(), "2026-11-29T10:00:00Z half of a").unwrap();
    site.tell(&site.file());
    assert_eq!(site.written(), ["half of a".to_owned(), line(LINE)]);
}

#[test]
fn jobs_that_end_together_have_whole_lines() {
    let site = Site::new();
    site.exporter_that_prints(&"y".repeat(400));
    let to = site.file().display().to_string();
    let children: Vec<_> = (0..20)
        .map(|job: u32| {
            let mut command = site.script(SUMMARY, &to, &[("SLURM_JOB_ID", &job.to_string())]);
            command.stdout(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let mut written = site.written();
    written.sort();
    let mut expected: Vec<String> =
        (0..20).map(|job| line(&"y".repeat(400)).replace("job=17", &format!("job={job}"))).collect();
    expected.sort();
    assert_eq!(written, expected);
}

#[test]
fn what_is_missing_or_hangs_fails_no_job() {
    let site = Site::new();
    let to = site.file().display().to_string();
    let said = site.tell(&site.file());
    assert!(said.contains("dcgm-exporter is not found") || Path::new("/usr/bin/dcgm-exporter").exists(), "{said}");
    std::fs::copy(bare_exporter().get_program(), site.scratch.path("bin/dcgm-exporter")).unwrap();
    let said = site.tell(&site.file());
    assert!(said.contains("job 17: ") && said.contains("cannot be opened"), "{said}");
    std::fs::create_dir(site.scratch.path("summaries")).unwrap();
    // A job without GPUs has none: nothing to tell.
    let output = site.script(SUMMARY, &to, &[]).output().unwrap();
    assert_eq!(words(&output), (String::new(), String::new()));
    site.scratch.write("summaries/17.json", "{");
    let said = site.tell(&site.file());
    assert!(said.contains("no summary of job 17 in ") && said.contains("it is no JSON"), "{said}");
    let said = run(&mut site.script(SUMMARY, &to, &[("DCGM_EXPORTER_JOB_SUMMARY_DIR", "")]));
    assert!(said.contains("DCGM_EXPORTER_JOB_SUMMARY_DIR is not set"), "{said}");
    for id in ["", "x", "1/2", "../1", "$(id)"] {
        let said = run(&mut site.script(SUMMARY, &to, &[("SLURM_JOB_ID", id)]));
        assert!(said.contains("is no job id"), "{said}");
    }
    assert!(!site.file().exists());
    let bounded = |limit: u64, command: &mut Command, why: &str| {
        let start = Instant::now();
        let said = run(command);
        assert!(said.contains(why), "{said}");
        assert!(start.elapsed() < Duration::from_secs(limit), "{:?}", start.elapsed());
    };
    // Deaf ones, too. What holds their output would hold this test.
    site.program("dcgm-exporter", "trap '' TERM; sleep 100; sleep 100");
    bounded(10, &mut site.script(SUMMARY, &to, &[]), "did not answer");
    site.exporter_that_prints(LINE);
    site.program("sacctmgr", "trap '' TERM; sleep 100; sleep 100");
    bounded(15, &mut site.script(SUMMARY, "admin-comment", &[]), "no answer within 5 s");
    site.program("sacctmgr", "echo ' Database is busy'; exit 1");
    bounded(10, &mut site.script(SUMMARY, "comment", &[]), "not written: sacctmgr:  Database is busy");
    let bin = site.scratch.path("bin/sacctmgr");
    std::fs::remove_file(bin).unwrap();
    if !Path::new("/usr/bin/sacctmgr").exists() {
        bounded(10, &mut site.script(SUMMARY, "comment", &[]), "sacctmgr is not found");
    }
}

/// A file system that does not answer, for one, which no signal reaches.
#[test]
fn whatever_hangs_it_ends() {
    let site = Site::new();
    site.exporter_that_prints(LINE);
    site.program("stat", "trap '' TERM INT HUP; sleep 100; sleep 100");
    let start = Instant::now();
    let output = site.script(SUMMARY, &site.file().display().to_string(), &[]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert!(!site.file().exists());
}

#[test]
fn a_line_in_the_jobs_record() {
    let site = Site::new();
    site.exporter_that_prints(LINE);
    let arguments = site.scratch.path("arguments");
    site.program("sacctmgr", &format!("printf '%s\\n' \"$@\" >{}", arguments.display()));
    let given = |to: &str, variables: &[(&str, &str)]| {
        let said = run(&mut site.script(SUMMARY, to, variables));
        assert!(said.contains(&format!("job 17: written to {to}")), "{said}");
        let text = std::fs::read_to_string(&arguments).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let record = format!("AdminComment=node1: {LINE}");
    assert_eq!(given("admin-comment", &[]), ["-i", "modify", "job", "where", "jobid=17", "set", &record]);
    let array = [("SLURM_CLUSTER_NAME", "fake"), ("SLURM_ARRAY_JOB_ID", "15"), ("SLURM_ARRAY_TASK_ID", "2")];
    let record = format!("Comment=node1: {LINE}");
    assert_eq!(
        given("comment", &array),
        ["-i", "modify", "job", "where", "jobid=15_2", "cluster=fake", "set", &record]
    );
    // A cluster's name is no further condition.
    let odd = [("SLURM_CLUSTER_NAME", "a set x"), ("SLURM_ARRAY_JOB_ID", "1 2"), ("SLURM_ARRAY_TASK_ID", "2")];
    assert_eq!(given("comment", &odd)[4..6], ["jobid=17", "set"]);
}

#[test]
fn a_job_has_its_summary_in_its_output_once() {
    let site = Site::new();
    site.program("dcgm-exporter", "echo \"$*\"; env | grep -c DCGM; true");
    let printed = |variables: &[(&str, &str)]| {
        let output = site.script(TASK_EPILOG, "", variables).output().unwrap();
        let (out, error) = words(&output);
        // Slurm shows only what goes to standard error.
        assert_eq!(out, "");
        error
    };
    let expected = format!("--job-summary 17 --job-summary-dir {}\n0\n", site.scratch.path("summaries").display());
    assert_eq!(printed(&[]), expected, "a batch script, without the job's settings for an exporter");
    assert_eq!(printed(&[("SLURM_STEP_ID", "4294967291"), ("ENVIRONMENT", "BATCH")]), expected);
    assert_eq!(printed(&[("SLURM_STEP_ID", "0"), ("ENVIRONMENT", "BATCH"), ("SLURM_LOCALID", "0")]), "");
    assert_eq!(printed(&[("SLURM_STEP_ID", "0"), ("SLURM_LOCALID", "0")]), expected, "srun alone");
    assert_eq!(printed(&[("SLURM_STEP_ID", "0"), ("SLURM_LOCALID", "1")]), "");
    // A job without GPUs has no summary, and its user is not told of it.
    site.program("dcgm-exporter", "echo there is none; exit 1");
    assert_eq!(printed(&[]), "");
    assert_eq!(printed(&[("SLURM_JOB_ID", "x")]), "");
    site.program("dcgm-exporter", "trap '' TERM; sleep 100; sleep 100");
    let start = Instant::now();
    assert_eq!(printed(&[]), "");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn the_epilog_does_it_by_itself_where_it_is_set() {
    let site = Site::new();
    site.exporter_that_prints(LINE);
    let map = site.scratch.path("map").display().to_string();
    let settings = format!(
        "DCGM_HPC_JOB_MAPPING_DIR={map}\nDCGM_JOB_SUMMARY_TO=\"{}\"\nDCGM_JOB_SUMMARY_PATH={}\n\
         DCGM_EXPORTER_JOB_SUMMARY_DIR='{}'\n",
        site.file().display(),
        site.scratch.path("bin").display(),
        site.scratch.path("summaries").display()
    );
    let settings = site.scratch.write("environment", settings);
    // Over a link, as in a directory of several epilogs.
    symlink(directory().join(EPILOG), site.scratch.path("10-epilog")).unwrap();
    let of = |program: PathBuf| {
        let mut command = Command::new(program);
        command.env_clear().env("DCGM_EXPORTER_ENVIRONMENT_FILE", &settings).stdin(Stdio::null());
        let variables = [("SLURM_JOB_ID", "17"), ("SLURM_JOB_GPUS", "0"), ("SLURM_JOB_USER", "me")];
        words(&command.envs(variables).env("SLURMD_NODENAME", "node1").output().unwrap())
    };
    let (said, complained) = of(directory().join(PROLOG));
    assert_eq!((said.lines().count(), complained.as_str()), (1, ""), "{said}");
    let (said, complained) = of(site.scratch.path("10-epilog"));
    assert_eq!((said.lines().count(), complained.as_str()), (2, ""), "{said}");
    assert_eq!(site.written(), [line(LINE)]);
    // The job map knows when the prolog ran, by the clock of the node. There is no exporter, and the summary is an old one.
    let old = "{\"format\":1,\"job\":\"17\",\"began\":1000.0,\"updated\":1500.0,\"about\":{}}\n";
    std::fs::create_dir(site.scratch.path("summaries")).unwrap();
    site.scratch.write("summaries/17.json", old);
    of(directory().join(PROLOG));
    let (said, _) = of(site.scratch.path("10-epilog"));
    assert!(said.contains("job 17: nothing was recorded since its start"), "{said}");
    assert_eq!(site.written().len(), 1);
    std::fs::remove_file(site.scratch.path("summaries/17.json")).unwrap();
    // A map that cannot be used keeps nobody from it.
    std::fs::remove_dir_all(&map).unwrap();
    of(site.scratch.path("10-epilog"));
    assert_eq!(site.written().len(), 2);
}

#[test]
fn every_shell_that_a_node_may_have() {
    let site = Site::new();
    site.exporter_that_prints("a\"b\n");
    for (index, shell) in ["dash", "bash", "busybox"].into_iter().enumerate() {
        let mut command = Command::new(shell);
        if shell == "busybox" {
            command.arg("sh");
        }
        command.arg(directory().join(SUMMARY));
        // In this very shell.
        site.environment(&mut command, &site.file().display().to_string()).env("DCGM_JOB_SUMMARY_LIMITED", "yes");
        let Ok(output) = command.output() else { continue };
        let (said, complained) = words(&output);
        assert!(said.contains("written to ") && complained.is_empty(), "{shell}: {said}{complained}");
        assert!(site.written().len() > index / 2, "{shell}");
        assert_eq!(site.written().last().unwrap(), &line("ab"), "{shell}");
    }
}

/// What the guide has Slurm run: the scripts, and nothing where the package is gone.
#[test]
fn the_files_of_the_guide_outlive_the_package() {
    let guide = std::fs::read_to_string(directory().join("README.md")).unwrap();
    let start = guide.find("   for name in prolog").unwrap();
    let commands = &guide[start..start + guide[start..].find("   ```").unwrap()];
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("map")).unwrap();
    let etc = scratch.path("").display().to_string();
    for place in [directory().display().to_string(), "/nonexistent/slurm".to_owned()] {
        let commands = commands.replace("/etc/slurm", &etc).replace("/usr/share/dcgm-exporter/slurm", &place);
        assert!(Command::new("sh").args(["-ec", &commands]).status().unwrap().success());
        for name in ["prolog", "epilog"] {
            let output = Command::new(scratch.path(&format!("dcgm-{name}.sh")))
                .env_clear()
                .env("DCGM_HPC_JOB_MAPPING_DIR", scratch.path("map"))
                .env("DCGM_EXPORTER_ENVIRONMENT_FILE", "/nonexistent")
                .envs([("SLURM_JOB_ID", "17"), ("SLURM_JOB_GPUS", "0")])
                .output()
                .unwrap();
            let (said, complained) = words(&output);
            assert!(output.status.success() && complained.is_empty(), "{complained}");
            assert_eq!(
                said.contains(&format!("dcgm-exporter {name}: job 17")),
                place != "/nonexistent/slurm",
                "{said}"
            );
        }
    }
}
