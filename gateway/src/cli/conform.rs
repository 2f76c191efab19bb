//! `gearway conform`: plays the gateway for a worker in any language, and says what of the protocol it keeps.

mod calls;
mod checks;
mod gateway;
mod handlers;
mod life;
mod processes;
mod report;
mod transport;
mod vectors;
mod wire;
mod worker;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::bail;
use http::StatusCode;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use self::checks::Check;
use self::gateway::{Answering, Gateway, Script};
use self::processes::CommandLine;
use self::report::{Report, Verdict, counted};
use self::wire::{Notes, SharedNotes};
use self::worker::Worker;
use super::process::Process;
use super::{ConformArgs, output};

/// The gateway's default limit of a request's body.
const LARGE: usize = 10 * 1024 * 1024;
/// How long a worker that was started may take to register.
const START: Duration = Duration::from_secs(60);
/// Where a worker that somebody else starts finds the gateway by default.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 3001);
/// Where one that this command starts is told to find it.
const LISTEN_ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// A worker, the gateway that is played for it, and what was found out.
struct Session {
    gateway: Gateway,
    token: String,
    report: Report,
    notes: SharedNotes,
    command: Option<CommandLine>,
    process: Option<Process>,
    idle: Duration,
}

pub(super) fn run(args: ConformArgs) -> anyhow::Result<()> {
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        // A worker that was started ends with this command.
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            outcome = Box::pin(conform(args)) => outcome,
            _ = interrupt.recv() => bail!("interrupted"),
            _ = terminate.recv() => bail!("interrupted"),
        }
    })
}

async fn conform(args: ConformArgs) -> anyhow::Result<()> {
    let notes = SharedNotes::default();
    let script = Script {
        register: Answering::Status(StatusCode::SERVICE_UNAVAILABLE),
        renew: Answering::Well,
        lease: life::LEASE,
    };
    let command = (!args.command.is_empty()).then_some(CommandLine(args.command));
    let listen = args.listen.unwrap_or(if command.is_some() { LISTEN_ANYWHERE } else { LISTEN });
    let gateway = Gateway::listen(listen, &args.token, args.url.clone(), script, SharedNotes::clone(&notes))?;
    let mut session = Session {
        gateway,
        token: args.token,
        report: Report::default(),
        notes,
        command,
        process: None,
        idle: args.idle.into(),
    };
    if let Some(url) = &args.url {
        output::complain(&format!(
            "start the worker at {url} with GEARWAY_GATEWAY={} GEARWAY_TOKEN={}",
            session.gateway.url(),
            session.token
        ));
    }
    processes::start(&mut session)?;
    let worker = check_all(&mut session).await?;
    session.report.close("an earlier check did not hold");
    if args.json {
        session.report.print_json(worker.as_ref().map(|worker| &*worker.registration))?;
    } else {
        session.report.print()?;
    }
    let tally = session.report.tally();
    match (tally.fails, tally.skipped) {
        (0, 0) => Ok(()),
        (0, _) if !args.strict => Ok(()),
        (0, skipped) => bail!("{} skipped, which --strict does not allow", counted(skipped)),
        (fails, _) => bail!("the worker does not conform: {} failed", counted(fails)),
    }
}

/// The worker as it first registered, if it did.
async fn check_all(session: &mut Session) -> anyhow::Result<Option<Worker>> {
    let patience = session.command.as_ref().map(|_| START);
    let Some(worker) = life::register(session, patience).await else { return Ok(None) };
    let registration = &worker.registration;
    if session.command.is_some() {
        let name = &registration.name;
        let verdict = if name == processes::NAME { Ok(()) } else { Err(format!("name: {name:?}")) };
        session.report.record(&checks::REGISTRATION_NAME, verdict);
    }
    handlers::judge(registration, &mut session.report);

    output::complain(&format!("{} registered from {}", registration.name, registration.url));
    life::renewals(session).await;
    output::complain("calling its handlers");
    let (idle, ()) = tokio::join!(transport::idle(&worker, session.idle), async {
        calls::run(&worker, &mut session.report).await;
        transport::run(&worker, &mut session.report).await;
    });
    session.report.record(&checks::HTTP_IDLE, idle);
    transport::run_full(&worker, &mut session.report).await;
    // While it leaves, a worker may well close its connections.
    conclude(session, &checks::HTTP_KEEP_ALIVE, |notes| &notes.keep_alive);
    output::complain("making trouble as a gateway");
    let converses = life::trouble(session).await;
    if session.command.is_some() {
        output::complain("ending it and starting it again");
        processes::run(session).await?;
    } else {
        for check in checks::ALL.iter().filter(|check| check.needs_command) {
            session
                .report
                .skip(check, "it needs a worker that gearway conform starts itself: gearway conform -- CMD");
        }
        if converses {
            let verdict = life::drained(session).await;
            session.report.record(&checks::LEASE_DRAINED, verdict);
        }
    }
    life::all_calls(session);
    conclude(session, &checks::HTTP_FRAMING, |notes| &notes.framing);
    conclude(session, &checks::REPLY_CONTENT_TYPE, |notes| &notes.content_type);
    Ok(Some(worker))
}

/// What all answers together have shown.
fn conclude(session: &mut Session, check: &Check, faults: impl Fn(&Notes) -> &BTreeSet<String>) {
    let faults: Vec<_> = faults(&session.notes.lock()).iter().cloned().collect();
    session.report.record(check, if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) });
}

/// Records how a check of a handler goes, if the worker has the handler.
async fn check(report: &mut Report, worker: &Worker, check: &Check, verdict: impl Future<Output = Verdict>) {
    match check.handler {
        Some(handler) if worker.handlers(handler).next().is_none() => {
            report.skip(check, &format!("the worker does not serve {handler}"));
        }
        Some(_) | None => report.record(check, verdict.await),
    }
}
