//! SIGUSR2: a new process takes over, and nobody notices.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use gearway_tests::disk::{FailingDisk, strace_is_there};
use gearway_tests::gateway::is_running;
use gearway_tests::process::Signal;
use gearway_tests::server::{Answer, Gate};
use gearway_tests::{
    Admin, Connection, Gateway, Load, Registration, Request, ScriptedWorker, Worker, binaries, wait,
};
use serde_json::{Value, json};

use crate::expect::{not_run, serving};

async fn wait_for_end(pid: u32) {
    wait::until("the process before ends", async || (!is_running(pid)).then_some(())).await;
}

/// The promise itself: many clients on connections that they keep, several upgrades in a row, not one failed request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_under_load_fail_no_request() {
    let gateway = Gateway::start("").await;
    let _worker = Worker::start_routed(&gateway, "seed-page", "/abc/def").await;
    let load = Load::start(gateway.public_address(), 32, &Request::post("/abc/def", "body"));
    load.wait_for_more(500).await;
    for _ in 0..4 {
        let before = gateway.current_pid();
        let after = gateway.upgrade().await;
        assert_ne!(before, after);
        load.wait_for_more(500).await;
        wait_for_end(before).await;
        load.wait_for_more(500).await;
    }
    load.stop().await.assert_all_ok();
    assert_eq!(gateway.process().wait_for_exit().await.code(), Some(0));
    // Its worker has found its way to the last one, which obeys as the first did.
    gateway.admin().wait_for_workers(1).await;
    let last = gateway.current_pid();
    gateway.signal(Signal::TERM);
    wait_for_end(last).await;
}

/// Every request opens a connection: what waits in the listener's queue belongs to both processes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_refuse_no_connection() {
    let (gateway, _worker) = serving("", &["foo"]).await;
    let request = Request::get("/foo").header("Connection", "close");
    let load = Load::start(gateway.public_address(), 8, &request);
    for _ in 0..3 {
        load.wait_for_more(300).await;
        gateway.upgrade().await;
    }
    load.wait_for_more(300).await;
    load.stop().await.assert_all_ok();
}

/// What runs at the old process gets its answer there, however long the new one has been serving.
#[tokio::test]
async fn a_call_in_flight_is_answered_by_the_process_that_has_it() {
    let (gateway, worker) = serving("", &["slow"]).await;
    let gate = Gate::default();
    worker.always(Answer::text("at last").after(&gate));
    let address = gateway.public_address();
    let running = tokio::spawn(async move {
        let mut connection = Connection::open(address).await;
        let response = connection.request(&Request::post("/slow", "x")).await.expect("an answer");
        (response.expect_status(200).text(), connection.is_closing())
    });
    worker.call(0).await;
    gateway.upgrade().await;
    worker.always(Answer::text("quick"));
    assert_eq!(gateway.post("/slow", "x").await.text(), "quick");
    assert!(gateway.process().is_running(), "it waits for what runs");
    gate.open();
    assert_eq!(running.await.expect("no panic"), ("at last".to_owned(), true));
    assert_eq!(gateway.process().wait_for_exit().await.code(), Some(0));
    assert_eq!(worker.calls().len(), 2, "each call ran once");
}

/// Everything that the old process knew, the new one knows: registrations, tokens, routes without a worker.
#[tokio::test]
async fn nothing_is_forgotten() {
    let config = "[public]\nunmatched = \"not_found\"";
    let (gateway, worker) = serving(config, &["foo"]).await;
    let gone = ScriptedWorker::start("gone");
    let registered = gone.register(&gateway, &Registration::new("gone").handler("left/")).await;
    drop(gateway.worker_side().deregister(&registered.worker_id).await.expect_status(204));
    let token = gateway.admin().create_token("alice", "1h").await;
    let before = gateway.admin().workers().await;
    gateway.upgrade().await;
    assert_eq!(gateway.admin().workers().await, before);
    assert_eq!(gateway.post("/foo", "x").await.status, 200);
    assert_eq!(gateway.post("/nowhere", "x").await.status, 404);
    let routes = gateway.admin().routes().await;
    assert!(routes.iter().any(|route| route.path == "/left/"), "{routes:?}");
    drop(gateway.get("/foo").await);
    gateway.admin().revoke_token(&token.id).await;
    assert_eq!(worker.calls().len(), 2);
}

