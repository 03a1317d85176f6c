//! libdcgm behind a safe face: everything that crosses the C border, and nothing that knows Prometheus.
//!
//! - [`fields`]: the names an administrator may write, and the ids behind them. [`applies`]: which field may be asked of
//!   which kind of entity. Pure data, both. [`bounds`]: which values a field can have.
//! - [`abi`]: C structs and constants, checked at compile time.
//! - [`library`]: finding and opening `libdcgm.so.4` or `.3`, and its symbols. [`release`]: a version number. [`error`]:
//!   what calls answer.
//! - [`session`]: an engine, embedded or remote. [`types`]: entities, readings, values.
//! - [`query`], [`watch`], [`live`], [`health`]: what a session can be asked. [`links`]: entity ids of links, by release.
//! - [`modules`]: parts of the engine that need not be loaded.
//! - [`hostengine`]: whether a host engine listens at an address.
//! - [`process`]: what libdcgm wants of the whole process.
//! - [`inflight`]: which call is being waited for, so that a hang can be named.
//!
//! All `unsafe` of the exporter is here, but for the allocator's; each block says why it holds.

pub mod abi;
pub mod applies;
pub mod bounds;
pub mod error;
pub mod fields;
pub mod health;
pub mod hostengine;
pub mod inflight;
pub mod library;
pub mod links;
pub mod live;
pub mod modules;
pub mod process;
pub mod query;
pub mod release;
pub mod session;
pub mod types;
pub mod watch;

pub use error::{Error, ErrorKind, Result};
pub use library::{Library, Major, OpenError};
pub use release::Release;
pub use session::{Mode, Session};
pub use types::{EntityGroup, EntityId, Reading, Value};
pub use watch::Watch;
