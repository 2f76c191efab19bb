//! What is checked by calling handlers.

use std::collections::BTreeMap;

use gearway_protocol::{HandlerResult, Reply};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::report::{Report, Verdict};
use super::vectors::{self, Vector};
use super::worker::{Call, Worker, is_unknown, reply, shown};
use super::{LARGE, check, checks};

/// What a careless handler would tell its client.
const SECRET_TEXT: &str = "swordfish";

pub(super) async fn run(worker: &Worker, report: &mut Report) {
    let echoed = [
        (&checks::ENVELOPE_REQUEST, vectors::REQUESTS),
        (&checks::ENVELOPE_UNICODE, vectors::UNICODE),
        (&checks::ENVELOPE_LATIN1, vectors::LATIN1),
        (&checks::ENVELOPE_REPEATED, vectors::REPEATED),
        (&checks::ENVELOPE_BYTES, vectors::BYTES),
    ];
    for (echo, requests) in echoed {
        check(report, worker, echo, echoes(worker, requests)).await;
    }
    check(report, worker, &checks::ENVELOPE_LARGE, large_request(worker)).await;
    check(report, worker, &checks::ENVELOPE_IDENTITY, identities(worker)).await;
    check(report, worker, &checks::ENVELOPE_PARAMS, params(worker)).await;
    check(report, worker, &checks::ENVELOPE_METHODS, methods(worker)).await;
    check(report, worker, &checks::ENVELOPE_UNKNOWN, unknown(worker)).await;
    check(report, worker, &checks::ENVELOPE_FUTURE, future_fields(worker)).await;
    check(report, worker, &checks::REPLY_TEXT, texts(worker)).await;
    check(report, worker, &checks::REPLY_JSON, jsons(worker)).await;
    check(report, worker, &checks::REPLY_RESPONSE, responses(worker, vectors::RESPONSES)).await;
    check(report, worker, &checks::REPLY_COOKIES, responses(worker, vectors::COOKIES)).await;
    check(report, worker, &checks::REPLY_LATIN1, responses(worker, vectors::RESPONSE_LATIN1)).await;
    check(report, worker, &checks::REPLY_BYTES, bytes(worker)).await;
    check(report, worker, &checks::REPLY_LARGE, large_response(worker)).await;
    check(report, worker, &checks::REPLY_ERROR, errors(worker)).await;
    check(report, worker, &checks::REPLY_FAILURE, failure(worker)).await;
}

async fn echoes(worker: &Worker, requests: &[Vector]) -> Verdict {
    for vector in requests {
        let envelope = vector.read()?["envelope"].take();
        echo(worker, &Call::from_envelope("conform/echo", envelope))
            .await
            .map_err(|seen| format!("vectors/requests/{}: {seen}", vector.name))?;
    }
    Ok(())
}

/// Compares what the handler saw with what was sent.
async fn echo(worker: &Worker, call: &Call) -> Verdict {
    let seen = worker.json(call).await?;
    let (context, param) = (&call.envelope()["context"], &call.envelope()["param"]);
    let body = gearway_protocol::Base64Body::decode(param["body"].as_str().unwrap_or_default())
        .map_err(|error| error.to_string())?;
    for field in ["method", "path", "raw_path", "query_string", "params", "remote_addr"] {
        same(field, &param[field], &seen[field])?;
    }
    for field in ["request_id", "user_id", "access_key_type"] {
        same(field, &context[field], &seen[field])?;
    }
    same("header", &lower_case(&param["header"]), &lower_case(&seen["header"]))?;
    same("body_length", &body.len().into(), &seen["body_length"])?;
    same("body_sha256", &hex_digest(&body).into(), &seen["body_sha256"])
}

fn same(field: &str, sent: &Value, seen: &Value) -> Verdict {
    if sent == seen { Ok(()) } else { Err(format!("{field} was {sent}, and the handler saw {seen}")) }
}

fn lower_case(header: &Value) -> Value {
    let header = header.as_object().into_iter().flatten();
    header.map(|(name, values)| (name.to_ascii_lowercase(), values.clone())).collect::<Map<_, _>>().into()
}

fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn large_request(worker: &Worker) -> Verdict {
    echo(worker, &Call::new("conform/echo", "POST", noise())).await
}

/// 10 MiB, in which every byte value comes.
fn noise() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(1);
    let mut noise = vec![0; LARGE];
    random.fill(&mut noise);
    noise
}

