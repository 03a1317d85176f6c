//! `DCGM_EXP_GPU_HEALTH_STATUS`: what DCGM's health watches say of each GPU and system.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::dcgm::health::Health;
use crate::dcgm::watch::Group;
use crate::dcgm::{EntityGroup, EntityId, Release, Result};
use crate::metrics::number::Number;
use crate::metrics::sample::{Sample, Samples};
use crate::metrics::source::{Context, Setup, Source};

pub const STATUS: &str = "DCGM_EXP_GPU_HEALTH_STATUS";

/// `dcgmHealthSystems_t`, as labels, in the order of the page. The last is for incidents of the whole GPU.
const SYSTEMS: [(u32, &str); 11] = [
    (0x1, "PCIE"),
    (0x2, "NVLINK"),
    (0x4, "PMU"),
    (0x8, "MCU"),
    (0x10, "MEM"),
    (0x20, "SM"),
    (0x40, "INFOROM"),
    (0x80, "THERMAL"),
    (0x100, "POWER"),
    (0x200, "DRIVER"),
    (u32::MAX, "ALL"),
];

/// `code label severity category`, one per line, and the release that has it where not all do: `dcgmError_t` as
/// dcgm-exporter spells it. Severities and categories are libdcgm 4's; those of codes from 118 on are not known here.
static CODES: &str = include_str!("health-codes.txt");

/// The health systems are watched and asked at this interval, or at that of the collections if it is longer. A check
/// takes 1.5 to 5 ms and answers with a megabyte; what it looks at (error counters, temperatures, NVML's own states) is
/// for people and schedulers, whom five seconds do not delay.
const SHORTEST: Duration = Duration::from_secs(5);
/// How far back DCGM's judgements look.
const KEEP: Duration = Duration::from_secs(600);

/// Health watches of all GPUs that are reported, whole or by their instances.
pub struct HealthChecks {
    health: Health,
    group: Rc<Group>,
    interval: Duration,
    checked: Option<Instant>,
    /// The worst incident by GPU and system of the last check: (health, code).
    worst: HashMap<(u32, u32), (i32, i32)>,
    release: Release,
    has_error_labels: bool,
}

/// `None` without GPUs.
pub fn new(setup: &mut Setup<'_>) -> Result<Option<Box<dyn Source>>> {
    let reported = setup.inventory.reported_gpus();
    if reported.is_empty() || !setup.wants(&[STATUS]) {
        return Ok(None);
    }
    let gpus: Vec<EntityId> = reported.into_iter().map(|(_, gpu)| EntityId::new(EntityGroup::Gpu, gpu)).collect();
    let group = Rc::new(Group::new(setup.session, &gpus, |entity, error| {
        log::warn!("DCGM's health checks are not available for GPU {}: {error}", entity.id);
    })?);
    let interval = setup.interval.max(SHORTEST);
    Ok(Some(Box::new(HealthChecks {
        health: Health::new(&group, interval, KEEP)?,
        group,
        interval,
        checked: None,
        worst: HashMap::new(),
        release: setup.session.library().release(),
        has_error_labels: setup.extras.error_labels,
    })))
}

impl HealthChecks {
    fn check(&mut self) -> Result<()> {
        // A collection that comes a little early still checks.
        if self.checked.is_some_and(|checked| checked.elapsed() < self.interval.mul_f64(0.9)) {
            return Ok(());
        }
        let worst = &mut self.worst;
        worst.clear();
        self.checked = None;
        self.health.check(&mut |incident| {
            if incident.entity.group == EntityGroup::Gpu {
                let known = worst.entry((incident.entity.id, incident.system)).or_insert((0, 0));
                if incident.health > known.0 {
                    *known = (incident.health, incident.code);
                }
            }
        })?;
        self.checked = Some(Instant::now());
        Ok(())
    }
}

impl Source for HealthChecks {
    fn name(&self) -> &'static str {
        "health"
    }

    fn set_interval(&mut self, interval: Duration) -> Result<()> {
        let interval = interval.max(SHORTEST);
        if interval != self.interval {
            self.health = Health::new(&self.group, interval, KEEP)?;
            self.interval = interval;
        }
        Ok(())
    }

    /// Adds eleven samples per GPU: 0 pass, 10 warn, 20 fail.
    fn collect(&mut self, context: &mut Context<'_>, samples: &mut Samples) -> Result<()> {
        self.check()?;
        let Some(list) = samples.list(STATUS) else { return Ok(()) };
        for (entity, gpu) in context.inventory.reported_gpus() {
            for (system, name) in SYSTEMS {
                let (health, code) = self.worst.get(&(gpu, system)).copied().unwrap_or((0, 0));
                let labels = labels(code, name, self.release, self.has_error_labels);
                list.push(Sample::new(entity, labels, Number::Int(i64::from(health))));
            }
        }
        Ok(())
    }
}

