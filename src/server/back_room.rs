//! tiny_http, out of the public's reach: it answers every request, one at a time, over a private Unix socket.
//!
//! Its answer to `/metrics` is a word instead of the page, which the front door then sends from the board; so an answer
//! here is always small, and a client that reads slowly holds neither a worker nor a copy.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use tiny_http::{Request, Server};

use crate::page::Board;

/// An answer takes microseconds; after this long something is broken.
const PATIENCE: Duration = Duration::from_secs(1);
/// The shortest time between two replacements of a tiny_http.
const RENEW_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_REPLY: usize = 16 * 1024;
/// Serving needs little: a request's head, and words.
const STACK: usize = 128 * 1024;

const PAGE: &[u8] = b"page\n";
const PAGE_GZIP: &[u8] = b"page gzip\n";
const PAGE_HEAD: &[u8] = b"page head\n";

/// What tiny_http's worker decided.
pub enum Reply {
    /// The newest page.
    Page,
    /// The newest page, compressed if it is to be had so.
    PageGzip,
    /// The head of that response.
    PageHead,
    /// This, to the letter.
    Text(Vec<u8>),
}

impl Reply {
    /// Answers a request with this.
    pub fn send(self, request: Request) -> io::Result<()> {
        let mut writer = request.into_writer();
        writer.write_all(match &self {
            Reply::Page => PAGE,
            Reply::PageGzip => PAGE_GZIP,
            Reply::PageHead => PAGE_HEAD,
            Reply::Text(text) => text,
        })?;
        writer.flush()
    }
}

type Decide = fn(&Request, &Board) -> Reply;

pub struct BackRoom {
    /// The socket, held by its place in the kernel: its name is gone from the file system.
    socket: OwnedFd,
    /// The connection that requests go over.
    stream: Option<UnixStream>,
    board: Arc<Board>,
    decide: Decide,
    running: Running,
    renewed: Option<Instant>,
}

/// A tiny_http and the thread that answers its requests.
struct Running {
    server: Arc<Server>,
    worker: JoinHandle<()>,
}

impl BackRoom {
    /// Starts tiny_http and its worker.
    ///
    /// Errors: no directory for a socket, no descriptor, no thread.
    pub fn open(board: Arc<Board>, decide: Decide) -> io::Result<BackRoom> {
        let (socket, running) = start(&board, decide)?;
        Ok(BackRoom { socket, stream: None, board, decide, running, renewed: None })
    }

