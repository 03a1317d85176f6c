//! Limits of this process.

/// An embedded engine needs more descriptors than this for its devices; the exporter itself holds some 20.
const FEWEST_FILES: u64 = 64;

/// Checks whether the process may open enough files.
///
/// Errors: the limit is too low; names the limit and where to set it.
pub fn check_open_files() -> Result<(), String> {
    match rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        Some(files) if files < FEWEST_FILES => Err(format!(
            "the limit of open files is {files}, but the exporter needs at least {FEWEST_FILES}: raise it with 'ulimit -n 1024', or \
             LimitNOFILE=1024 in the unit"
        )),
        _ => Ok(()),
    }
}
