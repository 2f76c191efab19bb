import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { FakeGateway, TOKEN, envelope, post } from "../support/fake_gateway.js";
import { Process, app } from "../support/process.js";

const PACKAGE = fileURLToPath(new URL("../..", import.meta.url));
const folder = realpathSync(mkdtempSync(join(tmpdir(), "gearway-package-")));
after(() => rmSync(folder, { recursive: true }));

/** @type {{ filename: string, files: { path: string }[] }[]} */
const [packed] = JSON.parse(run(PACKAGE, "npm", "pack", "--json", "--pack-destination", folder));
writeFileSync(join(folder, "package.json"), '{ "name": "consumer", "private": true, "type": "module" }');
run(folder, "npm", "install", "--offline", join(folder, packed.filename));

test("what is packed is what runs, and nothing else", () => {
  const paths = packed.files.map(({ path }) => path);
  for (const path of ["package.json", "README.md", "index.d.ts", "bin/gearway.js", "src/index.js"]) {
    assert.ok(paths.includes(path), path);
  }
  assert.deepEqual(
    paths.filter((path) => !/^(?:package\.json|README\.md|index\.d\.ts|(?:bin|src)\/\w+\.js)$/.test(path)),
    [],
  );
});

test("npx gearway run app.mjs serves", async (t) => {
  cpSync(app("own-run.mjs"), join(folder, "app.mjs"));
  const gateway = await FakeGateway.start();
  t.after(() => gateway.close());
  const env = { GEARWAY_GATEWAY: gateway.url, GEARWAY_TOKEN: TOKEN };
  const worker = new Process(t, "npx", ["--no-install", "gearway", "run", "app.mjs"], { cwd: folder, env });
  const { name, url } = await gateway.register();
  assert.equal(name, "app");
  await worker.logged('"registered"');
  assert.equal((await post(url, "secret", envelope("a"))).reply.result.value, "ran");
  worker.signal("SIGTERM");
  assert.equal((await gateway.leave()).path, "/v1/workers/w1");
  await worker.logged('"stopped"');
});

test("the types are found by TypeScript", () => {
  writeFileSync(
    join(folder, "typed.ts"),
    `import { handler, currentUserId } from "gearway";
handler("foo", (request) => request.url);
handler("private", { methods: ["GET"], userRequired: true }, async (request) => ({ user: currentUserId() }));
// @ts-expect-error
handler("foo", { methods: ["FETCH"] }, () => "");
`,
  );
  const types = ["--typeRoots", join(PACKAGE, "node_modules/@types"), "--types", "node"];
  const options = ["--noEmit", "--strict", "--module", "nodenext", "--target", "es2023", ...types];
  run(folder, process.execPath, join(PACKAGE, "node_modules/typescript/bin/tsc"), ...options, "typed.ts");
});

/**
 * @param {string} cwd
 * @param {string} command
 * @param {string[]} args
 */
function run(cwd, command, ...args) {
  try {
    return execFileSync(command, args, { cwd, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
  } catch (error) {
    const { stdout, stderr } = /** @type {{ stdout: string, stderr: string }} */ (error);
    throw new Error(`${command} ${args.join(" ")}\n${stdout}${stderr}`);
  }
}
