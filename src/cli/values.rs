//! How single values are written: booleans, integers and durations as Go programs take them, and `30s` besides.
//!
//! Errors are what would be right, for the end of a message that already names the flag and the value.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use crate::config::duration::parse_go;

/// Go's forms of a boolean.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

/// Longer than any time that a setting is for; in microseconds since 1970 nothing wraps.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A duration of at most 30 days: an integer is milliseconds, as dcgm-exporter has it; with a unit it is `30s`, `500ms`
/// or `1m30s`.
pub fn duration(text: &str) -> Result<Duration, String> {
    const FORMS: &str = "expected a time such as 30s or 500ms, or a number of milliseconds such as 30000";
    let with_unit = || {
        let time = humantime::parse_duration(text).ok();
        time.filter(|_| text.ends_with(|last: char| last.is_ascii_alphabetic()))
    };
    match integer(text).map(Duration::from_millis).or_else(with_unit) {
        Some(time) if time <= LONGEST => Ok(time),
        Some(_) => Err("expected at most 30days".to_owned()),
        None => Err(FORMS.to_owned()),
    }
}

/// A duration within bounds, both included.
pub fn between(text: &str, shortest: Duration, longest: Duration) -> Result<Duration, String> {
    let time = duration(text)?;
    match (shortest..=longest).contains(&time) {
        true => Ok(time),
        false => {
            let [shortest, longest] = [shortest, longest].map(|time| match time.as_secs() % 3600 {
                0 if time.subsec_nanos() == 0 => format!("{}h", time.as_secs() / 3600),
                _ => humantime::format_duration(time).to_string(),
            });
            Err(format!("expected {shortest} to {longest}"))
        }
    }
}

/// A window of time, which cannot be empty.
pub fn window(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("an empty window counts nothing; the default is 300000 (5m)".to_owned()),
        window => Ok(window),
    }
}

/// A Go duration. Go takes 0 for "no limit"; here it is an hour.
pub fn web_timeout(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(60 * 60);
    match parse_go(text) {
        Some(Duration::ZERO) => Ok(LONGEST),
        Some(time) if time <= LONGEST => Ok(time),
        Some(_) => Err("expected at most 1h".to_owned()),
        None => Err("expected a time with its unit, such as 10s or 500ms".to_owned()),
    }
}

/// A path. A relative one is made absolute at once, by the directory of the first call: an embedded engine may change the
/// working directory, and settings are read again later.
pub fn absolute(path: &str) -> Result<PathBuf, String> {
    static START: OnceLock<PathBuf> = OnceLock::new();
    let start = START.get_or_init(|| std::env::current_dir().unwrap_or_default());
    let path = if path.is_empty() { PathBuf::new() } else { start.join(path) };
    std::path::absolute(path).map_err(|error| format!("expected a path ({error})"))
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
        for text in ["2592000001", "31days", "500000years", &u64::MAX.to_string()] {
            assert!(duration(text).unwrap_err().contains("30days"), "{text}");
        }
        assert_eq!(duration("30days"), Ok(LONGEST));
        for text in ["", "s", "-1", "1.5", "ten", "30 lightyears", "0x", "++5"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
