//! What is checked of the conversation with the gateway, while the worker runs.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::sleep;

use super::checks::Check;
use super::gateway::{Answering, Asked, Gateway, What};
use super::report::Verdict;
use super::worker::Worker;
use super::{Session, checks, processes};

/// The lease while its renewal is watched.
pub(super) const LEASE: Duration = Duration::from_secs(3);
/// Much longer, so that whoever does not notice renews far too often.
const LONGER_LEASE: Duration = Duration::from_secs(9);
/// Short, so that the next renewal comes soon.
const SHORT_LEASE: Duration = Duration::from_millis(1500);
/// How long the gateway stays away, or answers 503.
const TROUBLE: Duration = Duration::from_millis(1500);
/// More calls within [`TROUBLE`] are a loop: with the backoff there are some eight.
const LOOP: usize = 40;
/// How long anything may take that has to happen. It decides only how soon a broken worker is given up.
pub(super) const PATIENCE: Duration = Duration::from_secs(12);
/// How long something that must not happen is given to happen.
pub(super) const WATCHED: Duration = Duration::from_secs(2);

/// Waits for the worker to register, with a gateway that is not ready at first.
///
/// # Errors
/// When there is no worker to go on with; the report tells why.
pub(super) async fn register(session: &mut Session, patience: Option<Duration>) -> Option<Worker> {
    let from = session.gateway.so_far();
    let first = tokio::select! {
        first = first_registration(&session.gateway, from, patience) => first,
        status = processes::ended(session.process.as_mut()) => Err(format!("the process ended: {status}")),
    };
    let first = match first {
        Ok(first) => first,
        Err(seen) => {
            session.report.record(&checks::REGISTRATION_ARRIVES, Err(seen));
            return None;
        }
    };
    session.report.record(&checks::REGISTRATION_ARRIVES, Ok(()));
    if !first.authorized {
        session
            .report
            .record(&checks::REGISTRATION_TOKEN, Err("POST /v1/workers without the token".to_owned()));
        return None;
    }
    let valid = session.gateway.invalid().map_or(Ok(()), Err);
    let is_valid = valid.is_ok();
    session.report.record(&checks::REGISTRATION_VALID, valid);
    if !is_valid {
        return None;
    }
    session.gateway.change(|script| script.register = Answering::Well);
    let again = accepted(session, from).await;
    let verdict =
        again.as_ref().map(|_| ()).ok_or_else(|| "no second POST /v1/workers after the 503".to_owned());
    session.report.record(&checks::REGISTRATION_RETRY, verdict);
    again
}

/// Waits for as long as it takes if there is no patience that could end: then somebody has yet to start the worker.
async fn first_registration(
    gateway: &Gateway,
    from: usize,
    patience: Option<Duration>,
) -> Result<Arc<Asked>, String> {
    loop {
        let registering = |asked: &Asked| asked.what == What::Register;
        if let Some(asked) = gateway.asked(from, patience.unwrap_or(PATIENCE), registering).await {
            return Ok(asked);
        }
        if let Some(patience) = patience {
            let other = gateway.asked_since(from).iter().find_map(|asked| match &asked.what {
                What::Other(what) => Some(format!("nothing but {what}")),
                What::Register | What::Renew(_) | What::Leave(_) | What::FollowARedirect => None,
            });
            return Err(other.unwrap_or_else(|| format!("no call of the gateway within {patience:?}")));
        }
    }
}

/// Waits for a registration that is accepted.
pub(super) async fn accepted(session: &Session, from: usize) -> Option<Worker> {
    let wanted = |asked: &Asked| asked.what == What::Register && asked.answered == StatusCode::CREATED;
    session.gateway.asked(from, PATIENCE, wanted).await?;
    session.gateway.worker().map(|(worker, _)| worker)
}

