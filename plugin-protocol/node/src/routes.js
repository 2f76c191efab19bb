import { Pattern } from "./pattern.js";

/**
 * @typedef {import("../index.js").HandlerOptions} HandlerOptions
 * @typedef {import("../index.js").HandlerFunction} HandlerFunction
 *
 * @typedef {object} HandlerSpec What the gateway is told of a handler. Contract section 6.
 * @property {string} name
 * @property {string[]} methods
 * @property {boolean} key_required
 * @property {boolean} user_required
 * @property {number} [timeout_ms]
 * @property {boolean} idempotent
 * @property {import("../index.js").VerifySpec} [verify]
 * @property {import("../index.js").DeliverySpec} [delivery]
 *
 * @typedef {{ spec: HandlerSpec, pattern: Pattern, run: HandlerFunction }} Route
 */

/** Every method that a gateway routes. @type {readonly import("../index.js").Method[]} */
export const METHODS = Object.freeze(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]);
const DEFAULT_METHODS = Object.freeze(["GET", "POST", "PUT"]);
const OPTIONS = new Set([
  "methods",
  "keyRequired",
  "userRequired",
  "timeoutMs",
  "idempotent",
  "verify",
  "delivery",
]);

/** A worker's handlers: no two of them claim the same path and method. */
export class Routes {
  /** @type {Route[]} */
  #routes = [];
  /** @type {Map<string, Route>} */
  #byNameAndMethod = new Map();
  /** @type {Map<string, string>} */
  #claimed = new Map();

  /**
   * @param {string} name
   * @param {HandlerOptions} options
   * @param {HandlerFunction} run
   */
  add(name, options, run) {
    if (typeof name !== "string" || name === "") {
      throw new TypeError('handler: the name must be a string that is not empty; "/" takes every path');
    }
    if (typeof run !== "function") {
      throw new TypeError(`handler ${JSON.stringify(name)}: the last argument must be a function`);
    }
    const spec = specOf(name, options);
    const pattern = new Pattern(name);
    for (const method of spec.methods) {
      const earlier = this.#claimed.get(`${method} ${pattern.shape}`);
      if (earlier !== undefined) {
        throw new Error(
          `handler ${JSON.stringify(name)}: ${method} is taken by an earlier handler, ${JSON.stringify(earlier)}`,
        );
      }
    }
    const route = { spec, pattern, run };
    this.#routes.push(route);
    for (const method of spec.methods) {
      this.#claimed.set(`${method} ${pattern.shape}`, name);
      this.#byNameAndMethod.set(`${method} ${name}`, route);
    }
  }

  /** In the order in which they were added. */
  get all() {
    return /** @type {readonly Route[]} */ (this.#routes);
  }

  /**
   * @param {string} name as it was registered
   * @param {string} method
   */
  find(name, method) {
    return this.#byNameAndMethod.get(`${method} ${name}`);
  }
}

/**
 * @param {string} name
 * @param {HandlerOptions} options
 * @returns {HandlerSpec}
 */
function specOf(name, options) {
  /** @type {(reason: string) => never} */
  const refuse = (reason) => {
    throw new TypeError(`handler ${JSON.stringify(name)}: ${reason}`);
  };
  if (options === null || typeof options !== "object") refuse("the options must be an object");
  const unknown = Object.keys(options).find((option) => !OPTIONS.has(option));
  if (unknown !== undefined) refuse(`there is no option ${unknown}; there are ${[...OPTIONS].join(", ")}`);
  const {
    methods = DEFAULT_METHODS,
    keyRequired,
    userRequired,
    timeoutMs,
    idempotent,
    verify,
    delivery,
  } = options;
  if (!Array.isArray(methods) || methods.length === 0) refuse('methods must be a list such as ["GET"]');
  const upperCase = [
    ...new Set(methods.map((method) => /** @type {typeof METHODS[number]} */ (String(method).toUpperCase()))),
  ];
  const odd = upperCase.find((method) => !METHODS.includes(method));
  if (odd !== undefined) refuse(`${odd} is none of ${METHODS.join(", ")}`);
  for (const [option, value] of Object.entries({ keyRequired, userRequired, idempotent })) {
    if (value !== undefined && typeof value !== "boolean") refuse(`${option} must be true or false`);
  }
  if (timeoutMs !== undefined && !(Number.isSafeInteger(timeoutMs) && timeoutMs > 0)) {
    refuse("timeoutMs must be a whole number of milliseconds, at least 1");
  }
  for (const [option, value] of Object.entries({ verify, delivery })) {
    if (value !== undefined && (value === null || typeof value !== "object" || Array.isArray(value)))
      refuse(`${option} must be an object`);
  }
  return {
    name,
    methods: upperCase,
    key_required: keyRequired ?? false,
    user_required: userRequired ?? false,
    timeout_ms: timeoutMs,
    idempotent: idempotent ?? false,
    verify,
    delivery,
  };
}
