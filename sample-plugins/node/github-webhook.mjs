// GitHub's events: checked by the gateway, answered by the handler if it is quick, kept and tried again if not.
//
// The gateway needs the webhook's secret:
//
//   [secrets]
//   github = "…"
import { handler, run } from "gearway";

handler(
  "github",
  {
    methods: ["POST"],
    verify: { scheme: "github", secret: "github" },
    delivery: { mode: "deadline", ack_after_ms: 5000 },
  },
  async (request, { delivery }) => {
    const event = request.headers.get("X-GitHub-Event");
    const { repository } = await request.json();
    return { took: event, repository: repository?.full_name ?? null, attempt: delivery?.attempt ?? null };
  },
);

await run();
