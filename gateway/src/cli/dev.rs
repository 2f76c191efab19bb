//! `gearway dev`: a gateway and a worker side by side, for whoever writes the worker.

mod files;
mod story;

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use gearway::admin::Grants;
use gearway::config::Config;
use gearway::telemetry;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{ChildStderr, Command};
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;

use self::files::Watch;
use super::gateway::{kept_token, local_url};
use super::process::Process;
use super::{DevArgs, load, output};

/// How often the routes are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long a worker may take to register before something seems to be wrong.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a worker may take to finish what it does before it is restarted.
const WORKER_FAREWELL: Duration = Duration::from_secs(10);
/// What the gateway needs beyond its drain timeout.
const GATEWAY_MARGIN: Duration = Duration::from_secs(10);

pub(super) fn run(args: &DevArgs) -> anyhow::Result<()> {
    let config = load(&args.gateway.sources())?;
    Builder::new_current_thread().enable_all().build()?.block_on(develop(args, &config))
}

async fn develop(args: &DevArgs, config: &Config) -> anyhow::Result<()> {
    // From here on a signal ends what was started before it ends this process.
    let mut interrupted = Interruption::new()?;
    let mut gateway = Gateway::start(args)?;
    let listening = tokio::select! {
        listening = gateway.listening() => listening?,
        () = interrupted.wait() => return gateway.end(config).await,
    };
    output::line(&format!("gateway on {}, workers register on {}", listening.public, listening.admin))?;
    let outcome = match args.command.as_slice() {
        [] => {
            output::line("waiting for workers; give a command after -- to have one started")?;
            attend(&mut gateway, &listening, None, &mut interrupted).await
        }
        command => {
            let token = registration_token(config)?;
            let mut worker = Worker::new(command, &listening.admin, &token)?;
            let outcome = attend(&mut gateway, &listening, Some(&mut worker), &mut interrupted).await;
            tokio::select! {
                () = worker.stop() => {}
                () = interrupted.wait() => {}
            }
            outcome
        }
    };
    tokio::select! {
        ended = gateway.end(config) => outcome.and(ended),
        () = interrupted.wait() => outcome,
    }
}

/// Follows everything that happens until a signal comes, or the gateway ends.
async fn attend(
    gateway: &mut Gateway,
    listening: &Listening,
    mut worker: Option<&mut Worker>,
    interrupted: &mut Interruption,
) -> anyhow::Result<()> {
    let mut routes = Routes::new(&listening.admin)?;
    let mut watch = match worker {
        Some(_) => Some(Watch::begin(&env::current_dir()?)?),
        None => None,
    };
    let mut look = tokio::time::interval(LOOK);
    let mut registered = Registered::default();
    registered.expect(worker.is_some().then(tokio::time::Instant::now));
    loop {
        tokio::select! {
            () = interrupted.wait() => return Ok(()),
            status = gateway.process.ended() => bail!("the gateway ended ({})", status?),
            _ = look.tick() => registered.note(routes.look().await?),
            () = registered.overdue() => output::complain(&format!(
                "the worker runs, and has registered no route for {} s\n    {}: it registers at GEARWAY_GATEWAY ({}) with \
                 GEARWAY_TOKEN, both of which it was given; the SDKs do that in `gearway run`, `run()` and `Worker::run()`. \
                 Does it get that far?",
                PATIENCE.as_secs(),
                output::paint(output::Colour::Cyan, "hint"),
                listening.admin,
            )),
            exit = ended(worker.as_deref_mut()) => {
                registered.expect(None);
                output::complain(&format!("the worker ended ({}); a change of its files starts it again", exit?));
            }
            file = changed(watch.as_mut()) => {
                let Some(worker) = worker.as_deref_mut() else { continue };
                output::line(&format!("{} changed, restarting the worker", file.display()))?;
                worker.stop().await;
                worker.start()?;
                registered.expect(Some(tokio::time::Instant::now()));
            }
        }
    }
}

async fn ended(worker: Option<&mut Worker>) -> anyhow::Result<String> {
    match worker {
        Some(worker) => worker.ended().await,
        None => std::future::pending().await,
    }
}

