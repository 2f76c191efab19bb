import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import http from "node:http";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { Gateway } from "../support/gateway.js";
import { CLI, Process, app } from "../support/process.js";

const SEED_PAGE = fileURLToPath(new URL("../../../../sample-plugins/node/seed-page.mjs", import.meta.url));
const KEY = ["X-Skygear-API-Key", Gateway.clientKey];
const FORM = ["Content-Type", "application/x-www-form-urlencoded"];
const JSON_TYPE = ["Content-Type", "application/json"];

/**
 * @param {import("node:test").TestContext} t
 * @param {Gateway} gateway
 * @param {string} file
 * @param {string[]} [args]
 */
async function start(t, gateway, file, args = []) {
  const worker = new Process(t, process.execPath, [CLI, "run", file, ...args], { env: gateway.environment });
  await worker.logged('"registered"');
  return worker;
}

const text = "text/plain; charset=utf-8";
const json = "application/json";
/** @type {[string, string, { headers?: string[], body?: string }, number, string | undefined, string | RegExp][]} */
const SEED = [
  ["GET", "/foo", {}, 200, text, "exactly /foo"],
  ["POST", "/foo", {}, 200, text, "exactly /foo"],
  ["PUT", "/foo", {}, 200, text, "exactly /foo"],
  ["DELETE", "/foo", {}, 404, json, /UndefinedOperation/],
  ["GET", "/foo/", {}, 200, json, '{"result":{"status":"OK"}}'],
  ["GET", "/foo/bar", {}, 200, json, '{"result":{"status":"OK"}}'],
  ["GET", "/tree/", {}, 200, text, "/tree/ is /tree/ or below"],
  ["GET", "/tree/a", {}, 200, text, "/tree/a is /tree/ or below"],
  ["GET", "/tree/a/", {}, 200, text, "/tree/a/ is /tree/ or below"],
  ["GET", "/tree/a/b", {}, 200, text, "/tree/a/b is /tree/ or below"],
  ["GET", "/tree?x=1", {}, 301, undefined, ""],
  ["POST", "/tree?x=1", {}, 308, undefined, ""],
  ["GET", "/abc/def", {}, 200, text, "exactly /abc/def"],
  ["GET", "/abc/def/", {}, 200, text, "/abc/ or below"],
  ["GET", "/abc/", {}, 200, text, "/abc/ or below"],
  ["GET", "/my_endpoint", {}, 200, text, "got"],
  ["POST", "/my_endpoint", { body: "hello" }, 200, text, "posted hello"],
  ["PUT", "/my_endpoint", {}, 404, json, /UndefinedOperation/],
  ["DELETE", "/item", {}, 204, undefined, ""],
  ["GET", "/private", {}, 401, json, /NotAuthenticated/],
  ["GET", "/private", { headers: KEY }, 401, json, /NotAuthenticated/],
  [
    "GET",
    "/private",
    { headers: [...KEY, "X-Skygear-Access-Token", "bad"] },
    401,
    json,
    /AccessTokenNotAccepted/,
  ],
  [
    "GET",
    "/private",
    { headers: ["X-Skygear-API-Key", Gateway.masterKey, "X-Gearway-User-Id", "alice"] },
    200,
    text,
    "alice",
  ],
  ["GET", "/keyed", {}, 401, json, /NotAuthenticated/],
  ["GET", "/keyed", { headers: KEY }, 200, text, "a known API key"],
  ["GET", "/get_query_string?key=month&value=10", {}, 200, json, '{"key":"month","value":10}'],
  ["GET", "/get_query_string?key=month", {}, 400, json, /query parameter value is missing.*InvalidArgument/],
  ["POST", "/form", { headers: FORM, body: "a=3&b=at" }, 200, json, '{"a":3,"b":"at"}'],
  ["POST", "/json", { headers: JSON_TYPE, body: '{"name": "John"}' }, 200, json, '{"name":"John"}'],
  ["POST", "/json", { headers: JSON_TYPE, body: "{" }, 400, json, /the body is not JSON/],
  ["GET", "/url/more/levels?level=3", {}, 200, json, '{"path":"more/levels?level=3"}'],
  ["GET", "/buy/hamlet/1", {}, 200, json, "3"],
  ["GET", "/buy/hamlet/9", {}, 500, json, /"code":10001.*"left":4.*SoldOut/],
  ["GET", "/string", {}, 200, text, "a string"],
  ["GET", "/dict", {}, 200, json, '{"name":"John"}'],
  ["GET", "/list", {}, 200, json, "[1,2,3]"],
  ["GET", "/int", {}, 200, json, "42"],
  ["GET", "/null", {}, 200, json, "null"],
  ["GET", "/response", {}, 201, "text/html; charset=utf-8", "<h1>created</h1>"],
];

