"""Cloud code in Python: HTTP handlers that a Gearway gateway calls.

    import gearway

    @gearway.handler("foo", method=["GET"])
    def foo(request):
        return {"key": request.args["key"]}

``gearway run app.py`` serves them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from werkzeug import Response

from ._context import AccessKeyType, Context, current_context, current_user_id
from ._errors import Error, ErrorCode
from ._request import Request
from ._webhooks import Ack, Delivery, DeliverySpec, Verification, VerifySpec
from ._worker import Worker

if TYPE_CHECKING:
    from ._standalone import AsgiWorker, WsgiWorker

    asgi: AsgiWorker
    wsgi: WsgiWorker

__all__ = [
    "AccessKeyType",
    "Ack",
    "Context",
    "Delivery",
    "DeliverySpec",
    "Error",
    "ErrorCode",
    "Request",
    "Response",
    "Verification",
    "VerifySpec",
    "Worker",
    "asgi",
    "current_context",
    "current_user_id",
    "default_worker",
    "handler",
    "mount",
    "run",
    "wsgi",
]

default_worker = Worker()
"""What ``gearway.handler`` and ``gearway.mount`` add to, and ``gearway run`` serves."""

handler = default_worker.handler
mount = default_worker.mount


def run(*, threads: int | None = None, max_concurrency: int | None = None) -> None:
    """Serves the handlers until SIGTERM: the last line of a file that is started by itself, as ``python app.py``.

    ``max_concurrency``: how many calls are taken at once; without it, any number. ``threads``: how many handlers that
    are not async run at once. The process exits with 0 once it has drained, and with 1 when it cannot serve. Under
    ``gearway run app.py`` this does nothing, since that command serves the file.
    """
    from ._cli import run as serve

    serve(threads=threads, max_concurrency=max_concurrency)


def __getattr__(name: str) -> Any:
    if name in ("asgi", "wsgi"):
        return getattr(default_worker, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
