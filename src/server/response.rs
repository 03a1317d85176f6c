//! The head of an answer, as it is sent: status, date, length, the headers of the web configuration, and whether the
//! connection is kept.

use std::time::SystemTime;

use super::request::{Status, Version};
use super::web_config::WebConfig;

/// What has to be known of a request to write the head of its answer.
#[derive(Clone, Copy)]
pub struct Asked {
    pub is_head: bool,
    pub keep_alive: bool,
    pub version: Version,
}

pub const UNAUTHORIZED: Plain =
    Plain { status: "401 Unauthorized", text: Some("Unauthorized\n"), extra: &[("WWW-Authenticate", "Basic")] };

/// An answer that is made here. It tells a stranger no more than the status.
pub struct Plain {
    pub status: Status,
    pub text: Option<&'static str>,
    pub extra: &'static [(&'static str, &'static str)],
}

impl Plain {
    pub const fn status(status: Status) -> Plain {
        Plain { status, text: None, extra: &[] }
    }
}

/// The head of an answer with `length` bytes of body.
pub fn head(
    status: &str,
    content_type: &str,
    extra: &[(&str, &str)],
    length: usize,
    asked: Asked,
    config: &WebConfig,
) -> Vec<u8> {
    use std::io::Write;
    let mut head = Vec::with_capacity(384);
    let date = httpdate::HttpDate::from(SystemTime::now());
    let mut put = |line: std::fmt::Arguments<'_>| drop(head.write_fmt(line));
    put(format_args!("HTTP/1.1 {status}\r\nDate: {date}\r\n"));
    // 204 has no body, and no length of one.
    if !status.starts_with("204") {
        put(format_args!("Content-Type: {content_type}\r\nContent-Length: {length}\r\n"));
    }
    for (name, value) in &config.headers {
        put(format_args!("{name}: {value}\r\n"));
    }
    // After those: of two policies for content a browser keeps to both.
    for (name, value) in extra {
        put(format_args!("{name}: {value}\r\n"));
    }
    if config.headers.iter().all(|(name, _)| *name != "X-Content-Type-Options") {
        put(format_args!("X-Content-Type-Options: nosniff\r\n"));
    }
    match (asked.keep_alive, asked.version) {
        (false, _) => put(format_args!("Connection: close\r\n")),
        (true, Version::Http10) => put(format_args!("Connection: keep-alive\r\n")),
        (true, Version::Http11) => {}
    }
    put(format_args!("\r\n"));
    head
}
