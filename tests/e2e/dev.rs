//! `gearway dev`, as somebody who writes a worker sees it, and what operators see of requests.

use std::fs;
use std::path::Path;
use std::process::Command;

use gearway_tests::gateway::gearway;
use gearway_tests::port::ReservedPort;
use gearway_tests::process::{Process, Signal, run};
use gearway_tests::wait;
use gearway_tests::{Gateway, Request, binaries};
use serde_json::Value;

/// `gearway dev` in a folder of its own; returns it once it listens, with the address for clients.
async fn dev(folder: &Path, command: &[&str]) -> (Process, std::net::SocketAddr) {
    let mut dev = gearway(&["dev", "--public-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    dev.current_dir(folder).env("PATH", std::env::var_os("PATH").unwrap_or_default());
    dev.env("GEARWAY_AUTH__MASTER_KEYS", "master");
    if !command.is_empty() {
        dev.arg("--").args(command);
    }
    let process = Process::spawn("dev", dev);
    let public = process
        .wait_for_line("where the gateway listens", |line| {
            line.strip_prefix("gateway on http://")?.split(',').next()?.parse().ok()
        })
        .await;
    (process, public)
}

/// Ends it as Ctrl-C does, so that what it started ends as well.
async fn end(dev: &Process) {
    dev.signal(Signal::INT);
    assert_eq!(dev.wait_for_exit().await.code(), Some(0));
}

async fn shown(dev: &Process, text: &str) {
    dev.wait_for_line(text, |line| line.contains(text).then_some(())).await;
}

#[tokio::test]
async fn routes_requests_and_errors_are_shown_and_a_changed_file_restarts_the_worker() {
    let folder = tempfile::tempdir().expect("a folder");
    let worker = binaries::path("seed-page").to_str().expect("UTF-8");
    fs::write(folder.path().join("note.txt"), "one").expect("a file");
    let (dev, public) = dev(folder.path(), &[worker]).await;
    shown(&dev, "METHODS").await;
    dev.wait_for_line("a route", |line| {
        let cells: Vec<&str> = line.split_whitespace().collect();
        cells.ends_with(&["/abc/def", "seed-page", "-", "live"]).then_some(())
    })
    .await;
    assert_eq!(Request::get("/abc/def").send(public).await.status, 200);
    let line = dev
        .wait_for_line("the request", |line| {
            line.starts_with("200 GET    /abc/def  ").then(|| line.to_owned())
        })
        .await;
    assert!(line.contains("/abc/def of seed-page  gateway ") && line.contains(" ms, worker "), "{line}");
    let by_alice = Request::get("/private").api_key("master").header("X-Gearway-User-Id", "alice");
    assert_eq!(by_alice.send(public).await.status, 200);
    dev.wait_for_line("who asked", |line| {
        (line.starts_with("200 GET    /private  /private of seed-page") && line.ends_with("  as alice"))
            .then_some(())
    })
    .await;
    assert_eq!(Request::get("/buy/hamlet/9").send(public).await.status, 500);
    shown(&dev, "SoldOut 10001: ").await;
    assert_eq!(Request::get("/nobody").send(public).await.status, 200);
    shown(&dev, "200 GET    /nobody  no route  gateway ").await;

    let starts = dev.lines().iter().filter(|line| line.contains("restarting the worker")).count();
    assert_eq!(starts, 0);
    fs::write(folder.path().join("note.txt"), "two").expect("a file");
    shown(&dev, "note.txt changed, restarting the worker").await;
    wait::until("the worker serves again", async || {
        (Request::get("/abc/def").send(public).await.status == 200).then_some(())
    })
    .await;
    end(&dev).await;
    assert!(!dev.lines().iter().any(|line| line.contains('\u{1b}')), "no colours off a terminal");
}

/// The sender's 200 says nothing about the handler of a stored webhook.
#[tokio::test]
async fn what_becomes_of_a_stored_webhook_is_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let worker = binaries::path("delivery-worker").to_str().expect("UTF-8");
    let ledger = folder.path().join("ledger").to_str().expect("UTF-8").to_owned();
    let command = format!("test -e told && export LEDGER='{ledger}'; exec '{worker}'");
    let (dev, public) = dev(folder.path(), &["sh", "-c", &command]).await;
    shown(&dev, "/hook").await;
    let response = Request::post("/hook", "x").send(public).await;
    assert_eq!(response.status, 200, "{response:?}");
    let id = response.header("x-gearway-delivery").expect("an id").to_owned();
    let of = format!("attempt 1 of delivery {id}  worker ");
    dev.wait_for_line("the failure", |line| {
        (line.starts_with("400 POST   /hook  ") && line.contains(&of) && line.contains(", again at "))
            .then_some(())
    })
    .await;
    // Now the handler works.
    fs::write(folder.path().join("told"), "").expect("a file");
    dev.wait_for_line("the delivery", |line| {
        (line.starts_with("200 POST   /hook  ") && line.contains(&format!(" of delivery {id}  worker ")))
            .then_some(())
    })
    .await;
    end(&dev).await;
}

/// As when its terminal is closed.
#[tokio::test]
async fn a_hang_up_ends_it_with_all_that_it_started() {
    let folder = tempfile::tempdir().expect("a folder");
    let (dev, public) = dev(folder.path(), &["sleep", "600"]).await;
    dev.signal(Signal::HUP);
    assert_eq!(dev.wait_for_exit().await.code(), Some(0));
    assert!(std::net::TcpStream::connect(public).is_err(), "the gateway went on");
}

#[tokio::test]
async fn a_worker_that_does_not_register_and_a_taken_port_get_a_hint() {
    let folder = tempfile::tempdir().expect("a folder");
    let (silent, _) = dev(folder.path(), &["sleep", "600"]).await;
    shown(&silent, "hint: it registers at GEARWAY_GATEWAY (http://127.0.0.1:").await;
    end(&silent).await;

    let taken = ReservedPort::take();
    let listener = std::net::TcpListener::bind(taken.address());
    let address =
        listener.as_ref().map_or(taken.address(), |listener| listener.local_addr().expect("an address"));
    let other = tempfile::tempdir().expect("a folder");
    let mut command = gearway(&["dev", "--admin-listen", "127.0.0.1:0", "--public-listen"]);
    command.arg(address.to_string()).current_dir(other.path());
    let finished = run(command).await;
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert!(finished.output().contains(&format!("cannot listen on public.listen {address}")), "{finished:?}");
    assert!(finished.output().contains("choose another port for clients"), "{finished:?}");
}

#[tokio::test]
async fn a_stolen_route_gets_a_hint() {
    let folder = tempfile::tempdir().expect("a folder");
    let worker = binaries::path("seed-page").to_str().expect("UTF-8");
    let (dev, _) = dev(folder.path(), &[worker]).await;
    let admin = dev
        .wait_for_line("where workers register", |line| {
            Some(line.split_once("workers register on ")?.1.to_owned())
        })
        .await;
    dev.wait_for_line("the routes", |line| line.contains("/abc/def").then_some(())).await;
    let token = fs::read_to_string(folder.path().join("gearway-data/registration-token")).expect("a token");
    let mut thief = Command::new(binaries::path("seed-page"));
    thief.env_clear().env("GEARWAY_GATEWAY", admin).env("GEARWAY_TOKEN", token.trim());
    thief.env("GEARWAY_NAME", "thief");
    let _thief = Process::spawn("thief", thief);
    shown(&dev, "hint: another worker name has this route").await;
    end(&dev).await;
}

#[tokio::test]
async fn the_access_log_has_the_fields_that_were_chosen() {
    let gateway = Gateway::start(
        "log.access = true\nlog.access_fields = [\"method\", \"path\", \"status\", \"error\"]",
    )
    .await;
    let worker = gearway_tests::Worker::start_routed(&gateway, "seed-page", "/abc/def").await;
    assert_eq!(gateway.get("/buy/hamlet/9?canary=1").await.status, 500);
    let line =
        gateway.wait_for_log("the request", |line| line.contains("\"target\":\"gearway::access\"")).await;
    let event: Value = serde_json::from_str(&line).expect("JSON");
    let mut names: Vec<_> = event.as_object().expect("an object").keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["error", "level", "message", "method", "path", "status", "target", "timestamp"]);
    assert_eq!(
        (&event["status"], &event["path"], &event["level"]),
        (&500.into(), &"/buy/hamlet/9".into(), &"INFO".into())
    );
    drop(worker);
}
