//! What a job used, as a file per job: written while the job runs, finished at its end, and printed for people.
//!
//! - [`file`](mod@file): the JSON in such a file.
//! - [`store`]: the directory.
//! - [`writer`]: the thread that writes, so that a slow disk delays nothing.
//! - [`text`]: the same for people.

pub mod file;
pub mod store;
pub mod text;
pub mod writer;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::metrics::accounts::Record;

/// What one job used on this node.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    pub job: Arc<str>,
    pub hostname: String,
    /// What the job map knew of it: name and value.
    pub about: Vec<(String, String)>,
    /// By GPU and instance.
    pub records: Vec<Record>,
}

impl Summary {
    /// Whether the job has no GPU any more.
    pub fn is_over(&self) -> bool {
        self.records.iter().all(|record| record.account.ended.is_some())
    }
}

/// What is known of jobs, and what was handed to the writer: it gets only what is new.
#[derive(Debug, Default)]
pub struct Summaries {
    about: HashMap<Arc<str>, Vec<(String, String)>>,
    written: HashMap<Arc<str>, Summary>,
}

impl Summaries {
    /// Takes in what was read back. What the job map has said meanwhile counts first.
    pub fn restore(&mut self, restored: &[Summary]) {
        for Summary { job, about, .. } in restored {
            self.about.entry(job.clone()).or_insert_with(|| about.clone());
        }
    }

    /// Forgets what the job map knew of jobs that are neither written down nor in it.
    pub fn tidy(&mut self, is_there: impl Fn(&str) -> bool) {
        self.about.retain(|job, _| self.written.contains_key(job) || is_there(job));
    }

    /// Takes in what the job map knows of a job. It stays after the job's end.
    pub fn describe<'a>(&mut self, job: &str, facts: impl Iterator<Item = (&'a str, &'a str)>) {
        let facts: Vec<(String, String)> = facts.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        if !facts.is_empty() && self.about.get(job) != Some(&facts) {
            self.about.insert(Arc::from(job), facts);
        }
    }

    /// The summaries that are not as they were at the last call.
    pub fn new_ones(&mut self, records: impl Iterator<Item = Record>, hostname: &str) -> Vec<Summary> {
        let mut by_job: BTreeMap<Arc<str>, Vec<Record>> = BTreeMap::new();
        for record in records {
            by_job.entry(record.job.clone()).or_default().push(record);
        }
        self.written.retain(|job, _| by_job.contains_key(job));
        let mut new = Vec::new();
        for (job, mut records) in by_job {
            records.sort_by(|a, b| key(a).cmp(&key(b)));
            let about = self.about.get(&job).cloned().unwrap_or_default();
            let summary = Summary { job: job.clone(), hostname: hostname.to_owned(), about, records };
            if self.written.get(&job) != Some(&summary) {
                self.written.insert(job, summary.clone());
                new.push(summary);
            }
        }
        new
    }
}

/// In the order of the GPUs.
fn key(record: &Record) -> (u32, u32, &str) {
    let number = |text: &str| text.parse().unwrap_or(u32::MAX);
    (number(&record.device.gpu), number(&record.device.instance), &record.device.uuid)
}
