//! What is checked of the worker as an HTTP server: who may call it, and how its connections behave.

use std::time::Duration;

use tokio::task::JoinSet;

use super::report::{Report, Verdict};
use super::wire::Answer;
use super::worker::{Call, Worker, is_served, reply};
use super::{LARGE, check, checks};

/// Long enough for another call to overtake it, on a busy machine too.
const SLOW: Duration = Duration::from_millis(2500);
/// More calls than these at once are too many to try.
const MOST_CALLS: u32 = 256;
const SEVERAL: usize = 20;
const AGAIN: Duration = Duration::from_millis(20);

pub(super) async fn run(worker: &Worker, report: &mut Report) {
    check(report, worker, &checks::AUTH_MISSING, unauthorized(worker, None)).await;
    check(report, worker, &checks::AUTH_WRONG, wrong_secrets(worker)).await;
    check(report, worker, &checks::AUTH_LARGE, large_refusal(worker)).await;
    check(report, worker, &checks::ENVELOPE_MALFORMED, malformed(worker)).await;
    check(report, worker, &checks::HTTP_REUSE, reuse(worker)).await;
    check(report, worker, &checks::HTTP_CONCURRENT, concurrent(worker)).await;
    check(report, worker, &checks::ONCE_TIMEOUT, overtime(worker)).await;
}

/// Apart from the others, which would be turned away meanwhile.
pub(super) async fn run_full(worker: &Worker, report: &mut Report) {
    match worker.registration.max_concurrency {
        Some(calls) if calls <= MOST_CALLS => {
            check(report, worker, &checks::ONCE_BUSY, busy(worker, calls)).await
        }
        Some(_) => report.skip(&checks::ONCE_BUSY, "the worker's max_concurrency is too large to try"),
        None => report.skip(&checks::ONCE_BUSY, "the worker registers no max_concurrency"),
    }
}

/// An idle connection that is to take another call after that time.
pub(super) async fn idle(worker: &Worker, time: Duration) -> Verdict {
    let mut connection = worker.connect().await?;
    let call = Call::nobodys().bytes();
    is_served(&connection.post(Some(&worker.bearer()), &call).await?)?;
    if connection.stirs_within(time).await {
        return Err(format!("an idle connection was closed within {time:?}"));
    }
    is_served(&connection.post(Some(&worker.bearer()), &call).await?)
}

async fn unauthorized(worker: &Worker, authorization: Option<&str>) -> Verdict {
    is_401(&worker.post(authorization, &Call::nobodys().bytes()).await?)
}

fn is_401(answer: &Answer) -> Verdict {
    if answer.status == 401 { Ok(()) } else { Err(answer.shown()) }
}

async fn wrong_secrets(worker: &Worker) -> Verdict {
    let secret = &worker.secret;
    let (begin, _) = secret.split_at(secret.len() / 2);
    for (authorization, what) in [
        ("Bearer not-the-secret".to_owned(), "another secret"),
        (format!("Bearer {begin}"), "the secret's first half"),
        (format!("Bearer {secret}x"), "the secret and a letter"),
        ("Bearer ".to_owned(), "an empty secret"),
        (format!("Basic {secret}"), "another scheme"),
        (secret.clone(), "no scheme"),
    ] {
        unauthorized(worker, Some(&authorization)).await.map_err(|seen| format!("{what}: {seen}"))?;
    }
    Ok(())
}

async fn large_refusal(worker: &Worker) -> Verdict {
    let call = Call::new("conform/nobodys", "POST", vec![b'x'; LARGE]);
    is_401(&worker.post(Some("Bearer not-the-secret"), &call.bytes()).await?)
}

