import { AsyncLocalStorage } from "node:async_hooks";

/** @typedef {import("../index.js").Call} Call */

/** @type {AsyncLocalStorage<Call>} */
const calls = new AsyncLocalStorage();

/**
 * @template {unknown[]} A
 * @template T
 * @param {Call} call
 * @param {(...args: A) => T} run
 * @param {A} args
 * @returns {T}
 */
export function withCall(call, run, ...args) {
  return calls.run(call, run, ...args);
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
