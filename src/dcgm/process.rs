//! What libdcgm wants of the whole process: set once, before the first thread starts and before it is opened.
//!
//! **The allocator.** Every read allocates a 4 MiB message inside libdcgm. After the first `free` glibc raises its
//! mmap threshold above that and keeps the block for ever: 4 MB of resident memory for nothing. Pinning the threshold
//! gives it back, at a price of page faults that only shows at intervals of a second. An embedded engine also brings
//! a dozen threads, each of which would get an arena of its own.
//!
//! **Logging.** An embedded engine logs only where these variables say; any other way it opens
//! `/var/log/nv-hostengine.log`, which belongs to somebody else.

/// For a thread that calls libdcgm, whose health response alone is a megabyte. What is not touched costs nothing.
pub const STACK: usize = 8 * 1024 * 1024;

/// Pins the allocator's thresholds. Somebody who sets glibc's own variables (`MALLOC_...`) is left alone.
pub fn tune_allocator() {
    if std::env::vars_os().any(|(name, _)| name.to_string_lossy().starts_with("MALLOC_")) {
        return;
    }
    #[cfg(target_env = "gnu")]
    {
        const THRESHOLD: libc::c_int = 128 * 1024;
        // SAFETY: mallopt only sets parameters of the allocator; no other thread exists yet.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, THRESHOLD);
            libc::mallopt(libc::M_TRIM_THRESHOLD, THRESHOLD);
            libc::mallopt(libc::M_ARENA_MAX, 2);
        }
    }
}

/// Makes libdcgm log to standard output with this severity (`ERROR`, `DEBUG`, ...).
pub fn log_to_stdout(severity: &str) {
    // SAFETY: called from main before any thread exists, so nobody reads the environment meanwhile.
    unsafe {
        std::env::set_var("__DCGM_DBG_FILE", "-");
        std::env::set_var("__DCGM_DBG_LVL", severity);
    }
}

/// Ends the process without running libdcgm's destructors, which would wait for the call that hangs.
pub fn leave_at_once(code: i32) -> ! {
    // SAFETY: ends the process; nothing of it is used after.
    unsafe { libc::_exit(code) }
}
