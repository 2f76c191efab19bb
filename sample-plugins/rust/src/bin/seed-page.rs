//! Every example of "Custom HTTP Endpoint". What to send to each is in ../../../README.md.

use gearway_worker::http::{Error, Response};
use gearway_worker::{
    ErrorCode, Form, HandlerError, Json, Method, Path, Query, Request, StatusCode, Worker, current_user_id,
    handler,
};
use serde::{Deserialize, Serialize};

#[derive(Deserialize, Serialize)]
struct Reading {
    key: String,
    value: i64,
}

#[derive(Deserialize, Serialize)]
struct Fields {
    a: i64,
    b: String,
}

#[derive(Deserialize, Serialize)]
struct Person {
    name: Option<String>,
}

#[derive(Serialize)]
struct Below {
    path: String,
}

/// What follows `/url/`, for further actions based on the request's URL.
async fn parse_url(request: Request) -> Json<Below> {
    let full_path = request.full_path();
    let path = full_path.strip_prefix("/url/").unwrap_or_default().to_owned();
    Json(Below { path })
}

/// The whole response is the handler's own.
async fn full_response() -> Result<Response<&'static str>, Error> {
    Response::builder()
        .status(StatusCode::CREATED)
        .header("Content-Type", "text/html; charset=utf-8")
        .header("Set-Cookie", "theme=dark; Path=/; HttpOnly")
        .header("Set-Cookie", "language=de; Path=/")
        .body("<h1>created</h1>")
}

async fn buy(Path((show, seats)): Path<(String, u32)>) -> Result<Json<u32>, HandlerError> {
    const LEFT: u32 = 4;
    match seats {
        0 => Err(HandlerError::invalid_argument("seats", "seats must be at least 1")),
        1..=LEFT => Ok(Json(LEFT - seats)),
        _ => Err(HandlerError::new(ErrorCode(10_001), format!("{show} has only {LEFT} seats left"))
            .with_name("SoldOut")
            .with_info("left", LEFT)),
    }
}

#[tokio::main]
async fn main() -> Result<(), gearway_worker::Error> {
    Worker::from_env()?
        // Names: exactly this path; this path and all below; an override of one path below.
        .handler("foo", async || "exactly /foo")
        .handler("tree/", async |request: Request| format!("{} is /tree/ or below", request.path()))
        .handler("abc/", async || "/abc/ or below")
        .handler("abc/def", async || "exactly /abc/def")
        // Methods: different functions for the same endpoint, and one that has to be asked for.
        .route(handler("my_endpoint", async || "got").methods([Method::GET]))
        .route(handler("my_endpoint", async |body: String| format!("posted {body}")).methods([Method::POST]))
        .route(handler("item", async || StatusCode::NO_CONTENT).methods([Method::DELETE]))
        // Credentials.
        .route(handler("private", async || Json(current_user_id())).user_required())
        .route(handler("keyed", async || "a known API key").key_required())
        // Arguments.
        .handler("get_query_string", async |Query(reading): Query<Reading>| Json(reading))
        .handler("form", async |Form(fields): Form<Fields>| Json(fields))
        .handler("json", async |Json(person): Json<Person>| Json(person))
        .handler("url/", parse_url)
        .handler("buy/{show}/{seats}", buy)
        // Return values.
        .handler("string", async || "a string")
        .handler("dict", async || Json(Person { name: Some("John".to_owned()) }))
        .handler("list", async || Json([1, 2, 3]))
        .handler("int", async || 42)
        .handler("null", async || ())
        .handler("response", full_response)
        .run()
        .await
}
