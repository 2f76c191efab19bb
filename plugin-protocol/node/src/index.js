import { Worker } from "./worker.js";

export { ErrorCode, HandlerError } from "./error.js";
export { currentAccessKeyType, currentCall, currentRequestId, currentUserId } from "./current.js";
export { StartError } from "./start_error.js";
export { Worker };

/** The worker that the functions below speak of, and that `gearway run` runs. */
export const worker = new Worker();

/** @type {typeof import("../index.js").handler} */
export const handler = worker.handler.bind(worker);
/** @type {typeof import("../index.js").mount} */
export const mount = worker.mount.bind(worker);
/** @type {typeof import("../index.js").configure} */
export const configure = worker.configure.bind(worker);
/** @type {typeof import("../index.js").run} */
export const run = worker.run.bind(worker);
/** @type {typeof import("../index.js").testClient} */
export const testClient = worker.testClient.bind(worker);
