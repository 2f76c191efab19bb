import assert from "node:assert/strict";
import { AsyncResource } from "node:async_hooks";
import { test } from "node:test";
import { setImmediate } from "node:timers/promises";
import { Hono } from "hono";
import {
  ErrorCode,
  HandlerError,
  Worker,
  currentAccessKeyType,
  currentCall,
  currentRequestId,
  currentUserId,
} from "gearway";
import { streamLogger } from "../src/log.js";
import { Log } from "./support/log.js";

/**
 * @param {Response} response
 * @returns {Promise<any>}
 */
const jsonOf = (response) => response.json();

/**
 * A client of one handler, at `/a/…`.
 * @param {import("gearway").HandlerFunction} run
 * @param {import("gearway").HandlerOptions} [options]
 */
function serving(run, options = {}) {
  const log = new Log();
  const worker = new Worker({ logger: log });
  worker.handler("a/", options, run);
  return { log, client: worker.testClient() };
}

const RETURNED = /** @type {[string, unknown, string, string][]} */ ([
  ["a string", "grüße", "text/plain; charset=utf-8", "grüße"],
  ["an empty string", "", "text/plain; charset=utf-8", ""],
  ["half a surrogate pair", "a\ud800", "text/plain; charset=utf-8", "a\ufffd"],
  ["an object", { a: [1, null] }, "application/json", '{"a":[1,null]}'],
  ["an array", [1, "2"], "application/json", '[1,"2"]'],
  ["a number", 42, "application/json", "42"],
  ["zero", 0, "application/json", "0"],
  ["false", false, "application/json", "false"],
  ["null", null, "application/json", "null"],
  ["undefined", undefined, "application/json", "null"],
  ["a promise", Promise.resolve("later"), "text/plain; charset=utf-8", "later"],
  ["bytes", new Uint8Array([0x41, 0x42]), "application/octet-stream", "AB"],
  ["a part of a buffer", new Uint8Array([0x40, 0x41, 0x42]).subarray(1), "application/octet-stream", "AB"],
  ["an ArrayBuffer", new Uint8Array([0x41]).buffer, "application/octet-stream", "A"],
]);

for (const [what, value, type, body] of RETURNED) {
  test(`a handler may return ${what}`, async () => {
    const response = await serving(() => value).client.fetch("/a/");
    assert.equal(response.status, 200);
    assert.equal(response.headers.get("content-type"), type);
    assert.equal(await response.text(), body);
  });
}

test("a Response is given on whole", async () => {
  const bytes = Uint8Array.from({ length: 256 }, (_, index) => index);
  const { client } = serving(() => {
    const headers = new Headers({ "Content-Type": "image/png", "X-Name": "caf\u00e9", __proto__: "odd" });
    headers.append("Set-Cookie", "a=1; Path=/");
    headers.append("Set-Cookie", "b=2");
    return new Response(bytes, { status: 201, headers });
  });
  const response = await client.fetch("/a/");
  assert.equal(response.status, 201);
  assert.equal(response.headers.get("x-name"), "café");
  assert.deepEqual(response.headers.getSetCookie(), ["a=1; Path=/", "b=2"]);
  assert.deepEqual(new Uint8Array(await response.arrayBuffer()), bytes);
});

test("a Response without a body, a streamed one, and one of another class", async () => {
  const { client } = serving((_request, { path }) => {
    if (path === "/a/none") return new Response(null, { status: 204 });
    const streamed = new Response(new Blob(["one", "two"]).stream(), { headers: { __proto__: "x" } });
    if (path === "/a/stream") return streamed;
    const { status, headers } = streamed;
    return { status, headers, arrayBuffer: () => streamed.arrayBuffer() };
  });
  assert.equal((await client.fetch("/a/none")).status, 204);
  assert.equal(await (await client.fetch("/a/stream")).text(), "onetwo");
  assert.equal(await (await client.fetch("/a/other")).text(), "onetwo");
});

const CIRCLE = /** @type {Record<string, unknown>} */ ({});
CIRCLE.self = CIRCLE;
const REFUSED = /** @type {[string, () => unknown, RegExp][]} */ ([
  ["a BigInt", () => ({ id: 1n }), /BigInt.*String\(value\)/],
  ["a circle", () => CIRCLE, /cannot be JSON.*circular/i],
  ["a function", () => () => 1, /returned a function/],
  ["a symbol", () => Symbol("a"), /returned a symbol/],
  ["a generator", () => pieces(), /a handler returned a generator.*ReadableStream\.from/],
  ["an asynchronous generator", () => laterPieces(), /a handler returned a generator/],
  ["a bare stream", () => new Blob(["a"]).stream(), /return new Response\(value\)/],
  ["Response.error()", () => Response.error(), /status 0/],
  ["a Response that was read", readResponse, /Body/],
]);

