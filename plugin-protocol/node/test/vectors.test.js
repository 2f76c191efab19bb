import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { describe, test } from "node:test";
import { ErrorCode, HandlerError, Worker } from "gearway";
import { Calls } from "../src/call.js";
import { Routes } from "../src/routes.js";
import { readSettings } from "../src/settings.js";
import { registrationOf } from "../src/worker.js";
import { Log } from "./support/log.js";

const VECTORS = new URL("../../vectors/", import.meta.url);

/** @param {string} folder @returns {[string, any][]} */
function read(folder) {
  const files = readdirSync(new URL(`${folder}/`, VECTORS)).filter((file) => file.endsWith(".json"));
  assert.notEqual(files.length, 0);
  return files.map((file) => [file, JSON.parse(readFileSync(new URL(`${folder}/${file}`, VECTORS), "utf8"))]);
}

/**
 * @param {any} envelope
 * @param {import("gearway").HandlerFunction} run
 */
async function answer(envelope, run) {
  const routes = new Routes();
  routes.add(envelope.name, { methods: [envelope.param.method] }, run);
  return new Calls(routes, new Log()).answer(Buffer.from(JSON.stringify(envelope)), null);
}

const CALL = {
  kind: "handler",
  name: "a",
  context: { request_id: "r" },
  param: { method: "GET", path: "/a", header: { Host: ["h"] } },
};

describe("requests: the handler is shown what the client sent", () => {
  for (const [file, { http, handler_name: handlerName, context, envelope }] of read("requests")) {
    test(file, async () => {
      const sent = Buffer.from(http.body_base64, "base64");
      const { status, body } = await answer(envelope, async (request, call) => {
        assert.equal(request.method, http.method);
        assert.equal(request.url, new URL(`http://${envelope.param.header.Host[0]}${http.target}`).href);
        for (const [name, values] of Object.entries(envelope.param.header)) {
          const separator = name === "Cookie" ? "; " : ", ";
          assert.equal(
            request.headers.get(name),
            /** @type {string[]} */ (values).join(separator).replace(/^[\t ]+|[\t ]+$/g, ""),
            name,
          );
          const raw = call.rawHeaders.filter(([own]) => own === name).map(([, value]) => value);
          assert.deepEqual(raw, values);
        }
        assert.equal([...request.headers].length, Object.keys(envelope.param.header).length);
        const readable = http.method !== "GET" && http.method !== "HEAD";
        assert.deepEqual(Buffer.from(await request.arrayBuffer()), readable ? sent : Buffer.alloc(0));
        assert.deepEqual(Buffer.from(call.body), sent);
        assert.equal(call.handlerName, handlerName);
        assert.equal(call.requestId, context.request_id);
        assert.equal(call.userId, context.user_id ?? null);
        assert.equal(call.accessKeyType, context.access_key_type ?? null);
        assert.deepEqual(call.params, envelope.param.params);
        assert.equal(call.path, envelope.param.path);
        assert.equal(call.queryString, envelope.param.query_string);
        assert.equal(call.remoteAddr, http.remote_addr);
        return "seen";
      });
      assert.deepEqual([status, JSON.parse(body.toString())], [200, { result: { type: "text", value: "seen" } }]);
    });
  }
});

describe("replies: a handler that returns the value writes the reply", () => {
  // JavaScript has no such numbers, and a string that is returned is a text.
  const notWritten = ["json-big-numbers.json", "json-string.json"];
  for (const [file, { reply }] of read("replies")) {
    if (notWritten.includes(file)) continue;
    const { type, value, status, header = {}, body = "" } = JSON.parse(reply).result;
    test(file, async () => {
      const returned = () => {
        if (type !== "response") return value;
        const headers = new Headers();
        for (const [name, values] of Object.entries(header)) {
          for (const one of /** @type {string[]} */ (values)) headers.append(name, one);
        }
        const bytes = Buffer.from(body, "base64");
        return new Response(bytes.length === 0 ? null : bytes, { status, headers });
      };
      const { body: written } = await answer(CALL, returned);
      const { result } = JSON.parse(written.toString());
      if (type !== "response") {
        assert.deepEqual(result, { type, value });
        return;
      }
      const joined = (/** @type {Record<string, string[]>} */ lists) =>
        Object.entries(lists)
          .map(([name, values]) => [name.toLowerCase(), name === "Set-Cookie" ? values : values.join(", ")])
          .sort();
      assert.deepEqual([result.type, result.status, result.body], [type, status, body]);
      assert.deepEqual(joined(result.header), joined(header));
    });
  }
});

describe("errors: a HandlerError writes the reply", () => {
  /** @type {any[]} */
  const errors = JSON.parse(readFileSync(new URL("errors.json", VECTORS), "utf8"));
  for (const { description, reply, response } of errors) {
    const { error } = JSON.parse(reply);
    test(description, async () => {
      if (error.code < 10_000 && !Object.values(ErrorCode).includes(error.code)) {
        assert.throws(() => new HandlerError(error.code, ""), RangeError);
        return;
      }
      const thrown = new HandlerError(error.code, error.message ?? "", {
        name: error.name,
        info: error.info,
      });
      const { body } = await answer(CALL, () => Promise.reject(thrown));
      const { request_id, ...told } = response.body.error;
      assert.deepEqual(JSON.parse(body.toString()).error, { message: "", ...told });
      assert.equal(thrown.status, response.status);
    });
  }
});

