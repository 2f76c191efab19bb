use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::routing::{MethodRouter, delete, post};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tracing::info;
use utoipa::ToSchema;

use super::AdminState;
use super::access::{Operator, Reader};
use super::answer::{AdminError, ErrorBody, finish, rfc3339};
use super::body::{Body, Id};
use super::openapi::{Forbidden, Malformed, Unauthorized, Unavailable};
use crate::auth::{NewTokenError, TokenRecord, TokenTable};
use crate::config::duration_from_text;
use crate::store::Change;

const LONGEST_USER: usize = 256;
/// Further ahead no calendar that people read from goes.
const LONGEST_TTL: Duration = Duration::from_hours(100 * 365 * 24);

/// What an access token is to be for.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct NewToken {
    #[schema(
        example = "alice",
        min_length = 1,
        max_length = 256,
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$"
    )]
    user: String,
    /// How long it counts, as `90s`, `1h` or `30d`; absent: until it is revoked.
    #[serde(default)]
    #[schema(example = "1h", pattern = "^[0-9]+(ms|s|m|h|d)$")]
    ttl: Option<String>,
}

/// A new access token. This is the only time that its text is shown.
#[derive(Serialize, ToSchema)]
pub(super) struct CreatedToken {
    token: String,
    #[serde(flatten)]
    about: Token,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TokenList {
    tokens: Vec<Token>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Token {
    /// Names the token; tells nothing about it.
    id: String,
    user: String,
    /// RFC 3339.
    #[schema(format = DateTime)]
    created_at: Option<String>,
    /// RFC 3339; null: never.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

pub(super) fn collection() -> MethodRouter<AdminState> {
    post(create).get(list)
}

pub(super) fn member() -> MethodRouter<AdminState> {
    delete(revoke)
}

/// Makes an access token for a user.
#[utoipa::path(
    post, path = "/v1/tokens", tag = "tokens", request_body = NewToken, security(("admin_token" = [])),
    responses(
        (status = CREATED, body = CreatedToken),
        (status = BAD_REQUEST, response = Malformed),
        (status = UNAUTHORIZED, response = Unauthorized),
        (status = FORBIDDEN, response = Forbidden),
        (status = REQUEST_TIMEOUT, body = ErrorBody, description = "the body did not arrive in time"),
        (status = PAYLOAD_TOO_LARGE, body = ErrorBody, description = "the body is larger than 64 MiB"),
        (status = UNSUPPORTED_MEDIA_TYPE, body = ErrorBody, description = "the body is not JSON by its Content-Type"),
        (status = INTERNAL_SERVER_ERROR, body = ErrorBody, description = "the change was not finished"),
        (status = SERVICE_UNAVAILABLE, response = Unavailable),
    )
)]
pub(super) async fn create(
    _: Operator,
    State(state): State<AdminState>,
    Body(NewToken { user, ttl }, _room): Body<NewToken>,
) -> Result<(StatusCode, Json<CreatedToken>), AdminError> {
    if user.is_empty() || user.len() > LONGEST_USER || user.chars().any(char::is_control) {
        let message = format!("must be 1 to {LONGEST_USER} bytes without control characters");
        return Err(AdminError::invalid_field("user", &message));
    }
    let ttl = ttl.as_deref().map(read_ttl).transpose()?;
    let (token, record) = TokenTable::create(&user, ttl).map_err(|error| {
        let message = error.to_string();
        match error {
            NewTokenError::NoUser => AdminError::invalid_field("user", &message),
            NewTokenError::TtlTooLong => AdminError::invalid_field("ttl", &message),
            NewTokenError::NoRandomness(_) => AdminError::unavailable(message),
        }
    })?;
    let about = Token::of(&record);
    finish(async move {
        state.store.commit(vec![Change::PutToken(record.clone())]).await?;
        info!(token_id = record.id, user = record.user, "access token made");
        state.tokens.insert(record);
        Ok(())
    })
    .await?;
    Ok((StatusCode::CREATED, Json(CreatedToken { token: token.expose().to_owned(), about })))
}

/// The access tokens, without their texts; expired ones too.
#[utoipa::path(
    get, path = "/v1/tokens", tag = "tokens", security((), ("admin_token" = [])),
    responses(
        (status = OK, body = TokenList),
        (status = BAD_REQUEST, response = Malformed),
        (status = UNAUTHORIZED, response = Unauthorized),
        (status = FORBIDDEN, response = Forbidden),
    )
)]
pub(super) async fn list(_: Reader, State(state): State<AdminState>) -> Json<TokenList> {
    Json(TokenList { tokens: state.tokens.list().iter().map(Token::of).collect() })
}

/// Revokes an access token: it counts for no request that comes after.
#[utoipa::path(
    delete, path = "/v1/tokens/{id}", tag = "tokens",
    params(("id" = String, Path, description = "an id from the list of tokens")),
    security(("admin_token" = [])),
    responses(
        (status = NO_CONTENT),
        (status = BAD_REQUEST, response = Malformed),
        (status = UNAUTHORIZED, response = Unauthorized),
        (status = FORBIDDEN, response = Forbidden),
        (status = NOT_FOUND, body = ErrorBody, description = "no token has this id"),
        (status = INTERNAL_SERVER_ERROR, body = ErrorBody, description = "the change was not finished"),
        (status = SERVICE_UNAVAILABLE, response = Unavailable),
    )
)]
pub(super) async fn revoke(
    _: Operator,
    State(state): State<AdminState>,
    Id(id): Id,
) -> Result<StatusCode, AdminError> {
    if !state.tokens.list().iter().any(|record| record.id == id) {
        return Err(AdminError::not_found(format!("no access token has the id {id:?}")));
    }
    finish(async move {
        state.store.commit(vec![Change::RemoveToken { id: id.clone() }]).await?;
        if state.tokens.remove(&id).is_some() {
            info!(token_id = id, "access token revoked");
        }
        Ok(())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn read_ttl(text: &str) -> Result<Duration, AdminError> {
    let ttl = duration_from_text(text).map_err(|message| AdminError::invalid_field("ttl", &message))?;
    if ttl.is_zero() || ttl > LONGEST_TTL {
        let message = "must be more than nothing and at most 36500d; leave it out for a token that stays";
        return Err(AdminError::invalid_field("ttl", message));
    }
    Ok(ttl)
}

impl Token {
    fn of(record: &TokenRecord) -> Self {
        Self {
            id: record.id.clone(),
            user: record.user.clone(),
            created_at: rfc3339(record.created_at),
            expires_at: record.expires_at.and_then(rfc3339),
        }
    }
}
