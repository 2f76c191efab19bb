"""A worker under a server of the user's own: uvicorn, hypercorn, gunicorn, waitress, …"""

from __future__ import annotations

import asyncio
import atexit
import logging
import sys
import threading
from collections.abc import Coroutine, Iterable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from werkzeug.wsgi import get_input_stream

from . import _settings
from ._calls import Calls
from ._endpoint import MAX_ENVELOPE, Endpoint, Lifespans
from ._registrar import Refused, Registrar
from ._secret import SecretCell

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from ._worker import Worker

T = TypeVar("T")

_log = logging.getLogger("gearway")

DEFAULT_THREADS = 64

# `gearway run` serves and registers by itself, whatever else the app file offers to other servers.
registers_here = True


class AsgiWorker:
    """Registers when the server starts its lifespan, and deregisters at its end."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._endpoint: Endpoint | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif self._endpoint is None:
            raise RuntimeError("gearway.asgi registers in the ASGI lifespan; the server must not switch it off")
        else:
            await self._endpoint(scope, receive, send)

    async def _lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        try:
            secret = SecretCell()
            registrar = _registrar(self._worker, secret)
            lifespans = Lifespans(self._worker.asgi_mounts())
            await lifespans.start()
        except (_settings.SettingError, RuntimeError) as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        calls = Calls(self._worker.targets, DEFAULT_THREADS)
        self._endpoint = Endpoint(calls, secret, None)
        registrar.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.get_running_loop().run_in_executor(None, registrar.stop)
        await self._endpoint.idle.wait()
        await calls.pool.finish()
        await lifespans.stop()
        await send({"type": "lifespan.shutdown.complete"})


class WsgiWorker:
    """Registers as soon as the server answers at GEARWAY_ADVERTISE, and deregisters when the process ends."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._secret = SecretCell()
        self._lock = threading.Lock()
        self._endpoint: Endpoint | None = None
        self._loop = LoopThread()
        if registers_here:
            registrar = _registrar(worker, self._secret)
            registrar.start()
            atexit.register(registrar.stop)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        endpoint = self._started()
        headers = [
            (name, environ[key].encode("latin-1"))
            for name, key in ((b"authorization", "HTTP_AUTHORIZATION"), (b"traceparent", "HTTP_TRACEPARENT"))
            if key in environ
        ]
        scope = {"type": "http", "method": environ["REQUEST_METHOD"], "headers": headers}
        # One byte more than is taken, so that the endpoint sees what is too large.
        body = get_input_stream(environ).read(MAX_ENVELOPE + 1)
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        self._loop.run(endpoint(scope, receive, send))
        start, answer = sent
        start_response(
            f"{start['status']} {HTTPStatus(start['status']).phrase}",
            [(name.decode("latin-1").title(), value.decode("latin-1")) for name, value in start["headers"]],
        )
        return [answer["body"]]

    def _started(self) -> Endpoint:
        with self._lock:
            if self._endpoint is None:
                self._loop.run(Lifespans(self._worker.asgi_mounts()).start())
                self._endpoint = Endpoint(Calls(self._worker.targets, DEFAULT_THREADS), self._secret, None)
            return self._endpoint


class LoopThread:
    """An event loop for callers that have none."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gearway-loop", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _registrar(worker: Worker, secret: SecretCell) -> Registrar:
    """Raises SettingError."""
    settings = _settings.from_environment("")
    if settings.advertise is None and settings.port == 0:
        raise _settings.SettingError(
            "GEARWAY_ADVERTISE is not set: give it the URL at which the gateway reaches your server, or start the "
            "worker with `gearway run`"
        )

    def refused(refusal: Refused) -> None:
        _log.error("the gateway refuses the worker, which will get no calls until it is started anew: %s", refusal)

    def registration() -> dict[str, Any]:
        # Asked for once the server answers: by then the module that asked for the application has its handlers.
        return {"name": settings.name or _name(worker), **worker.registration("", None)}

    return Registrar(settings, registration, settings.port, secret, refused, await_listener=True)


def _name(worker: Worker) -> str:
    """The stem of the file with the first handler."""
    for route in worker.routes:
        module = sys.modules.get(getattr(getattr(route.target, "function", None), "__module__", ""))
        file = getattr(module, "__file__", None)
        if file:
            return Path(file).stem
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(main).stem if main else "worker"
