/// <reference types="node" />

/**
 * Adds a handler. A Fetch `Request` comes in; a string, a JSON value, bytes or a `Response` goes out.
 *
 * `name` becomes a path: `:` reads as `/`, a missing first `/` is added. Ending in `/` it takes that path and all below,
 * otherwise exactly that path. `{param}` stands for one segment and is in `call.params`.
 *
 * | returned | the client gets |
 * |---|---|
 * | a string | 200 `text/plain; charset=utf-8` |
 * | an object, array, number, boolean, `null` | 200 `application/json` |
 * | `undefined` | 200 `application/json`, `null` |
 * | a `Uint8Array` or `ArrayBuffer` | 200 `application/octet-stream` |
 * | a `Response` | that response |
 *
 * A `HandlerError` that is thrown becomes an error with its code; anything else that is thrown goes to the log, and the
 * client gets a neutral `UnexpectedError`.
 */
export function handler(name: string, run: HandlerFunction): void;
export function handler(name: string, options: HandlerOptions, run: HandlerFunction): void;

/**
 * Gives a subtree and all methods to a Fetch app, such as Hono's. The request's URL is the client's own, so the app's
 * routes begin with `path` (Hono: `new Hono().basePath("/shop")`). The call is the app's second argument (Hono: `c.env`).
 */
export function mount(path: string, app: FetchApp): void;
export function mount(path: string, options: HandlerOptions, app: FetchApp): void;

/** Sets who the worker is, from inside the app; wins over the environment. */
export function configure(options: WorkerOptions): void;

/**
 * Registers with the gateway and serves, until SIGTERM or SIGINT: then leaves the gateway, finishes what runs, and
 * resolves. A second signal ends the process at once, with exit code 1. `gearway run` calls it by itself.
 *
 * Rejects when the worker cannot start, or the gateway refuses its first registration. A gateway that is not there (yet,
 * or any more) is not an error: the worker waits for it.
 */
export function run(options?: RunOptions): Promise<void>;

/** Calls the handlers in this process, without a gateway or sockets. */
export function testClient(): TestClient;

/** The user who called, or `null`. It follows `await`, timers and callbacks; outside of a call it is `null`. */
export function currentUserId(): string | null;
/** The kind of API key that the caller presented, or `null`. */
export function currentAccessKeyType(): AccessKeyType | null;
/** The id that the client sees as `X-Request-Id`. */
export function currentRequestId(): string | null;
/** The second argument of the handler that is running. */
export function currentCall(): Call | null;

export type HandlerFunction = (request: Request, call: Call) => unknown;
export type FetchFunction = (request: Request, ...rest: any[]) => Response | Promise<Response>;
export type FetchApp = FetchFunction | { fetch: FetchFunction };
export type AccessKeyType = "client" | "master";
export type Method = "GET" | "POST" | "PUT" | "DELETE" | "PATCH" | "HEAD" | "OPTIONS";

export interface HandlerOptions {
  /** GET, POST and PUT by default. */
  methods?: readonly Method[];
  /** Whether a caller must present an API key. */
  keyRequired?: boolean;
  /** Whether a caller must be an authenticated user. */
  userRequired?: boolean;
  /** Milliseconds that the handler may take; at most, and by default, the gateway's `limits.request_timeout`. */
  timeoutMs?: number;
  /** Whether running the handler twice does no harm, so that a call with an unknown outcome may be repeated. */
  idempotent?: boolean;
  /** How the gateway checks a webhook's signature. */
  verify?: VerifySpec;
  /** How the gateway keeps and delivers a webhook. */
  delivery?: DeliverySpec;
}

/** Goes to the gateway as it is. */
export interface VerifySpec {
  scheme: "stripe" | "github" | "slack" | "shopify" | "twilio" | "standard-webhooks" | "hmac";
  /** A name under `[secrets]` in the gateway's configuration. */
  secret: string;
  /** Seconds that the signed time may be away from the gateway's clock; 300 by default. */
  tolerance_s?: number;
  /** The header with the signature. This and what follows is for the scheme `hmac` only, which needs it. */
  header?: string;
  /** What stands before the signature in its header, as `sha256=`. */
  prefix?: string;
  /** `hex` by default. */
  encoding?: "hex" | "base64";
  /** `sha256` by default. */
  algorithm?: "sha1" | "sha256" | "sha512";
  /** The header with the signed time, in seconds or milliseconds. */
  timestamp_header?: string;
  /** What is signed: `{body}` by default, with a `timestamp_header` also `{timestamp}`. */
  content?: string;
}

