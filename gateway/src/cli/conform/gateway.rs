//! The gateway that the worker registers with: as the real one, but that it answers by a script, and forgets nothing that
//! it was asked.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use gearway::registry::Claim;
use gearway_protocol::{Lease, Registered, Registration};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use url::Url;

use super::wire::SharedNotes;
use super::worker::Worker;
use crate::cli::gateway::local_url;

/// Larger than any registration.
const MAX_BODY: usize = 1024 * 1024;
/// Where a redirect points, and where nobody may come.
const ELSEWHERE: &str = "/elsewhere";

/// How calls are answered from now on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Script {
    pub(super) register: Answering,
    pub(super) renew: Answering,
    /// What a lease is said to last.
    pub(super) lease: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answering {
    /// As a gateway that is well.
    Well,
    /// As [`Well`](Self::Well), but that an operator has drained the worker.
    Draining,
    Status(StatusCode),
    Redirecting,
}

/// One call of the worker's, and how it was answered.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) what: What,
    pub(super) answered: StatusCode,
    /// Whether it carried the token.
    pub(super) authorized: bool,
    /// Whether it came as to a proxy, with the whole URL as its target.
    pub(super) as_to_a_proxy: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum What {
    Register,
    /// With the worker's id, which may be an old one.
    Renew(String),
    Leave(String),
    FollowARedirect,
    Other(String),
}

/// The gateway. While it is away its port stays its own, and refuses connections.
#[derive(Debug)]
pub(super) struct Gateway {
    address: SocketAddr,
    _port: TcpSocket,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    token: String,
    /// The URL with which the worker has to register; any if there is none.
    expected_url: Option<Url>,
    base: String,
    notes: SharedNotes,
    state: Mutex<State>,
    log: watch::Sender<Vec<Arc<Asked>>>,
}

#[derive(Debug)]
struct State {
    script: Script,
    place: Option<Place>,
    /// Why the last registration could not be accepted.
    invalid: Option<String>,
    registrations: u32,
}

#[derive(Debug, Clone)]
struct Place {
    worker_id: String,
    worker: Worker,
}

impl Gateway {
    pub(super) fn listen(
        address: SocketAddr,
        token: &str,
        expected_url: Option<Url>,
        script: Script,
        notes: SharedNotes,
    ) -> anyhow::Result<Self> {
        let port = bound(address)
            .with_context(|| format!("cannot listen on {address}; choose another address with --listen"))?;
        let address = port.local_addr()?;
        let state = State { script, place: None, invalid: None, registrations: 0 };
        let shared = Shared {
            token: token.to_owned(),
            expected_url,
            base: local_url(address),
            notes,
            state: Mutex::new(state),
            log: watch::Sender::new(Vec::new()),
        };
        let mut gateway = Self { address, _port: port, shared: Arc::new(shared), accepting: None };
        gateway.come_back()?;
        Ok(gateway)
    }

    /// What goes into `GEARWAY_GATEWAY`.
    pub(super) fn url(&self) -> &str {
        &self.shared.base
    }

