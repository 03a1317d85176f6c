//! The command line: a table of flags, and the [`Config`] that a command line, an environment and the table's defaults
//! give.
//!
//! - [`flag`]: what a row of the table has.
//! - [`own`], [`inherited`]: the rows; those that have an effect, and those of dcgm-exporter that have none here.
//! - [`parse`](mod@parse): the value of each flag, and what it does to the configuration.
//! - [`values`], [`devices`], [`engine`]: how values are written.
//! - [`help`], [`man`], [`completion`]: the table as text.
//!
//! Of files the configuration file alone is read here, and the width of the terminal; sockets and DCGM are not touched.

pub mod completion;
pub mod devices;
pub mod engine;
pub mod flag;
pub mod help;
pub mod inherited;
pub mod man;
pub mod own;
pub mod parse;
pub mod values;

use crate::config::Config;

pub use flag::unknown_variables;
pub use parse::{parse, parse_in, typed_check, typed_root};

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    Run(Box<Config>),
    /// Print this and exit with 0.
    Print(String),
}
