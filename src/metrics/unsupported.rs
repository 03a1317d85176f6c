//! Fields that are not worth asking for, because what is asked answers "not supported" each time.
//!
//! After [`LIMIT`] such answers in a row a field is left out. Once per [`AGAIN`] one entity is asked for it: a driver
//! change, or MIG sliced in another way, can bring it.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Answers in a row.
const LIMIT: u32 = 3;
const AGAIN: Duration = Duration::from_secs(600);

/// By scope, which is what is asked together and has a field or lacks it as a whole.
pub struct Unsupported<S>(HashMap<(S, u16), Refusals>);

struct Refusals {
    in_a_row: u32,
    last: Instant,
}

/// Of which entities of a scope a field is to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    All,
    /// Of any one, to see whether it has the field by now.
    One,
    None,
}

impl<S> Default for Unsupported<S> {
    fn default() -> Unsupported<S> {
        Unsupported(HashMap::new())
    }
}

impl<S: Copy + Eq + Hash> Unsupported<S> {
    pub fn ask(&self, scope: S, field: u16, now: Instant) -> Ask {
        match self.0.get(&(scope, field)) {
            Some(refusals) if refusals.in_a_row < LIMIT => Ask::All,
            Some(refusals) if now.duration_since(refusals.last) < AGAIN => Ask::None,
            Some(_) => Ask::One,
            None => Ask::All,
        }
    }

    /// Takes in an answer: whether all entities that were asked refused. Says whether the field is left out because of it.
    pub fn note(&mut self, scope: S, field: u16, is_refused: bool, now: Instant) -> bool {
        if !is_refused {
            self.0.remove(&(scope, field));
            return false;
        }
        let refusals = self.0.entry((scope, field)).or_insert(Refusals { in_a_row: 0, last: now });
        *refusals = Refusals { in_a_row: refusals.in_a_row.saturating_add(1), last: now };
        refusals.in_a_row == LIMIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_refusals_in_a_row_leave_a_field_out_for_ten_minutes() {
        let (start, mut fields) = (Instant::now(), Unsupported::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        // Seconds since the start, whether the answer is a refusal; whether that leaves it out, and what is asked then.
        for (second, is_refused, is_left_out, then) in [
            (0, true, false, Ask::All),
            (1, true, false, Ask::All),
            (2, false, false, Ask::All),
            (3, true, false, Ask::All),
            (4, true, false, Ask::All),
            (5, true, true, Ask::None),
            // What was asked of one entity.
            (605, true, false, Ask::None),
            (1205, false, false, Ask::All),
        ] {
            assert_eq!(fields.note(7, 581, is_refused, at(second)), is_left_out, "{second}");
            assert_eq!(fields.ask(7, 581, at(second)), then, "{second}");
            assert_eq!(fields.ask(8, 581, at(second)), Ask::All, "another scope");
        }
        (0..3).for_each(|second| _ = fields.note(7, 581, true, at(2000 + second)));
        assert_eq!((fields.ask(7, 581, at(2601)), fields.ask(7, 581, at(2602))), (Ask::None, Ask::One));
    }
}
