//! What an engine knows of the node: entities and their attributes, MIG, links, CPUs, profiling support.

use std::ffi::{c_int, c_uint, c_void};

use super::Result;
use super::abi::*;
use super::library::{Major, text_of};
use super::session::Session;
use super::types::{EntityGroup, EntityId, is_blank_text};

/// `dcgmGetDeviceAttributes`, as far as labels need it.
#[derive(Debug, Clone, Default)]
pub struct DeviceAttributes {
    pub uuid: String,
    pub name: String,
    pub pci_bus_id: String,
}

/// What [`Session::gpu_status`] answers (`DcgmEntityStatus_t`).
pub mod gpu_status {
    pub const OK: i32 = 1;
    pub const UNSUPPORTED: i32 = 2;
    pub const INACCESSIBLE: i32 = 3;
    pub const LOST: i32 = 4;
    pub const FAKE: i32 = 5;
    pub const DISABLED: i32 = 6;
    /// Unbound from the driver.
    pub const DETACHED: i32 = 7;
}

/// The MIG hierarchy of all GPUs, in the engine's order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MigHierarchy {
    pub instances: Vec<MigInstance>,
    pub compute_instances: Vec<ComputeInstance>,
}

/// A compute instance of the MIG hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ComputeInstance {
    /// DCGM's entity id, numbered through the whole system.
    pub entity: u32,
    /// DCGM's entity id of the GPU instance that it is in.
    pub instance: u32,
}

/// A GPU instance of the MIG hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MigInstance {
    /// DCGM's entity id, numbered through the whole system.
    pub entity: u32,
    pub gpu: u32,
    /// NVML's id within the GPU: what users know as the GPU instance id.
    pub nvml_id: u32,
    /// NVML's number of its profile, and how many slices of the GPU that has.
    pub profile: u32,
    pub slices: u32,
}

/// Links of one GPU or switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkStates {
    pub parent: EntityId,
    /// By DCGM's 0-based index: 0 not supported, 1 disabled, 2 down, 3 up.
    pub states: Vec<u32>,
}

impl Session {
    /// Ids of all entities of a group, in the engine's order. None present is an empty list.
    ///
    /// Errors: -6 or -33 where the engine cannot look (no module for it); see [`Error::is_absence`].
    pub fn entities(&self, group: EntityGroup) -> Result<Vec<u32>> {
        const ALL: c_uint = 0;
        self.entities_with(group, ALL)
    }

    /// The same for those that DCGM supports and can use now: a GPU that is detached, lost or too old is not among them.
    pub fn supported_entities(&self, group: EntityGroup) -> Result<Vec<u32>> {
        const ONLY_SUPPORTED: c_uint = 1;
        self.entities_with(group, ONLY_SUPPORTED)
    }

    fn entities_with(&self, group: EntityGroup, flags: c_uint) -> Result<Vec<u32>> {
        let mut ids = vec![0u32; MAX_ENTITIES_PER_GROUP];
        let mut count = ids.len() as c_int;
        // SAFETY: `count` says how many ids the array holds; the call writes no more.
        self.call("dcgmGetEntityGroupEntities", || unsafe {
            let group = group as c_uint;
            (self.library.symbols.dcgmGetEntityGroupEntities)(self.handle, group, ids.as_mut_ptr(), &mut count, flags)
        })?;
        ids.truncate(usize::try_from(count).unwrap_or(0));
        Ok(ids)
    }

    /// UUID, model and bus id of a GPU. An id that does not exist answers with empty texts, not with an error.
    pub fn device_attributes(&self, gpu: u32) -> Result<DeviceAttributes> {
        let mut attributes = zeroed::<super::abi::DeviceAttributes>();
        attributes.version = version_word::<super::abi::DeviceAttributes>(3);
        // SAFETY: a complete version 3 struct.
        self.call("dcgmGetDeviceAttributes", || unsafe {
            (self.library.symbols.dcgmGetDeviceAttributes)(self.handle, gpu, &mut *attributes)
        })?;
        let identifiers = &attributes.identifiers;
        let known = |array: &[_]| Some(text_of(array)).filter(|text| !is_blank_text(text)).unwrap_or_default();
        Ok(DeviceAttributes {
            uuid: known(&identifiers.uuid),
            name: known(&identifiers.device_name),
            pci_bus_id: known(&identifiers.pci_bus_id),
        })
    }

