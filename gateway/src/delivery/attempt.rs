//! One attempt to deliver: the call, what its end means, and the record of it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use gearway_protocol::{DeliverySpec, HandlerError};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};

use super::inbox::Arrival;
use super::log::{Log, LogError, Record};
use super::metrics::DeliveryMetrics;
use super::record::{Delivery, HeaderBlock, Id, millis, now_ms, rfc3339};
use super::rows::{AttemptRecord, Next, RouteId, Settlement};
use super::schedule;
use super::waiting::Waiting;
use super::{Answer, Caller, Reply};
use crate::admit::Admission;
use crate::auth::Permit;
use crate::body::Body;
use crate::config::Config;
use crate::dispatch::{Dispatcher, Undelivered};
use crate::envelope::Call;
use crate::error::Error;
use crate::path::{self, CanonicalPath, Target};
use crate::pieces::Pieces;
use crate::registry::HandlerTimeout;
use crate::route::Found;
use crate::store::StoreError;
use crate::telemetry::ATTEMPTS;
use crate::trace::Trace;

/// How much of an answer is kept for people to look at.
const ANSWER_SHOWN: usize = 16 << 10;
/// When a worker that took no call, or a disk that took no record, is worth another try.
const SOON: Duration = Duration::from_secs(1);

/// What attempts share.
#[derive(Debug)]
pub(super) struct Courier {
    pub(super) dispatcher: Dispatcher,
    pub(super) config: Arc<ArcSwap<Config>>,
    pub(super) log: Log,
    pub(super) waiting: Arc<Waiting>,
    pub(super) metrics: Arc<DeliveryMetrics>,
}

/// A delivery whose turn has come.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: Id,
    pub(super) route: RouteId,
    /// Whose workers it counts against.
    pub(super) group: Arc<str>,
    /// How often it was attempted before.
    pub(super) attempts: u32,
    pub(super) delivery: Arc<Delivery>,
    pub(super) admission: Arc<Admission>,
    pub(super) caller: Option<Caller>,
}

/// What the engine hears of a job.
#[derive(Debug)]
pub(super) enum Event {
    /// The worker is free of it.
    Free { route: RouteId, group: Arc<str> },
    /// It is recorded, and nothing of it is left but, perhaps, that it is due again.
    Recorded { route: RouteId, id: Id, due_at: Option<i64> },
    /// No handler ran: nothing was recorded, and it is due still.
    NotRun { arrival: Arrival, pause: Duration },
}

/// How a call ended.
enum Outcome {
    Answered(Answer),
    /// It may have run.
    Failed(&'static str),
    NotRun(Duration),
}

impl Courier {
    /// The group of workers that a request for this path belongs to, and whether one of them could take it now; [`None`] when
    /// nobody knows the route.
    pub(super) fn look_up<T>(
        &self,
        raw_path: &str,
        method: &http::Method,
        read: impl FnOnce(&crate::registry::Handler) -> T,
    ) -> Option<T> {
        let table = self.dispatcher.registry.table();
        let path = canonical(raw_path)?;
        match table.routes.find(&path) {
            Found::Match { value, .. } => value.handler(method).map(read),
            Found::RedirectToSubtree | Found::Nothing => None,
        }
    }

