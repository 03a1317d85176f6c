//! Log lines on standard error, in the two formats of dcgm-exporter: `key=value` text and JSON.
//!
//! systemd's journal keeps and rotates them; the exporter writes no files.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant, SystemTime};

use log::kv::{Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};

use super::json::{Json, push_object};
use crate::config::LogFormat;

struct Logger {
    format: LogFormat,
}

/// Starts logging. A second call changes nothing.
pub fn start(format: LogFormat, debug: bool) {
    if log::set_boxed_logger(Box::new(Logger { format })).is_ok() {
        log::set_max_level(if debug { LevelFilter::Debug } else { LevelFilter::Info });
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Lines of libraries are dropped: their causes are logged by the caller, in an administrator's terms.
        metadata.target().starts_with("dcgm_exporter")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = line(self.format, SystemTime::now(), record);
        // A closed standard error cannot be reported anywhere.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

fn line(format: LogFormat, now: SystemTime, record: &Record<'_>) -> String {
    let level = match record.level() {
        Level::Error => "ERROR",
        Level::Warn => "WARN",
        Level::Info => "INFO",
        Level::Debug | Level::Trace => "DEBUG",
    };
    let time = humantime::format_rfc3339_millis(now);
    let message = record.args().to_string();
    let mut pairs = Pairs(Vec::new());
    // Collecting pairs cannot fail.
    let _ = record.key_values().visit(&mut pairs);
    let mut line = String::new();
    match format {
        LogFormat::Text => {
            let _ = write!(line, "time={time} level={level} msg={}", Quoted(&message));
            for (key, value) in &pairs.0 {
                let _ = write!(line, " {key}={}", Quoted(value));
            }
        }
        LogFormat::Json => {
            let time = time.to_string();
            let fixed = [("time", time.as_str()), ("level", level), ("msg", message.as_str())];
            let pairs = pairs.0.iter().map(|(key, value)| (key.as_str(), value.as_str()));
            push_object(&mut line, fixed.into_iter().chain(pairs));
        }
    }
    line.push('\n');
    line
}

struct Pairs(Vec<(String, String)>);

impl<'kvs> VisitSource<'kvs> for Pairs {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        self.0.push((key.as_str().to_owned(), value.to_string()));
        Ok(())
    }
}

/// Text, in quotes if it has blanks, quotes, `=` or control characters or is empty.
struct Quoted<'a>(&'a str);

impl std::fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '"' && c != '=' && c != '\\';
        if !self.0.is_empty() && self.0.chars().all(plain) { f.write_str(self.0) } else { Json(self.0).fmt(f) }
    }
}

/// Allows one line per minute for each cause.
#[derive(Default)]
pub struct Throttle {
    last: HashMap<String, Instant>,
}

impl Throttle {
    const PAUSE: Duration = Duration::from_secs(60);
    const MOST_CAUSES: usize = 256;

    /// Whether a line about this cause may be written now.
    pub fn allows(&mut self, cause: &str) -> bool {
        let now = Instant::now();
        self.last.retain(|_, last| now.duration_since(*last) < Throttle::PAUSE);
        if self.last.contains_key(cause) || self.last.len() >= Throttle::MOST_CAUSES {
            return false;
        }
        self.last.insert(cause.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(format: LogFormat) -> String {
        let pairs = [("address", "[::]:9400"), ("error", "no such\n\"thing\"")];
        let record = Record::builder().args(format_args!("Listening on")).level(Level::Info).key_values(&pairs).build();
        line(format, SystemTime::UNIX_EPOCH + Duration::from_millis(1_500), &record)
    }

    #[test]
    fn text() {
        let expected = "time=1970-01-01T00:00:01.500Z level=INFO msg=\"Listening on\" address=[::]:9400 \
                        error=\"no such\\n\\\"thing\\\"\"\n";
        assert_eq!(logged(LogFormat::Text), expected);
    }

    #[test]
    fn json() {
        let value: serde_json::Value = serde_json::from_str(&logged(LogFormat::Json)).unwrap();
        assert_eq!((&value["msg"], &value["address"]), (&"Listening on".into(), &"[::]:9400".into()));
        assert_eq!(value["error"], "no such\n\"thing\"");
    }

    #[test]
    fn a_cause_is_logged_once_per_minute() {
        let mut throttle = Throttle::default();
        assert!(throttle.allows("a") && !throttle.allows("a") && throttle.allows("b"));
    }
}
