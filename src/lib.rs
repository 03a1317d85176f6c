//! DCGM's fields as a Prometheus page that is always there.
//!
//! A value enters at libdcgm, is read once, rendered once, published once, and served many times; nothing on the
//! serving side ever looks back.
//!
//! ```text
//!  counters file ─► counters ─┐
//!  flags, env ────► cli ──────┤
//!                             ▼
//!  libdcgm.so ─► dcgm ─► inventory ─► watcher ─► metrics ─► exposition ─► publish ─► server ─► scraper
//!                engine   who is here  the clock  numbers     text       arc-swap  bytes
//!                                        ▲
//!  job map directory ─► jobs ────────────┘
//! ```
//!
//! `--check` ([`check`]) walks the same rooms and only reads.
//!
//! Data flows to the right. What a module needs from its left comes in as an argument; no module reaches back. One
//! entity, field or job file that fails costs its own samples and never the page.
//!
//! Threads: main (signals and supervision: a thread that ends, ends the process), the watcher (the only one that calls
//! DCGM), the poll loop of the public sockets, tiny_http behind it, and, with a web configuration, one for passwords.

#![deny(unsafe_code, unsafe_op_in_unsafe_fn)]
#![warn(clippy::undocumented_unsafe_blocks)]

pub mod check;
pub mod cli;
pub mod config;
pub mod counters;
#[allow(unsafe_code)]
pub mod dcgm;
pub mod exposition;
pub mod inventory;
pub mod jobs;
pub mod metrics;
pub mod publish;
pub mod server;
pub mod system;
pub mod watcher;
