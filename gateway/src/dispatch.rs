//! One call to one replica that takes it, within the deadline, and never a second run of what may have run. Contract
//! section 5.

mod choice;
mod retry_budget;
mod run_on;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Response};
use smallvec::SmallVec;
use tokio_util::task::TaskTracker;
use tracing::warn;

use self::choice::choose;
pub use self::retry_budget::RetryBudget;
use self::run_on::RunOn;
use crate::admit::Admission;
use crate::body::{Body, LARGE};
use crate::config::Config;
use crate::envelope::{self, Call};
use crate::error::Error;
use crate::pieces::{Pieces, WORTH_A_PIECE};
use crate::registry::{Handler, Offer, Registry, Replica, Rotation, Slot};
use crate::respond::{self, Verdict};
use crate::telemetry::{Metrics, RetryReason};
use crate::trace::{CallEnd, CallSpan, Trace, Tracer};
use crate::upstream::{Answer, Connection, Exchange, Outgoing, Pool};

/// How often a call is sent at most, whatever the reasons: a bound on work, not a promise.
const MAX_TRIES: usize = 16;
/// How often an idempotent handler is called again after an unknown outcome.
const MAX_REPEATS: usize = 2;
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What dispatch needs beside the call; one for each relay thread, because of the pool.
#[derive(Debug, Clone)]
pub struct Dispatcher {
    pub registry: Registry,
    pub pool: Arc<Pool>,
    pub metrics: Arc<Metrics>,
    /// [`None`] unless somebody is told of spans.
    pub tracer: Option<Tracer>,
    /// Calls that were sent, so that a draining gateway waits for them.
    pub calls: TaskTracker,
}

/// Why a call has no response.
#[derive(Debug)]
pub enum Undelivered {
    /// No replica could take it now. It was not run, unless an attempt that may be repeated was `lost`.
    NoReplica {
        lost: Option<Error>,
    },
    /// Who may call, and whom, may have changed while the request was under way: it has to be looked at anew.
    Outdated,
    Failed(Error),
}

