//! The issuer's public keys: fetched, kept while the issuer is down, and asked for again within a budget. RFC 7517.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use http::StatusCode;
use http::header::ACCEPT;
use jsonwebtoken::jwk::Jwk;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::runtime::Handle;
use tokio::sync::watch;
use url::Url;

use super::jwt::VerifyingKey;

const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_DOCUMENT: usize = 1024 * 1024;
/// Keys of this age are still used, while newer ones are fetched: those that the issuer has withdrawn then go.
const STALE_AFTER: Duration = Duration::from_secs(10 * 60);
/// Tokens of unknown keys cost the issuer at most so many fetches at once, and later one per interval.
const FETCH_BURST: u32 = 5;
const FETCH_INTERVAL: Duration = Duration::from_secs(10);
/// A failing issuer is complained about once in this time.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// One issuer's keys, shared by all threads. A fetch runs on the runtime of whoever found it necessary, with a client of
/// its own, because a pooled connection would die with the runtime that made it.
pub(super) struct IssuerKeys {
    url: Url,
    stale_after: Duration,
    current: ArcSwapOption<KeySet>,
    fetches: Mutex<Fetches>,
}

struct KeySet {
    keys: Vec<VerifyingKey>,
    /// Counts the fetches.
    version: u64,
    fetched_at: Instant,
}

struct Fetches {
    budget: Budget,
    running: Option<watch::Receiver<Progress>>,
    complained_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Running,
    Fetched,
    Failed,
}

