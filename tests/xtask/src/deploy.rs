//! What `docs/deploy` holds, passed through the validators of the systems that it is for.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

use crate::stages::{missing_program, missing_venv};

const KUBERNETES_VALIDATE: &str = "kubernetes-validate==1.37.0";
/// systemd rates how much a unit may do, from 0.0 for nothing to 10.0 for everything.
const MOST_EXPOSURE: &str = "20";

/// What cannot be done on this machine, after an attempt to install it.
pub(crate) fn missing() -> Option<String> {
    missing_program("systemd-analyze", &["--version"], "systemd").or_else(missing_venv)
}

/// # Errors
/// What a validator says.
pub(crate) fn test() -> anyhow::Result<()> {
    let deploy = crate::workspace().join("docs").join("deploy");
    let folder = crate::workspace().join("target").join("deploy");
    fs::create_dir_all(&folder)?;
    check_unit(&deploy, &folder)?;
    check_manifests(&deploy, &folder)
}

fn check_unit(deploy: &Path, folder: &Path) -> anyhow::Result<()> {
    let mut unit = fs::read_to_string(deploy.join("gearway.service"))?;
    ensure!(unit.contains("Type=notify-reload"), "the unit reloads by notification");
    if systemd_version()? < 253 {
        unit = unit.replace("Type=notify-reload", "Type=notify");
    }
    // The validator wants the program to be there.
    let program = folder.join("gearway");
    fs::write(&program, "")?;
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let unit = unit.replace("/usr/local/bin/gearway", &program.display().to_string());
    let file = folder.join("gearway.service");
    fs::write(&file, unit)?;
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no", "--recursive-errors=no"]).arg(&file);
    let verdict = verify.output().with_context(|| format!("cannot run {verify:?}"))?;
    // It exits with 0 for keys that it does not know, and only says so.
    let said = String::from_utf8_lossy(&verdict.stderr);
    let said: Vec<&str> = said.lines().filter(|line| line.contains("gearway.service")).collect();
    ensure!(verdict.status.success() && said.is_empty(), "systemd-analyze verify: {said:#?}");
    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--offline=true", &format!("--threshold={MOST_EXPOSURE}")]).arg(&file);
    let verdict = security.output().with_context(|| format!("cannot run {security:?}"))?;
    let text = String::from_utf8_lossy(&verdict.stdout);
    ensure!(verdict.status.success(), "the unit may do too much:\n{text}");
    println!("gearway.service: {}", text.lines().last().unwrap_or_default());
    Ok(())
}

fn systemd_version() -> anyhow::Result<u32> {
    let output = Command::new("systemd-analyze").arg("--version").output()?;
    let text = String::from_utf8(output.stdout)?;
    let version = text.split_whitespace().nth(1).context("systemd-analyze tells no version")?;
    Ok(version.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default().parse()?)
}

fn check_manifests(deploy: &Path, folder: &Path) -> anyhow::Result<()> {
    let venv = folder.join("venv");
    let program = venv.join("bin").join("kubernetes-validate");
    if !program.exists() {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
        let mut install = Command::new(venv.join("bin").join("pip"));
        run(install.args(["install", "--quiet", "--disable-pip-version-check", KUBERNETES_VALIDATE]))?;
    }
    run(Command::new(program).arg("--strict").arg(deploy.join("kubernetes.yaml")))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}
