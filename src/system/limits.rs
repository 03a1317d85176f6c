//! Limits that the system sets to this process.

/// Fewer descriptors than this do not even let an engine open its devices; the exporter itself holds some 20.
const FEWEST_FILES: u64 = 64;

/// Looks whether the process may open enough files.
///
/// Errors: it may not; how many it may, and where that is set.
pub fn check_open_files() -> Result<(), String> {
    match rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        Some(files) if files < FEWEST_FILES => Err(format!(
            "the limit of open files is {files}, and at least {FEWEST_FILES} are needed: raise it with 'ulimit -n 1024', or \
             LimitNOFILE=1024 in the unit"
        )),
        _ => Ok(()),
    }
}
