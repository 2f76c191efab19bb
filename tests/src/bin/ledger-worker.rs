//! A worker whose handlers write the number of each request into a file before they answer.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use gearway_tests::faulty::REQUEST_HEADER;
use gearway_worker::{HandlerError, Method, Request, Worker, handler};

/// Long enough to be killed in.
const WORK: Duration = Duration::from_millis(5);
const TIMEOUT: Duration = Duration::from_secs(5);

async fn run(request: Request) -> Result<String, HandlerError> {
    let number = request.header(REQUEST_HEADER).unwrap_or_default().to_owned();
    let path = std::env::var_os("LEDGER").ok_or_else(|| HandlerError::bad_request("LEDGER is not set"))?;
    let mut ledger = OpenOptions::new().append(true).create(true).open(path)?;
    ledger.write_all(format!("{number}\n").as_bytes())?;
    tokio::time::sleep(WORK).await;
    Ok(number)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let worker = Worker::from_env()?
        .route(handler("once", run).methods([Method::POST]).timeout(TIMEOUT))
        .route(handler("again", run).methods([Method::POST]).timeout(TIMEOUT).idempotent());
    Ok(worker.run().await?)
}
