//! Live reads: the driver is asked at once, whoever watches, and nothing is stored.

use crate::clock;
use crate::codes::*;
use crate::engine::Engine;
use crate::links;
use crate::values::{Answer, Value, blank, ok};
use crate::watches::Sample;

/// One value of a live read.
pub type Live = (Entity, u16, Sample);

impl Engine {
    /// One call of the driver for each pair. Whatever makes DCGM write two values for a pair fails the whole call: a GPU
    /// whose driver fails, a link that is not there, and a failed read of a [field](links::is_kept_for_ever) that stores
    /// its failure, too.
    pub fn live(&mut self, entities: &[Entity], fields: &[u16]) -> Result<Vec<Live>, i32> {
        let mut answers = Vec::with_capacity(entities.len() * fields.len());
        let mut fails = false;
        for &entity in entities {
            for &field in fields {
                let kind = self.fields.get(&field).ok_or(BADPARAM)?.kind;
                match self.live_of(entity, field, kind) {
                    Some(sample) => answers.push((entity, field, sample)),
                    None => fails = true,
                }
            }
        }
        // In no order that a reader could rely on.
        answers.reverse();
        if fails { Err(GENERIC_ERROR) } else { Ok(answers) }
    }

    fn live_of(&mut self, entity: Entity, field: u16, kind: u8) -> Option<Sample> {
        if matches!(field, 1001..=1099) {
            self.violations.push(format!("a live read of profiling field {field} ends the engine"));
            return None;
        }
        let failed = |status| Some(Sample { timestamp: 0, status, kind: b'i', value: Value::Int(0) });
        let gpu = self.values.gpu(entity);
        let Some(gpu) = gpu else { return failed(FIELD_UNSUPPORTED_BY_API) };
        self.call_driver(field);
        let is_of_link = entity.0 == LINK;
        let is_there = self.exists(entity) && (!is_of_link || self.values.has_link(entity, field));
        if !is_there || self.values.is_lost(entity) || self.bindings.is_detached(gpu) {
            return None;
        }
        let is_blank = self.xids.is_driver_dead() || matches!(field, 1532 | 1533);
        let answer = match field {
            _ if is_blank => blank(kind, 0),
            // A difference to the sample before, which only a watch has.
            1529..=1531 => ok(kind, Value::Int(0)),
            _ => self.values.answer(entity, field, kind, self.seconds()),
        };
        let Answer { status, kind, value, .. } = answer;
        if is_of_link && links::is_register(field) && status == NO_DATA {
            return failed(NVML_ERROR);
        }
        let is_not_supported = value == blank(kind, NOT_SUPPORTED).value;
        if is_of_link && links::is_kept_for_ever(field) && is_not_supported {
            return None;
        }
        Some(Sample { timestamp: clock::microseconds(), status, kind, value })
    }
}
