//! Reading what is stored.

use std::rc::Rc;

use crate::clock;
use crate::codes::*;
use crate::engine::Engine;
use crate::values::{Answer, Value, blank};
use crate::watches::Sample;

/// Samples of one entity, each with its field's id.
pub type OfEntity = (Entity, Vec<(u16, Sample)>);

impl Engine {
    /// The latest sample of each field of each entity of a group, in order.
    pub fn latest(&mut self, group: usize, field_group: usize) -> Result<Vec<OfEntity>, i32> {
        self.catch_up();
        let places = self.read(group, field_group)?;
        let (members, fields) = self.members(group, field_group)?;
        let mut answers = Vec::with_capacity(members.len());
        for (&(entity, generation), places) in members.iter().zip(places.chunks(fields.len())) {
            let mut of_entity = Vec::with_capacity(fields.len());
            for &at in places {
                let sample = self.answered(self.latest_of(at, generation));
                // A null string ends the whole read in DCGM 3.
                if sample.status == GENERIC_ERROR && self.release < Release(4, 0, 0) {
                    return Err(GENERIC_ERROR);
                }
                of_entity.push((self.pairs.all[at].field, sample));
            }
            answers.push((entity, of_entity));
        }
        Ok(answers)
    }

    fn latest_of(&self, at: usize, generation: u32) -> Sample {
        let pair = &self.pairs.all[at];
        let current = self.bindings.generation(pair.gpu);
        match &pair.latest {
            Some(sample) if generation == current => sample.clone(),
            None if pair.watch.is_none() && pair.looks == 0 => nothing(pair.kind, NOT_WATCHED),
            _ => nothing(pair.kind, NO_DATA),
        }
    }

    /// DCGM 3 answers what failed with an integer 0 where later releases have a blank.
    fn answered(&self, sample: Sample) -> Sample {
        if sample.status != 0 && self.release < Release(4, 0, 0) {
            return Sample { kind: b'i', value: Value::Int(0), ..sample };
        }
        sample
    }

    /// Samples since a time, and where the next call goes on: not after the last of them, but after now.
    ///
    /// A pair without any has one value with status -14 and time stamp 0.
    pub fn since(&mut self, group: usize, field_group: usize, since: i64) -> Result<(i64, Vec<OfEntity>), i32> {
        self.catch_up();
        let next = clock::microseconds() + 1;
        let places = self.read(group, field_group)?;
        let (members, fields) = self.members(group, field_group)?;
        let mut answers = Vec::with_capacity(members.len());
        for (&(entity, _), places) in members.iter().zip(places.chunks(fields.len())) {
            let mut of_entity = Vec::new();
            for &at in places {
                let pair = &self.pairs.all[at];
                let stored = self.stored(entity, pair.field);
                let first = pair.history.partition_point(|sample| sample.timestamp < since);
                let before = of_entity.len();
                of_entity
                    .extend(stored.into_iter().filter(|sample| sample.timestamp >= since).map(|it| (pair.field, it)));
                of_entity.extend(pair.history.range(first..).map(|sample| (pair.field, self.answered(sample.clone()))));
                if of_entity.len() == before {
                    of_entity.push((pair.field, self.answered(nothing(pair.kind, NO_DATA))));
                }
            }
            answers.push((entity, of_entity));
        }
        Ok((next, answers))
    }

    /// What the scenario says the engine had stored when it was started.
    fn stored(&self, entity: Entity, field: u16) -> Vec<Sample> {
        if self.scenario.samples_since.is_empty() {
            return Vec::new();
        }
        let start = clock::microseconds() - self.started.elapsed().as_micros() as i64;
        let of_this = self
            .scenario
            .samples_since
            .iter()
            .filter(|samples| samples.field_id == field && self.entity(&samples.entity, samples.id) == entity);
        let samples = of_this.flat_map(|samples| {
            let value = Value::Int(samples.value.parse().expect("a stored sample is an integer"));
            let first = start - samples.age_ms as i64 * 1000;
            (0..samples.count).map(move |number| Sample {
                timestamp: first + i64::from(number),
                status: 0,
                kind: b'i',
                value: value.clone(),
            })
        });
        samples.collect()
    }

    /// The places of all pairs of two groups, entity by entity.
    fn read(&mut self, group: usize, field_group: usize) -> Result<Rc<[usize]>, i32> {
        if let Some(places) = self.places.get(&(group, field_group)) {
            return Ok(places.clone());
        }
        let (members, fields) = self.members(group, field_group)?;
        if members.is_empty() {
            return Err(GROUP_IS_EMPTY);
        }
        let (members, fields) = (members.to_vec(), fields.to_vec());
        let mut places = Vec::with_capacity(members.len() * fields.len());
        for &(entity, _) in &members {
            for &field in &fields {
                places.push(self.place(entity, field));
            }
        }
        let places: Rc<[usize]> = places.into();
        self.places.insert((group, field_group), places.clone());
        Ok(places)
    }
}

fn nothing(kind: u8, status: i32) -> Sample {
    let Answer { status, value, .. } = blank(kind, status);
    Sample { timestamp: 0, status, kind, value }
}
