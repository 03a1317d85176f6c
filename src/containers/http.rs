//! One GET over a Unix socket, bounded in time and size.
//!
//! HTTP/1.0, so that the answer is not chunked and ends with the connection.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::system::unix_socket;

/// An answer's head is at most this long.
const MOST_HEAD: usize = 16 * 1024;

/// The status and the body of an answer that has at most `most` bytes of body and is there before `until`.
///
/// Errors: a sentence for the log.
pub fn get(socket: &Path, path: &str, most: usize, until: Instant) -> Result<(u16, Vec<u8>), String> {
    let mut stream = connect(socket).map_err(|error| format!("cannot connect: {error}"))?;
    let limit = remaining(until).ok_or_else(too_late)?;
    stream.set_write_timeout(Some(limit)).map_err(|error| error.to_string())?;
    let ask = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\nAccept: application/json\r\n\r\n");
    stream.write_all(ask.as_bytes()).map_err(|error| format!("cannot ask: {error}"))?;
    let mut received = Vec::new();
    let head = loop {
        if let Some(head) = head(&received)? {
            break head;
        }
        if received.len() > MOST_HEAD {
            return Err(format!("the head of its answer has more than {MOST_HEAD} bytes"));
        }
        if !receive(&mut stream, &mut received, until)? {
            return Err("it closed the connection before its answer was complete".to_owned());
        }
    };
    received.drain(..head.length);
    let is_whole = |received: &Vec<u8>| head.body.is_some_and(|length| received.len() >= length);
    loop {
        if received.len() > most || head.body.is_some_and(|length| length > most) {
            return Err(format!("its answer has more than {most} bytes"));
        }
        if is_whole(&received) || !receive(&mut stream, &mut received, until)? {
            break;
        }
    }
    match head.body {
        Some(length) if received.len() < length => {
            Err("it closed the connection before its answer was complete".to_owned())
        }
        length => {
            received.truncate(length.unwrap_or(usize::MAX));
            Ok((head.status, received))
        }
    }
}

fn connect(socket: &Path) -> std::io::Result<UnixStream> {
    let stream = UnixStream::from(unix_socket::connect(socket)?);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

struct Head {
    length: usize,
    status: u16,
    /// Bytes of the body, where that is known.
    body: Option<usize>,
}

/// The head of an answer; `None` while it is not complete.
fn head(received: &[u8]) -> Result<Option<Head>, String> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(received).map_err(|error| format!("its answer is not HTTP: {error}"))?;
    let httparse::Status::Complete(length) = parsed else { return Ok(None) };
    let header = |name: &str| {
        let of_name = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        of_name.map(|header| String::from_utf8_lossy(header.value).trim().to_owned())
    };
    if header("transfer-encoding").is_some() {
        return Err("it answers HTTP/1.0 in chunks".to_owned());
    }
    let body = header("content-length").map(|length| length.parse::<usize>());
    let body = body.transpose().map_err(|_| "its answer has a Content-Length that is not a number".to_owned())?;
    Ok(Some(Head { length, status: response.code.unwrap_or(0), body }))
}

/// Receives more. Says whether there was more.
fn receive(stream: &mut UnixStream, received: &mut Vec<u8>, until: Instant) -> Result<bool, String> {
    let limit = remaining(until).ok_or_else(too_late)?;
    stream.set_read_timeout(Some(limit)).map_err(|error| error.to_string())?;
    let mut buffer = [0; 16 * 1024];
    match stream.read(&mut buffer) {
        Ok(count) => {
            received.extend_from_slice(&buffer[..count]);
            Ok(count > 0)
        }
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Err(too_late()),
        Err(error) => Err(format!("cannot read its answer: {error}")),
    }
}

/// A time limit of a socket, which cannot be zero.
fn remaining(until: Instant) -> Option<Duration> {
    Some(until.saturating_duration_since(Instant::now())).filter(|remaining| !remaining.is_zero())
}

fn too_late() -> String {
    "it does not answer in time".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let whole = head(b"HTTP/1.0 200 OK\r\nContent-Length: 12\r\n\r\n{}").unwrap().unwrap();
        assert_eq!((whole.length, whole.status, whole.body), (39, 200, Some(12)));
        assert_eq!(head(b"HTTP/1.1 404 Not Found\r\n\r\n").unwrap().unwrap().body, None);
        assert!(head(b"HTTP/1.0 200 OK\r\nContent-").unwrap().is_none());
        for bad in [
            "SSH-2.0-OpenSSH\r\n",
            "HTTP/1.0 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert!(head(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
