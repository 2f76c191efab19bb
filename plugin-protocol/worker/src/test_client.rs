use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use gearway_protocol::{
    AccessKeyType, Context, Delivery, DeliveryMode, Envelope, ErrorCode, HandlerError as ToldError,
    HandlerResult, HandlerSpec, Headers, Kind, Param, Reply, Verification,
};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use percent_encoding::percent_decode_str;
use serde::Serialize;

use crate::call::Calls;
use crate::pattern::Pattern;
use crate::wire::{self, canonical_case, latin1};

/// Calls a worker's handlers in this process: each request becomes an envelope, and each reply a response, as a
/// gateway makes them. Names, methods, credentials, redirects and errors follow its rules. A handler with
/// [`delivery`](crate::Route::delivery) is told of a first attempt, and what it returns is the answer; signatures are not checked.
///
/// ```
/// # use gearway_worker::{Method, Settings, Worker, handler};
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let worker = Worker::new(Settings::new("echo"));
/// let client = worker.handler("echo", async |text: String| text).test_client();
/// let response = client.post("/echo").body("hello").await;
/// assert_eq!(response.status(), 200);
/// assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
/// assert_eq!(response.body(), "hello");
/// # });
/// ```
#[derive(Clone)]
pub struct TestClient(Arc<Calls>);

/// A request that is sent when it is awaited.
#[derive(Clone)]
#[must_use = "a request is sent when it is awaited"]
pub struct TestRequest {
    calls: Arc<Calls>,
    method: Method,
    target: String,
    header: Vec<(HeaderName, HeaderValue)>,
    body: Vec<u8>,
    user_id: Option<String>,
    access_key_type: Option<AccessKeyType>,
}

/// What a gateway takes out of a worker's response, because it frames its own.
const OF_THE_CONNECTION: [&str; 7] =
    ["connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

impl TestClient {
    pub(crate) fn new(calls: Calls) -> Self {
        Self(Arc::new(calls))
    }

    /// A request for `target`: a path, and perhaps a query.
    pub fn request(&self, method: Method, target: impl Into<String>) -> TestRequest {
        TestRequest {
            calls: Arc::clone(&self.0),
            method,
            target: target.into(),
            header: Vec::new(),
            body: Vec::new(),
            user_id: None,
            access_key_type: None,
        }
    }

    /// A GET request.
    pub fn get(&self, target: impl Into<String>) -> TestRequest {
        self.request(Method::GET, target)
    }

    /// A POST request.
    pub fn post(&self, target: impl Into<String>) -> TestRequest {
        self.request(Method::POST, target)
    }

    /// A PUT request.
    pub fn put(&self, target: impl Into<String>) -> TestRequest {
        self.request(Method::PUT, target)
    }

    /// A DELETE request.
    pub fn delete(&self, target: impl Into<String>) -> TestRequest {
        self.request(Method::DELETE, target)
    }
}

impl std::fmt::Debug for TestClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestClient").finish_non_exhaustive()
    }
}

impl TestRequest {
    /// Adds a header.
    ///
    /// # Panics
    /// When the name or the value cannot be a header's.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a header name");
        self.header.push((name, HeaderValue::from_bytes(value.as_ref()).expect("a header value")));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets a JSON body, and its `Content-Type`.
    ///
    /// # Panics
    /// When `value` cannot be JSON.
    pub fn json(self, value: &impl Serialize) -> Self {
        self.header("content-type", wire::JSON).body(serde_json::to_vec(value).expect("a JSON value"))
    }

    /// Sets a form as the body, and its `Content-Type`.
    pub fn form(self, fields: &[(&str, &str)]) -> Self {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.header("content-type", "application/x-www-form-urlencoded").body(body)
    }

    /// Comes from this authenticated user, with a client's API key.
    pub fn user(mut self, user_id: impl Into<String>) -> Self {
        self.user_id = Some(user_id.into());
        self.access_key_type.get_or_insert(AccessKeyType::Client);
        self
    }

    /// Comes with an API key of this kind.
    pub fn key(mut self, key: AccessKeyType) -> Self {
        self.access_key_type = Some(key);
        self
    }

