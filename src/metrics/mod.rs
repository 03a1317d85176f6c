//! From readings to samples: what is asked of which entity, and the table that the answers go into.
//!
//! - [`collector`]: everything watched for one inventory, and one collection of it; what a pause changes of that.
//! - [`plan`]: which metrics the rows of the counters file come to with this library, and which fields that takes.
//! - [`table`]: the latest value of every field of every entity. Text and HTTP are not known here.
//! - [`sources`]: metrics that the exporter makes itself, one file per source, and the one table that lists them.
//! - [`source`], [`sample`], [`tally`], [`window`], [`events`]: what the sources have in common.
//! - [`memory`], by [`identity`], with the [`job_timeline`]: what outlives sessions and inventories.
//! - [`accounts`]: what each job used of each GPU.
//! - [`schedule`]: which collections sample a field.
//! - [`watches`]: groups and field groups that keep what works when one entity or field does not.
//! - [`switch_fields`]: fields of switches and their links that the hardware lacks.
//! - [`live_links`]: fields of links of GPUs, which are read live. [`unsupported`]: fields that answer "not supported".
//! - [`compute_instances`]: fields of MIG instances that only their compute instances have.
//! - [`fatal_xid`]: the error after which DCGM answers for no GPU.
//! - [`profiling_pause`]: on which GPUs profiling fields are not watched for a while.
//! - [`freshness`]: values that have stopped moving.
//! - [`exporter`]: the exporter's account of itself.
//! - [`number`]: a value and its text.

pub mod accounts;
pub mod collector;
mod compute_instances;
pub mod events;
pub mod exporter;
pub mod fatal_xid;
pub mod freshness;
pub mod identity;
pub mod job_timeline;
mod live_links;
pub mod memory;
pub mod number;
pub mod plan;
pub mod profiling_pause;
pub mod sample;
pub mod schedule;
pub mod source;
pub mod sources;
pub mod switch_fields;
pub mod table;
pub mod tally;
mod unsupported;
pub mod watches;
pub mod window;

pub use collector::{Collector, Outcome, profiling_support};
pub use memory::{Extras, Memory, Windows};
pub use profiling_pause::ProfilingPause;
