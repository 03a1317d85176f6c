//! A stand-in for libdcgm: the same C symbols, played from a scenario file.
//!
//! `DCGM_SIMULATOR_SCENARIO` names the file (see [`scenario`]); without it there are eight H200 under a moving load.
//! `DCGM_SIMULATOR_STATS` names a file that counts calls, groups and watches after every update, for tests of leaks.
//! `DCGM_SIMULATOR_CLOCK` names a file with an offset of the wall clock (see [`clock`]).
//!
//! `README.md` lists the rules that it plays and the scenario's keys.

#![allow(non_snake_case, clippy::missing_safety_doc)]

mod answers;
mod api;
mod clock;
mod codes;
mod engine;
mod entities;
mod fields;
mod gpus;
mod health;
mod library;
mod limits;
mod links;
mod live;
mod memory;
mod modules;
mod reading;
mod recording;
mod scenario;
mod schedule;
mod values;
mod watches;
mod watching;
mod xids;
