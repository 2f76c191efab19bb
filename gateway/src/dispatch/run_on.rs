use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

/// Work that runs to its end: whoever waits for it drives it, and when nobody does any more, a task of its own.
pub(super) struct RunOn<F: Future<Output: Send> + Send + 'static> {
    work: Option<Pin<Box<F>>>,
    tasks: TaskTracker,
}

impl<F: Future<Output: Send> + Send + 'static> RunOn<F> {
    /// `tasks` is where it runs on.
    pub(super) fn new(work: F, tasks: TaskTracker) -> Self {
        let room = Box::new_uninit();
        Self { work: Some(Box::into_pin(Box::write(room, work))), tasks }
    }
}

impl<F: Future<Output: Send> + Send + 'static> Future for RunOn<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // Taken out meanwhile: work that panics does not run on.
        let Some(mut work) = self.work.take() else { return Poll::Pending };
        let polled = work.as_mut().poll(cx);
        if polled.is_pending() {
            self.work = Some(work);
        }
        polled
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for RunOn<F> {
    fn drop(&mut self) {
        // Outside the runtime nothing can run on: the thread is ending.
        if let (Some(work), Ok(handle)) = (self.work.take(), Handle::try_current()) {
            self.tasks.spawn_on(work, &handle);
        }
    }
}

impl<F: Future<Output: Send> + Send + 'static> fmt::Debug for RunOn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunOn").field("runs", &self.work.is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn work_that_nobody_waits_for_ends_all_the_same() {
        let (ended, gate, tasks) =
            (Arc::new(AtomicU32::new(0)), Arc::new(Semaphore::new(0)), TaskTracker::new());
        let start = || {
            let (ended, gate) = (Arc::clone(&ended), Arc::clone(&gate));
            let work = async move {
                let _open = gate.acquire().await;
                ended.fetch_add(1, Ordering::SeqCst)
            };
            RunOn::new(work, tasks.clone())
        };
        let mut begun = start();
        assert!(futures_util::poll!(&mut begun).is_pending());
        drop(begun);
        drop(start());
        assert_eq!(tasks.len(), 2);
        gate.add_permits(1);
        start().await;
        tasks.close();
        tasks.wait().await;
        assert_eq!(ended.load(Ordering::SeqCst), 3, "what has ended does not run again");
    }
}
