import { debuglog, inspect } from "node:util";

const debugging = debuglog("gearway").enabled;

/**
 * Lines for people on a terminal, JSON otherwise. `NODE_DEBUG=gearway` shows the debug level too.
 *
 * @param {NodeJS.WritableStream & { isTTY?: boolean }} [stream]
 * @returns {import("../index.js").Logger}
 */
export function streamLogger(stream = process.stderr) {
  const write = stream.isTTY ? forPeople : asJson;
  /** @param {string} level */
  const at =
    (level) =>
    (/** @type {string} */ message, /** @type {Record<string, unknown>} */ fields = {}) => {
      stream.write(`${write(level, message, fields)}\n`);
    };
  return {
    debug: debugging ? at("DEBUG") : () => {},
    info: at("INFO"),
    warn: at("WARN"),
    error: at("ERROR"),
  };
}

/**
 * @param {string} level
 * @param {string} message
 * @param {Record<string, unknown>} fields
 */
function forPeople(level, message, { error, ...fields }) {
  const pairs = Object.entries(fields).map(([name, value]) => ` ${name}=${text(value)}`);
  const details = error === undefined ? "" : `\n${text(error)}`;
  return `${new Date().toISOString()} ${level.padEnd(5)} ${message}${pairs.join("")}${details}`;
}

/**
 * @param {string} level
 * @param {string} message
 * @param {Record<string, unknown>} fields
 */
function asJson(level, message, fields) {
  const values = Object.entries(fields).map(([name, value]) => [
    name,
    typeof value === "number" || typeof value === "boolean" ? value : text(value),
  ]);
  return JSON.stringify({
    timestamp: new Date().toISOString(),
    level,
    message,
    ...Object.fromEntries(values),
    target: "gearway",
  });
}

/**
 * An error with its stack and its causes.
 * @param {unknown} value
 */
function text(value) {
  if (typeof value === "string") return value;
  try {
    return inspect(value, { depth: 4 });
  } catch {
    // Getters of its own: they are no reason to leave the client without an answer.
    return `a ${typeof value} that cannot be shown`;
  }
}
