use std::sync::Arc;

use bytes::Bytes;
use gearway_protocol::{Envelope, ErrorCode, HandlerError as ToldError};
use http::StatusCode;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::current;
use crate::request::{Request, States};
use crate::routes::Routes;
use crate::wire::{encode_error, panicked};

/// What turns envelopes into replies.
pub(crate) struct Calls {
    pub(crate) routes: Routes,
    pub(crate) state: Arc<States>,
    /// The calls that are running.
    pub(crate) running: TaskTracker,
}

/// The worker's HTTP response to one envelope.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn error(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        let name = code.name().map(str::to_owned);
        Self { status, body: encode_error(&ToldError { code, name, message: message.into(), info: None }) }
    }

    fn malformed(reason: impl Into<String>) -> Self {
        Self::error(StatusCode::BAD_REQUEST, ErrorCode::BAD_REQUEST, reason)
    }
}

impl Calls {
    /// Runs the handler that the envelope names. It runs to its end even when nobody waits for the answer any more.
    /// `held` is let go when it has.
    pub(crate) async fn answer(
        &self,
        envelope: Bytes,
        traceparent: Option<String>,
        held: impl Send + 'static,
    ) -> Answer {
        let read = serde_json::from_slice(&envelope);
        // Megabytes of base64 are not kept while the handler runs.
        drop(envelope);
        let envelope: Envelope = match read {
            Ok(envelope) => envelope,
            Err(error) => return Answer::malformed(format!("not an envelope: {error}")),
        };
        let Some(run) = self.routes.find(&envelope.name, &envelope.param.method) else {
            let message = format!("no handler {:?} for {}", envelope.name, envelope.param.method);
            return Answer::error(StatusCode::OK, ErrorCode::UNDEFINED_OPERATION, message);
        };
        let request = match Request::new(envelope, traceparent, Arc::clone(&self.state)) {
            Ok(request) => request,
            Err(reason) => return Answer::malformed(reason),
        };
        let span = tracing::info_span!(
            "call",
            handler = request.handler_name(),
            method = %request.method(),
            request_id = request.request_id(),
        );
        let call = async move {
            let reply = current::scope(request.clone(), async move { run(request).await }).await;
            drop(held);
            reply.into_wire()
        };
        let body = match self.running.spawn(call.instrument(span.clone())).await {
            Ok(body) => body,
            Err(error) => {
                span.in_scope(|| tracing::error!(panic = panic_text(error), "the handler panicked"));
                panicked().into_wire()
            }
        };
        Answer { status: StatusCode::OK, body }
    }
}

fn panic_text(error: tokio::task::JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => panic
            .downcast_ref::<&'static str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without a text".to_owned()),
        Err(error) => error.to_string(),
    }
}
