//! glibc's allocator, set for what libdcgm does: every read allocates a 4 MiB message.
//!
//! After the first `free` glibc raises its mmap threshold above that size and keeps the block: 4 MB of resident memory.
//! With a fixed threshold the block is returned, which costs about 2 ms of page faults per read. An embedded engine has
//! a dozen threads, each of which would get an arena of its own.

#![allow(unsafe_code)]

/// Fixes the allocator's thresholds, unless one of glibc's own variables (`MALLOC_...`) is set.
pub fn tune() {
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
