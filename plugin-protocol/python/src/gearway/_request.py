from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

import werkzeug
from werkzeug.datastructures import Headers

from ._context import Context
from ._envelope import Call

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_CALL = "gearway.call"


class Request(werkzeug.Request):
    """A Werkzeug request, as the client sent it to the gateway."""

    # Werkzeug 3 dropped these two; Skygear's cloud code decodes with them.
    charset = "utf-8"
    encoding_errors = "replace"

    # The whole body is in memory already, and the gateway's `limits.max_body` bounds it.
    max_form_memory_size = None

    def __init__(self, environ: WSGIEnvironment, populate_request: bool = True, shallow: bool = False) -> None:
        super().__init__(environ, populate_request, shallow)
        self._call: Call = environ[_CALL]
        # An environ joins repeated headers; these keep them apart.
        self.headers = Headers([(name, value) for name, values in self._call.header.items() for value in values])

    @property
    def params(self) -> dict[str, str]:
        """What each ``{param}`` of the handler's name stood for."""
        return dict(self._call.params)

    @property
    def context(self) -> Context:
        """Who calls, and how long they wait."""
        return self._call.context


def environ(call: Call, script_name: str = "") -> WSGIEnvironment:
    """The call as PEP 3333 has it. ``script_name`` is the part of the path that an application is mounted on."""
    header = call.header
    host, _, port = header.get("Host", ["localhost"])[0].rpartition(":")
    if not port.isdecimal():
        host, port = header.get("Host", ["localhost"])[0], "80"
    request_uri = f"{call.raw_path}?{call.query_string}" if call.query_string else call.raw_path
    result: WSGIEnvironment = {
        "REQUEST_METHOD": call.method,
        "SCRIPT_NAME": _wsgi_text(script_name),
        "PATH_INFO": _wsgi_text(call.path[len(script_name) :]),
        "QUERY_STRING": _wsgi_text(call.query_string),
        "REQUEST_URI": _wsgi_text(request_uri),
        "RAW_URI": _wsgi_text(request_uri),
        "SERVER_NAME": host,
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": call.remote_addr,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(call.body),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        _CALL: call,
    }
    for name, values in header.items():
        if "_" in name:
            # `X_A` and `X-A` would have one name here, and a client could pass one off as the other.
            continue
        key = name.upper().replace("-", "_")
        if key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            result[key] = values[0] if values else ""
        else:
            result["HTTP_" + key] = ("; " if key == "COOKIE" else ",").join(values)
    return result


def _wsgi_text(text: str) -> str:
    """PEP 3333's strings are bytes in disguise."""
    return text if text.isascii() else text.encode().decode("latin-1")