    async fn send(mut self) -> Response<Bytes> {
        let (raw_path, query_string) = match self.target.split_once('?') {
            Some((path, query)) => (path.to_owned(), query.to_owned()),
            None => (self.target.clone(), String::new()),
        };
        let path = match canonical(&raw_path) {
            Ok(path) => path,
            Err(reason) => return failure(ErrorCode::BAD_REQUEST, reason),
        };
        if path.contains("//") {
            let mut location = raw_path;
            while location.contains("//") {
                location = location.replace("//", "/");
            }
            return self.redirect(&location, &query_string);
        }
        let matching: Vec<_> = self
            .calls
            .routes
            .specs()
            .filter_map(|spec| Some((Pattern::new(&spec.name).matches(&path)?, spec)))
            .collect();
        let Some(best) = matching.iter().map(|((rank, _), _)| rank).min() else {
            return self.unmatched(&path, &raw_path, &query_string);
        };
        let route = matching.iter().find(|((rank, _), spec)| {
            rank == best && spec.methods.iter().any(|method| method == self.method.as_str())
        });
        let Some(((_, params), spec)) = route else {
            let message = format!("no handler for {} at this path", self.method);
            return failure(ErrorCode::UNDEFINED_OPERATION, message);
        };
        if (spec.key_required || spec.user_required) && self.access_key_type.is_none() {
            return failure(ErrorCode::NOT_AUTHENTICATED, "an API key is required");
        }
        if spec.user_required && self.user_id.is_none() {
            return failure(ErrorCode::NOT_AUTHENTICATED, "an access token is required");
        }
        let envelope = Envelope {
            kind: Kind::Handler,
            name: spec.name.clone(),
            context: Context {
                request_id: "test".to_owned(),
                user_id: self.user_id.take(),
                access_key_type: self.access_key_type,
                timeout_ms: Some(spec.timeout_ms.unwrap_or(60_000)),
                delivery: delivery(spec),
            },
            param: Param {
                method: self.method.to_string(),
                path,
                raw_path,
                query_string,
                params: params.iter().cloned().collect(),
                header: self.headers(),
                body: self.body.into(),
                remote_addr: "127.0.0.1".to_owned(),
            },
        };
        let envelope = serde_json::to_vec(&envelope).expect("an envelope is JSON");
        let answer = self.calls.answer(envelope.into(), None, ()).await;
        match serde_json::from_slice(&answer.body) {
            Ok(Reply::Result(result)) => respond(result),
            Ok(Reply::Error(error)) => told(error),
            Err(error) => {
                failure(ErrorCode::UNEXPECTED_ERROR, format!("the worker's reply cannot be used: {error}"))
            }
        }
    }

    /// The envelope's headers, with those that a gateway always has.
    fn headers(&self) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in &self.header {
            headers.entry(canonical_case(name.as_str())).or_default().push(latin1(value.as_bytes()));
        }
        headers.entry("Host".to_owned()).or_insert_with(|| vec!["localhost".to_owned()]);
        if !self.body.is_empty() {
            headers.insert("Content-Length".to_owned(), vec![self.body.len().to_string()]);
        }
        headers
    }

    /// `/foo` goes to `/foo/` where that is known; else the seed's answer.
    fn unmatched(&self, path: &str, raw_path: &str, query_string: &str) -> Response<Bytes> {
        let below = format!("{path}/");
        if self
            .calls
            .routes
            .specs()
            .any(|spec| Pattern::new(&spec.name).matches(&below).is_some() && spec.name.ends_with(['/', ':']))
        {
            return self.redirect(&format!("{raw_path}/"), query_string);
        }
        response(StatusCode::OK, wire::JSON, r#"{"result":{"status":"OK"}}"#)
    }

    fn redirect(&self, path: &str, query_string: &str) -> Response<Bytes> {
        let safe = self.method == Method::GET || self.method == Method::HEAD;
        let status = if safe { StatusCode::MOVED_PERMANENTLY } else { StatusCode::PERMANENT_REDIRECT };
        let location =
            if query_string.is_empty() { path.to_owned() } else { format!("{path}?{query_string}") };
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = status;
        match HeaderValue::try_from(location) {
            Ok(location) => {
                response.headers_mut().insert(header::LOCATION, location);
                response
            }
            Err(_) => failure(ErrorCode::BAD_REQUEST, "the path cannot be redirected"),
        }
    }
}

