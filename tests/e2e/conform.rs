//! `gearway conform`: the Rust SDK keeps everything, and workers that do not are told so by name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gearway_tests::port::ReservedPort;
use gearway_tests::process::Process;
use gearway_tests::server::{Incoming, Server};
use gearway_tests::{Answer, Gate, Request, binaries};
use serde_json::{Value, json};

const TOKEN: &str = "conform";

/// What a report says, by the name of each check.
struct Outcomes(BTreeMap<String, Value>);

impl Outcomes {
    /// Standard output is one JSON text over many lines. Among them come those of standard error, which are sentences.
    async fn read(process: &Process) -> Self {
        let lines = process.all_lines().await;
        let of_json = lines.iter().filter(|line| line.starts_with(['{', ' ', '}']));
        let report = of_json.map(String::as_str).collect::<String>();
        let report: Value = serde_json::from_str(&report).expect("JSON");
        let checks = report["checks"].as_array().expect("checks").iter();
        Self(
            checks.map(|check| (check["name"].as_str().expect("a name").to_owned(), check.clone())).collect(),
        )
    }

    fn of(&self, outcome: &str) -> BTreeSet<&str> {
        let of_that_outcome = self.0.iter().filter(|(_, check)| check["outcome"] == outcome);
        of_that_outcome.map(|(name, _)| name.as_str()).collect()
    }

    fn detail(&self, name: &str) -> &str {
        self.0[name]["detail"].as_str().unwrap_or_default()
    }
}

fn conform(arguments: &[&str]) -> Process {
    let mut command = Command::new(binaries::path("gearway"));
    command.env_clear().arg("conform").args(arguments);
    Process::spawn("conform", command)
}

#[tokio::test]
async fn the_rust_sdk_keeps_everything() {
    let worker = binaries::path("conformance").to_string_lossy();
    let process = conform(&["--strict", "--json", "--", &worker]);
    let code = process.wait_for_exit().await.code();
    let outcomes = Outcomes::read(&process).await;
    assert_eq!((outcomes.of("fails"), outcomes.of("skipped")), (BTreeSet::new(), BTreeSet::new()));
    assert_eq!(code, Some(0));
}

#[tokio::test]
async fn a_worker_without_handlers_for_it_is_skipped_loudly() {
    let worker = binaries::path("seed-page").to_string_lossy();
    let process = conform(&["--", &worker]);
    assert_eq!(process.wait_for_exit().await.code(), Some(0));
    let lines = process.all_lines().await;
    let has = |text: &str| lines.iter().any(|line| line.contains(text));
    assert!(has("0 do not") && has("the worker does not serve conform/text"), "{lines:#?}");
}

#[tokio::test]
async fn a_command_that_is_no_worker_fails() {
    let process = conform(&["--json", "--", "/bin/sh", "-c", "exit 7"]);
    assert_eq!(process.wait_for_exit().await.code(), Some(1));
    let outcomes = Outcomes::read(&process).await;
    assert_eq!(outcomes.of("fails"), BTreeSet::from(["registration.arrives"]));
    assert!(
        outcomes.detail("registration.arrives").contains('7'),
        "{}",
        outcomes.detail("registration.arrives")
    );
}

#[tokio::test]
async fn a_registration_that_is_invalid_fails() {
    let process = conform(&["--json", "http://127.0.0.1:1/", "--listen", "127.0.0.1:0"]);
    let gateway = gateway_address(&process).await;
    let refused =
        Request::new("POST", "/v1/workers").json(&json!({"name": "x"})).bearer(TOKEN).send(gateway).await;
    assert_eq!(refused.status, 422, "{refused:?}");
    assert_eq!(process.wait_for_exit().await.code(), Some(1));
    let outcomes = Outcomes::read(&process).await;
    assert_eq!(outcomes.of("fails"), BTreeSet::from(["registration.valid"]));
    assert!(
        outcomes.detail("registration.valid").contains("url"),
        "{}",
        outcomes.detail("registration.valid")
    );
}

/// One way of keeping the protocol badly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mistake {
    None,
    TakesAnySecret,
    Answers500ToWhatIsNoEnvelope,
    AnswersHttp404ToUnknownNames,
    WritesTextAsLatin1,
    TellsTheException,
    RenewsLate,
    KeepsItsFirstSecret,
    LoopsOn503,
    DiesOfARefusal,
    ComesBackWhenDrained,
    FollowsRedirects,
    SendsNoContentType,
    AnnouncesAShortIdleTime,
    ClosesIdleConnections,
    WritesBothLengths,
    RefusesWithoutNotRun,
}

/// A small worker that makes one mistake. It serves three of the conformance handlers.
struct Worker {
    mistake: Mistake,
    gateway: SocketAddr,
    address: SocketAddr,
    secret: Mutex<Option<String>>,
    running: Mutex<u32>,
}

const MAX_CONCURRENCY: u32 = 2;

