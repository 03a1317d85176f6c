//! XIDs: how the errors of GPUs reach an engine.
//!
//! NVML's events are fetched once a second and stamped when fetched. The kernel log is read by the engine itself, for a
//! few codes that NVML may not survive to tell; those have the kernel's time and are stored some time later. The log
//! outlives engines: a new one reads it from its beginning. After a code that is fatal to the driver (119) the engine
//! does not call the driver any more.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::codes::*;
use crate::engine::Engine;
use crate::scenario::{Events, Logged, Origin};
use crate::values::Value;
use crate::watches::Sample;

const FETCH_EVERY: Duration = Duration::from_secs(1);

/// A line of the kernel log.
#[derive(Clone, Copy)]
struct Line {
    gpu: u32,
    code: i64,
    /// The kernel's time in microseconds.
    stamp: i64,
    /// When the engine has read it.
    visible: Instant,
}

/// The kernel log, and what the scenario's events have put into it: each sequence of events with how many.
struct KernelLog {
    lines: Vec<Line>,
    written: Vec<(Events, u64)>,
    began: Option<(Instant, i64)>,
    old: usize,
}

static KERNEL_LOG: Mutex<KernelLog> =
    Mutex::new(KernelLog { lines: Vec::new(), written: Vec::new(), began: None, old: 0 });

pub struct Xids {
    /// How many of each sequence were stored.
    played: Vec<u64>,
    /// Lines of the kernel log that were stored, by their places.
    read: Vec<bool>,
    is_driver_dead: bool,
    /// NVML's events are fetched at whole seconds after this.
    began: Instant,
}

impl Xids {
    pub fn new(events: usize) -> Xids {
        Xids { played: vec![0; events], read: Vec::new(), is_driver_dead: false, began: Instant::now() }
    }

    /// Sequences that a changed scenario keeps go on; new ones begin.
    pub fn set_events(&mut self, before: &[Events], now: &[Events]) {
        let played = |events: &Events| before.iter().position(|it| it == events).map_or(0, |at| self.played[at]);
        self.played = now.iter().map(played).collect();
    }

    /// Whether a fatal XID has ended all calls of the driver.
    pub fn is_driver_dead(&self) -> bool {
        self.is_driver_dead
    }
}

/// The codes of a default list after an environment variable: `31,13` adds, `-119` removes.
fn codes(default: &[i64], variable: &str) -> Vec<i64> {
    let mut codes = default.to_vec();
    for code in
        std::env::var(variable).unwrap_or_default().split(',').filter_map(|code| code.trim().parse::<i64>().ok())
    {
        codes.retain(|known| *known != code.abs());
        codes.extend((code > 0).then_some(code));
    }
    codes
}

/// How many events of a sequence have happened `age` milliseconds after its watch began.
fn reached(events: &Events, age: u64) -> u64 {
    match age.checked_sub(events.after_ms) {
        Some(age) if events.every_ms > 0 => (age / events.every_ms + 1).min(events.count),
        Some(_) => events.count,
        None => 0,
    }
}

impl Engine {
    /// Stores the events that have reached the engine by now, for pairs that are watched.
    pub fn collect_xids(&mut self, now: i64) {
        let mono = Instant::now();
        for index in 0..self.scenario.events.len() {
            let events = self.scenario.events[index].clone();
            let entity = self.entity(&events.entity, events.id);
            match events.from {
                Origin::KernelLog => self.log_events(&events, entity, now, mono),
                Origin::Nvml => self.fetch_events(index, &events, entity, now, mono),
            }
        }
        self.read_kernel_log(now, mono);
    }

    fn watched_since(&self, entity: Entity, field: u16) -> Option<Instant> {
        let pair = &self.pairs.all[self.pairs.find(entity, field)?];
        pair.watch.map(|watch| watch.since)
    }

