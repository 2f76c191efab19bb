"""What a call ends in: a function, or a whole application under a subtree."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import werkzeug
from werkzeug.exceptions import HTTPException

from . import _reply
from ._envelope import Call
from ._request import Request, environ

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

T = TypeVar("T")
AsgiApplication = Callable[[Any, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]
Handler = Callable[[Request], Any]

_log = logging.getLogger("gearway")


class Pool:
    """Threads for what is not asynchronous. The calling task's context variables follow into them."""

    def __init__(self, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="gearway-handler")
        self._background: set[asyncio.Task[Any]] = set()

    async def run(self, function: Callable[[], T]) -> T:
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, cast("Callable[[], T]", functools.partial(context.run, _held_by_a_future, function))
        )

    def keep(self, task: asyncio.Task[Any]) -> None:
        """The drain waits for this task as well."""
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def finish(self) -> None:
        while self._background:
            await asyncio.wait(self._background)
        self._executor.shutdown(wait=False)


def _held_by_a_future(function: Callable[[], T]) -> T:
    """A future that is given one of these, as by ``next()`` of what is empty, is never done: the call would hang."""
    try:
        return function()
    except (StopIteration, GeneratorExit) as raised:
        raise RuntimeError(f"the handler raised {type(raised).__name__}") from raised


class Target(Protocol):
    async def answer(self, call: Call, pool: Pool) -> bytes:
        """The reply. What it raises is for the caller to tell apart."""


class Function:
    def __init__(self, function: Handler) -> None:
        self.function = function
        self._is_async = is_async(function)

    async def answer(self, call: Call, pool: Pool) -> bytes:
        request = Request(environ(call))
        try:
            if self._is_async:
                return await self._async(request, pool)
            reply = await pool.run(lambda: self._reply_or_awaitable(request))
            if isinstance(reply, bytes):
                return reply
            return self._checked(request, await self._settled(reply))
        finally:
            # Uploaded files.
            request.close()

    async def _async(self, request: Request, pool: Pool) -> bytes:
        value = await self._settled(self.function(request))
        if isinstance(value, werkzeug.Response) and not value.is_sequence:
            # Its body comes from an iterator, and who knows how long each step takes.
            return await pool.run(lambda: self._checked(request, value))
        return self._checked(request, value)

    @staticmethod
    async def _settled(value: Awaitable[Any]) -> Any:
        try:
            return await value
        except HTTPException as raised:
            return raised

    def _reply_or_awaitable(self, request: Request) -> bytes | Awaitable[Any]:
        try:
            value = self.function(request)
        except HTTPException as raised:
            value = raised
        # A plain function may still hand on what an asynchronous one gave it.
        return value if inspect.isawaitable(value) else self._checked(request, value)

    @staticmethod
    def _checked(request: Request, value: object) -> bytes:
        if isinstance(value, HTTPException):
            return _reply.http_exception(value, request.environ, request.context.request_id)
        return _reply.encode(value, request.environ)


class WsgiMount:
    """A WSGI application (Flask, Django, …) that has a subtree to itself."""

    def __init__(self, name: str, application: WSGIApplication) -> None:
        self._segments = _segments(name)
        self._application = application

    async def answer(self, call: Call, pool: Pool) -> bytes:
        return await pool.run(lambda: self._answer(call))

    def _answer(self, call: Call) -> bytes:
        started: list[tuple[str, list[tuple[str, str]]]] = []
        body: list[bytes] = []

        def start_response(
            status: str, headers: list[tuple[str, str]], exc_info: Any = None
        ) -> Callable[[bytes], object]:
            # PEP 3333: called again, with exc_info, it replaces what has not been sent; here, nothing has.
            if started and exc_info is None:
                raise RuntimeError("start_response was called twice")
            started[:] = [(status, headers)]
            return body.append

        chunks = self._application(environ(call, _script_name(call.path, self._segments)), start_response)
        try:
            body.extend(chunks)
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()
        if not started:
            raise RuntimeError("the mounted application did not call start_response")
        ((status, headers),) = started
        return _reply.response(int(status[:3]), headers, b"".join(body))


class AsgiMount:
    """An ASGI application (FastAPI, Starlette, Django, …) that has a subtree to itself."""

    def __init__(self, name: str, application: AsgiApplication) -> None:
        self._segments = _segments(name)
        self.application = application
        self.state: dict[str, Any] = {}
        """What the application's lifespan left for its requests."""

    async def answer(self, call: Call, pool: Pool) -> bytes:
        exchange = _AsgiExchange(call, _script_name(call.path, self._segments), self.state)
        task = asyncio.ensure_future(exchange.run(self.application))
        # An application may go on after its response, as Starlette's background tasks do; no client waits for that.
        answered = asyncio.ensure_future(exchange.complete.wait())
        try:
            await asyncio.wait([task, answered], return_when=asyncio.FIRST_COMPLETED)
        finally:
            answered.cancel()
        if not task.done():
            pool.keep(task)
            task.add_done_callback(_log_failure)
        elif not exchange.complete.is_set():
            task.result()
            raise RuntimeError("the mounted application returned without a complete response")
        else:
            _log_failure(task)
        return _reply.response(exchange.status, exchange.headers, b"".join(exchange.chunks))


class _AsgiExchange:
    """One request and response. https://asgi.readthedocs.io/en/latest/specs/www.html"""

    def __init__(self, call: Call, root_path: str, state: dict[str, Any]) -> None:
        self.complete = asyncio.Event()
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.chunks: list[bytes] = []
        self._body: bytes | None = call.body
        host, _, port = call.header.get("Host", ["localhost"])[0].rpartition(":")
        self._scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": call.method,
            "scheme": "http",
            "path": call.path,
            "raw_path": call.raw_path.encode(),
            "query_string": call.query_string.encode(),
            "root_path": root_path,
            "headers": [
                (name.lower().encode("latin-1"), value.encode("latin-1"))
                for name, values in call.header.items()
                for value in values
            ],
            "client": (call.remote_addr, 0),
            "server": (host, int(port)) if port.isdecimal() else (call.header.get("Host", ["localhost"])[0], 80),
            "state": dict(state),
        }

    async def run(self, application: AsgiApplication) -> None:
        await application(self._scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.complete.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = [
                (bytes(name).decode("latin-1"), bytes(value).decode("latin-1"))
                for name, value in message.get("headers", ())
            ]
        elif message["type"] == "http.response.body":
            if not self.status:
                raise RuntimeError("the mounted application sent a body before its response's start")
            self.chunks.append(bytes(message.get("body", b"")))
            if not message.get("more_body", False):
                self.complete.set()


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.error("a mounted application failed after its response", exc_info=task.exception())


def is_async(function: object) -> bool:
    """Whether calling it gives a coroutine, also for partials and objects with an asynchronous ``__call__``."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.iscoroutinefunction(function):
        return True
    return callable(function) and inspect.iscoroutinefunction(type(function).__call__)


def _segments(name: str) -> int:
    return len([segment for segment in name.replace(":", "/").split("/") if segment])


def _script_name(path: str, segments: int) -> str:
    """The first segments of the path: what the mount's name stood for."""
    return "".join("/" + segment for segment in path.split("/")[1 : segments + 1])
