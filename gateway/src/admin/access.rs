use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use gearway_protocol::ErrorCode;
use http::header::{AUTHORIZATION, FORWARDED, HOST, ORIGIN, VIA};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, StatusCode};
use url::Url;

use super::AdminState;
use super::answer::AdminError;
use super::grants::{Grant, Scope};
use crate::telemetry::AuthFailure;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The other end of the connection that a request came over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Somebody with an admin token.
#[derive(Debug)]
pub(super) struct Operator(());

/// Somebody who may see everything that is no secret: an operator, or a program on this machine.
#[derive(Debug)]
pub(super) struct Reader(());

/// Somebody who may register workers.
#[derive(Debug)]
pub(super) struct Registrant {
    /// [`None`] for an operator.
    scope: Option<Arc<Scope>>,
}

/// Somebody who may list workers: a reader, or a registrant who sees its own.
#[derive(Debug)]
pub(super) struct WorkersReader {
    scope: Option<Arc<Scope>>,
}

/// Who sent a request, as far as the request itself tells.
#[derive(Debug)]
enum Caller {
    Granted(Grant),
    /// No token, from this machine, addressed to this machine.
    Local,
    Unknown,
}

impl Registrant {
    pub(super) fn scope(&self) -> Option<&Scope> {
        self.scope.as_deref()
    }

    /// # Errors
    /// When the caller's token is for other names.
    pub(super) fn may_speak_for(&self, name: &str) -> Result<(), AdminError> {
        if self.scope().is_none_or(|scope| scope.covers_name(name)) {
            return Ok(());
        }
        Err(AdminError::forbidden(format!("this registration token is not for workers called {name:?}")))
    }
}

impl WorkersReader {
    pub(super) fn may_see(&self, name: &str) -> bool {
        self.scope.as_ref().is_none_or(|scope| scope.covers_name(name))
    }
}

impl FromRequestParts<AdminState> for Operator {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, state: &AdminState) -> Result<Self, AdminError> {
        match identify(parts, state)? {
            Caller::Granted(Grant::Operate) => Ok(Self(())),
            Caller::Granted(Grant::Register(_)) => Err(registers_only()),
            Caller::Local | Caller::Unknown => Err(no_token(state, "an admin token")),
        }
    }
}

impl FromRequestParts<AdminState> for Reader {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, state: &AdminState) -> Result<Self, AdminError> {
        match identify(parts, state)? {
            Caller::Granted(Grant::Operate) | Caller::Local => Ok(Self(())),
            Caller::Granted(Grant::Register(_)) => Err(registers_only()),
            Caller::Unknown => Err(no_token(state, "an admin token")),
        }
    }
}

impl FromRequestParts<AdminState> for Registrant {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, state: &AdminState) -> Result<Self, AdminError> {
        match identify(parts, state)? {
            Caller::Granted(Grant::Operate) => Ok(Self { scope: None }),
            Caller::Granted(Grant::Register(scope)) => Ok(Self { scope: Some(scope) }),
            Caller::Local | Caller::Unknown => Err(no_token(state, "a registration token")),
        }
    }
}

impl FromRequestParts<AdminState> for WorkersReader {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, state: &AdminState) -> Result<Self, AdminError> {
        match identify(parts, state)? {
            Caller::Granted(Grant::Operate) | Caller::Local => Ok(Self { scope: None }),
            Caller::Granted(Grant::Register(scope)) => Ok(Self { scope: Some(scope) }),
            Caller::Unknown => Err(no_token(state, "a registration or admin token")),
        }
    }
}

/// A token that is presented counts, also where none is needed: a wrong one is refused, so that its owner learns of it.
fn identify(parts: &Parts, state: &AdminState) -> Result<Caller, AdminError> {
    let mut presented = parts.headers.get_all(AUTHORIZATION).iter();
    let caller = match (presented.next(), presented.next()) {
        (None, _) if is_local(parts) => return Ok(Caller::Local),
        (None, _) => return Ok(Caller::Unknown),
        (Some(_), Some(_)) => return Err(AdminError::malformed("the Authorization header is there twice")),
        (Some(value), None) => value
            .to_str()
            .ok()
            .and_then(bearer_token)
            .and_then(|token| state.grants.load().find(token).cloned())
            .map(Caller::Granted),
    };
    caller.ok_or_else(|| {
        state.metrics.count_auth_failure(AuthFailure::AdminToken);
        let message = "the token in the Authorization header is not accepted here";
        AdminError::new(StatusCode::UNAUTHORIZED, ErrorCode::INVALID_CREDENTIALS, message)
    })
}

/// RFC 6750 section 2.1; the scheme's case does not matter (RFC 9110 section 11.1).
fn bearer_token(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_matches(' '))
}

