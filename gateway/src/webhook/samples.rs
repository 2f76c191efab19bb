//! Events as the providers send them, cut down to what handlers look at.

use gearway_protocol::VerifyScheme;
use serde_json::{Value, json};

/// An event of a provider, without its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub content_type: &'static str,
    /// What the provider sends beside the signature.
    pub headers: &'static [(&'static str, &'static str)],
    pub body: Vec<u8>,
}

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

/// An event of this id, at this time in seconds since 1970.
#[must_use]
pub fn sample(scheme: VerifyScheme, id: &str, now: i64) -> Sample {
    let event = |headers, body: &Value| Sample {
        content_type: JSON,
        headers,
        body: serde_json::to_vec_pretty(body).unwrap_or_default(),
    };
    match scheme {
        VerifyScheme::Stripe => event(
            &[("user-agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)")],
            &json!({
                "id": format!("evt_{id}"), "object": "event", "api_version": "2024-06-20", "created": now,
                "livemode": false, "pending_webhooks": 1, "type": "payment_intent.succeeded",
                "request": { "id": null, "idempotency_key": id },
                "data": { "object": {
                    "id": format!("pi_{id}"), "object": "payment_intent", "amount": 2000, "amount_received": 2000,
                    "currency": "usd", "status": "succeeded", "created": now, "livemode": false, "metadata": {},
                } },
            }),
        ),
        VerifyScheme::Github => event(
            &[("user-agent", "GitHub-Hookshot/gearway"), ("x-github-event", "push")],
            &json!({
                "ref": "refs/heads/main", "before": "0".repeat(40), "after": "1".repeat(40),
                "repository": { "id": 1, "name": "hello-world", "full_name": "octocat/hello-world", "private": false },
                "pusher": { "name": "octocat", "email": "octocat@example.com" },
                "sender": { "login": "octocat", "id": 1, "type": "User" },
                "commits": [{
                    "id": "1".repeat(40), "message": "Say hello", "author": { "name": "octocat", "email": "octocat@example.com" },
                    "added": ["README.md"], "removed": [], "modified": [],
                }],
            }),
        ),
        VerifyScheme::Slack => event(
            &[("user-agent", "Slackbot 1.0 (+https://api.slack.com/robots)")],
            &json!({
                "type": "event_callback", "team_id": "T0000000001", "api_app_id": "A0000000001",
                "event_id": format!("Ev{id}"), "event_time": now,
                "event": {
                    "type": "app_mention", "user": "U0000000001", "channel": "C0000000001",
                    "text": "<@U0000000002> hello", "ts": format!("{now}.000100"),
                },
            }),
        ),
        VerifyScheme::Shopify => event(
            &[("x-shopify-topic", "orders/create"), ("x-shopify-shop-domain", "example.myshopify.com")],
            &json!({
                "id": 820_982_911_946_154_508_u64, "email": "jon@example.com", "currency": "USD", "total_price": "398.00",
                "financial_status": "paid", "test": true,
                "line_items": [{ "id": 866_550_311_766_439_020_u64, "title": "A product", "quantity": 2, "price": "199.00" }],
            }),
        ),
        VerifyScheme::Twilio => Sample {
            content_type: FORM,
            headers: &[("user-agent", "TwilioProxy/1.1")],
            body: form_urlencoded::Serializer::new(String::new())
                .append_pair("MessageSid", &format!("SM{id}"))
                .append_pair("AccountSid", &format!("AC{}", "0".repeat(32)))
                .append_pair("From", "+15005550006")
                .append_pair("To", "+15005550001")
                .append_pair("Body", "Hello & good day")
                .append_pair("NumMedia", "0")
                .finish()
                .into_bytes(),
        },
        VerifyScheme::StandardWebhooks => event(
            &[],
            &json!({ "type": "user.created", "timestamp": now, "data": { "id": id, "name": "Jane Doe" } }),
        ),
        VerifyScheme::Hmac => event(&[], &json!({ "id": id, "created": now, "message": "hello" })),
    }
}
