//! What a handler's registration asks of deliveries, checked.

use std::time::Duration;

use bytes::Bytes;
use gearway_protocol::{Ack, DeliveryMode, DeliverySpec};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::record::{DedupKey, RouteName, millis, now_ms};

/// A caller that waits longer has other limits in its way.
const LONGEST_WAIT: Duration = Duration::from_mins(10);
const MOST_ATTEMPTS: u32 = 1000;
/// Beyond that, "within" means nothing.
const LONGEST_WINDOW: Duration = Duration::from_hours(366 * 24);

/// How a handler's requests are kept and delivered.
#[derive(Debug, Clone)]
pub struct Policy {
    pub mode: Mode,
    /// Without what names the delivery.
    pub ack: Response<Bytes>,
    pub attempts: u32,
    pub dedup: Dedup,
    pub dedup_window: Duration,
}

/// What the caller waits for, once its request is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Nothing.
    Durable,
    /// The worker's answer, for so long.
    Deadline { ack_after: Duration },
}

/// What tells one event from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dedup {
    Off,
    /// The id that was found when the signature was verified.
    Verified,
    Header(HeaderName),
}

/// Which field of `delivery` cannot be accepted, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidDelivery {
    pub field: &'static str,
    pub message: String,
}

impl Policy {
    /// [`None`] for a handler that nothing is kept for.
    ///
    /// # Errors
    /// Names the first field that cannot be accepted.
    pub fn check(spec: &DeliverySpec) -> Result<Option<Self>, InvalidDelivery> {
        let invalid = |field, message: &str| InvalidDelivery { field, message: message.to_owned() };
        let ack_after = Duration::from_millis(spec.ack_after_ms);
        if ack_after.is_zero() || ack_after > LONGEST_WAIT {
            return Err(invalid(
                "ack_after_ms",
                "must be within 1 to 600000; use the mode durable for no wait",
            ));
        }
        if spec.attempts == 0 || spec.attempts > MOST_ATTEMPTS {
            return Err(invalid("attempts", "must be within 1 to 1000"));
        }
        let dedup_window = Duration::from_secs(spec.dedup_window_s);
        if dedup_window.is_zero() || dedup_window > LONGEST_WINDOW {
            return Err(invalid("dedup_window_s", "must be within 1 and a year's 31622400"));
        }
        let ack = response(&spec.ack)?;
        let dedup =
            match spec.dedup.as_deref() {
                None | Some("auto") => Dedup::Verified,
                Some("off") => Dedup::Off,
                Some(name) => Dedup::Header(name.parse().map_err(|_| {
                    invalid("dedup", "is neither \"auto\" nor \"off\" nor the name of a header")
                })?),
            };
        let mode = match spec.mode {
            DeliveryMode::Durable => Mode::Durable,
            DeliveryMode::Deadline => Mode::Deadline { ack_after },
            DeliveryMode::Sync => {
                // Left out, it asks for nothing.
                if spec.dedup.is_some() && dedup != Dedup::Off {
                    let message = "needs the mode durable or deadline: in the mode sync nothing is kept that could be compared";
                    return Err(invalid("dedup", message));
                }
                return Ok(None);
            }
        };
        Ok(Some(Self { mode, ack, attempts: spec.attempts, dedup, dedup_window }))
    }
}

impl Policy {
    /// What the request's event is known by; [`None`] when it cannot be told from others. `verified_id` is what its signature's scheme
    /// knows it by.
    #[must_use]
    pub fn dedup_key(
        &self,
        route: &RouteName,
        headers: &HeaderMap,
        verified_id: Option<&str>,
    ) -> Option<DedupKey> {
        let id = match &self.dedup {
            Dedup::Off => return None,
            Dedup::Verified => verified_id?.as_bytes(),
            Dedup::Header(name) => headers.get(name)?.as_bytes(),
        };
        if id.is_empty() {
            return None;
        }
        let mut hash = Sha256::new();
        for part in [route.path.as_bytes(), route.method.as_str().as_bytes(), id] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let mut key = [0; 16];
        key.copy_from_slice(&hash.finalize()[..16]);
        Some(DedupKey { hash: key, until: now_ms().saturating_add(millis(self.dedup_window)) })
    }
}

