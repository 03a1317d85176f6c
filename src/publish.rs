//! The published page and the exporter's status: what the server may know of the watcher, and the other way round.
//!
//! One writer (the watcher), any number of readers (the server's threads). Readers take the newest page as it is;
//! nothing on their side waits for it, copies it or formats it. How a page was made is not known here.
//!
//! The exception is the page in OpenMetrics, which few clients ask for: it is made from the published text when one does
//! ([`PublishedPage::make_open_metrics`]).

mod gzip;
mod second;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};

use gzip::Gzip;
use second::Second;

use crate::status::StatusPage;

pub use second::Convert;

/// The page's text, and the same compressed.
#[derive(Debug, Default)]
pub struct Page {
    plain: Vec<u8>,
    /// Empty while nobody asks for it.
    gzip: Vec<u8>,
    taken: Option<Instant>,
    /// Which page since the start it is, from 1.
    number: u64,
}

impl Page {
    pub fn plain(&self) -> &[u8] {
        &self.plain
    }

    /// The page as a gzip stream; `None` if it has not been compressed.
    pub fn gzip(&self) -> Option<&[u8]> {
        (!self.gzip.is_empty()).then_some(&self.gzip)
    }

    /// Which page since the start it is, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Bytes of memory that it holds.
    pub fn bytes(&self) -> usize {
        self.plain.capacity() + self.gzip.capacity()
    }

    /// When the samples were collected.
    pub fn taken(&self) -> Option<Instant> {
        self.taken
    }

    /// How old the samples are. A page without samples does not age.
    pub fn age(&self) -> Duration {
        self.taken.map_or(Duration::ZERO, |taken| taken.elapsed())
    }

    /// Takes the text over and leaves an empty one, which has the memory of the text that was here before.
    fn fill(&mut self, number: u64, text: &mut String, taken: Option<Instant>, gzip: Option<&mut Gzip>) {
        let mut before = std::mem::replace(&mut self.plain, std::mem::take(text).into_bytes());
        reserve(&mut before, self.plain.len());
        *text = String::from_utf8(before).unwrap_or_default();
        match gzip.and_then(|gzip| gzip.compress(&self.plain)) {
            Some(compressed) => replace(&mut self.gzip, compressed),
            None => self.gzip.clear(),
        }
        (self.number, self.taken) = (number, taken);
    }
}

/// Empties a buffer and prepares it for a page of this length. Where it has to grow, it grows by an eighth more, so that a
/// page whose numbers get longer does not allocate at every collection.
fn reserve(buffer: &mut Vec<u8>, length: usize) {
    buffer.clear();
    if buffer.capacity() < length {
        buffer.reserve_exact(length + length / 8);
    }
}

/// Replaces a buffer's content.
fn replace(buffer: &mut Vec<u8>, bytes: &[u8]) {
    reserve(buffer, bytes.len());
    buffer.extend_from_slice(bytes);
}

/// What `/health` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// There is no page yet.
    Starting(String),
    /// There is a page. Whether all is well is the watcher's to say.
    Present { status: String, is_well: bool },
    /// The newest page is this old, for this reason.
    Stale { age: Duration, why: String },
}

/// What the watcher last said of itself.
#[derive(Debug, Default)]
struct Status {
    text: String,
    is_well: bool,
}