fn no_token(state: &AdminState, wanted: &str) -> AdminError {
    state.metrics.count_auth_failure(AuthFailure::AdminToken);
    let message = format!("this needs {wanted}, as Authorization: Bearer TOKEN");
    AdminError::new(StatusCode::UNAUTHORIZED, ErrorCode::NOT_AUTHENTICATED, message)
}

fn registers_only() -> AdminError {
    AdminError::forbidden(
        "a registration token registers workers and nothing else; this needs an admin token",
    )
}

/// Whether a program on this machine addressed this machine. The host matters because a browser can be made to
/// connect to loopback under a name that its page chose; a proxy that forwards speaks for somebody else.
pub(super) fn is_local(parts: &Parts) -> bool {
    let peer = parts.extensions.get::<Peer>();
    let peer_is_loopback = peer.is_some_and(|Peer(address)| address.ip().to_canonical().is_loopback());
    let forwarded = [FORWARDED, VIA, X_FORWARDED_FOR].iter().any(|name| parts.headers.contains_key(name));
    let target_is_loopback = parts.uri.authority().is_none_or(is_loopback_authority);
    peer_is_loopback
        && !forwarded
        && target_is_loopback
        && host(&parts.headers).is_some_and(|host| is_loopback_authority(&host))
}

/// The one `Host`; [`None`] if it is missing, repeated or unreadable.
fn host(headers: &HeaderMap) -> Option<Authority> {
    let mut values = headers.get_all(HOST).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Authority::try_from(value.as_bytes()).ok(),
        (None, _) | (Some(_), Some(_)) => None,
    }
}

fn is_loopback_authority(authority: &Authority) -> bool {
    !authority.as_str().contains('@') && is_loopback_host(authority.host())
}

fn is_loopback_host(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// No page of another site drives this listener, whatever else its requests carry.
pub(super) async fn refuse_foreign_origins(request: Request, next: Next) -> Response {
    if request
        .headers()
        .get_all(ORIGIN)
        .iter()
        .all(|origin| is_own_origin(origin.as_bytes(), request.headers()))
    {
        return next.run(request).await;
    }
    AdminError::forbidden("the admin listener takes no requests from other origins").into_response()
}

fn is_own_origin(origin: &[u8], headers: &HeaderMap) -> bool {
    let Some(origin) = std::str::from_utf8(origin).ok().and_then(|text| Url::parse(text).ok()) else {
        return false;
    };
    let Some(origin_host) = origin.host_str() else { return false };
    let own_host = || {
        let own = host(headers)?;
        Url::parse(&format!("{}://{own}", origin.scheme())).ok()
    };
    is_loopback_host(origin_host) || own_host().is_some_and(|own| own.origin() == origin.origin())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_hosts() {
        for host in [
            "localhost",
            "LOCALHOST:3001",
            "127.0.0.1",
            "127.0.0.1:3001",
            "127.9.9.9:1",
            "[::1]",
            "[::1]:3001",
        ] {
            assert!(is_loopback_authority(&host.parse().unwrap()), "{host}");
        }
        for host in [
            "example.com",
            "localhost.example.com",
            "127.0.0.1.example.com",
            "10.0.0.1:3001",
            "[::2]:1",
            "0.0.0.0:3001",
            "localhost@example.com",
            "a@localhost",
            "2130706433",
        ] {
            assert!(!is_loopback_authority(&host.parse().unwrap()), "{host}");
        }
    }

    #[test]
    fn own_origins() {
        let own = |origin: &str, host: &str| {
            let headers = HeaderMap::from_iter([(HOST, host.parse().unwrap())]);
            is_own_origin(origin.as_bytes(), &headers)
        };
        assert!(own("http://localhost:5173", "127.0.0.1:3001"));
        assert!(own("http://gateway.internal:3001", "gateway.internal:3001"));
        assert!(own("https://gateway.internal", "gateway.internal"));
        assert!(own("https://gateway.internal", "gateway.internal:443"));
        assert!(!own("http://gateway.internal:8000", "gateway.internal:3001"));
        assert!(!own("https://example.com", "127.0.0.1:3001"));
        assert!(!own("null", "127.0.0.1:3001"));
        assert!(!own("", "127.0.0.1:3001"));
        assert!(!own("file://", "127.0.0.1:3001"));
    }

    #[test]
    fn bearer_tokens() {
        assert_eq!(bearer_token("Bearer abc"), Some("abc"));
        assert_eq!(bearer_token("bearer  abc"), Some("abc"));
        assert_eq!(bearer_token("Basic abc"), None);
        assert_eq!(bearer_token("abc"), None);
        assert_eq!(bearer_token("Bearer"), None);
    }
}
