use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::routing::{MethodRouter, get};
use gearway_protocol::VerifySpec;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::AdminState;
use super::access::{Operator, Reader};
use super::answer::{AdminError, ErrorBody};
use super::openapi::{Forbidden, Malformed, Unauthorized, Unavailable};
use crate::registry::{Endpoint, Rotation};
use crate::telemetry::{Latency, method_label};

/// The known routes, those without a worker too.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RouteList {
    routes: Vec<Route>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Route {
    /// As its first claimant wrote it, with `:` read as `/`.
    #[schema(example = "/foo/")]
    path: String,
    methods: Vec<RouteMethod>,
}

#[derive(Debug, Serialize, ToSchema)]
struct RouteMethod {
    #[schema(example = "GET")]
    method: String,
    /// The name of the workers that it belongs to.
    owner: String,
    key_required: bool,
    user_required: bool,
    timeout_ms: u64,
    /// How a webhook's signature is checked: nothing, or everything that replicas ask for.
    verify: Vec<VerifySpec>,
    /// Workers that are given its calls.
    replicas: usize,
    /// Whether one of them could take a call now.
    available: bool,
    /// Answered since the gateway started, whatever the status.
    requests: u64,
    /// How long half of them took at most, from the first byte to the end of the response; an estimate.
    #[schema(example = 1.3)]
    p50_ms: Option<f64>,
    /// As `p50_ms`, of 99 in 100.
    #[schema(example = 8.9)]
    p99_ms: Option<f64>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ForgetQuery {
    /// The route's path, as the list of routes shows it.
    #[param(example = "/foo/")]
    path: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Forgotten {
    /// How many methods the route had.
    forgotten: usize,
}

pub(super) fn methods() -> MethodRouter<AdminState> {
    get(list).delete(forget)
}

/// The known routes.
#[utoipa::path(
    get, path = "/v1/routes", tag = "routes", security((), ("admin_token" = [])),
    responses(
        (status = OK, body = RouteList),
        (status = BAD_REQUEST, response = Malformed),
        (status = UNAUTHORIZED, response = Unauthorized),
        (status = FORBIDDEN, response = Forbidden),
    )
)]
pub(super) async fn list(_: Reader, State(state): State<AdminState>) -> Json<RouteList> {
    let request_timeout = state.config.load().limits.request_timeout;
    let table = state.registry.table();
    let latencies = state.metrics.latencies();
    let mut routes: Vec<_> =
        table.routes.iter().map(|(_, endpoint)| Route::of(endpoint, request_timeout, &latencies)).collect();
    routes.sort_by(|a, b| a.path.cmp(&b.path));
    Json(RouteList { routes })
}

/// Forgets a route that has no worker, so that another name may claim it.
#[utoipa::path(
    delete, path = "/v1/routes", tag = "routes", params(ForgetQuery), security(("admin_token" = [])),
    responses(
        (status = OK, body = Forgotten),
        (status = BAD_REQUEST, response = Malformed),
        (status = UNAUTHORIZED, response = Unauthorized),
        (status = FORBIDDEN, response = Forbidden),
        (status = NOT_FOUND, body = ErrorBody, description = "no route is known at this path"),
        (status = CONFLICT, body = ErrorBody, description = "a worker serves it"),
        (status = SERVICE_UNAVAILABLE, response = Unavailable),
    )
)]
pub(super) async fn forget(
    _: Operator,
    State(state): State<AdminState>,
    query: Result<Query<ForgetQuery>, QueryRejection>,
) -> Result<Json<Forgotten>, AdminError> {
    let Query(ForgetQuery { path }) =
        query.map_err(|_| AdminError::invalid_field("path", "must be given once, as in ?path=/foo"))?;
    let forgotten = state.registry.forget(&path).await?;
    Ok(Json(Forgotten { forgotten }))
}

type Latencies = HashMap<(Arc<str>, &'static str), Latency>;

/// To the microsecond: an estimate has no more digits than that.
fn milliseconds(seconds: Option<f64>) -> Option<f64> {
    seconds.map(|seconds| (seconds * 1e6).round() / 1e3)
}

impl Route {
    fn of(endpoint: &Endpoint, request_timeout: Duration, latencies: &Latencies) -> Self {
        let mut methods: Vec<_> = endpoint
            .handlers()
            .map(|handler| {
                let timeout =
                    handler.timeout.map_or(request_timeout, |own| own.as_duration().min(request_timeout));
                let in_rotation =
                    handler.offers.iter().filter(|offer| offer.replica.rotation() == Rotation::In);
                let latency = latencies.get(&(Arc::clone(&endpoint.path), method_label(handler.method)));
                let latency = latency.copied().unwrap_or_default();
                RouteMethod {
                    method: handler.method.to_string(),
                    owner: handler.group.name.to_string(),
                    key_required: handler.policy.key_required,
                    user_required: handler.policy.user_required,
                    verify: handler.verify.iter().map(|verify| verify.spec().clone()).collect(),
                    timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
                    replicas: in_rotation.count(),
                    available: handler.is_available(),
                    requests: latency.requests(),
                    p50_ms: milliseconds(latency.quantile(0.5)),
                    p99_ms: milliseconds(latency.quantile(0.99)),
                }
            })
            .collect();
        methods.sort_by(|a, b| a.method.cmp(&b.method));
        Self { path: endpoint.path.to_string(), methods }
    }
}
