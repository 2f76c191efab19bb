import assert from "node:assert/strict";
import { test } from "node:test";
import { Worker } from "gearway";
import { Log } from "./support/log.js";

/** @param {() => unknown} run */
function client(run) {
  const log = new Log();
  const worker = new Worker({ logger: log });
  worker.handler("a", run);
  return { log, fetch: () => worker.testClient().fetch("/a") };
}

const bytes = Uint8Array.from({ length: 300 }, (_, index) => index);

/** @type {[string, () => any][]} */
const BODIES = [
  ["nothing", () => null],
  ["an empty string", () => ""],
  ["text", () => "grüße"],
  ["half a surrogate pair", () => "a\ud800"],
  ["long text", () => "ä".repeat(20_000)],
  ["bytes", () => bytes],
  ["a part of a buffer", () => bytes.subarray(3, 9)],
  ["an ArrayBuffer", () => bytes.slice().buffer],
  ["long bytes", () => new Uint8Array(100_000).fill(255)],
  ["search parameters", () => new URLSearchParams({ a: "b c" })],
  ["a blob", () => new Blob([bytes], { type: "image/png" })],
  ["a stream", () => new Blob(["one", "two"]).stream()],
];

for (const [what, body] of BODIES) {
  test(`a Response made of ${what} reaches the client`, async () => {
    const response = await client(() => new Response(body(), { headers: { "X-A": "é" } })).fetch();
    const like = new Response(body());
    assert.equal(response.headers.get("content-type"), like.headers.get("content-type"));
    assert.equal(response.headers.get("x-a"), "é");
    assert.deepEqual(Buffer.from(await response.arrayBuffer()), Buffer.from(await like.arrayBuffer()));
  });
}

test("a form reaches the client", async () => {
  const form = new FormData();
  form.set("name", "grüße");
  const response = await client(() => new Response(form)).fetch();
  assert.equal((await response.formData()).get("name"), "grüße");
});

test("Response.json and a redirect reach the client", async () => {
  assert.deepEqual(await (await client(() => Response.json({ a: ["ü"] })).fetch()).json(), { a: ["ü"] });
  const moved = await client(() => Response.redirect("http://h/b", 302)).fetch();
  assert.deepEqual([moved.status, moved.headers.get("location")], [302, "http://h/b"]);
});

test("the bytes are those that the Response was made of", async () => {
  const changed = bytes.slice();
  const { fetch } = client(() => {
    const response = new Response(changed);
    changed.fill(0);
    return response;
  });
  assert.deepEqual(new Uint8Array(await (await fetch()).arrayBuffer()), bytes);
});

test("a Response can be given once, and its clones as well", async () => {
  const kept = new Response("kept");
  const { fetch, log } = client(() => kept);
  const copied = client(() => spare.clone());
  const spare = kept.clone();
  assert.equal(await (await fetch()).text(), "kept");
  assert.equal((await fetch()).status, 500);
  assert.match(String(log.entries[0].fields.error), /TypeError: Body/);
  for (let time = 0; time < 2; time += 1) assert.equal(await (await copied.fetch()).text(), "kept");
});

test("a Response without a body can be given again and again", async () => {
  const kept = new Response(null, { status: 204 });
  const { fetch } = client(() => kept);
  for (let time = 0; time < 2; time += 1) assert.equal((await fetch()).status, 204);
});

test("a Response that somebody else reads is no reply", async () => {
  const spoilt = /** @type {((response: Response) => unknown)[]} */ ([
    (response) => response.body?.getReader(),
    (response) => response.body?.cancel(),
    (response) => response.text(),
    (response) => response.body?.tee(),
  ]);
  for (const spoil of spoilt) {
    const { fetch, log } = client(() => {
      const response = new Response("a");
      void spoil(response);
      return response;
    });
    assert.equal((await fetch()).status, 500, String(spoil));
    assert.match(String(log.entries[0].fields.error), /TypeError: Body/);
  }
});

test("a Response that brings an arrayBuffer of its own is asked for it", async () => {
  const { fetch } = client(() => {
    const arrayBuffer = () => Promise.resolve(bytes.slice().buffer);
    return Object.freeze(Object.assign(new Response("a"), { arrayBuffer }));
  });
  assert.deepEqual(new Uint8Array(await (await fetch()).arrayBuffer()), bytes);
});

test("a Response of another class may have its bytes at hand", async () => {
  const other = { status: 201, headers: new Headers({ a: "b" }), arrayBuffer: () => bytes.slice().buffer };
  const response = await client(() => other).fetch();
  assert.deepEqual([response.status, response.headers.get("a")], [201, "b"]);
  assert.deepEqual(new Uint8Array(await response.arrayBuffer()), bytes);
});

test("a frozen Response reaches the client", async () => {
  assert.equal(await (await client(() => Object.freeze(new Response("a"))).fetch()).text(), "a");
});

test("headers with odd names, and many of one name, reach the client", async () => {
  const { fetch } = client(() => {
    const headers = new Headers([
      ["__proto__", "a"],
      ["constructor", "b"],
      ["x-a", "1"],
      ["x-a", "2"],
      ["set-cookie", "a=1"],
      ["set-cookie", "b=2"],
    ]);
    return new Response("", { headers });
  });
  const { headers } = await fetch();
  assert.deepEqual(
    ["__proto__", "constructor", "x-a"].map((name) => headers.get(name)),
    ["a", "b", "1, 2"],
  );
  assert.deepEqual(headers.getSetCookie(), ["a=1", "b=2"]);
});
