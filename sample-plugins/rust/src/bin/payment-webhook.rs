//! A payment provider's webhook: its events are signed, and delivered at least once.
//!
//! The provider signs the raw body: `X-Payment-Signature: sha256=<HMAC-SHA256 in hex>`. It sends an event again until
//! it gets a 2xx, so an event is answered 2xx only once it is on disk, and a copy of one that is there does nothing.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use gearway_worker::{
    Bytes, ErrorCode, FromRequest, HandlerError, Json, Method, Request, State, Worker, handler,
};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use tempfile::NamedTempFile;
use tokio::task::spawn_blocking;

#[derive(Deserialize)]
struct Event {
    id: String,
}

#[derive(Serialize)]
struct Receipt {
    id: String,
    duplicate: bool,
}

/// The raw body, once its signature is known to be the provider's.
struct Signed(Bytes);

struct Secret(String);

/// A folder with a file for each event, named by its id. Replicas may share it; a table with a unique key does the same.
struct Ledger(PathBuf);

impl FromRequest for Signed {
    async fn from_request(request: &Request) -> Result<Self, HandlerError> {
        let secret = State::<Secret>::from_request(request).await?;
        let signature = request
            .header("x-payment-signature")
            .and_then(|value| base16ct::mixed::decode_vec(value.strip_prefix("sha256=")?).ok())
            .unwrap_or_default();
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.0.0.as_bytes())?;
        mac.update(request.body());
        // Compares in constant time.
        mac.verify_slice(&signature).map_err(|_| {
            HandlerError::new(ErrorCode::INVALID_SIGNATURE, "the signature does not match the body")
        })?;
        Ok(Self(request.body().clone()))
    }
}

async fn payment(Signed(body): Signed, State(ledger): State<Ledger>) -> Result<Json<Receipt>, HandlerError> {
    let Event { id } = serde_json::from_slice(&body)
        .map_err(|error| HandlerError::bad_request(format!("not an event: {error}")))?;
    let fits_a_file_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if id.is_empty() || id.len() > 200 || !id.chars().all(fits_a_file_name) {
        return Err(HandlerError::invalid_argument("id", "id must be letters, digits, _ and -"));
    }
    let path = ledger.0.join(&id);
    let new = spawn_blocking(move || record(&path, &body)).await??;
    Ok(Json(Receipt { id, duplicate: !new }))
}

/// Whether the event is new. It is on disk when this returns, and there is no moment at which half of it is.
fn record(path: &Path, event: &[u8]) -> io::Result<bool> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = NamedTempFile::new_in(folder)?;
    file.write_all(event)?;
    file.as_file().sync_all()?;
    let new = match file.persist_noclobber(path) {
        Ok(_) => true,
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => false,
        Err(error) => return Err(error.error),
    };
    File::open(folder)?.sync_all()?;
    Ok(new)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let secret = std::env::var("PAYMENT_WEBHOOK_SECRET").ok().filter(|secret| !secret.is_empty());
    let secret =
        secret.ok_or("set PAYMENT_WEBHOOK_SECRET to the secret that the payment provider signs with")?;
    let ledger = PathBuf::from(std::env::var_os("PAYMENT_LEDGER").unwrap_or_else(|| "payments".into()));
    fs::create_dir_all(&ledger)?;
    let worker = Worker::from_env()?
        .state(Secret(secret))
        .state(Ledger(ledger))
        // A copy does nothing, so the gateway may repeat a call whose outcome it does not know.
        .route(handler("webhooks/payment", payment).methods([Method::POST]).idempotent());
    Ok(worker.run().await?)
}
