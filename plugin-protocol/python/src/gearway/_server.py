"""What `gearway run` does once the handlers are there: serve, register, drain."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import signal
import socket
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import uvicorn

from ._calls import Calls
from ._endpoint import Endpoint, Lifespans
from ._registrar import Refused, Registrar
from ._secret import SecretCell
from ._settings import Settings
from ._worker import Worker

_log = logging.getLogger("gearway")

# The gateway retires idle connections after 30 s and counts on 60 s here, so this ends only those that it forgot.
_IDLE_S = 120
# A call that was meant for this worker before the gateway heard of its end may be on its way.
_GRACE_S = 0.5
# What connections get to take the last replies away, once everything has run.
_LAST_REPLIES_S = 5.0


@dataclass(frozen=True)
class Options:
    threads: int
    max_concurrency: int | None
    version: str


def bind(settings: Settings) -> socket.socket:
    """Raises OSError, which names the address."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is named; without it a reply's second packet waits 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        # From here on connections wait in the backlog: also while `--reload` starts the worker anew.
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {settings.host}:{settings.port} (GEARWAY_LISTEN): {error}") from None
    listener.set_inheritable(True)
    return listener


def serve(worker: Worker, settings: Settings, options: Options, listener: socket.socket) -> int:
    """Serves until SIGTERM or SIGINT, and until what runs has finished. Returns the exit code."""
    loop = _new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(_serve(worker, settings, options, listener))
    finally:
        asyncio.set_event_loop(None)
        loop.close()


async def _serve(worker: Worker, settings: Settings, options: Options, listener: socket.socket) -> int:
    loop = asyncio.get_running_loop()
    stop = _StopSignal(loop)
    secret = SecretCell()
    calls = Calls(worker.targets, options.threads)
    endpoint = Endpoint(calls, secret, options.max_concurrency)
    lifespans = Lifespans(worker.asgi_mounts())
    try:
        await lifespans.start()
    except RuntimeError as error:
        _log.error("%s", error)
        return 1

    server = _Server(endpoint)
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    host, port = listener.getsockname()[:2]
    refusals: list[Refused] = []

    def refused(refusal: Refused) -> None:
        refusals.append(refusal)
        loop.call_soon_threadsafe(stop.event.set)

    registrar = Registrar(
        settings, lambda: worker.registration(options.version, options.max_concurrency), port, secret, refused
    )
    await server.listening.wait()
    _log.info("listening on %s:%d", host, port)
    registrar.start()

    await stop.event.wait()
    if refusals and refusals[0].status != 0:
        _log.error("the gateway at %s refuses the worker: %s", settings.gateway, refusals[0])
    elif not refusals and await loop.run_in_executor(None, registrar.stop):
        await asyncio.sleep(_GRACE_S)
    server.should_exit = True
    await endpoint.idle.wait()
    await asyncio.wait([serving], timeout=_LAST_REPLIES_S)
    # A call may have slipped in between idleness and the listener's end.
    await endpoint.idle.wait()
    if not serving.done():
        _log.warning("a connection did not end by itself")
        serving.cancel()
        await asyncio.wait([serving])
    await calls.pool.finish()
    await lifespans.stop()
    return 1 if refusals else 0


class _Server(uvicorn.Server):
    """uvicorn, but for signals, which end the registration before they end the server."""

    def __init__(self, endpoint: Endpoint) -> None:
        config = uvicorn.Config(
            endpoint,
            interface="asgi3",
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=_IDLE_S,
        )
        super().__init__(config)
        # uvicorn's own news are about uvicorn; failures still show.
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class _StopSignal:
    """SIGTERM and SIGINT; the same one again ends the process at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.event = asyncio.Event()
        self._seen: set[int] = set()
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                loop.add_signal_handler(number, self._on, number)
            except NotImplementedError:
                # Windows.
                signal.signal(number, lambda number, _: loop.call_soon_threadsafe(self._on, number))

    def _on(self, number: int) -> None:
        if number in self._seen:
            os._exit(128 + number)
        self._seen.add(number)
        _log.info("stopping: finishing what runs")
        self.event.set()


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        uvloop: Any = importlib.import_module("uvloop")
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
