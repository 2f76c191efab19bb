//! Webhooks that are kept before they are acknowledged, and delivered until their handler has taken them. Contract section 10.
//!
//! A request comes here authenticated and verified. [`Deliveries::accept`] has the log keep it, and only then answers; the engine
//! calls the handler through the same dispatch as everything else, and records what came of it.

mod attempt;
mod engine;
mod inbox;
mod log;
mod metrics;
mod operator;
mod policy;
mod record;
mod rows;
mod schedule;
mod schema;
mod upkeep;
mod waiting;

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context;
use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use gearway_protocol::HandlerError;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Response};
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

pub use self::log::LogError;
pub use self::operator::{Attempt, AttemptAnswer, Detail, Filter, Replayed, Summary};
pub use self::policy::{Dedup, InvalidDelivery, Mode, Policy};
pub use self::record::{DedupKey, Delivery, HeaderBlock, Id, RouteName, now_ms, rfc3339};
pub use self::rows::State;

use self::attempt::Courier;
use self::engine::{Command, Engine};
use self::inbox::Inbox;
use self::log::{Log, Record};
use self::metrics::DeliveryMetrics;
use self::rows::Appended;
use self::waiting::Waiting;
use crate::admit::{Admission, InFlight};
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::dispatch::Dispatcher;
use crate::drain::Drain;
use crate::error::Error;
use crate::handover::{Duty, Paused};
use crate::store::StoreError;
use crate::store::sqlite::SqliteFile;

/// On every response to a request that was kept.
const DELIVERY: HeaderName = HeaderName::from_static("x-gearway-delivery");
/// When a disk without room is worth another try.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// A worker's answer waits so long for its record, and then goes out without: the worker has run, and that is what it says.
const RECORD_PATIENCE: Duration = Duration::from_secs(5);

/// The worker's answer: a response, or an error of its handler.
type Answer = Result<Response<Bytes>, HandlerError>;

/// Where the request waits that a delivery came from.
type Caller = oneshot::Sender<Reply>;

/// The worker's answer for the caller. Whoever gets it passes it on, so that it has reached the caller.
#[derive(Debug)]
struct Reply {
    answer: Answer,
    /// Ends when it is on disk that the delivery is settled.
    recorded: oneshot::Receiver<()>,
}

/// What relay threads, the admin listener and the engine share; clones share it.
#[derive(Debug, Clone)]
pub struct Deliveries {
    log: Log,
    inbox: Arc<Inbox>,
    waiting: Arc<Waiting>,
    commands: mpsc::Sender<Command>,
    config: Arc<ArcSwap<Config>>,
    /// For operators and upkeep, who look through many rows. The engine has its own.
    reader: Arc<Mutex<Connection>>,
    /// For senders, who are not to wait for those.
    reader_of_answers: Arc<Mutex<Connection>>,
    metrics: Arc<DeliveryMetrics>,
}

/// What the engine's thread begins with.
#[derive(Debug)]
pub struct EngineParts {
    commands: mpsc::Receiver<Command>,
    reader: Connection,
}

impl Deliveries {
    /// Opens `deliveries.db` in `dir`, making or upgrading it as needed.
    ///
    /// # Errors
    /// When it is damaged, was written by a newer gateway, or cannot be opened.
    pub fn open(dir: &DataDir, config: Arc<ArcSwap<Config>>) -> Result<(Self, EngineParts), StoreError> {
        let inbox = Arc::<Inbox>::default();
        let metrics = Arc::new(DeliveryMetrics::new());
        let log = Log::open(dir, Arc::clone(&config), Arc::clone(&inbox), Arc::clone(&metrics))?;
        let reader = SqliteFile::open_reader(dir, &schema::SCHEMA)?;
        let open_shared =
            || SqliteFile::open_reader(dir, &schema::SCHEMA).map(|reader| Arc::new(Mutex::new(reader)));
        let (commands, obeyed) = mpsc::channel(8);
        let deliveries = Self {
            log,
            inbox,
            waiting: Arc::default(),
            commands,
            config,
            reader: open_shared()?,
            reader_of_answers: open_shared()?,
            metrics,
        };
        Ok((deliveries, EngineParts { commands: obeyed, reader }))
    }