/// A call into the library that has not returned: its name, and when it was made.
pub type Call = (&'static str, Instant);

/// The newest page, the watcher's status, and what each side has to know of the other.
pub struct PublishedPage {
    page: ArcSwapOption<Page>,
    /// The newest page in OpenMetrics, while somebody asks for it.
    open_metrics: Second,
    status: ArcSwap<Status>,
    /// In milliseconds.
    stale_after: AtomicU64,
    /// It has been logged that the page is stale.
    logged_stale: AtomicBool,
    scrapes: AtomicU64,
    http_restarts: AtomicU64,
    /// Who has fetched the page since the watcher last asked.
    scraped: Mutex<Vec<(Client, Instant)>>,
    started: Instant,
    /// Milliseconds from the start to the last sign of life of the watcher.
    progress: AtomicU64,
    /// When a client that takes gzip last asked for the plain page.
    gzip_wanted: LastWanted,
    open_metrics_wanted: LastWanted,
    /// `None` without a page for people.
    status_page: Option<StatusPage>,
    /// Names the call that the watcher is in; registered by whoever knows the library.
    current_call: fn() -> Option<Call>,
}

/// Who has fetched the page: a number for the address, and one for the User-Agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    pub address: u64,
    pub agent: u64,
}

/// Scrapes remembered between two looks of the watcher, a second apart at the most; and those of one address, so that a
/// flood from there leaves room for others.
const MOST_SCRAPES: usize = 64;
const MOST_SCRAPES_OF_ADDRESS: usize = 8;

/// A page is too old to be shown after three intervals, and never before this.
const SHORTEST_STALE: Duration = Duration::from_secs(15);

/// A call that takes longer than this is named as the reason why there is no page.
const SLOW_CALL: Duration = Duration::from_secs(3);

/// A watcher without a sign of life for this long, and in no call of the library, hangs in code of ours.
const WATCHER_HANGS: Duration = Duration::from_secs(60);

/// The age in milliseconds at which a page is too old.
fn too_old(interval: Duration, stale_after: Option<Duration>) -> u64 {
    stale_after.unwrap_or((interval * 3).max(SHORTEST_STALE)).as_millis() as u64
}

impl PublishedPage {
    /// `stale_after` overrides when a page is too old, which otherwise follows from the interval. `current_call` names
    /// the call of the library that the watcher is in.
    pub fn new(interval: Duration, stale_after: Option<Duration>, current_call: fn() -> Option<Call>) -> PublishedPage {
        PublishedPage {
            page: ArcSwapOption::empty(),
            open_metrics: Second::new(None),
            status: ArcSwap::default(),
            stale_after: AtomicU64::new(too_old(interval, stale_after)),
            logged_stale: AtomicBool::new(false),
            scrapes: AtomicU64::new(0),
            http_restarts: AtomicU64::new(0),
            scraped: Mutex::new(Vec::with_capacity(MOST_SCRAPES)),
            started: Instant::now(),
            progress: AtomicU64::new(0),
            gzip_wanted: LastWanted::default(),
            open_metrics_wanted: LastWanted::default(),
            status_page: None,
            current_call,
        }
    }

    /// The same with a way to write a page in OpenMetrics; without one there is no such page.
    pub fn with_open_metrics(self, convert: Convert) -> PublishedPage {
        PublishedPage { open_metrics: Second::new(Some(convert)), ..self }
    }

    /// The same with a page for people, if there is to be one.
    pub fn with_status_page(self, is_wanted: bool) -> PublishedPage {
        PublishedPage { status_page: is_wanted.then(StatusPage::default), ..self }
    }

    pub fn status_page(&self) -> Option<&StatusPage> {
        self.status_page.as_ref()
    }

    /// Changes when a page is too old.
    pub fn set_interval(&self, interval: Duration, stale_after: Option<Duration>) {
        self.stale_after.store(too_old(interval, stale_after), Ordering::Relaxed);
    }

    fn stale_after(&self) -> Duration {
        Duration::from_millis(self.stale_after.load(Ordering::Relaxed))
    }

    /// The newest page; `None` before the first.
    pub fn page(&self) -> Option<Arc<Page>> {
        self.page.load_full()
    }

