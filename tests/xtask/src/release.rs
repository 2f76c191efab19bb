//! The gateway as fast as its compiler makes it: built, watched at work, and built again by what was seen.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// Builds the gateway by a profile of its work under the bench's load, in `target/guided/release`.
pub(crate) fn run() -> anyhow::Result<()> {
    let folder = crate::workspace().join("target/guided");
    let profiles = folder.join("profiles");
    // Those of another build say nothing of this one.
    if profiles.exists() {
        fs::remove_dir_all(&profiles).with_context(|| profiles.display().to_string())?;
    }
    let merge = llvm_profdata()?;
    let gateway = folder.join("release/gearway");

    println!("--> the gateway that is watched");
    build("gearway", &folder, &format!("-Cprofile-generate={}", profiles.display()))?;
    println!("--> the load");
    build("gearway-bench", &crate::workspace().join("target"), "")?;
    let mut load = Command::new(crate::workspace().join("target/release/gearway-bench"));
    load.args(["--alone", "--rounds", "1", "--turn", "500ms", "--gearway"]).arg(&gateway);
    run_to_its_end(&mut load)?;
    let merged = folder.join("merged.profdata");
    let mut merge = Command::new(merge);
    merge.args(["merge", "-o"]).arg(&merged).arg(&profiles);
    run_to_its_end(&mut merge)?;

    println!("--> the gateway");
    build("gearway", &folder, &format!("-Cprofile-use={}", merged.display()))?;
    println!("{}", gateway.display());
    Ok(())
}

fn build(package: &str, target_dir: &Path, flags: &str) -> anyhow::Result<()> {
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.current_dir(crate::workspace()).args([
        "build",
        "--quiet",
        "--release",
        "--bins",
        "--package",
        package,
    ]);
    build.arg("--target-dir").arg(target_dir);
    if !flags.is_empty() {
        build.env("RUSTFLAGS", flags);
    }
    run_to_its_end(&mut build)
}

/// The tool that belongs to the compiler: another LLVM's does not read what this one's programs write.
fn llvm_profdata() -> anyhow::Result<PathBuf> {
    let asked =
        Command::new("rustc").args(["--print", "target-libdir"]).output().context("cannot run rustc")?;
    let libraries = PathBuf::from(String::from_utf8(asked.stdout)?.trim());
    let tool = libraries.with_file_name("bin").join("llvm-profdata");
    if !tool.exists() {
        run_to_its_end(Command::new("rustup").args(["component", "add", "llvm-tools"]))
            .context("llvm-profdata of rustc's own version is wanted, which rustup installs")?;
    }
    Ok(tool)
}

fn run_to_its_end(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed");
    }
    Ok(())
}
