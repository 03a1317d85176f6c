//! XID errors: NVIDIA's codes for what went wrong with a GPU, from events of field 230.
//!
//! DCGM stores an error under what NVML names: the GPU, a MIG instance, or, as for most faults of a program on MIG, a
//! compute instance. Nothing is copied upward, so all three are watched. A compute instance's error is shown as its
//! instance's; a GPU's as the whole GPU's, also where only its instances are reported. Where a GPU is reported as a whole
//! although it is sliced, errors of its instances that are not reported are shown as the GPU's.
//!
//! Before a GPU's first error DCGM has no sample of the field: the page then says code 0, as dcgm-exporter did up to
//! 4.8.0, so that an alert and a sum find a series of each GPU.

use std::collections::{BTreeSet, HashMap};
use std::sync::OnceLock;

use crate::dcgm::{EntityGroup, EntityId, Reading, Result, Value};
use crate::inventory::{Inventory, Kind};
use crate::metrics::accounts::Accounts;
use crate::metrics::events::Event;
use crate::metrics::identity::Key;
use crate::metrics::job_timeline::JobIds;
use crate::metrics::memory::{Memory, Part, Windows};
use crate::metrics::number::Number;
use crate::metrics::sample::{Attribution, FieldValue, Sample, Samples};
use crate::metrics::source::{Context, Setup, Source};
use crate::metrics::window::Window;

/// The code of the last XID error.
pub const FIELD: u16 = 230;

/// As the exporter's own metrics name this source.
pub const NAME: &str = "xid";

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

/// Errors that were read are remembered for as long as the engine keeps them, in microseconds: a clock that is set back
/// by minutes brings them all again.
const REMEMBERED: i64 = 660_000_000;
/// As many at most, the latest of them.
const MOST_REMEMBERED: usize = 100_000;

/// XID errors since the exporter started.
pub struct Xids {
    recent: Window,
    /// All of them, whatever their codes.
    events: HashMap<Key, u64>,
    /// Time and code of the last one.
    last: HashMap<Key, (i64, i64)>,
    /// Errors that a later read may bring again, by time.
    seen: BTreeSet<(i64, Key, EntityId, i64)>,
}

impl Xids {
    /// The clock was set back; `seen` keeps the times by which the engine knows its samples.
    fn set_back(&mut self, to: i64) {
        self.recent.set_back(to);
        self.last.values_mut().for_each(|(time, _)| *time = to.min(*time));
    }
}

impl Part for Xids {
    fn new(windows: Windows) -> Xids {
        Xids { recent: Window::new(windows.xid), events: HashMap::new(), last: HashMap::new(), seen: BTreeSet::new() }
    }

    fn forget(&mut self, key: Key) {
        self.recent.forget(key);
        self.events.remove(&key);
        self.last.remove(&key);
        self.seen.retain(|(_, owner, ..)| *owner != key);
    }
}

pub struct XidErrors {
    /// Which entity of the inventory an error of a DCGM entity is shown on.
    shown_on: HashMap<EntityId, usize>,
    /// The field's own row is to show errors of compute instances, too.
    is_shown: bool,
}

/// How many XID errors each of these has had since the exporter started. `None` for what is no GPU and no instance.
pub fn events(memory: &mut Memory, keys: impl IntoIterator<Item = Option<Key>>) -> Vec<Option<u64>> {
    let counted = &memory.parts.of::<Xids>().events;
    keys.into_iter().map(|key| Some(counted.get(&key?).copied().unwrap_or(0))).collect()
}

