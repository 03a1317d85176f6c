//! XID errors: NVIDIA's codes for what went wrong with a GPU, from events of field 230.
//!
//! DCGM stores an error under what NVML names: the GPU, a MIG instance, or, as for most faults of a program on MIG, a
//! compute instance. Nothing is copied upward, so all three are watched. A compute instance's error is shown as its
//! instance's; a GPU's as the whole GPU's, also where only its instances are reported.

use std::collections::{BTreeSet, HashMap};
use std::sync::OnceLock;

use crate::dcgm::{EntityGroup, EntityId, Result};
use crate::inventory::{Inventory, Kind};
use crate::metrics::events::{Event, OVERLAP};
use crate::metrics::identity::Key;
use crate::metrics::memory::{Part, Windows};
use crate::metrics::number::Number;
use crate::metrics::sample::{Attribution, FieldValue, Sample, Samples};
use crate::metrics::source::{Context, Setup, Source};
use crate::metrics::tally::Tally;
use crate::metrics::window::Window;

/// The code of the last XID error.
pub const FIELD: u16 = 230;

pub const COUNT: &str = "DCGM_EXP_XID_ERRORS_COUNT";
pub const TOTAL: &str = "DCGM_EXP_XID_ERRORS_TOTAL";
pub const LAST: &str = "DCGM_EXP_LAST_XID_TIMESTAMP_SECONDS";

/// Codes that start at 0 for every GPU: those that speak of hardware, firmware or a link rather than of a program.
/// `increase()` sees the first event of these; of others, the second.
const FROM_ZERO: [i64; 32] = [
    13, 31, 43, 45, 48, 61, 62, 63, 64, 68, 69, 74, 79, 92, 94, 95, 109, 110, 119, 120, 121, 136, 140, 143, 144, 145,
    149, 154, 156, 158, 167, 171,
];

/// `code text`, one per line from 0: NVIDIA's public list of XID errors in a few words.
static TEXTS: &str = include_str!("xid-texts.txt");

/// A code in a few words.
pub fn text(code: i64) -> &'static str {
    static BY_CODE: OnceLock<Vec<&str>> = OnceLock::new();
    let texts = BY_CODE.get_or_init(|| TEXTS.lines().filter_map(|line| Some(line.split_once(' ')?.1)).collect());
    usize::try_from(code).ok().and_then(|code| texts.get(code).copied()).unwrap_or("Unknown Error")
}

/// XID errors since the exporter started.
pub struct Xids {
    recent: Window,
    totals: Tally<i64>,
    /// Time and code of the last one.
    last: HashMap<Key, (i64, i64)>,
    /// Errors that the next read may bring again, by time.
    seen: BTreeSet<(i64, Key, EntityId, i64)>,
}

impl Part for Xids {
    fn new(windows: Windows) -> Xids {
        Xids { recent: Window::new(windows.xid), totals: Tally::default(), last: HashMap::new(), seen: BTreeSet::new() }
    }

    fn forget(&mut self, key: Key) {
        self.recent.forget(key);
        self.totals.forget(key);
        self.last.remove(&key);
        self.seen.retain(|(_, owner, ..)| *owner != key);
    }

    fn left_out(&self) -> u64 {
        self.totals.left_out()
    }
}

pub struct XidErrors {
    /// Which entity of the inventory an error of a DCGM entity is shown on.
    shown_on: HashMap<EntityId, usize>,
    /// The field's own row is to show errors of compute instances, too.
    is_shown: bool,
}

/// `None` without GPUs, and where the engine's latest value says all that is asked for: the field's own row alone on
/// GPUs that are not sliced.
pub fn new(setup: &mut Setup<'_>) -> Result<Option<Box<dyn Source>>> {
    let shown_on = shown_on(setup.inventory);
    let is_shown = setup.shown.contains(&FIELD);
    let is_sliced = shown_on.keys().any(|entity| entity.group != EntityGroup::Gpu);
    if shown_on.is_empty() || !(setup.wants(&[COUNT, TOTAL, LAST]) || is_shown && is_sliced) {
        return Ok(None);
    }
    let mut entities: Vec<EntityId> = shown_on.keys().copied().collect();
    entities.sort_unstable();
    setup.events.add(FIELD, &entities, setup.windows.xid);
    Ok(Some(Box::new(XidErrors { shown_on, is_shown })))
}

