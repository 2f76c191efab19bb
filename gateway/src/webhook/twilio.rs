//! `X-Twilio-Signature`, which signs the URL that Twilio was told, and the fields of a form.

use std::borrow::Cow;
use std::collections::BTreeSet;

use gearway_protocol::{HmacAlgorithm, SignatureEncoding};
use http::HeaderName;
use http::header::CONTENT_TYPE;
use sha2::{Digest, Sha256};

use super::headers::{optional, single};
use super::{Rejected, WebhookRequest, mac};
use crate::config::PublicUrl;

pub(super) const X_TWILIO_SIGNATURE: HeaderName = HeaderName::from_static("x-twilio-signature");
/// Names the body in the query of a URL, for bodies that are no forms.
pub(super) const BODY_HASH: &str = "bodySHA256";
const FORM: &str = "application/x-www-form-urlencoded";

pub(super) fn check<'k>(
    request: &WebhookRequest<'_>,
    keys: impl Iterator<Item = &'k [u8]> + Clone,
    public_url: &PublicUrl,
) -> Result<(), Rejected> {
    let signature = single(request.headers, &X_TWILIO_SIGNATURE)?;
    let fields = if is_form(optional(request.headers, &CONTENT_TYPE)?.unwrap_or_default()) {
        joined_fields(request.body)
    } else if body_is_named(request) {
        String::new()
    } else {
        return Err(Rejected::BodyNotSigned);
    };
    let [without_port, with_port] = public_url.spellings(&target(request.raw_path, request.raw_query));
    let matches = |keys, url: &str| {
        let parts = [url.as_bytes(), fields.as_bytes()];
        mac::matches(keys, HmacAlgorithm::Sha1, SignatureEncoding::Base64, &parts, &[signature])
    };
    // Twilio's own servers do not agree on the port.
    matches(keys.clone(), &without_port).or_else(|_| matches(keys, &with_port))
}

pub(super) fn target(raw_path: &str, raw_query: Option<&str>) -> String {
    match raw_query {
        Some(query) if !query.is_empty() => format!("{raw_path}?{query}"),
        Some(_) | None => raw_path.to_owned(),
    }
}

/// The fields sorted, each name followed by its value; a field that is repeated with the same value counts once.
pub(super) fn joined_fields(body: &[u8]) -> String {
    let fields: BTreeSet<(Cow<'_, str>, Cow<'_, str>)> = form_urlencoded::parse(body).collect();
    fields.into_iter().flat_map(|(name, value)| [name, value]).collect()
}

pub(super) fn body_hash(body: &[u8]) -> String {
    base16ct::lower::encode_string(&Sha256::digest(body))
}

/// Whether the fields of such a body are what is signed.
#[must_use]
pub fn is_form(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case(FORM)
}

/// Whether the URL, which is signed, says which body belongs to it. An empty body needs no name.
fn body_is_named(request: &WebhookRequest<'_>) -> bool {
    let query = request.raw_query.unwrap_or_default();
    let mut hashes =
        form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == BODY_HASH).map(|(_, hash)| hash);
    match (hashes.next(), hashes.next()) {
        (None, _) => request.body.is_empty(),
        (Some(hash), None) => hash == body_hash(request.body),
        (Some(_), Some(_)) => false,
    }
}
