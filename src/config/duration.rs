//! Times as Go programs write them: `1.5s`, `1m30s`, `100ms`, `0`.

use std::time::Duration;

/// DCGM needs this long between two samples of a profiling field on Hopper; below it they come out as 0.
pub const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
pub const LONGEST_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// Parses a Go duration. `None` for anything else, a negative one included: no setting here has a use for it.
pub fn parse_go(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut sum = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        sum += number.parse::<f64>().ok()? * seconds;
        rest = after;
    }
    if text.is_empty() || text == "+" { None } else { Duration::try_from_secs_f64(sum).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_reads_them() {
        for (text, milliseconds) in [
            ("0", 0),
            ("0s", 0),
            ("10s", 10_000),
            ("1.5s", 1500),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("100ms", 100),
            ("+.5s", 500),
            ("1000us", 1),
            ("1000\u{b5}s", 1),
        ] {
            assert_eq!(parse_go(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "+", "10", "s", "-1s", "1x", "1s2", "1..5s", "99999999999999999999999h", "ten"] {
            assert_eq!(parse_go(text), None, "{text}");
        }
    }
}
