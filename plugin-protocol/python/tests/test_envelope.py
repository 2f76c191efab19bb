from __future__ import annotations

import json
import random
from typing import Any

import pytest
from harness import envelope

from gearway import _base64
from gearway._envelope import Call, NotAnEnvelope, decode
from gearway._request import Request, environ


@pytest.mark.parametrize("size", [0, 1, 2, 3, 3000, 3001, 3002, 100_000])
@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":")])
def test_bodies_of_every_length(size: int, separators: tuple[str, str]) -> None:
    body = random.Random(size).randbytes(size)
    raw = json.dumps(json.loads(envelope("foo", "POST", body)), separators=separators).encode()
    assert decode(raw).body == body


def test_a_body_is_not_mistaken() -> None:
    """Other fields that look like the body, in an envelope long enough for the short cut."""
    body = b"\xfb\xff" * 3000
    fields = json.loads(envelope("foo", "POST", body))
    for key, value in (
        ("params", {"body": "YQ=="}),
        ("params", {'"body': "YQ=="}),
        ("query_string", '{"body":"YQ=="}'),
        ("query_string", ',"body":"'),
        ("raw_path", '\\"body":"YQ=="'),
    ):
        for separators in ((", ", ": "), (",", ":")):
            param = {key: value, **{k: v for k, v in fields["param"].items() if k != key}}
            call = decode(json.dumps({**fields, "param": param}, separators=separators).encode())
            assert call.body == body
            assert getattr(call, key) == value
    # An escaped slash is JSON, though nobody writes it.
    assert decode(json.dumps(fields).replace("/", "\\/").encode()).body == body


@pytest.fixture(params=["pybase64", "binascii"])
def codec(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both base64 codecs: pybase64 where it is installed, and the standard library's."""
    if request.param == "binascii":
        monkeypatch.setattr(_base64, "_fast", None)


def outcome(raw: bytes) -> Call | str:
    try:
        return decode(raw)
    except NotAnEnvelope as reason:
        # Where in the text the JSON ends depends on what was cut out of it.
        return str(reason).partition(":")[0]


@pytest.mark.usefixtures("codec")
def test_a_body_that_is_cut_out_reads_as_one_that_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Envelopes that were changed anywhere: read alike, or refused alike."""
    choose = random.Random(11)
    pieces = [b'"', b"\\", b"{", b"}", b",", b":", b'"body":"', b"=", b"-", b" ", b"\n", "é".encode(), b"null"]
    for _ in range(2000):
        fields = json.loads(envelope("foo", "POST", choose.randbytes(choose.randrange(40))))
        raw = json.dumps({"pad": "p" * 50, **fields}, separators=(",", ":")).encode()
        start = choose.randrange(len(raw))
        changed = raw[:start] + choose.choice(pieces) + raw[start + choose.randrange(4) :]
        monkeypatch.setattr("gearway._envelope._CUT_FROM", 0)
        cut = outcome(changed)
        monkeypatch.setattr("gearway._envelope._CUT_FROM", 1 << 30)
        assert cut == outcome(changed), changed


@pytest.mark.usefixtures("codec")
def test_another_body_alone_is_not_the_body() -> None:
    fields = json.loads(envelope("foo", "POST", b"\xfb\xff" * 3000))
    del fields["param"]["body"]
    fields["param"]["params"] = {"body": "YWJj" * 2000}
    call = decode(json.dumps(fields, separators=(",", ":")).encode())
    assert (call.body, call.params) == (b"", {"body": "YWJj" * 2000})


def test_unknown_fields_are_ignored() -> None:
    fields = json.loads(envelope("foo"))
    fields["new"] = fields["context"]["new"] = fields["param"]["new"] = {"body": 1}
    assert decode(json.dumps(fields).encode()).name == "foo"


NOT_ENVELOPES: list[tuple[tuple[str, ...], Any]] = [
    (("kind",), "event"),
    (("name",), None),
    (("context",), []),
    (("context", "request_id"), 1),
    (("context", "user_id"), 1),
    (("param",), None),
    (("param", "method"), None),
    (("param", "path"), 3),
    (("param", "header"), []),
    (("param", "header"), {"A": "b"}),
    (("param", "header"), {"A": [1]}),
    (("param", "body"), None),
    (("param", "body"), "YQ"),
    (("param", "body"), "Y Q=="),
    (("param", "body"), "YQ==YQ=="),
    (("param", "body"), "Y-_="),
    (("param", "body"), "é"),
    (("param", "body"), "Y" * 4000 + "Q-=="),
    (("param", "body"), "Y" * 4001),
]


@pytest.mark.parametrize(("path", "value"), NOT_ENVELOPES, ids=lambda value: repr(value)[:40])
def test_what_is_no_envelope(path: tuple[str, ...], value: object) -> None:
    fields = json.loads(envelope("foo"))
    at = fields
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(NotAnEnvelope):
        decode(json.dumps(fields).encode())


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"\xff", b'"x"'])
def test_what_is_not_even_an_object(raw: bytes) -> None:
    with pytest.raises(NotAnEnvelope):
        decode(raw)


def test_headers_cannot_pass_for_others() -> None:
    """`X_A` and `X-A` have one name in an environ; the one that was not meant is left out there."""
    fields = json.loads(envelope("foo"))
    fields["param"]["header"].update({"X_real_ip": ["evil"], "X-Many": ["1", "2"], "Cookie": ["a=1", "b=2"]})
    call = decode(json.dumps(fields).encode())
    variables = environ(call)
    assert "HTTP_X_REAL_IP" not in variables
    assert variables["HTTP_X_MANY"] == "1,2"
    request = Request(variables)
    assert request.headers.getlist("X-Many") == ["1", "2"]
    assert request.headers["X_real_ip"] == "evil"
    assert dict(request.cookies) == {"a": "1", "b": "2"}


def test_delivery_and_trace_reach_the_context() -> None:
    delivery = {"id": "d1", "attempt": 2, "received_at": "2026-01-01T00:00:00Z", "replay_of": None}
    call = decode(envelope("foo", delivery=delivery), "00-ab-cd-01")
    assert call.context.delivery == delivery
    assert call.context.traceparent == "00-ab-cd-01"


def test_a_handler_passes_its_trace_on() -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    client, gateway = f"00-{trace}-00f067aa0ba902b7-01", f"00-{trace}-b7ad6b7169203331-01"
    sent = {"Tracestate": ["a=1", "b=2"], "Traceparent": [client]}
    context = decode(envelope("foo", more=sent), gateway).context
    assert context.tracestate == "a=1,b=2"
    assert context.trace_headers == {"traceparent": gateway, "tracestate": "a=1,b=2"}
    # Another trace than the client's: what the client says of its own does not belong to it.
    other = f"00-{'1' * 32}-b7ad6b7169203331-01"
    assert decode(envelope("foo", more=sent), other).context.trace_headers == {"traceparent": other}
    lone = decode(envelope("foo", more={"Tracestate": ["a=1"]}), gateway).context
    assert lone.trace_headers == {"traceparent": gateway}
    assert decode(envelope("foo", more=sent)).context.trace_headers == {}
