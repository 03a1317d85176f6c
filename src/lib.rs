//! DCGM's fields as metrics for Prometheus.
//!
//! The watcher thread reads every value from libdcgm once, renders it once and publishes the page; the server sends
//! that page to any number of scrapers, and never calls back.
//!
//! ```text
//!  flags, environment, YAML ─► cli ─► config      (plain settings; every module may read them)
//!  counters file ────► counters ───┐
//!                                  ▼
//!  libdcgm.so ─► dcgm ─► inventory ─► watcher ─► metrics ─► exposition ─► publish ─► server ─► scraper
//!                         entities     clock      samples     text         arc-swap    HTTP
//!                                  ▲
//!  job map directory ─► jobs ──────┘
//! ```
//!
//! | module | what it has | imports, besides `config` and `system` |
//! | --- | --- | --- |
//! | [`config`] | settings as plain types | nothing, not even `system` |
//! | [`system`] | requests to the operating system: inotify, /proc, systemd, log | |
//! | [`jobs`] | the job map directory | |
//! | [`containers`] | which container has which GPU, as Docker or Podman say | `jobs` for names of GPUs |
//! | [`status`] | the page for people: its data, and the same as HTML, text and JSON | |
//! | [`publish`] | the published page, the status, who scraped when | `status` |
//! | [`dcgm`] | libdcgm behind a safe interface; all `unsafe` code but the allocator's settings | |
//! | [`counters`] | the counters file | `dcgm` for names of fields |
//! | [`inventory`] | GPUs, instances, switches, links, CPUs, and their labels | `dcgm`, `jobs` for names of GPUs |
//! | [`engine`] | which engine to use, and a session with it | `dcgm` |
//! | [`cli`] | flags, help, man page | |
//! | [`server`] | listening sockets, TLS, users, HTTP | `publish`, `status` |
//! | [`metrics`] | which fields to watch, readings, computed metrics | `counters`, `dcgm`, `inventory` |
//! | [`summary`] | what each job used, as a file per job | `metrics` |
//! | [`exposition`] | samples as text | `containers`, `counters`, `inventory`, `jobs`, `metrics` |
//! | [`watcher`] | the thread that calls DCGM: when to connect, collect and publish | all above but `cli` and `server` |
//! | [`check`] | `--check`, which only reads | all above |
//!
//! `src/main.rs` wires them together and supervises the threads. `tests/map.rs` holds the imports to this table. Data
//! flows to the right: what a module needs from one that it may not import comes in as an argument.
//!
//! One entity, field, job file or source that fails removes only its own samples.
//!
//! Threads: main (signals and supervision: a thread that ends makes the process exit), the watcher (the only one that
//! calls DCGM), one that looks at files, the poll loop of the public sockets, tiny_http behind it, and, with a web
//! configuration, one for passwords, with a job map one that reads it, with `--container-labels` one that asks the container runtime, and with `--job-summary-dir` one that writes
//! summaries of jobs.

#![deny(unsafe_code, unsafe_op_in_unsafe_fn)]
#![warn(clippy::undocumented_unsafe_blocks)]

pub mod check;
pub mod cli;
pub mod config;
pub mod containers;
pub mod counters;
#[allow(unsafe_code)]
pub mod dcgm;
pub mod engine;
pub mod exposition;
pub mod inventory;
pub mod jobs;
pub mod metrics;
pub mod publish;
pub mod server;
pub mod status;
pub mod summary;
pub mod system;
pub mod watcher;
