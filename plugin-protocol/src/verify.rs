use serde::{Deserialize, Serialize};

/// How the gateway is to check a webhook's signature, on the raw bytes and before anything else happens to the request.
///
/// A field that is not known here is an error: passing over a misspelled one would check something else than was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VerifySpec {
    /// Who signs, and how.
    pub scheme: VerifyScheme,
    /// The name of a secret in the gateway's configuration.
    #[cfg_attr(feature = "openapi", schema(min_length = 1))]
    pub secret: String,
    /// Seconds that the signed time may be away from the gateway's clock; absent for 300. Schemes that sign no time
    /// have no use for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub tolerance_s: Option<u64>,
    /// [`VerifyScheme::Hmac`] only, and required there: the header with the signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// [`VerifyScheme::Hmac`] only: what stands before the signature in its header, as `sha256=`; absent for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// [`VerifyScheme::Hmac`] only; absent for `hex`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<SignatureEncoding>,
    /// [`VerifyScheme::Hmac`] only; absent for `sha256`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<HmacAlgorithm>,
    /// [`VerifyScheme::Hmac`] only: the header with the signed time, in seconds or milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp_header: Option<String>,
    /// [`VerifyScheme::Hmac`] only: what is signed, with `{body}` once, and `{timestamp}` if there is a
    /// `timestamp_header`; absent for `{body}` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

/// Who signs a webhook, and how. Contract section 10.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum VerifyScheme {
    /// `Stripe-Signature`.
    Stripe,
    /// `X-Hub-Signature-256`.
    Github,
    /// `X-Slack-Signature`; the gateway answers `url_verification` itself.
    Slack,
    /// `X-Shopify-Hmac-SHA256`.
    Shopify,
    /// `X-Twilio-Signature`, which signs the public URL.
    Twilio,
    /// `webhook-signature`, as standardwebhooks.com describes it, or `svix-signature`, which is the same.
    StandardWebhooks,
    /// An HMAC in a header, as the other fields describe it.
    Hmac,
}

/// How a signature is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum SignatureEncoding {
    /// Hexadecimal digits.
    Hex,
    /// Base64 with the standard alphabet and padding.
    Base64,
}

/// The hash function of an HMAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum HmacAlgorithm {
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl VerifySpec {
    /// What every scheme needs, and the defaults.
    #[must_use]
    pub fn new(scheme: VerifyScheme, secret: impl Into<String>) -> Self {
        Self {
            scheme,
            secret: secret.into(),
            tolerance_s: None,
            header: None,
            prefix: None,
            encoding: None,
            algorithm: None,
            timestamp_header: None,
            content: None,
        }
    }
}

impl VerifyScheme {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Stripe,
        Self::Github,
        Self::Slack,
        Self::Shopify,
        Self::Twilio,
        Self::StandardWebhooks,
        Self::Hmac,
    ];

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stripe => "stripe",
            Self::Github => "github",
            Self::Slack => "slack",
            Self::Shopify => "shopify",
            Self::Twilio => "twilio",
            Self::StandardWebhooks => "standard-webhooks",
            Self::Hmac => "hmac",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_are_their_words() {
        for scheme in VerifyScheme::ALL {
            assert_eq!(serde_json::to_value(scheme).expect("a word"), scheme.as_str());
        }
    }

    #[test]
    fn misspelled_fields_are_refused() {
        let read = |json: &str| serde_json::from_str::<VerifySpec>(json);
        assert_eq!(
            read(r#"{"scheme": "stripe", "secret": "live"}"#).expect("a spec"),
            VerifySpec::new(VerifyScheme::Stripe, "live")
        );
        for wrong in [
            r#"{"scheme": "stripe", "secret": "live", "tolerence_s": 5}"#,
            r#"{"scheme": "Stripe", "secret": "live"}"#,
            r#"{"scheme": "stripe"}"#,
            r#"{"scheme": "stripe", "secret": ["live"]}"#,
            r#"{"secret": "live"}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
