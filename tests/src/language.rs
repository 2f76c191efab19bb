//! Real workers of each SDK, which keep a ledger of what they ran in a file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::gateway::Gateway;
use crate::process::Process;
use crate::{binaries, installed};

/// The language of an SDK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    Rust,
    Python,
    Node,
}

impl Language {
    pub const ALL: [Self; 3] = [Self::Rust, Self::Python, Self::Node];
}

/// Starts workers of one language, all of one name and with one ledger.
#[derive(Debug)]
pub struct LedgerWorkers {
    language: Language,
    program: Vec<PathBuf>,
    dir: tempfile::TempDir,
}

impl LedgerWorkers {
    /// # Panics
    /// When the language's packages cannot be installed.
    pub async fn prepare(language: Language) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("ledger");
        let sdk = binaries::workspace().join("plugin-protocol");
        let program = match language {
            Language::Rust => vec![binaries::path("ledger-worker").to_owned()],
            Language::Python => {
                let environment =
                    installed::python_with("ledger/requirements.txt", Some(&sdk.join("python"))).await;
                vec![
                    environment.join("bin/python"),
                    "-m".into(),
                    "gearway".into(),
                    "run".into(),
                    sources.join("ledger.py"),
                ]
            }
            Language::Node => {
                // The app finds the SDK as an installed package.
                let modules = dir.path().join("node_modules");
                std::fs::create_dir(&modules).expect("a writable folder");
                std::os::unix::fs::symlink(sdk.join("node"), modules.join("gearway"))
                    .expect("a writable folder");
                let app = dir.path().join("ledger.mjs");
                std::fs::copy(sources.join("ledger.mjs"), &app).expect("a writable folder");
                vec!["node".into(), sdk.join("node/bin/gearway.js"), "run".into(), app]
            }
        };
        Self { language, program, dir }
    }

    /// Starts one, which registers by itself.
    #[must_use]
    pub fn start(&self, gateway: &Gateway) -> Process {
        let mut command = Command::new(&self.program[0]);
        command.args(&self.program[1..]).env_clear().current_dir(self.dir.path());
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.env("GEARWAY_GATEWAY", format!("http://{}", gateway.admin_address()));
        command.env("GEARWAY_TOKEN", gateway.registration_token());
        command.env("GEARWAY_NAME", "ledger").env("LEDGER", self.ledger());
        if self.language == Language::Python {
            command.env("PYTHONDONTWRITEBYTECODE", "1");
        }
        Process::spawn(&format!("{:?} worker", self.language), command)
    }

    /// How often each request ran, by its number.
    ///
    /// # Panics
    /// When the ledger cannot be read.
    #[must_use]
    pub fn runs(&self) -> HashMap<String, usize> {
        let mut runs = HashMap::new();
        let text = std::fs::read_to_string(self.ledger()).expect("a ledger");
        for number in text.lines() {
            *runs.entry(number.to_owned()).or_default() += 1;
        }
        runs
    }

    fn ledger(&self) -> PathBuf {
        self.dir.path().join("runs")
    }
}
