//! What is answered to which request: decided by tiny_http's worker, and independent of who asks.
//!
//! The answer to `/metrics` is the word which page to send; the bytes are added by [`super::connections`] from the
//! published page, so that a client that reads slowly holds neither the worker nor a copy.

use std::io;

use tiny_http::{Header, Method, Request, Response};

use crate::publish::{Health, PublishedPage};

/// Content type of the page, and of the reason why there is none.
pub const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
pub const PLAIN: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
/// The methods that are served, for `Allow`.
const ALLOWED: &str = "GET, HEAD, OPTIONS";

/// The header of an answer whose body is the published page, and its values.
pub const PAGE: &str = "X-Page";
pub const PAGE_PLAIN: &str = "plain";
pub const PAGE_GZIP: &str = "gzip";

/// Paths that have an answer; see [`super::request`].
pub const PATHS: [&str; 5] = ["/", "/metrics", "/health", "/-/healthy", "/-/ready"];

/// Answers a request.
///
/// Errors: the connection over which it came is gone.
pub fn answer(request: Request, published: &PublishedPage) -> io::Result<()> {
    let response = match request.method() {
        Method::Get => get(&request, published),
        Method::Options => text(204, PLAIN, String::new()).with_header(header("Allow", ALLOWED)),
        _ => text(405, PLAIN, "405 method not allowed\n".to_owned()).with_header(header("Allow", ALLOWED)),
    };
    request.respond(response)
}

type Text = Response<io::Cursor<Vec<u8>>>;

fn get(request: &Request, published: &PublishedPage) -> Text {
    match request.url() {
        "/metrics" => metrics(request, published),
        "/health" | "/-/healthy" | "/-/ready" => {
            let health = published.health();
            let is_well = matches!(health, Health::Present { is_well: true, .. });
            text(if is_well { 200 } else { 503 }, PLAIN, describe(&health))
        }
        "/" => text(200, HTML, INDEX.to_owned()),
        _ => text(404, PLAIN, "404 page not found\n".to_owned()),
    }
}

fn metrics(request: &Request, published: &PublishedPage) -> Text {
    published.count_scrape();
    match published.health() {
        Health::Present { .. } => {
            // The canonical head has the header only for a client that prefers gzip.
            let takes_gzip = request.headers().iter().any(|header| header.field.equiv("Accept-Encoding"));
            if takes_gzip {
                published.want_gzip();
            }
            let page = if takes_gzip { PAGE_GZIP } else { PAGE_PLAIN };
            text(200, METRICS, String::new()).with_header(header(PAGE, page))
        }
        health => text(503, METRICS, describe(&health)),
    }
}

fn text(status: u16, content_type: &str, body: String) -> Text {
    Response::from_string(body).with_status_code(status).with_header(header("Content-Type", content_type))
}

fn header(name: &'static str, value: &str) -> Header {
    Header::from_bytes(name, value).expect("names and values here are ASCII")
}

/// The exporter's status in one line, after `OK` where nothing is wrong.
fn describe(health: &Health) -> String {
    match health {
        Health::Starting(status) => format!("{status}\n"),
        Health::Present { status, is_well: true } => format!("OK\n{status}\n"),
        Health::Present { status, is_well: false } => format!("{status}\n"),
        Health::Stale { age, why } => format!("stale: the samples are {} s old; {why}\n", age.as_secs()),
    }
}

const INDEX: &str = "<!doctype html>\n<html><head><title>GPU Exporter</title></head><body><h1>GPU Exporter</h1>\n\
    <p><a href=\"./metrics\">Metrics</a></p>\n<p><a href=\"./health\">Health</a></p>\n</body></html>\n";
