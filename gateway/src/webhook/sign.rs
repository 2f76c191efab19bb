//! The other side: what a provider does, for trying things out.

use gearway_protocol::{HmacAlgorithm, SignatureEncoding};
use http::HeaderName;

use super::event_id::{I_TWILIO_IDEMPOTENCY_TOKEN, X_GITHUB_DELIVERY, X_SHOPIFY_WEBHOOK_ID};
use super::scheme::{GITHUB_PREFIX, Scheme, X_HUB_SIGNATURE_256, X_SHOPIFY_HMAC_SHA256};
use super::slack::{self, X_SLACK_REQUEST_TIMESTAMP, X_SLACK_SIGNATURE};
use super::standard::{self, WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};
use super::stripe::STRIPE_SIGNATURE;
use super::twilio::{self, X_TWILIO_SIGNATURE};
use super::{Unusable, Verify, mac};
use crate::config::Config;

/// A request that is to be signed.
#[derive(Debug, Clone)]
pub struct Event {
    /// The path and query. A signature may put something into the query.
    pub target: String,
    pub body: Vec<u8>,
    /// Whether the body is a form.
    pub is_form: bool,
    /// For schemes that have the id in a header.
    pub id: String,
    /// Seconds since 1970.
    pub timestamp: i64,
}

/// Why an event cannot be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotSign {
    #[error(transparent)]
    Unusable(#[from] Unusable),
    #[error("a public key (whpk_) can check signatures and make none")]
    PublicKey,
}

/// The headers that a provider would add, by the first of the secrets.
///
/// # Errors
/// When the configuration lacks something, or has only what checks signatures.
pub fn sign(
    verify: &Verify,
    event: &mut Event,
    config: &Config,
) -> Result<Vec<(HeaderName, String)>, CannotSign> {
    verify.usable(config)?;
    let secrets = config.secrets.get(&verify.spec().secret).unwrap_or_default();
    let key = secrets.first().map(|secret| secret.expose().as_bytes()).unwrap_or_default();
    let stamp = event.timestamp.to_string();
    let id = event.id.clone();
    let body = event.body.as_slice();
    let (sha256, hex) = (HmacAlgorithm::Sha256, SignatureEncoding::Hex);
    Ok(match verify.scheme() {
        Scheme::Stripe { .. } => {
            let signature = mac::signature(key, sha256, hex, &[stamp.as_bytes(), b".", body]);
            vec![(STRIPE_SIGNATURE, format!("t={stamp},v1={signature}"))]
        }
        Scheme::Github => {
            let signature = mac::signature(key, sha256, hex, &[body]);
            vec![(X_HUB_SIGNATURE_256, format!("{GITHUB_PREFIX}{signature}")), (X_GITHUB_DELIVERY, id)]
        }
        Scheme::Slack { .. } => {
            let signature = mac::signature(key, sha256, hex, &[b"v0:", stamp.as_bytes(), b":", body]);
            vec![
                (X_SLACK_SIGNATURE, format!("{}{signature}", slack::PREFIX)),
                (X_SLACK_REQUEST_TIMESTAMP, stamp),
            ]
        }
        Scheme::Shopify => {
            let signature = mac::signature(key, sha256, SignatureEncoding::Base64, &[body]);
            vec![(X_SHOPIFY_HMAC_SHA256, signature), (X_SHOPIFY_WEBHOOK_ID, id)]
        }
        Scheme::Twilio => {
            let fields = if event.is_form { twilio::joined_fields(body) } else { String::new() };
            if !event.is_form && !body.is_empty() {
                let separator = if event.target.contains('?') { '&' } else { '?' };
                let hash = twilio::body_hash(body);
                event.target = format!("{}{separator}{}={hash}", event.target, twilio::BODY_HASH);
            }
            let urls = config.webhooks.public_url.as_ref().map(|url| url.spellings(&event.target));
            let [url, _] = urls.unwrap_or_default();
            let parts = [url.as_bytes(), fields.as_bytes()];
            let signature = mac::signature(key, HmacAlgorithm::Sha1, SignatureEncoding::Base64, &parts);
            vec![(X_TWILIO_SIGNATURE, signature), (I_TWILIO_IDEMPOTENCY_TOKEN, id)]
        }
        Scheme::StandardWebhooks { .. } => {
            let key = secrets.iter().find_map(|secret| match standard::Key::parse(secret) {
                Ok(standard::Key::Hmac(key)) => Some(key),
                Ok(standard::Key::Ed25519(_)) | Err(_) => None,
            });
            let key = key.ok_or(CannotSign::PublicKey)?;
            let parts = [id.as_bytes(), b".", stamp.as_bytes(), b".", body];
            let signature = mac::signature(&key, sha256, SignatureEncoding::Base64, &parts);
            vec![(WEBHOOK_ID, id), (WEBHOOK_TIMESTAMP, stamp), (WEBHOOK_SIGNATURE, format!("v1,{signature}"))]
        }
        Scheme::Hmac(generic) => {
            let signature =
                mac::signature(key, generic.algorithm, generic.encoding, &generic.parts(&stamp, body));
            let mut headers = vec![(generic.header.clone(), format!("{}{signature}", generic.prefix))];
            if let Some(timestamp) = &generic.timestamp {
                headers.push((timestamp.header.clone(), stamp));
            }
            headers
        }
    })
}
