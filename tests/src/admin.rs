//! The admin listener, as tests ask it. The shapes of its answers are read here and nowhere else.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::scripted::Registered;
use crate::wait;
use crate::wire::{Request, Response};

/// Asks a gateway's admin listener, with the admin token.
#[derive(Debug, Clone)]
pub struct Admin {
    pub address: SocketAddr,
    pub token: String,
}

/// A route and who serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteRow {
    pub path: String,
    pub methods: Vec<MethodRow>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodRow {
    pub method: String,
    /// The name of the workers that serve it.
    pub owner: String,
    pub key_required: bool,
    pub user_required: bool,
    pub replicas: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerRow {
    pub id: String,
    pub name: String,
    pub url: String,
    pub state: String,
}

/// An opaque access token, as it is shown once.
#[derive(Debug, Clone)]
pub struct CreatedToken {
    pub id: String,
    pub token: String,
}

impl Admin {
    /// Sends any request with the admin token.
    pub async fn send(&self, request: Request) -> Response {
        request.bearer(&self.token).send(self.address).await
    }

    pub async fn get(&self, target: &str) -> Response {
        self.send(Request::get(target)).await
    }

    pub async fn delete(&self, target: &str) -> Response {
        self.send(Request::new("DELETE", target)).await
    }

    /// `GET /v1/routes`.
    pub async fn routes(&self) -> Vec<RouteRow> {
        let answer = self.get("/v1/routes").await.expect_status(200).json();
        list(&answer, "routes").iter().map(read_route).collect()
    }

    /// `GET /v1/workers`.
    pub async fn workers(&self) -> Vec<WorkerRow> {
        let answer = self.get("/v1/workers").await.expect_status(200).json();
        list(&answer, "workers").iter().map(read_worker).collect()
    }

    /// Waits until that path has a live replica.
    pub async fn wait_for_route(&self, path: &str) {
        wait::until(&format!("{path} is routed"), async || {
            let routes = self.routes().await;
            let live =
                |row: &RouteRow| row.path == path && row.methods.iter().any(|method| method.replicas > 0);
            routes.iter().any(live).then_some(())
        })
        .await;
    }

    /// Waits until that many workers are in the table.
    pub async fn wait_for_workers(&self, number: usize) {
        wait::until(&format!("there are {number} workers"), async || {
            (self.workers().await.len() == number).then_some(())
        })
        .await;
    }

    /// `POST /v1/tokens`.
    pub async fn create_token(&self, user: &str, ttl: &str) -> CreatedToken {
        let request = Request::new("POST", "/v1/tokens").json(&json!({"user": user, "ttl": ttl}));
        read_token(&self.send(request).await.expect_status(201).json())
    }

    /// `DELETE /v1/tokens/{id}`.
    pub async fn revoke_token(&self, id: &str) {
        drop(self.delete(&format!("/v1/tokens/{id}")).await.expect_status(204));
    }

    /// `POST /v1/workers/{id}/drain`.
    pub async fn drain(&self, worker_id: &str) -> Response {
        self.send(Request::new("POST", &format!("/v1/workers/{worker_id}/drain")).body("")).await
    }
}

/// Asks as a worker does, with a registration token.
#[derive(Debug, Clone)]
pub struct WorkerSide {
    pub address: SocketAddr,
    pub token: String,
}

impl WorkerSide {
    /// `PUT /v1/workers/{id}/lease`.
    pub async fn renew(&self, worker_id: &str) -> Response {
        let request = Request::new("PUT", &format!("/v1/workers/{worker_id}/lease")).body("");
        request.bearer(&self.token).send(self.address).await
    }

    /// `DELETE /v1/workers/{id}`.
    pub async fn deregister(&self, worker_id: &str) -> Response {
        let request = Request::new("DELETE", &format!("/v1/workers/{worker_id}"));
        request.bearer(&self.token).send(self.address).await
    }
}

/// Reads what `POST /v1/tokens` and `gearway tokens create --json` answer.
///
/// # Panics
/// When it has another shape.
#[must_use]
pub fn read_token(answer: &Value) -> CreatedToken {
    CreatedToken { id: text(answer, "id"), token: text(answer, "token") }
}

/// Reads what an accepted registration answered.
///
/// # Panics
/// When it has another shape.
#[must_use]
pub fn read_registered(answer: &Value) -> Registered {
    Registered {
        worker_id: text(answer, "worker_id"),
        secret: text(answer, "secret"),
        lease_ms: answer["lease_ms"].as_u64().unwrap_or_else(|| panic!("lease_ms: {answer}")),
    }
}

fn read_route(route: &Value) -> RouteRow {
    let read_method = |method: &Value| MethodRow {
        method: text(method, "method"),
        owner: text(method, "owner"),
        key_required: method["key_required"].as_bool().unwrap_or_default(),
        user_required: method["user_required"].as_bool().unwrap_or_default(),
        replicas: match &method["replicas"] {
            Value::Array(replicas) => replicas.len(),
            number => {
                let number = number.as_u64().unwrap_or_else(|| panic!("replicas: {method}"));
                usize::try_from(number).unwrap_or(usize::MAX)
            }
        },
    };
    let methods = list(&route["methods"], "methods").iter().map(read_method).collect();
    RouteRow { path: text(route, "path"), methods }
}

fn read_worker(worker: &Value) -> WorkerRow {
    let id = if worker["id"].is_string() { "id" } else { "worker_id" };
    WorkerRow {
        id: text(worker, id),
        name: text(worker, "name"),
        url: text(worker, "url"),
        state: text(worker, "state"),
    }
}

/// A list that stands alone or under its name.
fn list<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    let list = answer.as_array().or_else(|| answer[name].as_array());
    list.unwrap_or_else(|| panic!("no list {name}: {answer}"))
}

fn text(object: &Value, field: &str) -> String {
    object[field].as_str().unwrap_or_else(|| panic!("no text {field}: {object}")).to_owned()
}
