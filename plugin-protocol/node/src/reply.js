import { types } from "node:util";

const { Response: NativeResponse } = globalThis;
const STATE = stateOf();
/** Those that were read without Node's knowing, and cannot be read again. @type {WeakSet<Response>} */
const taken = new WeakSet();
const NOTHING = Buffer.alloc(0);
const AFTER_BODY = '"}}';

/** From here on, as bytes: a long body would be copied from string to string. */
const LONG = 16 << 10;

/**
 * The body of the reply that says what a handler returned. Contract section 5.
 *
 * @param {unknown} value
 * @returns {string | Buffer | Promise<string | Buffer>}
 */
export function encodeReply(value) {
  if (typeof value === "string") {
    // Half a surrogate pair cannot be UTF-8.
    return `{"result":{"type":"text","value":${JSON.stringify(value.toWellFormed())}}}`;
  }
  if (isResponse(value)) return encodeResponse(value);
  if (ArrayBuffer.isView(value) || types.isAnyArrayBuffer(value)) {
    return responseBytes(200, { "Content-Type": ["application/octet-stream"] }, bytesOf(value));
  }
  return `{"result":{"type":"json","value":${json(value)}}}`;
}

/**
 * By its shape: frameworks bring Response classes of their own.
 * @param {unknown} value
 * @returns {value is Response}
 */
export function isResponse(value) {
  if (value instanceof Response) return true;
  if (typeof value !== "object" || value === null) return false;
  const { status, headers, arrayBuffer } = /** @type {Partial<Response>} */ (value);
  return typeof status === "number" && typeof headers === "object" && typeof arrayBuffer === "function";
}

/**
 * @param {Response} response
 * @returns {string | Buffer | Promise<string | Buffer>}
 */
function encodeResponse(response) {
  const { status } = response;
  if (!(status >= 200 && status <= 599)) {
    throw new TypeError(
      `a handler returned a Response with status ${status}; it must be between 200 and 599`,
    );
  }
  // Without a prototype, since a header may be called `__proto__`.
  const header = /** @type {Record<string, string[]>} */ (Object.create(null));
  for (const [name, value] of response.headers) {
    const canonical = canonicalCase(name);
    if (Object.hasOwn(header, canonical)) header[canonical].push(value);
    else header[canonical] = [value];
  }
  const source = takeSource(response);
  if (source !== undefined) return responseBytes(status, header, source);
  const reading = Promise.resolve(response.arrayBuffer());
  return reading.then((body) => responseBytes(status, header, Buffer.from(body)));
}

/**
 * What a Response was made of, so that it need not come through its stream.
 *
 * @param {Response} response
 * @returns {Buffer | undefined} undefined when it has to be read
 */
function takeSource(response) {
  if (STATE === undefined || response.arrayBuffer !== NativeResponse.prototype.arrayBuffer) return undefined;
  const body = /** @type {any} */ (response)[STATE]?.body;
  if (body === null) return NOTHING;
  const source = body?.source;
  const isText = typeof source === "string";
  if (!isText && !(source instanceof Uint8Array)) return undefined;
  if (response.bodyUsed || body.stream.locked) return undefined;
  if (taken.has(response)) throw new TypeError("Body is unusable: Body has already been read");
  taken.add(response);
  return isText ? Buffer.from(source) : bytesOf(source);
}

/**
 * The key under which Node's Response keeps its state, in releases where anybody finds it.
 * @returns {symbol | undefined}
 */
function stateOf() {
  const sample = /** @type {any} */ (new NativeResponse("a"));
  return Object.getOwnPropertySymbols(sample).find((symbol) => {
    const body = sample[symbol]?.body;
    return body?.source === "a" && body.stream === sample.body;
  });
}

/**
 * @param {number} status
 * @param {Record<string, string[]>} header
 * @param {Buffer} body
 */
function responseBytes(status, header, body) {
  const before = `{"result":{"type":"response","status":${status},"header":${JSON.stringify(header)},"body":"`;
  const encoded = body.toString("base64");
  if (encoded.length < LONG) return before + encoded + AFTER_BODY;
  const bytes = Buffer.allocUnsafe(Buffer.byteLength(before) + encoded.length + AFTER_BODY.length);
  let at = bytes.write(before);
  at += bytes.write(encoded, at, "latin1");
  bytes.write(AFTER_BODY, at);
  return bytes;
}

/** @param {ArrayBufferView | ArrayBufferLike} value */
function bytesOf(value) {
  return ArrayBuffer.isView(value)
    ? Buffer.from(value.buffer, value.byteOffset, value.byteLength)
    : Buffer.from(value);
}

/** @param {unknown} value */
function json(value) {
  if (value instanceof ReadableStream || value instanceof Blob || value instanceof FormData) {
    throw new TypeError(`a handler returned a ${value.constructor.name}: return new Response(value)`);
  }
  if (types.isGeneratorObject(value)) {
    throw new TypeError(
      "a handler returned a generator: return an array of what it yields, or new Response(ReadableStream.from(value))",
    );
  }
  /** @type {string | undefined} */
  let text;
  try {
    text = JSON.stringify(value ?? null);
  } catch (cause) {
    const reason = /BigInt/.test(String(cause))
      ? "it holds a BigInt, which JSON.stringify refuses: return String(value), or Number(value) when it is small"
      : String(cause);
    throw new TypeError(`a handler returned what cannot be JSON: ${reason}`, { cause });
  }
  if (text === undefined) {
    throw new TypeError(`a handler returned a ${typeof value}, which cannot be JSON`);
  }
  return text;
}

/**
 * `content-type` → `Content-Type`: HTTP ignores the case, but people and other languages' maps do not.
 * @param {string} name
 */
export function canonicalCase(name) {
  return name.toLowerCase().replace(/(^|-)[a-z]/g, (start) => start.toUpperCase());
}
