use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use bytes::{Bytes, BytesMut};
use gearway_protocol::ErrorCode;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::AdminState;
use super::answer::AdminError;

/// A registration of a hundred thousand handlers is about 20 MiB.
const MAX_BODY: usize = 64 << 20;

/// What bodies that are being read and answered may take together.
const MAX_BODIES: usize = 2 * MAX_BODY;
/// So much of each does not count: whoever fills the room with large ones keeps no worker of a usual size out.
const FREE: usize = 64 << 10;

/// A request's body, read as JSON, and the room that it takes. Only callers who may are read from: it stands last among a handler's
/// arguments.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T, pub(super) OwnedSemaphorePermit);

/// The room that bodies share, a permit a byte; clones share it too.
#[derive(Debug, Clone)]
pub struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_BODIES)))
    }
}

impl Room {
    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, AdminError> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Arc::clone(&self.0).try_acquire_many_owned(bytes).map_err(|_| {
            AdminError::unavailable("too many large requests are being read; nothing was changed")
        })
    }
}

/// The `{id}` of the path.
#[derive(Debug)]
pub(super) struct Id(pub(super) String);

impl<T: DeserializeOwned> FromRequest<AdminState> for Body<T> {
    type Rejection = AdminError;

    async fn from_request(request: Request, state: &AdminState) -> Result<Self, AdminError> {
        if !may_be_json(request.headers()) {
            let message = "the body must be JSON, and Content-Type application/json or absent";
            return Err(AdminError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, ErrorCode::BAD_REQUEST, message));
        }
        let (bytes, room) = collect(request.into_body(), state).await?;
        Ok(Self(read(&bytes)?, room))
    }
}

impl FromRequestParts<AdminState> for Id {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, state: &AdminState) -> Result<Self, AdminError> {
        let id: Result<_, PathRejection> = Path::<String>::from_request_parts(parts, state).await;
        id.map(|Path(id)| Self(id)).map_err(|_| AdminError::malformed("the path cannot be decoded"))
    }
}

/// A request's body, within the limits of size, time and room.
pub(super) async fn collect(
    body: axum::body::Body,
    state: &AdminState,
) -> Result<(Bytes, OwnedSemaphorePermit), AdminError> {
    let patience = state.config.load().limits.body_timeout;
    tokio::time::timeout(patience, collect_within(body, &state.bodies)).await.unwrap_or_else(|_| {
        let message = "the body did not arrive in time";
        Err(AdminError::new(StatusCode::REQUEST_TIMEOUT, ErrorCode::BAD_REQUEST, message))
    })
}

async fn collect_within(
    body: axum::body::Body,
    room: &Room,
) -> Result<(Bytes, OwnedSemaphorePermit), AdminError> {
    let mut body = Limited::new(body, MAX_BODY);
    let (mut whole, mut taken) = (BytesMut::new(), room.take(0)?);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            if error.is::<LengthLimitError>() {
                let message = format!("the body is larger than {MAX_BODY} bytes");
                return AdminError::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::BAD_REQUEST, message);
            }
            AdminError::malformed("the body broke off")
        })?;
        let Ok(data) = frame.into_data() else { continue };
        let counted = (whole.len() + data.len()).saturating_sub(FREE);
        taken.merge(room.take(counted - taken.num_permits())?);
        whole.extend_from_slice(&data);
    }
    Ok((whole.freeze(), taken))
}

/// A browser sends other types than these without asking first, so a type that is given must be right.
fn may_be_json(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_TYPE).iter().all(|value| {
        let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("application/json")
            || essence
                .to_ascii_lowercase()
                .strip_prefix("application/")
                .is_some_and(|rest| rest.ends_with("+json"))
    })
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, AdminError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let path = if path == "." { "" } else { &path };
        let error = error.into_inner();
        if !error.is_data() {
            return AdminError::malformed(format!("the body is not JSON: {error}"));
        }
        let message = error.to_string();
        match missing_field(&message) {
            Some(missing) if path.is_empty() => AdminError::invalid_field(missing, "is missing"),
            Some(missing) => AdminError::invalid_field(&format!("{path}.{missing}"), "is missing"),
            None if path.is_empty() => AdminError::malformed(format!("the body cannot be used: {message}")),
            None => AdminError::invalid_field(path, &message),
        }
    })?;
    deserializer.end().map_err(|error| AdminError::malformed(format!("the body is not JSON: {error}")))?;
    Ok(value)
}

/// serde says which field is missing only in words.
fn missing_field(message: &str) -> Option<&str> {
    message.strip_prefix("missing field `")?.split('`').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_types() {
        let accepted =
            |value: &str| may_be_json(&HeaderMap::from_iter([(CONTENT_TYPE, value.parse().unwrap())]));
        for value in ["application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json"] {
            assert!(accepted(value), "{value}");
        }
        for value in ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonp", "text/json"]
        {
            assert!(!accepted(value), "{value}");
        }
        assert!(may_be_json(&HeaderMap::new()));
    }
}
