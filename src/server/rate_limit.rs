//! The rate limit of the web configuration, for all clients together.

use std::time::{Duration, Instant};

use super::web_config::RateLimit;

/// The rate limit's tokens.
#[derive(Default)]
pub struct Bucket {
    limit: Option<RateLimit>,
    tokens: f64,
    filled: Option<Instant>,
}

impl Bucket {
    /// Takes a token if there is one; there always is without a limit.
    pub fn take(&mut self, limit: Option<RateLimit>, now: Instant) -> bool {
        let Some(RateLimit { interval, burst }) = limit else { return true };
        let most = f64::from(burst);
        if self.limit != limit {
            *self = Bucket { limit, tokens: most, filled: Some(now) };
        }
        let since = self.filled.replace(now).map_or(Duration::ZERO, |filled| now.saturating_duration_since(filled));
        self.tokens = (self.tokens + since.as_secs_f64() / interval.as_secs_f64()).min(most);
        let is_allowed = self.tokens >= 1.0;
        if is_allowed {
            self.tokens -= 1.0;
        }
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_fills_at_its_rate() {
        let limit = |burst| Some(RateLimit { interval: Duration::from_secs(1), burst });
        let (mut bucket, start) = (Bucket::default(), Instant::now());
        let mut at = |milliseconds: u64, limit| bucket.take(limit, start + Duration::from_millis(milliseconds));
        assert!(at(0, None));
        assert!(at(0, limit(2)) && at(0, limit(2)) && !at(10, limit(2)));
        assert!(at(1020, limit(2)) && !at(1030, limit(2)));
        assert!(at(60_000, limit(2)) && at(60_000, limit(2)) && !at(60_000, limit(2)));
        assert!(!at(70_000, limit(0)));
    }
}
