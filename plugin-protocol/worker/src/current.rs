use crate::Request;

tokio::task_local! {
    static CURRENT: Request;
}

/// The request whose handler is running, wherever in its call tree this is asked.
///
/// A task that a handler spawns is not in that tree; see [`with_current_request`].
#[must_use]
pub fn current_request() -> Option<Request> {
    CURRENT.try_with(Clone::clone).ok()
}

/// The authenticated user of the request whose handler is running; [`None`] when there is no user, and outside
/// a handler.
#[must_use]
pub fn current_user_id() -> Option<String> {
    CURRENT.try_with(|request| request.user_id().map(str::to_owned)).ok().flatten()
}

/// Takes the current request along into a spawned task: `tokio::spawn(with_current_request(async { … }))`.
pub fn with_current_request<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let request = current_request();
    async move {
        match request {
            Some(request) => scope(request, future).await,
            None => future.await,
        }
    }
}

pub(crate) fn scope<F: Future>(request: Request, future: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(request, future)
}
