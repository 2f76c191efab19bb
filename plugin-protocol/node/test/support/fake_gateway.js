import { EventEmitter, once } from "node:events";
import http from "node:http";
import { text } from "node:stream/consumers";

export const TOKEN = "a-registration-token";

/**
 * @typedef {object} Asked
 * @property {string | undefined} method
 * @property {string | undefined} path
 * @property {string | undefined} authorization
 * @property {any} body
 * @property {(status: number, body?: unknown) => void} answer
 * @property {() => void} hangUp
 */

/** An admin listener whose answers a test gives, one after the other. */
export class FakeGateway {
  /** @type {Asked[]} */
  #asked = [];
  #events = new EventEmitter();
  #server = http.createServer(async (request, response) => {
    const sent = await text(request);
    this.#asked.push({
      method: request.method,
      path: request.url,
      authorization: request.headers.authorization,
      body: sent === "" ? undefined : JSON.parse(sent),
      answer: (status, body) => {
        response.writeHead(status, { "Content-Type": "application/json" });
        response.end(body === undefined ? undefined : JSON.stringify(body));
      },
      hangUp: () => request.socket.destroy(),
    });
    this.#events.emit("asked");
  });

  /** @param {number} [port] */
  static async start(port = 0) {
    const gateway = new FakeGateway();
    gateway.#server.listen(port, "127.0.0.1");
    await once(gateway.#server, "listening");
    return gateway;
  }

  get port() {
    return /** @type {import("node:net").AddressInfo} */ (this.#server.address()).port;
  }

  get url() {
    return `http://127.0.0.1:${this.port}`;
  }

  async next() {
    while (this.#asked.length === 0) await once(this.#events, "asked");
    return /** @type {Asked} */ (this.#asked.shift());
  }

  /**
   * Accepts a registration.
   * @param {{ id?: string, secret?: string, leaseMs?: number }} [answer]
   * @returns {Promise<any>} its body
   */
  async register({ id = "w1", secret = "secret", leaseMs = 600_000 } = {}) {
    const asked = await this.next();
    if (asked.method !== "POST") throw new Error(`${asked.method} ${asked.path} is no registration`);
    asked.answer(201, { worker_id: id, secret, lease_ms: leaseMs, features: [] });
    return asked.body;
  }

  /** Lets the worker go. */
  async leave() {
    for (;;) {
      const asked = await this.next();
      asked.answer(
        asked.method === "DELETE" ? 204 : 200,
        asked.method === "DELETE" ? undefined : { lease_ms: 600_000 },
      );
      if (asked.method === "DELETE") return asked;
    }
  }

  async close() {
    this.#server.close();
    this.#server.closeAllConnections();
    await once(this.#server, "close");
  }
}

/**
 * @param {string} name
 * @param {{ method?: string, path?: string, body?: Uint8Array, context?: object, header?: Record<string, string[]> }} [parts]
 */
export function envelope(
  name,
  { method = "POST", path = `/${name}`, body = Buffer.alloc(0), context, header } = {},
) {
  return JSON.stringify({
    kind: "handler",
    name,
    context: { request_id: "r1", timeout_ms: 60_000, ...context },
    param: {
      method,
      path,
      raw_path: path,
      query_string: "",
      params: {},
      header: { Host: ["api.example.com"], ...header },
      body: Buffer.from(body).toString("base64"),
      remote_addr: "203.0.113.9",
    },
  });
}

/**
 * Calls a worker as a gateway does.
 * @param {string} url
 * @param {string | undefined} secret
 * @param {string} sent
 * @param {http.RequestOptions} [options]
 * @returns {Promise<{ status: number | undefined, headers: http.IncomingHttpHeaders, reply: any }>}
 */
export function post(url, secret, sent, options = {}) {
  return new Promise((resolve, reject) => {
    const request = http.request(url, {
      method: "POST",
      agent: false,
      ...options,
      headers: {
        "Content-Type": "application/json",
        ...(secret && { Authorization: `Bearer ${secret}` }),
        ...options.headers,
      },
    });
    request.on("error", reject);
    request.on("response", async (response) => {
      const { statusCode: status, headers } = response;
      resolve({ status, headers, reply: JSON.parse(await text(response)) });
    });
    request.end(sent);
  });
}
