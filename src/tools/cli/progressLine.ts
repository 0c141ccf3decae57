/**
 * Shows on a line of the terminal's standard error how much of some work is done, and clears the line at its end. Shows
 * nothing in files and pipes.
 */
export function progressLine(what: string, done: number, total: number): void {
  if (!process.stderr.isTTY) return;
  const share = total > 0 ? Math.floor((100 * done) / total) : 100;
  process.stderr.write(done < total ? `\r\x1b[K${what}: ${share} %` : '\r\x1b[K');
}

/** Shows the loaded share of a model, from 0 to 1. */
export const loadingLine = (share: number): void => progressLine('loading the model', share, 1);
