//! The published page: bytes that are served as they are, and the board on which the newest one hangs.
//!
//! One writer (the watcher), any number of readers (the server's workers). Readers take what hangs there; nothing on
//! their side waits, allocates or formats. How a page was made is not known here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A whole HTTP response with the metrics.
#[derive(Debug, Default)]
pub struct Page {
    response: Vec<u8>,
    body_at: usize,
    taken: Option<Instant>,
}

impl Page {
    /// Head and body in one piece, for one write.
    pub fn response(&self) -> &[u8] {
        &self.response
    }

    /// The head alone, as HEAD wants it.
    pub fn head(&self) -> &[u8] {
        &self.response[..self.body_at]
    }

    pub fn body(&self) -> &[u8] {
        &self.response[self.body_at..]
    }

    /// How old the samples are; a page without samples that is meant to stand does not age.
    pub fn age(&self) -> Duration {
        self.taken.map_or(Duration::ZERO, |taken| taken.elapsed())
    }

    fn fill(&mut self, body: &str, taken: Option<Instant>) {
        use std::io::Write;
        self.response.clear();
        let head = write!(
            self.response,
            "HTTP/1.1 200 OK\r\nContent-Type: {CONTENT_TYPE}\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        debug_assert!(head.is_ok(), "a Vec takes everything");
        self.body_at = self.response.len();
        self.response.extend_from_slice(body.as_bytes());
        self.taken = taken;
    }
}

/// What there is to say to somebody who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// No page yet.
    Starting(String),
    /// There is a page. Whether all is well is for the watcher's state to say.
    Present { state: String, is_well: bool },
    /// The newest page is this old, for this reason.
    Stale { age: Duration, why: String },
}

/// What the watcher last said of itself.
#[derive(Debug, Default)]
struct Word {
    state: String,
    is_well: bool,
}

/// Where the newest page hangs.
pub struct Board {
    page: ArcSwapOption<Page>,
    word: ArcSwap<Word>,
    stale_after: Duration,
    /// Somebody has been told that the page is stale.
    said_stale: AtomicBool,
    scrapes: AtomicU64,
}

/// A page is too old to be shown after three intervals, and never before this.
const SHORTEST_STALE: Duration = Duration::from_secs(15);

impl Board {
    /// `stale_after` overrides when a page is too old, which otherwise follows from the interval.
    pub fn new(interval: Duration, stale_after: Option<Duration>) -> Board {
        Board {
            page: ArcSwapOption::empty(),
            word: ArcSwap::default(),
            stale_after: stale_after.unwrap_or((interval * 3).max(SHORTEST_STALE)),
            said_stale: AtomicBool::new(false),
            scrapes: AtomicU64::new(0),
        }
    }

    /// The newest page; `None` before the first.
    pub fn page(&self) -> Option<Arc<Page>> {
        self.page.load_full()
    }

    pub fn health(&self) -> Health {
        let word = self.word.load();
        match self.page.load().as_deref() {
            None => Health::Starting(word.state.clone()),
            Some(page) if page.age() <= self.stale_after => {
                Health::Present { state: word.state.clone(), is_well: word.is_well }
            }
            Some(page) => {
                let why = waited_for().unwrap_or_else(|| word.state.clone());
                if !self.said_stale.swap(true, Ordering::Relaxed) {
                    log::warn!("state: stale: the page is no longer shown; {why}");
                }
                Health::Stale { age: page.age(), why }
            }
        }
    }

    /// Says what the watcher is doing.
    pub fn set_state(&self, state: String, is_well: bool) {
        self.word.store(Arc::new(Word { state, is_well }));
    }

    pub fn count_scrape(&self) {
        self.scrapes.fetch_add(1, Ordering::Relaxed);
    }

    pub fn scrapes(&self) -> u64 {
        self.scrapes.load(Ordering::Relaxed)
    }
}

/// The call that the watcher is stuck in, if it is.
fn waited_for() -> Option<String> {
    let (call, since) = crate::dcgm::inflight::current()?;
    let since = humantime::format_rfc3339_seconds(std::time::SystemTime::now().checked_sub(since.elapsed())?);
    Some(format!("{call} was called at {since} and has not returned"))
}

/// The writing end: publishes pages and takes the memory of old ones back.
pub struct Publisher {
    board: Arc<Board>,
    spare: Option<Arc<Page>>,
}

impl Publisher {
    pub fn new(board: Arc<Board>) -> Publisher {
        Publisher { board, spare: None }
    }

    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Makes `body` the newest page. Its samples were taken at `taken`; without samples it stands as long as it hangs.
    pub fn publish(&mut self, body: &str, taken: Option<Instant>) {
        let mut page = match self.spare.take().map(Arc::try_unwrap) {
            Some(Ok(unread)) => unread,
            // Somebody is still reading it: it goes when they are done.
            Some(Err(_)) | None => Page::default(),
        };
        page.fill(body, taken);
        self.spare = self.board.page.swap(Some(Arc::new(page)));
        if taken.is_none_or(|taken| taken.elapsed() <= self.board.stale_after)
            && self.board.said_stale.swap(false, Ordering::Relaxed)
        {
            log::info!("state: the page is fresh again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_keep_what_they_took() {
        let board = Arc::new(Board::new(Duration::from_secs(30), None));
        assert!(matches!(board.health(), Health::Starting(_)));
        let mut publisher = Publisher::new(board.clone());
        publisher.publish("one\n", Some(Instant::now()));
        let first = board.page().unwrap();
        publisher.publish("two\n", Some(Instant::now()));
        publisher.publish("three\n", Some(Instant::now()));
        assert_eq!(first.body(), b"one\n");
        assert_eq!(board.page().unwrap().body(), b"three\n");
        assert!(matches!(board.health(), Health::Present { .. }));
    }

    #[test]
    fn a_page_is_one_response() {
        let mut page = Page::default();
        page.fill("body\n", Some(Instant::now()));
        let text = String::from_utf8(page.response().to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("Content-Length: 5"), "{head}");
        assert_eq!(body, "body\n");
        assert_eq!([page.head(), page.body()].concat(), page.response());
    }
}
