//! The admin listener: registration, what operators ask for, probes and metrics. Contract sections 6 and 8.
//!
//! Access is decided by what a handler takes: `Operator`, `Registrant` and
//! `Reader` are only made for callers who may. The two probes alone take none of them.

mod access;
mod answer;
mod body;
mod deliveries;
mod grants;
mod openapi;
mod probes;
mod routes;
mod succession;
mod tokens;
mod workers;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::routing::MethodRouter;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

pub use self::access::Peer;
pub use self::body::Room;
pub use self::grants::Grants;
pub use self::probes::{Phase, Readiness};
pub use self::succession::{Interregnum, Succession};
use crate::auth::TokenTable;
use crate::config::Config;
use crate::delivery::Deliveries;
use crate::drain::Drain;
use crate::registry::Registry;
use crate::store::Store;
use crate::telemetry::Metrics;

/// An idle connection is closed after this long too, so it is longer than a worker's usual pause between renewals.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// Every worker may hold one.
const MAX_CONNECTIONS: usize = 16 * 1024;
/// Bounds a request's head; bodies may be larger.
const MAX_BUFFER: usize = 64 * 1024;
/// How long open connections may go on after the end was asked for.
const FAREWELL: Duration = Duration::from_secs(5);

/// What the admin listener shows and changes; clones share it.
#[derive(Debug, Clone)]
pub struct AdminState {
    pub registry: Registry,
    pub tokens: TokenTable,
    pub store: Store,
    pub deliveries: Deliveries,
    pub config: Arc<ArcSwap<Config>>,
    pub grants: Arc<ArcSwap<Grants>>,
    pub readiness: Arc<Readiness>,
    pub metrics: Arc<Metrics>,
    pub succession: Succession,
    pub bodies: Room,
}

type Methods = fn() -> MethodRouter<AdminState>;

/// Everything that the listener serves. `openapi.rs` describes the same, and a test compares them.
const SERVED: [(&str, Methods); 15] = [
    ("/livez", probes::livez_methods),
    ("/readyz", probes::readyz_methods),
    ("/metrics", probes::metrics_methods),
    ("/openapi.json", openapi::methods),
    ("/v1/workers", workers::collection),
    ("/v1/workers/{id}", workers::member),
    ("/v1/workers/{id}/lease", workers::lease),
    ("/v1/workers/{id}/drain", workers::drain_methods),
    ("/v1/routes", routes::methods),
    ("/v1/deliveries", deliveries::collection),
    ("/v1/deliveries/replay", deliveries::replays),
    ("/v1/deliveries/{id}", deliveries::member),
    ("/v1/deliveries/{id}/replay", deliveries::member_replay),
    ("/v1/tokens", tokens::collection),
    ("/v1/tokens/{id}", tokens::member),
];

/// The listener's service. Requests must carry a [`Peer`] among their extensions; without one they are nobody's.
pub fn router(state: AdminState) -> Router {
    SERVED
        .into_iter()
        .fold(Router::new(), |router, (path, methods)| router.route(path, methods()))
        .fallback(answer::unknown_path)
        .method_not_allowed_fallback(answer::unknown_method)
        .layer(axum::middleware::from_fn_with_state(state.clone(), succession::answer_or_pass_on))
        .layer(axum::middleware::from_fn(access::refuse_foreign_origins))
        .layer(axum::middleware::from_fn(answer::write_errors))
        .with_state(state)
}

/// Accepts until `drain` begins for a successor, and serves until `shutdown`; then lets open connections finish for a few seconds.
///
/// # Errors
/// When the listener cannot be used.
pub async fn serve(
    listener: std::net::TcpListener,
    state: AdminState,
    drain: Drain,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let service = router(state);
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let open = GracefulShutdown::new();
    loop {
        let accepted = async {
            // Whoever comes when it is full waits in the listener's queue.
            let place = Arc::clone(&room).acquire_owned().await.ok();
            (place, listener.accept().await)
        };
        let (place, (stream, peer)) = tokio::select! {
            () = shutdown.cancelled() => break,
            () = drain.begun_for_successor() => break,
            (place, accepted) = accepted => match accepted {
                Ok(connection) => (place, connection),
                Err(error) => {
                    // Out of file descriptors, mostly: there is nothing to do but to try again.
                    warn!(%error, "the admin listener cannot accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let service = TowerToHyperService::new(service.clone().layer(axum::Extension(Peer(peer))));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(MAX_BUFFER)
            .serve_connection(TokioIo::new(stream), service);
        let connection = open.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%peer, %error, "admin connection failed");
            }
            drop(place);
        });
    }
    drop(listener);
    shutdown.cancelled().await;
    if tokio::time::timeout(FAREWELL, open.shutdown()).await.is_err() {
        debug!("admin connections were cut off");
    }
    Ok(())
}
