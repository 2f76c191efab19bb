//! Everything that is checked, in the order of the report.

/// One sentence of the protocol that a worker keeps or does not.
#[derive(Debug)]
pub(super) struct Check {
    /// Names the check in reports; does not change.
    pub(super) name: &'static str,
    /// The heading in `PROTOCOL.md` under which the rule stands.
    pub(super) section: &'static str,
    /// What holds when it holds.
    pub(super) claim: &'static str,
    /// What to do when it does not.
    pub(super) advice: &'static str,
    /// The conformance handler that it calls.
    pub(super) handler: Option<&'static str>,
    /// Whether `gearway conform` must have started the worker itself, since it ends it.
    pub(super) needs_command: bool,
}

impl Check {
    const fn new(
        name: &'static str,
        section: &'static str,
        claim: &'static str,
        advice: &'static str,
    ) -> Self {
        Self { name, section, claim, advice, handler: None, needs_command: false }
    }

    const fn calls(mut self, handler: &'static str) -> Self {
        self.handler = Some(handler);
        self
    }

    const fn ends_the_worker(mut self) -> Self {
        self.needs_command = true;
        self
    }
}

const LIFE: &str = "A life in short";
const REGISTRATION: &str = "Registration";
const LEASE: &str = "Lease";
const LEAVING: &str = "Leaving";
const ENVELOPE: &str = "The envelope";
const REPLY: &str = "The reply";
const ONCE: &str = "Once or again";
const KIT: &str = "Does a worker conform?";

macro_rules! checks {
    ($($constant:ident $check:expr;)*) => {
        $(pub(super) const $constant: Check = $check;)*
        /// Each of them.
        pub(super) const ALL: &[Check] = &[$($constant),*];
    };
}

