//! Deliveries as operators see them.

use gearway_protocol::{Base64Body, Headers, Verification};
use serde::Serialize;
use utoipa::ToSchema;

use crate::delivery::{Detail, HeaderBlock, State, Summary, rfc3339};

/// What stands for the value of a header that may hold credentials: they are for the worker alone.
const HIDDEN: &str = "(not shown)";

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::admin) struct DeliveryList {
    pub(super) deliveries: Vec<DeliverySummary>,
    /// For `after`, to go on with; null at the end.
    pub(super) next: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::admin) struct DeliverySummary {
    id: String,
    /// `pending`, `delivered` or `dead`.
    #[schema(example = "pending")]
    state: &'static str,
    /// The pattern that it matched when it came.
    #[schema(example = "/pay/stripe")]
    route: String,
    #[schema(example = "POST")]
    method: String,
    raw_path: String,
    /// RFC 3339, as are the others.
    #[schema(format = DateTime)]
    received_at: String,
    /// Attempts that have ended.
    attempts: u32,
    /// Null unless it is pending.
    #[schema(format = DateTime)]
    next_attempt_at: Option<String>,
    /// Null while it is pending.
    #[schema(format = DateTime)]
    settled_at: Option<String>,
    body_bytes: u64,
    /// How the last attempt ended: `delivered`, `refused`, `worker_lost`, `too_slow` or `nonsense`.
    #[schema(example = "refused")]
    last_outcome: Option<String>,
    /// The status of the last answer.
    last_status: Option<u16>,
    /// The delivery that this one repeats.
    replay_of: Option<String>,
    /// The last delivery that repeats this one.
    replayed_as: Option<String>,
    /// What was sent was given up for want of room, and cannot be replayed.
    content_dropped: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::admin) struct DeliveryDetail {
    id: String,
    /// `pending`, `delivered` or `dead`.
    #[schema(example = "pending")]
    state: &'static str,
    #[schema(example = "/pay/stripe")]
    route: String,
    /// RFC 3339, as are the others.
    #[schema(format = DateTime)]
    received_at: String,
    #[schema(format = DateTime)]
    next_attempt_at: Option<String>,
    #[schema(format = DateTime)]
    settled_at: Option<String>,
    replay_of: Option<String>,
    replayed_as: Option<String>,
    content_dropped: bool,
    request_id: String,
    user_id: Option<String>,
    /// What the signature told when it came: scheme, the secret's name, and the signed time in seconds since 1970.
    #[schema(value_type = Option<Object>)]
    verification: Option<Verification>,
    request: DeliveryRequest,
    attempts: Vec<DeliveryAttempt>,
}

/// As the worker gets it, but for the values of headers that may hold credentials.
#[derive(Debug, Serialize, ToSchema)]
struct DeliveryRequest {
    method: String,
    host: String,
    raw_path: String,
    query_string: String,
    #[schema(value_type = Object)]
    header: Headers,
    #[schema(value_type = String, format = Byte)]
    body: Base64Body,
    remote_addr: String,
}

#[derive(Debug, Serialize, ToSchema)]
struct DeliveryAttempt {
    attempt: u32,
    #[schema(format = DateTime)]
    started_at: String,
    duration_ms: i64,
    outcome: String,
    /// Null when there was none.
    answer: Option<DeliveryAnswer>,
}

/// What the worker answered; of a long body the beginning.
#[derive(Debug, Serialize, ToSchema)]
struct DeliveryAnswer {
    status: u16,
    #[schema(value_type = Object)]
    header: Headers,
    #[schema(value_type = String, format = Byte)]
    body: Base64Body,
}

impl DeliverySummary {
    pub(super) fn of(summary: &Summary) -> Self {
        let is_pending = summary.state == State::Pending;
        Self {
            id: summary.id.to_string(),
            state: summary.state.as_str(),
            route: summary.route.path.to_string(),
            method: summary.route.method.to_string(),
            raw_path: summary.raw_path.clone(),
            received_at: rfc3339(summary.received_at),
            attempts: summary.attempts,
            next_attempt_at: is_pending.then(|| rfc3339(summary.due_at)),
            settled_at: summary.settled_at.map(rfc3339),
            body_bytes: summary.body_bytes,
            last_outcome: summary.last.as_ref().map(|(outcome, _)| outcome.clone()),
            last_status: summary.last.as_ref().and_then(|(_, status)| *status),
            replay_of: summary.replay_of.map(|id| id.to_string()),
            replayed_as: summary.replayed_as.map(|id| id.to_string()),
            content_dropped: summary.is_stripped,
        }
    }
}

impl DeliveryDetail {
    pub(super) fn of(Detail { summary, request, attempts }: Detail) -> Self {
        let DeliverySummary { id, state, route, received_at, next_attempt_at, settled_at, .. } =
            DeliverySummary::of(&summary);
        Self {
            id,
            state,
            route,
            received_at,
            next_attempt_at,
            settled_at,
            replay_of: summary.replay_of.map(|id| id.to_string()),
            replayed_as: summary.replayed_as.map(|id| id.to_string()),
            content_dropped: summary.is_stripped,
            request_id: request.request_id,
            user_id: request.user_id,
            verification: request.verification,
            request: DeliveryRequest {
                method: request.route.method.to_string(),
                host: request.host,
                raw_path: request.raw_path,
                query_string: request.query,
                header: shown(&request.headers),
                body: Base64Body(request.body.into()),
                remote_addr: request.remote_addr.to_string(),
            },
            attempts: attempts
                .into_iter()
                .map(|attempt| DeliveryAttempt {
                    attempt: attempt.number,
                    started_at: rfc3339(attempt.started_at),
                    duration_ms: attempt.took_ms,
                    outcome: attempt.outcome,
                    answer: attempt.answer.map(|answer| DeliveryAnswer {
                        status: answer.status,
                        header: shown(&answer.header),
                        body: Base64Body(answer.body),
                    }),
                })
                .collect(),
        }
    }
}

/// A sender's or a worker's own credentials are nobody else's business.
fn shown(block: &HeaderBlock) -> Headers {
    let mut headers = Headers::new();
    for (name, value) in &block.to_map() {
        let is_hidden = matches!(name.as_str(), "authorization" | "cookie" | "set-cookie");
        let value = match is_hidden {
            true => HIDDEN.to_owned(),
            false => value.as_bytes().iter().copied().map(char::from).collect(),
        };
        headers.entry(name.to_string()).or_default().push(value);
    }
    headers
}
