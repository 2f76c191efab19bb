use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use gearway_protocol::{DeliverySpec, HandlerSpec, VerifySpec, default_methods};
use http::Method;

use crate::{FromRequest, IntoReply, Reply, Request};

/// An async function that answers requests: up to eight arguments that are [`FromRequest`], and a return value
/// that is [`IntoReply`].
///
/// What a handler captures is cloned for each call, so share it behind an `Arc` or with
/// [`Worker::state`](crate::Worker::state).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    note = "a handler is an `async fn` or async closure whose arguments are `FromRequest` (`Request`, `Query<T>`, `Json<T>`, …) and whose return value is `IntoReply` (text, `Json<T>`, `Result<_, HandlerError>`, …)",
    note = "its future must be `Send`: hold no `Rc`, `RefCell` borrow or lock guard across an `.await`"
)]
pub trait Handler<Arguments>: Clone + Send + Sync + 'static {
    /// Runs the handler.
    fn call(self, request: Request) -> impl Future<Output = Reply> + Send;
}

/// A handler and the terms on which the gateway lets requests through to it.
///
/// ```
/// use gearway_worker::{CurrentUser, Method, handler};
///
/// let route = handler("me", async |CurrentUser(user): CurrentUser| user)
///     .methods([Method::GET])
///     .user_required();
/// ```
#[derive(Clone)]
#[must_use = "a route serves nothing until it is given to a worker"]
pub struct Route {
    pub(crate) spec: HandlerSpec,
    pub(crate) run: Run,
}

pub(crate) type Run = Arc<dyn Fn(Request) -> Pin<Box<dyn Future<Output = Reply> + Send>> + Send + Sync>;

/// Makes a route: `name` is its path. `:` reads as `/`, a missing first `/` is added, a trailing `/` takes everything
/// below too, and `{param}` stands for one segment. It takes GET, POST and PUT, from anybody, until told otherwise.
pub fn handler<Arguments: 'static, H: Handler<Arguments>>(name: impl Into<String>, handler: H) -> Route {
    let spec = HandlerSpec {
        name: name.into(),
        methods: default_methods(),
        key_required: false,
        user_required: false,
        timeout_ms: None,
        idempotent: false,
        verify: None,
        delivery: None,
    };
    Route { spec, run: Arc::new(move |request| Box::pin(handler.clone().call(request))) }
}

impl Route {
    /// Takes these methods only: any of GET, POST, PUT, DELETE, PATCH, HEAD and OPTIONS. Another handler of the same
    /// name may take others.
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.spec.methods = methods.into_iter().map(|method| method.to_string()).collect();
        self
    }

    /// Lets the gateway refuse webhooks that are not signed as this says; the secret is the gateway's and has a name here.
    ///
    /// ```
    /// use gearway_worker::{VerifyScheme, VerifySpec, handler};
    ///
    /// let route = handler("pay/stripe", async || "ok").verify(VerifySpec::new(VerifyScheme::Stripe, "stripe-live"));
    /// ```
    pub fn verify(mut self, verify: VerifySpec) -> Self {
        self.spec.verify = Some(verify);
        self
    }

    /// Has the gateway keep requests on disk before it acknowledges them, and bring them here until they are taken.
    ///
    /// A reply with a status below 400 takes one. Anything else has it tried again, when a `Retry-After` says or after pauses that
    /// grow, and 410 has it given up. [`Request::delivery`] tells which attempt it is.
    ///
    /// ```
    /// use gearway_worker::{DeliveryMode, DeliverySpec, handler};
    ///
    /// let durable = DeliverySpec { mode: DeliveryMode::Durable, ..DeliverySpec::default() };
    /// let route = handler("pay/stripe", async || "ok").delivery(durable);
    /// ```
    pub fn delivery(mut self, delivery: DeliverySpec) -> Self {
        self.spec.delivery = Some(delivery);
        self
    }

    /// Lets the gateway refuse callers without a known API key.
    pub fn key_required(mut self) -> Self {
        self.spec.key_required = true;
        self
    }

    /// Lets the gateway refuse callers who are not authenticated users.
    pub fn user_required(mut self) -> Self {
        self.spec.user_required = true;
        self
    }

    /// How long the gateway waits for the reply; at most, and by default, its own `limits.request_timeout`.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.spec.timeout_ms = Some(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1));
        self
    }

    /// Says that running the handler twice does no harm, so that the gateway may repeat a call whose outcome it
    /// does not know.
    pub fn idempotent(mut self) -> Self {
        self.spec.idempotent = true;
        self
    }
}

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Route").field(&self.spec).finish()
    }
}

macro_rules! handlers {
    ($(($($argument:ident)*))*) => {
        $(impl<F, Fut, R, $($argument,)*> Handler<($($argument,)*)> for F
        where
            F: FnOnce($($argument),*) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future<Output = R> + Send,
            R: IntoReply,
            $($argument: FromRequest + Send,)*
        {
            #[allow(non_snake_case, unused_variables, reason = "arguments are named after their types, if there are any")]
            async fn call(self, request: Request) -> Reply {
                $(let $argument = match $argument::from_request(&request).await {
                    Ok(argument) => argument,
                    Err(error) => return error.into_reply(),
                };)*
                self($($argument),*).await.into_reply()
            }
        })*
    };
}

handlers! {
    ()
    (A)
    (A B)
    (A B C)
    (A B C D)
    (A B C D E)
    (A B C D E G)
    (A B C D E G H)
    (A B C D E G H I)
}
