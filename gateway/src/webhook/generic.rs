//! An HMAC in a header, as the registration describes it.

use gearway_protocol::{HmacAlgorithm, SignatureEncoding, VerifySpec};
use http::HeaderName;
use smallvec::SmallVec;

use super::headers::{malformed, single};
use super::scheme::{InvalidSpec, recent};
use super::{Rejected, WebhookRequest, mac};

const BODY: &str = "{body}";
const TIMESTAMP: &str = "{timestamp}";
/// No time in seconds is this large before the year 5138, and no time in milliseconds this small since 1973.
const FIRST_MILLISECONDS: i64 = 100_000_000_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Generic {
    pub(super) header: HeaderName,
    pub(super) prefix: String,
    pub(super) encoding: SignatureEncoding,
    pub(super) algorithm: HmacAlgorithm,
    pub(super) timestamp: Option<Timestamp>,
    content: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Timestamp {
    pub(super) header: HeaderName,
    tolerance: i64,
}

/// A piece of what is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Body,
    Timestamp,
}

impl Generic {
    pub(super) fn parse(spec: &VerifySpec, tolerance: i64) -> Result<Self, InvalidSpec> {
        let header = match &spec.header {
            Some(name) => header_name("header", name)?,
            None => return Err(InvalidSpec::new("header", "is missing; name the header with the signature")),
        };
        let timestamp = match &spec.timestamp_header {
            Some(name) => Some(Timestamp { header: header_name("timestamp_header", name)?, tolerance }),
            None if spec.tolerance_s.is_some() => {
                return Err(InvalidSpec::new(
                    "tolerance_s",
                    "needs timestamp_header, the header with the time",
                ));
            }
            None => None,
        };
        let content = template(spec.content.as_deref().unwrap_or(BODY))?;
        let signed = content.contains(&Piece::Timestamp);
        if timestamp.is_some() && !signed {
            let message = "must contain {timestamp}, or anybody could change the time in timestamp_header";
            return Err(InvalidSpec::new("content", message));
        }
        if timestamp.is_none() && signed {
            let message = "is missing; content has a {timestamp}, which comes from that header";
            return Err(InvalidSpec::new("timestamp_header", message));
        }
        Ok(Self {
            header,
            prefix: spec.prefix.clone().unwrap_or_default(),
            encoding: spec.encoding.unwrap_or(SignatureEncoding::Hex),
            algorithm: spec.algorithm.unwrap_or(HmacAlgorithm::Sha256),
            timestamp,
            content,
        })
    }

    /// Refuses what only this scheme has.
    pub(super) fn refuse_fields(spec: &VerifySpec) -> Result<(), InvalidSpec> {
        let given = [
            ("header", spec.header.is_some()),
            ("prefix", spec.prefix.is_some()),
            ("encoding", spec.encoding.is_some()),
            ("algorithm", spec.algorithm.is_some()),
            ("timestamp_header", spec.timestamp_header.is_some()),
            ("content", spec.content.is_some()),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((field, _)) => {
                let scheme = spec.scheme.as_str();
                Err(InvalidSpec::new(
                    field,
                    format!("is for the scheme hmac only; {scheme} has one of its own"),
                ))
            }
            None => Ok(()),
        }
    }

    /// Returns the signed time, if one is signed.
    pub(super) fn check<'k>(
        &self,
        request: &WebhookRequest<'_>,
        keys: impl Iterator<Item = &'k [u8]>,
        now: i64,
    ) -> Result<Option<i64>, Rejected> {
        let signature = single(request.headers, &self.header)?
            .strip_prefix(self.prefix.as_str())
            .ok_or_else(|| malformed(&self.header, "the prefix and a signature"))?;
        let mut stamp = "";
        let mut timestamp = None;
        if let Some(Timestamp { header, tolerance }) = &self.timestamp {
            stamp = single(request.headers, header)?;
            let seconds = match super::headers::seconds(stamp, header)? {
                milliseconds if milliseconds >= FIRST_MILLISECONDS => milliseconds / 1000,
                seconds => seconds,
            };
            recent(seconds, *tolerance, now)?;
            timestamp = Some(seconds);
        }
        let parts = self.parts(stamp, request.body);
        mac::matches(keys, self.algorithm, self.encoding, &parts, &[signature])?;
        Ok(timestamp)
    }

    /// What is signed, in pieces.
    pub(super) fn parts<'p>(&'p self, stamp: &'p str, body: &'p [u8]) -> SmallVec<[&'p [u8]; 5]> {
        let part = |piece: &'p Piece| match piece {
            Piece::Text(text) => text.as_bytes(),
            Piece::Body => body,
            Piece::Timestamp => stamp.as_bytes(),
        };
        self.content.iter().map(part).collect()
    }
}

fn header_name(field: &'static str, name: &str) -> Result<HeaderName, InvalidSpec> {
    name.parse().map_err(|_| InvalidSpec::new(field, format!("{name:?} is not a header's name")))
}

fn template(text: &str) -> Result<Vec<Piece>, InvalidSpec> {
    let wrong = |message: &str| Err(InvalidSpec::new("content", message));
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(start);
        if !before.is_empty() {
            pieces.push(Piece::Text(before.to_owned()));
        }
        let (piece, length) = if from.starts_with(BODY) {
            (Piece::Body, BODY.len())
        } else if from.starts_with(TIMESTAMP) {
            (Piece::Timestamp, TIMESTAMP.len())
        } else {
            return wrong("has a brace that belongs neither to {body} nor to {timestamp}");
        };
        if pieces.contains(&piece) {
            return wrong("has the same placeholder twice");
        }
        pieces.push(piece);
        rest = &from[length..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    if !pieces.contains(&Piece::Body) {
        return wrong("must contain {body}, or the body would not be signed");
    }
    Ok(pieces)
}