/// The routes of a configured worker are in no store: the new process has them before it serves.
#[tokio::test]
async fn a_plugin_is_routed_from_the_first_moment() {
    let plugin = ScriptedWorker::start("legacy");
    let init = json!({"result": {"handler": [{"name": "foo"}]}});
    let reply = json!({"result": {"status": 200, "header": {}, "body": ""}});
    let answers = (Answer::reply(&init), Answer::reply(&reply));
    plugin.script(
        move |call| if call.envelope["kind"] == "event" { answers.0.clone() } else { answers.1.clone() },
    );
    // Only in the first lease does it answer 503 to what it does not know.
    let lease = "[public]\nunmatched = \"not_found\"\n[workers]\nlease = \"100ms\"";
    let config = format!(
        "{lease}\n[[plugin]]\nname = \"legacy\"\nurl = \"{}\"\nprotocol = \"skygear-v1\"",
        plugin.url()
    );
    let gateway = Gateway::start(&config).await;
    gateway.admin().wait_for_route("/foo").await;
    let known = async || (gateway.post("/unmatched", "x").await.status == 404).then_some(());
    wait::until("the first lease is over", known).await;
    // It answers no init any more, only calls.
    let reply = Answer::reply(&reply);
    plugin.script(move |call| if call.envelope["kind"] == "event" { Answer::close() } else { reply.clone() });
    gateway.upgrade().await;
    let response = gateway.post("/foo", "x").await.expect_status(200);
    assert_eq!(response.text(), "");
    assert_eq!(gateway.post("/unmatched", "x").await.status, 404, "the plugin does not count as silent");
}

/// Workers and operators may still hold connections to the old process: what they ask there is done by the new one.
#[tokio::test]
async fn admin_connections_of_the_old_process_lead_to_the_new_one() {
    let (gateway, worker) = serving("", &["slow"]).await;
    let gate = Gate::default();
    worker.always(Answer::text("done").after(&gate));
    let address = gateway.public_address();
    let running = tokio::spawn(async move { Request::post("/slow", "x").send(address).await });
    worker.call(0).await;
    let Admin { address, token } = gateway.admin();
    let mut kept = Connection::open(address).await;
    let list = Request::get("/v1/workers").bearer(&token);
    let id = kept.request(&list).await.expect("an answer").json()["workers"][0]["id"].clone();
    gateway.upgrade().await;
    let create = Request::new("POST", "/v1/tokens").bearer(&token).json(&json!({"user": "alice"}));
    drop(kept.request(&create).await.expect("an answer").expect_status(201));
    assert!(kept.is_closing());
    let tokens = gateway.admin().get("/v1/tokens").await.json();
    assert_eq!(tokens["tokens"].as_array().map(Vec::len), Some(1), "{tokens}");
    assert_eq!(gateway.admin().workers().await[0].id, id.as_str().unwrap_or_default());
    gate.open();
    drop(running.await.expect("no panic").expect_status(200));
}

/// A gateway that runs from a file of its own, so that the test can put another one in its place.
async fn replaceable(config: &str) -> (Gateway, PathBuf, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a folder");
    let program = dir.path().join("gearway");
    install(&program, None);
    let gateway = Gateway::builder().config(config).program(&program).start().await;
    (gateway, program, dir)
}

/// Puts the built binary there, or a script, as an upgrade does: by a new file under the old name.
fn install(program: &Path, script: Option<&str>) {
    let new = program.with_extension("new");
    match script {
        Some(script) => std::fs::write(&new, format!("#!/bin/sh\n{script}\n")).expect("a writable folder"),
        None => drop(std::fs::copy(binaries::path("gearway"), &new).expect("a copy")),
    }
    std::fs::set_permissions(&new, PermissionsExt::from_mode(0o755)).expect("its own file");
    std::fs::rename(&new, program).expect("the same folder");
}

async fn still_serves(gateway: &Gateway) {
    let worker = ScriptedWorker::start("later");
    worker.register(gateway, &Registration::new("later").handler("later")).await;
    assert_eq!(gateway.post("/later", "x").await.status, 200);
    assert!(gateway.process().is_running());
    for worker in gateway.admin().workers().await {
        drop(gateway.worker_side().deregister(&worker.id).await.expect_status(204));
    }
}

