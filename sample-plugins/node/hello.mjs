// The least that a worker can be: GET /hello/node?name=you.
import { handler } from "gearway";

handler("hello/node", { methods: ["GET"] }, (request) => {
  const name = new URL(request.url).searchParams.get("name") ?? "world";
  return `Hello ${name}, from Node`;
});
