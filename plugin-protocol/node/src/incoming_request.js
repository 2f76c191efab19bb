import * as workerThreads from "node:worker_threads";
import { Deadline } from "./deadline.js";
import { NotAnEnvelope } from "./envelope.js";

/** @typedef {import("./envelope.js").Param} Param */

/** Node's own, unless something has put another in its place already. */
const { Request: NativeRequest } = globalThis;

/** A host with an optional port, and nothing that could reach into the rest of a URL. */
const AUTHORITY = /^(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::\d*)?$/;
/** What Fetch takes for a header's name. */
const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
/** What Fetch takes for a header's value; of other control characters it takes some, so it is asked. */
const VALUE = /^[\t\x20-\x7e\x80-\xff]*$/;
/** The first byte of a byte order mark, which the native request knows how to read. */
const MAYBE_MARKED = 0xef;
const NOTHING = Buffer.alloc(0);

// Symbols, not private fields: the native members reach their own state through what inherits from a request, and
// through a Proxy of one, too.
const PARAM = Symbol("param");
const DEADLINE = Symbol("deadline");
const URL_TEXT = Symbol("url");
const HEADERS = Symbol("headers");
const NATIVE = Symbol("native");
const READ = Symbol("read");

/** Later releases of Node have it. @type {((object: object) => void) | undefined} */
const markAsUncloneable = /** @type {any} */ (workerThreads).markAsUncloneable;

/**
 * The request that a handler gets.
 *
 * @param {Param} param
 * @param {Deadline} deadline
 * @returns {Request}
 * @throws {NotAnEnvelope} when Fetch has no such request
 */
export function requestOf(param, deadline) {
  // An app may have put another class in the place of Node's since, and expects that one.
  const standsIn = STANDS_IN && Request === NativeRequest;
  if (standsIn && param.rawPath !== "" && param.headers.every(isPlain)) {
    return /** @type {any} */ (new IncomingRequest(param, deadline));
  }
  try {
    return new Request(urlOf(param), initOf(param, param.headers, deadline.signal));
  } catch (error) {
    throw new NotAnEnvelope(`param makes no request: ${error instanceof Error ? error.message : error}`);
  }
}

/**
 * Stands in for a Fetch request, whose making costs more than everything else that is done for a small call: what most
 * handlers ask for is answered from the envelope, and for the rest there is a native request behind it, made by then.
 *
 * Node's members of `Request.prototype` keep their state under symbols, and find there that of the native request. So
 * `new Request(request)`, `fetch(request)` and all that is not overridden here work on it as they do on any other.
 */
class IncomingRequest {
  /** @type {Param} */
  [PARAM];
  /** @type {Deadline} */
  [DEADLINE];
  /** @type {string | undefined} */
  [URL_TEXT];
  /** @type {Headers | undefined} */
  [HEADERS];
  /** @type {Request | undefined} */
  [NATIVE];
  /** Whether the body was read without the native request. */
  [READ] = false;

  /**
   * @param {Param} param
   * @param {Deadline} deadline
   */
  constructor(param, deadline) {
    this[PARAM] = param;
    this[DEADLINE] = deadline;
    markAsUncloneable?.(this);
  }

  get method() {
    return this[PARAM].method;
  }

  get url() {
    return (this[URL_TEXT] ??= new URL(urlOf(this[PARAM])).href);
  }

  get headers() {
    return (this[HEADERS] ??= this[NATIVE]?.headers ?? new Headers(this[PARAM].headers));
  }

  get signal() {
    return this[DEADLINE].signal;
  }

  get body() {
    return isBodiless(this[PARAM]) ? null : nativeOf(this).body;
  }

  get bodyUsed() {
    return this[NATIVE]?.bodyUsed ?? this[READ];
  }

  clone() {
    if (this[NATIVE] !== undefined || this[READ]) return nativeOf(this).clone();
    const clone = new IncomingRequest(this[PARAM], this[DEADLINE]);
    if (this[HEADERS] !== undefined) clone[HEADERS] = new Headers(this[HEADERS]);
    return clone;
  }

  async arrayBuffer() {
    const bytes = take(this);
    return bytes === undefined ? nativeOf(this).arrayBuffer() : copyOf(bytes);
  }

  async bytes() {
    const bytes = take(this);
    return new Uint8Array(bytes === undefined ? await nativeOf(this).arrayBuffer() : copyOf(bytes));
  }

