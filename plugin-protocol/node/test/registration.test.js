import assert from "node:assert/strict";
import { test } from "node:test";
import { Refused, Transient, Unknown } from "../src/gateway.js";
import { Registrar } from "../src/registration.js";
import { Secret } from "../src/secret.js";
import { readSettings } from "../src/settings.js";
import { Log } from "./support/log.js";

const PLACE = { worker_id: "w1", secret: "s", lease_ms: 9_000 };
const RENEWED = { lease_ms: 9_000, draining: false };

/**
 * What a registrar asks for, and how long it pauses in between, when the gateway answers as the script says. It is told
 * to stop when the script ends.
 *
 * @param {(object | Error)[]} script
 */
async function play(script) {
  const stop = new AbortController();
  const log = new Log();
  /** @type {(string | number)[]} */
  const happened = [];
  const answers = [...script];
  const gateway = {
    url: "http://gateway/",
    ask: async (/** @type {string} */ method, /** @type {string[]} */ below) => {
      happened.push([method, ...below].join(" "));
      if (method === "DELETE") return {};
      const answer = answers.shift();
      if (answers.length === 0) stop.abort();
      if (answer instanceof Error) throw answer;
      return answer ?? {};
    },
  };
  const registrar = new Registrar({
    gateway: /** @type {any} */ (gateway),
    registration: { handlers: [] },
    ownUrl: async () => "http://worker/",
    secret: new Secret(),
    logger: log,
    sleep: async (ms) => {
      if (!stop.signal.aborted) happened.push(Math.round(ms));
    },
    // Without jitter.
    random: () => 1,
  });
  const wasRegistered = await registrar.keep(stop.signal);
  return { happened, log, wasRegistered };
}

test("the lease is renewed at its third, by the newest answer", async () => {
  const { happened, wasRegistered } = await play([PLACE, { lease_ms: 3_000 }, RENEWED, RENEWED]);
  const renew = "PUT w1 lease";
  assert.deepEqual(happened, ["POST", 3_000, renew, 1_000, renew, 3_000, renew, "DELETE w1"]);
  assert.ok(wasRegistered);
});

test("a lost gateway is asked again after 50 ms, twice as long each time, up to a third of the lease", async () => {
  const lost = new Transient("ECONNREFUSED");
  const { happened, log } = await play([PLACE, ...Array(9).fill(lost), RENEWED, RENEWED]);
  const pauses = happened.filter((entry) => typeof entry === "number");
  assert.deepEqual(pauses, [3_000, 50, 100, 200, 400, 800, 1_600, 3_000, 3_000, 3_000, 3_000]);
  assert.deepEqual(
    [log.messages("warn").length, log.messages("info").includes("the gateway is back")],
    [1, true],
  );
});

test("before the first answer, the backoff stays below a third of the default lease", async () => {
  const { happened, wasRegistered } = await play(Array(12).fill(new Transient("ECONNREFUSED")));
  const pauses = happened.filter((entry) => typeof entry === "number");
  assert.equal(Math.max(...pauses), 3_333);
  assert.ok(!wasRegistered && !happened.includes("DELETE w1"));
});

test("after 404 a worker registers at once", async () => {
  const { happened } = await play([PLACE, new Unknown(""), { ...PLACE, worker_id: "w2" }, RENEWED]);
  assert.deepEqual(happened, ["POST", 3_000, "PUT w1 lease", "POST", 3_000, "PUT w2 lease", "DELETE w2"]);
});

test("a drained worker goes on renewing, and does not register again", async () => {
  const drained = { lease_ms: 9_000, draining: true };
  const { happened } = await play([
    PLACE,
    drained,
    new Refused(401, "no"),
    new Transient("lost"),
    RENEWED,
    RENEWED,
  ]);
  assert.deepEqual(happened.filter((entry) => entry === "POST").length, 1);
});

test("a path that another service has is explained, and asked for again", async () => {
  const { happened, log } = await play([new Refused(409, '"a" belongs to "billing"'), PLACE, RENEWED]);
  assert.deepEqual(happened.slice(0, 3), ["POST", 3_333, "POST"]);
  const entry = await log.until("another service has a path");
  assert.match(entry.message, /another name.*gearway routes forget.*GEARWAY_NAME/s);
  assert.deepEqual([entry.level, entry.fields.reason], ["error", '"a" belongs to "billing"']);
});

test("jitter shortens a pause by half at most", async () => {
  const stop = new AbortController();
  /** @type {number[]} */
  const pauses = [];
  const registrar = new Registrar({
    gateway: /** @type {any} */ ({ url: "", ask: () => Promise.reject(new Transient("lost")) }),
    registration: { handlers: [] },
    ownUrl: async () => "http://worker/",
    secret: new Secret(),
    logger: new Log(),
    sleep: async (ms) => {
      pauses.push(ms);
      if (pauses.length === 2) stop.abort();
    },
    random: () => 0,
  });
  await registrar.keep(stop.signal);
  assert.deepEqual(pauses, [25, 50]);
});

test("settings: options before variables before defaults", () => {
  const env = {
    GEARWAY_NAME: "env",
    GEARWAY_TOKEN: " t\n",
    GEARWAY_LISTEN: "",
    GEARWAY_GATEWAY: "https://g:1/x",
  };
  const settings = readSettings({ name: "option" }, env, "/srv/app.mjs");
  assert.deepEqual([settings.name, settings.token, settings.gateway.href], ["option", "t", "https://g:1/x"]);
  assert.deepEqual(settings.listen, { host: "127.0.0.1", port: 0 });
  const defaults = readSettings({}, {}, "/srv/orders.service.mjs");
  assert.deepEqual(
    [defaults.name, defaults.gateway.href, defaults.token],
    ["orders.service", "http://127.0.0.1:3001/", undefined],
  );
  assert.deepEqual([defaults.advertise, defaults.maxConcurrency], [undefined, undefined]);
  assert.deepEqual(readSettings({ listen: "[::1]:9" }, {}, undefined).listen, { host: "::1", port: 9 });
  assert.equal(readSettings({}, {}, undefined).name, "worker");
});

test("settings: a bad value is named", () => {
  /** @type {[object, Record<string, string>, RegExp][]} */
  const cases = [
    [{}, { GEARWAY_GATEWAY: "localhost:3001" }, /GEARWAY_GATEWAY: "localhost:3001" must be a URL/],
    [{}, { GEARWAY_ADVERTISE: "/here" }, /GEARWAY_ADVERTISE/],
    [{}, { GEARWAY_LISTEN: "9000" }, /GEARWAY_LISTEN: "9000" must be host:port/],
    [{}, { GEARWAY_LISTEN: "::1:9000" }, /GEARWAY_LISTEN/],
    [{}, { GEARWAY_LISTEN: "h:70000" }, /GEARWAY_LISTEN/],
    [{ maxConcurrency: 0 }, {}, /maxConcurrency must be/],
    [{ maxConcurrency: Number.NaN }, {}, /maxConcurrency must be/],
    [{ concurrency: 1 }, {}, /no option concurrency/],
  ];
  for (const [options, env, reason] of cases) {
    assert.throws(() => readSettings(options, env, undefined), { name: "StartError", message: reason });
  }
});
