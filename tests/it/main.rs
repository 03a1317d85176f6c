//! The real binary against the simulated library: what users see, and nothing else.

mod check;
mod clock;
mod common;
mod engine_starts;
mod entities;
mod golden;
mod http;
mod install;
mod inventory;
mod jobs;
mod library;
mod node;
mod pace;
mod refusals;
mod resilience;
mod scripts;
mod sessions;
mod sharing;
mod signals;
mod slurm;
mod sources;
mod supervision;
mod surroundings;
mod tls;
mod users;
mod xid119;