impl Worker {
    fn registration(&self) -> Value {
        json!({
            "name": "mistaken", "url": format!("http://{}/", self.address), "protocol": "gearway-v1",
            "max_concurrency": MAX_CONCURRENCY,
            "handlers": [
                {"name": "conform/text"},
                {"name": "conform/fail", "methods": ["POST"]},
                {"name": "conform/slow", "methods": ["POST"], "timeout_ms": 30000, "idempotent": true},
            ],
        })
    }

    fn secret(&self) -> MutexGuard<'_, Option<String>> {
        self.secret.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, u32> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(self: &Arc<Self>, call: &Incoming) -> Answer {
        let expected = self.secret().as_ref().map(|secret| format!("Bearer {secret}"));
        let authorized = expected.as_deref() == call.header("authorization");
        if !authorized && self.mistake != Mistake::TakesAnySecret {
            return Answer::status(401, "{}");
        }
        let answer = match self.reply(call) {
            Ok(answer) => answer,
            Err(status) => return Answer::status(status, "{}"),
        };
        match self.mistake {
            Mistake::SendsNoContentType => match answer {
                Answer::Http { status: 200, body, .. } => {
                    Answer::Http { status: 200, headers: Vec::new(), body }
                }
                _ => answer,
            },
            Mistake::AnnouncesAShortIdleTime => answer.header("Keep-Alive", "timeout=5"),
            Mistake::WritesBothLengths => answer.header("Transfer-Encoding", "chunked"),
            _ => answer,
        }
    }

    fn reply(self: &Arc<Self>, call: &Incoming) -> Result<Answer, u16> {
        let malformed: u16 = if self.mistake == Mistake::Answers500ToWhatIsNoEnvelope { 500 } else { 400 };
        let envelope: Value = serde_json::from_slice(&call.body).map_err(|_| malformed)?;
        let name = envelope["name"].as_str().ok_or(malformed)?;
        let body = envelope["param"]["body"].as_str().and_then(decode).ok_or(malformed)?;
        match (name, envelope["param"]["method"].as_str()) {
            ("conform/text", Some("GET" | "POST" | "PUT")) if self.mistake == Mistake::WritesTextAsLatin1 => {
                Ok(Answer::text(&body.iter().copied().map(char::from).collect::<String>()))
            }
            ("conform/text", Some("GET" | "POST" | "PUT")) => {
                Ok(Answer::text(&String::from_utf8_lossy(&body)))
            }
            ("conform/fail", Some("POST")) => {
                let careless = self.mistake == Mistake::TellsTheException;
                let message =
                    if careless { String::from_utf8_lossy(&body) } else { "the handler failed".into() };
                Ok(Answer::reply(&json!({"error": {"code": 130, "message": message}})))
            }
            ("conform/slow", Some("POST")) => Ok(self.slow(&String::from_utf8_lossy(&body))),
            _ if self.mistake == Mistake::AnswersHttp404ToUnknownNames => Err(404),
            _ => Ok(Answer::reply(&json!({"error": {"code": 117, "name": "UndefinedOperation"}}))),
        }
    }

    /// The answer waits for a gate, since a script does not wait.
    fn slow(self: &Arc<Self>, milliseconds: &str) -> Answer {
        let mut running = self.running();
        if *running == MAX_CONCURRENCY {
            let busy = Answer::status(503, "{}");
            let says_so = self.mistake != Mistake::RefusesWithoutNotRun;
            return if says_so { busy.header("Gearway-Not-Run", "1") } else { busy };
        }
        *running += 1;
        let (gate, worker) = (Gate::default(), Arc::clone(self));
        let (opened, time) = (gate.clone(), Duration::from_millis(milliseconds.parse().unwrap_or_default()));
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            *worker.running() -= 1;
            opened.open();
        });
        Answer::text("slow").after(&gate)
    }

    /// Registers and renews, until it has no reason to any more.
    async fn keep(self: Arc<Self>) {
        const RETRY: Duration = Duration::from_millis(300);
        let mut worker_id: Option<String> = None;
        let mut was_registered = false;
        let mut draining = false;
        loop {
            let request = match &worker_id {
                Some(worker_id) => Request::new("PUT", &format!("/v1/workers/{worker_id}/lease")).body(""),
                None => Request::new("POST", "/v1/workers").json(&self.registration()),
            };
            let Ok(answer) = request.bearer(TOKEN).try_send(self.gateway).await else {
                tokio::time::sleep(RETRY).await;
                continue;
            };
            let pause = match (answer.status, &worker_id) {
                (201, _) => {
                    let registered = answer.json();
                    let first = self.secret().is_none();
                    if first || self.mistake != Mistake::KeepsItsFirstSecret {
                        *self.secret() = registered["secret"].as_str().map(str::to_owned);
                    }
                    worker_id = registered["worker_id"].as_str().map(str::to_owned);
                    was_registered = true;
                    self.pause(&registered)
                }
                (200, _) => {
                    draining |= answer.json()["draining"] == true;
                    self.pause(&answer.json())
                }
                (404, _) if draining && self.mistake != Mistake::ComesBackWhenDrained => return,
                (404, Some(_)) => {
                    worker_id = None;
                    continue;
                }
                (307, _) if self.mistake == Mistake::FollowsRedirects => {
                    let elsewhere = Request::new("PUT", "/elsewhere").bearer(TOKEN).body("");
                    drop(elsewhere.try_send(self.gateway).await);
                    RETRY
                }
                (503, _) if self.mistake == Mistake::LoopsOn503 => Duration::from_millis(1),
                (401, _) if was_registered && self.mistake == Mistake::DiesOfARefusal => return,
                _ => RETRY,
            };
            tokio::time::sleep(pause).await;
        }
    }

    fn pause(&self, answer: &Value) -> Duration {
        let lease = Duration::from_millis(answer["lease_ms"].as_u64().unwrap_or_default());
        if self.mistake == Mistake::RenewsLate { lease * 2 } else { lease / 3 }
    }
}