/** Goes to the gateway as it is. */
export interface DeliverySpec {
  /**
   * `sync` keeps nothing, and is the default; `durable` keeps the request on disk, acknowledges it, then delivers it;
   * `deadline` relays the answer if it comes within `ack_after_ms`, and acknowledges otherwise.
   */
  mode?: "sync" | "durable" | "deadline";
  /** 2500 by default. */
  ack_after_ms?: number;
  /** What the sender gets for a request that is on disk: 200 and `ok` by default. */
  ack?: { status?: number; body?: unknown };
  /** How often the handler is called at most; 12 by default. */
  attempts?: number;
  /** `auto` (the id that the scheme knows) by default, `off`, or the name of a header. */
  dedup?: string;
  /** Seconds in which the same id is the same event; 259200, three days, by default. */
  dedup_window_s?: number;
}

/** Which delivery of the gateway's log a call is an attempt of. */
export interface Delivery {
  /** The same in every attempt, and what the sender saw as `X-Gearway-Delivery`. */
  readonly id: string;
  /** 1 for the first. */
  readonly attempt: number;
  /** When the request was received: RFC 3339, in UTC. */
  readonly received_at: string;
  /** The id of the delivery that this one repeats, because an operator asked for it. */
  readonly replay_of: string | null;
  /** What the signature told; null for a handler without `verify`. */
  readonly verification: Verification | null;
}

export interface Verification {
  readonly scheme: string;
  /** The secret's name. */
  readonly secret: string;
  /** The signed time in seconds since 1970, for schemes that sign one. */
  readonly timestamp: number | null;
}

/** What the gateway knows about a request, beside the request. */
export interface Call {
  /** What the `{param}` segments of the handler's name stood for, percent-decoded. */
  readonly params: Readonly<Record<string, string>>;
  /** The authenticated user. */
  readonly userId: string | null;
  readonly accessKeyType: AccessKeyType | null;
  /** The id that the client sees as `X-Request-Id`. */
  readonly requestId: string;
  /** When the gateway stops waiting. */
  readonly deadline: Date | null;
  /** Aborts at the deadline, with a `TimeoutError`. The same as `request.signal` says. */
  readonly signal: AbortSignal;
  /** As the handler was registered. */
  readonly handlerName: string;
  readonly method: string;
  /** Percent-decoded; the form that the gateway has matched. */
  readonly path: string;
  /** As it came. */
  readonly rawPath: string;
  /** As it came, without the `?`. */
  readonly queryString: string;
  /**
   * Names in canonical case (`X-Hub-Signature-256`) and values, one pair a value. `request.headers` joins the values of
   * one name by commas.
   */
  readonly rawHeaders: readonly (readonly [name: string, value: string])[];
  /** Byte for byte what the client sent; also for GET and HEAD, where `request` has none. */
  readonly body: Uint8Array;
  /** The client's address, without a port. */
  readonly remoteAddr: string;
  /** The W3C trace context of the gateway's call. */
  readonly traceparent: string | null;
  /** The client's; null unless the call belongs to the client's trace. */
  readonly tracestate: string | null;
  /** The headers with which a request that the handler sends belongs to the same trace. */
  readonly traceHeaders: Readonly<{ traceparent?: string; tracestate?: string }>;
  /** Of a webhook that the gateway keeps: which delivery, and which attempt. */
  readonly delivery: Delivery | null;
}

