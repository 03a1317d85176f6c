//! How much an engine takes: groups, field groups, and entities in a group.

use crate::codes::Release;
use crate::scenario::Scenario;

const MOST: usize = 64;
/// DCGM makes two groups of its own (all GPUs, all switches) and three field groups.
const OWN_GROUPS: usize = 2;
const OWN_FIELD_GROUPS: usize = 3;

pub const MOST_FIELDS_IN_A_GROUP: usize = 127;

/// Groups that this client can have; other clients may hold some of the engine's.
pub fn groups(scenario: &Scenario) -> usize {
    (MOST - OWN_GROUPS).saturating_sub(scenario.taken_groups)
}

pub fn field_groups(scenario: &Scenario) -> usize {
    (MOST - OWN_FIELD_GROUPS).saturating_sub(scenario.taken_field_groups)
}

pub fn entities_in_a_group(release: Release) -> usize {
    if release < Release(4, 0, 0) { 64 } else { 1024 }
}
