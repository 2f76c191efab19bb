//! Contract sections 1 and 2: commands, exit codes, the configuration and its reload.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use gearway_tests::gateway::gearway;
use gearway_tests::port::ReservedPort;
use gearway_tests::process::{Finished, Process, Signal, run};
use gearway_tests::{Answer, Connection, Gate, Gateway, Registration, Request, ScriptedWorker, wait};
use serde_json::{Value, json};

use crate::expect::{self, serving, unmatched};

#[tokio::test]
async fn check_names_every_mistake_by_key_and_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let good = check(dir.path(), "[limits]\nmax_body = \"1MiB\"\n[workers]\nlease = \"5s\"\n").await;
    assert_eq!(good.code(), 0, "{good:?}");
    assert_eq!(check(dir.path(), "").await.code(), 0);

    let bad = check(
        dir.path(),
        r#"unknown_top = 1
[public]
listen = "nonsense"
unmatched = "maybe"
trusted_proxies = ["10.0.0.0/99"]
[limits]
max_body = "10 parsecs"
max_boddy = 3
[workers]
lease = 5
[auth.jwt]
secret = "a"
jwks_url = "http://127.0.0.1:1/"
[[plugin]]
name = "legacy"
url = "http://127.0.0.1:8000/"
protocol = "skygear-v9"
"#,
    )
    .await;
    assert_eq!(bad.code(), 1, "{bad:?}");
    let output = bad.output();
    for (key, line) in [
        ("unknown_top", "1"),
        ("public.listen", "3"),
        ("public.unmatched", "4"),
        ("public.trusted_proxies", "5"),
        ("limits.max_body", "7"),
        ("limits.max_boddy", "8"),
        ("workers.lease", "10"),
        ("auth.jwt", "1"),
        ("protocol", "17"),
    ] {
        let named = output.lines().any(|text| text.contains(key) && text.contains(line));
        assert!(named, "{key} on line {line} is not named:\n{output}");
    }

    let no_toml = check(dir.path(), "[public\nlisten = 1").await;
    assert_eq!(no_toml.code(), 1, "{no_toml:?}");
    assert!(no_toml.output().contains('1'), "{no_toml:?}");
    let missing = run(gearway(&["check", "--config", "/no/such/file.toml"])).await;
    assert_eq!(missing.code(), 1, "{missing:?}");
    assert!(missing.output().contains("/no/such/file.toml"), "{missing:?}");
}

#[tokio::test]
async fn exit_codes_tell_usage_from_failure() {
    for (arguments, code) in [
        (&["--version"][..], 0),
        (&["--help"], 0),
        (&["config-template"], 0),
        (&["completion", "bash"], 0),
        (&[], 2),
        (&["frobnicate"], 2),
        (&["serve", "--no-such-flag"], 2),
        (&["check"], 2),
        (&["tokens", "create"], 2),
        (&["completion", "no-such-shell"], 2),
        (&["routes", "--admin", "http://127.0.0.1:1", "--token", "a"], 1),
        (&["healthcheck", "--admin", "http://127.0.0.1:1"], 1),
    ] {
        let finished = run(gearway(arguments)).await;
        assert_eq!(finished.code(), code, "{arguments:?}: {finished:?}");
        assert!(!finished.output().trim().is_empty(), "{arguments:?} says nothing");
    }
    let version = run(gearway(&["--version"])).await;
    assert!(version.stdout.starts_with("gearway "), "{version:?}");
}

#[tokio::test]
async fn the_template_is_a_configuration() {
    let dir = tempfile::tempdir().expect("a folder");
    let template = run(gearway(&["config-template"])).await.stdout;
    for key in ["data_dir", "client_keys", "max_in_flight", "remember", "allowed_urls", "drain_timeout"] {
        assert!(template.contains(key), "{key} is missing:\n{template}");
    }
    let checked = check(dir.path(), &template).await;
    assert_eq!(checked.code(), 0, "{checked:?}");
}

