//! What is answered to which request: decided by tiny_http's worker, and independent of who asks.
//!
//! An answer is written as one ready response, which costs half of what tiny_http's own way of making one does. That to
//! `/metrics` and `/` have no body but say which page to send; the bytes are added by [`super::connections`] from what is
//! published, so that a client that reads slowly holds neither the worker nor a copy.

use std::borrow::Cow;
use std::io;

use tiny_http::{Method, Request};

use super::accept::Form;
use crate::publish::{Health, PublishedPage};
use crate::status::{self, Said};
use crate::system::threads::test_fault;

/// Paths that have an answer; see [`super::request`].
pub const PATHS: [&str; 7] = ["/", TEXT, JSON, "/metrics", "/health", "/-/healthy", "/-/ready"];
/// The page for people as text: also the canonical path of `/` for a client that prefers text.
pub const TEXT: &str = "/?text";
pub const JSON: &str = "/status.json";

/// Content type of the page, and of the reason why there is none.
pub const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
pub const PLAIN: &str = "text/plain; charset=utf-8";

/// The header of an answer whose body is to be the published page, and its values.
pub const PAGE: &str = "X-Page";
pub const PAGE_PLAIN: &str = "plain";
pub const PAGE_GZIP: &str = "gzip";
/// The page for people, in the form that the content type says; and the same that the watcher has yet to make.
pub const PAGE_STATUS: &str = "status";
pub const PAGE_LATER: &str = "later";

/// The same, of the usual form, without an allocation.
macro_rules! page {
    ($form:literal) => {
        concat!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nX-Page: ",
            $form,
            "\r\nContent-Length: 0\r\n\r\n"
        )
    };
}

/// The methods that are served.
const ALLOW: &str = "Allow: GET, HEAD, OPTIONS\r\n";

/// Answers a request.
///
/// Errors: the connection over which it came is gone.
pub fn answer(request: Request, published: &PublishedPage) -> io::Result<()> {
    test_fault("answer").expect("a fault");
    let answer = match request.method() {
        Method::Get => get(&request, published),
        Method::Options => text("204 No Content", PLAIN, ALLOW, ""),
        _ => text("405 Method Not Allowed", PLAIN, ALLOW, "405 method not allowed\n"),
    };
    let mut writer = request.into_writer();
    writer.write_all(answer.as_bytes())?;
    writer.flush()
}

fn get(request: &Request, published: &PublishedPage) -> Cow<'static, str> {
    match request.url() {
        "/metrics" => metrics(request, published),
        "/health" | "/-/healthy" | "/-/ready" => {
            let health = published.health();
            let is_well = matches!(health, Health::Present { is_well: true, .. });
            text(if is_well { "200 OK" } else { UNAVAILABLE }, PLAIN, "", &describe(&health))
        }
        "/" => status(published, status::Form::Html),
        TEXT => status(published, status::Form::Text),
        JSON => status(published, status::Form::Json),
        _ => text("404 Not Found", PLAIN, "", "404 page not found\n"),
    }
}

/// The path of a form of the page for people.
pub fn path_of(form: status::Form) -> &'static str {
    match form {
        status::Form::Html => "/",
        status::Form::Text => TEXT,
        status::Form::Json => JSON,
    }
}

fn status(published: &PublishedPage, form: status::Form) -> Cow<'static, str> {
    let Some(page) = published.status_page() else {
        return match form {
            status::Form::Json => text("404 Not Found", PLAIN, "", "404 page not found\n"),
            _ => text("200 OK", status::Form::Html.content_type(), "", INDEX),
        };
    };
    let said = match published.health() {
        // The age is on the page in any case, and would make it another one every second.
        Health::Stale { why, .. } => Said { is_well: false, text: format!("stale: {why}") },
        Health::Starting(text) => Said { is_well: false, text },
        Health::Present { status, is_well } => Said { is_well, text: status },
    };
    let outcome = if page.make(form, said) { PAGE_STATUS } else { PAGE_LATER };
    text("200 OK", form.content_type(), &format!("{PAGE}: {outcome}\r\n"), "")
}

pub const UNAVAILABLE: &str = "503 Service Unavailable";

fn metrics(request: &Request, published: &PublishedPage) -> Cow<'static, str> {
    // The canonical head has these only for a client that prefers gzip, or gets another form than the usual.
    let header = |name: &'static str| request.headers().iter().find(|header| header.field.equiv(name));
    let takes_gzip = header("Accept-Encoding").is_some();
    let form = header("Accept").and_then(|accept| Form::of_content_type(accept.value.as_str())).unwrap_or(Form::Text);
    match published.health() {
        Health::Present { .. } => {
            if form.is_open_metrics() {
                published.make_open_metrics(takes_gzip);
            } else if takes_gzip {
                published.want_gzip();
            }
            page(form, takes_gzip)
        }
        health => text(UNAVAILABLE, METRICS, "", &describe(&health)),
    }
}

/// An answer for which the page is sent.
fn page(form: Form, gzip: bool) -> Cow<'static, str> {
    match (form, gzip) {
        (Form::Text, false) => Cow::Borrowed(page!("plain")),
        (Form::Text, true) => Cow::Borrowed(page!("gzip")),
        (form, gzip) => {
            let page = if gzip { PAGE_GZIP } else { PAGE_PLAIN };
            text("200 OK", form.content_type(), &format!("{PAGE}: {page}\r\n"), "")
        }
    }
}

/// A whole response. `lines` are further lines of its head, each with its line break.
fn text(status: &str, content_type: &str, lines: &str, body: &str) -> Cow<'static, str> {
    let length = body.len();
    Cow::Owned(format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n{lines}Content-Length: {length}\r\n\r\n{body}"
    ))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_for_a_page_are_what_their_parts_say() {
        for (form, gzip) in [(PAGE_PLAIN, false), (PAGE_GZIP, true)] {
            assert_eq!(page(Form::Text, gzip), text("200 OK", METRICS, &format!("{PAGE}: {form}\r\n"), ""));
        }
        assert_eq!(Form::Text.content_type(), METRICS);
    }
}
