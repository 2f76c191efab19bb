//! The spine: a request's way through the gateway, from its head to its response.

mod client;
mod forwarded;
mod trail;

pub(crate) use client::is_trusted;
use trail::Trail;

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use http::header::{CONNECTION, LOCATION, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use tokio_rustls::rustls::ServerConfig;
use tracing::warn;

use crate::access_log;
use crate::admit::{self, Admission, InFlight};
use crate::auth::{Authenticator, Permit};
use crate::body::{self, Body, Incoming, Unread, Wanted};
use crate::config::{Config, Unmatched};
use crate::delivery::{Deliveries, Delivery, HeaderBlock, Policy, RouteName, now_ms};
use crate::dispatch::{Dispatcher, Undelivered};
use crate::drain::Drain;
use crate::envelope::{self, Call};
use crate::error::Error;
use crate::http1::Activity;
use crate::path::{self, CanonicalPath, Target};
use crate::pieces::Pieces;
use crate::rate::RateLimits;
use crate::registry::{Handler, HandlerTimeout, NoParking, Registry};
use crate::route::Found;
use crate::telemetry::{AuthFailure, Eviction, Metrics};
use crate::trace::{Trace, Tracer};
use crate::webhook::{self, Outcome, Refused, Verification, WebhookRequest};

const REQUEST_ID: http::HeaderName = http::HeaderName::from_static("x-request-id");
/// A tenth of `limits.max_in_flight` may wait for the workers of one name. Contract section 6.
const PARKED_SHARE: usize = 10;
/// A worker that comes back registers within seconds.
const RETRY_AFTER_PARKING: Duration = Duration::from_secs(2);
/// Whoever took a secret out of the configuration needs a while to put it back.
const RETRY_AFTER_RELOAD: Duration = Duration::from_mins(1);

/// What every relay thread shares.
#[derive(Debug)]
pub struct Shared {
    pub registry: Registry,
    pub auth: ArcSwap<Authenticator>,
    pub config: Arc<ArcSwap<Config>>,
    pub rate_limits: ArcSwap<RateLimits>,
    /// What clients are shown who connect from now on; [`None`] for clear text.
    pub tls: ArcSwapOption<ServerConfig>,
    pub in_flight: Arc<InFlight>,
    pub deliveries: Deliveries,
    pub metrics: Arc<Metrics>,
    /// [`None`] unless somebody is told of spans.
    pub tracer: Option<Tracer>,
}

/// One relay thread's way to answer requests.
#[derive(Debug)]
pub struct Relay {
    pub shared: Arc<Shared>,
    pub dispatcher: Dispatcher,
    pub drain: Drain,
}

/// What the clients of a connection are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reception {
    /// What they ask for.
    Served,
    /// To come again: all of `limits.max_connections` are being worked for.
    Full,
    /// To come again: their address has `limits.max_connections_per_address`.
    TooManyOfAddress,
}

/// A request without its body.
struct Inbound {
    head: Parts,
    peer: SocketAddr,
    peer_is_trusted: bool,
    request_id: String,
    arrived: Instant,
}

/// What the head asks for, read once.
struct Asked<'h> {
    host: &'h str,
    raw_path: &'h str,
    path: CanonicalPath<'h>,
    /// Without credentials.
    query: Cow<'h, str>,
    remote_addr: IpAddr,
    trace: Trace,
}

/// What a request has taken and left behind on its way, over all attempts.
struct Progress<'r> {
    body: Received,
    /// Whether the API key's rate limit has counted it.
    counted: bool,
    /// How long it may still wait for a worker.
    patience: Duration,
    trail: Trail<'r>,
}

enum Received {
    Waiting(Incoming),
    Whole(Body, Arc<Admission>),
    /// Given up: reading it failed, and so did the request.
    Failed,
}

impl Reception {
    fn refuse(self) -> Result<(), Error> {
        match self {
            Self::Served => Ok(()),
            Self::Full => {
                let reason = "the gateway is at limits.max_connections".into();
                Err(Error::NotRun { reason, retry_after: admit::RETRY_AFTER })
            }
            Self::TooManyOfAddress => {
                let of = "connections of this address";
                Err(Error::RateLimited { of, retry_after: admit::RETRY_AFTER })
            }
        }
    }
}