#[tokio::test]
async fn serve_refuses_a_bad_file_and_says_why() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = write(dir.path(), "[limits]\nmax_boddy = \"1MiB\"\n");
    let mut command = gearway(&["serve", "--config"]);
    command.arg(file).current_dir(dir.path());
    let finished = run(command).await;
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert!(finished.output().contains("limits.max_boddy"), "{finished:?}");
}

#[tokio::test]
async fn the_environment_wins_over_the_file() {
    let gateway = Gateway::builder()
        .config("[auth]\nclient_keys = [\"of-the-file\"]\n[limits]\nmax_body = \"1MiB\"")
        .env("GEARWAY_AUTH__CLIENT_KEYS", "of-the-environment,second-of-the-environment")
        .env("GEARWAY_LIMITS__MAX_BODY", "2KiB")
        .env("GEARWAY_PORT", "tcp://10.0.0.1:3000")
        .env("GEARWAY_SERVICE_HOST", "10.0.0.1")
        .start()
        .await;
    let worker = ScriptedWorker::start("worker");
    let registration = Registration::new("worker").handler_with(json!({"name": "key", "key_required": true}));
    worker.register(&gateway, &registration).await;
    worker.always(Answer::text("ok"));
    for (key, status) in
        [("of-the-file", 401), ("of-the-environment", 200), ("second-of-the-environment", 200)]
    {
        assert_eq!(gateway.send(Request::get("/key").api_key(key)).await.status, status, "{key}");
    }
    let key = "of-the-environment";
    assert_eq!(gateway.send(Request::post("/key", vec![b'x'; 2048]).api_key(key)).await.status, 200);
    assert_eq!(gateway.send(Request::post("/key", vec![b'x'; 2049]).api_key(key)).await.status, 413);
}

#[tokio::test]
async fn a_bad_variable_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut command = gearway(&["serve", "--config"]);
    command.arg(write(dir.path(), "")).current_dir(dir.path()).env("GEARWAY_WORKERS__LEASE", "nonsense");
    let finished = run(command).await;
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert!(finished.output().contains("GEARWAY_WORKERS__LEASE"), "{finished:?}");
}

/// No file, no flags: variables alone, and ports that the system chooses.
#[tokio::test]
async fn the_environment_alone_is_enough() {
    let dir = tempfile::tempdir().expect("a folder");
    let data_dir = dir.path().join("elsewhere");
    let mut command = gearway(&["serve"]);
    command.current_dir(dir.path()).env("GEARWAY_DATA_DIR", &data_dir);
    command.env("GEARWAY_PUBLIC__LISTEN", "127.0.0.1:0").env("GEARWAY_ADMIN__LISTEN", "127.0.0.1:0");
    let process = Process::spawn("gearway", command);
    let public = process
        .wait_for_line("where it listens", |line| {
            let line = serde_json::from_str::<Value>(line).ok()?;
            line["fields"]["public"].as_str().or(line["public"].as_str())?.parse().ok()
        })
        .await;
    unmatched(&Request::get("/").send(public).await);
    assert!(data_dir.join("registration-token").is_file());

    let file = write(dir.path(), "[public]\nunmatched = \"not_found\"");
    let mut command = gearway(&["serve"]);
    command
        .current_dir(dir.path())
        .env("GEARWAY_CONFIG", &file)
        .env("GEARWAY_DATA_DIR", dir.path().join("third"));
    command.env("GEARWAY_PUBLIC__LISTEN", "127.0.0.1:0").env("GEARWAY_ADMIN__LISTEN", "127.0.0.1:0");
    let process = Process::spawn("gearway", command);
    let public = process
        .wait_for_line("where it listens", |line| {
            let line = serde_json::from_str::<Value>(line).ok()?;
            line["fields"]["public"].as_str().or(line["public"].as_str())?.parse().ok()
        })
        .await;
    assert_eq!(Request::get("/").send(public).await.status, 404);
}

