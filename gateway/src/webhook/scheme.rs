use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use gearway_protocol::{HmacAlgorithm, SignatureEncoding, VerifyScheme, VerifySpec};
use http::HeaderName;

use super::generic::Generic;
use super::headers::{malformed, single};
use super::{Outcome, Refused, Rejected, Unusable, Verification, WebhookRequest};
use super::{event_id, mac, slack, standard, stripe, twilio};
use crate::config::{Config, PublicUrl, Secret};

pub(super) const X_HUB_SIGNATURE_256: HeaderName = HeaderName::from_static("x-hub-signature-256");
pub(super) const X_SHOPIFY_HMAC_SHA256: HeaderName = HeaderName::from_static("x-shopify-hmac-sha256");
pub(super) const GITHUB_PREFIX: &str = "sha256=";
/// Seconds that a signed time may be away when the registration does not say.
const TOLERANCE: u64 = 300;

/// How to check one handler's signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verify {
    spec: VerifySpec,
    secret: Arc<str>,
    scheme: Scheme,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scheme {
    Stripe { tolerance: i64 },
    Github,
    Slack { tolerance: i64 },
    Shopify,
    Twilio,
    StandardWebhooks { tolerance: i64 },
    Hmac(Generic),
}

/// A `verify` that cannot be: which of its fields, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct InvalidSpec {
    pub field: &'static str,
    pub message: String,
}

/// What signatures are checked with, as the configuration has it now.
#[derive(Debug, Clone, Copy)]
struct Means<'c> {
    secrets: &'c [Secret],
    public_url: Option<&'c PublicUrl>,
}

impl Verify {
    /// # Errors
    /// Names the first field that cannot be accepted.
    pub fn parse(spec: &VerifySpec) -> Result<Self, InvalidSpec> {
        if spec.secret.is_empty() {
            return Err(InvalidSpec::new("secret", "must name a secret of the gateway's [secrets]"));
        }
        if spec.tolerance_s == Some(0) {
            return Err(InvalidSpec::new("tolerance_s", "must be at least 1"));
        }
        let tolerance = i64::try_from(spec.tolerance_s.unwrap_or(TOLERANCE)).unwrap_or(i64::MAX);
        if spec.scheme != VerifyScheme::Hmac {
            Generic::refuse_fields(spec)?;
        }
        let scheme = match spec.scheme {
            VerifyScheme::Stripe => Scheme::Stripe { tolerance },
            VerifyScheme::Github => Scheme::Github,
            VerifyScheme::Slack => Scheme::Slack { tolerance },
            VerifyScheme::Shopify => Scheme::Shopify,
            VerifyScheme::Twilio => Scheme::Twilio,
            VerifyScheme::StandardWebhooks => Scheme::StandardWebhooks { tolerance },
            VerifyScheme::Hmac => Scheme::Hmac(Generic::parse(spec, tolerance)?),
        };
        Ok(Self { spec: spec.clone(), secret: spec.secret.as_str().into(), scheme })
    }

    /// As it was registered.
    #[must_use]
    pub fn spec(&self) -> &VerifySpec {
        &self.spec
    }

    pub(super) fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// Whether signatures could be checked by this configuration.
    ///
    /// # Errors
    /// Says what is missing, without showing a secret.
    pub fn usable(&self, config: &Config) -> Result<(), Unusable> {
        self.means(config).map(|_| ())
    }

    /// Lets a request with a good signature through. `now` is the wall clock.
    ///
    /// # Errors
    /// When the signature is not good, or cannot be checked.
    pub fn check(
        &self,
        request: &WebhookRequest<'_>,
        config: &Config,
        now: SystemTime,
    ) -> Result<Outcome, Refused> {
        let Means { secrets, public_url } = self.means(config)?;
        let now = seconds_since_1970(now);
        let keys = || secrets.iter().map(|secret| secret.expose().as_bytes());
        let body: &[u8] = request.body;
        let timestamp = match &self.scheme {
            Scheme::Stripe { tolerance } => Some(stripe::check(request, keys(), *tolerance, now)?),
            Scheme::Github => {
                let header = single(request.headers, &X_HUB_SIGNATURE_256)?;
                let signature = header
                    .strip_prefix(GITHUB_PREFIX)
                    .ok_or_else(|| malformed(&X_HUB_SIGNATURE_256, "sha256= and a signature"))?;
                mac::matches(keys(), HmacAlgorithm::Sha256, SignatureEncoding::Hex, &[body], &[signature])?;
                None
            }
            Scheme::Slack { tolerance } => Some(slack::check(request, keys(), *tolerance, now)?),
            Scheme::Shopify => {
                let signature = single(request.headers, &X_SHOPIFY_HMAC_SHA256)?;
                mac::matches(
                    keys(),
                    HmacAlgorithm::Sha256,
                    SignatureEncoding::Base64,
                    &[body],
                    &[signature],
                )?;
                None
            }
            Scheme::Twilio => {
                let public_url = public_url.ok_or_else(no_public_url)?;
                twilio::check(request, keys(), public_url)?;
                None
            }
            Scheme::StandardWebhooks { tolerance } => {
                Some(standard::check(request, secrets, *tolerance, now)?)
            }
            Scheme::Hmac(generic) => generic.check(request, keys(), now)?,
        };
        // Only now is it worth looking at what the body says.
        if matches!(self.scheme, Scheme::Slack { .. })
            && let Some(answer) = slack::handshake(body)
        {
            return Ok(Outcome::Handshake(answer));
        }
        Ok(Outcome::Verified(Verification {
            scheme: self.spec.scheme.as_str(),
            secret: Arc::clone(&self.secret),
            timestamp,
            event_id: event_id::find(self.spec.scheme, request)?,
        }))
    }

    fn means<'c>(&self, config: &'c Config) -> Result<Means<'c>, Unusable> {
        let secrets = config.secrets.get(&self.secret).ok_or_else(|| Unusable {
            field: "secret",
            message: format!("the gateway's configuration has no {:?} under [secrets]", self.secret),
        })?;
        if matches!(self.scheme, Scheme::StandardWebhooks { .. })
            && let Some(message) = secrets.iter().find_map(|secret| standard::Key::parse(secret).err())
        {
            let message = format!("{:?} under the gateway's [secrets] {message}", self.secret);
            return Err(Unusable { field: "secret", message });
        }
        let public_url = config.webhooks.public_url.as_ref();
        if matches!(self.scheme, Scheme::Twilio) && public_url.is_none() {
            return Err(no_public_url());
        }
        Ok(Means { secrets, public_url })
    }
}

impl InvalidSpec {
    pub(super) fn new(field: &'static str, message: impl Into<String>) -> Self {
        Self { field, message: message.into() }
    }
}

fn no_public_url() -> Unusable {
    let message = "signs the URL, and the gateway's configuration has no webhooks.public_url".to_owned();
    Unusable { field: "scheme", message }
}

pub(super) fn seconds_since_1970(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds),
    }
}

/// Refuses a time that is too far from now, on either side.
pub(super) fn recent(timestamp: i64, tolerance: i64, now: i64) -> Result<(), Rejected> {
    if now.saturating_sub(timestamp).saturating_abs() > tolerance { Err(Rejected::Stale) } else { Ok(()) }
}
