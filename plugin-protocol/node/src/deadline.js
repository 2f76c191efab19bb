/** setTimeout takes a longer time for none at all. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/**
 * When the gateway stops waiting for a call, and the signal that says so. Most handlers never ask for the signal, so there
 * is none, and no timer, until one does.
 */
export class Deadline {
  #at;
  /** Whether the handler's code has come to its first `await`, or its end. */
  #yielded = false;
  #ended = false;
  /** @type {AbortController | undefined} */
  #abort;
  /** @type {NodeJS.Timeout | undefined} */
  #timer;

  /** @param {number | undefined} timeoutMs */
  constructor(timeoutMs) {
    this.#at = timeoutMs === undefined ? Infinity : Date.now() + timeoutMs;
  }

  /** @returns {Date | null} */
  get date() {
    return this.#at === Infinity ? null : new Date(this.#at);
  }

  /** Aborts at the deadline, unless the call ends before. */
  get signal() {
    this.#abort ??= this.#watched();
    return this.#abort.signal;
  }

  /**
   * Whether it is what the signal has aborted with.
   * @param {unknown} error
   */
  isCauseOf(error) {
    return this.#abort !== undefined && this.#abort.signal.aborted && error === this.#abort.signal.reason;
  }

  /** From now on time may have passed without the handler being busy. */
  yielded() {
    this.#yielded = true;
  }

  /** The call has ended: a signal that has not been aborted stays so. */
  end() {
    clearTimeout(this.#timer);
    // Somebody may still ask for the signal, and is to hear what it would have said.
    if (this.#abort === undefined && Date.now() < this.#at) this.#at = Infinity;
    this.#ended = true;
  }

  #watched() {
    const abort = new AbortController();
    const tell = () => {
      abort.abort(new DOMException("the gateway has stopped waiting for this call", "TimeoutError"));
    };
    const leftMs = this.#at - Date.now();
    // As a timer from the beginning would have: never while the handler's code runs for the first time.
    if (leftMs <= 0 && this.#yielded) tell();
    else if (leftMs !== Infinity && !this.#ended) this.#timer = setTimeout(tell, Math.min(leftMs, LONGEST_TIMER_MS));
    return abort;
  }
}
