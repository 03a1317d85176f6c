//! The poll loop: one thread that owns the public sockets and every connection, so that nothing a client does costs
//! memory, threads or time without bound. A process that holds an embedded engine must not be killable from the
//! network.
//!
//! A turn of the loop lets each connection that is ready take one step: one read or one write. Handshakes, which cost
//! milliseconds of signing, are continued after that, for [`HANDSHAKE_TIME`], in turns by network. So a client that
//! floods gets only its share. Overdue connections are closed before any work is done, and when the limit is near, those
//! of the network that has most make way first. What is answered is decided by tiny_http ([`super::backend`]); the page's bytes are added here.
//!
//! One file, because every method changes the one list of connections; what one connection is, is in
//! [`super::connection`].

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::accept::Form;
use super::backend::{Answer, Backend, Body};
use super::connection::{Connection, Content, State, network, number};
use super::credentials::{Credentials, Login};
use super::listen::Listener;
use super::rate_limit::Bucket;
use super::request::{self, Method, Request, Status, Verdict, Version};
use super::response::{Asked, Plain, UNAUTHORIZED, head};
use super::stream::{Step, Stream};
use super::watchdog::Watchdog;
use super::{routes, tls};
use crate::config::OpenMetrics;
use crate::config::listen::Timeouts;
use crate::publish::{Client, PublishedPage};
use crate::status;
use crate::system::threads::test_fault;

/// The most bytes of a request's head.
pub const LONGEST_HEAD: usize = 8 * 1024;
/// More bytes than this after the last answer are a flood; the connection is closed.
const LINGER_BYTES: usize = 64 * 1024;
/// How long a decision to send the page is good for further requests of the same form, without asking tiny_http again.
/// The way to it and back is half of the time of a scrape; for a scraper that comes once in a second nothing changes.
const DECISION: Duration = Duration::from_millis(100);
/// Connections at the most, and descriptors that are left to the rest of the process (libdcgm opens devices).
const MOST_CONNECTIONS: u64 = 256;
const FEWEST_CONNECTIONS: u64 = 8;
const RESERVED_FILES: u64 = 128;
/// Connections accepted before the others are looked at again.
const ACCEPTS_A_TURN: usize = 32;
/// Time per turn for continuing handshakes; one is continued in any case. A step takes 0.2 ms with a key
/// on P-256, and some 6 ms with an RSA key of 4,096 bits.
const HANDSHAKE_TIME: Duration = Duration::from_millis(2);
/// Bytes of pages that nobody but slow readers holds any more. The longest page has some 17 MB.
const MOST_OLD_BYTES: usize = 32 * 1024 * 1024;
/// How often it is asked whether the page for people has been made.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How long accepting pauses when descriptors have run out and there is no connection to close.
const OUT_OF_FILES_PAUSE: Duration = Duration::from_millis(100);

/// What an administrator may choose.
#[derive(Clone, Copy)]
pub struct Policy {
    pub timeouts: Timeouts,
    pub open_metrics: OpenMetrics,
}

pub struct Connections {
    listeners: Arc<Vec<Listener>>,
    backend: Backend,
    credentials: Credentials,
    published: Arc<PublishedPage>,
    policy: Policy,
    watchdog: Option<Watchdog>,
    bucket: Bucket,
    /// When tiny_http last decided to send the page, by its form and whether it is compressed.
    decided: HashMap<(Form, bool), Instant>,
    /// In the order of their ids.
    open: Vec<Connection>,
    /// Who waits for the page for people to be made, for which form of it, and when to ask again.
    later: Vec<(u64, status::Form, Instant)>,
    next_id: u64,
    /// The networks whose handshakes were continued last have numbers just below this.
    handshakes_from: u64,
    limit: usize,
    accept_again: Instant,
}

/// What a turn of the loop has to look at.
struct Ready {
    listeners: Vec<usize>,
    connections: Vec<u64>,
    backend: bool,
    credentials: bool,
}

