//! The providers' own libraries, asked one question after the other.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use gearway_tests::{Request, installed, wait};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Where the providers were told to send to.
pub(super) const PUBLIC_URL: &str = "https://hooks.example.com";

/// The process that runs the libraries; it dies with this value.
#[derive(Debug)]
pub(super) struct Providers {
    _process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// A webhook as a provider sends it.
#[derive(Debug, Clone)]
pub(super) struct Webhook {
    pub(super) scheme: &'static str,
    /// What it is signed with: for `v1a` the private key.
    pub(super) secret: &'static str,
    /// The path and query.
    pub(super) target: String,
    pub(super) content_type: &'static str,
    pub(super) body: String,
    /// Those that the signature consists of or covers.
    pub(super) headers: BTreeMap<String, String>,
}

impl Webhook {
    pub(super) fn new(scheme: &'static str, secret: &'static str, target: &str, body: &str) -> Self {
        Self {
            scheme,
            secret,
            target: target.into(),
            content_type: "application/json",
            body: body.into(),
            headers: BTreeMap::new(),
        }
    }

    pub(super) fn form(self) -> Self {
        Self { content_type: "application/x-www-form-urlencoded; charset=UTF-8", ..self }
    }

    pub(super) fn request(&self) -> Request {
        let request = Request::post(&self.target, self.body.as_bytes());
        let request = request.header("Content-Type", self.content_type);
        self.headers.iter().fold(request, |request, (name, value)| request.header(name, value))
    }

    fn question(&self, to_do: &str) -> Value {
        json!({
            "do": to_do, "scheme": self.scheme, "secret": self.secret, "url": format!("{PUBLIC_URL}{}", self.target),
            "form": self.content_type != "application/json", "body": self.body, "headers": self.headers,
        })
    }
}

impl Providers {
    pub(super) async fn start() -> Self {
        let environment = installed::python("providers/requirements.txt").await;
        let mut command = Command::new(environment.join("bin/python"));
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("providers/providers.py"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().expect("the environment's Python runs");
        let input = process.stdin.take().expect("stdin is piped");
        let output = BufReader::new(process.stdout.take().expect("stdout is piped"));
        Self { _process: process, input, output }
    }

    /// The webhook with its signature, by the provider's own library.
    pub(super) async fn sign(&mut self, webhook: &Webhook, id: &str, timestamp: i64) -> Webhook {
        let mut question = webhook.question("sign");
        question["id"] = id.into();
        question["timestamp"] = timestamp.into();
        let answer = self.ask(&question).await;
        let url = answer["url"].as_str().expect("a URL");
        let target = url.strip_prefix(PUBLIC_URL).expect("a URL below the public one").to_owned();
        let headers = serde_json::from_value(answer["headers"].clone()).expect("headers");
        Webhook { target, headers, ..webhook.clone() }
    }

    /// Whether the library takes the webhook for genuine.
    pub(super) async fn accepts(&mut self, webhook: &Webhook) -> bool {
        self.ask(&webhook.question("verify")).await["good"] == true
    }

    async fn ask(&mut self, question: &Value) -> Value {
        let line = format!("{question}\n");
        self.input.write_all(line.as_bytes()).await.expect("the libraries take input");
        self.input.flush().await.expect("the libraries take input");
        let mut answer = String::new();
        let read = self.output.read_line(&mut answer);
        wait::within("the libraries answer", read).await.expect("the libraries answer");
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }
}
