import assert from "node:assert/strict";
import { once } from "node:events";
import http from "node:http";
import net from "node:net";
import { test } from "node:test";
import { Worker } from "gearway";
import { FakeGateway, TOKEN, envelope, post } from "./support/fake_gateway.js";
import { Log } from "./support/log.js";

/** @typedef {import("node:test").TestContext} Context */

/**
 * A worker that runs, and the gateway that it asks.
 *
 * @param {Context} t
 * @param {(worker: Worker) => void} setUp
 * @param {import("gearway").WorkerOptions} [options]
 */
async function started(t, setUp, options = {}) {
  const gateway = await FakeGateway.start();
  const log = new Log();
  const worker = new Worker({ name: "w", token: TOKEN, gateway: gateway.url, logger: log, ...options }, {});
  setUp(worker);
  const stop = new AbortController();
  const running = worker.run({ stop: stop.signal });
  running.catch(() => undefined);
  t.after(async () => {
    stop.abort();
    await gateway.close();
  });
  return { gateway, log, worker, stop, running };
}

/**
 * @param {Context} t
 * @param {import("gearway").HandlerFunction} run
 * @param {import("gearway").WorkerOptions} [options]
 */
async function registered(t, run, options) {
  const parts = await started(t, (worker) => worker.handler("a", run), options);
  const { url } = await parts.gateway.register();
  await parts.log.until("registered");
  return { ...parts, url: /** @type {string} */ (url) };
}

/** Something that a test lets happen. */
function latch() {
  let open = () => {};
  const opened = new Promise((resolve) => (open = () => resolve(undefined)));
  return { open, opened };
}

test("a worker registers with its token, its handlers and its URL", async (t) => {
  const { gateway } = await started(
    t,
    (worker) => {
      worker.handler("a", () => "");
      worker.handler(
        "b/",
        { methods: ["DELETE"], userRequired: true, timeoutMs: 5, idempotent: true },
        () => "",
      );
      worker.handler(
        "pay",
        { verify: { scheme: "stripe", secret: "live" }, delivery: { mode: "durable" } },
        () => "",
      );
    },
    { version: "1.2", maxConcurrency: 3 },
  );
  const asked = await gateway.next();
  assert.deepEqual(
    [asked.method, asked.path, asked.authorization],
    ["POST", "/v1/workers", `Bearer ${TOKEN}`],
  );
  const { url, ...body } = asked.body;
  assert.match(url, /^http:\/\/127\.0\.0\.1:\d+\/$/);
  const open = { key_required: false, user_required: false, idempotent: false };
  const methods = ["GET", "POST", "PUT"];
  assert.deepEqual(body, {
    name: "w",
    protocol: "gearway-v1",
    version: "1.2",
    max_concurrency: 3,
    features: [],
    handlers: [
      { ...open, name: "a", methods },
      { ...open, name: "b/", methods: ["DELETE"], user_required: true, timeout_ms: 5, idempotent: true },
      {
        ...open,
        name: "pay",
        methods,
        verify: { scheme: "stripe", secret: "live" },
        delivery: { mode: "durable" },
      },
    ],
  });
});

test("a wildcard listener is advertised at the address that the gateway sees", async (t) => {
  for (const [options, expected] of /** @type {[object, RegExp][]} */ ([
    [{ listen: "0.0.0.0:0" }, /^http:\/\/127\.0\.0\.1:\d+\/$/],
    [{ listen: "[::]:0" }, /^http:\/\/127\.0\.0\.1:\d+\/$/],
    [{ listen: "localhost:0" }, /^http:\/\/(127\.0\.0\.1|\[::1\]):\d+\/$/],
    [{ advertise: "http://worker.example:7/x" }, /^http:\/\/worker\.example:7\/x$/],
  ])) {
    const { gateway } = await started(t, (worker) => worker.handler("a", () => ""), options);
    assert.match((await gateway.register()).url, expected);
  }
});

test("a call without the secret is answered with 401, and does not run", async (t) => {
  let ran = 0;
  const { url } = await registered(t, () => (ran += 1));
  for (const secret of [undefined, "", "wrong", "secret2", "secre", `${"secret"} x`]) {
    const { status, reply } = await post(url, secret, envelope("a"));
    assert.deepEqual([status, reply.error.code], [401, 101]);
  }
  const basic = await post(url, undefined, envelope("a"), { headers: { Authorization: "Basic secret" } });
  assert.equal(basic.status, 401);
  assert.equal(ran, 0);
  assert.equal((await post(url, "secret", envelope("a"))).reply.result.value, 1);
});

