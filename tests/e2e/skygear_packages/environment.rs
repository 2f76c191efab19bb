//! Skygear's own packages, installed once for each set of pins, and their processes.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File, TryLockError};
use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use gearway_tests::port::ReservedPort;
use gearway_tests::process::Process;
use tempfile::TempDir;
use tokio::sync::OnceCell;

/// How long installing one language's packages may take, waiting for another process that does the same included.
const SETUP_LIMIT: Duration = Duration::from_secs(900);
const LOCK_POLL: Duration = Duration::from_millis(50);

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
                let setup = tokio::time::timeout(SETUP_LIMIT, set_up(self)).await;
                setup.unwrap_or_else(|_| Err(format!("not done within {SETUP_LIMIT:?}")))
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

/// Installs the packages, unless this process or another did so already for the same pins and interpreter.
async fn set_up(language: Language) -> Result<PathBuf, String> {
    let mut version = Command::new(language.interpreter());
    version.arg("--version");
    let version = run(version).await?;
    let mut key = DefaultHasher::new();
    (&version.stdout, &version.stderr).hash(&mut key);
    let mut pins = Vec::new();
    for name in language.pins() {
        let path = language.sources().join(name);
        let text = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        text.hash(&mut key);
        pins.push((name, text));
    }
    let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("skygear-v1");
    let dir = all.join(format!("{language:?}-{:016x}", key.finish()).to_lowercase());
    let complete = dir.join(".complete");
    let io = |error: io::Error| format!("{}: {error}", dir.display());

    fs::create_dir_all(&all).map_err(io)?;
    // Held until this function returns, and given up by the kernel if this process dies before.
    let lock = File::create(dir.with_extension("lock")).map_err(io)?;
    loop {
        match lock.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_POLL).await,
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
    }
    if complete.is_file() {
        return Ok(dir);
    }
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => fs::create_dir(&dir).map_err(io)?,
    }
    for (name, text) in pins {
        fs::write(dir.join(name), text).map_err(io)?;
    }
    for mut installer in language.installers(&dir) {
        installer.current_dir(&dir);
        run(installer).await?;
    }
    fs::write(complete, "").map_err(io)?;
    Ok(dir)
}

async fn run(mut command: Command) -> Result<Output, String> {
    command.stdin(Stdio::null());
    let shown = format!("{command:?}");
    let output = tokio::process::Command::from(command).kill_on_drop(true).output().await;
    let output = output.map_err(|error| format!("{shown}: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    Err(format!("{shown}: {}\n{stdout}{stderr}", output.status))
}
