//! Requests to the operating system. Neither DCGM nor Prometheus is known here.
//!
//! - [`allocator`]: glibc's allocator.
//! - [`busy`]: which file a thread waits for.
//! - [`directory`]: changes in a directory, through inotify.
//! - [`driver`]: the GPUs that the driver lists.
//! - [`files`]: reading files that other programs write, and replacing files whole.
//! - [`json`]: JSON of the log and of `--check`. [`json_reader`]: that of others, read in bounded memory.
//! - [`listeners`]: who owns a listening socket.
//! - [`logging`]: the log.
//! - [`limits`]: limits of this process.
//! - [`printable`]: text of strangers for a terminal.
//! - [`process`]: usage, from `/proc/self`.
//! - [`switch_file`]: a file that switches something on by being there.
//! - [`systemd`]: notifications to systemd.
//! - [`threads`]: threads whose end ends the process.
//! - [`unix_socket`]: Unix sockets as a client.
//! - [`writers`]: who may change a file.

pub mod allocator;
pub mod busy;
pub mod directory;
pub mod driver;
pub mod files;
pub mod json;
pub mod json_reader;
pub mod limits;
pub mod listeners;
pub mod logging;
pub mod printable;
pub mod process;
pub mod switch_file;
pub mod systemd;
pub mod threads;
pub mod unix_socket;
pub mod writers;

/// The name of this node.
pub fn node_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
