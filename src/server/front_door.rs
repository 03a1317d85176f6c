//! The front door: owns the public sockets, so that nothing a client does can cost memory, threads or time without
//! bound. A process that holds an embedded engine must not be killable from the network.
//!
//! tiny_http collects heads without limit, gives each connection a thread, has no time-outs, and stops accepting for
//! good when `accept` fails once. So it sits behind ([`super::back_room`]), sees one complete head at a time, and says
//! what to answer. One thread here does the rest with `poll(2)`: a head in at most [`LONGEST_HEAD`] bytes and
//! [`HEAD_TIME`], a limit on connections at which the oldest unfinished one gives way to the newest, and an answer sent
//! as fast as its reader takes it, straight from the published page. One request a connection.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketFlags};

use super::Socket;
use super::back_room::{BackRoom, Reply};
use super::request::{self, Verdict};
use crate::page::{Board, Page};

pub const LONGEST_HEAD: usize = 8 * 1024;
/// A client has this long to say what it wants.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// A reader that takes nothing for this long, or is not done after that, is let go.
const SEND_PAUSE: Duration = Duration::from_secs(5);
const SEND_TIME: Duration = Duration::from_secs(60);
/// After the answer the client's remaining bytes are read away for so long: closing on unread bytes would reset the
/// connection and could take the end of the answer with it.
const LINGER_TIME: Duration = Duration::from_secs(1);
/// Connections at the most, and descriptors that are left to the rest of the process (libdcgm opens devices).
const MOST_CONNECTIONS: u64 = 256;
const FEWEST_CONNECTIONS: u64 = 8;
const RESERVED_FILES: u64 = 128;
/// Connections accepted before the others are looked at again.
const ACCEPT_BATCH: usize = 32;
/// How long accepting pauses when descriptors have run out and there is nobody to let go.
const OUT_OF_FILES_PAUSE: Duration = Duration::from_millis(100);

/// Descriptors kept in hand, and let go while tiny_http accepts: it stops for good if it finds none.
const SPARE_FILES: usize = 4;

pub struct FrontDoor {
    listeners: Vec<Socket>,
    back_room: BackRoom,
    board: Arc<Board>,
    connections: Vec<Connection>,
    limit: usize,
    spares: Vec<OwnedFd>,
    accept_again: Instant,
}

struct Connection {
    stream: OwnedFd,
    state: State,
    /// When the present state began.
    began: Instant,
    /// When something last went through.
    moved: Instant,
}

enum State {
    Reading(Vec<u8>),
    Sending { answer: Answer, sent: usize },
    Lingering,
    Done,
}

/// What is sent: the page itself, shared with everybody, or a few words.
enum Answer {
    Page(Arc<Page>),
    PageGzip(Arc<Page>),
    PageHead(Arc<Page>),
    Text(Vec<u8>),
}

impl Answer {
    fn bytes(&self) -> &[u8] {
        match self {
            Answer::Page(page) => page.response(),
            Answer::PageGzip(page) => page.compressed(),
            Answer::PageHead(page) => page.head(),
            Answer::Text(text) => text,
        }
    }
}

impl FrontDoor {
    pub fn new(listeners: Vec<Socket>, back_room: BackRoom, board: Arc<Board>) -> FrontDoor {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        let limit = files.saturating_sub(RESERVED_FILES).clamp(FEWEST_CONNECTIONS, MOST_CONNECTIONS) as usize;
        let accept_again = Instant::now();
        FrontDoor { listeners, back_room, board, connections: Vec::new(), limit, spares: Vec::new(), accept_again }
    }

    /// Serves for ever.
    pub fn run(mut self) -> ! {
        loop {
            let ready = self.wait();
            let (listeners, connections) = ready.split_at(self.listeners.len());
            for (index, _) in connections.iter().enumerate().filter(|(_, ready)| **ready) {
                self.advance(index);
            }
            let now = Instant::now();
            self.connections.retain(|connection| !connection.is_over(now));
            for (index, _) in listeners.iter().enumerate().filter(|(_, ready)| **ready) {
                self.accept(index);
            }
            self.connections.retain(|connection| !connection.is_over(now));
        }
    }

