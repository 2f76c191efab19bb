use gearway::telemetry;
use serde_json::Value;
use tokio::io::{BufReader, Lines};
use tokio::process::ChildStderr;

use crate::cli::output::{self, cell, printable};

/// Shows what a gateway's log says, until it ends. It is read to its end also when nobody looks any more.
pub(super) async fn tell_all(mut log: Lines<BufReader<ChildStderr>>) -> anyhow::Result<()> {
    let mut told = Ok(());
    while let Some(line) = log.next_line().await? {
        told = told.and_then(|()| tell(&line));
    }
    told
}

/// Shows what a line of the gateway's log says, if it is something to see while developing.
pub(super) fn tell(line: &str) -> anyhow::Result<()> {
    match read(line) {
        Some(text) => output::line(&text),
        None => Ok(()),
    }
}

fn read(line: &str) -> Option<String> {
    let Ok(event) = serde_json::from_str::<Value>(line) else { return Some(printable(line)) };
    if event["target"] == telemetry::ACCESS {
        return Some(request(&event));
    }
    let message = cell(&event["message"]);
    match event["level"].as_str() {
        Some("WARN") => Some(format!("warning: {message}{}", details(&event))),
        Some("ERROR") => Some(format!("error: {message}{}", details(&event))),
        Some(_) | None => None,
    }
}

fn request(event: &Value) -> String {
    let duration = event["duration_ms"].as_f64().map(|ms| format!("{ms:.1} ms")).unwrap_or_default();
    let mut line =
        format!("{} {} {} {duration}", cell(&event["status"]), cell(&event["method"]), cell(&event["path"]));
    match &event["worker"] {
        Value::Null => line.push_str("  no route"),
        worker => {
            line.push_str(&format!("  {} of {}", cell(&event["route"]), cell(worker)));
        }
    }
    if event["user"].is_string() {
        line.push_str(&format!("  as {}", cell(&event["user"])));
    }
    line
}

fn details(event: &Value) -> String {
    let fields = event.as_object().into_iter().flatten();
    fields
        .filter(|(name, _)| !["timestamp", "level", "target", "message"].contains(&name.as_str()))
        .map(|(name, value)| format!(" {name}={}", cell(value)))
        .collect()
}

/// The answer of `GET /v1/routes`, a line for each path and worker name.
pub(super) fn routes(answer: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for route in answer["routes"].as_array().into_iter().flatten() {
        let methods = route["methods"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut owners: Vec<_> = methods.iter().map(|method| &method["owner"]).collect();
        owners.dedup();
        for owner in owners {
            let own: Vec<_> = methods.iter().filter(|method| method["owner"] == *owner).collect();
            let names: Vec<_> = own.iter().map(|method| cell(&method["method"])).collect();
            let absent = own.iter().all(|method| method["replicas"] == 0);
            let note = if absent { ", which is away" } else { "" };
            lines.push(format!(
                "route {} {} of {}{note}",
                names.join(","),
                cell(&route["path"]),
                cell(owner)
            ));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_request_becomes_a_line() {
        let event = json!({
            "level": "DEBUG", "target": "gearway::access", "message": "request", "method": "GET", "path": "/foo/a",
            "route": "/foo/", "worker": "orders", "user": "alice", "status": 200, "duration_ms": 1.26,
        });
        assert_eq!(read(&event.to_string()).unwrap(), "200 GET /foo/a 1.3 ms  /foo/ of orders  as alice");
        let unmatched = json!({
            "target": "gearway::access", "method": "GET", "path": "/\u{1b}[2J", "status": 404, "duration_ms": 0.1,
        });
        assert_eq!(read(&unmatched.to_string()).unwrap(), "404 GET /\\u{1b}[2J 0.1 ms  no route");
    }

    #[test]
    fn warnings_are_shown_and_the_rest_is_not() {
        let event = |level: &str| {
            let event =
                json!({"level": level, "target": "gearway::registry", "message": "m", "worker": "orders"});
            read(&event.to_string())
        };
        assert_eq!(event("WARN").unwrap(), "warning: m worker=orders");
        assert_eq!(event("ERROR").unwrap(), "error: m worker=orders");
        assert_eq!(event("INFO"), None);
        assert_eq!(read("thread panicked").unwrap(), "thread panicked");
    }

    #[test]
    fn routes_are_grouped_by_worker() {
        let method = |method: &str, owner: &str, replicas: u32| json!({"method": method, "owner": owner, "replicas": replicas, "available": replicas > 0});
        let answer = json!({"routes": [
            {"path": "/foo/", "methods": [method("GET", "a", 1), method("POST", "a", 1), method("PUT", "b", 0)]},
        ]});
        assert_eq!(routes(&answer), ["route GET,POST /foo/ of a", "route PUT /foo/ of b, which is away"]);
    }
}
