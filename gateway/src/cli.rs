//! The commands. Those that ask a running gateway do so over its admin listener.

mod client;
mod conform;
mod deliveries;
mod dev;
mod gateway;
mod manual;
mod operate;
mod output;
mod process;
mod trigger;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::bail;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgGroup, Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use gearway::config::{self, Config, Overrides, Sources};
use gearway::{serve, telemetry};
use gearway_protocol::VerifyScheme;
use url::Url;

/// A reverse proxy that relays HTTP requests to cloud code in worker processes.
#[derive(Debug, Parser)]
#[command(name = "gearway", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    Serve(GatewayArgs),
    /// Run a gateway and a worker for development: shows routes and requests, restarts the worker when its files change.
    Dev(DevArgs),
    /// Play the gateway for a worker in any language, and say what of the protocol it keeps.
    Conform(ConformArgs),
    /// Say whether a configuration can be used, and everything that is wrong with it.
    Check(CheckArgs),
    /// The routes of a running gateway.
    Routes(RoutesArgs),
    /// The workers of a running gateway.
    Workers(WorkersArgs),
    /// The webhooks that a running gateway keeps.
    Deliveries(DeliveriesArgs),
    /// The access tokens of a running gateway.
    Tokens(TokensArgs),
    /// Sign a webhook as its provider does and send it to the gateway, for trying out a handler.
    Trigger(TriggerArgs),
    /// Exit with 0 if the gateway is ready, for containers.
    Healthcheck(AdminArgs),
    /// Print every key of the configuration with its default.
    ConfigTemplate,
    /// Print a script that completes this command's arguments.
    Completion { shell: Shell },
    /// Print the manual page, or write one for each command: what man(1) shows.
    Man(ManArgs),
}

#[derive(Debug, Args)]
struct FileArgs {
    /// The configuration file; GEARWAY_CONFIG names it otherwise.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ManArgs {
    /// The folder that gets the pages, such as /usr/local/share/man/man1.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE", env = "GEARWAY_CONFIG")]
    config: PathBuf,
}

/// What can be said about a gateway on the command line.
#[derive(Debug, Args)]
struct GatewayArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Wins over `data_dir` of the configuration.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Wins over `public.listen` of the configuration.
    #[arg(long, value_name = "ADDRESS")]
    public_listen: Option<String>,
    /// Wins over `admin.listen` of the configuration.
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
}

#[derive(Debug, Args)]
struct DevArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
    /// The worker; it finds the gateway in GEARWAY_GATEWAY and GEARWAY_TOKEN. Without one, dev waits for workers.
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// The worker is started by this command, or by somebody else at a URL. Exits with 0 if everything holds, 1 if something
/// does not.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("worker").required(true).args(["url", "command"]))]
struct ConformArgs {
    /// Wait for a worker that registers with this URL.
    #[arg(value_name = "URL")]
    url: Option<Url>,
    /// Where to wait for the worker [default: 127.0.0.1:3001, or any free port for CMD].
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// The registration token that the worker has to present.
    #[arg(long, value_name = "TOKEN", default_value = "conform")]
    token: String,
    /// How long a connection is left idle; 61s is what the protocol asks for.
    #[arg(long, value_name = "DURATION", default_value = "6s")]
    idle: humantime::Duration,
    /// Fail for checks that were skipped too.
    #[arg(long)]
    strict: bool,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
    /// The worker itself; it finds the gateway in GEARWAY_GATEWAY and GEARWAY_TOKEN, and is ended and started several times.
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// How to reach a running gateway.
#[derive(Debug, Args)]
struct AdminArgs {
    /// The admin listener's URL [default: that of the configuration, http://127.0.0.1:3001].
    #[arg(long, value_name = "URL", env = "GEARWAY_ADMIN", global = true)]
    admin: Option<String>,
    /// An admin token [default: the one in the data_dir of a gateway on this machine].
    #[arg(long, value_name = "TOKEN", env = "GEARWAY_ADMIN_TOKEN", hide_env_values = true, global = true)]
    token: Option<String>,
    /// The configuration file of the gateway, if it is on this machine; GEARWAY_CONFIG names it otherwise.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// The gateway's data_dir, if it is on this machine; GEARWAY_DATA_DIR names it otherwise.
    #[arg(long, value_name = "DIR", global = true)]
    data_dir: Option<String>,
    /// Print JSON, for programs.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Args)]
struct RoutesArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(subcommand)]
    action: Option<RoutesAction>,
}

#[derive(Debug, Subcommand)]
enum RoutesAction {
    /// The known routes, those without a worker too.
    List,
    /// Drop a route that has no worker, so that another name may claim it.
    Forget {
        /// As the list shows it.
        path: String,
    },
}

#[derive(Debug, Args)]
struct WorkersArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(subcommand)]
    action: Option<WorkersAction>,
}

#[derive(Debug, Subcommand)]
enum WorkersAction {
    /// The registered workers.
    List,
    /// Give a worker nothing new to do; what it does finishes.
    Drain {
        /// As the list shows it.
        id: String,
    },
}

#[derive(Debug, Args)]
struct DeliveriesArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(subcommand)]
    action: Option<DeliveriesAction>,
}

#[derive(Debug, Default, Args)]
struct DeliveriesFilter {
    /// pending, delivered or dead.
    #[arg(long)]
    state: Option<String>,
    /// A path as the list of routes shows it.
    #[arg(long, value_name = "PATH")]
    route: Option<String>,
    /// The id after which to go on.
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// How many at most.
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
}

