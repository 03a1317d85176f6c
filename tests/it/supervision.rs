//! What ends the process and what does not: threads that end, servers that hang, drivers that hang, and what systemd hears.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::*;

struct Faulty {
    scratch: Scratch,
    exporter: Exporter,
}

impl Faulty {
    fn start(plan: &serde_json::Value, arguments: &[&str], environment: &[(&str, &str)]) -> Faulty {
        let scratch = Scratch::new();
        let counters = scratch.write("counters.csv", GPU_TEMP);
        let web = scratch.write("web.yml", "http_server_config:\n  headers:\n    X-XSS-Protection: 1\n");
        let exporter = Exporter::start(
            exporter()
                .env("DCGM_SIMULATOR_SCENARIO", scratch.write("scenario.json", plan.to_string()))
                .env("DCGM_EXPORTER_TEST_FAULT", scratch.path("fault"))
                .envs(environment.iter().copied())
                .args(["-c", "100", "--web-config-file"])
                .arg(web)
                .args(arguments)
                .arg("-f")
                .arg(counters),
        );
        Faulty { scratch, exporter }
    }

    fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.exporter.pid())).unwrap().count()
    }
}

#[test]
fn a_thread_that_ends_ends_the_process() {
    // The library is there in debug builds alone.
    for (fault, thread, reason) in [
        ("panic watcher", "watcher", "panicked: a test asked for it"),
        ("panic connections", "connections", "panicked: a test asked for it"),
        ("panic routes", "routes", "panicked: a test asked for it"),
        ("panic credentials", "credentials", "panicked: a test asked for it"),
        ("return connections", "connections", "a test asked for it"),
    ] {
        let mut faulty = Faulty::start(&scenario(&[0]), &[], &[]);
        faulty.exporter.page();
        let start = Instant::now();
        faulty.scratch.write("fault", fault);
        // The thread has to wake up for it.
        let _ = request(faulty.exporter.port, "GET /health HTTP/1.1\r\n\r\n");
        let status = faulty.exporter.wait();
        assert_eq!(status.code(), Some(70), "{fault}");
        // A second is enough here; twice that leaves room for a loaded machine.
        assert!(start.elapsed() < Duration::from_secs(2), "{fault}: {:?}", start.elapsed());
        let log = faulty.exporter.log();
        let line = log
            .lines()
            .find(|line| line.contains("a thread of the exporter has ended"))
            .unwrap_or_else(|| panic!("{fault}: {log}"));
        assert!(line.contains(&format!("thread={thread}")) && line.contains(reason), "{fault}: {line}");
    }
}

#[test]
fn an_http_server_that_hangs_is_replaced_and_counted() {
    let mut faulty = Faulty::start(&scenario(&[0]), &[], &[]);
    faulty.exporter.page();
    let before = faulty.threads();
    faulty.scratch.write("fault", "hang routes");
    let start = Instant::now();
    assert_eq!(faulty.exporter.get("/health").status, 503);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    faulty.scratch.write("fault", "");
    faulty.exporter.page_with("it is counted", |page| page.contains("\ndcgm_exporter_http_restarts_total 1\n"));
    assert!(
        faulty.exporter.log().contains("the HTTP server did not answer and was replaced"),
        "{}",
        faulty.exporter.log()
    );
    faulty
        .exporter
        .until("the threads of the old one are gone", |_| (std::fs::read_dir("/proc/self/task").is_ok()).then_some(()));
    let end = Instant::now() + PATIENCE;
    while faulty.threads() > before {
        assert!(Instant::now() < end, "{} threads, {before} before", faulty.threads());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_process_that_was_stopped_for_a_while_blames_nobody() {
    let faulty = Faulty::start(&scenario(&[0]), &[], &[]);
    let port = faulty.exporter.port;
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = Client::connect(port).unwrap();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    assert_ne!(client.ask("GET /nowhere HTTP/1.1\r\n\r\n").unwrap().status, 503);
                }
            });
        }
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(200));
            faulty.exporter.signal(Signal::STOP);
            std::thread::sleep(Duration::from_millis(1300));
            faulty.exporter.signal(Signal::CONT);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(!faulty.exporter.log().contains("was replaced"), "{}", faulty.exporter.log());
}

struct Systemd(UnixDatagram);

