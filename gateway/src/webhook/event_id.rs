//! What tells one event of a provider from another: the id for `dedup: "auto"`.

use std::borrow::Cow;

use gearway_protocol::VerifyScheme;
use http::HeaderName;
use serde::Deserialize;

use super::headers::optional;
use super::{Rejected, WebhookRequest, standard};

pub(super) const X_GITHUB_DELIVERY: HeaderName = HeaderName::from_static("x-github-delivery");
pub(super) const X_SHOPIFY_WEBHOOK_ID: HeaderName = HeaderName::from_static("x-shopify-webhook-id");
pub(super) const I_TWILIO_IDEMPOTENCY_TOKEN: HeaderName =
    HeaderName::from_static("i-twilio-idempotency-token");

#[derive(Deserialize)]
struct StripeEvent<'b> {
    #[serde(borrow)]
    id: Cow<'b, str>,
}

#[derive(Deserialize)]
struct SlackEvent<'b> {
    #[serde(borrow)]
    event_id: Cow<'b, str>,
}

/// The event's id; none where the request carries none, or the scheme has none.
///
/// # Errors
/// When the id's header is repeated, so that there are two.
pub(super) fn find(scheme: VerifyScheme, request: &WebhookRequest<'_>) -> Result<Option<String>, Rejected> {
    let header = |name: &HeaderName| optional(request.headers, name);
    let id = match scheme {
        VerifyScheme::Stripe => {
            let event = serde_json::from_slice::<StripeEvent<'_>>(request.body);
            return Ok(event.ok().map(|event| event.id.into_owned()).filter(|id| !id.is_empty()));
        }
        VerifyScheme::Slack => {
            let event = serde_json::from_slice::<SlackEvent<'_>>(request.body);
            return Ok(event.ok().map(|event| event.event_id.into_owned()).filter(|id| !id.is_empty()));
        }
        VerifyScheme::Github => header(&X_GITHUB_DELIVERY)?,
        VerifyScheme::Shopify => header(&X_SHOPIFY_WEBHOOK_ID)?,
        VerifyScheme::Twilio => header(&I_TWILIO_IDEMPOTENCY_TOKEN)?,
        VerifyScheme::StandardWebhooks => header(standard::id_header(request.headers))?,
        VerifyScheme::Hmac => None,
    };
    Ok(id.filter(|id| !id.is_empty()).map(str::to_owned))
}
