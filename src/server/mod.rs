//! HTTP: what hangs on the board, for whoever asks, whatever else they do.
//!
//! - [`listen`]: the public sockets.
//! - [`front_door`]: one thread that owns them, and bounds what clients can cost.
//! - [`request`]: what it has to know of a request.
//! - [`back_room`]: tiny_http, which says what to answer.
//!
//! Nothing here waits for DCGM or formats metrics: the page is sent from the memory that the watcher published.

pub mod back_room;
pub mod front_door;
pub mod listen;
pub mod request;

use std::io;
use std::sync::Arc;

use tiny_http::{Method, Request};

use crate::page::{Board, CONTENT_TYPE, Health};
use back_room::{BackRoom, Reply};
use front_door::FrontDoor;
pub use listen::{ListenAddress, Socket};

/// The front door holds a few buffers of some kilobytes.
const STACK: usize = 256 * 1024;

/// Starts serving the board on these sockets. Returns at once; the threads live as long as the process.
///
/// Errors: a thread or the private socket cannot be made.
pub fn start(sockets: Vec<Socket>, board: &Arc<Board>) -> io::Result<()> {
    let back_room = BackRoom::open(board.clone(), decide)?;
    let front_door = FrontDoor::new(sockets, back_room, board.clone());
    std::thread::Builder::new().name("front-door".to_owned()).stack_size(STACK).spawn(move || front_door.run())?;
    Ok(())
}

const PLAIN: &str = "text/plain; charset=utf-8";
const UNAVAILABLE: &str = "503 Service Unavailable";

/// What a request gets.
fn decide(request: &Request, board: &Board) -> Reply {
    let is_head = *request.method() == Method::Head;
    let path = request.url().split(['?', '#']).next().unwrap_or_default();
    let (status, content_type, body) = match path {
        "/metrics" => {
            board.count_scrape();
            match board.health() {
                Health::Present { .. } if is_head => return Reply::PageHead,
                Health::Present { .. }
                    if request.headers().iter().any(|header| header.field.equiv("Accept-Encoding")) =>
                {
                    board.want_gzip();
                    return Reply::PageGzip;
                }
                Health::Present { .. } => return Reply::Page,
                health => (UNAVAILABLE, CONTENT_TYPE, describe(&health)),
            }
        }
        "/health" => {
            let health = board.health();
            let is_well = matches!(health, Health::Present { is_well: true, .. });
            let status = if is_well { "200 OK" } else { UNAVAILABLE };
            (status, PLAIN, describe(&health))
        }
        "/" => ("200 OK", "text/html; charset=utf-8", INDEX.to_owned()),
        _ => ("404 Not Found", PLAIN, "404 page not found".to_owned()),
    };
    Reply::Text(text(status, content_type, &body, is_head))
}

const INDEX: &str = "<!doctype html>\n<html><head><title>GPU Exporter</title></head><body><h1>GPU Exporter</h1>\n\
    <p><a href=\"./metrics\">Metrics</a></p>\n<p><a href=\"./health\">Health</a></p>\n</body></html>";

/// A small response, with a line break after the body.
fn text(status: &str, content_type: &str, body: &str, is_head: bool) -> Vec<u8> {
    let length = body.len() + 1;
    let body = if is_head { String::new() } else { format!("{body}\n") };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// What is the matter, in a line; `OK` and the state where nothing is.
fn describe(health: &Health) -> String {
    match health {
        Health::Starting(state) => state.clone(),
        Health::Present { state, is_well: true } => format!("OK\n{state}"),
        Health::Present { state, is_well: false } => state.clone(),
        Health::Stale { age, why } => format!("stale: the samples are {} s old; {why}", age.as_secs()),
    }
}
