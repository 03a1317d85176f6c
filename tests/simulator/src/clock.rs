//! The wall clock, as a test sets it.
//!
//! `DCGM_SIMULATOR_CLOCK` names a file that holds an offset in milliseconds, which may be negative. It is added to the
//! wall clock in the simulated engine. Loaded with `LD_PRELOAD` as well, this library answers `clock_gettime`,
//! `gettimeofday` and `time` for the whole process with the same offset. Monotonic clocks are never touched.
//!
//! The functions below may run before `main`, inside `malloc` and in signal handlers: they use no lock and no heap.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed};

/// How long the process may go without asking whether the file has changed. The engine asks before every call.
const LOOK_EVERY_MICROSECONDS: i64 = 1000;

static OFFSET_MILLISECONDS: AtomicI64 = AtomicI64::new(0);
/// Monotonic time of the last look, 0 before the first.
static LOOKED: AtomicI64 = AtomicI64::new(0);
/// Inode and modification time of what was read.
static SEEN: [AtomicI64; 2] = [AtomicI64::new(0), AtomicI64::new(0)];
/// libc's own function.
static REAL: AtomicUsize = AtomicUsize::new(0);

type ClockGettime = unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> libc::c_int;

/// Microseconds since 1970 by the stepped clock.
pub fn microseconds() -> i64 {
    let now = real(libc::CLOCK_REALTIME);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000 + OFFSET_MILLISECONDS.load(Relaxed) * 1000
}

/// Reads the offset if the file has changed.
pub fn look() {
    // SAFETY: a constant name; the answer is a string of the environment, which no test changes after the start.
    let path = unsafe { libc::getenv(c"DCGM_SIMULATOR_CLOCK".as_ptr()) };
    if path.is_null() {
        return;
    }
    // SAFETY: `path` is terminated, `status` is written by `stat` before it is read, `text` is as long as said.
    unsafe {
        let mut status: libc::stat = std::mem::zeroed();
        if libc::stat(path, &mut status) != 0 {
            return;
        }
        let (inode, modified) = (status.st_ino as i64, status.st_mtime * 1_000_000_000 + status.st_mtime_nsec);
        if SEEN[0].load(Relaxed) == inode && SEEN[1].load(Relaxed) == modified {
            return;
        }
        let file = libc::open(path, libc::O_RDONLY | libc::O_CLOEXEC);
        if file < 0 {
            return;
        }
        let mut text = [0u8; 32];
        let length = libc::read(file, text.as_mut_ptr().cast(), text.len());
        libc::close(file);
        if let Some(offset) = usize::try_from(length).ok().and_then(|length| number(&text[..length])) {
            OFFSET_MILLISECONDS.store(offset, Relaxed);
            SEEN[0].store(inode, Relaxed);
            SEEN[1].store(modified, Relaxed);
        }
    }
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

/// A clock of the system, not stepped.
fn real(clock: libc::clockid_t) -> libc::timespec {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` can be written.
    unsafe { ask(clock, &mut now) };
    now
}

/// libc's `clock_gettime`, also where this library stands in front of it.
unsafe fn ask(clock: libc::clockid_t, now: *mut libc::timespec) -> libc::c_int {
    let mut real = REAL.load(Relaxed);
    if real == 0 {
        // SAFETY: a constant name; libc comes after this library in every search.
        real = unsafe { libc::dlsym(libc::RTLD_NEXT, c"clock_gettime".as_ptr()) } as usize;
        if real == 0 {
            // SAFETY: the caller's arguments, for the kernel to judge.
            return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, now) } as libc::c_int;
        }
        REAL.store(real, Relaxed);
    }
    // SAFETY: the address of a function of this type; the caller's arguments.
    unsafe { std::mem::transmute::<usize, ClockGettime>(real)(clock, now) }
}

/// The offset in milliseconds, at most [`LOOK_EVERY_MICROSECONDS`] old.
fn offset() -> i64 {
    let monotonic = real(libc::CLOCK_MONOTONIC);
    let now = monotonic.tv_sec * 1_000_000 + monotonic.tv_nsec / 1000;
    if now - LOOKED.load(Relaxed) >= LOOK_EVERY_MICROSECONDS {
        LOOKED.store(now, Relaxed);
        look();
    }
    OFFSET_MILLISECONDS.load(Relaxed)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, now: *mut libc::timespec) -> libc::c_int {
    // SAFETY: the caller's arguments; what is written below was just filled in.
    unsafe {
        let code = ask(clock, now);
        if code == 0 && matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE) {
            let nanoseconds = (*now).tv_nsec + offset() % 1000 * 1_000_000;
            (*now).tv_sec += offset() / 1000 + nanoseconds.div_euclid(1_000_000_000);
            (*now).tv_nsec = nanoseconds.rem_euclid(1_000_000_000);
        }
        code
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn gettimeofday(now: *mut libc::timeval, _zone: *mut libc::c_void) -> libc::c_int {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is ours; `now` may be null, and is the caller's otherwise.
    unsafe {
        clock_gettime(libc::CLOCK_REALTIME, &mut time);
        if !now.is_null() {
            now.write(libc::timeval { tv_sec: time.tv_sec, tv_usec: time.tv_nsec / 1000 });
        }
    }
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn time(now: *mut libc::time_t) -> libc::time_t {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: as in `gettimeofday`.
    unsafe {
        clock_gettime(libc::CLOCK_REALTIME, &mut time);
        if !now.is_null() {
            now.write(time.tv_sec);
        }
    }
    time.tv_sec
}