    /// Waits for listeners and connections; says for each whether it can go on.
    fn wait(&self) -> Vec<bool> {
        let now = Instant::now();
        let is_accepting = now >= self.accept_again;
        let interest = if is_accepting { PollFlags::IN } else { PollFlags::empty() };
        let listeners = self.listeners.iter().map(|listener| PollFd::from_borrowed_fd(listener.as_fd(), interest));
        let connections = self.connections.iter().map(|connection| {
            let is_sending = matches!(connection.state, State::Sending { .. });
            PollFd::new(&connection.stream, if is_sending { PollFlags::OUT } else { PollFlags::IN })
        });
        let mut descriptors: Vec<PollFd<'_>> = listeners.chain(connections).collect();
        let deadlines = self.connections.iter().map(Connection::deadline);
        let next = deadlines.chain((!is_accepting).then_some(self.accept_again)).min();
        let timeout = next.map(|next| {
            let time = next.saturating_duration_since(now) + Duration::from_millis(1);
            Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) }
        });
        match poll(&mut descriptors, timeout.as_ref()) {
            Ok(_) => descriptors.iter().map(|descriptor| !descriptor.revents().is_empty()).collect(),
            // Interrupted, or the kernel has no memory just now: the next round sees to it.
            Err(_) => vec![false; descriptors.len()],
        }
    }

    fn accept(&mut self, listener: usize) {
        for _ in 0..ACCEPT_BATCH {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match rustix::net::accept_with(self.listeners[listener].as_fd(), flags) {
                Ok(stream) => {
                    let open = self.connections.iter().filter(|connection| !connection.is_done()).count();
                    if open >= self.limit {
                        self.let_oldest_go(None);
                    }
                    let now = Instant::now();
                    self.connections.push(Connection {
                        stream,
                        state: State::Reading(Vec::new()),
                        began: now,
                        moved: now,
                    });
                    // A scraper's request is usually there already.
                    self.advance(self.connections.len() - 1);
                }
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    if !self.let_oldest_go(None) {
                        self.accept_again = Instant::now() + OUT_OF_FILES_PAUSE;
                        return;
                    }
                    self.close_done();
                }
                Err(Errno::AGAIN) => return,
                // A client that went away before it was accepted, or a passing fault of the network.
                Err(_) => {}
            }
        }
    }

    /// Gives up the connection that has waited longest, those with an answer under way last; never `except`. Says
    /// whether there was one.
    fn let_oldest_go(&mut self, except: Option<usize>) -> bool {
        let open = self.connections.iter_mut().enumerate().filter(|(index, c)| Some(*index) != except && !c.is_done());
        match open.min_by_key(|(_, connection)| (matches!(connection.state, State::Sending { .. }), connection.moved)) {
            Some((_, oldest)) => {
                oldest.state = State::Done;
                true
            }
            None => false,
        }
    }

    /// Closes what is done with. Only where no index into the connections is held.
    fn close_done(&mut self) {
        self.connections.retain(|connection| !connection.is_done());
    }

    /// Takes a connection as far as it goes without waiting.
    fn advance(&mut self, index: usize) {
        loop {
            let connection = &mut self.connections[index];
            let step = match &mut connection.state {
                State::Reading(head) => read_head(&connection.stream, head),
                State::Sending { answer, sent } => send(&connection.stream, answer.bytes(), sent),
                State::Lingering => read_away(&connection.stream),
                State::Done => return,
            };
            match step {
                Step::Wait => return,
                Step::Gone => connection.state = State::Done,
                Step::Moved => {
                    connection.moved = Instant::now();
                    self.next_state(index);
                }
            }
        }
    }

    /// Goes from reading to sending when the request is known, and from there to the end when all is sent.
    fn next_state(&mut self, index: usize) {
        let next = match &self.connections[index].state {
            State::Reading(head) => match request::judge(head, LONGEST_HEAD) {
                Verdict::Incomplete => return,
                Verdict::Refused(status) => {
                    State::sending(Answer::Text(super::text(status, super::PLAIN, status, false)))
                }
                Verdict::Complete { request, .. } => State::sending(self.ask(request.canonical().as_bytes(), index)),
            },
            State::Sending { answer, sent } if *sent == answer.bytes().len() => {
                // The other side may be gone already.
                let _ = rustix::net::shutdown(&self.connections[index].stream, Shutdown::Write);
                State::Lingering
            }
            State::Sending { .. } | State::Lingering | State::Done => return,
        };
        let connection = &mut self.connections[index];
        connection.state = next;
        connection.began = connection.moved;
    }

    /// Lets tiny_http say what to answer.
    fn ask(&mut self, head: &[u8], index: usize) -> Answer {
        self.spares.clear();
        let reply = self.back_room.ask(head);
        self.take_spares();
        if matches!(reply, Ok(Reply::Page | Reply::PageGzip)) {
            self.board.note_visit(client(&self.connections[index].stream));
        }
        let page = match reply {
            Ok(Reply::Text(text)) => return Answer::Text(text),
            Ok(Reply::Page) => self.board.page().map(Answer::Page),
            Ok(Reply::PageGzip) => self.board.page().map(Answer::PageGzip),
            Ok(Reply::PageHead) => self.board.page().map(Answer::PageHead),
            Err(error) => {
                log::debug!("tiny_http does not answer: {error}");
                self.back_room.renew();
                None
            }
        };
        page.unwrap_or_else(|| Answer::Text(super::text(super::UNAVAILABLE, super::PLAIN, "busy; try again", false)))
    }

    /// Holds descriptors for the next time; connections that wait give theirs.
    fn take_spares(&mut self) {
        use rustix::fs::{Mode, OFlags};
        while self.spares.len() < SPARE_FILES {
            match rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
                Ok(spare) => self.spares.push(spare),
                Err(_) => return,
            }
        }
    }
}