impl Relay {
    /// Answers a request, whatever it is. What surrounds every response is here; what decides it is in `relay()`.
    pub async fn handle(
        &self,
        peer: SocketAddr,
        reception: Reception,
        request: Request<Incoming>,
    ) -> Response<Pieces> {
        let config = self.shared.config.load_full();
        let (mut head, body) = request.into_parts();
        client::drop_connection_headers(&mut head.headers);
        let settled = client::settle_http2(&mut head);
        let peer_is_trusted = client::is_trusted(peer.ip(), &config.public.trusted_proxies);
        let request_id = client::request_id(&head.headers, peer_is_trusted);
        let inbound = Inbound { head, peer, peer_is_trusted, request_id, arrived: Instant::now() };
        let mut progress = Progress {
            body: Received::Waiting(body),
            counted: false,
            patience: config.workers.park,
            trail: Trail::begin(&inbound, &self.shared, &config.log),
        };
        let result = match settled.and_then(|()| reception.refuse()) {
            Ok(()) => self.relay(&inbound, &mut progress, &config).await,
            Err(error) => Err(error),
        };
        let mut response = match result {
            Ok(response) => response,
            Err(error) => {
                if let Some(reason) = auth_failure(&error) {
                    self.shared.metrics.count_auth_failure(reason);
                }
                progress.trail.fail(&error);
                error_response(&error, &inbound.request_id).map(Pieces::from)
            }
        };
        if client::ends_connection(&inbound.head) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Ok(value) = HeaderValue::from_str(&inbound.request_id) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        config.public.cors.mark(&inbound.head.headers, response.headers_mut());
        progress.trail.status = Some(response.status());
        response
    }

    /// Attempts until one has an answer; between two of them the request is parked.
    async fn relay(
        &self,
        inbound: &Inbound,
        progress: &mut Progress<'_>,
        config: &Config,
    ) -> Result<Response<Pieces>, Error> {
        let trace =
            Trace::of_request(&inbound.head.headers, &inbound.request_id, self.dispatcher.tracer.as_ref());
        progress.trail.trace = Some(trace.clone());
        let auth = self.shared.auth.load_full();
        let host = client::host(&inbound.head)?;
        let remote_addr =
            client::address(inbound.peer.ip(), &inbound.head.headers, &config.public.trusted_proxies)?;
        self.shared.rate_limits.load().check_address(remote_addr)?;
        let query = auth.visible_query(inbound.head.uri.query().unwrap_or_default());
        let raw_path = inbound.head.uri.path();
        let path = match path::canonicalise(raw_path)? {
            Target::Path(path) => path,
            Target::Redirect(path) => {
                return Ok(redirect(&inbound.head.method, path, &query).map(Pieces::from));
            }
        };
        progress.trail.remote_addr = remote_addr;
        let asked = Asked { host, raw_path, path, query, remote_addr, trace };
        // How an attempt that may have run was lost: from then on no error may say that it did not run.
        let mut lost = None;
        loop {
            let failure = match self.attempt(inbound, &asked, progress, &auth, config).await {
                Ok(response) => return Ok(response),
                Err(Undelivered::NoReplica { lost: now }) => {
                    lost = now.or(lost);
                    Box::pin(self.park(inbound, &asked, progress, config)).await.err()
                }
                Err(Undelivered::Outdated) => None,
                Err(Undelivered::Failed(error)) => Some(error),
            };
            match (failure, lost.take()) {
                (Some(Error::NotRun { .. }), Some(lost)) => return Err(lost),
                (Some(error), _) => return Err(error),
                (None, still) => lost = still,
            }
        }
    }