fn response(ack: &Ack) -> Result<Response<Bytes>, InvalidDelivery> {
    let status = StatusCode::from_u16(ack.status).ok().filter(StatusCode::is_success).ok_or_else(|| {
        let message = "must be within 200 to 299: whatever else a sender gets, it sends again";
        InvalidDelivery { field: "ack.status", message: message.to_owned() }
    })?;
    let (content_type, body) = match &ack.body {
        Value::Null => (None, Bytes::new()),
        Value::String(text) if text.is_empty() => (None, Bytes::new()),
        Value::String(text) => (Some("text/plain; charset=utf-8"), Bytes::copy_from_slice(text.as_bytes())),
        value => (Some("application/json"), value.to_string().into()),
    };
    // RFC 9110 sections 15.3.5 and 15.3.6: these have no content.
    let has_content = !matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT);
    let mut response = Response::new(if has_content { body } else { Bytes::new() });
    *response.status_mut() = status;
    if let Some(content_type) = content_type.filter(|_| has_content) {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(spec: Value) -> Result<Option<Policy>, InvalidDelivery> {
        Policy::check(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn the_defaults_are_those_of_the_contract() {
        let policy = check(json!({"mode": "deadline"})).unwrap().unwrap();
        assert_eq!(policy.mode, Mode::Deadline { ack_after: Duration::from_millis(2500) });
        assert_eq!((policy.ack.status().as_u16(), policy.ack.body().as_ref()), (200, b"ok".as_slice()));
        assert_eq!((policy.attempts, policy.dedup), (12, Dedup::Verified));
        assert_eq!(policy.dedup_window, Duration::from_hours(72));
        assert!(check(json!({})).unwrap().is_none());
        assert!(check(json!({"mode": "sync", "dedup": "off"})).unwrap().is_none());
    }

    #[test]
    fn an_ack_is_text_or_json_or_nothing() {
        for (ack, content_type, body) in [
            (json!({"body": "yes"}), Some("text/plain; charset=utf-8"), "yes"),
            (json!({"body": {"ok": true}}), Some("application/json"), r#"{"ok":true}"#),
            (json!({"body": ""}), None, ""),
            (json!({"status": 204, "body": "left out"}), None, ""),
        ] {
            let policy = check(json!({"mode": "durable", "ack": ack})).unwrap().unwrap();
            let given = policy.ack.headers().get(CONTENT_TYPE).map(|value| value.to_str().unwrap());
            assert_eq!((given, policy.ack.body().as_ref()), (content_type, body.as_bytes()), "{ack}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_named() {
        for (spec, field) in [
            (json!({"mode": "deadline", "ack_after_ms": 0}), "ack_after_ms"),
            (json!({"mode": "deadline", "ack_after_ms": 600_001}), "ack_after_ms"),
            (json!({"mode": "durable", "attempts": 0}), "attempts"),
            (json!({"mode": "durable", "dedup_window_s": 0}), "dedup_window_s"),
            (json!({"mode": "durable", "dedup": "no header"}), "dedup"),
            (json!({"mode": "sync", "dedup": "X-Id"}), "dedup"),
            (json!({"mode": "sync", "dedup": "auto"}), "dedup"),
            (json!({"mode": "durable", "ack": {"status": 302}}), "ack.status"),
            (json!({"mode": "durable", "ack": {"status": 99}}), "ack.status"),
        ] {
            assert_eq!(check(spec.clone()).unwrap_err().field, field, "{spec}");
        }
        for spec in [json!({"mode": "later"}), json!({"atempts": 3}), json!({"ack": {"code": 1}})] {
            assert!(serde_json::from_value::<DeliverySpec>(spec.clone()).is_err(), "{spec}");
        }
    }
}
