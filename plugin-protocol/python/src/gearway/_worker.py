from __future__ import annotations

import functools
import importlib.metadata
import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from ._paths import Pattern
from ._targets import AsgiApplication, AsgiMount, Function, Target, WsgiMount, is_async
from ._webhooks import DeliverySpec, VerifySpec

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

    from ._standalone import AsgiWorker, WsgiWorker

F = TypeVar("F", bound=Callable[..., Any])

METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class Route:
    """A handler as it is registered. Contract section 6."""

    name: str
    methods: tuple[str, ...]
    user_required: bool
    key_required: bool
    timeout_ms: int | None
    idempotent: bool
    verify: VerifySpec | None
    delivery: DeliverySpec | None
    target: Target

    def __post_init__(self) -> None:
        """What cannot be written into a registration is told where the handler is, and not once a gateway is asked."""
        for option in ("user_required", "key_required", "idempotent"):
            value = getattr(self, option)
            if not isinstance(value, bool):
                raise TypeError(f"handler {self.name!r}: {option} must be True or False, not {value!r}")
        for option in ("verify", "delivery"):
            value = getattr(self, option)
            if value is not None and not _is_object(value):
                raise TypeError(f"handler {self.name!r}: {option} must be a dict that JSON can hold, not {value!r}")

    def registration(self) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "name": self.name,
            "methods": list(self.methods),
            "key_required": self.key_required,
            "user_required": self.user_required,
            "idempotent": self.idempotent,
        }
        if self.timeout_ms is not None:
            fields["timeout_ms"] = self.timeout_ms
        if self.verify is not None:
            fields["verify"] = dict(self.verify)
        if self.delivery is not None:
            fields["delivery"] = dict(self.delivery)
        return fields


