use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Base64Body, Delivery};

/// Header names in canonical case (`X-Hub-Signature-256`), each with its values in the order in which they
/// came. A value is Latin-1: each character stands for the byte of the same number.
pub type Headers = BTreeMap<String, Vec<String>>;

/// One request as the worker gets it: the JSON body of a `POST` to the worker's URL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// What the worker is asked to do.
    pub kind: Kind,
    /// The handler's name, exactly as this worker registered it.
    pub name: String,
    /// Who calls, and how long they wait.
    pub context: Context,
    /// The request itself.
    pub param: Param,
}

/// What an [`Envelope`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Run a handler.
    Handler,
}

/// What the gateway knows about a call beside the request itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Context {
    /// The same id that the client sees as `X-Request-Id`.
    pub request_id: String,
    /// The authenticated user; absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// The kind of API key that was presented; absent when there was no known one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_key_type: Option<AccessKeyType>,
    /// Milliseconds that the gateway will still wait for the reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Present for a call that comes from the gateway's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
}

/// The kind of an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessKeyType {
    /// A key that ships with apps.
    Client,
    /// A key that stays on servers and may act for any user.
    Master,
}

impl AccessKeyType {
    /// The word on the wire: `client` or `master`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Master => "master",
        }
    }
}

/// The client's request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Param {
    /// The method, as it came.
    pub method: String,
    /// The canonical path, percent-decoded; the form that was matched.
    pub path: String,
    /// The path as it came.
    #[serde(default)]
    pub raw_path: String,
    /// What follows the `?`, still encoded, without it; empty when there is none.
    #[serde(default)]
    pub query_string: String,
    /// What the `{param}` segments of the handler's name stood for, percent-decoded.
    #[serde(default)]
    pub params: BTreeMap<String, String>,
    /// The client's end-to-end headers. `Host` is always there, and `Content-Length` whenever there is a body.
    #[serde(default)]
    pub header: Headers,
    /// The body, byte for byte.
    #[serde(default)]
    pub body: Base64Body,
    /// The client's address, without a port.
    #[serde(default)]
    pub remote_addr: String,
}
