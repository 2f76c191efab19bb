//! What the service manager is told, where there is one. See sd_notify(3).

use sd_notify::NotifyState;
use tracing::warn;

pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// A gateway that took over is the service's main process from now on. The one before says so too, because this one may not be
/// listened to yet.
pub(super) fn took_over() {
    tell(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready]);
}

pub(super) fn handed_over(successor: u32) {
    tell(&[NotifyState::MainPid(successor)]);
}

/// `Type=notify-reload` waits for the answer, [`ready`], and knows it by the time.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "the service manager is not told of the reload"),
    }
}

pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "cannot talk to the service manager");
    }
}
