//! `X-Slack-Signature`, and the question that Slack asks of a new URL.

use bytes::Bytes;
use gearway_protocol::{HmacAlgorithm, SignatureEncoding};
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Response};
use serde::Deserialize;

use super::headers::{malformed, seconds, single};
use super::scheme::recent;
use super::{Rejected, WebhookRequest, mac};

pub(super) const X_SLACK_SIGNATURE: HeaderName = HeaderName::from_static("x-slack-signature");
pub(super) const X_SLACK_REQUEST_TIMESTAMP: HeaderName = HeaderName::from_static("x-slack-request-timestamp");
pub(super) const PREFIX: &str = "v0=";

/// Returns the signed time.
pub(super) fn check<'k>(
    request: &WebhookRequest<'_>,
    keys: impl Iterator<Item = &'k [u8]>,
    tolerance: i64,
    now: i64,
) -> Result<i64, Rejected> {
    let header = single(request.headers, &X_SLACK_SIGNATURE)?;
    let signature =
        header.strip_prefix(PREFIX).ok_or_else(|| malformed(&X_SLACK_SIGNATURE, "v0= and a signature"))?;
    let stamp = single(request.headers, &X_SLACK_REQUEST_TIMESTAMP)?;
    let timestamp = seconds(stamp, &X_SLACK_REQUEST_TIMESTAMP)?;
    recent(timestamp, tolerance, now)?;
    let parts = [b"v0:", stamp.as_bytes(), b":", request.body];
    mac::matches(keys, HmacAlgorithm::Sha256, SignatureEncoding::Hex, &parts, &[signature])?;
    Ok(timestamp)
}

#[derive(Deserialize)]
struct Question {
    r#type: String,
    challenge: String,
}

/// The answer to `url_verification`, if the body is that.
pub(super) fn handshake(body: &[u8]) -> Option<Response<Bytes>> {
    let question: Question = serde_json::from_slice(body).ok()?;
    if question.r#type != "url_verification" {
        return None;
    }
    let mut response = Response::new(question.challenge.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Some(response)
}
