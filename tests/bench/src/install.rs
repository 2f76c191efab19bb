//! The programs that are measured or measure, from Debian's packages.

use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// What a Debian package brings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    package: &'static str,
    version: &'static str,
}

pub(crate) const NGINX: Program = Program { name: "nginx", package: "nginx", version: "-v" };
pub(crate) const HAPROXY: Program = Program { name: "haproxy", package: "haproxy", version: "-v" };
pub(crate) const H2LOAD: Program =
    Program { name: "h2load", package: "nghttp2-client", version: "--version" };
pub(crate) const OPENSSL: Program = Program { name: "openssl", package: "openssl", version: "version" };

impl Program {
    /// The first line of what it says about its version; installs it if it is missing.
    pub(crate) fn version(self) -> anyhow::Result<String> {
        if let Some(version) = self.ask() {
            return Ok(version);
        }
        install(self.package)?;
        self.ask()
            .with_context(|| format!("{} does not run, although {} is installed", self.name, self.package))
    }

    fn ask(self) -> Option<String> {
        let output = Command::new(self.name).arg(self.version).env("PATH", path()).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        output.status.success().then(|| text.lines().next().unwrap_or_default().trim().to_owned())
    }
}

/// With the folder where Debian has its daemons, and a user's path may not.
pub(crate) fn path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

/// Installs without letting the package's own service run: what is measured is started by the bench alone, and an installed
/// nginx would take port 80 of the machine.
fn install(package: &str) -> anyhow::Result<()> {
    let script = format!(
        r#"
        set -e
        policy=/usr/sbin/policy-rc.d
        if [ ! -e "$policy" ]; then
            trap 'rm -f "$policy"' EXIT
            printf '#!/bin/sh\nexit 101\n' > "$policy"
            chmod 755 "$policy"
        fi
        export DEBIAN_FRONTEND=noninteractive
        apt-get update
        apt-get install --yes --no-install-recommends {package}
        if [ -d /run/systemd/system ]; then systemctl disable {package} || true; fi
        "#
    );
    let output = Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot install {package}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{package} is missing and `apt-get install {package}` did not help: {}", said.trim());
    }
    Ok(())
}
