import { NotAnEnvelope } from "./envelope.js";

/** A host with an optional port, and nothing that could reach into the rest of a URL. */
const AUTHORITY = /^(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::\d*)?$/;
/** setTimeout takes a longer time for none at all. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/**
 * The Fetch request and what stands beside it, for one envelope.
 *
 * @param {import("./envelope.js").Envelope} envelope
 * @param {string | null} traceparent
 * @returns {{ request: Request, call: import("../index.js").Call, finished: () => void }} `finished` lets the deadline go
 */
export function openCall({ name, context, param }, traceparent) {
  const { timeoutMs } = context;
  const abort = new AbortController();
  const deadline = timeoutMs === undefined ? null : new Date(Date.now() + timeoutMs);
  /** @type {import("../index.js").Call} */
  const call = Object.freeze({
    handlerName: name,
    requestId: context.requestId,
    userId: context.userId,
    accessKeyType: context.accessKeyType,
    params: param.params,
    method: param.method,
    path: param.path,
    rawPath: param.rawPath,
    queryString: param.queryString,
    rawHeaders: param.headers,
    body: param.body,
    remoteAddr: param.remoteAddr,
    deadline,
    signal: abort.signal,
    traceparent,
    get tracestate() {
      return tracestateOf(param.headers, traceparent);
    },
    get traceHeaders() {
      const { tracestate } = call;
      return {
        ...(traceparent === null ? {} : { traceparent }),
        ...(tracestate === null ? {} : { tracestate }),
      };
    },
    delivery: context.delivery,
  });
  const request = requestOf(param, abort.signal);
  const timer =
    timeoutMs === undefined
      ? undefined
      : setTimeout(
          () => {
            abort.abort(new DOMException("the gateway has stopped waiting for this call", "TimeoutError"));
          },
          Math.min(timeoutMs, LONGEST_TIMER_MS),
        );
  return { request, call, finished: () => clearTimeout(timer) };
}

/**
 * The client's, unless the gateway began another trace than the client's.
 *
 * @param {readonly (readonly [string, string])[]} headers
 * @param {string | null} traceparent
 * @returns {string | null}
 */
function tracestateOf(headers, traceparent) {
  const valuesOf = (/** @type {string} */ wanted) =>
    headers.filter(([name]) => name.toLowerCase() === wanted).map(([, value]) => value);
  const state = valuesOf("tracestate");
  const sent = valuesOf("traceparent")[0];
  // Digits of the trace, between the version and the span.
  const same = sent !== undefined && traceparent !== null && sent.slice(3, 35) === traceparent.slice(3, 35);
  return same && traceparent.length >= 35 && state.length > 0 ? state.join(",") : null;
}

/**
 * @param {import("./envelope.js").Param} param
 * @param {AbortSignal} signal
 */
function requestOf(param, signal) {
  const host = param.headers.find(([name]) => name.toLowerCase() === "host")?.[1] ?? "";
  const bodiless = param.body.length === 0 || param.method === "GET" || param.method === "HEAD";
  try {
    return new Request(urlOf(host, param), {
      method: param.method,
      headers: param.headers,
      body: bodiless ? undefined : param.body,
      signal,
    });
  } catch (error) {
    throw new NotAnEnvelope(`param makes no request: ${error instanceof Error ? error.message : error}`);
  }
}

/**
 * @param {string} host
 * @param {import("./envelope.js").Param} param
 */
function urlOf(host, { rawPath, path, queryString }) {
  const written = rawPath === "" ? encodeURI(path) : rawPath;
  const target =
    `${written.startsWith("/") ? "" : "/"}${written}${queryString === "" ? "" : `?${queryString}`}`
      // A URL of a request has no fragment, so this is a character of its path or query.
      .replaceAll("#", "%23");
  if (AUTHORITY.test(host)) {
    try {
      return new URL(`http://${host}${target}`).href;
    } catch {
      // Such as a port above 65535. The handler still finds what came among the headers.
    }
  }
  return `http://localhost${target}`;
}