fn shown_on(inventory: &Inventory) -> HashMap<EntityId, usize> {
    let entities = inventory.entities.iter().enumerate();
    let gpus = entities.filter(|(_, entity)| matches!(entity.kind, Kind::Gpu | Kind::WholeGpu));
    let mut shown_on: HashMap<EntityId, usize> = gpus.map(|(index, entity)| (entity.id, index)).collect();
    for (compute_instance, instance) in &inventory.compute_instances {
        if let Some(index) = shown_on.get(&EntityId::new(EntityGroup::Instance, *instance)) {
            shown_on.insert(EntityId::new(EntityGroup::ComputeInstance, *compute_instance), *index);
        }
    }
    shown_on
}

impl XidErrors {
    fn take_in(&self, event: &Event, context: &mut Context<'_>) {
        let Some(&index) = self.shown_on.get(&event.entity) else { return };
        let Some(key) = context.keys[index] else { return };
        let &Event { entity, time, value: code, .. } = event;
        let started = context.parts.started;
        let xids = context.parts.of::<Xids>();
        if !xids.seen.insert((time, key, entity, code)) {
            return;
        }
        xids.recent.put(context.now, key, time, code);
        // 0 is no error.
        if code == 0 {
            return;
        }
        let last = xids.last.entry(key).or_insert((time, code));
        if *last <= (time, code) {
            *last = (time, code);
        }
        // A new engine reads the kernel's log from its beginning: what is older than the exporter is not its to count.
        if time >= started {
            xids.totals.add(context.now, key, code, &context.jobs.of_error(time, key), 1.0);
        }
    }
}

impl Source for XidErrors {
    fn name(&self) -> &'static str {
        "xid"
    }

    fn collect(&mut self, context: &mut Context<'_>, samples: &mut Samples) -> Result<()> {
        let events = context.events;
        for event in events.iter().filter(|event| event.field == FIELD) {
            self.take_in(event, context);
        }
        let oldest = context.events_from - OVERLAP;
        let xids = context.parts.of::<Xids>();
        while xids.seen.first().is_some_and(|(time, ..)| *time < oldest) {
            xids.seen.pop_first();
        }
        let width = xids.recent.width().as_millis().to_string();
        let window = || ("window_size_in_ms", width.clone());
        let gpus = context.inventory.entities.iter().enumerate().zip(context.keys);
        for ((index, entity), key) in gpus.filter_map(|(entity, key)| Some((entity, (*key)?))) {
            if let Some(list) = samples.list(COUNT) {
                let mut counts: Vec<(String, i64)> =
                    xids.recent.counts(context.now, key).map(|(code, count)| (code.to_string(), count)).collect();
                counts.sort();
                // A GPU whose instances are reported is shown only where it has errors of its own.
                if counts.is_empty() && entity.kind == Kind::Gpu {
                    list.push(Sample::new(index, vec![window()], Number::Int(0)));
                }
                list.extend(
                    counts
                        .into_iter()
                        .map(|(code, count)| Sample::new(index, vec![window(), ("xid", code)], Number::Int(count))),
                );
            }
            if let Some(list) = samples.list(TOTAL) {
                xids.totals.tend(context.now, key, &FROM_ZERO, &context.jobs.at(context.now, key));
                list.extend(xids.totals.of(key).map(|(code, job, count)| Sample {
                    entity: index,
                    labels: vec![("err_msg", text(code).to_owned()), ("xid", code.to_string())],
                    job: Attribution::Then(job),
                    number: Number::Int(count as i64),
                }));
            }
            let Some(&(time, code)) = xids.last.get(&key) else { continue };
            if let Some(list) = samples.list(LAST) {
                list.push(Sample::new(index, Vec::new(), Number::Double(time as f64 / 1e6)));
            }
            if self.is_shown {
                samples.values.push(FieldValue { entity: entity.id, field: FIELD, time, value: code });
            }
        }
        context.events_complete()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_text() {
        assert!(TEXTS.lines().enumerate().all(|(code, line)| line.starts_with(&format!("{code} "))));
        assert_eq!(
            (text(0), text(79), text(172)),
            ("No Error", "GPU has fallen off the bus", "Uncorrectable SRAM error")
        );
        assert_eq!((text(173), text(-1)), ("Unknown Error", "Unknown Error"));
    }
}
