"""Every example of "Custom HTTP Endpoint". What to send to each is in ../README.md."""

import json

import gearway


# Names: exactly this path; this path and all below; an override.
@gearway.handler("foo")
def foo(request):
    return "exactly /foo"


@gearway.handler("tree/")
def tree(request):
    return f"{request.path} is /tree/ or below"


@gearway.handler("abc/")
def below_abc(request):
    return "/abc/ or below"


@gearway.handler("abc/def")
def abc_def(request):
    return "exactly /abc/def"


# Methods: different functions for the same endpoint, and one that has to be asked for.
@gearway.handler("my_endpoint", method=["GET"])
def handle_get(request):
    return "got"


@gearway.handler("my_endpoint", method=["POST"])
async def handle_post(request):
    return "posted " + request.get_data(as_text=True)


@gearway.handler("item", method="DELETE")
def delete_item(request):
    return None, 204


# Credentials.
@gearway.handler("private", user_required=True)
def private(request):
    return gearway.current_user_id()


@gearway.handler("keyed", key_required=True)
def keyed(request):
    return "a known API key"


# Arguments.
@gearway.handler("get_query_string")
def get_query_string(request):
    return {"key": request.args["key"], "value": int(request.args["value"])}


@gearway.handler("form")
def form(request):
    return {"a": int(request.form["a"]), "b": request.form["b"]}


@gearway.handler("json")
def json_body(request):
    return {"name": json.loads(request.get_data()).get("name")}


@gearway.handler("upload", method=["POST"])
def upload(request):
    return {file.filename: len(file.read()) for file in request.files.values()}


@gearway.handler("url/")
def parse_url(request):
    return {"path": request.full_path[len("/url/") :]}


@gearway.handler("buy/{show}/{seats}")
def buy(request):
    left, seats = 4, int(request.params["seats"])
    if seats > left:
        raise gearway.Error(10001, f"only {left} seats left", name="SoldOut", info={"left": left})
    return left - seats


# Return values.
for name, value in {"string": "a string", "dict": {"name": "John"}, "list": [1, 2, 3], "int": 42, "null": None}.items():
    gearway.handler(name)(lambda request, value=value: value)


@gearway.handler("response")
def full_response(request):
    response = gearway.Response("<h1>created</h1>", status=201, mimetype="text/html")
    response.set_cookie("theme", "dark", httponly=True)
    response.set_cookie("language", "de")
    return response
