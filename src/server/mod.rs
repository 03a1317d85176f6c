//! HTTP: tiny_http's workers hand out what hangs on the board.
//!
//! Nothing here waits for DCGM or formats metrics. Every answer is one buffer and one write; the listening sockets have
//! TCP_NODELAY, which tiny_http cannot set and without which a 100 KB page takes 11 ms instead of 0.15.

pub mod listen;

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use tiny_http::{Method, Request, Server};

use crate::page::{Board, Health, Page};
pub use listen::{ListenAddress, Socket};

/// Scrapes take microseconds; the second worker is for the client that reads slowly.
const WORKERS: usize = 2;
/// Serving needs little: a request's head, and a buffer that is not ours.
const STACK: usize = 128 * 1024;

/// Starts serving the board on these sockets. Returns at once; the threads live as long as the process.
///
/// Errors: a thread cannot be made.
pub fn start(sockets: Vec<Socket>, board: &Arc<Board>) -> io::Result<()> {
    for socket in sockets {
        let server = match socket {
            Socket::Tcp(listener) => Server::from_listener(listener, None),
            Socket::Unix(listener) => Server::from_listener(listener, None),
        };
        let server = Arc::new(server.map_err(io::Error::other)?);
        for index in 0..WORKERS {
            let (server, board) = (server.clone(), board.clone());
            std::thread::Builder::new()
                .name(format!("http-{index}"))
                .stack_size(STACK)
                .spawn(move || work(&server, &board))?;
        }
    }
    Ok(())
}

fn work(server: &Server, board: &Board) {
    loop {
        match server.recv() {
            Ok(request) => {
                // A client that went away is its own business.
                if let Err(error) = answer(request, board) {
                    log::debug!("an answer was not taken: {error}");
                }
            }
            Err(error) => {
                log::error!("the listening socket failed: {error}");
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    }
}

/// What a request gets.
enum Answer {
    Page(Arc<Page>),
    Text { status: &'static str, content_type: &'static str, body: String },
}

fn answer(request: Request, board: &Board) -> io::Result<()> {
    let head_only = *request.method() == Method::Head;
    let path = request.url().split(['?', '#']).next().unwrap_or_default();
    let answer = route(path, board);
    if matches!((&answer, path), (Answer::Page(_), _) | (_, "/metrics")) {
        board.count_scrape();
    }
    let mut writer = request.into_writer();
    match answer {
        Answer::Page(page) if head_only => writer.write_all(page.head())?,
        Answer::Page(page) => writer.write_all(page.response())?,
        Answer::Text { status, content_type, body } => {
            let length = body.len();
            let body = if head_only { "" } else { &body };
            let response = format!(
                "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nX-Content-Type-Options: nosniff\r\n\
                 Content-Length: {length}\r\n\r\n{body}"
            );
            writer.write_all(response.as_bytes())?;
        }
    }
    writer.flush()
}

const PLAIN: &str = "text/plain; charset=utf-8";
const UNAVAILABLE: &str = "503 Service Unavailable";

fn route(path: &str, board: &Board) -> Answer {
    match path {
        "/metrics" => match (board.health(), board.page()) {
            (Health::Fresh, Some(page)) => Answer::Page(page),
            (health, _) => {
                let body = format!("{}\n", describe(&health));
                Answer::Text { status: UNAVAILABLE, content_type: crate::page::CONTENT_TYPE, body }
            }
        },
        "/health" => {
            let health = board.health();
            let status = if health == Health::Fresh { "200 OK" } else { UNAVAILABLE };
            Answer::Text { status, content_type: PLAIN, body: format!("{}\n", describe(&health)) }
        }
        "/" => Answer::Text {
            status: "200 OK",
            content_type: "text/html; charset=utf-8",
            body: "<!doctype html>\n<html><head><title>GPU Exporter</title></head><body><h1>GPU Exporter</h1>\n\
                   <p><a href=\"./metrics\">Metrics</a></p>\n<p><a href=\"./health\">Health</a></p>\n</body></html>\n"
                .to_owned(),
        },
        _ => Answer::Text { status: "404 Not Found", content_type: PLAIN, body: "404 page not found\n".to_owned() },
    }
}

/// One line: the state and, where there is something to say, why.
fn describe(health: &Health) -> String {
    match health {
        Health::Starting(why) => format!("starting: {why}"),
        Health::Fresh => "OK".to_owned(),
        Health::Stale { age, why } if why.is_empty() => format!("stale: the samples are {} s old", age.as_secs()),
        Health::Stale { age, why } => format!("stale: the samples are {} s old; {why}", age.as_secs()),
    }
}
