import assert from "node:assert/strict";
import { once } from "node:events";
import http from "node:http";
import { test } from "node:test";
import { buffer } from "node:stream/consumers";
import { setImmediate } from "node:timers/promises";
import { inspect } from "node:util";
import { Worker } from "gearway";
import { Log } from "./support/log.js";
import { Calls } from "../src/call.js";
import { Routes } from "../src/routes.js";

/** @typedef {import("gearway").HandlerFunction} HandlerFunction */

const URL_TEXT = "http://h.example/a/b?q=1";
const TEXT = '{"a":[1,"grüße"]}';
const HEADERS = { Host: "h.example", "Content-Type": "application/json", "X-Name": "n" };

/** A request as the handler gets it, made by Fetch itself. @param {string | Uint8Array<ArrayBuffer>} body */
function native(body = TEXT) {
  const length = String(Buffer.byteLength(body));
  return new Request(URL_TEXT, { method: "POST", headers: { ...HEADERS, "Content-Length": length }, body });
}

/**
 * Has a handler look at its request, which was made like {@link native}'s.
 *
 * @param {HandlerFunction} look
 * @param {RequestInit} [init]
 * @param {string} [target]
 * @returns {Promise<any>} what the handler returns
 */
async function handled(look, init = {}, target = URL_TEXT) {
  const worker = new Worker({ logger: new Log() });
  /** @type {PromiseWithResolvers<any>} */
  const { promise, resolve, reject } = Promise.withResolvers?.() ?? resolvers();
  worker.handler("/", async (request, call) => {
    try {
      resolve(await look(request, call));
    } catch (error) {
      reject(error);
    }
  });
  const headers = { ...HEADERS, .../** @type {Record<string, string>} */ (init.headers) };
  const response = await worker.testClient().fetch(target, { method: "POST", body: TEXT, ...init, headers });
  assert.equal(response.status, 200, await response.text());
  return promise;
}

/** @returns {any} */
function resolvers() {
  const parts = /** @type {any} */ ({});
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }));
  return parts;
}

/** @type {Record<string, (request: any) => Promise<unknown>>} */
const READS = {
  text: (request) => request.text(),
  json: (request) => request.json(),
  arrayBuffer: async (request) => Buffer.from(await request.arrayBuffer()).toString(),
  blob: async (request) => {
    const blob = await request.blob();
    return [blob.type, await blob.text()];
  },
  body: async (request) => (await buffer(request.body)).toString(),
  ...("bytes" in Request.prototype && {
    bytes: async (request) => Buffer.from(await request.bytes()).toString(),
  }),
};

test("it is a Request in every respect that can be asked for", () =>
  handled((request) => {
    const like = native();
    assert.ok(request instanceof Request);
    assert.equal(request.constructor, Request);
    assert.equal(Object.prototype.toString.call(request), "[object Request]");
    assert.deepEqual(Object.keys(request), Object.keys(like));
    /** @type {string[]} */
    const names = [];
    for (const name in request) names.push(name);
    const others = [];
    for (const name in like) others.push(name);
    assert.deepEqual(names.sort(), others.sort());
    assert.ok(names.includes("url") && names.includes("clone"));
    for (const name of names) {
      const [own, other] = [/** @type {any} */ (request)[name], /** @type {any} */ (like)[name]];
      assert.equal(typeof own, typeof other, name);
      if (typeof own !== "object" || own === null) {
        if (typeof own !== "function") assert.equal(own, other, name);
      }
    }
    assert.deepEqual([...request.headers], [...like.headers]);
    assert.equal(request.headers, request.headers);
    assert.equal(request.body, request.body);
  }));

test("it is shown like a Request", () =>
  handled((request) => {
    assert.equal(inspect(request), inspect(native()));
    assert.equal(inspect({ request }, { depth: 0 }), inspect({ request: native() }, { depth: 0 }));
  }));

test("it is cloned by structure as a Request is, or not at all", () =>
  handled((request) => {
    assert.deepEqual(outcome(() => structuredClone(request)), outcome(() => structuredClone(native())));
  }));

/** @param {() => unknown} run */
function outcome(run) {
  try {
    return run();
  } catch (error) {
    return /** @type {Error} */ (error).name;
  }
}

