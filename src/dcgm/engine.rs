//! A session with a DCGM engine, embedded in this process or reached over a socket, and what is watched in it.
//!
//! Everything acquired here gives itself back when dropped, in the order that libdcgm wants: watch, field group,
//! group, session. Blank values, C strings and version words end here; nobody further in knows them.
//!
//! A call can block for as long as the driver does. There is no time-out to set; [`super::inflight`] says which call.

use std::borrow::Cow;
use std::ffi::{c_int, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::abi::*;
use super::library::{Library, Major, c_string, text_of, version_from};
use super::{Error, Result, inflight};
use crate::config::engine::Address;

/// `dcgm_field_entity_group_t`: what kind of thing an entity is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum EntityGroup {
    /// The whole system: what values of global fields may be handed over under, whoever was asked.
    None = 0,
    Gpu = 1,
    Switch = 3,
    Instance = 4,
    Link = 6,
    Cpu = 7,
    Core = 8,
    ConnectX = 9,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityId {
    pub group: EntityGroup,
    pub id: u32,
}

impl EntityId {
    pub const fn new(group: EntityGroup, id: u32) -> EntityId {
        EntityId { group, id }
    }

    fn from_c(group: c_uint, id: u32) -> Option<EntityId> {
        let group = match group {
            0 => EntityGroup::None,
            1 => EntityGroup::Gpu,
            3 => EntityGroup::Switch,
            4 => EntityGroup::Instance,
            6 => EntityGroup::Link,
            7 => EntityGroup::Cpu,
            8 => EntityGroup::Core,
            9 => EntityGroup::ConnectX,
            _ => return None,
        };
        Some(EntityId { group, id })
    }
}

/// One value as it lies in libdcgm's memory, seen from inside the callback.
#[derive(Debug)]
pub struct Reading<'a> {
    pub field: u16,
    /// `dcgmReturn_t` of this value alone.
    pub status: c_int,
    /// Microseconds since 1970 by DCGM's clock; 0 if nothing was sampled.
    pub timestamp: i64,
    pub value: Value<'a>,
}

#[derive(Debug, PartialEq)]
pub enum Value<'a> {
    Int(i64),
    Double(f64),
    Text(Cow<'a, str>),
    /// Nothing to show: no data, not supported, not permitted.
    Blank,
    /// Binary and time-stamp fields: no text form.
    Opaque,
}

/// `dcgmGetDeviceAttributes`, as far as labels need it.
#[derive(Debug, Clone, Default)]
pub struct DeviceAttributes {
    pub uuid: String,
    pub name: String,
    pub pci_bus_id: String,
}

/// A GPU instance of the MIG hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MigInstance {
    /// DCGM's entity id, numbered through the whole system.
    pub entity: u32,
    pub gpu: u32,
    /// NVML's id within the GPU: what users know as the GPU instance id.
    pub nvml_id: u32,
}

/// `dcgmHealthCheck`'s report of one problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incident {
    /// A bit of `dcgmHealthSystems_t`, or all of them.
    pub system: u32,
    /// 0 pass, 10 warn, 20 fail.
    pub health: i32,
    /// `dcgmError_t`.
    pub code: i32,
    pub entity: EntityId,
}

/// Links of one GPU or switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkStates {
    pub parent: EntityId,
    /// By DCGM's 0-based index: 0 not supported, 1 disabled, 2 down, 3 up.
    pub states: Vec<u32>,
}

/// How many samples the engine keeps for a watch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Keep {
    Latest,
    /// Everything of this long.
    Window(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Embedded,
    Remote,
}

/// An engine that was started or connected to; stopped or left when dropped.
pub struct Session {
    library: Arc<Library>,
    handle: Handle,
    mode: Mode,
    took_deny_list: bool,
}

