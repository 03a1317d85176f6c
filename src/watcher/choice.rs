//! Which engine to use next: the one that was asked for or, for `auto`, whichever there is.
//!
//! For `auto` the node's host engine comes first, because it holds the GPUs already. A restart of it should not start
//! an embedded one in the meantime, since each start and stop costs seconds and some memory inside libdcgm; so an
//! engine that is lost is waited for a little. One that listens but does not let us in is left alone for longer and
//! longer.

use std::time::{Duration, Instant};

use crate::config::engine::{Address, EngineSelection};
use crate::dcgm::hostengine;

/// How long an engine that went away is waited for.
const RETURN: Duration = Duration::from_secs(5);
/// How often an embedded engine's session looks whether the node's own has come.
const LOOK: Duration = Duration::from_secs(5);
/// How long an engine that did not let us in is left alone: at first, and at most.
const FIRST_GRUDGE: Duration = Duration::from_secs(60);
const LONGEST_GRUDGE: Duration = Duration::from_secs(3600);

/// What to start or connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    Embedded,
    Remote(Address),
    /// Nothing yet: this engine was here a moment ago and may be starting again.
    AwaitReturn(Address),
}

pub struct Choice {
    engine: EngineSelection,
    /// The host engine that `auto` lost, and until when it is waited for.
    awaited: Option<(Address, Instant)>,
    looked: Instant,
    left_alone_until: Instant,
    grudge: Duration,
}

impl Choice {
    pub fn new(engine: EngineSelection, now: Instant) -> Choice {
        Choice { engine, awaited: None, looked: now, left_alone_until: now, grudge: FIRST_GRUDGE }
    }

    pub fn next(&mut self, now: Instant) -> Next {
        match &self.engine {
            EngineSelection::Embedded => Next::Embedded,
            EngineSelection::Remote(address) => Next::Remote(address.clone()),
            EngineSelection::Auto(places) => {
                self.looked = now;
                let found = hostengine::first_answering(places).filter(|_| now >= self.left_alone_until);
                match (found, &self.awaited) {
                    (Some(address), _) => Next::Remote(address.clone()),
                    (None, Some((address, until))) if now < *until => Next::AwaitReturn(address.clone()),
                    (None, _) => {
                        self.awaited = None;
                        Next::Embedded
                    }
                }
            }
        }
    }

    /// A session with a host engine has begun.
    pub fn connected(&mut self, address: &Address) {
        if matches!(self.engine, EngineSelection::Auto(_)) {
            self.grudge = FIRST_GRUDGE;
            self.awaited = Some((address.clone(), Instant::now()));
        }
    }

    /// A host engine that listens did not let us in. Says whether an embedded engine is to be used instead.
    pub fn refused(&mut self, now: Instant) -> bool {
        let EngineSelection::Auto(_) = self.engine else { return false };
        if self.awaited.as_ref().is_some_and(|(_, until)| now < *until) {
            // One that is starting listens before it serves.
            return false;
        }
        self.awaited = None;
        self.left_alone_until = now + self.grudge;
        self.grudge = (self.grudge * 2).min(LONGEST_GRUDGE);
        true
    }

    /// A session was lost.
    pub fn lost(&mut self, now: Instant) {
        if let Some((_, until)) = &mut self.awaited {
            *until = now + RETURN;
            self.left_alone_until = now;
        }
    }

    /// The node's host engine, if one has come while an embedded engine is in use.
    pub fn has_come(&mut self, now: Instant) -> Option<Address> {
        let EngineSelection::Auto(places) = &self.engine else { return None };
        if now < self.looked + LOOK || now < self.left_alone_until {
            return None;
        }
        self.looked = now;
        hostengine::first_answering(places).cloned()
    }

    /// Whether somebody listens where a host engine is waited for.
    pub fn answers(&self) -> bool {
        match &self.engine {
            EngineSelection::Embedded => false,
            EngineSelection::Remote(address) => hostengine::answers(address),
            EngineSelection::Auto(places) => hostengine::first_answering(places).is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> (std::net::TcpListener, Address) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap().to_string());
        (listener, address)
    }

    #[test]
    fn auto_takes_what_there_is_and_waits_for_what_was_lost() {
        let (engine, address) = listener();
        let now = Instant::now();
        let mut choice = Choice::new(EngineSelection::Auto(vec![address.clone()]), now);
        assert_eq!(choice.next(now), Next::Remote(address.clone()));
        choice.connected(&address);
        drop(engine);
        choice.lost(now);
        assert_eq!(choice.next(now + RETURN / 2), Next::AwaitReturn(address.clone()));
        assert!(!choice.refused(now + RETURN / 2), "it may be starting");
        assert_eq!(choice.next(now + RETURN), Next::Embedded);
        choice.lost(now + RETURN);
        assert_eq!(choice.next(now + RETURN), Next::Embedded, "nobody waits for an engine of our own");
        assert_eq!(choice.has_come(now + RETURN * 3), None);
    }

    #[test]
    fn auto_leaves_an_engine_alone_that_does_not_let_it_in() {
        let (_engine, address) = listener();
        let now = Instant::now();
        let mut choice = Choice::new(EngineSelection::Auto(vec![address.clone()]), now);
        assert!(choice.refused(now));
        assert_eq!(choice.next(now), Next::Embedded);
        assert_eq!(choice.has_come(now + FIRST_GRUDGE / 2), None);
        assert_eq!(choice.has_come(now + FIRST_GRUDGE), Some(address.clone()));
        assert!(choice.refused(now + FIRST_GRUDGE));
        assert_eq!(choice.has_come(now + FIRST_GRUDGE * 2), None, "the second time it is left alone for longer");
        choice.connected(&address);
        choice.lost(now + FIRST_GRUDGE * 2);
        assert_eq!(choice.next(now + FIRST_GRUDGE * 2), Next::Remote(address));
    }

    #[test]
    fn what_was_asked_for_is_not_second_guessed() {
        let (_engine, address) = listener();
        let now = Instant::now();
        let mut embedded = Choice::new(EngineSelection::Embedded, now);
        assert_eq!((embedded.next(now), embedded.has_come(now + LOOK)), (Next::Embedded, None));
        let mut remote = Choice::new(EngineSelection::Remote(address.clone()), now);
        assert!(!remote.refused(now));
        assert_eq!(remote.next(now), Next::Remote(address));
    }
}
