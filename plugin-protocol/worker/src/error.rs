use std::fmt;
use std::io;

/// Why a worker cannot run. Its [`Debug`](fmt::Debug) is its text, so that `fn main() -> Result<(), Error>`
/// tells a person what to do.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An environment variable or a setting has a value that cannot be used.
    #[error("{name}: {reason}")]
    Setting {
        /// The environment variable.
        name: &'static str,
        /// What is wrong with its value.
        reason: String,
    },
    /// There is no registration token.
    #[error("GEARWAY_TOKEN is not set: give it a registration token of the gateway")]
    MissingToken,
    /// Two handlers claim the same path and method, or a name or method cannot be registered.
    #[error("handler {handler:?}: {reason}")]
    Route {
        /// The handler's name.
        handler: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The worker's own address cannot be listened on.
    #[error("GEARWAY_LISTEN: cannot listen on {address}: {source}")]
    Listen {
        /// The address as it was given.
        address: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The gateway refused the worker's first registration; trying again would change nothing.
    #[error("the gateway refused the registration with HTTP {status}: {message}")]
    Refused {
        /// The HTTP status of the gateway's answer.
        status: u16,
        /// The gateway's reason.
        message: String,
    },
    /// The HTTP client or a signal handler could not be set up.
    #[error("cannot start: {0}")]
    Start(Box<dyn std::error::Error + Send + Sync>),
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