fn decode(base64: &str) -> Option<Vec<u8>> {
    serde_json::from_value::<gearway_protocol::Base64Body>(base64.into()).ok().map(|body| body.0)
}

/// Where a gateway that waits for a URL says that it is.
async fn gateway_address(process: &Process) -> SocketAddr {
    process
        .wait_for_line("where it listens", |line| {
            let (_, address) = line.split_once("GEARWAY_GATEWAY=http://")?;
            address.split(' ').next()?.parse().ok()
        })
        .await
}

async fn outcomes_of(mistake: Mistake) -> Outcomes {
    let port = ReservedPort::take();
    let url = format!("http://{}/", port.address());
    let process = conform(&["--json", "--listen", "127.0.0.1:0", &url]);
    let gateway = gateway_address(&process).await;
    let worker = Arc::new(Worker {
        mistake,
        gateway,
        address: port.address(),
        secret: Mutex::default(),
        running: Mutex::default(),
    });
    let answering = Arc::clone(&worker);
    let server = Arc::new(Server::at(port, move |call| answering.answer(call)));
    let keeping = tokio::spawn(worker.keep());
    let closing = Arc::clone(&server);
    let closer = (mistake == Mistake::ClosesIdleConnections).then(|| {
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(4)).await;
                closing.close_connections();
            }
        })
    });
    let code = process.wait_for_exit().await.code();
    keeping.abort();
    if let Some(closer) = closer {
        closer.abort();
    }
    let outcomes = Outcomes::read(&process).await;
    assert_eq!(code, Some(i32::from(!outcomes.of("fails").is_empty())), "{mistake:?}");
    outcomes
}

#[tokio::test]
async fn a_worker_of_another_language_is_found_at_its_url() {
    let outcomes = outcomes_of(Mistake::None).await;
    assert_eq!(outcomes.of("fails"), BTreeSet::new(), "{:#?}", outcomes.0);
    assert!(outcomes.of("skipped").contains("leaving.delete"), "nobody can end it");
    assert!(outcomes.of("holds").contains("lease.drained"));
}

/// Whether a worker with that mistake cannot do much else right.
fn spreads(mistake: Mistake) -> bool {
    matches!(
        mistake,
        Mistake::WritesBothLengths | Mistake::KeepsItsFirstSecret | Mistake::ClosesIdleConnections
    )
}

#[tokio::test]
async fn every_mistake_is_found_and_named() {
    let expected: [(Mistake, &[&str]); _] = [
        (Mistake::TakesAnySecret, &["auth.missing", "auth.wrong", "auth.large", "lease.secret", "once.busy"]),
        (Mistake::Answers500ToWhatIsNoEnvelope, &["envelope.malformed"]),
        (Mistake::WritesTextAsLatin1, &["reply.text"]),
        (Mistake::TellsTheException, &["reply.failure"]),
        (Mistake::RenewsLate, &["lease.renewal"]),
        (Mistake::KeepsItsFirstSecret, &["lease.secret"]),
        (Mistake::LoopsOn503, &["lease.backoff"]),
        (Mistake::ComesBackWhenDrained, &["lease.drained"]),
        (Mistake::FollowsRedirects, &["registration.redirect"]),
        (Mistake::SendsNoContentType, &["reply.content-type"]),
        (Mistake::AnnouncesAShortIdleTime, &["http.keep-alive"]),
        (Mistake::ClosesIdleConnections, &["http.idle"]),
        (Mistake::RefusesWithoutNotRun, &["once.busy"]),
        (Mistake::DiesOfARefusal, &["lease.refused"]),
        (Mistake::AnswersHttp404ToUnknownNames, &["envelope.unknown"]),
        (Mistake::WritesBothLengths, &["http.framing"]),
    ];
    let mut running = tokio::task::JoinSet::new();
    for (mistake, names) in expected {
        running.spawn(async move { (mistake, names, outcomes_of(mistake).await) });
    }
    while let Some(finished) = running.join_next().await {
        let (mistake, names, outcomes) = finished.expect("no panic");
        let fails = outcomes.of("fails");
        let names = BTreeSet::from_iter(names.iter().copied());
        if spreads(mistake) {
            assert!(fails.is_superset(&names), "{mistake:?} does not fail {names:?}, but {fails:?}");
        } else {
            assert_eq!(fails, names, "{mistake:?}");
        }
    }
}