/// Whatever goes wrong with the new process before it serves, the old one goes on, can write again, and says why.
#[tokio::test]
async fn a_successor_that_fails_changes_nothing() {
    let (gateway, program, _dir) = replaceable("").await;
    let failures = [
        ("exit 3", "exit status: 3"),
        // Says that it is ready, hears that everything is its own, and dies.
        ("read hello; echo '\"ready\"' >&0; read yours; exit 4", "exit status: 4"),
        ("read hello; echo '{\"failed\":\"no such luck\"}' >&0; sleep 60", "no such luck"),
        ("read hello; echo nonsense >&0; sleep 60", "did not take over"),
    ];
    for (number, (script, reason)) in failures.into_iter().enumerate() {
        install(&program, Some(script));
        gateway.signal(Signal::USR2);
        let is_refused = |line: &&String| line.contains("this process goes on");
        let refusals = async || {
            let log = gateway.log();
            log.iter().filter(is_refused).nth(number).cloned()
        };
        let line = wait::until("the old process goes on", refusals).await;
        assert!(line.contains(reason), "{line}");
        still_serves(&gateway).await;
    }
    // A file that cannot be used, read by the real program.
    install(&program, None);
    gateway.write_config_as_it_is("nonsense = 1");
    gateway.signal(Signal::USR2);
    gateway.wait_for_log("why", |line| line.contains("did not take over") && line.contains("nonsense")).await;
    still_serves(&gateway).await;
    // And with everything right again, it hands over.
    gateway.write_config("");
    let successor = gateway.upgrade().await;
    let running = std::fs::read_link(format!("/proc/{successor}/exe")).expect("it runs");
    assert_eq!(running, program.canonicalize().expect("it exists"));
    assert_eq!(gateway.process().wait_for_exit().await.code(), Some(0));
}

/// The new process reads the file anew: an address that has changed is bound, a data_dir that has changed is refused.
#[tokio::test]
async fn a_successor_reads_the_configuration_anew() {
    let (gateway, _worker) = serving("", &["foo"]).await;
    gateway.write_config("data_dir = \"elsewhere\"");
    gateway.signal(Signal::USR2);
    gateway.wait_for_log("why", |line| line.contains("did not take over") && line.contains("data_dir")).await;
    let port = gearway_tests::port::ReservedPort::take();
    gateway.write_config(&format!("[public]\nlisten = \"{}\"", port.address()));
    gateway.upgrade().await;
    assert_eq!(Request::get("/foo").send(port.address()).await.status, 200);
    wait::until("the old address is closed", async || {
        Connection::connect(gateway.public_address()).await.err()
    })
    .await;
}

/// A signal to end comes before a successor that never gets ready.
#[tokio::test]
async fn a_gateway_can_be_ended_while_it_waits_for_its_successor() {
    let (gateway, program, _dir) = replaceable("").await;
    install(&program, Some("read hello; sleep 600"));
    gateway.signal(Signal::USR2);
    gateway.wait_for_log("the successor starts", |line| line.contains("a new process takes over")).await;
    assert_eq!(gateway.sigterm().await.code(), Some(0));
}

/// The disk fails while a successor gets ready: nobody serves what cannot be kept, and no process is left behind.
#[tokio::test]
async fn a_disk_that_fails_ends_the_successor_too() {
    if !strace_is_there() {
        return;
    }
    let (gateway, program, _dir) = replaceable("").await;
    let worker = ScriptedWorker::start("hooks");
    let handler = json!({"name": "hook", "delivery": {"mode": "durable"}});
    worker.register(&gateway, &Registration::new("hooks").handler_with(handler)).await;
    install(&program, Some("read hello; exec sleep 600"));
    gateway.signal(Signal::USR2);
    let line = gateway.wait_for_log("it starts", |line| line.contains("a new process takes over")).await;
    let line: Value = serde_json::from_str(&line).expect("a line of JSON");
    let pid = line["pid"].as_u64().or(line["fields"]["pid"].as_u64()).expect("its process id");
    let log = gateway.data_dir().join("deliveries.db-wal");
    let _disk = FailingDisk::attach(gateway.process().id(), &log, "fsync,fdatasync").await;
    not_run(&gateway.post("/hook", "x").await);
    assert_eq!(gateway.process().wait_for_exit().await.code(), Some(1));
    wait_for_end(u32::try_from(pid).expect("a process id")).await;
}