class Worker:
    """A set of handlers. ``gearway.handler`` and ``gearway.mount`` are methods of one that every program has."""

    def __init__(self) -> None:
        self.routes: list[Route] = []
        self.targets: dict[tuple[str, str], Target] = {}
        """By name, as it is registered, and method."""
        self._claimed: dict[tuple[Pattern, str], str] = {}
        self._lock = threading.Lock()

    def handler(
        self,
        name: str,
        method: Iterable[str] | str = ("GET", "POST", "PUT"),
        user_required: bool = False,
        *,
        key_required: bool = False,
        timeout: float | timedelta | None = None,
        idempotent: bool = False,
        verify: VerifySpec | None = None,
        delivery: DeliverySpec | None = None,
    ) -> Callable[[F], F]:
        """Makes a function the handler of a path: exactly ``/foo`` for ``"foo"``, it and all below for ``"foo/"``.

        ``method``: any of GET, POST, PUT, DELETE, PATCH, HEAD and OPTIONS. ``user_required``: only authenticated users
        get through; ``key_required``: only callers with an API key. ``timeout``: how long the gateway waits, in
        seconds. ``idempotent``: running twice does no harm, so the gateway may repeat a call whose outcome is unknown.
        ``verify`` and ``delivery`` are about webhooks, and go to the gateway as they are: see ``VerifySpec`` and
        ``DeliverySpec``.

        The function stays as it was. Raises ValueError when another function has the path and method.
        """

        # Here and not in decorate: `@gearway.handler` without its name would give it the function, and be done.
        Pattern.of(name)

        def decorate(function: F) -> F:
            if not callable(function):
                raise TypeError(f"handler {name!r}: a handler is a function, not {function!r}")
            self._add(
                function,
                Route(
                    name=name,
                    methods=_methods(name, method),
                    user_required=user_required,
                    key_required=key_required,
                    timeout_ms=_timeout_ms(name, timeout),
                    idempotent=idempotent,
                    verify=verify,
                    delivery=delivery,
                    target=Function(function),
                ),
            )
            return function

        return decorate

    def mount(
        self,
        name: str,
        application: WSGIApplication | AsgiApplication,
        *,
        interface: Literal["auto", "wsgi", "asgi"] = "auto",
        user_required: bool = False,
        key_required: bool = False,
        timeout: float | timedelta | None = None,
        idempotent: bool = False,
        verify: VerifySpec | None = None,
        delivery: DeliverySpec | None = None,
    ) -> None:
        """Gives a whole application (Flask, FastAPI, Django, …) a subtree: ``gearway.mount("shop/", app)``.

        It answers its own routes below ``/shop/`` unchanged, for every method. ``interface`` says which kind it is when
        that cannot be seen: "auto" takes what is called with ``await`` for ASGI. The others are as for ``handler``.
        """
        Pattern.of(name)
        if not name.endswith(("/", ":")):
            raise ValueError(f"an application is mounted on a subtree: write {name + '/'!r}, not {name!r}")
        if not callable(application):
            raise TypeError(f"handler {name!r}: an application can be called, unlike {application!r}")
        if interface not in ("auto", "wsgi", "asgi"):
            raise ValueError(f"handler {name!r}: interface must be 'auto', 'wsgi' or 'asgi', not {interface!r}")
        if interface == "asgi" or (interface == "auto" and is_async(application)):
            target: Target = AsgiMount(name, cast("AsgiApplication", application))
        else:
            target = WsgiMount(name, cast("WSGIApplication", application))
        self._add(
            application,
            Route(
                name=name,
                methods=METHODS,
                user_required=user_required,
                key_required=key_required,
                timeout_ms=_timeout_ms(name, timeout),
                idempotent=idempotent,
                verify=verify,
                delivery=delivery,
                target=target,
            ),
        )

    def _add(self, what: object, route: Route) -> None:
        pattern = Pattern.of(route.name)
        label = getattr(what, "__qualname__", None) or repr(what)
        for method in route.methods:
            other = self._claimed.get((pattern, method))
            if other is not None:
                raise ValueError(f"{method} {route.name!r} has two handlers: {other} and {label}")
        self._claimed.update({(pattern, method): label for method in route.methods})
        self.routes.append(route)
        self.targets.update({(route.name, method): route.target for method in route.methods})

    @functools.cached_property
    def asgi(self) -> AsgiWorker:
        """This worker as an ASGI application, for a server of your own; see the README."""
        from ._standalone import AsgiWorker

        return AsgiWorker(self)

    @property
    def wsgi(self) -> WsgiWorker:
        """This worker as a WSGI application, for a server of your own; see the README.

        Where GEARWAY_ADVERTISE says how the gateway reaches that server, asking for this starts the registration.
        """
        from ._standalone import WsgiWorker

        with self._lock:
            wsgi: WsgiWorker | None = self.__dict__.get("_wsgi")
            if wsgi is None:
                wsgi = self.__dict__["_wsgi"] = WsgiWorker(self)
            return wsgi

    def asgi_mounts(self) -> list[AsgiMount]:
        return [route.target for route in self.routes if isinstance(route.target, AsgiMount)]

    def registration(self, version: str, max_concurrency: int | None) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "protocol": "gearway-v1",
            "version": version,
            "features": [],
            "handlers": [route.registration() for route in self.routes],
        }
        if max_concurrency is not None:
            fields["max_concurrency"] = max_concurrency
        return fields


def _methods(name: str, method: Iterable[str] | str) -> tuple[str, ...]:
    given: object = (method,) if isinstance(method, str) else method
    listed = list(given) if isinstance(given, Iterable) and not isinstance(given, bytes) else [given]
    methods = tuple(dict.fromkeys(one.upper() if isinstance(one, str) else repr(one) for one in listed))
    unknown = [one for one in methods if one not in METHODS]
    if unknown or not methods:
        told = ", ".join(unknown) or "none"
        raise ValueError(f"handler {name!r}: method must be some of {', '.join(METHODS)}, not {told}")
    return methods


def _is_object(value: object) -> bool:
    try:
        return isinstance(value, Mapping) and bool(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError):
        return False


def _timeout_ms(name: str, timeout: float | timedelta | None) -> int | None:
    if timeout is None:
        return None
    try:
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        milliseconds = 0 if isinstance(timeout, bool) else round(seconds * 1000)
    except (TypeError, ValueError, OverflowError):
        milliseconds = 0
    if milliseconds < 1:
        raise ValueError(f"handler {name!r}: timeout is in seconds and at least 0.001, not {timeout!r}")
    return milliseconds


def sdk_version() -> str:
    return importlib.metadata.version("gearway")
