use anyhow::bail;
use reqwest::Method;
use serde_json::{Value, json};

use super::operate::{ask, list, rows};
use super::{AdminArgs, DeliveriesAction, DeliveriesFilter, output};

pub(super) fn run(args: &AdminArgs, action: DeliveriesAction) -> anyhow::Result<()> {
    match action {
        DeliveriesAction::List(filter) => {
            let answer = ask(args, Method::GET, &["v1", "deliveries"], &borrowed(&filter.pairs()), None)?;
            if args.json {
                return output::line(&answer.to_string());
            }
            let headings =
                ["ID", "STATE", "METHOD", "ROUTE", "RECEIVED", "ATTEMPTS", "LAST", "STATUS", "NEXT ATTEMPT"];
            let fields = [
                "id",
                "state",
                "method",
                "route",
                "received_at",
                "attempts",
                "last_outcome",
                "last_status",
                "next_attempt_at",
            ];
            list("there are no such deliveries", headings, rows(&answer["deliveries"], fields))?;
            if let Some(next) = answer["next"].as_str() {
                output::complain(&format!("there may be more: --after {next}"));
            }
            Ok(())
        }
        DeliveriesAction::Show { id } => {
            let answer = ask(args, Method::GET, &["v1", "deliveries", &id], &[], None)?;
            if args.json {
                return output::line(&answer.to_string());
            }
            show(&answer)
        }
        DeliveriesAction::Replay { id: Some(id), filter } => {
            if !filter.pairs().is_empty() {
                bail!("give an id or a filter, not both");
            }
            let answer = ask(args, Method::POST, &["v1", "deliveries", &id, "replay"], &[], None)?;
            if args.json {
                return output::line(&answer.to_string());
            }
            match &answer["replay_of"] {
                Value::Null => output::line(&format!("{id} is pending, and due now")),
                _ => output::line(&format!("{} repeats {id}", output::cell(&answer["id"]))),
            }
        }
        DeliveriesAction::Replay { id: None, filter } => {
            let answer =
                ask(args, Method::POST, &["v1", "deliveries", "replay"], &borrowed(&filter.pairs()), None)?;
            if args.json {
                return output::line(&answer.to_string());
            }
            output::line(&format!("replayed {}", output::cell(&answer["replayed"])))
        }
        DeliveriesAction::Drop { id } => {
            ask(args, Method::DELETE, &["v1", "deliveries", &id], &[], None)?;
            if args.json {
                return output::line(&json!({ "dropped": id }).to_string());
            }
            output::line(&format!("dropped {id}"))
        }
    }
}

/// The fields one to a line, then what was sent, then the attempts.
fn show(answer: &Value) -> anyhow::Result<()> {
    let fields =
        ["id", "state", "route", "received_at", "next_attempt_at", "settled_at", "replay_of", "replayed_as"];
    for field in fields.into_iter().filter(|field| !answer[*field].is_null()) {
        output::line(&format!("{field:<16} {}", output::cell(&answer[field])))?;
    }
    let request = &answer["request"];
    for field in ["method", "host", "raw_path", "query_string", "remote_addr", "header", "body"] {
        output::line(&format!("{field:<16} {}", output::cell(&request[field])))?;
    }
    let attempts = answer["attempts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows = attempts.iter().map(|attempt| {
        let answer = &attempt["answer"];
        [
            attempt["attempt"].clone(),
            attempt["started_at"].clone(),
            attempt["duration_ms"].clone(),
            attempt["outcome"].clone(),
            answer["status"].clone(),
            answer["body"].clone(),
        ]
    });
    list(
        "it was not attempted yet",
        ["ATTEMPT", "STARTED", "MS", "OUTCOME", "STATUS", "BODY (BASE64)"],
        rows.collect(),
    )
}

fn borrowed<'a>(pairs: &'a [(&'a str, String)]) -> Vec<(&'a str, &'a str)> {
    pairs.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

impl DeliveriesFilter {
    fn pairs(&self) -> Vec<(&str, String)> {
        let limit = self.limit.map(|limit| limit.to_string());
        [("state", &self.state), ("route", &self.route), ("after", &self.after), ("limit", &limit)]
            .into_iter()
            .filter_map(|(name, value)| value.clone().map(|value| (name, value)))
            .collect()
    }
}
