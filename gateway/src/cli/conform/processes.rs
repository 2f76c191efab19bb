//! What is checked by starting the worker and ending it.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use http::StatusCode;
use tokio::net::TcpSocket;
use tokio::process::Command;
use tokio::time::timeout;
use url::Url;

use super::gateway::{Answering, Asked, What};
use super::life::{self, LEASE, PATIENCE};
use super::report::Verdict;
use super::worker::{Call, Worker, reply};
use super::{Session, checks};
use crate::cli::process::Process;

/// The name that the worker is given.
pub(super) const NAME: &str = "conformance";
/// What runs when the worker is told to end.
const IN_FLIGHT: Duration = Duration::from_millis(1500);
/// Outlasts every patience with a worker that is told to end twice.
const ENDLESS: Duration = Duration::from_secs(29);
/// For a call that was written to reach its handler. A call that has not, has to be answered all the same.
const UNDER_WAY: Duration = Duration::from_millis(300);
/// How soon "at once" is.
const AT_ONCE: Duration = Duration::from_secs(5);

/// How to start the worker.
#[derive(Debug)]
pub(super) struct CommandLine(pub(super) Vec<OsString>);

impl CommandLine {
    /// Starts the worker with a proxy in its environment, for which it must not fall. What it prints goes to standard
    /// error, since standard output is the report's.
    fn start(&self, gateway: &str, token: &str, address: Option<&Address>) -> anyhow::Result<Process> {
        let (program, arguments) = self.0.split_first().context("no command was given")?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("GEARWAY_GATEWAY", gateway)
            .env("GEARWAY_TOKEN", token)
            .env("GEARWAY_NAME", NAME);
        match address {
            Some(address) => {
                command.env("GEARWAY_LISTEN", address.listen.to_string());
                command.env("GEARWAY_ADVERTISE", address.advertise.as_str());
            }
            None => {
                command.env("GEARWAY_LISTEN", "127.0.0.1:0").env_remove("GEARWAY_ADVERTISE");
            }
        }
        for variable in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
            command.env(variable, gateway);
        }
        for variable in ["NO_PROXY", "no_proxy"] {
            command.env_remove(variable);
        }
        command.stdout(Stdio::from(std::io::stderr().as_fd().try_clone_to_owned()?));
        Process::start(command).with_context(|| format!("cannot start {}", program.to_string_lossy()))
    }
}

/// Where a worker has to listen, and what it has to register.
struct Address {
    listen: SocketAddr,
    advertise: Url,
    /// Holds the port until the worker listens there.
    _port: TcpSocket,
}

impl Address {
    fn take() -> anyhow::Result<Self> {
        let port = TcpSocket::new_v4()?;
        port.set_reuseaddr(true)?;
        port.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let listen = port.local_addr()?;
        let advertise = Url::parse(&format!("http://localhost:{}/advertised", listen.port()))?;
        Ok(Self { listen, advertise, _port: port })
    }
}

/// Starts the worker for the first time.
pub(super) fn start(session: &mut Session) -> anyhow::Result<()> {
    start_at(session, None)
}

fn start_at(session: &mut Session, address: Option<&Address>) -> anyhow::Result<()> {
    if let Some(command) = &session.command {
        session.gateway.forget();
        session.process = Some(command.start(session.gateway.url(), &session.token, address)?);
    }
    Ok(())
}

/// Starts it anew, with a gateway that answers registrations so.
fn start_again(
    session: &mut Session,
    register: Answering,
    address: Option<&Address>,
) -> anyhow::Result<usize> {
    session.process = None;
    session.gateway.change(|script| {
        script.register = register;
        script.renew = Answering::Well;
        script.lease = LEASE;
    });
    let from = session.gateway.so_far();
    start_at(session, address)?;
    Ok(from)
}

/// Every way of ending; the worker of the checks before is ended first.
pub(super) async fn run(session: &mut Session) -> anyhow::Result<()> {
    leaving(session).await;
    let verdict = refused(session).await?;
    session.report.record(&checks::REGISTRATION_REFUSED, verdict);
    let verdict = never_registered(session).await?;
    session.report.record(&checks::LEAVING_UNREGISTERED, verdict);
    let verdict = second_signal(session).await?;
    match verdict {
        Some(verdict) => session.report.record(&checks::LEAVING_SECOND, verdict),
        None => session.report.skip(&checks::LEAVING_SECOND, "the worker does not serve conform/slow"),
    }
    elsewhere_and_drained(session).await?;
    session.process = None;
    Ok(())
}

