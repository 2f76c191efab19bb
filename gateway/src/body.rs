//! A client's body, read whole within its limits.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use crate::admit::Admission;
use crate::config::Limits;
use crate::error::Error;

/// Reads the body, taking its bytes from the admission's budget as they arrive.
///
/// # Errors
/// When the body is longer than `limits.max_body`, slower than `limits.body_timeout`, ends early, or the gateway is full.
pub async fn read(body: Incoming, limits: &Limits, admission: &mut Admission) -> Result<Bytes, Error> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    within(limits.body_timeout, collect(body, limits.max_body, admission)).await
}

async fn within<T>(timeout: Duration, read: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(timeout, read).await.unwrap_or(Err(Error::BodyTooSlow))
}

async fn collect(mut body: Incoming, limit: u64, admission: &mut Admission) -> Result<Bytes, Error> {
    let declared = body.size_hint().exact();
    if declared.is_some_and(|length| length > limit) {
        return Err(Error::BodyTooLarge { limit });
    }
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Error::bad_request("the body is malformed or ended early"))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() as u64 + data.len() as u64 > limit {
            return Err(Error::BodyTooLarge { limit });
        }
        // Neither budget nor memory is taken before: a declared length alone costs the client nothing.
        admission.reserve(data.len() as u64)?;
        if Some(data.len() as u64) == declared {
            return Ok(data);
        }
        if whole.capacity() - whole.len() < data.len() {
            let missing = declared.unwrap_or(0).saturating_sub(whole.len() as u64);
            let some = (whole.len() as u64 * 4).max(data.len() as u64);
            whole.reserve(usize::try_from(missing.min(some)).unwrap_or(0).max(data.len()));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}
