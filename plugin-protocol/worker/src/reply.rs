use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::wire::{self, JsonReply};
use crate::{HandlerError, Json};

/// What a handler may return.
///
/// | type | becomes |
/// |---|---|
/// | `String`, `&'static str`, `Cow<'static, str>` | 200 `text/plain; charset=utf-8` |
/// | [`Json`], `serde_json::Value`, integers, `bool` | 200 `application/json` |
/// | `()` | 200 `application/json`, `null` |
/// | [`Bytes`], `Vec<u8>` | 200 `application/octet-stream` |
/// | [`StatusCode`] | that status, without a body |
/// | `(StatusCode, T)`, `(HeaderMap, T)`, `(StatusCode, HeaderMap, T)`, `([(name, value); N], T)`, `(StatusCode, [(name, value); N], T)` | `T`, with that status and those headers besides its own |
/// | `http::Response<T>` where `T` becomes [`Bytes`] | that response |
/// | [`HandlerError`] | `{"error": …}` with the code's status |
/// | `Result<T, E>` | either of the two |
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    note = "return text, `Json(value)`, `(StatusCode, …)`, `http::Response<…>`, or a `Result` of one of them and `HandlerError`"
)]
pub trait IntoReply {
    /// Makes the reply.
    fn into_reply(self) -> Reply;
}

/// What a handler returned, ready for the wire.
#[derive(Debug)]
pub struct Reply(pub(crate) Content);

#[derive(Debug)]
pub(crate) enum Content {
    Text(Cow<'static, str>),
    Json(JsonReply),
    Response(http::Response<Bytes>),
    Error(HandlerError),
}

impl Reply {
    /// The whole response, for when there is more to say than a text or a JSON value.
    fn into_response(self) -> Result<http::Response<Bytes>, HandlerError> {
        let (content_type, body) = match self.0 {
            Content::Text(Cow::Borrowed(text)) => (wire::TEXT, Bytes::from_static(text.as_bytes())),
            Content::Text(Cow::Owned(text)) => (wire::TEXT, Bytes::from(text)),
            Content::Json(json) => (wire::JSON, json.into_value()),
            Content::Response(response) => return Ok(response),
            Content::Error(error) => return Err(error),
        };
        let mut response = http::Response::new(body);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        Ok(response)
    }

    /// Errors stay as they are: their code decides the status.
    fn change(self, change: impl FnOnce(&mut http::Response<Bytes>)) -> Self {
        match self.into_response() {
            Ok(mut response) => {
                change(&mut response);
                Self(Content::Response(response))
            }
            Err(error) => Self(Content::Error(error)),
        }
    }
}

impl IntoReply for Reply {
    fn into_reply(self) -> Reply {
        self
    }
}

impl IntoReply for Cow<'static, str> {
    fn into_reply(self) -> Reply {
        Reply(Content::Text(self))
    }
}

impl IntoReply for String {
    fn into_reply(self) -> Reply {
        Cow::<'static, str>::Owned(self).into_reply()
    }
}

impl IntoReply for &'static str {
    fn into_reply(self) -> Reply {
        Cow::Borrowed(self).into_reply()
    }
}

impl<T: Serialize> IntoReply for Json<T> {
    fn into_reply(self) -> Reply {
        match JsonReply::new(&self.0) {
            Ok(json) => Reply(Content::Json(json)),
            Err(error) => HandlerError::unexpected(error).into_reply(),
        }
    }
}

macro_rules! json_replies {
    ($($type:ty)*) => {
        $(impl IntoReply for $type {
            fn into_reply(self) -> Reply {
                Json(self).into_reply()
            }
        })*
    };
}

json_replies! { () bool i8 i16 i32 i64 isize u8 u16 u32 u64 usize serde_json::Value }

impl IntoReply for Bytes {
    fn into_reply(self) -> Reply {
        let mut response = http::Response::new(self);
        let content_type = HeaderValue::from_static("application/octet-stream");
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        Reply(Content::Response(response))
    }
}

impl IntoReply for Vec<u8> {
    fn into_reply(self) -> Reply {
        Bytes::from(self).into_reply()
    }
}

impl IntoReply for StatusCode {
    fn into_reply(self) -> Reply {
        let mut response = http::Response::new(Bytes::new());
        *response.status_mut() = self;
        Reply(Content::Response(response))
    }
}

impl<B: Into<Bytes>> IntoReply for http::Response<B> {
    fn into_reply(self) -> Reply {
        Reply(Content::Response(self.map(Into::into)))
    }
}

impl IntoReply for HandlerError {
    fn into_reply(self) -> Reply {
        Reply(Content::Error(self))
    }
}

/// What `http::Response::builder()` ends in may be returned as it is.
impl IntoReply for http::Error {
    fn into_reply(self) -> Reply {
        HandlerError::unexpected(self).into_reply()
    }
}

impl<T: IntoReply, E: IntoReply> IntoReply for Result<T, E> {
    fn into_reply(self) -> Reply {
        match self {
            Ok(value) => value.into_reply(),
            Err(error) => error.into_reply(),
        }
    }
}

impl<T: IntoReply> IntoReply for (StatusCode, T) {
    fn into_reply(self) -> Reply {
        self.1.into_reply().change(|response| *response.status_mut() = self.0)
    }
}

impl<T: IntoReply> IntoReply for (HeaderMap, T) {
    fn into_reply(self) -> Reply {
        self.1.into_reply().change(|response| replace_headers(response.headers_mut(), self.0))
    }
}

impl<T: IntoReply> IntoReply for (StatusCode, HeaderMap, T) {
    fn into_reply(self) -> Reply {
        (self.0, (self.1, self.2)).into_reply()
    }
}

impl<N, V, T, const LEN: usize> IntoReply for ([(N, V); LEN], T)
where
    N: TryInto<HeaderName, Error: Into<http::Error>>,
    V: TryInto<HeaderValue, Error: Into<http::Error>>,
    T: IntoReply,
{
    fn into_reply(self) -> Reply {
        let mut headers = HeaderMap::with_capacity(LEN);
        for (name, value) in self.0 {
            let entry = name.try_into().map_err(Into::into).and_then(|name: HeaderName| {
                value.try_into().map_err(Into::into).map(|value: HeaderValue| (name, value))
            });
            match entry {
                Ok((name, value)) => headers.append(name, value),
                Err(error) => return HandlerError::unexpected(error).into_reply(),
            };
        }
        (headers, self.1).into_reply()
    }
}

impl<N, V, T, const LEN: usize> IntoReply for (StatusCode, [(N, V); LEN], T)
where
    ([(N, V); LEN], T): IntoReply,
{
    fn into_reply(self) -> Reply {
        (self.0, (self.1, self.2)).into_reply()
    }
}

/// A name that is given replaces what was there; given twice, both values are sent.
fn replace_headers(headers: &mut HeaderMap, given: HeaderMap) {
    for name in given.keys() {
        headers.remove(name);
    }
    let mut last = None;
    for (name, value) in given {
        last = name.or(last);
        if let Some(name) = &last {
            headers.append(name, value);
        }
    }
}
