"""Calls handlers in this process, as a gateway would: its rules for paths, methods, credentials and errors hold.

from gearway.testing import Client
import app

def test_foo():
    response = Client().get("/foo", query_string={"key": "month"})
    assert response.json == {"key": "month"}

def test_private():
    assert Client(user_id="alice").get("/private").json == "alice"
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import werkzeug.test
from werkzeug import Response
from werkzeug.test import TestResponse
from werkzeug.wsgi import get_input_stream

import gearway

from ._calls import Calls
from ._context import AccessKeyType
from ._endpoint import Lifespans
from ._errors import ErrorCode
from ._paths import Pattern, canonical, params
from ._standalone import LoopThread
from ._webhooks import Delivery, Verification
from ._worker import Route, Worker

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["Client", "TestResponse"]

_REQUEST_ID = "test"


class Client(werkzeug.test.Client):
    """Werkzeug's test client in front of a worker's handlers: ``get``, ``post``, … take ``query_string``, ``data``,
    ``json`` and ``headers``; answers have ``status_code``, ``text``, ``json`` and ``headers``.

    ``user_id`` and ``access_key_type`` say who calls; each call may say otherwise, as in ``client.get("/private",
    user_id="bob")``. A user comes with a client's API key unless told otherwise. Mounted ASGI applications start with
    the first call and stop with ``close()``, which the end of a ``with`` block calls. A handler with ``delivery`` finds
    a first attempt in its context, and what it returns is the answer; signatures are not checked.
    """

    def __init__(
        self,
        worker: Worker | None = None,
        *,
        user_id: str | None = None,
        access_key_type: AccessKeyType | None = None,
        use_cookies: bool = True,
    ) -> None:
        super().__init__(self._respond, use_cookies=use_cookies)
        self._worker = gearway.default_worker if worker is None else worker
        self._identity = (user_id, access_key_type)
        self._lock = threading.Lock()
        self._running: _Running | None = None

    def open(
        self,
        *args: Any,
        buffered: bool = False,
        follow_redirects: bool = False,
        user_id: str | None = None,
        access_key_type: AccessKeyType | None = None,
        **kwargs: Any,
    ) -> TestResponse:
        before = self._identity
        self._identity = (user_id or before[0], access_key_type or before[1])
        try:
            # A redirect that is followed comes through here again.
            return super().open(*args, buffered=buffered, follow_redirects=follow_redirects, **kwargs)
        finally:
            self._identity = before

    def close(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<gearway.testing.Client of {len(self._worker.routes)} handlers>"

    def __del__(self) -> None:
        if getattr(self, "_running", None) is not None:
            self.close()

    def _respond(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return self._answer(environ)(environ, start_response)

    def _answer(self, environ: WSGIEnvironment) -> Response:
        raw_path = str(environ["REQUEST_URI"]).partition("?")[0]
        method, query = str(environ["REQUEST_METHOD"]), str(environ["QUERY_STRING"])
        try:
            path = canonical(raw_path.encode("latin-1").decode())
        except ValueError as reason:
            return _error(ErrorCode.BAD_REQUEST, str(reason))
        if "//" in path:
            while "//" in raw_path:
                raw_path = raw_path.replace("//", "/")
            return _redirect(method, raw_path, query)
        route = self._route(path, method)
        if isinstance(route, Response):
            return route
        if route is None:
            if self._matching(path + "/"):
                return _redirect(method, raw_path + "/", query)
            return _json(200, {"result": {"status": "OK"}})
        user_id, key = self._identity
        key = key or ("client" if user_id else None)
        if (route.key_required or route.user_required) and key is None:
            return _error(ErrorCode.NOT_AUTHENTICATED, "an API key is required")
        if route.user_required and user_id is None:
            return _error(ErrorCode.NOT_AUTHENTICATED, "an access token is required")
        context = {
            "request_id": _REQUEST_ID,
            "user_id": user_id,
            "access_key_type": key,
            "timeout_ms": route.timeout_ms or 60_000,
            "delivery": _delivery(route),
        }
        body = get_input_stream(environ).read()
        envelope = {
            "kind": "handler",
            "name": route.name,
            "context": {name: value for name, value in context.items() if value is not None},
            "param": {
                "method": method,
                "path": path,
                "raw_path": raw_path,
                "query_string": query,
                "params": params(route.name, path),
                "header": _header(environ, len(body)),
                "body": base64.b64encode(body).decode(),
                "remote_addr": "127.0.0.1",
            },
        }
        with self._lock:
            if self._running is None:
                self._running = _Running(self._worker)
        return _response(self._running.answer(json.dumps(envelope).encode()))

    def _route(self, path: str, method: str) -> Route | Response | None:
        """None when no path matches, a response when no method does."""
        matching = self._matching(path)
        if not matching:
            return None
        best = max(rank for rank, _ in matching)
        for rank, route in matching:
            if rank == best and method in route.methods:
                return route
        return _error(ErrorCode.UNDEFINED_OPERATION, f"no handler for {method} at this path")

    def _matching(self, path: str) -> list[tuple[tuple[int, ...], Route]]:
        ranked = ((Pattern.of(route.name).match(path), route) for route in self._worker.routes)
        return [(rank, route) for rank, route in ranked if rank is not None]


class _Running:
    """Handlers with an event loop of their own."""

    def __init__(self, worker: Worker) -> None:
        self._loop = LoopThread()
        self._calls = Calls(worker.targets, threads=8)
        self._lifespans = Lifespans(worker.asgi_mounts())
        self._loop.run(self._lifespans.start())

    def answer(self, envelope: bytes) -> bytes:
        return self._loop.run(self._calls.answer(envelope))

    def close(self) -> None:
        self._loop.run(self._calls.pool.finish())
        self._loop.run(self._lifespans.stop())
        self._loop.close()


def _delivery(route: Route) -> Delivery | None:
    """What a gateway says of the first attempt; the signature, which the test would have to make, counts as good."""
    if route.delivery is None or route.delivery.get("mode", "sync") == "sync":
        return None
    verification: Verification | None = None
    if route.verify is not None:
        verification = {"scheme": route.verify["scheme"], "secret": route.verify["secret"], "timestamp": None}
    return {
        "id": "test",
        "attempt": 1,
        "received_at": "2000-01-01T00:00:00.000Z",
        "replay_of": None,
        "verification": verification,
    }


def _header(environ: WSGIEnvironment, length: int) -> dict[str, list[str]]:
    header = {
        name[5:].replace("_", "-").title(): [value] for name, value in environ.items() if name.startswith("HTTP_")
    }
    if environ.get("CONTENT_TYPE"):
        header["Content-Type"] = [environ["CONTENT_TYPE"]]
    if length:
        header["Content-Length"] = [str(length)]
    return header


def _response(reply: bytes) -> Response:
    """What the gateway makes of a reply. Contract section 5."""
    fields = json.loads(reply)
    if "error" in fields:
        error = fields["error"]
        return _error(error["code"], error["message"], error.get("name"), error.get("info"))
    result = fields["result"]
    if result["type"] == "text":
        return Response(result["value"], content_type="text/plain; charset=utf-8")
    if result["type"] == "json":
        return _json(200, result["value"])
    headers = [(name, value) for name, values in result.get("header", {}).items() for value in values]
    response = Response(base64.b64decode(result.get("body", "")), result["status"], headers)
    if "content-type" not in {name.lower() for name, _ in headers}:
        # Werkzeug adds one; the gateway does not.
        del response.headers["Content-Type"]
    response.autocorrect_location_header = False
    return response


def _error(code: int, message: str, name: str | None = None, info: object = None) -> Response:
    status = 500
    if code in ErrorCode.__members__.values():
        status, name = ErrorCode(code).status, name or ErrorCode(code).wire_name
    error = {
        "name": name or "HandlerError",
        "code": code,
        "message": message,
        "info": info,
        "request_id": _REQUEST_ID,
    }
    return _json(status, {"error": {key: value for key, value in error.items() if key != "info" or value is not None}})


def _redirect(method: str, path: str, query: str) -> Response:
    location = f"{path}?{query}" if query else path
    response = Response(status=301 if method in ("GET", "HEAD") else 308, headers={"Location": location})
    response.autocorrect_location_header = False
    return response


def _json(status: int, value: object) -> Response:
    return Response(json.dumps(value), status, content_type="application/json")
