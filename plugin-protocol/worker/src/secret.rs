use std::time::Duration;

use subtle::ConstantTimeEq;
use tokio::sync::watch;
use tokio::time::timeout;

/// The secret that calls must present, as the latest registration gave it.
pub(crate) struct SecretCell(watch::Sender<Known>);

#[derive(Default)]
struct Known {
    secret: Option<String>,
    /// A registration is under way: the gateway may use its secret before the worker has read it.
    changing: bool,
}

/// How long a call with an unknown secret waits for a registration that is under way.
const CHANGE: Duration = Duration::from_secs(2);

impl SecretCell {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Known::default()))
    }

    pub(crate) fn expect_change(&self) {
        self.0.send_modify(|known| known.changing = true);
    }

    /// Ends what [`expect_change`](Self::expect_change) began; without a secret, the old one holds.
    pub(crate) fn settle(&self, secret: Option<String>) {
        self.0.send_modify(|known| {
            known.changing = false;
            if secret.is_some() {
                known.secret = secret;
            }
        });
    }

    pub(crate) async fn accepts(&self, presented: Option<&[u8]>) -> bool {
        let Some(presented) = presented else { return false };
        let mut known = self.0.subscribe();
        let settled = known.wait_for(|known| known.is(presented) || !known.changing);
        match timeout(CHANGE, settled).await {
            Ok(Ok(known)) => known.is(presented),
            Ok(Err(_)) | Err(_) => false,
        }
    }
}

impl Known {
    fn is(&self, presented: &[u8]) -> bool {
        self.secret.as_ref().is_some_and(|secret| secret.as_bytes().ct_eq(presented).into())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn only_the_latest_secret_is_accepted() {
        let cell = SecretCell::new();
        assert!(!cell.accepts(Some(b"")).await, "there is none yet");
        cell.settle(Some("one".to_owned()));
        assert!(cell.accepts(Some(b"one")).await);
        cell.settle(Some("two".to_owned()));
        assert!(!cell.accepts(Some(b"one")).await);
        assert!(!cell.accepts(None).await);
    }

    #[tokio::test]
    async fn a_call_that_overtakes_its_registration_waits_for_it() {
        let cell = SecretCell::new();
        cell.expect_change();
        let mut call = Box::pin(cell.accepts(Some(b"new")));
        assert_eq!(call.as_mut().now_or_never(), None);
        cell.settle(Some("new".to_owned()));
        assert!(call.await);
        cell.expect_change();
        cell.settle(None);
        assert!(cell.accepts(Some(b"new")).await, "a registration that failed changes nothing");
    }
}
