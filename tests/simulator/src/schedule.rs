//! When pairs are looked at, and what a look stores.
//!
//! DCGM schedules by wall clock: a pair is due when `now - last >= interval`. In MANUAL mode that is asked in
//! `dcgmUpdateAllFields` only. The clocks of AUTO mode and of the modules are played when somebody asks: what is due
//! then was looked at when its last whole interval ended.

use crate::codes::*;
use crate::engine::Engine;
use crate::modules::{Server, has_no_sample_in_nvsdm, needs_two_looks};
use crate::values::{Answer, Value, blank};
use crate::watches::Sample;
use crate::{clock, gpus};

/// Profiling fields watched more often than an update takes (6-10 ms) are averages over a sliver of time: 0.
const SLIVER_MICROSECONDS: i64 = 50_000;

impl Engine {
    /// What `dcgmUpdateAllFields` does.
    pub fn update(&mut self) {
        let now = clock::microseconds();
        self.look(now, false);
        if self.manual {
            self.look_at_links_again(now);
        }
        self.tick_modules(now);
        self.collect_xids(now);
    }

    /// What the engine has done by itself since the last call.
    pub fn catch_up(&mut self) {
        let now = clock::microseconds();
        if !self.manual {
            self.look(now, true);
        }
        self.tick_modules(now);
        self.collect_xids(now);
    }

    /// Looks at every pair that is due and has no clock of its own.
    fn look(&mut self, now: i64, has_clock: bool) {
        let is_leaving = self.bindings.is_one_leaving();
        let mut looked = false;
        for at in 0..self.pairs.all.len() {
            let pair = &self.pairs.all[at];
            if !pair.server.has_a_clock() && pair.is_due(now) {
                let stamp = if has_clock { pair.ticked(now) } else { now };
                looked |= pair.gpu.is_some();
                self.sample(at, stamp, is_leaving);
            }
        }
        if is_leaving && (looked || self.pairs.all.iter().all(|pair| pair.watch.is_none() || pair.gpu.is_none())) {
            self.bindings.finish_leaving();
            self.tell_of_binding(gpus::REINITIALISING);
            self.tell_of_binding(gpus::REINITIALISED);
        }
    }

    /// A MANUAL engine's update looks twice, at what is due by then: fields of GPU links always are.
    fn look_at_links_again(&mut self, now: i64) {
        for at in 0..self.pairs.all.len() {
            if self.pairs.all[at].is_always_due && self.pairs.all[at].is_due(now) {
                self.sample(at, now, false);
            }
        }
    }

    /// The modules look by their own clocks. NVSDM's look ends at the first pair that fails, and what was due is lost.
    fn tick_modules(&mut self, now: i64) {
        let due = |pairs: &crate::watches::Pairs, server: Server| -> Vec<usize> {
            let of_server = pairs.of_modules.iter().filter(|at| pairs.all[**at].server == server);
            of_server.filter(|at| pairs.all[**at].is_due(now)).copied().collect()
        };
        let of_switches = due(&self.pairs, Server::SwitchModule);
        let fails = |at: &usize| {
            let pair = &self.pairs.all[*at];
            pair.fails && pair.looks > 0
        };
        let is_lost = self.scenario.has_nvsdm() && of_switches.iter().any(fails);
        for at in of_switches {
            let stamp = self.pairs.all[at].ticked(now);
            if is_lost {
                let pair = &mut self.pairs.all[at];
                pair.last = Some(stamp);
                pair.looks += 1;
            } else {
                self.sample(at, stamp, false);
            }
        }
        for at in due(&self.pairs, Server::SystemMonitor) {
            self.sample(at, self.pairs.all[at].ticked(now), false);
        }
    }

    /// One look at a pair.
    fn sample(&mut self, at: usize, stamp: i64, is_leaving: bool) {
        let seconds = self.seconds();
        let pair = &mut self.pairs.all[at];
        let age = pair.last.map_or(0, |last| stamp - last);
        pair.last = Some(stamp);
        pair.looks += 1;
        self.newest = self.newest.max(stamp);
        let (entity, field, kind) = (pair.entity, pair.field, pair.kind);
        *self.polls.entry(field).or_default() += 1;
        self.call_driver(field);
        let faults = &self.scenario.faults;
        if faults.silent_fields.contains(&field)
            || faults.frozen.iter().any(|name| self.entity(&name.entity, name.id) == entity)
        {
            return;
        }
        let pair = &self.pairs.all[at];
        let is_gpu = pair.gpu.is_some();
        if pair.generation != self.bindings.generation(pair.gpu)
            || pair.gpu.is_some_and(|gpu| self.bindings.is_detached(gpu))
        {
            return;
        }
        if is_gpu && (is_leaving || self.xids.is_driver_dead()) {
            let Answer { status, value, .. } = blank(kind, 0);
            let keep = field == FIELD_XID;
            self.pairs.all[at].store(Sample { timestamp: stamp, status, kind, value }, keep);
            return;
        }
        let is_lost = self.scenario.has_nvsdm()
            && pair.server == Server::SwitchModule
            && (pair.fails || has_no_sample_in_nvsdm(field) && !self.values.is_given(entity, field));
        if is_lost || needs_two_looks(pair.server, field) && pair.looks < 2 {
            return;
        }
        if matches!(field, 1532 | 1533) && self.links_are_not_profiled {
            return;
        }
        if pair.server == Server::Profiling && pair.gpu.is_some_and(|gpu| self.is_held_by_profiler(gpu)) {
            return;
        }
        let interval = pair.watch.map_or(i64::MAX, |watch| watch.interval);
        let is_sliver = self.manual && interval < SLIVER_MICROSECONDS && age > 20 * interval;
        let answer = if is_sliver && pair.server == Server::Profiling {
            let value = if kind == b'i' { Value::Int(0) } else { Value::Double(0.0) };
            Answer { status: 0, kind, value, stamp: None }
        } else {
            self.values.answer(entity, field, kind, seconds)
        };
        if answer.status == NO_DATA {
            return;
        }
        let is_event = field == FIELD_XID || self.is_event_field(entity, field);
        let Answer { status, kind, value, stamp: given } = answer;
        let sample = Sample { timestamp: given.unwrap_or(stamp), status, kind, value };
        let pair = &mut self.pairs.all[at];
        if is_event {
            // The history of an event field holds events only.
            pair.latest = Some(sample);
        } else {
            pair.store(sample, false);
        }
    }

    /// Counts a call of the driver, and takes the processor's time that the scenario says it takes.
    pub fn call_driver(&mut self, field: u16) {
        *self.driver_calls.entry(field).or_default() += 1;
        if let Some(cost) = self.scenario.call_us.get(&field) {
            let start = std::time::Instant::now();
            while start.elapsed() < std::time::Duration::from_micros(*cost) {
                std::hint::spin_loop();
            }
        }
    }

    fn is_event_field(&self, entity: Entity, field: u16) -> bool {
        let mut stored = self.scenario.samples_since.iter();
        stored.any(|samples| samples.field_id == field && self.entity(&samples.entity, samples.id) == entity)
    }

    /// Stores an event of GPUs coming and going for everybody who watches for it.
    pub fn tell_of_binding(&mut self, event: i64) {
        let now = clock::microseconds();
        for pair in self.pairs.all.iter_mut().filter(|pair| pair.field == FIELD_BIND_UNBIND && pair.watch.is_some()) {
            let after = pair.history.back().map_or(i64::MIN, |last| last.timestamp + 1);
            let sample = Sample { timestamp: now.max(after), status: 0, kind: b'i', value: Value::Int(event) };
            pair.store(sample, true);
        }
    }
}
