//! Which libdcgm call the watcher is in, and since when.
//!
//! A driver that hangs blocks the call that met it, without a time-out. The serving side and the exit path cannot
//! end that call, but they can name it: this is the one note they may read while the watcher is stuck.

use std::sync::Mutex;
use std::time::Instant;

/// Uncontended but for the reader after a hang: the watcher is the only writer.
static IN_FLIGHT: Mutex<Option<(&'static str, Instant)>> = Mutex::new(None);

/// Marks a call as running until dropped.
pub struct Guard(());

pub fn enter(call: &'static str) -> Guard {
    set(Some((call, Instant::now())));
    Guard(())
}

impl Drop for Guard {
    fn drop(&mut self) {
        set(None);
    }
}

/// The C function that has not returned yet, and when it was called.
pub fn current() -> Option<(&'static str, Instant)> {
    *IN_FLIGHT.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn set(value: Option<(&'static str, Instant)>) {
    *IN_FLIGHT.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = value;
}