    /// Ends every connection, and refuses new ones.
    pub(super) async fn go_away(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            // An aborted task yields an error, and its sockets are closed by then.
            accepting.await.ok();
        }
    }

    pub(super) fn come_back(&mut self) -> anyhow::Result<()> {
        let listener = bound(self.address)?.listen(128).with_context(|| {
            format!("cannot listen on {}; choose another address with --listen", self.address)
        })?;
        self.accepting = Some(tokio::spawn(accept(listener, Arc::clone(&self.shared))));
        Ok(())
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.shared.state.lock().script);
    }

    /// The worker by its latest registration, and its id.
    pub(super) fn worker(&self) -> Option<(Worker, String)> {
        self.shared.state.lock().place.as_ref().map(|place| (place.worker.clone(), place.worker_id.clone()))
    }

    /// Takes the worker out of the table, for another process to come.
    pub(super) fn forget(&self) {
        self.shared.state.lock().place = None;
    }

    /// Why the last registration could not be accepted, if so.
    pub(super) fn invalid(&self) -> Option<String> {
        self.shared.state.lock().invalid.clone()
    }

    /// How many calls there have been: a place in the log to look from.
    pub(super) fn so_far(&self) -> usize {
        self.shared.log.borrow().len()
    }

    pub(super) fn asked_since(&self, from: usize) -> Vec<Arc<Asked>> {
        self.shared.log.borrow().iter().skip(from).cloned().collect()
    }

    /// The first such call from that place in the log on, now or later.
    pub(super) async fn asked(
        &self,
        from: usize,
        patience: Duration,
        wanted: impl Fn(&Asked) -> bool,
    ) -> Option<Arc<Asked>> {
        let mut log = self.shared.log.subscribe();
        let finding = async {
            loop {
                let found = log.borrow_and_update().iter().skip(from).find(|asked| wanted(asked)).cloned();
                match found {
                    Some(found) => return Some(found),
                    None => log.changed().await.ok()?,
                }
            }
        };
        timeout(patience, finding).await.ok().flatten()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

fn bound(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // The connections end together with this task.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, Arc::clone(&shared)));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(shared.respond(request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    // However a connection ends, what was asked on it is in the log.
    connection.await.ok();
}

impl Shared {
    async fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = Limited::new(body, MAX_BODY).collect().await.map(http_body_util::Collected::to_bytes);
        let expected = format!("Bearer {}", self.token);
        let presented = head.headers.get(header::AUTHORIZATION).map(http::HeaderValue::as_bytes);
        let authorized = presented == Some(expected.as_bytes());
        let what = what(&head.method, head.uri.path());
        let is_json = head.headers.get(header::CONTENT_TYPE).is_some_and(|value| {
            value.to_str().is_ok_and(|value| {
                value.split(';').next().is_some_and(|name| name.trim() == "application/json")
            })
        });
        let response = match body {
            Err(_) => refuse(StatusCode::BAD_REQUEST, "the body did not arrive, or is too large"),
            Ok(_) if !authorized => refuse(StatusCode::UNAUTHORIZED, "the token is not accepted"),
            Ok(body) => match &what {
                What::Register => self.register(&body, is_json),
                What::Renew(worker_id) => self.renew(worker_id),
                What::Leave(worker_id) => self.leave(worker_id),
                What::FollowARedirect | What::Other(_) => {
                    refuse(StatusCode::NOT_FOUND, "the admin listener has nothing here")
                }
            },
        };
        let as_to_a_proxy = head.uri.authority().is_some();
        let asked = Asked { what, answered: response.status(), authorized, as_to_a_proxy };
        self.log.send_modify(|log| log.push(Arc::new(asked)));
        response
    }

    fn register(&self, body: &[u8], is_json: bool) -> Response<Full<Bytes>> {
        let mut state = self.state.lock();
        let (url, registration) = match self.check(body, is_json) {
            Ok(checked) => checked,
            Err(message) => {
                state.invalid = Some(message.clone());
                return refuse(StatusCode::UNPROCESSABLE_ENTITY, &message);
            }
        };
        state.invalid = None;
        if let Some(response) = self.scripted(state.script.register) {
            return response;
        }
        state.registrations += 1;
        let worker_id = format!("wk_{}", state.registrations);
        let secret: String = std::iter::repeat_with(fastrand::alphanumeric).take(32).collect();
        let worker = Worker::new(url, &secret, registration, Arc::clone(&self.notes));
        state.place = Some(Place { worker_id: worker_id.clone(), worker });
        let lease_ms = milliseconds(state.script.lease);
        answer(StatusCode::CREATED, &Registered { worker_id, secret, lease_ms, features: Vec::new() })
    }

    /// By the real gateway's rules, and two of this command's.
    fn check(&self, body: &[u8], is_json: bool) -> Result<(Url, Registration), String> {
        if !is_json {
            return Err("Content-Type is not application/json".to_owned());
        }
        let registration: Registration =
            serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(body))
                .map_err(|error| error.to_string())?;
        let claim = Claim::check(registration).map_err(|error| error.to_string())?;
        let registration = claim.registration;
        if registration.protocol != gearway_protocol::GEARWAY_V1 {
            return Err(format!("protocol: {:?}; only gearway-v1 is checked here", registration.protocol));
        }
        let url = Url::parse(&registration.url).map_err(|error| format!("url: {error}"))?;
        match &self.expected_url {
            Some(expected) if *expected != url => {
                Err(format!("url: this is {url}, and gearway conform waits for the worker at {expected}"))
            }
            Some(_) | None => Ok((url, registration)),
        }
    }

    fn renew(&self, worker_id: &str) -> Response<Full<Bytes>> {
        let state = self.state.lock();
        if let Some(response) = self.scripted(state.script.renew) {
            return response;
        }
        if state.place.as_ref().is_none_or(|place| place.worker_id != worker_id) {
            return refuse(StatusCode::NOT_FOUND, "no worker has this id; register again");
        }
        let draining = state.script.renew == Answering::Draining;
        answer(StatusCode::OK, &Lease { lease_ms: milliseconds(state.script.lease), draining })
    }

    fn leave(&self, worker_id: &str) -> Response<Full<Bytes>> {
        let mut state = self.state.lock();
        if state.place.as_ref().is_none_or(|place| place.worker_id != worker_id) {
            return refuse(StatusCode::NOT_FOUND, "no worker has this id");
        }
        state.place = None;
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::NO_CONTENT;
        response
    }

    fn scripted(&self, answering: Answering) -> Option<Response<Full<Bytes>>> {
        match answering {
            Answering::Well | Answering::Draining => None,
            Answering::Status(status) => Some(refuse(status, "gearway conform answers so on purpose")),
            Answering::Redirecting => {
                let mut response = refuse(StatusCode::TEMPORARY_REDIRECT, "elsewhere");
                let location = format!("{}{ELSEWHERE}", self.base);
                if let Ok(location) = header::HeaderValue::from_str(&location) {
                    response.headers_mut().insert(header::LOCATION, location);
                }
                Some(response)
            }
        }
    }
}

fn what(method: &Method, path: &str) -> What {
    let segments: Vec<_> = path.split('/').skip(1).collect();
    match (method.as_str(), segments.as_slice()) {
        ("POST", ["v1", "workers"]) => What::Register,
        ("PUT", ["v1", "workers", worker_id, "lease"]) => What::Renew((*worker_id).to_owned()),
        ("DELETE", ["v1", "workers", worker_id]) => What::Leave((*worker_id).to_owned()),
        _ if path == ELSEWHERE => What::FollowARedirect,
        _ => What::Other(format!("{method} {path}")),
    }
}

fn refuse(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    let name = status.canonical_reason().unwrap_or_default().replace(' ', "");
    answer(status, &json!({"error": {"name": name, "code": status.as_u16(), "message": message}}))
}

fn answer(status: StatusCode, body: &impl serde::Serialize) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(body).expect("these have string keys only, and are JSON");
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