/// A reading as the page is to show it: code 0 where DCGM has no sample because there has been no error. What it does not
/// support, or does not say, stays blank.
pub fn none_so_far(reading: Reading<'_>) -> Reading<'_> {
    if reading.field == FIELD && reading.has_no_data() {
        return Reading { status: 0, value: Value::Int(0), ..reading };
    }
    reading
}

/// `None` without GPUs, and where the engine's latest value says all that is asked for: without the exporter's own
/// metrics, the field's own row alone on GPUs that are not sliced.
pub fn new(setup: &mut Setup<'_>) -> Result<Option<Box<dyn Source>>> {
    let shown_on = shown_on(setup.inventory);
    let is_shown = setup.shown.contains(&FIELD);
    let is_sliced = shown_on.keys().any(|entity| entity.group != EntityGroup::Gpu);
    let is_asked_for = setup.wants(&[COUNT, TOTAL, LAST]) || is_shown && is_sliced;
    if shown_on.is_empty() || !(is_asked_for || setup.extras.own_metrics || setup.extras.job_accounting) {
        return Ok(None);
    }
    let mut entities: Vec<EntityId> = shown_on.keys().copied().collect();
    entities.sort_unstable();
    match is_asked_for {
        true => setup.events.add(FIELD, &entities, setup.windows.xid),
        false => setup.events.add_at_leisure(FIELD, &entities, setup.windows.xid),
    }
    Ok(Some(Box::new(XidErrors { shown_on, is_shown })))
}

fn shown_on(inventory: &Inventory) -> HashMap<EntityId, usize> {
    let entities = inventory.entities.iter().enumerate();
    let gpus = entities.filter(|(_, entity)| matches!(entity.kind, Kind::Gpu | Kind::WholeGpu));
    let mut shown_on: HashMap<EntityId, usize> = gpus.map(|(index, entity)| (entity.id, index)).collect();
    for instance in &inventory.instances {
        let gpu = shown_on.get(&EntityId::new(EntityGroup::Gpu, instance.gpu)).copied();
        let gpu = gpu.filter(|index| inventory.entities[*index].kind == Kind::Gpu);
        if let Some(gpu) = gpu {
            shown_on.entry(EntityId::new(EntityGroup::Instance, instance.entity)).or_insert(gpu);
        }
    }
    for compute_instance in &inventory.compute_instances {
        if let Some(index) = shown_on.get(&EntityId::new(EntityGroup::Instance, compute_instance.instance)) {
            shown_on.insert(EntityId::new(EntityGroup::ComputeInstance, compute_instance.entity), *index);
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
        // An old one is remembered: the clock will reach its time, and then it looks like any other.
        if !xids.seen.insert((time, key, entity, code)) || event.is_old {
            return;
        }
        let time = context.set_back.filter(|_| time > context.engine_time).unwrap_or(time);
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
            *xids.events.entry(key).or_default() += 1;
            let jobs = context.jobs.of_error(time, key);
            let labels = context.labels(&jobs);
            context.totals.add(context.now, key, (TOTAL, code), &labels, 1.0);
            context.parts.of::<Accounts>().count_xid(key, &jobs, code);
        }
    }
}

impl Source for XidErrors {
    fn name(&self) -> &'static str {
        NAME
    }

    fn is_of_events(&self) -> bool {
        true
    }

    fn collect(&mut self, context: &mut Context<'_>, samples: &mut Samples) -> Result<()> {
        if let Some(to) = context.set_back {
            context.parts.of::<Xids>().set_back(to);
        }
        let events = context.events;
        for event in events.iter().filter(|event| event.field == FIELD) {
            self.take_in(event, context);
        }
        let oldest = context.engine_time - REMEMBERED;
        let xids = context.parts.of::<Xids>();
        while xids.seen.len() > MOST_REMEMBERED || xids.seen.first().is_some_and(|(time, ..)| *time < oldest) {
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
                let jobs = if context.job_labels { context.jobs.current(key).1 } else { JobIds::default() };
                context.totals.begin(context.now, key, FROM_ZERO.map(|code| (TOTAL, code)), &jobs);
                list.extend(context.totals.of(key, TOTAL).map(|(code, job, count)| Sample {
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
    use crate::inventory::ComputeInstance;
    use crate::metrics::source::tests::{Node, SECOND, gpu, instance, number};

    const ALL: [&str; 3] = [COUNT, TOTAL, LAST];

    fn source(node: &Node) -> XidErrors {
        XidErrors { shown_on: shown_on(&node.inventory), is_shown: true }
    }

    fn on(group: EntityGroup, id: u32, time: i64, value: i64) -> Event {
        Event { entity: EntityId::new(group, id), field: FIELD, time, value, is_old: false }
    }

    fn on_gpu(time: i64, code: i64) -> Event {
        on(EntityGroup::Gpu, 0, time, code)
    }

    #[test]
    fn every_code_has_a_text() {
        assert!(TEXTS.lines().enumerate().all(|(code, line)| line.starts_with(&format!("{code} "))));
        assert_eq!(
            (text(0), text(79), text(172)),
            ("No Error", "GPU has fallen off the bus", "Uncorrectable SRAM error")
        );
        assert_eq!((text(173), text(-1)), ("Unknown Error", "Unknown Error"));
    }

    #[test]
    fn an_error_that_is_read_again_counts_once() {
        let mut node = Node::new(vec![gpu(0, Kind::Gpu)]);
        let mut xid = source(&node);
        let (mut counted, mut all) = (Number::Blank, Vec::new());
        // A read every second sees the last five seconds; every third error is stored a second late.
        for now in 10..60 {
            let late = if now % 3 == 0 { SECOND } else { 0 };
            all.push(on_gpu(now * SECOND - late, 79));
            let read: Vec<Event> = all.iter().copied().filter(|event| event.time >= (now - 6) * SECOND).collect();
            // The engine is lost and found again in between.
            if now == 30 {
                xid = source(&node);
            }
            let samples = node.collect(&mut xid, now * SECOND, &read, &ALL);
            counted = number(&samples, TOTAL, 0, "79");
            assert_eq!(number(&samples, COUNT, 0, "79"), counted);
        }
        // Two errors of the same microsecond are one.
        let distinct: BTreeSet<i64> = all.iter().map(|event| event.time).collect();
        assert_eq!(counted, Number::Int(distinct.len() as i64));
        let seen = &node.memory.parts.of::<Xids>().seen;
        assert_eq!(seen.len(), distinct.len());
        node.collect(&mut source(&node), 60 * SECOND + REMEMBERED, &[], &ALL);
        let seen = &node.memory.parts.of::<Xids>().seen;
        assert!(seen.is_empty(), "what cannot come again is forgotten: {}", seen.len());
    }

    #[test]
    fn what_happened_before_the_start_sets_the_last_one_only() {
        let mut node = Node::new(vec![gpu(0, Kind::Gpu)]);
        let samples =
            node.collect(&mut source(&node), SECOND, &[on_gpu(-3 * SECOND, 79), on_gpu(-5 * SECOND, 48)], &ALL);
        assert_eq!(number(&samples, TOTAL, 0, "79"), Number::Int(0));
        assert_eq!(number(&samples, LAST, 0, ""), Number::Double(-3.0));
        assert_eq!(samples.get(TOTAL).len(), FROM_ZERO.len());
        assert_eq!(number(&samples, COUNT, 0, "48"), Number::Int(1), "the window reaches back before the start");
    }

    #[test]
    fn on_mig_each_error_is_counted_once_where_it_belongs() {
        let mut node = Node::new(vec![instance(3, 0), instance(4, 0), gpu(0, Kind::WholeGpu)]);
        node.inventory.compute_instances =
            [(17, 4), (18, 99)].map(|(entity, instance)| ComputeInstance { entity, instance }).to_vec();
        let events = [
            on_gpu(SECOND, 79),
            on(EntityGroup::Instance, 3, 2 * SECOND, 94),
            on(EntityGroup::ComputeInstance, 17, 3 * SECOND, 31),
            on(EntityGroup::ComputeInstance, 18, 3 * SECOND, 13),
        ];
        let samples = node.collect(&mut source(&node), 4 * SECOND, &events, &ALL);
        let totals = |code: &str| [0, 1, 2].map(|entity| number(&samples, TOTAL, entity, code));
        assert_eq!(totals("79"), [Number::Int(0), Number::Int(0), Number::Int(1)]);
        assert_eq!(totals("94"), [Number::Int(1), Number::Int(0), Number::Int(0)]);
        assert_eq!(totals("31"), [Number::Int(0), Number::Int(1), Number::Int(0)]);
        assert_eq!(totals("13"), [Number::Int(0); 3], "of an instance that is not reported");
        let shown: Vec<(u32, i64)> = samples.values.iter().map(|value| (value.entity.id, value.value)).collect();
        assert_eq!(shown, [(3, 94), (4, 31), (0, 79)]);
        let samples = node.collect(&mut source(&node), 1000 * SECOND, &[], &ALL);
        assert_eq!(
            [0, 1, 2].map(|entity| number(&samples, COUNT, entity, "")),
            [Number::Int(0), Number::Int(0), Number::Blank]
        );
    }

    #[test]
    fn before_the_first_error_the_code_is_0_unless_it_is_not_supported() {
        let reading = |field, status, value| Reading { field, status, timestamp: 0, value };
        fn shown(reading: Reading<'_>) -> Value<'_> {
            none_so_far(reading).value
        }
        assert_eq!(shown(reading(FIELD, -14, Value::Blank)), Value::Int(0));
        assert_eq!(shown(reading(FIELD, -6, Value::Blank)), Value::Blank, "not supported");
        assert_eq!(shown(reading(FIELD, 0, Value::Blank)), Value::Blank, "as after XID 119");
        assert_eq!(shown(reading(FIELD, 0, Value::Int(31))), Value::Int(31));
        assert_eq!(shown(reading(150, -14, Value::Blank)), Value::Blank);
    }

    #[test]
    fn errors_are_counted_whatever_their_codes_and_sessions() {
        let mut node = Node::new(vec![instance(3, 0), gpu(0, Kind::WholeGpu), gpu(1, Kind::Gpu)]);
        let counted = |node: &mut Node, now, read: &[Event]| {
            let mut xid = source(node);
            node.collect(&mut xid, now, read, &[]);
            let entities = node.inventory.entities.clone();
            let keys: Vec<Option<Key>> = entities.iter().map(|entity| node.memory.key(entity)).collect();
            events(&mut node.memory, keys.into_iter().chain([None]))
        };
        assert_eq!(counted(&mut node, SECOND, &[]), [Some(0), Some(0), Some(0), None]);
        let read = [
            on(EntityGroup::Instance, 3, 2 * SECOND, 31),
            on_gpu(3 * SECOND, 79),
            on_gpu(4 * SECOND, 5),
            on_gpu(5 * SECOND, 0),
            on_gpu(-SECOND, 79),
        ];
        let expected = [Some(1), Some(2), Some(0), None];
        assert_eq!(counted(&mut node, 6 * SECOND, &read), expected, "0 is no error, and one was before the start");
        assert_eq!(counted(&mut node, 7 * SECOND, &read), expected, "they are read again");
        // A new engine numbers the GPUs anew.
        node.inventory.entities[1].id.id = 1;
        node.inventory.entities[2].id.id = 0;
        assert_eq!(counted(&mut node, 8 * SECOND, &[]), expected);
    }

    #[test]
    fn an_error_goes_to_the_job_that_had_the_gpu() {
        let mut node = Node::new(vec![gpu(0, Kind::Gpu)]);
        let entity = node.inventory.entities[0].clone();
        for (at, job) in [(10, "17"), (20, "18")] {
            node.memory.set_jobs(at * SECOND, &entity, &[job]);
        }
        let events = [on_gpu(15 * SECOND, 79), on_gpu(20 * SECOND + SECOND / 2, 79), on_gpu(30 * SECOND, 5)];
        let samples = node.collect(&mut source(&node), 31 * SECOND, &events, &ALL);
        let counted = samples.get(TOTAL).iter().filter(|sample| sample.number != Number::Int(0));
        let counted: Vec<_> = counted.map(|sample| (sample.labels[1].1.as_str(), &sample.job, sample.number)).collect();
        let job = |name: &str| Attribution::Then(Some(name.into()));
        assert_eq!(counted, [("5", &job("18"), Number::Int(1)), ("79", &job("17"), Number::Int(2))]);
    }

    #[test]
    fn a_clock_that_is_set_back_hides_no_error_and_repeats_none() {
        let mut node = Node::new(vec![gpu(0, Kind::Gpu)]);
        let hour = 3600 * SECOND;
        let counted = |samples: &Samples| {
            (number(samples, TOTAL, 0, "79"), number(samples, COUNT, 0, "79"), number(samples, LAST, 0, ""))
        };
        let before = on_gpu(20 * hour - SECOND, 79);
        let samples = node.collect(&mut source(&node), 20 * hour, &[before], &ALL);
        assert_eq!(counted(&samples).0, Number::Int(1));
        // Back by an hour: one that had not been read, one of the new time, and a new engine reads the log again.
        (node.set_back, node.engine_time) = (Some(19 * hour), Some(19 * hour + 2 * SECOND));
        let events = [
            on_gpu(20 * hour + SECOND, 79),
            on_gpu(19 * hour + SECOND, 79),
            before,
            Event { is_old: true, ..on_gpu(20 * hour - 1800 * SECOND, 79) },
        ];
        let samples = node.collect(&mut source(&node), 19 * hour + 2 * SECOND, &events, &ALL);
        let last = Number::Double((19 * hour + SECOND) as f64 / 1e6);
        assert_eq!(counted(&samples), (Number::Int(3), Number::Int(3), last));
        // The clock comes to the time at which it was set back.
        (node.set_back, node.engine_time) = (None, None);
        let events = events.map(|event| Event { is_old: false, ..event });
        let samples = node.collect(&mut source(&node), 20 * hour + 2 * SECOND, &events, &ALL);
        assert_eq!(counted(&samples), (Number::Int(3), Number::Blank, last));
    }
}
