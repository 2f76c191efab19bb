//! Clients that give every request a number, so that what it was answered can be held against what has run.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use fastrand::Rng;
use tokio::task::JoinSet;

use crate::faulty::{Damage, REQUEST_HEADER};
use crate::wait;
use crate::wire::{Connection, Request, Response};

/// How soon a client whose connection was refused tries again.
const RECONNECT: Duration = Duration::from_millis(2);

/// One request and its answer.
#[derive(Debug, Clone)]
pub struct Answered {
    pub number: String,
    pub idempotent: bool,
    pub answer: Answer,
}

/// What a client was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 200, and whether the content was this request's own.
    Ok { own: bool },
    /// 503 of the gateway.
    NotRun,
    /// 502 or 504 with `outcome: "unknown"`.
    Unknown(u16),
    /// 502: the worker's reply was none.
    Nonsense,
    /// The connection ended without a response.
    Nothing,
    /// What no client should get.
    Other(String),
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ok { own: true } => f.write_str("200"),
            Self::Ok { own: false } => f.write_str("200 with other content"),
            Self::NotRun => f.write_str("503 not run"),
            Self::Unknown(status) => write!(f, "{status} outcome unknown"),
            Self::Nonsense => f.write_str("502 nonsense"),
            Self::Nothing => f.write_str("no response"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl Answer {
    fn of(number: &str, response: &Response) -> Self {
        if response.status == 200 {
            return Self::Ok { own: response.body == number.as_bytes() };
        }
        let error = serde_json::from_slice::<serde_json::Value>(&response.body).unwrap_or_default();
        let error = &error["error"];
        let unknown = error["info"]["outcome"] == "unknown";
        match (response.status, error["code"].as_u64(), unknown) {
            (503, Some(118), false) if response.header("retry-after").is_some() => Self::NotRun,
            (502, Some(118), true) | (504, Some(119), true) => Self::Unknown(response.status),
            (502, Some(130), false) => Self::Nonsense,
            _ => Self::Other(format!("{response:?}")),
        }
    }
}

impl Answered {
    /// What this answer promised and did not keep, given how often the request ran and what became of the reply.
    #[must_use]
    pub fn broken_promise(&self, runs: usize, damage: Damage) -> Option<String> {
        let once = runs <= 1 || self.idempotent;
        let kept = match &self.answer {
            Answer::Ok { own } => runs >= 1 && once && (*own || damage == Damage::Garbled),
            Answer::NotRun => runs == 0,
            Answer::Unknown(_) | Answer::Nothing => once,
            Answer::Nonsense => runs >= 1 && once && damage != Damage::None,
            Answer::Other(_) => false,
        };
        let kind = if self.idempotent { "idempotent request" } else { "request" };
        (!kept).then(|| format!("{kind} {} ran {runs} times and was answered {}", self.number, self.answer))
    }
}

/// How many answers there were of each kind.
#[must_use]
pub fn tally(answered: &[Answered]) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for one in answered {
        *tally.entry(one.answer.to_string()).or_default() += 1;
    }
    tally
}

/// Clients at work, each on a connection of its own that it keeps alive. They `POST /once`, and `POST /again` where the
/// handler may run again.
#[derive(Debug)]
pub struct Clients {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    running: JoinSet<Vec<Answered>>,
}

/// What clients send.
#[derive(Debug, Clone)]
pub struct Load {
    pub to: SocketAddr,
    pub clients: usize,
    /// Distinguishes the numbers of this load from others.
    pub prefix: String,
    /// After so many requests they stop by themselves.
    pub requests: usize,
    pub seed: u64,
}

impl Clients {
    #[must_use]
    pub fn start(load: &Load) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (sent, answered) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut rng = Rng::with_seed(load.seed);
        let mut running = JoinSet::new();
        for _ in 0..load.clients {
            let next = {
                let (stop, sent, load) = (Arc::clone(&stop), Arc::clone(&sent), load.clone());
                move || {
                    let place = sent.fetch_add(1, Ordering::SeqCst);
                    (place < load.requests && !stop.load(Ordering::SeqCst))
                        .then(|| format!("{}-{place}", load.prefix))
                }
            };
            running.spawn(client(load.to, next, Arc::clone(&answered), rng.fork()));
        }
        Self { stop, answered, running }
    }

    /// Waits until that many more requests have ended.
    ///
    /// # Panics
    /// At the deadline.
    pub async fn wait_for_more(&self, requests: usize) {
        let target = self.answered.load(Ordering::SeqCst) + requests;
        wait::until("the clients go on", async || {
            (self.answered.load(Ordering::SeqCst) >= target).then_some(())
        })
        .await;
    }

    /// Waits for the answers to all requests.
    pub async fn finish(self) -> Vec<Answered> {
        self.running.join_all().await.into_iter().flatten().collect()
    }

    /// Lets every client finish its request.
    pub async fn stop(self) -> Vec<Answered> {
        self.stop.store(true, Ordering::SeqCst);
        wait::within("the clients finish", self.finish()).await
    }
}

async fn client(
    to: SocketAddr,
    next: impl Fn() -> Option<String>,
    count: Arc<AtomicUsize>,
    mut rng: Rng,
) -> Vec<Answered> {
    let mut answered = Vec::new();
    let mut connection = None;
    while let Some(number) = next() {
        let idempotent = rng.u8(..4) == 0;
        let size = if rng.u8(..50) == 0 { rng.usize(..400_000) } else { rng.usize(..200) };
        let path = if idempotent { "/again" } else { "/once" };
        let request = Request::post(path, vec![b'x'; size]).header(REQUEST_HEADER, &number);
        let mut open: Connection = loop {
            match connection.take() {
                Some(open) => break open,
                None => connection = Connection::connect(to).await.ok(),
            }
            if connection.is_none() {
                tokio::time::sleep(RECONNECT).await;
            }
        };
        let answer = match open.request(&request).await {
            Ok(response) => {
                if !open.is_closing() {
                    connection = Some(open);
                }
                Answer::of(&number, &response)
            }
            Err(_) => Answer::Nothing,
        };
        answered.push(Answered { number, idempotent, answer });
        count.fetch_add(1, Ordering::SeqCst);
    }
    answered
}