describe("registrations", () => {
  for (const [file, { registration, valid, field = "" }] of read("registrations")) {
    const { name, version, max_concurrency: maxConcurrency, handlers, protocol } = registration;
    const register = () => {
      const settings = readSettings({ name, version, maxConcurrency }, {}, undefined);
      const routes = new Routes();
      for (const { name, methods, key_required, user_required, timeout_ms, idempotent } of handlers) {
        const options = {
          methods,
          keyRequired: key_required,
          userRequired: user_required,
          timeoutMs: timeout_ms,
          idempotent,
        };
        routes.add(name, options, () => null);
      }
      return JSON.parse(JSON.stringify(registrationOf(settings, routes)));
    };
    if (valid && protocol === "gearway-v1") {
      test(`${file} is written`, () => {
        const written = register();
        assert.deepEqual([written.name, written.version, written.protocol], [name, version, protocol]);
        assert.equal(written.max_concurrency, maxConcurrency);
        assert.equal(written.handlers.length, handlers.length);
        for (const [index, spec] of written.handlers.entries()) {
          const defaults = {
            methods: ["GET", "POST", "PUT"],
            key_required: false,
            user_required: false,
            idempotent: false,
          };
          const known = Object.keys(spec);
          const given = Object.entries(handlers[index]).filter(([key]) => known.includes(key));
          assert.deepEqual(spec, { ...defaults, ...Object.fromEntries(given) });
        }
      });
    } else if (/method|clash|concurrency|timeout|required|idempotent|handler-name-empty\.json/.test(file)) {
      test(`${file} is refused before it is sent`, () => {
        assert.throws(register, Error, field);
      });
    }
  }
});

test("what is not an envelope is answered with 400", async () => {
  const calls = new Calls(new Routes(), new Log());
  const worker = new Worker();
  assert.equal(worker.size, 0);
  for (const sent of [
    "",
    "[]",
    "null",
    '{"kind":"event"}',
    JSON.stringify({ ...CALL, kind: "event" }),
    JSON.stringify({ ...CALL, param: null }),
    JSON.stringify({ ...CALL, param: { ...CALL.param, header: { A: "b" } } }),
    JSON.stringify({ ...CALL, param: { ...CALL.param, body: "YQ" } }),
    JSON.stringify({ ...CALL, param: { ...CALL.param, body: "****" } }),
    JSON.stringify({ ...CALL, context: { access_key_type: "other" } }),
  ]) {
    const { status, body } = await calls.answer(sent, null);
    assert.deepEqual([status, JSON.parse(body.toString()).error.code], [400, 107], sent);
  }
});

test("what makes no request is answered with 400, and an unknown handler with an error", async () => {
  const param = { ...CALL.param, header: { Host: ["h"], "X-A": ["a\r\nb"] } };
  assert.equal((await answer({ ...CALL, param }, () => "")).status, 400);
  const calls = new Calls(new Routes(), new Log());
  const { status, body } = await calls.answer(JSON.stringify(CALL), null);
  assert.deepEqual([status, JSON.parse(body.toString()).error.code], [200, 117]);
});

test("a Host that is no host cannot reach into the URL", async () => {
  for (const host of ["a/b", "user@h", "h?x", "h#x", "h\\x", "", "h:99999", "a b"]) {
    const param = { ...CALL.param, path: "/a", raw_path: "/a", query_string: "q", header: { Host: [host] } };
    const { body } = await answer({ ...CALL, param }, (request) => [
      request.url,
      request.headers.get("host"),
    ]);
    assert.deepEqual(JSON.parse(body.toString()).result.value, ["http://localhost/a?q", host]);
  }
});

test("at the deadline the signals abort", async () => {
  const context = { request_id: "r", timeout_ms: 1 };
  const waits = (/** @type {Request} */ request, /** @type {import("gearway").Call} */ call) =>
    new Promise((_resolve, reject) => {
      assert.ok(call.deadline instanceof Date);
      request.signal.addEventListener("abort", () => {
        assert.ok(call.signal.aborted);
        reject(call.signal.reason);
      });
    });
  const { body } = await answer({ ...CALL, context }, waits);
  assert.equal(JSON.parse(body.toString()).error.name, "PluginTimeout");
});

test("a long timeout is not taken for none", async () => {
  const context = { request_id: "r", timeout_ms: 2 ** 40 };
  const { body } = await answer({ ...CALL, context }, async (_request, { signal }) => {
    await new Promise((resolve) => setTimeout(resolve, 5));
    return signal.aborted;
  });
  assert.equal(JSON.parse(body.toString()).result.value, false);
});
