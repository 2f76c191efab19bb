use std::any::{Any, TypeId};
use std::future::Future;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use gearway_protocol::{GEARWAY_V1, Registration};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing_subscriber::EnvFilter;

use crate::call::Calls;
use crate::handler::{Handler, Route, handler};
use crate::registration::Registrar;
use crate::request::States;
use crate::routes::Routes;
use crate::secret::SecretCell;
use crate::server::Server;
use crate::test_client::TestClient;
use crate::{Error, Settings};

/// A process that answers requests for a gateway: its handlers, and who it is.
///
/// ```no_run
/// use gearway_worker::{Json, Method, Query, Worker, handler};
///
/// #[derive(serde::Deserialize)]
/// struct Hello {
///     name: String,
/// }
///
/// #[tokio::main]
/// async fn main() -> Result<(), gearway_worker::Error> {
///     Worker::from_env()?
///         .handler("hello", async |Query(hello): Query<Hello>| format!("hello {}", hello.name))
///         .route(handler("numbers", async || Json([1, 2, 3])).methods([Method::GET]))
///         .run()
///         .await
/// }
/// ```
#[derive(Debug)]
#[must_use = "a worker serves nothing until it runs"]
pub struct Worker {
    settings: Settings,
    routes: Vec<Route>,
    state: States,
    version: String,
    max_concurrency: Option<u32>,
    max_envelope: usize,
}

/// An envelope of a body of 10 MiB, the gateway's `limits.max_body`, with room for its headers.
const MAX_ENVELOPE: usize = 16 << 20;
/// A call that the gateway chose this worker for before it heard of the drain may still be on its way.
const STRAGGLERS: Duration = Duration::from_millis(500);

impl Worker {
    /// A worker with the [`Settings`] of the environment.
    ///
    /// # Errors
    /// [`Error::Setting`] when a variable has a value that cannot be used.
    pub fn from_env() -> Result<Self, Error> {
        Settings::from_env().map(Self::new)
    }

    /// A worker with these settings.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            routes: Vec::new(),
            state: States::new(),
            version: String::new(),
            max_concurrency: None,
            max_envelope: MAX_ENVELOPE,
        }
    }

    /// Replaces the settings.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Adds a handler that takes GET, POST and PUT from anybody; [`handler()`](crate::handler()) says how `name` becomes a
    /// path.
    pub fn handler<Arguments: 'static, H: Handler<Arguments>>(self, name: impl Into<String>, run: H) -> Self {
        self.route(handler(name, run))
    }

    /// Adds a handler with its terms.
    pub fn route(mut self, route: Route) -> Self {
        self.routes.push(route);
        self
    }

    /// Adds several handlers.
    pub fn routes(mut self, routes: impl IntoIterator<Item = Route>) -> Self {
        self.routes.extend(routes);
        self
    }

    /// Shares a value with all handlers, who take it as [`State<T>`](crate::State). One value a type.
    pub fn state<T: Any + Send + Sync>(mut self, state: T) -> Self {
        self.state.insert(TypeId::of::<T>(), Arc::new(state));
        self
    }

    /// The version of the worker's code, which the gateway shows to people.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// How many calls may run at once. One more is turned away, so that the gateway gives it to another replica.
    pub fn max_concurrency(mut self, calls: u32) -> Self {
        self.max_concurrency = Some(calls);
        self
    }

    /// The largest envelope that is read, in bytes; 16 MiB by default. It holds the request's body in base64, which
    /// is a third longer: raise it together with the gateway's `limits.max_body`.
    pub fn max_envelope(mut self, bytes: usize) -> Self {
        self.max_envelope = bytes;
        self
    }

    /// Calls the handlers in this process, without a gateway or sockets, and by the gateway's rules.
    ///
    /// # Panics
    /// When two handlers claim the same path and method.
    #[must_use]
    pub fn test_client(self) -> TestClient {
        match self.calls() {
            Ok((calls, _)) => TestClient::new(calls),
            Err(error) => panic!("{error}"),
        }
    }

    /// Serves until SIGTERM or SIGINT: then leaves the gateway, finishes what runs, and returns. A second signal ends
    /// the process at once, with exit code 1.
    ///
    /// Logs go to stderr at the level that `RUST_LOG` says (`info` by default), unless the program has set a
    /// `tracing` subscriber of its own.
    ///
    /// # Errors
    /// When the worker cannot start, or the gateway refuses its first registration. A gateway that is not there
    /// (yet, or any more) is not an error: the worker waits for it.
    pub async fn run(self) -> Result<(), Error> {
        let default = tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")));
        if default.try_init().is_err() {
            tracing::debug!("logging through the program's own subscriber");
        }
        let mut signals = Signals::new().map_err(|error| Error::Start(error.into()))?;
        let first = CancellationToken::new();
        let told = first.clone();
        tokio::spawn(async move {
            signals.next().await;
            first.cancel();
            signals.next().await;
            tracing::warn!("told to stop again: ending at once");
            std::process::exit(1);
        });
        self.run_until(told.cancelled_owned()).await
    }

    /// Serves until `stop` is ready: then leaves the gateway, finishes what runs, and returns.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> Result<(), Error> {
        let settings = self.settings.clone();
        let (version, max_concurrency, max_envelope) =
            (self.version.clone(), self.max_concurrency, self.max_envelope);
        let (calls, handlers) = self.calls()?;
        let registration = Registration {
            name: settings.name.clone(),
            url: String::new(),
            protocol: GEARWAY_V1.to_owned(),
            version,
            max_concurrency,
            features: Vec::new(),
            handlers,
        };
        let refuse_listen = |source| Error::Listen { address: settings.listen.clone(), source };
        let listener = TcpListener::bind(&settings.listen).await.map_err(refuse_listen)?;
        let listening = listener.local_addr().map_err(refuse_listen)?;
        let server = Arc::new(Server {
            calls,
            secret: SecretCell::new(),
            slots: max_concurrency.map(|calls| Arc::new(Semaphore::new(calls as usize))),
            max_envelope,
        });
        let registrar = Registrar::new(settings, registration, listening, Arc::clone(&server))?;
        tracing::info!(%listening, "listening");

        let told = CancellationToken::new();
        let close = CancellationToken::new();
        let serving = tokio::spawn(server.serve(listener, close.clone()));
        let _close_on_any_way_out = close.clone().drop_guard();
        let registering = registrar.keep(&told);
        tokio::pin!(registering);
        let was_registered = tokio::select! {
            ended = &mut registering => ended?,
            () = stop => {
                tracing::info!("told to stop: leaving the gateway, finishing what runs");
                told.cancel();
                registering.await?
            }
        };
        if was_registered {
            sleep(STRAGGLERS).await;
        }
        close.cancel();
        serving.await.map_err(|error| Error::Start(error.into()))?;
        tracing::info!("stopped");
        Ok(())
    }

    fn calls(self) -> Result<(Calls, Vec<gearway_protocol::HandlerSpec>), Error> {
        let routes = Routes::new(self.routes)?;
        let specs = routes.specs().cloned().collect();
        Ok((Calls { routes, state: Arc::new(self.state), running: TaskTracker::new() }, specs))
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
