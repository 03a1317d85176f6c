//! What a source gives: samples of computed metrics, and readings that belong into the table.

use std::sync::Arc;

use super::number::Number;
use crate::dcgm::EntityId;

/// A sample of a computed metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Index into the inventory.
    pub entity: usize,
    /// After the labels of the entity, by name.
    pub labels: Vec<(&'static str, String)>,
    pub job: Attribution,
    pub number: Number,
}

impl Sample {
    /// A sample that belongs to whichever jobs have the entity now.
    pub fn new(entity: usize, labels: Vec<(&'static str, String)>, number: Number) -> Sample {
        Sample { entity, labels, job: Attribution::Current, number }
    }
}

/// Which job a sample belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribution {
    /// Whichever jobs have the GPU now, as for all other samples.
    Current,
    /// The one that had it when the event happened, or none.
    Then(Option<Arc<str>>),
}

/// The value of a field that a source knows better than the engine's latest value of the entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldValue {
    pub entity: EntityId,
    pub field: u16,
    /// Microseconds since 1970.
    pub time: i64,
    pub value: i64,
}

/// The samples of one collection by metric.
#[derive(Debug, Default)]
pub struct Samples {
    lists: Vec<(&'static str, Vec<Sample>)>,
    /// Values for the table; each replaces an older one there.
    pub values: Vec<FieldValue>,
}

impl Samples {
    /// Room for samples of these metrics.
    pub fn of(names: impl IntoIterator<Item = &'static str>) -> Samples {
        Samples { lists: names.into_iter().map(|name| (name, Vec::new())).collect(), values: Vec::new() }
    }

    /// The list of a metric to add samples to; `None` where no row of the counters file asks for it.
    pub fn list(&mut self, name: &str) -> Option<&mut Vec<Sample>> {
        self.lists.iter_mut().find(|(known, _)| *known == name).map(|(_, list)| list)
    }

    /// The samples of a metric.
    pub fn get(&self, name: &str) -> &[Sample] {
        self.lists.iter().find(|(known, _)| *known == name).map(|(_, list)| list.as_slice()).unwrap_or_default()
    }

    /// How many there are of single jobs.
    pub fn of_jobs(&self) -> usize {
        let samples = self.lists.iter().flat_map(|(_, list)| list);
        samples.filter(|sample| matches!(sample.job, Attribution::Then(Some(_)))).count()
    }

    pub fn clear(&mut self) {
        self.lists.iter_mut().for_each(|(_, list)| list.clear());
        self.values.clear();
    }
}
