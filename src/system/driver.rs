//! What NVIDIA's driver lists in `/proc`, without asking it: reading a directory never waits for a GPU.

use std::collections::BTreeSet;
use std::path::PathBuf;

/// PCI addresses of the GPUs that the driver holds; `None` where no driver is loaded or its files are not visible, as in
/// a container.
pub fn gpus() -> Option<BTreeSet<String>> {
    let entries = std::fs::read_dir(directory().join("gpus")).ok()?;
    Some(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}

/// Whether the node has the driver's device file, as a container has that does not see the driver's files in `/proc`.
pub fn has_device() -> bool {
    #[cfg(debug_assertions)]
    if std::env::var_os("DCGM_EXPORTER_TEST_DRIVER").is_some() {
        return directory().join("nvidiactl").exists();
    }
    PathBuf::from("/dev/nvidiactl").exists()
}

fn directory() -> PathBuf {
    // So that tests can load a driver.
    #[cfg(debug_assertions)]
    if let Some(directory) = std::env::var_os("DCGM_EXPORTER_TEST_DRIVER") {
        return directory.into();
    }
    PathBuf::from("/proc/driver/nvidia")
}
