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
    """Raises SettingError. A variable that is empty counts as absent."""
    token = variables.get("GEARWAY_TOKEN")
    if not token:
        raise SettingError(
            "GEARWAY_TOKEN is not set: give it a registration token of the gateway's (admin.registration_tokens, or "
            "the file registration-token in the gateway's data_dir)"
        )
    host, port = _listen(variables.get("GEARWAY_LISTEN") or "127.0.0.1:0")
    return Settings(
        name=variables.get("GEARWAY_NAME") or default_name,
        gateway=_http_url("GEARWAY_GATEWAY", variables.get("GEARWAY_GATEWAY") or Settings.gateway),
        token=token,
        host=host,
        port=port,
        advertise=_http_url("GEARWAY_ADVERTISE", variables["GEARWAY_ADVERTISE"])
        if variables.get("GEARWAY_ADVERTISE")
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
    except ValueError:
        usable = False
    if not usable:
        raise SettingError(f"{name} must be a URL that begins with http:// or https://, not {text!r}")
    return text
