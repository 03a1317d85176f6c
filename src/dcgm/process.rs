//! What libdcgm wants of the process that loads it.

/// The stack of a thread that calls libdcgm, whose health response alone is a megabyte. What is not touched costs nothing.
pub const STACK: usize = 8 * 1024 * 1024;

/// Names the file of libdcgm's log; `-` is standard output.
const LOG_FILE: &str = "__DCGM_DBG_FILE";

/// Whether the environment names a file for libdcgm's log.
pub fn is_log_wanted() -> bool {
    std::env::var_os(LOG_FILE).is_some_and(|file| !file.is_empty())
}

/// Makes libdcgm log to standard output with this severity (`ERROR`, `DEBUG`, ...).
pub fn log_to_stdout(severity: &str) {
    // SAFETY: called from main before any thread exists, so nobody reads the environment meanwhile.
    unsafe {
        std::env::set_var(LOG_FILE, "-");
        std::env::set_var("__DCGM_DBG_LVL", severity);
    }
}

/// Makes an embedded engine go on calling the driver after XID 119. Codes that the variable names already stay.
pub fn keep_reading_after_xid119() {
    const VARIABLE: &str = "__DCGM_FATAL_XIDS__";
    let codes = std::env::var(VARIABLE).map_or_else(|_| "-119".to_owned(), |codes| format!("{codes},-119"));
    // SAFETY: called from main before any thread exists, so nobody reads the environment meanwhile.
    unsafe { std::env::set_var(VARIABLE, codes) };
}

/// Ends the process without running libdcgm's destructors, which would wait for a call that hangs.
pub fn exit_at_once(code: i32) -> ! {
    // SAFETY: ends the process; nothing of it is used after.
    unsafe { libc::_exit(code) }
}
