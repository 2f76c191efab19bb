import { createHash, timingSafeEqual } from "node:crypto";
import { EventEmitter, once } from "node:events";

/** How long a call with an unknown secret waits for a registration that is under way. */
const CHANGE_MS = 2_000;

/** The secret that calls must present, as the latest registration gave it. */
export class Secret {
  /** @type {Buffer | undefined} */
  #digest;
  /** A registration is under way: the gateway may use its secret before the worker has read it. */
  #changing = false;
  #events = new EventEmitter().setMaxListeners(0);

  expectChange() {
    this.#changing = true;
  }

  /**
   * Ends what `expectChange` began; without a secret, the old one holds.
   * @param {string} [secret]
   */
  settle(secret) {
    this.#changing = false;
    if (secret !== undefined) this.#digest = digest(secret);
    this.#events.emit("settled");
  }

  /**
   * @param {string | undefined} authorization the header's value
   * @returns {Promise<boolean>}
   */
  async accepts(authorization) {
    const presented = /^Bearer (.+)$/i.exec(authorization ?? "")?.[1];
    if (presented === undefined) return false;
    const presentedDigest = digest(presented);
    if (!this.#is(presentedDigest) && this.#changing) {
      const impatient = new AbortController();
      const timer = setTimeout(() => impatient.abort(), CHANGE_MS);
      await once(this.#events, "settled", { signal: impatient.signal }).catch(() => undefined);
      clearTimeout(timer);
    }
    return this.#is(presentedDigest);
  }

  /** @param {Buffer} presented */
  #is(presented) {
    return this.#digest !== undefined && timingSafeEqual(presented, this.#digest);
  }
}

/**
 * Digests have one length, which `timingSafeEqual` wants.
 * @param {string} text
 */
function digest(text) {
  return createHash("sha256").update(text).digest();
}
