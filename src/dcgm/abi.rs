//! The C side of libdcgm as it lies in memory: constants, structs, signatures.
//!
//! Sizes, offsets and version words are those of the headers of DCGM 3.3.9 to 4.6.0 on x86-64, where they do not
//! differ unless a name here says so. They are checked at compile time below, so that a slip here cannot reach a GPU.
//! No policy in this file: what to call when is `engine`'s business.

use std::ffi::{c_char, c_int, c_uint, c_void};

pub const OK: c_int = 0;
pub const BADPARAM: c_int = -1;
pub const NOT_SUPPORTED: c_int = -6;
pub const INIT_ERROR: c_int = -7;
pub const NVML_ERROR: c_int = -8;
pub const VER_MISMATCH: c_int = -12;
pub const MAX_LIMIT: c_int = -24;
pub const CONNECTION_NOT_VALID: c_int = -21;
pub const NO_DATA: c_int = -14;
pub const MODULE_NOT_LOADED: c_int = -33;
pub const PROFILING_NOT_SUPPORTED: c_int = -36;

/// What a function fails with here when the loaded library does not have it at all (`DCGM_ST_FUNCTION_NOT_FOUND`).
pub const FUNCTION_NOT_FOUND: c_int = -20;

/// Fields one field group may hold.
pub const MAX_FIELDS_PER_GROUP: usize = 127;
/// Entities one group may hold: 64 before DCGM 4.0.
pub const MAX_ENTITIES_PER_GROUP: usize = 1024;
pub const MAX_ENTITIES_PER_GROUP_V3: usize = 64;
pub const MAX_GPUS: usize = 32;
pub const MAX_CPUS: usize = 8;

/// `DCGM_FV_FLAG_LIVE_DATA`: ask the driver now.
pub const LIVE_DATA: c_uint = 1;

pub const GROUP_EMPTY: c_int = 1;
pub const OPERATION_MODE_MANUAL: c_uint = 2;
pub const LOGGING_SEVERITY_UNSPECIFIED: c_int = -1;
pub const LOGGING_SEVERITY_NONE: c_int = 0;

/// Modules of the engine, as the deny list of `dcgmStartEmbedded_v2` numbers them.
pub mod module {
    pub const NVSWITCH: u32 = 1;
    pub const VGPU: u32 = 2;
    pub const INTROSPECT: u32 = 3;
    pub const HEALTH: u32 = 4;
    pub const POLICY: u32 = 5;
    pub const CONFIG: u32 = 6;
    pub const DIAG: u32 = 7;
    pub const SYSMON: u32 = 9;
    pub const MNDIAG: u32 = 10;
}

pub const INT32_BLANK: i64 = 0x7fff_fff0;
pub const INT64_BLANK: i64 = 0x7fff_ffff_ffff_fff0;
pub const FP64_BLANK: f64 = 140_737_488_355_328.0;

/// `sizeof(struct) | version << 24`, the word every versioned struct starts with.
pub const fn version_word<T>(version: u32) -> u32 {
    size_of::<T>() as u32 | version << 24
}

pub type Handle = usize;

/// Structs of numbers and character arrays, which may start out as zeroes.
///
/// # Safety
/// Every member must have a value whose bytes are all zero.
pub unsafe trait Plain {}

macro_rules! plain {
    ($($type:ty),* $(,)?) => {
        // SAFETY: integers and arrays of them.
        $(unsafe impl Plain for $type {})*
    };
}

plain!(DeviceAttributes, MigHierarchy, NvLinkP2pStatus, CpuHierarchy, CpuHierarchyV2, ProfMetricGroups, VersionInfo);
// SAFETY: integers and arrays of them, as both switch structs are.
unsafe impl<S: Plain> Plain for NvLinkStatus<S> {}
plain!(SwitchLinkStatusV3, SwitchLinkStatusV4);
// SAFETY: integers and arrays of them.
unsafe impl<const N: usize> Plain for HealthResponse<N> {}

