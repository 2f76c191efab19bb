//! What has to hold before a change lands.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::ValueEnum;

use crate::{binaries, compose, deploy, docs, fuzz, readme, terminal};

/// One check, in the order in which they run: the quickest to fail comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stage {
    /// The code is formatted.
    Fmt,
    /// Clippy has nothing to say.
    Clippy,
    /// The documentation builds without warnings.
    Doc,
    /// Unit tests, documentation's examples, and the end-to-end tests.
    Test,
    /// The gateway's fuzz targets, each for some seconds.
    Fuzz,
    /// The Python SDK: types, tests, packaging.
    Python,
    /// The Node SDK: types, tests, packaging.
    Node,
    /// The documents' links, and what is generated of them.
    Docs,
    /// README.md does what it says.
    Readme,
    /// The terminal's picture in README.md is a true one.
    Terminal,
    /// The systemd unit and the Kubernetes manifests, by their validators.
    Deploy,
    /// `docker-compose.yml`, really run.
    Compose,
}

/// Not of the workspace, since its targets are built with coverage.
const FUZZ: &str = "gateway/fuzz/Cargo.toml";

enum Outcome {
    Passed,
    Failed,
    /// What is missing on this machine, and could not be installed.
    Skipped(String),
}

/// Runs these stages, or all; every one runs, whatever became of those before it.
pub(crate) fn run(chosen: &[Stage]) -> anyhow::Result<()> {
    let stages = if chosen.is_empty() { Stage::value_variants() } else { chosen };
    let mut results = Vec::new();
    for stage in stages {
        println!("\n==> {}", stage.name());
        let start = Instant::now();
        let outcome = stage.run().unwrap_or_else(|error| {
            println!("{error:#}");
            Outcome::Failed
        });
        if let Outcome::Skipped(missing) = &outcome {
            println!("!!! SKIPPED {}: {missing}", stage.name());
        }
        results.push((stage.name(), outcome, start.elapsed()));
    }
    sum_up(&results)
}

fn sum_up(results: &[(String, Outcome, Duration)]) -> anyhow::Result<()> {
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    println!();
    for (name, outcome, took) in results {
        let (text, count) = match outcome {
            Outcome::Passed => ("passed", &mut passed),
            Outcome::Failed => ("FAILED", &mut failed),
            Outcome::Skipped(_) => ("SKIPPED", &mut skipped),
        };
        *count += 1;
        println!("{name:<10}{text:<8}{:>6.1} s", took.as_secs_f64());
    }
    println!("stages: {passed} passed, {failed} failed, {skipped} skipped");
    if failed > 0 {
        bail!("{failed} of {} stages failed", results.len());
    }
    if skipped > 0 && std::env::var_os("CI").is_some_and(|value| value == "true") {
        bail!("CI runs every stage, and {skipped} could not run");
    }
    Ok(())
}

impl Stage {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn run(self) -> anyhow::Result<Outcome> {
        match self {
            Self::Fmt => {
                if let Some(missing) = missing_component("rustfmt") {
                    return Ok(Outcome::Skipped(missing));
                }
                both(finish(cargo(&["fmt", "--all", "--check"])), || {
                    finish(cargo(&["fmt", "--manifest-path", FUZZ, "--check"]))
                })
            }
            Self::Clippy => {
                if let Some(missing) = missing_component("clippy") {
                    return Ok(Outcome::Skipped(missing));
                }
                if let Some(missing) = missing_program("c++", &["--version"], "g++") {
                    return Ok(Outcome::Skipped(missing));
                }
                let warnings = ["--", "-D", "warnings"];
                let clippy = |arguments: &[&str]| cargo(&[&["clippy"][..], arguments, &warnings].concat());
                // The gateway without what is only on by default, too.
                let lean = || finish(clippy(&["-p", "gearway", "--no-default-features"]));
                let target = crate::workspace().join("target");
                let target = target.to_string_lossy();
                let fuzz = || finish(clippy(&["--manifest-path", FUZZ, "--bins", "--target-dir", &target]));
                both(both(finish(clippy(&["--workspace", "--all-targets"])), lean), fuzz)
            }
            Self::Doc => {
                let mut command = cargo(&["doc", "--workspace", "--no-deps"]);
                command.env("RUSTDOCFLAGS", "-D warnings");
                finish(command)
            }
            Self::Test => {
                let missing = missing_curl().or_else(missing_venv).or_else(missing_for_commands);
                if let Some(missing) = missing.or_else(missing_strace) {
                    return Ok(Outcome::Skipped(missing));
                }
                finish(cargo(&["test", "--workspace", "--no-fail-fast"]))
            }
            Self::Fuzz => {
                if let Some(missing) = missing_program("c++", &["--version"], "g++") {
                    return Ok(Outcome::Skipped(missing));
                }
                // In this process: the tests' build has put another executable in this one's place.
                tell(None, || fuzz::run(&fuzz::Options::default()))
            }
            Self::Python => {
                if let Some(missing) = missing_venv() {
                    return Ok(Outcome::Skipped(missing));
                }
                check_sdk("python", "python3")
            }
            Self::Node => check_sdk("node", "node"),
            Self::Docs => tell(None, docs::test),
            Self::Readme => tell(readme::missing(), readme::test),
            Self::Terminal => tell(terminal::missing(), terminal::test),
            Self::Deploy => tell(deploy::missing(), deploy::test),
            Self::Compose => tell(compose::missing(), compose::test),
        }
    }
}

