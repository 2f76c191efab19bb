import { setTimeout as sleepUntil } from "node:timers/promises";
import { Refused, Transient, Unknown } from "./gateway.js";

/**
 * @typedef {object} Place The worker's place in the gateway's table.
 * @property {string} workerId
 * @property {number} leaseMs
 * @property {boolean} draining an operator drained the worker; it does not come back by itself
 */

/** Taken for the lease until the gateway has told its own. */
const ASSUMED_LEASE_MS = 10_000;
const FIRST_RETRY_MS = 50;
/** A registration is answered after the gateway has written it to its disk. */
const REGISTER_MS = 10_000;
const LEAST_RENEW_MS = 250;
/** What a registration that is under way gets when the worker is told to stop: one that succeeds has to be undone. */
const LAST_REGISTRATION_MS = 1_000;
const DEREGISTER_MS = 2_000;

/** Keeps a worker in its gateway's table. Contract section 6. */
export class Registrar {
  #gateway;
  #registration;
  #ownUrl;
  #secret;
  #logger;
  #sleep;
  #random;

  /**
   * @param {object} parts
   * @param {import("./gateway.js").Gateway} parts.gateway
   * @param {Record<string, unknown> & { handlers: unknown[] }} parts.registration complete but for the URL
   * @param {() => Promise<string>} parts.ownUrl where the gateway is to call the worker
   * @param {import("./secret.js").Secret} parts.secret
   * @param {import("../index.js").Logger} parts.logger
   * @param {(ms: number, stop: AbortSignal) => Promise<void>} [parts.sleep] returns early when told to stop
   * @param {() => number} [parts.random] from 0 up to 1
   */
  constructor({
    gateway,
    registration,
    ownUrl,
    secret,
    logger,
    sleep = sleepUnlessStopped,
    random = Math.random,
  }) {
    this.#gateway = gateway;
    this.#registration = registration;
    this.#ownUrl = ownUrl;
    this.#secret = secret;
    this.#logger = logger;
    this.#sleep = sleep;
    this.#random = random;
  }

  /**
   * Registers, renews, and registers again, until `stop`; then takes the worker out of the table.
   *
   * @param {AbortSignal} stop
   * @returns {Promise<boolean>} whether it was ever in the table
   * @throws {Refused} when the first registration is, unless another worker's routes are why: those may go away.
   *   Later refusals are tried again, since a worker that serves should not die of a gateway's configuration.
   */
  async keep(stop) {
    const patience = new Patience(this.#random);
    /** @type {Place | undefined} */
    let place;
    let wasRegistered = false;
    while (!stop.aborted) {
      let pauseMs = 0;
      try {
        const was = place;
        place = was === undefined ? await this.#registerUnlessStopped(stop) : await this.#renew(was, stop);
        if (place === undefined) break;
        if (patience.lost) this.#logger.info("the gateway is back");
        patience.found(place.leaseMs);
        wasRegistered = true;
        pauseMs = place.leaseMs / 3;
      } catch (error) {
        if (stop.aborted) break;
        if (error instanceof Unknown) {
          if (place?.draining) {
            this.#logger.warn("the drained worker's lease has lapsed; it stays out until it is started anew");
            await stopped(stop);
            return true;
          }
          this.#logger.warn("the lease has lapsed; registering again");
          place = undefined;
          continue;
        }
        if (error instanceof Refused) {
          if (!wasRegistered && error.status !== 409) throw error;
          pauseMs = patience.longest();
          this.#logger.error(explain(error), {
            status: error.status,
            reason: error.message,
            again_in_ms: pauseMs,
          });
          if (!place?.draining) place = undefined;
        } else if (error instanceof Transient) {
          const log = patience.lost ? this.#logger.debug : this.#logger.warn;
          log("cannot reach the gateway; trying again", {
            gateway: this.#gateway.url,
            reason: error.message,
          });
          pauseMs = patience.next();
        } else {
          throw error;
        }
      }
      await this.#sleep(pauseMs, stop);
    }
    if (place !== undefined) await this.#leave(place.workerId);
    return wasRegistered;
  }

  /**
   * @param {AbortSignal} stop
   * @returns {Promise<Place | undefined>} undefined when told to stop, and there is nothing to undo
   */
  async #registerUnlessStopped(stop) {
    const registering = this.#register();
    const registered = registering.then(
      () => undefined,
      () => undefined,
    );
    const listening = new AbortController();
    await Promise.race([registered, stopped(stop, listening.signal)]);
    listening.abort();
    if (!stop.aborted) return registering;
    const enough = new AbortController();
    await Promise.race([registered, sleepUnlessStopped(LAST_REGISTRATION_MS, enough.signal)]);
    enough.abort();
    return Promise.race([registering, undefined]);
  }

  /** @returns {Promise<Place>} */
  async #register() {
    const url = await this.#ownUrl();
    const body = { ...this.#registration, url };
    let secret;
    this.#secret.expectChange();
    try {
      const answer = await this.#gateway.ask("POST", [], { body, patienceMs: REGISTER_MS });
      const { worker_id: workerId, lease_ms: leaseMs } = answer;
      if (typeof workerId !== "string" || typeof answer.secret !== "string" || !isLease(leaseMs)) {
        throw new Refused(201, `${this.#gateway.url} does not answer as a gateway's admin listener does`);
      }
      secret = answer.secret;
      const handlers = this.#registration.handlers.length;
      this.#logger.info("registered", { worker_id: workerId, url, lease_ms: leaseMs, handlers });
      return { workerId, leaseMs, draining: false };
    } catch (error) {
      if (!(error instanceof Unknown)) throw error;
      throw new Refused(404, `${this.#gateway.url} is not a gateway's admin listener; set GEARWAY_GATEWAY`);
    } finally {
      this.#secret.settle(secret);
    }
  }

  /**
   * @param {Place} place
   * @param {AbortSignal} stop
   * @returns {Promise<Place>}
   */
  async #renew(place, stop) {
    try {
      const patienceMs = Math.min(Math.max(place.leaseMs / 3, LEAST_RENEW_MS), REGISTER_MS);
      const answer = await this.#gateway.ask("PUT", [place.workerId, "lease"], { patienceMs, stop });
      const draining = place.draining || answer.draining === true;
      if (draining && !place.draining) {
        this.#logger.warn(
          "an operator has drained this worker: it gets nothing new until it is started anew",
        );
      }
      return { ...place, leaseMs: isLease(answer.lease_ms) ? answer.lease_ms : place.leaseMs, draining };
    } catch (error) {
      // Told to stop, the worker is still in the table, and has to leave it.
      if (stop.aborted) return place;
      throw error;
    }
  }

  /** @param {string} workerId */
  async #leave(workerId) {
    try {
      await this.#gateway.ask("DELETE", [workerId], { patienceMs: DEREGISTER_MS });
    } catch (error) {
      if (!(error instanceof Unknown)) {
        this.#logger.warn("cannot deregister", {
          reason: error instanceof Error ? error.message : String(error),
        });
        return;
      }
    }
    this.#logger.info("deregistered", { worker_id: workerId });
  }
}