function* pieces() {
  yield "a";
}

async function* laterPieces() {
  yield "a";
}

async function readResponse() {
  const response = new Response("a");
  await response.text();
  return response;
}

for (const [what, run, reason] of REFUSED) {
  test(`${what} is no reply, and the log says why`, async () => {
    const { client, log } = serving(run);
    const response = await client.fetch("/a/");
    assert.equal(response.status, 500);
    assert.equal((await jsonOf(response)).error.message, "the handler failed");
    const [{ level, fields }] = log.entries;
    assert.equal(level, "error");
    assert.match(String(fields.error), reason);
  });
}

test("an exception goes to the log with its stack, and not to the client", async () => {
  const { client, log } = serving(() => {
    throw new Error("the password is hunter2");
  });
  const response = await client.fetch("/a/x");
  assert.equal(response.status, 500);
  const { error } = await jsonOf(response);
  assert.deepEqual(error, {
    name: "UnexpectedError",
    code: 130,
    message: "the handler failed",
    request_id: "test",
  });
  const [{ fields }] = log.entries;
  assert.match(/** @type {Error} */ (fields.error).stack ?? "", /hunter2\n.*handlers\.test\.js/s);
  assert.deepEqual([fields.handler, fields.method, fields.request_id], ["a/", "GET", "test"]);
});

test("whatever is thrown, the client gets an error", async () => {
  for (const thrown of [undefined, null, "text", 0, { code: 110 }]) {
    const { client } = serving(() => Promise.reject(thrown));
    assert.equal((await client.fetch("/a/")).status, 500);
  }
});

test("a HandlerError reaches the client", async () => {
  const { client, log } = serving(() => {
    throw new HandlerError(ErrorCode.ResourceNotFound, "no such order", { info: { id: 7 } });
  });
  const response = await client.fetch("/a/");
  assert.equal(response.status, 404);
  const { error } = await jsonOf(response);
  assert.deepEqual(error, {
    name: "ResourceNotFound",
    code: 110,
    message: "no such order",
    info: { id: 7 },
    request_id: "test",
  });
  assert.deepEqual(log.entries, []);
});

test("a HandlerError's cause is for the log", async () => {
  const { client, log } = serving(() => {
    throw new HandlerError(10001, "sold out", { name: "SoldOut", cause: new Error("row 7 is locked") });
  });
  const response = await client.fetch("/a/");
  assert.equal(response.status, 500);
  const text = await response.text();
  assert.match(text, /SoldOut/);
  assert.doesNotMatch(text, /locked/);
  assert.equal(log.entries.length, 1);
});

test("a HandlerError of another copy of the package is one too", async () => {
  const other = await import(new URL("../src/error.js?copy", import.meta.url).href);
  const { client } = serving(() => {
    throw new other.HandlerError(ErrorCode.Duplicated, "twice");
  });
  assert.equal((await client.fetch("/a/")).status, 409);
});

test("info that cannot be JSON is an error of the handler", async () => {
  const { client, log } = serving(() => {
    throw new HandlerError(10001, "a", { info: { id: 1n } });
  });
  assert.equal((await jsonOf(await client.fetch("/a/"))).error.code, 130);
  assert.match(log.messages("error")[0], /info/);
});

test("half a surrogate pair in an error, as slice() leaves it, is no reason to lose the error", async () => {
  const { client } = serving(() => {
    throw new HandlerError(10001, "no 😀".slice(0, -1), { info: { name: "😀".slice(1) } });
  });
  const { code, message, info } = (await jsonOf(await client.fetch("/a/"))).error;
  assert.deepEqual({ code, message, info }, { code: 10001, message: "no \ufffd", info: { name: "\ufffd" } });
});

test("an error that cannot even be shown is logged", () => {
  let written = "";
  const stream = /** @type {any} */ ({ write: (/** @type {string} */ text) => (written += text) });
  class Lazy extends Error {
    /** @returns {string} */
    get message() {
      throw new Error("not now");
    }
    /** @returns {string} */
    get stack() {
      throw new Error("not now");
    }
  }
  streamLogger(stream).error("a handler failed", { error: new Lazy() });
  assert.match(JSON.parse(written).error, /cannot be shown/);
});

test("codes are Skygear's, or one's own from 10000 on", () => {
  for (const code of [0, 121, 999, 9_999, 10_000.5, Number.NaN, 2 ** 32]) {
    assert.throws(() => new HandlerError(code, "a"), RangeError);
  }
  assert.equal(new HandlerError(10_000, "a").status, 500);
  assert.equal(new HandlerError(ErrorCode.UserDisabled, "a").status, 403);
  assert.throws(() => new HandlerError(107, "a", { info: /** @type {any} */ ([]) }), TypeError);
  assert.throws(() => new HandlerError(107, "a", { name: /** @type {any} */ (5) }), /name must be a string/);
});