impl Connections {
    pub fn new(
        listeners: Arc<Vec<Listener>>,
        backend: Backend,
        credentials: Credentials,
        published: Arc<PublishedPage>,
        policy: Policy,
        watchdog: Option<Watchdog>,
    ) -> Connections {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        let limit = files.saturating_sub(RESERVED_FILES).clamp(FEWEST_CONNECTIONS, MOST_CONNECTIONS) as usize;
        Connections {
            listeners,
            backend,
            credentials,
            published,
            policy,
            watchdog,
            bucket: Bucket::default(),
            decided: HashMap::new(),
            open: Vec::new(),
            later: Vec::new(),
            next_id: 1,
            handshakes_from: 0,
            limit,
            accept_again: Instant::now(),
        }
    }

    /// Serves until the process ends.
    pub fn run(mut self) -> Result<(), String> {
        loop {
            let ready = self.wait();
            test_fault("connections")?;
            let now = Instant::now();
            self.close_overdue(now);
            for id in ready.connections {
                self.advance(id, now);
            }
            self.go_on_with_handshakes(now);
            self.judge_further_requests(now);
            self.ask_again(now);
            if ready.credentials {
                self.take_logins(now);
            }
            if ready.backend || self.backend.is_due(now) {
                self.take_answers(now);
            }
            for listener in ready.listeners {
                self.accept(listener, now);
            }
            self.watch(now);
            self.close_overdue(now);
            self.backend.take_spares();
        }
    }

