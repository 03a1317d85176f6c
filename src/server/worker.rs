//! A running tiny_http: its private socket, and the thread that answers what it accepts.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use tiny_http::Server;

use super::routes;
use crate::publish::PublishedPage;
use crate::system::threads::{Supervisor, contained, test_fault};
use crate::system::unix_socket;

/// The worker formats a few lines, and makes the page in OpenMetrics. The compressor for that is made on the stack: some
/// 300 KB, which are touched only then.
const STACK: usize = 1024 * 1024;

/// A tiny_http with its worker.
pub struct Running {
    server: Arc<Server>,
    worker: JoinHandle<()>,
    /// Set when it is told to end.
    ending: Arc<AtomicBool>,
    pub socket: Arc<PrivateSocket>,
}

impl Running {
    pub fn start(published: &Arc<PublishedPage>, supervisor: &Supervisor) -> io::Result<Running> {
        let (listener, socket) = private_socket()?;
        let server = Arc::new(Server::from_listener(listener, None).map_err(io::Error::other)?);
        let ending = Arc::new(AtomicBool::new(false));
        let worker = supervisor.spawn("routes", STACK, {
            let (server, ending, published) = (server.clone(), ending.clone(), published.clone());
            let own_socket = socket.clone();
            move || {
                while !ending.load(Ordering::Acquire) {
                    match server.recv() {
                        Ok(request) => {
                            test_fault("routes")?;
                            // tiny_http answers 500 where we do not. The request may have timed out; the poll loop
                            // has answered it then.
                            let _ = contained("an answer", || routes::answer(request, &published));
                        }
                        // tiny_http accepts no more; the poll loop notices and replaces it.
                        Err(error) => log::debug!("tiny_http: {error}"),
                    }
                }
                // Dropping the server asks its accepting thread to end, but cannot wake it, because the socket's name
                // is gone; a last connection does. tiny_http's idle threads follow within seconds.
                drop(server);
                let _ = own_socket.connect();
                Ok(())
            }
        })?;
        Ok(Running { server, worker, ending, socket })
    }

    /// Ends its threads. A worker that hangs in an answer does so when it is done.
    pub fn end(self) {
        let Running { server, worker, ending, .. } = self;
        ending.store(true, Ordering::Release);
        server.unblock();
        drop(server);
        let give_up = Instant::now() + Duration::from_millis(20);
        while !worker.is_finished() && Instant::now() < give_up {
            std::thread::sleep(Duration::from_millis(1));
        }
        if worker.is_finished() {
            // A panic of it has been reported already.
            let _ = worker.join();
        }
    }
}

/// How to reach tiny_http's listening socket.
pub enum PrivateSocket {
    /// Its place in the kernel; the name is gone from the file system.
    Held(OwnedFd),
    /// Its name, in a directory that only this user may enter: without /proc nothing leads to what is held.
    Named(PathBuf),
}

impl PrivateSocket {
    /// Connects without waiting.
    pub fn connect(&self) -> rustix::io::Result<OwnedFd> {
        match self {
            PrivateSocket::Held(held) => unix_socket::connect(through_proc(held)),
            PrivateSocket::Named(path) => unix_socket::connect(path),
        }
    }
}

fn through_proc(held: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()))
}

/// A listening socket that only this process can reach: it is bound in a directory of its own, held open, and taken out
/// of the file system at once, so that nothing is left behind either.
fn private_socket() -> io::Result<(UnixListener, Arc<PrivateSocket>)> {
    let directories = [std::env::var_os("RUNTIME_DIRECTORY").map(PathBuf::from), Some(std::env::temp_dir())];
    let others = ["/dev/shm", "/run", "/var/tmp"].map(PathBuf::from);
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for directory in directories.into_iter().flatten().chain(others) {
        match private_socket_in(directory.join(unguessable())) {
            Ok((listener, socket)) => return Ok((listener, Arc::new(socket))),
            Err(error) => last = error,
        }
    }
    Err(io::Error::new(last.kind(), format!("no directory can hold a socket: {last}")))
}

fn private_socket_in(directory: PathBuf) -> io::Result<(UnixListener, PrivateSocket)> {
    rustix::fs::mkdir(&directory, Mode::RWXU)?;
    let path = directory.join("http");
    let bound = UnixListener::bind(&path).and_then(|listener| {
        let held = rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        Ok((listener, held))
    });
    let bound = match bound {
        Ok((listener, held)) if !through_proc(&held).exists() => return Ok((listener, PrivateSocket::Named(path))),
        bound => bound.map(|(listener, held)| (listener, PrivateSocket::Held(held))),
    };
    let _ = std::fs::remove_file(&path);
    let _ = std::fs::remove_dir(&directory);
    bound
}

fn unguessable() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    format!("dcgm-exporter-{:016x}", RandomState::new().build_hasher().finish())
}
