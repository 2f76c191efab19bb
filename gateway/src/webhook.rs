//! Webhook signatures, checked on the raw bytes before anything else happens to a request. Contract section 10.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Response};

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
