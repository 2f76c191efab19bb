use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, FORWARDED, RETRY_AFTER};
use http::{HeaderName, HeaderValue};
use tokio::sync::{RwLock, RwLockWriteGuard};

use super::AdminState;
use super::access::is_local;
use super::answer::AdminError;
use super::body::collect;

/// Which process answers for workers, routes and tokens: this one, or one that took over. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Succession(Arc<RwLock<Option<SocketAddr>>>);

/// Held while it is open who answers; requests wait for its end.
#[derive(Debug)]
pub struct Interregnum<'a>(RwLockWriteGuard<'a, Option<SocketAddr>>);

impl Succession {
    /// Waits until no request is under way, and keeps new ones waiting.
    pub async fn change(&self) -> Interregnum<'_> {
        Interregnum(self.0.write().await)
    }
}

impl Interregnum<'_> {
    /// The process whose admin listener is at this address answers from now on.
    pub fn passes_to(&mut self, admin: SocketAddr) {
        *self.0 = Some(admin);
    }
}

/// Answers here while this process is the one to ask, and passes on what still comes over its connections once another has taken over.
pub(super) async fn answer_or_pass_on(
    State(state): State<AdminState>,
    request: Request,
    next: Next,
) -> Response {
    let owner = state.succession.0.read().await;
    let Some(successor) = *owner else {
        // Held meanwhile: nobody takes over in the middle of a change.
        return next.run(request).await;
    };
    drop(owner);
    let mut response = if request.uri().path().starts_with("/v1/") {
        pass_on(successor, request, &state).await.unwrap_or_else(IntoResponse::into_response)
    } else {
        next.run(request).await
    };
    // The caller's next connection leads to the successor.
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn pass_on(
    successor: SocketAddr,
    request: Request,
    state: &AdminState,
) -> Result<Response, AdminError> {
    const TAKEN: [HeaderName; 3] = [AUTHORIZATION, CONTENT_TYPE, ACCEPT];
    const GIVEN: [HeaderName; 2] = [CONTENT_TYPE, RETRY_AFTER];
    let (head, body) = request.into_parts();
    // Who may send it is for the successor to say.
    let (body, _room) = collect(body, state).await?;
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let unreachable = |_| AdminError::unavailable("the gateway's new process cannot be asked");
    let client = reqwest::Client::builder().no_proxy().build().map_err(unreachable)?;
    let mut passed =
        client.request(head.method.clone(), format!("http://{}{target}", reachable(successor))).body(body);
    for name in TAKEN {
        for value in head.headers.get_all(&name) {
            passed = passed.header(&name, value);
        }
    }
    if !is_local(&head) {
        // This process is on the same machine as its successor; the caller may not be.
        passed = passed.header(FORWARDED, "for=unknown");
    }
    let answer = passed.send().await.map_err(unreachable)?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    let mut response = Response::new(Body::from(answer.bytes().await.map_err(unreachable)?));
    *response.status_mut() = status;
    for name in GIVEN {
        if let Some(value) = headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    Ok(response)
}

/// A wildcard is where one listens, and not where one calls.
fn reachable(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}