async fn identities(worker: &Worker) -> Verdict {
    for vector in vectors::IDENTITIES {
        let envelope = vector.read()?["envelope"].take();
        // The gateway lets nobody else through to a handler that requires a user.
        let has_user = envelope["context"]["user_id"].is_string();
        let handler = if has_user { "conform/user" } else { "conform/echo" };
        if worker.handlers(handler).next().is_none() {
            continue;
        }
        let call = Call::from_envelope(handler, envelope)
            .with("/param/method", "GET".into())
            // A client may write what it likes.
            .with("/param/header/X-Gearway-User-Id", json!(["mallory"]))
            .with("/param/header/X-Skygear-User-Id", json!(["mallory"]));
        let seen =
            worker.json(&call).await.map_err(|seen| format!("vectors/requests/{}: {seen}", vector.name))?;
        for field in ["user_id", "access_key_type"] {
            same(field, &call.envelope()["context"][field], &seen[field])
                .map_err(|seen| format!("vectors/requests/{}: {seen}", vector.name))?;
        }
    }
    Ok(())
}

async fn params(worker: &Worker) -> Verdict {
    let expected = json!({"first": "a b%2f+", "second": "grüße 😀"});
    let call = Call::new("conform/params/{first}/{second}", "GET", "")
        .with("/param/path", "/conform/params/a b%2f+/grüße 😀".into())
        .with("/param/raw_path", "/conform/params/a%20b%252f+/gr%C3%BC%C3%9Fe%20%F0%9F%98%80".into())
        .with("/param/params", expected.clone());
    same("params", &expected, &worker.json(&call).await?)
}

async fn methods(worker: &Worker) -> Verdict {
    for (method, expected) in [("GET", "one"), ("POST", "other"), ("PATCH", "other"), ("GET", "one")] {
        let seen = worker.text(&Call::new("conform/methods", method, "")).await?;
        if seen != expected {
            return Err(format!(
                "{method} conform/methods reached the handler that says {seen:?}, not {expected:?}"
            ));
        }
    }
    is_unknown(&worker.answer(&Call::new("conform/methods", "DELETE", "")).await?)
}

async fn unknown(worker: &Worker) -> Verdict {
    is_unknown(&worker.answer(&Call::nobodys()).await?)?;
    // A handler that is there, by a method that is not.
    let Some(handler) = worker.registration.handlers.first() else { return Ok(()) };
    let taken = |method: &str| worker.handlers(&handler.name).any(|h| h.methods.iter().any(|m| m == method));
    let Some(method) = ["DELETE", "PATCH", "OPTIONS", "HEAD"].into_iter().find(|method| !taken(method))
    else {
        return Ok(());
    };
    is_unknown(&worker.answer(&Call::new(&handler.name, method, "")).await?)
        .map_err(|seen| format!("{method} {}: {seen}", handler.name))
}

async fn future_fields(worker: &Worker) -> Verdict {
    let future = json!({"n": u64::MAX, "list": [1, {"a": null}]});
    let mut envelope = Call::nobodys()
        .with("/future", future.clone())
        .with("/context/future", future.clone())
        .with("/param/future", future)
        .bytes();
    // Numbers that no machine type holds.
    envelope.pop();
    envelope.extend_from_slice(
        br#","big":[123456789012345678901234567890,-1e300,0.10000000000000000000000001]}"#,
    );
    let without = worker.answer(&Call::nobodys()).await?;
    let with = worker.post(Some(&worker.bearer()), &envelope).await?;
    if with.status == without.status { Ok(()) } else { Err(with.shown()) }
}

async fn texts(worker: &Worker) -> Verdict {
    for vector in vectors::TEXTS {
        let text = result(vector)?["value"].take();
        let text = text.as_str().unwrap_or_default();
        let seen = worker.text(&Call::new("conform/text", "POST", text)).await?;
        if seen != text {
            return Err(format!(
                "vectors/replies/{}: the text was {text:?}, and {seen:?} came back",
                vector.name
            ));
        }
    }
    Ok(())
}

async fn jsons(worker: &Worker) -> Verdict {
    let mut values = vec![json!({}), json!([]), json!({"a": {}, "b": [], "c": [[], {}, null]}), json!(-1.5)];
    for vector in vectors::JSONS {
        values.push(result(vector)?["value"].take());
    }
    for value in values {
        let seen = worker.json(&Call::json("conform/json", &value)).await?;
        if seen != value {
            return Err(format!("the value was {value}, and {seen} came back"));
        }
    }
    Ok(())
}

