"""What a handler asks of the gateway about webhooks, and what it is told of one: the fields of contract section 10."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

Scheme = Literal["stripe", "github", "slack", "shopify", "twilio", "standard-webhooks", "hmac"]


class _VerifySpec(TypedDict):
    scheme: Scheme
    secret: str


class VerifySpec(_VerifySpec, total=False):
    """How the gateway checks a webhook's signature.

    ``secret`` is a name under ``[secrets]`` in the gateway's configuration. ``tolerance_s`` is how far the signed time
    may be from the gateway's clock (300). All others are for the scheme ``hmac``, which needs ``header``.
    """

    tolerance_s: int
    header: str
    prefix: str
    encoding: Literal["hex", "base64"]
    algorithm: Literal["sha1", "sha256", "sha512"]
    timestamp_header: str
    content: str


class Ack(TypedDict, total=False):
    """What the sender gets for a webhook that is on disk: a ``status`` from 200 to 299 (200), text or JSON ("ok")."""

    status: int
    body: Any


class DeliverySpec(TypedDict, total=False):
    """How the gateway delivers a webhook.

    ``mode`` "sync" (the default) keeps nothing; "durable" keeps the request on disk, acknowledges it, then delivers
    it; "deadline" relays the answer if it comes within ``ack_after_ms`` (2500), and acknowledges otherwise.
    ``attempts`` (12) is how often the handler is called at most. ``dedup`` is "auto", "off" or the name of a header,
    ``dedup_window_s`` (259200) how long the same id is the same event.
    """

    mode: Literal["sync", "durable", "deadline"]
    ack_after_ms: int
    ack: Ack
    attempts: int
    dedup: str
    dedup_window_s: int


class Verification(TypedDict):
    """What a webhook's signature told: the scheme, the secret's name, the signed time in seconds since 1970, if any."""

    scheme: str
    secret: str
    timestamp: int | None


class Delivery(TypedDict):
    """Which delivery of the gateway's log a call is an attempt of.

    ``id`` is the same in every attempt, and what the sender saw as ``X-Gearway-Delivery``; ``attempt`` counts from 1;
    ``received_at`` is RFC 3339 in UTC. ``replay_of`` is the id of the delivery that an operator has repeated.
    ``verification`` is None for a handler without ``verify``.
    """

    id: str
    attempt: int
    received_at: str
    replay_of: str | None
    verification: Verification | None