    /// Waits until something can go on.
    fn wait(&self) -> Ready {
        let now = Instant::now();
        let has_more = self.open.iter().any(|open| open.has_more || open.has_handshake_to_do());
        let is_accepting = now >= self.accept_again;
        let interest = if is_accepting { PollFlags::IN } else { PollFlags::empty() };
        let mut descriptors: Vec<PollFd<'_>> =
            self.listeners.iter().map(|listener| PollFd::from_borrowed_fd(listener.as_fd(), interest)).collect();
        let connections_at = descriptors.len();
        let polled = || self.open.iter().filter(|open| !matches!(open.state, State::Draining));
        descriptors.extend(polled().map(|open| PollFd::new(open.stream.socket(), open.interest())));
        let backend_at = descriptors.len();
        descriptors.extend(self.backend.descriptor().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let credentials_at = descriptors.len();
        descriptors.extend(self.credentials.descriptor().map(|fd| PollFd::new(fd, PollFlags::IN)));

        let deadlines = self.open.iter().map(|open| open.deadline(&self.policy.timeouts));
        let deadlines = deadlines.chain((!is_accepting).then_some(self.accept_again)).chain(self.backend.deadline());
        let deadlines = deadlines.chain(self.later.iter().map(|(.., due)| *due));
        let next = deadlines.chain(self.watchdog.as_ref().map(Watchdog::due)).min();
        let is_busy = self.backend.is_due(now) || has_more;
        let timeout = next.map(|next| match is_busy {
            true => Timespec { tv_sec: 0, tv_nsec: 0 },
            false => {
                let time = next.saturating_duration_since(now) + Duration::from_millis(1);
                Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) }
            }
        });
        // Interrupted, or the kernel has no memory just now: the next turn sees to it.
        let is_polled = poll(&mut descriptors, timeout.as_ref()).is_ok();
        let is_ready = |at: usize| is_polled && descriptors.get(at).is_some_and(|fd| !fd.revents().is_empty());
        Ready {
            listeners: (0..connections_at).filter(|at| is_ready(*at)).collect(),
            connections: polled()
                .enumerate()
                .filter(|(at, _)| is_ready(connections_at + at))
                .map(|(_, open)| open.id)
                .collect(),
            backend: backend_at < credentials_at && is_ready(backend_at),
            credentials: credentials_at < descriptors.len() && is_ready(credentials_at),
        }
    }

    /// Goes on with handshakes for a while: one of each network in turn, that of its oldest connection first.
    fn go_on_with_handshakes(&mut self, now: Instant) {
        loop {
            let waiting = self.open.iter().enumerate().filter(|(_, open)| open.has_handshake_to_do());
            let next = waiting.min_by_key(|(at, open)| (open.network.wrapping_sub(self.handshakes_from), *at));
            let Some((at, _)) = next else { return };
            let connection = &mut self.open[at];
            self.handshakes_from = connection.network.wrapping_add(1);
            let room = LONGEST_HEAD + 1 - connection.input.len();
            let step = connection.stream.go_on_with_handshake(&mut connection.input, room);
            if !connection.stream.is_handshaking() {
                // From here on the time for the request counts.
                connection.since = now;
            }
            self.received(at, step, now);
            if now.elapsed() > HANDSHAKE_TIME {
                return;
            }
        }
    }

    fn find(&self, id: u64) -> Option<usize> {
        self.open.binary_search_by_key(&id, |open| open.id).ok()
    }

    /// Closes connections that are done with, or have taken too long.
    fn close_overdue(&mut self, now: Instant) {
        let (timeouts, credentials) = (self.policy.timeouts, &mut self.credentials);
        self.open.retain_mut(|open| {
            if now >= open.deadline(&timeouts) {
                open.overdue(now, &timeouts);
            }
            let is_kept = !matches!(open.state, State::Closed);
            if !is_kept {
                credentials.forget(open.id);
            }
            is_kept
        });
    }

    /// Takes a connection one step further.
    fn advance(&mut self, id: u64, now: Instant) {
        let Some(at) = self.find(id) else { return };
        let connection = &mut self.open[at];
        match &mut connection.state {
            // Nothing is waited for but the client's going away.
            State::LoggingIn(_) | State::Waiting => connection.state = State::Closed,
            State::Reading if connection.stream.has_handshake_to_do() => connection.state = State::Closed,
            // What has come already is answered before more is read, or the end is noticed.
            State::Reading if connection.has_more => {}
            State::Reading => {
                let room = LONGEST_HEAD + 1 - connection.input.len();
                let step = connection.stream.read(&mut connection.input, room);
                self.received(at, step, now);
            }
            State::Sending { .. } => self.send(at, now),
            State::Lingering { discarded } => match connection.stream.discard() {
                (Step::Moved, count) if *discarded + count <= LINGER_BYTES => *discarded += count,
                (Step::Wait, _) => {}
                (Step::Gone, _) => connection.end(now),
                _ => connection.state = State::Closed,
            },
            State::Draining | State::Closed => {}
        }
    }

    /// Acts on a step of reading.
    fn received(&mut self, at: usize, step: Step, now: Instant) {
        let connection = &mut self.open[at];
        if step == Step::Moved {
            connection.moved = now;
        }
        match step {
            Step::Moved if connection.stream.is_handshaking() => {}
            Step::Moved => self.judge(at, now),
            Step::Wait => {}
            Step::Gone => connection.end(now),
            Step::NotTls => {
                connection.stream.give_up_tls();
                self.refuse(at, request::BAD_REQUEST, Some(tls::HTTP_TO_HTTPS), now);
            }
            Step::Refused => connection.linger(now),
        }
    }

    /// Looks whether there is a whole request, and passes it on.
    fn judge(&mut self, at: usize, now: Instant) {
        let connection = &mut self.open[at];
        match request::judge(&connection.input, LONGEST_HEAD) {
            Verdict::Incomplete => {
                if connection.is_kept && !connection.input.is_empty() {
                    (connection.is_kept, connection.since) = (false, now);
                }
            }
            Verdict::Refused(status) => self.refuse(at, status, None, now),
            Verdict::Complete { request, length } => {
                connection.input.drain(..length);
                if connection.input.is_empty() {
                    connection.input = Vec::new();
                }
                let is_head = request.method == Method::Head;
                connection.asked = Asked { is_head, keep_alive: request.keep_alive, version: request.version };
                connection.client.agent = request.agent;
                self.admit(at, request, now);
            }
        }
    }

    /// Rate limit, then authentication, then the answer, in the toolkit's order.
    fn admit(&mut self, at: usize, request: Request, now: Instant) {
        let config = self.credentials.config();
        if !self.open[at].stream.is_still_let_in(config.tls.as_ref()) {
            return self.open[at].linger(now);
        }
        if !self.bucket.take(config.rate_limit, now) {
            return self.respond(at, &Plain::status("429 Too Many Requests"), now);
        }
        let connection = &mut self.open[at];
        match self.credentials.judge(connection.id, connection.network, request.authorization.as_deref()) {
            Login::Accepted => self.ask(at, &request, now),
            Login::Refused => self.respond(at, &UNAUTHORIZED, now),
            Login::Pending => connection.enter(State::LoggingIn(request), now),
            Login::Busy => self.respond(at, &Plain::status("429 Too Many Requests"), now),
        }
    }

    fn ask(&mut self, at: usize, request: &Request, now: Instant) {
        let form = request.accept.form(self.policy.open_metrics);
        if request.is_for_page() && self.is_decided(form, request.takes_gzip, now) {
            return self.deliver(at, Answer::page(form, request.takes_gzip), now);
        }
        let connection = &mut self.open[at];
        connection.enter(State::Waiting, now);
        self.backend.ask(connection.id, request.canonical(form));
    }

    /// Whether the page may be sent in this form without asking tiny_http.
    fn is_decided(&self, form: Form, gzip: bool, now: Instant) -> bool {
        self.decided.get(&(form, gzip)).is_some_and(|decided| now < *decided + DECISION)
            && (!form.is_open_metrics() || self.published.has_open_metrics(gzip))
    }

    /// Asks again for a page that was not made yet.
    fn ask_again(&mut self, now: Instant) {
        let due: Vec<_> = self.later.extract_if(.., |(.., due)| *due <= now).collect();
        for (id, form, _) in due {
            if self.find(id).is_some_and(|at| matches!(self.open[at].state, State::Waiting)) {
                let request = Request { path: routes::path_of(form), ..Request::health() };
                self.backend.ask(id, request.canonical(Form::Text));
            }
        }
    }

    fn take_logins(&mut self, now: Instant) {
        let mut results = Vec::new();
        self.credentials.take_results(|id, is_right| results.push((id, is_right)));
        for (id, is_right) in results {
            let Some(at) = self.find(id) else { continue };
            match std::mem::replace(&mut self.open[at].state, State::Waiting) {
                State::LoggingIn(request) if is_right => self.ask(at, &request, now),
                State::LoggingIn(_) => self.respond(at, &UNAUTHORIZED, now),
                other => self.open[at].state = other,
            }
        }
    }

    fn take_answers(&mut self, now: Instant) {
        let mut settled = Vec::new();
        self.backend.advance(|id, answer| settled.push((id, answer)));
        for (id, answer) in settled {
            if id == Watchdog::ID {
                if let (Some(watchdog), Some(_)) = (&mut self.watchdog, answer) {
                    watchdog.pat(now);
                }
                continue;
            }
            let Some(at) = self.find(id).filter(|at| matches!(self.open[*at].state, State::Waiting)) else { continue };
            match answer {
                Some(Answer { body: Body::Later(form), .. }) => self.later.push((id, form, now + ASK_AGAIN)),
                Some(answer) => {
                    if let Body::Page { form, gzip } = answer.body {
                        self.decided.insert((form, gzip), now);
                    }
                    self.deliver(at, answer, now);
                }
                None => self.respond(at, &Plain::status(routes::UNAVAILABLE), now),
            }
        }
    }

    /// Sends what tiny_http decided.
    fn deliver(&mut self, at: usize, answer: Answer, now: Instant) {
        let (body, content_type, is_compressed) = match answer.body {
            Body::Text(text) => (Content::Text(text), &*answer.content_type, false),
            Body::Status(form) | Body::Later(form) => {
                return match self.published.status_page().and_then(|page| page.rendered(form)) {
                    Some(page) => self.begin(
                        at,
                        &answer.status,
                        form.content_type(),
                        &status_headers(),
                        Content::Status(page),
                        now,
                    ),
                    None => self.respond(at, &Plain::status(routes::UNAVAILABLE), now),
                };
            }
            Body::Page { form, gzip } => {
                let made = if form.is_open_metrics() { self.published.open_metrics() } else { None };
                // What cannot be had in OpenMetrics is sent as text.
                let form = if form.is_open_metrics() && made.is_none() { Form::Text } else { form };
                match made.or_else(|| self.published.page()) {
                    Some(page) if gzip && page.gzip().is_some() => (Content::PageGzip(page), form.content_type(), true),
                    Some(page) => (Content::Page(page), form.content_type(), false),
                    None => return self.respond(at, &Plain::status(routes::UNAVAILABLE), now),
                }
            }
        };
        let mut extra: Vec<(&str, &str)> = Vec::new();
        if !matches!(body, Content::Text(_)) {
            if !self.open[at].asked.is_head {
                self.published.note_scrape(self.open[at].client);
            }
            extra.push(("Vary", "Accept, Accept-Encoding"));
        }
        extra.extend(is_compressed.then_some(("Content-Encoding", "gzip")));
        extra.extend(answer.allow.as_deref().map(|allow| ("Allow", allow)));
        self.begin(at, &answer.status, content_type, &extra, body, now);
    }

    /// Answers a head that is not served here, and closes, because the start of the next request is unknown.
    fn refuse(&mut self, at: usize, status: Status, text: Option<&'static str>, now: Instant) {
        let connection = &mut self.open[at];
        let is_head = request::is_head(&connection.input);
        connection.asked = Asked { is_head, keep_alive: false, version: Version::Http11 };
        connection.input = Vec::new();
        self.respond(at, &Plain { text, ..Plain::status(status) }, now);
    }

    fn respond(&mut self, at: usize, plain: &Plain, now: Instant) {
        let text = plain.text.map_or_else(|| format!("{}\n", plain.status), str::to_owned);
        self.begin(at, plain.status, routes::PLAIN, plain.extra, Content::Text(text.into_bytes()), now);
    }

    /// Begins to send an answer.
    fn begin(
        &mut self,
        at: usize,
        status: &str,
        content_type: &str,
        extra: &[(&str, &str)],
        body: Content,
        now: Instant,
    ) {
        let is_near_limit = self.open.len() * 8 >= self.limit * 7;
        let config = self.credentials.config();
        let connection = &mut self.open[at];
        connection.asked.keep_alive &= !is_near_limit;
        // The age of the data is part of the document, and of this answer alone.
        let beginning = if let Content::Status(page) = &body { page.beginning() } else { String::new() };
        let length = beginning.len() + body.bytes().len();
        let mut head = head(status, content_type, extra, length, connection.asked, &config);
        let body = if connection.asked.is_head { Content::Nothing } else { body };
        if !connection.asked.is_head {
            head.extend_from_slice(beginning.as_bytes());
        }
        // The time for writing counts from the end of the request's head, as Go counts it.
        let since = if matches!(connection.state, State::Reading) { now } else { connection.since };
        connection.enter(State::Sending { head, body, sent: 0 }, since);
        self.send(at, now);
        self.release_old_pages();
    }

    /// Closes the connections that still send the oldest page while old pages hold too much memory.
    fn release_old_pages(&mut self) {
        let newest = [self.published.page(), self.published.open_metrics()];
        loop {
            let pages = self.open.iter().filter_map(Connection::page);
            let mut old: Vec<_> =
                pages.filter(|page| newest.iter().flatten().all(|new| !Arc::ptr_eq(new, page))).collect();
            old.sort_by_key(|page| (page.number(), Arc::as_ptr(page)));
            old.dedup_by_key(|page| Arc::as_ptr(page));
            if old.iter().map(|page| page.bytes()).sum::<usize>() <= MOST_OLD_BYTES {
                return;
            }
            let oldest = old[0].clone();
            let readers =
                self.open.iter_mut().filter(|open| open.page().is_some_and(|page| Arc::ptr_eq(page, &oldest)));
            readers.for_each(|open| open.state = State::Closed);
        }
    }

    /// Sends a part, and goes on to the next request or to the end when all is sent.
    fn send(&mut self, at: usize, now: Instant) {
        let connection = &mut self.open[at];
        let State::Sending { head, body, sent } = &mut connection.state else { return };
        let whole = head.len() + body.bytes().len();
        match connection.stream.write(head, body.bytes(), sent) {
            Step::Moved => connection.moved = now,
            Step::Wait => return,
            _ => return connection.state = State::Closed,
        }
        if *sent < whole || connection.stream.wants_write() {
            return;
        }
        if !connection.asked.keep_alive {
            return connection.linger(now);
        }
        connection.enter(State::Reading, now);
        connection.is_kept = true;
        // The next request may have come already, and be decrypted already.
        let room = LONGEST_HEAD + 1 - connection.input.len();
        match connection.stream.read_decrypted(&mut connection.input, room) {
            Step::Gone if connection.input.is_empty() => connection.end(now),
            // Not now: each connection has one request in a turn.
            _ => connection.has_more = !connection.input.is_empty(),
        }
    }

    /// Looks at requests that came together with one that has been answered.
    fn judge_further_requests(&mut self, now: Instant) {
        for at in 0..self.open.len() {
            if std::mem::take(&mut self.open[at].has_more) {
                self.judge(at, now);
            }
        }
    }

    fn accept(&mut self, listener: usize, now: Instant) {
        let config = self.credentials.config();
        for _ in 0..ACCEPTS_A_TURN {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match rustix::net::acceptfrom_with(self.listeners[listener].as_fd(), flags) {
                Ok((socket, address)) => {
                    self.make_room(now);
                    let id = self.next_id;
                    self.next_id += 1;
                    let address = address.and_then(|address| SocketAddr::try_from(address).ok());
                    self.open.push(Connection {
                        id,
                        stream: Stream::new(socket, config.tls.clone()),
                        client: Client { address: number(address), agent: 0 },
                        network: network(address),
                        state: State::Reading,
                        since: now,
                        moved: now,
                        input: Vec::new(),
                        asked: Asked { is_head: false, keep_alive: false, version: Version::Http11 },
                        is_kept: false,
                        has_more: false,
                    });
                    // What a scraper has to say is usually there already.
                    self.advance(id, now);
                }
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    if !self.close_one(false) {
                        self.accept_again = now + OUT_OF_FILES_PAUSE;
                        return;
                    }
                }
                Err(Errno::AGAIN) => return,
                // A client that went away before it was accepted, or a passing fault of the network.
                Err(_) => {}
            }
        }
    }

    /// Makes room for one more connection.
    fn make_room(&mut self, now: Instant) {
        if self.open.len() * 8 >= self.limit * 7 {
            self.close_overdue(now);
        }
        if self.open.len() >= self.limit {
            self.close_one(false);
        } else if self.open.len() * 8 >= self.limit * 7 {
            self.close_one(true);
        }
    }

    /// Closes the connection that can best be spared, of the network that has most: one that is done, then an idle one,
    /// then one without a whole request, then an unfinished answer, and of each kind the one in which nothing has moved
    /// for longest. Says whether there was one.
    fn close_one(&mut self, only_idle: bool) -> bool {
        let rank = |open: &Connection| match &open.state {
            State::Closed | State::Lingering { .. } | State::Draining => 0,
            State::Reading if open.is_kept => 1,
            State::Reading => 2,
            State::LoggingIn(_) | State::Waiting | State::Sending { .. } => 3,
        };
        let spared = self.open.iter().enumerate().filter(|(_, open)| !only_idle || rank(open) == 1);
        let mut counts: HashMap<u64, usize> = HashMap::new();
        self.open.iter().for_each(|open| *counts.entry(open.network).or_default() += 1);
        let spared = spared.min_by_key(|(_, open)| (Reverse(counts[&open.network]), rank(open), open.moved));
        match spared.map(|(at, _)| at) {
            Some(at) => {
                let closed = self.open.remove(at);
                self.credentials.forget(closed.id);
                true
            }
            None => false,
        }
    }

    /// Asks tiny_http on behalf of systemd's watchdog when it is time.
    fn watch(&mut self, now: Instant) {
        if let Some(watchdog) = &mut self.watchdog
            && watchdog.begin(now, self.published.watcher_is_alive())
        {
            self.backend.ask(Watchdog::ID, Request::health().canonical(Form::Text));
        }
    }
}

/// Headers of the page for people.
fn status_headers() -> [(&'static str, &'static str); 4] {
    [
        ("Content-Security-Policy", status::html::POLICY.as_str()),
        ("Cache-Control", "no-store"),
        ("Referrer-Policy", "no-referrer"),
        ("Vary", "Accept"),
    ]
}
