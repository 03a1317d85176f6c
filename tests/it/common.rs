//! Starting the real binary, asking it things, and ending it by its own id.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

pub use rustix::process::Signal;

/// Anything that should happen at once happens well within this, also on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The simulated libdcgm, built if it is not there yet.
pub fn simulator() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let target = Path::new(env!("CARGO_BIN_EXE_dcgm-exporter")).parent().unwrap();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "dcgm-simulator"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        if target.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo runs").success(), "the simulator does not build");
        target.join("libdcgm_simulator.so")
    })
}

/// A directory of a test's own, removed when it ends.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("dcgm-exporter-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        // A job map that others can write is refused.
        rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file as a careful writer does: aside, then renamed.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let (path, aside) = (self.path(name), self.path(&format!("{name}.aside")));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&aside, content).unwrap();
        std::fs::rename(&aside, &path).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The exporter with its standard flags for tests; more are added before it starts.
pub fn exporter() -> Command {
    let mut command = bare_exporter();
    command.args(["--address", "127.0.0.1:0", "--libdcgm"]).arg(simulator());
    command
}

/// The exporter without any flag, in an environment that says nothing.
pub fn bare_exporter() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dcgm-exporter"));
    command.env_clear().env("RUST_BACKTRACE", "1");
    command
}

thread_local! {
    /// Whether every exporter that this thread starts is handed over in its second session.
    static SECOND_SESSION: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Runs a test with exporters that have ended one session already and begun another one.
pub fn in_second_session(test: fn()) {
    SECOND_SESSION.set(true);
    test();
}

pub fn is_second_session() -> bool {
    SECOND_SESSION.get()
}

/// Each of these tests of a module once more, in the second session of a process.
#[macro_export]
macro_rules! also_in_second_session {
    ($($test:ident),* $(,)?) => {
        mod in_second_session {
            $(#[test]
            fn $test() {
                $crate::common::in_second_session(super::$test);
            })*
        }
    };
}

/// A running exporter; killed when dropped.
pub struct Exporter {
    child: Child,
    pub port: u16,
    log: Arc<Mutex<String>>,
}

impl Exporter {
    /// Starts a command made by [`exporter`] and waits until it listens.
    pub fn start(command: &mut Command) -> Exporter {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn({
            let log = log.clone();
            move || {
                for line in stderr.lines().map_while(Result::ok) {
                    let mut log = log.lock().unwrap();
                    log.push_str(&line);
                    log.push('\n');
                }
            }
        });
        let mut exporter = Exporter { child, port: 0, log };
        exporter.port = exporter.listens();
        if is_second_session() {
            exporter.begin_second_session();
        }
        exporter
    }

    fn listens(&mut self) -> u16 {
        self.until("it listens", |exporter| {
            let log = exporter.log();
            let after = log.split("msg=\"Listening on\" address=").nth(1)?;
            after.lines().next()?.rsplit(':').next()?.parse().ok()
        })
    }

    /// Ends the session of the process, once there is a page of it, and begins another one.
    pub fn begin_second_session(&mut self) {
        self.page();
        self.signal(Signal::USR1);
        self.until("the GPUs are released", |exporter| exporter.get("/health").body.contains("released").then_some(()));
        // What the log says from here on is of the second session.
        self.log.lock().unwrap().clear();
        self.signal(Signal::USR2);
        self.until("something is collected again", |exporter| {
            let health = exporter.get("/health").body;
            const BETWEEN: [&str; 4] = ["releasing", "released", "starting", "connecting"];
            let page = exporter.get("/metrics").body;
            let is_between = |state: &&str| health.contains(*state) || is_in_state(&page, state);
            (!BETWEEN.iter().any(is_between)).then_some(())
        });
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits for something to become true and returns what it is.
    pub fn until<T>(&mut self, what: &str, mut is: impl FnMut(&mut Exporter) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = is(self) {
                return found;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the exporter ended ({status}) before {what}:\n{}", self.log());
            }
            assert!(Instant::now() < end, "waited in vain until {what}; log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks for a path. A page of metrics is looked at: see [`check_page`].
    pub fn get(&self, path: &str) -> Response {
        let ask = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        let response = request(self.port, &ask).unwrap();
        if path == "/metrics" && response.status == 200 {
            check_page(&response.body).unwrap_or_else(|what| panic!("{what}, in:\n{}", response.body));
        }
        response
    }

    /// The page, once there is one.
    pub fn page(&mut self) -> String {
        self.until("there is a page", |exporter| {
            Some(exporter.get("/metrics")).filter(|response| response.status == 200)
        })
        .body
    }

    /// The first page of which something is true.
    pub fn page_with(&mut self, what: &str, is: impl Fn(&str) -> bool) -> String {
        self.until(what, |exporter| {
            let response = exporter.get("/metrics");
            Some(response.body).filter(|body| response.status == 200 && is(body))
        })
    }

    pub fn signal(&self, signal: Signal) {
        signal_to(self.child.id(), signal);
    }

    /// Ends it as systemd would and returns how and after how long it ended.
    pub fn stop(&mut self) -> (ExitStatus, Duration) {
        let start = Instant::now();
        self.signal(Signal::TERM);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, start.elapsed());
            }
            assert!(start.elapsed() < PATIENCE, "it does not stop:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until it ends by itself.
    #[allow(dead_code)]
    pub fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[allow(dead_code)]
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

/// A signal to a process of a test's own.
pub fn signal_to(pid: u32, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An HTTP response, taken apart.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub bytes: Vec<u8>,
    /// The bytes, where they are text.
    pub body: String,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }
}

/// What holds for every page: a series is on it once, a family stands in one piece, and its TYPE before its samples.
pub fn check_page(page: &str) -> Result<(), String> {
    let mut series = std::collections::HashSet::new();
    let mut families: Vec<&str> = Vec::new();
    let mut typed = "";
    for line in page.lines() {
        let (kind, text) = match line.strip_prefix("# ") {
            Some(comment) => comment.split_once(' ').ok_or_else(|| format!("'{line}' is no HELP or TYPE"))?,
            None => ("", line),
        };
        let name = text.split(['{', ' ']).next().unwrap_or_default();
        if families.last() != Some(&name) {
            if families.contains(&name) {
                return Err(format!("{name} stands in two pieces"));
            }
            families.push(name);
        }
        match kind {
            "HELP" => {}
            "TYPE" if typed == name => return Err(format!("{name} has two types")),
            "TYPE" => typed = name,
            "" if typed != name => return Err(format!("'{line}' comes before its TYPE")),
            "" => {
                // A label's value may have blanks in it, a number does not.
                let (labels, _) = line.rsplit_once(' ').ok_or_else(|| format!("'{line}' has no value"))?;
                if !series.insert(labels) {
                    return Err(format!("{labels} is there twice"));
                }
            }
            _ => return Err(format!("'{line}' is no HELP or TYPE")),
        }
    }
    Ok(())
}

/// A client that may ask several times on one connection.
pub struct Client<S> {
    pub stream: S,
    received: Vec<u8>,
}

impl Client<TcpStream> {
    pub fn connect(port: u16) -> std::io::Result<Client<TcpStream>> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Client::new(stream))
    }
}

impl<S: Read + Write> Client<S> {
    pub fn new(stream: S) -> Client<S> {
        Client { stream, received: Vec::new() }
    }

    /// Sends bytes and reads one response.
    pub fn ask(&mut self, text: &str) -> std::io::Result<Response> {
        self.stream.write_all(text.as_bytes())?;
        self.response(text.trim_start().starts_with("HEAD "))
    }

    /// Reads one response; that to a HEAD has no body, whatever length it announces.
    pub fn response(&mut self, is_head: bool) -> std::io::Result<Response> {
        let head_length = loop {
            match self.received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => self.receive()?,
            }
        };
        let head: Vec<u8> = self.received.drain(..head_length).collect();
        let head = String::from_utf8(head[..head_length - 4].to_vec()).map_err(std::io::Error::other)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let mut response = Response { status, head, bytes: Vec::new(), body: String::new() };
        let length = response.header("content-length").map(|length| length.parse::<usize>().unwrap());
        match length {
            _ if is_head || status == 204 => {}
            Some(length) => {
                while self.received.len() < length {
                    self.receive()?;
                }
                response.bytes = self.received.drain(..length).collect();
            }
            // Of servers that are not ours.
            None => {
                response.bytes = std::mem::take(&mut self.received);
                self.stream.read_to_end(&mut response.bytes)?;
            }
        }
        response.body = String::from_utf8(response.bytes.clone()).unwrap_or_default();
        Ok(response)
    }

    fn receive(&mut self) -> std::io::Result<()> {
        let mut buffer = [0u8; 64 * 1024];
        match self.stream.read(&mut buffer)? {
            0 => {
                Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, format!("closed after {:?}", self.received)))
            }
            count => {
                self.received.extend_from_slice(&buffer[..count]);
                Ok(())
            }
        }
    }

    /// Whether the other side closes without another word.
    pub fn is_closed(&mut self) -> bool {
        self.received.is_empty() && matches!(self.stream.read(&mut [0u8; 1]), Ok(0))
    }
}