  async text() {
    const bytes = take(this);
    return bytes === undefined ? nativeOf(this).text() : bytes.toString();
  }

  async json() {
    const bytes = take(this);
    return bytes === undefined ? nativeOf(this).json() : JSON.parse(bytes.toString());
  }
}

const STANDS_IN = standIn();

/**
 * Lets Node's members find the native request's state in its stand-in.
 * @returns {boolean} whether they do; later releases keep it where nothing else can be found
 */
function standIn() {
  const { prototype } = IncomingRequest;
  Object.setPrototypeOf(prototype, NativeRequest.prototype);
  for (const [name, own] of Object.entries(Object.getOwnPropertyDescriptors(prototype))) {
    const native = Object.getOwnPropertyDescriptor(NativeRequest.prototype, name);
    if (native === undefined) delete (/** @type {any} */ (prototype)[name]);
    else if (name === "constructor") Object.defineProperty(prototype, name, native);
    else Object.defineProperty(prototype, name, { ...own, enumerable: native.enumerable });
  }
  const sample = /** @type {any} */ (new NativeRequest("http://localhost/"));
  for (const symbol of Object.getOwnPropertySymbols(sample)) {
    const member = ["headers", "signal"].find((name) => sample[symbol] === sample[name]);
    Object.defineProperty(prototype, symbol, {
      /** @this {any} */
      get() {
        return member === undefined ? /** @type {any} */ (nativeOf(this))[symbol] : this[member];
      },
    });
  }
  const param = { method: "PUT", path: "/a", rawPath: "/a", queryString: "", params: {}, remoteAddr: "" };
  const headers = /** @type {[string, string][]} */ ([["A", "b"]]);
  const own = new IncomingRequest({ ...param, headers, body: Buffer.from("c") }, new Deadline(undefined));
  try {
    const copy = new NativeRequest(/** @type {any} */ (own));
    const { method, url, body } = copy;
    return method === "PUT" && url === own.url && copy.headers.get("A") === "b" && body !== null && own.bodyUsed;
  } catch {
    return false;
  }
}

/**
 * The body, for whoever reads it now.
 *
 * @param {IncomingRequest} request
 * @returns {Buffer | undefined} undefined when the native request has to say what comes of it
 */
function take(request) {
  const { [PARAM]: param, [NATIVE]: native, [READ]: read } = request;
  if (native !== undefined || read || param.body[0] === MAYBE_MARKED) return undefined;
  if (isBodiless(param)) return NOTHING;
  request[READ] = true;
  return param.body;
}

/** @param {Buffer} bytes which the call has as well */
function copyOf({ buffer, byteOffset, byteLength }) {
  return buffer.slice(byteOffset, byteOffset + byteLength);
}

/** @param {IncomingRequest} request */
function nativeOf(request) {
  const headers = request[HEADERS];
  let native = request[NATIVE];
  if (native === undefined) {
    const param = request[PARAM];
    native = new NativeRequest(request.url, initOf(param, headers ?? param.headers, request.signal));
    if (request[READ]) void native.arrayBuffer();
    request[NATIVE] = native;
  } else if (headers !== undefined && headers !== native.headers) {
    update(native.headers, headers);
  }
  return native;
}

/**
 * @param {Headers} to
 * @param {Headers} from
 */
function update(to, from) {
  if (JSON.stringify([...to]) === JSON.stringify([...from])) return;
  for (const name of [...to.keys()]) to.delete(name);
  for (const [name, value] of from) to.append(name, value);
}

/**
 * @param {Param} param
 * @param {RequestInit["headers"]} headers
 * @param {AbortSignal} signal
 * @returns {RequestInit}
 */
function initOf(param, headers, signal) {
  return { method: param.method, headers, body: isBodiless(param) ? undefined : param.body, signal };
}

/** @param {Param} param */
function isBodiless({ method, body }) {
  return body.length === 0 || method === "GET" || method === "HEAD";
}

/** @param {[string, string]} header */
function isPlain([name, value]) {
  return TOKEN.test(name) && VALUE.test(value);
}

/** @param {Param} param */
function urlOf({ rawPath, path, queryString, headers }) {
  const host = headers.find(([name]) => name.toLowerCase() === "host")?.[1] ?? "";
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
