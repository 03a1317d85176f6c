//! Which field may be asked of which kind of entity.
//!
//! DCGM takes most pairs and has no sample for the wrong ones. Two kinds of pair do harm. With NVSDM (the switch library
//! of Blackwell systems) the first field that fails ends a round for all switches, links and ConnectX adapters, and
//! drops everything else that was due. And the per-link profiling fields fail a whole watch with -33 if it has anything
//! in it but links of GPUs. So a field is asked only of what can have it.
//!
//! DCGM's own table of fields gives a level, which is right but for level "link": it does not tell links of GPUs, which
//! the driver answers, from links of switches, which the switch module answers. [`LINK_FIELDS`] does.

use std::ops::RangeInclusive;

/// Kinds of entity, as far as they answer different fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// GPUs, their instances and compute instances: each answers with its GPU's value where it has none of its own.
    Gpu,
    Switch,
    GpuLink,
    SwitchLink,
    Cpu,
    Core,
    ConnectX,
}

use Target::*;

/// Fields of level "link", and what of them can be asked for. First match wins.
static LINK_FIELDS: &[(RangeInclusive<u16>, &[Target])] = &[
    // Port registers of a GPU's links.
    (580..=592, &[GpuLink]),
    // Throughput, replay and recovery errors: a switch has sums of its own.
    (780..=781, &[SwitchLink, Switch]),
    (784..=785, &[SwitchLink, Switch]),
    // Link status.
    (870..=870, &[SwitchLink, Switch]),
    // The UUID of the switch.
    (878..=878, &[SwitchLink, Switch]),
    // The rest of the switch module's range. Switches (and ConnectX adapters) answer some of them with a 0 that means
    // nothing: a link's number, the PCI address of what is at its other end.
    (700..=999, &[SwitchLink]),
    // State, errors and throughput per link, from NVML; per-link profiling.
    (1508..=1509, &[GpuLink]),
    (1525..=1533, &[GpuLink]),
];

/// Fields of level "link" that a later release adds: the switch module's range is taken, so they are the driver's.
static NEW_LINK_FIELDS: &[Target] = &[GpuLink];

/// What a field may be asked of. `level` is the library's word: an entity group number, 0 for a field of the system.
pub fn targets(field: u16, level: i32) -> &'static [Target] {
    match level {
        // Of the system: any entity answers with the same value, so links and cores would only repeat it.
        0 => &[Gpu],
        // 2 is a virtual GPU, 4 an instance, 5 a compute instance.
        1 | 2 | 4 | 5 => &[Gpu],
        3 => &[Switch],
        6 => LINK_FIELDS.iter().find(|(ids, _)| ids.contains(&field)).map_or(NEW_LINK_FIELDS, |(_, targets)| targets),
        7 => &[Cpu],
        8 => &[Cpu, Core],
        9 => &[ConnectX],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How libdcgm 4.6.0 answers each field of each kind of entity when it is watched alone, for ranges of fields that
    /// answer alike: `value`, `blank` (sampled, but without a value), `none` (no sample), `refused` (-33 for the watch),
    /// `-` (not tried). Switches and ConnectX adapters are NVSDM's mock, NVML is simulated without port registers.
    static ANSWERS: &str = include_str!("answers.csv");

    fn level(name: &str) -> i32 {
        match name {
            "global" => 0,
            "gpu" => 1,
            "vgpu" => 2,
            "nvswitch" => 3,
            "gpu_instance" => 4,
            "compute_instance" => 5,
            "link" => 6,
            "cpu" => 7,
            "cpu_core" => 8,
            "connectx" => 9,
            other => panic!("{other}"),
        }
    }

    /// Pairs that are asked although the mock had no sample, or not asked although there was an answer.
    fn exception(field: u16, target: Target) -> bool {
        match (field, target) {
            // Port registers, which NVML's simulation does not have.
            (581..=592, GpuLink) => true,
            // Switch fields that NVSDM's mock lacks, and NSCQ has.
            (782..=783 | 786..=824, SwitchLink) => true,
            // A 0 that means nothing: facts about one link.
            (865 | 871..=877, Switch) | (865 | 870..=877, ConnectX) => true,
            // Taken, and always "not supported".
            (1525..=1531, SwitchLink) => true,
            // GPU-wide counters, taken of a link and always "not supported".
            (1200..=1219 | 1404..=1419, GpuLink) => true,
            // Results of diagnostics, which have a sample only after a run; and the bind event.
            (6 | 350..=363, _) => true,
            // Utilisation needs two samples.
            (1100..=1104, Cpu | Core) => true,
            // Tables of all GPUs, which DCGM gives whoever it is asked of.
            (60..=62 | 91, GpuLink | Cpu | Core) => true,
            // GPU fields without a sample in the simulation, and XIDs before the first.
            (205 | 230 | 450 | 520..=534, Gpu) => true,
            // Fields of a CPU that a core answers with the CPU's value.
            (1110..=1112 | 1130..=1141, Core) => true,
            (1110 | 1133 | 1141, Cpu) => true,
            _ => false,
        }
    }

    #[test]
    fn what_is_asked_is_what_the_library_answers() {
        let mut lines = ANSWERS.lines();
        assert_eq!(lines.next(), Some("first,last,level,gpu,switch,gpu_link,switch_link,cpu,core,connectx"));
        let mut pairs = 0;
        for line in lines {
            let columns: Vec<&str> = line.split(',').collect();
            let (first, last): (u16, u16) = (columns[0].parse().unwrap(), columns[1].parse().unwrap());
            for field in first..=last {
                let asked = targets(field, level(columns[2]));
                for (target, answer) in
                    [Gpu, Switch, GpuLink, SwitchLink, Cpu, Core, ConnectX].into_iter().zip(&columns[3..])
                {
                    let is_asked = asked.contains(&target);
                    assert!(!is_asked || *answer != "refused", "{field} of {target:?} fails the watch");
                    let answers = match *answer {
                        "value" | "blank" => true,
                        "none" | "refused" => false,
                        _ => continue,
                    };
                    pairs += 1;
                    let repeats = columns[2] == "global" && target != Gpu;
                    if !exception(field, target) && !repeats {
                        assert_eq!(is_asked, answers, "{field} of {target:?} is answered with {answer}");
                    }
                }
            }
        }
        assert!(pairs > 2800, "only {pairs} pairs");
    }

    #[test]
    fn every_link_field_has_one_kind_of_link() {
        for field in 1..2000 {
            let targets = targets(field, 6);
            assert!(targets.contains(&GpuLink) != targets.contains(&SwitchLink), "{field}: {targets:?}");
        }
    }
}
