import http from "node:http";
import https from "node:https";
import net from "node:net";

/** No answer, or one that may be different another time. */
export class Transient extends Error {}

/** The gateway has understood, and refuses. */
export class Refused extends Error {
  /**
   * @param {number} status
   * @param {string} message
   */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The gateway does not know the worker (any more). */
export class Unknown extends Error {}

/** Answers are far below a kilobyte. */
const MAX_ANSWER_BYTES = 1 << 20;

/** The part of the admin listener that a worker talks to. Contract section 6. */
export class Gateway {
  #url;
  #token;

  /**
   * @param {URL} url
   * @param {string} token
   */
  constructor(url, token) {
    this.#url = url;
    this.#token = token;
  }

  get url() {
    return this.#url.href;
  }

  /**
   * @param {"POST" | "PUT" | "DELETE"} method
   * @param {string[]} below what follows `/v1/workers`
   * @param {{ body?: unknown, patienceMs: number, stop?: AbortSignal }} options
   * @returns {Promise<Record<string, unknown>>}
   * @throws {Transient | Refused | Unknown}
   */
  async ask(method, below, { body, patienceMs, stop }) {
    const { status, text } = await this.#exchange(method, below, body, patienceMs, stop);
    const answer = object(text);
    if (status >= 200 && status < 300) {
      if (answer === undefined && status !== 204) {
        throw new Refused(status, `${this.url} does not answer as a gateway's admin listener does`);
      }
      return answer ?? {};
    }
    const { message } = /** @type {{ message?: unknown }} */ (answer?.error ?? {});
    const reason = typeof message === "string" ? message : "no reason given";
    if (status === 404) throw new Unknown(reason);
    if (status === 408 || status === 429 || status >= 500) throw new Transient(`HTTP ${status}: ${reason}`);
    throw new Refused(status, reason);
  }

  /**
   * The local address of a connection to the gateway.
   *
   * @param {4 | 6} family of the listener: an IPv4 listener cannot be reached at an IPv6 address
   * @param {number} patienceMs
   * @returns {Promise<string>}
   */
  localAddress(family, patienceMs) {
    const { hostname, port, protocol } = this.#url;
    return new Promise((resolve, reject) => {
      const socket = net.connect({
        host: hostname.replace(/^\[|\]$/g, ""),
        port: Number(port || (protocol === "https:" ? 443 : 80)),
        // A wildcard of IPv6 takes IPv4 as well.
        family: family === 4 ? 4 : 0,
        autoSelectFamily: family !== 4,
      });
      socket.setTimeout(patienceMs, () => socket.destroy(new Error("no connection in time")));
      socket.on("connect", () => {
        resolve((socket.localAddress ?? "").replace(/^::ffff:(?=\d+\.)/, ""));
        socket.destroy();
      });
      socket.on("error", (error) => reject(transient(error)));
    });
  }

  /**
   * @param {string} method
   * @param {string[]} below
   * @param {unknown} body
   * @param {number} patienceMs
   * @param {AbortSignal | undefined} stop
   * @returns {Promise<{ status: number, text: string }>}
   */
  #exchange(method, below, body, patienceMs, stop) {
    const path = ["v1", "workers", ...below.map(encodeURIComponent)].join("/");
    const url = new URL(`${this.#url.pathname.replace(/\/$/, "")}/${path}`, this.#url);
    const bytes = body === undefined ? undefined : Buffer.from(JSON.stringify(body));
    const { request: send } = url.protocol === "https:" ? https : http;
    return new Promise((resolve, reject) => {
      const request = send(url, {
        method,
        // A connection of its own: calls are seconds apart, and a reused one may just be closing.
        agent: false,
        headers: {
          Authorization: `Bearer ${this.#token}`,
          ...(bytes && { "Content-Type": "application/json", "Content-Length": bytes.length }),
        },
        signal: stop,
      });
      const timer = setTimeout(
        () => request.destroy(new Error(`no answer within ${patienceMs} ms`)),
        patienceMs,
      );
      request.on("error", (error) => reject(transient(error)));
      request.on("close", () => {
        clearTimeout(timer);
        reject(new Transient("the connection closed before an answer"));
      });
      request.on("response", (response) => {
        let text = "";
        response.setEncoding("utf8");
        response.on("data", (chunk) => {
          text += chunk;
          if (text.length > MAX_ANSWER_BYTES) request.destroy(new Error("the answer is too long"));
        });
        response.on("error", (error) => reject(transient(error)));
        response.on("end", () => resolve({ status: response.statusCode ?? 0, text }));
      });
      request.end(bytes);
    });
  }
}

/**
 * @param {Error & { code?: string }} error
 */
function transient(error) {
  // Where a name has several addresses, the error of all of them has no message.
  return new Transient(error.message || error.code || String(error));
}

/**
 * @param {string} text
 * @returns {Record<string, unknown> | undefined}
 */
function object(text) {
  try {
    /** @type {unknown} */
    const value = JSON.parse(text);
    return typeof value === "object" && value !== null
      ? /** @type {Record<string, unknown>} */ (value)
      : undefined;
  } catch {
    return undefined;
  }
}