    /// Runs deliveries on a thread of its own, until `drain` begins and then as long as `public.drain_timeout` for what is under way.
    ///
    /// # Errors
    /// When there are no more threads.
    pub fn start_engine(
        &self,
        parts: EngineParts,
        dispatcher: Dispatcher,
        in_flight: Arc<InFlight>,
        drain: Drain,
    ) -> std::io::Result<JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        dispatcher.metrics.register_with(|registry| self.metrics.register(registry));
        let courier = Courier {
            dispatcher,
            config: Arc::clone(&self.config),
            log: self.log.clone(),
            waiting: Arc::clone(&self.waiting),
            metrics: Arc::clone(&self.metrics),
        };
        let engine = Engine {
            courier: Arc::new(courier),
            reader: parts.reader,
            inbox: Arc::clone(&self.inbox),
            in_flight,
            waiting: Arc::clone(&self.waiting),
            commands: parts.commands,
            paused: false,
        };
        let (log, reader) = (self.log.clone(), Arc::clone(&self.reader));
        let upkeep = upkeep::run(log, Arc::clone(&self.config), Arc::clone(&self.metrics), reader);
        let config = Arc::clone(&self.config);
        let run = move || {
            let patience = config.load().public.drain_timeout;
            runtime.block_on(async {
                tokio::spawn(upkeep);
                engine.run(drain, patience).await;
            });
        };
        thread::Builder::new().name("deliveries".into()).spawn(run)
    }

    /// Has the request kept, and answers it as its handler's policy says. It arrived at `arrived`, from which the caller's patience
    /// counts.
    ///
    /// # Errors
    /// [`Error::NotRun`] when it could not be kept, and so was not.
    pub async fn accept(
        &self,
        policy: &Policy,
        delivery: Delivery,
        admission: Arc<Admission>,
        arrived: Instant,
    ) -> Result<Response<Bytes>, Error> {
        let (caller, answer) = match policy.mode {
            Mode::Durable => (None, None),
            Mode::Deadline { ack_after } => {
                let (caller, answer) = oneshot::channel();
                (Some(caller), Some((answer, arrived + ack_after)))
            }
        };
        let request_id = delivery.request_id.clone();
        let appended = self.log.append(Arc::new(delivery), Some(admission), caller).await;
        let (id, answer) = match (appended.map_err(|error| not_kept(&error, &request_id))?, answer) {
            (Appended::New(id, _), Some((answer, until))) => (id, wait(answer, until, policy).await),
            (Appended::Duplicate(id), Some((_, until))) => (id, self.wait_for_first(id, until, policy).await),
            (Appended::New(id, _) | Appended::Duplicate(id), None) => (id, Ok(policy.ack.clone())),
        };
        let mut response = answer.unwrap_or_else(|error| error_response(error, &request_id));
        if let Ok(id) = HeaderValue::from_str(&id.to_string()) {
            response.headers_mut().insert(DELIVERY, id);
        }
        Ok(response)
    }

    /// The answer that the same event got, or gets in time; otherwise the acknowledgement, which stands for both.
    async fn wait_for_first(&self, first: Id, until: Instant, policy: &Policy) -> Answer {
        // Listening begins before the look, so that an answer between the two is not missed.
        let answer = self.waiting.join(first);
        match read(&self.reader_of_answers, move |reader| rows::answer(reader, first)).await {
            Ok(rows::FirstAnswer::Pending) => match tokio::time::timeout_at(until.into(), answer).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) | Err(_) => Ok(policy.ack.clone()),
            },
            Ok(rows::FirstAnswer::Given(response)) => Ok(response),
            Ok(rows::FirstAnswer::None) => Ok(policy.ack.clone()),
            Err(error) => {
                error!(delivery = %first, %error, "the answer to the same event cannot be read");
                Ok(policy.ack.clone())
            }
        }
    }

    /// Looks through the log, which may take as long as there is much in it.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        read(&self.reader, look).await
    }

    /// The deliveries that are meant, in the order in which they were accepted.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn list(&self, filter: Filter, limit: u32) -> Result<Vec<Summary>, StoreError> {
        self.look(move |reader| operator::list(reader, &filter, limit)).await
    }

    /// # Errors
    /// When the log cannot be read.
    pub async fn show(&self, id: Id) -> Result<Option<Detail>, StoreError> {
        self.look(move |reader| operator::show(reader, id)).await
    }

    /// Has a delivery run again. It carries the first verdict on its signature.
    ///
    /// # Errors
    /// When that could not be kept.
    pub async fn replay(&self, id: Id) -> Result<Replayed, LogError> {
        Ok(self.log.record(Record::Replay(id)).await?.replayed.unwrap_or(Replayed::Unknown))
    }

    /// Has those deliveries run again that are settled and were not replayed yet; `limit` of them at most. Returns how many.
    ///
    /// # Errors
    /// When that could not be kept; some of them may have been.
    pub async fn replay_many(&self, mut filter: Filter, limit: usize) -> Result<usize, LogError> {
        /// How many are looked for at once. That is done beside the writer, whom requests wait for.
        const LOOK: usize = 100_000;
        /// How many are copied in one transaction.
        const BATCH: usize = 200;
        // The copies have failed again, perhaps, before all that is meant was copied.
        filter.before = Some(self.look(operator::end).await?);
        let mut count = 0;
        while count < limit {
            let at_most = LOOK.min(limit - count);
            let meant = filter.clone();
            let found = self.look(move |reader| operator::replayable(reader, &meant, at_most)).await?;
            for batch in found.chunks(BATCH) {
                count += self.log.record(Record::ReplayMany(batch.to_vec())).await?.count;
            }
            match found.last() {
                Some(last) if found.len() == at_most => filter.after = Some(*last),
                Some(_) | None => break,
            }
        }
        Ok(count)
    }

    /// Forgets a delivery, delivered or not. Returns whether there was one.
    ///
    /// # Errors
    /// When that could not be kept.
    pub async fn remove(&self, id: Id) -> Result<bool, LogError> {
        Ok(self.log.record(Record::Remove(id)).await?.count > 0)
    }

    /// Returns when the disk has failed, so that nothing can be promised any more, with the reason.
    pub async fn failure(&self) -> StoreError {
        self.log.failure().await
    }

    /// Bytes that the log takes on disk.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.log.stored_bytes()
    }

    /// Writes what was sent so far, and returns once the file is closed.
    pub fn shut_down(&self) {
        self.log.shut_down();
    }
}

