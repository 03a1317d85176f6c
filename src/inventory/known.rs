//! What is remembered of GPUs and instances from one look to the next.
//!
//! Identities do not change while a thing exists, but asking for them can fail, and takes time or a watch. An engine has
//! one watch for each entity and field of a session, so to end ours would end that of a row of the counters file on the
//! same field. So fields 50, 54 and 55 are asked of what is new, before rows watch it, and then remembered. The attributes
//! of a GPU are asked once in a session, and again when it has been away: an engine gives an id to one UUID only.
//! After XID 119 DCGM answers `<<<NULL>>>` for every text: what was known before stays.

use std::collections::HashMap;

use crate::dcgm::query::MigInstance;
use crate::dcgm::{EntityGroup, EntityId, Session};

/// How often an instance that does not tell its profile or UUID is asked in one session. Not for ever: a row on the same
/// field would lose its watch at each look, and get nothing either.
const ATTEMPTS: u8 = 3;

/// Kept by the caller for as long as the process lives.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// By DCGM's id.
    gpus: HashMap<u32, KnownGpu>,
    /// By UUID; `None` for a GPU that does not tell. They do not change while the driver is loaded.
    minors: HashMap<String, Option<u32>>,
    instances: HashMap<InstanceKey, Instance>,
    session: Option<u64>,
}

/// What names a GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct GpuIdentity {
    pub uuid: String,
    pub model: String,
    pub pci_bus_id: String,
}

#[derive(Debug, Clone, Default)]
struct KnownGpu {
    identity: GpuIdentity,
    /// It has told all of that in this session, and has been here at every look since.
    is_told: bool,
}

/// What names an instance beside its id; either is empty if it is not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct InstanceIdentity {
    /// Such as `1g.18gb`.
    pub profile: String,
    /// `MIG-...`.
    pub uuid: String,
}

/// An instance, as the hierarchy tells it: another profile in the same place is another instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct InstanceKey {
    gpu_uuid: String,
    nvml_id: u32,
    entity: u32,
    profile: u32,
    slices: u32,
}

#[derive(Debug, Clone, Default)]
struct Instance {
    identity: InstanceIdentity,
    /// How often it was asked in this session.
    asked: u8,
}

impl Known {
    /// To be called before a look: a new session asks everything anew, and what does not answer stays as it was known.
    pub(super) fn begin(&mut self, session: &Session) {
        if self.session.replace(session.serial()) != Some(session.serial()) {
            self.begin_session();
        }
    }

    fn begin_session(&mut self) {
        for instance in self.instances.values_mut() {
            instance.asked = 0;
        }
        self.gpus.values_mut().for_each(|gpu| gpu.is_told = false);
    }

    /// The identity of a GPU that need not be asked for it.
    pub(super) fn told_gpu(&self, id: u32) -> Option<&GpuIdentity> {
        self.gpus.get(&id).filter(|gpu| gpu.is_told).map(|gpu| &gpu.identity)
    }

    /// Notes which GPUs are here: any other one is asked again when it comes back.
    pub(super) fn here(&mut self, is_here: impl Fn(u32) -> bool) {
        self.gpus.iter_mut().for_each(|(id, gpu)| gpu.is_told &= is_here(*id));
    }

    /// Takes in what a GPU answered and returns its identity. A text that came back empty keeps its last value.
    pub(super) fn gpu(&mut self, id: u32, answered: GpuIdentity) -> GpuIdentity {
        let KnownGpu { identity: known, is_told } = self.gpus.entry(id).or_default();
        *is_told = [&answered.uuid, &answered.model, &answered.pci_bus_id].iter().all(|text| !text.is_empty());
        // Another GPU under this id has nothing of the last one.
        if !answered.uuid.is_empty() && answered.uuid != known.uuid {
            *known = answered;
            return known.clone();
        }
        for (known, answered) in [(&mut known.model, answered.model), (&mut known.pci_bus_id, answered.pci_bus_id)] {
            if !answered.is_empty() {
                *known = answered;
            }
        }
        known.clone()
    }

    pub(super) fn minor(&self, uuid: &str) -> Option<Option<u32>> {
        self.minors.get(uuid).copied()
    }

    pub(super) fn learn_minor(&mut self, uuid: &str, minor: Option<u32>) {
        self.minors.insert(uuid.to_owned(), minor);
    }

    /// What is known of an instance.
    pub(super) fn instance(&self, gpu_uuid: &str, instance: &MigInstance) -> InstanceIdentity {
        self.instances.get(&key(gpu_uuid, instance)).map(|known| known.identity.clone()).unwrap_or_default()
    }

    /// Forgets instances that are not among these, and returns those of them to be asked for their profile and those to
    /// be asked for their UUID.
    pub(super) fn unknown_instances(&mut self, present: &[(&str, MigInstance)]) -> (Vec<EntityId>, Vec<EntityId>) {
        let keys: Vec<InstanceKey> = present.iter().map(|(gpu_uuid, instance)| key(gpu_uuid, instance)).collect();
        self.instances.retain(|known, _| keys.contains(known));
        let (mut profiles, mut uuids) = (Vec::new(), Vec::new());
        for key in keys {
            let entity = EntityId::new(EntityGroup::Instance, key.entity);
            let Instance { identity, asked } = self.instances.entry(key).or_default();
            let is_asked = |text: &str| *asked == 0 || (text.is_empty() && *asked < ATTEMPTS);
            if is_asked(&identity.profile) {
                profiles.push(entity);
            }
            if is_asked(&identity.uuid) {
                uuids.push(entity);
            }
        }
        (profiles, uuids)
    }

