//! The sources of computed metrics, each in a file of its own, and the one table that lists them.
//!
//! A new one takes its file and its row here; nothing else names a source.

pub mod clock_events;
pub mod health;
pub mod job_accounting;
pub mod nvlink_links;
pub mod p2p;
pub mod xid;

use super::source::New;

/// A source and what it gives.
pub struct Row {
    pub metrics: &'static [ComputedMetric],
    pub new: New,
}

/// A metric that is made from what DCGM says, and is not a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ComputedMetric {
    /// As rows of the counters file name it.
    pub name: &'static str,
    /// Place on the page, after all fields.
    pub order: u32,
    /// HELP and TYPE are on the page also without samples, as dcgm-exporter has it.
    pub is_announced: bool,
    /// Has samples of a GPU as a whole also where only its instances are reported.
    pub of_whole_gpus: bool,
}

const fn metric(name: &'static str, order: u32) -> ComputedMetric {
    ComputedMetric { name, order, is_announced: false, of_whole_gpus: false }
}

const fn of_whole_gpus(metric: ComputedMetric) -> ComputedMetric {
    ComputedMetric { of_whole_gpus: true, ..metric }
}

const fn announced(metric: ComputedMetric) -> ComputedMetric {
    ComputedMetric { is_announced: true, ..metric }
}

pub static SOURCES: &[Row] = &[
    Row {
        metrics: &[
            of_whole_gpus(metric(xid::COUNT, 9001)),
            of_whole_gpus(metric(xid::TOTAL, 9005)),
            of_whole_gpus(metric(xid::LAST, 9008)),
        ],
        new: xid::new,
    },
    Row {
        metrics: &[
            metric(clock_events::COUNT, 9002),
            metric(clock_events::TOTAL, 9006),
            metric(clock_events::SECONDS, 9007),
        ],
        new: clock_events::new,
    },
    Row { metrics: &[announced(of_whole_gpus(metric(health::STATUS, 9003)))], new: health::new },
    Row { metrics: &[announced(of_whole_gpus(metric(p2p::STATUS, 9004)))], new: p2p::new },
    Row { metrics: &[of_whole_gpus(metric(nvlink_links::LINKS, 9009))], new: nvlink_links::new },
    // Its metrics are the exporter's own; no row of the counters file asks for them.
    Row { metrics: &[], new: job_accounting::new },
];

/// All computed metrics.
pub fn metrics() -> impl Iterator<Item = &'static ComputedMetric> {
    SOURCES.iter().flat_map(|row| row.metrics)
}

/// Their names, for the counters file.
pub fn names() -> Vec<&'static str> {
    metrics().map(|metric| metric.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_metric_has_a_name_and_a_place_of_its_own() {
        let (mut names, mut places) = (names(), metrics().map(|metric| metric.order).collect::<Vec<_>>());
        names.sort_unstable();
        names.dedup();
        places.sort_unstable();
        places.dedup();
        assert!(names.len() == metrics().count() && places.len() == metrics().count());
    }
}
