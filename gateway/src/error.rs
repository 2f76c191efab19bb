//! Everything that can go wrong with a request, who failed, and what the client is told.

use std::borrow::Cow;
use std::time::Duration;

use gearway_protocol::{ErrorCode, HandlerError};
use http::StatusCode;
use serde_json::{Map, Value};

use crate::path::PathError;
use crate::webhook::Rejected;

/// Why a request was not answered by its handler.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request cannot be accepted as it is; the text tells the client why.
    #[error("{0}")]
    BadRequest(Cow<'static, str>),
    #[error("the body is larger than {limit} bytes")]
    BodyTooLarge { limit: u64 },
    #[error("the body did not arrive in time")]
    BodyTooSlow,
    #[error("there are too many header fields")]
    HeaderTooLarge,
    #[error("too many {of}")]
    RateLimited { of: &'static str, retry_after: Duration },
    #[error("{0}")]
    NotAuthenticated(&'static str),
    #[error("the API key is not accepted")]
    AccessKeyNotAccepted,
    #[error("the access token is not accepted")]
    AccessTokenNotAccepted,
    /// A webhook is not signed as its handler wants.
    #[error("{0}")]
    InvalidSignature(Rejected),
    /// The path is known, the method is not.
    #[error("no handler for {method} at this path")]
    MethodNotRegistered { method: String },
    /// Nothing is known of the path, and `public.unmatched` is `not_found`.
    #[error("no handler at this path")]
    RouteNotFound,
    /// The handler did not run; the request may be sent again.
    #[error("{reason}")]
    NotRun { reason: Cow<'static, str>, retry_after: Duration },
    /// The handler may have run: its worker went away after it was called. The reason is for the log.
    #[error("the worker went away before it answered: {reason}")]
    OutcomeUnknown { reason: String },
    /// The handler may have run: its worker did not answer before the deadline.
    #[error("the worker did not answer in time")]
    WorkerTooSlow,
    /// The worker's reply makes no sense. The reason is for the log.
    #[error("the worker's reply cannot be used: {reason}")]
    Nonsense { reason: String },
    /// The handler raised an error of its own.
    #[error("{}", .0.message)]
    Handler(HandlerError),
}

impl From<PathError> for Error {
    fn from(error: PathError) -> Self {
        Self::bad_request(error.to_string())
    }
}

/// Who has to do something about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    Client,
    Gateway,
    Worker,
}

impl Error {
    #[must_use]
    pub fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::BadRequest(message.into())
    }

    /// Contract section 7.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::HeaderTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::NotAuthenticated(_)
            | Self::AccessKeyNotAccepted
            | Self::AccessTokenNotAccepted
            | Self::InvalidSignature(_) => StatusCode::UNAUTHORIZED,
            Self::MethodNotRegistered { .. } | Self::RouteNotFound => StatusCode::NOT_FOUND,
            Self::NotRun { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::OutcomeUnknown { .. } | Self::Nonsense { .. } => StatusCode::BAD_GATEWAY,
            Self::WorkerTooSlow => StatusCode::GATEWAY_TIMEOUT,
            Self::Handler(error) => {
                StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    }

    /// Contract sections 7 and 9.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::BadRequest(_)
            | Self::BodyTooLarge { .. }
            | Self::BodyTooSlow
            | Self::HeaderTooLarge
            | Self::RateLimited { .. } => ErrorCode::BAD_REQUEST,
            Self::NotAuthenticated(_) => ErrorCode::NOT_AUTHENTICATED,
            Self::AccessKeyNotAccepted => ErrorCode::ACCESS_KEY_NOT_ACCEPTED,
            Self::AccessTokenNotAccepted => ErrorCode::ACCESS_TOKEN_NOT_ACCEPTED,
            Self::InvalidSignature(_) => ErrorCode::INVALID_SIGNATURE,
            Self::MethodNotRegistered { .. } | Self::RouteNotFound => ErrorCode::UNDEFINED_OPERATION,
            Self::NotRun { .. } | Self::OutcomeUnknown { .. } => ErrorCode::PLUGIN_UNAVAILABLE,
            Self::WorkerTooSlow => ErrorCode::PLUGIN_TIMEOUT,
            Self::Nonsense { .. } => ErrorCode::UNEXPECTED_ERROR,
            Self::Handler(error) => error.code,
        }
    }

    #[must_use]
    pub fn who_failed(&self) -> Party {
        match self {
            Self::BadRequest(_)
            | Self::BodyTooLarge { .. }
            | Self::BodyTooSlow
            | Self::HeaderTooLarge
            | Self::RateLimited { .. }
            | Self::NotAuthenticated(_)
            | Self::AccessKeyNotAccepted
            | Self::AccessTokenNotAccepted
            | Self::InvalidSignature(_)
            | Self::MethodNotRegistered { .. }
            | Self::RouteNotFound => Party::Client,
            Self::NotRun { .. } => Party::Gateway,
            Self::OutcomeUnknown { .. } | Self::WorkerTooSlow | Self::Nonsense { .. } | Self::Handler(_) => {
                Party::Worker
            }
        }
    }

    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::NotRun { retry_after, .. } => Some(*retry_after),
            Self::BadRequest(_)
            | Self::BodyTooLarge { .. }
            | Self::BodyTooSlow
            | Self::HeaderTooLarge
            | Self::NotAuthenticated(_)
            | Self::AccessKeyNotAccepted
            | Self::AccessTokenNotAccepted
            | Self::InvalidSignature(_)
            | Self::MethodNotRegistered { .. }
            | Self::RouteNotFound
            | Self::OutcomeUnknown { .. }
            | Self::WorkerTooSlow
            | Self::Nonsense { .. }
            | Self::Handler(_) => None,
        }
    }

    /// What operators and whoever writes the handler are told: also what clients are not.
    #[must_use]
    pub fn for_the_log(&self) -> String {
        if let Self::Handler(error) = self {
            let name = error.name.as_deref().or_else(|| error.code.name()).unwrap_or("HandlerError");
            return format!("{name} {}: {}", error.code.0, error.message);
        }
        self.to_string()
    }

    /// The body of the error response, without what only the log may know.
    #[must_use]
    pub fn to_json(&self, request_id: &str) -> Vec<u8> {
        let mut error = Map::new();
        let code = self.code();
        let (name, message, info) = match self {
            Self::Handler(error) => (error.name.clone(), error.message.clone(), error.info.clone()),
            Self::OutcomeUnknown { .. } => {
                (None, "the worker went away before it answered".to_owned(), Some(outcome_unknown()))
            }
            Self::WorkerTooSlow => (None, self.to_string(), Some(outcome_unknown())),
            Self::Nonsense { .. } => (None, "the worker's reply cannot be used".to_owned(), None),
            Self::BadRequest(_)
            | Self::BodyTooLarge { .. }
            | Self::BodyTooSlow
            | Self::HeaderTooLarge
            | Self::RateLimited { .. }
            | Self::NotAuthenticated(_)
            | Self::AccessKeyNotAccepted
            | Self::AccessTokenNotAccepted
            | Self::InvalidSignature(_)
            | Self::MethodNotRegistered { .. }
            | Self::RouteNotFound
            | Self::NotRun { .. } => (None, self.to_string(), None),
        };
        let name =
            name.or_else(|| code.name().map(str::to_owned)).unwrap_or_else(|| "HandlerError".to_owned());
        error.insert("name".into(), name.into());
        error.insert("code".into(), code.0.into());
        error.insert("message".into(), message.into());
        if let Some(info) = info {
            error.insert("info".into(), Value::Object(info));
        }
        error.insert("request_id".into(), request_id.into());
        Value::Object(Map::from_iter([("error".to_owned(), Value::Object(error))])).to_string().into_bytes()
    }
}

fn outcome_unknown() -> Map<String, Value> {
    Map::from_iter([("outcome".to_owned(), Value::from("unknown"))])
}