async fn leaving(session: &mut Session) {
    let Some((worker, worker_id)) = session.gateway.worker() else {
        session.report.close("the worker was not registered any more when it was to leave");
        return;
    };
    let in_flight = match in_flight(&worker, IN_FLIGHT).await {
        Some(in_flight) => Some(in_flight),
        None => {
            session.report.skip(&checks::LEAVING_IN_FLIGHT, "the worker does not serve conform/slow");
            None
        }
    };
    let from = session.gateway.so_far();
    terminate(session);
    let leave = |asked: &Asked| matches!(&asked.what, What::Leave(id) if *id == worker_id);
    let left = session.gateway.asked(from, PATIENCE, leave).await;
    let stragglers = worker.is_alive().await;
    match left {
        Some(_) => session.report.record(&checks::LEAVING_STRAGGLERS, stragglers),
        None => session.report.skip(&checks::LEAVING_STRAGGLERS, "there was no DELETE"),
    }
    if let Some(in_flight) = in_flight {
        let verdict = in_flight.await.unwrap_or_else(|error| Err(error.to_string()));
        session.report.record(&checks::LEAVING_IN_FLIGHT, verdict);
    }
    let exit = exits_with(session, PATIENCE, |status| status.success()).await;
    session.report.record(&checks::LEAVING_EXIT, exit);
    let back = session
        .gateway
        .asked_since(from)
        .iter()
        .skip_while(|asked| !leave(asked))
        .any(|asked| asked.what == What::Register);
    let verdict = match (left, back) {
        (None, _) => Err("no DELETE of its worker_id".to_owned()),
        (Some(_), true) => Err("POST /v1/workers after the DELETE".to_owned()),
        (Some(_), false) => Ok(()),
    };
    session.report.record(&checks::LEAVING_DELETE, verdict);
}

async fn refused(session: &mut Session) -> anyhow::Result<Verdict> {
    let from = start_again(session, Answering::Status(StatusCode::UNAUTHORIZED), None)?;
    if session.gateway.asked(from, PATIENCE, |asked| asked.what == What::Register).await.is_none() {
        return Ok(Err("no POST /v1/workers".to_owned()));
    }
    Ok(exits_with(session, PATIENCE, |status| !status.success()).await)
}

async fn never_registered(session: &mut Session) -> anyhow::Result<Verdict> {
    let from = start_again(session, Answering::Status(StatusCode::SERVICE_UNAVAILABLE), None)?;
    if session.gateway.asked(from, PATIENCE, |asked| asked.what == What::Register).await.is_none() {
        return Ok(Err("no POST /v1/workers".to_owned()));
    }
    terminate(session);
    Ok(exits_with(session, PATIENCE, |status| status.success()).await)
}

async fn second_signal(session: &mut Session) -> anyhow::Result<Option<Verdict>> {
    let from = start_again(session, Answering::Well, None)?;
    let Some(worker) = life::accepted(session, from).await else {
        return Ok(Some(Err("no POST /v1/workers".to_owned())));
    };
    let Some(in_flight) = in_flight(&worker, ENDLESS).await else { return Ok(None) };
    terminate(session);
    let left = session.gateway.asked(from, PATIENCE, |asked| matches!(&asked.what, What::Leave(_))).await;
    if left.is_none() {
        return Ok(Some(Err("no DELETE after the first signal".to_owned())));
    }
    terminate(session);
    let verdict = exits_with(session, AT_ONCE, |_| true).await;
    in_flight.abort();
    Ok(Some(verdict))
}

/// One more process: it is told where to listen, and an operator drains it.
async fn elsewhere_and_drained(session: &mut Session) -> anyhow::Result<()> {
    let address = Address::take()?;
    let from = start_again(session, Answering::Well, Some(&address))?;
    let Some(worker) = life::accepted(session, from).await else {
        session.report.record(&checks::REGISTRATION_ADDRESS, Err("no POST /v1/workers".to_owned()));
        session
            .report
            .skip(&checks::LEASE_DRAINED, "the worker did not register when it was told where to listen");
        return Ok(());
    };
    let verdict = if worker.url == address.advertise {
        worker.is_alive().await.map_err(|seen| format!("a call of {}: {seen}", address.advertise))
    } else {
        Err(format!("{} was registered, and GEARWAY_ADVERTISE was {}", worker.url, address.advertise))
    };
    session.report.record(&checks::REGISTRATION_ADDRESS, verdict);
    let verdict = life::drained(session).await;
    terminate(session);
    let exit = exits_with(session, PATIENCE, |status| status.success()).await;
    let verdict = verdict.and(exit.map_err(|seen| format!("{seen} on SIGTERM, after it was drained")));
    session.report.record(&checks::LEASE_DRAINED, verdict);
    Ok(())
}

/// A call that is running; [`None`] when the worker serves none that is slow.
async fn in_flight(worker: &Worker, time: Duration) -> Option<tokio::task::JoinHandle<Verdict>> {
    worker.handlers("conform/slow").next()?;
    let worker = worker.clone();
    let call = tokio::spawn(async move { reply(&worker.answer(&Call::slow(time)).await?).map(|_| ()) });
    tokio::time::sleep(UNDER_WAY).await;
    Some(call)
}

/// How the process ended; never, if there is none.
pub(super) async fn ended(process: Option<&mut Process>) -> String {
    match process {
        Some(process) => {
            process.ended().await.map_or_else(|error| error.to_string(), |status| status.to_string())
        }
        None => std::future::pending().await,
    }
}

fn terminate(session: &Session) {
    if let Some(process) = &session.process {
        process.terminate();
    }
}

async fn exits_with(
    session: &mut Session,
    patience: Duration,
    wanted: impl Fn(ExitStatus) -> bool,
) -> Verdict {
    let Some(process) = &mut session.process else { return Err("the worker is not there".to_owned()) };
    let ended = timeout(patience, process.ended()).await;
    session.process = None;
    match ended {
        Ok(Ok(status)) if wanted(status) => Ok(()),
        Ok(Ok(status)) => Err(status.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("the process still runs after {patience:?}")),
    }
}
