import { handler, run } from "gearway";

handler("a", () => "ran");
await run();
process.stderr.write("closing what the app has opened\n");
