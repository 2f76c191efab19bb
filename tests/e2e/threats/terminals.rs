//! What strangers choose is shown to operators, and steers no terminal.

use std::process::{Child, Stdio};

use gearway_tests::port::ReservedPort;
use gearway_tests::process::Signal;
use gearway_tests::{Gateway, Registration, Request, ScriptedWorker, gateway, wait};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::terminal;

/// A gateway that logs to a terminal at its most talkative.
pub(super) struct OnTerminal {
    pub(super) public: ReservedPort,
    pub(super) admin: ReservedPort,
    child: Child,
    shown: JoinHandle<String>,
    _folder: TempDir,
}

impl OnTerminal {
    pub(super) async fn start(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (public, admin) = (ReservedPort::take(), ReservedPort::take());
        let (master, screen) = terminal::open();
        let mut serve = gateway::gearway(&["serve"]);
        serve.current_dir(folder.path()).env("RUST_LOG", "trace").env("GEARWAY_LOG__ACCESS", "true");
        serve.env("GEARWAY_PUBLIC__LISTEN", public.address().to_string());
        serve.env("GEARWAY_ADMIN__LISTEN", admin.address().to_string());
        serve.envs(settings.iter().copied()).stdin(Stdio::null());
        serve.stdout(screen.try_clone().expect("a copy")).stderr(screen);
        let child = serve.spawn().expect("it runs");
        drop(serve);
        let shown = tokio::task::spawn_blocking(move || terminal::read_to_end(master));
        let ready =
            async || Request::get("/readyz").try_send(admin.address()).await.ok().filter(|r| r.status == 200);
        wait::until("it is ready", ready).await;
        Self { public, admin, child, shown, _folder: folder }
    }

    /// Ends it, and returns what was shown.
    pub(super) async fn end(mut self) -> String {
        gateway::signal_pid(self.child.id(), Signal::TERM);
        let shown = self.shown.await.expect("no panic");
        assert!(self.child.wait().expect("an end").success(), "{shown}");
        shown
    }
}

/// Sets the title, clears the screen in two ways, and pretends to be another line.
const STEERS: &str = "a\u{1b}]0;owned\u{7}\u{9b}2J\u{1b}[2J\nb";

fn steers(shown: &str) -> Option<char> {
    shown.chars().find(|c| c.is_control() && !matches!(c, '\r' | '\n'))
}

#[tokio::test]
async fn no_text_of_a_worker_steers_the_terminal_of_the_log() {
    let gateway = OnTerminal::start(&[("GEARWAY_ADMIN__REGISTRATION_TOKENS", "token")]).await;
    let register = async |name: &str, handler: &str| {
        let registration = json!({
            "name": name, "url": "http://127.0.0.1:9/", "protocol": "gearway-v1", "version": STEERS,
            "handlers": [{"name": handler}],
        });
        let request = Request::new("POST", "/v1/workers").json(&registration).bearer("token");
        request.send(gateway.admin.address()).await.status
    };
    assert_eq!(register("one", STEERS).await, 201);
    assert_eq!(register("two", STEERS).await, 409);
    assert_eq!(register("two", &format!("{STEERS}\\")).await, 400);
    assert_eq!(register(STEERS, "foo").await, 400);
    let shown = gateway.end().await;
    assert!(shown.contains("owned") && shown.contains("\x1b["), "{shown:?}");
    // What the log itself writes are colours.
    let mut plain = String::new();
    for (number, part) in shown.split("\x1b[").enumerate() {
        let end = part.find(|c: char| !c.is_ascii_digit() && c != ';');
        match end.filter(|end| number > 0 && part[*end..].starts_with('m')) {
            Some(end) => plain.push_str(&part[end + 1..]),
            None if number == 0 => plain.push_str(part),
            None => panic!("\\x1b[{part:?}"),
        }
    }
    assert_eq!(steers(&plain), None, "{plain:?}");
    assert!(!plain.lines().any(|line| line.starts_with('b')), "{plain}");
}

#[tokio::test]
async fn no_text_of_a_client_steers_the_terminal_of_a_command() {
    let gateway = Gateway::start("").await;
    let worker = ScriptedWorker::start("worker");
    let registration = Registration::new("worker")
        .handler_with(json!({"name": STEERS, "delivery": {"mode": "durable"}}))
        .set("version", json!(STEERS));
    worker.register(&gateway, &registration).await;
    let target = "/a%1b%5d0;owned%07%c2%9b2J%1b%5b2J%0ab?%1b%5b2J";
    let request =
        Request::post(target, "\x1b[2J").header("X-Steers", b"\x9b2J\x80").header("User-Agent", "\u{9b}2J");
    let id = gateway.send(request).await.expect_status(200).header("x-gearway-delivery").expect("an id");
    for arguments in [&["deliveries", "show", &id][..], &["deliveries", "list"], &["routes"], &["workers"]] {
        let finished = gateway.cli(arguments).await;
        assert_eq!(finished.code(), 0, "{finished:?}");
        assert!(finished.stdout.contains("worker") || finished.stdout.contains("owned"), "{finished:?}");
        assert_eq!(steers(&finished.output()), None, "{arguments:?}: {finished:?}");
    }
}
