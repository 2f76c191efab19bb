use std::borrow::Cow;
use std::fmt::Write;
use std::time::{Duration, SystemTime};

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use gearway_protocol::ErrorCode;
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tracing::warn;
use utoipa::ToSchema;

use crate::delivery::LogError;
use crate::registry::Refusal;
use crate::store::StoreError;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A message repeats what it refuses, which may be as large as a request.
const LONGEST_MESSAGE: usize = 4096;
const CONFLICTS_LISTED: usize = 1000;
/// When a store that failed or a gateway that goes away is worth another try.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Why a request was refused. Becomes a response without a body, which [`write_errors`] fills in: the request's id
/// is known there.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct AdminError {
    status: StatusCode,
    code: ErrorCode,
    message: Cow<'static, str>,
    info: Option<Map<String, Value>>,
    retry_after: Option<Duration>,
}

/// What every error looks like. Contract section 7.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErrorBody {
    error: ErrorDetail,
}

#[derive(Debug, Serialize, ToSchema)]
struct ErrorDetail {
    /// The code's name.
    #[schema(example = "Duplicated")]
    name: String,
    /// Contract section 9.
    #[schema(example = 109)]
    code: u32,
    /// For people.
    message: String,
    /// For programs: `field` names what cannot be accepted, `conflicts` lists routes of others.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    info: Option<Map<String, Value>>,
    /// As in the `X-Request-Id` header and the gateway's log.
    request_id: String,
}

impl AdminError {
    pub(super) fn new(status: StatusCode, code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        let mut message = message.into();
        if message.len() > LONGEST_MESSAGE {
            let kept = message.floor_char_boundary(LONGEST_MESSAGE);
            message = format!("{}…", &message[..kept]).into();
        }
        Self { status, code, message, info: None, retry_after: None }
    }

    pub(super) fn malformed(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::BAD_REQUEST, message)
    }

    pub(super) fn invalid_field(field: &str, message: &str) -> Self {
        let info = Map::from_iter([("field".to_owned(), field.into())]);
        Self { info: Some(info), ..Self::malformed(format!("{field}: {message}")) }
    }

    pub(super) fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, ErrorCode::PERMISSION_DENIED, message)
    }

    pub(super) fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorCode::RESOURCE_NOT_FOUND, message)
    }

    pub(super) fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::PLUGIN_UNAVAILABLE, message);
        Self { retry_after: Some(TRY_AGAIN), ..error }
    }

    pub(super) fn unexpected(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::UNEXPECTED_ERROR, message)
    }

    fn to_json(&self, request_id: &str) -> Vec<u8> {
        let body = ErrorBody {
            error: ErrorDetail {
                name: self.code.name().unwrap_or("Error").to_owned(),
                code: self.code.0,
                message: self.message.to_string(),
                info: self.info.clone(),
                request_id: request_id.to_owned(),
            },
        };
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

impl From<Refusal> for AdminError {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::Invalid(invalid) => Self::invalid_field(&invalid.field, &invalid.message),
            Refusal::Unverifiable(invalid) => {
                let info = Map::from_iter([("field".to_owned(), invalid.field.into())]);
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                Self { info: Some(info), ..Self::new(status, ErrorCode::INVALID_ARGUMENT, message) }
            }
            Refusal::ForbiddenUrl(_) => {
                let info = Map::from_iter([("field".to_owned(), "url".into())]);
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                Self { info: Some(info), ..Self::new(status, ErrorCode::INVALID_ARGUMENT, message) }
            }
            Refusal::Conflict { conflicts, .. } => {
                let conflicts: Vec<_> = conflicts
                    .iter()
                    .take(CONFLICTS_LISTED)
                    .map(|conflict| {
                        json!({
                            "path": conflict.path,
                            "method": conflict.method.as_str(),
                            "owner": conflict.owner,
                        })
                    })
                    .collect();
                let info = Map::from_iter([("conflicts".to_owned(), conflicts.into())]);
                Self { info: Some(info), ..Self::new(StatusCode::CONFLICT, ErrorCode::DUPLICATED, message) }
            }
            Refusal::NoRoom(_) => {
                let info = Map::from_iter([("field".to_owned(), "handlers".into())]);
                Self { info: Some(info), ..Self::unavailable(message) }
            }
            Refusal::UnknownWorker { .. } | Refusal::UnknownRoute { .. } => Self::not_found(message),
            Refusal::RouteInUse { .. } => {
                Self::new(StatusCode::CONFLICT, ErrorCode::CONSTRAINT_VIOLATED, message)
            }
            Refusal::Store(error) => error.into(),
        }
    }
}

impl From<LogError> for AdminError {
    fn from(error: LogError) -> Self {
        Self::unavailable(format!("nothing was changed: {error}"))
    }
}

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        Self::unavailable(format!("nothing was changed: {error}"))
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Gives each request an id, and each refusal its body.
pub(super) async fn write_errors(request: Request, next: Next) -> Response {
    let request_id = format!("{:032x}", fastrand::u128(..));
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        headers.insert(X_REQUEST_ID, id);
    }
    // Answers hold what only this caller may see.
    headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let Some(error) = response.extensions_mut().remove::<AdminError>() else { return response };
    warn!(
        request_id,
        %method,
        path,
        status = error.status.as_u16(),
        code = error.code.0,
        reason = %error.message,
        "admin request refused"
    );
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if error.status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"gearway\""));
    }
    if let Some(retry_after) = error.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(retry_after.as_secs()));
    }
    *response.body_mut() = error.to_json(&request_id).into();
    response
}

pub(super) async fn unknown_path() -> AdminError {
    let message = "the admin listener has nothing at this path; /openapi.json lists what it has";
    AdminError::new(StatusCode::NOT_FOUND, ErrorCode::UNDEFINED_OPERATION, message)
}

pub(super) async fn unknown_method() -> AdminError {
    let message = "this path does not take this method; the Allow header lists those that it takes";
    AdminError::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::UNDEFINED_OPERATION, message)
}

/// RFC 3339 in UTC; [`None`] for a year that it cannot express.
pub(super) fn rfc3339(time: SystemTime) -> Option<String> {
    let mut text = String::new();
    write!(text, "{}", humantime::format_rfc3339_millis(time)).ok().map(|()| text)
}

/// Runs a change to its end, also when the caller goes away in the middle: store and memory must not part.
pub(super) async fn finish(
    change: impl Future<Output = Result<(), AdminError>> + Send + 'static,
) -> Result<(), AdminError> {
    match tokio::spawn(change).await {
        Ok(result) => result,
        Err(error) => {
            tracing::error!(%error, "a change was not finished");
            Err(AdminError::unexpected("the change was not finished"))
        }
    }
}