/// A struct of zeroes on the heap, made there: some are too large for a stack.
pub fn zeroed<T: Plain>() -> Box<T> {
    // SAFETY: `Plain` says that zeroes are a value.
    unsafe { Box::new_zeroed().assume_init() }
}

/// `dcgmStartEmbeddedV2Params_v1`: every release that has the call still takes it.
#[repr(C)]
pub struct StartEmbeddedParams {
    pub version: u32,
    pub op_mode: c_uint,
    pub handle: Handle,
    pub log_file: *const c_char,
    pub severity: c_int,
    pub deny_list_count: u32,
    pub deny_list: [u32; 10],
}

#[repr(C)]
pub struct ConnectParams {
    pub version: u32,
    pub persist_after_disconnect: u32,
    pub timeout_ms: u32,
    pub address_is_unix_socket: u32,
}

#[repr(C)]
pub union FieldValueData {
    pub i64: i64,
    pub dbl: f64,
    pub str: [c_char; 256],
    pub blob: [u8; 4096],
}

/// `dcgmFieldValue_v1`. Never copied: 4,120 bytes a value is what makes other exporters large.
#[repr(C)]
pub struct FieldValue {
    pub version: u32,
    pub field_id: u16,
    pub field_type: u16,
    pub status: c_int,
    pub ts: i64,
    pub value: FieldValueData,
}

