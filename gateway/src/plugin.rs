//! Workers that cannot register themselves: asked for their routes until they answer, and again for as long as they are
//! configured. Contract section 5, `skygear-v1`.

use std::collections::HashSet;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use gearway_protocol::{HandlerSpec, Registration, default_methods};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::config::Plugin;
use crate::registry::{Claim, Registry, Rotation};
use crate::route::{Braces, Pattern};
use crate::upstream::{self, CallHead, ConnectError, Exchange, Outgoing, WorkerUrl};

/// An unanswered init is repeated after this long at first, and twice as long each time up to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// A worker that answered is asked again this often, since it may have restarted with other handlers between two calls.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// How soon it shows that a worker was ejected.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const INIT_TIMEOUT: Duration = Duration::from_secs(5);
/// Enough for tens of thousands of handlers.
const MAX_INIT_REPLY: u64 = 16 << 20;
const INIT: &str = r#"{"kind":"event","name":"init","param":{"config":{}}}"#;

#[derive(Debug, thiserror::Error)]
enum InitError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("no answer to init: {0}")]
    NoAnswer(String),
    #[error("the answer to init is longer than {MAX_INIT_REPLY} bytes")]
    TooLarge,
    #[error("the answer to init has the HTTP status {0}")]
    Status(http::StatusCode),
    #[error("the answer to init is not one: {0}")]
    Answer(#[from] serde_json::Error),
    #[error("the routes cannot be used: {0}")]
    Claim(#[from] crate::registry::InvalidField),
    #[error(transparent)]
    Refused(#[from] crate::registry::Refusal),
}

#[derive(Deserialize)]
struct InitReply {
    result: InitResult,
}

#[derive(Deserialize)]
struct InitResult {
    #[serde(default)]
    handler: Vec<InitHandler>,
}

#[derive(Deserialize)]
struct InitHandler {
    name: String,
    methods: Option<Vec<String>>,
    key_required: Option<bool>,
    user_required: Option<bool>,
}

/// Keeps the routes of every configured worker in the table, and drops those of workers that are configured no more.
pub async fn attend_all(registry: Registry, mut configured: watch::Receiver<Vec<Plugin>>) {
    loop {
        let plugins = configured.borrow_and_update().clone();
        for replica in registry.replicas() {
            let stays =
                |plugin: &Plugin| *plugin.name == *replica.name() && plugin.url == replica.registration.url();
            if replica.lease.is_none() && !plugins.iter().any(stays) {
                registry.deregister(&replica.id).await.ok();
            }
        }
        let mut attendants = JoinSet::new();
        for plugin in plugins {
            attendants.spawn(attend(registry.clone(), plugin));
        }
        // Dropping the set ends the attendants of the old configuration.
        if configured.changed().await.is_err() {
            return;
        }
    }
}

/// Keeps one configured worker's routes in the table. Runs until it is dropped.
async fn attend(registry: Registry, plugin: Plugin) {
    let mut known = registry
        .plugin_registrations()
        .into_iter()
        .find(|registration| registration.name == plugin.name && registration.url == plugin.url)
        .map(|registration| registration.handlers);
    let mut silence = known.is_none().then(|| Silence::begin(&registry));
    loop {
        let handlers = ask_until_answered(&registry, &plugin).await;
        // Whatever it said, it has answered: nothing more is to be expected of it.
        silence.take();
        if known.as_ref() != Some(&handlers) {
            match register(&registry, &plugin, handlers.clone()).await {
                Ok(()) => known = Some(handlers),
                Err(error) => {
                    warn!(plugin = plugin.name, %error, "the plugin's routes are not served");
                    tokio::time::sleep(BACKOFF.1).await;
                    continue;
                }
            }
        }
        registry.plugin_answered(&plugin.name);
        wait_for_a_reason(&registry, &plugin).await;
    }
}

/// Takes up the routes that configured workers told another process of this gateway.
pub async fn restore(registry: &Registry, configured: &[Plugin], registrations: Vec<Registration>) {
    for registration in registrations {
        let stays = |plugin: &Plugin| {
            plugin.name == registration.name
                && plugin.url == registration.url
                && plugin.protocol == registration.protocol
        };
        let Some(plugin) = configured.iter().find(|plugin| stays(plugin)) else { continue };
        if let Err(error) = register(registry, plugin, registration.handlers).await {
            warn!(plugin = plugin.name, %error, "the plugin's routes are asked for again");
        }
    }
}

async fn ask_until_answered(registry: &Registry, plugin: &Plugin) -> Vec<HandlerSpec> {
    let (mut backoff, longest) = BACKOFF;
    let mut said = false;
    loop {
        match init(registry, plugin).await {
            Ok(handlers) => {
                if said {
                    info!(plugin = plugin.name, handlers = handlers.len(), "the plugin answers");
                }
                return handlers;
            }
            Err(error) if !said => {
                warn!(plugin = plugin.name, url = plugin.url, %error, "the plugin does not answer its init; asking on");
                said = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(longest);
    }
}

async fn init(registry: &Registry, plugin: &Plugin) -> Result<Vec<HandlerSpec>, InitError> {
    let url = WorkerUrl::parse(&plugin.url).map_err(ConnectError::from)?;
    let mut connection = upstream::connect(&url, &registry.config().workers).await?;
    let head = CallHead::new(&url, None);
    let room = head.room(None);
    let mut bytes = vec![0; room];
    bytes.extend_from_slice(INIT.as_bytes());
    let start = head.write(None, INIT.len() as u64, &mut bytes[..room]);
    let mut call = Outgoing::new(bytes, start, Bytes::new().into(), b"");
    let mut input = BytesMut::new();
    let exchange = connection.exchange(&mut call, &mut input, MAX_INIT_REPLY, |_| false);
    let answer = match tokio::time::timeout(INIT_TIMEOUT, exchange).await {
        Ok(Exchange::Answered(answer)) => answer,
        Ok(Exchange::TooLarge) => return Err(InitError::TooLarge),
        Ok(Exchange::NotWritten) => return Err(InitError::NoAnswer("the connection was closed".to_owned())),
        Ok(Exchange::Lost(reason)) => return Err(InitError::NoAnswer(reason)),
        Ok(Exchange::Nonsense(reason)) => return Err(InitError::NoAnswer(reason.to_owned())),
        Err(_) => return Err(InitError::NoAnswer(format!("none within {} s", INIT_TIMEOUT.as_secs()))),
    };
    if !answer.status.is_success() {
        return Err(InitError::Status(answer.status));
    }
    let reply: InitReply = serde_json::from_slice(&answer.body)?;
    Ok(specs(reply.result.handler))
}

/// As Skygear's server read the list: where two names are one path (`chat:a` and `chat/a`, `foo` and `/foo`), the later
/// handler has the methods that both list. What is wrong with a name is left for [`Claim::check`] to say.
fn specs(handlers: Vec<InitHandler>) -> Vec<HandlerSpec> {
    let mut taken = HashSet::new();
    let mut specs = Vec::with_capacity(handlers.len());
    for handler in handlers.into_iter().rev() {
        let mut methods =
            handler.methods.filter(|methods| !methods.is_empty()).unwrap_or_else(default_methods);
        if let Ok(pattern) = Pattern::parse(&handler.name, Braces::Literal) {
            methods.retain(|method| taken.insert((pattern.shape(), method.clone())));
        }
        if !methods.is_empty() {
            specs.push(HandlerSpec {
                name: handler.name,
                methods,
                key_required: handler.key_required.unwrap_or(false),
                user_required: handler.user_required.unwrap_or(false),
                timeout_ms: None,
                idempotent: false,
                verify: None,
                delivery: None,
            });
        }
    }
    specs.reverse();
    specs
}

async fn register(registry: &Registry, plugin: &Plugin, handlers: Vec<HandlerSpec>) -> Result<(), InitError> {
    let claim = Claim::check(Registration {
        name: plugin.name.clone(),
        url: plugin.url.clone(),
        protocol: plugin.protocol.clone(),
        version: String::new(),
        max_concurrency: None,
        features: Vec::new(),
        handlers,
    })?;
    registry.register_plugin(claim).await?;
    Ok(())
}

/// Returns when the plugin is to be asked again: at once when it was ejected, and now and then.
async fn wait_for_a_reason(registry: &Registry, plugin: &Plugin) {
    let ejected = async {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let is_ejected = |replica: &crate::registry::Replica| {
                replica.name() == plugin.name && replica.rotation() == Rotation::Ejected
            };
            if registry.replicas().iter().any(|replica| is_ejected(replica)) {
                return;
            }
        }
    };
    tokio::time::timeout(ASK_AGAIN, ejected).await.ok();
}

/// Counts the plugin as silent for as long as it lives.
struct Silence(Registry);

impl Silence {
    fn begin(registry: &Registry) -> Self {
        registry.plugin_is_silent(true);
        Self(registry.clone())
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        self.0.plugin_is_silent(false);
    }
}