test("the context follows what is asynchronous, and calls do not see each other's", async () => {
  let arrived = 0;
  /** @type {() => void} */
  let release = () => {};
  const both = new Promise((resolve) => (release = () => resolve(undefined)));
  const { client } = serving(async () => {
    arrived += 1;
    if (arrived === 2) release();
    await both;
    await setImmediate();
    const later = await new Promise((resolve) => setTimeout(() => resolve(currentUserId()), 0));
    return [currentUserId(), later, currentAccessKeyType(), currentRequestId(), currentCall()?.path];
  });
  const users = ["alice", "bob"];
  const answers = await Promise.all(
    users.map(async (userId) => (await client.fetch(`/a/${userId}`, { userId })).json()),
  );
  assert.deepEqual(
    answers,
    users.map((user) => [user, user, "client", "test", `/a/${user}`]),
  );
  assert.deepEqual(
    [currentUserId(), currentAccessKeyType(), currentRequestId(), currentCall()],
    [null, null, null, null],
  );
});

test("the context can be bound to a callback", async () => {
  const { client } = serving(() => AsyncResource.bind(() => currentUserId())());
  assert.equal(await (await client.fetch("/a/", { userId: "alice" })).text(), "alice");
});

test("the test client presents users and keys by the gateway's rules", async () => {
  const { client } = serving(() => ({ user: currentUserId(), key: currentAccessKeyType() }), {
    userRequired: true,
  });
  const status = async (/** @type {import("gearway").TestRequestInit} */ init) =>
    (await client.fetch("/a/", init)).status;
  assert.equal(await status({}), 401);
  assert.equal(await status({ accessKeyType: "client" }), 401);
  const response = await client.fetch("/a/", { userId: "alice", accessKeyType: "master" });
  assert.deepEqual(await response.json(), { user: "alice", key: "master" });
  const keyed = serving(() => "in", { keyRequired: true }).client;
  assert.equal((await keyed.fetch("/a/")).status, 401);
  assert.equal((await keyed.fetch("/a/", { accessKeyType: "client" })).status, 200);
});

test("the test client tells of a first attempt to deliver", async () => {
  const worker = new Worker();
  const verify = /** @type {const} */ ({ scheme: "github", secret: "hub" });
  const told = (/** @type {unknown} */ _, /** @type {import("gearway").Call} */ call) => call.delivery;
  worker.handler("plain", { verify }, told);
  worker.handler("sync", { delivery: { mode: "sync" } }, told);
  worker.handler("kept", { delivery: { mode: "deadline" } }, told);
  worker.handler("signed", { verify, delivery: { mode: "durable" } }, told);
  const answer = async (/** @type {string} */ path) =>
    jsonOf(await worker.testClient().fetch(path, { method: "POST" }));
  assert.equal(await answer("/plain"), null);
  assert.equal(await answer("/sync"), null);
  const kept = { id: "test", attempt: 1, received_at: "2000-01-01T00:00:00.000Z", replay_of: null };
  assert.deepEqual(await answer("/kept"), { ...kept, verification: null });
  assert.deepEqual(await answer("/signed"), { ...kept, verification: { ...verify, timestamp: null } });
});

test("names, methods and redirects", async () => {
  const worker = new Worker({ logger: new Log() });
  worker.handler("foo", () => "foo");
  worker.handler("bar/", () => "bar/");
  worker.handler("abc/", () => "abc/");
  worker.handler("abc:def", () => "abc/def");
  worker.handler("abc/{x}/z", (_request, { params }) => params);
  worker.handler("abc/{x}/", () => "abc/{x}/");
  worker.handler("one", { methods: ["GET"] }, () => "got");
  worker.handler("one", { methods: ["POST"] }, () => "posted");
  const client = worker.testClient();
  const text = async (/** @type {string} */ path, method = "GET") =>
    (await client.fetch(path, { method })).text();
  const seeds = '{"result":{"status":"OK"}}';
  for (const [path, body] of [
    ["/foo", "foo"],
    ["/foo/", seeds],
    ["/foo/bar", seeds],
    ["/bar/", "bar/"],
    ["/bar/a/b", "bar/"],
    ["/abc/x", "abc/"],
    ["/abc/def", "abc/def"],
    ["/abc/a%20b/z", '{"x":"a b"}'],
    ["/abc/a/y", "abc/{x}/"],
    ["/abc", ""],
  ]) {
    assert.equal(await text(path), body, path);
  }
  assert.equal(await text("/one"), "got");
  assert.equal(await text("/one", "POST"), "posted");
  const refused = await client.fetch("/one", { method: "PUT" });
  assert.equal(refused.status, 404);
  assert.equal((await jsonOf(refused)).error.name, "UndefinedOperation");
  const moved = await client.fetch("/bar?x=1&y", { method: "POST" });
  assert.deepEqual([moved.status, moved.headers.get("location")], [308, "/bar/?x=1&y"]);
  assert.deepEqual(
    [(await client.fetch("/abc//def")).status, (await client.fetch("/a%2fb")).status],
    [301, 400],
  );
});

