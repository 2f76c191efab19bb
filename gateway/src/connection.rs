//! One client's connection: TLS where it is configured, and the requests that come over it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Poll, Waker, ready};
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Request};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tracing::debug;

use crate::body::Incoming;
use crate::http1::{self, Activity, ConnectionLimits};
use crate::proxy_protocol;
use crate::relay::{self, Reception, Relay};
use crate::telemetry::TlsFailure;
use crate::tls;

use self::stream::ClientStream;

mod http2;
mod reply_body;
mod stream;

/// A client that keeps a connection without a request for this long has forgotten it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// What every HTTP/2 connection begins with, and no HTTP/1 request can.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What every connection of a relay thread is served with.
struct Serving {
    peer: SocketAddr,
    relay: Arc<Relay>,
    /// How long an idle connection is kept once the gateway drains.
    grace: Duration,
    activity: Activity,
    reception: Reception,
}

/// Serves a connection that was just accepted, to its end.
pub(crate) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    relay: Arc<Relay>,
    grace: Duration,
    activity: Activity,
    reception: Reception,
) {
    let stream = ClientStream::new(stream, activity.clone());
    let serving = Serving { peer, relay, grace, activity, reception };
    let config = serving.relay.shared.config.load();
    let public = &config.public;
    if public.proxy_protocol && relay::is_trusted(peer.ip(), &public.trusted_proxies) {
        let timeout = config.limits.header_timeout;
        drop(config);
        Box::pin(proxied(stream, timeout, serving)).await;
    } else {
        drop(config);
        begin(stream, serving).await;
    }
}

/// A connection that a proxy makes for somebody, whom it names first.
async fn proxied(mut stream: ClientStream, timeout: Duration, mut serving: Serving) {
    let peer = serving.peer;
    match tokio::time::timeout(timeout, proxy_protocol::read(&mut stream)).await {
        Ok(Ok(client)) => {
            serving.peer = client.unwrap_or(peer);
            begin(stream, serving).await;
        }
        Ok(Err(error)) => debug!(%peer, %error, "a trusted proxy's connection is refused"),
        Err(_) => debug!(%peer, "no PROXY protocol header within limits.header_timeout"),
    }
}

/// What comes after whom the connection is from is known.
async fn begin(stream: ClientStream, serving: Serving) {
    let tls = serving.relay.shared.tls.load_full();
    match tls {
        None if serving.relay.shared.config.load().public.h2c => Box::pin(either(stream, serving)).await,
        None => over_http1(stream, serving).await,
        // In a box of its own, so that connections in clear text do not pay for its size.
        Some(tls) => Box::pin(over_tls(stream, tls, serving)).await,
    }
}

async fn over_tls(stream: ClientStream, tls: Arc<ServerConfig>, serving: Serving) {
    let peer = serving.peer;
    let metrics = Arc::clone(&serving.relay.shared.metrics);
    let timeout = serving.relay.shared.config.load().limits.header_timeout;
    // A drain does not end it: who has connected is served.
    match tokio::time::timeout(timeout, TlsAcceptor::from(tls).accept(stream)).await {
        Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(tls::HTTP2) => {
            http2::serve(stream, serving).await;
        }
        Ok(Ok(stream)) => over_http1(stream, serving).await,
        Ok(Err(error)) => {
            metrics.count_tls_failure(TlsFailure::Refused);
            debug!(%peer, %error, "a TLS handshake failed");
        }
        Err(_) => {
            metrics.count_tls_failure(TlsFailure::TooSlow);
            debug!(%peer, "a TLS handshake took longer than limits.header_timeout");
        }
    }
}

/// A connection in clear text on which HTTP/2 may begin without further notice, by its first bytes.
async fn either(mut stream: ClientStream, serving: Serving) {
    let peer = serving.peer;
    let timeout = serving.relay.shared.config.load().limits.header_timeout;
    let mut first = Vec::with_capacity(PREFACE.len());
    let read = async {
        while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
            let wanted = (PREFACE.len() - first.len()) as u64;
            if (&mut stream).take(wanted).read_buf(&mut first).await? == 0 {
                break;
            }
        }
        Ok::<_, io::Error>(())
    };
    match tokio::time::timeout(timeout, read).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return debug!(%peer, %error, "a connection ended before it was served"),
        Err(_) => return debug!(%peer, "no first bytes within limits.header_timeout"),
    }
    let is_http2 = first == PREFACE;
    stream.put_back(first);
    if is_http2 { http2::serve(stream, serving).await } else { over_http1(stream, serving).await }
}

async fn over_http1<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: IO, serving: Serving) {
    let Serving { peer, relay, grace, activity, reception } = serving;
    let config = relay.shared.config.load_full();
    let limits = ConnectionLimits {
        max_header: usize::try_from(config.limits.max_header).unwrap_or(usize::MAX),
        header_timeout: config.limits.header_timeout,
        idle_timeout: IDLE_TIMEOUT,
    };
    drop(config);
    let service = async |request: Request<Incoming>| {
        let busy = activity.begin();
        activity.unless_let_go().await;
        let mut response = relay.handle(peer, reception, request).await;
        relay.shared.in_flight.gather(response.body().len() as u64).await;
        if relay.drain.has_begun() || reception != Reception::Served {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        drop(busy);
        response
    };
    let untaken = |bytes| relay.shared.in_flight.untaken(&activity, bytes);
    let connection = http1::serve(stream, limits, activity.clone(), service, untaken);
    tokio::pin!(connection);
    let begun = relay.drain.begun();
    tokio::pin!(begun);
    // Who is told of the end: once registered with the drain, asking again would only take its lock with every request.
    let mut told: Option<Waker> = None;
    let ended = std::future::poll_fn(|cx| {
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            return Poll::Ready(Some(ended));
        }
        let is_told = told.as_ref().is_some_and(|told| told.will_wake(cx.waker()));
        if !is_told || relay.drain.has_begun() {
            told = Some(cx.waker().clone());
            ready!(begun.as_mut().poll(cx));
            return Poll::Ready(None);
        }
        Poll::Pending
    });
    let ended = match ended.await {
        Some(ended) => ended,
        None => {
            activity.close_when_idle(Instant::now() + grace);
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%peer, %error, "a connection ended with an error");
    }
}
