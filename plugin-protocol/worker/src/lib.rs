//! Write handlers for a Gearway gateway in Rust.
//!
//! A handler is an async function. Its arguments say what it wants of the request, its return value is the reply:
//!
//! ```
//! use gearway_worker::{CurrentUser, HandlerError, Json, Method, Path, Query, Settings, Worker, handler};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Deserialize)]
//! struct Page {
//!     #[serde(default)]
//!     after: u64,
//! }
//!
//! #[derive(Serialize)]
//! struct Order {
//!     id: u64,
//! }
//!
//! async fn orders(Query(page): Query<Page>, user: CurrentUser) -> Json<Vec<Order>> {
//!     Json(vec![Order { id: page.after + 1 }])
//! }
//!
//! async fn order(Path(id): Path<u64>) -> Result<Json<Order>, HandlerError> {
//!     if id > 1000 {
//!         return Err(HandlerError::not_found(format!("no order {id}")));
//!     }
//!     Ok(Json(Order { id }))
//! }
//!
//! let worker = Worker::new(Settings::new("orders"))
//!     .route(handler("orders", orders).methods([Method::GET]).user_required())
//!     .handler("orders/{id}", order);
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let client = worker.test_client();
//! let response = client.get("/orders?after=4").user("alice").await;
//! assert_eq!(response.body(), r#"[{"id":5}]"#);
//! assert_eq!(client.get("/orders/1001").await.status(), 404);
//! # });
//! ```
//!
//! [`Worker::from_env`] and [`Worker::run`] make a process of it: they listen, register with the gateway, keep the lease,
//! register again when the gateway has forgotten them, and on SIGTERM leave without losing a call. What is required
//! of a worker in any language is in `PROTOCOL.md` of `gearway-protocol`.
#![warn(missing_docs)]

mod call;
mod current;
mod error;
mod extract;
mod fields;
mod handler;
mod handler_error;
mod pattern;
mod registration;
mod reply;
mod request;
mod routes;
mod secret;
mod server;
mod settings;
mod test_client;
mod wire;
mod worker;

pub use bytes::Bytes;
pub use current::{current_request, current_user_id, with_current_request};
pub use error::Error;
pub use extract::{CurrentUser, Form, FromRequest, Json, Path, Query, State};
pub use gearway_protocol::{AccessKeyType, ErrorCode};
pub use gearway_protocol::{Ack, Delivery, DeliveryMode, DeliverySpec, Verification};
pub use gearway_protocol::{HmacAlgorithm, SignatureEncoding, VerifyScheme, VerifySpec};
pub use handler::{Handler, Route, handler};
pub use handler_error::HandlerError;
pub use http::{self, HeaderMap, Method, StatusCode};
pub use reply::{IntoReply, Reply};
pub use request::Request;
pub use settings::Settings;
pub use test_client::{TestClient, TestRequest};
pub use worker::Worker;

/// The worker that README.md shows compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
