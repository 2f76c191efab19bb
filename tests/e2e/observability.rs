//! What operators watch: the metrics, and the dashboard that draws them.

use std::collections::BTreeSet;

use gearway_tests::binaries::workspace;
use gearway_tests::{Gateway, Request, Worker};
use serde_json::Value;

#[tokio::test]
async fn the_dashboard_draws_metrics_that_exist() {
    let text =
        std::fs::read_to_string(workspace().join("docs/grafana-dashboard.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let mut drawn = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().expect("an expression");
            let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            drawn.extend(
                words
                    .filter(|word| word.starts_with("gearway_") || word.starts_with("http_server_"))
                    .map(str::to_owned),
            );
        }
    }
    assert!(drawn.len() > 8, "{drawn:?}");

    let gateway = Gateway::start("").await;
    let worker = Worker::start_routed(&gateway, "seed-page", "/keyed").await;
    assert_eq!(gateway.get("/abc/def").await.status, 200);
    assert_eq!(gateway.get("/keyed").await.status, 401);
    worker.kill9();
    // A refused connection ejects the replica, and the call is tried elsewhere.
    gateway.get("/abc/def").await;
    let metrics = Request::get("/metrics").send(gateway.admin_address()).await;
    let metrics = String::from_utf8(metrics.body).expect("UTF-8");
    let absent: Vec<_> = drawn.iter().filter(|name| !metrics.contains(name.as_str())).collect();
    assert!(absent.is_empty(), "not in /metrics: {absent:?}\n{metrics}");
}