/** Skygear's codes by name. */
export const ErrorCode: Readonly<{
  NotAuthenticated: 101;
  PermissionDenied: 102;
  AccessKeyNotAccepted: 103;
  AccessTokenNotAccepted: 104;
  InvalidCredentials: 105;
  InvalidSignature: 106;
  BadRequest: 107;
  InvalidArgument: 108;
  Duplicated: 109;
  ResourceNotFound: 110;
  NotSupported: 111;
  NotImplemented: 112;
  ConstraintViolated: 113;
  IncompatibleSchema: 114;
  AtomicOperationFailure: 115;
  PartialOperationFailure: 116;
  UndefinedOperation: 117;
  PluginUnavailable: 118;
  PluginTimeout: 119;
  RecordQueryInvalid: 120;
  ResponseTimeout: 122;
  DeniedArgument: 123;
  NotConfigured: 125;
  UserDisabled: 127;
  VerificationRequired: 128;
  UnexpectedError: 130;
}>;

export interface HandlerErrorOptions {
  /** For programs; the code's own name by default. */
  name?: string;
  /** For programs: what JSON can hold. */
  info?: Record<string, unknown>;
  /** For the log only. */
  cause?: unknown;
}

/**
 * An error that a handler throws for its client to read.
 *
 * ```js
 * throw new HandlerError(ErrorCode.ResourceNotFound, "no such order");
 * throw new HandlerError(10001, "no more tickets", { name: "SoldOut", info: { left: 0 } });
 * ```
 */
export class HandlerError extends Error {
  /** @param code one of `ErrorCode`, which decides the HTTP status; or a code of your own from 10000 on, which is 500 */
  constructor(code: number, message: string, options?: HandlerErrorOptions);
  code: number;
  info: Record<string, unknown> | undefined;
  get status(): number;
}

/** A worker cannot start; the message says what to do. */
export class StartError extends Error {}

export interface WorkerOptions {
  /** `GEARWAY_NAME`: workers of one name are replicas of each other; the app file's stem by default. */
  name?: string;
  /** `GEARWAY_GATEWAY`: the URL of the gateway's admin listener; `http://127.0.0.1:3001` by default. */
  gateway?: string;
  /** `GEARWAY_TOKEN`: a registration token. */
  token?: string;
  /** `GEARWAY_LISTEN`: `host:port`; `127.0.0.1:0` by default. */
  listen?: string;
  /**
   * `GEARWAY_ADVERTISE`: the URL that the gateway is to call. By default it follows from the listener; for a wildcard, from
   * the local address of the worker's connection to the gateway.
   */
  advertise?: string;
  /** The version of your code, which the gateway shows to people. */
  version?: string;
  /** How many calls may run at once. One more is turned away, so that the gateway gives it to another replica. */
  maxConcurrency?: number;
  /**
   * The largest envelope that is read; 16 MiB by default. It holds a request's body in base64, which is a third longer:
   * raise it together with the gateway's `limits.max_body`.
   */
  maxEnvelopeBytes?: number;
  /** By default lines on stderr: for people on a terminal, JSON otherwise. */
  logger?: Logger;
}

export interface RunOptions extends WorkerOptions {
  /** Stops the worker, in place of signals. */
  stop?: AbortSignal;
}

export interface Logger {
  debug(message: string, fields?: Record<string, unknown>): void;
  info(message: string, fields?: Record<string, unknown>): void;
  warn(message: string, fields?: Record<string, unknown>): void;
  error(message: string, fields?: Record<string, unknown>): void;
}

export interface TestRequestInit extends RequestInit {
  /** Comes from this authenticated user, with a client's API key. */
  userId?: string;
  /** Comes with an API key of this kind. */
  accessKeyType?: AccessKeyType;
}

/**
 * Calls a worker's handlers in this process, by the gateway's rules: names, methods, credentials, redirects, errors. A
 * handler with `delivery` is told of a first attempt, and what it returns is the answer; signatures are not checked.
 */
export interface TestClient {
  /** As the global `fetch`; `target` may be a path. Redirects are not followed. */
  fetch(target: string | URL | Request, init?: TestRequestInit): Promise<Response>;
}

/** A process that answers requests for a gateway. The functions above speak of one that this module makes. */
export class Worker {
  constructor(options?: WorkerOptions, env?: NodeJS.ProcessEnv);
  /** How many handlers there are. */
  get size(): number;
  handler: typeof handler;
  mount: typeof mount;
  configure(options: WorkerOptions): void;
  run(options?: RunOptions): Promise<void>;
  testClient(): TestClient;
}

/** The worker of the functions above. */
export const worker: Worker;
