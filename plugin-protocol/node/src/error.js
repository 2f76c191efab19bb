/** Skygear's codes by name. Contract section 9. */
export const ErrorCode = Object.freeze(
  /** @type {const} */ ({
    NotAuthenticated: 101,
    PermissionDenied: 102,
    AccessKeyNotAccepted: 103,
    AccessTokenNotAccepted: 104,
    InvalidCredentials: 105,
    InvalidSignature: 106,
    BadRequest: 107,
    InvalidArgument: 108,
    Duplicated: 109,
    ResourceNotFound: 110,
    NotSupported: 111,
    NotImplemented: 112,
    ConstraintViolated: 113,
    IncompatibleSchema: 114,
    AtomicOperationFailure: 115,
    PartialOperationFailure: 116,
    UndefinedOperation: 117,
    PluginUnavailable: 118,
    PluginTimeout: 119,
    RecordQueryInvalid: 120,
    ResponseTimeout: 122,
    DeniedArgument: 123,
    NotConfigured: 125,
    UserDisabled: 127,
    VerificationRequired: 128,
    UnexpectedError: 130,
  }),
);

/** @type {ReadonlyMap<number, number>} */
const STATUS = new Map([
  [101, 401],
  [102, 403],
  [103, 401],
  [104, 401],
  [105, 401],
  [106, 401],
  [107, 400],
  [108, 400],
  [109, 409],
  [110, 404],
  [111, 501],
  [112, 501],
  [113, 409],
  [114, 409],
  [115, 409],
  [116, 200],
  [117, 404],
  [118, 503],
  [119, 504],
  [120, 400],
  [122, 503],
  [123, 403],
  [125, 503],
  [127, 403],
  [128, 403],
]);

/** @type {ReadonlyMap<number, string>} */
const NAMES = new Map(Object.entries(ErrorCode).map(([name, code]) => [code, name]));
const FIRST_OWN_CODE = 10_000;
const LARGEST_CODE = 0xffff_ffff;
/** What a client reads when the error's own text is for the log. */
export const NEUTRAL = "the handler failed";
/** Also known across copies of this package, of which a process may have two. */
const BRAND = Symbol.for("gearway.HandlerError");

/** An error that a handler answers with. */
export class HandlerError extends Error {
  /** @type {number} */
  code;
  /** @type {Record<string, unknown> | undefined} */
  info;

  /**
   * @param {number} code
   * @param {string} message
   * @param {import("../index.js").HandlerErrorOptions} [options]
   */
  constructor(code, message, { name, info, cause } = {}) {
    super(String(message), cause === undefined ? undefined : { cause });
    if (!NAMES.has(code) && !(Number.isInteger(code) && code >= FIRST_OWN_CODE && code <= LARGEST_CODE)) {
      throw new RangeError(
        `HandlerError: code ${code} is neither one of ErrorCode nor a whole number from ${FIRST_OWN_CODE} on`,
      );
    }
    if (name !== undefined && typeof name !== "string") {
      throw new TypeError("HandlerError: name must be a string");
    }
    if (info !== undefined && (info === null || typeof info !== "object" || Array.isArray(info))) {
      throw new TypeError("HandlerError: info must be an object");
    }
    this.code = code;
    this.name = name ?? NAMES.get(code) ?? "HandlerError";
    this.info = info;
  }

  /** The HTTP status that the client gets. */
  get status() {
    return statusOf(this.code);
  }

  /** @returns {true} */
  get [BRAND]() {
    return true;
  }
}

/**
 * @param {unknown} error
 * @returns {error is HandlerError}
 */
export function isHandlerError(error) {
  return typeof error === "object" && error !== null && BRAND in error;
}

/**
 * Contract section 9: 500 for every code that is not there.
 * @param {number} code
 */
export function statusOf(code) {
  return STATUS.get(code) ?? 500;
}

/**
 * The body of an error reply. Contract section 5.
 * @param {HandlerError} error
 */
export function encodeError({ code, name, message, info }) {
  // Half a surrogate pair cannot be UTF-8, and the gateway could not read the reply.
  return JSON.stringify({ error: { code, name, message, info } }, (_, value) =>
    typeof value === "string" ? value.toWellFormed() : value,
  );
}