checks! {
    REGISTRATION_ARRIVES Check::new("registration.arrives", REGISTRATION,
        "The worker registers.",
        "POST /v1/workers to the URL in GEARWAY_GATEWAY once the worker listens.");
    REGISTRATION_RETRY Check::new("registration.retry", REGISTRATION,
        "A gateway that answers 503 to the registration is asked again.",
        "Take 5xx and no answer as \"not yet\": try again after 50 ms, doubling up to a third of the lease.");
    REGISTRATION_VALID Check::new("registration.valid", REGISTRATION,
        "The gateway accepts the registration's body.",
        "Write the fields as the table under \"Registration\" has them, with Content-Type: application/json.");
    REGISTRATION_TOKEN Check::new("registration.token", REGISTRATION,
        "Every call of the gateway carries Authorization: Bearer and GEARWAY_TOKEN.",
        "Send the token with POST, PUT and DELETE alike.");
    REGISTRATION_NAME Check::new("registration.name", LIFE,
        "The registration's name is the one in GEARWAY_NAME.",
        "Read GEARWAY_NAME; the program's file name is only the default.").ends_the_worker();
    REGISTRATION_HANDLERS Check::new("registration.handlers", KIT,
        "The conformance handlers are registered with their methods and flags.",
        "Pass methods, key_required, user_required, timeout_ms and idempotent on from where a handler is declared.");
    REGISTRATION_ADDRESS Check::new("registration.address", LIFE,
        "The worker listens at GEARWAY_LISTEN and registers GEARWAY_ADVERTISE as its URL.",
        "Read both variables; the URL is made from the listener only when GEARWAY_ADVERTISE is absent.")
        .ends_the_worker();
    REGISTRATION_DIRECT Check::new("registration.direct", REGISTRATION,
        "The worker asks the gateway itself, whatever HTTP_PROXY says.",
        "Make the HTTP client ignore the proxy variables of the environment.").ends_the_worker();
    REGISTRATION_REDIRECT Check::new("registration.redirect", REGISTRATION,
        "The worker follows no redirects, so its token goes nowhere else.",
        "Turn redirects off in the HTTP client; take 3xx as a failure and try again.");
    REGISTRATION_REFUSED Check::new("registration.refused", REGISTRATION,
        "A worker whose first registration is refused tells why, and exits with another code than 0.",
        "On 400, 401, 403, 409 and 422 print the answer's message and exit.").ends_the_worker();

    LEASE_RENEWAL Check::new("lease.renewal", LEASE,
        "The lease is renewed before it ends.",
        "PUT /v1/workers/{worker_id}/lease every lease_ms / 3.");
    LEASE_NEWEST Check::new("lease.newest", LEASE,
        "The pause between renewals follows the newest answer.",
        "Take lease_ms from each renewal's answer, not only from the registration's.");
    LEASE_LAPSED Check::new("lease.lapsed", LEASE,
        "A worker whose lease has lapsed (404) registers again.",
        "On 404 to a renewal, POST /v1/workers.");
    LEASE_BACKOFF Check::new("lease.backoff", LEASE,
        "A gateway that answers 503 is asked again, and not in a loop.",
        "Double the pause from 50 ms up to a third of the lease, with jitter.");
    LEASE_SECRET Check::new("lease.secret", ENVELOPE,
        "After a new registration its secret counts, and the one before no longer.",
        "Keep one secret: that of the latest registration.");
    LEASE_REFUSED Check::new("lease.refused", REGISTRATION,
        "A worker that was registered does not end over a later refusal (401).",
        "Log it, and try again after a third of the lease.");
    LEASE_LOST Check::new("lease.lost", LEASE,
        "While the gateway is away the worker serves, and it renews or registers when the gateway is back.",
        "Try the renewal again with the backoff when there is no answer; never exit for it.");
    LEASE_DRAINED Check::new("lease.drained", LEASE,
        "A drained worker goes on renewing and serving, and does not register again, not even on 404.",
        "On \"draining\": true remember it; on a 404 after that, wait for SIGTERM.");

    AUTH_MISSING Check::new("auth.missing", ENVELOPE,
        "A call without Authorization gets 401.",
        "Compare Authorization before anything else; accept only Bearer and the secret.");
    AUTH_WRONG Check::new("auth.wrong", ENVELOPE,
        "A call with another secret, another scheme or a part of the secret gets 401.",
        "Compare the whole value, in constant time.");
    AUTH_LARGE Check::new("auth.large", ENVELOPE,
        "A refusal of a large call arrives.",
        "Read the whole body before answering 401: a refusal that overtakes it is lost with the connection.");

    ENVELOPE_REQUEST Check::new("envelope.request", ENVELOPE,
        "Handlers see method, path, query, headers, body and address as the envelope has them.",
        "Decode nothing twice: path and params are decoded already, query_string is not.").calls("conform/echo");
    ENVELOPE_UNICODE Check::new("envelope.unicode", ENVELOPE,
        "Paths and bodies in any script arrive.",
        "Read the envelope as UTF-8, and the body as bytes.").calls("conform/echo");
    ENVELOPE_LATIN1 Check::new("envelope.latin1", ENVELOPE,
        "Header values keep their bytes: one character stands for one byte.",
        "Take header values as Latin-1; do not encode them as UTF-8.").calls("conform/echo");
    ENVELOPE_REPEATED Check::new("envelope.repeated", ENVELOPE,
        "Repeated headers keep all their values, in order.",
        "Keep a list for each name.").calls("conform/echo");
    ENVELOPE_BYTES Check::new("envelope.bytes", ENVELOPE,
        "Bodies of all 256 byte values, and empty ones, arrive.",
        "Decode param.body as standard base64 into bytes, not into text.").calls("conform/echo");
    ENVELOPE_LARGE Check::new("envelope.large", ENVELOPE,
        "A request body of 10 MiB arrives.",
        "Take envelopes of at least 14 MiB: raise the server's limit on request bodies.").calls("conform/echo");
    ENVELOPE_IDENTITY Check::new("envelope.identity", ENVELOPE,
        "Who calls comes from the context, and from nowhere else.",
        "Read context.user_id and context.access_key_type; absent means none.").calls("conform/user");
    ENVELOPE_PARAMS Check::new("envelope.params", ENVELOPE,
        "What {param} segments stood for reaches the handler.",
        "Pass param.params on as it is; it is decoded already.").calls("conform/params/{first}/{second}");
    ENVELOPE_METHODS Check::new("envelope.methods", ENVELOPE,
        "Of several handlers of one name the method decides.",
        "Look handlers up by name and param.method together.").calls("conform/methods");
    ENVELOPE_UNKNOWN Check::new("envelope.unknown", ENVELOPE,
        "A name or method that nobody registered is answered with error 117.",
        "Answer HTTP 200 with {\"error\": {\"code\": 117, \"name\": \"UndefinedOperation\", …}}.");
    ENVELOPE_FUTURE Check::new("envelope.future", ENVELOPE,
        "Fields that the worker does not know, and big numbers in them, are ignored.",
        "Ignore unknown fields at every level of the envelope.");
    ENVELOPE_MALFORMED Check::new("envelope.malformed", ENVELOPE,
        "What is no envelope gets a 4xx, and the worker lives on.",
        "Answer 400 when the body is no JSON object, lacks what is needed, or its body is no base64.");

    REPLY_TEXT Check::new("reply.text", REPLY,
        "Texts in any script, empty ones, and ones of control characters are replies of type text.",
        "Write JSON in UTF-8, and escape what JSON wants escaped.").calls("conform/text");
    REPLY_JSON Check::new("reply.json", REPLY,
        "JSON values keep their shape: null, {}, [], numbers and nested ones.",
        "An empty object is no empty list; null is a value.").calls("conform/json");
    REPLY_RESPONSE Check::new("reply.response", REPLY,
        "Whole responses keep status, headers and body.",
        "Write type response with status, header (lists of values) and body (base64).").calls("conform/response");
    REPLY_COOKIES Check::new("reply.cookies", REPLY,
        "Repeated Set-Cookie headers stay apart.",
        "Write each value as an entry of the header's list; cookies cannot be joined by commas.")
        .calls("conform/response");
    REPLY_LATIN1 Check::new("reply.latin1", REPLY,
        "Header values of a response keep their bytes.",
        "Write each byte of a value as the character of the same number.").calls("conform/response");
    REPLY_BYTES Check::new("reply.bytes", REPLY,
        "Bodies of all 256 byte values, and empty ones, come back.",
        "Encode bytes in standard base64 with padding, without line breaks.").calls("conform/body");
    REPLY_LARGE Check::new("reply.large", REPLY,
        "A response body of 10 MiB comes back.",
        "Raise the limit that the server puts on its responses.").calls("conform/body");
    REPLY_ERROR Check::new("reply.error", REPLY,
        "Errors that a handler raises keep code, name, message and info.",
        "Write {\"error\": {\"code\", \"name\", \"message\", \"info\"}} with HTTP status 200.").calls("conform/error");
    REPLY_FAILURE Check::new("reply.failure", REPLY,
        "A handler that fails by accident is error 130 without its text, and the worker lives on.",
        "Catch everything; log the exception, and answer code 130 with a neutral message.").calls("conform/fail");
    REPLY_CONTENT_TYPE Check::new("reply.content-type", REPLY,
        "Every reply has Content-Type: application/json.",
        "Set the header on the worker's HTTP response, whatever the handler returned.");

    ONCE_TIMEOUT Check::new("once.timeout", ONCE,
        "A handler that takes longer than timeout_ms runs to its end.",
        "Do not stop handlers: the gateway gives up waiting by itself.").calls("conform/slow");
    ONCE_BUSY Check::new("once.busy", ENVELOPE,
        "Calls beyond max_concurrency get 503 with Gearway-Not-Run: 1, the others finish.",
        "Count running calls; check the secret first, then the count.").calls("conform/slow");

    HTTP_FRAMING Check::new("http.framing", ENVELOPE,
        "Answers are HTTP/1.1 with one Content-Length or in chunks, and nothing behind.",
        "Leave Content-Length and Transfer-Encoding to the HTTP server; never write both.");
    HTTP_REUSE Check::new("http.reuse", ONCE,
        "A connection takes one call after the other.",
        "Keep connections alive: no Connection: close, read each request's body to its end.");
    HTTP_KEEP_ALIVE Check::new("http.keep-alive", ONCE,
        "The worker announces no idle time below 60 s.",
        "Set the server's keep-alive (idle) timeout to more than 60 s.");
    HTTP_IDLE Check::new("http.idle", ONCE,
        "An idle connection stays open.",
        "Set the server's keep-alive (idle) timeout to more than 60 s; Node's default is 5 s.");
    HTTP_CONCURRENT Check::new("http.concurrent", ONCE,
        "A slow call does not hold up others.",
        "Run calls in threads, processes or tasks of their own.").calls("conform/slow");

    LEAVING_DELETE Check::new("leaving.delete", LEAVING,
        "On SIGTERM the worker leaves: DELETE /v1/workers/{worker_id}.",
        "Send it first, with the token, and register no more.").ends_the_worker();
    LEAVING_STRAGGLERS Check::new("leaving.stragglers", LEAVING,
        "A call right after the DELETE is answered.",
        "Keep listening for half a second after the DELETE was answered.").ends_the_worker();
    LEAVING_IN_FLIGHT Check::new("leaving.in-flight", LEAVING,
        "What runs at SIGTERM finishes, and its reply arrives.",
        "Stop accepting, then wait for running handlers and their replies.").calls("conform/slow").ends_the_worker();
    LEAVING_EXIT Check::new("leaving.exit", LEAVING,
        "The worker then exits with 0.",
        "Exit with 0 after the last reply has left.").ends_the_worker();
    LEAVING_UNREGISTERED Check::new("leaving.unregistered", LEAVING,
        "A worker that was never registered exits with 0 on SIGTERM too.",
        "Listen for SIGTERM from the start, also while waiting for the gateway.").ends_the_worker();
    LEAVING_SECOND Check::new("leaving.second", LEAVING,
        "A second SIGTERM ends the worker at once.",
        "Exit without waiting when a signal comes during the drain.").calls("conform/slow").ends_the_worker();
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_sections_are_headings_of_the_protocol() {
        let protocol = include_str!("../../../../plugin-protocol/PROTOCOL.md");
        let mut names = BTreeSet::new();
        for check in ALL {
            assert!(names.insert(check.name), "{} is there twice", check.name);
            let heading = format!("\n## {}\n", check.section);
            assert!(protocol.contains(&heading), "{}: no heading {:?}", check.name, check.section);
            for text in [check.claim, check.advice] {
                assert!(text.ends_with('.'), "{}: {text:?} is no sentence", check.name);
            }
        }
    }
}
