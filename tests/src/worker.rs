//! Real workers: the sample programs as processes.

use std::process::{Command, ExitStatus};

use crate::binaries;
use crate::gateway::Gateway;
use crate::process::{Process, Signal};

/// A running sample worker; it dies with this value.
#[derive(Debug)]
pub struct Worker {
    process: Process,
}

impl Worker {
    /// Starts a sample worker against a gateway, with the token that the gateway made unless `environment` has
    /// another.
    #[must_use]
    pub fn start(gateway: &Gateway, binary: &str, environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(binaries::path(binary));
        command.env_clear().env("RUST_BACKTRACE", "1");
        command.env("GEARWAY_GATEWAY", format!("http://{}", gateway.admin_address()));
        command.envs(environment.iter().copied());
        if environment.iter().all(|(name, _)| *name != "GEARWAY_TOKEN") {
            command.env("GEARWAY_TOKEN", gateway.registration_token());
        }
        Self { process: Process::spawn(binary, command) }
    }

    /// Starts a sample worker and waits until the gateway routes that path to it.
    pub async fn start_routed(gateway: &Gateway, binary: &str, path: &str) -> Self {
        let worker = Self::start(gateway, binary, &[]);
        gateway.admin().wait_for_route(path).await;
        worker
    }

    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// SIGTERM, to its end.
    pub async fn sigterm(&self) -> ExitStatus {
        self.process.signal(Signal::TERM);
        self.process.wait_for_exit().await
    }

    pub fn kill9(&self) {
        self.process.kill();
    }
}
