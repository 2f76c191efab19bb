import { once } from "node:events";
import http from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { failure } from "./call.js";
import { ErrorCode } from "./error.js";

/** The gateway keeps idle connections for 30 s and counts on 60 s here, so this ends only those that it forgot. */
const IDLE_MS = 120_000;
/** Above the idle time, because Node has counted it against the next request's head. */
const HEAD_MS = 125_000;
/** For a whole request, so not below that of its head. */
const REQUEST_MS = 180_000;
/** A call that the gateway chose this worker for before it heard of the drain may still be on its way. */
const STRAGGLERS_MS = 500;
const LONGEST_STRAGGLERS_MS = 5_000;
/** What connections get to take the last replies away, once everything has run. */
const LAST_REPLIES_MS = 5_000;

/**
 * @typedef {Buffer | "too large" | "gone"} Arrived An envelope.
 * @typedef {{ answer: import("./call.js").Answer, header?: Record<string, string> }} Refusal
 */

/** The worker's own HTTP server, to which the gateway posts envelopes. */
export class Server {
  #calls;
  #secret;
  #maxConcurrency;
  #maxEnvelopeBytes;
  #logger;
  #http;
  /** Requests that a connection is busy with. @type {Map<import("node:net").Socket, number>} */
  #busy = new Map();
  #begun = 0;
  /** Handlers that run, or will as soon as their envelope is read. */
  #running = 0;
  /** Those that count against `maxConcurrency`. */
  #taken = 0;
  #stopping = false;
  #idle = () => {};

