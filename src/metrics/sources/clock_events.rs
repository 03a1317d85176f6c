//! Clock events: the reasons for which a GPU's clocks are held down, from samples of field 112.

use std::collections::HashMap;
use std::time::Duration;

use crate::dcgm::{EntityId, Result};
use crate::inventory::{Inventory, Kind};
use crate::metrics::events::Event;
use crate::metrics::identity::Key;
use crate::metrics::job_timeline::JobIds;
use crate::metrics::memory::{Part, Windows};
use crate::metrics::number::Number;
use crate::metrics::sample::{Attribution, Sample, Samples};
use crate::metrics::source::{Context, Setup, Source};
use crate::metrics::window::Window;

/// The reasons for which clocks are held down, as a bit mask.
const FIELD: u16 = 112;

pub const COUNT: &str = "DCGM_EXP_CLOCK_EVENTS_COUNT";
pub const TOTAL: &str = "DCGM_EXP_CLOCK_EVENTS_TOTAL";
pub const SECONDS: &str = "DCGM_EXP_CLOCK_EVENTS_SECONDS_TOTAL";

/// Bits of the mask, as labels; by name, as on the page.
const EVENTS: [(i64, &str); 9] = [
    (0x2, "clocks_setting"),
    (0x100, "display_clocks"),
    (0x1, "gpu_idle"),
    (0x80, "hw_power_brake"),
    (0x8, "hw_slowdown"),
    (0x40, "hw_thermal"),
    (0x4, "power_cap"),
    (0x20, "sw_thermal"),
    (0x10, "sync_boost"),
];

/// An event counts as lasting between two samples at most this many intervals apart. Nothing is known of a longer gap.
const LONGEST_GAP: u32 = 3;

/// Clock events since the exporter started.
pub struct Counted {
    recent: Window,
    /// Time and mask of the last sample: it may be read again, and an event that goes on does not begin again.
    last: HashMap<Key, (i64, i64)>,
}

impl Part for Counted {
    fn new(windows: Windows) -> Counted {
        Counted { recent: Window::new(windows.clock_events), last: HashMap::new() }
    }

    fn forget(&mut self, key: Key) {
        self.recent.forget(key);
        self.last.remove(&key);
    }
}

pub struct ClockEvents {
    interval: Duration,
    entities: HashMap<EntityId, usize>,
    /// Time of the last sample of these watches. What happened between two sets of watches is not known.
    since: HashMap<Key, i64>,
}

/// `None` without GPUs.
pub fn new(setup: &mut Setup<'_>) -> Result<Option<Box<dyn Source>>> {
    let entities = reported(setup.inventory);
    if entities.is_empty() || !setup.wants(&[COUNT, TOTAL, SECONDS]) {
        return Ok(None);
    }
    let mut asked: Vec<EntityId> = entities.keys().copied().collect();
    asked.sort_unstable();
    setup.events.add(FIELD, &asked, setup.windows.clock_events);
    Ok(Some(Box::new(ClockEvents { interval: setup.interval, entities, since: HashMap::new() })))
}

fn reported(inventory: &Inventory) -> HashMap<EntityId, usize> {
    let entities = inventory.entities.iter().enumerate().filter(|(_, entity)| entity.kind == Kind::Gpu);
    entities.map(|(index, entity)| (entity.id, index)).collect()
}

impl ClockEvents {
    /// Takes in a sample. An event begins where its bit is set and was not in the sample before; it lasts until the
    /// sample in which the bit is gone.
    fn take_in(&mut self, event: &Event, context: &mut Context<'_>) {
        let Some(key) = self.entities.get(&event.entity).and_then(|index| context.keys[*index]) else { return };
        let &Event { time, value: mask, is_old, .. } = event;
        let (started, engine_time) = (context.parts.started, context.engine_time);
        let counted = context.parts.of::<Counted>();
        let before = counted.last.get(&key).copied();
        // The last sample may be of a time that the clock has not reached again since it was set back.
        let is_set_back = before.is_some_and(|(last, _)| last > engine_time && time <= engine_time);
        if is_old || before.is_some_and(|(last, _)| time <= last) && !is_set_back {
            return;
        }
        counted.last.insert(key, (time, mask));
        counted.recent.put(context.now, key, time, mask);
        let since = self.since.insert(key, time);
        if time < started {
            return;
        }
        let was = before.map_or(0, |(_, mask)| mask);
        let longest = (self.interval * LONGEST_GAP).as_micros() as i64;
        let lasted = since.map_or(0, |since| (time - since.max(started)).clamp(0, longest)) as f64 / 1e6;
        let jobs = context.labels(&context.jobs.at(time, key));
        for (event, (bit, _)) in (0..).zip(EVENTS) {
            if was & bit != 0 {
                context.totals.add(context.now, key, (SECONDS, event), &jobs, lasted);
            } else if mask & bit != 0 {
                context.totals.add(context.now, key, (TOTAL, event), &jobs, 1.0);
            }
        }
    }
}

