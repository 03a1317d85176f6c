//! The head of a request: parsed by `httparse`, judged by the rules below, and rewritten before tiny_http reads it.
//!
//! tiny_http 0.12 answers some heads with silence (a byte beyond ASCII, `HTTP/2.0`) and reads others than it should (a
//! blank before the method). So it never sees a byte that a client wrote: [`Request::canonical`] is one of a few dozen
//! texts, each of which a test sends to a real tiny_http.
//!
//! One file, because the rules are read together; nearly half of it are their tests.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use super::accept::{Accept, Encodings, Form};
use super::routes::{PATHS, TEXT};

/// Replaces every path that has no answer of its own.
pub const UNKNOWN_PATH: &str = "/-/unknown";

/// The most header lines of a head; more are refused with 431. Proxies add some ten.
const MOST_HEADERS: usize = 100;

/// What becomes of the bytes read so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// More bytes are needed.
    Incomplete,
    /// Not a request that is served here: answer with this status, then close, because the start of the next is
    /// unknown.
    Refused(Status),
    /// A request whose head takes the first `length` bytes.
    Complete { request: Request, length: usize },
}

/// A status code with its reason phrase, as a status line has them.
pub type Status = &'static str;

pub const BAD_REQUEST: Status = "400 Bad Request";
pub const TOO_LARGE: Status = "413 Content Too Large";
pub const HEAD_TOO_LARGE: Status = "431 Request Header Fields Too Large";
pub const VERSION_NOT_SUPPORTED: Status = "505 HTTP Version Not Supported";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Options,
    /// Any other, which nothing here supports.
    Other,
}

impl Method {
    pub const ALL: [Method; 4] = [Method::Get, Method::Head, Method::Options, Method::Other];

    fn of(name: &str) -> Method {
        match name {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "OPTIONS" => Method::Options,
            _ => Method::Other,
        }
    }

    /// As tiny_http gets it. HEAD is GET to it: what is sent of the answer is decided where it is sent.
    fn name(self) -> &'static str {
        match self {
            Method::Get | Method::Head => "GET",
            Method::Options => "OPTIONS",
            Method::Other => "OTHER",
        }
    }
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: Method,
    /// One of [`PATHS`], or [`UNKNOWN_PATH`].
    pub path: &'static str,
    /// The client prefers gzip to the plain text.
    pub takes_gzip: bool,
    pub accept: Accept,
    pub version: Version,
    /// The client leaves the connection open for another request.
    pub keep_alive: bool,
    /// The value of `Authorization`.
    pub authorization: Option<String>,
    /// A number for the `User-Agent`; 0 without one.
    pub agent: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

impl Request {
    /// A question of our own, which only has to be answered.
    pub fn health() -> Request {
        let (method, version) = (Method::Get, Version::Http11);
        let accept = Accept::default();
        let (takes_gzip, keep_alive, authorization, agent) = (false, true, None, 0);
        Request { method, path: "/health", takes_gzip, accept, version, keep_alive, authorization, agent }
    }

    /// Whether it asks for the page, or for the head of that answer.
    pub fn is_for_page(&self) -> bool {
        self.path == "/metrics" && matches!(self.method, Method::Get | Method::Head)
    }

    /// The head that tiny_http gets instead of the client's, who is to get the page in this form.
    pub fn canonical(&self, form: Form) -> String {
        let encoding = if self.takes_gzip { "Accept-Encoding: gzip\r\n" } else { "" };
        let accept = match form {
            form if form != Form::Text && self.is_for_page() => format!("Accept: {}\r\n", form.content_type()),
            _ => String::new(),
        };
        format!("{} {} HTTP/1.1\r\n{accept}{encoding}\r\n", self.method.name(), self.path)
    }
}

/// Judges what a client has sent. `longest` is the most bytes that a head may have.
///
/// A head is served if its request line is exactly `TOKEN SP TARGET SP HTTP/1.0` or `1.1`, every byte is ASCII, every
/// line ends with CR LF, header names are tokens, `Host` comes at most once, and no body is announced. Empty lines
/// before it are skipped (RFC 9112, 2.2).
pub fn judge(bytes: &[u8], longest: usize) -> Verdict {
    // Only what comes before the first byte that may not be there is parsed, so that the verdict is the same in
    // whatever pieces a head comes.
    let bytes = &bytes[..bytes.len().min(longest + 1)];
    let plain = plain_length(bytes);
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let length = match head.parse(&bytes[..plain]) {
        Ok(httparse::Status::Complete(length)) if length <= longest => length,
        Ok(httparse::Status::Complete(_)) => return Verdict::Refused(HEAD_TOO_LARGE),
        Ok(httparse::Status::Partial) if plain < bytes.len() => return Verdict::Refused(BAD_REQUEST),
        Ok(httparse::Status::Partial) if bytes.len() > longest => return Verdict::Refused(HEAD_TOO_LARGE),
        Ok(httparse::Status::Partial) => return Verdict::Incomplete,
        Err(httparse::Error::TooManyHeaders) => return Verdict::Refused(HEAD_TOO_LARGE),
        Err(httparse::Error::Version) if names_another_version(bytes) => {
            return Verdict::Refused(VERSION_NOT_SUPPORTED);
        }
        Err(_) => return Verdict::Refused(BAD_REQUEST),
    };
    let (Some(method), Some(target), Some(minor)) = (head.method, head.path, head.version) else {
        return Verdict::Refused(BAD_REQUEST);
    };
    let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    match read(Method::of(method), target, version, head.headers) {
        Ok(request) => Verdict::Complete { request, length },
        Err(status) => Verdict::Refused(status),
    }
}

