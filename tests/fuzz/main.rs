//! Random input to everything that takes input from outside: nothing panics, and what is accepted keeps its promises.
//!
//! Inputs are mutations of the files in `corpus/`, which also are tried as they are; one that fails is written there.
//! `FUZZ_SECONDS` is the time for each target (1 in `make test`, more in `make fuzz`), `FUZZ_SEED` the start.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::ffi::OsStringExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dcgm_exporter::cli::{self, devices};
use dcgm_exporter::config::JobMapTrust;
use dcgm_exporter::config::devices::{DeviceSelection, Selection};
use dcgm_exporter::config::duration::{LONGEST_INTERVAL, SHORTEST_INTERVAL};
use dcgm_exporter::config::file::ConfigFile;
use dcgm_exporter::config::listen::{ListenAddress, Timeouts};
use dcgm_exporter::config::{Config, OpenMetrics};
use dcgm_exporter::counters::Counters;
use dcgm_exporter::exposition::openmetrics;
use dcgm_exporter::jobs;
use dcgm_exporter::jobs::gpu_name::GpuName;
use dcgm_exporter::metrics::sources;
use dcgm_exporter::publish::{PublishedPage, Publisher};
use dcgm_exporter::server::connections::LONGEST_HEAD;
use dcgm_exporter::server::request::{Method, Verdict, judge};
use dcgm_exporter::server::web_config::WebConfig;
use dcgm_exporter::server::{self, Web, listen};
use dcgm_exporter::system::threads::Supervisor;

/// xorshift64*: plain, fast, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit.max(1)
    }

    fn mutate(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        const TOKENS: [&[u8]; 20] = [
            b"\n",
            b"\r\n",
            b"\0",
            b"\"",
            b",",
            b"#",
            b":",
            b"+",
            b"-",
            b"99999999999999999999",
            b"\xff",
            b"\xef\xbb\xbf",
            b" ",
            b"\t",
            b"gauge",
            b"label",
            b"DCGM_FI_DEV_GPU_TEMP",
            b"Content-Length: ",
            b"HTTP/1.1",
            b"=",
        ];
        let mut input = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(6) {
            let at = self.below(input.len() + 1);
            match self.below(6) {
                0 if at < input.len() => input[at] ^= 1 << self.below(8),
                1 if at < input.len() => drop(input.drain(at..(at + 1 + self.below(8)).min(input.len()))),
                2 => drop(input.splice(at..at, TOKENS[self.below(TOKENS.len())].iter().copied())),
                3 => {
                    let other = &corpus[self.below(corpus.len())];
                    input.truncate(at);
                    input.extend_from_slice(&other[self.below(other.len() + 1)..]);
                }
                4 => drop(input.splice(at..at, std::iter::repeat_n(b'a' + self.below(26) as u8, self.below(3000)))),
                _ => input.push(self.below(256) as u8),
            }
        }
        input
    }
}

fn fuzz(target: &str, check: impl Fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let corpus: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("FUZZ_SEED")
        .unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64 | 1);
    let end = Instant::now() + Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(1));
    let mut random = Random(seed);
    let mut tries = 0;
    while Instant::now() < end {
        let input = corpus.get(tries).cloned().unwrap_or_else(|| random.mutate(&corpus));
        if catch_unwind(AssertUnwindSafe(|| check(&input))).is_err() {
            let file = directory.join(format!("failed-{seed}-{tries}"));
            std::fs::write(&file, &input).unwrap();
            panic!("{target} fails on {} (FUZZ_SEED={seed})", file.display());
        }
        tries += 1;
    }
    println!("{target}: {tries} inputs, seed {seed}");
    assert!(tries > corpus.len());
}

#[test]
fn counters_file() {
    fuzz("counters", |input| {
        let lines = input.iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
        let are_placed =
            |errors: &[(u64, String)]| errors.iter().all(|(line, what)| (1..=lines).contains(line) && !what.is_empty());
        match Counters::parse(input, &sources::names()) {
            Ok(counters) => {
                for (index, row) in counters.rows.iter().enumerate() {
                    assert!(counters.rows[..index].iter().all(|other| other.name != row.name && other.line < row.line));
                }
                assert!(!counters.rows.is_empty() && are_placed(&counters.errors), "{:?}", counters.errors);
            }
            // A file without any row is refused, too.
            Err(errors) => assert!(are_placed(&errors), "{errors:?}"),
        }
    });
}