/// `dcgmFieldValue_v2`: the same with the entity that it is of.
#[repr(C)]
pub struct EntityFieldValue {
    pub version: u32,
    pub group: c_uint,
    pub id: u32,
    pub field_id: u16,
    pub field_type: u16,
    pub status: c_int,
    pub unused: u32,
    pub ts: i64,
    pub value: FieldValueData,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct GroupEntityPair {
    pub group: c_uint,
    pub id: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct MigEntityInfo {
    pub gpu_uuid: [c_char; 128],
    pub nvml_gpu_index: u32,
    pub nvml_instance_id: u32,
    pub nvml_compute_instance_id: u32,
    pub nvml_mig_profile_id: u32,
    pub nvml_profile_slices: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct MigHierarchyInfo {
    pub entity: GroupEntityPair,
    pub parent: GroupEntityPair,
    pub info: MigEntityInfo,
}

#[repr(C)]
pub struct MigHierarchy {
    pub version: u32,
    pub count: u32,
    pub entities: [MigHierarchyInfo; 448],
}

#[repr(C)]
pub struct DeviceIdentifiers {
    pub version: u32,
    pub brand_name: [c_char; 256],
    pub device_name: [c_char; 256],
    pub pci_bus_id: [c_char; 256],
    pub serial: [c_char; 256],
    pub uuid: [c_char; 256],
    pub vbios: [c_char; 256],
    pub inforom_image_version: [c_char; 256],
    pub pci_device_id: u32,
    pub pci_subsystem_id: u32,
    pub driver_version: [c_char; 256],
    pub virtualization_mode: u32,
}

#[repr(C)]
pub struct DeviceAttributes {
    pub version: u32,
    pub clock_sets: [u8; 3080],
    pub thermal_settings: [u8; 12],
    pub power_limits: [u8; 24],
    pub identifiers: DeviceIdentifiers,
    pub memory_usage: [u8; 20],
    pub settings: [u8; 16],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct GpuLinkStatus {
    pub entity_id: u32,
    pub link_state: [c_uint; 18],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct SwitchLinkStatusV3 {
    pub entity_id: u32,
    pub link_state: [c_uint; 64],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct SwitchLinkStatusV4 {
    pub entity_id: u32,
    pub link_state: [c_uint; 256],
}

/// `dcgmNvLinkStatus` as DCGM 3.x (version 3) and 4.x (version 4) fill it; only the links per switch differ.
#[repr(C)]
pub struct NvLinkStatus<S> {
    pub version: u32,
    pub num_gpus: u32,
    pub gpus: [GpuLinkStatus; MAX_GPUS],
    pub num_switches: u32,
    pub switches: [S; 12],
}

#[repr(C)]
pub struct P2pGpuStatus {
    pub entity_id: u32,
    pub link_status: [c_uint; MAX_GPUS],
}

#[repr(C)]
pub struct NvLinkP2pStatus {
    pub version: u32,
    pub num_gpus: u32,
    pub gpus: [P2pGpuStatus; MAX_GPUS],
}

#[repr(C)]
pub struct HealthSetParams {
    pub version: u32,
    pub group: usize,
    pub systems: c_uint,
    pub update_interval: i64,
    pub max_keep_age: f64,
}

#[repr(C)]
pub struct IncidentInfo {
    pub system: c_uint,
    pub health: c_int,
    pub message: [c_char; 1024],
    pub code: c_int,
    pub entity: GroupEntityPair,
}

/// `dcgmHealthResponse`: version 4 with 64 incidents in DCGM 3.x, version 5 with 1024 in 4.x. A megabyte, so only ever boxed.
#[repr(C)]
pub struct HealthResponse<const N: usize> {
    pub version: u32,
    pub overall_health: c_int,
    pub incident_count: u32,
    pub incidents: [IncidentInfo; N],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct CpuOwnedCores {
    pub version: u32,
    pub bitmask: [u64; 16],
}

#[repr(C)]
pub struct CpuHierarchy {
    pub version: u32,
    pub num_cpus: u32,
    pub cpus: [CpuHierarchyCpu; MAX_CPUS],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct CpuHierarchyCpu {
    pub cpu_id: u32,
    pub cores: CpuOwnedCores,
}

/// `dcgmCpuHierarchy_v2`, since DCGM 4.0.
#[repr(C)]
pub struct CpuHierarchyV2 {
    pub version: u32,
    pub num_cpus: u32,
    pub cpus: [CpuHierarchyCpuV2; MAX_CPUS],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct CpuHierarchyCpuV2 {
    pub cpu_id: u32,
    pub cores: CpuOwnedCores,
    pub serial: [c_char; 256],
}

#[repr(C)]
pub struct VersionInfo {
    pub version: u32,
    pub raw: [c_char; 512],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ProfMetricGroup {
    pub major_id: u16,
    pub minor_id: u16,
    pub num_field_ids: u32,
    pub field_ids: [u16; 64],
}

#[repr(C)]
pub struct ProfMetricGroups {
    pub version: u32,
    pub unused: u32,
    pub gpu_id: u32,
    pub num_metric_groups: u32,
    pub metric_groups: [ProfMetricGroup; 10],
}

#[repr(C)]
pub struct FieldMeta {
    pub field_id: u16,
    pub field_type: c_char,
    pub size: u8,
    pub tag: [c_char; 48],
    pub scope: c_int,
    pub nvml_field_id: c_int,
    pub entity_level: c_int,
    pub value_format: *const c_void,
}

/// Called by libdcgm with the values of one entity; 0 means go on.
pub type FieldValueCallback = unsafe extern "C" fn(c_uint, u32, *const FieldValue, c_int, *mut c_void) -> c_int;

macro_rules! layout {
    ($type:ty, size $size:literal $(as $version:literal = $word:literal)? $(, $field:ident @ $offset:literal)* $(,)?) => {
        const _: () = assert!(size_of::<$type>() == $size);
        $(const _: () = assert!(version_word::<$type>($version) == $word);)?
        $(const _: () = assert!(std::mem::offset_of!($type, $field) == $offset);)*
    };
}

layout!(StartEmbeddedParams, size 72 as 1 = 0x100_0048, version @ 0, op_mode @ 4, handle @ 8, log_file @ 16, severity @ 24,
    deny_list_count @ 28, deny_list @ 32);
layout!(ConnectParams, size 16 as 2 = 0x200_0010, persist_after_disconnect @ 4, timeout_ms @ 8, address_is_unix_socket @ 12);
layout!(FieldValue, size 4120 as 1 = 0x100_1018, field_id @ 4, field_type @ 6, status @ 8, ts @ 16, value @ 24);
layout!(EntityFieldValue, size 4128 as 2 = 0x200_1020, group @ 4, id @ 8, field_id @ 12, field_type @ 14, status @ 16, ts @ 24,
    value @ 32);
layout!(GroupEntityPair, size 8, group @ 0, id @ 4);
layout!(MigEntityInfo, size 148, gpu_uuid @ 0, nvml_gpu_index @ 128, nvml_instance_id @ 132, nvml_compute_instance_id @ 136,
    nvml_mig_profile_id @ 140, nvml_profile_slices @ 144);
layout!(MigHierarchyInfo, size 164, entity @ 0, parent @ 8, info @ 16);
layout!(MigHierarchy, size 73480 as 2 = 0x201_1f08, count @ 4, entities @ 8);
layout!(DeviceIdentifiers, size 2064, brand_name @ 4, device_name @ 260, pci_bus_id @ 516, serial @ 772, uuid @ 1028, vbios @ 1284,
    inforom_image_version @ 1540, pci_device_id @ 1796, pci_subsystem_id @ 1800, driver_version @ 1804, virtualization_mode @ 2060);
layout!(DeviceAttributes, size 5220 as 3 = 0x300_1464, clock_sets @ 4, thermal_settings @ 3084, power_limits @ 3096,
    identifiers @ 3120, memory_usage @ 5184, settings @ 5204);
layout!(GpuLinkStatus, size 76, entity_id @ 0, link_state @ 4);
layout!(SwitchLinkStatusV3, size 260, entity_id @ 0, link_state @ 4);
layout!(SwitchLinkStatusV4, size 1028, entity_id @ 0, link_state @ 4);
layout!(NvLinkStatus<SwitchLinkStatusV3>, size 5564 as 3 = 0x300_15bc, num_gpus @ 4, gpus @ 8, num_switches @ 2440, switches @ 2444);
layout!(NvLinkStatus<SwitchLinkStatusV4>, size 14780 as 4 = 0x400_39bc, num_gpus @ 4, gpus @ 8, num_switches @ 2440, switches @ 2444);
layout!(NvLinkP2pStatus, size 4232 as 1 = 0x100_1088, num_gpus @ 4, gpus @ 8);
layout!(HealthSetParams, size 40 as 2 = 0x200_0028, group @ 8, systems @ 16, update_interval @ 24, max_keep_age @ 32);
layout!(IncidentInfo, size 1044, system @ 0, health @ 4, message @ 8, code @ 1032, entity @ 1036);
layout!(HealthResponse<64>, size 66828 as 4 = 0x401_050c, overall_health @ 4, incident_count @ 8, incidents @ 12);
layout!(HealthResponse<1024>, size 1069068 as 5 = 0x510_500c, overall_health @ 4, incident_count @ 8, incidents @ 12);
layout!(CpuHierarchy, size 1160 as 1 = 0x100_0488, num_cpus @ 4, cpus @ 8);
layout!(CpuOwnedCores, size 136 as 1 = 0x100_0088, bitmask @ 8);
layout!(CpuHierarchyCpu, size 144, cpu_id @ 0, cores @ 8);
layout!(CpuHierarchyV2, size 3208 as 2 = 0x200_0c88, num_cpus @ 4, cpus @ 8);
layout!(CpuHierarchyCpuV2, size 400, cpu_id @ 0, cores @ 8, serial @ 144);
layout!(VersionInfo, size 516 as 2 = 0x200_0204, raw @ 4);
layout!(ProfMetricGroup, size 136, major_id @ 0, minor_id @ 2, num_field_ids @ 4, field_ids @ 8);
layout!(ProfMetricGroups, size 1376 as 3 = 0x300_0560, unused @ 4, gpu_id @ 8, num_metric_groups @ 12, metric_groups @ 16);
layout!(FieldMeta, size 72, field_id @ 0, field_type @ 2, size @ 3, tag @ 4, scope @ 52, nvml_field_id @ 56, entity_level @ 60,
    value_format @ 64);