async fn malformed(worker: &Worker) -> Verdict {
    let not_base64 = Call::nobodys().with("/param/body", "%%%".into()).bytes();
    let not_a_name = Call::nobodys().with("/name", 7.into()).bytes();
    for (body, what) in [
        (&b""[..], "an empty body"),
        (b"{", "half an object"),
        (b"hello", "no JSON"),
        (b"[]", "a list"),
        (&not_base64, "a body that is no base64"),
        (&not_a_name, "a name that is a number"),
    ] {
        let answer =
            worker.post(Some(&worker.bearer()), body).await.map_err(|seen| format!("{what}: {seen}"))?;
        if !(400..500).contains(&answer.status) {
            return Err(format!("{what}: {}", answer.shown()));
        }
        worker.is_alive().await.map_err(|seen| format!("after {what}: {seen}"))?;
    }
    Ok(())
}

async fn reuse(worker: &Worker) -> Verdict {
    let mut connection = worker.connect().await?;
    let call = Call::nobodys().bytes();
    for number in 1..=SEVERAL {
        let answer = connection.post(Some(&worker.bearer()), &call).await;
        let answer = answer.map_err(|seen| format!("call {number} of one connection: {seen}"))?;
        is_served(&answer)?;
    }
    Ok(())
}

async fn concurrent(worker: &Worker) -> Verdict {
    let slow = slow_call(worker, SLOW);
    tokio::pin!(slow);
    let several = async {
        for _ in 0..SEVERAL {
            worker.is_alive().await?;
        }
        Ok(())
    };
    tokio::select! {
        biased;
        answered = several => answered.and(slow.await),
        early = &mut slow => early.and(Err(format!("a call of {SLOW:?} was answered before {SEVERAL} quick ones"))),
    }
}

async fn overtime(worker: &Worker) -> Verdict {
    let call = Call::slow(Duration::from_millis(600)).with("/context/timeout_ms", 100.into());
    said_slow(&worker.answer(&call).await?)
}

async fn slow_call(worker: &Worker, time: Duration) -> Verdict {
    said_slow(&worker.answer(&Call::slow(time)).await?)
}

fn said_slow(answer: &Answer) -> Verdict {
    match reply(answer)? {
        gearway_protocol::Reply::Result(gearway_protocol::HandlerResult::Text { value })
            if value == "slow" =>
        {
            Ok(())
        }
        _ => Err(format!("conform/slow does not say slow: {}", answer.shown())),
    }
}

/// The call that is one too many may come before the others.
async fn slow_call_once_there_is_room(worker: &Worker) -> Verdict {
    let mut answer = worker.answer(&Call::slow(SLOW)).await?;
    for _ in 0..SEVERAL {
        if answer.status != 503 {
            break;
        }
        tokio::time::sleep(AGAIN).await;
        answer = worker.answer(&Call::slow(SLOW)).await?;
    }
    said_slow(&answer)
}

/// Fills the worker, tries one call more, and lets the others finish.
async fn busy(worker: &Worker, calls: u32) -> Verdict {
    let mut running = JoinSet::new();
    for _ in 0..calls {
        let worker = worker.clone();
        running.spawn(async move { slow_call_once_there_is_room(&worker).await });
    }
    let one_more = loop {
        let answer = worker.answer(&Call::slow(Duration::ZERO)).await?;
        if answer.status != 200 {
            break Ok(answer);
        }
        // The others may not have begun yet.
        if running.try_join_next().is_some() {
            break Err(format!("while {calls} calls ran, one more got {}", answer.shown()));
        }
        tokio::time::sleep(AGAIN).await;
    };
    let one_more = one_more?;
    let not_run = one_more.header("gearway-not-run");
    if one_more.status != 503 || not_run.as_deref() != Some("1") {
        return Err(format!("one call too many got {}, Gearway-Not-Run: {not_run:?}", one_more.shown()));
    }
    unauthorized(worker, Some("Bearer not-the-secret"))
        .await
        .map_err(|seen| format!("with another secret, while {calls} calls ran: {seen}"))?;
    while let Some(finished) = running.join_next().await {
        finished.map_err(|error| error.to_string())??;
    }
    slow_call(worker, Duration::ZERO).await.map_err(|seen| format!("once the others were done: {seen}"))
}
