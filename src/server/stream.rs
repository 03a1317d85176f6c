//! The bytes of a connection, plain or through TLS, one step at a time and never waiting.

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, sockopt};
use rustls::ServerConnection;

use super::tls::{self, Acceptor};

/// Bytes read from a socket in one step.
const READ: usize = 4096;
/// Bytes of a handshake from the client at the most, which TLS keeps until it has understood them. A hello has up to 2 KB,
/// a chain of client certificates some 10 KB.
const LONGEST_HANDSHAKE: usize = 24 * 1024;
/// Text encrypted in one step: one TLS record.
const RECORD: usize = 16 * 1024;

pub struct Stream {
    socket: OwnedFd,
    tls: Option<Box<Tls>>,
}

struct Tls {
    acceptor: Arc<Acceptor>,
    /// Made with the first bytes, so that a client that sends none costs nothing.
    session: Option<ServerConnection>,
    /// Bytes of a handshake that wait for [`Stream::go_on_with_handshake`].
    received: Vec<u8>,
    /// Bytes of the handshake so far.
    handshake: usize,
    /// The handshake is done, and the client let in.
    is_checked: bool,
}

/// How far a step came.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Moved,
    Wait,
    /// The other side has closed or broken the connection.
    Gone,
    /// HTTP came where TLS is spoken.
    NotTls,
    /// The handshake failed; the other side has been told, as far as it listens.
    Refused,
}