    pub fn health(&self) -> Health {
        let status = self.status.load();
        match self.page.load().as_deref() {
            None => Health::Starting(match self.hanging_call(SLOW_CALL) {
                Some(call) => format!("{}; {call}", status.text),
                None => status.text.clone(),
            }),
            Some(page) if page.age() <= self.stale_after() => {
                Health::Present { status: status.text.clone(), is_well: status.is_well }
            }
            Some(page) => {
                let why = self.hanging_call(Duration::ZERO).unwrap_or_else(|| status.text.clone());
                if !self.logged_stale.swap(true, Ordering::Relaxed) {
                    log::warn!("state: stale: /metrics answers 503 until there are new samples; {why}");
                }
                Health::Stale { age: page.age(), why }
            }
        }
    }

    /// The call that the watcher has been in for at least this long, as a sentence.
    fn hanging_call(&self, at_least: Duration) -> Option<String> {
        let (call, since) = (self.current_call)().filter(|(_, since)| since.elapsed() >= at_least)?;
        let since = humantime::format_rfc3339_seconds(std::time::SystemTime::now().checked_sub(since.elapsed())?);
        Some(format!("{call} was called at {since} and has not returned"))
    }

    /// Sets what the watcher says of itself, and whether somebody who asks for samples gets what there should be.
    pub fn set_status(&self, text: String, is_well: bool) {
        self.status.store(Arc::new(Status { text, is_well }));
    }

    /// A sign of life of the watcher.
    pub fn note_progress(&self) {
        self.progress.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Whether the watcher goes on, or waits for the library. A driver that hangs is no reason to restart the process:
    /// the page with the reason is worth more than a new process in the same call.
    pub fn watcher_is_alive(&self) -> bool {
        let progress = Duration::from_millis(self.progress.load(Ordering::Relaxed));
        self.started.elapsed() < progress + WATCHER_HANGS || (self.current_call)().is_some()
    }

    /// Notes that somebody takes gzip: pages of the next ten minutes are compressed.
    pub fn want_gzip(&self) {
        self.gzip_wanted.note(self.started);
    }

    fn is_gzip_wanted(&self) -> bool {
        self.gzip_wanted.is_recent(self.started)
    }

    /// Makes the newest page in OpenMetrics, unless that has been done. It may take milliseconds, so it is not for the
    /// poll loop.
    pub fn make_open_metrics(&self, gzip: bool) {
        self.open_metrics_wanted.note(self.started);
        if let Some(page) = self.page() {
            self.open_metrics.make(&page, gzip);
        }
    }

    /// Whether the newest page is there in OpenMetrics, and compressed if it is to be.
    pub fn has_open_metrics(&self, gzip: bool) -> bool {
        self.page.load().as_ref().is_some_and(|page| self.open_metrics.is_of(page.number, gzip))
    }

    /// The page that was last made in OpenMetrics: the newest, unless a collection has ended since.
    pub fn open_metrics(&self) -> Option<Arc<Page>> {
        self.open_metrics.page()
    }

    /// Counts and notes that a client begins to get the page.
    pub fn note_scrape(&self, client: Client) {
        self.scrapes.fetch_add(1, Ordering::Relaxed);
        let mut scraped = self.scraped.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let of_address = scraped.iter().filter(|(other, _)| other.address == client.address).count();
        if scraped.len() < MOST_SCRAPES && of_address < MOST_SCRAPES_OF_ADDRESS {
            scraped.push((client, Instant::now()));
        }
    }

    /// Hands the scrapes since the last call to `each`.
    pub fn take_scrapes(&self, mut each: impl FnMut(Client, Instant)) {
        let mut scraped = self.scraped.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        scraped.drain(..).for_each(|(client, at)| each(client, at));
    }

    pub fn scrapes(&self) -> u64 {
        self.scrapes.load(Ordering::Relaxed)
    }

    /// Counts that the HTTP server behind the sockets was replaced because it did not answer.
    pub fn count_http_restart(&self) {
        self.http_restarts.fetch_add(1, Ordering::Relaxed);
    }

    pub fn http_restarts(&self) -> u64 {
        self.http_restarts.load(Ordering::Relaxed)
    }
}

/// When something was last asked for: in seconds after the start, from 1; 0 for never.
#[derive(Default)]
struct LastWanted(AtomicU64);

impl LastWanted {
    /// How long a wish is remembered.
    const MEMORY: u64 = 600;

