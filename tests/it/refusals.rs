//! Every way to be told wrong: one clear message that names the thing, the place and the fix, and exit status 1.

use std::path::Path;
use std::process::Command;

use crate::common::*;

/// Runs a command that must be refused, and checks what it says.
#[track_caller]
fn refuses(command: &mut Command, parts: &[&str]) -> String {
    let (status, message) = refused(command);
    assert_eq!(status.code(), Some(1), "{message}");
    for part in parts {
        assert!(message.contains(part), "the message lacks '{part}':\n{message}");
    }
    message
}

fn counters(scratch: &Scratch) -> std::path::PathBuf {
    scratch.write("counters.csv", GPU_TEMP)
}

/// A shared library with just these C functions.
fn library(scratch: &Scratch, source: &str) -> std::path::PathBuf {
    let (c, so) = (scratch.write("library.c", source), scratch.path("libdcgm.so.4"));
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&so, &c]).status().expect("cc runs");
    assert!(status.success());
    so
}

#[test]
fn a_missing_library() {
    let scratch = Scratch::new();
    let file = counters(&scratch);
    refuses(
        bare_exporter().args(["-a", "127.0.0.1:0", "-f"]).arg(&file).args(["--libdcgm", "/nowhere/libdcgm.so.4"]),
        &["libdcgm was not found", "/nowhere/libdcgm.so.4", "No such file", "--libdcgm"],
    );
    if Path::new("/usr/lib/x86_64-linux-gnu/libdcgm.so.4").exists() {
        return;
    }
    let mut system = bare_exporter();
    system.args(["-a", "127.0.0.1:0", "-f"]).arg(&file);
    refuses(&mut system, &["tried libdcgm.so.4", "tried libdcgm.so.3", "datacenter-gpu-manager-4-core"]);
}

#[test]
fn a_library_that_is_none_or_another() {
    let scratch = Scratch::new();
    let text = scratch.write("libdcgm.txt", "not a library");
    let mut command = bare_exporter();
    command.args(["-a", "127.0.0.1:0", "-f"]).arg(counters(&scratch)).arg("--libdcgm").arg(text);
    refuses(&mut command, &["libdcgm.txt", "--libdcgm"]);
    let mut command = bare_exporter();
    let other = library(&scratch, "int something_else(void) { return 0; }");
    command.args(["-a", "127.0.0.1:0", "-f"]).arg(counters(&scratch)).arg("--libdcgm").arg(other);
    refuses(&mut command, &["libdcgm.so.4", "no symbol dcgmInit", "datacenter-gpu-manager-4-core"]);
}

#[test]
fn a_library_without_a_symbol() {
    let scratch = Scratch::new();
    let old = library(&scratch, "int dcgmInit(void) { return 0; } int dcgmShutdown(void) { return 0; }");
    let mut command = bare_exporter();
    command.args(["-a", "127.0.0.1:0", "-f"]).arg(counters(&scratch)).arg("--libdcgm").arg(old);
    refuses(&mut command, &["no symbol errorString", "datacenter-gpu-manager-4-core"]);
}

#[test]
fn a_release_that_nobody_knows() {
    let scratch = Scratch::new();
    let mut future = scenario(&[0]);
    future["version"] = "5.0.0".into();
    let plan = scratch.write("scenario.json", future.to_string());
    refuses(
        exporter().env("DCGM_SIMULATOR_SCENARIO", plan).arg("-f").arg(counters(&scratch)),
        &["DCGM 5.0.0", "--libdcgm"],
    );
}

#[test]
fn a_missing_counters_file() {
    refuses(
        exporter().args(["-f", "/nowhere/counters.csv"]),
        &["/nowhere/counters.csv", "No such file", "--collectors"],
    );
    refuses(exporter().args(["-f", "/tmp"]), &["/tmp", "not a regular file"]);
    let scratch = Scratch::new();
    let fifo = scratch.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    refuses(exporter().arg("-f").arg(&fifo), &["fifo", "not a regular file"]);
    let found = scratch.write("hpc.csv", GPU_TEMP);
    refuses(exporter().arg("-f").arg(scratch.path("hcp.csv")), &[&format!("did you mean {}?", found.display())]);
    // A file of /proc says that it is empty; this one has a word per page of the address space, and reading it whole would
    // take all memory. The kernel refuses to read the odd byte behind the limit.
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -v 2000000; exec \"$0\" -f /proc/self/pagemap"]).arg(exporter().get_program());
    let message = refuses(&mut limited, &["cannot read counters file /proc/self/pagemap"]);
    assert!(!message.contains("out of memory"), "{message}");
    // The default is where packages put it.
    if !Path::new("/etc/dcgm-exporter/default-counters.csv").exists() {
        refuses(&mut exporter(), &["/etc/dcgm-exporter/default-counters.csv"]);
    }
}

