import {maskSecrets} from './maskSecrets.ts';

let handler: (message: string) => void = (message) => globalThis.console?.warn(message);

/** Sets the function that receives the library's warnings, `console.warn` by default. Returns the previous one. */
export function setWarningHandler(next: (message: string) => void): (message: string) => void {
  const before = handler;
  handler = next;
  return before;
}

/** Reports something the user should know although nothing failed. Secrets in the message are masked. */
export function warn(message: string): void {
  handler(maskSecrets(message));
}
