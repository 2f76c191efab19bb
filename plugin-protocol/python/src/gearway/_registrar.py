"""Keeps a worker in its gateway's table. Contract section 6."""

from __future__ import annotations

import http.client
import ipaddress
import json
import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from ._secret import SecretCell
from ._settings import Settings

_log = logging.getLogger("gearway")

# Taken for the lease until the gateway has told its own.
_ASSUMED_LEASE_S = 10.0
_FIRST_RETRY_S = 0.05
# A registration is answered after the gateway has written it to its disk.
_REGISTER_S = 10.0
# What a registration that is under way gets when the worker is told to stop: one that succeeds has to be undone.
_LAST_REGISTRATION_S = 1.0
_DEREGISTER_S = 2.0
# Another server's start.
_LISTENER_S = 10.0


_CONFLICT = (
    "another service has one of this worker's paths: %s. Rename the handler, or stop the other service and give its "
    "path up with `gearway routes forget PATH`. Trying again"
)
_REFUSED = "the gateway refuses the worker, which it had before: %s. Trying again"


class Lost(Exception):
    """The gateway cannot be reached, or is not ready; trying again may help."""


class Refused(Exception):
    """The gateway has understood, and refuses."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{message} (HTTP {status})")
        self.status = status
        self.message = message


class _Lapsed(Exception):
    """The gateway does not know the worker."""


@dataclass
class _Place:
    """The worker's place in the gateway's table."""

    worker_id: str
    lease_s: float
    draining: bool = False


class Registrar:
    """A thread of its own, so that no handler, however it blocks the event loop, costs the lease."""

    def __init__(
        self,
        settings: Settings,
        registration: Callable[[], dict[str, Any]],
        port: int,
        secret: SecretCell,
        on_refusal: Callable[[Refused], None],
        *,
        await_listener: bool = False,
    ) -> None:
        """``registration`` gives all but ``url``, and ``name`` unless the settings have it.

        ``on_refusal`` hears that the first registration cannot succeed; with a status of 0, that this thread failed.
        ``await_listener``: somebody else listens at the advertised URL, and perhaps not yet.
        """
        self._settings = settings
        self._registration = registration
        self._await_listener = await_listener
        self._port = port
        self._secret = secret
        self._on_refusal = on_refusal
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._place: _Place | None = None
        self._registering = False
        self._was_registered = False
        self._name = settings.name
        self._thread = threading.Thread(target=self._run, name="gearway-registrar", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> bool:
        """Takes the worker out of the table. Returns whether it was ever in it."""
        with self._lock:
            self._stop.set()
            registering = self._registering
        if registering:
            self._thread.join(_LAST_REGISTRATION_S)
        with self._lock:
            place = self._place
        if place is not None:
            self._leave(place.worker_id)
        return self._was_registered

    def _run(self) -> None:
        """What nobody foresaw ends the worker: without this thread it would serve nobody, and look as if it did."""
        try:
            self._keep()
        except Exception as error:
            _log.exception("the worker cannot keep its place in the gateway")
            if self._place is not None:
                self._leave(self._place.worker_id)
            self._on_refusal(Refused(0, f"{type(error).__name__}: {error}"))

    def _keep(self) -> None:
        """Registers, renews, and registers again, until told to stop."""
        if self._await_listener:
            self._wait_for_listener()
        patience = _Patience(_ASSUMED_LEASE_S)
        while True:
            with self._lock:
                if self._stop.is_set():
                    return
                place = self._place
                self._registering = place is None
            try:
                place = self._register() if place is None else self._renew(place)
                with self._lock:
                    self._place = place
                if patience.lost:
                    _log.info("the gateway is back")
                patience = _Patience(place.lease_s)
                pause = place.lease_s / 3
            except _Lapsed:
                if place is not None and place.draining:
                    _log.warning("the drained worker's lease has lapsed; it stays out until it is started anew")
                    return
                _log.warning("the lease has lapsed; registering again")
                with self._lock:
                    self._place = None
                continue
            except Refused as refusal:
                if refusal.status != 409 and not self._was_registered:
                    self._on_refusal(refusal)
                    return
                if patience.news(refusal.message):
                    _log.error(_CONFLICT if refusal.status == 409 else _REFUSED, refusal.message)
                if place is None or not place.draining:
                    with self._lock:
                        self._place = None
                pause = patience.next()
            except Lost as reason:
                if patience.news("lost"):
                    _log.warning("cannot reach the gateway at %s, trying again: %s", self._settings.gateway, reason)
                pause = patience.next()
            self._stop.wait(pause)

    def _register(self) -> _Place:
        self._secret.expect_change()
        secret = None
        try:
            status, answer = self._ask("POST", "", _REGISTER_S, self._registration_from)
            if status == 404:
                message = f"{self._settings.gateway} is not a gateway's admin listener; set GEARWAY_GATEWAY"
                raise Refused(404, message)
            place = _Place(_expect(answer, "worker_id", str), _lease_s(answer))
            secret = _expect(answer, "secret", str)
        finally:
            self._secret.settle(secret)
        self._was_registered = True
        _log.info("registered as %s (%s)", self._name, place.worker_id)
        return place

    def _renew(self, place: _Place) -> _Place:
        patience = min(max(place.lease_s / 3, 0.25), _REGISTER_S)
        status, answer = self._ask("PUT", f"/{place.worker_id}/lease", patience)
        if status == 404:
            raise _Lapsed
        draining = answer.get("draining") is True
        if draining and not place.draining:
            _log.warning("an operator has drained this worker: it gets nothing new until it is started anew")
        return _Place(place.worker_id, _lease_s(answer), draining or place.draining)

    def _wait_for_listener(self) -> None:
        """Until something answers at the advertised URL by HTTP: a listener alone may be older than the handlers."""
        url = urlsplit(self._own_url(""))
        deadline = time.monotonic() + _LISTENER_S
        while not self._stop.is_set() and time.monotonic() < deadline:
            connection = _connection(url, 1.0)
            try:
                connection.request("GET", url.path or "/")
                connection.getresponse().read()
                return
            except (OSError, http.client.HTTPException):
                self._stop.wait(_FIRST_RETRY_S)
            finally:
                connection.close()
        _log.debug("nothing answers at %s from here; registering all the same", url.geturl())

    def _leave(self, worker_id: str) -> None:
        try:
            self._ask("DELETE", f"/{worker_id}", _DEREGISTER_S)
            _log.info("deregistered")
        except (Lost, Refused) as reason:
            _log.warning("cannot deregister: %s", reason)

    def _registration_from(self, local_address: str) -> dict[str, Any]:
        registration = {"name": self._settings.name, "url": self._own_url(local_address), **self._registration()}
        self._name = registration["name"]
        return registration

    def _own_url(self, local_address: str) -> str:
        if self._settings.advertise is not None:
            return self._settings.advertise
        host = self._settings.host
        if _is_wildcard(host):
            # The address that the gateway can reach is the near end of a connection to it.
            host = local_address.removeprefix("::ffff:")
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}/"

    def _ask(
        self,
        method: str,
        below: str,
        timeout: float,
        body_from: Callable[[str], dict[str, Any]] | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """One call to the admin listener. http.client follows no redirects and knows no proxies.

        Returns 2xx and 404. Raises Lost, Refused.
        """
        gateway = urlsplit(self._settings.gateway)
        connection = _connection(gateway, timeout)
        headers = {"Authorization": f"Bearer {self._settings.token}"}
        try:
            connection.connect()
            body = None
            if body_from is not None:
                headers["Content-Type"] = "application/json"
                body = json.dumps(body_from(connection.sock.getsockname()[0])).encode()
            connection.request(method, f"{gateway.path.rstrip('/')}/v1/workers{below}", body, headers)
            response = connection.getresponse()
            status, text = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Lost(str(error) or type(error).__name__) from None
        finally:
            connection.close()
        answer = _object(text)
        if 200 <= status < 300 or status == 404:
            return status, answer
        told = answer.get("error")
        message = told.get("message") if isinstance(told, dict) else None
        if status >= 500 or status in (408, 429):
            raise Lost(f"{message or 'no reason given'} (HTTP {status})")
        raise Refused(status, str(message or "no reason given"))


class _Patience:
    """Waits a third of the lease at most: a gateway that comes back finds its workers before their leases lapse."""

    def __init__(self, lease_s: float) -> None:
        self._longest = lease_s / 3
        self._retry = min(_FIRST_RETRY_S, self._longest)
        self._told: str | None = None

    @property
    def lost(self) -> bool:
        return self._told == "lost"

    def news(self, trouble: str) -> bool:
        """Whether this is another trouble than last time, so that the log has each once."""
        told, self._told = self._told, trouble
        return told != trouble

    def next(self) -> float:
        retry = self._retry
        self._retry = min(retry * 2, self._longest)
        # Many workers lose a gateway at once; they should not all come back at once.
        return retry * random.uniform(0.5, 1.0)


def _connection(url: SplitResult, timeout: float) -> http.client.HTTPConnection:
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    return kind(url.hostname or "", url.port, timeout=timeout)


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _expect(answer: dict[str, Any], name: str, kind: type) -> Any:
    value = answer.get(name)
    if not isinstance(value, kind):
        raise Refused(200, f"whatever answers is not a gateway: its answer has no {name}; set GEARWAY_GATEWAY")
    return value


def _lease_s(answer: dict[str, Any]) -> float:
    return max(int(_expect(answer, "lease_ms", int)), 1) / 1000
