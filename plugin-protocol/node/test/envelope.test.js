import assert from "node:assert/strict";
import { randomBytes, randomInt } from "node:crypto";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";
import { NotAnEnvelope, readEnvelope } from "../src/envelope.js";

const VECTORS = new URL("../../vectors/requests/", import.meta.url);
/** So long that the body is looked for in the bytes. */
const PAD = "p".repeat(5000);

/** @param {string | Buffer} raw */
function outcome(raw) {
  try {
    return readEnvelope(raw);
  } catch (error) {
    assert.ok(error instanceof NotAnEnvelope, String(error));
    return error.message;
  }
}

/** Bytes, whose body may be cut out of them, read as text does, whose body is not. @param {string} text */
function same(text) {
  assert.deepEqual(outcome(Buffer.from(text)), outcome(text), text.slice(0, 400));
}

const envelopes = readdirSync(VECTORS)
  .filter((file) => file.endsWith(".json"))
  .map((file) => JSON.parse(readFileSync(new URL(file, VECTORS), "utf8")).envelope);

/** @param {Buffer} body @param {Record<string, unknown>} [more] */
function envelopeOf(body, more = {}) {
  const [first] = envelopes;
  return { pad: PAD, ...first, param: { ...more, ...first.param, ...more, body: body.toString("base64") } };
}

test("every vector reads alike with its body cut out of the bytes", () => {
  for (const envelope of envelopes) {
    same(JSON.stringify({ pad: PAD, ...envelope }));
    same(JSON.stringify({ pad: PAD, ...envelope }, null, 2));
  }
});

test("bodies of every length", () => {
  for (const length of [0, 1, 2, 3, 3000, 3001, 3002, 100_000]) {
    const body = randomBytes(length);
    const read = readEnvelope(Buffer.from(JSON.stringify(envelopeOf(body))));
    assert.deepEqual(Buffer.from(read.param.body), body);
  }
});

test("nothing is taken for the body that only looks like it", () => {
  const body = randomBytes(6000);
  for (const more of [
    { params: { body: "YQ==" } },
    { params: { '"body":"': "YQ==" } },
    { query_string: '{"body":"YQ=="}' },
    { query_string: ',"body":"' },
    { header: { body: ["YQ=="] } },
    { raw_path: "*cut*" },
  ]) {
    const text = JSON.stringify(envelopeOf(body, more));
    same(text);
    assert.deepEqual(Buffer.from(readEnvelope(Buffer.from(text)).param.body), body);
    // The body's own key is written otherwise, and the other one is the only one of its look.
    same(text.replace(/"body":"(?=[^"]{99})/, '"body" : "'));
    same(text.replace(/"body":"(?=[^"]{99})/, '"bod\\u0079":"'));
  }
  // The last of two keys counts.
  same(JSON.stringify(envelopeOf(body)).replace(/\}\}$/, ',"body":"YQ=="}}'));
  same(JSON.stringify(envelopeOf(body)).replaceAll("/", "\\/"));
});

test("what was changed anywhere reads alike, or is refused alike", () => {
  const pieces = ['"', "\\", "{", "}", ",", ":", '"body":"', "=", "-", " ", "\n", "é", "null"];
  for (let round = 0; round < 3000; round += 1) {
    const text = JSON.stringify(envelopeOf(randomBytes(randomInt(40)), { query_string: "a=1" }));
    const from = randomInt(2) === 0 ? text.length - randomInt(120) : randomInt(text.length);
    const upto = Math.min(text.length, from + randomInt(4));
    same(text.slice(0, from) + pieces[randomInt(pieces.length)] + text.slice(upto));
  }
});
