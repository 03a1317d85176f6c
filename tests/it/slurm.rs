//! The prolog and epilog of `dist/slurm`, alone and together with the real binary.

use std::os::unix::fs::PermissionsExt;
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
        map.join("1").is_dir() && !map.join("2").is_symlink() && !map.join(".new").exists() && !map.join("5").exists()
    );
    run(&mut script(EPILOG, &map, &job("17", "")));
    assert_eq!(lines(&map, "3"), ["15", "16"]);
    assert_eq!(lines(&map, "notes of an administrator"), ["8"]);
    assert!(!map.join("2").exists() && std::fs::read_to_string(&elsewhere).unwrap() == "17\n");
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
    assert!(random_jobs(&map, 150, 4, 1) > 200);
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
            let page = exporter
                .page_with("the job is shown", |page| page.contains("GPU_TEMP{") && page.contains(",hpc_job=\"17\"} "));
            let of_job: Vec<&str> =
                page.lines().filter(|line| line.starts_with("DCGM_FI") && line.contains("hpc_job")).collect();
            assert!(
                of_job.len() == 1 && of_job[0].contains(&format!("gpu=\"{id}\"")),
                "position {position}: {of_job:?}"
            );
            run(&mut script(EPILOG, &map, &job("17", "")));
            exporter.page_with("it has gone", |page| !page.contains("hpc_job"));
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
            exporter.page_with("it has gone", |page| !page.contains("hpc_job"));
        }
    }
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