    pub(super) async fn run(self: Arc<Self>, job: Job, events: mpsc::Sender<Event>) {
        let Job { id, route, group, attempts, delivery, admission, caller } = job;
        let config = self.config.load_full();
        let number = attempts + 1;
        let (started_at, started) = (now_ms(), Instant::now());
        let most = self
            .look_up(&delivery.raw_path, &delivery.route.method, |handler| {
                handler.delivery.as_ref().map(|policy| policy.attempts)
            })
            .flatten()
            .unwrap_or_else(|| DeliverySpec::default().attempts);
        let outcome = self.call(id, number, &delivery, &admission, &config).await;
        drop(admission);
        drop(events.send(Event::Free { route, group }).await);
        if let Outcome::NotRun(pause) = outcome {
            let arrival = Arrival { id, route, attempts, delivery, admission: None, caller, share: None };
            drop(events.send(Event::NotRun { arrival, pause }).await);
            return;
        }

        let (recorded, is_recorded) = oneshot::channel();
        let answer = match &outcome {
            Outcome::Answered(answer) => Some(answer),
            Outcome::Failed(_) | Outcome::NotRun(_) => None,
        };
        // From here on either the caller gets this answer, or it has been told, or is about to be, that the delivery goes on.
        let (reached, caller) = match (caller, answer) {
            (Some(caller), Some(answer)) => {
                (caller.send(Reply { answer: answer.clone(), recorded: is_recorded }).is_ok(), None)
            }
            (caller, _) => (false, caller),
        };
        let (next, forget) = decide(&outcome, number, most, reached);
        let whole_answer = delivery.dedup.is_some() && next == Next::Delivered;
        let attempt = AttemptRecord {
            number,
            started_at,
            took_ms: millis(started.elapsed()),
            ..describe(&outcome, &delivery.request_id, whole_answer)
        };
        log(id, &delivery, &attempt, next);
        self.metrics.count_attempt(attempt.outcome);
        let settlement = Settlement { id, attempt, next, forget };
        self.record(settlement).await;
        drop(recorded);
        if next == Next::Delivered
            && let Some(answer) = answer
        {
            self.waiting.tell(id, answer);
        }
        let due_at = match next {
            Next::Due(at) => Some(at),
            Next::Delivered | Next::Dead => None,
        };
        if let Some(caller) = caller.filter(|_| due_at.is_some()) {
            self.waiting.keep(id, caller);
        }
        drop(events.send(Event::Recorded { route, id, due_at }).await);
    }

    async fn call(
        &self,
        id: Id,
        number: u32,
        delivery: &Delivery,
        admission: &Arc<Admission>,
        config: &Config,
    ) -> Outcome {
        let table = self.dispatcher.registry.table();
        // Accepted paths are canonical, so this fails for what somebody else wrote into the file.
        let Some(path) = canonical(&delivery.raw_path) else { return Outcome::NotRun(SOON) };
        let Found::Match { value, captures } = table.routes.find(&path) else { return Outcome::NotRun(SOON) };
        let Some(handler) = value.handler(&delivery.route.method) else { return Outcome::NotRun(SOON) };
        let permit = Permit::kept(delivery.user_id.clone(), delivery.access_key);
        let context = context(id, number, delivery);
        let headers = delivery.headers.to_map();
        let timeout = config
            .limits
            .request_timeout
            .min(handler.timeout.map_or(Duration::MAX, HandlerTimeout::as_duration));
        let call = Call {
            method: &delivery.route.method,
            path: &path,
            raw_path: &delivery.raw_path,
            query: &delivery.query,
            headers: &headers,
            host: &delivery.host,
            body: &Body::Plain(delivery.body.clone()),
            remote_addr: delivery.remote_addr,
            // What did not count was left out when it was kept.
            peer_is_trusted: true,
            request_id: &delivery.request_id,
            permit: &permit,
            captures: &captures,
            deadline: Instant::now() + timeout,
            delivery: Some(&context),
        };
        let trace = Trace::resumed(&delivery.traceparent, self.dispatcher.tracer.as_ref());
        match self.dispatcher.dispatch(handler, &call, &trace, admission, config).await {
            Ok(response) => Outcome::Answered(Ok(response.map(Pieces::into_bytes))),
            Err(Undelivered::NoReplica { lost: None } | Undelivered::Outdated) => {
                Outcome::NotRun(Duration::ZERO)
            }
            Err(Undelivered::NoReplica { lost: Some(error) } | Undelivered::Failed(error)) => match error {
                Error::Handler(error) => Outcome::Answered(Err(error)),
                Error::OutcomeUnknown { .. } => Outcome::Failed("worker_lost"),
                Error::WorkerTooSlow => Outcome::Failed("too_slow"),
                Error::Nonsense { .. } => Outcome::Failed("nonsense"),
                Error::NotRun { retry_after, .. } => Outcome::NotRun(retry_after),
                // None of them comes from dispatch.
                Error::BadRequest(_)
                | Error::BodyTooLarge { .. }
                | Error::BodyTooSlow
                | Error::HeaderTooLarge
                | Error::RateLimited { .. }
                | Error::NotAuthenticated(_)
                | Error::AccessKeyNotAccepted
                | Error::AccessTokenNotAccepted
                | Error::MethodNotRegistered { .. }
                | Error::InvalidSignature(_)
                | Error::RouteNotFound => Outcome::Failed("not_delivered"),
            },
        }
    }

