use axum::Json;
use axum::routing::{MethodRouter, get};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi, ToResponse};

use super::access::Reader;
use super::answer::ErrorBody;
use super::{AdminState, deliveries, probes, routes, tokens, workers};

/// What the listener serves, for programs. Every operation and every status is here.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Gearway admin API",
        description = "Registration of workers, and what operators ask for. \
            Reading needs no token for a program on the same machine that addresses it as localhost; \
            the probes are open to everybody. Every response carries `X-Request-Id`.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    paths(
        probes::livez,
        probes::readyz,
        probes::metrics,
        document,
        workers::register,
        workers::list,
        workers::deregister,
        workers::renew,
        workers::drain,
        routes::list,
        routes::forget,
        deliveries::list,
        deliveries::show,
        deliveries::remove,
        deliveries::replay,
        deliveries::replay_many,
        tokens::create,
        tokens::list,
        tokens::revoke,
    ),
    components(responses(Malformed, Unauthorized, Forbidden, Unavailable)),
    modifiers(&Tokens),
)]
pub(super) struct Document;

/// The request cannot be read, or `info.field` cannot be accepted.
#[derive(ToResponse)]
pub(super) struct Malformed(#[allow(dead_code, reason = "only its schema is used")] ErrorBody);

/// No token, or one that is not accepted.
#[derive(ToResponse)]
#[response(headers(("WWW-Authenticate", description = "Bearer")))]
pub(super) struct Unauthorized(#[allow(dead_code, reason = "only its schema is used")] ErrorBody);

/// The token is not for this, or the request comes from a page of another origin.
#[derive(ToResponse)]
pub(super) struct Forbidden(#[allow(dead_code, reason = "only its schema is used")] ErrorBody);

/// Nothing was changed: the gateway is draining, or its store failed.
#[derive(ToResponse)]
#[response(headers(("Retry-After" = u64, description = "seconds")))]
pub(super) struct Unavailable(#[allow(dead_code, reason = "only its schema is used")] ErrorBody);

struct Tokens;

impl Modify for Tokens {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        for (name, what) in [
            ("admin_token", "A token of `admin.tokens`, or the one in `data_dir/admin-token`."),
            (
                "registration_token",
                "A token of `admin.registration_tokens`, or the one in `data_dir/registration-token`.",
            ),
        ] {
            let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(what));
            components.add_security_scheme(name, SecurityScheme::Http(scheme.build()));
        }
    }
}

pub(super) fn methods() -> MethodRouter<AdminState> {
    get(document)
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "description", security((), ("admin_token" = [])),
    responses(
        (status = OK, body = Object),
        (status = BAD_REQUEST, response = Malformed),
        (status = UNAUTHORIZED, response = Unauthorized),
        (status = FORBIDDEN, response = Forbidden),
    )
)]
pub(super) async fn document(_: Reader) -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}
