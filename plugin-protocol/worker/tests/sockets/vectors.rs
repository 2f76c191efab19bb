//! The golden messages of `plugin-protocol/vectors`: every envelope is read, and every reply written.

use std::fs;
use std::path::PathBuf;

use gearway_worker::http::Response;
use gearway_worker::{
    Bytes, ErrorCode, HandlerError, IntoReply, Json, Method, Reply, Request, Settings, Worker, handler,
};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::fake_gateway::{Caller, FakeGateway, envelope};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../vectors")
}

fn vectors(kind: &str) -> Vec<(String, Value)> {
    let entries = fs::read_dir(folder().join(kind)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap())
        })
        .collect()
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// All that a handler can see.
async fn see(request: Request) -> Json<Value> {
    let mut header = Map::new();
    for name in request.headers().keys() {
        let values = request.headers().get_all(name).iter().map(|value| latin1(value.as_bytes()));
        header.insert(name.to_string(), values.collect());
    }
    Json(json!({
        "name": request.handler_name(),
        "method": request.method().as_str(),
        "path": request.path(),
        "raw_path": request.raw_path(),
        "query_string": request.query_string(),
        "params": request.params(),
        "header": header,
        "body": gearway_protocol::Base64Body::encode(request.body()),
        "remote_addr": request.remote_addr(),
        "request_id": request.request_id(),
        "user_id": request.user_id(),
        "access_key_type": request.access_key_type(),
        "timed": request.deadline().is_some(),
    }))
}

#[tokio::test]
async fn every_envelope_is_read() {
    let vectors = vectors("requests");
    let mut worker = Worker::new(Settings::new("test"));
    let mut names: Vec<&str> =
        vectors.iter().map(|(_, vector)| vector["handler_name"].as_str().unwrap()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        worker = worker.route(handler(name, see).methods([
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::DELETE,
        ]));
    }
    let (_gateway, caller) = serve(worker).await;
    for (name, vector) in vectors {
        let reply: Value = caller.post(vector["envelope"].to_string()).await.json().await.unwrap();
        let (http, context) = (&vector["http"], &vector["context"]);
        let param = &vector["envelope"]["param"];
        let header = param["header"].as_object().unwrap();
        let header: Map<String, Value> =
            header.iter().map(|(name, values)| (name.to_lowercase(), values.clone())).collect();
        assert_eq!(
            reply["result"]["value"],
            json!({
                "name": vector["handler_name"],
                "method": http["method"],
                "path": param["path"],
                "raw_path": http["target"].as_str().unwrap().split('?').next().unwrap(),
                "query_string": param["query_string"],
                "params": param["params"],
                "header": header,
                "body": http["body_base64"],
                "remote_addr": http["remote_addr"],
                "request_id": context["request_id"],
                "user_id": context.get("user_id"),
                "access_key_type": context.get("access_key_type"),
                "timed": true,
            }),
            "{name}: {reply}"
        );
    }
}

/// What a handler would return to get this reply.
fn returned(reply: &str) -> Reply {
    #[derive(serde::Deserialize)]
    struct Raw {
        result: Fields,
    }
    #[derive(serde::Deserialize)]
    struct Fields {
        r#type: String,
        value: Option<Box<RawValue>>,
        status: Option<u16>,
        #[serde(default)]
        header: Map<String, Value>,
        #[serde(default)]
        body: gearway_protocol::Base64Body,
    }
    let fields = serde_json::from_str::<Raw>(reply).unwrap().result;
    match fields.r#type.as_str() {
        "text" => serde_json::from_str::<String>(fields.value.unwrap().get()).unwrap().into_reply(),
        "json" => {
            let null = || serde_json::from_str("null").unwrap();
            Json(fields.value.unwrap_or_else(null)).into_reply()
        }
        _ => {
            let mut response = Response::builder().status(fields.status.unwrap());
            for (name, values) in &fields.header {
                for value in values.as_array().unwrap() {
                    let bytes: Vec<u8> = value.as_str().unwrap().chars().map(|c| c as u8).collect();
                    response = response.header(name, bytes);
                }
            }
            response.body(Bytes::from(fields.body.0)).unwrap().into_reply()
        }
    }
}

/// Without the white space, order and omissions that writers may choose.
fn normal(reply: &str) -> String {
    serde_json::to_string(&serde_json::from_str::<gearway_protocol::Reply>(reply).unwrap()).unwrap()
}

async fn serve(worker: Worker) -> (FakeGateway, Caller) {
    let mut gateway = FakeGateway::start().await;
    let worker = worker.settings(gateway.settings());
    tokio::spawn(worker.run_until(std::future::pending()));
    let url = gateway.register("w1", "secret", 60_000).await;
    (gateway, Caller::new(&url, "secret"))
}

#[tokio::test]
async fn every_reply_is_written() {
    let vectors = vectors("replies");
    let worker = || {
        let mut worker = Worker::new(Settings::new("test"));
        for (name, vector) in &vectors {
            let reply = vector["reply"].as_str().unwrap().to_owned();
            worker = worker.handler(name, move || async move { returned(&reply) });
        }
        worker
    };
    let (_gateway, caller) = serve(worker()).await;
    let client = worker().test_client();
    for (name, vector) in &vectors {
        let reply = caller.post(envelope(name)).await.text().await.unwrap();
        assert_eq!(normal(&reply), normal(vector["reply"].as_str().unwrap()), "{name}");

        let response = client.get(format!("/{name}")).await;
        let told = &vector["response"];
        assert_eq!(told["status"], response.status().as_u16(), "{name}");
        assert_eq!(told["body_base64"], gearway_protocol::Base64Body::encode(response.body()), "{name}");
        let mut headers: Vec<(String, String)> =
            response.headers().iter().map(|(n, v)| (n.to_string(), latin1(v.as_bytes()))).collect();
        headers.sort_by(|one, two| one.0.cmp(&two.0));
        let mut expected: Vec<(String, String)> = serde_json::from_value(told["headers"].clone()).unwrap();
        expected.iter_mut().for_each(|(name, _)| name.make_ascii_lowercase());
        expected.sort_by(|one, two| one.0.cmp(&two.0));
        assert_eq!(headers, expected, "{name}");
    }
}

#[tokio::test]
async fn every_error_is_written() {
    let text = fs::read_to_string(folder().join("errors.json")).unwrap();
    let errors: Vec<Value> = serde_json::from_str(&text).unwrap();
    let mut worker = Worker::new(Settings::new("test"));
    for (index, vector) in errors.iter().enumerate() {
        let reply: Value = serde_json::from_str(vector["reply"].as_str().unwrap()).unwrap();
        worker = worker.handler(format!("{index}"), move || async move {
            let code = ErrorCode(u32::try_from(reply["error"]["code"].as_u64().unwrap()).unwrap());
            let mut error = HandlerError::new(code, reply["error"]["message"].as_str().unwrap());
            if let Some(name) = reply["error"]["name"].as_str() {
                error = error.with_name(name);
            }
            for (key, value) in reply["error"]["info"].as_object().into_iter().flatten() {
                error = error.with_info(key, value.clone());
            }
            error
        });
    }
    let client = worker.test_client();
    for (index, vector) in errors.iter().enumerate() {
        let response = client.get(format!("/{index}")).await;
        assert_eq!(vector["response"]["status"], response.status().as_u16());
        let mut body: Value = serde_json::from_slice(response.body()).unwrap();
        body["error"].as_object_mut().unwrap().remove("request_id");
        assert_eq!(vector["response"]["body"], body);
    }
}
