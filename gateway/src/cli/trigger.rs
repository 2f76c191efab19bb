//! `gearway trigger`: plays a provider. The secret comes from the configuration file on this machine and goes nowhere; only the
//! signature is sent.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use gearway::config::Config;
use gearway::path::{self, Target};
use gearway::route::{Braces, Found, Pattern, RouteTable};
use gearway::webhook::{self, Event, Verify};
use gearway_protocol::{VerifyScheme, VerifySpec};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Response, redirect::Policy};
use serde_json::{Value, json};
use tokio::runtime::Builder;
use url::Url;

use super::client::Client;
use super::gateway::local_url;
use super::{TriggerArgs, load, output};

const METHOD: &str = "POST";
/// What the gateway may take beyond its own limit.
const MARGIN: Duration = Duration::from_secs(5);
const DELIVERY: &str = "x-gearway-delivery";

pub(super) fn run(args: &TriggerArgs) -> anyhow::Result<()> {
    Builder::new_current_thread().enable_all().build()?.block_on(trigger(args))
}

async fn trigger(args: &TriggerArgs) -> anyhow::Result<()> {
    let config = load(&args.admin.sources())?;
    let mut url = target_url(args, &config)?;
    let registered = registered(args, url.path()).await?;
    let verify = verify(args, &config, registered)?;
    let secret = verify.spec().secret.clone();

    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let id = args.id.clone().unwrap_or_else(|| format!("{:024x}", fastrand::u128(..) >> 32));
    let sample = webhook::sample(args.scheme, &id, now);
    let body = match &args.body {
        Some(file) => std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?,
        None => sample.body.clone(),
    };
    let target = url[url::Position::BeforePath..url::Position::AfterQuery].to_owned();
    let given = headers(&args.headers)?;
    let content_type = given.get(CONTENT_TYPE).map_or(Ok(sample.content_type), HeaderValue::to_str)?;
    let mut event = Event { target, body, is_form: webhook::is_form(content_type), id, timestamp: now };
    let signature = webhook::sign(&verify, &mut event, &config).map_err(|error| {
        anyhow!("{error}; name the gateway's configuration file with --config, and its secret with --secret")
    })?;
    if let Some((_, query)) = event.target.split_once('?') {
        url.set_query(Some(query));
    }

    let http = reqwest::Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .timeout(config.limits.request_timeout + MARGIN)
        .build()
        .context("cannot make HTTP requests")?;
    let mut sent = HeaderMap::new();
    sent.insert(CONTENT_TYPE, HeaderValue::from_static(sample.content_type));
    for (name, value) in sample.headers {
        sent.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    for (name, value) in signature {
        sent.insert(name, value.try_into()?);
    }
    // `headers` takes the place of what is there by the same name.
    let request = http.post(url.clone()).body(event.body).headers(sent).headers(given);
    let response = request.send().await.map_err(|error| unreachable(&url, error))?;
    show(args, &url, &secret, response).await
}

/// What was asked for beside what the provider sends, or in its place.
fn headers(given: &[String]) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for header in given {
        let parsed = header.split_once(':').and_then(|(name, value)| {
            let name = name.trim().parse::<HeaderName>().ok()?;
            Some((name, HeaderValue::from_str(value.trim()).ok()?))
        });
        let (name, value) =
            parsed.with_context(|| format!("{header:?} is not a header; write \"Name: value\""))?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// Where the event goes: the public listener on this machine, or what was asked for.
fn target_url(args: &TriggerArgs, config: &Config) -> anyhow::Result<Url> {
    let listen = config.public.listen;
    let base = match &args.public {
        Some(base) => base.trim_end_matches('/').to_owned(),
        None if listen.port() == 0 => {
            bail!("the configuration leaves the public listener's port open; give its URL with --public")
        }
        None => local_url(listen),
    };
    let slash = if args.to.starts_with('/') { "" } else { "/" };
    let text = format!("{base}{slash}{}", args.to);
    match Url::parse(&text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
        Ok(_) | Err(_) => bail!("{text:?} is not the URL of a webhook, as http://127.0.0.1:3000/pay/stripe"),
    }
}

/// What the handler of that path asks for, if the gateway can be asked and knows the path.
async fn registered(args: &TriggerArgs, path: &str) -> anyhow::Result<Option<Vec<VerifySpec>>> {
    let routes = match Client::new(&args.admin)?.ask(Method::GET, &["v1", "routes"], &[], None).await {
        Ok(answer) => answer["routes"].as_array().cloned().unwrap_or_default(),
        Err(error) => {
            output::complain(&format!("cannot look up what {path} asks for: {error}"));
            return Ok(None);
        }
    };
    let patterns = routes.into_iter().filter_map(|route| {
        let pattern = Pattern::parse(route["path"].as_str()?, Braces::Param).ok()?;
        Some((pattern.shape(), route))
    });
    let table = RouteTable::build(patterns);
    let Target::Path(path) = path::canonicalise(path)? else { return Ok(None) };
    let Found::Match { value, .. } = table.find(&path) else {
        output::complain(&format!("no handler is known at {}", path.as_str()));
        return Ok(None);
    };
    let methods = value["methods"].as_array().map(Vec::as_slice).unwrap_or_default();
    let asked = methods.iter().find(|method| method["method"] == METHOD).map(|method| &method["verify"]);
    Ok(asked.and_then(|verify| serde_json::from_value(verify.clone()).ok()))
}

/// How to sign: as the handler wants it, or by the scheme's own rules if the handler cannot be asked.
fn verify(
    args: &TriggerArgs,
    config: &Config,
    registered: Option<Vec<VerifySpec>>,
) -> anyhow::Result<Verify> {
    let (scheme, to) = (args.scheme.as_str(), &args.to);
    let mut spec = match registered {
        Some(specs) => match specs.iter().find(|spec| spec.scheme == args.scheme) {
            Some(spec) => spec.clone(),
            None => {
                let others: Vec<_> = specs.iter().map(|spec| spec.scheme.as_str()).collect();
                match others.as_slice() {
                    [] => output::complain(&format!("the handler at {to} checks no signature")),
                    others => output::complain(&format!("the handler at {to} checks {}", others.join(", "))),
                }
                VerifySpec::new(args.scheme, secret_name(args, config)?)
            }
        },
        None => VerifySpec::new(args.scheme, secret_name(args, config)?),
    };
    if let Some(secret) = &args.secret {
        spec.secret.clone_from(secret);
    }
    if spec.scheme == VerifyScheme::Hmac && spec.header.is_none() {
        bail!("how {scheme} signs is said by the handler's registration, and there is none for {to}");
    }
    Verify::parse(&spec).map_err(|error| anyhow!("the handler at {to} asks for a verify.{error}"))
}

fn secret_name(args: &TriggerArgs, config: &Config) -> anyhow::Result<String> {
    if let Some(name) = &args.secret {
        return Ok(name.clone());
    }
    let names: Vec<_> = config.secrets.names().collect();
    match names.as_slice() {
        [name] => Ok((*name).to_owned()),
        [] => bail!(
            "the configuration has no [secrets]; name the gateway's configuration file with --config or GEARWAY_CONFIG"
        ),
        names => bail!("say which secret is to sign, with --secret and one of {}", names.join(", ")),
    }
}

async fn show(args: &TriggerArgs, url: &Url, secret: &str, response: Response) -> anyhow::Result<()> {
    let status = response.status();
    let header =
        |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (delivery, request_id) = (header(DELIVERY), header("x-request-id"));
    let body = response.bytes().await.map_err(|error| unreachable(url, error))?;
    let body = String::from_utf8_lossy(&body);
    if args.admin.json {
        let answer = json!({
            "url": url.as_str(),
            "scheme": args.scheme.as_str(),
            "secret": secret,
            "status": status.as_u16(),
            "delivery": delivery,
            "request_id": request_id,
            "body": serde_json::from_str(&body).unwrap_or_else(|_| Value::from(&*body)),
        });
        output::line(&answer.to_string())?;
    } else {
        output::complain(&format!("{METHOD} {url}, signed as {} with {secret}", args.scheme.as_str()));
        output::line(&status.to_string())?;
        if let Some(delivery) = delivery {
            output::line(&format!("X-Gearway-Delivery: {}", output::printable(&delivery)))?;
        }
        for line in body.lines() {
            output::line(&output::printable(line))?;
        }
    }
    if status.is_client_error() || status.is_server_error() {
        bail!("the gateway answered {status}");
    }
    Ok(())
}

fn unreachable(url: &Url, error: reqwest::Error) -> anyhow::Error {
    if error.is_timeout() {
        return anyhow!("{url} does not answer in time");
    }
    let error = anyhow::Error::new(error.without_url());
    anyhow!(
        "cannot send to {url} ({}); start a gateway, or give its public URL with --public",
        error.root_cause()
    )
}
