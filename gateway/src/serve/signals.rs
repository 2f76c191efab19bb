use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
pub(super) enum Wish {
    End,
    Reload,
    Upgrade,
}

pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// Unhandled, it would end the process on the spot.
    user2: Signal,
    asked_to_end: bool,
}

impl Signals {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user2: signal(SignalKind::user_defined2())?,
            asked_to_end: false,
        })
    }

    pub(super) async fn next(&mut self) -> Wish {
        if std::mem::take(&mut self.asked_to_end) {
            return Wish::End;
        }
        tokio::select! {
            _ = self.terminate.recv() => Wish::End,
            _ = self.interrupt.recv() => Wish::End,
            _ = self.hangup.recv() => Wish::Reload,
            _ = self.user2.recv() => Wish::Upgrade,
        }
    }

    /// Leaves the other wishes for later.
    pub(super) async fn end(&mut self) {
        if !std::mem::take(&mut self.asked_to_end) {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
        }
    }

    /// As [`end`](Self::end), which returns at once after this did, and so does [`next`](Self::next).
    pub(super) async fn asked_to_end(&mut self) {
        self.end().await;
        self.asked_to_end = true;
    }
}
