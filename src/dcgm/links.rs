//! Entity ids of NVLinks: how a release packs them, and whether a field counts links or ports.
//!
//! A link has no id of its own. Its entity id is made of the kind and id of its parent (a GPU or a switch) and its index
//! there, from 0. [`EntityId`]s of links are made here and always hold that index.
//!
//! Fields of GPU links that DCGM reads from the port registers of the GPU ("PRM": 580-592 and 1509) are by port, and ports
//! are numbered from 1. DCGM 4.6 adds the 1 itself, except for 1509; before 4.6 it adds it for none. A field that takes the
//! port must be asked of the entity id with index + 1, or it answers for the neighbour. Fields that DCGM reads through NVML
//! (1508, 1525-1531) or the profiling library (1532, 1533) take the index in every release.
//! The engine does this, so its release decides, not that of the library in front of it.

use super::release::Release;
use super::types::{EntityGroup, EntityId};

/// Fields of GPU links that are read from port registers, and that DCGM 4.6 translates.
const PORT_REGISTERS: std::ops::RangeInclusive<u16> = 580..=592;
/// `DCGM_FI_DEV_NVLINK_PPCNT_IBPC_PORT_XMIT_WAIT`, which no release so far translates.
const PORT_XMIT_WAIT: u16 = 1509;

/// Fields of GPU links that are read live instead of watched. An engine polls watched ones twice per update whatever their
/// interval. Not those that are differences between two samples: without a watch throughput (1529-1531) is 0, and the
/// profiling fields 1532 and 1533 are blank.
pub fn is_read_live(field: u16) -> bool {
    PORT_REGISTERS.contains(&field) || matches!(field, 1508 | PORT_XMIT_WAIT | 1525..=1528)
}

/// Fields whose failed read fails a live read as a whole, so each needs a call of its own: PPRM_OPER_RECOVERY, the state
/// and the wait counter. As watches they would keep every sample for ever.
pub fn is_read_alone(field: u16) -> bool {
    matches!(field, 580 | 1508 | PORT_XMIT_WAIT)
}

/// The first release with ids of 8 bits kind, 16 index, 8 parent.
const WIDE_INDEX: Release = Release::new(4, 3, 1);
/// The first release that translates [`PORT_REGISTERS`].
const TRANSLATES_PORTS: Release = Release::new(4, 6, 0);

/// What the second number in a link's entity id is, for a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Numbering {
    /// The link's index, from 0.
    Index,
    /// The link's port, which is its index + 1.
    Port,
}

impl Numbering {
    /// The numbering that an engine of this release has for a field of a GPU's link.
    pub fn of(field: u16, engine: Release) -> Numbering {
        match field {
            PORT_XMIT_WAIT => Numbering::Port,
            field if PORT_REGISTERS.contains(&field) && engine < TRANSLATES_PORTS => Numbering::Port,
            _ => Numbering::Index,
        }
    }

    /// The id to ask the engine for. Entities other than links of GPUs have only one.
    pub(super) fn asked(self, entity: EntityId) -> EntityId {
        match self {
            Numbering::Port if is_gpu_link(entity) => EntityId { id: entity.id.wrapping_add(ONE), ..entity },
            _ => entity,
        }
    }

    /// The entity that an answer under this id is about.
    pub(super) fn answered(self, asked: EntityId) -> EntityId {
        match self {
            Numbering::Port if is_gpu_link(asked) => EntityId { id: asked.id.wrapping_sub(ONE), ..asked },
            _ => asked,
        }
    }
}

/// An index of 1: every packing has the index from bit 8 on.
const ONE: u32 = 1 << 8;

fn is_gpu_link(entity: EntityId) -> bool {
    entity.group == EntityGroup::Link && entity.id & 0xff == EntityGroup::Gpu as u32
}

/// How a release packs the entity id of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// DCGM 3: 8 bits kind, 8 index, 16 parent. Links of GPUs are no entities there.
    NarrowIndex,
    /// DCGM 4.3.1 and newer: 8 bits kind, 16 index, 8 parent.
    WideIndex,
    /// DCGM 4.0.0 to 4.3.0: the header leaves no room for the parent, so links of different parents have one id.
    Unusable,
}

impl Packing {
    pub fn of(engine: Release) -> Packing {
        match engine {
            engine if engine.major < 4 => Packing::NarrowIndex,
            engine if engine < WIDE_INDEX => Packing::Unusable,
            _ => Packing::WideIndex,
        }
    }

    /// The entity of a link of a GPU or switch, by its index from 0; `None` where this release has no id for it.
    pub fn link(self, parent: EntityId, index: u32) -> Option<EntityId> {
        let (index_bits, parent_bits) = match self {
            Packing::NarrowIndex if parent.group == EntityGroup::Gpu => return None,
            Packing::NarrowIndex => (8, 16),
            Packing::WideIndex => (16, 8),
            Packing::Unusable => return None,
        };
        let fits = index >> index_bits == 0 && parent.id >> parent_bits == 0;
        let id = parent.group as u32 | index << 8 | parent.id << (8 + index_bits);
        fits.then_some(EntityId::new(EntityGroup::Link, id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPU: EntityId = EntityId::new(EntityGroup::Gpu, 5);
    const SWITCH: EntityId = EntityId::new(EntityGroup::Switch, 2);

    #[test]
    fn ids_by_release() {
        let id = |release: &str, parent, index| {
            Packing::of(Release::parse(release).unwrap()).link(parent, index).map(|link| link.id)
        };
        assert_eq!(id("4.6.0", GPU, 17), Some(0x0500_1101));
        assert_eq!(id("4.3.1", SWITCH, 300), Some(0x0201_2c03));
        assert_eq!(id("3.3.9", SWITCH, 7), Some(0x0002_0703));
        assert_eq!(id("3.3.9", GPU, 0), None);
        assert_eq!(id("4.2.3", SWITCH, 0), None);
        // What does not fit would be another link.
        assert_eq!(id("3.3.9", SWITCH, 256), None);
        assert_eq!(id("4.6.0", EntityId::new(EntityGroup::Switch, 256), 0), None);
    }

    #[test]
    fn which_fields_take_the_port() {
        let of = |field, release| Numbering::of(field, Release::parse(release).unwrap());
        for nvml in [1508, 1525, 1528, 1529, 1532, 1533] {
            assert_eq!((of(nvml, "4.5.3"), of(nvml, "4.6.0")), (Numbering::Index, Numbering::Index), "{nvml}");
        }
        for port in [580, 586, 592] {
            assert_eq!((of(port, "4.5.3"), of(port, "4.6.0")), (Numbering::Port, Numbering::Index), "{port}");
        }
        assert_eq!((of(1509, "4.5.3"), of(1509, "4.7.0")), (Numbering::Port, Numbering::Port));
    }

    #[test]
    fn a_port_is_asked_for_and_comes_back_as_its_link() {
        let link = Packing::WideIndex.link(GPU, 0).unwrap();
        let asked = Numbering::Port.asked(link);
        assert_eq!(asked, Packing::WideIndex.link(GPU, 1).unwrap());
        assert_eq!(Numbering::Port.answered(asked), link);
        assert_eq!(Numbering::Index.asked(link), link);
        // Only links of GPUs have ports.
        for other in [GPU, SWITCH, Packing::WideIndex.link(SWITCH, 3).unwrap()] {
            assert_eq!((Numbering::Port.asked(other), Numbering::Port.answered(other)), (other, other));
        }
    }
}
