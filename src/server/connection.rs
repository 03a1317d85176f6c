//! One connection of the poll loop: its state, what it waits for, and when it is overdue.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::request::Request;
use super::response::Asked;
use super::stream::Stream;
use crate::config::listen::Timeouts;
use crate::publish::{Client, Page};
use crate::status::Rendered;

/// How long a kept connection may be idle.
const IDLE: Duration = Duration::from_secs(60);
/// How often it is asked whether the last bytes of a closed connection have arrived.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

pub struct Connection {
    pub id: u64,
    pub stream: Stream,
    /// The address is the same for all of a Unix socket. The User-Agent is that of the present request.
    pub client: Client,
    /// A number for the network that it comes from; whoever takes too much takes it from the same.
    pub network: u64,
    pub state: State,
    /// When the present state began.
    pub since: Instant,
    /// When something last went through.
    pub moved: Instant,
    /// Bytes that have come and are not yet part of a request.
    pub input: Vec<u8>,
    /// What has to be known of the present request to send its answer.
    pub asked: Asked,
    pub is_kept: bool,
    /// A further request may be among the bytes that have come already. Only while it is [`State::Reading`], and until
    /// they are judged nothing else happens to it.
    pub has_more: bool,
}

pub enum State {
    /// Waits for a request, or for the rest of one.
    Reading,
    /// Waits for bcrypt to let this request in.
    LoggingIn(Request),
    /// Waits for tiny_http to say what to send.
    Waiting,
    Sending {
        head: Vec<u8>,
        body: Content,
        sent: usize,
    },
    /// The last answer is out; the client is to close. Until then its remaining bytes are read away: closing on unread
    /// bytes would reset the connection and could take the end of the answer with it.
    Lingering {
        discarded: usize,
    },
    /// Both sides have closed; the kernel may have bytes to deliver. poll(2) would report it ready for ever.
    Draining,
    Closed,
}

pub enum Content {
    Nothing,
    Text(Vec<u8>),
    Page(Arc<Page>),
    PageGzip(Arc<Page>),
    Status(Arc<Rendered>),
}

impl Content {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Content::Nothing => &[],
            Content::Text(text) => text,
            Content::Page(page) => page.plain(),
            Content::PageGzip(page) => page.gzip().unwrap_or_default(),
            Content::Status(page) => page.rest(),
        }
    }
}

impl Connection {
    pub fn has_handshake_to_do(&self) -> bool {
        matches!(self.state, State::Reading) && self.stream.has_handshake_to_do()
    }

    pub fn enter(&mut self, state: State, now: Instant) {
        (self.state, self.since) = (state, now);
    }

    /// The page that is being sent.
    pub fn page(&self) -> Option<&Arc<Page>> {
        match &self.state {
            State::Sending { body: Content::Page(page) | Content::PageGzip(page), .. } => Some(page),
            _ => None,
        }
    }

    pub fn linger(&mut self, now: Instant) {
        self.stream.finish();
        self.enter(State::Lingering { discarded: 0 }, now);
    }

    /// The client sends nothing more. What it has not taken yet is still delivered.
    pub fn end(&mut self, now: Instant) {
        self.stream.finish();
        let state = if self.stream.is_over() { State::Closed } else { State::Draining };
        (self.state, self.since, self.moved) = (state, now, now);
    }

    /// Its time is over.
    pub fn overdue(&mut self, now: Instant, timeouts: &Timeouts) {
        match self.state {
            State::Reading | State::LoggingIn(_) | State::Waiting => self.linger(now),
            State::Draining if !self.stream.is_over() && now < self.since + timeouts.write => self.moved = now,
            State::Draining | State::Sending { .. } | State::Lingering { .. } | State::Closed => {
                self.state = State::Closed;
            }
        }
    }

    pub fn interest(&self) -> PollFlags {
        match self.state {
            State::Reading if self.has_more || self.stream.has_handshake_to_do() => PollFlags::empty(),
            State::Reading if self.stream.wants_write() => PollFlags::IN | PollFlags::OUT,
            State::Reading | State::Lingering { .. } => PollFlags::IN,
            State::Sending { .. } => PollFlags::OUT,
            State::LoggingIn(_) | State::Waiting | State::Draining | State::Closed => PollFlags::empty(),
        }
    }

    pub fn deadline(&self, timeouts: &Timeouts) -> Instant {
        match self.state {
            State::Reading if self.is_kept => self.since + IDLE,
            State::Reading => self.since + timeouts.read,
            State::LoggingIn(_) | State::Waiting | State::Sending { .. } | State::Lingering { .. } => {
                self.since + timeouts.write
            }
            State::Draining => self.moved + DRAIN_LOOK,
            State::Closed => self.since,
        }
    }
}

/// A number for a client's address, whatever its port; one for all clients of a Unix socket.
pub fn number(address: Option<SocketAddr>) -> u64 {
    hash(address.map(|address| address.ip().to_canonical()))
}

/// A number for an IPv4 address, or for the first half of an IPv6 address: every host has all addresses of such a network.
pub fn network(address: Option<SocketAddr>) -> u64 {
    hash(address.map(|address| match address.ip().to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address => address,
    }))
}

fn hash(address: Option<IpAddr>) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let of = |ip: &str| network(Some(SocketAddr::new(ip.parse().unwrap(), 1)));
        for (one, other, is_same) in [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.2", false),
            ("2001:db8::1", "2001:db8::ffff:1:2:3", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            assert_eq!(of(one) == of(other), is_same, "{one} {other}");
        }
    }
}