/// Watches the renewals of a worker that has just registered.
pub(super) async fn renewals(session: &mut Session) {
    let from = session.gateway.so_far();
    let renewing = |asked: &Asked| matches!(&asked.what, What::Renew(_)) && asked.answered == StatusCode::OK;
    let renewed = session.gateway.asked(from, LEASE, renewing).await;
    let verdict = renewed.map(|_| ()).ok_or_else(|| format!("no renewal within the lease of {LEASE:?}"));
    let renews = verdict.is_ok();
    session.report.record(&checks::LEASE_RENEWAL, verdict);
    if !renews {
        session.report.skip(&checks::LEASE_NEWEST, "the worker does not renew its lease in time");
        session.gateway.change(|script| script.lease = SHORT_LEASE);
        return;
    }
    session.gateway.change(|script| script.lease = LONGER_LEASE);
    let from = session.gateway.so_far();
    let verdict = if session.gateway.asked(from, PATIENCE, renewing).await.is_some() {
        let from = session.gateway.so_far();
        sleep(WATCHED).await;
        match session.gateway.asked_since(from).iter().filter(|asked| renewing(asked)).count() {
            0 | 1 => Ok(()),
            often => Err(format!(
                "{often} renewals within {WATCHED:?}, after an answer with \"lease_ms\": {}",
                LONGER_LEASE.as_millis()
            )),
        }
    } else {
        Err("no second renewal".to_owned())
    };
    session.report.record(&checks::LEASE_NEWEST, verdict);
    session.gateway.change(|script| script.lease = SHORT_LEASE);
}

/// Puts the conversation to the test. Whether the worker still converses afterwards.
pub(super) async fn trouble(session: &mut Session) -> bool {
    let verdict = lapse(session).await;
    if !converses(session, &checks::LEASE_LAPSED, verdict).await {
        return false;
    }
    let verdict = refused_later(session).await;
    if !converses(session, &checks::LEASE_REFUSED, verdict).await {
        return false;
    }
    let verdict = redirected(session).await;
    if !converses(session, &checks::REGISTRATION_REDIRECT, verdict).await {
        return false;
    }
    let verdict = lost(session).await;
    converses(session, &checks::LEASE_LOST, verdict).await
}

/// Records how a check went. Whether the worker converses after one that failed has to be seen.
async fn converses(session: &mut Session, check: &Check, verdict: Verdict) -> bool {
    let failed = verdict.is_err();
    session.report.record(check, verdict);
    let converses = !failed || back_to_normal(session).await.is_ok();
    if !converses {
        session.report.close("the worker no longer calls the gateway");
    }
    converses
}

/// The lease lapses, and the gateway takes no registration at first.
async fn lapse(session: &mut Session) -> Verdict {
    let (before, _) = session.gateway.worker().ok_or("the worker is not registered")?;
    let from = session.gateway.so_far();
    session.gateway.change(|script| {
        script.register = Answering::Status(StatusCode::SERVICE_UNAVAILABLE);
        script.renew = Answering::Status(StatusCode::NOT_FOUND);
    });
    let registering = |asked: &Asked| asked.what == What::Register;
    session.gateway.asked(from, PATIENCE, registering).await.ok_or("no POST /v1/workers after a 404")?;
    sleep(TROUBLE).await;
    let attempts = session.gateway.asked_since(from).iter().filter(|asked| registering(asked)).count();
    let from = session.gateway.so_far();
    session.gateway.change(|script| {
        script.register = Answering::Well;
        script.renew = Answering::Well;
    });
    let after = accepted(session, from).await.ok_or("no POST /v1/workers again after a 503")?;
    let backoff = if attempts > LOOP {
        Err(format!("{attempts} registrations within {TROUBLE:?}, all answered by 503"))
    } else {
        Ok(())
    };
    session.report.record(&checks::LEASE_BACKOFF, backoff);
    let secret = newest_secret(&before, &after).await;
    session.report.record(&checks::LEASE_SECRET, secret);
    Ok(())
}

async fn newest_secret(before: &Worker, after: &Worker) -> Verdict {
    after.is_alive().await.map_err(|seen| format!("with the new secret: {seen}"))?;
    let answer = after.post(Some(&before.bearer()), &super::worker::Call::nobodys().bytes()).await?;
    match answer.status {
        401 => Ok(()),
        _ => Err(format!("with the secret of the registration before: {}", answer.shown())),
    }
}

async fn refused_later(session: &mut Session) -> Verdict {
    let refusal = Answering::Status(StatusCode::UNAUTHORIZED);
    let from = session.gateway.so_far();
    session.gateway.change(|script| {
        script.register = refusal;
        script.renew = refusal;
    });
    let asks = attempts(session, from, 2).await.map_err(|seen| format!("{seen} after a 401"));
    asks.and(alive(session).await).and(back_to_normal(session).await)
}