    /// Hands a complete head over and waits for the answer. One connection serves all requests, one after the other, so
    /// tiny_http never has more than one and its pool of threads never grows.
    pub fn ask(&mut self, head: &[u8]) -> io::Result<Reply> {
        if let Some(stream) = self.stream.take()
            && let Ok(reply) = self.exchange(stream, head)
        {
            return Ok(reply);
        }
        // tiny_http closes after requests that it does not like; what it closed it has not answered.
        let stream = UnixStream::connect(format!("/proc/self/fd/{}", self.socket.as_raw_fd()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        self.exchange(stream, head)
    }

    /// Keeps the connection for the next time, unless it is at its end.
    fn exchange(&mut self, mut stream: UnixStream, head: &[u8]) -> io::Result<Reply> {
        stream.write_all(head)?;
        let is_head = head.starts_with(b"HEAD ");
        let mut text = Vec::new();
        let mut buffer = [0u8; 2048];
        loop {
            let count = stream.read(&mut buffer)?;
            text.extend_from_slice(&buffer[..count]);
            let is_whole = match text.as_slice() {
                PAGE | PAGE_GZIP | PAGE_HEAD => true,
                other => length_of(other, is_head).is_some_and(|length| text.len() >= length),
            };
            if is_whole {
                self.stream = Some(stream);
                return Ok(match text.as_slice() {
                    PAGE => Reply::Page,
                    PAGE_GZIP => Reply::PageGzip,
                    PAGE_HEAD => Reply::PageHead,
                    _ => Reply::Text(text),
                });
            }
            match count {
                0 if text.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
                // An answer that ends with its connection.
                0 => return Ok(Reply::Text(text)),
                _ if text.len() > LONGEST_REPLY => return Err(io::ErrorKind::InvalidData.into()),
                _ => {}
            }
        }
    }

    /// Replaces a tiny_http that has stopped answering; at most once a minute. No request can be the reason, because
    /// every head that it gets is written here; so this is a bug, and one at a time is enough.
    pub fn renew(&mut self) {
        let now = Instant::now();
        if self.renewed.is_some_and(|renewed| now < renewed + RENEW_PAUSE) {
            return;
        }
        self.renewed = Some(now);
        match start(&self.board, self.decide) {
            Ok((socket, running)) => {
                log::warn!("the HTTP server did not answer; it has been replaced");
                self.stream = None;
                let old = std::mem::replace(&mut self.running, running);
                old.end(&std::mem::replace(&mut self.socket, socket));
            }
            Err(error) => log::error!("the HTTP server did not answer and cannot be replaced: {error}"),
        }
    }
}

impl Running {
    /// Ends its threads: the worker by unblocking it, the accepting one by a last connection, since dropping the server
    /// asks it to end but cannot reach a socket whose name is gone. A worker that hangs is left behind.
    fn end(self, socket: &OwnedFd) {
        self.server.unblock();
        let give_up = Instant::now() + PATIENCE;
        while !self.worker.is_finished() && Instant::now() < give_up {
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.worker.is_finished() {
            let _ = self.worker.join();
        }
        drop(self.server);
        let _ = UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd()));
    }
}

/// How long a response is, as its head says; `None` while the head is not complete.
fn length_of(response: &[u8], is_head: bool) -> Option<usize> {
    let end = response.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&response[..end]).ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok()).flatten()
    });
    Some(end + if is_head { 0 } else { length.unwrap_or(0) })
}

fn start(board: &Arc<Board>, decide: Decide) -> io::Result<(OwnedFd, Running)> {
    let (listener, socket) = private_socket()?;
    let server = Arc::new(Server::from_listener(listener, None).map_err(io::Error::other)?);
    let (board, served) = (board.clone(), server.clone());
    let worker = std::thread::Builder::new().name("http".to_owned()).stack_size(STACK).spawn(move || {
        loop {
            match served.recv() {
                // A front door that went away is being replaced.
                Ok(request) => {
                    let reply = decide(&request, &board);
                    let _ = reply.send(request);
                }
                Err(error) => {
                    log::debug!("tiny_http has ended: {error}");
                    return;
                }
            }
        }
    })?;
    Ok((socket, Running { server, worker }))
}

/// A listening socket that only this process can reach: it is bound in a directory of its own, held open, and taken out
/// of the file system at once, so that nothing is left behind either.
fn private_socket() -> io::Result<(UnixListener, OwnedFd)> {
    let directories = [std::env::var_os("RUNTIME_DIRECTORY").map(PathBuf::from), Some(std::env::temp_dir())];
    let others = ["/dev/shm", "/run", "/var/tmp"].map(PathBuf::from);
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for directory in directories.into_iter().flatten().chain(others) {
        match private_socket_in(directory.join(unguessable())) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(io::Error::new(last.kind(), format!("no directory can hold a socket: {last}")))
}

fn private_socket_in(directory: PathBuf) -> io::Result<(UnixListener, OwnedFd)> {
    rustix::fs::mkdir(&directory, Mode::RWXU)?;
    let path = directory.join("http");
    let bound = UnixListener::bind(&path).and_then(|listener| {
        let held = rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        Ok((listener, held))
    });
    let _ = std::fs::remove_file(&path);
    let _ = std::fs::remove_dir(&directory);
    bound
}

fn unguessable() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    format!("dcgm-exporter-{:016x}", RandomState::new().build_hasher().finish())
}
