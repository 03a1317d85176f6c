//! Usage of this process, from `/proc/self`: the standard `process_*` metrics, and the time of its own threads.
//!
//! Read into fixed buffers, because a page is made without allocating.

use std::fs::File;
use std::io::Read;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    /// Seconds since 1970.
    pub start_time: f64,
    pub threads: u64,
    pub open_files: u64,
    pub max_files: u64,
}

/// What costs several files to read is read no oftener than this: a page a second would spend a third of its time there.
const READ_AGAIN: Duration = Duration::from_secs(15);

/// What was read once, and is read again when it is older than [`READ_AGAIN`].
struct Cached<T>(Mutex<Option<(Instant, T)>>);

impl<T: Copy> Cached<T> {
    const fn new() -> Cached<T> {
        Cached(Mutex::new(None))
    }

    fn get(&self, read: impl FnOnce() -> T) -> T {
        let mut cached = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match *cached {
            Some((at, value)) if at.elapsed() < READ_AGAIN => value,
            _ => {
                let value = read();
                *cached = Some((Instant::now(), value));
                value
            }
        }
    }
}

/// What can be read; zeroes for what cannot. All but the processor time may be 15 s old.
pub fn usage() -> Usage {
    static USAGE: Cached<Usage> = Cached::new();
    Usage { cpu_seconds: seconds(ClockId::ProcessCPUTime), ..USAGE.get(read_usage) }
}

fn read_usage() -> Usage {
    let mut buffer = [0u8; 2048];
    let mut usage = Usage { open_files: open_files(), max_files: max_files(), ..Usage::default() };
    let Some(stat) = read("/proc/self/stat", &mut buffer) else { return usage };
    let field = |number| stat_field(stat, number);
    usage.threads = field(20);
    usage.virtual_bytes = field(23);
    usage.resident_bytes = field(24) * rustix::param::page_size() as u64;
    usage.start_time = boot_time() + field(22) as f64 / rustix::param::clock_ticks_per_second().max(1) as f64;
    usage
}

fn seconds(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn read<'a>(path: &str, buffer: &'a mut [u8]) -> Option<&'a str> {
    let count = File::open(path).ok()?.read(buffer).ok()?;
    std::str::from_utf8(&buffer[..count]).ok()
}

/// When the machine booted, in seconds since 1970. From the clocks, because /proc/stat has it after hundreds of lines.
fn boot_time() -> f64 {
    static BOOT: std::sync::OnceLock<f64> = std::sync::OnceLock::new();
    *BOOT.get_or_init(|| seconds(ClockId::Realtime) - seconds(ClockId::Boottime))
}

/// The directory's own descriptor, open while it is read, is not counted.
fn open_files() -> u64 {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let Ok(directory) = rustix::fs::open("/proc/self/fd", flags, rustix::fs::Mode::empty()) else { return 0 };
    let mut buffer = [std::mem::MaybeUninit::uninit(); 2048];
    let mut entries = rustix::fs::RawDir::new(directory, &mut buffer);
    let mut count = 0u64;
    while let Some(Ok(entry)) = entries.next() {
        count += u64::from(!entry.file_name().to_bytes().starts_with(b"."));
    }
    count.saturating_sub(1)
}

fn max_files() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The threads that serve. libdcgm's threads inherit the name of the thread that starts them, so names do not tell them
/// apart.
static SERVING: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// Counts all present threads as serving. Call it before libdcgm starts any.
pub fn all_threads_serve() {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return };
    let tasks = tasks.flatten().filter_map(|task| task.file_name().to_str()?.parse().ok());
    SERVING.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).extend(tasks.collect::<Vec<i32>>());
}

/// Processor time of the threads that serve, in seconds; up to 15 s old. Without any it is 0; a `sum()` of none would be -0.
pub fn serving_cpu_seconds() -> f64 {
    static SECONDS: Cached<f64> = Cached::new();
    SECONDS.get(|| {
        SERVING
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .iter()
            .fold(0.0, |sum, thread| sum + cpu_seconds(*thread))
    })
}

/// Processor time of the calling thread, in seconds.
pub fn this_threads_cpu_seconds() -> f64 {
    seconds(ClockId::ThreadCPUTime)
}

/// Processor time of a thread of this process, in seconds; 0 if it is gone.
fn cpu_seconds(thread: i32) -> f64 {
    use std::io::Write;
    let (mut path, mut buffer) = ([0u8; 64], [0u8; 1024]);
    let mut rest = &mut path[..];
    let written = write!(rest, "/proc/self/task/{thread}/stat").is_ok();
    let length = 64 - rest.len();
    let path = std::str::from_utf8(&path[..length]).ok().filter(|_| written);
    let ticks =
        path.and_then(|path| read(path, &mut buffer)).map_or(0, |stat| stat_field(stat, 14) + stat_field(stat, 15));
    ticks as f64 / rustix::param::clock_ticks_per_second().max(1) as f64
}

/// A numbered field of a stat file. The second is the command in parentheses and may hold anything, so fields are
/// counted from its end.
fn stat_field(stat: &str, number: usize) -> u64 {
    let after = stat.rfind(')').map_or("", |at| &stat[at + 1..]);
    after.split_ascii_whitespace().nth(number - 3).and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn processor_time_of_threads_is_counted() {
        let (start, before) = (std::time::Instant::now(), super::this_threads_cpu_seconds());
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        while super::cpu_seconds(thread) < 0.05 || super::this_threads_cpu_seconds() < before + 0.05 {
            assert!(start.elapsed() < std::time::Duration::from_secs(20));
        }
        assert_eq!(super::cpu_seconds(-1), 0.0);
    }

    #[test]
    fn what_is_cached_is_read_again_later() {
        let cached = super::Cached::new();
        assert_eq!([cached.get(|| 1.0), cached.get(|| 2.0)], [1.0, 1.0]);
        cached.0.lock().unwrap().as_mut().unwrap().0 -= super::READ_AGAIN;
        assert_eq!(cached.get(|| 3.0), 3.0);
    }

    #[test]
    fn this_process_is_plausible() {
        let usage = super::usage();
        assert!(usage.resident_bytes > 100_000 && usage.virtual_bytes > usage.resident_bytes, "{usage:?}");
        assert!(usage.threads >= 1 && usage.open_files >= 3 && usage.max_files >= usage.open_files, "{usage:?}");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(usage.start_time <= now + 1.0 && usage.start_time > now - 86_400.0, "{usage:?} at {now}");
    }
}
