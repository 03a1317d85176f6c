//! Which devices to report.

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceSelection {
    /// A GPU by its instances where it has them, else as a GPU; all switches and links; all CPUs and cores.
    Flex,
    Listed {
        major: Selection,
        minor: Selection,
        /// GPU instances by their GPU and NVML's id within it, written `i:GPU.ID`.
        instances: Vec<(u32, u32)>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    None,
    All,
    /// In the order written, each number once.
    These(Vec<u32>),
}

impl Selection {
    pub fn contains(&self, id: u32) -> bool {
        match self {
            Selection::None => false,
            Selection::All => true,
            Selection::These(ids) => ids.contains(&id),
        }
    }

    /// Those of `present` that are selected: in the written order if there is one, else in theirs.
    pub fn of(&self, present: &[u32]) -> Vec<u32> {
        match self {
            Selection::None => Vec::new(),
            Selection::All => present.to_vec(),
            Selection::These(ids) => ids.iter().copied().filter(|id| present.contains(id)).collect(),
        }
    }

    /// Listed numbers that are not among `present`.
    pub fn missing(&self, present: &[u32]) -> Vec<u32> {
        match self {
            Selection::These(ids) => ids.iter().copied().filter(|id| !present.contains(id)).collect(),
            _ => Vec::new(),
        }
    }
}
