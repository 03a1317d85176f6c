//! glibc's allocator, set for what libdcgm does: every read allocates a 4 MiB message.
//!
//! After the first `free` glibc raises its mmap threshold above that size and keeps the block for ever: 4 MB of resident
//! memory. Pinning the threshold gives the block back after each read, at a price of about 2 ms of page faults: nothing
//! every 30 s, but most of a client's work every second. An embedded engine also brings a dozen threads, each of which
//! would get an arena of its own.

#![allow(unsafe_code)]

/// Largest blocks that are kept, where memory is given back.
#[cfg(target_env = "gnu")]
const SMALL: libc::c_int = 128 * 1024;
/// And where it is kept: more than libdcgm's message.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 16 * 1024 * 1024;

/// Pins the allocator's thresholds, and the number of arenas.
pub fn tune() {
    #[cfg(target_env = "gnu")]
    if !is_set_by_administrator() {
        // SAFETY: mallopt only sets parameters of the allocator; no other thread exists yet.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, SMALL);
            libc::mallopt(libc::M_TRIM_THRESHOLD, SMALL);
            libc::mallopt(libc::M_ARENA_MAX, 2);
        }
    }
}

/// Keeps the memory of large blocks for the next ones, or gives it back at once, from now on.
pub fn keep_memory(keep: bool) {
    #[cfg(target_env = "gnu")]
    if !is_set_by_administrator() {
        let threshold = if keep { LARGE } else { SMALL };
        // SAFETY: mallopt only sets parameters of the allocator, under its own locks.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, threshold);
            libc::mallopt(libc::M_TRIM_THRESHOLD, threshold);
        }
        if !keep {
            give_back();
        }
    }
}

/// Gives all memory back that is free now; what is needed again costs its page faults once.
///
/// To be called when new watches have settled. What was allocated while they were made may lie between two blocks
/// of libdcgm's messages, of which only one is used from then on: the other one would stay resident.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    if !is_set_by_administrator() {
        // SAFETY: it gives free memory back, under the allocator's own locks.
        unsafe {
            libc::malloc_trim(0);
        }
    }
}

/// Whoever sets glibc's own variables (`MALLOC_...`) decides.
#[cfg(target_env = "gnu")]
fn is_set_by_administrator() -> bool {
    std::env::vars_os().any(|(name, _)| name.to_string_lossy().starts_with("MALLOC_"))
}
