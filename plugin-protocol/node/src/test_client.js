import { HandlerError, ErrorCode, statusOf } from "./error.js";
import { canonicalCase } from "./reply.js";

const ORIGIN = "http://localhost";
const DEFAULT_TIMEOUT_MS = 60_000;
const BODILESS = [204, 205, 304];

/**
 * Calls a worker's handlers in this process: each request becomes an envelope, and each reply a response, as a gateway
 * makes them. Names, methods, credentials, redirects and errors follow its rules.
 */
export class TestClient {
  #routes;
  #calls;

  /**
   * @param {import("./routes.js").Routes} routes
   * @param {import("./call.js").Calls} calls
   */
  constructor(routes, calls) {
    this.#routes = routes;
    this.#calls = calls;
  }

  /**
   * @param {string | URL | Request} target
   * @param {import("../index.js").TestRequestInit} [init]
   * @returns {Promise<Response>}
   */
  async fetch(target, { userId, accessKeyType, ...init } = {}) {
    const request =
      target instanceof Request ? new Request(target, init) : new Request(new URL(target, ORIGIN), init);
    const url = new URL(request.url);
    const queryString = url.search.replace(/^\?/, "");
    const path = canonicalPath(url.pathname);
    if (path === undefined) {
      return told({
        code: ErrorCode.BadRequest,
        message: "the path has an escape or a character that is refused",
      });
    }
    if (path.includes("//"))
      return redirect(request.method, url.pathname.replace(/\/{2,}/g, "/"), queryString);
    const matching = this.#routes.all.flatMap((route) => {
      const match = route.pattern.match(path);
      return match === undefined ? [] : [{ ...match, spec: route.spec }];
    });
    if (matching.length === 0) return this.#unmatched(request.method, url.pathname, path, queryString);
    const best = matching.map(({ rank }) => rank).sort()[0];
    const found = matching.find(({ rank, spec }) => rank === best && spec.methods.includes(request.method));
    if (found === undefined) {
      const message = `no handler for ${request.method} at this path`;
      return told({ code: ErrorCode.UndefinedOperation, message });
    }
    const { spec, params } = found;
    const key = accessKeyType ?? (userId === undefined ? undefined : "client");
    if ((spec.key_required || spec.user_required) && key === undefined) {
      return told({ code: ErrorCode.NotAuthenticated, message: "an API key is required" });
    }
    if (spec.user_required && userId === undefined) {
      return told({ code: ErrorCode.NotAuthenticated, message: "an access token is required" });
    }
    const body = Buffer.from(await request.arrayBuffer());
    const envelope = {
      kind: "handler",
      name: spec.name,
      context: {
        request_id: "test",
        user_id: userId,
        access_key_type: key,
        timeout_ms: spec.timeout_ms ?? DEFAULT_TIMEOUT_MS,
        delivery: deliveryOf(spec),
      },
      param: {
        method: request.method,
        path,
        raw_path: url.pathname,
        query_string: queryString,
        params,
        header: headersOf(request, url.host, body.length),
        body: body.toString("base64"),
        remote_addr: "127.0.0.1",
      },
    };
    const answer = await this.#calls.answer(JSON.stringify(envelope), null);
    return responseOf(JSON.parse(answer.body.toString()));
  }

  /**
   * `/foo` goes to `/foo/` where that is known; else Skygear's answer.
   *
   * @param {string} method
   * @param {string} rawPath
   * @param {string} path
   * @param {string} queryString
   */
  #unmatched(method, rawPath, path, queryString) {
    const below = `${path}/`;
    const known = this.#routes.all.some(
      ({ pattern }) => pattern.takesSubtree && pattern.match(below) !== undefined,
    );
    return known ? redirect(method, `${rawPath}/`, queryString) : Response.json({ result: { status: "OK" } });
  }
}

/**
 * What a gateway says of the first attempt; the signature, which the test would have to make, counts as good.
 *
 * @param {import("./routes.js").HandlerSpec} spec
 * @returns {import("../index.js").Delivery | undefined}
 */
function deliveryOf({ verify, delivery }) {
  if ((delivery?.mode ?? "sync") === "sync") return undefined;
  return {
    id: "test",
    attempt: 1,
    received_at: "2000-01-01T00:00:00.000Z",
    replay_of: null,
    verification:
      verify === undefined ? null : { scheme: verify.scheme, secret: verify.secret, timestamp: null },
  };
}

/**
 * The one form of a path that is matched. Contract section 3.
 * @param {string} rawPath
 */
function canonicalPath(rawPath) {
  if (/%(?:2f|5c|00)/i.test(rawPath)) return undefined;
  try {
    const path = decodeURIComponent(rawPath);
    return path.split("/").some((segment) => segment === "." || segment === "..") ? undefined : path;
  } catch {
    return undefined;
  }
}

/**
 * @param {string} method
 * @param {string} path
 * @param {string} queryString
 */
function redirect(method, path, queryString) {
  const status = method === "GET" || method === "HEAD" ? 301 : 308;
  return new Response(null, {
    status,
    headers: { Location: queryString === "" ? path : `${path}?${queryString}` },
  });
}

/**
 * @param {Request} request
 * @param {string} host
 * @param {number} length
 */
function headersOf(request, host, length) {
  /** @type {Record<string, string[]>} */
  const header = { Host: [host] };
  for (const [name, value] of request.headers) header[canonicalCase(name)] = [value];
  if (length > 0) header["Content-Length"] = [String(length)];
  return header;
}

/**
 * @param {{ result: any } | { error: any }} reply as `encodeReply` and `encodeError` write it
 */
function responseOf(reply) {
  if ("error" in reply) return told(reply.error);
  const { type, value, status, header, body } = reply.result;
  if (type === "text")
    return new Response(value, { headers: { "Content-Type": "text/plain; charset=utf-8" } });
  if (type === "json") {
    return new Response(JSON.stringify(value), { headers: { "Content-Type": "application/json" } });
  }
  const headers = new Headers();
  for (const [name, values] of Object.entries(header)) {
    for (const one of /** @type {string[]} */ (values)) headers.append(name, one);
  }
  const bytes = Buffer.from(body, "base64");
  return new Response(BODILESS.includes(status) ? null : bytes, { status, headers });
}

/** @param {{ code: number, name?: string, message: string, info?: Record<string, unknown> }} error */
function told({ code, name, message, info }) {
  const filled = {
    name: name ?? new HandlerError(code, message).name,
    code,
    message,
    info,
    request_id: "test",
  };
  return Response.json({ error: filled }, { status: statusOf(code) });
}
