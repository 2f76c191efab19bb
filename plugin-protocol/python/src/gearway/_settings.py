from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit


class SettingError(ValueError):
    """An environment variable is missing or wrong; the text names it and says what to do."""


@dataclass(frozen=True)
class Settings:
    """Who a worker is, and where its gateway is. Contract section 6."""

    name: str
    gateway: str = "http://127.0.0.1:3001"
    token: str = field(default="", repr=False)
    host: str = "127.0.0.1"
    port: int = 0
    advertise: str | None = None


def from_environment(default_name: str, variables: Mapping[str, str] = os.environ) -> Settings:
    """Raises SettingError. A variable that is empty counts as absent, and white space around it is not part of it."""
    given = {name: text.strip() for name, text in variables.items() if name.startswith("GEARWAY_")}
    token = given.get("GEARWAY_TOKEN")
    if not token:
        raise SettingError(
            "GEARWAY_TOKEN is not set: give it a registration token of the gateway's (admin.registration_tokens, or "
            "the file registration-token in the gateway's data_dir)"
        )
    if not token.isascii() or not token.isprintable():
        raise SettingError("GEARWAY_TOKEN has a character that no token has: a line feed, or one that is not ASCII")
    host, port = _listen(given.get("GEARWAY_LISTEN") or "127.0.0.1:0")
    return Settings(
        name=given.get("GEARWAY_NAME") or default_name,
        gateway=_http_url("GEARWAY_GATEWAY", given.get("GEARWAY_GATEWAY") or Settings.gateway),
        token=token,
        host=host,
        port=port,
        advertise=_http_url("GEARWAY_ADVERTISE", given["GEARWAY_ADVERTISE"])
        if given.get("GEARWAY_ADVERTISE")
        else None,
    )


def _listen(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise SettingError(f"GEARWAY_LISTEN must be host:port, such as 127.0.0.1:9000, not {text!r}")
    return host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port)


def _http_url(name: str, text: str) -> str:
    try:
        url = urlsplit(text)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        usable = usable and text.isprintable() and " " not in text
        # What connecting would do, with an error that nobody expects there.
        (url.hostname or "").encode("idna")
    except ValueError:
        usable = False
    if not usable:
        raise SettingError(f"{name} must be a URL that begins with http:// or https://, not {text!r}")
    return text