test("the page of custom HTTP endpoints", async (t) => {
  const gateway = await Gateway.start(t);
  await start(t, gateway, SEED_PAGE);
  for (const [method, target, options, status, type, body] of SEED) {
    await t.test(`${method} ${target} ${options.headers ?? ""} → ${status}`, async () => {
      const response = await gateway.request(target, { method, ...options });
      assert.equal(response.status, status, response.body);
      assert.equal(response.headers["content-type"], type);
      if (typeof body === "string") assert.equal(response.body, body);
      else assert.match(response.body, body);
    });
  }
  const { headers } = await gateway.request("/response");
  assert.deepEqual(headers["set-cookie"], ["theme=dark; Path=/; HttpOnly", "language=de; Path=/"]);
  assert.equal((await gateway.request("/tree?x=1")).headers.location, "/tree/?x=1");
});

test("a user's token lets the user in", async (t) => {
  const gateway = await Gateway.start(t);
  await start(t, gateway, SEED_PAGE);
  const headers = [...KEY, "X-Skygear-Access-Token", await gateway.tokenFor(t, "alice")];
  const { status, body } = await gateway.request("/private", { headers });
  assert.deepEqual([status, body], [200, "alice"]);
});

test("a handler sees what the client sent, and the client what a Response says", async (t) => {
  const gateway = await Gateway.start(t);
  await start(t, gateway, app("echo.mjs"));
  const bytes = Uint8Array.from({ length: 256 }, (_, index) => index);
  const trace = "4bf92f3577b34da6a3ce929d0e0e4736";
  const headers = [
    "Host",
    "api.example.com:8443",
    "Cookie",
    "a=1",
    "X-A",
    "1",
    "X-A",
    "2, 3",
    "x-name",
    "caf\u00e9",
    "traceparent",
    `00-${trace}-00f067aa0ba902b7-01`,
    "tracestate",
    "vendor=1",
  ];
  const target = "/echo/gr%C3%BC%C3%9Fe/%7E?x=1&x=%C3%BC&y=a+b";
  const { body, headers: received } = await gateway.request(target, {
    method: "PATCH",
    headers,
    body: bytes,
  });
  const seen = JSON.parse(body);
  assert.equal(seen.url, `http://api.example.com:8443${target}`);
  assert.deepEqual(
    [seen.host, seen.cookie, seen.a, seen.name],
    ["api.example.com:8443", "a=1", "1, 2, 3", "café"],
  );
  assert.deepEqual(seen.raw, ["1", "2, 3"]);
  assert.deepEqual(Buffer.from(seen.body, "base64"), Buffer.from(bytes));
  assert.deepEqual([seen.length, seen.remote], ["256", "127.0.0.1"]);
  assert.deepEqual([seen.path, seen.rest], ["/echo/grüße/~", "grüße"]);
  assert.match(seen.trace.traceparent, new RegExp(`^00-${trace}-(?!00f067aa0ba902b7)[0-9a-f]{16}-01$`));
  assert.equal(seen.trace.tracestate, "vendor=1");
  assert.equal(seen.requestId, received["x-request-id"]);
  assert.equal(received["x-name"], "café");
  assert.equal((await gateway.request("/echo/a/b", { method: "HEAD" })).status, 200);
});

test("a Hono app is served unchanged", async (t) => {
  const gateway = await Gateway.start(t);
  await start(t, gateway, app("hono.mjs"), ["--mount", "shop"]);
  const item = await gateway.request("/shop/items/7?q=x");
  assert.deepEqual([item.status, item.body], [200, '{"id":"7","q":"x"}']);
  const patched = await gateway.request("/shop/items/7", {
    method: "PATCH",
    headers: JSON_TYPE,
    body: '{"n":1}',
  });
  assert.deepEqual([patched.status, patched.body], [202, '{"n":1}']);
  assert.equal((await gateway.request("/shop/none")).status, 404);
  const failed = await gateway.request("/shop/fails");
  assert.deepEqual([failed.status, failed.body], [500, "Internal Server Error"]);
});

