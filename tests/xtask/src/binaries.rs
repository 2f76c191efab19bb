//! The gateway and the sample workers, built.

use std::path::PathBuf;

use anyhow::{Context, bail};

/// Builds all binaries and says where they are: beside this one.
pub(crate) fn build() -> anyhow::Result<PathBuf> {
    let this = std::env::current_exe().context("cannot find this executable")?;
    let binaries = this.parent().context("this executable lies in no folder")?.to_owned();
    let profile = binaries.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let status = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(crate::workspace())
        .args(["build", "--workspace", "--bins", "--profile"])
        .arg(if profile == "debug" { "dev" } else { profile })
        .arg("--target-dir")
        .arg(binaries.parent().context("the executables lie in no target directory")?)
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("the build failed");
    }
    Ok(binaries)
}
