use serde::{Deserialize, Serialize};

/// How the gateway is to hand a handler's requests on, and what it keeps of them. Contract section 10.
///
/// A field that is not known here is an error: passing over a misspelled one would promise something else than was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeliverySpec {
    /// Who waits for whom.
    #[serde(default)]
    pub mode: DeliveryMode,
    /// [`DeliveryMode::Deadline`] only: milliseconds that the caller waits for the worker's answer.
    #[serde(default = "default_ack_after_ms")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub ack_after_ms: u64,
    /// What the caller gets for a request that is on disk and has no other answer.
    #[serde(default)]
    pub ack: Ack,
    /// How often the handler is called at most, before what it failed at becomes a dead letter.
    #[serde(default = "default_attempts")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub attempts: u32,
    /// What tells one event from another: `auto` is the id that the scheme of `verify` knows, anything else names
    /// a header, and `off` tells nothing apart. Absent for `auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(min_length = 1))]
    pub dedup: Option<String>,
    /// Seconds in which an event with the same id is the same event.
    #[serde(default = "default_dedup_window_s")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub dedup_window_s: u64,
}

impl Default for DeliverySpec {
    fn default() -> Self {
        Self {
            mode: DeliveryMode::default(),
            ack_after_ms: default_ack_after_ms(),
            ack: Ack::default(),
            attempts: default_attempts(),
            dedup: None,
            dedup_window_s: default_dedup_window_s(),
        }
    }
}

/// Who waits for whom.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum DeliveryMode {
    /// The caller gets the worker's answer, and nothing is kept.
    #[default]
    Sync,
    /// The request is kept on disk, then acknowledged, then delivered.
    Durable,
    /// The request is kept on disk, then relayed; the caller gets the worker's answer if it comes in time, otherwise an
    /// acknowledgement, and the delivery goes on.
    Deadline,
}

/// The response that acknowledges a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Ack {
    /// 200 to 299.
    #[serde(default = "default_ack_status")]
    #[cfg_attr(feature = "openapi", schema(minimum = 200, maximum = 299))]
    pub status: u16,
    /// A string is sent as text, any other value as JSON.
    #[serde(default = "default_ack_body")]
    pub body: serde_json::Value,
}

impl Default for Ack {
    fn default() -> Self {
        Self { status: default_ack_status(), body: default_ack_body() }
    }
}

fn default_ack_after_ms() -> u64 {
    2_500
}

fn default_attempts() -> u32 {
    12
}

fn default_dedup_window_s() -> u64 {
    3 * 24 * 60 * 60
}

fn default_ack_status() -> u16 {
    200
}

fn default_ack_body() -> serde_json::Value {
    "ok".into()
}

/// What a worker is told of a call that comes from the gateway's log: `context.delivery` of an envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// The same in every attempt, and what the caller saw as `X-Gearway-Delivery`.
    pub id: String,
    /// 1 for the first.
    pub attempt: u32,
    /// When the request was received: RFC 3339, in UTC, with milliseconds.
    pub received_at: String,
    /// The id of the delivery that this one repeats, because an operator asked for it.
    #[serde(default)]
    pub replay_of: Option<String>,
    /// What the request's signature told; absent for a handler without `verify`.
    #[serde(default)]
    pub verification: Option<Verification>,
}

/// What was found out about a request by its signature, when it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// As in the handler's `verify`.
    pub scheme: String,
    /// The name of the secret.
    pub secret: String,
    /// The signed time in seconds since 1970, for schemes that sign one.
    #[serde(default)]
    pub timestamp: Option<i64>,
}