test("an exception's text stays in the worker's log", async (t) => {
  const gateway = await Gateway.start(t);
  const worker = await start(t, gateway, app("echo.mjs"));
  const { status, body } = await gateway.request("/fails");
  assert.equal(status, 500);
  assert.match(body, /UnexpectedError/);
  assert.doesNotMatch(body, /hunter2|echo\.mjs/);
  assert.match(await worker.logged("hunter2"), /echo\.mjs/);
});

test("webhooks are delivered until the handler takes them", async (t) => {
  const gateway = await Gateway.start(t);
  const worker = await start(t, gateway, app("hooks.mjs"));
  const signature = `sha256=${createHmac("sha256", "hook-secret").update("{}").digest("hex")}`;
  const send = (/** @type {string} */ path, /** @type {string} */ signed) =>
    gateway.request(path, { method: "POST", headers: ["X-Hub-Signature-256", signed], body: "{}" });
  assert.equal((await send("/waits", "sha256=0")).status, 401);
  const [waits, gone] = [await send("/waits", signature), await send("/gone", signature)];
  for (const { status, body } of [waits, gone]) assert.deepEqual([status, body], [200, "ok"]);
  await worker.logged("seen /waits 3");
  await worker.logged("seen /gone 1");
  worker.signal("SIGTERM");
  assert.equal(await worker.ended(), 0);
  for (const [path, { headers }, attempts] of /** @type {const} */ ([
    ["/waits", waits, [1, 2, 3]],
    ["/gone", gone, [1]],
  ])) {
    const seen = worker.lines.filter((line) => line.startsWith(`seen ${path} `));
    const deliveries = seen.map((line) => JSON.parse(line.slice(line.indexOf("{"))));
    assert.match(deliveries[0].received_at, /^20.*Z$/);
    assert.deepEqual(
      deliveries,
      attempts.map((attempt) => ({
        id: headers["x-gearway-delivery"],
        attempt,
        received_at: deliveries[0].received_at,
        replay_of: null,
        verification: { scheme: "github", secret: "hook", timestamp: null },
      })),
    );
  }
});

test("a killed gateway that is started again is served again, by the same worker", async (t) => {
  const gateway = await Gateway.start(t);
  const worker = await start(t, gateway, SEED_PAGE);
  assert.equal((await gateway.request("/foo")).status, 200);
  await gateway.kill();
  await worker.logged("cannot reach the gateway");
  await gateway.startAgain();
  await worker.logged("the gateway is back");
  const { status, body } = await gateway.request("/foo", { method: "POST" });
  assert.deepEqual([status, body], [200, "exactly /foo"]);
});

test("a worker that is replaced under load fails no request", async (t) => {
  const gateway = await Gateway.start(t);
  let worker = await start(t, gateway, SEED_PAGE);
  const agent = new http.Agent({ keepAlive: true });
  t.after(() => agent.destroy());
  /** @type {(number | undefined)[]} */
  const statuses = [];
  let loading = true;
  /** @type {() => void} */
  let answered = () => {};
  const client = async () => {
    while (loading) {
      const { status, body } = await gateway.request("/my_endpoint", { method: "POST", body: "x", agent });
      statuses.push(body === "posted x" ? status : undefined);
      answered();
    }
  };
  const load = Promise.all(Array.from({ length: 4 }, client));
  const more = async () => {
    const enough = statuses.length + 50;
    while (statuses.length < enough) await new Promise((resolve) => (answered = () => resolve(undefined)));
  };
  await more();
  for (let round = 0; round < 2; round += 1) {
    const replacement = await start(t, gateway, SEED_PAGE);
    await more();
    worker.signal("SIGTERM");
    assert.equal(await worker.ended(), 0);
    await more();
    worker = replacement;
  }
  // The only one: requests wait for the next.
  worker.signal("SIGTERM");
  assert.equal(await worker.ended(), 0);
  await start(t, gateway, SEED_PAGE);
  await more();
  loading = false;
  await load;
  assert.deepEqual(
    statuses.filter((status) => status !== 200),
    [],
  );
});
