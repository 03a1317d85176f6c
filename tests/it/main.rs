//! The real binary against the simulated library: what users see, and nothing else.

mod check;
mod common;
mod entities;
mod golden;
mod http;
mod install;
mod inventory;
mod jobs;
mod library;
mod refusals;
mod resilience;
mod scripts;
mod sessions;
mod sharing;
mod slurm;
mod sources;
mod supervision;
mod switches;
mod tls;
mod users;
