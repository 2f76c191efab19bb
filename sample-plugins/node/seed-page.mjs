// Every example of "Custom HTTP Endpoint". What to send to each is in README.md.

import { ErrorCode, HandlerError, currentUserId, handler } from "gearway";

// Names: exactly this path; this path and all below; an override of one path below.
handler("foo", () => "exactly /foo");
handler("tree/", (request) => `${new URL(request.url).pathname} is /tree/ or below`);
handler("abc/", () => "/abc/ or below");
handler("abc/def", () => "exactly /abc/def");

// Methods: different functions for the same endpoint, and one that has to be asked for.
handler("my_endpoint", { methods: ["GET"] }, () => "got");
handler("my_endpoint", { methods: ["POST"] }, async (request) => `posted ${await request.text()}`);
handler("item", { methods: ["DELETE"] }, () => new Response(null, { status: 204 }));

// Credentials.
handler("private", { userRequired: true }, () => currentUserId());
handler("keyed", { keyRequired: true }, () => "a known API key");

// Arguments.
handler("get_query_string", (request) => {
  const query = new URL(request.url).searchParams;
  return {
    key: required("query parameter", "key", query),
    value: integer("value", required("query parameter", "value", query)),
  };
});

handler("form", async (request) => {
  const form = await request.formData();
  return { a: integer("a", required("form field", "a", form)), b: required("form field", "b", form) };
});

handler("json", async (request) => {
  const { name } = await request.json().catch(() => {
    throw new HandlerError(ErrorCode.BadRequest, "the body is not JSON");
  });
  return { name };
});

// What follows /url/, for further actions based on the request's URL.
handler("url/", (request) => {
  const { pathname, search } = new URL(request.url);
  return { path: (pathname + search).slice("/url/".length) };
});

handler("buy/{show}/{seats}", (_request, { params }) => {
  const left = 4;
  const seats = integer("seats", params.seats);
  if (seats < 1) throw invalid("seats", "seats must be at least 1");
  if (seats <= left) return left - seats;
  throw new HandlerError(10001, `${params.show} has only ${left} seats left`, {
    name: "SoldOut",
    info: { left },
  });
});

// Return values.
handler("string", () => "a string");
handler("dict", () => ({ name: "John" }));
handler("list", () => [1, 2, 3]);
handler("int", () => 42);
handler("null", () => null);
handler("response", () => {
  const headers = new Headers({ "Content-Type": "text/html; charset=utf-8" });
  headers.append("Set-Cookie", "theme=dark; Path=/; HttpOnly");
  headers.append("Set-Cookie", "language=de; Path=/");
  return new Response("<h1>created</h1>", { status: 201, headers });
});

function required(kind, name, fields) {
  const value = fields.get(name);
  if (value === null) throw invalid(name, `${kind} ${name} is missing`);
  return value;
}

function integer(name, text) {
  if (!/^[+-]?\d+$/.test(text)) throw invalid(name, `${name} must be a whole number`);
  return Number(text);
}

function invalid(name, message) {
  return new HandlerError(ErrorCode.InvalidArgument, message, { info: { arguments: [name] } });
}
