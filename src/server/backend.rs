//! Questions to tiny_http, which decides what is answered, and its answers. It runs behind a private Unix socket, see
//! [`super::worker`].
//!
//! It has no limits and no time-outs, and stops for good when `accept` fails once, so it is out of the public's reach:
//! it sees one connection, from this file, and heads that [`super::request`] wrote. The socket is one more descriptor
//! of the poll loop. An answer takes microseconds; a server that gives none for [`PATIENCE`] is broken by a bug of
//! ours, is ended and replaced, at most once in [`RESTART_PAUSE`], and counted.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::accept::Form;
use super::routes;
use super::worker::Running;
use crate::publish::PublishedPage;
use crate::status;
use crate::system::threads::Supervisor;

/// An answer takes microseconds; after this long something is broken.
const PATIENCE: Duration = Duration::from_secs(1);
/// A deadline that is noticed this much later means that the process was stopped, by a signal or with the whole
/// machine, and so was tiny_http.
const LATE: Duration = Duration::from_millis(100);
/// The shortest time between two replacements of a tiny_http.
const RESTART_PAUSE: Duration = Duration::from_secs(60);
/// The answers of [`routes`] are a few lines.
const LONGEST_ANSWER: usize = 64 * 1024;
/// Descriptors held in reserve while tiny_http accepts: it stops for good if it finds none.
const SPARE_FILES: usize = 4;

/// What to send, as tiny_http decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Code and reason phrase.
    pub status: Cow<'static, str>,
    pub content_type: Cow<'static, str>,
    pub allow: Option<String>,
    pub body: Body,
}

impl Answer {
    /// The answer that sends the page.
    pub fn page(form: Form, gzip: bool) -> Answer {
        let body = Body::Page { form, gzip };
        Answer { status: "200 OK".into(), content_type: form.content_type().into(), allow: None, body }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    Text(Vec<u8>),
    /// The newest page in this form, compressed if it is to be and has been.
    Page {
        form: Form,
        gzip: bool,
    },
    /// The page for people.
    Status(status::Form),
    /// The same, which is not made yet: to be asked for again.
    Later(status::Form),
}

pub struct Backend {
    published: Arc<PublishedPage>,
    supervisor: Supervisor,
    running: Running,
    stream: Option<OwnedFd>,
    /// Requests that wait for their turn. There are as many as there are heads, at the most.
    queue: VecDeque<Question>,
    exchange: Option<Exchange>,
    restarted: Option<Instant>,
    spares: Vec<OwnedFd>,
}

/// A head, and all who have sent it.
struct Question {
    head: String,
    who: Vec<u64>,
}

/// A request that tiny_http has and an answer that it owes.
struct Exchange {
    question: Question,
    answer: Vec<u8>,
    deadline: Instant,
    /// The deadline was put off already.
    is_extended: bool,
    /// The stream had served others before, so tiny_http may have closed it without having seen this request.
    is_kept_stream: bool,
}

impl Backend {
    /// Starts tiny_http and its worker.
    ///
    /// Errors: no directory for a socket, no descriptor, no thread.
    pub fn start(published: Arc<PublishedPage>, supervisor: Supervisor) -> io::Result<Backend> {
        let running = Running::start(&published, &supervisor)?;
        let mut backend = Backend {
            published,
            supervisor,
            running,
            stream: None,
            queue: VecDeque::new(),
            exchange: None,
            restarted: None,
            spares: Vec::new(),
        };
        backend.take_spares();
        Ok(backend)
    }

    /// Puts a request in the queue; `who` is handed back with its answer by [`Backend::advance`]. One answer settles
    /// all who asked the same before it was passed on.
    pub fn ask(&mut self, who: u64, head: String) {
        match self.queue.iter_mut().find(|question| question.head == head) {
            Some(question) => question.who.push(who),
            None => self.queue.push_back(Question { head, who: vec![who] }),
        }
        self.next();
    }

    /// What to wait on while an answer is owed.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.exchange.as_ref().and(self.stream.as_ref()).map(AsFd::as_fd)
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.exchange.as_ref().map(|exchange| exchange.deadline)
    }

