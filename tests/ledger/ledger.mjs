// A worker whose handlers write the number of each request into a file before they answer.

import { appendFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import { handler } from "gearway";

async function run(request) {
  const number = request.headers.get("x-request-number");
  appendFileSync(process.env.LEDGER, `${number}\n`);
  // Long enough to be killed in.
  await setTimeout(5);
  return number;
}

handler("once", { methods: ["POST"], timeoutMs: 5000 }, run);
handler("again", { methods: ["POST"], timeoutMs: 5000, idempotent: true }, run);
