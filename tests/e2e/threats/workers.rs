//! Workers that want what is not theirs.

use gearway_tests::{Gateway, Registration, Request, ScriptedWorker};
use serde_json::json;

use crate::expect::{self, serving};

/// A worker with a token for its own names is no operator.
#[tokio::test]
async fn a_registration_token_does_nothing_else() {
    let config = r#"
        [admin]
        registration_tokens = ["any-token", { token = "limited-token", names = ["billing"], paths = ["/billing/"] }]
    "#;
    let gateway = Gateway::start(config).await;
    let worker = ScriptedWorker::start("worker");
    let orders = Registration::new("orders").handler("orders");
    let answer = worker.try_register(&gateway, &orders, Some("any-token")).await.expect_status(201).json();
    let id = answer["worker_id"].as_str().expect("an id");
    let user = json!({"user": "mallory", "ttl": "1h"});
    for token in ["any-token", "limited-token"] {
        for request in [
            Request::new("POST", "/v1/tokens").json(&user),
            Request::get("/v1/tokens"),
            Request::new("DELETE", "/v1/tokens/any"),
            Request::new("POST", &format!("/v1/workers/{id}/drain")).body(""),
            Request::new("DELETE", "/v1/routes?path=/orders"),
            // Reading is for loopback names and administrators.
            Request::get("/v1/routes").header("Host", "gateway.example"),
            Request::get("/metrics").header("Host", "gateway.example"),
        ] {
            let response = request.clone().bearer(token).send(gateway.admin_address()).await;
            assert!(matches!(response.status, 401 | 403 | 404 | 405), "{request:?}: {response:?}");
            assert!(!response.text().contains("127.0.0.1"), "{request:?}: {response:?}");
        }
    }
    let foreign = Request::get("/v1/workers").header("Host", "gateway.example").bearer("limited-token");
    assert!(!foreign.send(gateway.admin_address()).await.text().contains("orders"));
    assert_eq!(gateway.get("/orders").await.status, 200);
    assert!(!gateway.admin().get("/v1/tokens").await.text().contains("mallory"));
}

/// A worker that takes over the name and paths of another needs its token; one that lists a foreign route gets none of its own.
#[tokio::test]
async fn a_stolen_route_changes_nothing() {
    let (gateway, owner) = serving("", &["pay"]).await;
    let thief = ScriptedWorker::start("thief");
    for claimed in ["pay", "/pay", ":pay"] {
        let registration = Registration::new("thief").handler("mine").handler(claimed);
        let token = gateway.registration_token();
        let refused = thief.try_register(&gateway, &registration, Some(&token)).await.expect_status(409);
        assert!(refused.text().contains("worker") && refused.text().contains("thief"), "{refused:?}");
    }
    assert_eq!(gateway.post("/pay", "x").await.expect_status(200).json()["worker"], "worker");
    expect::unmatched(&gateway.get("/mine").await);
    assert_eq!((owner.calls().len(), thief.calls().len()), (1, 0));
}

/// A lapsed worker cannot come back by its heartbeat, nor one that another has replaced.
#[tokio::test]
async fn a_late_heartbeat_is_refused() {
    let gateway = Gateway::start("[workers]\nlease = \"1s\"").await;
    let worker = ScriptedWorker::start("worker");
    let registration = Registration::new("worker").handler("foo");
    let replaced = worker.register(&gateway, &registration).await;
    let lapsed = worker.register(&gateway, &registration).await;
    let side = gateway.worker_side();
    assert_eq!(side.renew(&replaced.worker_id).await.status, 404);
    gateway.admin().wait_for_workers(0).await;
    assert_eq!(side.renew(&lapsed.worker_id).await.status, 404);
    expect::not_run(&gateway.post("/foo", "x").await);
    assert_eq!(worker.calls().len(), 0);
}
