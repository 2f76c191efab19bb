use std::sync::atomic::{AtomicU8, Ordering};

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use http::header::CONTENT_TYPE;
use serde::Serialize;
use utoipa::ToSchema;

use super::AdminState;
use super::access::Reader;
use super::answer::{AdminError, ErrorBody};
use super::openapi::{Forbidden, Malformed, Unauthorized};
use crate::telemetry::METRICS_CONTENT_TYPE;

/// How far the gateway is in its life, for `/readyz`.
#[derive(Debug, Default)]
pub struct Readiness(AtomicU8);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Starting,
    Ready,
    Draining,
}

impl Readiness {
    const PHASES: [Phase; 3] = [Phase::Starting, Phase::Ready, Phase::Draining];

    pub fn set(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::SeqCst);
    }

    #[must_use]
    pub fn phase(&self) -> Phase {
        Self::PHASES[usize::from(self.0.load(Ordering::SeqCst)) % Self::PHASES.len()]
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// `alive` or `ready`.
    status: &'static str,
}

pub(super) fn livez_methods() -> MethodRouter<AdminState> {
    get(livez)
}

pub(super) fn readyz_methods() -> MethodRouter<AdminState> {
    get(readyz)
}

pub(super) fn metrics_methods() -> MethodRouter<AdminState> {
    get(metrics)
}

/// Whether the process lives.
#[utoipa::path(
    get, path = "/livez", tag = "probes", security(()),
    responses((status = OK, body = Health), (status = FORBIDDEN, response = Forbidden))
)]
pub(super) async fn livez() -> Json<Health> {
    Json(Health { status: "alive" })
}

/// Whether requests should be sent here.
#[utoipa::path(
    get, path = "/readyz", tag = "probes", security(()),
    responses(
        (status = OK, body = Health),
        (status = FORBIDDEN, response = Forbidden),
        (status = SERVICE_UNAVAILABLE, body = ErrorBody, description = "starting, or draining"),
    )
)]
pub(super) async fn readyz(State(state): State<AdminState>) -> Result<Json<Health>, AdminError> {
    match state.readiness.phase() {
        Phase::Ready => Ok(Json(Health { status: "ready" })),
        Phase::Starting => Err(AdminError::unavailable("the gateway is starting")),
        Phase::Draining => Err(AdminError::unavailable("the gateway is draining")),
    }
}

/// Metrics in the OpenMetrics text format, which Prometheus reads.
#[utoipa::path(
    get, path = "/metrics", tag = "metrics", security((), ("admin_token" = [])),
    responses(
        (status = OK, body = String, content_type = "application/openmetrics-text"),
        (status = BAD_REQUEST, response = Malformed),
        (status = UNAUTHORIZED, response = Unauthorized),
        (status = FORBIDDEN, response = Forbidden),
        (status = INTERNAL_SERVER_ERROR, body = ErrorBody, description = "metrics cannot be written"),
    )
)]
pub(super) async fn metrics(_: Reader, State(state): State<AdminState>) -> Result<Response, AdminError> {
    let text = state.metrics.encode().map_err(|_| AdminError::unexpected("metrics cannot be written"))?;
    Ok(([(CONTENT_TYPE, METRICS_CONTENT_TYPE)], text).into_response())
}
