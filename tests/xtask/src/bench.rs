//! What the gateway costs: a release build of it and of the bench that measures it.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context, bail};

/// Passed on; `cargo xtask bench --help` says what there is.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    // One after the other, so that the gateway has its own features and nothing of the bench's.
    for package in ["gearway", "gearway-bench"] {
        let mut build = cargo();
        build.args(["build", "--quiet", "--release", "--bins", "--package", package]);
        if !build.status().context("cannot run cargo")?.success() {
            bail!("the build of {package} failed");
        }
    }
    let mut bench = cargo();
    bench.args(["run", "--quiet", "--release", "--package", "gearway-bench", "--"]).args(&options.arguments);
    if !bench.status().context("cannot run cargo")?.success() {
        bail!("the bench failed");
    }
    Ok(())
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(crate::workspace());
    command
}
