"""Reads HTTP/1 requests as h11 and llhttp do.

Each line of the input is what a client sends on one connection, in hexadecimal; each line of the output says what
the two make of it, as JSON: their requests with the fields that begin with X-, and how the connection ends.

- "refused": the parser raised an error.
- "closed": the parser reads nothing more on this connection.
- "idle": the next byte would begin another request.
- "unfinished": the last request is not whole.
"""

import json
import re
import sys

import h11
import httptools

LIMIT = 64 * 1024


def latin1(value):
    return value.decode("latin-1")


def is_free(name):
    """Parsers rewrite the fields that they obey, so the others are compared."""
    return name.lower().startswith(b"x-")


def by_h11(data):
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=LIMIT)
    connection.receive_data(data)
    requests = []
    request = None
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            return requests, "refused", str(error)
        if isinstance(event, h11.Request):
            request = {
                "method": latin1(event.method),
                "target": latin1(event.target),
                "headers": [[latin1(name).lower(), latin1(value)] for name, value in event.headers if is_free(name)],
                "body": b"",
            }
        elif isinstance(event, h11.Data):
            request["body"] += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            request["body"] = request["body"].hex()
            requests.append(request)
            request = None
            connection.send(h11.Response(status_code=404, headers=[("content-length", "0")]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return requests, "closed", str(connection.our_state)
            connection.start_next_cycle()
        elif event is h11.NEED_DATA:
            between = request is None and not connection.trailing_data[0]
            return requests, "idle" if between else "unfinished", ""
        else:
            return requests, "closed", repr(event)


class Llhttp:
    def __init__(self):
        self.requests = []
        self.request = None
        self.in_head = True
        self.closed = False
        self.parser = httptools.HttpRequestParser(self)

    def on_message_begin(self):
        self.request = {"method": "", "target": b"", "headers": [], "body": b""}
        self.in_head = True

    def on_url(self, url):
        self.request["target"] += url

    def on_headers_complete(self):
        # What comes later are trailer fields.
        self.in_head = False

    def on_header(self, name, value):
        if not self.in_head or not is_free(name):
            return
        # llhttp leaves the trailing spaces to its caller.
        self.request["headers"].append([latin1(name).lower(), latin1(value).rstrip(" \t")])

    def on_body(self, body):
        self.request["body"] += body

    def on_message_complete(self):
        request, self.request = self.request, None
        request["method"] = latin1(self.parser.get_method())
        request["target"] = latin1(request["target"])
        request["body"] = request["body"].hex()
        self.requests.append(request)
        self.closed = not self.parser.should_keep_alive()


def by_llhttp(data):
    # The server declines to switch to any protocol, which llhttp cannot be told.
    data = re.sub(rb"(?im)^upgrade:", b"xpgrade:", data)
    reader = Llhttp()
    end, reason = None, ""
    try:
        reader.parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        end, reason = "closed", "what follows CONNECT is not HTTP"
    except httptools.HttpParserError as error:
        end, reason = "refused", str(error)
    if reader.closed:
        end = "closed"
    return reader.requests, end or ("idle" if reader.request is None else "unfinished"), reason


def main():
    for line in sys.stdin:
        data = bytes.fromhex(line)
        answer = {}
        for name, read in (("h11", by_h11), ("llhttp", by_llhttp)):
            requests, end, reason = read(data)
            answer[name] = {"requests": requests, "end": end, "reason": reason}
        print(json.dumps(answer), flush=True)


main()
