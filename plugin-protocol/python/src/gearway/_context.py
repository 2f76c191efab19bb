from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

from ._webhooks import Delivery

AccessKeyType = Literal["client", "master"]


@dataclass(frozen=True)
class Context:
    """What the gateway knows about a call beside the request itself."""

    request_id: str
    """The id that the client gets as ``X-Request-Id``."""
    user_id: str | None = None
    """The authenticated user. No header says this: what a header says, the client wrote."""
    access_key_type: AccessKeyType | None = None
    """The kind of API key that was presented."""
    timeout_ms: int | None = None
    """How long the gateway waits for the reply, in milliseconds from when it sent the call."""
    traceparent: str | None = None
    """W3C trace context of the call."""
    tracestate: str | None = None
    """The client's ``tracestate``; None unless the call belongs to the client's trace."""
    delivery: Delivery | None = None
    """Of a webhook that the gateway keeps: ``id``, ``attempt``, ``received_at``, ``replay_of``, ``verification``."""

    @property
    def trace_headers(self) -> dict[str, str]:
        """The headers with which a request that the handler sends belongs to the same trace."""
        headers = {"traceparent": self.traceparent, "tracestate": self.tracestate}
        return {name: value for name, value in headers.items() if value is not None}


_current: ContextVar[Context] = ContextVar("gearway.context")


def current_context() -> Context | None:
    """The context of the call whose handler is running, in a thread or on a loop; None outside one."""
    return _current.get(None)


def current_user_id() -> str | None:
    """The authenticated user of the call whose handler is running; None when there is none, and outside a handler."""
    context = _current.get(None)
    return None if context is None else context.user_id


def enter(context: Context) -> None:
    """Sets the context for the running task, and for the threads and tasks that copy its variables."""
    _current.set(context)