test("a call that overtakes its registration's answer waits for it", async (t) => {
  const { gateway } = await started(t, (worker) => worker.handler("a", () => "ran"));
  const asked = await gateway.next();
  const call = post(asked.body.url, "early", envelope("a"));
  // The worker has the call once it has answered another on the same listener.
  assert.equal((await post(asked.body.url, undefined, envelope("a"))).status, 401);
  asked.answer(201, { worker_id: "w1", secret: "early", lease_ms: 600_000 });
  assert.equal((await call).reply.result.value, "ran");
});

test("bodies up to the gateway's limit arrive and return byte for byte", async (t) => {
  const { url } = await registered(t, async (request) => new Response(await request.arrayBuffer()));
  const body = Buffer.alloc(
    10 << 20,
    Uint8Array.from({ length: 251 }, (_, index) => index),
  );
  const { status, reply } = await post(url, "secret", envelope("a", { body }));
  assert.equal(status, 200);
  assert.ok(Buffer.from(reply.result.body, "base64").equals(body));
});

test("an envelope over the limit is 413, also when its length is not said", async (t) => {
  const { url } = await registered(t, () => "", { maxEnvelopeBytes: 1_000 });
  const large = envelope("a", { body: Buffer.alloc(1_000) });
  assert.equal((await post(url, "secret", large)).status, 413);
  assert.equal(
    (await post(url, "secret", large, { headers: { "Transfer-Encoding": "chunked" } })).status,
    413,
  );
  assert.equal((await post(url, "secret", envelope("a"))).status, 200);
});

test("what is no envelope is 400, other methods are 405, an unknown handler is an error", async (t) => {
  const { url } = await registered(t, () => "");
  assert.equal((await post(url, "secret", "{")).status, 400);
  assert.equal((await post(url, "secret", "", { method: "PUT" })).status, 405);
  const { status, reply } = await post(url, "secret", envelope("b"));
  assert.deepEqual([status, reply.error.name], [200, "UndefinedOperation"]);
});

test("one call more than maxConcurrency is turned away as not run", async (t) => {
  const hold = latch();
  let running = 0;
  const both = latch();
  const run = async () => {
    running += 1;
    if (running === 2) both.open();
    await hold.opened;
    return "done";
  };
  const { url } = await registered(t, run, { maxConcurrency: 2 });
  const held = [post(url, "secret", envelope("a")), post(url, "secret", envelope("a"))];
  await both.opened;
  const { status, headers, reply } = await post(url, "secret", envelope("a"));
  assert.deepEqual([status, headers["gearway-not-run"], reply.error.code], [503, "1", 118]);
  hold.open();
  for (const { reply } of await Promise.all(held)) assert.equal(reply.result.value, "done");
  assert.equal((await post(url, "secret", envelope("a"))).reply.result.value, "done");
});

test("a failing handler frees its place", async (t) => {
  const run = () => {
    throw new Error("no");
  };
  const { url } = await registered(t, run, { maxConcurrency: 1 });
  for (let call = 0; call < 3; call += 1) {
    assert.equal((await post(url, "secret", envelope("a"))).reply.error.code, 130);
  }
});

test("a logger that throws costs its call the connection, and frees its place", async (t) => {
  for (const run of [() => Promise.reject(new Error("no")), () => assert.fail("no")]) {
    const { url, log } = await registered(t, run, { maxConcurrency: 1 });
    const { error } = log;
    let calls = 0;
    log.error = (...args) => {
      calls += 1;
      if (calls === 1) throw new Error("the disk is full");
      error(...args);
    };
    await assert.rejects(post(url, "secret", envelope("a")), { code: "ECONNRESET" });
    assert.match(String((await log.until("cannot answer a call")).fields.error), /the disk is full/);
    assert.equal((await post(url, "secret", envelope("a"))).reply.error.code, 130);
  }
});

