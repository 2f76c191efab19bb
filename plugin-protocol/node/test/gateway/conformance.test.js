import assert from "node:assert/strict";
import { test } from "node:test";
import { CLI, Process, app } from "../support/process.js";

const { GEARWAY_BIN } = process.env;

test("the worker keeps the whole protocol", async (t) => {
  assert.ok(GEARWAY_BIN, "GEARWAY_BIN must name a gateway binary");
  const worker = [process.execPath, CLI, "run", "--max-concurrency", "4", app("conformance.mjs")];
  const kit = new Process(t, GEARWAY_BIN, ["conform", "--strict", "--", ...worker]);
  const code = await kit.ended();
  assert.equal(code, 0, `${kit.stdout}\n${kit.lines.join("\n")}`);
});
