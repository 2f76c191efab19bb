use reqwest::Method;
use serde_json::{Value, json};
use tokio::runtime::Builder;

use super::client::Client;
use super::output::{self, Colour};
use super::{AdminArgs, RoutesAction, TokensAction, WorkersAction};

pub(super) fn routes(args: &AdminArgs, action: RoutesAction) -> anyhow::Result<()> {
    match action {
        RoutesAction::List => {
            let answer = ask(args, Method::GET, &["v1", "routes"], &[], None)?;
            if args.json {
                return output::line(&answer.to_string());
            }
            let headings =
                ["PATH", "METHODS", "WORKER", "AUTH", "REPLICAS", "STATE", "REQUESTS", "P50 MS", "P99 MS"];
            list_in_colour("no routes are known", headings, route_rows(&answer), |row| {
                (row[5] != "live").then_some(Colour::Red)
            })
        }
        RoutesAction::Forget { path } => {
            let answer = ask(args, Method::DELETE, &["v1", "routes"], &[("path", &path)], None)?;
            if args.json {
                return output::line(&answer.to_string());
            }
            output::line(&format!("forgot {path}"))
        }
    }
}

pub(super) fn workers(args: &AdminArgs, action: WorkersAction) -> anyhow::Result<()> {
    match action {
        WorkersAction::List => {
            let answer = ask(args, Method::GET, &["v1", "workers"], &[], None)?;
            if args.json {
                return output::line(&answer.to_string());
            }
            let headings = [
                "ID",
                "NAME",
                "VERSION",
                "STATE",
                "URL",
                "PROTOCOL",
                "HANDLERS",
                "IN FLIGHT",
                "LIMIT",
                "CALLS",
                "FAILURES",
                "LEASE LEFT MS",
            ];
            let fields = [
                "id",
                "name",
                "version",
                "state",
                "url",
                "protocol",
                "handlers",
                "in_flight",
                "max_concurrency",
                "calls",
                "failures",
                "lease_left_ms",
            ];
            list_in_colour("no workers are registered", headings, rows(&answer["workers"], fields), |row| {
                match row[3].as_str() {
                    Some("ejected") => Some(Colour::Red),
                    Some("draining") => Some(Colour::Yellow),
                    _ => None,
                }
            })
        }
        WorkersAction::Drain { id } => {
            ask(args, Method::POST, &["v1", "workers", &id, "drain"], &[], None)?;
            if args.json {
                return output::line(&json!({ "draining": id }).to_string());
            }
            output::line(&format!("{id} gets nothing new"))
        }
    }
}

pub(super) fn tokens(args: &AdminArgs, action: TokensAction) -> anyhow::Result<()> {
    match action {
        TokensAction::Create { user, ttl } => {
            let mut body = json!({ "user": user });
            if let Some(ttl) = ttl {
                body["ttl"] = ttl.into();
            }
            let answer = ask(args, Method::POST, &["v1", "tokens"], &[], Some(&body))?;
            if args.json {
                return output::line(&answer.to_string());
            }
            let until = match &answer["expires_at"] {
                Value::Null => "until it is revoked".to_owned(),
                at => format!("until {}", output::cell(at)),
            };
            output::complain(&format!(
                "an access token for {user}, good {until}; its id is {}. It is shown this once:",
                output::cell(&answer["id"])
            ));
            output::line(answer["token"].as_str().unwrap_or_default())
        }
        TokensAction::List => {
            let answer = ask(args, Method::GET, &["v1", "tokens"], &[], None)?;
            if args.json {
                return output::line(&answer.to_string());
            }
            let fields = ["id", "user", "created_at", "expires_at"];
            list(
                "there are no access tokens",
                ["ID", "USER", "CREATED", "EXPIRES"],
                rows(&answer["tokens"], fields),
            )
        }
        TokensAction::Revoke { id } => {
            ask(args, Method::DELETE, &["v1", "tokens", &id], &[], None)?;
            if args.json {
                return output::line(&json!({ "revoked": id }).to_string());
            }
            output::line(&format!("revoked {id}"))
        }
    }
}

pub(super) fn healthcheck(args: &AdminArgs) -> anyhow::Result<()> {
    let answer = ask(args, Method::GET, &["readyz"], &[], None)?;
    if args.json {
        return output::line(&answer.to_string());
    }
    output::line("ready")
}

pub(super) fn ask(
    args: &AdminArgs,
    method: Method,
    path: &[&str],
    query: &[(&str, &str)],
    body: Option<&Value>,
) -> anyhow::Result<Value> {
    let client = Client::new(args)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(client.ask(method, path, query, body))
}

pub(super) fn list<const N: usize>(
    nothing: &str,
    headings: [&str; N],
    rows: Vec<[Value; N]>,
) -> anyhow::Result<()> {
    list_in_colour(nothing, headings, rows, |_| None)
}

/// As [`list`], with the rows in colour that somebody should look at.
fn list_in_colour<const N: usize>(
    nothing: &str,
    headings: [&str; N],
    rows: Vec<[Value; N]>,
    colour: impl Fn(&[Value; N]) -> Option<Colour>,
) -> anyhow::Result<()> {
    if rows.is_empty() {
        output::complain(nothing);
        return Ok(());
    }
    output::table(headings, rows, colour)
}

pub(super) fn rows<const N: usize>(items: &Value, fields: [&str; N]) -> Vec<[Value; N]> {
    let items = items.as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().map(|item| fields.map(|field| item[field].clone())).collect()
}

/// One row for the methods of a path that differ in nothing else.
fn route_rows(answer: &Value) -> Vec<[Value; 9]> {
    let routes = answer["routes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let fields = ["method", "owner", "replicas", "requests", "p50_ms", "p99_ms"];
    let mut table: Vec<[Value; 9]> = Vec::new();
    for route in routes {
        let methods = route["methods"].as_array().map(Vec::as_slice).unwrap_or_default();
        for (method, row) in methods.iter().zip(rows(&route["methods"], fields)) {
            let [name, owner, replicas, requests, p50, p99] = row;
            let (auth, state) = (auth(method).into(), state(method).into());
            let row = [route["path"].clone(), name, owner, auth, replicas, state, requests, p50, p99];
            match table.last_mut() {
                Some(last) if last[0] == row[0] && last[2..] == row[2..] => {
                    let methods = [&last[1], &row[1]].map(|method| method.as_str().unwrap_or_default());
                    last[1] = methods.join(" ").into();
                }
                _ => table.push(row),
            }
        }
    }
    table
}

/// What callers must present.
pub(super) fn auth(method: &Value) -> String {
    let mut wanted = Vec::new();
    match (method["key_required"] == true, method["user_required"] == true) {
        (_, true) => wanted.push("user"),
        (true, false) => wanted.push("key"),
        (false, false) => {}
    }
    let schemes = method["verify"].as_array().map(Vec::as_slice).unwrap_or_default();
    wanted.extend(schemes.iter().filter_map(|verify| verify["scheme"].as_str()));
    if wanted.is_empty() { "-".to_owned() } else { wanted.join(" ") }
}

fn state(method: &Value) -> &'static str {
    match (method["available"] == true, method["replicas"] == 0) {
        (true, _) => "live",
        (false, true) => "away",
        (false, false) => "busy",
    }
}
