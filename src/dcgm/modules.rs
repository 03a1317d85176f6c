//! Modules of the engine that it need not load. Each one loaded costs threads, memory and wake-ups.

use std::path::Path;

use super::abi::module::*;
use super::library::Major;

/// libdcgm 3 reads this directory when it loads its system monitoring module, and crashes where there is none.
const HWMON: &str = "/sys/class/hwmon";

/// What of an engine is used besides GPU fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Used {
    pub health: bool,
    /// Switches, NVLinks or ConnectX adapters.
    pub switches: bool,
    /// CPUs or their cores.
    pub cpus: bool,
}

/// Modules for the deny list of an embedded engine of this line.
pub fn unneeded(library: Major, used: Used) -> Vec<u32> {
    unneeded_where(library, used, sysmon_crash(library).is_some())
}

/// Why the system monitoring module must not be loaded here, so that there are no CPUs to see; `None` if it may.
pub fn sysmon_crash(library: Major) -> Option<String> {
    let crashes = library == Major::V3 && !Path::new(HWMON).exists();
    crashes.then(|| format!("libdcgm 3 would crash on this node, which has no {HWMON}; DCGM 4 does not"))
}

fn unneeded_where(library: Major, used: Used, sysmon_crashes: bool) -> Vec<u32> {
    let conditional = [
        // DCGM 3 does not know it.
        (MNDIAG, library == Major::V4),
        (HEALTH, !used.health),
        (NVSWITCH, !used.switches),
        (SYSMON, !used.cpus || sysmon_crashes),
    ];
    let conditional = conditional.into_iter().filter(|(_, unneeded)| *unneeded).map(|(module, _)| module);
    [VGPU, INTROSPECT, POLICY, CONFIG, DIAG].into_iter().chain(conditional).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Used = Used { health: true, switches: true, cpus: true };

    #[test]
    fn what_is_used_is_loaded() {
        assert_eq!(
            unneeded_where(Major::V4, Used::default(), false),
            [VGPU, INTROSPECT, POLICY, CONFIG, DIAG, MNDIAG, HEALTH, NVSWITCH, SYSMON]
        );
        assert_eq!(unneeded_where(Major::V4, ALL, false), [VGPU, INTROSPECT, POLICY, CONFIG, DIAG, MNDIAG]);
        assert_eq!(unneeded_where(Major::V3, ALL, false), [VGPU, INTROSPECT, POLICY, CONFIG, DIAG]);
    }

    #[test]
    fn a_module_that_crashes_is_never_loaded() {
        assert!(unneeded_where(Major::V3, ALL, true).contains(&SYSMON));
        assert_eq!(sysmon_crash(Major::V4), None);
    }
}
