//! What was decided: plain types that every room may read, and that know no room.
//!
//! - [`listen`]: where to serve.
//! - [`duration`]: how times are written.
//! - [`yaml`]: YAML files, read strictly.

pub mod duration;
pub mod listen;
pub mod yaml;
