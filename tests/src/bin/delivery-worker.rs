//! A worker that writes every attempt to deliver into a file before it does anything else.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gearway_worker::{DeliveryMode, DeliverySpec, HandlerError, Method, Request, Worker, handler};

/// Long enough to be killed in.
const WORK: Duration = Duration::from_millis(3);

async fn take(request: Request) -> Result<&'static str, HandlerError> {
    let path = std::env::var_os("LEDGER").ok_or_else(|| HandlerError::bad_request("LEDGER is not set"))?;
    let delivery = request.delivery().ok_or_else(|| HandlerError::bad_request("this is no delivery"))?;
    let event = request.header("X-Event").unwrap_or_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let line = format!("{} {} {event} {now}\n", delivery.id, delivery.attempt);
    OpenOptions::new().append(true).create(true).open(path)?.write_all(line.as_bytes())?;
    tokio::time::sleep(WORK).await;
    Ok("done")
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut kept = DeliverySpec { mode: DeliveryMode::Durable, ..DeliverySpec::default() };
    kept.dedup = Some("X-Event".to_owned());
    let route = handler("hook", take).methods([Method::POST]).delivery(kept);
    Ok(Worker::from_env()?.route(route).run().await?)
}
