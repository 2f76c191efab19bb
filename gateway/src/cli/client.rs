use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use gearway::admin::Grants;
use reqwest::redirect::Policy;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use url::{Host, Url};

use super::gateway::{kept_token, local_url};
use super::{AdminArgs, load};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_secs(30);

/// Asks one gateway's admin listener.
pub(super) struct Client {
    base: Url,
    token: Option<String>,
    /// Why there is no token, if there should have been one.
    token_trouble: Option<String>,
    http: reqwest::Client,
}

impl Client {
    /// # Errors
    /// When the configuration is needed to find the gateway and cannot be used, or the URL is none.
    pub(super) fn new(args: &AdminArgs) -> anyhow::Result<Self> {
        let admin = args.admin.as_deref().filter(|url| !url.is_empty());
        let mut token = args.token.clone().filter(|token| !token.is_empty());
        let mut token_trouble = None;
        let config = match (admin, &token) {
            (Some(_), Some(_)) => None,
            (None, _) | (_, None) => Some(load(&args.sources())?),
        };
        let base = match (admin, &config) {
            (Some(url), _) => base_url(url)?,
            (None, Some(config)) => base_url(&local_url(config.admin.listen))?,
            (None, None) => bail!("no admin URL"),
        };
        // What this machine's gateway accepts is for this machine's gateway only.
        if let (None, Some(config), true) = (&token, config, is_this_machine(&base)) {
            match config.admin.tokens.first() {
                Some(configured) => token = Some(configured.expose().to_owned()),
                None => match kept_token(&config.data_dir, Grants::ADMIN_TOKEN_FILE) {
                    Ok(kept) => token = kept,
                    Err(error) => token_trouble = Some(format!("{error:#}")),
                },
            }
        }
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .build()
            .context("cannot make HTTP requests")?;
        Ok(Self { base, token, token_trouble, http })
    }

    /// Asks for something at a path of these segments. An answer without a body is [`Value::Null`].
    ///
    /// # Errors
    /// When the gateway cannot be reached or refuses, in words for people.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let mut url = self.base.clone();
        // An http URL always has a path.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.http.request(method, url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        let text = response.text().await.map_err(|error| self.unreachable(error))?;
        if !status.is_success() {
            return Err(self.refused(status, &text));
        }
        if text.is_empty() {
            return Ok(Value::Null);
        }
        let answer: Value = serde_json::from_str(&text)
            .with_context(|| format!("{} is no gateway's admin listener", self.base))?;
        // What the public listener says, with 200, to every path that nobody registered.
        if answer["result"]["status"] == "OK" {
            bail!(
                "{} is a gateway's public listener; name its admin listener with --admin URL or GEARWAY_ADMIN",
                self.base
            );
        }
        Ok(answer)
    }

    fn unreachable(&self, error: reqwest::Error) -> anyhow::Error {
        let base = self.base.as_str().trim_end_matches('/');
        let error = error.without_url();
        if error.is_timeout() {
            return anyhow!("the gateway at {base} does not answer in time");
        }
        let cause = innermost(&error);
        anyhow!(
            "no gateway answers at {base} ({cause}); start one with `gearway serve`, \
             or name its admin listener with --admin URL or GEARWAY_ADMIN"
        )
    }

    fn refused(&self, status: StatusCode, text: &str) -> anyhow::Error {
        let body: Value = serde_json::from_str(text).unwrap_or_default();
        let Some(message) = body["error"]["message"].as_str() else {
            return anyhow!("{} answers {status}; is it a gateway's admin listener?", self.base);
        };
        if status != StatusCode::UNAUTHORIZED {
            return anyhow!("{message}");
        }
        let trouble = self.token_trouble.as_ref().map(|trouble| format!(" ({trouble})")).unwrap_or_default();
        anyhow!(
            "{message}{trouble}; give an admin token with --token or GEARWAY_ADMIN_TOKEN, \
             or name the gateway's data_dir with --data-dir or GEARWAY_DATA_DIR"
        )
    }
}

fn base_url(text: &str) -> anyhow::Result<Url> {
    // `127.0.0.1:3001` is what people type.
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    match Url::parse(&url) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
        Ok(_) | Err(_) => bail!("{text:?} is not a URL of an admin listener, as http://127.0.0.1:3001"),
    }
}

fn is_this_machine(url: &Url) -> bool {
    let is_local = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
    match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(ip)) => is_local(ip.into()),
        Some(Host::Ipv6(ip)) => is_local(ip.into()),
        None => false,
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