#[tokio::test]
async fn a_secret_may_stand_in_a_file_of_its_own() {
    let dir = tempfile::tempdir().expect("a folder");
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "an-admin-token-from-a-file\n").expect("a writable folder");
    let registration = dir.path().join("registration");
    std::fs::write(&registration, "a-registration-token-from-a-file\n").expect("a writable folder");
    let config = format!(
        "[admin]\ntokens_file = \"{}\"\nregistration_tokens_file = \"{}\"",
        secret.display(),
        registration.display()
    );
    let gateway = Gateway::start(&config).await;
    let worker = ScriptedWorker::start("worker");
    let answer = worker
        .try_register(
            &gateway,
            &Registration::new("w").handler("foo"),
            Some("a-registration-token-from-a-file"),
        )
        .await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let tokens = Request::get("/v1/tokens").bearer("an-admin-token-from-a-file");
    assert_eq!(tokens.send(gateway.admin_address()).await.status, 200);
}

#[tokio::test]
async fn sighup_takes_a_good_file_and_keeps_the_old_one_for_a_bad() {
    let gateway = Gateway::start("[auth]\nclient_keys = [\"old-key\"]").await;
    let worker = ScriptedWorker::start("worker");
    let registration = Registration::new("worker").handler_with(json!({"name": "key", "key_required": true}));
    worker.register(&gateway, &registration).await;
    let status = async |key: &str| gateway.send(Request::get("/key").api_key(key)).await.status;
    assert_eq!((status("old-key").await, status("new-key").await), (200, 401));

    let load =
        gearway_tests::Load::start(gateway.public_address(), 2, &Request::get("/key").api_key("old-key"));
    gateway.write_config("[auth]\nclient_keys = [\"old-key\", \"new-key\"]");
    gateway.sighup();
    wait::until("the new key is accepted", async || (status("new-key").await == 200).then_some(())).await;

    gateway.write_config_as_it_is("[auth]\nclient_keyz = [\"third-key\"]\n");
    gateway.sighup();
    gateway.wait_for_log("the mistake", |line| line.contains("client_keyz")).await;
    assert_eq!(
        (status("old-key").await, status("new-key").await, status("third-key").await),
        (200, 200, 401)
    );
    load.stop().await.assert_all_ok();

    gateway.write_config("[auth]\nclient_keys = [\"new-key\"]");
    gateway.sighup();
    wait::until("the old key is refused", async || (status("old-key").await == 401).then_some(())).await;
    assert_eq!(status("new-key").await, 200);
}

#[tokio::test]
async fn a_second_serve_on_a_taken_port_or_data_dir_fails_and_says_which() {
    let gateway = Gateway::start("").await;
    let dir = tempfile::tempdir().expect("a folder");
    let data_dir = gateway.data_dir().display().to_string();
    let free = [ReservedPort::take(), ReservedPort::take()].map(|port| port.address().to_string());
    let public = gateway.public_address().to_string();
    let admin = gateway.admin_address().to_string();
    let other_dir = dir.path().join("other").display().to_string();
    for (data_dir, public, admin, named) in [
        (&other_dir, &public, &free[1], &public),
        (&other_dir, &free[0], &admin, &admin),
        (&data_dir, &free[0], &free[1], &data_dir),
    ] {
        let file = write(
            dir.path(),
            &format!(
                "data_dir = \"{data_dir}\"\n[public]\nlisten = \"{public}\"\n[admin]\nlisten = \"{admin}\"\n"
            ),
        );
        let mut command = gearway(&["serve", "--config"]);
        command.arg(file);
        let finished = run(command).await;
        assert_eq!(finished.code(), 1, "{finished:?}");
        assert!(finished.output().contains(named.as_str()), "{named} is not named: {finished:?}");
    }
    unmatched(&gateway.get("/").await);
}

#[tokio::test]
async fn the_data_dir_belongs_to_its_owner_alone() {
    let gateway = Gateway::start("").await;
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&gateway.data_dir()), 0o700);
    for token in ["admin-token", "registration-token"] {
        assert_eq!(mode(&gateway.data_dir().join(token)), 0o600, "{token}");
    }
    assert_ne!(gateway.admin().token, gateway.registration_token());
    let path = gateway.data_dir().join("registration-token").display().to_string();
    gateway.wait_for_log("the token file's path", |line| line.contains(&path)).await;
    assert!(!gateway.log().join("\n").contains(&gateway.registration_token()));
}

