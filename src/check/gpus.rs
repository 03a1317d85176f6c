//! What `--check` asks of DCGM about GPUs: which there are and how they are, those of the job map, and other engines
//! that use them.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::engine::Asker;
use super::node;
use crate::config::engine::{Address, EngineSelection, usual_places};
use crate::dcgm::query::gpu_status;
use crate::dcgm::{EntityGroup, Session, hostengine};
use crate::inventory::{self, Inventory, Kind};
use crate::jobs;
use crate::status::advice;

impl Asker {
    pub(super) fn gpus(&self, session: &Session, inventory: &Inventory) {
        const QUESTION: &str = "GPUs";
        let ids = match session.entities(EntityGroup::Gpu) {
            Ok(ids) => ids,
            Err(error) => return self.fail(QUESTION, format!("cannot be listed: {error}"), "see nvidia-smi"),
        };
        if ids.is_empty() {
            self.fail(QUESTION, "DCGM sees none", "see nvidia-smi; restart an engine that started before the driver");
        }
        // An engine behind an address may be another node's.
        let is_here = !matches!(self.config.engine, EngineSelection::Remote(Address::Tcp(_)));
        if let Some(count) = self.driver_gpus.filter(|count| is_here && *count != ids.len()) {
            self.fail(
                QUESTION,
                format!("DCGM sees {}, the driver has {count}", ids.len()),
                "see nvidia-smi; restart an engine that started before a GPU was added",
            );
        }
        for gpu in &ids {
            let state = match session.gpu_status(*gpu) {
                Ok(gpu_status::OK) => continue,
                Ok(gpu_status::UNSUPPORTED) => "is not supported by DCGM".to_owned(),
                Ok(gpu_status::INACCESSIBLE) => "is inaccessible".to_owned(),
                Ok(gpu_status::LOST) => "is lost: it has fallen off the bus".to_owned(),
                Ok(gpu_status::DISABLED) => "is disabled".to_owned(),
                Ok(gpu_status::DETACHED) => "is detached".to_owned(),
                Ok(other) => format!("has status {other}"),
                // An older library has no such call; that is no fault of the GPU.
                Err(error) if error.is_absence() => continue,
                Err(error) => format!("does not report its status: {error}"),
            };
            self.fail(
                QUESTION,
                format!("GPU {gpu} {state}"),
                "see dmesg | grep -i xid; it may need a reset or a reboot",
            );
        }
        for warning in &inventory.warnings {
            self.warn(QUESTION, warning.clone(), "see nvidia-smi, or correct the flag that is named");
        }
        for (kind, reason) in inventory.absent.iter().filter(|(kind, _)| *kind != Kind::Gpu || !ids.is_empty()) {
            self.ok(QUESTION, format!("no {} metrics: {reason}", kind.name()));
        }
        if !ids.is_empty() {
            let models: Vec<String> = models(inventory)
                .into_iter()
                .map(|(model, of_model)| format!("{} x {model}", of_model.len()))
                .collect();
            self.ok(QUESTION, format!("{} seen; reported: {}", ids.len(), models.join(", ")));
        }
    }

    /// Whether the GPUs that the job map names are reported.
    pub(super) fn job_names(&self, inventory: &Inventory) {
        let Some(directory) = &self.config.job_map else { return };
        let map = jobs::scan(directory, self.config.job_map_trust, &self.config.job_map_idle).map;
        let of_kind = |kind: Kind| inventory.entities.iter().filter(move |entity| entity.kind == kind);
        for name in map.unmatched(of_kind(Kind::Gpu).map(|entity| entity.names.as_slice())) {
            let (why, fix) = match of_kind(Kind::WholeGpu).any(|entity| entity.names.contains(name)) {
                true => (
                    "which is divided into MIG instances: its instances do not get the job's label",
                    "name the instance, as <gpu>.<instance> or by its MIG-... UUID; for the prolog: DCGM_JOB_MAP_GRES=uuid",
                ),
                false => ("which is not here or not reported: no sample gets the job's label", advice::JOB_MAP),
            };
            self.warn("job map", format!("it names a GPU '{name}', {why}"), fix);
        }
    }

    /// Other engines on this node, and what they mean for these GPUs.
    pub(super) fn neighbours(&self, session: &Rc<Session>, inventory: &Inventory) {
        const QUESTION: &str = "other engines";
        let running = node::processes("/".as_ref(), "nv-hostengine");
        let answering = usual_places();
        let answering = hostengine::first_answering(&answering);
        let is_client = !matches!(self.config.engine, EngineSelection::Embedded);
        match (answering, &running[..]) {
            (Some(address), _) if is_client => self.ok(QUESTION, format!("a host engine answers at {address}")),
            (None, []) => self.ok(QUESTION, "none on this node"),
            (None, [pid, ..]) if is_client => self.ok(QUESTION, format!("nv-hostengine runs as process {pid}")),
            (None, [pid, ..]) => self.warn(
                QUESTION,
                format!("nv-hostengine runs as process {pid} but does not answer at its usual places"),
                "it hangs or listens elsewhere: systemctl status nvidia-dcgm",
            ),
            (Some(address), _) => {
                let architecture = inventory::oldest_architecture(session, &inventory.gpus);
                match architecture {
                    Some(architecture) if architecture.engines_share_profiling() => self.ok(
                        QUESTION,
                        format!(
                            "a host engine answers at {address}; it and an embedded engine can share these GPUs \
                             ({architecture}). -r auto would use the host engine"
                        ),
                    ),
                    _ => self.warn(
                        QUESTION,
                        format!(
                            "a host engine answers at {address}; before Hopper only one engine has the profiling hardware, so \
                             DCGM_FI_PROF_* metrics of the other may be missing"
                        ),
                        format!("use the host engine: -r auto, or -r {address}"),
                    ),
                }
            }
        }
    }
}

/// Reported GPUs and instances by model, as indices into the inventory.
pub(super) fn models(inventory: &Inventory) -> BTreeMap<&str, Vec<usize>> {
    let mut models: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, entity) in inventory.entities.iter().enumerate().filter(|(_, entity)| entity.kind == Kind::Gpu) {
        let model = entity.label("modelName").filter(|model| !model.is_empty()).unwrap_or("GPUs without a name");
        models.entry(model).or_default().push(index);
    }
    models
}
