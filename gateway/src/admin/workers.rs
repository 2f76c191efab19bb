use axum::Json;
use axum::extract::State;
use axum::routing::{MethodRouter, delete, post, put};
use gearway_protocol::{Lease, Registered, Registration};
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::AdminState;
use super::access::{Operator, Registrant, WorkersReader};
use super::answer::{AdminError, ErrorBody, rfc3339};
use super::body::{Body, Id};
use super::openapi::{Forbidden, Malformed, Unauthorized, Unavailable};
use super::probes::Phase;
use crate::registry::{Claim, Registry, Replica};

/// The workers in the table.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WorkerList {
    workers: Vec<Worker>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Worker {
    id: String,
    /// Workers of one name are replicas of each other.
    name: String,
    url: String,
    #[schema(example = "gearway-v1")]
    protocol: String,
    version: String,
    /// `live`, `ejected` (its address refuses connections) or `draining`.
    #[schema(example = "live")]
    state: &'static str,
    /// Null for a configured worker, which has no lease.
    lease_left_ms: Option<u64>,
    in_flight: u32,
    /// Null for no limit.
    max_concurrency: Option<u32>,
    /// Calls sent to it since it registered.
    calls: u64,
    /// Those that failed for its reasons.
    failures: u64,
    /// RFC 3339.
    #[schema(format = DateTime)]
    registered_at: Option<String>,
    /// How many handlers it registered.
    handlers: usize,
}

pub(super) fn collection() -> MethodRouter<AdminState> {
    post(register).get(list)
}

pub(super) fn member() -> MethodRouter<AdminState> {
    delete(deregister)
}

pub(super) fn lease() -> MethodRouter<AdminState> {
    put(renew)
}

pub(super) fn drain_methods() -> MethodRouter<AdminState> {
    post(drain)
}

/// Registers a worker. When this is answered, its routes are kept and routable.
#[utoipa::path(
    post, path = "/v1/workers", tag = "workers", request_body = Registration,
    security(("registration_token" = []), ("admin_token" = [])),
    responses(
        (status = CREATED, body = Registered),
        (status = BAD_REQUEST, response = Malformed),
        (status = UNAUTHORIZED, response = Unauthorized),
        (status = FORBIDDEN, response = Forbidden),
        (status = REQUEST_TIMEOUT, body = ErrorBody, description = "the body did not arrive in time"),
        (status = CONFLICT, body = ErrorBody, description = "a route belongs to another name: `info.conflicts`"),
        (status = PAYLOAD_TOO_LARGE, body = ErrorBody, description = "the body is larger than 64 MiB"),
        (status = UNSUPPORTED_MEDIA_TYPE, body = ErrorBody, description = "the body is not JSON by its Content-Type"),
        (status = UNPROCESSABLE_ENTITY, body = ErrorBody, description = "the url is outside `workers.allowed_urls`, or `verify` names what the configuration has not"),
        (status = SERVICE_UNAVAILABLE, body = ErrorBody, description = "nothing was changed: the gateway drains, its disk fails, or it knows too much already", headers(("Retry-After" = u64, description = "seconds"))),
    )
)]
pub(super) async fn register(
    registrant: Registrant,
    State(state): State<AdminState>,
    Body(registration, _room): Body<Registration>,
) -> Result<(StatusCode, Json<Registered>), AdminError> {
    // A worker that registered now would lose its gateway at once; the next one takes it.
    if state.readiness.phase() == Phase::Draining {
        return Err(AdminError::unavailable("the gateway is draining and takes no registrations"));
    }
    registrant.may_speak_for(&registration.name)?;
    let claim = Claim::check(registration)
        .map_err(|invalid| AdminError::invalid_field(&invalid.field, &invalid.message))?;
    if let Some((index, path)) = registrant.scope().and_then(|scope| scope.outside(&claim)) {
        let message = format!("handlers[{index}].name: this registration token is not for the path {path:?}");
        return Err(AdminError::forbidden(message));
    }
    let registered = state.registry.register(claim).await?;
    Ok((StatusCode::CREATED, Json(registered)))
}