    /// Until it is on disk: a delivery whose end is not recorded is delivered again.
    async fn record(&self, settlement: Settlement) {
        let settlement = Arc::new(settlement);
        loop {
            match self.log.record(Record::Settle(Arc::clone(&settlement))).await {
                Ok(_) => return,
                Err(LogError::Store(
                    StoreError::ShutDown | StoreError::Disk { .. } | StoreError::Damaged { .. },
                )) => return,
                Err(error) => {
                    warn!(delivery = %settlement.id, %error, "a delivery's end could not be recorded yet");
                    tokio::time::sleep(SOON).await;
                }
            }
        }
    }
}

fn canonical(raw_path: &str) -> Option<CanonicalPath<'_>> {
    match path::canonicalise(raw_path) {
        Ok(Target::Path(path)) => Some(path),
        Ok(Target::Redirect(_)) | Err(_) => None,
    }
}

/// Contract section 10: an answer that reached the caller settles the delivery whatever its status, and so does a good one.
fn decide(outcome: &Outcome, number: u32, most: u32, reached: bool) -> (Next, bool) {
    let (status, wish) = match outcome {
        Outcome::Answered(Ok(response)) => {
            (Some(response.status()), schedule::wish(response.headers(), SystemTime::now()))
        }
        Outcome::Answered(Err(error)) => (Some(status_of(error)), None),
        Outcome::Failed(_) | Outcome::NotRun(_) => (None, None),
    };
    let is_good = matches!(outcome, Outcome::Answered(Ok(response)) if response.status().as_u16() < 400);
    if reached || is_good {
        return (Next::Delivered, !is_good);
    }
    if status == Some(StatusCode::GONE) || number >= most {
        return (Next::Dead, false);
    }
    let pause = wish.unwrap_or_else(|| schedule::pause_after(number));
    (Next::Due(now_ms().saturating_add(millis(pause))), false)
}

fn status_of(error: &HandlerError) -> StatusCode {
    StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn describe(outcome: &Outcome, request_id: &str, whole: bool) -> AttemptRecord {
    let (outcome, status, header, mut body) = match outcome {
        Outcome::Answered(Ok(response)) => {
            let word = if response.status().as_u16() < 400 { "delivered" } else { "refused" };
            let header = HeaderBlock::of(response.headers(), |_| true);
            (word, Some(response.status()), header, response.body().clone())
        }
        Outcome::Answered(Err(error)) => {
            let body = Error::Handler(error.clone()).to_json(request_id);
            let json = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
            ("refused", Some(status_of(error)), HeaderBlock::of(&json, |_| true), body.into())
        }
        Outcome::Failed(word) => (*word, None, HeaderBlock::default(), Bytes::new()),
        Outcome::NotRun(_) => ("not_run", None, HeaderBlock::default(), Bytes::new()),
    };
    if !whole {
        body.truncate(ANSWER_SHOWN);
    }
    AttemptRecord {
        number: 0,
        started_at: 0,
        took_ms: 0,
        outcome,
        status: status.map(|status| status.as_u16()),
        header,
        body,
    }
}

/// `context.delivery` of the envelope.
fn context(id: Id, attempt: u32, delivery: &Delivery) -> String {
    let context = gearway_protocol::Delivery {
        id: id.to_string(),
        attempt,
        received_at: rfc3339(delivery.received_at),
        replay_of: delivery.replay_of.map(|id| id.to_string()),
        verification: delivery.verification.clone(),
    };
    // A structure of strings and numbers.
    serde_json::to_string(&context).unwrap_or_else(|_| "null".to_owned())
}

fn log(id: Id, delivery: &Delivery, attempt: &AttemptRecord, next: Next) {
    let (path, method) = (&*delivery.route.path, delivery.route.method.as_str());
    let AttemptRecord { number, outcome, status, took_ms, .. } = attempt;
    let request_id = &*delivery.request_id;
    match next {
        Next::Delivered => {
            debug!(target: ATTEMPTS, delivery = %id, request_id, route = path, method, attempt = number, outcome, status, took_ms, "delivered");
        }
        Next::Due(at) => {
            let due_at = rfc3339(at);
            info!(target: ATTEMPTS, delivery = %id, request_id, route = path, method, attempt = number, outcome, status, took_ms, due_at, "delivery failed, and is tried again");
        }
        Next::Dead => {
            warn!(target: ATTEMPTS, delivery = %id, request_id, route = path, method, attempt = number, outcome, status, took_ms, "delivery failed for good: a dead letter");
        }
    }
}