impl Session {
    /// Starts an engine in this process, in MANUAL mode: nothing is polled but by [`Session::update_all_fields`].
    ///
    /// `deny` lists modules (see [`module`]) never to be loaded. Severity None, or DCGM writes
    /// `/var/log/nv-hostengine.log` whatever it is told about files.
    ///
    /// Errors: whatever the driver answers; also when an engine of this process still runs, for which libdcgm
    /// returns success without a handle.
    pub fn embedded(library: &Arc<Library>, deny: &[u32]) -> Result<Session> {
        init(library)?;
        let mut params = StartEmbeddedParams {
            version: version_word::<StartEmbeddedParams>(1),
            op_mode: OPERATION_MODE_MANUAL,
            handle: 0,
            log_file: std::ptr::null(),
            severity: LOGGING_SEVERITY_NONE,
            deny_list_count: 0,
            deny_list: [0; 10],
        };
        for (slot, denied) in params.deny_list.iter_mut().zip(deny) {
            *slot = *denied;
            params.deny_list_count += 1;
        }
        let start = |params: &mut StartEmbeddedParams| {
            // SAFETY: `params` is a complete version 1 struct that outlives the call.
            call(library, "dcgmStartEmbedded_v2", || unsafe { (library.symbols.dcgmStartEmbedded_v2)(params) })
        };
        let started = match start(&mut params) {
            // A library may not know every module that it is told to deny. It then loads what it likes.
            Err(error) if error.code == BADPARAM && params.deny_list_count > 0 => {
                log::info!("libdcgm does not take the list of modules to leave out ({error}); starting without it");
                params.deny_list_count = 0;
                start(&mut params)
            }
            other => other,
        };
        let started = started.and_then(|()| match params.handle {
            0 => Err(Error {
                call: "dcgmStartEmbedded_v2",
                code: BADPARAM,
                text: "an embedded engine already runs in this process".to_owned(),
            }),
            handle => Ok(handle),
        });
        let took_deny_list = params.deny_list_count as usize == deny.len().min(params.deny_list.len());
        Session::begin(library, started, Mode::Embedded).map(|mut session| {
            session.took_deny_list = took_deny_list;
            session
        })
    }

    /// Connects to a running host engine. libdcgm retries inside the call until `timeout` is over.
    ///
    /// Errors: -21 when nothing answers, -1 for a port that is no number.
    pub fn remote(library: &Arc<Library>, address: &Address, timeout: Duration) -> Result<Session> {
        init(library)?;
        let (text, unix) = match address {
            Address::Tcp(text) => (text, 0),
            Address::Unix(path) => (path, 1),
        };
        let text = c_string(text);
        let mut params = ConnectParams {
            version: version_word::<ConnectParams>(2),
            persist_after_disconnect: 0,
            timeout_ms: timeout.as_millis().clamp(1, u128::from(u32::MAX)) as u32,
            address_is_unix_socket: unix,
        };
        let mut handle = 0;
        // SAFETY: a terminated address, a complete version 2 struct and a place for the handle, all outliving the call.
        let connected = call(library, "dcgmConnect_v2", || unsafe {
            (library.symbols.dcgmConnect_v2)(text.as_ptr(), &mut params, &mut handle)
        });
        Session::begin(library, connected.map(|()| handle), Mode::Remote)
    }

    fn begin(library: &Arc<Library>, handle: Result<Handle>, mode: Mode) -> Result<Session> {
        match handle {
            Ok(handle) => Ok(Session { library: library.clone(), handle, mode, took_deny_list: true }),
            Err(error) => {
                // SAFETY: pairs the dcgmInit above.
                unsafe { (library.symbols.dcgmShutdown)() };
                Err(error)
            }
        }
    }

