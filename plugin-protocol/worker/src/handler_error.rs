use std::fmt;

use gearway_protocol::ErrorCode;
use serde_json::{Map, Value};

/// An error that a handler answers with: the client gets its code, name, message and info, with the code's HTTP
/// status (Contract section 9; 500 for a worker's own codes, which start at 10000).
///
/// `?` turns any other error into an `UnexpectedError`: the client reads a neutral message, the log the
/// error's own text. An error type that should reach clients differently implements
/// [`IntoReply`](crate::IntoReply) or is mapped with `map_err`.
///
/// ```
/// use gearway_worker::{ErrorCode, HandlerError};
///
/// let sold_out = HandlerError::new(ErrorCode(10001), "no more tickets")
///     .with_name("SoldOut")
///     .with_info("show", "2026-12-31");
/// assert_eq!(sold_out.code().status(), 500);
/// ```
#[derive(Debug)]
pub struct HandlerError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    told: gearway_protocol::HandlerError,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl HandlerError {
    /// An error with one of Skygear's codes, or one of the worker's own: `ErrorCode(10001)`.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let name = code.name().map(str::to_owned);
        let told = gearway_protocol::HandlerError { code, name, message: message.into(), info: None };
        Self(Box::new(Inner { told, source: None }))
    }

    /// 400 `BadRequest`.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BAD_REQUEST, message)
    }

    /// 400 `InvalidArgument`, with the argument's name in `info.arguments`.
    #[must_use]
    pub fn invalid_argument(argument: &str, message: impl Into<String>) -> Self {
        Self::new(ErrorCode::INVALID_ARGUMENT, message).with_info("arguments", vec![argument])
    }

    /// 401 `NotAuthenticated`.
    #[must_use]
    pub fn not_authenticated(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::NOT_AUTHENTICATED, message)
    }

    /// 403 `PermissionDenied`.
    #[must_use]
    pub fn permission_denied(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::PERMISSION_DENIED, message)
    }

    /// 404 `ResourceNotFound`.
    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::RESOURCE_NOT_FOUND, message)
    }

    /// 409 `Duplicated`.
    #[must_use]
    pub fn duplicated(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::DUPLICATED, message)
    }

    /// 500 `UnexpectedError` with a neutral message; `source` goes to the log.
    #[must_use]
    pub fn unexpected(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let mut error = Self::new(ErrorCode::UNEXPECTED_ERROR, NEUTRAL);
        error.0.source = Some(source.into());
        error
    }

    /// Replaces the name, which a code of the worker's own does not have by itself.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.0.told.name = Some(name.into());
        self
    }

    /// Adds an entry to `info`, which is for programs.
    #[must_use]
    pub fn with_info(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.0.told.info.get_or_insert_with(Map::new).insert(key.into(), value.into());
        self
    }

    /// Decides the HTTP status.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        self.0.told.code
    }

    /// What the client reads.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.told.message
    }

    /// What only the log may show.
    #[must_use]
    pub fn source(&self) -> Option<&(dyn std::error::Error + Send + Sync + 'static)> {
        self.0.source.as_deref()
    }

    pub(crate) fn told(&self) -> &gearway_protocol::HandlerError {
        &self.0.told
    }
}

/// The message of an error whose text is not for clients.
pub(crate) const NEUTRAL: &str = "the handler failed";

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message(), self.code().0)
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::unexpected(error)
    }
}