impl State {
    fn sending(answer: Answer) -> State {
        State::Sending { answer, sent: 0 }
    }
}

impl Connection {
    fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    fn is_over(&self, now: Instant) -> bool {
        self.is_done() || now >= self.deadline()
    }

    fn deadline(&self) -> Instant {
        match self.state {
            State::Reading(_) => self.began + HEAD_TIME,
            State::Sending { .. } => (self.moved + SEND_PAUSE).min(self.began + SEND_TIME),
            State::Lingering => self.began + LINGER_TIME,
            State::Done => self.began,
        }
    }
}

/// A number for the address that a client comes from, whatever its port; the same for all of a Unix socket.
fn client(stream: &OwnedFd) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    if let Ok(Some(peer)) = rustix::net::getpeername(stream)
        && let Ok(address) = std::net::SocketAddr::try_from(peer)
    {
        address.ip().hash(&mut hasher);
    }
    hasher.finish()
}

/// How far a connection came.
enum Step {
    Moved,
    Wait,
    /// The other side has closed or reset it.
    Gone,
}

fn read_head(stream: &OwnedFd, head: &mut Vec<u8>) -> Step {
    let mut buffer = [0u8; 2048];
    let room = (LONGEST_HEAD + 1).saturating_sub(head.len()).min(buffer.len());
    match rustix::net::recv(stream, &mut buffer[..room], RecvFlags::DONTWAIT) {
        Ok((_, 0)) => Step::Gone,
        Ok((_, count)) => {
            head.extend_from_slice(&buffer[..count]);
            Step::Moved
        }
        Err(error) => waits(error),
    }
}

fn send(stream: &OwnedFd, bytes: &[u8], sent: &mut usize) -> Step {
    match rustix::net::send(stream, &bytes[*sent..], SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
        Ok(count) => {
            *sent += count;
            Step::Moved
        }
        Err(error) => waits(error),
    }
}

fn read_away(stream: &OwnedFd) -> Step {
    let mut buffer = [0u8; 4096];
    match rustix::net::recv(stream, &mut buffer, RecvFlags::DONTWAIT) {
        Ok((_, 0)) => Step::Gone,
        Ok(_) => Step::Moved,
        Err(error) => waits(error),
    }
}

fn waits(error: Errno) -> Step {
    if matches!(error, Errno::AGAIN | Errno::INTR) { Step::Wait } else { Step::Gone }
}
