//! Who may have an answer: basic authentication against bcrypt hashes, and the web configuration that is in force.
//!
//! bcrypt is slow on purpose (60 ms at cost 10), so it never runs on the poll loop's thread, and only one runs at a
//! time: guessing passwords takes one core at most, and fills a bounded queue. Checked logins are remembered, so
//! that a scraper costs one bcrypt in its life. The same thread looks every second whether the configuration's files
//! have changed.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use ring::rand::SystemRandom;
use rustix::event::{EventfdFlags, eventfd};

use super::reload::Monitor;
use super::web_config::WebConfig;
use crate::system::threads::{Supervisor, test_fault};

/// Passwords that wait for bcrypt: one of each network, so that who guesses at one keeps nobody else out. Further ones
/// are refused with 429.
const MOST_WAITING: usize = 256;
/// Remembered results; good ones are kept apart, so that wrong passwords do not push them out.
const MOST_GOOD: usize = 64;
const MOST_BAD: usize = 256;
/// How often the configuration's files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// bcrypt's state is 4 KiB; reading a configuration takes the rest.
const STACK: usize = 512 * 1024;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    Accepted,
    Refused,
    /// bcrypt has to be asked; see [`Credentials::take_results`].
    Pending,
    /// Too many passwords wait already.
    Busy,
}

/// A name, hash and password as one value that tells nothing of them to whoever reads this process's memory later.
type Digest = [u8; 32];

struct Job {
    digest: Digest,
    password: Vec<u8>,
    hash: String,
    is_known: bool,
}

/// The poll loop's side.
pub struct Credentials {
    config: Arc<ArcSwap<WebConfig>>,
    worker: Option<Worker>,
    good: VecDeque<Digest>,
    bad: VecDeque<Digest>,
    waiting: Vec<Waiting>,
}

/// A password under way.
struct Waiting {
    digest: Digest,
    /// Where it came from first.
    network: u64,
    /// The connections that wait for it.
    who: Vec<u64>,
}

struct Worker {
    /// Of the digests; random.
    key: hmac::Key,
    jobs: SyncSender<Job>,
    results: Receiver<(Digest, bool)>,
    bell: Arc<OwnedFd>,
}

impl Credentials {
    /// Without a configuration: everybody gets an answer, and there is no thread.
    pub fn none() -> Credentials {
        Credentials::with(Arc::new(ArcSwap::default()), None)
    }

    /// Starts the thread that checks passwords and files.
    ///
    /// Errors: no thread, no event descriptor.
    pub fn start(config: WebConfig, monitor: Monitor, supervisor: &Supervisor) -> std::io::Result<Credentials> {
        let config = Arc::new(ArcSwap::from_pointee(config));
        let (jobs, queue) = sync_channel(MOST_WAITING);
        let (done, results) = channel();
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        supervisor.spawn("credentials", STACK, {
            let (config, bell) = (config.clone(), bell.clone());
            move || {
                work(&queue, monitor, &config, |result| {
                    let is_sent = done.send(result).is_ok();
                    let _ = rustix::io::write(&*bell, &1u64.to_ne_bytes());
                    is_sent
                })
            }
        })?;
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        let key = key.map_err(|_| std::io::Error::other("the system has no random numbers"))?;
        Ok(Credentials::with(config, Some(Worker { key, jobs, results, bell })))
    }

    fn with(config: Arc<ArcSwap<WebConfig>>, worker: Option<Worker>) -> Credentials {
        Credentials { config, worker, good: VecDeque::new(), bad: VecDeque::new(), waiting: Vec::new() }
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<WebConfig> {
        self.config.load_full()
    }

    /// What to wait on for results.
    pub fn descriptor(&self) -> Option<&OwnedFd> {
        self.worker.as_ref().map(|worker| &*worker.bell)
    }

    /// Judges an `Authorization` header. `who` is handed back by [`Credentials::take_results`] if the answer takes
    /// time; `network` is a number for where it comes from.
    pub fn judge(&mut self, who: u64, network: u64, authorization: Option<&str>) -> Login {
        let config = self.config.load();
        if config.users.is_empty() {
            return Login::Accepted;
        }
        let Some(worker) = &self.worker else { return Login::Refused };
        let Some((user, password)) = authorization.and_then(basic) else { return Login::Refused };
        let found = std::str::from_utf8(&user).ok().and_then(|user| config.users.get(user));
        // An unknown name costs as much as a wrong password of the most expensive hash, so that time does not tell
        // names where all hashes have the same cost.
        let hash = found.cloned().unwrap_or_else(|| most_expensive_impossible(config.users.values()));
        let digest = digest(&worker.key, &[&user, hash.as_bytes(), &password]);
        if self.good.contains(&digest) {
            return Login::Accepted;
        }
        if self.bad.contains(&digest) {
            return Login::Refused;
        }
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.digest == digest) {
            waiting.who.push(who);
            return Login::Pending;
        }
        if self.waiting.len() >= MOST_WAITING || self.waiting.iter().any(|waiting| waiting.network == network) {
            return Login::Busy;
        }
        match worker.jobs.try_send(Job { digest, password, hash, is_known: found.is_some() }) {
            Ok(()) => {
                self.waiting.push(Waiting { digest, network, who: vec![who] });
                Login::Pending
            }
            Err(_) => Login::Busy,
        }
    }

