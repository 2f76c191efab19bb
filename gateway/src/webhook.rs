//! Webhook signatures, checked on the raw bytes before anything else happens to a request. Contract section 10.
//!
//! A registration's `verify` becomes a [`Verify`] once; it holds the name of a secret and no secret. What the name stands for is
//! looked up for each request, so that a reload rotates secrets, and a secret that is gone lets nothing in.

mod event_id;
mod generic;
mod headers;
mod mac;
mod samples;
mod scheme;
mod sign;
mod slack;
mod standard;
mod stripe;
#[cfg(test)]
mod tests;
mod twilio;

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, Response};

use crate::config::Config;

pub use samples::{Sample, sample};
pub use scheme::{InvalidSpec, Verify};
pub use sign::{CannotSign, Event, sign};
pub use twilio::is_form;

/// What is known of a request once its signature was found good. It holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// The word for the scheme in registrations.
    pub scheme: &'static str,
    /// The secret's name in the configuration.
    pub secret: Arc<str>,
    /// The signed time in seconds since 1970, for schemes that sign one.
    pub timestamp: Option<i64>,
    /// What tells the event from others, where the scheme has such an id and the request carries it.
    pub event_id: Option<String>,
}

impl Verification {
    /// As workers are told of it.
    #[must_use]
    pub fn to_protocol(&self) -> gearway_protocol::Verification {
        gearway_protocol::Verification {
            scheme: self.scheme.to_owned(),
            secret: self.secret.to_string(),
            timestamp: self.timestamp,
        }
    }
}

/// What is to become of a request with a good signature.
#[derive(Debug)]
pub enum Outcome {
    Verified(Verification),
    /// It asks whether the gateway is there, and this is the answer; the handler does not hear of it.
    Handshake(Response<Bytes>),
}

/// A request as it came, for a signature to be checked.
#[derive(Debug, Clone, Copy)]
pub struct WebhookRequest<'a> {
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
    /// As it came, still encoded.
    pub raw_path: &'a str,
    /// What follows the `?`, as it came, credentials included.
    pub raw_query: Option<&'a str>,
    pub body: &'a Bytes,
}

/// Why a request was not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Its signature is not one.
    Rejected(Rejected),
    /// Nobody can say, because of the configuration.
    Unusable(Unusable),
}

/// What is wrong with a request's signature. The texts are for whoever wires up a provider, and give nothing away: they
/// depend on what the request says, not on the secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error("the {0} header is missing")]
    Missing(HeaderName),
    #[error("the {0} header is repeated")]
    Repeated(HeaderName),
    #[error("the {header} header is not {wanted}")]
    Malformed { header: HeaderName, wanted: &'static str },
    #[error("the signed time is too far from the gateway's")]
    Stale,
    #[error("the body is not signed: it is no form, and the URL's bodySHA256 is missing or another body's")]
    BodyNotSigned,
    #[error("the signature does not match")]
    Mismatch,
}

/// Why the gateway cannot check a handler's signatures: a field of `verify`, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("verify.{field}: {message}")]
pub struct Unusable {
    pub field: &'static str,
    pub message: String,
}

impl From<Rejected> for Refused {
    fn from(rejected: Rejected) -> Self {
        Self::Rejected(rejected)
    }
}

impl From<Unusable> for Refused {
    fn from(unusable: Unusable) -> Self {
        Self::Unusable(unusable)
    }
}

/// Checks everything that a handler's replicas ask for: where they disagree, all of it has to hold. [`None`] when they ask for
/// nothing.
///
/// # Errors
/// When a signature is not good, or cannot be checked.
pub fn check(
    asked: &[Arc<Verify>],
    request: &WebhookRequest<'_>,
    config: &Config,
    now: SystemTime,
) -> Result<Option<Outcome>, Refused> {
    let mut outcome = None;
    for verify in asked {
        let one = verify.check(request, config, now)?;
        if outcome.is_none() || matches!(one, Outcome::Handshake(_)) {
            outcome = Some(one);
        }
    }
    Ok(outcome)
}