impl From<Error> for Undelivered {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// A call that is about to be written.
struct Sending {
    connection: Connection,
    outgoing: Outgoing,
    slot: Slot,
    span: Option<Box<CallSpan>>,
    started: Instant,
}

/// How one attempt ended.
enum Attempt {
    Exchanged(Exchange),
    TimedOut,
}

impl Dispatcher {
    /// Sends the call to one of the handler's replicas and reads its reply. Once a call has been written it runs to its end, even if the
    /// returned future is dropped; its admission is held until then.
    ///
    /// # Errors
    /// [`Undelivered::NoReplica`] when none is in rotation with room for it.
    pub async fn dispatch(
        &self,
        handler: &Handler,
        call: &Call<'_>,
        trace: &Trace,
        admission: &Arc<Admission>,
        config: &Config,
    ) -> Result<Response<Pieces>, Undelivered> {
        let mut declined: SmallVec<[Arc<str>; 2]> = SmallVec::new();
        let mut repeats = 0;
        let mut lost = None;
        let (mut sent, mut tries) = (0, 0);
        // Whether the next one repeats what a worker has already had to do with.
        let mut repeats_work = false;
        // Replicas that cannot be reached do not count: each is out of the choice at once, so they come to an end by themselves.
        while sent < MAX_TRIES {
            let now = Instant::now();
            if now >= call.deadline {
                return Err(lost.unwrap_or_else(|| not_run("no worker took the call in time")).into());
            }
            let Some((offer, slot)) = choose(handler, &declined) else {
                let declines = |offer: &Offer| {
                    offer.replica.rotation() == Rotation::In && declined.contains(&offer.replica.id)
                };
                return Err(match handler.offers.iter().any(declines) {
                    true => lost.unwrap_or_else(|| not_run("every worker declined the call")).into(),
                    // One that declined and left is followed by another.
                    false => Undelivered::NoReplica { lost },
                });
            };
            if repeats_work && !handler.group.retries.withdraw() {
                let reason = "too many calls to the workers of this route had to be sent again";
                return Err(lost.unwrap_or_else(|| not_run(reason)).into());
            }
            repeats_work = false;
            let replica = &offer.replica;
            let span = trace.begin_call(offer, tries);
            tries += 1;
            let traceparent = span.as_deref().map_or_else(|| trace.traceparent(), CallSpan::traceparent);
            let outgoing = write(self.pool.buffers.call(), call, offer, now, traceparent);
            // Before the replica is looked at once more, and its connection.
            let now = if admission.gather(call.body.len()).await { Instant::now() } else { now };
            let (connection, started) = match self.pool.checkout(replica, &config.workers, now).await {
                Ok(checked_out) => checked_out,
                Err(error) if error.is_ours() => {
                    let request_id = call.request_id;
                    warn!(worker = replica.name(), request_id, %error, "no connection for a call");
                    let reason = "the gateway has no room for a connection to the worker";
                    return Err(lost.unwrap_or_else(|| not_run(reason)).into());
                }
                Err(error) => {
                    end(span, CallEnd::Failed("connect"));
                    self.metrics.count_retry(RetryReason::NotSent);
                    self.eject(replica, &error.to_string());
                    self.pool.buffers.put_call(outgoing.into_buffer());
                    continue;
                }
            };
            // The worker may have left while the connection was made; it must see no call after that.
            if replica.rotation() != Rotation::In {
                self.pool.buffers.put_call(outgoing.into_buffer());
                continue;
            }
            if sent == 0 {
                handler.group.retries.deposit();
            }
            sent += 1;
            let outgoing = if started == now {
                outgoing
            } else {
                // Making the connection took of the time that the envelope says is left.
                self.pool.buffers.put_call(outgoing.into_buffer());
                write(self.pool.buffers.call(), call, offer, started, traceparent)
            };
            let sending = Sending { connection, outgoing, slot, span, started };
            match self.attempt(sending, call, admission, config).await {
                Attempt::Exchanged(Exchange::Answered(answer)) => {
                    match respond::judge(&answer, replica.dialect, config.limits.max_body) {
                        Verdict::Done(result) => {
                            if let Err(error @ Error::Nonsense { .. }) = &result {
                                log_failure(replica, call, error);
                            }
                            return Ok(result?);
                        }
                        Verdict::NotRun(reason) => {
                            self.metrics.count_retry(RetryReason::NotRun);
                            repeats_work = true;
                            self.decline(replica, &answer, reason, &mut declined);
                        }
                    }
                }
                Attempt::Exchanged(Exchange::NotWritten) => self.metrics.count_retry(RetryReason::NotSent),
                Attempt::Exchanged(Exchange::Lost(reason)) => {
                    let error = Error::OutcomeUnknown { reason };
                    log_failure(replica, call, &error);
                    if !offer.is_idempotent() || repeats == MAX_REPEATS {
                        return Err(error.into());
                    }
                    repeats += 1;
                    repeats_work = true;
                    lost = Some(error);
                    self.metrics.count_retry(RetryReason::Idempotent);
                }
                Attempt::Exchanged(Exchange::Nonsense(reason)) => {
                    let error = Error::Nonsense { reason: reason.into() };
                    log_failure(replica, call, &error);
                    return Err(error.into());
                }
                Attempt::Exchanged(Exchange::TooLarge) => {
                    let error = Error::Nonsense { reason: "the reply is larger than limits.max_body".into() };
                    log_failure(replica, call, &error);
                    return Err(error.into());
                }
                Attempt::TimedOut => {
                    log_failure(replica, call, &Error::WorkerTooSlow);
                    return Err(Error::WorkerTooSlow.into());
                }
            }
        }
        Err(lost.unwrap_or_else(|| not_run("no worker took the call")).into())
    }

