//! The Gearway gateway. The modules stand in the order in which a request meets them; `ARCHITECTURE.md` tells how
//! they fit together.

pub mod auth;
pub mod framing;
pub mod path;
pub mod route;

pub mod config;
pub mod data_dir;
pub mod error;
pub mod store;
