//! `webhook-signature`, as standardwebhooks.com describes it, and as Svix sends it, under names of its own.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use gearway_protocol::{HmacAlgorithm, SignatureEncoding};
use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;
use subtle::Choice;

use super::headers::{MAX_SIGNATURES, malformed, seconds, single};
use super::scheme::recent;
use super::{Rejected, WebhookRequest, mac};
use crate::config::Secret;

pub(super) const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
pub(super) const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
pub(super) const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// What a sender calls its three headers.
struct Names {
    id: HeaderName,
    timestamp: HeaderName,
    signature: HeaderName,
}

static STANDARD: Names = Names { id: WEBHOOK_ID, timestamp: WEBHOOK_TIMESTAMP, signature: WEBHOOK_SIGNATURE };
static SVIX: Names = Names {
    id: HeaderName::from_static("svix-id"),
    timestamp: HeaderName::from_static("svix-timestamp"),
    signature: HeaderName::from_static("svix-signature"),
};

const SYMMETRIC: &str = "whsec_";
const PUBLIC: &str = "whpk_";
const ED25519_KEY_BYTES: usize = 32;

/// What a secret's text stands for.
pub(super) enum Key {
    /// For `v1`.
    Hmac(Vec<u8>),
    /// For `v1a`.
    Ed25519(Vec<u8>),
}

impl Key {
    /// # Errors
    /// Says what the text should be, and not what it is.
    pub(super) fn parse(secret: &Secret) -> Result<Self, &'static str> {
        let text = secret.expose();
        if let Some(public) = text.strip_prefix(PUBLIC) {
            return match decode(public) {
                Some(key) if key.len() == ED25519_KEY_BYTES => Ok(Self::Ed25519(key)),
                Some(_) | None => Err("has a whpk_ that is not followed by 32 bytes in base64"),
            };
        }
        match decode(text.strip_prefix(SYMMETRIC).unwrap_or(text)) {
            Some(key) if !key.is_empty() => Ok(Self::Hmac(key)),
            Some(_) | None => Err("is neither whsec_ nor whpk_ followed by base64"),
        }
    }
}

/// All three headers go by one sender's names, so that the id is the one that was signed.
fn names(headers: &HeaderMap) -> &'static Names {
    if headers.contains_key(&SVIX.id) && !headers.contains_key(&STANDARD.id) { &SVIX } else { &STANDARD }
}

/// The header with the id that is signed.
pub(super) fn id_header(headers: &HeaderMap) -> &'static HeaderName {
    &names(headers).id
}

/// Returns the signed time.
pub(super) fn check(
    request: &WebhookRequest<'_>,
    secrets: &[Secret],
    tolerance: i64,
    now: i64,
) -> Result<i64, Rejected> {
    let names = names(request.headers);
    let id = single(request.headers, &names.id)?;
    let stamp = single(request.headers, &names.timestamp)?;
    let signatures = Signatures::parse(single(request.headers, &names.signature)?, &names.signature)?;
    let timestamp = seconds(stamp, &names.timestamp)?;
    recent(timestamp, tolerance, now)?;
    let parts = [id.as_bytes(), b".", stamp.as_bytes(), b".", request.body];
    let mut whole = None;
    let mut found = Choice::from(0);
    for key in secrets.iter().filter_map(|secret| Key::parse(secret).ok()) {
        match key {
            Key::Hmac(key) => {
                let expected = mac::signature(&key, HmacAlgorithm::Sha256, SignatureEncoding::Base64, &parts);
                found |= mac::written_alike(&expected, &signatures.v1);
            }
            Key::Ed25519(key) if !signatures.v1a.is_empty() => {
                let content = whole.get_or_insert_with(|| parts.concat());
                let key = UnparsedPublicKey::new(&ED25519, key);
                for signature in &signatures.v1a {
                    found |= Choice::from(u8::from(key.verify(content, signature).is_ok()));
                }
            }
            Key::Ed25519(_) => {}
        }
    }
    if found.into() { Ok(timestamp) } else { Err(Rejected::Mismatch) }
}

struct Signatures<'h> {
    /// As they are written.
    v1: SmallVec<[&'h str; 2]>,
    v1a: SmallVec<[Vec<u8>; 1]>,
}

impl<'h> Signatures<'h> {
    /// Other versions are passed over, so that a provider can add one.
    fn parse(header: &'h str, name: &HeaderName) -> Result<Self, Rejected> {
        let wrong = || malformed(name, "up to 16 signatures like v1,… with spaces between");
        let mut signatures = Self { v1: SmallVec::new(), v1a: SmallVec::new() };
        for (count, item) in header.split(' ').enumerate() {
            let (version, signature) = item.split_once(',').ok_or_else(wrong)?;
            if count == MAX_SIGNATURES {
                return Err(wrong());
            }
            match version {
                "v1" => signatures.v1.push(signature),
                "v1a" => signatures.v1a.push(decode_padded(signature).ok_or_else(wrong)?),
                _ => {}
            }
        }
        Ok(signatures)
    }
}

/// Signatures have one way to be written.
fn decode_padded(text: &str) -> Option<Vec<u8>> {
    base64_turbo::STANDARD.decode(text).ok()
}

/// Secrets are copied by people, and some tools leave the padding out.
fn decode(text: &str) -> Option<Vec<u8>> {
    decode_padded(text).or_else(|| base64_turbo::STANDARD_NO_PAD.decode(text).ok())
}
