/** A worker cannot start. The message says to people what to do about it; the stack adds nothing. */
export class StartError extends Error {
  name = "StartError";
}