    pub fn library(&self) -> &Library {
        &self.library
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether the embedded engine was started without the modules it was told to leave out.
    pub fn took_deny_list(&self) -> bool {
        self.took_deny_list
    }

    /// The engine's own version, which in remote mode may differ from the library's. Empty if it does not say.
    pub fn engine_version(&self) -> String {
        let Some(version_info) = self.library.symbols.dcgmHostengineVersionInfo else { return String::new() };
        let mut info = VersionInfo { version: version_word::<VersionInfo>(2), raw: [0; 512] };
        // SAFETY: a complete version 2 struct.
        let asked = self.call("dcgmHostengineVersionInfo", || unsafe { version_info(self.handle, &mut info) });
        asked.ok().and_then(|()| version_from(&info)).unwrap_or_default()
    }

    /// Ids of all entities of a group, in the engine's order. None present is an empty list.
    ///
    /// Errors: -6 or -33 where the engine cannot look (no module for it); see [`Error::is_absence`].
    pub fn entities(&self, group: EntityGroup) -> Result<Vec<u32>> {
        let mut ids = vec![0u32; MAX_ENTITIES_PER_GROUP];
        let mut count = ids.len() as c_int;
        // SAFETY: `count` says how many ids the array holds; the call writes no more.
        self.call("dcgmGetEntityGroupEntities", || unsafe {
            let flags = 0;
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

    /// `DcgmEntityStatus_t`: 1 ok, 2 unsupported, 3 inaccessible, 4 lost, 5 fake, 6 disabled, 7 detached.
    pub fn gpu_status(&self, gpu: u32) -> Result<i32> {
        let function = self.wanted("dcgmGetGpuStatus", self.library.symbols.dcgmGetGpuStatus)?;
        let mut status = 0;
        // SAFETY: one int to write to.
        self.call("dcgmGetGpuStatus", || unsafe { function(self.handle, gpu, &mut status) })?;
        Ok(status)
    }

    /// GPU instances of all GPUs in the engine's order; compute instances are left out.
    pub fn mig_instances(&self) -> Result<Vec<MigInstance>> {
        let name = "dcgmGetGpuInstanceHierarchy";
        let function = self.wanted(name, self.library.symbols.dcgmGetGpuInstanceHierarchy)?;
        let mut hierarchy = zeroed::<MigHierarchy>();
        hierarchy.version = version_word::<MigHierarchy>(2);
        // SAFETY: a complete version 2 struct.
        self.call(name, || unsafe { function(self.handle, &mut *hierarchy) })?;
        let count = (hierarchy.count as usize).min(hierarchy.entities.len());
        Ok(hierarchy.entities[..count]
            .iter()
            .filter(|entry| entry.entity.group == EntityGroup::Instance as u32)
            .filter(|entry| entry.parent.group == EntityGroup::Gpu as u32)
            .map(|entry| MigInstance {
                entity: entry.entity.id,
                gpu: entry.parent.id,
                nvml_id: entry.info.nvml_instance_id,
            })
            .collect())
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

    /// Polls every watch that is due (its age has reached its interval) and returns when all is read. In embedded
    /// mode nothing else polls; in remote mode it brings forward what the engine would do on its own clock.
    pub fn update_all_fields(&self) -> Result<()> {
        // SAFETY: no memory of ours is involved.
        self.call("dcgmUpdateAllFields", || unsafe { (self.library.symbols.dcgmUpdateAllFields)(self.handle, 1) })
    }

    fn call(&self, name: &'static str, function: impl FnOnce() -> c_int) -> Result<()> {
        call(&self.library, name, function)
    }

    fn wanted<F>(&self, name: &'static str, function: Option<F>) -> Result<F> {
        function.ok_or_else(|| Error {
            call: name,
            code: FUNCTION_NOT_FOUND,
            text: format!("{} does not have it", self.library.path().display()),
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let symbols = &self.library.symbols;
        let (name, end) = match self.mode {
            Mode::Embedded => ("dcgmStopEmbedded", symbols.dcgmStopEmbedded),
            Mode::Remote => ("dcgmDisconnect", symbols.dcgmDisconnect),
        };
        // SAFETY: the handle is of this kind and is not used after this.
        let ended = self.call(name, || unsafe { end(self.handle) });
        // SAFETY: pairs the dcgmInit of this session.
        let shut = self.call("dcgmShutdown", || unsafe { (symbols.dcgmShutdown)() });
        for error in [ended, shut].into_iter().filter_map(Result::err) {
            log::debug!("while leaving DCGM: {error}");
        }
    }
}

fn init(library: &Library) -> Result<()> {
    // SAFETY: no arguments; counted inside libdcgm, paired by dcgmShutdown when the session ends.
    call(library, "dcgmInit", || unsafe { (library.symbols.dcgmInit)() })
}

fn call(library: &Library, name: &'static str, function: impl FnOnce() -> c_int) -> Result<()> {
    let code = {
        let _waiting = inflight::enter(name);
        function()
    };
    if code == OK { Ok(()) } else { Err(Error { call: name, code, text: library.error_text(code) }) }
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

/// Entities that are watched together.
pub struct Group {
    session: Rc<Session>,
    id: usize,
}

impl Group {
    /// The largest group this library makes.
    pub fn capacity(session: &Session) -> usize {
        match session.library.major() {
            Major::V3 => MAX_ENTITIES_PER_GROUP_V3,
            Major::V4 => MAX_ENTITIES_PER_GROUP,
        }
    }

    /// Makes a group. Entities that the engine refuses are left out and handed to `refused`, each with the reason.
    ///
    /// Errors: -24 when the engine has no room for another group, -21 when it is gone.
    pub fn new(
        session: &Rc<Session>,
        entities: &[EntityId],
        mut refused: impl FnMut(EntityId, Error),
    ) -> Result<Group> {
        let symbols = &session.library.symbols;
        let name = unique_name();
        let mut id = 0;
        // SAFETY: a terminated name and a place for the id.
        session.call("dcgmGroupCreate", || unsafe {
            (symbols.dcgmGroupCreate)(session.handle, GROUP_EMPTY, name.as_ptr(), &mut id)
        })?;
        let group = Group { session: session.clone(), id };
        for &entity in entities {
            // SAFETY: no memory of ours is involved.
            let added = session.call("dcgmGroupAddEntity", || unsafe {
                (symbols.dcgmGroupAddEntity)(session.handle, id, entity.group as c_uint, entity.id)
            });
            match added {
                Err(error) if error.is_connection_lost() => return Err(error),
                Err(error) => refused(entity, error),
                Ok(()) => {}
            }
        }
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let session = &self.session;
        // SAFETY: the id is this group's and is not used after this.
        let _ = session.call("dcgmGroupDestroy", || unsafe {
            (session.library.symbols.dcgmGroupDestroy)(session.handle, self.id)
        });
    }
}

/// Fields that are watched together: at most [`MAX_FIELDS_PER_GROUP`].
pub struct FieldGroup {
    session: Rc<Session>,
    id: usize,
}

impl FieldGroup {
    /// Errors: -1 if any id is unknown to the engine or there are too many, for the whole group.
    pub fn new(session: &Rc<Session>, fields: &[u16]) -> Result<FieldGroup> {
        let name = unique_name();
        let mut id = 0;
        // SAFETY: `fields` holds as many ids as the count says; a terminated name and a place for the id.
        session.call("dcgmFieldGroupCreate", || unsafe {
            let count = fields.len() as c_int;
            let create = session.library.symbols.dcgmFieldGroupCreate;
            create(session.handle, count, fields.as_ptr(), name.as_ptr(), &mut id)
        })?;
        Ok(FieldGroup { session: session.clone(), id })
    }
}

impl Drop for FieldGroup {
    fn drop(&mut self) {
        let session = &self.session;
        // SAFETY: the id is this field group's and is not used after this.
        let _ = session.call("dcgmFieldGroupDestroy", || unsafe {
            (session.library.symbols.dcgmFieldGroupDestroy)(session.handle, self.id)
        });
    }
}

/// Fields of entities that the engine samples until this is dropped.
///
/// The field group is declared before the group, because it is to be destroyed first.
pub struct Watch {
    fields: FieldGroup,
    group: Rc<Group>,
}

impl Watch {
    /// `interval` is the shortest age at which a field is sampled again. It should be a little shorter than the time
    /// between two calls of [`Session::update_all_fields`], and not much: profiling fields are averages between samples.
    ///
    /// Errors: a field that the hardware cannot answer can fail the whole watch (profiling fields do).
    pub fn new(group: &Rc<Group>, fields: FieldGroup, interval: Duration, keep: Keep) -> Result<Watch> {
        let session = &group.session;
        let interval = i64::try_from(interval.as_micros()).unwrap_or(i64::MAX);
        let (keep_age, keep_samples) = match keep {
            Keep::Latest => (0.0, 1),
            Keep::Window(age) => (age.as_secs_f64(), 0),
        };
        // SAFETY: ids of this session; no memory of ours is involved.
        session.call("dcgmWatchFields", || unsafe {
            let watch = session.library.symbols.dcgmWatchFields;
            watch(session.handle, group.id, fields.id, interval, keep_age, keep_samples)
        })?;
        Ok(Watch { fields, group: group.clone() })
    }

    /// Hands the latest value of every field of every entity to `each`, in one call to the engine.
    pub fn latest(&self, each: &mut dyn FnMut(EntityId, Reading<'_>)) -> Result<()> {
        let session = &self.group.session;
        let mut visit = Visit { each, panicked: false };
        // SAFETY: `visit` outlives the call and is only touched by the callback, which runs inside it on this thread.
        let read = session.call("dcgmGetLatestValues_v2", || unsafe {
            let latest = session.library.symbols.dcgmGetLatestValues_v2;
            latest(session.handle, self.group.id, self.fields.id, on_values, (&raw mut visit).cast::<c_void>())
        });
        visit.finish(read)
    }

    /// Hands every sample since `since` (microseconds since 1970) to `each` and returns where to go on. When nothing
    /// is new, the engine answers one value per entity with time stamp 0, which is not handed on.
    pub fn since(&self, since: i64, each: &mut dyn FnMut(EntityId, Reading<'_>)) -> Result<i64> {
        let session = &self.group.session;
        let mut sampled = |entity: EntityId, reading: Reading<'_>| {
            if reading.timestamp > 0 {
                each(entity, reading);
            }
        };
        let mut visit = Visit { each: &mut sampled, panicked: false };
        let mut next = since;
        // SAFETY: as in `latest`; `next` is a place for one i64.
        let read = session.call("dcgmGetValuesSince_v2", || unsafe {
            let values = session.library.symbols.dcgmGetValuesSince_v2;
            let user = (&raw mut visit).cast::<c_void>();
            values(session.handle, self.group.id, self.fields.id, since, &mut next, on_values, user)
        });
        visit.finish(read)?;
        Ok(next)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let session = &self.group.session;
        // SAFETY: ids of this session, still alive.
        let _ = session.call("dcgmUnwatchFields", || unsafe {
            (session.library.symbols.dcgmUnwatchFields)(session.handle, self.group.id, self.fields.id)
        });
    }
}

/// Health watches on a group of GPUs, and the megabyte the engine answers into.
pub struct Health {
    response: HealthBuffer,
    group: Rc<Group>,
}

enum HealthBuffer {
    V3(Box<HealthResponse<64>>),
    V4(Box<HealthResponse<1024>>),
}

impl Health {
    /// Sets all health watches on the group, sampled every `interval` and kept for `keep`.
    pub fn new(group: &Rc<Group>, interval: Duration, keep: Duration) -> Result<Health> {
        let session = &group.session;
        let set = session.wanted("dcgmHealthSet_v2", session.library.symbols.dcgmHealthSet_v2)?;
        let mut params = HealthSetParams {
            version: version_word::<HealthSetParams>(2),
            group: group.id,
            systems: c_uint::MAX,
            update_interval: i64::try_from(interval.as_micros()).unwrap_or(i64::MAX),
            max_keep_age: keep.as_secs_f64(),
        };
        // SAFETY: a complete version 2 struct.
        session.call("dcgmHealthSet_v2", || unsafe { set(session.handle, &mut params) })?;
        let response = match session.library.major() {
            Major::V3 => HealthBuffer::V3(zeroed()),
            Major::V4 => HealthBuffer::V4(zeroed()),
        };
        Ok(Health { response, group: group.clone() })
    }

    /// Problems found since the last check.
    pub fn check(&mut self, each: &mut dyn FnMut(Incident)) -> Result<()> {
        let session = self.group.session.clone();
        match &mut self.response {
            HealthBuffer::V3(response) => check_into(&session, self.group.id, response, 4, each),
            HealthBuffer::V4(response) => check_into(&session, self.group.id, response, 5, each),
        }
    }
}

fn check_into<const N: usize>(
    session: &Session,
    group: usize,
    response: &mut HealthResponse<N>,
    version: u32,
    each: &mut dyn FnMut(Incident),
) -> Result<()> {
    let check = session.wanted("dcgmHealthCheck", session.library.symbols.dcgmHealthCheck)?;
    response.version = version_word::<HealthResponse<N>>(version);
    // SAFETY: a complete struct of the version that this library's release line fills.
    session.call("dcgmHealthCheck", || unsafe {
        check(session.handle, group, std::ptr::from_mut(response).cast::<c_void>())
    })?;
    let count = (response.incident_count as usize).min(N);
    for incident in &response.incidents[..count] {
        if let Some(entity) = EntityId::from_c(incident.entity.group, incident.entity.id) {
            let &IncidentInfo { system, health, code, .. } = incident;
            each(Incident { system, health, code, entity });
        }
    }
    Ok(())
}

/// What the callback works on.
struct Visit<'a> {
    each: &'a mut dyn FnMut(EntityId, Reading<'_>),
    panicked: bool,
}

impl Visit<'_> {
    fn finish(self, read: Result<()>) -> Result<()> {
        assert!(!self.panicked, "a reader of values panicked");
        read
    }
}

/// The one function libdcgm calls. A panic stops here: it must not unwind into C.
unsafe extern "C" fn on_values(
    group: c_uint,
    id: u32,
    values: *const FieldValue,
    count: c_int,
    user: *mut c_void,
) -> c_int {
    // SAFETY: `user` is the Visit that `latest` or `since` passed in, borrowed by nobody else during the call.
    let visit = unsafe { &mut *user.cast::<Visit<'_>>() };
    let Some(entity) = EntityId::from_c(group, id) else { return 0 };
    if values.is_null() || visit.panicked {
        return 0;
    }
    let read = catch_unwind(AssertUnwindSafe(|| {
        for index in 0..usize::try_from(count).unwrap_or(0) {
            // SAFETY: libdcgm passes `count` values that live until the callback returns.
            let value = unsafe { &*values.add(index) };
            (visit.each)(entity, reading(value));
        }
    }));
    visit.panicked = read.is_err();
    0
}

fn reading(value: &FieldValue) -> Reading<'_> {
    // SAFETY: the field's type says which member libdcgm wrote; every bit pattern is an integer or a double, and
    // text is looked at as bytes, up to its NUL or the end of the member.
    let shown = unsafe {
        match value.field_type as u8 {
            b'i' => match value.value.i64 {
                number
                    if (INT32_BLANK..INT32_BLANK + 4).contains(&number)
                        || (INT64_BLANK..=INT64_BLANK + 3).contains(&number) =>
                {
                    Value::Blank
                }
                number => Value::Int(number),
            },
            b'd' => match value.value.dbl {
                number if is_blank_double(number) => Value::Blank,
                number => Value::Double(number),
            },
            b's' => {
                let member = &value.value.str;
                let bytes = std::slice::from_raw_parts(member.as_ptr().cast::<u8>(), member.len());
                let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
                match String::from_utf8_lossy(&bytes[..end]) {
                    text if is_blank_text(&text) => Value::Blank,
                    text => Value::Text(text),
                }
            }
            _ => Value::Opaque,
        }
    };
    Reading { field: value.field_id, status: value.status, timestamp: value.ts, value: shown }
}

fn is_blank_double(number: f64) -> bool {
    (0..4).any(|sub_code| number == FP64_BLANK + f64::from(sub_code))
}

fn is_blank_text(text: &str) -> bool {
    matches!(
        text,
        "<<<NULL>>>" | "<<<NOT_FOUND>>>" | "<<<NOT_SUPPORTED>>>" | "<<<NOT_PERM>>>" | "<<<NOT_PERMISSIONED>>>"
    )
}

/// Names need not be unique, but are shown by `dcgmi group -l`.
fn unique_name() -> std::ffi::CString {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    c_string(&format!("dcgm-exporter-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
}
