//! The Gearway gateway. The modules stand in the order in which a request meets them; `ARCHITECTURE.md` tells how
//! they fit together.

pub mod admit;
pub mod auth;
pub mod body;
mod clock;
mod connection;
pub mod cors;
pub mod dispatch;
pub mod envelope;
pub mod http1;
pub mod listener;
pub mod path;
pub mod pieces;
pub mod proxy_protocol;
pub mod rate;
pub mod relay;
pub mod respond;
pub mod route;
pub mod tls;
pub mod upstream;
pub mod webhook;

pub mod access_log;
pub mod admin;
mod alarm;
pub mod config;
pub mod data_dir;
pub mod delivery;
pub mod dialect;
pub mod drain;
pub mod error;
pub mod handover;
mod json;
pub mod plugin;
pub mod registry;
pub mod serve;
pub mod store;
pub mod telemetry;
#[cfg_attr(not(feature = "otlp"), allow(dead_code, reason = "only the exporter reads what spans say"))]
pub mod trace;
