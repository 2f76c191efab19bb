//! What the end-to-end tests are written with: the real binaries as child processes, workers that follow a
//! script, and an HTTP client that sends exactly the bytes it is given.
//!
//! Every wait is for a condition and has a deadline; nothing here sleeps to let something happen. Failures
//! panic with what was expected, and a process that a failing test owned prints its log.

pub mod admin;
pub mod binaries;
pub mod counted;
pub mod disk;
pub mod faults;
pub mod faulty;
pub mod gateway;
pub mod installed;
pub mod kills;
pub mod language;
pub mod load;
pub mod port;
pub mod process;
pub mod scripted;
pub mod server;
pub mod tls;
pub mod vitals;
pub mod wait;
pub mod webhooks;
pub mod wire;
pub mod worker;

pub use admin::Admin;
pub use gateway::Gateway;
pub use load::Load;
pub use scripted::{Call, Registration, ScriptedWorker, ScriptedWorkerOptions};
pub use server::{Answer, Gate};
pub use wire::{Connection, Request, Response};
pub use worker::Worker;
