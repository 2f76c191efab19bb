// The conformance handlers of PROTOCOL.md, for `gearway conform -- gearway run --max-concurrency 4 conformance.mjs`.
import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { HandlerError, currentUserId, handler } from "gearway";

/** @type {import("gearway").HandlerOptions} */
const POST = { methods: ["POST"] };
/** @type {import("gearway").HandlerOptions} */
const ALL = { methods: ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"] };

handler("conform/echo", ALL, (request, call) => {
  /** @type {Record<string, string[]>} */
  const header = {};
  for (const [name, value] of call.rawHeaders) (header[name] ??= []).push(value);
  return {
    method: call.method,
    path: call.path,
    raw_path: call.rawPath,
    query_string: call.queryString,
    params: call.params,
    header,
    body_length: call.body.length,
    body_sha256: createHash("sha256").update(call.body).digest("hex"),
    remote_addr: call.remoteAddr,
    request_id: call.requestId,
    user_id: call.userId,
    access_key_type: call.accessKeyType,
  };
});

handler("conform/text", (request) => request.text());
handler("conform/json", POST, (request) => request.json());
handler("conform/body", POST, (request) => request.arrayBuffer());

handler("conform/response", POST, async (request) => {
  /** @type {any} */
  const { status, header, body } = await request.json();
  const headers = new Headers();
  for (const [name, values] of Object.entries(header)) {
    for (const value of values) headers.append(name, value);
  }
  return new Response(body === "" ? null : Buffer.from(body, "base64"), { status, headers });
});

handler("conform/error", POST, async (request) => {
  /** @type {any} */
  const { code, name, message, info } = await request.json();
  throw new HandlerError(code, message, { name, info });
});

handler("conform/fail", POST, async (request) => {
  throw new Error(await request.text());
});

handler("conform/methods", { methods: ["GET"] }, () => "one");
handler("conform/methods", { methods: ["POST", "PATCH"] }, () => "other");
handler("conform/params/{first}/{second}", { methods: ["GET"] }, (request, call) => call.params);

handler("conform/user", { methods: ["GET"], keyRequired: true, userRequired: true }, (request, call) => ({
  user_id: currentUserId(),
  access_key_type: call.accessKeyType,
}));

handler("conform/slow", { ...POST, timeoutMs: 30_000, idempotent: true }, async (request) => {
  await sleep(Number(await request.text()));
  return "slow";
});