#[test]
fn job_map_directory() {
    let directory = std::env::temp_dir().join(format!("dcgm-exporter-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    fuzz("jobs", |input| {
        std::fs::write(directory.join("0"), input).unwrap();
        std::fs::write(directory.join("job.1"), input).unwrap();
        let scan = jobs::scan(&directory, JobMapTrust::RootOnly, "");
        let ids = scan.map.jobs_of(&[GpuName::Index(0)]);
        assert!(ids.len() <= 64);
        for (index, id) in ids.iter().enumerate() {
            assert!(!id.is_empty() && id.trim() == *id && id.len() <= 64 && !ids[..index].contains(id), "{id:?}");
        }
        for (_, facts) in scan.map.facts() {
            assert!(facts.labels.iter().all(|(_, value)| !value.is_empty() && value.len() <= 256), "{facts:?}");
        }
    });
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn flags() {
    fuzz("flags", |input| {
        let arguments = input.split(|byte| *byte == 0).map(|argument| OsString::from_vec(argument.to_vec()));
        if let Err(error) = cli::parse(arguments, |_| None) {
            assert!(!error.is_empty());
        }
        if let Ok(text) = std::str::from_utf8(input)
            && let Ok(address @ ListenAddress::Tcp { .. }) = ListenAddress::parse(text)
        {
            assert_eq!(ListenAddress::parse(&address.to_string()), Ok(address));
        }
    });
}

/// A server in this process, with a page.
struct Served {
    address: String,
    published: Arc<PublishedPage>,
}

impl Served {
    fn start(web: Option<&Path>) -> Served {
        let published = PublishedPage::new(Duration::from_secs(3600), None, || None);
        let published = Arc::new(published.with_open_metrics(openmetrics::convert));
        published.set_status("running".to_owned(), true);
        Publisher::new(published.clone()).publish(&mut "page\n".to_owned(), None);
        let address = ListenAddress::parse("127.0.0.1:0").unwrap();
        let listeners = Arc::new(listen::open(&address).unwrap());
        let address = listeners[0].address();
        let timeouts = Timeouts { read: Duration::from_secs(10), write: Duration::from_secs(30) };
        server::start(
            listeners,
            &published,
            timeouts,
            OpenMetrics::Always,
            Web::open(web).unwrap(),
            &Supervisor::new(|| {}).0,
        )
        .unwrap();
        Served { address, published }
    }

    /// Sends bytes and nothing after them; returns what comes back until the other side closes, and after how long the
    /// first of it came.
    fn send(&self, bytes: &[u8]) -> (Vec<u8>, Duration) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let start = Instant::now();
        // The other side may have heard enough before the end.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let (mut answer, mut first) = (Vec::new(), None);
        let mut buffer = [0u8; 4096];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    first.get_or_insert(start.elapsed());
                    answer.extend_from_slice(&buffer[..count]);
                }
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
                Err(error) => panic!("neither answered nor closed: {error}"),
            }
        }
        (answer, first.unwrap_or_else(|| start.elapsed()))
    }
}

/// Every head goes through a real server, which has to say what `judge` says, and at once.
#[test]
fn request_heads() {
    const AT_ONCE: Duration = Duration::from_millis(100);
    let served = Served::start(None);
    fuzz("heads", |input| {
        let expected = match judge(input, LONGEST_HEAD) {
            Verdict::Incomplete => {
                assert!(input.len() <= LONGEST_HEAD);
                None
            }
            Verdict::Refused(status) => Some(status),
            Verdict::Complete { request, length } => {
                assert!(
                    length <= input.len() && request.canonical(request.accept.form(OpenMetrics::Always)).is_ascii(),
                    "{request:?}"
                );
                Some(match (request.method, request.path) {
                    (Method::Options, _) => "204 No Content",
                    (Method::Other, _) => "405 Method Not Allowed",
                    (_, "/" | "/metrics" | "/health" | "/-/healthy" | "/-/ready") => "200 OK",
                    _ => "404 Not Found",
                })
            }
        };
        // A machine that stalls does not stall each time.
        let (answer, _) =
            (0..5).map(|_| served.send(input)).find(|(_, time)| *time < AT_ONCE).expect("an answer at once");
        let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let expected = expected.map_or_else(String::new, |status| format!("HTTP/1.1 {status}"));
        assert_eq!(String::from_utf8_lossy(line), expected);
    });
    assert_eq!(served.published.http_restarts(), 0);
}

/// Bytes that may be TLS: whatever comes, the connection ends, and the next client is served.
#[test]
fn tls_handshakes() {
    let directory = std::env::temp_dir().join(format!("dcgm-exporter-fuzz-tls-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(directory.join("cert.pem"), certified.cert.pem()).unwrap();
    std::fs::write(directory.join("key.pem"), certified.signing_key.serialize_pem()).unwrap();
    let web = directory.join("web.yml");
    std::fs::write(&web, "tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n").unwrap();
    let served = Served::start(Some(&web));
    fuzz("tls", |input| drop(served.send(input)));
    let (answer, _) = served.send(b"GET / HTTP/1.1\r\n\r\n");
    assert!(String::from_utf8_lossy(&answer).contains("Client sent an HTTP request to an HTTPS server."));
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn web_configuration() {
    let file = std::env::temp_dir().join(format!("dcgm-exporter-fuzz-web-{}.yml", std::process::id()));
    fuzz("web", |input| {
        std::fs::write(&file, input).unwrap();
        if let Err(problems) = WebConfig::read(&file) {
            let name = file.display().to_string();
            assert!(!problems.is_empty() && problems.iter().all(|problem| problem.starts_with(&name)), "{problems:?}");
        }
    });
    std::fs::remove_file(&file).unwrap();
}

/// Every problem has a place in the file, and what is taken can be used with any counters.
#[test]
fn configuration_file() {
    fuzz("config", |input| match ConfigFile::parse(input) {
        Ok(file) => {
            assert!(matches!(file.version, 1 | 2));
            for collection in &file.collections {
                let interval = collection.interval;
                assert!((SHORTEST_INTERVAL..=LONGEST_INTERVAL).contains(&interval) && !collection.patterns.is_empty());
            }
            let config = Config { rows: file.rows, collections: file.collections, ..Config::default() };
            if let (Some(written), Ok(counters)) = (&config.rows, Counters::of(&config, &sources::names())) {
                assert!(!counters.rows.is_empty() && counters.rows.len() <= written.len());
            }
        }
        Err(problems) => {
            // YAML has line ends of its own.
            let lines = input.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count() + 1;
            assert!(!problems.is_empty());
            for problem in problems {
                assert!((1..=lines + 1).contains(&problem.at.line) && problem.at.column > 0, "{problem}");
                assert!(!problem.what.is_empty());
            }
        }
    });
}

#[test]
fn device_options() {
    fuzz("devices", |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        if let Ok(DeviceSelection::Listed { major, minor, .. }) = devices::parse(text) {
            for selection in [major, minor] {
                if let Selection::These(ids) = selection {
                    assert!(ids.len() <= 65536);
                }
            }
        }
    });
}
