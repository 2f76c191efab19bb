//! Waiting for a condition, up to a deadline that only a broken program reaches.

use std::future::Future;
use std::time::Duration;

/// How long anything may take before a test gives up. Long, because it decides nothing but how soon a failing
/// test fails on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(10);

/// Asks `probe` until it answers.
///
/// # Panics
/// After [`DEADLINE`], naming `what`.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let asking = async {
        loop {
            if let Some(answer) = probe().await {
                return answer;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    within(what, asking).await
}

/// The output of `future`.
///
/// # Panics
/// After [`DEADLINE`], naming `what`.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("not within {DEADLINE:?}: {what}"),
    }
}