/// Whether what may be the start of a request asks for a head alone, so that its refusal has no body either.
pub fn is_head(bytes: &[u8]) -> bool {
    let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(0);
    bytes[start..].starts_with(b"HEAD ")
}

fn read(method: Method, target: &str, version: Version, headers: &[httparse::Header<'_>]) -> Result<Request, Status> {
    let mut hosts = 0;
    let (mut accept, mut encodings) = (Accept::default(), Encodings::default());
    let (mut says_close, mut says_keep_alive) = (false, false);
    let (mut authorization, mut agent) = (None, 0);
    for header in headers {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        let value = std::str::from_utf8(header.value).map_err(|_| BAD_REQUEST)?;
        if is("host") {
            hosts += 1;
        } else if is("accept") {
            accept.read(value);
        } else if is("accept-encoding") {
            encodings.read(value);
        } else if is("connection") {
            for token in value.split(',').map(str::trim) {
                says_close |= token.eq_ignore_ascii_case("close");
                says_keep_alive |= token.eq_ignore_ascii_case("keep-alive");
            }
        } else if is("user-agent") {
            agent = BuildHasherDefault::<DefaultHasher>::default().hash_one(value);
        } else if is("authorization") {
            authorization.get_or_insert_with(|| value.to_owned());
        } else if is("transfer-encoding") {
            return Err(TOO_LARGE);
        } else if is("content-length") {
            match value.bytes().all(|byte| byte.is_ascii_digit()) && !value.is_empty() {
                true if value.bytes().all(|byte| byte == b'0') => {}
                true => return Err(TOO_LARGE),
                false => return Err(BAD_REQUEST),
            }
        }
    }
    if hosts > 1 {
        return Err(BAD_REQUEST);
    }
    let path = match path_of(method, target).ok_or(BAD_REQUEST)? {
        "/" if accept.prefers_plain() || asks_for_text(target) => TEXT,
        path => path,
    };
    let path = PATHS.into_iter().find(|known| *known == path).unwrap_or(UNKNOWN_PATH);
    let keep_alive = !says_close && (version == Version::Http11 || says_keep_alive);
    let takes_gzip = encodings.prefer_gzip();
    Ok(Request { method, path, takes_gzip, accept, version, keep_alive, authorization, agent })
}

/// How many bytes come before the first that is not ASCII or is a line feed without its carriage return.
fn plain_length(bytes: &[u8]) -> usize {
    let is_bad = |at: usize| match bytes[at] {
        b'\n' => at == 0 || bytes[at - 1] != b'\r',
        byte => !byte.is_ascii(),
    };
    (0..bytes.len()).find(|at| is_bad(*at)).unwrap_or(bytes.len())
}

/// Whether the request line ends with a version of HTTP, which is then one that is not spoken here.
fn names_another_version(bytes: &[u8]) -> bool {
    let line = bytes.iter().copied().skip_while(|byte| matches!(byte, b'\r' | b'\n')).take_while(|byte| *byte != b'\r');
    let line: Vec<u8> = line.collect();
    let mut words = line.split(|byte| *byte == b' ');
    let version = words.nth(2).and_then(|version| version.strip_prefix(b"HTTP/"));
    version.is_some_and(|number| {
        words.next().is_none()
            && number.first().is_some_and(u8::is_ascii_digit)
            && number.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.')
    })
}

/// The path of a target in origin form (`/metrics?x`), in absolute form (`http://host/metrics`) or, for a method that
/// may have them, `*` and an authority. `None` for anything else.
fn path_of(method: Method, target: &str) -> Option<&str> {
    let target = target.split(['?', '#']).next()?;
    if target.starts_with('/') {
        return Some(target);
    }
    if let Some((scheme, rest)) = target.split_once("://") {
        let is_http = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        return (is_http && !authority.is_empty()).then_some(if path.is_empty() { "/" } else { path });
    }
    match method {
        Method::Options if target == "*" => Some("/"),
        // CONNECT, which is refused for its method.
        Method::Other => Some(UNKNOWN_PATH),
        _ => None,
    }
}

/// Whether the query of a target has `text` among its parameters.
fn asks_for_text(target: &str) -> bool {
    let target = target.split('#').next().unwrap_or_default();
    let query = target.split_once('?').map_or("", |(_, query)| query);
    query.split('&').any(|parameter| parameter.split('=').next() == Some("text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: usize = 8192;

    fn judged(text: &[u8]) -> Verdict {
        judge(text, LONGEST)
    }

    fn complete(text: &str) -> Request {
        match judged(text.as_bytes()) {
            Verdict::Complete { request, length } => {
                assert_eq!(length, text.len(), "{text:?}");
                request
            }
            verdict => panic!("{text:?}: {verdict:?}"),
        }
    }

    #[test]
    fn a_head_is_rewritten_and_what_follows_it_left_alone() {
        let head = b"\r\nGET /metrics?x=1 HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\nrest";
        let Verdict::Complete { request, length } = judged(head) else { panic!("complete") };
        assert_eq!(&head[length..], b"rest");
        assert_eq!(request.canonical(Form::Text), "GET /metrics HTTP/1.1\r\n\r\n");
        for length in 0..length {
            assert_eq!(judged(&head[..length]), Verdict::Incomplete, "{length}");
        }
    }

    #[test]
    fn heads_that_are_not_served() {
        for (head, status) in [
            // The request line, to the letter.
            ("GET / HTTP/2.0\r\n\r\n", VERSION_NOT_SUPPORTED),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", VERSION_NOT_SUPPORTED),
            ("GET / HTTP/3.0\r\n\r\n", VERSION_NOT_SUPPORTED),
            ("GET / HTTP/1.2\r\n\r\n", VERSION_NOT_SUPPORTED),
            ("GET / HTTP/9.9\r\n\r\n", VERSION_NOT_SUPPORTED),
            ("GET / HTTP/11\r\n\r\n", VERSION_NOT_SUPPORTED),
            ("GET / http/1.1\r\n\r\n", BAD_REQUEST),
            ("GET / FTP/1.1\r\n\r\n", BAD_REQUEST),
            ("GET / HTTP/\r\n\r\n", BAD_REQUEST),
            ("GET / HTTP/1.1 \r\n\r\n", BAD_REQUEST),
            ("GET  / HTTP/1.1\r\n\r\n", BAD_REQUEST),
            ("GET /  HTTP/1.1\r\n\r\n", BAD_REQUEST),
            ("GET /a b HTTP/1.1\r\n\r\n", BAD_REQUEST),
            ("GET\t/ HTTP/1.1\r\n\r\n", BAD_REQUEST),
            (" GET / HTTP/1.1\r\n\r\n", BAD_REQUEST),
            ("\tHEAD / HTTP/1.1\r\n\r\n", BAD_REQUEST),
            ("\u{b}GET / HTTP/1.1\r\n\r\n", BAD_REQUEST),
            ("\u{c}GET / HTTP/1.1\r\n\r\n", BAD_REQUEST),
            ("G(T / HTTP/1.1\r\n\r\n", BAD_REQUEST),
            ("GET /\r\n\r\n", BAD_REQUEST),
            ("GET\r\n\r\n", BAD_REQUEST),
            ("nonsense\r\n\r\n", BAD_REQUEST),
            ("GET metrics HTTP/1.1\r\n\r\n", BAD_REQUEST),
            ("GET * HTTP/1.1\r\n\r\n", BAD_REQUEST),
            ("GET http:///metrics HTTP/1.1\r\n\r\n", BAD_REQUEST),
            ("GET ftp://h/metrics HTTP/1.1\r\n\r\n", BAD_REQUEST),
            // Bytes.
            ("GET /\u{e9} HTTP/1.1\r\n\r\n", BAD_REQUEST),
            ("GET / HTTP/1.1\r\nX: \u{e9}\r\n\r\n", BAD_REQUEST),
            ("GET / HTTP/1.1\r\nX\u{e9}: 1\r\n\r\n", BAD_REQUEST),
            ("GET /\0 HTTP/1.1\r\n\r\n", BAD_REQUEST),
            ("GET / HTTP/1.1\r\nX: \0\r\n\r\n", BAD_REQUEST),
            ("GET / HTTP/1.1\nHost: x\n\n", BAD_REQUEST),
            ("GET / HTTP/1.1\r\nHost: x\nY: z\r\n\r\n", BAD_REQUEST),
            ("\nGET / HTTP/1.1\r\n\r\n", BAD_REQUEST),
            ("GET / HTTP/1.1\rHost: x\r\n\r\n", BAD_REQUEST),
            // Headers.
            ("GET / HTTP/1.1\r\nno colon\r\n\r\n", BAD_REQUEST),
            ("GET / HTTP/1.1\r\n: empty\r\n\r\n", BAD_REQUEST),
            ("GET / HTTP/1.1\r\nX : 1\r\n\r\n", BAD_REQUEST),
            ("GET / HTTP/1.1\r\nX: 1\r\n folded\r\n\r\n", BAD_REQUEST),
            ("GET / HTTP/1.1\r\n X: 1\r\n\r\n", BAD_REQUEST),
            ("GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", BAD_REQUEST),
            // Bodies.
            ("POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", TOO_LARGE),
            ("POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\n", TOO_LARGE),
            ("POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", BAD_REQUEST),
            ("POST / HTTP/1.1\r\ncontent-length: 0, 0\r\n\r\n", BAD_REQUEST),
            ("POST / HTTP/1.1\r\ncontent-length:\r\n\r\n", BAD_REQUEST),
            ("POST / HTTP/1.1\r\ncontent-length: 0\r\ncontent-length: 5\r\n\r\n", TOO_LARGE),
            ("POST / HTTP/1.1\r\nTRANSFER-ENCODING: chunked\r\n\r\n", TOO_LARGE),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: \r\n\r\n", TOO_LARGE),
        ] {
            assert_eq!(judged(head.as_bytes()), Verdict::Refused(status), "{head:?}");
        }
        assert_eq!(judged(b"GET /\xff HTTP/1.1\r\n\r\n"), Verdict::Refused(BAD_REQUEST));
        // What can no longer become a request is refused without waiting for its end.
        for start in ["\x16\x03\x01\x02", " ", "\n", "GET / HTTP/2.0\r\n", "\u{e9}"] {
            assert!(matches!(judged(start.as_bytes()), Verdict::Refused(_)), "{start:?}");
        }
    }

    #[test]
    fn heads_are_bounded() {
        let with = |headers: usize, length: usize| {
            format!("GET / HTTP/1.1\r\n{}\r\n", format!("X: {}\r\n", "a".repeat(length)).repeat(headers))
        };
        assert!(matches!(judged(with(MOST_HEADERS, 1).as_bytes()), Verdict::Complete { .. }));
        assert_eq!(judged(with(MOST_HEADERS + 1, 1).as_bytes()), Verdict::Refused(HEAD_TOO_LARGE));
        let head = with(1, LONGEST - with(1, 0).len());
        assert_eq!(head.len(), LONGEST);
        assert!(matches!(judged(head.as_bytes()), Verdict::Complete { .. }));
        assert_eq!(judged(with(1, LONGEST).as_bytes()), Verdict::Refused(HEAD_TOO_LARGE));
        for filler in [b'a', b'\r'] {
            let endless = [filler; LONGEST + 1];
            assert!(matches!(judged(&endless), Verdict::Refused(_)));
        }
        assert_eq!(judged(&[b'a'; LONGEST]), Verdict::Incomplete);
    }

    #[test]
    fn targets() {
        for (target, path) in [
            ("/metrics", "/metrics"),
            ("/metrics?collect[]=x", "/metrics"),
            ("http://node:9400/metrics", "/metrics"),
            ("HTTPS://node/health?a", "/health"),
            ("http://node", "/"),
            ("http://node?x", "/"),
            ("/", "/"),
            ("/?x=text", "/"),
            ("/?text", TEXT),
            ("http://node/?a&text=1#x", TEXT),
            ("/metrics?text", "/metrics"),
            ("/status.json?x", "/status.json"),
            ("/metrics/", UNKNOWN_PATH),
            ("//metrics", UNKNOWN_PATH),
            ("/%6detrics", UNKNOWN_PATH),
            ("/../metrics", UNKNOWN_PATH),
        ] {
            assert_eq!(complete(&format!("GET {target} HTTP/1.0\r\n\r\n")).path, path, "{target}");
        }
        assert_eq!(complete("OPTIONS * HTTP/1.1\r\n\r\n").method, Method::Options);
        assert_eq!(complete("CONNECT node:443 HTTP/1.1\r\n\r\n").method, Method::Other);
        assert_eq!(complete("get / HTTP/1.1\r\n\r\n").method, Method::Other, "methods are case-sensitive");
    }

    #[test]
    fn connections_that_are_kept() {
        for (version, lines, keep_alive) in [
            ("1.1", "", true),
            ("1.1", "Connection: keep-alive\r\n", true),
            ("1.1", "Connection: Upgrade, HTTP2-Settings\r\n", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "Connection: keep-alive\r\nconnection: foo , CLOSE\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
        ] {
            let head = format!("GET / HTTP/{version}\r\n{lines}\r\n");
            assert_eq!(complete(&head).keep_alive, keep_alive, "{head:?}");
        }
    }
}
