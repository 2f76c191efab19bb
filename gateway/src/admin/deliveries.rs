//! Looking at deliveries and acting on them. Contract section 10.

mod shown;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::routing::{MethodRouter, get, post};
use gearway_protocol::ErrorCode;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

pub(super) use self::shown::{DeliveryDetail, DeliveryList, DeliverySummary};

use super::AdminState;
use super::access::{Operator, Reader};
use super::answer::{AdminError, ErrorBody};
use super::body::Id as PathId;
use super::openapi::{Forbidden, Malformed, Unauthorized, Unavailable};
use crate::delivery::{self, Filter, Id, Replayed};

const USUAL_LIMIT: u32 = 100;
const MOST: u32 = 1000;

#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
// What is misspelt would be left out, and more would run again than is meant.
#[serde(deny_unknown_fields)]
pub(super) struct DeliveryQuery {
    /// `pending`, `delivered` or `dead`.
    #[param(example = "dead")]
    state: Option<String>,
    /// A path as the list of routes shows it.
    #[param(example = "/pay/stripe")]
    route: Option<String>,
    /// The id after which to go on.
    after: Option<String>,
    /// How many at most; for a list 100 unless given, and no more than 1000.
    #[param(minimum = 1, maximum = 4294967295_u64, value_type = Option<u64>)]
    limit: Option<u32>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReplayedOne {
    /// The delivery that repeats it; its own, when it is pending still and was only made due now.
    id: String,
    replay_of: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReplayedMany {
    replayed: usize,
}

pub(super) fn collection() -> MethodRouter<AdminState> {
    get(list)
}

pub(super) fn member() -> MethodRouter<AdminState> {
    get(show).delete(remove)
}

pub(super) fn member_replay() -> MethodRouter<AdminState> {
    post(replay)
}

pub(super) fn replays() -> MethodRouter<AdminState> {
    post(replay_many)
}

/// The deliveries, without what was sent and answered, in the order in which they were accepted.
#[utoipa::path(
    get, path = "/v1/deliveries", tag = "deliveries", params(DeliveryQuery), security((), ("admin_token" = [])),
    responses(
        (status = OK, body = DeliveryList),
        (status = BAD_REQUEST, response = Malformed),
        (status = UNAUTHORIZED, response = Unauthorized),
        (status = FORBIDDEN, response = Forbidden),
        (status = SERVICE_UNAVAILABLE, response = Unavailable),
    )
)]
pub(super) async fn list(
    _: Reader,
    State(state): State<AdminState>,
    query: Result<Query<DeliveryQuery>, QueryRejection>,
) -> Result<Json<DeliveryList>, AdminError> {
    let query = read_query(query)?;
    let limit = query.limit.unwrap_or(USUAL_LIMIT).min(MOST);
    let found = state.deliveries.list(query.filter()?, limit).await?;
    let is_full = found.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
    let next = found.last().filter(|_| is_full).map(|last| last.id.to_string());
    Ok(Json(DeliveryList { deliveries: found.iter().map(DeliverySummary::of).collect(), next }))
}

/// A delivery with what was sent, and every attempt with its answer.
#[utoipa::path(
    get, path = "/v1/deliveries/{id}", tag = "deliveries",
    params(("id" = String, Path, description = "an id from the list of deliveries")),
    security(("admin_token" = [])),
    responses(
        (status = OK, body = DeliveryDetail),
        (status = BAD_REQUEST, response = Malformed),
        (status = UNAUTHORIZED, response = Unauthorized),
        (status = FORBIDDEN, response = Forbidden),
        (status = NOT_FOUND, body = ErrorBody, description = "no delivery has this id"),
        (status = SERVICE_UNAVAILABLE, response = Unavailable),
    )
)]
pub(super) async fn show(
    _: Operator,
    State(state): State<AdminState>,
    PathId(id): PathId,
) -> Result<Json<DeliveryDetail>, AdminError> {
    let found = state.deliveries.show(read_id(&id)?).await?;
    found.map(|detail| Json(DeliveryDetail::of(detail))).ok_or_else(|| unknown(&id))
}

/// Forgets a delivery. One that is pending is lost.
#[utoipa::path(
    delete, path = "/v1/deliveries/{id}", tag = "deliveries",
    params(("id" = String, Path, description = "an id from the list of deliveries")),
    security(("admin_token" = [])),
    responses(
        (status = NO_CONTENT),
        (status = BAD_REQUEST, response = Malformed),
        (status = UNAUTHORIZED, response = Unauthorized),
        (status = FORBIDDEN, response = Forbidden),
        (status = NOT_FOUND, body = ErrorBody, description = "no delivery has this id"),
        (status = SERVICE_UNAVAILABLE, response = Unavailable),
    )
)]
pub(super) async fn remove(
    _: Operator,
    State(state): State<AdminState>,
    PathId(id): PathId,
) -> Result<StatusCode, AdminError> {
    match state.deliveries.remove(read_id(&id)?).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(unknown(&id)),
    }
}

