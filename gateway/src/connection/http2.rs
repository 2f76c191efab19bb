//! HTTP/2, and what a server has to bound that speaks it.
//!
//! h2 bounds the size of heads, floods of CONTINUATION, empty DATA, and streams reset before they are accepted; it
//! answers PING and SETTINGS one at a time before it reads on. hyper pings a silent peer. What is left to this module:
//! silence ([`Traffic`]), requests that are reset after they began, and responses that nobody takes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tracing::debug;

use self::traffic::{Traffic, Verdict};
use super::Serving;
use super::reply_body::ReplyBody;
use crate::relay::Reception;

mod traffic;

/// Requests of one connection at once. RFC 9113 section 6.5.2 advises against fewer.
const MAX_STREAMS: u32 = 100;
/// What a client may send of a body before somebody reads it. Held outside of `limits.max_bytes_in_flight`, so no more than
/// keeps a stream busy.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Streams reset by the client that nobody has looked at yet; and streams reset by the gateway for what the client did wrong.
const MAX_RESET_BEFORE_ACCEPTED: usize = 20;
const MAX_RESET_FOR_ERRORS: usize = 100;
/// A peer that is silent for so long is asked whether it is there, and has so long to answer.
const PING_AFTER: Duration = Duration::from_secs(30);
const PONG_WITHIN: Duration = Duration::from_secs(20);
/// How long a client that was asked to leave has for it.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// Serves a connection whose client speaks HTTP/2, to its end.
pub(super) async fn serve<IO>(stream: IO, serving: Serving)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Serving { peer, relay, grace, activity, reception } = serving;
    let limits = relay.shared.config.load().limits.clone();
    let drain = relay.drain.clone();
    let traffic = Arc::new(Traffic::new(limits.header_timeout, activity.clone()));
    let turned_away = Arc::new(Notify::new());
    let given_up = activity.clone();
    let service = service_fn({
        let traffic = Arc::clone(&traffic);
        let turned_away = Arc::clone(&turned_away);
        move |mut request: Request<Incoming>| {
            let relay = Arc::clone(&relay);
            let unanswered = traffic.begin();
            let activity = activity.clone();
            request.extensions_mut().insert(activity.clone());
            let turned_away = Arc::clone(&turned_away);
            async move {
                activity.unless_let_go().await;
                let response = relay.handle(peer, reception, request.map(Into::into)).await;
                if reception != Reception::Served {
                    turned_away.notify_one();
                }
                let taking = unanswered.answered();
                let untaken = |bytes| relay.shared.in_flight.untaken(&activity, bytes);
                Ok::<_, Infallible>(response.map(|body| taking.body(ReplyBody::new(body, untaken))))
            }
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(limits.max_header).unwrap_or(u32::MAX))
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_pending_accept_reset_streams(MAX_RESET_BEFORE_ACCEPTED)
        .max_local_error_reset_streams(MAX_RESET_FOR_ERRORS)
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PONG_WITHIN)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut leaving = false;
    let ended = loop {
        tokio::select! {
            ended = connection.as_mut() => break ended,
            () = drain.begun(), if !leaving => {
                leaving = true;
                // GOAWAY names the last stream only after a round trip, so that what is under way is served.
                connection.as_mut().graceful_shutdown();
                traffic.leave_within(grace);
            }
            () = turned_away.notified(), if !leaving => {
                leaving = true;
                connection.as_mut().graceful_shutdown();
                traffic.leave_within(LEAVE_WITHIN);
            }
            verdict = traffic.watch() => match verdict {
                Verdict::Idle if !leaving => {
                    leaving = true;
                    connection.as_mut().graceful_shutdown();
                    traffic.leave_within(LEAVE_WITHIN);
                }
                verdict @ (Verdict::Idle | Verdict::NoRequest | Verdict::NotTaken | Verdict::Flood) => {
                    given_up.give_up();
                    return debug!(%peer, reason = %verdict, "an HTTP/2 connection is cut off");
                }
            },
        }
    };
    if let Err(error) = ended {
        debug!(%peer, %error, "a connection ended with an error");
    }
}