#[tokio::test]
async fn sigterm_and_sigint_finish_what_runs_and_exit_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let (gateway, worker) = serving("", &["slow"]).await;
        let gate = Gate::default();
        worker.always(Answer::text("done").after(&gate));
        let address = gateway.public_address();
        let mut idle = gateway.connect().await;
        unmatched(&idle.request(&Request::get("/")).await.expect("an answer"));
        let running = tokio::spawn(async move { Request::post("/slow", "x").send(address).await });
        worker.call(0).await;
        gateway.process().signal(signal);
        wait::until("new connections are refused", async || Connection::connect(address).await.err()).await;
        assert!(gateway.process().is_running(), "it waits for what runs");
        assert_eq!(gateway_readiness(&gateway).await, Some(503));
        gate.open();
        let response = running.await.expect("no panic").expect_status(200);
        assert_eq!(response.text(), "done");
        assert_eq!(gateway.process().wait_for_exit().await.code(), Some(0));
        assert_eq!(idle.read_to_end().await, b"");
    }
}

/// What does not finish is not waited for longer than configured.
#[tokio::test]
async fn draining_has_an_end() {
    let (gateway, worker) = serving("[public]\ndrain_timeout = \"200ms\"", &["slow"]).await;
    let gate = Gate::default();
    worker.always(Answer::text("done").after(&gate));
    let address = gateway.public_address();
    let running = tokio::spawn(async move { Request::post("/slow", "x").try_send(address).await });
    worker.call(0).await;
    assert_eq!(gateway.sigterm().await.code(), Some(0));
    drop(running.await.expect("no panic"));
}

#[tokio::test]
async fn limits_of_a_file_hold() {
    let (gateway, worker) = serving("[limits]\nrequest_timeout = \"300ms\"", &["foo"]).await;
    let gate = Gate::default();
    worker.always(Answer::text("late").after(&gate));
    expect::error(&gateway.get("/foo").await, 504, 119, "PluginTimeout");
}

async fn gateway_readiness(gateway: &Gateway) -> Option<u16> {
    Some(Request::get("/readyz").try_send(gateway.admin_address()).await.ok()?.status)
}

fn write(dir: &Path, text: &str) -> PathBuf {
    let file = dir.join("gearway.toml");
    std::fs::write(&file, text).expect("a writable folder");
    file
}

async fn check(dir: &Path, text: &str) -> Finished {
    let mut command = gearway(&["check", "--config"]);
    command.arg(write(dir, text)).current_dir(dir);
    run(command).await
}

/// Whoever asks twice does not want to wait for what runs.
#[tokio::test]
async fn a_second_signal_ends_the_gateway_at_once() {
    let (gateway, worker) = serving("[public]\ndrain_timeout = \"10m\"", &["foo"]).await;
    worker.always(Answer::text("never").after(&Gate::default()));
    let address = gateway.public_address();
    let running = tokio::spawn(async move { Request::post("/foo", "x").try_send(address).await });
    worker.call(0).await;
    gateway.process().signal(Signal::TERM);
    gateway.wait_for_log("the drain begins", |line| line.contains("draining")).await;
    assert_eq!(gateway.sigterm().await.code(), Some(1));
    assert!(running.await.expect("no panic").is_err());
}

/// Most systems start programs with 1024, and a connection takes two.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_limit_of_file_descriptors_is_raised_as_far_as_it_may_be() {
    let dir = tempfile::tempdir().expect("a folder");
    let listen = "[public]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"";
    let config = write(dir.path(), listen);
    let mut command = std::process::Command::new("sh");
    command.current_dir(dir.path()).args(["-c", "ulimit -S -n 64 && exec \"$@\"", "sh"]);
    command.arg(gearway_tests::binaries::path("gearway")).args(["serve", "--config"]).arg(config);
    let gateway = Process::spawn("gearway", command);
    gateway.wait_for_line("it listens", |line| line.contains("\"listening\"").then_some(())).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gateway.id())).expect("limits");
    let files = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    let numbers: Vec<_> = files.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1], "{files}");
}