impl Duty for Deliveries {
    fn name(&self) -> &'static str {
        "deliveries"
    }

    /// Begins no attempt from now on, and returns once another process would see what is under way here as not due yet. Requests
    /// are kept as before, and what is under way is recorded when it ends: two processes can write the log.
    fn pause(&self) -> BoxFuture<'_, anyhow::Result<Box<dyn Paused>>> {
        Box::pin(async {
            let until = engine::handed_over_until(self.config.load().limits.request_timeout);
            let (done, paused) = oneshot::channel();
            self.commands.send(Command::Pause { until, done }).await.context("the engine has ended")?;
            paused.await.context("the engine has ended")?;
            let paused: Box<dyn Paused> = Box::new(Idle { commands: Some(self.commands.clone()) });
            Ok(paused)
        })
    }
}

/// An engine that begins nothing.
struct Idle {
    commands: Option<mpsc::Sender<Command>>,
}

impl Paused for Idle {
    fn resume(mut self: Box<Self>) -> BoxFuture<'static, anyhow::Result<()>> {
        Box::pin(async move {
            if let Some(commands) = self.commands.take() {
                commands.send(Command::Resume).await.context("the engine has ended")?;
            }
            Ok(())
        })
    }

    fn release(mut self: Box<Self>) {
        self.commands = None;
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        if let Some(commands) = self.commands.take() {
            // It is full only of what pauses or resumes.
            drop(commands.try_send(Command::Resume));
        }
    }
}

/// Reads the log on a thread where that may take long.
async fn read<T: Send + 'static>(
    reader: &Arc<Mutex<Connection>>,
    look: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    let reader = Arc::clone(reader);
    let looked = tokio::task::spawn_blocking(move || look(&reader.lock())).await;
    match looked {
        Ok(result) => result.map_err(|error| schema::SCHEMA.explain(&error)),
        Err(_) => Err(StoreError::ShutDown),
    }
}

/// The worker's answer, or when it is not there in time the acknowledgement.
async fn wait(mut answer: oneshot::Receiver<Reply>, until: Instant, policy: &Policy) -> Answer {
    let reply = match tokio::time::timeout_at(until.into(), &mut answer).await {
        Ok(reply) => reply.ok(),
        Err(_) => {
            // From here on nobody can believe that this caller was reached; what was sent before is passed on.
            answer.close();
            answer.try_recv().ok()
        }
    };
    let Some(Reply { answer, recorded }) = reply else { return Ok(policy.ack.clone()) };
    // It ends by an error too, and then there is nothing more to wait for.
    drop(tokio::time::timeout(RECORD_PATIENCE, recorded).await);
    answer
}

/// An error that is an answer of its handler's. Contract section 7.
fn error_response(error: HandlerError, request_id: &str) -> Response<Bytes> {
    let error = Error::Handler(error);
    let mut response = Response::new(error.to_json(request_id).into());
    *response.status_mut() = error.status();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn not_kept(error: &LogError, request_id: &str) -> Error {
    let reason = match error {
        LogError::AtMaxStored(_) => "the gateway keeps as many webhooks as it may (webhooks.max_stored)",
        LogError::Busy => "too many webhooks wait to be kept",
        LogError::Store(StoreError::Full(_)) => "the gateway's disk is full, so the webhook was not kept",
        LogError::Store(_) => "the gateway's disk fails, so the webhook was not kept",
    };
    warn!(request_id, %error, "a webhook was not kept");
    Error::NotRun { reason: reason.into(), retry_after: RETRY_AFTER }
}