/// Sends bytes on a connection of their own and reads one response.
pub fn request(port: u16, text: &str) -> std::io::Result<Response> {
    Client::connect(port)?.ask(text)
}

/// Runs a command that is to end by itself; returns its status and standard error.
pub fn refused(command: &mut Command) -> (ExitStatus, String) {
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let end = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            let _ = child.kill();
            let output = child.wait_with_output().unwrap();
            panic!("it was not refused:\n{}", String::from_utf8_lossy(&output.stderr));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A simulated host engine; killed when dropped.
pub struct HostEngine {
    child: Child,
}

impl HostEngine {
    /// Starts one on `listen` (`--listen` or `--socket` with its value) and waits until it listens.
    pub fn start(listen: [&str; 2], scenario: &Path) -> HostEngine {
        HostEngine::start_with(listen, scenario, &[])
    }

    pub fn start_with(listen: [&str; 2], scenario: &Path, environment: &[(&str, String)]) -> HostEngine {
        simulator();
        let program = Path::new(env!("CARGO_BIN_EXE_dcgm-exporter")).with_file_name("dcgm-simulator-hostengine");
        let mut command = Command::new(program);
        command
            .args(listen)
            .arg("--scenario")
            .arg(scenario)
            .envs(environment.iter().map(|(name, value)| (name, value)));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("listening on"), "{line}");
        HostEngine { child }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for HostEngine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A loopback port that was free a moment ago.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A linear congruential generator is random enough, and the same every time.
#[allow(dead_code)]
pub struct Random(pub u64);

#[allow(dead_code)]
impl Random {
    pub fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

#[allow(dead_code)]
pub fn is_in_state(page: &str, state: &str) -> bool {
    page.contains(&format!("dcgm_exporter_state{{state=\"{state}\"}} 1\n"))
}

/// Whether a page labels samples with jobs, apart from what they have used, which stays for an hour.
pub fn shows_jobs(page: &str) -> bool {
    const STAY: [&str; 3] = ["dcgm_exporter_job_gpu_", "dcgm_exporter_job_energy_", "dcgm_exporter_job_memory_"];
    let mut lines = page.lines().filter(|line| line.contains("hpc_job"));
    lines.any(|line| !STAY.iter().any(|name| line.starts_with(name)))
}

pub const GPU_TEMP: &str = "DCGM_FI_DEV_GPU_TEMP, gauge, t\n";

/// A scenario of GPUs with a temperature each, to which a test adds what it is about.
pub fn scenario(gpus: &[u32]) -> serde_json::Value {
    let gpu = |id: &u32| {
        serde_json::json!({
            "id": id,
            "uuid": format!("GPU-{id}"),
            "model": "NVIDIA H200",
            "pci_bus_id": format!("00000000:{:02X}:00.0", id + 1),
        })
    };
    let temperature = |id: &u32| {
        serde_json::json!({
            "entity": "GPU", "id": id,
            "fields": { "150": { "type": "int64", "value": (30 + id).to_string() } },
        })
    };
    serde_json::json!({
        "system": { "gpus": gpus.iter().map(gpu).collect::<Vec<_>>() },
        "latest_values": gpus.iter().map(temperature).collect::<Vec<_>>(),
        "supported_profiling_fields": [],
    })
}