    /// One exchange, which ends by itself, whoever still waits for it.
    async fn attempt(
        &self,
        sending: Sending,
        call: &Call<'_>,
        admission: &Arc<Admission>,
        config: &Config,
    ) -> Attempt {
        let this = self.clone();
        let admission = Arc::clone(admission);
        let deadline = call.deadline;
        // Base64 makes a body 4/3 as long, and JSON's escapes may double a text.
        let max_reply = config.limits.max_body.saturating_mul(2).saturating_add(64 * 1024);
        let Sending { mut connection, mut outgoing, slot, span, started } = sending;
        let exchange = async move {
            let replica = slot.replica();
            replica.count_call();
            let mut input = this.pool.buffers.reply();
            let exchange = connection.exchange_until(
                deadline,
                &mut outgoing,
                &mut input,
                max_reply,
                respond::opens_body,
            );
            let outcome = exchange.await;
            let ended = Instant::now();
            this.metrics.observe_call(&replica.group.name, ended - started);
            this.pool.buffers.put_call(outgoing.into_buffer());
            end(span, call_end(&outcome));
            match &outcome {
                Ok(Exchange::Answered(answer)) => {
                    if answer.status.is_success() {
                        this.registry.heard_from(replica);
                    }
                    this.pool.buffers.put_reply(input);
                    this.pool.checkin(replica, connection, ended);
                }
                Ok(Exchange::NotWritten) => {}
                Ok(Exchange::Lost(_)) => {
                    replica.end_epoch(connection.epoch());
                    replica.count_failure();
                }
                Ok(Exchange::TooLarge | Exchange::Nonsense(_)) | Err(_) => {
                    replica.count_failure();
                }
            }
            drop(admission);
            outcome
        };
        match RunOn::new(exchange, self.calls.clone()).await {
            Ok(exchange) => Attempt::Exchanged(exchange),
            Err(_) => Attempt::TimedOut,
        }
    }

    fn eject(&self, replica: &Arc<Replica>, reason: &str) {
        if self.registry.eject(replica, reason) {
            self.metrics.count_ejection(&replica.group.name);
        }
    }

    /// A worker that does not know the gateway's secret is another process at the same address, about to register: it is left
    /// alone until it does. One that is full is only passed over for this call.
    fn decline(
        &self,
        replica: &Arc<Replica>,
        answer: &Answer,
        reason: &'static str,
        declined: &mut SmallVec<[Arc<str>; 2]>,
    ) {
        if answer.status == http::StatusCode::UNAUTHORIZED {
            self.eject(replica, reason);
        } else {
            declined.push(Arc::clone(&replica.id));
        }
    }
}

fn end(span: Option<Box<CallSpan>>, end: CallEnd) {
    if let Some(span) = span {
        span.end(end);
    }
}

fn call_end<E>(outcome: &Result<Exchange, E>) -> CallEnd {
    match outcome {
        Ok(Exchange::Answered(answer)) => CallEnd::Replied(answer.status.as_u16()),
        Ok(Exchange::NotWritten) => CallEnd::Failed("not_written"),
        Ok(Exchange::Lost(_)) => CallEnd::Failed("connection_lost"),
        Ok(Exchange::TooLarge) => CallEnd::Failed("reply_too_large"),
        Ok(Exchange::Nonsense(_)) => CallEnd::Failed("nonsense"),
        Err(_) => CallEnd::Failed("timeout"),
    }
}

/// Writes the call for the replica that was chosen.
fn write(
    mut buffer: Vec<u8>,
    call: &Call<'_>,
    offer: &Offer,
    now: Instant,
    traceparent: &HeaderValue,
) -> Outgoing {
    let head = offer.replica.call_head();
    let room = head.room(Some(traceparent));
    buffer.resize(room, 0);
    let (mut length, mut rest, mut tail): (_, _, &[u8]) = (0, Body::Plain(Bytes::new()), &[]);
    if call.body.len() < WORTH_A_PIECE as u64 {
        envelope::encode(call, offer, now, &mut buffer);
    } else {
        envelope::encode_head(call, offer, now, &mut buffer);
        tail = envelope::TAIL;
        length = envelope::base64_len(call.body.len()) + tail.len() as u64;
        rest = match call.body {
            Body::Plain(bytes) if bytes.len() < LARGE => Body::text_of(bytes),
            other => other.clone(),
        };
    }
    length += (buffer.len() - room) as u64;
    let start = head.write(Some(traceparent), length, &mut buffer[..room]);
    Outgoing::new(buffer, start, rest, tail)
}

fn log_failure(replica: &Replica, call: &Call<'_>, error: &Error) {
    warn!(
        worker = replica.name(),
        worker_id = %replica.id,
        request_id = call.request_id,
        method = %call.method,
        path = call.path.as_str(),
        %error,
        "call failed"
    );
}

fn not_run(reason: &'static str) -> Error {
    Error::NotRun { reason: reason.into(), retry_after: RETRY_AFTER }
}
