import { Deadline } from "./deadline.js";
import { requestOf } from "./incoming_request.js";

/** @typedef {import("../index.js").Call} Call */

const DEADLINE = Symbol("deadline");
/** One accessor for all calls: an own one of each would cost it more than all the rest of it. */
const SIGNAL = {
  enumerable: true,
  /** @this {{ [DEADLINE]: Deadline }} */
  get() {
    return this[DEADLINE].signal;
  },
};

/**
 * The Fetch request and what stands beside it, for one envelope.
 *
 * @param {import("./envelope.js").Envelope} envelope
 * @param {string | null} traceparent
 * @returns {{ request: Request, call: Call, deadline: Deadline }}
 */
export function openCall({ name, context, param }, traceparent) {
  const deadline = new Deadline(context.timeoutMs);
  const { headers } = param;
  const tracestate = traceparent === null ? null : tracestateOf(headers, traceparent);
  const call = {
    handlerName: name,
    requestId: context.requestId,
    userId: context.userId,
    accessKeyType: context.accessKeyType,
    params: param.params,
    method: param.method,
    path: param.path,
    rawPath: param.rawPath,
    queryString: param.queryString,
    rawHeaders: headers,
    body: param.body,
    remoteAddr: param.remoteAddr,
    deadline: deadline.date,
    traceparent,
    tracestate,
    traceHeaders: traceHeadersOf(traceparent, tracestate),
    delivery: context.delivery,
    [DEADLINE]: deadline,
  };
  Object.defineProperty(call, "signal", SIGNAL);
  return {
    request: requestOf(param, deadline),
    call: /** @type {typeof call & { signal: AbortSignal }} */ (Object.freeze(call)),
    deadline,
  };
}

/**
 * @param {string | null} traceparent
 * @param {string | null} tracestate
 */
function traceHeadersOf(traceparent, tracestate) {
  if (traceparent === null) return {};
  return tracestate === null ? { traceparent } : { traceparent, tracestate };
}

/**
 * The client's, unless the gateway began another trace than the client's.
 *
 * @param {readonly (readonly [string, string])[]} headers
 * @param {string} traceparent
 * @returns {string | null}
 */
function tracestateOf(headers, traceparent) {
  /** @type {string | undefined} */
  let sent;
  /** @type {string | undefined} */
  let state;
  for (const [name, value] of headers) {
    if (name.length === 11 && name.toLowerCase() === "traceparent") sent ??= value;
    else if (name.length === 10 && name.toLowerCase() === "tracestate") {
      state = state === undefined ? value : `${state},${value}`;
    }
  }
  // Digits of the trace, between the version and the span.
  const same = sent !== undefined && sent.slice(3, 35) === traceparent.slice(3, 35);
  return same && traceparent.length >= 35 ? (state ?? null) : null;
}
