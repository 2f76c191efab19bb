"""Envelopes in, replies out."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from . import _reply
from ._context import enter
from ._envelope import Call, decode
from ._errors import Error, ErrorCode
from ._targets import Pool, Target

_log = logging.getLogger("gearway")


class Calls:
    """Runs handlers. Lives on one event loop."""

    def __init__(self, targets: Mapping[tuple[str, str], Target], threads: int) -> None:
        """``targets`` has names, as they were registered, with a method each."""
        self._targets = targets
        self.pool = Pool(threads)

    async def answer(self, envelope: bytes, traceparent: str | None = None) -> bytes:
        """Raises NotAnEnvelope, and nothing else: what a handler raises becomes an error reply."""
        call = decode(envelope, traceparent)
        target = self._targets.get((call.name, call.method))
        if target is None:
            return _reply.error(Error(ErrorCode.UNDEFINED_OPERATION, f"no handler for {call.method} {call.name}"))
        enter(call.context)
        try:
            return await target.answer(call, self.pool)
        except Error as told:
            return self._told(told, call)
        except BaseException:
            # Also SystemExit and CancelledError: neither takes the worker down or leaves a client waiting.
            return self._failed(call)

    def _told(self, told: Error, call: Call) -> bytes:
        try:
            return _reply.error(told)
        except (TypeError, ValueError):
            _log.exception("the error that a handler raised cannot be JSON")
            return self._failed(call)

    @staticmethod
    def _failed(call: Call) -> bytes:
        """Only the log says why; a traceback tells strangers about the code."""
        _log.exception("handler %s %s failed (request %s)", call.method, call.name, call.context.request_id)
        return _reply.UNEXPECTED