    /// Route, authenticate, admit, read, dispatch.
    async fn attempt(
        &self,
        inbound: &Inbound,
        asked: &Asked<'_>,
        progress: &mut Progress<'_>,
        auth: &Authenticator,
        config: &Config,
    ) -> Result<Response<Pieces>, Undelivered> {
        let Parts { method, headers, uri, .. } = &inbound.head;
        let table = self.shared.registry.table();
        let (endpoint, captures) = match table.routes.find(&asked.path) {
            Found::Match { value, captures } => (value, captures),
            Found::RedirectToSubtree => {
                let path = format!("{}/", asked.path.encoded());
                return Ok(redirect(method, path, &asked.query).map(Pieces::from));
            }
            Found::Nothing => return Ok(self.unmatched(method, config)?.map(Pieces::from)),
        };
        progress.trail.route = Some(Arc::clone(&endpoint.path));
        if *method == Method::OPTIONS && endpoint.handler(method).is_none() {
            let methods = endpoint.handlers().map(|handler| handler.method);
            if let Some(response) = config.public.cors.preflight(headers, methods) {
                return Ok(response.map(Pieces::from));
            }
        }
        let handler = endpoint
            .handler(method)
            .ok_or_else(|| Error::MethodNotRegistered { method: method.to_string() })?;
        progress.trail.worker = Some(Arc::clone(&handler.group));
        let permit = auth.authenticate(headers, uri.query(), handler.policy).await?;
        progress.trail.user = permit.user();
        if !progress.counted {
            self.shared.rate_limits.load().check_key(&permit)?;
            progress.counted = true;
        }
        // What is kept first needs no worker yet.
        if handler.delivery.is_none() && !handler.is_available() {
            return Err(Undelivered::NoReplica { lost: None });
        }
        let passed_on = handler.verify.is_empty() && handler.delivery.is_none();
        let wanted = if passed_on { Wanted::ToPassOn } else { Wanted::Bytes };
        let (body, admission) = self.receive(&mut progress.body, wanted, &inbound.head, config).await?;
        if !Arc::ptr_eq(&table, &self.shared.registry.table()) {
            return Err(Undelivered::Outdated);
        }
        let verification = match verify(handler, inbound, body.clone(), config)? {
            Some(Outcome::Handshake(answer)) => return Ok(answer.map(Pieces::from)),
            Some(Outcome::Verified(verification)) => Some(verification),
            None => None,
        };
        if let Some(policy) = &handler.delivery {
            let route = RouteName { path: Arc::clone(&endpoint.path), method: method.clone() };
            let delivery = asked.delivery(inbound, route, policy, &permit, verification, body.into_bytes());
            let accepted = self.shared.deliveries.accept(policy, delivery, admission, inbound.arrived);
            return Ok(Box::pin(accepted).await?.map(Pieces::from));
        }
        let call = Call {
            method,
            path: &asked.path,
            raw_path: asked.raw_path,
            query: &asked.query,
            headers,
            host: asked.host,
            body: &body,
            remote_addr: asked.remote_addr,
            peer_is_trusted: inbound.peer_is_trusted,
            request_id: &inbound.request_id,
            permit: &permit,
            captures: &captures,
            deadline: inbound.deadline(handler, config),
            delivery: None,
        };
        let handed_over = access_log::is_read(config.log.access).then(Instant::now);
        let answered = self.dispatcher.dispatch(handler, &call, &asked.trace, &admission, config).await;
        if let Some(handed_over) = handed_over {
            *progress.trail.worker_time.get_or_insert_default() += handed_over.elapsed();
        }
        answered
    }