#[test]
fn bad_rows_all_at_once() {
    let scratch = Scratch::new();
    let file = scratch.write(
        "bad.csv",
        "# counters\nDCGM_FI_DEV_GPU_TMP, gauge, t\nDCGM_FI_DEV_SM_CLOCK, number, t\nDCGM_FI_DEV_NAME, gauge, n\nDCGM_FI_DEV_FB_USED, gauge\n",
    );
    let message = refuses(
        exporter().arg("-f").arg(file),
        &[
            "bad.csv:2: ",
            "DCGM_FI_DEV_GPU_TEMP",
            "bad.csv:3: ",
            "'number'",
            "bad.csv:4: ",
            "type label",
            "bad.csv:5: ",
            "three",
        ],
    );
    assert_eq!(message.lines().filter(|line| line.contains("level=ERROR")).count(), 5, "{message}");
    refuses(
        exporter().arg("-f").arg(scratch.write("none.csv", "# none\n")),
        &["none.csv", "no row", "NAME, TYPE, HELP"],
    );
}

#[test]
fn a_profiling_row_with_a_bad_type_where_profiling_works() {
    let scratch = Scratch::new();
    let file = scratch.write("bad.csv", "DCGM_FI_DEV_GPU_TEMP, gauge, t\nDCGM_FI_PROF_GR_ENGINE_ACTIVE, nonsense, g\n");
    let mut with = Exporter::start(exporter().arg("-f").arg(&file));
    assert!(with.page().contains("DCGM_FI_DEV_GPU_TEMP{") && !with.page().contains("GR_ENGINE"));
    let log = with.log();
    assert!(log.contains("bad.csv:2: left out: ") && log.contains("'nonsense'"), "{log}");
    let without = scratch.write("scenario.json", scenario(&[0]).to_string());
    let mut exporter = Exporter::start(exporter().env("DCGM_SIMULATOR_SCENARIO", without).arg("-f").arg(file));
    assert!(exporter.page().contains("DCGM_FI_DEV_GPU_TEMP{"));
}

#[test]
fn a_port_in_use() {
    let scratch = Scratch::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let port = taken.local_addr().unwrap().port();
    refuses(
        exporter().args(["-a", &address, "-f"]).arg(counters(&scratch)),
        &[&address, &format!("port {port} is in use"), "--address"],
    );
}

#[test]
fn addresses_that_are_none() {
    let scratch = Scratch::new();
    for (address, part) in [
        ("9400", ":9400"),
        (":99999", "65535"),
        ("unix:/run/x.sock", "write unix:///run/x.sock"),
        ("::1:9400", "brackets"),
        ("192.0.2.1:0", "--address"),
    ] {
        refuses(exporter().args(["-a", address, "-f"]).arg(counters(&scratch)), &[address, part]);
    }
    for (remote, part) in [
        ("host:port", "'port' is not a port"),
        ("unix://relative", "absolute"),
        ("unix:/run/x.sock", "write unix:///run/x.sock"),
        ("vsock://3:1", "VSOCK"),
        ("tcp://", "HOST:PORT"),
    ] {
        refuses(
            exporter().args(["-r", remote, "-f"]).arg(counters(&scratch)),
            &["--remote-hostengine-info", remote, part],
        );
    }
}

#[test]
fn device_options_that_are_none() {
    for (flag, name) in [("-d", "--devices"), ("-s", "--switch-devices"), ("-p", "--cpu-devices")] {
        for (value, part) in [
            ("x", "'x'"),
            ("f:0", "f takes no list"),
            ("g:a", "'a' is not a number"),
            ("g:0-1-2", "more than one dash"),
        ] {
            refuses(exporter().args([flag, value]), &[name, value, part]);
        }
    }
}

