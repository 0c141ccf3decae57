import type {RichOutput} from './richOutput.ts';

/** The part of tslab's display that is used here. */
interface Display {
  raw(mimeType: string, content: string): void;
}

interface Tslab {
  display: Display;
  newDisplay(): Display;
}

/** Returns tslab, if this code runs in its kernel. The kernel's own `require` finds it wherever it is installed. */
function tslab(): Tslab | undefined {
  const kernel = (globalThis as {__tslab__?: {require?(name: string): unknown}}).__tslab__;
  try {
    return kernel?.require?.('tslab') as Tslab | undefined;
  } catch {
    return undefined; // another program's global
  }
}

/** Whether outputs can be displayed below the running cell. */
export const isInNotebook = (): boolean => tslab() !== undefined;

/**
 * Displays an output below the running cell of a tslab notebook.
 *
 * @returns the output, where there is no such notebook: Deno's displays it as the value of the cell, `console.log`
 *   prints it as text. Nothing in a tslab notebook, which would print it once more as the value of the cell
 */
export function display(output: RichOutput): RichOutput | undefined {
  const notebook = tslab();
  if (!notebook) return output;
  notebook.display.raw(output.mimeType, output.content);
  return undefined;
}

/** Returns a function that displays outputs in one place, each instead of the last; undefined outside of tslab. */
export function displayInPlace(): ((output: RichOutput) => void) | undefined {
  const place = tslab()?.newDisplay();
  return place && (({mimeType, content}) => place.raw(mimeType, content));
}
