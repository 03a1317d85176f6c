//! The published page: bytes that are served as they are, and the board on which the newest one hangs.
//!
//! One writer (the watcher), any number of readers (the server's workers). Readers take what hangs there; nothing on
//! their side waits, allocates or formats. How a page was made is not known here.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use flate2::{Compress, Compression, Crc, FlushCompress, Status};

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A whole HTTP response with the metrics.
#[derive(Debug, Default)]
pub struct Page {
    response: Vec<u8>,
    body_at: usize,
    /// The same response with a compressed body; empty if nobody wants it.
    compressed: Vec<u8>,
    taken: Option<Instant>,
}

impl Page {
    /// Head and body in one piece, for one write.
    pub fn response(&self) -> &[u8] {
        &self.response
    }

    /// The same for a client that takes gzip; the plain one if there is none.
    pub fn compressed(&self) -> &[u8] {
        if self.compressed.is_empty() { &self.response } else { &self.compressed }
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

    fn fill(&mut self, body: &str, taken: Option<Instant>, gzip: Option<&mut Gzip>) {
        self.body_at = put_head(&mut self.response, "", body.len());
        with_headroom(&mut self.response, body.len());
        self.response.extend_from_slice(body.as_bytes());
        self.compressed.clear();
        if let Some(gzip) = gzip
            && let Some(body) = gzip.compress(body.as_bytes())
        {
            put_head(&mut self.compressed, "Content-Encoding: gzip\r\n", body.len());
            with_headroom(&mut self.compressed, body.len());
            self.compressed.extend_from_slice(body);
        }
        self.taken = taken;
    }
}

/// Makes room for `more` bytes, and for a page that has grown by an eighth: numbers get longer, and each time they do
/// is no reason to allocate.
fn with_headroom(buffer: &mut Vec<u8>, more: usize) {
    if buffer.capacity() - buffer.len() < more {
        buffer.reserve(more + more / 8);
    }
}

/// Starts a response anew; returns where its body begins.
fn put_head(response: &mut Vec<u8>, more: &str, length: usize) -> usize {
    use std::io::Write;
    response.clear();
    let head = write!(
        response,
        "HTTP/1.1 200 OK\r\nContent-Type: {CONTENT_TYPE}\r\nX-Content-Type-Options: nosniff\r\nVary: Accept-Encoding\r\n\
         Connection: close\r\n{more}Content-Length: {length}\r\n\r\n"
    );
    debug_assert!(head.is_ok(), "a Vec takes everything");
    response.len()
}

/// A compressor that is used again. It holds a quarter of a megabyte, so it is made only when somebody wants it.
struct Gzip {
    deflate: Compress,
    output: Vec<u8>,
}

impl Gzip {
    fn new() -> Gzip {
        // The fastest level: metrics are so repetitive that the others gain little. The frame is ours, because flate2's
        // own encoder of it cannot be used twice.
        Gzip { deflate: Compress::new(Compression::fast(), false), output: Vec::new() }
    }

    fn compress(&mut self, bytes: &[u8]) -> Option<&[u8]> {
        // Magic, deflate, no flags, no time, no level, no system; RFC 1952.
        const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
        self.output.clear();
        // Metrics compress to less than a quarter, so one buffer serves pages that grow a little.
        self.output.reserve(bytes.len() / 4 + 1024);
        self.output.extend_from_slice(&HEAD);
        self.deflate.reset();
        loop {
            let read = self.deflate.total_in() as usize;
            if self.output.capacity() - self.output.len() < 1024 {
                self.output.reserve(16 * 1024);
            }
            match self.deflate.compress_vec(&bytes[read..], &mut self.output, FlushCompress::Finish).ok()? {
                Status::StreamEnd => break,
                Status::Ok | Status::BufError => {}
            }
        }
        let mut check = Crc::new();
        check.update(bytes);
        self.output.extend_from_slice(&check.sum().to_le_bytes());
        self.output.extend_from_slice(&check.amount().to_le_bytes());
        Some(&self.output)
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
    /// Who has fetched the page since the watcher last asked.
    visits: Mutex<Vec<(u64, Instant)>>,
    started: Instant,
    /// Seconds after the start at which a client that takes gzip last asked; 0 for never.
    gzip_wanted: AtomicU64,
}

/// Visits remembered between two looks of the watcher; a flood needs no more.
const MOST_VISITS: usize = 64;

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
            visits: Mutex::new(Vec::with_capacity(MOST_VISITS)),
            started: Instant::now(),
            gzip_wanted: AtomicU64::new(0),
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

