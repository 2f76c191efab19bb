use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use gearway_protocol::{ErrorCode, NOT_RUN_HEADER};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::call::{Answer, Calls};
use crate::secret::SecretCell;
use crate::wire::JSON;

/// The worker's own HTTP server, to which the gateway posts envelopes.
pub(crate) struct Server {
    pub(crate) calls: Calls,
    pub(crate) secret: SecretCell,
    /// How many calls may run at once; [`None`] for any number.
    pub(crate) slots: Option<Arc<Semaphore>>,
    /// The largest envelope that is read, in bytes.
    pub(crate) max_envelope: usize,
}

/// The gateway keeps idle connections for 30 s and counts on 60 s here, so this ends only those that it forgot.
const IDLE: Duration = Duration::from_secs(120);
/// An envelope is sent in one go.
const BODY: Duration = Duration::from_secs(60);
/// What connections get to take the last replies away, once everything has run.
const LAST_REPLIES: Duration = Duration::from_secs(5);
/// Between failures to accept a connection, which are mostly a lack of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

impl Server {
    /// Serves until `stop`; then closes the listener and the idle connections, and returns when what runs has been
    /// answered.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let connections = GracefulShutdown::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    let connection = connections.watch(Arc::clone(&self).connection(stream));
                    tokio::spawn(async move {
                        if let Err(error) = connection.await {
                            tracing::debug!(%error, "a connection ended badly");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_AGAIN).await;
                }
            }
        }
        drop(listener);
        self.calls.running.close();
        let everything_ran = async {
            self.calls.running.wait().await;
            sleep(LAST_REPLIES).await;
        };
        tokio::select! {
            () = connections.shutdown() => self.calls.running.wait().await,
            () = everything_ran => tracing::warn!("a connection did not end by itself"),
        }
    }

    fn connection(
        self: Arc<Self>,
        stream: TcpStream,
    ) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let service = service_fn(move |request| {
            let server = Arc::clone(&self);
            async move { Ok::<_, Infallible>(server.respond(request).await) }
        });
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .serve_connection(TokioIo::new(stream), service)
    }

    async fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        // A call counts as running from its head on, so that a drain waits for the rest of it.
        let running = self.calls.running.token();
        let (head, body) = request.into_parts();
        let presented = head.headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
        if !self.secret.accepts(presented).await {
            discard(body, self.max_envelope).await;
            return plain(Answer::error(
                StatusCode::UNAUTHORIZED,
                ErrorCode::NOT_AUTHENTICATED,
                "this is not the worker's secret",
            ));
        }
        if head.method != Method::POST {
            discard(body, self.max_envelope).await;
            let message = "envelopes come by POST";
            return plain(Answer::error(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::BAD_REQUEST, message));
        }
        let slot = match self.slots.as_ref().map(|slots| Arc::clone(slots).try_acquire_owned()).transpose() {
            Ok(slot) => slot,
            Err(_) => {
                discard(body, self.max_envelope).await;
                return not_run("the worker runs as many calls as it takes at once");
            }
        };
        let envelope = match read(body, self.max_envelope).await {
            Ok(envelope) => envelope,
            Err(answer) => return plain(answer),
        };
        let traceparent =
            head.headers.get("traceparent").and_then(|value| Some(value.to_str().ok()?.to_owned()));
        plain(self.calls.answer(envelope, traceparent, (slot, running)).await)
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, secret) = value.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(secret)
}

fn plain(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    response
}

/// Tells the gateway that the call may go to another replica.
fn not_run(message: &str) -> Response<Full<Bytes>> {
    let mut response =
        plain(Answer::error(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::PLUGIN_UNAVAILABLE, message));
    response.headers_mut().insert(NOT_RUN_HEADER, HeaderValue::from_static("1"));
    response
}

async fn read(mut body: Incoming, limit: usize) -> Result<Bytes, Answer> {
    let too_large = || {
        let message = format!("the envelope is larger than {limit} bytes");
        Answer::error(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::BAD_REQUEST, message)
    };
    let said = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if said > limit {
        return Err(too_large());
    }
    let reading = async {
        let mut envelope = BytesMut::with_capacity(said);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                let message = format!("the envelope did not arrive: {error}");
                Answer::error(StatusCode::BAD_REQUEST, ErrorCode::BAD_REQUEST, message)
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if data.len() > limit - envelope.len() {
                return Err(too_large());
            }
            envelope.extend_from_slice(&data);
        }
        Ok(envelope.freeze())
    };
    timeout(BODY, reading).await.unwrap_or_else(|_| {
        let message = "the envelope did not arrive in time";
        Err(Answer::error(StatusCode::REQUEST_TIMEOUT, ErrorCode::BAD_REQUEST, message))
    })
}

/// Takes the body off the connection: a refusal that overtakes it would be lost when the connection is reset.
async fn discard(mut body: Incoming, limit: usize) {
    let taking = async {
        let mut taken = 0;
        while let Some(Ok(frame)) = body.frame().await {
            taken += frame.data_ref().map_or(0, Bytes::len);
            if taken > limit {
                break;
            }
        }
    };
    if timeout(BODY, taking).await.is_err() {
        tracing::debug!("a refused call did not end");
    }
}
