import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { inspect, parseArgs } from "node:util";
import { StartError } from "./start_error.js";

const USAGE = `Usage: gearway run [options] APP

Runs the handlers that APP, a JavaScript module, has registered when it is loaded. An app that is
its default export, such as Hono's or any object with a fetch method, is mounted as well.

  --mount PATH          where a default export is mounted; / by default
  --name NAME           GEARWAY_NAME: workers of one name are replicas; APP's file name by default
  --gateway URL         GEARWAY_GATEWAY: the gateway's admin listener; http://127.0.0.1:3001 by default
  --listen HOST:PORT    GEARWAY_LISTEN; 127.0.0.1:0 by default
  --advertise URL       GEARWAY_ADVERTISE: where the gateway is to call this worker
  --max-concurrency N   calls that may run at once; any number by default
  -h, --help            this text
  -V, --version         the package's version

GEARWAY_TOKEN, a registration token of the gateway, must be set.
`;

const PARENT_CHECK_MS = 250;
const OK = 0;
const FAILED = 1;
const USAGE_ERROR = 2;

/**
 * @param {string[]} args
 * @returns {Promise<number>} the exit code
 */
export async function main(args) {
  let parsed;
  try {
    parsed = parse(args);
  } catch (error) {
    process.stderr.write(`gearway: ${error instanceof Error ? error.message : error}\n\n${USAGE}`);
    return USAGE_ERROR;
  }
  const { values, positionals } = parsed;
  if (values.help) {
    process.stdout.write(USAGE);
    return OK;
  }
  if (values.version) {
    process.stdout.write(`gearway ${ownVersion()}\n`);
    return OK;
  }
  const [command, app] = positionals;
  if (command !== "run" || app === undefined || positionals.length > 2) {
    process.stderr.write(USAGE);
    return USAGE_ERROR;
  }
  try {
    await runApp(resolve(app), values);
    return OK;
  } catch (error) {
    // By its name: the app's copy of this package has a class of its own.
    const told = error instanceof Error && error.name === "StartError" ? error.message : inspect(error);
    process.stderr.write(`gearway: ${told}\n`);
    return FAILED;
  }
}

/** @param {string[]} args */
function parse(args) {
  return parseArgs({
    args,
    allowPositionals: true,
    options: {
      mount: { type: "string" },
      name: { type: "string" },
      gateway: { type: "string" },
      listen: { type: "string" },
      advertise: { type: "string" },
      "max-concurrency": { type: "string" },
      help: { type: "boolean", short: "h" },
      version: { type: "boolean", short: "V" },
    },
  });
}

/**
 * @param {string} file
 * @param {ReturnType<typeof parse>["values"]} flags
 */
async function runApp(file, { mount, name, gateway, listen, advertise, "max-concurrency": maxConcurrency }) {
  // The app is the program, also for what asks the process; its file's stem is the worker's name.
  process.argv.splice(1, Infinity, file);
  const { Worker, worker } = await packageOf(file);
  // An app may run by itself while it is loaded.
  heedSignals();
  const module = await import(pathToFileURL(file).href);
  /** @type {unknown} */
  const exported = module.default;
  const runs = exported instanceof Worker ? exported : worker;
  if (isFetchApp(exported)) runs.mount(mount ?? "/", exported);
  else if (mount !== undefined) throw new StartError(`${file} has no default export that could be mounted`);
  if (runs.size === 0) {
    throw new StartError(
      `${file} registers nothing: call handler(name, function) of the package "gearway", or export an app with a ` +
        "fetch method as default",
    );
  }
  await runs.run({
    ...(name !== undefined && { name }),
    ...(gateway !== undefined && { gateway }),
    ...(listen !== undefined && { listen }),
    ...(advertise !== undefined && { advertise }),
    ...(maxConcurrency !== undefined && { maxConcurrency: Number(maxConcurrency) }),
  });
}

/**
 * Before the app runs, a signal ends the process: there is nothing yet that would have to be finished.
 *
 * npx and npm scripts start this command through a shell, which a signal ends without reaching this process. It would
 * go on without anybody who can stop it, so the end of the shell counts as a signal; but not as the second one, which
 * ends a worker at once.
 */
function heedSignals() {
  const shell = process.ppid;
  const watch = setInterval(() => {
    if (process.ppid === shell) return;
    clearInterval(watch);
    process.kill(process.pid, "SIGTERM");
  }, PARENT_CHECK_MS).unref();
  if (process.env.npm_execpath === undefined) clearInterval(watch);
  /** @param {NodeJS.Signals} signal */
  const told = (signal) => {
    clearInterval(watch);
    if (process.listeners(signal).every((listener) => listener === told)) process.exit(OK);
  };
  process.on("SIGTERM", told).on("SIGINT", told);
}

/**
 * The copy of this package in which the app registers its handlers: it need not be the one of this command.
 *
 * @param {string} file
 * @returns {Promise<typeof import("./index.js")>}
 */
async function packageOf(file) {
  let own;
  try {
    own = createRequire(pathToFileURL(file)).resolve("gearway");
  } catch {
    return import("./index.js");
  }
  return import(pathToFileURL(own).href);
}

/**
 * @param {unknown} value
 * @returns {value is import("../index.js").FetchApp}
 */
function isFetchApp(value) {
  if (typeof value === "function") return true;
  return typeof value === "object" && value !== null && "fetch" in value && typeof value.fetch === "function";
}

function ownVersion() {
  return JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")).version;
}