#[test]
fn flags_that_are_none() {
    refuses(exporter().arg("--colectors=x"), &["--colectors", "--collectors"]);
    refuses(exporter().args(["-c", "0"]), &["--collect-interval", "'0'", "24h"]);
    refuses(exporter().arg("--web.listen-address=:9400"), &["--web.listen-address", "did you mean --address?"]);
    refuses(exporter().args(["--stale-after", "0"]), &["--stale-after", "'0'", "--collect-interval"]);
    refuses(
        exporter().args(["-c", "10s"]).env("DCGM_EXPORTER_STALE_AFTER", "10s"),
        &["DCGM_EXPORTER_STALE_AFTER", "'10s'", "which is 10s"],
    );
    refuses(exporter().args(["--min-collect-interval", "10"]), &["--min-collect-interval", "'10'", "100ms to 24h"]);
    refuses(exporter().args(["--config-file", "/nowhere.yaml"]), &["--config-file", "/nowhere.yaml", "No such file"]);
    refuses(
        exporter().env("DCGM_EXPORTER_CONFIG_FILE", "/nowhere"),
        &["DCGM_EXPORTER_CONFIG_FILE", "/nowhere: No such"],
    );
    refuses(exporter().arg("--container-labels"), &["--container-labels", "needs --container-runtime-socket"]);
    refuses(exporter().arg("-k"), &["--kubernetes", "bare metal"]);
    refuses(exporter().env("KUBERNETES_VIRTUAL_GPUS", "true"), &["KUBERNETES_VIRTUAL_GPUS", "bare metal"]);
    refuses(exporter().arg("--web-systemd-socket").args(["-f", "/dev/null"]), &["/dev/null"]);
}

#[test]
fn values_in_variables() {
    for (variable, value, part) in [
        ("DCGM_EXPORTER_WATCH_MAX_KEEP_AGE", "zzz", "10m"),
        ("DCGM_EXPORTER_WATCH_MAX_KEEP_AGE", "-1s", "10m"),
        ("DCGM_EXPORTER_WATCH_MAX_KEEP_AGE", "600", "10m"),
        ("DCGM_EXPORTER_WATCH_MAX_KEEP_SAMPLES", "-1", "from 0"),
        ("DCGM_EXPORTER_WATCH_MAX_KEEP_SAMPLES", "2147483648", "2147483647"),
        ("DCGM_EXPORTER_WATCH_MAX_KEEP_AGE", "0s", "--watch-max-keep-samples"),
        ("DCGM_EXPORTER_MAX_CONCURRENT_SCRAPES", "abc", "above 0"),
        ("DCGM_EXPORTER_MAX_CONCURRENT_SCRAPES", "0", "above 0"),
        ("DCGM_EXPORTER_ENABLE_EXPORTER_METRICS", "maybe", "true or false"),
        ("DCGM_EXPORTER_HEALTH_REQUIRE_GPUS", "maybe", "true or false"),
        ("DCGM_EXPORTER_CONTAINER_LABELS", "maybe", "true or false"),
        ("DCGM_EXPORTER_CONTAINER_LABELS", "true", "needs --container-runtime-socket"),
    ] {
        refuses(exporter().env(variable, value), &[variable, part]);
    }
    refuses(
        exporter().args(["--watch-max-keep-age=0s", "--watch-max-keep-samples=0"]),
        &["--watch-max-keep-samples", "--watch-max-keep-age", "both be 0"],
    );
}

#[test]
fn a_socket_that_systemd_did_not_pass() {
    let scratch = Scratch::new();
    refuses(
        exporter().arg("--web-systemd-socket").arg("-f").arg(counters(&scratch)),
        &["--web-systemd-socket", "no listening socket"],
    );
    // More than were passed: what comes after them is the exporter's own.
    let mut more = std::process::Command::new("sh");
    more.args(["-c", "LISTEN_PID=$$ LISTEN_FDS=30 exec \"$@\"", "sh"]).arg(exporter().get_program());
    more.args(["--libdcgm"]).arg(simulator()).arg("--web-systemd-socket").arg("-f").arg(counters(&scratch));
    refuses(&mut more, &["--web-systemd-socket", "is no listening socket, but LISTEN_FDS=30 counts it"]);
}