test("a connection serves many calls, and says that it stays", async (t) => {
  const { url } = await registered(t, (_request, { traceparent }) => traceparent);
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  t.after(() => agent.destroy());
  for (let call = 0; call < 3; call += 1) {
    const { headers, reply } = await post(url, "secret", envelope("a"), {
      agent,
      headers: { traceparent: "00-x" },
    });
    assert.equal(reply.result.value, "00-x");
    const stays = String(headers["keep-alive"]);
    assert.ok(Number(/timeout=(\d+)/.exec(stays)?.[1]) >= 65, stays);
  }
  assert.equal(Object.values(agent.freeSockets).flat().length, 1);
});

test("a handler passes its trace on", async (t) => {
  const { url } = await registered(t, (_request, { tracestate, traceHeaders }) => [tracestate, traceHeaders]);
  const trace = "4bf92f3577b34da6a3ce929d0e0e4736";
  const client = `00-${trace}-00f067aa0ba902b7-01`;
  const gateway = `00-${trace}-b7ad6b7169203331-01`;
  const sent = { Tracestate: ["a=1", "b=2"], Traceparent: [client] };
  const ask = async (/** @type {Record<string, string[]>} */ header, /** @type {string | undefined} */ traceparent) => {
    const headers = traceparent === undefined ? {} : { traceparent };
    return (await post(url, "secret", envelope("a", { header }), { headers })).reply.result.value;
  };
  assert.deepEqual(await ask(sent, gateway), ["a=1,b=2", { traceparent: gateway, tracestate: "a=1,b=2" }]);
  // Another trace than the client's: what the client says of its own does not belong to it.
  const other = `00-${"1".repeat(32)}-b7ad6b7169203331-01`;
  assert.deepEqual(await ask(sent, other), [null, { traceparent: other }]);
  assert.deepEqual(await ask({ Tracestate: ["a=1"] }, gateway), [null, { traceparent: gateway }]);
  assert.deepEqual(await ask(sent, undefined), [null, {}]);
});

test("a call runs to its end when its caller goes away", async (t) => {
  const began = latch();
  const hold = latch();
  const ended = latch();
  const { url } = await registered(t, async () => {
    began.open();
    await hold.opened;
    ended.open();
  });
  const request = http.request(url, {
    method: "POST",
    agent: false,
    headers: { Authorization: "Bearer secret" },
  });
  const lost = once(request, "error");
  request.end(envelope("a"));
  await began.opened;
  request.destroy();
  await lost;
  hold.open();
  await ended.opened;
});

test("the lease is renewed, and a lapsed one is replaced by a new registration", async (t) => {
  const { gateway, log } = await started(t, (worker) => worker.handler("a", () => "ran"));
  const { url } = await gateway.register({ id: "w1", secret: "one", leaseMs: 30 });
  const renewed = await gateway.next();
  assert.deepEqual([renewed.method, renewed.path], ["PUT", "/v1/workers/w1/lease"]);
  assert.equal(renewed.authorization, `Bearer ${TOKEN}`);
  renewed.answer(200, { lease_ms: 30, draining: false });
  (await gateway.next()).answer(404, { error: { message: "no such worker" } });
  assert.equal((await gateway.register({ id: "w2", secret: "two" })).url, url);
  await log.until("the lease has lapsed");
  assert.equal((await post(url, "two", envelope("a"))).reply.result.value, "ran");
  assert.equal((await post(url, "one", envelope("a"))).status, 401);
});

test("a gateway that comes back is found again", async (t) => {
  const { gateway, log, stop, running } = await started(t, (worker) => worker.handler("a", () => ""));
  await gateway.register({ leaseMs: 90 });
  const { port } = gateway;
  await gateway.close();
  await log.until("cannot reach the gateway");
  const again = await FakeGateway.start(port);
  t.after(() => again.close());
  assert.equal((await again.next()).answer(404), undefined);
  await again.register({ id: "w2" });
  await log.until("the gateway is back");
  stop.abort();
  assert.equal((await again.leave()).path, "/v1/workers/w2");
  await running;
});

test("a gateway that is not there yet is waited for; one that hangs up is asked again", async (t) => {
  const { gateway, log } = await started(t, (worker) => worker.handler("a", () => ""));
  (await gateway.next()).hangUp();
  (await gateway.next()).answer(503, { error: { message: "starting" } });
  await gateway.register();
  await log.until("registered");
  assert.equal(log.messages("warn").length, 1, "it is said once");
});

