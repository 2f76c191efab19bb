// Compiled, not run: what the declarations promise, and that the code keeps it.
import type { Hono } from "hono";
import * as declared from "gearway";
import {
  type Call,
  ErrorCode,
  HandlerError,
  Worker,
  configure,
  currentUserId,
  handler,
  mount,
  run,
  testClient,
} from "gearway";
import * as actual from "../src/index.js";

export const kept: typeof declared = actual;

handler("foo", (request) => request.headers.get("host"));
handler(
  "foo",
  { methods: ["GET"], userRequired: true },
  async (_request: Request, call: Call) => call.params.id,
);
handler("foo", { timeoutMs: 5, idempotent: true, keyRequired: true }, () => new Response("a"));
// @ts-expect-error a method that no gateway routes
handler("foo", { methods: ["CONNECT"] }, () => "");
// @ts-expect-error an option that there is not
handler("foo", { method: ["GET"] }, () => "");
// @ts-expect-error no function
handler("foo", {});

handler(
  "pay/stripe",
  { verify: { scheme: "stripe", secret: "live" }, delivery: { mode: "durable", ack: { body: { ok: true } } } },
  (_request, { delivery }) => [(delivery?.attempt ?? 0) + 1, delivery?.verification?.scheme.toUpperCase()],
);
// @ts-expect-error a scheme that there is not
handler("foo", { verify: { scheme: "stripy", secret: "live" } }, () => "");
// @ts-expect-error a secret has to be named
handler("foo", { verify: { scheme: "stripe" } }, () => "");
// @ts-expect-error the wire's words, and not JavaScript's
handler("foo", { delivery: { mode: "durable", ackAfterMs: 5 } }, () => "");

export function mounts(app: Hono): void {
  mount("shop/", app);
  mount("shop/", { keyRequired: true }, app);
  mount("shop/", app.fetch);
  mount("shop/", (request) => new Response(request.url));
  // @ts-expect-error no app
  mount("shop/", {});
}

export async function calls(): Promise<number> {
  configure({ maxConcurrency: 4 });
  const user: string | null = currentUserId();
  const response: Response = await testClient().fetch("/foo", { userId: user ?? "alice", method: "POST" });
  await new Worker({ name: "a" }).run({ stop: AbortSignal.timeout(1) });
  await run();
  const error = new HandlerError(ErrorCode.ResourceNotFound, "a", { info: { id: 1 } });
  const code: 110 = ErrorCode.ResourceNotFound;
  return response.status + error.code + error.status + code;
}