impl Systemd {
    fn listen(scratch: &Scratch) -> (Systemd, String) {
        let path = scratch.path("notify.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        (Systemd(socket), path.to_str().unwrap().to_owned())
    }

    /// The next message that has this in it.
    fn hears(&self, what: &str) {
        let end = Instant::now() + PATIENCE;
        let mut heard = Vec::new();
        while Instant::now() < end {
            let mut buffer = [0u8; 4096];
            let count = self.0.recv(&mut buffer).unwrap_or_else(|error| panic!("{what}: {error} after {heard:?}"));
            let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
            if text.contains(what) {
                return;
            }
            heard.push(text);
        }
        panic!("{what} is not among {heard:?}");
    }

    /// Messages within some time.
    fn hears_within(&self, time: Duration) -> Vec<String> {
        self.0.set_nonblocking(true).unwrap();
        while self.0.recv(&mut [0u8; 4096]).is_ok() {}
        std::thread::sleep(time);
        let mut heard = Vec::new();
        let mut buffer = [0u8; 4096];
        while let Ok(count) = self.0.recv(&mut buffer) {
            heard.push(String::from_utf8_lossy(&buffer[..count]).into_owned());
        }
        self.0.set_nonblocking(false).unwrap();
        heard
    }
}

#[test]
fn systemd_hears_of_readiness_states_and_answers() {
    let scratch = Scratch::new();
    let (systemd, path) = Systemd::listen(&scratch);
    let mut plan = scenario(&[0]);
    // A long interval: the watchdog has to hear between collections, too.
    let environment = [("NOTIFY_SOCKET", path.as_str()), ("WATCHDOG_USEC", "600000")];
    let mut faulty = Faulty::start(&plan, &["-c", "1h"], &environment);
    systemd.hears("READY=1");
    systemd.hears("STATUS=running");
    systemd.hears("WATCHDOG=1");
    systemd.hears("WATCHDOG=1");
    // A reload calls the engine, which hangs. The page with the reason is worth more than a restart.
    plan["faults"]["hang_ms"]["dcgmGroupCreate"] = 60_000.into();
    faulty.scratch.write("scenario.json", plan.to_string());
    faulty.scratch.write("counters.csv", "DCGM_FI_DEV_SM_CLOCK, gauge, c\n");
    faulty.exporter.until("it hangs", |exporter| exporter.log().contains("read again").then_some(()));
    assert!(systemd.hears_within(Duration::from_secs(2)).iter().any(|text| text.contains("WATCHDOG=1")));
    // An HTTP server that answers nobody is worth a restart.
    faulty.scratch.write("fault", "hang routes");
    let _ = faulty.exporter.get("/health");
    let heard = systemd.hears_within(Duration::from_secs(2));
    assert!(heard.iter().all(|text| !text.contains("WATCHDOG=1")), "{heard:?}");
}

#[test]
fn a_start_that_hangs_is_ready_and_says_what_it_waits_for() {
    let scratch = Scratch::new();
    let (systemd, path) = Systemd::listen(&scratch);
    let mut plan = scenario(&[0]);
    plan["faults"]["hang_ms"] = json!({ "dcgmStartEmbedded_v2": 600_000 });
    let mut faulty = Faulty::start(&plan, &[], &[("NOTIFY_SOCKET", &path), ("WATCHDOG_USEC", "600000")]);
    systemd.hears("READY=1");
    for path in ["/health", "/metrics"] {
        let answer = faulty.exporter.until("the call is named", |exporter| {
            let answer = exporter.get(path);
            assert_eq!(answer.status, 503);
            answer.body.contains("dcgmStartEmbedded_v2 was called at 2").then_some(answer)
        });
        assert_eq!(answer.body.lines().count(), 1, "{}", answer.body);
    }
    assert!(systemd.hears_within(Duration::from_secs(1)).iter().any(|text| text.contains("WATCHDOG=1")));
    plan["faults"] = json!({});
    faulty.scratch.write("scenario.json", plan.to_string());
    assert!(faulty.exporter.page().contains("DCGM_FI_DEV_GPU_TEMP{"));
}

#[test]
fn a_process_that_leaves_in_the_middle_of_a_call_leaves_its_port() {
    let mut plan = scenario(&[0]);
    let mut faulty = Faulty::start(&plan, &[], &[]);
    faulty.exporter.page();
    plan["faults"]["hang_ms"]["dcgmUpdateAllFields"] = 600_000.into();
    faulty.scratch.write("scenario.json", plan.to_string());
    faulty
        .exporter
        .until("it hangs", |exporter| exporter.get("/health").body.contains("stale").then_some(()).or(Some(())));
    std::thread::sleep(Duration::from_millis(500));
    faulty.exporter.signal(Signal::TERM);
    // The process is still waiting for the call; its successor can bind as soon as it gives up.
    let port = faulty.exporter.port;
    let (status, took) = faulty.exporter.stop();
    assert!(!status.success() && took < Duration::from_secs(6), "{status} after {took:?}");
    std::net::TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
}

/// What fails after the port is open fails before systemd counts the unit as started.
#[test]
fn a_start_that_fails_is_never_ready() {
    let scratch = Scratch::new();
    let socket = UnixDatagram::bind(scratch.path("notify.sock")).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut command = exporter();
    command.env("NOTIFY_SOCKET", scratch.path("notify.sock")).arg("-f").arg(scratch.write("counters.csv", GPU_TEMP));
    command.env("DCGM_EXPORTER_TEST_FAULT", scratch.write("fault", "return spawn-watcher"));
    let (status, log) = refused(&mut command);
    assert!(!status.success() && log.contains("Listening on"), "{log}");
    let mut buffer = [0u8; 4096];
    while let Ok(count) = socket.recv(&mut buffer) {
        let told = String::from_utf8_lossy(&buffer[..count]);
        assert!(!told.contains("READY=1"), "{told}");
    }
}
