//! The access log: one event for each request, with the fields that the configuration names. Contract section 2, `log`.

use std::fmt;
use std::time::Duration;

use tracing::{debug, enabled, info};

use crate::telemetry::ACCESS;

/// What can be said of a request. The names are those of the event's fields, and of `log.access_fields`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum AccessField {
    RequestId,
    /// W3C trace context's.
    TraceId,
    Method,
    /// As it was sent, without the query.
    Path,
    /// The path that was registered.
    Route,
    /// The name of the workers that the route belongs to.
    Worker,
    User,
    RemoteAddr,
    Status,
    /// From the head's arrival to the response.
    DurationMs,
    /// How much of it passed with a worker: connecting, waiting, reading its reply.
    WorkerMs,
    /// Why there is no answer of a handler's, or the error that it raised.
    Error,
}

impl AccessField {
    pub const ALL: [Self; 12] = [
        Self::RequestId,
        Self::TraceId,
        Self::Method,
        Self::Path,
        Self::Route,
        Self::Worker,
        Self::User,
        Self::RemoteAddr,
        Self::Status,
        Self::DurationMs,
        Self::WorkerMs,
        Self::Error,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RequestId => "request_id",
            Self::TraceId => "trace_id",
            Self::Method => "method",
            Self::Path => "path",
            Self::Route => "route",
            Self::Worker => "worker",
            Self::User => "user",
            Self::RemoteAddr => "remote_addr",
            Self::Status => "status",
            Self::DurationMs => "duration_ms",
            Self::WorkerMs => "worker_ms",
            Self::Error => "error",
        }
    }
}

/// A set of [`AccessField`]s.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AccessFields(u16);

impl AccessFields {
    #[must_use]
    pub fn all() -> Self {
        AccessField::ALL.into_iter().collect()
    }

    /// The value, if the log is to have the field.
    fn pick<T>(self, field: AccessField, value: Option<T>) -> Option<T> {
        value.filter(|_| self.0 & (1 << field as u8) != 0)
    }
}

impl FromIterator<AccessField> for AccessFields {
    fn from_iter<I: IntoIterator<Item = AccessField>>(fields: I) -> Self {
        Self(fields.into_iter().fold(0, |set, field| set | 1 << field as u8))
    }
}

impl fmt::Debug for AccessFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = AccessField::ALL.into_iter().filter(|field| self.0 & (1 << *field as u8) != 0);
        f.debug_set().entries(names.map(AccessField::name)).finish()
    }
}

/// What is known of a request at its end.
#[derive(Debug)]
pub struct Entry<'a> {
    pub request_id: &'a str,
    pub trace_id: Option<&'a str>,
    pub method: &'a str,
    pub path: &'a str,
    pub route: Option<&'a str>,
    pub worker: Option<&'a str>,
    pub user: Option<&'a str>,
    pub remote_addr: std::net::IpAddr,
    pub status: u16,
    pub duration: Duration,
    pub worker_time: Option<Duration>,
    pub error: Option<&'a str>,
}

/// Whether anybody reads what [`log`] would write.
#[must_use]
pub fn is_read(access: bool) -> bool {
    access || enabled!(target: ACCESS, tracing::Level::DEBUG)
}

/// Writes the entry: of level `info` if the configuration asks for the log, otherwise `debug`, with every field.
pub fn log(entry: &Entry<'_>, access: bool, fields: AccessFields) {
    macro_rules! event {
        ($level:ident, $fields:expr) => {
            $level!(
                target: ACCESS,
                request_id = $fields.pick(AccessField::RequestId, Some(entry.request_id)),
                trace_id = $fields.pick(AccessField::TraceId, entry.trace_id),
                method = $fields.pick(AccessField::Method, Some(entry.method)),
                path = $fields.pick(AccessField::Path, Some(entry.path)),
                route = $fields.pick(AccessField::Route, entry.route),
                worker = $fields.pick(AccessField::Worker, entry.worker),
                user = $fields.pick(AccessField::User, entry.user),
                remote_addr = $fields.pick(AccessField::RemoteAddr, Some(entry.remote_addr)).map(tracing::field::display),
                status = $fields.pick(AccessField::Status, Some(entry.status)),
                duration_ms = $fields.pick(AccessField::DurationMs, Some(milliseconds(entry.duration))),
                worker_ms = $fields.pick(AccessField::WorkerMs, entry.worker_time.map(milliseconds)),
                error = $fields.pick(AccessField::Error, entry.error),
                "request"
            )
        };
    }
    if access {
        event!(info, fields);
    } else {
        event!(debug, AccessFields::all());
    }
}

/// To the microsecond: more digits would be noise.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