/// What a gateway says of the first attempt; the signature, which the test would have to make, counts as good.
fn delivery(spec: &HandlerSpec) -> Option<Delivery> {
    spec.delivery.as_ref().filter(|delivery| delivery.mode != DeliveryMode::Sync)?;
    let verification = spec.verify.as_ref().map(|verify| Verification {
        scheme: verify.scheme.as_str().to_owned(),
        secret: verify.secret.clone(),
        timestamp: None,
    });
    Some(Delivery {
        id: "test".to_owned(),
        attempt: 1,
        received_at: "2000-01-01T00:00:00.000Z".to_owned(),
        replay_of: None,
        verification,
    })
}

impl IntoFuture for TestRequest {
    type Output = Response<Bytes>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

impl std::fmt::Debug for TestRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestRequest")
            .field("method", &self.method)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

/// The one form of a path that is matched. Contract section 3.
fn canonical(raw_path: &str) -> Result<String, &'static str> {
    if !raw_path.starts_with('/') {
        return Err("the path must begin with a slash");
    }
    let mut rest = raw_path.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        let Some(escape) = rest.get(at + 1..at + 3) else { return Err("the path has a bad escape") };
        match escape.to_ascii_lowercase().as_slice() {
            b"2f" | b"5c" | b"00" => return Err("the path has an encoded separator or NUL"),
            digits if digits.iter().all(u8::is_ascii_hexdigit) => {}
            _ => return Err("the path has a bad escape"),
        }
        rest = &rest[at + 3..];
    }
    let path = percent_decode_str(raw_path).decode_utf8().map_err(|_| "the path is not UTF-8")?.into_owned();
    if path.contains(['\\', '\0']) || path.split('/').any(|segment| segment == "." || segment == "..") {
        return Err("the path has a dot segment, a backslash or NUL");
    }
    Ok(path)
}

fn respond(result: HandlerResult) -> Response<Bytes> {
    match result {
        HandlerResult::Text { value } => response(StatusCode::OK, wire::TEXT, value),
        HandlerResult::Json { value } => response(StatusCode::OK, wire::JSON, value.get().to_owned()),
        HandlerResult::Response { status, header, body } => {
            let mut response = Response::builder().status(status);
            let nominated: Vec<String> = header
                .iter()
                .filter(|(name, _)| name.eq_ignore_ascii_case("connection"))
                .flat_map(|(_, values)| values.iter().flat_map(|value| value.split(',')))
                .map(|name| name.trim().to_ascii_lowercase())
                .collect();
            let kept = header.iter().filter(|(name, _)| {
                let name = name.to_ascii_lowercase();
                !nominated.contains(&name) && !OF_THE_CONNECTION.contains(&name.as_str())
            });
            for (name, value) in kept.flat_map(|(name, list)| list.iter().map(move |v| (name, v))) {
                let bytes: Option<Vec<u8>> = value.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
                response = response.header(name, bytes.unwrap_or_default());
            }
            response.body(Bytes::from(body.0)).unwrap_or_else(|error| {
                failure(ErrorCode::UNEXPECTED_ERROR, format!("the worker's reply cannot be used: {error}"))
            })
        }
    }
}

fn failure(code: ErrorCode, message: impl Into<String>) -> Response<Bytes> {
    told(ToldError { code, name: None, message: message.into(), info: None })
}

fn told(mut error: ToldError) -> Response<Bytes> {
    error.name = error.name.or_else(|| Some(error.code.name().unwrap_or("HandlerError").to_owned()));
    let mut body = serde_json::json!({ "error": error });
    body["error"]["request_id"] = "test".into();
    let status = StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response(status, wire::JSON, body.to_string())
}

fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