  /**
   * @param {object} parts
   * @param {import("./call.js").Calls} parts.calls
   * @param {import("./secret.js").Secret} parts.secret
   * @param {number | undefined} parts.maxConcurrency
   * @param {number} parts.maxEnvelopeBytes
   * @param {import("../index.js").Logger} parts.logger
   */
  constructor({ calls, secret, maxConcurrency, maxEnvelopeBytes, logger }) {
    this.#calls = calls;
    this.#secret = secret;
    this.#maxConcurrency = maxConcurrency ?? Infinity;
    this.#maxEnvelopeBytes = maxEnvelopeBytes;
    this.#logger = logger;
    const timeouts = { keepAliveTimeout: IDLE_MS, headersTimeout: HEAD_MS, requestTimeout: REQUEST_MS };
    this.#http = http.createServer({ ...timeouts, noDelay: true });
    this.#http.on("connection", (socket) => {
      this.#busy.set(socket, 0);
      socket.on("close", () => this.#busy.delete(socket));
    });
    this.#http.on("request", (request, response) => {
      this.#track(request, response);
      this.#receive(request, response);
    });
  }

  /**
   * @param {{ host: string, port: number }} address
   * @returns {Promise<import("node:net").AddressInfo>}
   */
  async listen({ host, port }) {
    this.#http.listen({ host, port });
    await once(this.#http, "listening");
    return /** @type {import("node:net").AddressInfo} */ (this.#http.address());
  }

  /** Returns when the calls that were on their way have arrived: when none has come for a while. */
  async takeStragglers() {
    let before;
    let waitedMs = 0;
    do {
      before = this.#begun;
      await sleep(STRAGGLERS_MS);
      // A handler that kept the process busy may have kept what has arrived from being read.
      for (let turn = 0; turn < 3; turn += 1) await new Promise((resolve) => setImmediate(resolve));
      waitedMs += STRAGGLERS_MS;
    } while (this.#begun !== before && waitedMs < LONGEST_STRAGGLERS_MS);
  }

  /** Closes the listener and the idle connections, and returns when what runs has been answered. */
  async stop() {
    const closed = new Promise((resolve) => this.#http.close(resolve));
    this.#stopping = true;
    for (const [socket, requests] of this.#busy) {
      if (requests === 0) socket.destroy();
    }
    const idle = new Promise((resolve) => {
      this.#idle = () => resolve(undefined);
    });
    if (this.#running > 0) await idle;
    const impatience = setTimeout(() => this.#http.closeAllConnections(), LAST_REPLIES_MS);
    await closed;
    clearTimeout(impatience);
  }

  /**
   * @param {http.IncomingMessage} request
   * @param {http.ServerResponse} response
   */
  #track({ socket }, response) {
    this.#begun += 1;
    this.#running += 1;
    this.#busy.set(socket, (this.#busy.get(socket) ?? 0) + 1);
    response.on("close", () => {
      const requests = (this.#busy.get(socket) ?? 1) - 1;
      if (socket.destroyed) return;
      this.#busy.set(socket, requests);
      if (this.#stopping && requests === 0) socket.destroySoon();
    });
  }

  /**
   * By callbacks, since the hooks that carry the current call along run for every promise of the process.
   *
   * @param {http.IncomingMessage} request
   * @param {http.ServerResponse} response
   */
  #receive(request, response) {
    const accepted = this.#secret.accepts(request.headers.authorization);
    // An answer that overtakes the request's body may be lost with the connection, so every body is read.
    if (typeof accepted === "boolean") {
      const refusal = this.#admit(request, accepted);
      read(request, this.#maxEnvelopeBytes, (envelope) => this.#respond(request, response, refusal, envelope));
      return;
    }
    const arriving = new Promise((resolve) => read(request, this.#maxEnvelopeBytes, resolve));
    void accepted.then(async (known) => {
      const refusal = this.#admit(request, known);
      this.#respond(request, response, refusal, await arriving);
    });
  }

  /**
   * @param {http.IncomingMessage} request
   * @param {boolean} accepted whether it has the secret
   * @returns {Refusal | undefined} undefined if its call may run, which has a place from now on
   */
  #admit({ method }, accepted) {
    if (!accepted) {
      return { answer: failure(401, ErrorCode.NotAuthenticated, "this is not the worker's secret") };
    }
    if (method !== "POST") {
      return { answer: failure(405, ErrorCode.BadRequest, "envelopes come by POST"), header: { Allow: "POST" } };
    }
    if (this.#taken >= this.#maxConcurrency) {
      const message = `the worker runs ${this.#maxConcurrency} calls at once, and no more`;
      return {
        answer: failure(503, ErrorCode.PluginUnavailable, message),
        header: { "Gearway-Not-Run": "1" },
      };
    }
    this.#taken += 1;
    return undefined;
  }

  /**
   * @param {http.IncomingMessage} request
   * @param {http.ServerResponse} response
   * @param {Refusal | undefined} refusal
   * @param {Arrived} envelope
   */
  #respond(request, response, refusal, envelope) {
    const settle = () => {
      if (refusal === undefined) this.#taken -= 1;
      this.#running -= 1;
      if (this.#running === 0) this.#idle();
    };
    const fail = (/** @type {unknown} */ error) => {
      settle();
      response.destroy();
      this.#logger.error("cannot answer a call", { error });
    };
    const send = (/** @type {import("./call.js").Answer} */ answer) => {
      try {
        this.#send(response, answer, refusal?.header);
      } catch (error) {
        return fail(error);
      }
      settle();
    };
    if (refusal !== undefined) return send(refusal.answer);
    if (envelope === "gone") return settle();
    if (envelope === "too large") {
      const message = `the envelope is larger than ${this.#maxEnvelopeBytes} bytes`;
      return send(failure(413, ErrorCode.BadRequest, message));
    }
    let answer;
    try {
      answer = this.#calls.answer(envelope, traceparentOf(request));
    } catch (error) {
      // Such as one of the app's own logger.
      return fail(error);
    }
    if (answer instanceof Promise) void answer.then(send, fail);
    else send(answer);
  }

  /**
   * @param {http.ServerResponse} response
   * @param {import("./call.js").Answer} answer
   * @param {Record<string, string>} [header]
   */
  #send(response, { status, body }, header) {
    if (this.#stopping) response.shouldKeepAlive = false;
    const length = Buffer.byteLength(body);
    response.writeHead(status, { "Content-Type": "application/json", "Content-Length": length, ...header });
    // A string goes out in one piece with the head, and one of ASCII alone is written as it lies.
    if (typeof body !== "string") response.end(body);
    else response.end(body, length === body.length ? "latin1" : "utf8");
  }
}

/** @param {http.IncomingMessage} request */
function traceparentOf({ headers: { traceparent } }) {
  return typeof traceparent === "string" ? traceparent : null;
}

/**
 * @param {http.IncomingMessage} request
 * @param {number} limit in bytes; what is beyond it is read and dropped
 * @param {(envelope: Arrived) => void} arrived called once
 */
function read(request, limit, arrived) {
  /** @type {Buffer[]} */
  let chunks = [];
  let length = 0;
  let ended = false;
  const end = (/** @type {Arrived} */ envelope) => {
    if (ended) return;
    ended = true;
    arrived(envelope);
  };
  request.on("data", (/** @type {Buffer} */ chunk) => {
    length += chunk.length;
    if (length > limit) chunks = [];
    else chunks.push(chunk);
  });
  request.on("end", () => {
    if (length > limit) end("too large");
    else end(chunks.length === 1 ? chunks[0] : Buffer.concat(chunks, length));
  });
  request.on("close", () => end("gone"));
}
