//! `cargo xtask compose-test`: `docker-compose.yml` built, brought up, asked and drained.
//!
//! No image is pulled and no engine has to run: the engine is this command's own, and the base images are made of
//! Debian's packages, this machine's Rust toolchain and its Node, and handed in as the Dockerfiles' arguments.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::stages::missing_program;

const BASE_IMAGE: &str = "gearway-test-base";
const SERVICES: [&str; 5] = ["gateway", "seed-page", "payment-webhook", "python", "node"];
const PACKAGES: &str = "ca-certificates,gcc,g++,libc6-dev,make,python3,python3-venv";
/// Starting five containers takes seconds; a machine under load takes longer.
const PATIENCE: Duration = Duration::from_mins(2);

/// What cannot be done on this machine, after an attempt to install it.
pub(crate) fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("an engine and base images of one's own take root".to_owned());
    }
    [("dockerd", "docker.io"), ("docker-compose", "docker-compose"), ("debootstrap", "debootstrap")]
        .into_iter()
        .find_map(|(program, package)| missing_program(program, &["--version"], package))
        .or_else(|| missing_program("iptables", &["--version"], "iptables"))
        .or_else(|| missing_program("curl", &["--version"], "curl"))
}

/// # Errors
/// What of the compose file does not hold.
pub(crate) fn test() -> anyhow::Result<()> {
    let folder = crate::workspace().join("target").join("compose");
    fs::create_dir_all(&folder)?;
    let engine = Engine::start(&folder)?;
    if !engine
        .docker(&["image", "inspect", BASE_IMAGE])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?
        .success()
    {
        make_base_image(&engine, &folder)?;
    }
    let project = Project::new(&engine)?;
    project.compose(&["build"])?;
    project.compose(&["up", "--detach"])?;
    let outcome = project.check();
    if outcome.is_err() {
        project.compose(&["logs", "--tail", "50"]).ok();
    }
    project.compose(&["down", "--volumes", "--timeout", "20"])?;
    outcome
}

/// A container engine that ends with this value.
struct Engine {
    process: Child,
    /// Sockets have short paths, so they are not below the target folder.
    run: TempDir,
}

impl Engine {
    fn start(folder: &Path) -> anyhow::Result<Self> {
        let run = tempfile::tempdir()?;
        let log = fs::File::create(folder.join("engine.log"))?;
        let process = Command::new("dockerd")
            .arg("--data-root")
            .arg(folder.join("engine"))
            .arg("--exec-root")
            .arg(run.path().join("exec"))
            .arg("--pidfile")
            .arg(run.path().join("pid"))
            .arg("--host")
            .arg(format!("unix://{}", run.path().join("socket").display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start dockerd")?;
        let mut engine = Self { process, run };
        let end = Instant::now() + PATIENCE;
        while !engine.docker(&["info"]).stdout(Stdio::null()).stderr(Stdio::null()).status()?.success() {
            if let Some(status) = engine.process.try_wait()? {
                bail!("the engine ended with {status}; see {}", folder.join("engine.log").display());
            }
            ensure!(Instant::now() < end, "the engine does not answer");
            thread::sleep(Duration::from_millis(200));
        }
        Ok(engine)
    }

    fn host(&self) -> String {
        format!("unix://{}", self.run.path().join("socket").display())
    }

    fn docker(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", self.host()).args(arguments);
        command
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.process.id().cast_signed()) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
        self.process.wait().ok();
    }
}

/// Debian's packages, and the toolchains that no package of this Debian has.
fn make_base_image(engine: &Engine, folder: &Path) -> anyhow::Result<()> {
    let root = folder.join("base");
    fs::remove_dir_all(&root).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    let mut bootstrap = Command::new("debootstrap");
    bootstrap.args(["--variant=minbase", &format!("--include={PACKAGES}"), "bookworm"]).arg(&root);
    bootstrap.stdout(fs::File::create(folder.join("debootstrap.log"))?);
    run(bootstrap)?;

    let sysroot = PathBuf::from(output(Command::new("rustc").args(["--print", "sysroot"]))?);
    let rust = root.join("opt/rust");
    fs::create_dir_all(rust.join("bin"))?;
    for program in ["cargo", "rustc"] {
        fs::copy(sysroot.join("bin").join(program), rust.join("bin").join(program))?;
    }
    copy(&sysroot.join("lib"), &rust)?;
    let node = output(Command::new("sh").args(["-c", "readlink -f \"$(command -v node)\""]))?;
    fs::copy(node, root.join("usr/local/bin/node"))?;
    let npm = output(
        Command::new("sh").args(["-c", "dirname \"$(dirname \"$(readlink -f \"$(command -v npm)\")\")\""]),
    )?;
    let modules = root.join("usr/local/lib/node_modules");
    fs::create_dir_all(&modules)?;
    copy(Path::new(&npm), &modules)?;
    std::os::unix::fs::symlink("../lib/node_modules/npm/bin/npm-cli.js", root.join("usr/local/bin/npm"))?;
    // What this machine trusts, the images trust: packages come the same way.
    let certificates = "etc/ssl/certs/ca-certificates.crt";
    if Path::new("/").join(certificates).exists() {
        fs::copy(Path::new("/").join(certificates), root.join(certificates))?;
    }

    let mut pack = Command::new("tar");
    pack.arg("--directory").arg(&root).args(["--create", "."]).stdout(Stdio::piped());
    let mut pack = pack.spawn().context("cannot run tar")?;
    let mut import = engine.docker(&[
        "import",
        "--change",
        "ENV PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "--change",
        "ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt PIP_CERT=/etc/ssl/certs/ca-certificates.crt",
        "-",
        BASE_IMAGE,
    ]);
    import.stdin(pack.stdout.take().context("tar has no output")?);
    run(import)?;
    ensure!(pack.wait()?.success(), "tar failed");
    fs::remove_dir_all(&root)?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("cp");
    command.arg("--archive").arg(from).arg(to);
    run(command)
}

/// The compose file with what a test changes: base images, a free port, a token.
struct Project<'e> {
    engine: &'e Engine,
    folder: TempDir,
    port: u16,
}

