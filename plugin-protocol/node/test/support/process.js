import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export const CLI = fileURLToPath(new URL("../../bin/gearway.js", import.meta.url));

/** @param {string} name of a file in `apps` */
export function app(name) {
  return fileURLToPath(new URL(`apps/${name}`, import.meta.url));
}

/** A process whose log a test reads line by line. */
export class Process {
  /** @type {string[]} */
  lines = [];
  #child;
  #ended;
  #reader;

  /**
   * @param {import("node:test").TestContext} t whose end kills it
   * @param {string} command
   * @param {string[]} args
   * @param {import("node:child_process").SpawnOptions} [options]
   */
  constructor(t, command, args, { env, ...options } = {}) {
    const { PATH, HOME } = process.env;
    this.#child = spawn(command, args, {
      ...options,
      env: { PATH, HOME, ...env },
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#ended = once(this.#child, "close");
    const { stdout, stderr } = this.#child;
    if (stdout === null || stderr === null) throw new Error("both are pipes");
    this.stdout = "";
    stdout.on("data", (chunk) => (this.stdout += chunk));
    this.#reader = createInterface({ input: stderr });
    this.#reader.on("line", (line) => this.lines.push(line));
    t.after(async () => {
      this.#child.kill("SIGKILL");
      await this.#ended;
    });
  }

  get pid() {
    return /** @type {number} */ (this.#child.pid);
  }

  /** @param {NodeJS.Signals} name */
  signal(name) {
    this.#child.kill(name);
  }

  /** Its exit code, or the signal that ended it. */
  async ended() {
    const [code, signal] = await this.#ended;
    return code ?? signal;
  }

  /**
   * The first line of its log that has the text in it.
   * @param {string} text
   * @returns {Promise<string>}
   */
  async logged(text) {
    for (;;) {
      const line = this.lines.find((one) => one.includes(text));
      if (line !== undefined) return line;
      const more = await Promise.race([
        once(this.#reader, "line").then(() => true),
        this.#ended.then(() => false),
      ]);
      if (!more && !this.lines.some((one) => one.includes(text))) {
        throw new Error(
          `the process ended without ${JSON.stringify(text)} in its log:\n${this.lines.join("\n")}`,
        );
      }
    }
  }
}