test("an operator's drain: the lease is renewed, and the worker does not come back", async (t) => {
  const { gateway, log, stop, running } = await started(t, (worker) => worker.handler("a", () => "ran"));
  const { url } = await gateway.register({ leaseMs: 30 });
  (await gateway.next()).answer(200, { lease_ms: 30, draining: true });
  await log.until("an operator has drained this worker");
  const renewal = await gateway.next();
  assert.equal(renewal.method, "PUT");
  renewal.answer(200, { lease_ms: 30, draining: true });
  assert.equal((await post(url, "secret", envelope("a"))).status, 200);
  (await gateway.next()).answer(404);
  await log.until("stays out");
  stop.abort();
  await running;
  assert.equal(log.messages("info").filter((message) => message === "registered").length, 1);
});

test("a first registration that is refused ends the worker, with the reason", async (t) => {
  for (const [status, expected] of /** @type {[number, RegExp][]} */ ([
    [401, /HTTP 401.*no such token.*GEARWAY_TOKEN/],
    [403, /HTTP 403.*GEARWAY_TOKEN/],
    [400, /HTTP 400/],
    [404, /set GEARWAY_GATEWAY/],
    [200, /does not answer as a gateway's admin listener/],
  ])) {
    const { gateway, running } = await started(t, (worker) => worker.handler("a", () => ""));
    const refused = assert.rejects(running, { name: "StartError", message: expected });
    (await gateway.next()).answer(status, { error: { message: "no such token" } });
    await refused;
  }
});

test("a later refusal does not end the worker", async (t) => {
  const { gateway, log } = await started(t, (worker) => worker.handler("a", () => ""));
  await gateway.register({ leaseMs: 30 });
  (await gateway.next()).answer(401, { error: { message: "no such token" } });
  await log.until("the gateway refuses the worker");
  await gateway.register({ id: "w2" });
});

test("told to stop, a worker leaves, finishes what runs and what is on its way, and closes idle connections", async (t) => {
  const began = latch();
  const hold = latch();
  const { gateway, url, stop, running, log } = await registered(t, async (request) => {
    if ((await request.text()) === "held") {
      began.open();
      await hold.opened;
    }
    return "done";
  });
  const agent = new http.Agent({ keepAlive: true });
  t.after(() => agent.destroy());
  await post(url, "secret", envelope("a"), { agent });
  const [idle] = Object.values(agent.freeSockets).flat();
  const closed = once(/** @type {import("node:net").Socket} */ (idle), "close");
  const unused = net.connect(Number(new URL(url).port), "127.0.0.1");
  const unusedClosed = once(unused, "close");
  await once(unused, "connect");

  const held = post(url, "secret", envelope("a", { body: Buffer.from("held") }));
  await began.opened;
  stop.abort();
  const asked = await gateway.next();
  assert.deepEqual([asked.method, asked.path], ["DELETE", "/v1/workers/w1"]);
  asked.answer(204);
  await log.until("deregistered");
  assert.equal((await post(url, "secret", envelope("a"))).reply.result.value, "done", "a straggler");
  await Promise.all([closed, unusedClosed]);
  await assert.rejects(post(url, "secret", envelope("a")), /ECONNREFUSED/);
  hold.open();
  const { reply, headers } = await held;
  assert.deepEqual([reply.result.value, headers.connection], ["done", "close"]);
  await running;
});

test("told to stop while it registers, a worker undoes the registration", async (t) => {
  const { gateway, stop, running } = await started(t, (worker) => worker.handler("a", () => ""));
  const asked = await gateway.next();
  stop.abort();
  asked.answer(201, { worker_id: "w9", secret: "s", lease_ms: 600_000 });
  assert.equal((await gateway.leave()).path, "/v1/workers/w9");
  await running;
});

test("told to stop without a gateway, a worker ends", async (t) => {
  const { gateway, stop, running, log } = await started(t, (worker) => worker.handler("a", () => ""));
  await gateway.close();
  await log.until("cannot reach the gateway");
  stop.abort();
  await running;
});

test("a worker that runs takes no more handlers, and runs once", async (t) => {
  const { worker, gateway, running } = await started(t, (worker) => worker.handler("a", () => ""));
  await gateway.register();
  assert.throws(() => worker.handler("b", () => ""), /runs already/);
  assert.equal(worker.run(), running);
});
