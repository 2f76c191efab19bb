use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use gearway_protocol::{Lease, Registered, Registration};
use reqwest::{Client, Method, StatusCode, Url, redirect};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::server::Server;
use crate::{Error, Settings};

/// Keeps a worker in its gateway's table. Contract section 6.
pub(crate) struct Registrar {
    client: Client,
    gateway: Url,
    token: String,
    advertise: Advertise,
    /// Complete but for the URL.
    registration: Registration,
    server: Arc<Server>,
}

/// Where the gateway is to call the worker.
enum Advertise {
    At(Url),
    /// The listener takes every address of this machine: the one that the gateway can reach is the local address of a
    /// connection to it.
    LocalAddressTowardsGateway {
        wildcard: IpAddr,
        port: u16,
    },
}

/// The worker's place in the gateway's table.
struct Place {
    worker_id: String,
    lease: Duration,
    /// An operator drained the worker. It does not come back by itself.
    draining: bool,
}

enum Failure {
    /// Trying again may help.
    Transient(String),
    /// The gateway has understood, and refuses.
    Refused { status: u16, message: String },
    /// The lease has lapsed.
    Unknown,
}

/// Taken for the lease until the gateway has told its own.
const ASSUMED_LEASE: Duration = Duration::from_secs(10);
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// A registration is answered after the gateway has written it to its disk.
const REGISTER: Duration = Duration::from_secs(10);
/// What a registration that is under way gets when the worker is told to stop: one that succeeds has to be undone.
const LAST_REGISTRATION: Duration = Duration::from_secs(1);
const DEREGISTER: Duration = Duration::from_secs(2);

impl Registrar {
    pub(crate) fn new(
        settings: Settings,
        registration: Registration,
        listening: SocketAddr,
        server: Arc<Server>,
    ) -> Result<Self, Error> {
        let advertise = match settings.advertise {
            Some(url) => Advertise::At(url),
            None if listening.ip().is_unspecified() => {
                Advertise::LocalAddressTowardsGateway { wildcard: listening.ip(), port: listening.port() }
            }
            None => Advertise::At(url_of(listening)?),
        };
        let mut client = Client::builder().no_proxy().redirect(redirect::Policy::none());
        if settings.gateway.scheme() == "http" {
            // The system's certificates are not needed then, and a small container has none.
            client = client.tls_certs_only([]);
        }
        Ok(Self {
            client: client.build().map_err(|error| Error::Start(error.into()))?,
            gateway: settings.gateway,
            token: settings.token.ok_or(Error::MissingToken)?,
            advertise,
            registration,
            server,
        })
    }

    /// Registers, renews, and registers again, until `stop`; then takes the worker out of the table. Returns whether
    /// it was ever in it.
    ///
    /// # Errors
    /// [`Error::Refused`] when the first registration is. Later ones are tried again, since a worker that serves
    /// should not die of a gateway's configuration.
    pub(crate) async fn keep(&self, stop: &CancellationToken) -> Result<bool, Error> {
        let mut patience = Patience::new(ASSUMED_LEASE);
        let mut place: Option<Place> = None;
        let mut was_registered = false;
        while !stop.is_cancelled() {
            let outcome = match &place {
                Some(current) => tokio::select! {
                    renewed = self.renew(current) => renewed,
                    () = stop.cancelled() => break,
                },
                None => {
                    let registering = self.register();
                    tokio::pin!(registering);
                    tokio::select! {
                        registered = &mut registering => registered,
                        () = stop.cancelled() => match timeout(LAST_REGISTRATION, registering).await {
                            Ok(registered) => registered,
                            Err(_) => break,
                        },
                    }
                }
            };
            let stays_out = place.as_ref().is_some_and(|place| place.draining);
            let pause = match outcome {
                Ok(current) => {
                    if patience.lost() && place.is_some() {
                        tracing::info!("the gateway is back");
                    }
                    patience = Patience::new(current.lease);
                    was_registered = true;
                    let pause = current.lease / 3;
                    place = Some(current);
                    pause
                }
                Err(Failure::Unknown) if stays_out => {
                    tracing::warn!(
                        "the drained worker's lease has lapsed; it stays out until it is started anew"
                    );
                    stop.cancelled().await;
                    return Ok(true);
                }
                Err(Failure::Unknown) => {
                    tracing::warn!("the lease has lapsed; registering again");
                    place = None;
                    continue;
                }
                Err(Failure::Refused { status, message }) if !was_registered => {
                    return Err(Error::Refused { status, message });
                }
                Err(Failure::Refused { status, message }) => {
                    tracing::error!(status, message, "the gateway refuses the worker; trying again");
                    if !stays_out {
                        place = None;
                    }
                    patience.longest()
                }
                Err(Failure::Transient(reason)) => {
                    if patience.lost() {
                        tracing::debug!(reason, "the gateway is still lost");
                    } else {
                        tracing::warn!(reason, gateway = %self.gateway, "cannot reach the gateway; trying again");
                    }
                    patience.next()
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.cancelled() => {}
            }
        }
        if let Some(place) = place {
            self.leave(&place.worker_id).await;
        }
        Ok(was_registered)
    }

    async fn register(&self) -> Result<Place, Failure> {
        let url = self.own_url().await?;
        let registration = Registration { url: url.to_string(), ..self.registration.clone() };
        self.server.secret.expect_change();
        let answer = self.ask::<Registered>(Method::POST, None, Some(&registration), REGISTER).await;
        self.server.secret.settle(answer.as_ref().ok().map(|registered| registered.secret.clone()));
        let Registered { worker_id, lease_ms, .. } = answer.map_err(|failure| match failure {
            Failure::Unknown => Failure::Refused {
                status: 404,
                message: format!("{} is not a gateway's admin listener; set GEARWAY_GATEWAY", self.gateway),
            },
            other @ (Failure::Transient(_) | Failure::Refused { .. }) => other,
        })?;
        tracing::info!(worker_id, %url, lease_ms, handlers = registration.handlers.len(), "registered");
        Ok(Place { worker_id, lease: Duration::from_millis(lease_ms.max(1)), draining: false })
    }

    async fn renew(&self, place: &Place) -> Result<Place, Failure> {
        let path = [place.worker_id.as_str(), "lease"];
        let patience = (place.lease / 3).clamp(Duration::from_millis(250), REGISTER);
        let lease: Lease = self.ask(Method::PUT, Some(&path), None, patience).await?;
        if lease.draining && !place.draining {
            tracing::warn!(
                "an operator has drained this worker: it gets nothing new until it is started anew"
            );
        }
        Ok(Place {
            worker_id: place.worker_id.clone(),
            lease: Duration::from_millis(lease.lease_ms.max(1)),
            draining: lease.draining || place.draining,
        })
    }

    async fn leave(&self, worker_id: &str) {
        let request = self
            .client
            .request(Method::DELETE, self.admin_url(&[worker_id]))
            .bearer_auth(&self.token)
            .timeout(DEREGISTER);
        match request.send().await {
            Ok(response) if response.status().is_success() || response.status() == StatusCode::NOT_FOUND => {
                tracing::info!("deregistered");
            }
            Ok(response) => tracing::warn!(status = response.status().as_u16(), "cannot deregister"),
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "cannot deregister"),
        }
    }

