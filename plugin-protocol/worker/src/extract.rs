use std::any::{Any, type_name};
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use gearway_protocol::ErrorCode;
use http::{HeaderMap, Method, header};
use serde::de::DeserializeOwned;

use crate::fields::{self, FieldError};
use crate::{HandlerError, Request};

/// What a handler may take as an argument. A request from which it cannot be made is answered with the error,
/// and the handler does not run.
///
/// ```
/// use gearway_worker::{FromRequest, HandlerError, Request};
///
/// struct Signature(String);
///
/// impl FromRequest for Signature {
///     async fn from_request(request: &Request) -> Result<Self, HandlerError> {
///         let value = request.header("x-signature");
///         let value = value.ok_or_else(|| HandlerError::bad_request("X-Signature is missing"))?;
///         Ok(Self(value.to_owned()))
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "a handler cannot take `{Self}` as an argument",
    note = "take `Request`, `Query<T>`, `Form<T>`, `Json<T>`, `Path<T>`, `State<T>`, `CurrentUser`, `Bytes`, `String`, `HeaderMap` or `Method`, where `T: serde::Deserialize`"
)]
pub trait FromRequest: Sized {
    /// Makes the argument.
    ///
    /// # Errors
    /// What the client is to be told instead of the handler's reply.
    fn from_request(request: &Request) -> impl Future<Output = Result<Self, HandlerError>> + Send;
}

/// The query string, as a struct or a map. A name that is given several times makes a list.
///
/// A missing or unreadable parameter is 400 `InvalidArgument` with its name in `info.arguments`; so it is with
/// [`Form`], [`Json`] and [`Path`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query<T>(pub T);

/// A body of `application/x-www-form-urlencoded`, as a struct or a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form<T>(pub T);

/// The `{param}` segments of the handler's name: one value, a tuple in the name's order, a struct or a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path<T>(pub T);

/// A JSON body, whatever its `Content-Type` says; as a return value, a JSON reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Json<T>(pub T);

/// What was given to [`Worker::state`](crate::Worker::state).
#[derive(Debug)]
pub struct State<T>(pub Arc<T>);

/// The id of the authenticated user. Without one the handler answers 401 `NotAuthenticated`; an
/// `Option<CurrentUser>` takes both.
///
/// [`Route::user_required`](crate::Route::user_required) lets the gateway refuse such calls before they come here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrentUser(pub String);

macro_rules! derefs {
    ($($wrapper:ident)*) => {
        $(impl<T> Deref for $wrapper<T> {
            type Target = T;

            fn deref(&self) -> &T {
                &self.0
            }
        })*
    };
}

derefs! { Query Form Path Json State }

impl FromRequest for Request {
    async fn from_request(request: &Request) -> Result<Self, HandlerError> {
        Ok(request.clone())
    }
}

impl FromRequest for Bytes {
    async fn from_request(request: &Request) -> Result<Self, HandlerError> {
        Ok(request.body().clone())
    }
}

impl FromRequest for String {
    async fn from_request(request: &Request) -> Result<Self, HandlerError> {
        request.text().map(str::to_owned)
    }
}

impl FromRequest for HeaderMap {
    async fn from_request(request: &Request) -> Result<Self, HandlerError> {
        Ok(request.headers().clone())
    }
}

impl FromRequest for Method {
    async fn from_request(request: &Request) -> Result<Self, HandlerError> {
        Ok(request.method().clone())
    }
}

impl<T: DeserializeOwned> FromRequest for Query<T> {
    async fn from_request(request: &Request) -> Result<Self, HandlerError> {
        fields::from_pairs(request.query_pairs()).map(Self).map_err(|error| invalid("query", &error))
    }
}

impl<T: DeserializeOwned> FromRequest for Form<T> {
    async fn from_request(request: &Request) -> Result<Self, HandlerError> {
        if let Some(content_type) = request.headers().get(header::CONTENT_TYPE) {
            let essence = content_type.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
            if !essence.trim_ascii().eq_ignore_ascii_case(b"application/x-www-form-urlencoded") {
                return Err(HandlerError::bad_request(
                    "the body must be application/x-www-form-urlencoded, as its Content-Type does not say",
                ));
            }
        }
        let pairs = form_urlencoded::parse(request.body()).into_owned();
        fields::from_pairs(pairs).map(Self).map_err(|error| invalid("form", &error))
    }
}

impl<T: DeserializeOwned> FromRequest for Path<T> {
    async fn from_request(request: &Request) -> Result<Self, HandlerError> {
        let segments = param_names(request.handler_name())
            .filter_map(|name| Some((name.to_owned(), request.param(name)?.to_owned())));
        fields::from_segments(segments).map(Self).map_err(|error| match error.field {
            Some(_) => invalid("path", &error),
            // The handler's name and its argument disagree, which no client can mend.
            None => HandlerError::unexpected(error),
        })
    }
}

impl<T: DeserializeOwned> FromRequest for Json<T> {
    async fn from_request(request: &Request) -> Result<Self, HandlerError> {
        let mut deserializer = serde_json::Deserializer::from_slice(request.body());
        let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let path = error.path().to_string();
            let reason = error.into_inner();
            if !reason.is_data() {
                return HandlerError::bad_request(format!("the body is not JSON: {reason}"));
            }
            let reason = reason.to_string();
            let missing = reason.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
            let argument = match (path.as_str(), missing) {
                (".", Some(field)) => field.to_owned(),
                (parent, Some(field)) => format!("{parent}.{field}"),
                (".", None) => {
                    return HandlerError::new(ErrorCode::INVALID_ARGUMENT, format!("the body: {reason}"));
                }
                (path, None) => path.to_owned(),
            };
            let message = format!("body parameter {argument}: {reason}");
            HandlerError::invalid_argument(&argument, message)
        })?;
        deserializer
            .end()
            .map_err(|error| HandlerError::bad_request(format!("the body is not JSON: {error}")))?;
        Ok(Self(value))
    }
}

impl<T: Any + Send + Sync> FromRequest for State<T> {
    async fn from_request(request: &Request) -> Result<Self, HandlerError> {
        request.state().map(Self).ok_or_else(|| {
            HandlerError::unexpected(format!("State<{}> was never given to Worker::state", type_name::<T>()))
        })
    }
}

impl FromRequest for CurrentUser {
    async fn from_request(request: &Request) -> Result<Self, HandlerError> {
        request
            .user_id()
            .map(|user| Self(user.to_owned()))
            .ok_or_else(|| HandlerError::not_authenticated("an authenticated user is required"))
    }
}

impl FromRequest for Option<CurrentUser> {
    async fn from_request(request: &Request) -> Result<Self, HandlerError> {
        Ok(request.user_id().map(|user| CurrentUser(user.to_owned())))
    }
}

/// The names in braces, in order.
pub(crate) fn param_names(handler_name: &str) -> impl Iterator<Item = &str> {
    handler_name
        .split(['/', ':'])
        .filter_map(|segment| segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')))
}

fn invalid(place: &str, error: &FieldError) -> HandlerError {
    match &error.field {
        Some(field) => HandlerError::invalid_argument(field, format!("{place} parameter {error}")),
        None => HandlerError::new(ErrorCode::INVALID_ARGUMENT, format!("{place}: {error}")),
    }
}
