//! tiny_http, out of the public's reach: it answers every request, one at a time, over a private Unix socket.
//!
//! Its answer to `/metrics` is a word instead of the page, which the front door then sends from the board; so an answer
//! here is always small, and a client that reads slowly holds neither a worker nor a copy.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use tiny_http::{Request, Server};

use crate::page::Board;

/// An answer takes microseconds; after this long something is broken.
const PATIENCE: Duration = Duration::from_secs(1);
const LONGEST_REPLY: u64 = 16 * 1024;
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
    board: Arc<Board>,
    decide: Decide,
}

impl BackRoom {
    /// Starts tiny_http and its worker.
    ///
    /// Errors: no directory for a socket, no descriptor, no thread.
    pub fn open(board: Arc<Board>, decide: Decide) -> io::Result<BackRoom> {
        let socket = start(&board, decide)?;
        Ok(BackRoom { socket, board, decide })
    }

    /// Hands a complete head over and waits for the answer. tiny_http has one request at a time, so its pool of
    /// threads never grows.
    pub fn ask(&self, head: &[u8]) -> io::Result<Reply> {
        let mut stream = UnixStream::connect(format!("/proc/self/fd/{}", self.socket.as_raw_fd()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(head)?;
        let mut text = Vec::new();
        stream.take(LONGEST_REPLY).read_to_end(&mut text)?;
        Ok(match text.as_slice() {
            PAGE => Reply::Page,
            PAGE_GZIP => Reply::PageGzip,
            PAGE_HEAD => Reply::PageHead,
            [] => Reply::Text(super::text("400 Bad Request", super::PLAIN, "400 Bad Request", false)),
            _ => Reply::Text(text),
        })
    }

    /// Starts another tiny_http in place of one that no longer accepts.
    pub fn renew(&mut self) {
        match start(&self.board, self.decide) {
            Ok(socket) => self.socket = socket,
            Err(error) => log::error!("tiny_http cannot be started: {error}"),
        }
    }
}

fn start(board: &Arc<Board>, decide: Decide) -> io::Result<OwnedFd> {
    let (listener, socket) = private_socket()?;
    let server = Server::from_listener(listener, None).map_err(io::Error::other)?;
    let board = board.clone();
    std::thread::Builder::new().name("http".to_owned()).stack_size(STACK).spawn(move || {
        loop {
            match server.recv() {
                // A front door that went away is being replaced.
                Ok(request) => {
                    let reply = decide(&request, &board);
                    let _ = reply.send(request);
                }
                Err(error) => {
                    log::warn!("tiny_http has stopped accepting: {error}");
                    return;
                }
            }
        }
    })?;
    Ok(socket)
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