/** A third of the lease at most, so that a gateway that comes back finds its workers before their leases lapse. */
class Patience {
  #random;
  #longestMs = ASSUMED_LEASE_MS / 3;
  #retryMs = FIRST_RETRY_MS;
  #failures = 0;

  /** @param {() => number} random */
  constructor(random) {
    this.#random = random;
  }

  get lost() {
    return this.#failures > 0;
  }

  /** @param {number} leaseMs */
  found(leaseMs) {
    this.#longestMs = leaseMs / 3;
    this.#retryMs = Math.min(FIRST_RETRY_MS, this.#longestMs);
    this.#failures = 0;
  }

  next() {
    this.#failures += 1;
    const retryMs = this.#retryMs;
    this.#retryMs = Math.min(retryMs * 2, this.#longestMs);
    // Many workers lose a gateway at once; they should not all come back at once.
    return retryMs * (0.5 + 0.5 * this.#random());
  }

  longest() {
    this.#failures += 1;
    return this.#longestMs;
  }
}

/** @param {Refused} error */
function explain({ status }) {
  return status === 409
    ? "another service has a path of this worker, so the gateway refuses all of it. Give the handler another name; or " +
        "stop the other service and run `gearway routes forget PATH`; or, if both are replicas of one service, give " +
        "them the same GEARWAY_NAME. Trying again"
    : "the gateway refuses the worker; trying again";
}

/**
 * @param {unknown} value
 * @returns {value is number}
 */
function isLease(value) {
  return typeof value === "number" && value > 0;
}

/**
 * @param {number} ms
 * @param {AbortSignal} stop
 */
async function sleepUnlessStopped(ms, stop) {
  await sleepUntil(ms, undefined, { signal: stop }).catch(() => undefined);
}

/**
 * @param {AbortSignal} stop
 * @param {AbortSignal} [enough] when nobody waits any more
 * @returns {Promise<void>}
 */
function stopped(stop, enough) {
  if (stop.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    stop.addEventListener("abort", () => resolve(), { once: true, signal: enough });
  });
}
