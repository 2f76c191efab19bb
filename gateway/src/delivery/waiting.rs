//! Who waits for the worker's answer to a delivery that somebody else is busy with, or nobody yet.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::record::Id;
use super::{Answer, Caller};

#[derive(Debug, Default)]
pub(super) struct Waiting {
    content: Mutex<Content>,
}

#[derive(Debug, Default)]
struct Content {
    /// Whose request the delivery is.
    callers: HashMap<Id, Caller>,
    /// Who sent the same event.
    copies: HashMap<Id, Vec<oneshot::Sender<Answer>>>,
}

impl Waiting {
    /// Keeps the caller of a delivery whose turn has not come.
    pub(super) fn keep(&self, id: Id, caller: Caller) {
        if !caller.is_closed() {
            self.content.lock().callers.insert(id, caller);
        }
    }

    pub(super) fn take(&self, id: Id) -> Option<Caller> {
        let caller = self.content.lock().callers.remove(&id);
        caller.filter(|caller| !caller.is_closed())
    }

    pub(super) fn has_caller(&self, id: Id) -> bool {
        self.content.lock().callers.get(&id).is_some_and(|caller| !caller.is_closed())
    }

    /// The answer that settles the delivery, once it is on disk.
    pub(super) fn join(&self, id: Id) -> oneshot::Receiver<Answer> {
        let (sender, receiver) = oneshot::channel();
        self.content.lock().copies.entry(id).or_default().push(sender);
        receiver
    }

    pub(super) fn tell(&self, id: Id, answer: &Answer) {
        let copies = self.content.lock().copies.remove(&id);
        for copy in copies.into_iter().flatten() {
            // One that waits no longer has been told otherwise.
            drop(copy.send(answer.clone()));
        }
    }

    /// Forgets those who wait no longer.
    pub(super) fn tidy(&self) {
        let mut content = self.content.lock();
        content.callers.retain(|_, caller| !caller.is_closed());
        content.copies.retain(|_, copies| {
            copies.retain(|copy| !copy.is_closed());
            !copies.is_empty()
        });
    }
}
