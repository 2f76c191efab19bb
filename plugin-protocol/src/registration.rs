use serde::{Deserialize, Serialize};

use crate::{DeliverySpec, VerifySpec};

/// What a worker tells the gateway about itself: the body of `POST /v1/workers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Registration {
    /// The service's name. Workers of one name are replicas of each other.
    #[cfg_attr(
        feature = "openapi",
        schema(min_length = 1, max_length = 128, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")
    )]
    pub name: String,
    /// Where the gateway is to `POST` envelopes.
    #[cfg_attr(feature = "openapi", schema(pattern = "^(https?://|unix:/).+"))]
    pub url: String,
    /// [`GEARWAY_V1`](crate::GEARWAY_V1) or [`SKYGEAR_V1`](crate::SKYGEAR_V1).
    #[cfg_attr(feature = "openapi", schema(pattern = "^(gearway|skygear)-v1$"))]
    pub protocol: String,
    /// The version of the worker's code, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// How many calls the worker takes at once; absent for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub max_concurrency: Option<u32>,
    /// Extensions of the protocol that the worker can speak.
    #[serde(default)]
    pub features: Vec<String>,
    /// What the worker serves.
    pub handlers: Vec<HandlerSpec>,
}

/// One handler of a [`Registration`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HandlerSpec {
    /// The path: `:` reads as `/`, a missing first `/` is added, a trailing `/` takes everything below too,
    /// `{param}` stands for one segment.
    #[cfg_attr(feature = "openapi", schema(min_length = 1))]
    pub name: String,
    /// The methods, in upper case.
    #[serde(default = "default_methods")]
    #[cfg_attr(feature = "openapi", schema(min_items = 1))]
    pub methods: Vec<String>,
    /// Whether a caller must present an API key.
    #[serde(default)]
    pub key_required: bool,
    /// Whether a caller must be an authenticated user.
    #[serde(default)]
    pub user_required: bool,
    /// Milliseconds that the handler may take; absent for the gateway's `limits.request_timeout`, which is
    /// also the most that it can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub timeout_ms: Option<u64>,
    /// Whether running the handler twice does no harm, so that a call with an unknown outcome may be repeated.
    #[serde(default)]
    pub idempotent: bool,
    /// How the gateway is to check a webhook's signature; absent for not at all. A gateway that cannot refuses the
    /// registration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<VerifySpec>,
    /// How the gateway is to deliver a webhook; absent for [`DeliveryMode::Sync`](crate::DeliveryMode::Sync).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<DeliverySpec>,
}

/// The methods of a handler that names none: GET, POST and PUT.
#[must_use]
pub fn default_methods() -> Vec<String> {
    ["GET", "POST", "PUT"].map(String::from).into()
}

/// The gateway's answer to a [`Registration`] that it accepted.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Registered {
    /// Names the worker in later calls.
    pub worker_id: String,
    /// What the gateway will present as `Authorization: Bearer` with every envelope.
    pub secret: String,
    /// Milliseconds until the registration lapses unless renewed.
    pub lease_ms: u64,
    /// Those of the worker's features that the gateway will use.
    #[serde(default)]
    pub features: Vec<String>,
}

impl std::fmt::Debug for Registered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registered")
            .field("worker_id", &self.worker_id)
            .field("lease_ms", &self.lease_ms)
            .field("features", &self.features)
            .finish_non_exhaustive()
    }
}

/// The gateway's answer to `PUT /v1/workers/{id}/lease`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Lease {
    /// Milliseconds until the registration lapses unless renewed again.
    pub lease_ms: u64,
    /// An operator has drained the worker: it gets nothing new and should not register again by itself.
    #[serde(default)]
    pub draining: bool,
}