    /// Somebody takes gzip: pages of the next ten minutes are compressed.
    pub fn want_gzip(&self) {
        self.gzip_wanted.store(self.started.elapsed().as_secs() + 1, Ordering::Relaxed);
    }

    fn is_gzip_wanted(&self) -> bool {
        const MEMORY: u64 = 600;
        let wanted = self.gzip_wanted.load(Ordering::Relaxed);
        wanted != 0 && self.started.elapsed().as_secs() <= wanted + MEMORY
    }

    /// Notes that a client (by some number of its own) has fetched the page.
    pub fn note_visit(&self, client: u64) {
        let mut visits = self.visits.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if visits.len() < MOST_VISITS {
            visits.push((client, Instant::now()));
        }
    }

    /// Hands the visits since the last call to `each`.
    pub fn take_visits(&self, mut each: impl FnMut(u64, Instant)) {
        let mut visits = self.visits.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        visits.drain(..).for_each(|(client, at)| each(client, at));
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
    gzip: Option<Gzip>,
}

impl Publisher {
    pub fn new(board: Arc<Board>) -> Publisher {
        Publisher { board, spare: None, gzip: None }
    }

    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Makes `body` the newest page. Its samples were taken at `taken`; without samples it stands as long as it hangs.
    pub fn publish(&mut self, body: &str, taken: Option<Instant>) {
        if !self.board.is_gzip_wanted() {
            self.gzip = None;
        } else if self.gzip.is_none() {
            self.gzip = Some(Gzip::new());
        }
        // If somebody is still reading it, it goes when they are done.
        let mut page = self.spare.take().filter(|spare| Arc::strong_count(spare) == 1).unwrap_or_default();
        if let Some(page) = Arc::get_mut(&mut page) {
            page.fill(body, taken, self.gzip.as_mut());
        }
        self.spare = self.board.page.swap(Some(page));
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
    fn pages_are_compressed_again_and_again_once_somebody_asked() {
        use std::io::Read;
        let board = Arc::new(Board::new(Duration::from_secs(30), None));
        let mut publisher = Publisher::new(board.clone());
        publisher.publish("plain\n", None);
        assert_eq!(board.page().unwrap().compressed(), board.page().unwrap().response());
        board.want_gzip();
        for round in 0..5 {
            let body = "DCGM_FI_DEV_GPU_TEMP{gpu=\"0\"} 31\n".repeat(1000 * (5 - round));
            publisher.publish(&body, None);
            let page = board.page().unwrap();
            let at = page.compressed().windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
            let (head, compressed) = page.compressed().split_at(at);
            let head = std::str::from_utf8(head).unwrap();
            assert!(
                head.contains("Content-Encoding: gzip")
                    && head.contains(&format!("Content-Length: {}\r\n", compressed.len()))
            );
            let mut plain = String::new();
            flate2::read::GzDecoder::new(compressed).read_to_string(&mut plain).unwrap();
            assert!(plain == body && compressed.len() < body.len() / 10);
        }
    }

    #[test]
    fn a_page_is_one_response() {
        let mut page = Page::default();
        page.fill("body\n", Some(Instant::now()), None);
        let text = String::from_utf8(page.response().to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("Content-Length: 5"), "{head}");
        assert_eq!(body, "body\n");
        assert_eq!([page.head(), page.body()].concat(), page.response());
    }
}
