import assert from "node:assert/strict";
import { once } from "node:events";
import net from "node:net";
import { test } from "node:test";
import { FakeGateway, TOKEN, envelope, post } from "./support/fake_gateway.js";
import { CLI, Process, app } from "./support/process.js";

/**
 * @param {import("node:test").TestContext} t
 * @param {string[]} args
 * @param {NodeJS.ProcessEnv} [env]
 */
function gearway(t, args, env = {}) {
  return new Process(t, process.execPath, [CLI, ...args], { env });
}

/** @param {import("node:test").TestContext} t */
async function fakeGateway(t) {
  const gateway = await FakeGateway.start();
  t.after(() => gateway.close());
  return gateway;
}

/** @param {import("node:test").TestContext} t */
async function held(t) {
  const gateway = await fakeGateway(t);
  const reports = net.createServer().listen(0, "127.0.0.1");
  await once(reports, "listening");
  t.after(() => reports.close());
  const { port } = /** @type {net.AddressInfo} */ (reports.address());
  const env = { GEARWAY_GATEWAY: gateway.url, GEARWAY_TOKEN: TOKEN, TEST_REPORT_PORT: String(port) };
  const worker = gearway(t, ["run", app("held.mjs")], env);
  const registration = await gateway.register();
  await worker.logged("registered");
  const call = post(registration.url, "secret", envelope("held"));
  const [connection] = await once(reports, "connection");
  t.after(() => connection.destroy());
  return { gateway, worker, registration, call, connection };
}

for (const signal of /** @type {const} */ (["SIGTERM", "SIGINT"])) {
  test(`${signal}: a worker leaves, finishes what runs, and exits with 0`, async (t) => {
    const { gateway, worker, registration, call, connection } = await held(t);
    assert.equal(registration.name, "held");
    worker.signal(signal);
    const asked = await gateway.next();
    assert.deepEqual([asked.method, asked.path], ["DELETE", "/v1/workers/w1"]);
    asked.answer(204);
    await worker.logged("deregistered");
    connection.end();
    assert.equal((await call).reply.result.value, "done");
    assert.equal(await worker.ended(), 0);
  });
}

test("a second signal ends a worker at once", async (t) => {
  const { gateway, worker, call } = await held(t);
  const lost = assert.rejects(call);
  worker.signal("SIGTERM");
  (await gateway.next()).answer(204);
  worker.signal("SIGTERM");
  assert.equal(await worker.ended(), 1);
  await lost;
});

test("SIGTERM without a gateway: a worker exits with 0", async (t) => {
  const gateway = await FakeGateway.start();
  const { url } = gateway;
  await gateway.close();
  const worker = gearway(t, ["run", app("held.mjs")], { GEARWAY_GATEWAY: url, GEARWAY_TOKEN: TOKEN });
  await worker.logged("cannot reach the gateway");
  worker.signal("SIGTERM");
  assert.equal(await worker.ended(), 0);
});

test("an app that is a default export is mounted, and flags win over the environment", async (t) => {
  const gateway = await fakeGateway(t);
  const env = { GEARWAY_GATEWAY: "http://127.0.0.1:1", GEARWAY_TOKEN: TOKEN, GEARWAY_NAME: "env" };
  const flags = ["--gateway", gateway.url, "--name", "flag", "--mount", "shop", "--max-concurrency", "2"];
  const worker = gearway(t, ["run", app("fetch.mjs"), ...flags], env);
  const { name, url, max_concurrency, handlers } = await gateway.register();
  assert.deepEqual([name, max_concurrency, handlers.length, handlers[0].name], ["flag", 2, 1, "shop/"]);
  assert.equal(handlers[0].methods.length, 7);
  await worker.logged("registered");
  const { reply } = await post(url, "secret", envelope("shop/", { method: "GET", path: "/shop/a" }));
  assert.equal(Buffer.from(reply.result.body, "base64").toString(), "fetched /shop/a as fetch.mjs");
});

