//! Limits of this process.

/// An embedded engine needs more descriptors than this for its devices; the exporter itself holds some 20.
const FEWEST_FILES: u64 = 64;

/// An embedded engine starts more threads than this; the exporter itself has up to 12.
const FEWEST_THREADS: usize = 16;
const SMALL_STACK: usize = 64 * 1024;

/// Checks whether the process may start enough threads: what starts some later cannot report it.
///
/// Errors: too few can be started; names the limits and where to set them.
pub fn check_threads() -> Result<(), String> {
    let gate = std::sync::Mutex::new(());
    std::thread::scope(|scope| {
        let _all_at_once = gate.lock();
        (0..FEWEST_THREADS).try_for_each(|count| {
            let thread = std::thread::Builder::new().stack_size(SMALL_STACK).spawn_scoped(scope, || drop(gate.lock()));
            thread.map(drop).map_err(|error| {
                format!(
                    "only {count} threads can be started ({error}), but the exporter needs at least {FEWEST_THREADS}: raise the \
                     limit of processes with 'ulimit -u 512', or TasksMax=512 and LimitNPROC=512 in the unit"
                )
            })
        })
    })
}

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