    /// Counts an attempt for each of these.
    pub(super) fn count_asked(&mut self, asked: &[EntityId]) {
        for (key, known) in &mut self.instances {
            if asked.contains(&EntityId::new(EntityGroup::Instance, key.entity)) {
                known.asked = known.asked.saturating_add(1);
            }
        }
    }

    /// Where to put what an instance answers; `None` if there is no such instance.
    pub(super) fn instance_mut(&mut self, entity: EntityId) -> Option<&mut InstanceIdentity> {
        let is_it = |key: &InstanceKey| EntityId::new(EntityGroup::Instance, key.entity) == entity;
        self.instances.iter_mut().find(|(key, _)| is_it(key)).map(|(_, known)| &mut known.identity)
    }
}

fn key(gpu_uuid: &str, instance: &MigInstance) -> InstanceKey {
    let &MigInstance { entity, nvml_id, profile, slices, .. } = instance;
    InstanceKey { gpu_uuid: gpu_uuid.to_owned(), nvml_id, entity, profile, slices }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(uuid: &str, model: &str) -> GpuIdentity {
        GpuIdentity { uuid: uuid.into(), model: model.into(), pci_bus_id: "0:1".into() }
    }

    fn instance(entity: u32, nvml_id: u32, profile: u32) -> MigInstance {
        MigInstance { entity, gpu: 0, nvml_id, profile, slices: 1 }
    }

    fn id(entity: u32) -> EntityId {
        EntityId::new(EntityGroup::Instance, entity)
    }

    #[test]
    fn a_blank_text_is_no_identity() {
        let mut known = Known::default();
        assert_eq!(known.gpu(3, gpu("", "")).uuid, "");
        assert_eq!(known.gpu(3, gpu("GPU-a", "H200")), gpu("GPU-a", "H200"));
        assert_eq!(known.gpu(3, GpuIdentity::default()), gpu("GPU-a", "H200"));
        assert_eq!(known.gpu(4, GpuIdentity::default()), GpuIdentity::default());
        // Another GPU in its place, one text of which is not known yet.
        assert_eq!(known.gpu(3, gpu("GPU-b", "")), gpu("GPU-b", ""));
    }

    #[test]
    fn a_gpu_is_asked_once_a_session_and_after_it_was_away() {
        let mut known = Known::default();
        known.gpu(3, gpu("GPU-a", ""));
        assert_eq!(known.told_gpu(3), None, "it owes its model");
        known.gpu(3, gpu("GPU-a", "H200"));
        known.here(|id| id == 3);
        assert_eq!(known.told_gpu(3), Some(&gpu("GPU-a", "H200")));
        known.here(|_| false);
        assert_eq!(known.told_gpu(3), None);
        known.gpu(3, gpu("GPU-b", "H200"));
        assert_eq!(known.told_gpu(3), Some(&gpu("GPU-b", "H200")));
        known.begin_session();
        assert_eq!(known.told_gpu(3), None);
        assert_eq!(known.gpu(3, GpuIdentity::default()), gpu("GPU-b", "H200"));
    }

    #[test]
    fn an_instance_is_asked_once_if_it_answers() {
        let (mut known, here) = (Known::default(), [("GPU-a", instance(0, 7, 19)), ("GPU-a", instance(1, 8, 19))]);
        assert_eq!(known.unknown_instances(&here), (vec![id(0), id(1)], vec![id(0), id(1)]));
        *known.instance_mut(id(0)).unwrap() = InstanceIdentity { profile: "1g.18gb".into(), uuid: "MIG-0".into() };
        known.instance_mut(id(1)).unwrap().uuid = "MIG-1".into();
        known.count_asked(&[id(0), id(1)]);
        // The other one owes its profile, and is asked for that alone, two more times.
        for _ in 1..ATTEMPTS {
            assert_eq!(known.unknown_instances(&here), (vec![id(1)], vec![]));
            known.count_asked(&[id(1)]);
        }
        assert_eq!(known.unknown_instances(&here), (vec![], vec![]));
        assert_eq!(known.instance("GPU-a", &here[0].1).profile, "1g.18gb");
    }

    #[test]
    fn a_new_session_asks_again_and_keeps_what_is_not_answered() {
        let (mut known, here) = (Known::default(), [("GPU-a", instance(0, 7, 19))]);
        known.unknown_instances(&here);
        known.instance_mut(id(0)).unwrap().profile = "1g.18gb".into();
        known.count_asked(&[id(0)]);
        known.begin_session();
        assert_eq!(known.unknown_instances(&here), (vec![id(0)], vec![id(0)]));
        assert_eq!(known.instance("GPU-a", &here[0].1).profile, "1g.18gb");
    }

    #[test]
    fn another_instance_in_the_same_place_is_another() {
        let mut known = Known::default();
        known.unknown_instances(&[("GPU-a", instance(0, 1, 14))]);
        known.instance_mut(id(0)).unwrap().profile = "2g.35gb".into();
        known.count_asked(&[id(0)]);
        for other in [("GPU-a", instance(0, 1, 9)), ("GPU-a", instance(0, 2, 9)), ("GPU-b", instance(0, 2, 9))] {
            assert_eq!(known.unknown_instances(&[other]).0, [id(0)], "{other:?}");
            assert_eq!(known.instance(other.0, &other.1), InstanceIdentity::default());
            known.count_asked(&[id(0)]);
        }
        // One that was gone for a look is asked again.
        known.unknown_instances(&[]);
        assert_eq!(known.unknown_instances(&[("GPU-b", instance(0, 2, 9))]).0, [id(0)]);
    }
}