/// Keeps a worker in the table for another lease.
#[utoipa::path(
    put, path = "/v1/workers/{id}/lease", tag = "workers",
    params(("id" = String, Path, description = "the `worker_id` from the registration")),
    security(("registration_token" = []), ("admin_token" = [])),
    responses(
        (status = OK, body = Lease),
        (status = BAD_REQUEST, response = Malformed),
        (status = UNAUTHORIZED, response = Unauthorized),
        (status = FORBIDDEN, response = Forbidden),
        (status = NOT_FOUND, body = ErrorBody, description = "the lease has lapsed: register again"),
    )
)]
pub(super) async fn renew(
    registrant: Registrant,
    State(state): State<AdminState>,
    Id(id): Id,
) -> Result<Json<Lease>, AdminError> {
    registrant.may_speak_for(&state.registry.name_of(&id)?)?;
    Ok(Json(state.registry.renew(&id)?))
}

/// Ends a registration by the worker's own wish: nothing new from now on, what is in flight finishes.
#[utoipa::path(
    delete, path = "/v1/workers/{id}", tag = "workers",
    params(("id" = String, Path, description = "the `worker_id` from the registration")),
    security(("registration_token" = []), ("admin_token" = [])),
    responses(
        (status = NO_CONTENT),
        (status = BAD_REQUEST, response = Malformed),
        (status = UNAUTHORIZED, response = Unauthorized),
        (status = FORBIDDEN, response = Forbidden),
        (status = NOT_FOUND, body = ErrorBody, description = "no worker has this id"),
        (status = SERVICE_UNAVAILABLE, response = Unavailable),
    )
)]
pub(super) async fn deregister(
    registrant: Registrant,
    State(state): State<AdminState>,
    Id(id): Id,
) -> Result<StatusCode, AdminError> {
    registrant.may_speak_for(&state.registry.name_of(&id)?)?;
    state.registry.deregister(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends a registration by an operator's wish; its lease goes on and tells the worker that it is draining.
#[utoipa::path(
    post, path = "/v1/workers/{id}/drain", tag = "workers",
    params(("id" = String, Path, description = "an id from the list of workers")),
    security(("admin_token" = [])),
    responses(
        (status = NO_CONTENT),
        (status = BAD_REQUEST, response = Malformed),
        (status = UNAUTHORIZED, response = Unauthorized),
        (status = FORBIDDEN, response = Forbidden),
        (status = NOT_FOUND, body = ErrorBody, description = "no worker has this id"),
        (status = SERVICE_UNAVAILABLE, response = Unavailable),
    )
)]
pub(super) async fn drain(
    _: Operator,
    State(state): State<AdminState>,
    Id(id): Id,
) -> Result<StatusCode, AdminError> {
    state.registry.drain(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The workers in the table; for a registration token, those that it could register.
#[utoipa::path(
    get, path = "/v1/workers", tag = "workers",
    security((), ("registration_token" = []), ("admin_token" = [])),
    responses(
        (status = OK, body = WorkerList),
        (status = BAD_REQUEST, response = Malformed),
        (status = UNAUTHORIZED, response = Unauthorized),
        (status = FORBIDDEN, response = Forbidden),
    )
)]
pub(super) async fn list(reader: WorkersReader, State(state): State<AdminState>) -> Json<WorkerList> {
    let replicas = state.registry.replicas();
    let seen = replicas.iter().filter(|replica| reader.may_see(replica.name()));
    Json(WorkerList { workers: seen.map(|replica| Worker::of(replica, &state.registry)).collect() })
}

impl Worker {
    fn of(replica: &Replica, registry: &Registry) -> Self {
        let registration = &replica.registration;
        let (calls, failures) = replica.tally();
        Self {
            id: replica.id.to_string(),
            name: replica.name().to_owned(),
            url: registration.url().to_owned(),
            protocol: registration.protocol().to_owned(),
            version: registration.version().to_owned(),
            state: replica.rotation().as_str(),
            lease_left_ms: registry
                .lease_left(replica)
                .map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            in_flight: replica.in_flight(),
            max_concurrency: replica.max_concurrency(),
            calls,
            failures,
            registered_at: rfc3339(replica.registered_at),
            handlers: replica.handlers_len(),
        }
    }
}
