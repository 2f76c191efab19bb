//! The conformance handlers of `PROTOCOL.md`, for `gearway conform -- conformance`.

use gearway_worker::http::{HeaderMap, HeaderName, HeaderValue};
use gearway_worker::{
    AccessKeyType, Bytes, CurrentUser, ErrorCode, HandlerError, Json, Method, Request, StatusCode, Worker,
    handler,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Deserialize)]
struct WantedResponse {
    status: u16,
    header: BTreeMap<String, Vec<String>>,
    body: String,
}

#[derive(Deserialize)]
struct WantedError {
    code: u32,
    name: Option<String>,
    message: String,
    info: Option<Map<String, Value>>,
}

async fn echo(request: Request) -> Json<Value> {
    let mut header = BTreeMap::<&str, Vec<String>>::new();
    for (name, value) in request.headers() {
        header
            .entry(name.as_str())
            .or_default()
            .push(value.as_bytes().iter().copied().map(char::from).collect());
    }
    Json(json!({
        "method": request.method().as_str(), "path": request.path(), "raw_path": request.raw_path(),
        "query_string": request.query_string(), "params": request.params(), "header": header,
        "body_length": request.body().len(),
        "body_sha256": base16ct::lower::encode_string(&Sha256::digest(request.body())),
        "remote_addr": request.remote_addr(), "request_id": request.request_id(), "user_id": request.user_id(),
        "access_key_type": request.access_key_type().map(AccessKeyType::as_str),
    }))
}

async fn response(
    Json(wanted): Json<WantedResponse>,
) -> Result<(StatusCode, HeaderMap, Bytes), HandlerError> {
    let mut headers = HeaderMap::new();
    for (name, value) in
        wanted.header.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)))
    {
        let bytes = value.chars().map(|c| u8::try_from(u32::from(c))).collect::<Result<Vec<u8>, _>>()?;
        headers.append(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_bytes(&bytes)?);
    }
    Ok((
        StatusCode::from_u16(wanted.status)?,
        headers,
        base64_simd::STANDARD.decode_to_vec(wanted.body)?.into(),
    ))
}

async fn error(Json(wanted): Json<WantedError>) -> HandlerError {
    let error = HandlerError::new(ErrorCode(wanted.code), wanted.message);
    let error = wanted.name.into_iter().fold(error, HandlerError::with_name);
    wanted.info.into_iter().flatten().fold(error, |error, (key, value)| error.with_info(key, value))
}

async fn user(request: Request, CurrentUser(user_id): CurrentUser) -> Json<Value> {
    Json(json!({"user_id": user_id, "access_key_type": request.access_key_type().map(AccessKeyType::as_str)}))
}

async fn slow(milliseconds: String) -> Result<&'static str, HandlerError> {
    tokio::time::sleep(Duration::from_millis(milliseconds.parse()?)).await;
    Ok("slow")
}

#[tokio::main]
async fn main() -> Result<(), gearway_worker::Error> {
    let (get, post) = ([Method::GET], [Method::POST]);
    let params = async |request: Request| Json(json!(request.params()));
    let every = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];
    Worker::from_env()?
        .max_concurrency(4)
        .route(handler("conform/echo", echo).methods(every.map(|m| m.parse().expect("a method"))))
        .handler("conform/text", async |body: String| body)
        .route(handler("conform/json", async |Json(value): Json<Value>| value).methods(post.clone()))
        .route(handler("conform/body", async |body: Bytes| body).methods(post.clone()))
        .route(handler("conform/response", response).methods(post.clone()))
        .route(handler("conform/error", error).methods(post.clone()))
        .route(handler("conform/fail", async |body: String| -> () { panic!("{body}") }).methods(post.clone()))
        .route(handler("conform/methods", async || "one").methods(get.clone()))
        .route(handler("conform/methods", async || "other").methods([Method::POST, Method::PATCH]))
        .route(handler("conform/params/{first}/{second}", params).methods(get.clone()))
        .route(handler("conform/user", user).methods(get).key_required().user_required())
        .route(handler("conform/slow", slow).methods(post).timeout(Duration::from_secs(30)).idempotent())
        .run()
        .await
}
