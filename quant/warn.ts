import {maskSecrets} from './maskSecrets.ts';

let handler: (message: string) => void = (message) => globalThis.console?.warn(message);

/** Where the library's warnings go. Default `console.warn`. Returns the handler from before. */
export function setWarningHandler(next: (message: string) => void): (message: string) => void {
  const before = handler;
  handler = next;
  return before;
}

/** Says something the user should know although nothing failed; secrets in it are masked. */
export function warn(message: string): void {
  handler(maskSecrets(message));
}