async fn redirected(session: &mut Session) -> Verdict {
    let from = session.gateway.so_far();
    session.gateway.change(|script| {
        script.register = Answering::Redirecting;
        script.renew = Answering::Redirecting;
    });
    let asks = attempts(session, from, 2).await.map_err(|seen| format!("{seen} after a 307"));
    let followed = session.gateway.asked_since(from).iter().any(|asked| asked.what == What::FollowARedirect);
    asks.and(back_to_normal(session).await)?;
    if followed { Err("a call of the URL in Location".to_owned()) } else { Ok(()) }
}

async fn lost(session: &mut Session) -> Verdict {
    session.gateway.go_away().await;
    sleep(TROUBLE).await;
    let serves = alive(session).await.map_err(|seen| format!("while the gateway was away: {seen}"));
    session.gateway.come_back().map_err(|error| format!("{error:#}"))?;
    back_to_normal(session).await.map_err(|seen| format!("{seen} once the gateway was back")).and(serves)
}

/// Waits for that many calls, whatever they ask.
async fn attempts(session: &Session, from: usize, number: usize) -> Verdict {
    for index in 0..number {
        let next = session.gateway.asked(from + index, PATIENCE, |_| true).await;
        next.ok_or_else(|| format!("no call {} of the gateway", index + 1))?;
    }
    Ok(())
}

/// Answers well from now on, and waits until the worker has noticed.
async fn back_to_normal(session: &Session) -> Verdict {
    let from = session.gateway.so_far();
    session.gateway.change(|script| {
        script.register = Answering::Well;
        script.renew = Answering::Well;
    });
    let well = |asked: &Asked| match &asked.what {
        What::Register => asked.answered == StatusCode::CREATED,
        What::Renew(_) => asked.answered == StatusCode::OK,
        What::Leave(_) | What::FollowARedirect | What::Other(_) => false,
    };
    session
        .gateway
        .asked(from, PATIENCE, well)
        .await
        .map(|_| ())
        .ok_or("no renewal and no registration".to_owned())
}

async fn alive(session: &Session) -> Verdict {
    let (worker, _) = session.gateway.worker().ok_or("the worker is not registered")?;
    worker.is_alive().await
}

/// An operator drains the worker, and then its lease lapses.
pub(super) async fn drained(session: &mut Session) -> Verdict {
    let renewing = |asked: &Asked| matches!(&asked.what, What::Renew(_));
    let from = session.gateway.so_far();
    session.gateway.change(|script| {
        script.lease = SHORT_LEASE;
        script.renew = Answering::Draining;
    });
    session.gateway.asked(from, PATIENCE, renewing).await.ok_or("no renewal")?;
    let from = session.gateway.so_far();
    session.gateway.asked(from, PATIENCE, renewing).await.ok_or("no renewal after \"draining\": true")?;
    alive(session).await.map_err(|seen| format!("a call of the drained worker: {seen}"))?;
    let from = session.gateway.so_far();
    session.gateway.change(|script| script.renew = Answering::Status(StatusCode::NOT_FOUND));
    session.gateway.asked(from, PATIENCE, renewing).await.ok_or("no renewal after \"draining\": true")?;
    let back = session.gateway.asked(from, WATCHED, |asked| asked.what == What::Register).await;
    match back {
        Some(_) => Err("POST /v1/workers, though it was drained".to_owned()),
        None => alive(session).await.map_err(|seen| format!("after its lease lapsed: {seen}")),
    }
}

/// What can be said of all calls of the gateway together.
pub(super) fn all_calls(session: &mut Session) {
    let log = session.gateway.asked_since(0);
    let without_token = log.iter().find(|asked| !asked.authorized);
    let verdict = match without_token {
        Some(asked) => Err(format!("{:?} without the token", asked.what)),
        None => Ok(()),
    };
    session.report.record(&checks::REGISTRATION_TOKEN, verdict);
    if session.command.is_none() {
        return;
    }
    let verdict = match log.iter().find(|asked| asked.as_to_a_proxy) {
        Some(asked) => Err(format!("{:?} came through the proxy of the environment", asked.what)),
        None => Ok(()),
    };
    session.report.record(&checks::REGISTRATION_DIRECT, verdict);
}
