//! What `--check` says of MIG instances without values that their GPU has.
//!
//! NVML gives some fields for the whole GPU only, or for the compute instances within an instance; which ones depends on the
//! driver. So the GPU and the compute instances are asked for what the instances lack.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::engine::Asker;
use crate::dcgm::{EntityGroup, EntityId, Session};
use crate::inventory::{self, ComputeInstance, Inventory, Kind};
use crate::metrics::Collector;
use crate::metrics::number::Number;
use crate::metrics::plan::{FIELD_XID, MetricSource, Plan};

/// Instances of one GPU that lack the same fields: DCGM's id, and NVML's.
type Lacking = BTreeMap<(u32, Vec<u16>), Vec<(u32, u32)>>;

impl Asker {
    /// Says which fields instances lack although their GPU, or their compute instances, have a value.
    pub(super) fn instances(
        &self,
        session: &Rc<Session>,
        plan: &Plan,
        collector: &Collector,
        inventory: &Inventory,
    ) -> crate::dcgm::Result<()> {
        const QUESTION: &str = "MIG instances";
        let lacking = lacking(plan, collector, inventory);
        let fields: Vec<u16> =
            lacking.keys().flat_map(|(_, fields)| fields).copied().collect::<BTreeSet<_>>().into_iter().collect();
        let gpus: BTreeSet<u32> = lacking.keys().map(|(gpu, _)| *gpu).collect();
        let whole = gpus.iter().map(|gpu| EntityId::new(EntityGroup::Gpu, *gpu));
        // What the check itself watches is not asked again: that would end its own watch.
        // Of a GPU behind instances the labels alone are watched.
        let is_watched = |entity: &EntityId| {
            inventory.entities.iter().any(|known| known.id == *entity && known.kind != Kind::WholeGpu)
        };
        let whole: Vec<EntityId> = whole.filter(|entity| !is_watched(entity)).collect();
        let parts: Vec<EntityId> = inventory
            .compute_instances
            .iter()
            .map(|part| EntityId::new(EntityGroup::ComputeInstance, part.entity))
            .collect();
        let mut answers: BTreeSet<(EntityGroup, u32, u16)> = BTreeSet::new();
        for asked in [whole, parts].iter().filter(|asked| !asked.is_empty() && !fields.is_empty()) {
            inventory::read_once(session, asked, &fields, &mut |entity, field, value| {
                if !value.is_blank() {
                    answers.insert((entity.group, entity.id, field));
                }
            })?;
        }
        for ((gpu, fields), instances) in lacking {
            let listed: Vec<String> = instances.iter().map(|(_, id)| id.to_string()).collect();
            let is_in = |part: &ComputeInstance| instances.iter().any(|(entity, _)| *entity == part.instance);
            let of_parts = |field: &u16| {
                let mut parts = inventory.compute_instances.iter().filter(|part| is_in(part));
                parts.any(|part| answers.contains(&(EntityGroup::ComputeInstance, part.entity, *field)))
            };
            let of_gpu = |field: &u16| answers.contains(&(EntityGroup::Gpu, gpu, *field));
            let names = |has: &dyn Fn(&u16) -> bool| -> Vec<&str> {
                fields.iter().filter(|field| has(field)).flat_map(|field| plan.names_of(*field)).collect()
            };
            let who = format!(
                "{} of GPU {gpu}",
                if listed.len() == 1 {
                    format!("instance {}", listed[0])
                } else {
                    format!("instances {}", listed.join(", "))
                }
            );
            let only_parts = names(&of_parts);
            if !only_parts.is_empty() {
                self.warn(
                    QUESTION,
                    format!("{who}: no value of {}; the driver gives them for compute instances only", only_parts.join(", ")),
                    "divide each instance into one compute instance (nvidia-smi mig -cci), or remove them from the counters file",
                );
            }
            let only_gpu = names(&|field| of_gpu(field) && !of_parts(field));
            if !only_gpu.is_empty() {
                self.warn(
                    QUESTION,
                    format!("{who}: no value of {}; the driver gives them for the whole GPU only", only_gpu.join(", ")),
                    "report the GPU beside its instances: --devices g+i",
                );
            }
            if !inventory.compute_instances.iter().any(is_in) {
                self.warn(
                    QUESTION,
                    format!("{who}: no compute instance, so no program can run and some fields have no value"),
                    "make one: nvidia-smi mig -cci",
                );
            }
        }
        Ok(())
    }
}

fn lacking(plan: &Plan, collector: &Collector, inventory: &Inventory) -> Lacking {
    let mut lacking = Lacking::new();
    for (index, entity) in inventory.entities.iter().enumerate() {
        if entity.kind != Kind::Gpu || entity.id.group != EntityGroup::Instance {
            continue;
        }
        let fields = plan.metrics.iter().filter(|metric| metric.kinds.contains(&Kind::Gpu)).filter_map(|metric| {
            match metric.source {
                MetricSource::Field(asked) if asked.id != FIELD_XID => Some(asked),
                _ => None,
            }
        });
        let blank = fields.filter(|asked| collector.table.number(index, *asked) == Number::Blank);
        let blank: BTreeSet<u16> = blank.map(|asked| asked.id).collect();
        if let (Some(gpu), false) = (entity.gpu, blank.is_empty()) {
            lacking
                .entry((gpu, blank.into_iter().collect()))
                .or_default()
                .push((entity.id.id, entity.gpu_instance.unwrap_or_default()));
        }
    }
    lacking
}
