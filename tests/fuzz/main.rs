//! Random input to everything that takes input from outside: nothing panics, and what is accepted keeps its promises.
//!
//! Inputs are mutations of the files in `corpus/`, which also are tried as they are; one that fails is written there.
//! `FUZZ_SECONDS` is the time for each target (1 in `make test`, more in `make fuzz`), `FUZZ_SEED` the start.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dcgm_exporter::cli;
use dcgm_exporter::cli::devices::{DeviceOption, Selection};
use dcgm_exporter::counters::Counters;
use dcgm_exporter::gpu_name::GpuName;
use dcgm_exporter::jobs;
use dcgm_exporter::server::ListenAddress;
use dcgm_exporter::server::request::{Verdict, judge};

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
    fuzz("counters", |input| match Counters::parse(input) {
        Ok(counters) => {
            for (index, row) in counters.rows.iter().enumerate() {
                assert!(counters.rows[..index].iter().all(|other| other.name != row.name && other.line < row.line));
            }
        }
        Err(errors) => {
            assert!(!errors.is_empty());
            let lines = input.iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
            assert!(errors.iter().all(|(line, what)| (1..=lines).contains(line) && !what.is_empty()), "{errors:?}");
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
        let scan = jobs::scan(&directory);
        let ids = scan.map.jobs_of(&[GpuName::Index(0)]);
        assert!(ids.len() <= 256);
        for (index, id) in ids.iter().enumerate() {
            assert!(!id.is_empty() && id.trim() == *id && id.len() <= 1024 && !ids[..index].contains(id), "{id:?}");
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
            && let Ok(address) = ListenAddress::parse(text)
        {
            assert_eq!(ListenAddress::parse(&address.to_string()), Ok(address));
        }
    });
}

#[test]
fn request_heads() {
    fuzz("heads", |input| match judge(input, 8192) {
        Verdict::Incomplete => assert!(input.len() <= 8192),
        Verdict::Refused(status) => assert!(status.starts_with(['4', '5'])),
        Verdict::Complete { request, length } => {
            assert!(length <= input.len() && request.canonical().is_ascii(), "{request:?}");
        }
    });
}

#[test]
fn device_options() {
    fuzz("devices", |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        if let Ok(DeviceOption::Listed { major, minor }) = DeviceOption::parse(text) {
            for selection in [major, minor] {
                if let Selection::These(ids) = selection {
                    assert!(ids.len() <= 65536);
                }
            }
        }
    });
}
