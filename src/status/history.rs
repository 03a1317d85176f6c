//! The last 15 minutes of one GPU, in memory that does not grow: 2.9 KB.

/// Time of one slot, in seconds.
pub const SLOT: u64 = 5;
/// Slots of 15 minutes.
pub const SLOTS: usize = 180;
/// Points of a small graph: as many slots share one.
const SLOTS_OF_POINT: usize = 3;
pub const POINTS: usize = SLOTS / SLOTS_OF_POINT;

/// What is remembered, in the order of a slot's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    Utilisation,
    Memory,
    Power,
    Temperature,
}
const CURVES: usize = 4;

#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// Number of the newest slot.
    newest: u64,
    /// A ring: slot `n` is at `n % SLOTS`. NaN where nothing is known. Empty before the first value.
    slots: Vec<[f32; CURVES]>,
}

impl History {
    /// Notes values at a time in seconds after any fixed moment; the last ones of a slot count.
    pub fn note(&mut self, seconds: u64, values: [f32; CURVES]) {
        let slot = seconds / SLOT;
        if self.slots.is_empty() {
            (self.slots, self.newest) = (vec![[f32::NAN; CURVES]; SLOTS], slot);
        }
        for passed in (self.newest + 1..=slot).rev().take(SLOTS) {
            self.slots[passed as usize % SLOTS] = [f32::NAN; CURVES];
        }
        self.newest = self.newest.max(slot);
        self.slots[slot as usize % SLOTS] = values;
    }

    /// The points of a curve, the oldest first: their place from 0 to [`POINTS`], and the value.
    pub fn points(&self, curve: Curve) -> Vec<(usize, f32)> {
        if self.slots.is_empty() {
            return Vec::new();
        }
        // Points are counted from a fixed moment, so that a graph moves and does not change its shape.
        let newest = self.newest as usize / SLOTS_OF_POINT;
        let mut points = Vec::new();
        for place in 0..POINTS {
            let Some(point) = (newest + place + 1).checked_sub(POINTS) else { continue };
            let first = point * SLOTS_OF_POINT;
            let slots = (first..first + SLOTS_OF_POINT)
                .filter(|slot| *slot as u64 <= self.newest && *slot as u64 + SLOTS as u64 > self.newest);
            let values = slots.map(|slot| self.slots[slot % SLOTS][curve as usize]).filter(|value| !value.is_nan());
            let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
            if count > 0 {
                points.push((place, sum / count as f32));
            }
        }
        points
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_fifteen_minutes_and_no_more() {
        let mut history = History::default();
        assert!(history.points(Curve::Power).is_empty());
        for second in 0..10_000u64 {
            history.note(second, [second as f32, 0.0, f32::NAN, 40.0]);
        }
        assert_eq!(history.slots.len(), SLOTS);
        assert!(size_of_val(history.slots.as_slice()) <= 64 * 1024);
        let points = history.points(Curve::Utilisation);
        assert_eq!((points.len(), points[0].0, points[POINTS - 1].0), (POINTS, 0, POINTS - 1));
        assert!(points[0].1 >= 10_000.0 - 915.0, "{points:?}");
        assert!(points.windows(2).all(|pair| pair[0].1 < pair[1].1));
        assert!(history.points(Curve::Power).is_empty(), "nothing was known of it");
    }

    #[test]
    fn a_gap_is_a_gap() {
        let mut history = History::default();
        history.note(1000, [1.0; CURVES]);
        history.note(1300, [2.0; CURVES]);
        let points = history.points(Curve::Memory);
        assert_eq!(points.iter().map(|point| point.1).collect::<Vec<_>>(), [1.0, 2.0]);
        assert_eq!((points[1].0 - points[0].0, points[1].0), (20, POINTS - 1));
        history.note(100_000, [3.0; CURVES]);
        assert_eq!(history.points(Curve::Memory), [(POINTS - 1, 3.0)]);
        // A step back in time changes nothing else.
        history.note(99_999, [4.0; CURVES]);
        assert_eq!(history.points(Curve::Memory).len(), 1);
    }
}
