"""The bench's handler in Python: the body goes back."""

import gearway


@gearway.handler("echo", method=["POST"], key_required=True, user_required=True)
def echo(request: gearway.Request) -> bytes:
    return request.get_data()