    async fn ask<T: for<'de> Deserialize<'de>>(
        &self,
        method: Method,
        path: Option<&[&str]>,
        body: Option<&Registration>,
        patience: Duration,
    ) -> Result<T, Failure> {
        let mut request = self
            .client
            .request(method, self.admin_url(path.unwrap_or_default()))
            .bearer_auth(&self.token)
            .timeout(patience);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(transient)?;
        let status = response.status();
        let body = response.bytes().await.map_err(transient)?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| Failure::Refused {
                status: status.as_u16(),
                message: format!("{} does not answer as a gateway: {error}", self.gateway),
            });
        }
        let message = serde_json::from_slice::<serde_json::Value>(&body)
            .ok()
            .and_then(|body| Some(body.pointer("/error/message")?.as_str()?.to_owned()))
            .unwrap_or_else(|| "no reason given".to_owned());
        match status {
            StatusCode::NOT_FOUND => Err(Failure::Unknown),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Err(Failure::Transient(format!("HTTP {status}: {message}")))
            }
            status if status.is_server_error() => {
                Err(Failure::Transient(format!("HTTP {status}: {message}")))
            }
            status => Err(Failure::Refused { status: status.as_u16(), message }),
        }
    }

    /// `…/v1/workers`, and what follows.
    fn admin_url(&self, below: &[&str]) -> Url {
        let mut url = self.gateway.clone();
        url.path_segments_mut()
            .expect("http and https URLs have paths")
            .pop_if_empty()
            .extend(["v1", "workers"])
            .extend(below);
        url
    }

    async fn own_url(&self) -> Result<Url, Failure> {
        let (wildcard, port) = match &self.advertise {
            Advertise::At(url) => return Ok(url.clone()),
            Advertise::LocalAddressTowardsGateway { wildcard, port } => (wildcard, *port),
        };
        let address = timeout(REGISTER, local_address_towards(&self.gateway, *wildcard))
            .await
            .map_err(|_| Failure::Transient(format!("{} cannot be reached in time", self.gateway)))?
            .map_err(|error| Failure::Transient(error.to_string()))?;
        url_of(SocketAddr::new(address, port)).map_err(|error| Failure::Transient(error.to_string()))
    }
}

/// A third of the lease at most, so that a gateway that comes back finds its workers before their leases lapse.
struct Patience {
    retry: Duration,
    longest: Duration,
    failures: u32,
}

impl Patience {
    fn new(lease: Duration) -> Self {
        let longest = lease / 3;
        Self { retry: FIRST_RETRY.min(longest), longest, failures: 0 }
    }

    fn lost(&self) -> bool {
        self.failures > 0
    }

    fn next(&mut self) -> Duration {
        let retry = self.retry;
        self.failures = self.failures.saturating_add(1);
        self.retry = (retry * 2).min(self.longest);
        // Many workers lose a gateway at once; they should not all come back at once.
        retry.mul_f64(0.5 + 0.5 * fastrand::f64())
    }

    fn longest(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.longest
    }
}

fn transient(error: reqwest::Error) -> Failure {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    Failure::Transient(text)
}

fn url_of(address: SocketAddr) -> Result<Url, Error> {
    Url::parse(&format!("http://{address}/")).map_err(|error| Error::Setting {
        name: "GEARWAY_ADVERTISE",
        reason: format!("is needed, because {address} makes no URL: {error}"),
    })
}

async fn local_address_towards(gateway: &Url, wildcard: IpAddr) -> io::Result<IpAddr> {
    let host = gateway.host_str().unwrap_or_default();
    let port = gateway.port_or_known_default().unwrap_or_default();
    let mut failure =
        io::Error::other(format!("{host} has no address of the listener's kind; set GEARWAY_ADVERTISE"));
    for address in tokio::net::lookup_host(format!("{host}:{port}")).await? {
        // An IPv4 listener cannot be reached at the IPv6 address that such a connection would show.
        if wildcard.is_ipv4() && !address.is_ipv4() {
            continue;
        }
        match TcpStream::connect(address).await.and_then(|connection| connection.local_addr()) {
            Ok(local) => return Ok(local.ip().to_canonical()),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}
