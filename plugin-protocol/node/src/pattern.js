/** @typedef {{ literal: string } | { param: string }} Segment */

/**
 * Which paths a handler's name stands for. Contract section 3. The gateway decides where requests go; this is for
 * finding two handlers that clash, and for the test client.
 */
export class Pattern {
  /** @type {Segment[]} */
  #segments;
  #subtree;

  /** @param {string} name */
  constructor(name) {
    const path = name.replaceAll(":", "/").replace(/^\//, "");
    this.#subtree = path === "" || path.endsWith("/");
    const segments = path.replace(/\/$/, "");
    this.#segments = segments === "" ? [] : segments.split("/").map(segmentOf);
  }

  get takesSubtree() {
    return this.#subtree;
  }

  /** The same for names that stand for the same paths, whatever their parameters are called. */
  get shape() {
    const segments = this.#segments.map((segment) => ("literal" in segment ? `=${segment.literal}` : "{}"));
    return [...segments, this.#subtree ? "/" : "."].join("/");
  }

  /**
   * @param {string} path begins with `/` and is percent-decoded
   * @returns {{ rank: string, params: Record<string, string> } | undefined} of several matches, the one whose rank
   *   sorts first has the path: a literal before a parameter before the rest of a subtree
   */
  match(path) {
    const segments = path.slice(1).split("/");
    const own = this.#segments;
    if (this.#subtree ? segments.length <= own.length : segments.length !== own.length) return undefined;
    let rank = "";
    /** @type {[string, string][]} */
    const params = [];
    for (const [index, pattern] of own.entries()) {
      const segment = segments[index];
      if ("literal" in pattern) {
        if (pattern.literal !== segment) return undefined;
        rank += "0";
      } else {
        if (segment === "") return undefined;
        rank += "1";
        params.push([pattern.param, segment]);
      }
    }
    return { rank: this.#subtree ? `${rank}2` : rank, params: Object.fromEntries(params) };
  }
}

/**
 * @param {string} text
 * @returns {Segment}
 */
function segmentOf(text) {
  return /^\{.*\}$/s.test(text) ? { param: text.slice(1, -1) } : { literal: text };
}
