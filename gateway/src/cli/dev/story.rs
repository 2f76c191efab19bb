use gearway::telemetry;
use serde_json::Value;
use tokio::io::{BufReader, Lines};
use tokio::process::ChildStderr;

use crate::cli::operate::auth;
use crate::cli::output::{self, Colour, cell, paint, printable};

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
    match event["level"].as_str() {
        Some("DEBUG" | "INFO") if event["target"] == telemetry::ATTEMPTS => Some(attempt(&event)),
        Some("WARN") => Some(told(Colour::Yellow, "warning", &event)),
        Some("ERROR") => Some(told(Colour::Red, "error", &event)),
        Some(_) | None => None,
    }
}

/// A line, and a second one for an error: its worker's message is what somebody who writes a handler looks for.
fn request(event: &Value) -> String {
    let status = event["status"].as_u64().unwrap_or_default();
    let ms = |value: &Value| value.as_f64();
    let total = ms(&event["duration_ms"]).unwrap_or_default();
    let times = match ms(&event["worker_ms"]) {
        Some(worker) => format!("gateway {:.1} ms, worker {worker:.1} ms", (total - worker).max(0.0)),
        None => format!("gateway {total:.1} ms"),
    };
    let handler = match &event["worker"] {
        Value::Null => "no route".to_owned(),
        worker => format!("{} of {}", cell(&event["route"]), cell(worker)),
    };
    let mut line = format!(
        "{} {:<6} {}  {}  {times}",
        paint(status_colour(status), &status.to_string()),
        cell(&event["method"]),
        cell(&event["path"]),
        paint(Colour::Faint, &handler)
    );
    if event["user"].is_string() {
        line.push_str(&format!("  as {}", cell(&event["user"])));
    }
    if event["error"].is_string() {
        line.push_str(&format!("\n    {}", paint(status_colour(status), &cell(&event["error"]))));
    }
    line
}

/// What became of a stored webhook after its sender was answered: nobody but the gateway hears the handler then.
fn attempt(event: &Value) -> String {
    let outcome = match event["status"].as_u64() {
        Some(status) => paint(status_colour(status), &status.to_string()),
        None => paint(Colour::Red, &cell(&event["outcome"])),
    };
    let of = format!("attempt {} of delivery {}", cell(&event["attempt"]), cell(&event["delivery"]));
    let mut line = format!(
        "{outcome} {:<6} {}  {}  worker {} ms",
        cell(&event["method"]),
        cell(&event["route"]),
        paint(Colour::Faint, &of),
        cell(&event["took_ms"])
    );
    if event["due_at"].is_string() {
        line.push_str(&format!(", again at {}", cell(&event["due_at"])));
    }
    line
}

fn status_colour(status: u64) -> Colour {
    match status {
        0..300 => Colour::Green,
        300..400 => Colour::Cyan,
        400..500 => Colour::Yellow,
        _ => Colour::Red,
    }
}

/// What to do about a warning that whoever writes a worker can do something about.
fn hint(event: &Value) -> Option<&'static str> {
    match (event["message"].as_str()?, event["status"].as_u64()) {
        ("admin request refused", Some(409)) => Some(
            "another worker name has this route. Stop the program that serves it, give both the same GEARWAY_NAME if they are \
             replicas of one service, or, if it is gone for good: gearway routes forget PATH",
        ),
        ("admin request refused", Some(401)) => Some(
            "a worker that is not started by this command needs GEARWAY_TOKEN, from the file registration-token in data_dir",
        ),
        ("admin request refused", Some(422)) => {
            Some("see workers.allowed_urls and [secrets] in gearway config-template")
        }
        _ => None,
    }
}

/// What to do when the gateway could not start, if its last words say why.
pub(super) fn start_hint(line: &str) -> Option<&'static str> {
    if line.contains("cannot listen on public.listen") {
        return Some("choose another port for clients: gearway dev --public-listen 127.0.0.1:0 -- …");
    }
    if line.contains("cannot listen on admin.listen") {
        return Some("choose another port for workers: gearway dev --admin-listen 127.0.0.1:0 -- …");
    }
    if line.contains("is in use by another gateway") {
        return Some(
            "a gateway runs in this folder already; give this one its own: gearway dev --data-dir DIR -- …",
        );
    }
    None
}

fn told(colour: Colour, kind: &str, event: &Value) -> String {
    let mut text = format!("{}: {}{}", paint(colour, kind), cell(&event["message"]), details(event));
    if let Some(hint) = hint(event) {
        text.push_str(&format!("\n    {}: {hint}", paint(Colour::Cyan, "hint")));
    }
    text
}

fn details(event: &Value) -> String {
    let fields = event.as_object().into_iter().flatten();
    fields
        .filter(|(name, _)| !["timestamp", "level", "target", "message"].contains(&name.as_str()))
        .map(|(name, value)| format!(" {name}={}", cell(value)))
        .collect()
}

