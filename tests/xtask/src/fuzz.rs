//! The gateway's fuzz targets, for a bounded time each, on whatever compiler there is.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

/// An input that takes the gateway this long, in seconds, is a finding.
const SLOW_INPUT: u32 = 10;
const MAX_MEMORY_MIB: u32 = 2048;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How long for each target.
    #[arg(long, default_value_t = Options::default().seconds)]
    pub(crate) seconds: u32,
    /// Which; all by default.
    pub(crate) targets: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { seconds: 6, targets: Vec::new() }
    }
}

/// Builds the targets with coverage and runs them on their corpora.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let fuzz = crate::workspace().join("gateway/fuzz");
    let target_dir = crate::workspace().join("target");
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.current_dir(&fuzz).args(["build", "--bins", "--target-dir"]).arg(&target_dir);
    build.env("RUSTC_WRAPPER", fuzz.join("instrument.sh"));
    if !build.status().context("cannot run cargo")?.success() {
        bail!("the fuzz targets do not build");
    }
    let artifacts = target_dir.join("fuzz-artifacts");
    fs::create_dir_all(&artifacts).with_context(|| artifacts.display().to_string())?;
    let mut failed = Vec::new();
    for target in targets(&fuzz.join("corpus"), options)? {
        println!("--> {target}");
        // What is new goes to a folder of its own, and the committed corpus stays as it is.
        let found = tempfile::tempdir().context("cannot make a temporary folder")?;
        let mut run = Command::new(target_dir.join("debug").join(&target));
        run.arg(format!("-max_total_time={}", options.seconds)).arg(format!("-timeout={SLOW_INPUT}"));
        run.arg(format!("-rss_limit_mb={MAX_MEMORY_MIB}")).args(["-print_final_stats=1", "-verbosity=0"]);
        run.arg(format!("-artifact_prefix={}/{target}-", artifacts.display()));
        run.arg(found.path()).arg(fuzz.join("corpus").join(&target));
        if !run.status().with_context(|| format!("cannot run {run:?}"))?.success() {
            failed.push(target);
        }
    }
    if !failed.is_empty() {
        bail!("{} found something; what it was lies in {}", failed.join(", "), artifacts.display());
    }
    Ok(())
}

/// Every target has a corpus.
fn targets(corpora: &Path, options: &Options) -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(corpora).with_context(|| corpora.display().to_string())? {
        all.push(entry?.file_name().to_string_lossy().into_owned());
    }
    all.sort();
    if let Some(unknown) = options.targets.iter().find(|target| !all.contains(target)) {
        bail!("there is no target {unknown}; there are {}", all.join(", "));
    }
    Ok(if options.targets.is_empty() { all } else { options.targets.clone() })
}