impl Stream {
    pub fn new(socket: OwnedFd, acceptor: Option<Arc<Acceptor>>) -> Stream {
        let tls = acceptor.map(|acceptor| {
            Box::new(Tls { acceptor, session: None, received: Vec::new(), handshake: 0, is_checked: false })
        });
        Stream { socket, tls }
    }

    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// A handshake has not begun or is not done.
    pub fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| !tls.is_checked)
    }

    /// Bytes of a handshake have come; it is to be continued.
    pub fn has_handshake_to_do(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| !tls.received.is_empty())
    }

    /// There is something to send, whatever the connection is doing.
    pub fn wants_write(&self) -> bool {
        self.session().is_some_and(|session| session.wants_write())
    }

    fn session(&self) -> Option<&ServerConnection> {
        self.tls.as_ref()?.session.as_ref()
    }

    /// From here on what is sent goes out as it is, to a client that never spoke TLS.
    pub fn give_up_tls(&mut self) {
        self.tls = None;
    }

    /// Reads what there is, in one system call, and appends it to `input` up to `room` bytes. `Moved` need not mean
    /// that `input` has grown: TLS has bytes of its own. Those of a handshake are only put aside, because going on with
    /// it costs milliseconds.
    pub fn read(&mut self, input: &mut Vec<u8>, room: usize) -> Step {
        let mut buffer = [0u8; READ];
        let most = if self.tls.is_some() { READ } else { READ.min(room) };
        let count = match rustix::net::recv(&self.socket, &mut buffer[..most], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return Step::Gone,
            Ok((_, count)) => count,
            Err(error) => return self.flush(waits(error)),
        };
        match &mut self.tls {
            None => input.extend_from_slice(&buffer[..count]),
            Some(tls) => {
                if tls.session.is_none() && tls.received.is_empty() && tls::looks_like_http(&buffer[..count]) {
                    input.extend_from_slice(&buffer[..count]);
                    return Step::NotTls;
                }
                if !tls.is_checked {
                    tls.handshake += count;
                    if tls.handshake > LONGEST_HANDSHAKE {
                        log::debug!("TLS: the handshake is longer than {LONGEST_HANDSHAKE} bytes");
                        tls.session = None;
                        return Step::Refused;
                    }
                    tls.received.extend_from_slice(&buffer[..count]);
                    return Step::Moved;
                }
                if let Err(error) = tls.take(&buffer[..count]) {
                    return self.refuse(&error);
                }
            }
        }
        match self.read_decrypted(input, room) {
            Step::Gone => Step::Gone,
            _ => self.flush(Step::Moved),
        }
    }

    /// Goes on with a handshake as far as the bytes that have come allow. A request may follow it at once.
    pub fn go_on_with_handshake(&mut self, input: &mut Vec<u8>, room: usize) -> Step {
        let Some(tls) = &mut self.tls else { return Step::Moved };
        let received = std::mem::take(&mut tls.received);
        if let Err(error) = tls.take(&received) {
            return self.refuse(&error);
        }
        match self.read_decrypted(input, room) {
            Step::Gone => Step::Gone,
            _ => self.flush(Step::Moved),
        }
    }

    /// Tells the other side what was wrong, as far as it listens.
    fn refuse(&mut self, error: &rustls::Error) -> Step {
        log::debug!("TLS: {error}");
        self.flush(Step::Refused);
        Step::Refused
    }

    /// Appends what has been decrypted already; there may be some of it that no descriptor tells of.
    pub fn read_decrypted(&mut self, input: &mut Vec<u8>, room: usize) -> Step {
        let Some(session) = self.tls.as_mut().and_then(|tls| tls.session.as_mut()) else { return Step::Moved };
        let before = input.len();
        input.resize(before + room, 0);
        let read = session.reader().read(&mut input[before..]);
        input.truncate(before + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) if room > 0 => Step::Gone,
            Ok(_) => Step::Moved,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Step::Wait,
            Err(_) => Step::Gone,
        }
    }

    /// Sends a part of `head` and `body` from `sent` on, in one system call.
    pub fn write(&mut self, head: &[u8], body: &[u8], sent: &mut usize) -> Step {
        let (head, body) = (&head[(*sent).min(head.len())..], &body[sent.saturating_sub(head.len())..]);
        let Some(session) = self.tls.as_mut().and_then(|tls| tls.session.as_mut()) else {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let parts = [IoSlice::new(head), IoSlice::new(body)];
            return match rustix::net::sendmsg(&self.socket, &parts, &mut SendAncillaryBuffer::default(), flags) {
                Ok(count) => {
                    *sent += count;
                    Step::Moved
                }
                Err(error) => waits(error),
            };
        };
        if !session.wants_write() {
            let mut room = RECORD;
            for part in [head, body] {
                let part = &part[..part.len().min(room)];
                match session.writer().write(part) {
                    Ok(count) => (*sent, room) = (*sent + count, room - count),
                    Err(_) => return Step::Gone,
                }
            }
        }
        self.flush(Step::Moved)
    }

    /// Sends what TLS has to send of its own, once; `otherwise` is the outcome unless that fails.
    fn flush(&mut self, otherwise: Step) -> Step {
        let socket = &self.socket;
        match self.tls.as_mut().and_then(|tls| tls.session.as_mut()) {
            Some(session) if session.wants_write() => match session.write_tls(&mut Socket(socket)) {
                Ok(_) => {
                    if otherwise == Step::Wait {
                        Step::Moved
                    } else {
                        otherwise
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => otherwise,
                Err(_) => Step::Gone,
            },
            _ => otherwise,
        }
    }

    /// Says that nothing more comes from here.
    pub fn finish(&mut self) {
        if let Some(session) = self.tls.as_mut().and_then(|tls| tls.session.as_mut()) {
            session.send_close_notify();
        }
        self.flush(Step::Moved);
        // The other side may be gone already.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
    }

    /// Whether the other side would still be let in by the settings in force, if they have changed since it was.
    pub fn is_still_let_in(&mut self, in_force: Option<&Arc<Acceptor>>) -> bool {
        let (Some(tls), Some(in_force)) = (&mut self.tls, in_force) else { return true };
        let Some(session) = tls.session.as_ref().filter(|_| !Arc::ptr_eq(&tls.acceptor, in_force)) else { return true };
        let is_let_in = in_force.check(session).is_ok();
        tls.acceptor = in_force.clone();
        is_let_in
    }

    /// Whether both sides have closed and all has arrived, or the connection is broken. A Unix socket's bytes are the
    /// other side's at once.
    pub fn is_over(&self) -> bool {
        let peer = rustix::net::getpeername(&self.socket).ok().flatten();
        !peer.is_some_and(|peer| matches!(peer.address_family(), AddressFamily::INET | AddressFamily::INET6))
    }

    /// Throws away what the other side still sends; says how much it was.
    pub fn discard(&mut self) -> (Step, usize) {
        let mut buffer = [0u8; READ];
        match rustix::net::recv(&self.socket, &mut buffer, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => (Step::Gone, 0),
            Ok((_, count)) => (Step::Moved, count),
            Err(error) => (waits(error), 0),
        }
    }
}

/// A connection that is given up is reset, or the kernel would keep its bytes for minutes, without any limit.
impl Drop for Stream {
    fn drop(&mut self) {
        if !self.is_over() {
            let _ = sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
        }
    }
}

impl Tls {
    /// Decrypts.
    ///
    /// Errors: what the other side did wrong, or why it is not let in.
    fn take(&mut self, mut bytes: &[u8]) -> Result<(), rustls::Error> {
        if self.session.is_none() {
            self.session = Some(self.acceptor.accept()?);
        }
        let Some(session) = &mut self.session else { return Ok(()) };
        while !bytes.is_empty() {
            // Decrypted text is taken out after each step, so there is room for one step's more.
            let count = session.read_tls(&mut bytes).map_err(|error| rustls::Error::General(error.to_string()))?;
            session.process_new_packets()?;
            if count == 0 {
                break;
            }
        }
        if !self.is_checked && !session.is_handshaking() {
            self.acceptor.check_resumed(session)?;
            self.is_checked = true;
        }
        Ok(())
    }
}

fn waits(error: Errno) -> Step {
    if matches!(error, Errno::AGAIN | Errno::INTR) { Step::Wait } else { Step::Gone }
}

/// A socket for rustls to write to.
struct Socket<'a>(&'a OwnedFd);

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.0, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        Ok(rustix::net::sendmsg(self.0, parts, &mut SendAncillaryBuffer::default(), flags)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
