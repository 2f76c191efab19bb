//! The messages that a Gearway gateway and its workers exchange.
//!
//! These are wire types only: what is on the wire has a type here, and nothing else does. Readers ignore
//! fields that they do not know, so that either side can be upgraded first. `PROTOCOL.md` beside this crate
//! tells the same story for a worker in any language; `vectors/` holds golden messages that every
//! implementation reads and writes.
#![warn(missing_docs)]

mod body;
mod delivery;
mod envelope;
mod error_code;
mod registration;
mod reply;
mod verify;

pub use body::{Base64Body, BodyError};
pub use delivery::{Ack, Delivery, DeliveryMode, DeliverySpec, Verification};
pub use envelope::{AccessKeyType, Context, Envelope, Headers, Kind, Param};
pub use error_code::ErrorCode;
pub use registration::{HandlerSpec, Lease, Registered, Registration, default_methods};
pub use reply::{HandlerError, HandlerResult, Reply};
pub use verify::{HmacAlgorithm, SignatureEncoding, VerifyScheme, VerifySpec};

/// The dialect of workers written for Gearway.
pub const GEARWAY_V1: &str = "gearway-v1";
/// The dialect of unmodified Skygear v1 cloud code, served over HTTP.
pub const SKYGEAR_V1: &str = "skygear-v1";
/// On a 503 from a worker: the handler was not run, so the call may go to another replica.
pub const NOT_RUN_HEADER: &str = "gearway-not-run";
