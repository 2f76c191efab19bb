//! The admin listener held to its own description, by generated requests.

use std::process::Command;

use gearway_tests::process::run;
use gearway_tests::{Gateway, Registration, ScriptedWorker, installed};

/// Requests for each call and phase; there are a dozen calls.
const EXAMPLES: &str = "20";
/// What is generated follows from it; `GEARWAY_TESTS_SEED` asks for another.
const SEED: &str = "20150401";

#[tokio::test]
async fn the_admin_listener_keeps_to_its_description() {
    let environment = installed::python("schemathesis/requirements.txt").await;
    let gateway = Gateway::start("").await;
    let worker = ScriptedWorker::start("worker");
    worker.register(&gateway, &Registration::new("worker").handler("foo")).await;
    let admin = gateway.admin();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut schemathesis = Command::new(environment.join("bin/schemathesis"));
    schemathesis.current_dir(folder.path());
    schemathesis.arg("run").arg(format!("http://{}/openapi.json", admin.address));
    schemathesis.args(["--header", &format!("Authorization: Bearer {}", admin.token)]);
    schemathesis.args(["--max-examples", EXAMPLES, "--no-color"]);
    let seed = std::env::var("GEARWAY_TESTS_SEED").unwrap_or_else(|_| SEED.into());
    schemathesis.args(["--seed", &seed]);
    // A schema cannot say what a url resolves to, which names clash, or whose a route is.
    schemathesis.args(["--exclude-checks", "positive_data_acceptance"]);
    let finished = run(schemathesis).await;
    assert_eq!(finished.code(), 0, "{}", finished.output());
    assert!(finished.stdout.contains("Tested: "), "{}", finished.output());
    drop(admin.get("/v1/workers").await.expect_status(200));
    let panics = gateway.log().iter().filter(|line| line.contains("panicked")).count();
    assert_eq!(panics, 0, "{:#?}", gateway.log());
}
