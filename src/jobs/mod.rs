//! The job map: which jobs have which GPU, and whose they are, as prolog and epilog scripts write it into a directory.
//!
//! - [`directory`]: opening it, and its files, so that only root decides what is read.
//! - [`gpu_name`]: the ways in which such a script may name a GPU.
//! - [`scan`](mod@scan): reading the directory.
//!
//! DCGM is not known here.

pub mod directory;
pub mod gpu_name;
pub mod scan;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use gpu_name::GpuName;
pub use scan::{Scan, scan};

/// What the directory held when it was last read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobMap {
    jobs: BTreeMap<GpuName, Vec<String>>,
    /// By job id.
    facts: BTreeMap<String, Facts>,
    /// Job ids and files that were left out because of a limit, or because they are no ids.
    left_out: usize,
}

/// What is known of a job.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Label names and values, each name at most once, and no value empty.
    pub labels: Vec<(&'static str, String)>,
    /// Seconds since 1970, by the node's clock.
    pub start_time: Option<f64>,
    /// It profiles by itself, so the profiling fields of its GPUs are not to be watched.
    pub pauses_profiling: bool,
}

impl JobMap {
    /// Ids under any of these names of one GPU, each once: at most [`scan::MOST_JOBS`] of the GPU, and
    /// [`scan::MOST_IDS`] in the whole map.
    pub fn jobs_of(&self, names: &[GpuName]) -> Vec<&str> {
        let mut ids = self.all_of(names);
        ids.truncate(scan::MOST_JOBS);
        ids
    }

    /// How many ids of one GPU [`JobMap::jobs_of`] leaves out.
    pub fn beyond_limit(&self, names: &[GpuName]) -> usize {
        self.all_of(names).len().saturating_sub(scan::MOST_JOBS)
    }

    /// Ids and files that reading the directory left out.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    fn all_of(&self, names: &[GpuName]) -> Vec<&str> {
        let mut ids: Vec<&str> = Vec::new();
        for id in names.iter().filter_map(|name| self.jobs.get(name)).flatten() {
            if !ids.contains(&id.as_str()) {
                ids.push(id);
            }
        }
        ids
    }

    /// Jobs that have a GPU.
    pub fn ids(&self) -> HashSet<&str> {
        self.jobs.values().flatten().map(String::as_str).collect()
    }

    /// A job under any of these names of one GPU that wants profiling fields not to be watched there.
    pub fn pausing_job(&self, names: &[GpuName]) -> Option<&str> {
        self.all_of(names).into_iter().find(|id| self.facts.get(*id).is_some_and(|facts| facts.pauses_profiling))
    }

    /// All jobs with a GPU that want the same.
    pub fn pausing_jobs(&self) -> impl Iterator<Item = &str> {
        let running = self.ids();
        let pausing = self.facts.iter().filter(move |(id, facts)| facts.pauses_profiling && running.contains(&***id));
        pausing.map(|(id, _)| id.as_str())
    }

    /// What is known of jobs, by id.
    pub fn facts(&self) -> impl Iterator<Item = (&str, &Facts)> {
        self.facts.iter().map(|(id, facts)| (id.as_str(), facts))
    }

    /// GPUs that have jobs.
    pub fn names(&self) -> impl Iterator<Item = &GpuName> {
        self.jobs.keys()
    }

    /// GPUs that have jobs, but are none of those that are reported; `reported` has the names of each. Their jobs are
    /// on no sample. The usual causes: a GPU's index where the GPU is reported by its MIG instances, and a gres.conf
    /// that counts otherwise than nvidia-smi.
    pub fn unmatched<'n>(&self, reported: impl IntoIterator<Item = &'n [GpuName]>) -> Vec<&GpuName> {
        let reported: HashSet<&GpuName> = reported.into_iter().flatten().collect();
        self.jobs.keys().filter(|name| !reported.contains(name)).collect()
    }

    /// How much there is, in words.
    pub fn summary(&self) -> String {
        let jobs: BTreeSet<&String> = self.jobs.values().flatten().collect();
        format!("{} jobs on {} GPUs or instances", jobs.len(), self.jobs.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_no_name_of_an_instance() {
        let name = |text: &str| GpuName::parse(text).unwrap();
        let map = JobMap {
            jobs: ["0", "1", "1.7", "GPU-9"].into_iter().map(|text| (name(text), vec!["17".to_owned()])).collect(),
            ..JobMap::default()
        };
        let (whole, instance) = ([name("0"), name("GPU-0")], [name("1.7"), name("MIG-1")]);
        let reported = [whole.as_slice(), instance.as_slice()];
        assert_eq!(map.unmatched(reported), [&name("1"), &name("GPU-9")]);
        assert_eq!(JobMap::default().unmatched(reported), Vec::<&GpuName>::new());
    }
}
