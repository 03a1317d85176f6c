//! Watching and unwatching.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::answers::Kind;
use crate::clock;
use crate::codes::*;
use crate::engine::{Engine, Member};
use crate::links;
use crate::modules::{Server, fails_in_nvsdm};
use crate::values::Value;
use crate::watches::{Pair, Watch};

impl Engine {
    /// Watches every pair of the two groups. A pair that was not watched makes the engine update at once.
    ///
    /// `keep_samples` is checked and has no other effect, as in libdcgm.
    pub fn watch(
        &mut self,
        group: usize,
        field_group: usize,
        interval: i64,
        keep_age: f64,
        keep_samples: i32,
    ) -> Result<(), i32> {
        let (members, fields) = self.members(group, field_group)?;
        let (members, fields) = (members.to_vec(), fields.to_vec());
        if interval <= 0 || keep_age < 0.0 || (keep_age == 0.0 && keep_samples <= 0) {
            return Err(BADPARAM);
        }
        for &(entity, _) in &members {
            for &field in &fields {
                self.refuse(entity, field)?;
            }
        }
        let mut is_first = false;
        for &member in &members {
            for &field in &fields {
                let at = self.place(member.0, field);
                let pair = &mut self.pairs.all[at];
                let since = pair.watch.map_or_else(Instant::now, |watch| watch.since);
                if pair.watch.is_none() {
                    pair.looks = 0;
                    is_first = true;
                    self.scenario.faults.silent_fields.retain(|silent| *silent != field);
                }
                pair.generation = member.1;
                pair.watch = Some(Watch { interval, keep_age: (keep_age * 1e6) as i64, since });
            }
        }
        if is_first {
            self.update();
        }
        Ok(())
    }

    /// The code with which a watch of this pair fails.
    fn refuse(&mut self, entity: Entity, field: u16) -> Result<(), i32> {
        if let Some(failure) = self.failure("dcgmWatchFields", Some(entity), Some(field)) {
            return Err(failure);
        }
        match entity.0 {
            GPU | INSTANCE | COMPUTE_INSTANCE if is_profiling(field) => {
                let gpu = self.values.gpu(entity);
                match gpu.filter(|gpu| self.profiling_fields(*gpu).contains(&field)) {
                    None => Err(PROFILING_NOT_SUPPORTED),
                    Some(gpu) if self.is_held_by_profiler(gpu) => Err(PROFILING_LIBRARY_ERROR),
                    Some(_) => Ok(()),
                }
            }
            _ => match self.values.watch_code(entity, field) {
                0 => Ok(()),
                code => {
                    self.links_are_not_profiled |= matches!(field, 1532 | 1533);
                    Err(code)
                }
            },
        }
    }

    /// Before Hopper the profiling hardware of a node has one owner, whichever GPU that one profiles.
    pub fn is_held_by_profiler(&self, gpu: u32) -> bool {
        const HOPPER: i64 = 9 << 16;
        let capability = self.values.answer((GPU, gpu), FIELD_COMPUTE_CAPABILITY, b'i', 0.0).value;
        self.scenario.faults.profiler && matches!(capability, Value::Int(capability) if capability < HOPPER)
    }

    /// GPUs that are profiled, whole or in part.
    pub fn profiled_gpus(&self) -> BTreeSet<u32> {
        let of_profiling = |pair: &&Pair| pair.watch.is_some() && pair.server == Server::Profiling;
        self.pairs.all.iter().filter(of_profiling).filter_map(|pair| pair.gpu).collect()
    }

    pub fn unwatch(&mut self, group: usize, field_group: usize) -> Result<(), i32> {
        let (members, fields) = self.members(group, field_group)?;
        let pairs: Vec<(Member, u16)> =
            members.iter().flat_map(|member| fields.iter().map(move |field| (*member, *field))).collect();
        let mut was_watched = false;
        for ((entity, _), field) in pairs {
            if let Some(at) = self.pairs.find(entity, field) {
                was_watched |= self.pairs.all[at].watch.take().is_some();
            }
        }
        if was_watched { Ok(()) } else { Err(NOT_WATCHED) }
    }

    /// Where a pair is kept; it is made if it is new.
    pub fn place(&mut self, entity: Entity, field: u16) -> usize {
        if let Some(at) = self.pairs.find(entity, field) {
            return at;
        }
        let kind = self.values.kind(entity);
        let gpu = self.values.gpu(entity);
        // A host engine with samples of the future has them for the pairs of earlier clients.
        let is_ahead = self.inherited > clock::microseconds();
        self.pairs.add(Pair {
            entity,
            field,
            kind: self.fields.get(&field).map_or(b'i', |field| field.kind),
            server: Server::of(kind, field),
            gpu,
            generation: self.bindings.generation(gpu),
            is_always_due: kind == Some(Kind::GpuLink) && links::is_always_due(field),
            fails: fails_in_nvsdm(kind, field),
            watch: None,
            last: is_ahead.then_some(self.inherited),
            looks: 0,
            latest: None,
            history: Default::default(),
        })
    }
}