test("handlers that cannot be registered are refused where they are written", () => {
  const worker = new Worker();
  worker.handler("a/{x}", () => "");
  const run = () => "";
  /** @type {[any[], RegExp][]} */
  const cases = [
    [["a:{y}", run], /"a:\{y\}": GET is taken by an earlier handler, "a\/\{x\}"/],
    [["", run], /must be a string that is not empty/],
    [["b"], /function/],
    [["b", {}], /last argument must be a function/],
    [["b", { methods: [] }, run], /list such as/],
    [["b", { methods: ["CONNECT"] }, run], /CONNECT is none of GET/],
    [["b", { method: ["GET"] }, run], /no option method; there are methods/],
    [["b", { userRequired: "yes" }, run], /userRequired must be true or false/],
    [["b", { timeoutMs: 0 }, run], /timeoutMs must be/],
    [["b", { verify: "stripe" }, run], /verify must be an object/],
    [["b", { verify: ["stripe"] }, run], /verify must be an object/],
    [["b", { delivery: null }, run], /delivery must be an object/],
  ];
  for (const [args, reason] of cases) {
    assert.throws(() => /** @type {any} */ (worker).handler(...args), reason);
  }
  worker.handler("a/{y}", { methods: ["DELETE"] }, run);
  assert.equal(worker.size, 2);
});

test("a Hono app is mounted unchanged", async () => {
  const app = new Hono().basePath("/shop");
  app.get("/items/:id", (c) => c.json({ id: c.req.param("id"), q: c.req.query("q"), user: currentUserId() }));
  app.patch("/items/:id", async (c) => c.text(`patched ${await c.req.text()}`, 202));
  app.get("/env", (c) => c.json(/** @type {{ userId: string }} */ (c.env).userId));
  app.get("/cookies", (c) => {
    c.header("Set-Cookie", "a=1", { append: true });
    c.header("Set-Cookie", "b=2", { append: true });
    return c.redirect("/shop/elsewhere");
  });
  const worker = new Worker({ logger: new Log() });
  worker.mount("shop", app);
  const client = worker.testClient();
  const item = await client.fetch("/shop/items/7?q=x", { userId: "alice" });
  assert.deepEqual(await item.json(), { id: "7", q: "x", user: "alice" });
  const patched = await client.fetch("/shop/items/7", { method: "PATCH", body: "it" });
  assert.deepEqual([patched.status, await patched.text()], [202, "patched it"]);
  assert.equal(await (await client.fetch("/shop/env", { userId: "bob" })).json(), "bob");
  const moved = await client.fetch("/shop/cookies");
  assert.deepEqual([moved.status, moved.headers.getSetCookie()], [302, ["a=1", "b=2"]]);
  assert.equal((await client.fetch("/shop/none")).status, 404);
  assert.equal((await client.fetch("/shop/items/7", { method: "HEAD" })).status, 200);
});

test("options behind the function are refused: it would be served without them", () => {
  const worker = /** @type {any} */ (new Worker());
  const reason = /the options come before/;
  assert.throws(() => worker.handler("private", () => "secret", { userRequired: true }), reason);
  assert.throws(() => worker.mount("private/", { fetch: () => new Response() }, { userRequired: true }), reason);
  assert.throws(() => worker.mount("private/"), /function or have a fetch method/);
  assert.throws(() => worker.mount("private/", 5), /function or have a fetch method/);
  assert.throws(() => worker.mount(5, { fetch: () => new Response() }), /the name must be a string/);
  assert.equal(worker.size, 0);
});

test("fetch functions and objects are mounted, with options", async () => {
  const worker = new Worker({ logger: new Log() });
  worker.mount("f/", (request) => new Response(request.url));
  worker.mount("o/", { keyRequired: true }, { fetch: (request) => new Response(request.method) });
  const client = worker.testClient();
  assert.equal(
    await (await client.fetch("http://api.example.com/f/a?b#c")).text(),
    "http://api.example.com/f/a?b",
  );
  assert.equal((await client.fetch("/o/")).status, 401);
  const options = await client.fetch("/o/", { method: "OPTIONS", accessKeyType: "client" });
  assert.equal(await options.text(), "OPTIONS");
  assert.throws(() => worker.mount("x/", /** @type {any} */ ({})), /function or have a fetch method/);
});
