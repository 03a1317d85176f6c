//! Each rule of `README.md`, through the C symbols. Every test runs in a process of its own, because the library, its
//! scenario and its clock belong to a process.

mod client;
mod clock;
mod conformance;
mod gpus;
mod groups;
mod health;
mod links;
mod modules;
mod sessions;
mod versions;
mod watches;
mod xids;
