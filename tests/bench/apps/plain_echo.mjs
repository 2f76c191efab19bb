// The same handler without a gateway, on Node's own server.
import { createServer } from "node:http";

const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks);
  response.writeHead(200, { "Content-Type": "application/octet-stream", "Content-Length": body.length });
  response.end(body);
});
server.listen(Number(process.argv[2]), "127.0.0.1");