async fn changed(watch: Option<&mut Watch>) -> PathBuf {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

/// Ctrl-C, what a supervisor sends, or the end of the terminal.
struct Interruption {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Interruption {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

/// The gateway, as a process of the same binary, so that it is what `gearway serve` runs.
struct Gateway {
    process: Process,
    /// What it says, until somebody tells it.
    log: Option<Lines<BufReader<ChildStderr>>>,
    /// Tells what it says. Nothing else that goes on may delay this: a gateway whose log is not read stands still.
    story: Option<JoinHandle<anyhow::Result<()>>>,
}

/// Where a gateway listens, as URLs.
struct Listening {
    public: String,
    admin: String,
}

impl Gateway {
    fn start(args: &DevArgs) -> anyhow::Result<Self> {
        let binary = env::current_exe().context("cannot find the gearway binary")?;
        let mut command = Command::new(binary);
        command.arg("serve");
        let gateway = &args.gateway;
        let config = gateway.file.config.as_ref().map(|file| file.as_os_str());
        for (flag, value) in [
            ("--config", config),
            ("--data-dir", gateway.data_dir.as_ref().map(AsRef::as_ref)),
            ("--public-listen", gateway.public_listen.as_ref().map(AsRef::as_ref)),
            ("--admin-listen", gateway.admin_listen.as_ref().map(AsRef::as_ref)),
        ] {
            if let Some(value) = value {
                command.arg(flag).arg(value);
            }
        }
        let wanted = env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned());
        let shown =
            [telemetry::ACCESS, telemetry::ATTEMPTS].map(|target| format!("{target}=debug")).join(",");
        command.env("RUST_LOG", format!("{wanted},gearway::serve=info,{shown}"));
        command.stderr(std::process::Stdio::piped());
        let mut process = Process::start(command).context("cannot start the gateway")?;
        let stderr = process.stderr().context("the gateway has no standard error")?;
        Ok(Self { process, log: Some(BufReader::new(stderr).lines()), story: None })
    }

    /// Waits until it listens.
    async fn listening(&mut self) -> anyhow::Result<Listening> {
        let log = self.log.as_mut().context("the gateway listens already")?;
        let mut hint = None;
        while let Some(line) = log.next_line().await? {
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            match (event["message"].as_str(), event["public"].as_str(), event["admin"].as_str()) {
                (Some("listening"), Some(public), Some(admin)) => {
                    self.story = self.log.take().map(|log| tokio::spawn(story::tell_all(log)));
                    return Ok(Listening {
                        public: local_url(public.parse()?),
                        admin: local_url(admin.parse()?),
                    });
                }
                _ => story::tell(&line)?,
            }
            hint = story::start_hint(&line).or(hint);
        }
        match hint {
            Some(hint) => Err(anyhow!("the gateway did not start; {hint}")),
            None => Err(anyhow!("the gateway did not start")),
        }
    }

    /// Lets it drain, and tells what it says meanwhile.
    async fn end(&mut self, config: &Config) -> anyhow::Result<()> {
        self.process.terminate();
        self.process.stop(config.public.drain_timeout + GATEWAY_MARGIN).await;
        match self.story.take() {
            Some(story) => story.await?,
            None => Ok(()),
        }
    }
}

/// A token that lets the worker register: a configured one, best without a scope, or the one that the gateway made.
fn registration_token(config: &Config) -> anyhow::Result<String> {
    let configured = &config.admin.registration_tokens;
    let unscoped = configured.iter().find(|token| token.names.is_none() && token.paths.is_none());
    match unscoped.or(configured.first()) {
        Some(configured) => Ok(configured.token.expose().to_owned()),
        None => kept_token(&config.data_dir, Grants::REGISTRATION_TOKEN_FILE)?.with_context(|| {
            format!("the gateway made no registration token in {}", config.data_dir.display())
        }),
    }
}

/// The command that is being developed.
struct Worker {
    command: Vec<std::ffi::OsString>,
    gateway: String,
    token: String,
    process: Option<Process>,
}

impl Worker {
    fn new(command: &[std::ffi::OsString], gateway: &str, token: &str) -> anyhow::Result<Self> {
        let (gateway, token) = (gateway.to_owned(), token.to_owned());
        let mut worker = Self { command: command.to_vec(), gateway, token, process: None };
        worker.start()?;
        Ok(worker)
    }

    fn start(&mut self) -> anyhow::Result<()> {
        let (program, arguments) = self.command.split_first().context("no command was given")?;
        let mut command = Command::new(program);
        command.args(arguments).env("GEARWAY_GATEWAY", &self.gateway).env("GEARWAY_TOKEN", &self.token);
        // What webhooks are signed with is the gateway's alone.
        for (name, _) in
            env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GEARWAY_SECRETS__"))
        {
            command.env_remove(name);
        }
        let process =
            Process::start(command).with_context(|| format!("cannot start {}", program.to_string_lossy()))?;
        self.process = Some(process);
        Ok(())
    }

    /// Waits for the process to end by itself.
    async fn ended(&mut self) -> anyhow::Result<String> {
        let status = match &mut self.process {
            Some(process) => process.ended().await?,
            None => std::future::pending().await,
        };
        self.process = None;
        Ok(status.to_string())
    }

    async fn stop(&mut self) {
        if let Some(process) = &mut self.process {
            process.terminate();
            process.stop(WORKER_FAREWELL).await;
        }
        self.process = None;
    }
}

/// The routes as they were last shown.
struct Routes {
    url: String,
    http: reqwest::Client,
    shown: Vec<[Value; 5]>,
}

/// Whether the worker that was started has registered, and since when it should have.
#[derive(Default)]
struct Registered {
    /// [`None`] when nothing is to be expected, any more or at all.
    since: Option<tokio::time::Instant>,
}

impl Registered {
    fn expect(&mut self, since: Option<tokio::time::Instant>) {
        self.since = since;
    }

    fn note(&mut self, some_route_is_live: bool) {
        if some_route_is_live {
            self.since = None;
        }
    }

    /// Returns once, when a worker has taken too long.
    async fn overdue(&mut self) {
        match self.since {
            Some(since) => tokio::time::sleep_until(since + PATIENCE).await,
            None => std::future::pending().await,
        }
        self.since = None;
    }
}

impl Routes {
    fn new(admin: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().no_proxy().timeout(LOOK * 4).build()?;
        Ok(Self { url: format!("{admin}/v1/routes"), http, shown: Vec::new() })
    }

    /// Shows the routes if they have changed, and tells whether one has a worker. A gateway that does not answer is looked at
    /// again the next time.
    async fn look(&mut self) -> anyhow::Result<bool> {
        if let Ok(response) = self.http.get(&self.url).send().await
            && let Ok(routes) = response.json::<Value>().await
        {
            let rows = story::routes(&routes);
            if rows != self.shown {
                output::table(["METHODS", "PATH", "WORKER", "WANTS", "STATE"], rows.clone(), |row| {
                    (row[4] != "live").then_some(output::Colour::Red)
                })?;
                self.shown = rows;
            }
        }
        Ok(self.shown.iter().any(|row| row[4] == "live"))
    }
}
