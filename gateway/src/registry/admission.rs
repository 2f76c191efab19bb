//! Registrations, admitted together.
//!
//! While one is being kept, the next ones wait, and then they share a commit and a table: a thousand workers that start at
//! once cost a few disk syncs and a few tables, and not a thousand. Each is judged as if it came after those before it in line.

use std::collections::HashMap;
use std::sync::Arc;

use http::Method;
use tokio::sync::oneshot;
use tracing::info;

use super::book::{Book, forget, worker_record};
use super::{Conflict, Refusal, Registry, Replica};
use crate::route::Shape;
use crate::store::{Change, StoreError};

/// So many share a commit at most: none waits longer for its answer than that takes.
const TOGETHER: usize = 1024;

/// A registration in line.
#[derive(Debug)]
pub(super) struct Waiting {
    replica: Arc<Replica>,
    answer: oneshot::Sender<Result<(), Refusal>>,
}

/// What those before in line have claimed, and under which names.
type Claimed = HashMap<(Shape, Method), Arc<str>>;

impl Registry {
    pub(super) async fn admit_replica(&self, replica: Replica) -> Result<Arc<Replica>, Refusal> {
        let replica = Arc::new(replica);
        let (answer, answered) = oneshot::channel();
        self.inner.waiting.lock().push(Waiting { replica: Arc::clone(&replica), answer });
        let registry = self.clone();
        // A task of its own: a caller that goes away must not leave a change half made. There is one for each registration, so
        // that none is left in line; most find that theirs was taken along.
        tokio::spawn(async move {
            let mut book = registry.inner.book.lock().await;
            let line: Vec<_> = {
                let mut waiting = registry.inner.waiting.lock();
                let together = waiting.len().min(TOGETHER);
                waiting.drain(..together).collect()
            };
            if !line.is_empty() {
                registry.admit_line(&mut book, line).await;
            }
        });
        answered.await.unwrap_or(Err(Refusal::Store(StoreError::ShutDown)))?;
        Ok(replica)
    }

    async fn admit_line(&self, book: &mut Book, line: Vec<Waiting>) {
        let (replicas, answers): (Vec<_>, Vec<_>) =
            line.into_iter().map(|waiting| (waiting.replica, waiting.answer)).unzip();
        let outcomes = match self.admit_together(book, &replicas).await {
            Ok(outcomes) => outcomes,
            Err(error) if replicas.len() == 1 => vec![Err(error.into())],
            Err(_) => {
                // The store may have room for some of them. Who was refused because of another is judged again too.
                let mut outcomes = Vec::with_capacity(replicas.len());
                for replica in replicas.chunks(1) {
                    match self.admit_together(book, replica).await {
                        Ok(alone) => outcomes.extend(alone),
                        Err(error) => outcomes.push(Err(error.into())),
                    }
                }
                outcomes
            }
        };
        for (answer, outcome) in answers.into_iter().zip(outcomes) {
            // Whoever has gone away finds its registration when it asks again.
            drop(answer.send(outcome));
        }
    }

    /// Judges, keeps and shows them. After an error nothing has changed.
    async fn admit_together(
        &self,
        book: &mut Book,
        line: &[Arc<Replica>],
    ) -> Result<Vec<Result<(), Refusal>>, StoreError> {
        let before = (book.replicas.clone(), book.draining.clone());
        let mut outlived = Vec::new();
        let mut claimed = Claimed::new();
        let mut known = book.known();
        let mut changes = Vec::new();
        let mut admitted = Vec::new();
        let mut outcomes = Vec::with_capacity(line.len());
        for replica in line {
            let refused = self
                .refuse_conflicts(replica, &claimed)
                .and_then(|()| book.find_room(known, replica).map_err(Refusal::NoRoom));
            if let Err(refusal) = refused {
                outcomes.push(Err(refusal));
                continue;
            }
            claimed.extend(
                replica
                    .routes()
                    .map(|(shape, method)| ((shape, method.clone()), Arc::clone(&replica.group.name))),
            );
            let replaced = book.replace(replica);
            changes.extend(replaced.iter().map(|old| Change::RemoveWorker { worker_id: old.id.to_string() }));
            let relisted = book.take_remembered(replica.name());
            changes.extend(relisted.iter().map(|((shape, method), _)| forget(shape, method)));
            known += replica.registration.size();
            known -= replaced.iter().map(|old| old.registration.size()).sum::<usize>();
            known -= relisted.iter().map(|(_, route)| route.size()).sum::<usize>();
            outlived.extend(relisted);
            if replica.lease.is_some() {
                changes.push(Change::PutWorker(worker_record(replica)));
            }
            admitted.push((replica, replaced));
            outcomes.push(Ok(()));
        }
        if admitted.is_empty() {
            return Ok(outcomes);
        }
        if let Err(error) = self.inner.store.commit(changes).await {
            (book.replicas, book.draining) = before;
            book.remembered.extend(outlived);
            return Err(error);
        }
        for (replica, _) in &admitted {
            self.join(replica);
        }
        self.publish(book);
        for (replica, replaced) in &admitted {
            for old in replaced {
                self.dismiss(old);
            }
            replica.group.rotation_changed();
            let registration = &replica.registration;
            info!(
                worker = replica.name(),
                worker_id = %replica.id,
                url = registration.url(),
                version = registration.version(),
                handlers = replica.handlers.len(),
                replaces = replaced.len(),
                "worker registered"
            );
        }
        Ok(outcomes)
    }

    fn refuse_conflicts(&self, replica: &Replica, claimed: &Claimed) -> Result<(), Refusal> {
        let table = self.inner.table.load();
        let mut conflicts = Vec::new();
        for handler in &replica.handlers {
            let shape = handler.pattern.shape();
            let endpoint = table.routes.get(&shape);
            for method in handler.methods.iter() {
                let in_table =
                    endpoint.and_then(|endpoint| endpoint.handler(method)).map(|owned| &owned.group.name);
                let owner = in_table.or_else(|| claimed.get(&(shape.clone(), method.clone())));
                if let Some(owner) = owner.filter(|owner| ***owner != *replica.name()) {
                    conflicts.push(Conflict {
                        path: handler.pattern.path().to_owned(),
                        method: method.clone(),
                        owner: owner.to_string(),
                    });
                }
            }
        }
        if conflicts.is_empty() {
            return Ok(());
        }
        Err(Refusal::Conflict { name: replica.name().to_owned(), conflicts })
    }
}

#[cfg(test)]
mod tests;
