/**
 * What the gateway sends, read into one shape. Contract section 5.
 *
 * @typedef {object} Envelope
 * @property {string} name
 * @property {Context} context
 * @property {Param} param
 *
 * @typedef {object} Context
 * @property {string} requestId
 * @property {string | null} userId
 * @property {import("../index.js").AccessKeyType | null} accessKeyType
 * @property {number | undefined} timeoutMs
 * @property {import("../index.js").Delivery | null} delivery
 *
 * @typedef {object} Param
 * @property {string} method
 * @property {string} path
 * @property {string} rawPath
 * @property {string} queryString
 * @property {Record<string, string>} params
 * @property {[string, string][]} headers
 * @property {Buffer} body
 * @property {string} remoteAddr
 */

/** The text is not an envelope. */
export class NotAnEnvelope extends Error {}

/** Below this, looking for the body in the raw bytes costs more than it saves. */
const CUT_FROM = 4096;
const BODY_KEY = '"body":"';
/** What an envelope has in place of a body that was cut out of it; no base64. */
const CUT = "*cut*";

/**
 * @param {string | Buffer} raw
 * @returns {Envelope}
 */
export function readEnvelope(raw) {
  const cut = typeof raw === "string" ? undefined : cutBody(raw);
  if (cut !== undefined) {
    const envelope = read(cut.rest, cut.body);
    if (envelope !== undefined) return envelope;
  }
  return /** @type {Envelope} */ (read(raw.toString(), undefined));
}

/**
 * A long body is decoded where it lies, and only the rest goes through the JSON parser.
 *
 * Quotes within a JSON string are escaped, so a `"body":"` that follows a brace, comma or white space is a key. Whether it
 * is the body's shows when the rest has been read: {@link CUT} stands in the body's place then.
 *
 * @param {Buffer} raw
 */
function cutBody(raw) {
  if (raw.length < CUT_FROM) return undefined;
  const key = raw.indexOf(BODY_KEY);
  if (key < 1 || !"{, \t\r\n".includes(String.fromCharCode(raw[key - 1]))) return undefined;
  const start = key + BODY_KEY.length;
  const end = raw.indexOf(0x22, start);
  if (end < 0) return undefined;
  const body = decoded(raw.toString("latin1", start, end));
  return body && { body, rest: raw.toString("utf8", 0, start) + CUT + raw.toString("utf8", end) };
}

/**
 * @param {string} text
 * @param {Buffer | undefined} cut what {@link CUT} stands for, if the text has it
 * @returns {Envelope | undefined} undefined when something else than the body was cut out
 */
function read(text, cut) {
  /** @type {unknown} */
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    if (cut !== undefined) return undefined;
    throw new NotAnEnvelope("not JSON");
  }
  const envelope = object(value, "the envelope");
  if (envelope.kind !== "handler") throw new NotAnEnvelope('kind must be "handler"');
  const context = object(envelope.context ?? {}, "context");
  const param = object(envelope.param, "param");
  if (cut !== undefined && param.body !== CUT) return undefined;
  return {
    name: string(envelope.name, "name"),
    context: {
      requestId: string(context.request_id ?? "", "context.request_id"),
      userId: context.user_id == null ? null : string(context.user_id, "context.user_id"),
      accessKeyType: accessKeyType(context.access_key_type),
      timeoutMs: timeout(context.timeout_ms),
      delivery: delivery(context.delivery),
    },
    param: {
      method: string(param.method, "param.method"),
      path: string(param.path, "param.path"),
      rawPath: string(param.raw_path ?? "", "param.raw_path"),
      queryString: string(param.query_string ?? "", "param.query_string"),
      params: params(param.params ?? {}),
      headers: headers(param.header ?? {}),
      body: cut ?? bytes(param.body ?? "", "param.body"),
      remoteAddr: string(param.remote_addr ?? "", "param.remote_addr"),
    },
  };
}

/**
 * @param {unknown} value
 * @param {string} field
 * @returns {Record<string, unknown>}
 */
function object(value, field) {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new NotAnEnvelope(`${field} must be an object`);
  }
  return /** @type {Record<string, unknown>} */ (value);
}

/**
 * @param {unknown} value
 * @param {string} field
 */
function string(value, field) {
  if (typeof value !== "string") throw new NotAnEnvelope(`${field} must be a string`);
  return value;
}

/** @param {unknown} value */
function accessKeyType(value) {
  if (value == null) return null;
  if (value === "client" || value === "master") return value;
  throw new NotAnEnvelope("context.access_key_type must be client or master");
}

/**
 * Its fields are the gateway's to get right.
 * @param {unknown} value
 */
function delivery(value) {
  const told = value == null ? null : /** @type {unknown} */ (object(value, "context.delivery"));
  return /** @type {import("../index.js").Delivery | null} */ (told);
}

/** @param {unknown} value */
function timeout(value) {
  if (value == null) return undefined;
  if (typeof value === "number" && value >= 0) return value;
  throw new NotAnEnvelope("context.timeout_ms must be a number that is not negative");
}

/**
 * @param {unknown} value
 * @returns {Record<string, string>}
 */
function params(value) {
  const texts = object(value, "param.params");
  for (const name of Object.keys(texts)) {
    if (typeof texts[name] !== "string") throw new NotAnEnvelope(`param.params.${name} must be a string`);
  }
  return /** @type {Record<string, string>} */ (texts);
}

/**
 * @param {unknown} value
 * @returns {[string, string][]}
 */
function headers(value) {
  const lists = object(value, "param.header");
  /** @type {[string, string][]} */
  const pairs = [];
  for (const name of Object.keys(lists)) {
    const values = lists[name];
    if (!Array.isArray(values)) throw new NotAnEnvelope(`param.header.${name} must be a list`);
    for (const text of values) {
      if (typeof text !== "string") throw new NotAnEnvelope(`param.header.${name} must be a string`);
      pairs.push([name, text]);
    }
  }
  return pairs;
}

/**
 * @param {unknown} value
 * @param {string} field
 */
function bytes(value, field) {
  const body = decoded(string(value, field));
  if (body === undefined) throw new NotAnEnvelope(`${field} must be standard base64 with padding`);
  return body;
}

/**
 * @param {string} text
 * @returns {Buffer | undefined} undefined for what is no base64
 */
function decoded(text) {
  const body = Buffer.from(text, "base64");
  // Buffer passes over what is not base64; then there are fewer bytes than the text stands for.
  const padding = text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0;
  return text.length % 4 === 0 && body.length === (text.length / 4) * 3 - padding ? body : undefined;
}
