use serde::{Deserialize, Serialize, de};
use serde_json::value::RawValue;

use crate::{Base64Body, ErrorCode, Headers};

/// What a worker answers to an [`Envelope`](crate::Envelope), with HTTP status 200.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "ReplyFields")]
pub enum Reply {
    /// The handler returned.
    #[serde(rename = "result")]
    Result(HandlerResult),
    /// The handler raised an error.
    #[serde(rename = "error")]
    Error(HandlerError),
}

/// What a handler returned.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum HandlerResult {
    /// 200 with `Content-Type: text/plain; charset=utf-8`.
    Text {
        /// The response's body.
        value: String,
    },
    /// 200 with `Content-Type: application/json`.
    Json {
        /// The response's body. The gateway passes it on as it is written here, so big numbers survive.
        value: Box<RawValue>,
    },
    /// The whole response.
    Response {
        /// 200 to 599.
        status: u16,
        /// The response's headers; those about framing and the connection are the gateway's own.
        #[serde(default)]
        header: Headers,
        /// The response's body.
        #[serde(default)]
        body: Base64Body,
    },
}

/// Why a handler failed, in words that the client may read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HandlerError {
    /// Decides the HTTP status.
    pub code: ErrorCode,
    /// The code's name; the gateway fills in that of a named code when it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// For people.
    #[serde(default)]
    pub message: String,
    /// For programs: an object, or absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Deserialize)]
struct ReplyFields {
    result: Option<ResultFields>,
    error: Option<HandlerError>,
}

#[derive(Deserialize)]
struct ResultFields {
    r#type: String,
    #[serde(default, deserialize_with = "present")]
    value: Option<Box<RawValue>>,
    status: Option<u16>,
    #[serde(default)]
    header: Headers,
    #[serde(default)]
    body: Base64Body,
}

/// Tells `"value": null`, which is a value, from no value.
fn present<'de, D: de::Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::deserialize(deserializer).map(Some)
}

impl TryFrom<ReplyFields> for Reply {
    type Error = String;

    fn try_from(fields: ReplyFields) -> Result<Self, String> {
        match (fields.result, fields.error) {
            (Some(result), None) => HandlerResult::try_from(result).map(Self::Result),
            (None, Some(error)) => Ok(Self::Error(error)),
            (Some(_), Some(_)) => Err("both result and error".into()),
            (None, None) => Err("neither result nor error".into()),
        }
    }
}

impl TryFrom<ResultFields> for HandlerResult {
    type Error = String;

    fn try_from(fields: ResultFields) -> Result<Self, String> {
        let value = || fields.value.ok_or("result.value is missing");
        match fields.r#type.as_str() {
            "text" => serde_json::from_str(value()?.get())
                .map(|value| Self::Text { value })
                .map_err(|error| format!("result.value: {error}")),
            "json" => Ok(Self::Json { value: value()? }),
            "response" => Ok(Self::Response {
                status: fields.status.ok_or("result.status is missing")?,
                header: fields.header,
                body: fields.body,
            }),
            other => Err(format!("result.type {other:?} is none of text, json, response")),
        }
    }
}

impl<'de> Deserialize<'de> for HandlerResult {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ResultFields::deserialize(deserializer)?.try_into().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Reply, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn json_null_is_a_value() {
        let reply = read(r#"{"result":{"type":"json","value":null}}"#);
        assert!(matches!(reply, Ok(Reply::Result(HandlerResult::Json { value })) if value.get() == "null"));
    }

    #[test]
    fn big_numbers_are_written_as_they_were_read() {
        let text = r#"{"result":{"type":"json","value":{"n":12345678901234567890123.10}}}"#;
        assert_eq!(serde_json::to_string(&read(text).unwrap()).unwrap(), text);
    }

    #[test]
    fn unknown_fields_are_ignored() {
        assert!(read(r#"{"new":1,"result":{"type":"text","value":"a","new":2}}"#).is_ok());
    }

    #[test]
    fn what_is_not_a_reply_says_why() {
        for (text, reason) in [
            ("{}", "neither"),
            (r#"{"result":{"type":"text","value":"a"},"error":{"code":1}}"#, "both"),
            (r#"{"result":{"type":"text"}}"#, "result.value is missing"),
            (r#"{"result":{"type":"text","value":3}}"#, "result.value"),
            (r#"{"result":{"type":"html","value":"a"}}"#, "\"html\""),
            (r#"{"result":{"type":"response"}}"#, "result.status is missing"),
            (r#"{"result":{"type":"response","status":200,"body":"%"}}"#, "base64"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
