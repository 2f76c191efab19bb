//! Clients, a gateway, and workers that fail at random: every answer is held against what the workers ran.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;
use parking_lot::Mutex;
use serde_json::json;

use crate::counted::{self, Answer, Answered, Clients, Load};
use crate::faulty::{End, Fault, FaultyWorker, Ledger, REQUEST_HEADER};
use crate::process::Signal;
use crate::scripted::Registration;
use crate::wire::Request;
use crate::{Gateway, admin, wait};

const CLIENTS: usize = 16;
const REPLICAS: usize = 3;
/// Bytes of a call's head and a small envelope, and of a reply: cuts fall within.
const REQUEST_BYTES: usize = 900;
const REPLY_BYTES: usize = 260;
/// How long a handler may take, so that a stalled one does not hold up the run.
const TIMEOUT_MS: u64 = 400;

/// A gateway with faulty workers behind it.
#[derive(Debug)]
pub struct Faults {
    pub gateway: Gateway,
    workers: Arc<Vec<FaultyWorker>>,
    ledger: Ledger,
    injected: Arc<Mutex<BTreeMap<&'static str, usize>>>,
    seed: u64,
    rounds: usize,
}

/// What became of a round's requests.
#[derive(Debug, Clone, Default)]
pub struct Outcomes {
    /// By status and name.
    pub answers: BTreeMap<String, usize>,
    /// What may never be.
    pub broken_promises: Vec<String>,
}

impl Faults {
    /// Starts the gateway with `config` and registers the workers.
    ///
    /// # Panics
    /// When they do not come up.
    pub async fn start(seed: u64, config: &str) -> Self {
        let gateway = Gateway::start(config).await;
        let ledger = Ledger::default();
        let injected = Arc::new(Mutex::new(BTreeMap::new()));
        let mut workers = Vec::new();
        for _ in 0..REPLICAS {
            let worker = FaultyWorker::start(&ledger);
            worker.register(&gateway, &registration()).await;
            workers.push(worker);
        }
        Self { gateway, workers: Arc::new(workers), ledger, injected, seed, rounds: 0 }
    }

    /// Sends that many requests while everything fails, then looks whether it recovers by itself.
    ///
    /// # Panics
    /// When it does not recover.
    pub async fn round(&mut self, requests: usize) -> Outcomes {
        let mut rng = self.next_rng();
        let clients = self.begin(&mut rng, requests);
        let stop = Arc::new(AtomicBool::new(false));
        let refusals =
            tokio::spawn(refuse_at_random(Arc::clone(&self.workers), rng.fork(), Arc::clone(&stop)));
        let answered = clients.finish().await;
        stop.store(true, Ordering::SeqCst);
        refusals.await.expect("it does not panic");
        self.recover().await;
        self.hold_against_the_ledger(&answered, false)
    }

    /// As [`round`](Self::round), but instead of its workers the gateway goes away: it is killed and started again, or stopped for a
    /// while. A request without an answer breaks no promise then.
    ///
    /// # Panics
    /// When it does not recover.
    pub async fn round_of_kills(&mut self, requests: usize) -> Outcomes {
        let mut rng = self.next_rng();
        let mut answering = Box::pin(self.begin(&mut rng, requests).finish());
        let answered = loop {
            tokio::select! {
                answered = &mut answering => break answered,
                () = pause(&mut rng, 20..300) => {}
            }
            let what = if rng.bool() {
                self.gateway.kill9();
                self.gateway.start_again().await;
                "gateway killed"
            } else {
                self.gateway.signal(Signal::STOP);
                pause(&mut rng, 1..600).await;
                self.gateway.signal(Signal::CONT);
                "gateway stopped"
            };
            *self.injected.lock().entry(what).or_default() += 1;
        };
        self.recover().await;
        self.hold_against_the_ledger(&answered, true)
    }

    fn next_rng(&mut self) -> Rng {
        self.rounds += 1;
        Rng::with_seed(self.seed.wrapping_add(self.rounds as u64))
    }

    /// From now on calls and connections fail, and clients call.
    fn begin(&self, rng: &mut Rng, requests: usize) -> Clients {
        for worker in self.workers.iter() {
            let calls = Mutex::new(rng.fork());
            let injected = Arc::clone(&self.injected);
            worker.fail(move || {
                let fault = random_fault(&mut calls.lock());
                *injected.lock().entry(name(fault)).or_default() += 1;
                fault
            });
            let connections = Mutex::new(rng.fork());
            worker.fail_connections(move || (connections.lock().u8(..20) == 0).then_some(End::Close));
        }
        let load = Load {
            to: self.gateway.public_address(),
            clients: CLIENTS,
            prefix: self.rounds.to_string(),
            requests,
            seed: rng.u64(..),
        };
        Clients::start(&load)
    }

