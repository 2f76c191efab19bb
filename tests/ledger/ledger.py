"""A worker whose handlers write the number of each request into a file before they answer."""

import os
import time

import gearway


def run(request):
    number = request.headers["X-Request-Number"]
    file = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, f"{number}\n".encode())
    finally:
        os.close(file)
    # Long enough to be killed in.
    time.sleep(0.005)
    return number


@gearway.handler("once", method=["POST"], timeout=5)
def once(request):
    return run(request)


@gearway.handler("again", method=["POST"], timeout=5, idempotent=True)
def again(request):
    return run(request)