for (const [name, read] of Object.entries(READS)) {
  test(`${name} reads the body, once`, () =>
    handled(async (request) => {
      assert.equal(request.bodyUsed, false);
      const reading = read(request);
      // A stream begins to be read a little later.
      if (name !== "body") assert.equal(request.bodyUsed, true);
      assert.deepEqual(await reading, await read(native()));
      assert.equal(request.bodyUsed, true);
      for (const [again, readAgain] of Object.entries(READS)) {
        if (again !== "body") await assert.rejects(readAgain(request), TypeError, again);
      }
      await assert.rejects(request.formData(), TypeError);
      assert.throws(() => request.clone(), TypeError);
      assert.throws(() => new Request(request), TypeError);
      await assert.rejects(fetch(request), TypeError);
      assert.equal(request.bodyUsed, true);
      assert.equal(/** @type {any} */ (request.body).locked, name !== "body");
    }));

  test(`${name} reads what was looked at before`, () =>
    handled(async (request) => {
      assert.ok(request.body instanceof ReadableStream);
      assert.equal(request.bodyUsed, false);
      assert.equal(request.cache, "default");
      assert.deepEqual(await read(request), await read(native()));
      assert.equal(request.bodyUsed, true);
      await assert.rejects(request.text(), TypeError);
    }));
}

test("Request's own members work on it", () =>
  handled(async (request) => {
    const { prototype } = /** @type {any} */ (Request);
    request.headers.set("x-name", "other");
    for (const name of ["method", "url", "cache", "bodyUsed", "signal", "headers", "body"]) {
      const get = Object.getOwnPropertyDescriptor(prototype, name)?.get;
      assert.equal(get?.call(request), /** @type {any} */ (request)[name], name);
    }
    const clone = prototype.clone.call(request);
    assert.equal(clone.headers.get("x-name"), "other");
    assert.equal(await prototype.text.call(clone), TEXT);
    assert.equal(await prototype.text.call(request), TEXT);
    assert.equal(request.bodyUsed, true);
    await assert.rejects(request.text(), TypeError);
  }));

test("what is half read cannot be read", () =>
  handled(async (request) => {
    const reader = /** @type {ReadableStream} */ (request.body).getReader();
    await assert.rejects(request.text(), TypeError);
    await reader.read();
    reader.releaseLock();
    await assert.rejects(request.text(), TypeError);
    assert.equal(request.bodyUsed, true);
  }));

test("a form", async () => {
  const form = new FormData();
  form.set("name", "grüße");
  form.set("file", new File(["content"], "a.txt", { type: "text/plain" }));
  const sent = new Request(URL_TEXT, { method: "POST", body: form });
  const headers = { "Content-Type": String(sent.headers.get("content-type")) };
  const read = await handled((request) => request.formData(), { headers, body: await sent.arrayBuffer() });
  assert.equal(read.get("name"), "grüße");
  assert.equal(await read.get("file").text(), "content");
  const urlencoded = { "Content-Type": "application/x-www-form-urlencoded" };
  const fields = await handled((request) => request.formData(), { headers: urlencoded, body: "a=1&b=%20" });
  assert.deepEqual([...fields], [["a", "1"], ["b", " "]]);
  await handled((request) => assert.rejects(request.formData(), TypeError));
});

for (const init of [{ method: "GET", body: undefined }, { body: undefined }, { method: "DELETE", body: "" }]) {
  test(`${init.method ?? "POST"} without a body, which may be read again`, async () => {
    const worker = new Worker({ logger: new Log() });
    worker.handler("/", { methods: ["GET", "POST", "DELETE"] }, async (request) => {
      assert.equal(request.body, null);
      for (let time = 0; time < 2; time += 1) {
        assert.equal(await request.text(), "");
        assert.equal((await request.arrayBuffer()).byteLength, 0);
        await assert.rejects(request.json(), SyntaxError);
        assert.equal(request.bodyUsed, false);
      }
      assert.equal(await request.clone().text(), "");
      assert.equal(await new Request(request).text(), "");
      assert.equal(request.body, null);
      return "seen";
    });
    assert.equal(await (await worker.testClient().fetch("/a", { method: "POST", ...init })).text(), "seen");
  });
}

test("text that is no UTF-8, or begins with a mark, reads as it does natively", async () => {
  const bodies = [
    [0xef, 0xbb, 0xbf, 0x61],
    [0xef, 0xbb, 0xbf, 0xef, 0xbb, 0xbf, 0x61],
    [0xef, 0xbb],
    [0xef, 0xbb, 0xbf],
    [0xff, 0xfe, 0x61, 0x00],
    [0xc0, 0x80, 0x61],
    [0xe2, 0x82],
    [0xe2, 0x82, 0x61],
    [0xf0, 0x9f, 0x98],
    [0xf0, 0x9f, 0x98, 0x80, 0x80],
    [0xed, 0xa0, 0x80],
    [0xf4, 0x90, 0x80, 0x80],
    [0x00, 0x7f, 0x80],
    ...Array.from({ length: 200 }, (_, round) =>
      Array.from({ length: 12 }, (_, place) => [0x61, 0xc3, 0xa4, 0xe2, 0x82, 0xac, 0xf0, 0x9f, 0x80, 0xff, 0xed, 0xf4][
        (round * 7 + place * place * (round + 3)) % 12
      ]),
    ),
  ];
  for (const bytes of bodies) {
    const body = Uint8Array.from(bytes);
    const read = await handled((request) => request.text(), { body });
    assert.equal(read, await new Response(body).text(), String(bytes));
  }
  const marked = Buffer.from("\ufeff[1]");
  assert.deepEqual(await handled((request) => request.json(), { body: marked }), [1]);
});