/// Who waits for a fetch: whoever began it, or somebody who came later and may want newer keys than it brings.
enum Fetch {
    Begun(watch::Receiver<Progress>),
    Joined(watch::Receiver<Progress>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Allowance {
    Budgeted,
    Unlimited,
}

impl IssuerKeys {
    /// Begins the first fetch when called inside a runtime; otherwise the first token does.
    pub(super) fn of(url: Url) -> Arc<Self> {
        let keys = Self::with_staleness(url, STALE_AFTER);
        keys.fetch(Allowance::Budgeted);
        keys
    }

    fn with_staleness(url: Url, stale_after: Duration) -> Arc<Self> {
        Arc::new(Self {
            url,
            stale_after,
            current: ArcSwapOption::empty(),
            fetches: Mutex::new(Fetches {
                budget: Budget::full(Instant::now()),
                running: None,
                complained_at: None,
            }),
        })
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// What tells these keys from later ones; absent while there are none, or newer ones should be asked for.
    pub(super) fn version(&self) -> Option<u64> {
        let current = self.current.load();
        let set = current.as_ref()?;
        (set.fetched_at.elapsed() < self.stale_after).then_some(set.version)
    }

    pub(super) async fn refresh(self: &Arc<Self>) {
        if let Some(fetch) = self.fetch(Allowance::Unlimited) {
            fetch.outcome().await;
        }
    }

    /// Whether `verify` accepts one of the keys that a token of this `kid` may have been signed with: those of that id, or
    /// all of them when the token names none. Waits for newer keys when the current ones do not settle it.
    pub(super) async fn any(
        self: &Arc<Self>,
        kid: Option<&str>,
        verify: impl Fn(&VerifyingKey) -> bool,
    ) -> bool {
        // Twice at most: the fetch that was joined may have begun before the issuer published the key.
        for _ in 0..2 {
            let current = self.current.load_full();
            if let Some(set) = &current {
                if set.fetched_at.elapsed() >= self.stale_after {
                    self.fetch(Allowance::Budgeted);
                }
                if let Some(verified) = set.settle(kid, &verify) {
                    return verified;
                }
            }
            match self.fetch(Allowance::Budgeted) {
                None => return false,
                Some(fetch @ Fetch::Begun(_)) => {
                    fetch.outcome().await;
                    break;
                }
                Some(fetch @ Fetch::Joined(_)) => {
                    if fetch.outcome().await == Progress::Failed {
                        return false;
                    }
                }
            }
        }
        self.current.load_full().and_then(|set| set.settle(kid, &verify)).unwrap_or(false)
    }

    /// Joins the fetch that is running or begins one; absent when none may be begun.
    fn fetch(self: &Arc<Self>, allowance: Allowance) -> Option<Fetch> {
        let runtime = Handle::try_current().ok()?;
        let mut fetches = self.fetches.lock();
        if let Some(running) = &fetches.running {
            return Some(Fetch::Joined(running.clone()));
        }
        if allowance == Allowance::Budgeted && !fetches.budget.take(Instant::now()) {
            return None;
        }
        let (progress, watching) = watch::channel(Progress::Running);
        fetches.running = Some(watching.clone());
        // A runtime that shuts down drops the task at once, and that takes the lock too.
        drop(fetches);
        // A task of its own, so that a client that goes away does not take the others' fetch with it.
        runtime.spawn(RunningFetch { keys: Arc::clone(self), progress }.run());
        Some(Fetch::Begun(watching))
    }

    fn complain(&self, error: &FetchError) {
        let now = Instant::now();
        let mut fetches = self.fetches.lock();
        let recently =
            fetches.complained_at.is_some_and(|at| now.saturating_duration_since(at) < COMPLAINT_INTERVAL);
        if recently {
            return;
        }
        fetches.complained_at = Some(now);
        drop(fetches);
        tracing::warn!(
            host = self.url.host_str(),
            path = self.url.path(),
            keys_at_hand = self.current.load().is_some(),
            %error,
            "cannot fetch auth.jwt.jwks_url"
        );
    }
}

impl KeySet {
    /// Absent when newer keys might say otherwise.
    fn settle(&self, kid: Option<&str>, verify: impl Fn(&VerifyingKey) -> bool) -> Option<bool> {
        match kid {
            None => self.keys.iter().any(verify).then_some(true),
            Some(_) => {
                let mut named = self.keys.iter().filter(|key| key.kid.as_deref() == kid).peekable();
                named.peek()?;
                Some(named.any(verify))
            }
        }
    }
}

impl Fetch {
    async fn outcome(self) -> Progress {
        let (Self::Begun(mut watching) | Self::Joined(mut watching)) = self;
        let ended = watching.wait_for(|progress| *progress != Progress::Running).await;
        // The sender goes without a word only when its runtime shut down.
        ended.map_or(Progress::Failed, |progress| *progress)
    }
}

/// Makes room for the next fetch however this one ends, even if its runtime shuts down first.
struct RunningFetch {
    keys: Arc<IssuerKeys>,
    progress: watch::Sender<Progress>,
}

impl RunningFetch {
    async fn run(self) {
        let progress = match download(&self.keys.url).await {
            Ok(keys) => {
                // Fetches come one after the other, so that no two have the same version.
                let version = self.keys.current.load().as_ref().map_or(1, |set| set.version + 1);
                let set = KeySet { keys, version, fetched_at: Instant::now() };
                self.keys.current.store(Some(Arc::new(set)));
                self.keys.fetches.lock().complained_at = None;
                Progress::Fetched
            }
            Err(error) => {
                self.keys.complain(&error);
                Progress::Failed
            }
        };
        // Before the waiting ones wake, so that none of them joins what has ended.
        self.keys.fetches.lock().running = None;
        self.progress.send_replace(progress);
    }
}

impl Drop for RunningFetch {
    fn drop(&mut self) {
        if *self.progress.borrow() == Progress::Running {
            self.keys.fetches.lock().running = None;
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{0}")]
    Http(reqwest::Error),
    #[error("the answer is {0}, not 200")]
    Status(StatusCode),
    #[error("the answer is larger than {MAX_DOCUMENT} bytes")]
    TooLarge,
    #[error("the answer is no JSON Web Key Set: {0}")]
    NotKeys(serde_json::Error),
}

impl From<reqwest::Error> for FetchError {
    /// The URL may hold credentials.
    fn from(error: reqwest::Error) -> Self {
        Self::Http(error.without_url())
    }
}

async fn download(url: &Url) -> Result<Vec<VerifyingKey>, FetchError> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(FETCH_TIMEOUT)
        .build()?;
    let mut response = client.get(url.clone()).header(ACCEPT, "application/json").send().await?;
    if response.status() != StatusCode::OK {
        return Err(FetchError::Status(response.status()));
    }
    let mut document = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if document.len() + chunk.len() > MAX_DOCUMENT {
            return Err(FetchError::TooLarge);
        }
        document.extend_from_slice(&chunk);
    }
    read_keys(&document).map_err(FetchError::NotKeys)
}

/// RFC 7517 section 5: keys that cannot be used are passed over, so that one of them does not take the others with it.
fn read_keys(document: &[u8]) -> Result<Vec<VerifyingKey>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Document<'a> {
        #[serde(borrow)]
        keys: Vec<&'a RawValue>,
    }

    let document: Document<'_> = serde_json::from_slice(document)?;
    let keys = document.keys.iter().filter_map(|key| serde_json::from_str::<Jwk>(key.get()).ok());
    Ok(keys.filter_map(|key| VerifyingKey::from_jwk(&key)).collect())
}

impl fmt::Debug for IssuerKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuerKeys").field("host", &self.url.host_str()).finish_non_exhaustive()
    }
}

/// A token bucket over fetches.
struct Budget {
    left: u32,
    refilled_at: Instant,
}

impl Budget {
    fn full(now: Instant) -> Self {
        Self { left: FETCH_BURST, refilled_at: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        while self.left < FETCH_BURST && now.saturating_duration_since(self.refilled_at) >= FETCH_INTERVAL {
            self.left += 1;
            self.refilled_at += FETCH_INTERVAL;
        }
        if self.left == FETCH_BURST {
            self.refilled_at = now;
        }
        let granted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        granted
    }
}

#[cfg(test)]
mod tests;