/// What is known of a code.
struct Code {
    name: String,
    severity: &'static str,
    category: &'static str,
}

impl Code {
    /// A code in a release of libdcgm: newer ones give new codes to numbers that meant nothing before.
    fn of(code: i32, release_here: Release) -> Code {
        let number = code.to_string();
        let known = CODES.lines().find_map(|line| {
            let mut words = line.split(' ');
            let is_it = words.next() == Some(number.as_str());
            let mut word = || words.next().filter(|_| is_it);
            let (name, severity, category) = (word()?.to_owned(), word()?, word()?);
            let is_here = words.next().is_none_or(|since| Release::parse(since) <= Some(release_here));
            is_here.then_some(Code { name, severity, category })
        });
        let name = || format!("DCGM_FR_UNKNOWN({code})");
        known.unwrap_or_else(|| Code { name: name(), severity: "UNKNOWN", category: "UNKNOWN" })
    }
}

/// The labels of a sample, by name.
fn labels(code: i32, watch: &str, release: Release, with_error: bool) -> Vec<(&'static str, String)> {
    let Code { name, severity, category } = Code::of(code, release);
    let (name, watch) = (("health_error_code", name), ("health_watch", watch.to_owned()));
    match with_error {
        false => vec![name, watch],
        true => vec![
            ("health_error_category", category.to_owned()),
            name,
            ("health_error_severity", severity.to_owned()),
            watch,
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_names_by_release() {
        let name = |code, version| Code::of(code, Release::parse(version).unwrap()).name;
        assert_eq!(name(0, "3.3.9"), "DCGM_FR_OK");
        assert_eq!(name(-1, "4.6.0"), "DCGM_FR_UNKNOWN(-1)");
        assert_eq!(name(130, "4.5.3"), "DCGM_FR_RETEST_REQUESTED");
        assert_eq!(name(131, "4.5.3"), "DCGM_FR_UNKNOWN(131)");
        assert_eq!(name(131, "4.6.0"), "DCGM_FR_CONTAINED_ERROR");
        assert_eq!(name(132, "4.10.1"), "DCGM_FR_UNCORRECTABLE_ROW_REMAP_LIMIT");
        assert_eq!(name(133, "4.6.0"), "DCGM_FR_UNKNOWN(133)");
        assert!(CODES.lines().enumerate().all(|(index, line)| line.starts_with(&format!("{index} DCGM_FR_"))));
    }
    #[test]
    fn severity_and_category_are_there_on_demand() {
        let of = |code| labels(code, "MEM", Release::new(4, 6, 0), true);
        let names: Vec<&str> = of(0).iter().map(|(name, _)| *name).collect();
        let sorted = ["health_error_category", "health_error_code", "health_error_severity", "health_watch"];
        assert_eq!(names, sorted);
        let of = |code| (of(code)[0].1.clone(), of(code)[2].1.clone());
        for (code, category, severity) in [
            (0, "NONE", "NONE"),
            (1, "NONE", "UNKNOWN"),
            (4, "HARDWARE_MEMORY", "ISOLATE"),
            (12, "HARDWARE_POWER", "MONITOR"),
            (85, "HARDWARE_MEMORY", "RESET"),
            (101, "SOFTWARE_XID", "TRIAGE"),
            (117, "SOFTWARE_CONFIG", "CONFIG"),
            (120, "UNKNOWN", "UNKNOWN"),
            (-1, "UNKNOWN", "UNKNOWN"),
            (133, "UNKNOWN", "UNKNOWN"),
        ] {
            assert_eq!(of(code), (category.to_owned(), severity.to_owned()), "{code}");
        }
        assert_eq!(labels(0, "MEM", Release::new(4, 6, 0), false).len(), 2);
        const SEVERITIES: [&str; 7] = ["NONE", "MONITOR", "ISOLATE", "UNKNOWN", "TRIAGE", "CONFIG", "RESET"];
        assert!(CODES.lines().all(|line| SEVERITIES.contains(&line.split(' ').nth(2).unwrap())));
    }
}
