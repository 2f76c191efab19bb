import { handler } from "gearway";

/** @type {import("gearway").HandlerOptions} */
const hook = {
  methods: ["POST"],
  verify: { scheme: "github", secret: "hook" },
  delivery: { mode: "durable", dedup: "off" },
};

/** @param {import("gearway").Call} call */
function seen({ path, delivery }) {
  const attempt = delivery?.attempt ?? 0;
  console.error(`seen ${path} ${attempt} ${JSON.stringify(delivery)}`);
  return attempt;
}

handler("waits", hook, async (_request, call) =>
  seen(call) < 3 ? new Response("later", { status: 503, headers: { "Retry-After": "0" } }) : undefined,
);
handler("gone", hook, (_request, call) => {
  seen(call);
  return new Response("gone", { status: 410 });
});