    /// One of [`gpu_status`]; 0 if the engine does not know.
    pub fn gpu_status(&self, gpu: u32) -> Result<i32> {
        let function = self.wanted("dcgmGetGpuStatus", self.library.symbols.dcgmGetGpuStatus)?;
        let mut status = 0;
        // SAFETY: one int to write to.
        self.call("dcgmGetGpuStatus", || unsafe { function(self.handle, gpu, &mut status) })?;
        Ok(status)
    }

    /// GPU instances and compute instances of all GPUs.
    pub fn mig_hierarchy(&self) -> Result<MigHierarchy> {
        let name = "dcgmGetGpuInstanceHierarchy";
        let function = self.wanted(name, self.library.symbols.dcgmGetGpuInstanceHierarchy)?;
        let mut hierarchy = zeroed::<super::abi::MigHierarchy>();
        hierarchy.version = version_word::<super::abi::MigHierarchy>(2);
        // SAFETY: a complete version 2 struct.
        self.call(name, || unsafe { function(self.handle, &mut *hierarchy) })?;
        let count = (hierarchy.count as usize).min(hierarchy.entities.len());
        let mut found = MigHierarchy::default();
        for MigHierarchyInfo { entity, parent, info } in &hierarchy.entities[..count] {
            let groups = (EntityId::from_c(entity.group, entity.id), EntityId::from_c(parent.group, parent.id));
            let (Some(entity), Some(parent)) = groups else { continue };
            match (entity.group, parent.group) {
                (EntityGroup::Instance, EntityGroup::Gpu) => found.instances.push(MigInstance {
                    entity: entity.id,
                    gpu: parent.id,
                    nvml_id: info.nvml_instance_id,
                    profile: info.nvml_mig_profile_id,
                    slices: info.nvml_profile_slices,
                }),
                (EntityGroup::ComputeInstance, EntityGroup::Instance) => {
                    found.compute_instances.push(ComputeInstance { entity: entity.id, instance: parent.id });
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// State of every NVLink of GPUs and switches.
    pub fn link_states(&self) -> Result<Vec<LinkStates>> {
        match self.library.major() {
            Major::V3 => self.link_states_as::<SwitchLinkStatusV3>(3),
            Major::V4 => self.link_states_as::<SwitchLinkStatusV4>(4),
        }
    }

    fn link_states_as<S: SwitchLinks>(&self, version: u32) -> Result<Vec<LinkStates>> {
        let name = "dcgmGetNvLinkLinkStatus";
        let function = self.wanted(name, self.library.symbols.dcgmGetNvLinkLinkStatus)?;
        let mut status = zeroed::<NvLinkStatus<S>>();
        status.version = version_word::<NvLinkStatus<S>>(version);
        // SAFETY: a complete struct of the version that this library's release line fills.
        self.call(name, || unsafe { function(self.handle, (&raw mut *status).cast::<c_void>()) })?;
        let gpus = (status.num_gpus as usize).min(status.gpus.len());
        let switches = (status.num_switches as usize).min(status.switches.len());
        let of_gpus = status.gpus[..gpus].iter().map(|gpu| LinkStates {
            parent: EntityId::new(EntityGroup::Gpu, gpu.entity_id),
            states: gpu.link_state.to_vec(),
        });
        let of_switches = status.switches[..switches].iter().map(|switch| {
            let (id, states) = switch.parts();
            LinkStates { parent: EntityId::new(EntityGroup::Switch, id), states: states.to_vec() }
        });
        Ok(of_gpus.chain(of_switches).collect())
    }

    /// CPUs with the numbers of their cores. -33 on x86, where the module is denied or does not load.
    pub fn cpus(&self) -> Result<Vec<(u32, Vec<u32>)>> {
        let name = "dcgmGetCpuHierarchy";
        let function = self.wanted(name, self.library.symbols.dcgmGetCpuHierarchy)?;
        let mut hierarchy = zeroed::<CpuHierarchy>();
        hierarchy.version = version_word::<CpuHierarchy>(1);
        // SAFETY: a complete version 1 struct.
        self.call(name, || unsafe { function(self.handle, &mut *hierarchy) })?;
        let count = (hierarchy.num_cpus as usize).min(hierarchy.cpus.len());
        let cores = |bitmask: &[u64; 16]| {
            (0..1024u32).filter(|core| bitmask[*core as usize / 64] >> (core % 64) & 1 == 1).collect()
        };
        Ok(hierarchy.cpus[..count].iter().map(|cpu| (cpu.cpu_id, cores(&cpu.cores.bitmask))).collect())
    }

    /// Serial numbers of CPUs, of those that have one.
    ///
    /// Errors: as [`Session::cpus`]; -20 before DCGM 4.0.
    pub fn cpu_serials(&self) -> Result<Vec<(u32, String)>> {
        let name = "dcgmGetCpuHierarchy_v2";
        let function = self.wanted(name, self.library.symbols.dcgmGetCpuHierarchy_v2)?;
        let mut hierarchy = zeroed::<CpuHierarchyV2>();
        hierarchy.version = version_word::<CpuHierarchyV2>(2);
        // SAFETY: a complete version 2 struct.
        self.call(name, || unsafe { function(self.handle, &mut *hierarchy) })?;
        let count = (hierarchy.num_cpus as usize).min(hierarchy.cpus.len());
        let serials = hierarchy.cpus[..count].iter().map(|cpu| (cpu.cpu_id, text_of(&cpu.serial)));
        Ok(serials.filter(|(_, serial)| !serial.is_empty() && !is_blank_text(serial)).collect())
    }

    /// Fields that this GPU's profiling hardware can answer; the union of its metric groups.
    ///
    /// Errors: -36 and others on GPUs or engines without profiling.
    pub fn profiling_fields(&self, gpu: u32) -> Result<Vec<u16>> {
        let name = "dcgmProfGetSupportedMetricGroups";
        let function = self.wanted(name, self.library.symbols.dcgmProfGetSupportedMetricGroups)?;
        let mut groups = zeroed::<ProfMetricGroups>();
        groups.version = version_word::<ProfMetricGroups>(3);
        groups.gpu_id = gpu;
        // SAFETY: a complete version 3 struct.
        self.call(name, || unsafe { function(self.handle, &mut *groups) })?;
        let count = (groups.num_metric_groups as usize).min(groups.metric_groups.len());
        let mut fields: Vec<u16> = groups.metric_groups[..count]
            .iter()
            .flat_map(|group| &group.field_ids[..(group.num_field_ids as usize).min(group.field_ids.len())])
            .copied()
            .collect();
        fields.sort_unstable();
        fields.dedup();
        Ok(fields)
    }

    /// NVLink state of each ordered pair of GPUs, as (GPU, its row of states by position in the answer).
    pub fn p2p_states(&self) -> Result<Vec<(u32, Vec<u32>)>> {
        let name = "dcgmGetNvLinkP2PStatus";
        let function = self.wanted(name, self.library.symbols.dcgmGetNvLinkP2PStatus)?;
        let mut status = zeroed::<NvLinkP2pStatus>();
        status.version = version_word::<NvLinkP2pStatus>(1);
        // SAFETY: a complete version 1 struct.
        self.call(name, || unsafe { function(self.handle, &mut *status) })?;
        let count = (status.num_gpus as usize).min(status.gpus.len());
        Ok(status.gpus[..count].iter().map(|gpu| (gpu.entity_id, gpu.link_status[..count].to_vec())).collect())
    }
}

/// Differs between the release lines only in the number of links.
trait SwitchLinks: Plain {
    fn parts(&self) -> (u32, &[u32]);
}

impl SwitchLinks for SwitchLinkStatusV3 {
    fn parts(&self) -> (u32, &[u32]) {
        (self.entity_id, &self.link_state)
    }
}

impl SwitchLinks for SwitchLinkStatusV4 {
    fn parts(&self) -> (u32, &[u32]) {
        (self.entity_id, &self.link_state)
    }
}