#[test]
fn too_few_threads() {
    // The limit does not hold for root, and counts what a user runs already.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let scratch = Scratch::new();
    for limit in ["0", "1", "7"] {
        let mut few = std::process::Command::new("setpriv");
        few.args(["--reuid=54321", "--clear-groups", "prlimit", &format!("--nproc={limit}"), "--"]);
        few.arg(exporter().get_program()).args(["--address", "127.0.0.1:0", "--libdcgm"]).arg(simulator());
        refuses(few.arg("-f").arg(counters(&scratch)), &["threads can be started", "ulimit -u 512", "TasksMax=512"]);
    }
}

#[test]
fn devices_that_are_not_there_are_said_and_the_others_shown() {
    let scratch = Scratch::new();
    let mut exporter = Exporter::start(exporter().args(["-d", "g:3,9", "-f"]).arg(counters(&scratch)));
    let page = exporter.page();
    assert!(page.contains("gpu=\"3\"") && !page.contains("gpu=\"0\""), "{page}");
    let log = exporter.log();
    assert!(log.contains("--devices lists GPU 9, which does not exist (there are: 0, 1, 2, 3, 4, 5, 6, 7)"), "{log}");
}

#[test]
fn help_and_version_are_printed() {
    for flag in ["--help", "-h", "-help", "help"] {
        let output = bare_exporter().arg(flag).output().unwrap();
        assert!(output.status.success());
        assert!(String::from_utf8(output.stdout).unwrap().contains("-c, --collect-interval TIME"), "{flag}");
    }
    for arguments in [&["--help-inherited"][..], &["--help", "inherited"]] {
        let output = bare_exporter().args(arguments).output().unwrap();
        assert!(String::from_utf8(output.stdout).unwrap().contains("--enable-pprof"));
    }
    let output = bare_exporter().args(["--help", "-c"]).output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("DCGM_EXPORTER_INTERVAL"));
    refuses(bare_exporter().args(["--help", "colect-interval"]), &["did you mean --collect-interval"]);
    let output = bare_exporter().arg("--version").output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("dcgm-exporter {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn too_few_open_files() {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -n 40 && exec \"$@\"", "sh"]).arg(bare_exporter().get_program());
    let (status, log) = refused(command.arg("--libdcgm").arg(simulator()).args(["-a", "127.0.0.1:0"]));
    assert!(!status.success() && log.contains("the limit of open files is 40"), "{log}");
}

/// The environment file of a site: two names that the flags suggest, a slip, and the interval of a vendor's guide.
#[test]
fn variables_that_nobody_reads() {
    let scratch = Scratch::new();
    let with_variables = |command: &mut Command| {
        for line in include_str!("cases/variables").lines() {
            let (name, value) = line.split_once('=').unwrap();
            command.env(name, value);
        }
    };
    let mut command = exporter();
    with_variables(command.arg("-f").arg(counters(&scratch)));
    let mut exporter = Exporter::start(&mut command);
    exporter.page();
    let log = exporter.log();
    let wanted = [
        "variable DCGM_EXPORTER_COLLECT_INTERVAL is not read; did you mean DCGM_EXPORTER_INTERVAL?",
        "variable DCGM_EXPORTER_PORT is not read; did you mean DCGM_EXPORTER_LISTEN?",
        "variable DCGM_EXPORTER_INTERVALL is not read; did you mean DCGM_EXPORTER_INTERVAL?",
        "an interval of 33ms is too short",
    ];
    for line in wanted {
        assert_eq!(log.matches(line).count(), 1, "{line}: {log}");
    }
    let mut check = bare_exporter();
    check.arg("--check").arg("--libdcgm").arg(simulator()).arg("-f").arg(counters(&scratch));
    with_variables(&mut check);
    let said = String::from_utf8(check.output().unwrap().stdout).unwrap();
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    for line in wanted {
        assert!(said.contains(line), "{line}: {said}");
    }
}
