import { types } from "node:util";

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
  const reading = Promise.resolve(response.arrayBuffer());
  return reading.then((body) => responseBytes(status, header, Buffer.from(body)));
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