test("json rejects with a SyntaxError, and the body is read", () =>
  handled(
    async (request) => {
      await assert.rejects(request.json(), SyntaxError);
      assert.equal(request.bodyUsed, true);
    },
    { body: "{" },
  ));

test("bytes are the reader's own", () =>
  handled(async (request, call) => {
    const copy = request.clone();
    const read = await request.arrayBuffer();
    assert.equal(read.byteLength, Buffer.byteLength(TEXT));
    new Uint8Array(read).fill(0);
    assert.equal(Buffer.from(call.body).toString(), TEXT);
    assert.equal(await copy.text(), TEXT);
  }));

test("headers may be changed, and what is made of the request has the change", () =>
  handled(async (request) => {
    const early = request.clone();
    request.headers.set("x-name", "changed");
    request.headers.delete("content-type");
    const clone = request.clone();
    clone.headers.append("x-clone", "1");
    assert.equal(request.headers.get("x-clone"), null);
    assert.equal(request.cache, "default");
    request.headers.append("x-name", "again");
    request.headers.append("x-later", "b, c");
    const made = new Request(request.clone(), { method: "PUT" });
    assert.deepEqual([made.method, made.url, await made.text()], ["PUT", URL_TEXT, TEXT]);
    const names = ["x-name", "content-type", "x-later", "x-clone"];
    const seen = [early, clone, made, request].map(({ headers }) => names.map((name) => headers.get(name)));
    assert.deepEqual(seen, [
      ["n", "application/json", null, null],
      ["changed", null, null, "1"],
      ["changed, again", null, "b, c", null],
      ["changed, again", null, "b, c", null],
    ]);
  }));

test("a Request of it has its body, and it is used then", () =>
  handled(async (request) => {
    class Mine extends Request {}
    const clone = request.clone();
    const made = new Mine(request, { headers: { a: "b" } });
    assert.equal(request.bodyUsed, true);
    await assert.rejects(request.text(), TypeError);
    assert.deepEqual([made.url, made.headers.get("a"), made.headers.get("x-name")], [URL_TEXT, "b", null]);
    assert.equal(await made.text(), TEXT);
    const other = new Request(clone, { body: "other" });
    assert.deepEqual([await other.text(), await clone.text()], ["other", TEXT]);
  }));

test("clones are read each by itself, in any order", () =>
  handled(async (request) => {
    const first = request.clone();
    const second = first.clone();
    assert.ok(second instanceof Request);
    assert.equal(await first.text(), TEXT);
    assert.throws(() => first.clone(), TypeError);
    const third = request.clone();
    assert.ok(request.body instanceof ReadableStream);
    const fourth = request.clone();
    const texts = [fourth, third, request, second].map((one) => one.text());
    assert.deepEqual(await Promise.all(texts), [TEXT, TEXT, TEXT, TEXT]);
  }));

