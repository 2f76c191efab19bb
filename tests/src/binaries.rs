//! The programs under test, built once per test process.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{LazyLock, OnceLock};

use serde_json::Value;

static PROFILE: OnceLock<String> = OnceLock::new();
static BINARIES: LazyLock<HashMap<String, PathBuf>> = LazyLock::new(build);

/// The path of a binary of this workspace: `gearway`, `xtask`, or a sample worker.
///
/// # Panics
/// When the workspace does not build or has no such binary.
#[must_use]
pub fn path(name: &str) -> &'static Path {
    BINARIES.get(name).unwrap_or_else(|| panic!("no binary {name}; there are {:?}", BINARIES.keys()))
}

/// Builds the programs with another profile than this one's, unless they have been built.
pub fn use_profile(profile: &str) {
    PROFILE.get_or_init(|| profile.to_owned());
}

/// The workspace's top folder.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace")
}

/// Where everything is built, and what tests install is kept.
#[must_use]
pub fn target_dir() -> PathBuf {
    where_this_was_built().0
}

/// Builds the whole workspace's binaries, and not chosen packages': then features resolve as in
/// `cargo test --workspace`, and nothing is compiled twice.
fn build() -> HashMap<String, PathBuf> {
    let (target_dir, own_profile) = where_this_was_built();
    let profile = PROFILE.get().map_or(own_profile, String::clone);
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(workspace())
        .args(["build", "--workspace", "--bins", "--message-format=json-render-diagnostics"])
        .args(["--profile", &profile])
        .arg("--target-dir")
        .arg(target_dir)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo build failed: {}", output.status);
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter_map(|message| {
            let name = message["target"]["name"].as_str()?.to_owned();
            Some((name, PathBuf::from(message["executable"].as_str()?)))
        })
        .collect()
}

/// Test executables lie in `<target dir>/<profile's folder>/deps/`, binaries one folder higher.
fn where_this_was_built() -> (PathBuf, String) {
    let executable = std::env::current_exe().expect("the path of this executable");
    let folder = executable.parent().expect("an executable lies in a folder");
    let profile_dir = match folder.file_name().is_some_and(|name| name == "deps") {
        true => folder.parent().expect("deps/ lies in a profile's folder"),
        false => folder,
    };
    let folder = profile_dir.file_name().and_then(|name| name.to_str()).expect("a profile's folder");
    let profile = if folder == "debug" { "dev" } else { folder };
    let target_dir = profile_dir
        .ancestors()
        .find(|path| path.join("CACHEDIR.TAG").is_file())
        .or(profile_dir.parent())
        .expect("the profile's folder lies in the target directory");
    (target_dir.to_owned(), profile.to_owned())
}
