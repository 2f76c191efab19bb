use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::StatusCode;
use tokio_rustls::rustls::ServerConfig;

use super::{Inbound, Shared};
use crate::access_log::{self, Entry};
use crate::config;
use crate::error::Error;
use crate::registry::Group;
use crate::telemetry::Metrics;
use crate::trace::{Served, Trace};

/// The status that logs and metrics give a request whose client went away before its response, as nginx has it.
const CLIENT_GONE: u16 = 499;

/// What the log and the metrics say of a request. They say it when this is dropped, which is also how a client that goes away
/// ends its request.
pub(super) struct Trail<'r> {
    inbound: &'r Inbound,
    metrics: &'r Metrics,
    tls: &'r ArcSwapOption<ServerConfig>,
    pub(super) route: Option<Arc<str>>,
    pub(super) worker: Option<Arc<Group>>,
    pub(super) user: Option<Arc<str>>,
    pub(super) trace: Option<Trace>,
    pub(super) remote_addr: IpAddr,
    /// How long workers had the request, over all attempts, if the log wants to know.
    pub(super) worker_time: Option<Duration>,
    error: Option<String>,
    /// The kind of that error, for spans.
    failure: Option<&'static str>,
    log: &'r config::Log,
    /// [`None`] until there is a response.
    pub(super) status: Option<StatusCode>,
}

impl<'r> Trail<'r> {
    pub(super) fn begin(inbound: &'r Inbound, shared: &'r Shared, log: &'r config::Log) -> Self {
        Self {
            inbound,
            metrics: &shared.metrics,
            tls: &shared.tls,
            route: None,
            worker: None,
            user: None,
            trace: None,
            remote_addr: inbound.peer.ip(),
            worker_time: None,
            error: None,
            failure: None,
            log,
            status: None,
        }
    }

    pub(super) fn fail(&mut self, error: &Error) {
        self.failure = error.code().name();
        if access_log::is_read(self.log.access) {
            self.error = Some(error.for_the_log());
        }
    }
}

impl Drop for Trail<'_> {
    fn drop(&mut self) {
        let inbound = self.inbound;
        let elapsed = inbound.arrived.elapsed();
        let route = self.route.as_ref();
        let status = self.status.map_or(CLIENT_GONE, |status| status.as_u16());
        self.metrics.observe_request(&inbound.head.method, route, status, elapsed);
        if let Some(trace) = &self.trace {
            trace.end(|| Served {
                head: &inbound.head,
                is_tls: self.tls.load().is_some(),
                request_id: &inbound.request_id,
                route: route.map(|route| &**route),
                worker: self.worker.as_ref().map(|group| &*group.name),
                peer: inbound.peer.ip(),
                client: self.remote_addr,
                status: self.status.map(|status| status.as_u16()),
                error: self.failure,
                arrived: inbound.arrived,
            });
        }
        if !access_log::is_read(self.log.access) {
            return;
        }
        let trace_id = self.trace.as_ref().and_then(Trace::id);
        let entry = Entry {
            request_id: &inbound.request_id,
            trace_id,
            method: inbound.head.method.as_str(),
            path: inbound.head.uri.path(),
            route: route.map(|route| &**route),
            worker: self.worker.as_ref().map(|group| &*group.name),
            user: self.user.as_deref(),
            remote_addr: self.remote_addr,
            status,
            duration: elapsed,
            worker_time: self.worker_time,
            error: self.error.as_deref(),
        };
        access_log::log(&entry, self.log.access, self.log.access_fields);
    }
}
