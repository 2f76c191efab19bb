// GitHub's events: checked by the gateway, kept, and brought here until they are taken. GitHub itself waits ten seconds, and
// sends nothing again unless somebody presses "Redeliver".
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
    delivery: { mode: "durable" },
  },
  async (request, { delivery }) => {
    const event = request.headers.get("X-GitHub-Event");
    const { repository } = await request.json();
    // What is thrown here is tried again. GitHub has its answer already: this one is for `gearway deliveries show`.
    return { took: event, repository: repository?.full_name ?? null, attempt: delivery?.attempt ?? null };
  },
);

await run();