test("an app may run by itself, also under the command", async (t) => {
  for (const args of [[app("own-run.mjs")], [CLI, "run", app("own-run.mjs")]]) {
    const gateway = await fakeGateway(t);
    const env = { GEARWAY_GATEWAY: gateway.url, GEARWAY_TOKEN: TOKEN };
    const worker = new Process(t, process.execPath, args, { env });
    assert.equal((await gateway.register()).name, "own-run");
    await worker.logged("registered");
    worker.signal("SIGTERM");
    await gateway.leave();
    await worker.logged("closing what the app has opened");
    assert.equal(await worker.ended(), 0);
  }
});

test("a worker whose npm shell is gone leaves", async (t) => {
  const gateway = await fakeGateway(t);
  const env = { GEARWAY_GATEWAY: gateway.url, GEARWAY_TOKEN: TOKEN, npm_execpath: "/npm" };
  // As npm does: a shell in between, which does not pass signals on.
  const script = '"$@" & wait';
  const shell = new Process(t, "sh", ["-c", script, "sh", process.execPath, CLI, "run", app("fetch.mjs")], {
    env,
  });
  await gateway.register();
  await shell.logged("registered");
  shell.signal("SIGTERM");
  assert.equal((await gateway.leave()).path, "/v1/workers/w1");
  await shell.logged("stopped");
});

test("a signal while the app is loaded ends the command with 0", async (t) => {
  const loading = gearway(t, ["run", app("loading.mjs")]);
  await loading.logged("loading");
  loading.signal("SIGTERM");
  assert.equal(await loading.ended(), 0);
});

const FAILURES = /** @type {[string, string[], NodeJS.ProcessEnv, number, RegExp][]} */ ([
  ["no command", [], {}, 2, /^Usage: gearway run/m],
  ["an unknown flag", ["run", "a.mjs", "--nme"], {}, 2, /--nme/],
  ["no token", ["run", app("held.mjs")], {}, 1, /^gearway: GEARWAY_TOKEN is not set.*$/m],
  [
    "nothing to run",
    ["run", app("nothing.mjs")],
    { GEARWAY_TOKEN: "t" },
    1,
    /registers nothing: call handler/,
  ],
  ["an app that throws", ["run", app("broken.mjs")], {}, 1, /this app is broken[^]*broken\.mjs/],
  ["an app that is not there", ["run", "/nowhere.mjs"], {}, 1, /nowhere\.mjs/],
  [
    "a bad URL",
    ["run", app("held.mjs"), "--gateway", "here"],
    { GEARWAY_TOKEN: "t" },
    1,
    /^gearway: GEARWAY_GATEWAY/m,
  ],
  [
    "an address of another machine",
    ["run", app("held.mjs"), "--listen", "192.0.2.1:1"],
    { GEARWAY_TOKEN: "t" },
    1,
    /^gearway: GEARWAY_LISTEN: listen EADDRNOTAVAIL/m,
  ],
]);

for (const [what, args, env, code, reason] of FAILURES) {
  test(`${what}: exit code ${code}, and why`, async (t) => {
    const run = gearway(t, args, env);
    assert.equal(await run.ended(), code);
    assert.match(run.lines.join("\n"), reason);
  });
}

test("help and version", async (t) => {
  const help = gearway(t, ["--help"]);
  assert.equal(await help.ended(), 0);
  assert.match(help.stdout, /^Usage: gearway run/);
  const version = gearway(t, ["--version"]);
  assert.equal(await version.ended(), 0);
  assert.match(version.stdout, /^gearway \d+\.\d+\.\d+\n$/);
});

test("a taken port is named", async (t) => {
  const taken = net.createServer().listen(0, "127.0.0.1");
  await once(taken, "listening");
  t.after(() => taken.close());
  const { port } = /** @type {net.AddressInfo} */ (taken.address());
  const run = gearway(t, ["run", app("held.mjs"), "--listen", `127.0.0.1:${port}`], { GEARWAY_TOKEN: "t" });
  assert.equal(await run.ended(), 1);
  assert.match(run.lines.join("\n"), new RegExp(`GEARWAY_LISTEN.*EADDRINUSE.*${port}`));
});
