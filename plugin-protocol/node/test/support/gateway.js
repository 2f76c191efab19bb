import { mkdtemp, rm, writeFile } from "node:fs/promises";
import http from "node:http";
import net from "node:net";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { Process } from "./process.js";

const { GEARWAY_BIN } = process.env;

/** A real gateway, in a process of its own. */
export class Gateway {
  static token = "a-registration-token";
  static adminToken = "an-admin-token";
  static clientKey = "a-client-key";
  static masterKey = "a-master-key";

  /** @type {Process} */
  #process;

  /**
   * @param {import("node:test").TestContext} t
   * @param {string} config
   * @param {{ public: number, admin: number }} ports
   */
  constructor(t, config, ports) {
    this.t = t;
    this.config = config;
    this.ports = ports;
    this.#process = this.#spawn();
  }

  /** @param {import("node:test").TestContext} t */
  static async start(t) {
    const folder = await mkdtemp(join(tmpdir(), "gearway-node-"));
    t.after(() => rm(folder, { recursive: true, force: true }));
    // Fixed ports, so that a worker finds the gateway when it has been started again.
    const ports = { public: await freePort(), admin: await freePort() };
    const config = join(folder, "gearway.toml");
    await writeFile(
      config,
      `data_dir = ${JSON.stringify(join(folder, "data"))}
[public]
listen = "127.0.0.1:${ports.public}"
[admin]
listen = "127.0.0.1:${ports.admin}"
tokens = ["${Gateway.adminToken}"]
registration_tokens = ["${Gateway.token}"]
[auth]
client_keys = ["${Gateway.clientKey}"]
master_keys = ["${Gateway.masterKey}"]
[workers]
lease = "3s"
park = "30s"
[secrets]
hook = "hook-secret"
`,
    );
    const gateway = new Gateway(t, config, ports);
    await gateway.#process.logged("listening");
    return gateway;
  }

  get url() {
    return `http://127.0.0.1:${this.ports.public}`;
  }

  get adminUrl() {
    return `http://127.0.0.1:${this.ports.admin}`;
  }

  /** What a worker of it needs. */
  get environment() {
    return { GEARWAY_GATEWAY: this.adminUrl, GEARWAY_TOKEN: Gateway.token };
  }

  /**
   * @param {import("node:test").TestContext} t
   * @param {string} user
   */
  async tokenFor(t, user) {
    const env = { GEARWAY_ADMIN: this.adminUrl, GEARWAY_ADMIN_TOKEN: Gateway.adminToken };
    const create = new Process(t, binary(), ["tokens", "create", "--user", user, "--ttl", "1h"], { env });
    if ((await create.ended()) !== 0) throw new Error(create.lines.join("\n"));
    return create.stdout.trim();
  }

  async kill() {
    this.#process.signal("SIGKILL");
    await this.#process.ended();
  }

  async startAgain() {
    this.#process = this.#spawn();
    await this.#process.logged("listening");
  }

  /**
   * As a client writes it: the target is not made nicer, and headers are a list.
   *
   * @param {string} target
   * @param {{ method?: string, headers?: string[], body?: string | Uint8Array, agent?: http.Agent }} [options]
   * @returns {Promise<{ status: number | undefined, headers: http.IncomingHttpHeaders, body: string }>}
   */
  request(target, { method = "GET", headers = [], body, agent } = {}) {
    const length = body === undefined ? [] : ["Content-Length", String(Buffer.byteLength(body))];
    const host = headers.includes("Host") ? [] : ["Host", `127.0.0.1:${this.ports.public}`];
    return new Promise((resolve, reject) => {
      const request = http.request({
        host: "127.0.0.1",
        port: this.ports.public,
        path: target,
        method,
        agent: agent ?? false,
        headers: [...host, ...headers, ...length],
      });
      request.on("error", reject);
      request.on("response", async (response) => {
        resolve({ status: response.statusCode, headers: response.headers, body: await text(response) });
      });
      request.end(body);
    });
  }

  #spawn() {
    return new Process(this.t, binary(), ["serve", "--config", this.config]);
  }
}

function binary() {
  if (GEARWAY_BIN === undefined || GEARWAY_BIN === "") {
    throw new Error(
      "GEARWAY_BIN must be the path of a gateway's binary (cargo build --bin gearway); to leave these tests out, run " +
        "npm run test:without-gateway",
    );
  }
  return GEARWAY_BIN;
}

async function freePort() {
  const server = net.createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = /** @type {net.AddressInfo} */ (server.address());
  server.close();
  await once(server, "close");
  return port;
}