    /// Whether [`Backend::advance`] has something to do that no descriptor tells of.
    pub fn is_due(&self, now: Instant) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| self.stream.is_none() || now >= exchange.deadline)
    }

    /// Reads what there is of an answer and hands over the requests that are settled: with their answer, or without one
    /// where tiny_http does not give it.
    pub fn advance(&mut self, mut settled: impl FnMut(u64, Option<Answer>)) {
        match self.receive() {
            Received::Nothing => {}
            Received::Answer(who, answer) => {
                who.into_iter().for_each(|who| settled(who, Some(answer.clone())));
                self.next();
            }
            Received::Broken(why) => {
                log::debug!("tiny_http: {why}");
                self.stream = None;
                // Those in the queue would wait as long, one after the other.
                let owed = self.exchange.take().map(|exchange| exchange.question);
                let all = owed.into_iter().chain(self.queue.drain(..));
                all.flat_map(|question| question.who).for_each(|who| settled(who, None));
                self.restart(why);
            }
        }
    }

    fn receive(&mut self) -> Received {
        let Some(exchange) = &mut self.exchange else { return Received::Nothing };
        let Some(stream) = &self.stream else { return Received::Broken("it cannot be reached") };
        let mut buffer = [0u8; 2048];
        match rustix::net::recv(stream, &mut buffer, RecvFlags::DONTWAIT) {
            // What tiny_http closes between two requests it has not seen.
            Ok((_, 0)) if exchange.is_kept_stream && exchange.answer.is_empty() => {
                self.stream = None;
                self.queue.extend(self.exchange.take().map(|exchange| exchange.question));
                self.queue.rotate_right(1);
                self.next();
                Received::Nothing
            }
            Ok((_, 0)) => Received::Broken("it has closed the connection"),
            Ok((_, count)) => {
                exchange.answer.extend_from_slice(&buffer[..count]);
                match parse(&exchange.answer) {
                    Parsed::Answer(answer) => {
                        let who = std::mem::take(&mut exchange.question.who);
                        self.exchange = None;
                        Received::Answer(who, answer)
                    }
                    Parsed::Partial if exchange.answer.len() <= LONGEST_ANSWER => Received::Nothing,
                    Parsed::Partial | Parsed::Invalid => Received::Broken("its answer makes no sense"),
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {
                let now = Instant::now();
                if now < exchange.deadline {
                    Received::Nothing
                } else if now > exchange.deadline + LATE && !exchange.is_extended {
                    (exchange.deadline, exchange.is_extended) = (now + PATIENCE, true);
                    Received::Nothing
                } else {
                    Received::Broken("it does not answer")
                }
            }
            Err(_) => Received::Broken("the connection broke"),
        }
    }

    /// Sends the next request if no answer is owed.
    fn next(&mut self) {
        if self.exchange.is_some() {
            return;
        }
        let Some(question) = self.queue.pop_front() else { return };
        let is_kept_stream = self.stream.is_some();
        if !is_kept_stream {
            // tiny_http needs descriptors of its own for it.
            self.spares.clear();
            self.stream = self.running.socket.connect().ok();
        }
        if let Some(stream) = &self.stream {
            // A head fits into an empty socket buffer many times. What does not go through shows when the answer is
            // read.
            let _ = rustix::net::send(stream, question.head.as_bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        }
        let deadline = Instant::now() + PATIENCE;
        let (answer, is_extended) = (Vec::new(), false);
        self.exchange = Some(Exchange { question, answer, deadline, is_extended, is_kept_stream });
    }

    /// Ends this tiny_http and starts another, unless that was done a moment ago.
    fn restart(&mut self, why: &str) {
        let now = Instant::now();
        if self.restarted.is_some_and(|restarted| now < restarted + RESTART_PAUSE) {
            return;
        }
        self.restarted = Some(now);
        self.spares.clear();
        match Running::start(&self.published, &self.supervisor) {
            Ok(running) => {
                self.published.count_http_restart();
                log::error!(
                    "the HTTP server did not answer and was replaced: {why}; if this machine had time for it, please report it"
                );
                std::mem::replace(&mut self.running, running).end();
            }
            Err(error) => log::error!("the HTTP server does not answer and cannot be replaced: {error}"),
        }
        self.take_spares();
    }

    /// Holds descriptors in reserve again; fewer if the process has none left.
    pub fn take_spares(&mut self) {
        while self.spares.len() < SPARE_FILES {
            match rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
                Ok(spare) => self.spares.push(spare),
                Err(_) => return,
            }
        }
    }
}

enum Received {
    Nothing,
    Answer(Vec<u64>, Answer),
    Broken(&'static str),
}

#[derive(Debug)]
enum Parsed {
    Partial,
    Answer(Answer),
    Invalid,
}

/// Reads tiny_http's response.
fn parse(bytes: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Parsed::Partial,
        Err(_) => return Parsed::Invalid,
    };
    let value = |name: &str| {
        let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok()
    };
    let body_length = value("Content-Length").and_then(|length| length.parse().ok()).unwrap_or(0usize);
    let rest = &bytes[length..];
    if rest.len() < body_length {
        return Parsed::Partial;
    }
    let (Some(code), Some(reason)) = (response.code, response.reason) else { return Parsed::Invalid };
    let content_type = value("Content-Type").unwrap_or(routes::PLAIN);
    let status = || status::Form::ALL.into_iter().find(|form| form.content_type() == content_type);
    let body = match (value(routes::PAGE), Form::of_content_type(content_type)) {
        (Some(routes::PAGE_STATUS), _) => status().map(Body::Status),
        (Some(routes::PAGE_LATER), _) => status().map(Body::Later),
        (Some(page), Some(form)) => Some(Body::Page { form, gzip: page == routes::PAGE_GZIP }),
        _ => Some(Body::Text(rest[..body_length].to_vec())),
    };
    let Some(body) = body else { return Parsed::Invalid };
    Parsed::Answer(Answer {
        status: format!("{code} {reason}").into(),
        content_type: content_type.to_owned().into(),
        allow: value("Allow").map(str::to_owned),
        body,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::request::{Method, Request, UNKNOWN_PATH};

    fn backend() -> Backend {
        let published = Arc::new(PublishedPage::new(Duration::from_secs(30), None, || None));
        crate::publish::Publisher::new(published.clone()).publish(&mut "page\n".to_owned(), None);
        Backend::start(published, Supervisor::new(|| {}).0).unwrap()
    }

    fn settle(backend: &mut Backend) -> Vec<(u64, Option<Answer>)> {
        let (start, mut all) = (Instant::now(), Vec::new());
        while !(backend.exchange.is_none() && backend.queue.is_empty()) && start.elapsed() < PATIENCE * 5 {
            backend.advance(|who, answer| all.push((who, answer)));
            std::thread::sleep(Duration::from_micros(100));
        }
        all
    }

    #[test]
    fn every_head_that_can_be_written_is_answered() {
        let mut backend = backend();
        let mut asked = Vec::new();
        for method in Method::ALL {
            for path in routes::PATHS.into_iter().chain([UNKNOWN_PATH]) {
                for (form, takes_gzip) in Form::ALL.into_iter().flat_map(|form| [(form, false), (form, true)]) {
                    asked.push((method, path, form, takes_gzip));
                    let request = Request { method, path, takes_gzip, ..Request::health() };
                    backend.ask(asked.len() as u64 - 1, request.canonical(form));
                }
            }
        }
        assert!(
            backend.queue.len() < asked.len() / 4,
            "HEAD and GET are one question, and the form counts for the page alone"
        );
        let mut answers = settle(&mut backend);
        answers.sort_by_key(|(who, _)| *who);
        assert_eq!(answers.len(), asked.len());
        for (index, ((who, answer), (method, path, form, takes_gzip))) in answers.into_iter().zip(asked).enumerate() {
            let answer = answer.unwrap_or_else(|| panic!("{method:?} {path} is not answered"));
            let (status, page) = match (method, path) {
                (Method::Options, _) => ("204 No Content", None),
                (Method::Other, _) => ("405 Method Not Allowed", None),
                (_, UNKNOWN_PATH) => ("404 Not Found", None),
                (_, "/metrics") => ("200 OK", Some(Answer::page(form, takes_gzip))),
                (_, routes::JSON) => ("404 Not Found", None),
                (_, "/" | routes::TEXT) => ("200 OK", None),
                // No watcher has said that all is well.
                _ => ("503 Service Unavailable", None),
            };
            assert_eq!((who, &*answer.status), (index as u64, status), "{method:?} {path}");
            assert_eq!(answer.allow.is_some(), matches!(method, Method::Options | Method::Other));
            if let Some(page) = page {
                assert_eq!(answer, page, "{method:?} {path}");
            }
        }
    }

    #[test]
    fn one_that_does_not_answer_is_ended_and_replaced_once() {
        let mut backend = backend();
        backend.ask(1, Request::health().canonical(Form::Text));
        assert!(settle(&mut backend)[0].1.is_some());
        // Half a head: tiny_http waits for the rest.
        for who in 2..5 {
            backend.ask(who, "GET /".to_owned());
        }
        let settled = settle(&mut backend);
        assert_eq!(settled, [(2, None), (3, None), (4, None)]);
        assert_eq!(backend.published.http_restarts(), 1);
        backend.ask(5, Request::health().canonical(Form::Text));
        assert!(settle(&mut backend)[0].1.is_some(), "the new one answers");
        backend.ask(6, "GET /".to_owned());
        assert_eq!(settle(&mut backend), [(6, None)]);
        assert_eq!(backend.published.http_restarts(), 1, "not twice in a minute");
        backend.ask(7, Request::health().canonical(Form::Text));
        assert!(settle(&mut backend)[0].1.is_some(), "and needs no replacing to answer again");
    }
}
