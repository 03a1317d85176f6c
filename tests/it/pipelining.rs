//! Requests that are sent before the answers to earlier ones: each is answered, whole and in order.

use std::io::{Read, Write};

use crate::common::*;
use crate::tls::Site;

/// A request, and what its answer begins with.
const REQUESTS: [(&str, u16, &str); 14] = [
    ("GET /metrics HTTP/1.1\r\n\r\n", 200, "# HELP "),
    ("GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text\r\n\r\n", 200, "# TYPE "),
    ("HEAD /metrics HTTP/1.1\r\n\r\n", 200, ""),
    ("GET /health HTTP/1.1\r\n\r\n", 200, "OK\nrunning\n"),
    (
        "GET /-/ready HTTP/1.1\r\nHost: x\r\nX-Long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n\r\n",
        200,
        "OK\nrunning\n",
    ),
    ("HEAD /health HTTP/1.1\r\n\r\n", 200, ""),
    ("GET / HTTP/1.1\r\n\r\n", 200, "<!doctype html>"),
    ("GET /?text HTTP/1.1\r\n\r\n", 200, ""),
    ("GET /status.json HTTP/1.1\r\n\r\n", 200, "{"),
    ("HEAD /status.json HTTP/1.1\r\n\r\n", 200, ""),
    ("GET /nowhere HTTP/1.1\r\n\r\n", 404, "404 page not found\n"),
    ("OPTIONS * HTTP/1.1\r\n\r\n", 204, ""),
    ("POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 405, "405 method not allowed\n"),
    ("\r\nA /metrics HTTP/1.1\r\n\r\n", 405, "405 method not allowed\n"),
];

/// Sends `count` requests in pieces of up to `longest` bytes, and reads some of the answers that are owed after each.
fn converse<S: Read + Write>(client: &mut Client<S>, random: &mut Random, count: u64, longest: u64) {
    let asked: Vec<_> = (0..count).map(|_| REQUESTS[random.below(REQUESTS.len() as u64) as usize]).collect();
    let text: String = asked.iter().map(|(request, ..)| *request).collect();
    let mut ends = asked.iter().scan(0, |end, (request, ..)| {
        *end += request.len();
        Some(*end)
    });
    let (mut sent, mut owed, mut next_end, mut answered) = (0, 0, ends.next(), 0);
    while answered < asked.len() {
        if sent < text.len() {
            let piece = (1 + random.below(longest) as usize).min(text.len() - sent);
            client.stream.write_all(&text.as_bytes()[sent..sent + piece]).unwrap();
            sent += piece;
        }
        while next_end.is_some_and(|end| end <= sent) {
            (owed, next_end) = (owed + 1, ends.next());
        }
        let now = if sent < text.len() { random.below(owed.min(8) + 1) } else { owed };
        for _ in 0..now {
            let (request, status, start) = asked[answered];
            let is_head = request.starts_with("HEAD ");
            let answer = client.response(is_head).unwrap_or_else(|error| panic!("{answered} {request:?}: {error}"));
            let is_right =
                answer.head.starts_with("HTTP/1.1 ") && answer.status == status && answer.body.starts_with(start);
            assert!(is_right, "{answered} {request:?}: {answer:?}");
            (answered, owed) = (answered + 1, owed - 1);
        }
    }
    let last = client.ask("GET /health HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    assert!(last.body == "OK\nrunning\n" && client.is_closed());
}

#[test]
fn every_request_is_answered_whole_and_in_order() {
    let site = Site::new();
    let mut plain = site.serve("");
    plain.page();
    let mut over_tls = site.serve_tls("");
    over_tls.until("there is a page", |exporter| {
        let mut client = site.scraper().connect(exporter.port).ok()?;
        (client.ask("GET /metrics HTTP/1.1\r\n\r\n").ok()?.status == 200).then_some(())
    });
    let mut random = Random(5);
    for longest in [20, 200, 3000, 6000, 20_000, 1_000_000] {
        converse(&mut Client::connect(plain.port).unwrap(), &mut random, 2000, longest);
        converse(&mut site.scraper().connect(over_tls.port).unwrap(), &mut random, 1000, longest);
    }
}

/// The end of what a client sends is not the end of what it wants to read.
#[test]
fn a_client_that_has_said_all_gets_all_answers() {
    let site = Site::new();
    let (mut plain, over_tls) = (site.serve(""), site.serve_tls(""));
    plain.page();
    let requests = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n".repeat(500);
    let mut client = Client::connect(plain.port).unwrap();
    client.stream.write_all(requests.as_bytes()).unwrap();
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    (0..500).for_each(|number| {
        assert_eq!(client.response(false).unwrap().header("content-length"), Some("11"), "{number}")
    });
    assert!(client.is_closed());
    let mut client = site.scraper().connect(over_tls.port).unwrap();
    client.stream.write_all(&requests.as_bytes()[..3300]).unwrap();
    client.stream.conn.send_close_notify();
    client.stream.flush().unwrap();
    (0..100).for_each(|number| assert!(client.response(false).is_ok(), "{number}"));
    assert!(client.is_closed());
}
