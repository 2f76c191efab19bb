from __future__ import annotations

import asyncio
import hmac
import threading
from concurrent.futures import Future

# How long a call with an unknown secret waits for a registration that is under way.
_CHANGE_S = 2.0


class SecretCell:
    """The secret of the latest registration, which every call has to present.

    The gateway may call before the worker has read the answer to its registration; such a call waits for it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._secret: bytes | None = None
        self._change: Future[None] | None = None

    def expect_change(self) -> None:
        with self._lock:
            if self._change is None:
                self._change = Future()

    def settle(self, secret: str | None) -> None:
        """Ends what expect_change began; without a secret, the old one holds."""
        with self._lock:
            if secret is not None:
                self._secret = secret.encode()
            change, self._change = self._change, None
        if change is not None:
            change.set_result(None)

    async def accepts(self, authorization: bytes | None) -> bool:
        presented = _bearer(authorization)
        if presented is None:
            return False
        with self._lock:
            known, change = self._is(presented), self._change
        if known or change is None:
            return known
        # Not wrap_future, whose cancellation would cancel the change for everybody.
        loop = asyncio.get_running_loop()
        settled = asyncio.Event()
        change.add_done_callback(lambda _: loop.call_soon_threadsafe(settled.set))
        try:
            await asyncio.wait_for(settled.wait(), _CHANGE_S)
        except asyncio.TimeoutError:
            return False
        with self._lock:
            return self._is(presented)

    def _is(self, presented: bytes) -> bool:
        return self._secret is not None and hmac.compare_digest(self._secret, presented)


def _bearer(authorization: bytes | None) -> bytes | None:
    if authorization is None:
        return None
    scheme, _, secret = authorization.partition(b" ")
    return secret if scheme.lower() == b"bearer" else None
