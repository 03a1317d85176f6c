//! What is asked of the operating system; DCGM and Prometheus are not known here.
//!
//! - [`allocator`]: glibc's allocator.
//! - [`directory`]: hearing of changes in a directory, through inotify.
//! - [`driver`]: which GPUs the driver lists.
//! - [`files`]: reading files that others may have put there.
//! - [`json`], [`logging`]: the log.
//! - [`limits`]: what the system allows this process.
//! - [`process`]: what `/proc/self` tells.
//! - [`systemd`]: what systemd is told.
//! - [`threads`]: threads whose end ends the process.

pub mod allocator;
pub mod directory;
pub mod driver;
pub mod files;
pub mod json;
pub mod limits;
pub mod logging;
pub mod process;
pub mod systemd;
pub mod threads;

/// The name of this node.
pub fn node_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