#[derive(Debug, Subcommand)]
enum DeliveriesAction {
    /// The deliveries, the oldest first.
    List(DeliveriesFilter),
    /// A delivery with what was sent, and every attempt with its answer.
    Show {
        /// As the list shows it.
        id: String,
    },
    /// Have a delivery run again, or all that a filter means and that were not replayed yet.
    Replay {
        /// As the list shows it.
        id: Option<String>,
        #[command(flatten)]
        filter: DeliveriesFilter,
    },
    /// Forget a delivery; one that is pending is lost.
    Drop {
        /// As the list shows it.
        id: String,
    },
}

#[derive(Debug, Args)]
struct TokensArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(subcommand)]
    action: Option<TokensAction>,
}

#[derive(Debug, Subcommand)]
enum TokensAction {
    /// Make an access token for a user, and print it: it is shown this once.
    Create {
        /// Whom the token stands for.
        #[arg(long)]
        user: String,
        /// How long it counts, as 90s, 1h or 30d; without it, until it is revoked.
        #[arg(long, value_name = "DURATION")]
        ttl: Option<String>,
    },
    /// The access tokens, without their texts.
    List,
    /// Make a token count no longer.
    Revoke {
        /// As the list shows it.
        id: String,
    },
}

/// The secret comes from the configuration file, which has to be on this machine; --config or GEARWAY_CONFIG names it.
#[derive(Debug, Args)]
struct TriggerArgs {
    /// Who is to have signed it.
    #[arg(value_name = "SCHEME", value_parser = schemes())]
    scheme: VerifyScheme,
    /// The handler's path, with a query if there is to be one.
    #[arg(long, value_name = "PATH")]
    to: String,
    /// The body [default: an event as the provider sends it].
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// The name of the secret that signs [default: the one that the handler asks for].
    #[arg(long, value_name = "NAME")]
    secret: Option<String>,
    /// The public listener's URL [default: that of the configuration, on this machine].
    #[arg(long, value_name = "URL")]
    public: Option<String>,
    /// The event's id, the same one twice to see a copy recognised [default: a new one].
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Another header, as "X-Skygear-API-Key: KEY", or one in place of the provider's, as "X-GitHub-Event: ping". May be repeated.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

fn schemes() -> impl TypedValueParser<Value = VerifyScheme> {
    PossibleValuesParser::new(VerifyScheme::ALL.map(VerifyScheme::as_str)).try_map(|word| {
        VerifyScheme::ALL.into_iter().find(|scheme| scheme.as_str() == word).ok_or("not a scheme")
    })
}

impl Cli {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Serve(args) => {
                telemetry::init_tracing();
                serve::run(&args.sources())
            }
            Command::Dev(args) => dev::run(&args),
            Command::Conform(args) => conform::run(args),
            Command::Check(args) => check(args),
            Command::Routes(RoutesArgs { admin, action }) => {
                operate::routes(&admin, action.unwrap_or(RoutesAction::List))
            }
            Command::Workers(WorkersArgs { admin, action }) => {
                operate::workers(&admin, action.unwrap_or(WorkersAction::List))
            }
            Command::Deliveries(DeliveriesArgs { admin, action }) => {
                deliveries::run(&admin, action.unwrap_or(DeliveriesAction::List(DeliveriesFilter::default())))
            }
            Command::Tokens(TokensArgs { admin, action }) => {
                operate::tokens(&admin, action.unwrap_or(TokensAction::List))
            }
            Command::Trigger(args) => trigger::run(&args),
            Command::Healthcheck(admin) => operate::healthcheck(&admin),
            Command::ConfigTemplate => output::text(config::TEMPLATE),
            Command::Completion { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "gearway", &mut script);
                output::bytes(&script)
            }
            Command::Man(args) => manual::run(Self::command(), args.dir.as_deref()),
        }
    }
}

impl GatewayArgs {
    fn sources(&self) -> Sources {
        let overrides = Overrides {
            data_dir: self.data_dir.clone(),
            public_listen: self.public_listen.clone(),
            admin_listen: self.admin_listen.clone(),
        };
        Sources::of_this_process(self.file.config.clone(), overrides)
    }
}

impl AdminArgs {
    fn sources(&self) -> Sources {
        let overrides = Overrides { data_dir: self.data_dir.clone(), ..Overrides::default() };
        Sources::of_this_process(self.config.clone(), overrides)
    }
}

fn check(args: CheckArgs) -> anyhow::Result<()> {
    match Config::load(&Sources::of_this_process(Some(args.config), Overrides::default())) {
        Ok((_, warnings)) => {
            for warning in warnings {
                output::complain(&format!("warning: {warning}"));
            }
            output::line("ok")
        }
        Err(mistakes) => {
            for mistake in &mistakes {
                output::complain(&mistake.to_string());
            }
            let s = if mistakes.len() == 1 { "" } else { "s" };
            bail!("the configuration has {} mistake{s}", mistakes.len())
        }
    }
}

/// Reads a configuration for a command that needs a part of it.
fn load(sources: &Sources) -> anyhow::Result<Config> {
    match Config::load(sources) {
        Ok((config, _)) => Ok(config),
        Err(mistakes) => {
            let lines: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
            bail!("the configuration cannot be used:\n{}", lines.join("\n"))
        }
    }
}

#[cfg(test)]
mod tests;