/// The answer of `GET /v1/routes` as a table's rows: methods, path, worker, what callers must present, and whether a worker
/// is there.
pub(super) fn routes(answer: &Value) -> Vec<[Value; 5]> {
    let mut rows = Vec::new();
    for route in answer["routes"].as_array().into_iter().flatten() {
        let methods = route["methods"].as_array().map(Vec::as_slice).unwrap_or_default();
        let fields = |method: &Value| [method["owner"].clone(), auth(method).into()];
        let mut kinds: Vec<_> = methods.iter().map(fields).collect();
        kinds.dedup();
        for kind in kinds {
            let own: Vec<_> = methods.iter().filter(|method| fields(method) == kind).collect();
            let names: Vec<_> = own.iter().map(|method| cell(&method["method"])).collect();
            let absent = own.iter().all(|method| method["replicas"] == 0);
            let [owner, wants] = kind;
            let state = if absent { "away" } else { "live" };
            rows.push([names.join(" ").into(), route["path"].clone(), owner, wants, state.into()]);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_request_becomes_a_line() {
        let mut event = json!({
            "level": "DEBUG", "target": "gearway::access", "message": "request", "method": "GET", "path": "/foo/a",
            "route": "/foo/", "worker": "orders", "user": "alice", "status": 200, "duration_ms": 1.26, "worker_ms": 1.0,
        });
        let line = "200 GET    /foo/a  /foo/ of orders  gateway 0.3 ms, worker 1.0 ms  as alice";
        assert_eq!(read(&event.to_string()).unwrap(), line);
        event["error"] = "SoldOut 10001: four\nseats left".into();
        assert_eq!(
            read(&event.to_string()).unwrap(),
            format!("{line}\n    SoldOut 10001: four\\nseats left")
        );
        let unmatched = json!({
            "target": "gearway::access", "method": "GET", "path": "/\u{1b}[2J", "status": 404, "duration_ms": 0.1,
        });
        assert_eq!(read(&unmatched.to_string()).unwrap(), "404 GET    /\\u{1b}[2J  no route  gateway 0.1 ms");
    }

    #[test]
    fn an_attempt_to_deliver_becomes_a_line() {
        let mut event = json!({
            "level": "DEBUG", "target": "gearway::delivery::attempt", "message": "delivered", "delivery": "1a22", "method": "POST",
            "route": "/pay/stripe", "attempt": 2, "outcome": "delivered", "status": 200, "took_ms": 7,
        });
        let line = "200 POST   /pay/stripe  attempt 2 of delivery 1a22  worker 7 ms";
        assert_eq!(read(&event.to_string()).unwrap(), line);
        event["level"] = "INFO".into();
        event["outcome"] = "too_slow".into();
        event["status"] = Value::Null;
        event["due_at"] = "2026-11-28T10:51:37.793Z".into();
        let line = line.replace("200 ", "too_slow ") + ", again at 2026-11-28T10:51:37.793Z";
        assert_eq!(read(&event.to_string()).unwrap(), line);
        // A dead letter is a warning.
        event["level"] = "WARN".into();
        assert!(read(&event.to_string()).unwrap().starts_with("warning: delivered"));
    }

    #[test]
    fn what_can_be_done_is_hinted_at() {
        let event =
            json!({"level": "WARN", "message": "admin request refused", "status": 409, "reason": "r"});
        let text = read(&event.to_string()).unwrap();
        assert!(text.contains("\n    hint: another worker name has this route"), "{text}");
        assert!(start_hint("gearway: cannot listen on public.listen 0.0.0.0:3000: in use").is_some());
        assert_eq!(start_hint("gearway: the configuration cannot be used"), None);
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
        let method = |method: &str, owner: &str, replicas: u32| {
            json!({
                "method": method, "owner": owner, "key_required": false, "user_required": false, "replicas": replicas,
            })
        };
        let mut signed = method("POST", "a", 1);
        signed["key_required"] = true.into();
        signed["verify"] = json!([{"scheme": "stripe", "secret": "live"}]);
        let answer = json!({"routes": [
            {"path": "/foo/", "methods": [method("GET", "a", 1), method("POST", "a", 1), method("PUT", "b", 0)]},
            {"path": "/pay", "methods": [method("GET", "a", 1), signed]},
        ]});
        let rows: Vec<String> =
            routes(&answer).iter().map(|row| row.each_ref().map(cell).join(" ")).collect();
        assert_eq!(
            rows,
            [
                "GET POST /foo/ a - live",
                "PUT /foo/ b - away",
                "GET /pay a - live",
                "POST /pay a key stripe live"
            ]
        );
    }
}
