//! Workers on real sockets, against a gateway that does what the test says.
#![allow(clippy::unwrap_used, reason = "what is unexpected fails the test")]

mod calls;
mod fake_gateway;
mod lease;
mod signals;
mod vectors;
