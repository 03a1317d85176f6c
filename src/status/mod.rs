//! The page for people at `/`: what is known of the node, as plain data, and the same as HTML, as a table for a terminal
//! and as JSON.
//!
//! - [`model`]: the plain data, which the watcher makes at a collection, while somebody asks for the page.
//! - [`history`]: the last 15 minutes of a GPU, for the small graphs.
//! - [`advice`]: what to do about a problem.
//! - [`html`], [`text`], [`json`]: the three forms. They are made on the server's side, at most once per collection.
//!
//! Who asks first waits for the watcher's next look, a second at most: nothing is kept for a page that nobody wants.

pub mod advice;
pub mod history;
pub mod html;
pub mod json;
pub mod model;
pub mod text;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use model::Snapshot;

/// How long a request is remembered: the data is kept that long.
const MEMORY: Duration = Duration::from_secs(600);
/// How long a first request waits for the watcher. It looks once per second; in a call that hangs it does not look.
const PATIENCE: Duration = Duration::from_millis(2500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Html,
    Text,
    Json,
}

impl Form {
    pub const ALL: [Form; 3] = [Form::Html, Form::Text, Form::Json];

    pub fn content_type(self) -> &'static str {
        match self {
            Form::Html => "text/html; charset=utf-8",
            Form::Text => "text/plain; charset=utf-8",
            Form::Json => "application/json",
        }
    }
}

/// What the exporter says of itself at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub is_well: bool,
    pub text: String,
}

/// A form of the page.
#[derive(Debug)]
pub struct Rendered {
    form: Form,
    /// All but its beginning, which has the age of the data.
    rest: Vec<u8>,
    taken: Option<Instant>,
}

impl Rendered {
    /// How the document begins. It is made for each answer, so that the age is right in a page that was made before.
    pub fn beginning(&self) -> String {
        let age = self.taken.map(|taken| taken.elapsed());
        match self.form {
            Form::Html => html::beginning(age),
            Form::Text => text::beginning(age),
            Form::Json => json::beginning(age),
        }
    }

    pub fn rest(&self) -> &[u8] {
        &self.rest
    }
}

/// The page and who asks for it. One writer (the watcher), any number of readers.
pub struct StatusPage {
    started: Instant,
    /// Milliseconds from the start to the last request, plus 1; 0 for none.
    asked: AtomicU64,
    /// The same of the first request that found no data.
    waiting: AtomicU64,
    snapshot: ArcSwapOption<Snapshot>,
    /// By form: what it was made from, and the outcome.
    made: Mutex<[Option<Made>; 3]>,
}

struct Made {
    snapshot: Option<Arc<Snapshot>>,
    said: Said,
    rendered: Arc<Rendered>,
}

impl Default for StatusPage {
    fn default() -> StatusPage {
        StatusPage {
            started: Instant::now(),
            asked: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            snapshot: ArcSwapOption::empty(),
            made: Mutex::default(),
        }
    }
}

impl StatusPage {
    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64 + 1
    }

    /// Whether somebody has asked in the last minutes.
    pub fn is_wanted(&self) -> bool {
        let asked = self.asked.load(Ordering::Relaxed);
        asked != 0 && self.now() <= asked + MEMORY.as_millis() as u64
    }

    /// Whether somebody waits for the first data.
    pub fn is_waited_for(&self) -> bool {
        self.is_wanted() && self.snapshot.load().is_none()
    }

    /// Takes new data.
    pub fn publish(&self, snapshot: Snapshot) {
        self.snapshot.store(Some(Arc::new(snapshot)));
    }

    /// Frees everything that was kept for the page.
    pub fn release(&self) {
        if self.snapshot.load().is_some() {
            self.snapshot.store(None);
            *self.made.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Default::default();
        }
    }

    /// Makes a form of the page, unless that has been done, and remembers that it is wanted. `false` while there is no data
    /// yet: ask again in a moment. Takes 0.1 ms per ten GPUs, so it is not for the poll loop.
    pub fn make(&self, form: Form, said: Said) -> bool {
        let now = self.now();
        let before = self.asked.swap(now, Ordering::Relaxed);
        let snapshot = self.snapshot.load_full();
        if snapshot.is_some() {
            self.waiting.store(0, Ordering::Relaxed);
        } else {
            let patience = PATIENCE.as_millis() as u64;
            let waiting = match self.waiting.load(Ordering::Relaxed) {
                // Nobody has asked for a while: what they waited for says nothing of now.
                since if since == 0 || now > before + 4 * patience => now,
                since => since,
            };
            self.waiting.store(waiting, Ordering::Relaxed);
            if now < waiting + patience {
                return false;
            }
        }
        let mut made = self.made.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let slot = &mut made[form as usize];
        let is_same = |made: &Made| {
            made.said == said
                && match (&made.snapshot, &snapshot) {
                    (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                    (None, None) => true,
                    _ => false,
                }
        };
        if slot.as_ref().is_some_and(is_same) {
            return true;
        }
        let rest = match form {
            Form::Html => html::render(snapshot.as_deref(), &said),
            Form::Text => text::render(snapshot.as_deref(), &said),
            Form::Json => json::render(snapshot.as_deref(), &said),
        };
        let taken = snapshot.as_ref().and_then(|snapshot| snapshot.taken);
        let rendered = Arc::new(Rendered { form, rest: rest.into_bytes(), taken });
        *slot = Some(Made { snapshot, said, rendered });
        true
    }

    /// What was made last.
    pub fn rendered(&self, form: Form) -> Option<Arc<Rendered>> {
        let made = self.made.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        made[form as usize].as_ref().map(|made| made.rendered.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said() -> Said {
        Said { is_well: true, text: "running".to_owned() }
    }

    #[test]
    fn it_is_made_once_per_collection_and_released_when_nobody_asks() {
        let mut page = StatusPage::default();
        page.started -= MEMORY * 3;
        assert!(!page.is_wanted() && !page.is_waited_for());
        assert!(!page.make(Form::Html, said()) && page.is_waited_for());
        assert!(!page.make(Form::Html, said()), "the watcher has a moment");
        page.publish(Snapshot::default());
        assert!(page.make(Form::Html, said()) && !page.is_waited_for());
        let first = page.rendered(Form::Html).unwrap();
        assert!(page.make(Form::Html, said()) && Arc::ptr_eq(&first, &page.rendered(Form::Html).unwrap()));
        assert!(page.make(Form::Html, Said { is_well: false, ..said() }));
        let second = page.rendered(Form::Html).unwrap();
        assert!(!Arc::ptr_eq(&first, &second), "its state has changed");
        page.publish(Snapshot::default());
        assert!(page.make(Form::Html, Said { is_well: false, ..said() }));
        assert!(!Arc::ptr_eq(&second, &page.rendered(Form::Html).unwrap()), "there was a collection");
        assert!(page.rendered(Form::Json).is_none(), "nobody asked for that form");
        page.asked.store(1, Ordering::Relaxed);
        assert!(!page.is_wanted());
        page.release();
        assert!(page.rendered(Form::Html).is_none() && !page.is_waited_for());
    }

    #[test]
    fn a_watcher_that_hangs_does_not_keep_the_page_back() {
        let mut page = StatusPage::default();
        assert!(!page.make(Form::Text, said()));
        page.started -= PATIENCE;
        assert!(page.make(Form::Text, said()));
        assert!(String::from_utf8_lossy(page.rendered(Form::Text).unwrap().rest()).contains("running"));
    }
}
