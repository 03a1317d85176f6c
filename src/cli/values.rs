//! How single values are written: booleans, integers and durations as Go programs take them, and ours besides.

use std::time::Duration;

/// Go's forms of a boolean.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

/// A duration: an integer is milliseconds, as dcgm-exporter has it; with a unit (`30s`, `500ms`, `1m30s`) what it says.
pub fn duration(text: &str) -> Result<Duration, String> {
    if let Some(milliseconds) = integer(text) {
        return Ok(Duration::from_millis(milliseconds));
    }
    humantime::parse_duration(text)
        .ok()
        .filter(|_| text.ends_with(|last: char| last.is_ascii_alphabetic()))
        .ok_or_else(|| "expected a time such as 30s or 500ms, or a number of milliseconds such as 30000".to_owned())
}

/// Integer literals with Go's prefixes: `0x`, `0o`, `0b`, and a leading zero for octal.
fn integer(text: &str) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let lower = text.to_ascii_lowercase();
    let (digits, radix) = match lower.get(..2) {
        Some("0x") => (&lower[2..], 16),
        Some("0o") => (&lower[2..], 8),
        Some("0b") => (&lower[2..], 2),
        Some(two) if two.starts_with('0') => (&lower[1..], 8),
        _ => (lower.as_str(), 10),
    };
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, milliseconds) in [
            ("30000", 30_000),
            ("30s", 30_000),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("0x3e8", 1000),
            ("0750", 488),
            ("+5", 5),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "-1", "1.5", "ten", "30 lightyears", "0x", "++5"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
