import { handler } from "gearway";

handler("echo/{rest}/", { methods: ["GET", "PATCH", "HEAD"] }, async (request, call) => {
  const { headers } = request;
  const seen = {
    url: request.url,
    host: headers.get("host"),
    cookie: headers.get("cookie"),
    a: headers.get("x-a"),
    name: headers.get("x-name"),
    length: headers.get("content-length"),
    raw: call.rawHeaders.filter(([name]) => name === "X-A").map(([, value]) => value),
    body: Buffer.from(await request.arrayBuffer()).toString("base64"),
    remote: call.remoteAddr,
    path: call.path,
    rest: call.params.rest,
    requestId: call.requestId,
    trace: call.traceHeaders,
  };
  return Response.json(seen, { headers: { "X-Name": seen.name ?? "" } });
});

handler("fails", () => {
  throw new Error("the password is hunter2");
});
