//! Which engine to use next: the one that was asked for or, for `auto`, whichever there is.
//!
//! For `auto` the node's host engine comes first, because it holds the GPUs already. A restart of it should not start
//! an embedded one in the meantime, since each start and stop costs seconds; so an engine that is lost is waited for
//! 5 s. One that listens but refuses a session is not tried again for a minute, then for twice as long each time.
//!
//! A host engine's port is unprivileged, so any user of the node may listen there, and would be talked to by a process
//! that has root's rights. `auto` uses a listener of this node only if its owner is root, this process's user or the user
//! of NVIDIA's service. An address that was asked for by itself is used as it is.

use std::time::{Duration, Instant};

use crate::config::engine::{Address, EngineSelection};
use crate::dcgm::hostengine;
use crate::system::listeners::{self, Stranger};

/// How long an engine that went away is waited for.
const RETURN: Duration = Duration::from_secs(5);
/// How often an embedded engine's session looks whether the node's own has come.
const LOOK: Duration = Duration::from_secs(5);
/// How long an engine that refused a session is not tried again: at first, and at most.
const FIRST_REFUSAL: Duration = Duration::from_secs(60);
const LONGEST_REFUSAL: Duration = Duration::from_secs(3600);

/// What to start or connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    Embedded,
    Remote(Address),
    /// Nothing yet: this engine was here a moment ago and may be starting again.
    AwaitReturn(Address),
}

/// The selection that was configured, and what came of it so far.
pub struct EngineChooser {
    engine: EngineSelection,
    /// The host engine that `auto` lost, and until when it is waited for.
    awaited: Option<(Address, Instant)>,
    looked: Instant,
    refused_until: Instant,
    /// How long the next refusal counts.
    refusal: Duration,
    /// The listeners that were not trusted when `auto` last looked.
    strangers: Vec<(Address, Stranger)>,
    /// Those of them that nobody has been told of.
    new_strangers: Vec<(Address, Stranger)>,
}

/// The first of these places at which somebody listens who is trusted, and those who are not.
fn first_trusted(places: &[Address]) -> (Option<&Address>, Vec<(Address, Stranger)>) {
    let mut strangers = Vec::new();
    let trusted = places.iter().filter(|place| hostengine::answers(place)).find(|place| {
        let stranger = listeners::stranger(place);
        strangers.extend(stranger.clone().map(|stranger| ((*place).clone(), stranger)));
        stranger.is_none()
    });
    (trusted, strangers)
}

impl EngineChooser {
    pub fn new(engine: EngineSelection, now: Instant) -> EngineChooser {
        EngineChooser {
            engine,
            awaited: None,
            looked: now,
            refused_until: now,
            refusal: FIRST_REFUSAL,
            strangers: Vec::new(),
            new_strangers: Vec::new(),
        }
    }

    pub fn next(&mut self, now: Instant) -> Next {
        match &self.engine {
            EngineSelection::Embedded => Next::Embedded,
            EngineSelection::Remote(address) => Next::Remote(address.clone()),
            EngineSelection::Auto(_) => {
                self.looked = now;
                let found = self.trusted().filter(|_| now >= self.refused_until);
                match (found, &self.awaited) {
                    (Some(address), _) => Next::Remote(address),
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
            self.refusal = FIRST_REFUSAL;
            self.awaited = Some((address.clone(), Instant::now()));
        }
    }

    /// A host engine that listens refused a session. Returns whether an embedded engine is to be used instead.
    pub fn refused(&mut self, now: Instant) -> bool {
        let EngineSelection::Auto(_) = self.engine else { return false };
        if self.awaited.as_ref().is_some_and(|(_, until)| now < *until) {
            // One that is starting listens before it serves.
            return false;
        }
        self.awaited = None;
        self.refused_until = now + self.refusal;
        self.refusal = (self.refusal * 2).min(LONGEST_REFUSAL);
        true
    }

    /// A session was lost.
    pub fn lost(&mut self, now: Instant) {
        if let Some((_, until)) = &mut self.awaited {
            *until = now + RETURN;
            self.refused_until = now;
        }
    }

    /// The node's host engine, if one has come while an embedded engine is in use.
    pub fn has_come(&mut self, now: Instant) -> Option<Address> {
        if !matches!(self.engine, EngineSelection::Auto(_)) || now < self.looked + LOOK || now < self.refused_until {
            return None;
        }
        self.looked = now;
        self.trusted()
    }

    /// Listeners that are not trusted, each once.
    pub fn take_new_strangers(&mut self) -> Vec<(Address, Stranger)> {
        std::mem::take(&mut self.new_strangers)
    }

    /// The first place of `auto` at which somebody listens who is trusted.
    fn trusted(&mut self) -> Option<Address> {
        let EngineSelection::Auto(places) = &self.engine else { return None };
        let (found, strangers) = first_trusted(places);
        self.new_strangers.extend(strangers.iter().filter(|stranger| !self.strangers.contains(stranger)).cloned());
        let found = found.cloned();
        self.strangers = strangers;
        found
    }

    /// Whether somebody listens where a host engine is waited for.
    pub fn answers(&self) -> bool {
        match &self.engine {
            EngineSelection::Embedded => false,
            EngineSelection::Remote(address) => hostengine::answers(address),
            EngineSelection::Auto(places) => first_trusted(places).0.is_some(),
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
        let mut chooser = EngineChooser::new(EngineSelection::Auto(vec![address.clone()]), now);
        assert_eq!(chooser.next(now), Next::Remote(address.clone()));
        chooser.connected(&address);
        drop(engine);
        chooser.lost(now);
        assert_eq!(chooser.next(now + RETURN / 2), Next::AwaitReturn(address.clone()));
        assert!(!chooser.refused(now + RETURN / 2), "it may be starting");
        assert_eq!(chooser.next(now + RETURN), Next::Embedded);
        chooser.lost(now + RETURN);
        assert_eq!(chooser.next(now + RETURN), Next::Embedded, "nobody waits for an engine of our own");
        assert_eq!(chooser.has_come(now + RETURN * 3), None);
    }

    #[test]
    fn auto_does_not_insist_on_an_engine_that_refuses_it() {
        let (_engine, address) = listener();
        let now = Instant::now();
        let mut chooser = EngineChooser::new(EngineSelection::Auto(vec![address.clone()]), now);
        assert!(chooser.refused(now));
        assert_eq!(chooser.next(now), Next::Embedded);
        assert_eq!(chooser.has_come(now + FIRST_REFUSAL / 2), None);
        assert_eq!(chooser.has_come(now + FIRST_REFUSAL), Some(address.clone()));
        assert!(chooser.refused(now + FIRST_REFUSAL));
        assert_eq!(chooser.has_come(now + FIRST_REFUSAL * 2), None, "the second refusal counts for longer");
        chooser.connected(&address);
        chooser.lost(now + FIRST_REFUSAL * 2);
        assert_eq!(chooser.next(now + FIRST_REFUSAL * 2), Next::Remote(address));
    }

    #[test]
    fn what_was_asked_for_is_not_second_guessed() {
        let (_engine, address) = listener();
        let now = Instant::now();
        let mut embedded = EngineChooser::new(EngineSelection::Embedded, now);
        assert_eq!((embedded.next(now), embedded.has_come(now + LOOK)), (Next::Embedded, None));
        let mut remote = EngineChooser::new(EngineSelection::Remote(address.clone()), now);
        assert!(!remote.refused(now));
        assert_eq!(remote.next(now), Next::Remote(address));
    }
}
