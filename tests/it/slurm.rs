//! The prolog and epilog of `dist/slurm`, alone and together with the real binary.
//!
//! Variables are those that slurmd 22.05 gives its scripts, and those that are known of newer ones.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::common::*;
use crate::scripts::*;

fn job<'a>(id: &'a str, gpus: &'a str) -> [(&'a str, &'a str); 2] {
    [("SLURM_JOB_ID", id), ("SLURM_JOB_GPUS", gpus)]
}

fn lines(map: &Path, name: &str) -> Vec<String> {
    files(map).remove(name).unwrap_or_default().into_iter().collect()
}

fn names(map: &Path) -> Vec<String> {
    files(map).into_keys().collect()
}

#[test]
fn lists_ranges_and_uuids() {
    let scratch = Scratch::new();
    let map = scratch.path("map");
    run(&mut script(PROLOG, &map, &job("17", "0,2-3,7")));
    assert_eq!(names(&map), ["0", "2", "3", "7", "job.17"]);
    assert_eq!(std::fs::metadata(&map).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(std::fs::metadata(map.join("0")).unwrap().permissions().mode() & 0o7777, 0o644);
    assert_eq!(std::fs::read(map.join("0")).unwrap(), b"17\n");
    run(&mut script(PROLOG, &map, &job("18", "GPU-Ab12-cd,MIG-0f-1,0")));
    assert_eq!((lines(&map, "0"), lines(&map, "GPU-Ab12-cd")), (vec!["17".into(), "18".into()], vec!["18".into()]));
    // A requeued job has a prolog again.
    run(&mut script(PROLOG, &map, &job("17", "0")));
    assert_eq!(lines(&map, "0"), ["17", "18"]);
    run(&mut script(EPILOG, &map, &job("17", "")));
    run(&mut script(EPILOG, &map, &job("18", "5")));
    assert_eq!(names(&map), Vec::<String>::new());
}

#[test]
fn other_variables_where_slurm_does_not_say() {
    let scratch = Scratch::new();
    for (variable, value, file) in [
        ("SLURM_STEP_GPUS", "3", "3"),
        ("GPU_DEVICE_ORDINAL", "4", "4"),
        ("CUDA_VISIBLE_DEVICES", "GPU-a-1", "GPU-a-1"),
    ] {
        let map = scratch.path(variable);
        run(&mut script(PROLOG, &map, &[("SLURM_JOBID", "1"), (variable, value)]));
        assert_eq!(names(&map), [file, "job.1"]);
    }
    let map = scratch.path("none");
    let said = run(&mut script(PROLOG, &map, &[("SLURM_JOB_ID", "1"), ("CUDA_VISIBLE_DEVICES", "NoDevFiles")]));
    assert!(said.contains("job 1 has no GPU") && !map.exists(), "{said}");
}

/// Values end at 256 bytes, and no character is cut in two, whichever shell runs the script.
#[test]
fn long_names_end_with_a_whole_character() {
    let scratch = Scratch::new();
    let map = scratch.path("map");
    for shell in ["dash", "bash"] {
        if Command::new(shell).arg("-c").arg("true").status().is_err() {
            continue;
        }
        // \u{101} and \u{205} have bytes that mean something to dash.
        for character in ["x", "\u{e4}", "\u{101}", "\u{205}", "\u{20ac}", "\u{8041}", "\u{1f600}"] {
            for ascii in 250..=257 {
                let name = "a".repeat(ascii) + &character.repeat(200);
                let mut command = Command::new(shell);
                command.arg(directory().join(PROLOG)).env_clear().env("DCGM_HPC_JOB_MAPPING_DIR", &map);
                command.env("DCGM_EXPORTER_ENVIRONMENT_FILE", "/nonexistent").env("SLURM_JOB_NAME", &name);
                run(command.envs(job("17", "0")));
                let text = String::from_utf8(std::fs::read(map.join("job.17")).unwrap());
                let text = text.unwrap_or_else(|error| panic!("{shell}, {ascii} and {character}: {error}"));
                let expected = &name[..name.floor_char_boundary(256)];
                let found = text.lines().find_map(|line| line.strip_prefix("job_name="));
                assert_eq!(found, Some(expected), "{shell}, {ascii} and {character}");
            }
        }
    }
}

#[test]
fn what_is_no_id_and_no_gpu_becomes_no_file() {
    let scratch = Scratch::new();
    let map = scratch.path("map");
    for id in ["", "x", "1/2", "../1", "$(id)", "1 2", "999999999999999999999"] {
        for name in [PROLOG, EPILOG] {
            let said = run(&mut script(name, &map, &job(id, "0")));
            assert!(said.contains(&format!("'{id}' is no job id")), "{said}");
        }
    }
    assert!(!map.exists());
    let said = run(&mut script(PROLOG, &map, &job("5", "1,../2,a b,*,07,3-,-4,5-4-3,1234,GPU-/x,2-3")));
    assert_eq!(names(&map), ["1", "2", "3", "job.5"], "{said}");
    for rubbish in ["'../2'", "'a b'", "'*'", "'07'", "'3-'", "'-4'", "'5-4-3'", "'1234'", "'GPU-/x'"] {
        assert!(said.contains(rubbish), "{said} lacks {rubbish}");
    }
}

#[test]
fn what_lies_there_is_left_alone() {
    use std::os::unix::fs::symlink;
    let scratch = Scratch::new();
    let (map, elsewhere) = (scratch.path("map"), scratch.write("elsewhere", "17\n"));
    std::fs::create_dir_all(map.join("1")).unwrap();
    symlink(&elsewhere, map.join("2")).unwrap();
    std::fs::write(map.join("notes of an administrator"), "8\n").unwrap();
    std::fs::write(map.join("3"), "16\n\n  \n15").unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, map.join("4"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    // Left by one that was killed.
    std::fs::create_dir(map.join(".new")).unwrap();
    std::fs::write(map.join(".new/5"), "99\n").unwrap();
    let said = run(&mut script(PROLOG, &map, &job("17", "1,2,3")));
    assert!(said.contains("'1 (a directory)'"), "{said}");
    assert_eq!(lines(&map, "3"), ["15", "16", "17"]);
    assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "17\n");
    assert!(
        map.join("1").is_dir()
            && !map.join("2").is_symlink()
            && names(&map.join(".new")).is_empty()
            && !map.join("5").exists()
    );
    run(&mut script(EPILOG, &map, &job("17", "")));
    assert_eq!(lines(&map, "3"), ["15", "16"]);
    assert_eq!(lines(&map, "notes of an administrator"), ["8"]);
    assert!(!map.join("2").exists() && std::fs::read_to_string(&elsewhere).unwrap() == "17\n");
}

#[test]
fn a_job_that_asks_for_a_feature_pauses_profiling() {
    let scratch = Scratch::new();
    let pauses = |features: &str, constraint: &str| {
        let map = scratch.path("map");
        let mut variables = job("17", "0").to_vec();
        variables.extend([("DCGM_JOB_MAP_PAUSE_PROFILING", features), ("SLURM_JOB_CONSTRAINTS", constraint)]);
        run(&mut script(PROLOG, &map, &variables));
        let facts = lines(&map, "job.17");
        assert!(facts.iter().any(|line| line.starts_with("start_time=")), "{facts:?}");
        facts.contains(&"profiling=pause".to_owned())
    };
    for constraint in [
        "nsight",
        "a100&nsight",
        "[x|nsight]",
        "nsight*2",
        "(x|nsight)&y",
        "x,nsight",
        "[(x&nsight)*1&y*4]",
        "x & nsight",
        "profiler",
        " nsight ",
    ] {
        assert!(pauses("nsight, profiler", constraint), "{constraint}");
    }
    for constraint in
        ["", "nsight2", "xnsight", "no-nsight", "nsight.x", "NSIGHT", "*", "[*]", "n*", "&|", "nsigh?", "2"]
    {
        assert!(!pauses("nsight,profiler", constraint), "{constraint}");
    }
    for features in ["", ",", " ", "*", "n?ight"] {
        assert!(!pauses(features, "nsight") && !pauses(features, ""), "'{features}'");
    }
    // Text of a user is compared and never written or run.
    let hostile = "x\nprofiling=pause\n$(touch /tmp/x)`id`;'\"*";
    assert!(!pauses("nsight", hostile));
    assert!(pauses("nsight", &format!("{hostile}&nsight")));
    // From the file of settings, and the epilog takes it away.
    let map = scratch.path("map");
    let settings = scratch.write("environment", "DCGM_JOB_MAP_PAUSE_PROFILING=\"nsight,ncu\"\n");
    let variables = [("SLURM_JOB_ID", "18"), ("SLURM_JOB_GPUS", "1"), ("SLURM_JOB_CONSTRAINTS", "ncu")];
    run(script(PROLOG, &map, &variables).env("DCGM_EXPORTER_ENVIRONMENT_FILE", settings));
    assert!(lines(&map, "job.18").contains(&"profiling=pause".to_owned()));
    run(&mut script(EPILOG, &map, &job("18", "")));
    assert!(!names(&map).contains(&"job.18".to_owned()));
}

#[test]
fn a_directory_that_is_none_or_not_there() {
    let scratch = Scratch::new();
    let file = scratch.write("file", "");
    for name in [PROLOG, EPILOG] {
        let said = run(&mut script(name, &file, &job("1", "0")));
        assert!(said.contains("is no directory that can be written"), "{said}");
        let said = run(&mut script(name, Path::new("relative"), &job("1", "0")));
        assert!(said.contains("'relative' is not absolute"), "{said}");
    }
    let said = run(&mut script(EPILOG, &scratch.path("missing"), &job("1", "0")));
    assert!(said.contains("job 1 is over") && !scratch.path("missing").exists(), "{said}");
}

#[test]
fn what_a_prolog_knows_of_a_job() {
    let scratch = Scratch::new();
    let map = scratch.path("map");
    let mut variables = job("17", "0").to_vec();
    let long = "x".repeat(300);
    variables.extend([
        ("SLURM_JOB_USER", "me"),
        ("SLURM_JOB_UID", "1000"),
        ("SLURM_JOB_ACCOUNT", "(null)"),
        ("SLURM_JOB_PARTITION", "gpu=big"),
        ("SLURM_CLUSTER_NAME", "two\nlines"),
        ("SLURM_JOB_RESTART_COUNT", "0"),
        ("SLURM_JOB_NAME", &long),
    ]);
    run(&mut script(PROLOG, &map, &variables));
    let text = std::fs::read_to_string(map.join("job.17")).unwrap();
    let known: Vec<&str> = text.lines().collect();
    let name = format!("job_name={}", "x".repeat(256));
    assert_eq!(known[..5], ["user=me", "uid=1000", "partition=gpu=big", "restart_count=0", &name]);
    let start: u64 = known[5].strip_prefix("start_time=").unwrap().parse().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(now - start < 60 && known.len() == 6, "{text}");
}

/// As on a disk that fills up at its last page: files have 512 bytes, or 1024, and what is known of the job needs more.
#[test]
fn what_is_known_of_a_job_is_there_whole_or_nothing_is() {
    let scratch = Scratch::new();
    let map = scratch.path("map");
    let long = "x".repeat(256);
    let mut variables = job("17", "0").to_vec();
    for name in ["SLURM_JOB_USER", "SLURM_JOB_ACCOUNT", "SLURM_JOB_PARTITION", "SLURM_CLUSTER_NAME", "SLURM_JOB_NAME"] {
        variables.push((name, &long));
    }
    for (constraint, limit) in [("", "1"), ("nsight", "1"), ("nsight", "unlimited"), ("", "unlimited")] {
        let script = script(PROLOG, &map, &variables);
        let mut limited = Command::new("sh");
        limited.args(["-c", &format!("trap '' XFSZ; ulimit -f {limit}; exec \"$0\"")]).arg(script.get_program());
        limited.env_clear().envs(script.get_envs().filter_map(|(name, value)| Some((name, value?))));
        limited.env("DCGM_JOB_MAP_PAUSE_PROFILING", "nsight").env("SLURM_JOB_CONSTRAINTS", constraint);
        let said = run(&mut limited);
        let expected: &[&str] = if limit == "1" { &[] } else { &["0", "job.17"] };
        assert_eq!(names(&map), expected, "{said}");
        assert_eq!(said.contains("cannot be written; nothing is changed"), limit == "1", "{said}");
    }
}

#[test]
fn settings_come_from_the_exporters_file() {
    let scratch = Scratch::new();
    let map = scratch.path("map");
    let settings = format!(
        "# as the exporter reads it\nDCGM_EXPORTER_LISTEN=:9400\nDCGM_HPC_JOB_MAPPING_DIR=\"{}\"\nDCGM_JOB_MAP_GRES=/dev/nvidia1 /dev/nvidia0",
        map.display()
    );
    let settings = scratch.write("environment", settings).display().to_string();
    let ask = |name: &str| {
        let mut command = script(name, &map, &job("1", "0"));
        command.env_remove("DCGM_HPC_JOB_MAPPING_DIR").env("DCGM_EXPORTER_ENVIRONMENT_FILE", &settings);
        run(command.env("DCGM_JOB_MAP_DRIVER", "/nonexistent"))
    };
    ask(PROLOG);
    assert_eq!(names(&map), ["job.1", "minor1"]);
    ask(EPILOG);
    assert_eq!(names(&map), Vec::<String>::new());
}

#[test]
fn uuids_where_positions_say_nothing() {
    let scratch = Scratch::new();
    for (visible, expected) in [
        ("MIG-aa-1,MIG-bb-2", &["MIG-aa-1", "MIG-bb-2", "job.1"][..]),
        ("GPU-cc-3", &["GPU-cc-3", "job.1"]),
        ("0", &["5", "job.1"]),
        ("", &["5", "job.1"]),
    ] {
        let map = scratch.path(&format!("map of {visible}"));
        let mut variables = job("1", "5").to_vec();
        variables.extend([("CUDA_VISIBLE_DEVICES", visible), ("DCGM_JOB_MAP_GRES", "uuid")]);
        run(&mut script(PROLOG, &map, &variables));
        assert_eq!(names(&map), expected);
    }
}

#[test]
fn the_role_is_told_or_named() {
    let scratch = Scratch::new();
    let map = scratch.path("map");
    let link = scratch.path("60-epilog-dcgm.sh");
    std::os::unix::fs::symlink(directory().join("job-map.sh"), &link).unwrap();
    run(&mut script("job-map.sh", &map, &job("1", "0")));
    assert_eq!(names(&map), ["0", "job.1"], "a prolog if nothing else");
    run(&mut script(link.to_str().unwrap(), &map, &job("1", "0")));
    assert_eq!(names(&map), Vec::<String>::new());
    let mut variables = job("2", "0").to_vec();
    variables.push(("SLURM_SCRIPT_CONTEXT", "prolog_slurmd"));
    run(&mut script(link.to_str().unwrap(), &map, &variables));
    assert_eq!(names(&map), ["0", "job.2"], "Slurm knows best");
    run(script(PROLOG, &map, &variables).arg("epilog"));
    assert_eq!(names(&map), Vec::<String>::new());
    variables.pop();
    run(&mut script(PROLOG, &map, &variables));
    run(script(link.to_str().unwrap(), &map, &variables).arg("start"));
    assert_eq!(names(&map), Vec::<String>::new(), "an argument that says nothing is none");
}

#[test]
fn jobs_that_lost_their_epilog_go_by_age() {
    let scratch = Scratch::new();
    let map = scratch.path("map");
    for id in ["1", "2"] {
        run(&mut script(PROLOG, &map, &job(id, "0-1")));
    }
    let days_ago = |days: u64| std::time::SystemTime::now() - std::time::Duration::from_secs(days * 86_400);
    let old = std::fs::File::options().write(true).open(map.join("job.1")).unwrap();
    old.set_modified(days_ago(32)).unwrap();
    let mut variables = job("3", "1").to_vec();
    variables.push(("DCGM_JOB_MAP_MAX_DAYS", "0"));
    run(&mut script(PROLOG, &map, &variables));
    assert_eq!(lines(&map, "0"), ["1", "2"], "0 is never");
    let said = run(&mut script(PROLOG, &map, &job("4", "1")));
    assert!(said.contains("'1', older than 30 days"), "{said}");
    assert_eq!((lines(&map, "0"), lines(&map, "1")), (vec!["2".to_owned()], vec!["2".into(), "3".into(), "4".into()]));
    assert_eq!(names(&map), ["0", "1", "job.2", "job.3", "job.4"]);
}

#[test]
fn nothing_stays_behind_that_holds_their_output() {
    // 'output' waits until the last holder of the pipe is gone.
    let scratch = Scratch::new();
    let start = std::time::Instant::now();
    run(&mut script(PROLOG, &scratch.path("map"), &job("1", "0")));
    assert!(start.elapsed() < std::time::Duration::from_secs(5));
}

#[test]
fn every_shell_that_a_node_may_have() {
    for shell in ["dash", "bash"] {
        if Command::new(shell).args(["-c", ":"]).status().is_err() {
            continue;
        }
        let scratch = Scratch::new();
        let map = scratch.path("map");
        let through = |name: &str| {
            let mut command = Command::new(shell);
            command.arg(directory().join(name)).env_clear().env("DCGM_HPC_JOB_MAPPING_DIR", &map);
            command.env("DCGM_EXPORTER_ENVIRONMENT_FILE", "/nonexistent");
            command
                .envs(job("1", "0-2,GPU-a"))
                .env("DCGM_JOB_MAP_GRES", "/dev/nvidia[2,0-1]")
                .env("DCGM_JOB_MAP_DRIVER", "/nonexistent");
            run(&mut command);
        };
        through(PROLOG);
        assert_eq!(names(&map), ["GPU-a", "job.1", "minor0", "minor1", "minor2"], "{shell}");
        through(EPILOG);
        assert_eq!(names(&map), Vec::<String>::new(), "{shell}");
    }
}

#[test]
fn random_jobs_in_parallel() {
    let scratch = Scratch::new();
    let map = scratch.path("map");
    std::fs::create_dir(&map).unwrap();
    let _held = hostile_lock(&map);
    assert!(random_jobs(&map, 150, 4, 1) > 200);
    let left: Vec<_> = std::fs::read_dir(&map).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let over = left.iter().filter(|name| name.as_encoded_bytes().starts_with(b".over"));
    assert_eq!(over.count(), 0, "each epilog that had the lock takes its note away: {left:?}");
}

/// Slurm's position, the device's minor number, NVML's index and DCGM's id: all in another order.
#[test]
fn a_job_is_on_its_gpu_whatever_counts_how() {
    let scratch = Scratch::new();
    let map = scratch.path("map");
    // By DCGM id: minor number and bus.
    const NODE: [(u32, u32, &str); 4] = [(0, 2, "C1"), (1, 3, "41"), (2, 1, "81"), (3, 0, "01")];
    // By position in gres.conf: the minor number of its device file.
    const GRES: [u32; 4] = [3, 1, 0, 2];
    let mut node = scenario(&[0, 1, 2, 3]);
    let driver = scratch.path("gpus");
    for (id, minor, bus) in NODE {
        let gpu = &mut node["system"]["gpus"][id as usize];
        gpu["minor"] = minor.into();
        gpu["pci_bus_id"] = format!("00000000:{bus}:00.0").into();
        let directory = driver.join(format!("0000:{}:00.0", bus.to_lowercase()));
        std::fs::create_dir_all(&directory).unwrap();
        let text = format!(
            "Model: \t\t NVIDIA H200\nBus Location: \t 0000:{bus}:00.0\nDevice Minor: \t {minor}\nGPU Excluded:\t No\n"
        );
        std::fs::write(directory.join("information"), text).unwrap();
    }
    let gres = GRES.map(|minor| format!("/dev/nvidia{minor}")).join(" ");
    let mut exporter = Exporter::start(
        exporter()
            .env("DCGM_SIMULATOR_SCENARIO", scratch.write("scenario.json", node.to_string()))
            .args(["-c", "1h", "-f"])
            .arg(scratch.write("counters.csv", GPU_TEMP))
            .arg("--hpc-job-mapping-dir")
            .arg(&map),
    );
    exporter.page();
    let driver = driver.display().to_string();
    for driver in [driver.as_str(), "/nonexistent"] {
        for (position, minor) in GRES.into_iter().enumerate() {
            let (id, ..) = NODE.into_iter().find(|(_, known, _)| *known == minor).unwrap();
            let position = position.to_string();
            let mut variables = job("17", &position).to_vec();
            variables.extend([("DCGM_JOB_MAP_GRES", gres.as_str()), ("DCGM_JOB_MAP_DRIVER", driver)]);
            run(&mut script(PROLOG, &map, &variables));
            let page = exporter.page_with("the job is shown", |page| page.contains("GPU_TEMP{") && shows_jobs(page));
            let of_job: Vec<&str> =
                page.lines().filter(|line| line.starts_with("DCGM_FI") && line.contains("hpc_job")).collect();
            assert!(
                of_job.len() == 1 && of_job[0].contains(&format!("gpu=\"{id}\"")),
                "position {position}: {of_job:?}"
            );
            run(&mut script(EPILOG, &map, &job("17", "")));
            exporter.page_with("it has gone", |page| !shows_jobs(page));
        }
    }
    // By their own names, without any counting.
    for (id, minor, bus) in NODE {
        for name in
            [format!("GPU-{id}"), format!("minor{minor}"), format!("0000:{}:00.0", bus.to_lowercase()), id.to_string()]
        {
            std::fs::write(map.join(&name), "18\n").unwrap();
            let held = format!("dcgm_exporter_gpu_job{{gpu=\"{id}\"");
            let page = exporter.page_with(&name, |page| page.contains(&held));
            assert_eq!(page.matches("dcgm_exporter_gpu_job{").count(), 1, "{name}: {page}");
            std::fs::remove_file(map.join(&name)).unwrap();
            exporter.page_with("it has gone", |page| !shows_jobs(page));
        }
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// Whether this test may give files to other users.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn nobody_elses_lock_delays_a_job_or_keeps_its_name_out() {
    let scratch = Scratch::new();
    let map = scratch.path("map");
    std::fs::create_dir(&map).unwrap();
    let _held = hostile_lock(&map);
    let said = run(&mut script(PROLOG, &map, &job("17", "0")));
    assert_eq!((lines(&map, "0"), mode(&map.join(".lock"))), (vec!["17".to_owned()], 0o600), "{said}");
    let said = run(&mut script(EPILOG, &map, &job("17", "0")));
    assert_eq!(names(&map), Vec::<String>::new(), "{said}");
}

#[test]
fn a_directory_that_others_can_change_is_refused_and_says_why() {
    let scratch = Scratch::new();
    let map = scratch.path("map");
    std::fs::create_dir(&map).unwrap();
    std::fs::write(map.join("0"), "16\n").unwrap();
    let refused = |path: &Path, why: &str| {
        for name in [PROLOG, EPILOG] {
            let said = run(&mut script(name, path, &job("16", "1")));
            assert!(said.contains(why) && said.contains("DCGM_JOB_MAP_INSECURE=true"), "{said} lacks {why}");
        }
        assert_eq!((names(&map), lines(&map, "0")), (vec!["0".to_owned()], vec!["16".to_owned()]));
        assert!(!map.join(".lock").exists() && !map.join(".over.16").exists());
    };
    for open in [0o775, 0o757, 0o777, 0o1777, 0o720] {
        chmod(&map, open);
        refused(&map, &format!("has mode {open:o}, others can write there, and is refused; chmod 0755"));
    }
    chmod(&map, 0o755);
    let link = scratch.path("link");
    std::os::unix::fs::symlink(&map, &link).unwrap();
    refused(&link, "is a link and is refused");
    refused(&scratch.path("link/"), "is a link and is refused");
    if is_root() {
        std::os::unix::fs::chown(&map, Some(65_534), None).unwrap();
        refused(&map, "belongs to user 65534 and is refused; chown root");
        std::os::unix::fs::chown(&map, Some(0), None).unwrap();
    }
    chmod(&map, 0o777);
    for switch in ["0", "false", "yes please", ""] {
        let said = run(script(PROLOG, &map, &job("17", "0")).env("DCGM_JOB_MAP_INSECURE", switch));
        assert!(said.contains("is refused"), "{said}");
    }
    run(script(PROLOG, &link, &job("17", "0")).env("DCGM_JOB_MAP_INSECURE", "true"));
    assert_eq!(lines(&map, "0"), ["16", "17"]);
    let settings = scratch.write("environment", "DCGM_JOB_MAP_INSECURE=true\n");
    run(script(EPILOG, &map, &job("17", "0")).env("DCGM_EXPORTER_ENVIRONMENT_FILE", settings));
    assert_eq!(lines(&map, "0"), ["16"]);
    // As soon as it is closed, all is well.
    chmod(&map, 0o755);
    run(&mut script(EPILOG, &map, &job("16", "")));
    assert_eq!(names(&map), Vec::<String>::new());
}

/// Names become arguments of rm and mv; none of them is an option or a second argument.
#[test]
fn a_files_name_is_never_an_order() {
    let scratch = Scratch::new();
    let (map, work) = (scratch.path("map"), scratch.path("work"));
    std::fs::create_dir_all(work.join("victim")).unwrap();
    std::fs::write(work.join("victim/file"), "x").unwrap();
    std::fs::create_dir(&map).unwrap();
    let left = ["x\n-rf\nvictim", "-rf", "1 2", "\u{e4}", "a$(id)", "0~", "--help", "9\n", "job.x", "..x"];
    for name in left {
        std::fs::write(map.join(name), "17\n").unwrap();
    }
    std::fs::write(map.join("0"), "17\n").unwrap();
    std::fs::write(map.join("job.17 18"), "").unwrap();
    for (name, id) in [(PROLOG, "17"), (EPILOG, "17"), (EPILOG, "18")] {
        run(script(name, &map, &job(id, "3")).current_dir(&work));
    }
    assert!(work.join("victim/file").exists());
    for name in left {
        assert_eq!(std::fs::read_to_string(map.join(name)).unwrap(), "17\n", "{name:?}");
    }
    assert!(!map.join("0").exists() && map.join("job.17 18").exists());
}

#[test]
fn what_is_no_regular_file_is_never_opened() {
    use std::os::unix::fs::symlink;
    let scratch = Scratch::new();
    let map = scratch.path("map");
    std::fs::create_dir(&map).unwrap();
    let elsewhere = scratch.write("elsewhere", "17\n");
    let fifo = |name: &str| {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        mknodat(CWD, map.join(name), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    };
    // Whoever opens a FIFO waits for the other side.
    fifo("0");
    fifo("job.16");
    let _socket = std::os::unix::net::UnixListener::bind(map.join("1")).unwrap();
    symlink(&elsewhere, map.join("2")).unwrap();
    symlink("nowhere", map.join("3")).unwrap();
    run(&mut script(PROLOG, &map, &job("17", "5")));
    run(&mut script(EPILOG, &map, &job("17", "")));
    assert_eq!(names(&map), ["0", "1", "2", "3", "job.16"]);
    assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "17\n");
    // The same of the scripts' own files.
    std::fs::remove_file(map.join(".lock")).unwrap();
    symlink(&elsewhere, map.join(".lock")).unwrap();
    let said = run(&mut script(PROLOG, &map, &job("17", "5")));
    assert!(said.contains("/.lock is not a regular file; remove it"), "{said}");
    std::fs::remove_file(map.join(".lock")).unwrap();
    std::fs::write(map.join(".lock"), "").unwrap();
    chmod(&map.join(".lock"), 0o644);
    let said = run(&mut script(PROLOG, &map, &job("17", "5")));
    assert!(said.contains("/.lock has mode 644") && said.contains("remove it"), "{said}");
    std::fs::remove_file(map.join(".lock")).unwrap();
    std::fs::remove_dir(map.join(".new")).unwrap();
    symlink(scratch.path("work"), map.join(".new")).unwrap();
    run(&mut script(PROLOG, &map, &job("17", "5")));
    assert!(!map.join(".new").is_symlink() && lines(&map, "5") == ["17"]);
}

#[test]
fn what_is_known_of_a_job_is_for_root_and_one_group() {
    let scratch = Scratch::new();
    let map = scratch.path("map");
    let own = rustix::process::getegid().as_raw();
    let other = if is_root() { 65_534 } else { own };
    run(&mut script(PROLOG, &map, &job("17", "0")));
    run(script(PROLOG, &map, &job("18", "1")).env("DCGM_JOB_MAP_GROUP", other.to_string()));
    let said = run(script(PROLOG, &map, &job("19", "2")).env("DCGM_JOB_MAP_GROUP", "no such group"));
    assert!(said.contains("job 19 has 2; DCGM_JOB_MAP_GROUP: no group 'no such group'"), "{said}");
    let group = |id: &str| {
        let metadata = std::fs::metadata(map.join(format!("job.{id}"))).unwrap();
        (metadata.permissions().mode() & 0o7777, metadata.gid())
    };
    assert_eq!(["17", "18", "19"].map(group), [(0o640, own), (0o640, other), (0o640, own)]);
    assert_eq!(mode(&map.join("0")), 0o644);
}

/// An epilog leaves a note until its work is done, whatever keeps it from that.
#[test]
fn an_epilog_that_got_no_lock_or_was_killed_is_caught_up() {
    let scratch = Scratch::new();
    let map = scratch.path("map");
    for id in ["17", "18", "19"] {
        run(&mut script(PROLOG, &map, &job(id, "0-1")));
    }
    let lock = std::fs::File::open(map.join(".lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let said = run(&mut script(EPILOG, &map, &job("17", "")));
    assert!(said.contains("has held") && said.contains("the next prolog or epilog takes the job out"), "{said}");
    drop(lock);
    assert_eq!(lines(&map, "0"), ["17", "18", "19"]);
    // One that was killed after its note.
    std::fs::write(map.join(".over.18"), "").unwrap();
    for name in [".over.", ".over.x", ".over.1 9", ".over.19\n"] {
        std::fs::write(map.join(name), "").unwrap();
    }
    let said = run(&mut script(PROLOG, &map, &job("20", "1")));
    assert!(said.contains("job 17 is over, too") && said.contains("job 18 is over, too"), "{said}");
    assert_eq!((lines(&map, "0"), lines(&map, "1")), (vec!["19".to_owned()], vec!["19".into(), "20".into()]));
    assert_eq!(names(&map), ["0", "1", "job.19", "job.20"]);
    assert!(!map.join(".over.17").exists() && !map.join(".over.18").exists());
    // Its own note from its last run takes nothing from a job that runs again.
    std::fs::write(map.join(".over.19"), "").unwrap();
    run(&mut script(PROLOG, &map, &job("19", "2")));
    assert_eq!(names(&map), ["1", "2", "job.19", "job.20"]);
    assert!(lines(&map, "2") == ["19"] && !map.join(".over.19").exists());
}

/// A copy of the script that finds nothing but what it is given.
#[test]
fn without_flock_it_says_so() {
    let scratch = Scratch::new();
    let (map, programs) = (scratch.path("map"), scratch.path("bin"));
    std::fs::create_dir(&programs).unwrap();
    for name in ["mkdir", "stat", "id", "timeout", "logger", "mv", "rm", "date", "find"] {
        let found =
            ["/usr/bin", "/bin"].map(|place| Path::new(place).join(name)).into_iter().find(|path| path.exists());
        std::os::unix::fs::symlink(found.unwrap(), programs.join(name)).unwrap();
    }
    let text = std::fs::read_to_string(directory().join(PROLOG)).unwrap();
    let path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
    assert!(text.contains(path));
    let copy = scratch.write("job-map.sh", text.replace(path, &format!("PATH={}", programs.display())));
    chmod(&copy, 0o755);
    for role in ["prolog", "epilog"] {
        let said = run(script(copy.to_str().unwrap(), &map, &job("17", "0")).arg(role));
        assert!(said.contains("flock is not installed (package util-linux)"), "{said}");
    }
    assert_eq!(names(&map), Vec::<String>::new());
}

/// A map that the earlier scripts wrote, in the middle of jobs.
#[test]
fn a_node_goes_on_after_an_upgrade() {
    let scratch = Scratch::new();
    let map = scratch.path("map");
    std::fs::create_dir_all(map.join(".new")).unwrap();
    std::fs::write(map.join(".new/3"), "99\n").unwrap();
    for (name, text) in [("0", "17\n18\n"), ("1", "18\n"), ("job.17", "user=a\n"), ("job.18", "user=b\n")] {
        std::fs::write(map.join(name), text).unwrap();
        chmod(&map.join(name), 0o644);
    }
    chmod(&map.join(".new"), 0o755);
    let said = run(&mut script(EPILOG, &map, &job("17", "")));
    assert!(said.contains("job.<id> of an earlier version now has mode 0640"), "{said}");
    assert_eq!((lines(&map, "0"), lines(&map, "1")), (vec!["18".to_owned()], vec!["18".into()]));
    assert_eq!((mode(&map.join("job.18")), mode(&map.join(".new"))), (0o640, 0o700));
    let said = run(&mut script(PROLOG, &map, &job("19", "1")));
    assert!(!said.contains("earlier") && lines(&map, "1") == ["18", "19"], "{said}");
}

/// Of a job that is requeued, after preemption as by hand, the second run counts, wherever it is.
#[test]
fn a_requeued_job_is_where_it_runs_now() {
    let scratch = Scratch::new();
    let map = scratch.path("map");
    let start = |gpus: &str, restarts: &str| {
        let mut variables = job("17", gpus).to_vec();
        variables.push(("SLURM_JOB_RESTART_COUNT", restarts));
        run(&mut script(PROLOG, &map, &variables));
    };
    let facts = || std::fs::read_to_string(map.join("job.17")).unwrap();
    start("0,1", "0");
    assert!(facts().contains("restart_count=0\n"));
    // Slurm's epilog of the first run has the second one's count already.
    let mut variables = job("17", "0,1").to_vec();
    variables.push(("SLURM_JOB_RESTART_COUNT", "1"));
    run(&mut script(EPILOG, &map, &variables));
    assert_eq!(names(&map), Vec::<String>::new());
    start("2,3", "1");
    assert!(names(&map) == ["2", "3", "job.17"] && facts().contains("restart_count=1\n"), "{}", facts());
    // With its epilog lost, as when the node was lost.
    run(&mut script(PROLOG, &map, &job("16", "3")));
    start("0", "2");
    assert_eq!(names(&map), ["0", "3", "job.16", "job.17"]);
    assert!(lines(&map, "3") == ["16"] && facts().contains("restart_count=2\n"), "{}", facts());
}

/// Each node has its part of a job, each task of an array and each component of a heterogeneous job an id of its own.
#[test]
fn jobs_of_several_nodes_tasks_and_components() {
    let scratch = Scratch::new();
    let maps = [scratch.path("node1"), scratch.path("node2")];
    for (map, gpus) in maps.iter().zip(["0,1", "4-5"]) {
        let mut variables = job("17", gpus).to_vec();
        variables.extend([
            ("SLURM_JOB_NODELIST", "node[1-2]"),
            ("SLURM_NODELIST", "node[1-2]"),
            ("SLURM_JOB_NUM_NODES", "2"),
            ("CUDA_VISIBLE_DEVICES", "0,1"),
            ("GPU_DEVICE_ORDINAL", "0,1"),
        ]);
        run(&mut script(PROLOG, map, &variables));
    }
    assert_eq!(maps.each_ref().map(|map| names(map)), [vec!["0", "1", "job.17"], vec!["4", "5", "job.17"]]);
    // The second node has no prolog where only the first runs a step, but an epilog.
    run(&mut script(EPILOG, &scratch.path("node3"), &job("17", "0")));
    run(&mut script(EPILOG, &maps[1], &job("17", "0,1")));
    assert_eq!(names(&maps[1]), Vec::<String>::new());
    // Slurm gives the last task of an array the array's own id.
    for (id, task) in [("21", "0"), ("22", "1"), ("20", "2")] {
        let mut variables = job(id, task).to_vec();
        variables.extend([("SLURM_ARRAY_JOB_ID", "20"), ("SLURM_ARRAY_TASK_ID", task)]);
        run(&mut script(PROLOG, &maps[1], &variables));
    }
    assert_eq!(["0", "1", "2"].map(|gpu| lines(&maps[1], gpu)), [["21"], ["22"], ["20"]]);
    let facts = std::fs::read_to_string(maps[1].join("job.22")).unwrap();
    assert!(facts.contains("array_job_id=20\narray_task_id=1\n"), "{facts}");
    run(&mut script(EPILOG, &maps[1], &job("20", "2")));
    assert_eq!(names(&maps[1]), ["0", "1", "job.21", "job.22"]);
    for (id, offset, gpus) in [("30", "0", "3"), ("31", "1", "4-5")] {
        let mut variables = job(id, gpus).to_vec();
        variables.extend([("SLURM_HET_JOB_ID", "30"), ("SLURM_HET_JOB_OFFSET", offset)]);
        run(&mut script(PROLOG, &maps[1], &variables));
    }
    assert_eq!(["3", "4", "5"].map(|gpu| lines(&maps[1], gpu)), [["30"], ["31"], ["31"]]);
}

/// What Slurm has in its variables, before and since 25.11, with and without MIG, and what becomes of it.
#[test]
fn gpus_as_each_slurm_names_them() {
    let scratch = Scratch::new();
    const INSTANCES: &str = "/dev/nvidia0 1.7 1.8 MIG-cc-3 /dev/nvidia[2-3]";
    for (number, (gres, gpus, visible, expected)) in [
        // Whole GPUs: positions, whatever the job sees of them.
        ("", "2,3", "0,1", &["2", "3"][..]),
        ("", "2,3", "GPU-aa-1,GPU-bb-2", &["2", "3"]),
        ("uuid", "2,3", "GPU-aa-1,GPU-bb-2", &["GPU-aa-1", "GPU-bb-2"]),
        ("", "", "GPU-aa-1,GPU-bb-2", &["GPU-aa-1", "GPU-bb-2"]),
        // MIG: a position is an instance's.
        ("", "0,1", "MIG-aa-1,MIG-bb-2", &["MIG-aa-1", "MIG-bb-2"]),
        ("", "0,1", "GPU-aa-1,MIG-bb-2", &["GPU-aa-1", "MIG-bb-2"]),
        (INSTANCES, "0,1", "MIG-aa-1,MIG-bb-2", &["MIG-aa-1", "MIG-bb-2"]),
        // A Slurm without NVML has no UUIDs; the site says what is where.
        (INSTANCES, "0-3", "0,1,2,3", &["1.7", "1.8", "MIG-cc-3", "minor0"]),
        (INSTANCES, "2,5", "0,1", &["1.8", "minor3"]),
        ("0.[7-9]", "1", "0", &["0.8"]),
    ]
    .into_iter()
    .enumerate()
    {
        let map = scratch.path(&format!("map{number}"));
        let mut variables = vec![("SLURM_JOB_ID", "1"), ("DCGM_JOB_MAP_DRIVER", "/nonexistent")];
        variables.extend([("SLURM_JOB_GPUS", gpus), ("CUDA_VISIBLE_DEVICES", visible), ("DCGM_JOB_MAP_GRES", gres)]);
        let said = run(&mut script(PROLOG, &map, &variables));
        let found: Vec<String> = names(&map).into_iter().filter(|name| name != "job.1").collect();
        assert_eq!(found, expected, "{gres} {gpus} {visible}: {said}");
    }
    let said = run(&mut script(
        PROLOG,
        &scratch.path("old"),
        &[
            ("SLURM_JOB_ID", "1"),
            ("CUDA_VISIBLE_DEVICES", "MIG-GPU-aa-1/7/0"),
            ("DCGM_JOB_MAP_GRES", "../x 1/2"),
            ("SLURM_JOB_GPUS", "0"),
        ],
    ));
    assert!(said.contains("has no GPU; not used: 'MIG-GPU-aa-1/7/0'"), "{said}");
}

/// Lines of another site's prolog, with the user's number behind the id.
#[test]
fn lines_with_a_user_are_kept_and_taken_out_by_their_id() {
    let scratch = Scratch::new();
    let map = scratch.path("map");
    std::fs::create_dir(&map).unwrap();
    std::fs::write(map.join("0"), "17 1000\n18 1001\n 19\t1002 \n").unwrap();
    std::fs::write(map.join("1"), "17 1000\n").unwrap();
    run(&mut script(EPILOG, &map, &job("17", "")));
    run(&mut script(EPILOG, &map, &job("1000", "")));
    assert_eq!((names(&map), lines(&map, "0")), (vec!["0".to_owned()], vec!["18 1001".into(), "19 1002".into()]));
    run(&mut script(PROLOG, &map, &job("20", "0")));
    run(&mut script(EPILOG, &map, &job("19", "")));
    assert_eq!(lines(&map, "0"), ["18 1001", "20"]);
}

#[test]
fn instances_by_their_number_and_by_their_uuid() {
    let scratch = Scratch::new();
    let map = scratch.path("map");
    std::fs::create_dir(&map).unwrap();
    let mut node = scenario(&[0, 1]);
    node["system"]["gpu_instances"] = json!([
        { "parent_gpu": 1, "entity_id": 0, "nvml_gpu_instance_id": 7, "profile": "1g.18gb", "uuid": "MIG-aa-1" },
        { "parent_gpu": 1, "entity_id": 1, "nvml_gpu_instance_id": 8, "profile": "1g.18gb", "uuid": "MIG-bb-2" },
    ]);
    let mut exporter = Exporter::start(
        exporter()
            .env("DCGM_SIMULATOR_SCENARIO", scratch.write("scenario.json", node.to_string()))
            .args(["-c", "100", "-f"])
            .arg(scratch.write("counters.csv", GPU_TEMP))
            .arg("--hpc-job-mapping-dir")
            .arg(&map),
    );
    run(&mut script(PROLOG, &map, &job("17", "MIG-bb-2")));
    std::fs::write(map.join("1.7"), "18\n").unwrap();
    // A whole GPU's file is not its instances'.
    std::fs::write(map.join("1"), "19\n").unwrap();
    let page = exporter.page_with("both are shown", |page| page.contains("\"17\"") && page.contains("\"18\""));
    let held: Vec<&str> = page.lines().filter(|line| line.starts_with("dcgm_exporter_gpu_job{")).collect();
    assert!(held.len() == 2 && held[0].contains("GPU_I_ID=\"7\"") && held[0].contains("hpc_job=\"18\""), "{held:?}");
    assert!(held[1].contains("GPU_I_ID=\"8\"") && held[1].contains("hpc_job=\"17\""), "{held:?}");
    let allocated: Vec<&str> = page.lines().filter(|line| line.starts_with("dcgm_exporter_gpu_allocated{")).collect();
    let last: Vec<char> = allocated.iter().filter_map(|line| line.chars().last()).collect();
    assert_eq!(last, ['0', '1', '1'], "{allocated:?}");
}