    /// A connection is closed and waits for nothing any more.
    pub fn forget(&mut self, who: u64) {
        self.waiting.iter_mut().for_each(|waiting| waiting.who.retain(|known| *known != who));
    }

    /// Hands over who was found right or wrong since the last call.
    pub fn take_results(&mut self, mut each: impl FnMut(u64, bool)) {
        let Some(worker) = &self.worker else { return };
        let _ = rustix::io::read(&*worker.bell, &mut [0u8; 8]);
        while let Ok((digest, is_right)) = worker.results.try_recv() {
            let (remembered, most) = if is_right { (&mut self.good, MOST_GOOD) } else { (&mut self.bad, MOST_BAD) };
            if remembered.len() >= most {
                remembered.pop_front();
            }
            remembered.push_back(digest);
            if let Some(at) = self.waiting.iter().position(|waiting| waiting.digest == digest) {
                self.waiting.swap_remove(at).who.into_iter().for_each(|who| each(who, is_right));
            }
        }
    }
}

/// Each part goes in with its length before it, so that no two lists of parts are one text.
fn digest(key: &hmac::Key, parts: &[&[u8]]) -> Digest {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part);
    }
    let mut digest = Digest::default();
    digest.copy_from_slice(context.sign().as_ref());
    digest
}

/// User and password of `Basic ...`.
fn basic(authorization: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let (scheme, encoded) = authorization.split_once(' ')?;
    let text = STANDARD.decode(encoded.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let colon = text.iter().position(|byte| *byte == b':')?;
    Some((text[..colon].to_vec(), text[colon + 1..].to_vec()))
}

/// A hash that costs as much as the most expensive of these, and that no password fits.
fn most_expensive_impossible<'a>(hashes: impl Iterator<Item = &'a String>) -> String {
    // `$2y$10$...`: the two digits are the cost.
    let cost = hashes.filter_map(|hash| hash.get(4..6)).max().unwrap_or("10");
    format!("$2y${cost}$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi")
}

/// Checks passwords, one at a time, and files in between.
fn work(
    queue: &Receiver<Job>,
    mut monitor: Monitor,
    config: &ArcSwap<WebConfig>,
    done: impl Fn((Digest, bool)) -> bool,
) -> Result<(), String> {
    let mut looked = Instant::now();
    loop {
        test_fault("credentials")?;
        match queue.recv_timeout(LOOK.saturating_sub(looked.elapsed())) {
            Ok(Job { digest, password, hash, is_known }) => {
                let is_right = bcrypt::verify(password, &hash).unwrap_or(false) && is_known;
                if !done((digest, is_right)) {
                    return Ok(());
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            // The poll loop has ended.
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        if looked.elapsed() >= LOOK {
            looked = Instant::now();
            match monitor.look() {
                None => {}
                Some(Ok(new)) => {
                    new.warnings.iter().for_each(|warning| log::warn!("{warning}"));
                    log::info!("the web configuration was read again");
                    config.store(Arc::new(new));
                }
                Some(Err(problems)) => {
                    problems.iter().for_each(|problem| log::error!("{problem}"));
                    log::error!("the web configuration cannot be used; the old one stays in force");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        let pair = |user: &str, password: &str| Some((user.as_bytes().to_vec(), password.as_bytes().to_vec()));
        assert_eq!(basic("Basic YWxpY2U6YWxpY2UxMjM="), pair("alice", "alice123"));
        assert_eq!(basic("BASIC  YTpiOmM="), pair("a", "b:c"));
        assert_eq!(basic("basic Og=="), pair("", ""));
        for text in ["", "Basic", "Basic ", "Basic ###", "Basic YWxpY2U=", "Bearer YTpi"] {
            assert_eq!(basic(text), None, "{text:?}");
        }
    }

    #[test]
    fn parts_of_a_digest_do_not_run_together() {
        // CVE-2022-46146: without separators one user's hash and password could be another's.
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"key");
        let digest = |parts: [&str; 3]| digest(&key, &parts.map(str::as_bytes));
        assert_ne!(digest(["alice", "$2y$fake", "password"]), digest(["alice$2y$", "fake", "password"]));
        assert_ne!(digest(["a", "bc", ""]), digest(["a", "b", "c"]));
        assert_eq!(digest(["a", "b", "c"]), digest(["a", "b", "c"]));
    }

    #[test]
    fn an_unknown_name_costs_as_much_as_the_most_expensive_known() {
        let hashes = ["$2y$04$x".to_owned(), "$2b$12$x".to_owned(), "$2a$10$x".to_owned()];
        let hash = most_expensive_impossible(hashes.iter());
        assert!(hash.starts_with("$2y$12$") && hash.parse::<bcrypt::HashParts>().is_ok());
    }
}