impl Source for ClockEvents {
    fn name(&self) -> &'static str {
        "clock_events"
    }

    fn is_of_events(&self) -> bool {
        true
    }

    fn set_interval(&mut self, interval: Duration) -> Result<()> {
        self.interval = interval;
        Ok(())
    }

    fn collect(&mut self, context: &mut Context<'_>, samples: &mut Samples) -> Result<()> {
        if let Some(to) = context.set_back {
            context.parts.of::<Counted>().recent.set_back(to);
        }
        let events = context.events;
        for event in events.iter().filter(|event| event.field == FIELD) {
            self.take_in(event, context);
        }
        let now = context.now;
        let Counted { recent, .. } = context.parts.of::<Counted>();
        let width = recent.width().as_millis().to_string();
        let window = || ("window_size_in_ms", width.clone());
        let reported = context.inventory.entities.iter().zip(context.keys).enumerate();
        let reported = reported.filter(|(_, (entity, _))| entity.kind == Kind::Gpu);
        for (index, key) in reported.filter_map(|(index, (_, key))| Some((index, (*key)?))) {
            if let Some(list) = samples.list(COUNT) {
                // Of the samples in the window: how many there are with each bit.
                let masks: Vec<(i64, i64)> = recent.counts(now, key).collect();
                if masks.is_empty() {
                    list.push(Sample::new(index, vec![window()], Number::Int(0)));
                }
                for (bit, event) in EVENTS {
                    let count: i64 = masks.iter().filter(|(mask, _)| mask & bit != 0).map(|(_, count)| count).sum();
                    if count > 0 {
                        let labels = vec![("clock_event", event.to_owned()), window()];
                        list.push(Sample::new(index, labels, Number::Int(count)));
                    }
                }
            }
            let jobs = if context.job_labels { context.jobs.current(key).1 } else { JobIds::default() };
            for metric in [TOTAL, SECONDS] {
                let Some(list) = samples.list(metric) else { continue };
                context.totals.begin(now, key, (0..).zip(EVENTS).map(|(event, _)| (metric, event)), &jobs);
                list.extend(context.totals.of(key, metric).map(|(event, job, count)| Sample {
                    entity: index,
                    labels: vec![("clock_event", EVENTS[event as usize].1.to_owned())],
                    job: Attribution::Then(job),
                    number: if metric == TOTAL { Number::Int(count as i64) } else { Number::Double(count) },
                }));
            }
        }
        context.events_complete()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dcgm::EntityGroup;
    use crate::metrics::source::tests::{Node, SECOND, gpu, number};

    const ALL: [&str; 3] = [COUNT, TOTAL, SECONDS];

    fn source(node: &Node) -> ClockEvents {
        let interval = Duration::from_secs(1);
        ClockEvents { interval, entities: reported(&node.inventory), since: HashMap::new() }
    }

    /// Collects samples of these times in seconds and masks, now being the last of them.
    fn collect(node: &mut Node, source: &mut ClockEvents, samples: &[(i64, i64)]) -> Samples {
        let event = |&(time, value): &(i64, i64)| Event {
            entity: EntityId::new(EntityGroup::Gpu, 0),
            field: FIELD,
            time: time * SECOND,
            value,
            is_old: false,
        };
        let events: Vec<Event> = samples.iter().map(event).collect();
        node.collect(source, events.last().map_or(0, |event| event.time), &events, &ALL)
    }

    fn numbers(samples: &Samples, event: &str) -> [Number; 3] {
        ALL.map(|name| number(samples, name, 0, event))
    }

    #[test]
    fn an_event_begins_once_and_lasts() {
        let mut node = Node::new(vec![gpu(0, Kind::Gpu)]);
        let mut source = source(&node);
        collect(&mut node, &mut source, &[(1, 0), (2, 4), (3, 4), (4, 0)]);
        // The overlap of two reads brings samples again.
        let samples = collect(&mut node, &mut source, &[(2, 4), (3, 4), (4, 0), (5, 4), (6, 0x44), (7, 0)]);
        assert_eq!(numbers(&samples, "power_cap"), [Number::Int(4), Number::Int(2), Number::Double(4.0)]);
        assert_eq!(numbers(&samples, "hw_thermal"), [Number::Int(1), Number::Int(1), Number::Double(1.0)]);
        assert_eq!(numbers(&samples, "gpu_idle"), [Number::Blank, Number::Int(0), Number::Double(0.0)]);
    }

    #[test]
    fn what_was_not_measured_is_not_counted() {
        let mut node = Node::new(vec![gpu(0, Kind::Gpu)]);
        let mut before = source(&node);
        collect(&mut node, &mut before, &[(1, 0), (2, 4), (3, 4)]);
        // The engine did not sample for a minute: three intervals of it count.
        let samples = collect(&mut node, &mut before, &[(63, 4)]);
        assert_eq!(numbers(&samples, "power_cap"), [Number::Int(3), Number::Int(1), Number::Double(4.0)]);
        // The GPUs were released for an hour: nothing of it counts, and what goes on has not begun again.
        let mut after = source(&node);
        let samples = collect(&mut node, &mut after, &[(3663, 4), (3664, 4)]);
        assert_eq!(numbers(&samples, "power_cap"), [Number::Int(2), Number::Int(1), Number::Double(5.0)]);
    }

    #[test]
    fn a_window_without_samples_says_zero() {
        let mut node = Node::new(vec![gpu(0, Kind::Gpu)]);
        let mut source = source(&node);
        collect(&mut node, &mut source, &[(1, 1)]);
        let samples = node.collect(&mut source, 1000 * SECOND, &[], &ALL);
        let [sample] = samples.get(COUNT) else { panic!("{samples:?}") };
        assert_eq!((sample.labels.len(), sample.number), (1, Number::Int(0)));
    }

    #[test]
    fn a_clock_that_is_set_back_stops_nothing_and_begins_nothing_anew() {
        let mut node = Node::new(vec![gpu(0, Kind::Gpu)]);
        let mut source = source(&node);
        collect(&mut node, &mut source, &[(90_000, 0), (90_001, 4)]);
        let samples = collect(&mut node, &mut source, &[(80_001, 4), (80_002, 4)]);
        assert_eq!(numbers(&samples, "power_cap")[1..], [Number::Int(1), Number::Double(1.0)]);
        let samples = collect(&mut node, &mut source, &[(80_001, 4), (80_002, 4), (80_003, 0), (80_004, 4)]);
        assert_eq!(numbers(&samples, "power_cap")[1..], [Number::Int(2), Number::Double(2.0)]);
    }
}
