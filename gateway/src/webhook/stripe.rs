//! `Stripe-Signature: t=…,v1=…[,v1=…]`.

use gearway_protocol::{HmacAlgorithm, SignatureEncoding};
use http::HeaderName;
use smallvec::SmallVec;

use super::headers::{MAX_SIGNATURES, malformed, seconds, single};
use super::{Rejected, WebhookRequest, mac};

pub(super) const STRIPE_SIGNATURE: HeaderName = HeaderName::from_static("stripe-signature");

/// Returns the signed time. Like Stripe's libraries it refuses times that are long past, and none that are to come: only
/// Stripe could have signed them.
pub(super) fn check<'k>(
    request: &WebhookRequest<'_>,
    keys: impl Iterator<Item = &'k [u8]>,
    tolerance: i64,
    now: i64,
) -> Result<i64, Rejected> {
    let (stamp, signatures) = parse(single(request.headers, &STRIPE_SIGNATURE)?)?;
    let timestamp = seconds(stamp, &STRIPE_SIGNATURE)?;
    if now.saturating_sub(timestamp) > tolerance {
        return Err(Rejected::Stale);
    }
    let parts = [stamp.as_bytes(), b".", request.body];
    mac::matches(keys, HmacAlgorithm::Sha256, SignatureEncoding::Hex, &parts, &signatures)?;
    Ok(timestamp)
}

/// The time and the `v1` signatures; other versions are passed over, as Stripe asks.
fn parse(header: &str) -> Result<(&str, SmallVec<[&str; 2]>), Rejected> {
    let wrong = || malformed(&STRIPE_SIGNATURE, "one t= and up to 16 v1= with commas between");
    let mut stamp = None;
    let mut signatures = SmallVec::new();
    for item in header.split(',') {
        let (key, value) = item.split_once('=').ok_or_else(wrong)?;
        match key {
            "t" if stamp.is_some() => return Err(wrong()),
            "t" => stamp = Some(value),
            "v1" => signatures.push(value),
            _ => {}
        }
    }
    match stamp {
        Some(stamp) if (1..=MAX_SIGNATURES).contains(&signatures.len()) => Ok((stamp, signatures)),
        Some(_) | None => Err(wrong()),
    }
}
