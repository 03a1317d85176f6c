//! The published page: bytes that are served as they are, and the board on which the newest one hangs.
//!
//! One writer (the watcher), any number of readers (the server's workers). Readers take what hangs there; nothing on
//! their side waits, allocates or formats. How a page was made is not known here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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

    /// How old the samples are.
    pub fn age(&self) -> Duration {
        self.taken.map_or(Duration::MAX, |taken| taken.elapsed())
    }

    fn fill(&mut self, body: &str, taken: Instant) {
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
        self.taken = Some(taken);
    }
}

/// What the exporter can say of its page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// No page yet; the text says what is being waited for.
    Starting(String),
    Fresh,
    /// The newest page is this old, for this reason.
    Stale {
        age: Duration,
        why: String,
    },
}

/// Where the newest page hangs.
pub struct Board {
    page: ArcSwapOption<Page>,
    /// Why there is no newer page, as the watcher last said.
    trouble: ArcSwap<String>,
    stale_after: Duration,
    scrapes: AtomicU64,
}

/// A page is too old to be shown after three intervals, and never before this.
const SHORTEST_STALE: Duration = Duration::from_secs(15);

impl Board {
    pub fn new(interval: Duration) -> Board {
        Board {
            page: ArcSwapOption::empty(),
            trouble: ArcSwap::from_pointee(String::new()),
            stale_after: (interval * 3).max(SHORTEST_STALE),
            scrapes: AtomicU64::new(0),
        }
    }

    /// The newest page; `None` before the first.
    pub fn page(&self) -> Option<Arc<Page>> {
        self.page.load_full()
    }

    pub fn health(&self) -> Health {
        let trouble = self.trouble.load();
        match self.page.load().as_deref() {
            None if trouble.is_empty() => Health::Starting("no samples have been collected yet".to_owned()),
            None => Health::Starting(String::clone(&trouble)),
            Some(page) if page.age() <= self.stale_after => Health::Fresh,
            Some(page) => Health::Stale { age: page.age(), why: self.why() },
        }
    }

    fn why(&self) -> String {
        match crate::dcgm::inflight::current() {
            Some((call, since)) if since.elapsed() > Duration::from_secs(1) => {
                format!("{call} has not returned for {} s", since.elapsed().as_secs())
            }
            _ => String::clone(&self.trouble.load()),
        }
    }

    /// Says why no page comes; empty when one does.
    pub fn set_trouble(&self, trouble: String) {
        if **self.trouble.load() != trouble {
            self.trouble.store(Arc::new(trouble));
        }
    }

    pub fn count_scrape(&self) {
        self.scrapes.fetch_add(1, Ordering::Relaxed);
    }

    pub fn scrapes(&self) -> u64 {
        self.scrapes.load(Ordering::Relaxed)
    }
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

    /// Makes `body` the newest page. Its samples were taken at `taken`.
    pub fn publish(&mut self, body: &str, taken: Instant) {
        let mut page = match self.spare.take().map(Arc::try_unwrap) {
            Some(Ok(unread)) => unread,
            // Somebody is still reading it: it goes when they are done.
            Some(Err(_)) | None => Page::default(),
        };
        page.fill(body, taken);
        self.spare = self.board.page.swap(Some(Arc::new(page)));
        self.board.set_trouble(String::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_keep_what_they_took() {
        let board = Arc::new(Board::new(Duration::from_secs(30)));
        assert!(matches!(board.health(), Health::Starting(_)));
        let mut publisher = Publisher::new(board.clone());
        publisher.publish("one\n", Instant::now());
        let first = board.page().unwrap();
        publisher.publish("two\n", Instant::now());
        publisher.publish("three\n", Instant::now());
        assert_eq!(first.body(), b"one\n");
        assert_eq!(board.page().unwrap().body(), b"three\n");
        assert_eq!(board.health(), Health::Fresh);
    }

    #[test]
    fn a_page_is_one_response() {
        let mut page = Page::default();
        page.fill("body\n", Instant::now());
        let text = String::from_utf8(page.response().to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("Content-Length: 5"), "{head}");
        assert_eq!(body, "body\n");
        assert_eq!([page.head(), page.body()].concat(), page.response());
    }
}