async fn responses(worker: &Worker, replies: &[Vector]) -> Verdict {
    for vector in replies {
        let mut wanted = json!({"status": 200, "header": {}, "body": ""});
        for (name, value) in
            result(vector)?.as_object().into_iter().flatten().filter(|(name, _)| *name != "type")
        {
            wanted[name] = value.clone();
        }
        let seen = worker.reply(&Call::json("conform/response", &wanted)).await?;
        is_that_response(&wanted, &seen)
            .map_err(|seen| format!("vectors/replies/{}: {seen}", vector.name))?;
    }
    Ok(())
}

/// Headers beside those that were asked for are the worker's own affair. Values of one name may be joined by commas, which
/// means the same in HTTP, but for cookies.
fn is_that_response(wanted: &Value, seen: &Reply) -> Verdict {
    let Reply::Result(HandlerResult::Response { status, header, body }) = seen else {
        return Err(format!("not a reply of type response: {}", shown(seen)));
    };
    same("status", &wanted["status"], &(*status).into())?;
    same("body", &wanted["body"], &gearway_protocol::Base64Body::encode(&body.0).into())?;
    let header: BTreeMap<_, _> =
        header.iter().map(|(name, values)| (name.to_ascii_lowercase(), values)).collect();
    for (name, values) in wanted["header"].as_object().into_iter().flatten() {
        let values: Vec<_> = values.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let seen = header.get(&name.to_ascii_lowercase()).map(|values| values.as_slice()).unwrap_or_default();
        let same = seen == values || (name != "Set-Cookie" && seen.join(", ") == values.join(", "));
        if !same {
            return Err(format!("header {name} was {values:?}, and {seen:?} came back"));
        }
    }
    Ok(())
}

async fn bytes(worker: &Worker) -> Verdict {
    for body in [Vec::new(), (0..=255).collect(), vec![0], vec![255, 254]] {
        comes_back(worker, &body).await?;
    }
    Ok(())
}

async fn large_response(worker: &Worker) -> Verdict {
    comes_back(worker, &noise()).await
}

async fn comes_back(worker: &Worker, sent: &[u8]) -> Verdict {
    match worker.reply(&Call::new("conform/body", "POST", sent)).await? {
        Reply::Result(HandlerResult::Response { body, .. }) if body.0 == sent => Ok(()),
        Reply::Result(HandlerResult::Response { body, .. }) => {
            Err(format!("a body of {} bytes came back as {} other bytes", sent.len(), body.0.len()))
        }
        other => Err(format!("not a reply of type response: {}", shown(&other))),
    }
}

async fn errors(worker: &Worker) -> Verdict {
    let list = vectors::ERRORS.read()?;
    for vector in list.as_array().into_iter().flatten() {
        let raised = match serde_json::from_str(vector["reply"].as_str().unwrap_or_default()) {
            Ok(Reply::Error(error)) => error,
            Ok(Reply::Result(_)) | Err(_) => {
                return Err(format!("vectors/errors.json: no error in {vector}"));
            }
        };
        // An SDK may refuse to raise what means nothing.
        if raised.code.name().is_none() && raised.code.0 < 10_000 {
            continue;
        }
        let call = Call::json("conform/error", &json!(raised));
        let told = match worker.reply(&call).await? {
            Reply::Error(told) => told,
            other @ Reply::Result(_) => {
                return Err(format!("{}: no error: {}", raised.code.0, shown(&other)));
            }
        };
        // A code that has no name may get any.
        let name = raised.name.as_deref().or(raised.code.name());
        let same_name =
            name.is_none() || told.name.is_none() && raised.name.is_none() || told.name.as_deref() == name;
        let same_info = raised.info.clone().unwrap_or_default() == told.info.clone().unwrap_or_default();
        if (told.code, &told.message) != (raised.code, &raised.message) || !same_name || !same_info {
            return Err(format!("{} was raised, and {} came back", json!(raised), json!(told)));
        }
    }
    Ok(())
}

async fn failure(worker: &Worker) -> Verdict {
    let text = format!("no connection to db.internal: {SECRET_TEXT}");
    let answer = worker.answer(&Call::new("conform/fail", "POST", text)).await?;
    match reply(&answer)? {
        Reply::Error(error) if error.code.0 == 130 => {}
        other => return Err(format!("no error 130: {}", shown(&other))),
    }
    if String::from_utf8_lossy(&answer.body).contains(SECRET_TEXT) {
        return Err(format!("the exception's text reaches the client: {}", answer.shown()));
    }
    worker.is_alive().await
}

/// What a reply of the vectors holds under `result`.
fn result(vector: &Vector) -> Result<Value, String> {
    let mut reply: Value = serde_json::from_str(vector.read()?["reply"].as_str().unwrap_or_default())
        .map_err(|error| format!("{}: {error}", vector.name))?;
    Ok(reply["result"].take())
}