test("it can be sent on", async (t) => {
  const server = http.createServer(async (request, response) => {
    const { method, url, headers } = request;
    response.end(JSON.stringify([method, url, headers["x-name"], (await buffer(request)).toString()]));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const host = `127.0.0.1:${/** @type {import("node:net").AddressInfo} */ (server.address()).port}`;
  const sent = await handled(
    async (request) => {
      request.headers.set("x-name", "changed");
      return (await fetch(request)).json();
    },
    { headers: { Host: host } },
    `http://${host}/a?b=c`,
  );
  assert.deepEqual(sent, ["POST", "/a?b=c", "changed", TEXT]);
});

test("it is of the class that an app has put in the place of Node's", async (t) => {
  const { Request: original } = globalThis;
  class Mine extends original {}
  await handled(async (request) => {
    t.after(() => (globalThis.Request = original));
    globalThis.Request = Mine;
    assert.ok(request instanceof original);
    await answered((own) => {
      assert.ok(own instanceof Mine);
      return own.text();
    }).then(({ result }) => assert.equal(result.value, "a"));
  });
});

test("what stands before a request sees the same", () =>
  handled(async (request) => {
    const ways = /** @type {((request: Request) => any)[]} */ ([
      (one) => Object.create(one),
      (one) => new Proxy(one, {}),
      (one) => new Proxy(one, { get: (target, name) => Reflect.get(target, name) }),
    ]);
    const looks = /** @type {((request: any) => any)[]} */ ([
      ({ url }) => url,
      ({ method }) => method,
      ({ headers }) => headers.get("x-name"),
      ({ cache }) => cache,
      (one) => one.clone().text(),
      (one) => one.text(),
    ]);
    for (const before of ways) {
      for (const look of looks) {
        const expected = await Promise.resolve(native()).then(before).then(look).catch(() => undefined);
        if (expected !== undefined) assert.equal(await look(before(request.clone())), expected, String(look));
      }
    }
  }));

/**
 * @param {HandlerFunction} run
 * @param {{ timeoutMs?: number, header?: Record<string, string[]> }} [parts]
 */
async function answered(run, { timeoutMs, header = {} } = {}) {
  const routes = new Routes();
  routes.add("a", { methods: ["POST"] }, run);
  const envelope = {
    kind: "handler",
    name: "a",
    context: { request_id: "r", timeout_ms: timeoutMs },
    param: { method: "POST", path: "/a", raw_path: "/a", header: { Host: ["h"], ...header }, body: "YQ==" },
  };
  const { status, body } = await new Calls(routes, new Log()).answer(JSON.stringify(envelope), null);
  return { status, ...JSON.parse(body.toString()) };
}

test("headers that Fetch refuses are refused, and no others", async () => {
  for (const [name, value] of [
    ["a b", "c"],
    ["", "c"],
    ["ä", "c"],
    ["a", "b\0"],
    ["a", "b\nc"],
    ["a", "€"],
  ]) {
    const { status, error } = await answered(() => "", { header: { [name]: [value] } });
    assert.deepEqual([status, error?.code], [400, 107], `${name}: ${value}`);
  }
  for (const value of ["", " b ", "\tb", "\u0001", "\u007f", "é", "\u0080"]) {
    const { result } = await answered(({ headers }) => headers.get("a"), { header: { A: [value] } });
    assert.equal(result.value, new Headers({ a: value }).get("a"));
  }
});

/** @param {import("gearway").Call} call */
const hasPassed = ({ deadline }) => deadline !== null && Date.now() > deadline.getTime() + 1;

/** Until timers of the call's deadline have run. @param {import("gearway").Call} call */
async function pass(call) {
  while (!hasPassed(call)) await setImmediate();
  for (let turn = 0; turn < 3; turn += 1) await setImmediate();
}

test("a signal that is asked for late tells what it would have told", async () => {
  const seen = await answered(
    async (request, call) => {
      await pass(call);
      return [request.signal.aborted, call.signal.aborted, call.signal.reason.name];
    },
    { timeoutMs: 1 },
  );
  assert.deepEqual(seen.result.value, [true, true, "TimeoutError"]);
});

test("a handler that keeps the process busy past its deadline still hears of it", async () => {
  const { error } = await answered(
    (_request, call) => {
      while (!hasPassed(call));
      assert.equal(call.signal.aborted, false);
      return new Promise((_resolve, reject) => {
        call.signal.addEventListener("abort", () => reject(call.signal.reason));
      });
    },
    { timeoutMs: 1 },
  );
  assert.equal(error.name, "PluginTimeout");
});

test("once a call has ended its signal stays as it was", async () => {
  /** @type {import("gearway").Call[]} */
  const calls = [];
  const passing = async (/** @type {Request} */ _request, /** @type {import("gearway").Call} */ call) => {
    calls.push(call);
    if (calls.length === 3) await pass(call);
  };
  const asking = (/** @type {Request} */ _request, /** @type {import("gearway").Call} */ call) => {
    calls.push(call);
    return call.signal.aborted;
  };
  await answered(passing, { timeoutMs: 200 });
  await answered(asking, { timeoutMs: 200 });
  await answered(passing, { timeoutMs: 1 });
  for (const call of calls) await pass(call);
  assert.deepEqual(calls.map(({ signal }) => signal.aborted), [false, false, true]);
});

test("what is made of a request aborts with it", async () => {
  const { error } = await answered(
    (request, call) => {
      const made = [request.clone(), new Request(request.clone()), { ...call }];
      const all = made.map(async ({ signal }) => {
        await once(signal, "abort");
        assert.equal(signal.reason, call.signal.reason);
      });
      return Promise.all(all).then(() => Promise.reject(call.signal.reason));
    },
    { timeoutMs: 20 },
  );
  assert.equal(error.name, "PluginTimeout");
});

test("a call cannot be changed, and can be copied", async () => {
  const { result } = await answered((_request, call) => {
    assert.ok(Object.isFrozen(call));
    assert.throws(() => Object.assign(call, { userId: "mallory" }), TypeError);
    const copy = { ...call };
    assert.equal(copy.signal, call.signal);
    return Object.keys(copy).sort();
  });
  assert.deepEqual(
    result.value,
    "accessKeyType body deadline delivery handlerName method params path queryString rawHeaders rawPath remoteAddr requestId signal traceHeaders traceparent tracestate userId".split(
      " ",
    ),
  );
});
