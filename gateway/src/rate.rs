//! How often clients may call. Contract section 2, `public.rate_limit`.

use std::hash::Hash;
use std::net::IpAddr;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use ipnet::Ipv6Net;

use crate::auth::Permit;
use crate::config::{Rate, RateLimit};
use crate::error::Error;

/// The limits that are on, and who has used how much of them.
#[derive(Debug)]
pub struct RateLimits {
    config: RateLimit,
    per_key: Option<DefaultKeyedRateLimiter<u64>>,
    per_address: Option<DefaultKeyedRateLimiter<IpAddr>>,
}

impl RateLimits {
    #[must_use]
    pub fn new(config: &RateLimit) -> Self {
        Self {
            config: config.clone(),
            per_key: limiter(config.per_key),
            per_address: limiter(config.per_address),
        }
    }

    #[must_use]
    pub fn config(&self) -> &RateLimit {
        &self.config
    }

    /// # Errors
    /// When the address has used up its limit.
    pub fn check_address(&self, address: IpAddr) -> Result<(), Error> {
        match &self.per_address {
            Some(limiter) => check(limiter, &one_client(address), "requests for this address"),
            None => Ok(()),
        }
    }

    /// # Errors
    /// When the API key has used up its limit. Requests without a known key have none.
    pub fn check_key(&self, permit: &Permit) -> Result<(), Error> {
        match self.per_key.as_ref().zip(permit.access_key_fingerprint()) {
            Some((limiter, key)) => check(limiter, &key, "requests for this API key"),
            None => Ok(()),
        }
    }

    /// Forgets who has not called for so long that it makes no difference. To be called every few seconds, so that many
    /// addresses cannot fill the memory.
    pub fn forget_idle(&self) {
        if let Some(limiter) = &self.per_key {
            limiter.retain_recent();
        }
        if let Some(limiter) = &self.per_address {
            limiter.retain_recent();
        }
    }
}

fn limiter<K: Hash + Eq + Clone>(rate: Option<Rate>) -> Option<DefaultKeyedRateLimiter<K>> {
    let Rate { requests, period } = rate?;
    let quota = Quota::with_period(period / requests.get())?.allow_burst(requests);
    Some(RateLimiter::keyed(quota))
}

fn check<K: Hash + Eq + Clone>(
    limiter: &DefaultKeyedRateLimiter<K>,
    who: &K,
    of: &'static str,
) -> Result<(), Error> {
    limiter.check_key(who).map_err(|denied| {
        let wait = denied.wait_time_from(DefaultClock::default().now());
        Error::RateLimited { of, retry_after: Duration::from_secs(wait.as_secs() + 1) }
    })
}

/// A client has a whole /64 of IPv6 addresses to itself, so that is what counts as one.
pub(crate) fn one_client(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Net::new_assert(address, 64).network().into(),
    }
}
