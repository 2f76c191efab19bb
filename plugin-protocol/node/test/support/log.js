import { EventEmitter, once } from "node:events";

/** A logger that keeps what it is told, and lets a test wait for it. */
export class Log {
  /** @type {{ level: string, message: string, fields: Record<string, unknown> }[]} */
  entries = [];
  #events = new EventEmitter();

  debug = this.#at("debug");
  info = this.#at("info");
  warn = this.#at("warn");
  error = this.#at("error");

  /** @param {string} text a part of the message */
  async until(text) {
    for (;;) {
      const entry = this.entries.find(({ message }) => message.includes(text));
      if (entry !== undefined) return entry;
      await once(this.#events, "entry");
    }
  }

  /** @param {string} level */
  messages(level) {
    return this.entries.filter((entry) => entry.level === level).map(({ message }) => message);
  }

  /** @param {string} level */
  #at(level) {
    return (/** @type {string} */ message, /** @type {Record<string, unknown>} */ fields = {}) => {
      this.entries.push({ level, message, fields });
      this.#events.emit("entry");
    };
  }
}