    fn fetch_events(&mut self, index: usize, events: &Events, entity: Entity, now: i64, mono: Instant) {
        let Some(since) = self.watched_since(entity, events.field_id) else { return };
        // Other fields than 230 have no events of NVML: their samples come as they happen.
        let is_fetched = events.field_id == FIELD_XID;
        let since_began = mono.duration_since(self.xids.began);
        let whole = FETCH_EVERY * (since_began.as_millis() / FETCH_EVERY.as_millis()) as u32;
        let fetched = if is_fetched { self.xids.began + whole } else { mono };
        let Some(age) = fetched.checked_duration_since(since) else { return };
        let reached = reached(events, age.as_millis() as u64);
        let stamp = now - mono.duration_since(fetched).as_micros() as i64;
        let Some(at) = self.pairs.find(entity, events.field_id) else { return };
        for _ in self.xids.played[index]..reached {
            let pair = &mut self.pairs.all[at];
            // Several events of one fetch have a time each, in order.
            let mut timestamp = stamp;
            while pair.history.iter().rev().any(|kept| kept.timestamp == timestamp) {
                timestamp += 1;
            }
            let value = Value::Int(events.value);
            pair.store(Sample { timestamp, status: 0, kind: b'i', value }, true);
        }
        self.xids.played[index] = self.xids.played[index].max(reached);
    }

    /// Lets events happen in the kernel log, which knows GPUs only.
    fn log_events(&mut self, events: &Events, entity: Entity, now: i64, mono: Instant) {
        let Some(gpu) = self.values.gpu(entity) else { return };
        let Some(since) = self.watched_since((GPU, gpu), FIELD_XID) else { return };
        let mut log = KERNEL_LOG.lock().unwrap();
        let at = log.written.iter().position(|(known, _)| known == events).unwrap_or_else(|| {
            log.written.push((events.clone(), 0));
            log.written.len() - 1
        });
        let reached = reached(events, mono.duration_since(since).as_millis() as u64);
        for number in log.written[at].1..reached {
            let happened = since + Duration::from_millis(events.after_ms + number * events.every_ms);
            let stamp = now - mono.saturating_duration_since(happened).as_micros() as i64;
            let visible = happened + Duration::from_millis(events.late_ms);
            log.lines.push(Line { gpu, code: events.value, stamp, visible });
        }
        log.written[at].1 = log.written[at].1.max(reached);
    }

    fn read_kernel_log(&mut self, now: i64, mono: Instant) {
        let mut log = KERNEL_LOG.lock().unwrap();
        let (began, began_at) = *log.began.get_or_insert((mono, now));
        for index in log.old..self.scenario.kernel_log.len() {
            let Logged { gpu, code, age_ms } = self.scenario.kernel_log[index];
            log.lines.push(Line { gpu, code, stamp: began_at - age_ms as i64 * 1000, visible: began });
        }
        log.old = log.old.max(self.scenario.kernel_log.len());
        if self.xids.read.len() == log.lines.len() && self.xids.read.iter().all(|read| *read) {
            return;
        }
        self.xids.read.resize(log.lines.len(), false);
        let lines: Vec<Line> = log.lines.clone();
        drop(log);
        let (taken, fatal) = (codes(&[79, 119, 120], "__DCGM_XID_KMSG__"), codes(&[119], "__DCGM_FATAL_XIDS__"));
        for (place, line) in lines.iter().enumerate() {
            if self.xids.read[place] || line.visible > mono {
                continue;
            }
            self.xids.read[place] = true;
            if !taken.contains(&line.code) {
                continue;
            }
            self.xids.is_driver_dead |= fatal.contains(&line.code);
            let at = self.place((GPU, line.gpu), FIELD_XID);
            let pair = &mut self.pairs.all[at];
            let mut timestamp = line.stamp;
            while pair.history.iter().any(|kept| kept.timestamp == timestamp) {
                timestamp += 1;
            }
            let sample = Sample { timestamp, status: 0, kind: b'i', value: Value::Int(line.code) };
            pair.store(sample, true);
        }
    }
}
