import { timingSafeEqual } from "node:crypto";
import { EventEmitter, once } from "node:events";

/** How long a call with an unknown secret waits for a registration that is under way. */
const CHANGE_MS = 2_000;

/** The secret that calls must present, as the latest registration gave it. */
export class Secret {
  /** @type {Buffer | undefined} */
  #bytes;
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
    if (secret !== undefined) this.#bytes = Buffer.from(secret);
    this.#events.emit("settled");
  }

  /**
   * @param {string | undefined} authorization the header's value
   * @returns {boolean | Promise<boolean>} at once, but for what a registration may be about to tell
   */
  accepts(authorization) {
    const presented = /^Bearer (.+)$/i.exec(authorization ?? "")?.[1];
    if (presented === undefined) return false;
    const bytes = Buffer.from(presented);
    return this.#is(bytes) || (this.#changing && this.#settlesFor(bytes));
  }

  /** @param {Buffer} presented */
  async #settlesFor(presented) {
    const impatient = new AbortController();
    const timer = setTimeout(() => impatient.abort(), CHANGE_MS);
    await once(this.#events, "settled", { signal: impatient.signal }).catch(() => undefined);
    clearTimeout(timer);
    return this.#is(presented);
  }

  /**
   * In a time that tells nothing but the secret's length, which gateways do not hide.
   * @param {Buffer} presented
   */
  #is(presented) {
    const own = this.#bytes;
    return own !== undefined && presented.length === own.length && timingSafeEqual(presented, own);
  }
}