    /// Contract section 3 for what nobody registered, and section 6 for what somebody may be about to.
    fn unmatched(&self, method: &Method, config: &Config) -> Result<Response<Bytes>, Error> {
        let writes = matches!(*method, Method::POST | Method::PUT | Method::PATCH | Method::DELETE);
        if writes && self.shared.registry.may_lack_routes() {
            let reason = "the gateway has just started and does not know every route yet".into();
            return Err(Error::NotRun { reason, retry_after: config.workers.lease });
        }
        match config.public.unmatched {
            Unmatched::Ok => Ok(json(StatusCode::OK, Bytes::from_static(br#"{"result":{"status":"OK"}}"#))),
            Unmatched::NotFound => Err(Error::RouteNotFound),
        }
    }

    /// Lets the request in and reads its body, once.
    async fn receive(
        &self,
        body: &mut Received,
        wanted: Wanted,
        head: &Parts,
        config: &Config,
    ) -> Result<(Body, Arc<Admission>), Error> {
        match std::mem::replace(body, Received::Failed) {
            Received::Waiting(incoming) => {
                let admission = self.shared.in_flight.enter(&config.limits)?;
                // Those of HTTP/1 see for themselves whose turn it is.
                let connection = head.extensions.get::<Activity>();
                let read = body::read(incoming, &config.limits, wanted, &admission, connection).await;
                if matches!(read, Err(Unread::GivenUp)) {
                    self.shared.metrics.count_evictions(Eviction::SlowBody, 1);
                }
                let whole = read?;
                *body = Received::Whole(whole, Arc::new(admission));
            }
            read => *body = read,
        }
        match body {
            Received::Whole(whole, admission) => Ok((whole.clone(), Arc::clone(admission))),
            Received::Waiting(_) | Received::Failed => Err(Error::bad_request("the body could not be read")),
        }
    }

    /// Waits until another attempt makes sense: a replica is in rotation with room, or the route is another. Contract
    /// section 6.
    async fn park(
        &self,
        inbound: &Inbound,
        asked: &Asked<'_>,
        progress: &mut Progress<'_>,
        config: &Config,
    ) -> Result<(), Error> {
        let method = &inbound.head.method;
        let table = self.shared.registry.table();
        let Found::Match { value, .. } = table.routes.find(&asked.path) else { return Ok(()) };
        let Some(handler) = value.handler(method) else { return Ok(()) };
        let ready = || match self.shared.registry.table().routes.find(&asked.path) {
            Found::Match { value, .. } => value.handler(method).is_none_or(Handler::is_available),
            Found::RedirectToSubtree | Found::Nothing => true,
        };
        let started = Instant::now();
        let left = inbound.deadline(handler, config).saturating_duration_since(started);
        let at_most = (config.limits.max_in_flight / PARKED_SHARE).max(1);
        let parked = handler
            .group
            .park(handler.lost_at.as_deref().copied(), at_most, progress.patience.min(left), ready)
            .await;
        progress.patience = progress.patience.saturating_sub(started.elapsed());
        parked.map_err(|refused| {
            let reason = match refused {
                NoParking::LongGone => "no worker serves this route now",
                NoParking::Full => "too many requests wait for this route's worker",
                NoParking::NobodyCame if handler.is_busy() => "every worker of this route is busy",
                NoParking::NobodyCame => "no worker of this route came back in time",
            };
            Error::NotRun { reason: reason.into(), retry_after: RETRY_AFTER_PARKING }
        })
    }
}

impl Inbound {
    /// One deadline for everything, from the request's arrival.
    fn deadline(&self, handler: &Handler, config: &Config) -> Instant {
        self.arrived
            + config
                .limits
                .request_timeout
                .min(handler.timeout.map_or(Duration::MAX, HandlerTimeout::as_duration))
    }
}

impl Asked<'_> {
    /// What is kept of the request: nothing that no worker may see.
    fn delivery(
        &self,
        inbound: &Inbound,
        route: RouteName,
        policy: &Policy,
        permit: &Permit,
        verification: Option<Verification>,
        body: Bytes,
    ) -> Delivery {
        let event_id = verification.as_ref().and_then(|verification| verification.event_id.as_deref());
        let dedup = policy.dedup_key(&route, &inbound.head.headers, event_id);
        let keep = |name: &HeaderName| envelope::reaches_worker(name, permit, inbound.peer_is_trusted);
        Delivery {
            route,
            received_at: now_ms(),
            request_id: inbound.request_id.clone(),
            traceparent: self.trace.traceparent().to_str().unwrap_or_default().to_owned(),
            host: self.host.to_owned(),
            raw_path: self.raw_path.to_owned(),
            query: self.query.clone().into_owned(),
            headers: HeaderBlock::of(&inbound.head.headers, keep),
            body,
            remote_addr: self.remote_addr,
            user_id: permit.user_id().map(str::to_owned),
            access_key: permit.access_key_type(),
            verification: verification.map(|verification| verification.to_protocol()),
            dedup,
            replay_of: None,
        }
    }
}

/// Checks a webhook's signature, on the bytes as they came. Contract section 10.
fn verify(
    handler: &Handler,
    inbound: &Inbound,
    body: Body,
    config: &Config,
) -> Result<Option<Outcome>, Error> {
    if handler.verify.is_empty() {
        return Ok(None);
    }
    let body = &body.into_bytes();
    let Parts { method, headers, uri, .. } = &inbound.head;
    let request = WebhookRequest { method, headers, raw_path: uri.path(), raw_query: uri.query(), body };
    webhook::check(&handler.verify, &request, config, SystemTime::now()).map_err(|refused| match refused {
        Refused::Rejected(rejected) => Error::InvalidSignature(rejected),
        Refused::Unusable(error) => {
            warn!(worker = &*handler.group.name, request_id = inbound.request_id, %error, "webhook refused");
            let reason = "the gateway is not set up to check this webhook's signature".into();
            Error::NotRun { reason, retry_after: RETRY_AFTER_RELOAD }
        }
    })
}

fn auth_failure(error: &Error) -> Option<AuthFailure> {
    match error {
        Error::NotAuthenticated(_) => Some(AuthFailure::Missing),
        Error::AccessKeyNotAccepted => Some(AuthFailure::ApiKey),
        Error::AccessTokenNotAccepted => Some(AuthFailure::AccessToken),
        Error::InvalidSignature(_) => Some(AuthFailure::Signature),
        Error::BadRequest(_)
        | Error::BodyTooLarge { .. }
        | Error::BodyTooSlow
        | Error::HeaderTooLarge
        | Error::RateLimited { .. }
        | Error::MethodNotRegistered { .. }
        | Error::RouteNotFound
        | Error::NotRun { .. }
        | Error::OutcomeUnknown { .. }
        | Error::WorkerTooSlow
        | Error::Nonsense { .. }
        | Error::Handler(_) => None,
    }
}

fn redirect(method: &Method, path: String, query: &str) -> Response<Bytes> {
    let status = match *method {
        Method::GET | Method::HEAD => StatusCode::MOVED_PERMANENTLY,
        _ => StatusCode::PERMANENT_REDIRECT,
    };
    let location = if query.is_empty() { path } else { format!("{path}?{query}") };
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

fn error_response(error: &Error, request_id: &str) -> Response<Bytes> {
    let mut response = json(error.status(), error.to_json(request_id).into());
    if let Some(after) = error.retry_after() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
    }
    response
}

fn json(status: StatusCode, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
