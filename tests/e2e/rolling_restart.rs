//! Workers of every SDK, two replicas each, restarted one after the other or killed, under constant load.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gearway_tests::load::Tally;
use gearway_tests::process::{Process, Signal};
use gearway_tests::{Gateway, Load, Request, binaries, installed};
use tempfile::TempDir;

const REPLICAS: usize = 2;
const CLIENTS: usize = 4;

const PYTHON_APP: &str = r#"
import gearway


@gearway.handler("python/once")
def once(request):
    return "done"


@gearway.handler("python/again", idempotent=True)
def again(request):
    return "done"
"#;

const NODE_APP: &str = r#"
import { handler } from "gearway";

handler("node/once", () => "done");
handler("node/again", { idempotent: true }, () => "done");
"#;

#[derive(Debug, Clone, Copy)]
enum Sdk {
    Rust,
    Python,
    Node,
}

impl Sdk {
    const ALL: [Self; 3] = [Self::Rust, Self::Python, Self::Node];

    fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Python => "python",
            Self::Node => "node",
        }
    }

    /// A handler that may run only once.
    fn once(self) -> &'static str {
        match self {
            Self::Rust => "/conform/echo",
            Self::Python => "/python/once",
            Self::Node => "/node/once",
        }
    }

    /// An idempotent one.
    fn again(self) -> &'static str {
        match self {
            Self::Rust => "/conform/slow",
            Self::Python => "/python/again",
            Self::Node => "/node/again",
        }
    }
}

/// Every SDK's worker, ready to be started.
struct Workers {
    python: PathBuf,
    apps: TempDir,
}

impl Workers {
    async fn prepare() -> Self {
        let protocol = binaries::workspace().join("plugin-protocol");
        let apps = tempfile::tempdir().expect("a folder");
        fs::write(apps.path().join("app.py"), PYTHON_APP).expect("a file");
        fs::write(apps.path().join("app.mjs"), NODE_APP).expect("a file");
        // The Node SDK has no dependencies, so there is nothing to install.
        fs::create_dir(apps.path().join("node_modules")).expect("a folder");
        let package = apps.path().join("node_modules/gearway");
        std::os::unix::fs::symlink(protocol.join("node"), package).expect("a link");
        let python = python_sdk(&protocol.join("python")).await;
        Self { python, apps }
    }

    fn start(&self, sdk: Sdk, gateway: &Gateway) -> Process {
        let mut command = match sdk {
            Sdk::Rust => Command::new(binaries::path("conformance")),
            Sdk::Python => {
                let mut command = Command::new(self.python.join("bin/gearway"));
                command.args(["run", "app.py"]);
                command
            }
            Sdk::Node => {
                let mut command = Command::new("node");
                command.args(["node_modules/gearway/bin/gearway.js", "run", "app.mjs"]);
                command
            }
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.current_dir(self.apps.path()).env_clear().env("PATH", path);
        command.env("GEARWAY_GATEWAY", format!("http://{}", gateway.admin_address()));
        command.env("GEARWAY_TOKEN", gateway.registration_token()).env("GEARWAY_NAME", sdk.name());
        Process::spawn(sdk.name(), command)
    }
}

/// An environment that runs the SDK from its sources.
async fn python_sdk(sources: &Path) -> PathBuf {
    let installers = |dir: &Path| {
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv", "."]);
        let mut pip = Command::new(dir.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--editable"])
            .arg(sources);
        vec![venv, pip]
    };
    let pins = [sources.join("pyproject.toml")];
    let installed = installed::once("python-sdk", "python3", &pins, installers).await;
    installed.unwrap_or_else(|reason| {
        panic!("it takes `python3` with its venv module, and a package index to install from\n{reason}")
    })
}

/// A gateway with replicas of every SDK's worker.
async fn running() -> (Gateway, Workers, Vec<(Sdk, Vec<Process>)>) {
    let workers = Workers::prepare().await;
    let gateway = Gateway::start("[workers]\npark = \"50s\"").await;
    let replicas = |sdk| (sdk, (0..REPLICAS).map(|_| workers.start(sdk, &gateway)).collect());
    let fleet = Sdk::ALL.map(replicas).into();
    gateway.admin().wait_for_workers(Sdk::ALL.len() * REPLICAS).await;
    (gateway, workers, fleet)
}

/// A body that the Rust sample's slow handler reads as milliseconds.
fn load(gateway: &Gateway, path: &str) -> Load {
    Load::start(gateway.public_address(), CLIENTS, &Request::post(path, "1"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replica_of_every_sdk_is_restarted_and_no_request_fails() {
    let (gateway, workers, mut fleet) = running().await;
    let loads: Vec<_> = Sdk::ALL.iter().map(|sdk| load(&gateway, sdk.once())).collect();
    for ((sdk, replicas), load) in fleet.iter_mut().zip(&loads) {
        for replica in replicas {
            load.wait_for_more(20).await;
            replica.signal(Signal::TERM);
            assert_eq!(replica.wait_for_exit().await.code(), Some(0), "{sdk:?} ends cleanly");
            *replica = workers.start(*sdk, &gateway);
            gateway.admin().wait_for_workers(Sdk::ALL.len() * REPLICAS).await;
        }
        load.wait_for_more(20).await;
    }
    for load in loads {
        load.stop().await.assert_all_ok();
    }
}

/// What the replica was doing is lost, and nobody can tell how far it came: 502, once for each call. All else succeeds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_killed_fails_only_what_it_was_running() {
    let (gateway, _workers, fleet) = running().await;
    for (sdk, replicas) in &fleet {
        let (once, again) = (load(&gateway, sdk.once()), load(&gateway, sdk.again()));
        once.wait_for_more(20).await;
        again.wait_for_more(20).await;
        replicas[0].kill();
        once.wait_for_more(100).await;
        again.wait_for_more(100).await;
        again.stop().await.assert_all_ok();
        let Tally { statuses, errors, refusals } = once.stop().await;
        let unknown = statuses.get(&502).copied().unwrap_or_default();
        let answered = statuses.get(&200).copied().unwrap_or_default();
        // A process closes its connections one after the other when it dies; none of them is used once a call was lost.
        assert!(errors.is_empty() && unknown <= CLIENTS, "{sdk:?}: {statuses:?} {errors:?}");
        assert_eq!(
            answered + unknown,
            statuses.values().sum::<usize>(),
            "{sdk:?}: {statuses:?} {refusals:?}"
        );
        assert!(refusals.iter().all(|refusal| refusal.contains("\"outcome\":\"unknown\"")), "{refusals:?}");
    }
}
