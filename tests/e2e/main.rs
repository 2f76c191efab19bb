//! The contract, section by section, asked of the real gateway over real sockets.

mod admin;
mod authentication;
mod compose;
mod configuration;
mod conform;
mod deliveries;
mod demo;
mod dev;
mod drain;
mod envelope;
mod errors;
mod expect;
mod nonsense;
mod registration;
mod routing;
mod seed_page;
mod service_manager;
mod single_replica_restart;
mod skygear_packages;
mod skygear_v1;
mod strictness;
mod tls;
mod transports;
mod upgrade;
mod upstream;
mod vectors;
