// The bench's handler in JavaScript: the body goes back.
import { handler } from "../../../plugin-protocol/node/src/index.js";

handler("echo", { methods: ["POST"], keyRequired: true, userRequired: true }, (request) => request.bytes?.() ?? request.arrayBuffer());
