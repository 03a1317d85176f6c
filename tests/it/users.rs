//! Basic authentication: who gets an answer, what guessing costs, and that a secret is nowhere to be read.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::common::*;

/// The lowest cost that there is, so that unoptimised code is fast enough.
const COST: u32 = 4;

fn hash(password: &str) -> String {
    bcrypt::hash(password, COST).unwrap()
}

fn start(scratch: &Scratch, web: &str) -> Exporter {
    let counters = scratch.write("counters.csv", GPU_TEMP);
    let plan = scratch.write("scenario.json", scenario(&[0]).to_string());
    let web = scratch.write("web.yml", web);
    let mut exporter = exporter();
    exporter.env("DCGM_SIMULATOR_SCENARIO", plan).arg("--web-config-file").arg(web).arg("-f").arg(counters);
    Exporter::start(&mut exporter)
}

fn login(user: &str, password: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("{user}:{password}")))
}

fn get(port: u16, path: &str, lines: &str) -> Response {
    request(port, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n")).unwrap()
}

#[test]
fn names_and_passwords() {
    let scratch = Scratch::new();
    let web = format!(
        "basic_auth_users:\n  alice: {}\n  bob: {}\n  'müller': {}\n",
        hash("alice123"),
        hash("with:colon"),
        hash("größe")
    );
    let mut exporter = start(&scratch, &web);
    exporter.until("there is a page", |exporter| {
        (get(exporter.port, "/metrics", &login("alice", "alice123")).status == 200).then_some(())
    });
    // Twice each: once by bcrypt, and once by what is remembered of it.
    for _ in 0..2 {
        for (lines, status) in [
            (login("alice", "alice123"), 200),
            (login("bob", "with:colon"), 200),
            (login("müller", "größe"), 200),
            (login("alice", "wrong"), 401),
            (login("alice", ""), 401),
            (login("", ""), 401),
            (login("bob", "alice123"), 401),
            (login("nobody", "alice123"), 401),
            (login("nobody", "fakepassword"), 401),
            (login("ALICE", "alice123"), 401),
            (String::new(), 401),
            ("Authorization: Bearer alice123\r\n".to_owned(), 401),
            ("Authorization: Basic\r\n".to_owned(), 401),
            ("Authorization: Basic !!!\r\n".to_owned(), 401),
            ("authorization: BASIC YWxpY2U6YWxpY2UxMjM=\r\n".to_owned(), 200),
        ] {
            for path in ["/metrics", "/health", "/", "/-/ready", "/nowhere"] {
                let expected = if status == 200 && path == "/nowhere" { 404 } else { status };
                let answer = get(exporter.port, path, &lines);
                assert_eq!(answer.status, expected, "{path} {lines}");
                if status == 401 {
                    assert_eq!(
                        (answer.header("www-authenticate"), answer.body.as_str()),
                        (Some("Basic"), "Unauthorized\n")
                    );
                }
            }
        }
    }
    // A head without a body, and a kept connection that logs in at its second request.
    let head = request(exporter.port, "HEAD /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!((head.status, head.header("content-length")), (401, Some("13")));
    let mut client = Client::connect(exporter.port).unwrap();
    assert_eq!(client.ask("GET /health HTTP/1.1\r\n\r\n").unwrap().status, 401);
    assert_eq!(client.ask(&format!("GET /health HTTP/1.1\r\n{}\r\n", login("alice", "alice123"))).unwrap().status, 200);
    assert_eq!(client.ask("GET /health HTTP/1.1\r\n\r\n").unwrap().status, 401);
    let log = exporter.log();
    assert!(!log.contains("alice") && !log.contains("$2"), "{log}");
}

#[test]
fn good_and_bad_logins_at_once() {
    let scratch = Scratch::new();
    let exporter =
        start(&scratch, &format!("basic_auth_users: {{alice: {}, carol: {}}}\n", hash("alice123"), hash("carol123")));
    let port = exporter.port;
    let ask = |user: &'static str, password: String| {
        std::thread::spawn(move || {
            // Whoever comes while too many wait is told so, and comes again.
            loop {
                let status = get(port, "/-/healthy", &login(user, &password)).status;
                if status != 429 {
                    return status;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        })
    };
    let all: Vec<_> = (0..150)
        .map(|number| match number % 3 {
            0 => (true, ask("alice", "alice123".to_owned())),
            1 => (true, ask("carol", "carol123".to_owned())),
            _ => (false, ask("alice", format!("wrong{number}"))),
        })
        .collect();
    for (is_right, thread) in all {
        let status = thread.join().unwrap();
        assert_eq!(status == 401, !is_right, "{status}");
    }
}

/// CVE-2022-46146: with a cache keyed by name, hash and password without separators, whoever knew a hash could make an
/// entry that let a name made of it in.
#[test]
fn a_name_made_of_a_hash() {
    let scratch = Scratch::new();
    let alice = hash("alice123");
    let exporter = start(&scratch, &format!("basic_auth_users: {{alice: {alice}}}\n"));
    for _ in 0..3 {
        assert_eq!(get(exporter.port, "/", &login(&format!("alice{alice}"), "fakepassword")).status, 401);
        assert_eq!(get(exporter.port, "/", &login("alice", &format!("{alice}fakepassword"))).status, 401);
        assert_eq!(get(exporter.port, "/", &login("alice", "alice123")).status, 200);
    }
}

#[test]
fn guessing_does_not_keep_others_out() {
    let scratch = Scratch::new();
    // Some 50 ms each in a debug build.
    let slow = bcrypt::hash("alice123", 8).unwrap();
    let exporter = start(&scratch, &format!("basic_auth_users: {{alice: {slow}}}\n"));
    assert_eq!(get(exporter.port, "/-/healthy", &login("alice", "alice123")).status, 200);
    let port = exporter.port;
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let stop = &stop;
            scope.spawn(move || {
                for guess in 0.. {
                    if stop.load(std::sync::atomic::Ordering::Relaxed) {
                        break;
                    }
                    let status = get(port, "/metrics", &login("alice", &format!("{thread} {guess}"))).status;
                    assert!(matches!(status, 401 | 429), "{status}");
                }
            });
        }
        let end = Instant::now() + Duration::from_secs(3);
        let mut longest = Duration::ZERO;
        while Instant::now() < end {
            let start = Instant::now();
            assert_eq!(get(port, "/-/healthy", &login("alice", "alice123")).status, 200);
            longest = longest.max(start.elapsed());
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        // Whoever was let in before does not wait behind those who guess.
        assert!(longest < Duration::from_secs(1), "{longest:?}");
    });
}

#[test]
fn users_that_change() {
    let scratch = Scratch::new();
    let mut exporter = start(&scratch, &format!("basic_auth_users: {{alice: {}}}\n", hash("alice123")));
    let status = |exporter: &Exporter, user: &str, password: &str| {
        get(exporter.port, "/-/healthy", &login(user, password)).status
    };
    exporter.until("she is let in", |exporter| (status(exporter, "alice", "alice123") == 200).then_some(()));
    scratch.write("web.yml", "basic_auth_users: {alice: plain}\n");
    exporter.until("it is refused", |exporter| exporter.log().contains("the old one stays in force").then_some(()));
    assert_eq!(status(&exporter, "alice", "alice123"), 200);
    scratch.write("web.yml", format!("basic_auth_users: {{bob: {}, alice: {}}}\n", hash("bob123"), hash("new")));
    exporter.until("he is let in", |exporter| (status(exporter, "bob", "bob123") == 200).then_some(()));
    assert_eq!(status(&exporter, "alice", "alice123"), 401, "her old password");
    assert_eq!(status(&exporter, "alice", "new"), 200);
    for emptied in ["", "# nothing\n", "basic_auth_users:\n", "rate_limit: {interval: 1ms, burst: 1000}\n"] {
        let before = exporter.log().matches("which lets everybody in").count();
        scratch.write("web.yml", emptied);
        exporter.until("it is refused", |exporter| {
            (exporter.log().matches("which lets everybody in").count() > before).then_some(())
        });
        assert_eq!(request(exporter.port, "GET /metrics HTTP/1.1\r\n\r\n").unwrap().status, 401, "{emptied}");
        assert_eq!(status(&exporter, "bob", "bob123"), 200);
    }
    assert!(!exporter.log().contains("plain"), "{}", exporter.log());
}
