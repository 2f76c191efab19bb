import net from "node:net";
import { handler } from "gearway";

// The test closes the connection when the handler may end.
handler("held", async () => {
  const connection = net.connect(Number(process.env.TEST_REPORT_PORT), "127.0.0.1");
  await new Promise((resolve) => connection.on("close", resolve).resume());
  return "done";
});
// What an app keeps open does not keep the process from ending.
setInterval(() => undefined, 60_000);
