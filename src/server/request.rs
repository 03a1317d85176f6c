//! What the front door has to know of a request's head: whether it is complete, and whether it may go further.
//!
//! Everything else about HTTP is tiny_http's business. Bodies are refused: nothing here takes one, and tiny_http
//! allocates as many bytes as a client says it will send.

/// What becomes of the bytes read so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// More bytes are needed.
    Incomplete,
    /// Answer with this status at once.
    Refused(&'static str),
    /// A complete head, as tiny_http is to see it.
    Forward(Vec<u8>),
}

const TOO_LARGE: &str = "431 Request Header Fields Too Large";
const BODY: &str = "413 Content Too Large";
const BAD: &str = "400 Bad Request";

/// Judges what a client has sent. `longest` is the most bytes a head may have.
///
/// A forwarded head is rewritten: its own `Connection` goes, because the connection behind is not the client's.
pub fn judge(bytes: &[u8], longest: usize) -> Verdict {
    // Lines before the request line are to be ignored, as RFC 9112 has it.
    let skipped = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let Some(end) = find(&bytes[skipped..], b"\r\n\r\n").map(|end| skipped + end) else {
        return if bytes.len() > longest { Verdict::Refused(TOO_LARGE) } else { Verdict::Incomplete };
    };
    if end + 4 > longest {
        return Verdict::Refused(TOO_LARGE);
    }
    let Ok(head) = std::str::from_utf8(&bytes[skipped..end]) else { return Verdict::Refused(BAD) };
    if head.bytes().any(|byte| byte == 0) {
        return Verdict::Refused(BAD);
    }
    let mut lines = head.split("\r\n");
    let mut forward = lines.next().unwrap_or_default().as_bytes().to_vec();
    forward.extend_from_slice(b"\r\n");
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { return Verdict::Refused(BAD) };
        let is = |known: &str| name.trim().eq_ignore_ascii_case(known);
        if is("transfer-encoding") || (is("content-length") && value.trim() != "0") {
            return Verdict::Refused(BODY);
        }
        // A connection's own affairs, and what would make tiny_http wait for more.
        if ["connection", "keep-alive", "upgrade", "expect", "content-length"].into_iter().any(is) {
            continue;
        }
        forward.extend_from_slice(line.as_bytes());
        forward.extend_from_slice(b"\r\n");
    }
    forward.extend_from_slice(b"\r\n");
    Verdict::Forward(forward)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_goes_on_without_what_concerns_the_connection() {
        let head = b"\r\nGET /metrics HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\nrest";
        let forward = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
        assert_eq!(judge(head, 8192), Verdict::Forward(forward.to_vec()));
        for length in 0..head.len() - 4 {
            assert_eq!(judge(&head[..length], 8192), Verdict::Incomplete, "{length}");
        }
    }

    #[test]
    fn what_would_cost_is_refused() {
        let judged = |text: &str| judge(text.as_bytes(), 100);
        for (text, status) in [
            ("POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", BODY),
            ("POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", BODY),
            ("POST / HTTP/1.1\r\nTRANSFER-ENCODING : chunked\r\n\r\n", BODY),
            ("GET / HTTP/1.1\r\nno colon\r\n\r\n", BAD),
            ("GET /\0 HTTP/1.1\r\n\r\n", BAD),
        ] {
            assert_eq!(judged(text), Verdict::Refused(status), "{text:?}");
        }
        assert_eq!(judge(&[b'a'; 101], 100), Verdict::Refused(TOO_LARGE));
        assert_eq!(judge(&[b'a'; 100], 100), Verdict::Incomplete);
        assert_eq!(judge(&[b'\r'; 101], 100), Verdict::Refused(TOO_LARGE));
        assert_eq!(judge(b"GET /\xff HTTP/1.1\r\n\r\n", 100), Verdict::Refused(BAD));
    }
}