impl<'e> Project<'e> {
    fn new(engine: &'e Engine) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let token = folder.path().join("registration-token");
        fs::write(&token, "a-token-for-one-test\n")?;
        let mut services = json!({});
        for name in SERVICES {
            services[name] = json!({
                "build": {
                    "network": "host",
                    "args": {
                        "RUST_IMAGE": BASE_IMAGE,
                        "RUNTIME_IMAGE": BASE_IMAGE,
                        "PYTHON_IMAGE": BASE_IMAGE,
                        "NODE_IMAGE": BASE_IMAGE,
                        "CARGO_PROFILE": "dev",
                    },
                },
            });
        }
        let over = json!({ "services": services, "secrets": { "registration-token": { "file": token } } });
        fs::write(folder.path().join("over.yml"), over.to_string())?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        Ok(Self { engine, folder, port })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker-compose");
        command.current_dir(crate::workspace());
        command.env("DOCKER_HOST", self.engine.host()).env("PUBLIC_PORT", self.port.to_string());
        command.env("COMPOSE_PROJECT_NAME", "gearway-compose-test");
        command.args(["-f", "docker-compose.yml", "-f"]).arg(self.folder.path().join("over.yml"));
        command.args(arguments);
        command
    }

    fn compose(&self, arguments: &[&str]) -> anyhow::Result<()> {
        run(self.command(arguments))
    }

    fn check(&self) -> anyhow::Result<()> {
        self.until("the gateway is healthy", || {
            Ok(self.inspect("gateway")?["State"]["Health"]["Status"] == "healthy")
        })?;
        for (target, body) in [
            ("/abc/def", "exactly /abc/def"),
            ("/hello/python?name=you", "Hello you, from Python"),
            ("/hello/node?name=you", "Hello you, from Node"),
        ] {
            self.until(target, || Ok(self.get(target)? == format!("200 {body}")))?;
        }
        for service in SERVICES {
            self.check_hardening(service)?;
        }
        let pages = output(&mut self.command(&["exec", "-T", "gateway", "ls", "/usr/local/share/man/man1"]))?;
        for page in ["gearway.1", "gearway-serve.1", "gearway-deliveries.1"] {
            ensure!(pages.lines().any(|line| line == page), "{page} is none of the manual's pages: {pages}");
        }
        self.compose(&["stop"])?;
        for service in SERVICES {
            let code = self.inspect(service)?["State"]["ExitCode"].clone();
            ensure!(code == 0, "{service} was drained, and exited with {code}");
        }
        Ok(())
    }

    fn check_hardening(&self, service: &str) -> anyhow::Result<()> {
        let container = self.inspect(service)?;
        ensure!(container["HostConfig"]["ReadonlyRootfs"] == true, "{service}: the root can be written");
        let mut id = self.command(&["exec", "-T", service, "id", "-u"]);
        ensure!(output(&mut id)? == "10001", "{service} runs as somebody else");
        let status =
            self.command(&["exec", "-T", service, "touch", "/written"]).stderr(Stdio::null()).status()?;
        ensure!(!status.success(), "{service}: a file could be made in the root");
        Ok(())
    }

    fn inspect(&self, service: &str) -> anyhow::Result<Value> {
        let id = output(&mut self.command(&["ps", "--quiet", service]))?;
        let text = output(&mut self.engine.docker(&["inspect", &id]))?;
        Ok(serde_json::from_str::<Value>(&text)?[0].take())
    }

    /// The status, a space, and the body.
    fn get(&self, target: &str) -> anyhow::Result<String> {
        let url = format!("http://127.0.0.1:{}{target}", self.port);
        let answer = Command::new("curl").args(["-s", "-w", "\n%{http_code}", &url]).output()?;
        let text = String::from_utf8_lossy(&answer.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').context("curl printed no status")?;
        Ok(format!("{status} {body}"))
    }

    fn until(&self, what: &str, holds: impl Fn() -> anyhow::Result<bool>) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        while !holds()? {
            ensure!(Instant::now() < end, "waited in vain: {what}");
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }
}

fn run(mut command: Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?} ended with {}", output.status);
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
