"""The ASGI application to which the gateway posts envelopes."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

from ._calls import Calls
from ._envelope import NotAnEnvelope
from ._errors import ErrorCode
from ._secret import SecretCell
from ._targets import AsgiApplication, AsgiMount

# Bytes of an envelope: enough for bodies of 47 MiB. The gateway's own limit, 10 MiB unless configured, comes first.
MAX_ENVELOPE = 64 * 1024 * 1024

_log = logging.getLogger("gearway")

_JSON = [(b"content-type", b"application/json")]
_NOT_RUN = [*_JSON, (b"gearway-not-run", b"1")]


class Endpoint:
    def __init__(self, calls: Calls, secret: SecretCell, max_concurrency: int | None) -> None:
        self._calls = calls
        self._secret = secret
        self._max_concurrency = max_concurrency
        self._running = 0
        self._open = 0
        self.idle = asyncio.Event()
        """Set while no call has begun to arrive that has not been answered."""
        self.idle.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"a worker speaks HTTP only, not {scope['type']}")
        self._open += 1
        self.idle.clear()
        try:
            await self._respond(scope, receive, send)
        finally:
            self._open -= 1
            if self._open == 0:
                self.idle.set()

    async def _respond(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name: value for name, value in scope["headers"] if name in (b"authorization", b"traceparent")}
        accepted = await self._secret.accepts(headers.get(b"authorization"))
        full = self._max_concurrency is not None and self._running >= self._max_concurrency
        runs = accepted and scope["method"] == "POST" and not full
        if runs:
            self._running += 1
        try:
            # The body is read whatever the answer: one that overtakes it may be lost with the connection.
            body = await _body(receive, MAX_ENVELOPE if runs else 0)
            if body is None:
                return
            if not accepted:
                await _refuse(send, 401, ErrorCode.NOT_AUTHENTICATED, "this is not the worker's secret")
            elif scope["method"] != "POST":
                await _refuse(send, 405, ErrorCode.BAD_REQUEST, "envelopes come by POST")
            elif full:
                message = "the worker runs as many calls as it takes at once"
                await _refuse(send, 503, ErrorCode.PLUGIN_UNAVAILABLE, message, _NOT_RUN)
            elif isinstance(body, _TooLarge):
                await _refuse(send, 413, ErrorCode.BAD_REQUEST, f"an envelope has at most {MAX_ENVELOPE} bytes")
            else:
                await self._run(body, headers.get(b"traceparent"), send)
        finally:
            if runs:
                self._running -= 1

    async def _run(self, body: bytes, traceparent: bytes | None, send: Any) -> None:
        try:
            trace = None if traceparent is None else traceparent.decode("latin-1")
            reply = await self._calls.answer(body, trace)
        except NotAnEnvelope as reason:
            await _refuse(send, 400, ErrorCode.BAD_REQUEST, f"not an envelope: {reason}")
        else:
            await _respond(send, 200, reply, _JSON)


class _TooLarge:
    pass


async def _body(receive: Any, most: int) -> bytes | _TooLarge | None:
    """None when the caller went away. What is over the limit is read and dropped."""
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= most:
            chunks.append(chunk)
        else:
            chunks.clear()
        more = message.get("more_body", False)
    if size > most:
        return _TooLarge()
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _refuse(send: Any, status: int, code: ErrorCode, message: str, headers: Any = _JSON) -> None:
    body = {"error": {"code": int(code), "name": code.wire_name, "message": message}}
    await _respond(send, status, json.dumps(body).encode(), headers)


async def _respond(send: Any, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


class Lifespans:
    """Start-up and shutdown of the mounted ASGI applications.

    https://asgi.readthedocs.io/en/latest/specs/lifespan.html: an application that raises at the word takes no part.
    """

    def __init__(self, mounts: list[AsgiMount]) -> None:
        self._lifespans = [_Lifespan(mount) for mount in mounts]

    async def start(self) -> None:
        """Raises RuntimeError when an application says that it cannot start."""
        for lifespan in self._lifespans:
            await lifespan.start()

    async def stop(self) -> None:
        for lifespan in reversed(self._lifespans):
            await lifespan.stop()


class _Lifespan:
    def __init__(self, mount: AsgiMount) -> None:
        self._mount = mount
        self._events: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._answers: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.ensure_future(self._run(self._mount.application))
        answer = await self._ask("startup")
        if answer["type"] == "lifespan.startup.failed":
            raise RuntimeError(
                f"a mounted application failed to start: {answer.get('message') or 'it did not say why'}"
            )

    async def stop(self) -> None:
        if self._task is not None and not self._task.done():
            await self._ask("shutdown")

    async def _run(self, application: AsgiApplication) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self._mount.state,
        }
        try:
            await application(scope, self._events.get, self._answers.put)
        except Exception as error:
            _log.debug("a mounted application takes no part in the lifespan: %r", error)
        finally:
            self._answers.put_nowait({"type": "ended"})

    async def _ask(self, event: str) -> dict[str, str]:
        self._events.put_nowait({"type": f"lifespan.{event}"})
        return await self._answers.get()