/// Has a delivery run again, with the first verdict on its signature. One that is pending is made due now.
#[utoipa::path(
    post, path = "/v1/deliveries/{id}/replay", tag = "deliveries",
    params(("id" = String, Path, description = "an id from the list of deliveries")),
    security(("admin_token" = [])),
    responses(
        (status = ACCEPTED, body = ReplayedOne),
        (status = BAD_REQUEST, response = Malformed),
        (status = UNAUTHORIZED, response = Unauthorized),
        (status = FORBIDDEN, response = Forbidden),
        (status = NOT_FOUND, body = ErrorBody, description = "no delivery has this id"),
        (status = CONFLICT, body = ErrorBody, description = "what was sent was given up for want of room"),
        (status = SERVICE_UNAVAILABLE, response = Unavailable),
    )
)]
pub(super) async fn replay(
    _: Operator,
    State(state): State<AdminState>,
    PathId(id): PathId,
) -> Result<(StatusCode, Json<ReplayedOne>), AdminError> {
    let delivery = read_id(&id)?;
    let answer = match state.deliveries.replay(delivery).await? {
        Replayed::As(copy) => ReplayedOne { id: copy.to_string(), replay_of: Some(delivery.to_string()) },
        Replayed::Hastened => ReplayedOne { id: delivery.to_string(), replay_of: None },
        Replayed::Stripped => {
            let message = "what was sent was given up for want of room; ask its sender to send it again";
            return Err(AdminError::new(StatusCode::CONFLICT, ErrorCode::CONSTRAINT_VIOLATED, message));
        }
        Replayed::Unknown => return Err(unknown(&id)),
    };
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

/// Has those run again that a list with the same filters shows, but for those that are pending or were replayed before.
#[utoipa::path(
    post, path = "/v1/deliveries/replay", tag = "deliveries", params(DeliveryQuery), security(("admin_token" = [])),
    responses(
        (status = ACCEPTED, body = ReplayedMany),
        (status = BAD_REQUEST, response = Malformed),
        (status = UNAUTHORIZED, response = Unauthorized),
        (status = FORBIDDEN, response = Forbidden),
        (status = SERVICE_UNAVAILABLE, response = Unavailable),
    )
)]
pub(super) async fn replay_many(
    _: Operator,
    State(state): State<AdminState>,
    query: Result<Query<DeliveryQuery>, QueryRejection>,
) -> Result<(StatusCode, Json<ReplayedMany>), AdminError> {
    let query = read_query(query)?;
    let filter = query.filter()?;
    if filter == Filter::default() {
        let message = "must be given, or route or after: without any of them everything would run again";
        return Err(AdminError::invalid_field("state", message));
    }
    let limit = query.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let replayed = state.deliveries.replay_many(filter, limit).await?;
    Ok((StatusCode::ACCEPTED, Json(ReplayedMany { replayed })))
}

fn read_query(query: Result<Query<DeliveryQuery>, QueryRejection>) -> Result<DeliveryQuery, AdminError> {
    let Query(query) = query.map_err(|rejection| AdminError::malformed(format!("the query: {rejection}")))?;
    if query.limit == Some(0) {
        return Err(AdminError::invalid_field("limit", "must be at least 1"));
    }
    Ok(query)
}

impl DeliveryQuery {
    fn filter(&self) -> Result<Filter, AdminError> {
        let state = match self.state.as_deref() {
            None | Some("") => None,
            Some(word) => {
                let known = delivery::State::ALL.into_iter().find(|state| state.as_str() == word);
                Some(known.ok_or_else(|| {
                    AdminError::invalid_field("state", "is none of pending, delivered and dead")
                })?)
            }
        };
        let route = self
            .route
            .as_deref()
            .filter(|route| !route.is_empty())
            .map(|route| if route.starts_with('/') { route.to_owned() } else { format!("/{route}") });
        let after = match self.after.as_deref() {
            None | Some("") => None,
            Some(id) => Some(
                id.parse().map_err(|_| AdminError::invalid_field("after", "is not the id of a delivery"))?,
            ),
        };
        Ok(Filter { state, route, after, before: None })
    }
}

fn read_id(text: &str) -> Result<Id, AdminError> {
    text.parse().map_err(|_| unknown(text))
}

fn unknown(id: &str) -> AdminError {
    AdminError::not_found(format!("no delivery has the id {id:?}"))
}
