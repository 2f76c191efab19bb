//! When a delivery that failed is tried again. Contract section 10.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::RETRY_AFTER;

const FIRST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_hours(6);
/// A worker that asks for more than that is asked again all the same.
const LONGEST_WISH: Duration = Duration::from_hours(24);

/// How long to wait after this attempt, counted from 1, failed: doubling, and up to a fifth longer, so that what failed together
/// does not come together.
#[must_use]
pub(super) fn pause_after(attempt: u32) -> Duration {
    let doubled = FIRST.saturating_mul(1_u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX));
    doubled.mul_f64(1.0 + fastrand::f64() / 5.0).min(LONGEST)
}

/// What the worker's `Retry-After` asks for: seconds or a date.
#[must_use]
pub(super) fn wish(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(pause.min(LONGEST_WISH))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn pauses_double_up_to_six_hours() {
        for (attempt, least) in [(1, 5), (2, 10), (3, 20), (12, 5 * 2048)] {
            for _ in 0..50 {
                let pause = pause_after(attempt);
                assert!(pause >= Duration::from_secs(least), "{attempt}: {pause:?}");
                assert!(pause <= Duration::from_secs(least).mul_f64(1.2), "{attempt}: {pause:?}");
            }
        }
        for attempt in [14, 40, u32::MAX] {
            assert_eq!(pause_after(attempt), LONGEST, "{attempt}");
        }
        let spread: std::collections::HashSet<_> = (0..20).map(|_| pause_after(1)).collect();
        assert!(spread.len() > 1, "no jitter");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (value, pause) in [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:49:42 GMT", Some(5)),
            ("Sun, 06 Nov 1994 08:49:30 GMT", Some(0)),
            ("99999999999", Some(24 * 3600)),
            ("soon", None),
            ("-1", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            assert_eq!(wish(&headers, now), pause.map(Duration::from_secs), "{value}");
        }
        assert_eq!(wish(&HeaderMap::new(), now), None);
    }
}
