//! What is asked of the operating system and the standard library, and knows nothing of DCGM or Prometheus.
//!
//! - [`threads`]: threads whose end ends the process.
//! - [`files`]: reading files that others may have put there.
//! - [`limits`]: what the system allows this process.
//! - [`systemd`]: what systemd is told.

pub mod files;
pub mod limits;
pub mod systemd;
pub mod threads;
