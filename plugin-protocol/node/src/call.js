import { withCall } from "./current.js";
import { NotAnEnvelope, readEnvelope } from "./envelope.js";
import { ErrorCode, HandlerError, NEUTRAL, encodeError, isHandlerError } from "./error.js";
import { encodeReply } from "./reply.js";
import { openCall } from "./request.js";

/** @typedef {{ status: number, body: string | Buffer }} Answer The worker's HTTP response to one envelope. */

/** What turns envelopes into replies. */
export class Calls {
  #routes;
  #logger;

  /**
   * @param {import("./routes.js").Routes} routes
   * @param {import("../index.js").Logger} logger
   */
  constructor(routes, logger) {
    this.#routes = routes;
    this.#logger = logger;
  }

  /**
   * Runs the handler that the envelope names. Never throws, and nothing waits that need not.
   *
   * @param {string | Buffer} raw
   * @param {string | null} traceparent
   * @returns {Answer | Promise<Answer>}
   */
  answer(raw, traceparent) {
    let opened;
    let route;
    try {
      const envelope = readEnvelope(raw);
      const { name, param } = envelope;
      route = this.#routes.find(name, param.method);
      if (route === undefined) {
        return failure(
          200,
          ErrorCode.UndefinedOperation,
          `no handler ${JSON.stringify(name)} for ${param.method}`,
        );
      }
      opened = openCall(envelope, traceparent);
    } catch (error) {
      if (!(error instanceof NotAnEnvelope)) this.#logger.error("cannot read an envelope", { error });
      return failure(
        400,
        ErrorCode.BadRequest,
        `not an envelope: ${error instanceof Error ? error.message : error}`,
      );
    }
    return withCall(opened.call, this.#run, route.run, opened);
  }

  /**
   * @param {import("../index.js").HandlerFunction} run
   * @param {ReturnType<typeof openCall>} opened
   * @returns {Answer | Promise<Answer>}
   */
  #run = (run, opened) => {
    const { request, call, deadline } = opened;
    const succeeded = (/** @type {string | Buffer} */ body) => {
      deadline.end();
      return { status: 200, body };
    };
    const failed = (/** @type {unknown} */ error) => {
      try {
        return this.#failed(error, opened);
      } finally {
        deadline.end();
      }
    };
    const returned = (/** @type {unknown} */ value) => {
      try {
        const body = encodeReply(value);
        return body instanceof Promise ? body.then(succeeded, failed) : succeeded(body);
      } catch (error) {
        return failed(error);
      }
    };
    let value;
    let later;
    try {
      value = run(request, call);
      deadline.yielded();
      if (isThenable(value)) later = Promise.resolve(value);
    } catch (error) {
      return failed(error);
    }
    return later === undefined ? returned(value) : later.then(returned, failed);
  };

  /**
   * @param {unknown} error
   * @param {ReturnType<typeof openCall>} opened
   * @returns {Answer}
   */
  #failed(error, { call, deadline }) {
    const fields = { handler: call.handlerName, method: call.method, request_id: call.requestId };
    if (isHandlerError(error)) {
      try {
        const body = encodeError(error);
        if (error.cause !== undefined)
          this.#logger.error("a handler answered with an error", { ...fields, error });
        return { status: 200, body };
      } catch (cause) {
        this.#logger.error("a HandlerError's info cannot be JSON", { ...fields, error: cause });
        return failure(200, ErrorCode.UnexpectedError, NEUTRAL);
      }
    }
    if (deadline.isCauseOf(error)) {
      this.#logger.warn("a handler stopped at its deadline", fields);
      return failure(200, ErrorCode.PluginTimeout, "the handler stopped at its deadline");
    }
    this.#logger.error("a handler failed", { ...fields, error });
    return failure(200, ErrorCode.UnexpectedError, NEUTRAL);
  }
}

/**
 * @param {unknown} value
 * @returns {value is PromiseLike<unknown>}
 */
function isThenable(value) {
  if (value instanceof Promise) return true;
  const mayBe = (typeof value === "object" && value !== null) || typeof value === "function";
  return mayBe && typeof (/** @type {Partial<PromiseLike<unknown>>} */ (value).then) === "function";
}

/**
 * @param {number} status
 * @param {number} code
 * @param {string} message
 * @returns {Answer}
 */
export function failure(status, code, message) {
  return { status, body: encodeError(new HandlerError(code, message)) };
}
