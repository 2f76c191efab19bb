import { basename, extname } from "node:path";
import { StartError } from "./start_error.js";

/**
 * Who a worker is, and where it finds its gateway. Contract section 6.
 *
 * @typedef {object} Settings
 * @property {URL} gateway
 * @property {string | undefined} token
 * @property {string} name
 * @property {{ host: string, port: number }} listen
 * @property {URL | undefined} advertise
 * @property {string} version
 * @property {number | undefined} maxConcurrency
 * @property {number} maxEnvelopeBytes
 */

/** An envelope of a body of 10 MiB, the gateway's `limits.max_body`, with room for its headers. */
const MAX_ENVELOPE_BYTES = 16 << 20;
const OPTIONS = new Set(
  /** @type {(keyof import("../index.js").WorkerOptions)[]} */ ([
    "name",
    "gateway",
    "token",
    "listen",
    "advertise",
    "version",
    "maxConcurrency",
    "maxEnvelopeBytes",
    "logger",
  ]),
);

/**
 * The options, then the environment, then the defaults. A variable that is empty counts as absent.
 *
 * @param {import("../index.js").WorkerOptions} options
 * @param {NodeJS.ProcessEnv} env
 * @param {string | undefined} appFile whose stem is the name when nothing else is
 * @returns {Settings}
 * @throws {StartError} that names the setting whose value cannot be used
 */
export function readSettings(options, env, appFile) {
  const unknown = Object.keys(options).find((option) => !OPTIONS.has(/** @type {never} */ (option)));
  if (unknown !== undefined) {
    throw new StartError(`there is no option ${unknown}; there are ${[...OPTIONS].join(", ")}`);
  }
  /** @type {(option: "gateway" | "token" | "name" | "listen" | "advertise") => { from: string, text: string } | undefined} */
  const given = (option) => {
    const variable = `GEARWAY_${option.toUpperCase()}`;
    const text = options[option] ?? env[variable];
    return text === undefined || text === "" ? undefined : { from: variable, text: String(text).trim() };
  };
  const advertise = given("advertise");
  return {
    gateway: httpUrl(given("gateway") ?? { from: "GEARWAY_GATEWAY", text: "http://127.0.0.1:3001" }),
    token: given("token")?.text,
    name: given("name")?.text ?? stemOf(appFile),
    listen: address(given("listen") ?? { from: "GEARWAY_LISTEN", text: "127.0.0.1:0" }),
    advertise: advertise && httpUrl(advertise),
    version: options.version ?? "",
    maxConcurrency: atLeastOne("maxConcurrency", options.maxConcurrency),
    maxEnvelopeBytes: atLeastOne("maxEnvelopeBytes", options.maxEnvelopeBytes) ?? MAX_ENVELOPE_BYTES,
  };
}

/** @param {{ from: string, text: string }} setting */
function httpUrl({ from, text }) {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url?.protocol !== "http:" && url?.protocol !== "https:") {
    throw new StartError(
      `${from}: ${JSON.stringify(text)} must be a URL that begins with http:// or https://`,
    );
  }
  return url;
}

/** @param {{ from: string, text: string }} setting */
function address({ from, text }) {
  const { host, port } = /^(?:\[(?<v6>[^\]]+)\]|(?<host>[^:[\]]+)):(?<port>\d+)$/.exec(text)?.groups ?? {};
  const ipv6 = /^\[([^\]]+)\]/.exec(text)?.[1];
  if (port === undefined || Number(port) > 65_535) {
    throw new StartError(
      `${from}: ${JSON.stringify(text)} must be host:port, such as 127.0.0.1:9000 or [::1]:0`,
    );
  }
  return { host: ipv6 ?? host, port: Number(port) };
}

/**
 * @param {string} option
 * @param {number | undefined} value
 */
function atLeastOne(option, value) {
  if (value !== undefined && !(Number.isSafeInteger(value) && value >= 1)) {
    throw new StartError(`${option} must be a whole number, at least 1`);
  }
  return value;
}

/** @param {string | undefined} file */
function stemOf(file) {
  const stem = file === undefined ? "" : basename(file, extname(file));
  return stem === "" ? "worker" : stem;
}