    fn hold_against_the_ledger(&self, answered: &[Answered], may_go_unanswered: bool) -> Outcomes {
        let promises = answered.iter().filter_map(|one| match one.answer {
            Answer::Nothing if !may_go_unanswered => Some(format!("request {} was not answered", one.number)),
            _ => one.broken_promise(self.ledger.runs(&one.number), self.ledger.damage(&one.number)),
        });
        let outcomes = Outcomes { answers: counted::tally(answered), broken_promises: promises.collect() };
        self.ledger.clear();
        outcomes
    }

    /// How often which fault was injected.
    #[must_use]
    pub fn injected(&self) -> BTreeMap<&'static str, usize> {
        self.injected.lock().clone()
    }

    /// Once nothing fails any more, every replica is called again and every request answered.
    async fn recover(&self) {
        for worker in self.workers.iter() {
            worker.fail(|| Fault::None);
            worker.fail_connections(|| None);
        }
        let before: Vec<usize> = self.workers.iter().map(FaultyWorker::calls).collect();
        let request = Request::post("/once", "x").header(REQUEST_HEADER, "recovery");
        wait::until("every replica is called again", async || {
            request.try_send(self.gateway.public_address()).await.ok()?;
            self.workers.iter().zip(&before).all(|(worker, before)| worker.calls() > *before).then_some(())
        })
        .await;
        for _ in 0..20 {
            drop(self.gateway.send(request.clone()).await.expect_status(200));
        }
    }
}

fn registration() -> Registration {
    Registration::new("faulty")
        .handler_with(json!({"name": "once", "timeout_ms": TIMEOUT_MS}))
        .handler_with(json!({"name": "again", "timeout_ms": TIMEOUT_MS, "idempotent": true}))
}

impl FaultyWorker {
    /// Registers with the gateway's registration token.
    ///
    /// # Panics
    /// When the gateway refuses.
    pub async fn register(
        &self,
        gateway: &Gateway,
        registration: &Registration,
    ) -> crate::scripted::Registered {
        let body = registration.clone().set("url", self.url().into());
        let request = Request::new("POST", "/v1/workers").json(body.as_json());
        let answer = request.bearer(&gateway.registration_token()).send(gateway.admin_address()).await;
        admin::read_registered(&answer.expect_status(201).json())
    }
}

async fn pause(rng: &mut Rng, millis: std::ops::Range<u64>) {
    tokio::time::sleep(Duration::from_millis(rng.u64(millis))).await;
}

/// Workers that go away for a moment, one after the other.
async fn refuse_at_random(workers: Arc<Vec<FaultyWorker>>, mut rng: Rng, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(rng.u64(20..200))).await;
        let worker = &workers[rng.usize(..workers.len())];
        worker.refuse().await;
        tokio::time::sleep(Duration::from_millis(rng.u64(1..100))).await;
        worker.accept();
    }
}

fn random_fault(rng: &mut Rng) -> Fault {
    let end = match rng.u8(..12) {
        0 => End::Stall,
        1..=5 => End::Reset,
        _ => End::Close,
    };
    match rng.u8(..100) {
        0..=5 => Fault::InRequest(rng.usize(..REQUEST_BYTES), end),
        6..=8 => Fault::InRequest(0, end),
        9..=14 => Fault::InReply(rng.usize(..REPLY_BYTES), end),
        15..=17 => Fault::Garbled(rng.usize(..REPLY_BYTES)),
        18..=20 => Fault::Twice,
        21..=23 => Fault::Trickle,
        24..=27 => Fault::Late(Duration::from_millis(rng.u64(..40))),
        28..=31 => Fault::NotRun,
        _ => Fault::None,
    }
}

fn name(fault: Fault) -> &'static str {
    match fault {
        Fault::None => "none",
        Fault::InRequest(0, End::Close | End::Reset) => "closed with the request unread",
        Fault::InRequest(_, End::Close) => "closed within the request",
        Fault::InRequest(_, End::Reset) => "reset within the request",
        Fault::InRequest(_, End::Stall) => "stalled within the request",
        Fault::InReply(_, End::Close) => "closed within the reply",
        Fault::InReply(_, End::Reset) => "reset within the reply",
        Fault::InReply(_, End::Stall) => "stalled within the reply",
        Fault::Garbled(_) => "garbled reply",
        Fault::Twice => "reply sent twice",
        Fault::Trickle => "reply byte by byte",
        Fault::Late(_) => "late reply",
        Fault::NotRun => "declined",
    }
}
