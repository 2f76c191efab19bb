"""The least that a worker can be: GET /hello/python?name=you."""

import gearway


@gearway.handler("hello/python", method=["GET"])
def hello(request: gearway.Request) -> str:
    return f"Hello {request.args.get('name', 'world')}, from Python"
