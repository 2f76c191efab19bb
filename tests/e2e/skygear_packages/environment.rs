//! Skygear's own packages, installed once for each set of pins, and their processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gearway_tests::installed;
use gearway_tests::port::ReservedPort;
use gearway_tests::process::Process;
use tempfile::TempDir;
use tokio::sync::OnceCell;

static PYTHON: OnceCell<Result<PathBuf, String>> = OnceCell::const_new();
static NODE: OnceCell<Result<PathBuf, String>> = OnceCell::const_new();

/// The language of a package, and of the cloud code that it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    Python,
    Node,
}

/// `py-skygear` or `skygear-node` with cloud code of its own; it dies with this value.
#[derive(Debug)]
pub(super) struct Plugin {
    process: Option<Process>,
    language: Language,
    packages: &'static Path,
    dir: TempDir,
    port: ReservedPort,
}

impl Language {
    pub(super) const ALL: [Self; 2] = [Self::Python, Self::Node];

    /// The cloud code under `tests/skygear/`, as it is.
    pub(super) fn app(self) -> String {
        let path = self.sources().join(self.app_file());
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The folder with the installed packages.
    ///
    /// # Panics
    /// When they cannot be installed; the text says what it takes.
    async fn packages(self) -> &'static Path {
        let cell = match self {
            Self::Python => &PYTHON,
            Self::Node => &NODE,
        };
        let installed = cell
            .get_or_init(async || {
                let pins = self.pins().iter().map(|name| self.sources().join(name)).collect::<Vec<_>>();
                let name = format!("skygear-v1/{self:?}").to_lowercase();
                installed::once(&name, self.interpreter(), &pins, |dir| self.installers(dir)).await
            })
            .await;
        match installed {
            Ok(dir) => dir,
            Err(reason) => panic!("Skygear's {self:?} package cannot be set up: {}\n{reason}", self.needs()),
        }
    }

    fn needs(self) -> &'static str {
        match self {
            Self::Python => {
                "it takes `python3` (3.11) with its venv module, and a package index to install from"
            }
            Self::Node => "it takes `node` (20) and `npm`, and a package registry to install from",
        }
    }

    fn sources(self) -> PathBuf {
        let folder = match self {
            Self::Python => "python",
            Self::Node => "node",
        };
        Path::new(env!("CARGO_MANIFEST_DIR")).join("skygear").join(folder)
    }

    /// How the cloud code's file is called, in `tests/skygear/` and where it runs.
    pub(super) fn app_file(self) -> &'static str {
        match self {
            Self::Python => "app.py",
            Self::Node => "app.js",
        }
    }

    fn pins(self) -> &'static [&'static str] {
        match self {
            Self::Python => &["build-requirements.txt", "requirements.txt"],
            Self::Node => &["package.json", "package-lock.json", ".npmrc"],
        }
    }

    fn interpreter(self) -> &'static str {
        match self {
            Self::Python => "python3",
            Self::Node => "node",
        }
    }

    /// What installs the packages into `dir`, which has the files with the pins.
    fn installers(self, dir: &Path) -> Vec<Command> {
        match self {
            Self::Python => {
                let mut venv = Command::new(self.interpreter());
                venv.args(["-m", "venv", "."]);
                let pip = |arguments: &[&str]| {
                    let mut pip = Command::new(dir.join("bin/python"));
                    pip.args(["-m", "pip", "install", "--disable-pip-version-check"]).args(arguments);
                    pip
                };
                vec![
                    venv,
                    pip(&["-r", "build-requirements.txt"]),
                    pip(&["--no-deps", "--no-build-isolation", "--use-pep517", "-r", "requirements.txt"]),
                ]
            }
            Self::Node => {
                let mut npm = Command::new("npm");
                npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
                vec![npm]
            }
        }
    }
}

impl Plugin {
    /// Runs this cloud code.
    pub(super) async fn start(language: Language, code: &str) -> Self {
        let mut plugin = Self::stopped(language).await;
        plugin.deploy(code);
        plugin
    }

    /// Has an address, and does not run yet.
    pub(super) async fn stopped(language: Language) -> Self {
        let packages = language.packages().await;
        let dir = tempfile::tempdir().expect("a temporary folder");
        if language == Language::Node {
            let modules = packages.join("node_modules");
            std::os::unix::fs::symlink(modules, dir.path().join("node_modules")).expect("a writable folder");
        }
        Self { process: None, language, packages, dir, port: ReservedPort::take() }
    }

    /// Ends the process, if there is one.
    pub(super) fn stop(&mut self) {
        self.process = None;
    }

    /// Runs this cloud code instead of what ran before, at the same address.
    pub(super) fn deploy(&mut self, code: &str) {
        self.stop();
        let file = self.language.app_file();
        fs::write(self.dir.path().join(file), code).expect("a writable folder");
        let address = self.port.address().to_string();
        let mut command = match self.language {
            Language::Python => {
                let mut command = Command::new(self.packages.join("bin/py-skygear"));
                command.args([file, "--http", "--http-addr", &address]);
                command
            }
            Language::Node => {
                let mut command = Command::new(self.packages.join("node_modules/.bin/skygear-node"));
                command.arg(file);
                command
            }
        };
        command.env_clear().current_dir(self.dir.path());
        // `skygear-node` finds `node` by it.
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        match self.language {
            // The next code would otherwise pass for this one's compiled form if it is as long.
            Language::Python => command.env("PYTHONDONTWRITEBYTECODE", "1"),
            Language::Node => command.env("HTTP", "true").env("HTTP_ADDR", &address),
        };
        self.process = Some(Process::spawn(&format!("{:?} plugin", self.language), command));
    }

    /// The lines of a gateway's configuration for this plugin.
    pub(super) fn config(&self, name: &str) -> String {
        let address = self.port.address();
        format!("[[plugin]]\nname = \"{name}\"\nurl = \"http://{address}/\"\nprotocol = \"skygear-v1\"\n")
    }
}
