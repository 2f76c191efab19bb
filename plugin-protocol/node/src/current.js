import { AsyncLocalStorage } from "node:async_hooks";

/** @typedef {import("../index.js").Call} Call */

/** @type {AsyncLocalStorage<Call>} */
const calls = new AsyncLocalStorage();

/**
 * @template T
 * @param {Call} call
 * @param {() => T} run
 * @returns {T}
 */
export function withCall(call, run) {
  return calls.run(call, run);
}

/** @returns {Call | null} */
export function currentCall() {
  return calls.getStore() ?? null;
}

/** @returns {string | null} */
export function currentUserId() {
  return calls.getStore()?.userId ?? null;
}

/** @returns {import("../index.js").AccessKeyType | null} */
export function currentAccessKeyType() {
  return calls.getStore()?.accessKeyType ?? null;
}

/** @returns {string | null} */
export function currentRequestId() {
  return calls.getStore()?.requestId ?? null;
}
