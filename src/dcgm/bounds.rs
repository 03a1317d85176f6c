//! Values that cannot be. A driver in trouble may answer a utilization of 4,294,967,295 percent; such a value is blank to
//! everybody further in, and is counted by field.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex};

use super::fields;

/// Lowest and highest value by the end of a field's name in a base unit; the first row that fits holds. The classic field
/// behind a base-unit field has the same bounds in its own unit.
const BOUNDS: [(&str, f64, f64); 6] = [
    ("_CELSIUS", -50.0, 200.0),
    // Not certainly watts: the header calls them so, and older ones do not tell.
    ("VDD_WATTS", f64::NEG_INFINITY, f64::INFINITY),
    ("_WATTS", 0.0, 5_000.0),
    ("_HERTZ", 0.0, 1e10),
    // NVML: may exceed 100 % of the product's maximum noise tolerance.
    ("FAN_SPEED_RATIO", -ROUNDING, 3.0),
    ("_RATIO", -ROUNDING, 1.0 + ROUNDING),
];

/// Shares are quotients of counters that are not read at the same moment. Less than half a percent, so that whole percents
/// are bounded exactly.
const ROUNDING: f64 = 0.004;

/// By field id, so that a reading costs a look-up and two comparisons. Single precision: it is kept for ever.
static BY_FIELD: LazyLock<Vec<(f32, f32)>> = LazyLock::new(|| {
    let most = fields::all().map(|listed| listed.field.id).max().unwrap_or_default();
    let mut by_field = vec![(f32::NEG_INFINITY, f32::INFINITY); usize::from(most) + 1];
    let mut set = |id: u16, (low, high): (f64, f64)| by_field[usize::from(id)] = (low as f32, high as f32);
    for field in fields::all().map(|listed| listed.field) {
        let Some((_, low, high)) = BOUNDS.into_iter().find(|(end, ..)| field.name.ends_with(end)) else { continue };
        set(field.id, (low, high));
        if let Some(classic) = field.classic {
            set(classic.id, (low / classic.factor, high / classic.factor));
        }
    }
    by_field
});

/// Impossible values so far, by field.
static COUNTS: Mutex<BTreeMap<u16, u64>> = Mutex::new(BTreeMap::new());

/// Impossible values are left in.
static ALL_IN: AtomicBool = AtomicBool::new(false);

/// Leaves impossible values in, for a page that is to be NVIDIA's to the byte.
pub fn leave_all_in(all_in: bool) {
    ALL_IN.store(all_in, Relaxed);
}

/// Whether a field can have this value.
pub fn can_be(field: u16, number: f64) -> bool {
    match BY_FIELD.get(usize::from(field)) {
        Some(&(low, high)) => (f64::from(low)..=f64::from(high)).contains(&number),
        None => true,
    }
}

/// Whether a value is to be taken in. An impossible one is counted, and the first of a field is logged.
pub(super) fn holds(field: u16, number: f64) -> bool {
    can_be(field, number) || note(field, number)
}

#[cold]
fn note(field: u16, number: f64) -> bool {
    if ALL_IN.load(Relaxed) {
        return true;
    }
    let mut counts = COUNTS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let count = counts.entry(field).or_default();
    *count += 1;
    if *count == 1 {
        log::warn!(
            "DCGM answers {number} for {}, which cannot be; such values are left out and counted in \
             dcgm_exporter_values_out_of_range_total",
            fields::name_of(field)
        );
    }
    false
}

/// How many impossible values each field has had.
pub fn out_of_range() -> Vec<(&'static str, u64)> {
    let counts = COUNTS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    counts.iter().map(|(field, count)| (fields::name_of(*field), *count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_and_what_cannot() {
        for (name, can, cannot) in [
            ("DCGM_FI_DEV_GPU_UTIL", &[0.0, 100.0][..], &[-1.0, 101.0, 4_294_967_295.0][..]),
            ("DCGM_FI_DEV_GPU_UTIL_RATIO", &[0.0, 1.0], &[1.01]),
            ("DCGM_FI_DEV_FAN_SPEED", &[0.0, 110.0], &[-1.0, 65_535.0]),
            ("DCGM_FI_PROF_SM_ACTIVE", &[0.0, 1.003], &[-0.1, 1.1, f64::NAN, f64::INFINITY]),
            ("DCGM_FI_DEV_FB_USED_PERCENT", &[0.5], &[50.0]),
            ("DCGM_FI_DEV_POWER_USAGE", &[0.0, 1_200.0], &[-1.0, 5_001.0]),
            ("DCGM_FI_DEV_ENFORCED_POWER_LIMIT", &[700.0], &[4_294_967.295]),
            ("DCGM_FI_DEV_GPU_TEMP", &[-40.0, 120.0], &[-51.0, 255.0]),
            ("DCGM_FI_DEV_GPU_TEMP_LIMIT", &[-5.0, 51.0], &[255.0]),
            ("DCGM_FI_DEV_SM_CLOCK", &[0.0, 1_980.0], &[-1.0, 10_001.0]),
            ("DCGM_FI_DEV_SM_CLOCK_HERTZ", &[1.98e9], &[1.1e10]),
            ("DCGM_FI_DEV_NVSWITCH_POWER_VDD", &[0.0, 90_000.0], &[]),
            ("DCGM_FI_DEV_FB_USED", &[0.0, 1e9], &[]),
            ("DCGM_FI_DEV_XID_ERRORS", &[79.0, 1e9], &[]),
            ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", &[1e15], &[]),
        ] {
            let id = fields::by_name(name).unwrap().id;
            assert!(can.iter().all(|number| holds(id, *number)), "{name}: {can:?}");
            assert!(cannot.iter().all(|number| !holds(id, *number)), "{name}: {cannot:?}");
        }
        let counted = out_of_range().into_iter().find(|(name, _)| *name == "DCGM_FI_DEV_GPU_UTIL");
        assert!(counted.is_some_and(|(_, count)| count >= 3));
    }
}