    fn note(&self, started: Instant) {
        self.0.store(started.elapsed().as_secs() + 1, Ordering::Relaxed);
    }

    fn is_recent(&self, started: Instant) -> bool {
        let wanted = self.0.load(Ordering::Relaxed);
        wanted != 0 && started.elapsed().as_secs() <= wanted + LastWanted::MEMORY
    }

    /// Forgets a wish that is not recent, and says whether there was one.
    fn take_old(&self, started: Instant) -> bool {
        !self.is_recent(started) && self.0.swap(0, Ordering::Relaxed) != 0
    }
}

/// The writing end: publishes pages and takes the memory of old ones back.
pub struct Publisher {
    published: Arc<PublishedPage>,
    spare: Option<Arc<Page>>,
    gzip: Option<Gzip>,
    /// Pages published so far.
    count: u64,
}

impl Publisher {
    pub fn new(published: Arc<PublishedPage>) -> Publisher {
        Publisher { published, spare: None, gzip: None, count: 0 }
    }

    pub fn published(&self) -> &PublishedPage {
        &self.published
    }

    /// Makes `text` the newest page, without copying it: an empty text takes its place, for the next page. Its samples were
    /// taken at `taken`; a page without samples does not age.
    pub fn publish(&mut self, text: &mut String, taken: Option<Instant>) {
        if !self.published.is_gzip_wanted() {
            self.gzip = None;
        } else if self.gzip.is_none() {
            self.gzip = Some(Gzip::new());
        }
        if self.published.open_metrics_wanted.take_old(self.published.started) {
            self.published.open_metrics.release();
        }
        self.count += 1;
        // A page that somebody is still reading is freed when they are done.
        let mut page = self.spare.take().filter(|spare| Arc::strong_count(spare) == 1).unwrap_or_default();
        if let Some(page) = Arc::get_mut(&mut page) {
            page.fill(self.count, text, taken, self.gzip.as_mut());
        }
        self.spare = self.published.page.swap(Some(page));
        if taken.is_none_or(|taken| taken.elapsed() <= self.published.stale_after())
            && self.published.logged_stale.swap(false, Ordering::Relaxed)
        {
            log::info!("state: /metrics has new samples again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published() -> Arc<PublishedPage> {
        Arc::new(PublishedPage::new(Duration::from_secs(30), None, || None))
    }

    #[test]
    fn readers_keep_what_they_took() {
        let published = published();
        assert!(matches!(published.health(), Health::Starting(_)));
        let mut publisher = Publisher::new(published.clone());
        publisher.publish(&mut "one\n".to_owned(), Some(Instant::now()));
        let first = published.page().unwrap();
        publisher.publish(&mut "two\n".to_owned(), Some(Instant::now()));
        publisher.publish(&mut "three\n".to_owned(), Some(Instant::now()));
        assert_eq!(first.plain(), b"one\n");
        assert_eq!(published.page().unwrap().plain(), b"three\n");
        assert!(matches!(published.health(), Health::Present { .. }));
    }

    #[test]
    fn a_text_is_handed_over_with_its_memory_and_one_with_room_comes_back() {
        let published = published();
        let mut publisher = Publisher::new(published.clone());
        let mut text = String::new();
        for round in 0..6 {
            text.push_str(&"a line\n".repeat(1000));
            let (memory, capacity) = (text.as_ptr(), text.capacity());
            publisher.publish(&mut text, None);
            let page = published.page().unwrap();
            assert_eq!((page.plain().as_ptr(), page.plain().len()), (memory, 7000));
            assert!(text.is_empty() && text.capacity() >= 7000, "{}", text.capacity());
            assert!(round < 2 || capacity <= 7000 + 7000 / 8, "{capacity}");
        }
    }

    #[test]
    fn pages_are_compressed_again_and_again_once_somebody_asked() {
        use std::io::Read;
        let published = published();
        let mut publisher = Publisher::new(published.clone());
        publisher.publish(&mut "plain\n".to_owned(), None);
        assert_eq!(published.page().unwrap().gzip(), None);
        published.want_gzip();
        for round in 0..5 {
            let text = "DCGM_FI_DEV_GPU_TEMP{gpu=\"0\"} 31\n".repeat(1000 * (5 - round));
            publisher.publish(&mut text.clone(), None);
            let page = published.page().unwrap();
            let mut plain = String::new();
            flate2::read::GzDecoder::new(page.gzip().unwrap()).read_to_string(&mut plain).unwrap();
            assert!(plain == text && page.gzip().unwrap().len() < text.len() / 10);
        }
    }

    #[test]
    fn the_second_format_is_made_once_for_each_page_and_only_on_request() {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let mut published =
            PublishedPage::new(Duration::from_secs(30), None, || None).with_open_metrics(|page, out| {
                MADE.fetch_add(1, Ordering::Relaxed);
                out.extend_from_slice(page);
                out.extend_from_slice(b"# EOF\n");
            });
        published.make_open_metrics(false);
        assert!(published.open_metrics().is_none() && !published.has_open_metrics(false), "there is no page yet");
        published.started -= Duration::from_secs(LastWanted::MEMORY * 2);
        let published = Arc::new(published);
        let mut publisher = Publisher::new(published.clone());
        for (round, text) in ["one\n", "two\n", "three\n", "four\n"].into_iter().enumerate() {
            publisher.publish(&mut text.to_owned(), None);
            assert!(!published.has_open_metrics(false));
            for gzip in [false, false, true, false, true] {
                published.make_open_metrics(gzip);
                assert!(published.has_open_metrics(gzip));
                let page = published.open_metrics().unwrap();
                assert_eq!(page.plain(), format!("{text}# EOF\n").as_bytes());
                assert!(!gzip || page.gzip().is_some());
            }
            assert_eq!(MADE.load(Ordering::Relaxed), round as u64 + 1, "what is there is compressed, not made again");
            assert_eq!(published.page().unwrap().gzip(), None, "the plain page is not compressed for it");
        }
        for _ in 0..3 {
            publisher.publish(&mut "five\n".to_owned(), None);
        }
        assert!(published.open_metrics().is_some(), "it was asked for a moment ago");
        published.open_metrics_wanted.0.store(1, Ordering::Relaxed);
        publisher.publish(&mut "six\n".to_owned(), None);
        assert!(published.open_metrics().is_none(), "nobody has asked for ten minutes");
        published.make_open_metrics(true);
        assert!(published.has_open_metrics(true));
    }

    #[test]
    fn a_call_that_hangs_is_named_before_the_first_page_and_keeps_the_watchdog_quiet() {
        let called = || Instant::now().checked_sub(SLOW_CALL).map(|since| ("dcgmStartEmbedded_v2", since));
        let published = PublishedPage::new(Duration::from_secs(30), None, called);
        published.set_status("starting".to_owned(), false);
        let Health::Starting(text) = published.health() else { panic!("no page yet") };
        assert!(text.starts_with("starting; dcgmStartEmbedded_v2 was called at "), "{text}");
        assert!(published.watcher_is_alive());
    }

    #[test]
    fn a_watcher_that_hangs_outside_the_library_is_not_alive() {
        let mut published = PublishedPage::new(Duration::from_secs(30), None, || None);
        assert!(published.watcher_is_alive());
        published.started -= WATCHER_HANGS;
        assert!(!published.watcher_is_alive());
        published.note_progress();
        assert!(published.watcher_is_alive());
        published.started -= WATCHER_HANGS;
        published.current_call = || Some(("dcgmUpdateAllFields", Instant::now()));
        assert!(published.watcher_is_alive(), "the driver hangs, and no restart would help");
    }
}
