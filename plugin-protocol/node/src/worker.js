import { isIPv6 } from "node:net";
import { Calls } from "./call.js";
import { Gateway, Refused } from "./gateway.js";
import { streamLogger } from "./log.js";
import { Registrar } from "./registration.js";
import { METHODS, Routes } from "./routes.js";
import { Secret } from "./secret.js";
import { Server } from "./server.js";
import { readSettings } from "./settings.js";
import { StartError } from "./start_error.js";
import { TestClient } from "./test_client.js";

/**
 * @typedef {import("../index.js").WorkerOptions} WorkerOptions
 * @typedef {import("../index.js").HandlerOptions} HandlerOptions
 * @typedef {import("../index.js").HandlerFunction} HandlerFunction
 * @typedef {import("../index.js").FetchApp} FetchApp
 */

const OWN_URL_MS = 10_000;

/** A process that answers requests for a gateway: its handlers, and who it is. */
export class Worker {
  #routes = new Routes();
  /** @type {WorkerOptions} */
  #options;
  #env;
  /** @type {Promise<void> | undefined} */
  #running;

  /**
   * @param {WorkerOptions} [options] win over the environment
   * @param {NodeJS.ProcessEnv} [env]
   */
  constructor(options = {}, env = process.env) {
    this.#options = options;
    this.#env = env;
  }

  /** How many handlers there are. */
  get size() {
    return this.#routes.all.length;
  }

  /**
   * @param {string} name
   * @param {HandlerOptions | HandlerFunction} optionsOrRun
   * @param {HandlerFunction} [run]
   */
  handler(name, optionsOrRun, run) {
    if (this.#running !== undefined) {
      throw new Error(
        `handler ${JSON.stringify(name)}: the worker runs already, and its routes are registered`,
      );
    }
    if (typeof optionsOrRun === "function") {
      if (run !== undefined) throw new TypeError(misplaced("handler", name));
      this.#routes.add(name, {}, optionsOrRun);
    } else this.#routes.add(name, optionsOrRun, /** @type {HandlerFunction} */ (run));
  }

  /**
   * @param {string} path
   * @param {HandlerOptions | FetchApp} optionsOrApp
   * @param {FetchApp} [app]
   */
  mount(path, optionsOrApp, app) {
    const isApp = app === undefined || typeof optionsOrApp === "function" || "fetch" in optionsOrApp;
    if (isApp && app !== undefined) throw new TypeError(misplaced("mount", path));
    const [options, mounted] = isApp ? [{}, optionsOrApp] : [optionsOrApp, app];
    const subtree = typeof path !== "string" || /[/:]$/.test(path) ? path : `${path}/`;
    this.handler(
      subtree,
      { methods: METHODS, .../** @type {HandlerOptions} */ (options) },
      fetchOf(path, mounted),
    );
  }

  /** @param {WorkerOptions} options */
  configure(options) {
    this.#options = { ...this.#options, ...options };
  }

  /** @returns {TestClient} */
  testClient() {
    return new TestClient(this.#routes, new Calls(this.#routes, this.#options.logger ?? streamLogger()));
  }

  /**
   * @param {import("../index.js").RunOptions} [options]
   * @returns {Promise<void>}
   */
  run({ stop, ...options } = {}) {
    this.configure(options);
    this.#running ??= stop === undefined ? this.#runUntilSignal() : this.#run(stop);
    return this.#running;
  }

  async #runUntilSignal() {
    const stop = new AbortController();
    const told = () => {
      if (stop.signal.aborted) process.exit(1);
      stop.abort();
    };
    process.on("SIGTERM", told).on("SIGINT", told);
    try {
      await this.#run(stop.signal);
    } finally {
      process.off("SIGTERM", told).off("SIGINT", told);
    }
  }

  /** @param {AbortSignal} stop */
  async #run(stop) {
    const logger = this.#options.logger ?? streamLogger();
    const settings = readSettings(this.#options, this.#env, process.argv[1]);
    if (settings.token === undefined) {
      throw new StartError(
        "GEARWAY_TOKEN is not set: it must be a registration token of the gateway, which prints the path of a file " +
          "with one when it starts",
      );
    }
    const secret = new Secret();
    const calls = new Calls(this.#routes, logger);
    const server = new Server({ calls, secret, logger, ...settings });
    const listening = await server.listen(settings.listen).catch((error) => {
      throw new StartError(`GEARWAY_LISTEN: ${error.message}`, { cause: error });
    });
    logger.info("listening", { address: hostAndPort(listening.address, listening.port) });
    const gateway = new Gateway(settings.gateway, settings.token);
    const registrar = new Registrar({
      gateway,
      registration: registrationOf(settings, this.#routes),
      ownUrl: () => ownUrl(settings, listening, gateway),
      secret,
      logger,
    });
    const sayGoodbye = () => logger.info("told to stop: leaving the gateway, finishing what runs");
    stop.addEventListener("abort", sayGoodbye, { once: true });
    try {
      const wasRegistered = await registrar.keep(stop);
      if (wasRegistered) await server.takeStragglers();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      throw new StartError(
        `the gateway refuses the worker (HTTP ${error.status}): ${error.message}${advice(error)}`,
      );
    } finally {
      await server.stop();
      stop.removeEventListener("abort", sayGoodbye);
    }
    logger.info("stopped");
  }
}

/**
 * The body of `POST /v1/workers`, but for the URL. Contract section 6.
 *
 * @param {import("./settings.js").Settings} settings
 * @param {Routes} routes
 */
export function registrationOf({ name, version, maxConcurrency }, routes) {
  return {
    name,
    protocol: "gearway-v1",
    version: version === "" ? undefined : version,
    max_concurrency: maxConcurrency,
    features: [],
    handlers: routes.all.map(({ spec }) => spec),
  };
}

/**
 * What would be ignored may be all that keeps strangers out.
 *
 * @param {string} method
 * @param {string} name
 */
function misplaced(method, name) {
  const as = `${method}(name, options, …)`;
  return `${method} ${JSON.stringify(name)}: the options come before what they are for, as in ${as}`;
}

/**
 * @param {string} path
 * @param {unknown} app
 * @returns {HandlerFunction}
 */
function fetchOf(path, app) {
  if (typeof app === "function") return /** @type {HandlerFunction} */ (app);
  const { fetch } = /** @type {{ fetch?: unknown }} */ (app ?? {});
  if (typeof fetch !== "function") {
    throw new TypeError(`mount ${JSON.stringify(path)}: the app must be a function or have a fetch method`);
  }
  return (request, call) => fetch.call(app, request, call);
}

/**
 * @param {import("./settings.js").Settings} settings
 * @param {import("node:net").AddressInfo} listening
 * @param {Gateway} gateway
 */
async function ownUrl({ advertise }, { address, port }, gateway) {
  if (advertise !== undefined) return advertise.href;
  const wildcard = address === "0.0.0.0" || address === "::";
  const reachable = wildcard ? await gateway.localAddress(isIPv6(address) ? 6 : 4, OWN_URL_MS) : address;
  return `http://${hostAndPort(reachable, port)}/`;
}

/**
 * @param {string} address
 * @param {number} port
 */
function hostAndPort(address, port) {
  return isIPv6(address) ? `[${address}]:${port}` : `${address}:${port}`;
}

/** @param {Refused} error */
function advice({ status }) {
  return status === 401 || status === 403
    ? ". Check GEARWAY_TOKEN, and the names and paths that it may register"
    : "";
}