/// An SDK's own check, which sets up what it needs, against the gateway as it is here.
fn check_sdk(folder: &str, language: &str) -> anyhow::Result<Outcome> {
    let mut version = Command::new(language);
    version.arg("--version");
    if !quiet(version) {
        return Ok(Outcome::Skipped(format!("{language} is missing")));
    }
    let mut check = Command::new("./check.sh");
    check.current_dir(crate::workspace().join("plugin-protocol").join(folder));
    check.env("GEARWAY_BIN", binaries::build()?.join("gearway"));
    finish(check)
}

/// A check of this program's own.
fn tell(missing: Option<String>, test: fn() -> anyhow::Result<()>) -> anyhow::Result<Outcome> {
    if let Some(missing) = missing {
        return Ok(Outcome::Skipped(missing));
    }
    Ok(match test() {
        Ok(()) => Outcome::Passed,
        Err(error) => {
            println!("{error:#}");
            Outcome::Failed
        }
    })
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(crate::workspace()).args(arguments);
    command
}

/// The second check runs whatever became of the first.
fn both(
    first: anyhow::Result<Outcome>,
    second: impl FnOnce() -> anyhow::Result<Outcome>,
) -> anyhow::Result<Outcome> {
    match (first?, second()?) {
        (Outcome::Passed, second) => Ok(second),
        (first, _) => Ok(first),
    }
}

fn finish(mut command: Command) -> anyhow::Result<Outcome> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    Ok(if status.success() { Outcome::Passed } else { Outcome::Failed })
}

/// What is missing, after an attempt to install it.
fn missing_component(component: &str) -> Option<String> {
    let subcommand = component.trim_start_matches("rust");
    let works = || quiet(cargo(&[subcommand, "--version"]));
    if works() {
        return None;
    }
    let mut install = Command::new("rustup");
    install.args(["component", "add", component]);
    quiet(install);
    (!works()).then(|| format!("{component} is missing and `rustup component add {component}` did not help"))
}

/// A test runs the demo's curl lines.
fn missing_curl() -> Option<String> {
    missing_program("curl", &["--version"], "curl")
}

/// Tests have shells complete commands, and format manual pages.
fn missing_for_commands() -> Option<String> {
    missing_program("zsh", &["--version"], "zsh")
        .or_else(|| missing_program("fish", &["--version"], "fish"))
        .or_else(|| missing_program("groff", &["--version"], "groff-base"))
}

/// Tests make a running gateway's writes fail with it.
fn missing_strace() -> Option<String> {
    missing_program("strace", &["-V"], "strace")
}

/// Environments of Python packages are made with it; Debian has it in a package of its own.
pub(crate) fn missing_venv() -> Option<String> {
    missing_program("python3", &["-c", "import ensurepip, venv"], "python3-venv")
}

/// What is missing, after an attempt to install Debian's package.
pub(crate) fn missing_program(program: &str, arguments: &[&str], package: &str) -> Option<String> {
    let works = || {
        let mut command = Command::new(program);
        command.args(arguments);
        quiet(command)
    };
    if works() {
        return None;
    }
    let mut install = Command::new("sh");
    let line = format!("apt-get update && apt-get install --yes --no-install-recommends {package}");
    install.args(["-c", &line]);
    quiet(install);
    (!works()).then(|| {
        format!("{program} {} does not work, and {package} could not be installed", arguments.join(" "))
    })
}

fn quiet(mut command: Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
